"""The bytes of a list, in any of the syntaxes lists come in, as rules about names.

* ``hosts``: an address and names; 0.0.0.0, ``::`` and loopback block, another address is what to answer.
* ``domains``: a name a line, that name alone; ``*.a.example``, ``.a.example`` and ``+.a.example`` are the name and all
  below it, which is what makers of such lists mean by any of them.
* ``dnsmasq``: ``address=``, ``server=`` and ``local=`` lines about a name and all below it; the longest name wins.
* ``adblock``: see ``adblock``; lines of hosts and of bare names may stand between, as in AdGuard Home.
* ``clash``, ``clash-yaml``, ``mrs``: a rule set of domain behaviour (``sets``), where ``*`` is one label.

A line that is none costs itself: it is counted, and the first few are told.  A line that belongs to another kind of
reader (a comment, a cosmetic rule, ``127.0.0.1 localhost``) is passed over and counted apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from itertools import islice
from typing import Literal, TypeAlias, get_args

from cyfs_ns import names
from cyfs_ns.adblock import parse_filter
from cyfs_ns.address import parse_address
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.listrule import Effect, Entry, Rewrite, Rule
from cyfs_ns.mrs import read_domains
from cyfs_ns.setfiles import entry_lines
from cyfs_ns.sets import domain_entry

Format: TypeAlias = Literal["auto", "hosts", "domains", "dnsmasq", "adblock", "clash", "clash-yaml", "mrs"]
FORMATS: tuple[str, ...] = get_args(Format)

MAX_LINE = 4096
"""Longest line read, in bytes; a longer one is a fault."""
_FAULTS_KEPT = 8
_PROBED = 400  # lines looked at to tell the format
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<")  # what comes with status 200 from a portal, or for a list that has gone
_LOOKED_AT = 4096  # octets in which a file that is no text shows it
_MAX_PER_LINE = 64  # names of one hosts or dnsmasq line

BLOCK_HERE = Rule(Effect.BLOCK)
BLOCK_DOWN = Rule(Effect.BLOCK, below=True)
_DNSMASQ_BLOCK = Rule(Effect.BLOCK, below=True, nearest=True)
_DNSMASQ_ALLOW = Rule(Effect.ALLOW, below=True, nearest=True)


@dataclass(slots=True)
class Tally:
    """What was left out of a list while it was read."""

    faults: list[str] = field(default_factory=list)
    """The first few, with their line numbers."""
    faulty: int = 0
    passed_over: int = 0

    def fault(self, where: int, what: str) -> None:
        self.faulty += 1
        if len(self.faults) < _FAULTS_KEPT:
            self.faults.append(f"line {where}: {what}")


def read_list(
    untrusted: bytes, format: Format, tally: Tally, max_bytes: int, gone: Collection[tuple[str, ...]] = ()
) -> Iterable[Entry]:
    """The entries of a list; bad lines go to ``tally``.  ``gone``: see ``disabled``.

    Raises BadWire when the whole is no such list, perhaps only while the entries are taken.
    """
    if len(untrusted) > max_bytes:
        raise BadWire(f"a list of {len(untrusted)} bytes is over the limit of {max_bytes}")
    if format == "auto":
        format = detect(untrusted)
    if format != "mrs" and (_PAGE.match(untrusted) or b"\0" in untrusted[:_LOOKED_AT]):
        # Words that stand alone on a line of it would be names to block, in the place of all that were.
        raise BadWire("a web page or some other file, no list")
    match format:
        case "mrs":
            return _from_lines(read_domains(untrusted, max_bytes).entries(), _CLASH, _clash, tally)
        case "clash" | "clash-yaml":
            lines = entry_lines(untrusted, "text" if format == "clash" else "yaml", max_bytes)
            return _from_lines(lines, _CLASH, _clash, tally)
        case "dnsmasq":
            return _from_lines(_lines(untrusted), _DNSMASQ, _dnsmasq, tally)
        case "hosts":
            return _from_lines(_lines(untrusted), _HOSTS, _hosts, tally)
        case "domains":
            return _from_lines(_lines(untrusted), _DOMAINS, _domains, tally)
        case _:
            usual = _NO_LINE if gone else _ADBLOCK
            return _from_lines(_lines(untrusted), usual, partial(_adblock, gone=gone), tally)


def detect(untrusted: bytes) -> Format:
    """Which syntax a list most likely is in, by its first few hundred lines."""
    if untrusted.startswith(b"\x28\xb5\x2f\xfd"):
        return "mrs"
    votes: Counter[Format] = Counter()
    for line in islice(_lines(untrusted), _PROBED):
        if line.startswith((b"payload:", b"rules:")) and not votes["adblock"]:
            return "clash-yaml"
        for format, sign in _SIGNS:
            if sign.match(line):
                votes[format] += 1
                break
    return max(votes, key=lambda format: votes[format], default="domains")


_NAME = rb"((?:[A-Za-z0-9_-]{1,63}\.)+(?![0-9]+(?:[\s^/]|$))[A-Za-z0-9_-]{1,63})"
_NOWHERE = rb"(?:0\.0\.0\.0|127\.0\.0\.1|::1?)[ \t]+"
# The everyday line of each syntax, with its name in group 1, and the rule it means.
_HOSTS = (re.compile(_NOWHERE + _NAME), BLOCK_HERE)
_DOMAINS = (re.compile(_NAME), BLOCK_HERE)
_DNSMASQ = (re.compile(rb"(?:address|local|server)=/" + _NAME + rb"/"), _DNSMASQ_BLOCK)
_ADBLOCK = (re.compile(rb"\|\|" + _NAME + rb"\^"), BLOCK_DOWN)
_CLASH = (re.compile(rb"\+\." + _NAME), BLOCK_DOWN)
_NO_LINE = (re.compile(rb"(?!)()"), BLOCK_DOWN)  # where each line must be looked at with care
_Usual: TypeAlias = tuple[re.Pattern[bytes], Rule]

_SIGNS: tuple[tuple[Format, re.Pattern[bytes]], ...] = (
    ("adblock", re.compile(rb"!|\[[^\]]*\]$|@@|\|\|?[^|]|.*\^(?:\$|$)|/.+/$|.*#@?#")),
    ("dnsmasq", re.compile(rb"(?:address|server|local)=/")),
    ("hosts", re.compile(rb"[0-9a-fA-F.:]+(?:%\w+)?[ \t]+\S")),
    ("clash", re.compile(rb"\+\.|\.[^.]|//")),
    ("domains", re.compile(rb"(?:\*\.)?[^\s#]+$")),
)


def _lines(untrusted: bytes) -> Iterator[bytes]:
    for raw in BytesIO(untrusted.removeprefix(b"\xef\xbb\xbf")):
        yield raw.strip()


def _from_lines(
    lines: Iterable[bytes], usual: _Usual, read: Callable[[str], Iterable[Entry]], tally: Tally
) -> Iterator[Entry]:
    plain, rule = usual[0].fullmatch, usual[1]
    for number, line in enumerate(lines, 1):
        found = plain(line)
        if found is not None and len(found[1]) <= 253:
            yield Entry(found[1].lower(), rule)
        elif line:
            yield from _careful(line, number, read, tally)


def _careful(line: bytes, number: int, read: Callable[[str], Iterable[Entry]], tally: Tally) -> Iterable[Entry]:
    if len(line) > MAX_LINE:
        tally.fault(number, f"{len(line)} bytes are too long")
        return ()
    try:
        entries = tuple(read(line.decode()))
    except (ConfigFault, UnicodeDecodeError) as fault:
        tally.fault(number, str(fault))
        return ()
    tally.passed_over += not entries
    return entries


def _hosts(line: str) -> Iterable[Entry]:
    fields = line.partition("#")[0].split()
    if not fields:
        return
    address = parse_address(fields[0])
    if address is None or len(fields) < 2 or len(fields) > _MAX_PER_LINE:
        raise ConfigFault(f"{line[:80]!r} is not an address and names")
    family, number = address
    rule = BLOCK_HERE
    if number > 1 and not (family == 4 and number >> 24 == 127):
        text = fields[0].partition("%")[0]
        rule = Rule(Effect.ADDRESS, rewrite=Rewrite(rtype=28 if ":" in text else 1, data=text))
    for word in fields[1:]:
        if word not in _OF_THE_HOUSE and parse_address(word) is None:
            yield Entry(_name(word), rule)


_OF_THE_HOUSE = frozenset(
    {
        *("localhost", "localhost.localdomain", "local", "broadcasthost", "ip6-localhost", "ip6-loopback"),
        *("ip6-localnet", "ip6-mcastprefix", "ip6-allnodes", "ip6-allrouters", "ip6-allhosts"),
    }
)


def _name(text: str) -> bytes:
    try:
        return names.name(text).encode()
    except BadWire as fault:
        raise ConfigFault(str(fault)) from None


def _domains(line: str) -> Iterable[Entry]:
    words = line.partition("#")[0].split()
    if not words or line.startswith(("!", "//")):
        return
    word = words[0]
    if len(words) > 1:
        yield from _hosts(line)
    elif word.startswith(("*.", "+.", ".")):
        yield Entry(_name(word.lstrip("*+.")), BLOCK_DOWN)
    else:
        yield Entry(_name(word), BLOCK_HERE)


def _dnsmasq(line: str) -> Iterable[Entry]:
    line = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
    if not line:
        return
    option, _, rest = line.partition("=")
    option = option.strip().removeprefix("--")
    first, *domains, value = rest.strip().split("/") if "/" in rest else ("?", "")
    if option not in ("address", "server", "local") or first or not domains or len(domains) > _MAX_PER_LINE:
        raise ConfigFault(f"{line[:80]!r} is not address=/name/, server=/name/ or local=/name/")
    rule = _dnsmasq_rule(option, value.strip())
    for name in domains:
        if name == "#":
            yield Entry(b"", replace(rule, text=line))
        elif name.startswith("*."):
            yield Entry(_name(name[2:]), replace(rule, here=False))
        else:
            yield Entry(_name(name), rule)


def _dnsmasq_rule(option: str, value: str) -> Rule:
    if not value or (option == "address" and value == "#"):
        return _DNSMASQ_BLOCK
    if value == "#":
        return _DNSMASQ_ALLOW
    address = parse_address(value)
    if option != "address" or address is None:
        raise ConfigFault(f"{option}=/.../{value[:80]} is no matter of a list")
    if address[1] == 0:
        return _DNSMASQ_BLOCK
    return Rule(Effect.ADDRESS, below=True, nearest=True, rewrite=Rewrite(rtype=28 if ":" in value else 1, data=value))


def _clash(line: str) -> Iterable[Entry]:
    entry = domain_entry(line.encode())
    if entry is None and not line.isascii():
        labels = line.split(".")
        written = ".".join(label if label.isascii() else _name(label).decode() for label in labels)
        entry = domain_entry(written.encode())
    if entry is None:
        raise ConfigFault(f"{line[:80]!r} is no domain entry: write a.example, +.a.example, .a.example or *.a.example")
    below, here = entry.startswith((b".", b"+.")), not entry.startswith(b".")
    bare = entry.removeprefix(b"+").removeprefix(b".")
    rule = Rule(Effect.BLOCK, here=here, below=below)
    if b"*" not in bare:
        yield Entry(bare, rule)
        return
    head = "" if here and not below else r"(?:^|\.)" if here else r"[^.]\."
    regex = r"[^.]+".join(re.escape(part) for part in bare.decode().split("*"))
    tail = bare.rpartition(b"*")[2].removeprefix(b".")
    rule = replace(rule, here=True, below=True, pattern=f"{head or '^'}{regex}$", text=line)
    yield Entry(tail or None, rule)


def _adblock(line: str, gone: Collection[tuple[str, ...]]) -> Iterable[Entry]:
    first, _, rest = line.partition("#")[0].strip().partition(" ")
    if "\t" in first or rest:
        if parse_address(line.split(maxsplit=1)[0]) is not None:
            return _hosts(line)
    elif " #" in line:
        line = first
    made = parse_filter(line)
    return () if made is None or made.disables or made.identity in gone else (made.entry,)


def read_own(line: str) -> Iterable[Entry]:
    """What a pattern of the owner means, in Clash's way (``+.a.example``) or AdBlock's.  Raises ConfigFault."""
    entries = tuple(_clash(line) if line.startswith(("+.", ".", "*.")) else _adblock(line, ()))
    if not entries:
        raise ConfigFault(f"{line[:80]!r} is no pattern of names: write a.example, +.a.example or ||a.example^")
    return entries


def disabled(untrusted: bytes) -> frozenset[tuple[str, ...]]:
    """Which rules a list in AdBlock syntax takes away by ``badfilter``, its own or another list's."""
    gone = set()
    if b"badfilter" in untrusted:
        for line in _lines(untrusted):
            if b"badfilter" in line and len(line) <= MAX_LINE:
                with suppress(ConfigFault, UnicodeDecodeError):
                    made = parse_filter(line.decode())
                    if made is not None and made.disables:
                        gone.add(made.identity)
    return frozenset(gone)
