"""Regexes that strangers wrote, many at a time: RE2 sets, which look at a text once whatever they hold.

RE2 runs in time linear in the text and in a fixed memory.  Case does not count, as in mihomo.

Mihomo's regexes may look around and refer back, which RE2 cannot.  Where that is allowed, those few run one by one on
an engine that back-tracks, each look at a text ended after ``_PATIENCE``: too long means no match.  That engine writes
counted repeats out, so ``((a{1000}){1000}){1000}`` would be gigabytes: its regexes are measured before it sees them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import re2

from cyfs_ns.errors import ConfigFault

if TYPE_CHECKING:
    import regex

_SET_SIZE = 256
_MEMORY = 8 << 20  # bytes a set may use, its cache of states included
_NEVER = r"[^\s\S]"
_PATIENCE = 0.005  # seconds
_MOST_BACKTRACKING = 64  # in one set: together they may cost a third of a second at worst
_MOST_WRITTEN_OUT = 200_000  # characters of those together; each costs up to 300 bytes
_COUNT = re.compile(r"\{([0-9]{1,9})")  # of longer ones the beginning is too much already
_VERBOSE = re.compile(r"\(\?[\w-]*x")

_log = logging.getLogger("cyfs.patterns")


def check_regex(pattern: str) -> str:
    """What keeps RE2 from running ``pattern``, or an empty text."""
    try:
        re2.compile(pattern, regex_options())
    except (re2.error, UnicodeEncodeError) as fault:
        said = fault.args[0] if fault.args else ""
        return (said.decode(errors="replace") if isinstance(said, bytes) else str(fault)) or "it cannot be read"
    return ""


def backtracks(pattern: str) -> bool:
    """Whether ``pattern`` is a regex that needs an engine which back-tracks, and there is one."""
    # A verbose regex can hide its counts between spaces and comments.
    if not check_regex(pattern) or _VERBOSE.search(pattern) or _written_out(pattern) > _MOST_WRITTEN_OUT:
        return False
    import regex  # two megabytes that hardly anybody needs

    try:
        regex.compile(pattern, regex.IGNORECASE, cache_pattern=False)
    except (regex.error, RecursionError, OverflowError):
        return False
    return True


def _written_out(pattern: str) -> int:
    """More characters than ``pattern`` has once its counted repeats are written out, however it is to be read.

    Repeats multiply where they are nested, and each nesting takes a bracket.
    """
    counts = sorted((int(count) for count in _COUNT.findall(pattern)), reverse=True)
    return len(pattern) * prod(max(count, 1) for count in counts[: pattern.count("(") + 1])


def wildcard_regex(pattern: str) -> str:
    """``*`` is any text, ``?`` any one character, and the whole must match."""
    body = "".join({"*": ".*", "?": "."}.get(letter) or re2.escape(letter) for letter in pattern)
    return f"(?s)\\A{body}\\z"


class PatternSet:
    """Regexes asked together.  Raises ConfigFault when one of them cannot run; ``lookaround``: also those that
    back-track."""

    def __init__(self, patterns: Sequence[str], *, lookaround: bool = False) -> None:
        self._sets: list[tuple[int, re2.Set]] = []
        self._slow: list[tuple[int, regex.Pattern[str]]] = []
        plain = list(patterns)
        if lookaround:
            for at, pattern in enumerate(patterns):
                if backtracks(pattern):
                    import regex

                    self._slow.append((at, regex.compile(pattern, regex.IGNORECASE)))
                    plain[at] = _NEVER
        if len(self._slow) > _MOST_BACKTRACKING:
            raise ConfigFault(f"{len(self._slow)} regexes with look-around; {_MOST_BACKTRACKING} at most")
        if sum(_written_out(patterns[at]) for at, _ in self._slow) > _MOST_WRITTEN_OUT:
            raise ConfigFault("the regexes with look-around repeat too much: make them simpler")
        for start in range(0, len(plain), _SET_SIZE):
            self._add(start, plain[start : start + _SET_SIZE])

    def _add(self, start: int, patterns: Sequence[str]) -> None:
        together = re2.Set.SearchSet(regex_options())
        try:
            for pattern in patterns:
                together.Add(pattern)
        except (re2.error, UnicodeEncodeError) as fault:
            raise ConfigFault(f"a regex cannot be run by RE2: {fault}") from None
        try:
            together.Compile()
        except re2.error:  # too big to run together; half of them may do
            if len(patterns) == 1:
                raise ConfigFault(f"the regex {patterns[0][:80]!r} needs too much memory: make it simpler") from None
            middle = len(patterns) // 2
            self._add(start, patterns[:middle])
            self._add(start + middle, patterns[middle:])
        else:
            self._sets.append((start, together))

    def matches(self, text: str) -> list[int]:
        """Which of the regexes match somewhere in ``text``."""
        data = text.encode(errors="replace")
        found = [start + at for start, together in self._sets for at in together.Match(data) or ()]
        return found + [at for at, pattern in self._slow if _matches_in_time(pattern, text)] if self._slow else found


def _matches_in_time(pattern: regex.Pattern[str], text: str) -> bool:
    try:
        return pattern.search(text, timeout=_PATIENCE) is not None
    except TimeoutError:
        _log.warning("the regex %.80r takes too long and is passed over", pattern.pattern)
        return False


def regex_options() -> re2.Options:
    """How every regex of a stranger is run: in bounded memory, silently, without regard to case."""
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = _MEMORY
    return options
