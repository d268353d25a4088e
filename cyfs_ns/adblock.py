"""Filter rules in AdBlock syntax, read as AdGuard Home reads them for DNS: ``["@@"] pattern ["$" modifiers]``.

``||`` begins at a label, ``|`` is the beginning or the end, ``^`` the end, ``*`` any text; ``/.../`` is a regex, RE2's,
without look-around.  A bare name is that name alone.  Modifiers: ``important``, ``badfilter``, ``client``, ``ctag``,
``denyallow``, ``dnstype``, ``dnsrewrite``.  A rule with any other modifier is for browsers and is left out whole, as
are cosmetic rules and patterns of URLs, so that lists made for browsers do no harm.

One thing is not read to the letter: ``||a.example`` without its ``^`` means ``||a.example^`` here.  Its letter, every
name that goes on after ``example``, is not what list makers mean by it.

A pattern with a fixed end of two labels or more (``||ad*.a.example^``) is a rule about ``a.example`` with a condition,
so it costs nothing until a name below ``a.example`` is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from cyfs_ns import names
from cyfs_ns.address import parse_address
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.listrule import Effect, Entry, Rewrite, Rule, Who
from cyfs_ns.message import rtype_number
from cyfs_ns.patterns import check_regex
from cyfs_ns.records import data_wire

MAX_PATTERN = 1024
"""Longest pattern or regex, in characters."""
_MAX_VALUES = 128  # words in one modifier

_COSMETIC = re.compile(r"#(?:@|\?|\$|%|@\?|@\$|\$\?|@%)?#|\$\$|\$@\$")
_REGEX = re.compile(r"/(.+)/(?:\$(~?[a-z].*))?")
_HOST = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
_LETTERS = re.compile(r"[a-z0-9_.:*|^-]*")
_RCODES = {"NOERROR": 0, "FORMERR": 1, "SERVFAIL": 2, "NXDOMAIN": 3, "NOTIMP": 4, "NOTIMPL": 4, "REFUSED": 5}
_REWRITABLE = frozenset({1, 5, 12, 15, 16, 28, 33, 64, 65})
_A, _CNAME, _AAAA = 1, 5, 28


class Filter(NamedTuple):
    """A rule, and the form by which a ``badfilter`` rule names it."""

    entry: Entry
    identity: tuple[str, ...]
    disables: bool
    """Whether this one only takes away its twin."""


def parse_filter(line: str) -> Filter | None:
    """The rule on a line, or None for comments and for what only a browser can use.  Raises ConfigFault."""
    line = line.strip()
    if not line or line[0] == "!" or (line[0] == "[" and line[-1] == "]") or _COSMETIC.search(line) or line[0] == "#":
        return None
    body = line.removeprefix("@@")
    allow = body is not line and len(body) < len(line)
    regex = _REGEX.fullmatch(body)
    if regex is not None:
        pattern, modifiers = f"/{regex[1]}/", regex[2] or ""
    else:
        pattern, _, modifiers = body.partition("$")
    if len(pattern) > MAX_PATTERN:
        raise ConfigFault(f"a pattern of {len(pattern)} characters is too long (limit {MAX_PATTERN})")
    words = sorted(filter(None, map(str.strip, _split(modifiers, ","))))
    rule = Rule(Effect.ALLOW if allow else Effect.BLOCK, text=line)
    disables = False
    for word in words:
        key, _, value = word.partition("=")
        if key == "badfilter":
            disables = True
            continue
        changed = _modified(rule, key, value, allow)
        if changed is None:
            return None
        rule = changed
    entry = _regex_entry(regex[1], rule) if regex is not None else _pattern_entry(pattern.lower(), rule)
    if entry is None:
        return None
    identity = ("@@" if allow else "", pattern.lower(), *(word for word in words if word != "badfilter"))
    return Filter(_plain(entry) if len(identity) == 2 else entry, identity, disables)


def _plain(entry: Entry) -> Entry:
    """Without its text when that follows from the name, so that all such rules are one."""
    if entry.name and not entry.rule.pattern:
        return Entry(entry.name, replace(entry.rule, text=""))
    return entry


def _pattern_entry(pattern: str, rule: Rule) -> Entry | None:
    """``None``: no name can match it."""
    if pattern.startswith("://"):
        pattern = "|" + pattern[3:]
    if _HOST.fullmatch(pattern) and ("." in pattern or "-" not in (pattern[0], pattern[-1])):
        return Entry(pattern.encode(), replace(rule, here=True, below=False))
    if pattern.strip("*|^") == "":
        if "*" not in pattern and (pattern or not (rule.types or rule.who or rule.spared)):
            raise ConfigFault(f"{rule.text!r} would hold for every name: say *$... when it should")
        return Entry(b"", replace(rule, here=True, below=True))
    if _LETTERS.fullmatch(pattern) is None:
        return None
    deep = pattern.startswith("||")
    start = pattern.lstrip("|") if deep else pattern
    bare = start.removesuffix("|").removesuffix("^")
    if deep and _HOST.fullmatch(bare) and (bare != start or "." in bare):
        return Entry(bare.encode(), replace(rule, here=True, below=True))
    if not deep and start[0] == "|" and bare != start and _HOST.fullmatch(bare[1:]):
        return Entry(bare[1:].encode(), replace(rule, here=True, below=False))
    if len(bare.replace("*", "").replace("|", "")) < 3:
        raise ConfigFault(f"{rule.text!r} is too short: it would hold for names it does not mean")
    return _wild_entry(pattern, bare != start, rule)


def _wild_entry(pattern: str, ends: bool, rule: Rule) -> Entry | None:
    core = pattern.lstrip("|").removesuffix("|").removesuffix("^") if ends else pattern.lstrip("|")
    if "|" in core or "^" in core.rstrip("^*"):
        return None  # something would have to follow the end of the name
    core = core.rstrip("^")
    head = {0: "", 1: "^"}.get(len(pattern) - len(pattern.lstrip("|")), r"(?:^|\.)")
    regex = head + "".join(".*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", core) if part)
    rule = replace(rule, here=True, below=True, pattern=regex + "$" if ends else regex)
    tail = core.rpartition("*")[2].partition(".")[2] if ends else ""
    return Entry(tail.encode() if "." in tail and _HOST.fullmatch(tail) else None, rule)


def _regex_entry(regex: str, rule: Rule) -> Entry:
    if fault := check_regex(regex):
        raise ConfigFault(f"/{regex[:80]}/ cannot be run by RE2: {fault}")
    return Entry(None, replace(rule, here=True, below=True, pattern=regex))


def _modified(rule: Rule, key: str, value: str, allow: bool) -> Rule | None:
    """``rule`` under one more modifier; None when the modifier is none of DNS."""
    match key:
        case "important" if not value:
            return replace(rule, important=True)
        case "client" | "ctag":
            words = tuple(_values(key, value, _client))
            who = rule.who or Who()
            return replace(rule, who=who._replace(clients=words) if key == "client" else who._replace(tags=words))
        case "denyallow":
            return replace(rule, spared=tuple(_values(key, value, _spared)))
        case "dnstype":
            words = tuple(_values(key, value, str))
            wanted = [word for word in words if word[0] != "~"]
            return replace(
                rule,
                types=frozenset(_type(word) for word in wanted or [word[1:] for word in words]),
                other_types=not wanted,
            )
        case "dnsrewrite":
            rewrite = None if allow and not value else parse_rewrite(value)
            return replace(rule, effect=Effect.KEEP if allow else Effect.REWRITE, rewrite=rewrite)
        case _:
            return None


def _values(key: str, value: str, read: Callable[[str], str]) -> Iterator[str]:
    words = [word.strip() for word in _split(value, "|")]
    if not all(words) or len(words) > _MAX_VALUES:
        raise ConfigFault(f"{key} takes 1 to {_MAX_VALUES} words with | between them, not {value[:80]!r}")
    for word in words:
        yield read(word)


def _client(word: str) -> str:
    excepted, bare = word[0] == "~", word.removeprefix("~").strip()
    if len(bare) >= 2 and bare[0] == bare[-1] and bare[0] in "'\"":
        bare = bare[1:-1]
    bare = re.sub(r"\\(.)", r"\1", bare)
    if not bare:
        raise ConfigFault("client takes addresses, prefixes or names, with | between them")
    return "~" + bare if excepted else bare


def _spared(word: str) -> str:
    bare = word.lower().strip(".")
    if _HOST.fullmatch(bare) is None:
        raise ConfigFault(f"denyallow takes names with | between them, not {word[:80]!r}")
    return bare


def _type(word: str) -> int:
    try:
        return rtype_number(word)
    except BadWire as fault:
        raise ConfigFault(f"dnstype: {fault}") from None


def parse_rewrite(value: str) -> Rewrite:
    """What ``dnsrewrite`` says: an address, a name, a response code, or ``RCODE;TYPE;DATA``.  Raises ConfigFault."""
    if ";" not in value:
        return _short_form(value)
    word, _, rest = value.partition(";")
    rrtype, _, data = rest.partition(";")
    rcode = _RCODES.get(word.strip().upper())
    if rcode is None:
        raise ConfigFault(f"dnsrewrite knows no response code {word[:40]!r}: use {', '.join(_RCODES)}")
    if rcode or not rrtype.strip():
        return Rewrite(rcode=rcode)
    try:
        rtype = rtype_number(rrtype.strip())
        if rtype == _CNAME:
            return Rewrite(cname=names.name(data.strip()))
        if rtype not in _REWRITABLE:
            raise ConfigFault(f"dnsrewrite cannot make records of type {rrtype.strip()[:40]}")
        if rtype != 16:
            data_wire(rtype, data.strip())
    except BadWire as fault:
        raise ConfigFault(f"dnsrewrite: {fault}") from None
    return Rewrite(rtype=rtype, data=data.strip())


def _short_form(value: str) -> Rewrite:
    value = value.strip()
    if value in _RCODES or not value:
        return Rewrite(rcode=_RCODES.get(value, 0))
    if (address := parse_address(value)) is not None:
        return Rewrite(rtype=_A if address[0] == 4 and ":" not in value else _AAAA, data=value)
    try:
        return Rewrite(cname=names.name(value))
    except BadWire as fault:
        raise ConfigFault(f"dnsrewrite: {fault}") from None


def _split(text: str, separator: str) -> list[str]:
    """Cut at ``separator``, but not behind a backslash nor between quotes that begin a word."""
    if "\\" not in text and "'" not in text and '"' not in text:
        return text.split(separator)
    parts, start, at, quote = [], 0, 0, ""
    while at < len(text):
        letter = text[at]
        if letter == "\\":
            at += 1
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and (at == start or text[at - 1] in "=|~"):
            quote = letter
        elif letter == separator:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    return [*parts, text[start:]]
