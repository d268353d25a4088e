"""A provider's bytes to a RuleSet: ``text`` (an entry a line, comments ``#`` and ``//``), ``yaml``, ``mrs``.

A line that is no entry is left out and told in ``RuleSet.faults``, for lists are long and kept by many hands; a file
without one good entry is a fault as a whole, which also catches the error page that came instead of a list.

YAML is read event by event: nothing is built but the strings of the list, so neither nesting nor aliases can cost more
than the file is long.  The everyday file, one item a line, is recognised first and never meets the YAML parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import Any, Literal, TypeAlias

import yaml

from cyfs_gateway.rules.address import Prefix, parse_address, parse_prefix
from cyfs_gateway.rules.model import Rule
from cyfs_gateway.rules.mrs import parse_mrs
from cyfs_gateway.rules.parse import RuleFault, host_name, parse_condition
from cyfs_gateway.rules.sets import Behavior, CidrSet, DomainSet, RuleSet, domain_entry
from cyfs_ns.errors import BadWire

Format: TypeAlias = Literal["yaml", "text", "mrs"]

MAX_BYTES = 128 << 20
"""Largest provider file, and largest decompressed one, unless the configuration says ``size-limit``."""
_MAX_LINE = 65_536
_FAULTS_KEPT = 8
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def parse_rule_set(untrusted: bytes, behavior: Behavior, format: Format, max_bytes: int = MAX_BYTES) -> RuleSet:
    """What a rule-provider of this behaviour and format delivered.  Raises BadWire."""
    if len(untrusted) > max_bytes:
        raise BadWire(f"a rule set of {len(untrusted)} bytes is over the limit of {max_bytes}")
    if format == "mrs":
        if behavior == "classical":
            raise BadWire("mrs holds domains or addresses, never classical rules")
        return parse_mrs(untrusted, behavior, max_bytes)
    lines = _text_lines(untrusted) if format == "text" else _yaml_items(untrusted)
    return _rule_set(lines, behavior)


def inline_rule_set(payload: Iterable[str], behavior: Behavior) -> RuleSet:
    """A rule-provider whose list stands in the configuration itself.  Raises BadWire when no entry is good."""
    return _rule_set((line.strip().encode(errors="replace") for line in payload), behavior)


def _text_lines(untrusted: bytes) -> Iterator[bytes]:
    for raw in BytesIO(untrusted.removeprefix(b"\xef\xbb\xbf")):
        line = raw.strip()
        if line and not line.startswith((b"#", b"//")):
            yield line


def _rule_set(lines: Iterable[bytes], behavior: Behavior) -> RuleSet:
    faults: list[str] = []
    domains = cidrs = None
    rules: tuple[Rule, ...] = ()
    match behavior:
        case "domain":
            domains = DomainSet(_kept(lines, _domain, faults))
        case "ipcidr":
            cidrs = CidrSet.of(_kept(lines, _prefix, faults))
        case "classical":
            rules = tuple(_kept(lines, _classical, faults))
    made = RuleSet(behavior=behavior, domains=domains, cidrs=cidrs, rules=rules, faults=tuple(faults))
    if faults and not made.count:
        raise BadWire(f"no line is an entry of a {behavior} rule set: {faults[0]}")
    return made


def _kept(lines: Iterable[bytes], read: Callable[[bytes], Any], faults: list[str]) -> Iterator[Any]:
    for line in lines:
        try:
            if len(line) > _MAX_LINE:
                raise RuleFault(f"a line of {len(line)} bytes is too long")
            entry = read(line)
        except RuleFault as fault:
            if len(faults) < _FAULTS_KEPT:
                faults.append(str(fault))
        else:
            yield entry


def _domain(line: bytes) -> bytes:
    entry = domain_entry(line)
    if entry is None and not line.isascii():
        labels = line.decode(errors="replace").split(".")
        entry = domain_entry(".".join(label if label.isascii() else host_name(label) for label in labels).encode())
    if entry is None:
        raise RuleFault(f"{_shown(line)} is no domain entry: write a.example, +.a.example, .a.example or *.a.example")
    return entry


def _prefix(line: bytes) -> Prefix:
    text = line.decode(errors="replace")
    prefix = parse_prefix(text)
    if prefix is None and (address := parse_address(text)) is not None:
        prefix = Prefix(address[0], address[1], 32 if address[0] == 4 else 128)
    if prefix is None:
        raise RuleFault(f"{_shown(line)} is no address: write 192.0.2.0/24 or 2001:db8::/32")
    return prefix


def _classical(line: bytes) -> Rule:
    try:
        return parse_condition(line.decode())
    except UnicodeDecodeError:
        raise RuleFault(f"{_shown(line)} is not UTF-8") from None


def _shown(line: bytes) -> str:
    return repr(line[:80].decode(errors="replace"))


_HEAD = re.compile(rb"(?:[ \t]*(?:#[^\n]*)?\r?\n)*(?:payload|rules):[ \t]*(?:#[^\n]*)?\r?\n")
_ITEM = re.compile(
    rb"[ \t]*-[ \t]+(?:'([^'\n\r]*)'|\"([^\"\\\n\r]*)\"|([A-Za-z0-9+.](?:[A-Za-z0-9+.,_*/-]|:(?=[A-Za-z0-9:/]))*))"
    rb"[ \t]*(?:[ \t]#[^\n]*)?\r?\n?"
)
_BLANK = re.compile(rb"[ \t]*(?:#[^\n]*)?\r?\n")


def _yaml_items(untrusted: bytes) -> Iterable[bytes]:
    """The strings of ``payload:`` (or the older ``rules:``).  Raises BadWire when there is no such list."""
    try:
        untrusted.decode()
    except UnicodeDecodeError as fault:
        raise BadWire(f"the rule set is not UTF-8: {fault}") from None
    head = _HEAD.match(untrusted)
    if head is not None and _is_plain(untrusted, head.end()):
        return _plain_items(untrusted, head.end())
    return _event_items(untrusted)


def _is_plain(data: bytes, at: int) -> bool:
    """Whether everything from ``at`` on is one item a line, all at the same depth: what both readers read alike."""
    depth = None
    for line in _lines_from(data, at):
        if _BLANK.fullmatch(line):
            continue
        if _ITEM.fullmatch(line) is None:
            return False
        here = line.index(b"-")
        if depth is None:
            depth = here
        if here != depth or b"\t" in line[:here]:
            return False
    return depth is not None


def _plain_items(data: bytes, at: int) -> Iterator[bytes]:
    for line in _lines_from(data, at):
        found = _ITEM.fullmatch(line)
        if found is not None and found[found.lastindex or 0]:
            yield found[found.lastindex or 0].strip()


def _lines_from(data: bytes, at: int) -> Iterator[bytes]:
    lines = BytesIO(data)
    lines.seek(at)
    return iter(lines)


def _event_items(untrusted: bytes) -> list[bytes]:
    items: list[bytes] | None = None
    try:
        events = iter(yaml.parse(untrusted, Loader=_LOADER))
        depth, key, listing = 0, None, False
        for event in events:
            match event:
                case yaml.AliasEvent():
                    raise BadWire("a rule set has no use for YAML aliases, so they are refused")
                case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                    depth += 1
                    if depth == 2 and key in ("payload", "rules") and isinstance(event, yaml.SequenceStartEvent):
                        items, listing = items or [], True
                    elif depth == 1 and isinstance(event, yaml.SequenceStartEvent):
                        raise BadWire("a YAML rule set begins with payload:, not with a list")
                    elif listing:
                        raise BadWire("payload: lists plain strings only")
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    depth -= 1
                    if depth == 1:
                        key, listing = None, False
                case yaml.ScalarEvent(value=value):
                    if listing and items is not None:
                        if value:
                            items.append(value.strip().encode(errors="replace"))
                    elif depth == 1:
                        key = value if key is None else None
    except yaml.YAMLError as fault:
        raise BadWire(f"the rule set is not YAML: {fault}") from None
    if items is None:
        raise BadWire("a YAML rule set needs a payload: list")
    return items
