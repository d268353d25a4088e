"""Who may read and write which keys: a pure function of rules, subject, action and keys.

A rule allows or denies a role an action on the keys of a pattern.  In a pattern ``*`` is any one segment, ``**`` (at
the end) is one segment or more, and ``{user}`` is the segment that the subject's own ``user`` is; a subject that has
none is not meant.  Whatever no rule allows is denied, and one rule that denies outweighs all that allow.

Reading many keys (a subtree, ``services/*/info``; to read, to list or to watch them) is allowed only where one rule
allows all of them, and denied where a rule denies any.  So nobody sees a part and takes it for the whole.

A request by an app on behalf of a user has two subjects, and each has to be allowed.  There is no subject to whom the
rules do not apply.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from zone.config.faults import Code, ConfigError
from zone.config.keys import At, Below, Each, Scope, check_key
from zone.config.model import Transaction

_REST = "**"


class Act(StrEnum):
    """What somebody wants to do.  Writing does not imply reading."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Rule:
    """``role`` may do ``acts`` on the keys of ``pattern``, or may not where ``allow`` is False."""

    role: str
    acts: frozenset[Act]
    pattern: tuple[str, ...]
    allow: bool = True

    def __str__(self) -> str:
        return f"{'allow' if self.allow else 'deny'} {self.role} {'+'.join(sorted(self.acts))} {'/'.join(self.pattern)}"


