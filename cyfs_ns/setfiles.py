"""Files of names or of addresses, as the clash family publishes them: ``text`` (an entry a line, comments ``#`` and
``//``), ``yaml`` (a ``payload:`` list), ``mrs``.

An entry that is none is left out and told, for lists are long and kept by many hands; a file without one good entry is
a fault as a whole, which also catches the error page that came instead of a list.

YAML is read event by event: nothing is built but the strings of the list, so neither nesting nor aliases can cost more
than the file is long.  The everyday file, one item a line, is recognised first and never meets the YAML parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import Literal, TypeAlias, TypeVar

import idna
import yaml

from cyfs_ns.address import Prefix, parse_address, parse_prefix
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.mrs import read_addresses, read_domains
from cyfs_ns.sets import CidrSet, DomainSet, HostSet, domain_entry

Format: TypeAlias = Literal["yaml", "text", "mrs"]
T = TypeVar("T")

MAX_BYTES = 128 << 20
"""Largest file, and largest decompressed one, unless the configuration says ``size-limit``."""
_MAX_LINE = 65_536
_FAULTS_KEPT = 8
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def parse_domains(untrusted: bytes, format: Format, max_bytes: int = MAX_BYTES) -> tuple[HostSet, tuple[str, ...]]:
    """The set of names in a file and the first few faults of its entries.  Raises BadWire."""
    if format == "mrs":
        return read_domains(_bounded(untrusted, max_bytes), max_bytes), ()
    return domain_set(entry_lines(untrusted, format, max_bytes))


def parse_cidrs(untrusted: bytes, format: Format, max_bytes: int = MAX_BYTES) -> tuple[CidrSet, tuple[str, ...]]:
    """The set of addresses in a file and the first few faults of its entries.  Raises BadWire."""
    if format == "mrs":
        return read_addresses(_bounded(untrusted, max_bytes), max_bytes), ()
    return cidr_set(entry_lines(untrusted, format, max_bytes))


def entry_lines(untrusted: bytes, format: Literal["yaml", "text"], max_bytes: int = MAX_BYTES) -> Iterable[bytes]:
    """The entries of a text or YAML file, stripped, none empty.  Raises BadWire."""
    _bounded(untrusted, max_bytes)
    return _text_lines(untrusted) if format == "text" else _yaml_items(untrusted)


def domain_set(lines: Iterable[bytes]) -> tuple[HostSet, tuple[str, ...]]:
    """A set of names from its entries, and the first few faults.  Raises BadWire when no entry is good."""
    faults: list[str] = []
    made = DomainSet(kept_entries(lines, _domain, faults))
    return _not_empty(made, faults, "a domain rule set")


def cidr_set(lines: Iterable[bytes]) -> tuple[CidrSet, tuple[str, ...]]:
    """A set of addresses from its entries, and the first few faults.  Raises BadWire when no entry is good."""
    faults: list[str] = []
    made = CidrSet.of(kept_entries(lines, _prefix, faults))
    return _not_empty(made, faults, "an ipcidr rule set")


def kept_entries(lines: Iterable[bytes], read: Callable[[bytes], T], faults: list[str]) -> Iterator[T]:
    """What ``read`` makes of every line; one refused with ConfigFault goes to ``faults``, few are kept."""
    for line in lines:
        try:
            if len(line) > _MAX_LINE:
                raise ConfigFault(f"a line of {len(line)} bytes is too long")
            entry = read(line)
        except ConfigFault as fault:
            if len(faults) < _FAULTS_KEPT:
                faults.append(str(fault))
        else:
            yield entry


_Set = TypeVar("_Set", HostSet, CidrSet)


def _not_empty(made: _Set, faults: list[str], what: str) -> tuple[_Set, tuple[str, ...]]:
    if faults and not len(made):
        raise BadWire(f"no line is an entry of {what}: {faults[0]}")
    return made, tuple(faults)


def _bounded(untrusted: bytes, max_bytes: int) -> bytes:
    if len(untrusted) > max_bytes:
        raise BadWire(f"a rule set of {len(untrusted)} bytes is over the limit of {max_bytes}")
    return untrusted


def _text_lines(untrusted: bytes) -> Iterator[bytes]:
    for raw in BytesIO(untrusted.removeprefix(b"\xef\xbb\xbf")):
        line = raw.strip()
        if line and not line.startswith((b"#", b"//")):
            yield line


def _domain(line: bytes) -> bytes:
    entry = domain_entry(line)
    if entry is None and not line.isascii():
        labels = line.decode(errors="replace").split(".")
        entry = domain_entry(".".join(label if label.isascii() else _a_label(label) for label in labels).encode())
    if entry is None:
        raise ConfigFault(f"{_shown(line)} is no domain entry: write a.example, +.a.example, .a.example or *.a.example")
    return entry


def _a_label(label: str) -> str:
    try:
        return idna.encode(label, uts46=True).decode("ascii")
    except idna.IDNAError as fault:
        raise ConfigFault(f"{label[:80]!r} is not part of a domain name ({fault}): check its spelling") from None


def _prefix(line: bytes) -> Prefix:
    text = line.decode(errors="replace")
    prefix = parse_prefix(text)
    if prefix is None and (address := parse_address(text)) is not None:
        prefix = Prefix(address[0], address[1], 32 if address[0] == 4 else 128)
    if prefix is None:
        raise ConfigFault(f"{_shown(line)} is no address: write 192.0.2.0/24 or 2001:db8::/32")
    return prefix


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