@dataclass(frozen=True, slots=True)
class Subject:
    """Somebody whose identity was proven: their roles, and what the placeholders of rules are for them."""

    roles: frozenset[str]
    names: Mapping[str, str] = field(default_factory=dict)
    """By placeholder: ``{"user": "alice"}``."""

    def __post_init__(self) -> None:
        for name in self.names.values():
            # One that is called ** would own everything.
            check_key(name)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it is allowed, and the rule that says so; none where no rule allows it."""

    allowed: bool
    rule: Rule | None


def read_rule(untrusted: str) -> Rule:
    """The rule in a line: ``allow device read+write devices/{device}/**``.  Raises ``ConfigError``."""
    words = untrusted.split(" ")
    if len(words) != 4 or words[0] not in ("allow", "deny") or not words[1]:
        raise ConfigError(Code.INVALID, f"{untrusted[:80]!r} is no rule: allow or deny, role, acts, pattern")
    acts = words[2].split("+")
    if not set(acts) <= set(Act):
        raise ConfigError(Code.INVALID, f"{words[2][:80]!r}: the acts are read, write, read+write")
    return Rule(words[1], frozenset(map(Act, acts)), read_pattern(words[3]), words[0] == "allow")


def read_pattern(untrusted: str) -> tuple[str, ...]:
    """The segments of a pattern.  Raises ``ConfigError``."""
    pattern = tuple(untrusted.split("/"))
    for place, segment in enumerate(pattern):
        if segment == "*" or (segment == _REST and place == len(pattern) - 1):
            continue
        check_key(segment[1:-1] if segment[:1] + segment[-1:] == "{}" else segment)
    return pattern


def covers(pattern: tuple[str, ...], scope: Scope) -> bool:
    """Whether every key of ``scope`` is one of ``pattern``; with a placeholder, none is."""
    bound = _bound(pattern, {})
    return bound is not None and _covers(bound, scope)


def judge(rules: Iterable[Rule], subject: Subject, act: Act, scope: Scope) -> Verdict:
    """What ``rules`` say of ``subject`` doing ``act`` on all of ``scope``."""
    allowing = None
    for rule in rules:
        if rule.role not in subject.roles or act not in rule.acts:
            continue
        pattern = _bound(rule.pattern, subject.names)
        if pattern is None:
            continue
        if not rule.allow and _meets(pattern, scope):
            return Verdict(False, rule)
        if rule.allow and allowing is None and _covers(pattern, scope):
            allowing = rule
    return Verdict(allowing is not None, allowing)


def check_reading(rules: Sequence[Rule], subjects: Sequence[Subject], scope: Scope) -> None:
    """Raises ``ConfigError`` (``DENIED``) unless each of ``subjects``, one at least, may read all of ``scope``."""
    _check(rules, subjects, Act.READ, scope)


def check_writing(rules: Sequence[Rule], subjects: Sequence[Subject], scope: Scope) -> None:
    """Raises ``ConfigError`` (``DENIED``) unless each of ``subjects``, one at least, may write all of ``scope``."""
    _check(rules, subjects, Act.WRITE, scope)


def check_transaction(rules: Sequence[Rule], subjects: Sequence[Subject], transaction: Transaction) -> None:
    """Raises ``ConfigError`` (``DENIED``) unless each of ``subjects`` may do all of ``transaction``.

    A comparison tells what is there, so it is a reading.  Appending and paths only write.
    """
    for key in sorted({action.key for action in transaction.actions}):
        _check(rules, subjects, Act.WRITE, At(key))
    for key in sorted({comparison.key for comparison in transaction.comparisons}):
        _check(rules, subjects, Act.READ, At(key))


def _check(rules: Sequence[Rule], subjects: Sequence[Subject], act: Act, scope: Scope) -> None:
    if not subjects:
        raise ConfigError(Code.DENIED, f"nobody may {act} {scope}")
    for subject in subjects:
        verdict = judge(rules, subject, act, scope)
        if not verdict.allowed:
            why = f"the rule is {verdict.rule}" if verdict.rule is not None else "no rule allows it"
            raise ConfigError(Code.DENIED, f"{'+'.join(sorted(subject.roles))} may not {act} {scope}: {why}")


def _bound(pattern: tuple[str, ...], names: Mapping[str, str]) -> tuple[str | None, ...] | None:
    """``pattern`` with placeholders filled in; None for ``*``.  No pattern at all where a name is missing."""
    bound: list[str | None] = []
    for segment in pattern:
        if segment[0] == "{":
            name = names.get(segment[1:-1])
            if not name:
                return None
            bound.append(name)
        else:
            bound.append(None if segment == "*" else segment)
    return tuple(bound)


def _covers(pattern: tuple[str | None, ...], scope: Scope) -> bool:
    """Whether every key of ``scope`` is one of ``pattern``."""
    segments, whole = _segments(scope)
    if pattern[-1] != _REST:
        return not whole and len(pattern) == len(segments) and _agree(pattern, segments)
    head = pattern[:-1]
    # Below a/b begins with a/b/x, which a/b/** has as well: there the head may be as long as the prefix.
    return len(head) <= len(segments) - (not whole) and _agree(head, segments)


def _meets(pattern: tuple[str | None, ...], scope: Scope) -> bool:
    """Whether any key of ``scope`` is one of ``pattern``."""
    segments, whole = _segments(scope)
    head, rest = (pattern[:-1], True) if pattern[-1] == _REST else (pattern, False)
    if whole:
        fits = rest or len(head) > len(segments)
    else:
        fits = len(head) < len(segments) if rest else len(head) == len(segments)
    # Where the scope has any segment, one of its keys has that of the pattern.
    filled = [wanted if found is None else found for wanted, found in zip(head, segments, strict=False)]
    return fits and _agree(head, filled)


def _segments(scope: Scope) -> tuple[list[str | None], bool]:
    """Its segments, None for any, and whether keys go on behind them."""
    match scope:
        case At(key):
            return [*key.split("/")], False
        case Below(prefix):
            return [*prefix.split("/")] if prefix else [], True
        case Each(prefix, name):
            return [*prefix.split("/"), None, name], False


def _agree(pattern: Sequence[str | None], segments: Sequence[str | None]) -> bool:
    """Whether no segment that both have speaks against the pattern."""
    return all(wanted is None or wanted == found for wanted, found in zip(pattern, segments, strict=False))
