"""A dnsmasq configuration, read into the keys of ours.

Every option of dnsmasq 2.90 is known here and is one of four things: *taken over* into our keys; *needless*, for what
it asks for is so anyway or is the business of whoever starts us; *missing* here; or *out of scope*, being about DHCP,
router advertisements or TFTP, which dnsmasq can go on doing beside us.  Nothing is passed over in silence: what is not
taken over is said in a note with file and line.

Reading a configuration never runs anything: ``conf-script`` is named, not obeyed.  Files come from a function, so that
this stays a computation.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import yaml

from cyfs_ns import names
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.filters import parse_addresses, parse_alias
from cyfs_ns.ifnames import interface_name, parse_dynamic_host, parse_interface_name
from cyfs_ns.message import rtype_number
from cyfs_ns.printable import printable
from cyfs_ns.routersets import dnsmasq_ipset, dnsmasq_nftset
from cyfs_ns.splitdns import SplitDns
from cyfs_ns.synth import parse_synth
from cyfs_ns.zonefile import read_record

LEASE_FILE = "/var/lib/misc/dnsmasq.leases"
"""Where Debian's dnsmasq keeps leases when nothing is said."""

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_MAX_DEPTH = 16
_EVERYTHING = ("#", "*")
_MOST_MIN_TTL = 3600  # seconds; dnsmasq obeys no more
_MAX_TTL = 0x7FFFFFFF  # seconds (RFC 2181 section 8)
_MOST_ENTRIES = 10_000_000  # that a cache of ours may hold
_MAX_STALE = 2_592_000  # seconds; dnsmasq's "for ever" is a month here
_META = ",:. \t\b\r\n\x1b"
_HIDDEN = {ord(char): chr(0xE000 + at) for at, char in enumerate(_META)}
_SHOWN = {0xE000 + at: char for at, char in enumerate(_META)}
_SIGNS = re.compile(r'[\s"\\;()@$]')
_WHITE = "\t\v\f\r"
_ESCAPES = {"t": "\t", "b": "\b", "r": "\r", "n": "\n", "e": "\x1b", '"': '"', "\\": "\\"}

T = TypeVar("T")

Level: TypeAlias = Literal["error", "warning", "note"]


class Note(NamedTuple):
    """What became of a line that was not simply taken over."""

    place: str
    """``file:line``."""
    level: Level
    """``error``: it makes no sense, to dnsmasq neither.  ``warning``: something is lost.  ``note``: nothing is."""
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.level}: {self.text}"


class Files(Protocol):
    """Where files come from."""

    def read(self, path: str) -> str | None:
        """The text of a file, or ``None`` if there is none."""

    def listing(self, path: str) -> list[str] | None:
        """The names in a directory, or ``None`` if there is none."""


@dataclass(frozen=True, slots=True)
class Imported:
    """The outcome."""

    settings: dict[str, object]
    """A whole configuration: ``dns`` and, where there is any, ``hosts``."""
    notes: tuple[Note, ...]


def read_dnsmasq(path: str, files: Files, machine: str = "") -> Imported:
    """The configuration that begins in the file at ``path``.  Never fails: what is wrong becomes a note.

    ``machine`` is what the machine calls itself: dnsmasq's usual host for mail.
    """
    reader = _Reader(files, machine)
    reader.file(path, f"{path}:0")
    return Imported(reader.finish(), tuple(reader.notes))


def imported_yaml(imported: Imported) -> str:
    """The outcome as a file of ours, the notes as comments at its top."""
    notes = "".join(f"# {printable(str(note))}\n" for note in imported.notes)
    return notes + yaml.dump(imported.settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Wrong(Exception):
    """The value of an option makes no sense."""


class _Lost(Exception):
    """The value of an option cannot be said with our keys."""


@dataclass(slots=True)
class _Reader:
    """Gathers keys over all files."""

    files: Files
    machine: str
    notes: list[Note] = field(default_factory=list)
    _flags: dict[str, object] = field(default_factory=dict)
    _cache: dict[str, object] = field(default_factory=dict)
    _lists: dict[str, list[str]] = field(default_factory=dict)
    _hosts: dict[str, list[str]] = field(default_factory=dict)
    _domains: dict[str, str] = field(default_factory=dict)
    _every: list[str] = field(default_factory=list)
    _zones: dict[str, None] = field(default_factory=dict)
    _zone_words: dict[str, str] = field(default_factory=dict)
    _mail: list[tuple[str, str, str, str]] = field(default_factory=list)
    _services: list[tuple[str, str, str]] = field(default_factory=list)
    _listen: list[str] = field(default_factory=list)
    _ecs: dict[str, object] = field(default_factory=dict)
    _port: str = "53"
    _resolv: bool = True
    _resolv_file: str = ""
    _leases: str = ""
    _dhcp: bool = False
    _local_mail: str = ""
    """Where ``localmx`` stands."""
    _mail_target: str = ""
    _open: list[str] = field(default_factory=list)

    # -- files and lines -----------------------------------------------------------------------------------------------

    def file(self, path: str, place: str, only: frozenset[str] | None = None) -> None:
        text = self.files.read(path) if path not in self._open and len(self._open) < _MAX_DEPTH else None
        if text is None:
            self._note(place, "error", f"{path} cannot be read, or includes itself")
            return
        self._open.append(path)
        for number, line in enumerate(text.split("\n"), start=1):
            self._line(line, f"{path}:{number}", only)
        self._open.pop()

    def _line(self, line: str, place: str, only: frozenset[str] | None) -> None:
        try:
            bare = _unquoted(line).strip()
        except _Wrong as fault:
            self._note(place, "error", str(fault))
            return
        if not bare:
            return
        option, equals, value = bare.partition("=")
        option, value = option.strip(), value.strip()
        if only is not None and option not in only:
            self._note(place, "error", f"{option} may not stand in this file")
        elif option in NEEDLESS:
            self._note(place, "note", f"{option}: {NEEDLESS[option]}")
        elif option in MISSING:
            self._note(place, "warning", f"{option} is not carried: {MISSING[option]}")
        elif option in OUT_OF_SCOPE:
            self._dhcp = self._dhcp or option == "dhcp-range"
            self._note(place, "note", f"{option} is out of scope here: DHCP, router advertisements and TFTP")
        elif (take := TAKEN.get(option)) is None:
            self._note(place, "error", f"dnsmasq has no option {option[:60]!r}")
        else:
            self._take(take, option, value, bool(equals), place)

    def _take(self, take: _Take, option: str, value: str, equals: bool, place: str) -> None:
        try:
            take(self, value, place)
        except _Wrong as fault:
            what = str(fault) or (f"{_shown(value)[:80]!r} makes no sense" if equals else "needs a value")
            self._note(place, "error", f"{option}: {what}")
        except _Lost as fault:
            self._note(place, "warning", f"{option}={_shown(value)[:80]} is not carried: {fault}")

    def _note(self, place: str, level: Level, text: str) -> None:
        self.notes.append(Note(place, level, text))

    # -- what options do -----------------------------------------------------------------------------------------------

    def flag(self, key: str, setting: object, value: str, place: str) -> None:
        self._flags[key] = setting

    def number(self, table: str, key: str, value: str, place: str) -> None:
        (self._cache if table else self._flags)[key] = min(_number(value), _MAX_TTL)

    def listed(self, key: str, value: str, place: str) -> None:
        if not value:
            raise _Wrong
        self._lists.setdefault(key, []).extend(_fields(value))

    def parsed(self, key: str, parse: Callable[[str], object], value: str) -> None:
        _checked(parse, _shown(value))
        self._lists.setdefault(key, []).append(_shown(value))

    def addresses(self, key: str, value: str) -> None:
        found = _fields(value)
        _checked(parse_addresses, found)
        self._lists.setdefault(key, []).extend(found)

    def conf_file(self, value: str, place: str) -> None:
        self.file(_shown(value), place)

    def servers_file(self, value: str, place: str) -> None:
        self.file(_shown(value), place, frozenset({"server", "rev-server"}))

    def conf_dir(self, value: str, place: str) -> None:
        directory, *endings = _fields(value)
        listing = self.files.listing(directory)
        if listing is None:
            raise _Wrong(f"there is no directory {directory}")
        wanted = tuple(ending[1:] for ending in endings if ending.startswith("*"))
        unwanted = tuple(ending for ending in endings if ending and not ending.startswith("*"))
        for name in sorted(listing):
            hidden = name.endswith("~") or name.startswith(".") or (name.startswith("#") and name.endswith("#"))
            if not hidden and (not wanted or name.endswith(wanted)) and not (unwanted and name.endswith(unwanted)):
                self.file(f"{directory.rstrip('/')}/{name}", place)

    def port(self, value: str, place: str) -> None:
        self._port = str(_number(value, 65535))

    def listen_address(self, value: str, place: str) -> None:
        self._listen += [_ip(text) for text in _fields(value)]

    def interface(self, value: str, place: str) -> None:
        for device in _fields(value):
            if device.endswith("*"):
                raise _Lost("interfaces are written whole")
            _checked(interface_name, device)
            self._lists.setdefault("interfaces", []).append(device)

    def cache_size(self, value: str, place: str) -> None:
        size = min(_number(value), _MOST_ENTRIES)
        if size:
            self._flags["cache-max-size"] = size
        else:
            self._cache.update({"max-ttl": 0, "max-negative-ttl": 0, "max-stale": 0})

    def max_cache_ttl(self, value: str, place: str) -> None:
        if (most := _number(value)) and self._cache.get("max-ttl") != 0:
            self._cache["max-ttl"] = min(most, _MAX_TTL)

    def min_cache_ttl(self, value: str, place: str) -> None:
        self._cache["min-ttl"] = min(_number(value), _MOST_MIN_TTL)

    def no_negcache(self, value: str, place: str) -> None:
        self._cache["max-negative-ttl"] = 0

    def stale(self, value: str, place: str) -> None:
        self._cache["max-stale"] = (min(_number(value), _MAX_TTL) or _MAX_STALE) if value else 86400

    def resolv_file(self, value: str, place: str) -> None:
        if not value:
            raise _Wrong
        if self._resolv_file:
            raise _Lost(f"one file is read, {self._resolv_file}")
        self._resolv_file = _shown(value)

    def no_resolv(self, value: str, place: str) -> None:
        self._resolv = False

    def server(self, value: str, place: str) -> None:
        domains, target = _domains(value)
        if not (domains or target):
            raise _Wrong
        _checked(lambda form: SplitDns((), [form]), "/" + "/".join((*domains, target)) if domains else target)
        if not target:
            self._local(domains)
            return
        # A server for all names is one of the standard ones to dnsmasq.
        parts = [domain for domain in domains if domain not in _EVERYTHING]
        if len(parts) < len(domains) or not domains:
            self._lists.setdefault("servers", []).append(target)
        if parts:
            self._lists.setdefault("servers", []).append("/" + "/".join((*parts, target)))

    def _local(self, domains: list[str]) -> None:
        for domain in domains:
            if domain == "#" or domain.startswith("*"):
                self._lists.setdefault("servers", []).append(f"/{domain}/")
                continue
            self._lists.setdefault("local-domains", []).append(_name(domain.removeprefix(".")) if domain else "")

    def rev_server(self, value: str, place: str) -> None:
        prefix, *servers = _fields(value)
        if len(servers) > 1:
            raise _Wrong
        for zone in _reverse_zones(prefix):
            self.server(f"/{zone}/{servers[0] if servers else ''}", place)

    def address(self, value: str, place: str) -> None:
        domains, target = _domains(value)
        if not domains or (target not in ("", "#") and not names.is_ip(target)):
            raise _Wrong
        for domain in domains:
            if domain in _EVERYTHING:
                self._note(place, "note", "a rewrite of every name also holds for names with servers of their own")
                self._every += [target] if names.is_ip(target) else ["0.0.0.0", "::"] if target else ["NXDOMAIN"]
                continue
            if not (domain or target):
                self._local([domain])
                continue
            ending = domain.startswith("*") and not domain.startswith("*.")
            pattern = _ending(domain[1:]) if ending else _below(domain) if domain else "*"
            if not target:
                self._flags["block-answer"] = "nxdomain"
                self._lists.setdefault("block", []).append(f"/{re.escape(pattern[1:])}$/" if ending else pattern)
            else:
                known = self._hosts.setdefault(pattern, [])
                known += ["0.0.0.0", "::"] if target == "#" else [names.ip(target)]

    def alias(self, value: str, place: str) -> None:
        _checked(parse_alias, _shown(value))
        # Of several that fit dnsmasq obeys the last.
        self._lists.setdefault("alias", []).insert(0, _shown(value))

    def filter_windows(self, value: str, place: str) -> None:
        self._lists.setdefault("filter-types", []).extend(("SOA", "SRV"))

    def filter_rr(self, value: str, place: str) -> None:
        kinds = [kind.upper() for kind in _fields(value)]
        if kinds == ["ANY"]:
            self._note(place, "note", "filter-rr=ANY: questions for ANY get the minimal answer of RFC 8482 anyway")
            return
        try:
            for kind in kinds:
                rtype_number(kind)
        except BadWire as fault:
            raise _Wrong(str(fault)) from None
        self._lists.setdefault("filter-types", []).extend(kinds)

    def log_queries(self, value: str, place: str) -> None:
        self._flags["query-log"] = {"privacy": "full"}

    def rebind_domain(self, value: str, place: str) -> None:
        domains, target = _domains(value)
        for domain in (*domains, *([target] if target else [])):
            self._lists.setdefault("rebind-allow", []).append("+." + _name(domain.removeprefix(".")))

    def subnet(self, value: str, place: str) -> None:
        ecs: dict[str, object] = {"mode": "add", "ipv4-bits": 0, "ipv6-bits": 0}
        fixed: list[str] = []
        for key, text in zip(("ipv4-bits", "ipv6-bits"), _fields(value) if value else (), strict=False):
            address, slash, bits = text.rpartition("/")
            if slash:
                try:
                    network = _network(f"{address}/{bits}")
                except ValueError:
                    raise _Wrong from None
                fixed.append(str(network))
            elif bits:
                ecs[key] = _number(bits, 32 if key == "ipv4-bits" else 128)
        self._ecs = {**ecs, **({"fixed": fixed} if fixed else {})}

    def strip_subnet(self, value: str, place: str) -> None:
        self._ecs = {"mode": "strip"}

    def leasefile(self, value: str, place: str) -> None:
        self._leases = _shown(value)

    # -- names ---------------------------------------------------------------------------------------------------------

    def domain(self, value: str, place: str) -> None:
        domain, *where = _fields(value)
        if domain == "#":
            raise _Lost("the search list of resolv.conf is not looked at")
        domain = _name(domain)
        if not where:
            self._flags["domain"] = domain
            return
        local = len(where) > 1 and where[-1] == "local"
        where = where[:-1] if local else where
        try:
            if len(where) == 2:
                low, high = map(ipaddress.ip_address, where)
                ranges = [str(net) for net in ipaddress.summarize_address_range(low, high)]
            else:
                ranges = [str(_network(where[0]))]
        except (ValueError, TypeError):
            raise _Lost("a domain goes by addresses here, not by interface") from None
        self._domains.update(dict.fromkeys(ranges, domain))
        if local:
            self._local([domain, *(zone for net in ranges for zone in _reverse_zones(net))])

    def record(self, line: str) -> None:
        try:
            read_record(line)
        except ConfigFault as fault:
            raise _Wrong(str(fault)) from None
        self._lists.setdefault("records", []).append(line)

    def host_record(self, value: str, place: str) -> None:
        fields = _fields(value)
        addresses = [text for text in fields if names.is_ip(text)]
        told = {":" in address: address for address in addresses}  # one of each family, the last
        ttl = fields.pop() if len(fields) > 2 and fields[-1].isdigit() else ""
        owners = [text for text in fields if text and text not in addresses]
        if not owners or not addresses:
            raise _Wrong
        for owner in owners:
            for address in told.values():
                kind = "AAAA" if ":" in address else "A"
                self.record(_record(owner, kind, names.ip(address), ttl))

    def cname(self, value: str, place: str) -> None:
        fields = _fields(value)
        ttl = fields.pop() if len(fields) > 2 and fields[-1].isdigit() else ""
        *aliases, target = fields
        if not aliases or not target:
            raise _Wrong
        for alias in aliases:
            self.record(_record(alias, "CNAME", _target(target), ttl))

    def txt(self, value: str, place: str) -> None:
        name, *texts = value.split(",")
        # Only before the first text are spaces nothing.
        texts = [_shown(text) for text in (texts[0].lstrip(), *texts[1:])] if texts else [""]
        self.record(_record(_shown(name.rstrip()), "TXT", " ".join(map(_quoted, texts))))

    def ptr(self, value: str, place: str) -> None:
        name, *target = _fields(value)
        if len(target) != 1:
            raise _Lost("it has no target")
        self.record(_record(name, "PTR", _target(target[0])))

    def mx(self, value: str, place: str) -> None:
        name, *rest = _fields(value)
        preference = rest.pop() if rest and rest[-1].isdigit() else "1"
        self._mail.append((place, name, rest[0] if rest else "", preference))

    def local_mail(self, value: str, place: str) -> None:
        self._local_mail = place

    def mx_target(self, value: str, place: str) -> None:
        self._mail_target = _name(_shown(value))

    def srv(self, value: str, place: str) -> None:
        name, *rest = _fields(value)
        target, port, priority, weight = (*rest, *["", "1", "0", "0"][len(rest) :])[:4]
        self._services.append((place, name, f"{priority or 0} {weight or 0} {port or 1} {_target(target)}"))

    def naptr(self, value: str, place: str) -> None:
        fields = _fields(value)
        if len(fields) not in (6, 7):
            raise _Wrong
        name, order, preference, flags, service, expression, replacement = (*fields, "")[:7]
        texts = " ".join(map(_quoted, (flags, service, expression)))
        self.record(_record(name, "NAPTR", f"{order} {preference} {texts} {_target(replacement)}"))

    def caa(self, value: str, place: str) -> None:
        name, flags, tag, text = _fields(value, 4)
        self.record(_record(name, "CAA", f"{flags} {tag} {_quoted(text)}"))

    def dns_rr(self, value: str, place: str) -> None:
        name, number, *data = (*_fields(value), "")
        digits = re.sub(r"[\s:]", "", "".join(data))
        self.record(_record(name, f"TYPE{_number(number, 65535)}", f"\\# {len(digits) // 2} {digits}"))

    def auth_server(self, value: str, place: str) -> None:
        self._zone_words["ns"] = _name(_fields(value)[0])

    def auth_zone(self, value: str, place: str) -> None:
        zone, *subnets = _fields(value)
        self._zones[_name(zone)] = None
        if subnets:
            raise _Lost(f"the zone {zone} is taken over, but not that it holds addresses of those networks alone")

    def auth_soa(self, value: str, place: str) -> None:
        serial, hostmaster, refresh, retry, expiry = (*_fields(value), "", "", "", "", "")[:5]
        numbers = [_number(serial), _number(refresh or "1200"), _number(retry or "180"), _number(expiry or "1209600")]
        mailbox = _name(hostmaster) + "." if hostmaster else "hostmaster"
        self._zone_words["soa"] = f"{mailbox} {' '.join(map(str, numbers))}"

    def auth_ttl(self, value: str, place: str) -> None:
        self._zone_words["ttl"] = str(_number(value))

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(self) -> dict[str, object]:
        """The whole configuration, keys in the order a person would write them."""
        for place, service, data in self._services:
            # Without a domain of its own a service is one of the house (dnsmasq's rule).
            bare = service.count(".") < 2 and "domain" in self._flags
            self._late_record(place, f"{service}.{self._flags['domain']}" if bare else service, "SRV", data)
        self._deliver()
        most, least = self._cache.get("max-ttl"), self._cache.get("min-ttl")
        if isinstance(most, int) and isinstance(least, int) and 0 < most < least:
            self._cache["max-ttl"] = least  # of the two, dnsmasq obeys the lower bound
        hosts = [*self._listen] or [""]
        dns: dict[str, object] = {"enable": self._port != "0"}
        if self._port == "0":
            self._note("port=0", "warning", "this dnsmasq answered no questions, so neither does what came out")
        else:
            dns["listen"] = [f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}" for host in hosts]
        self._pull(dns, "interfaces")
        if self._resolv:
            dns["nameserver"] = ["system"]
            dns.update({"resolv-file": self._resolv_file} if self._resolv_file else {})
        elif all(server.startswith("/") for server in self._lists.get("servers", ())):
            dns["nameserver"] = ["rcode://refused"]
        self._pull(dns, "servers")
        dns.update({"bogus-priv": False, **self._flags})
        if self._domains:
            dns["domains"] = dict(self._domains)
        if self._cache:
            dns["cache"] = dict(self._cache)
        if self._ecs:
            dns["client-subnet"] = dict(self._ecs)
        if self._leases or self._dhcp:
            dns["lease-files"] = [self._leases or LEASE_FILE]
        if self._zones:
            dns["zones"] = {zone: self._zone_lines() for zone in self._zones}
        for key in list(self._lists):
            self._pull(dns, key)
        if self._every:
            dns["rewrites"] = {"*": list(dict.fromkeys(self._every))}
        hosts_table = {
            pattern: addresses[0] if len(addresses) == 1 else list(dict.fromkeys(addresses))
            for pattern, addresses in self._hosts.items()
        }
        return {"dns": dns, **({"hosts": hosts_table} if hosts_table else {})}

    def _deliver(self) -> None:
        """Mail goes to who is named, else to the usual target, else to this machine."""
        usual, place = self._mail_target or self.machine, self._local_mail
        if place and usual:
            self._flags.setdefault("machine-mx", usual)
        if self.machine and (place or self._mail_target) and self.machine not in [name for _, name, _, _ in self._mail]:
            self._mail.append((place, self.machine, "", "0"))
        for place, name, target, preference in self._mail:
            if exchange := target or usual:
                self._late_record(place, name, "MX", f"{preference} {_target(exchange)}")
            else:
                self._note(place, "warning", "mx-host: without a target it is this machine, whose name is not known")
        if self._local_mail and not usual:
            self._note(self._local_mail, "warning", "localmx: the target is this machine, whose name is not known")

    def _late_record(self, place: str, owner: str, kind: str, data: str) -> None:
        try:
            self.record(_record(owner, kind, data))
        except _Wrong as fault:
            self._note(place, "error", str(fault) or f"{kind}: there is no name")

    def _pull(self, dns: dict[str, object], key: str) -> None:
        if found := self._lists.pop(key, []):
            dns[key] = list(dict.fromkeys(found))

    def _zone_lines(self) -> list[str]:
        server = self._zone_words.get("ns", "localhost")
        who, *numbers = self._zone_words.get("soa", "hostmaster 1 1200 180 1209600").split()
        ttl = self._zone_words.get("ttl", "600")
        soa = f"@ {ttl} SOA {server}. {who} {' '.join(numbers)} {ttl}"
        return [soa, f"@ {ttl} NS {server}."]


_Take: TypeAlias = Callable[[_Reader, str, str], None]


# -- words -------------------------------------------------------------------------------------------------------------


def _unquoted(line: str) -> str:
    """The line without its comment; what stands in quotes loses them and hides the characters that part fields."""
    out: list[str] = []
    quoted = False
    chars = iter(line.rstrip("\r"))
    for char in chars:
        if char == '"':
            quoted = not quoted
        elif quoted:
            out.append(_escape(chars) if char == "\\" else char.translate(_HIDDEN))
        elif char == "#" and (not out or out[-1] == " "):
            break
        else:
            out.append(" " if char in _WHITE else char)
    if quoted:
        raise _Wrong("a quote without its second half")
    return "".join(out)


def _escape(chars: Iterator[str]) -> str:
    """What a backslash and the next character mean; a backslash before any other is one."""
    char = next(chars, "")
    return _ESCAPES.get(char, "\\" + char).translate(_HIDDEN)


def _checked(parse: Callable[[T], object], text: T) -> None:
    try:
        parse(text)
    except ConfigFault as fault:
        raise _Wrong(str(fault)) from None


def _shown(text: str) -> str:
    return text.translate(_SHOWN)


def _fields(value: str, count: int = 0) -> list[str]:
    """What commas part; ``count`` says how many there must be."""
    found = [_shown(part.strip()) for part in value.split(",", count - 1 if count else -1)]
    if (count and len(found) != count) or not any(found):
        raise _Wrong
    return found


def _domains(value: str) -> tuple[list[str], str]:
    """The domains and the target of ``/a/b/target``."""
    if not value.startswith("/"):
        return [], _shown(value)
    if "/" not in value[1:]:
        raise _Wrong
    *domains, target = value[1:].split("/")
    return [_shown(domain) for domain in domains], _shown(target)


def _number(text: str, most: int = 0xFFFFFFFF) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= most):
        raise _Wrong
    return int(text)


def _ip(text: str) -> str:
    if not names.is_ip(text):
        raise _Wrong
    return names.ip(text)


def _name(text: str) -> str:
    try:
        return names.name(text)
    except BadWire as fault:
        raise _Wrong(str(fault)) from None


def _below(domain: str) -> str:
    """The pattern for a domain, or after ``*.`` for all below it alone."""
    return "." + _name(domain[2:]) if domain.startswith("*.") else "+." + _name(domain.removeprefix("."))


def _ending(text: str) -> str:
    """The pattern for all names that end so."""
    if not text.partition(".")[0].isascii():
        raise _Wrong("names are compared as they travel (RFC 5891), where part of a label cannot be told")
    return "*" + _name("x" + text)[1:]


def _record(owner: str, kind: str, data: str, ttl: str = "") -> str:
    if not owner:
        raise _Wrong
    return " ".join(filter(None, (_spelt(owner), ttl, kind, data)))


def _target(name: str) -> str:
    return _spelt(name.removesuffix(".")) + "."


def _spelt(name: str) -> str:
    """A name in which the signs mean nothing, where zone files give them a meaning: services have spaces in theirs."""
    return _SIGNS.sub(lambda sign: "".join(f"{chr(92)}{octet:03d}" for octet in sign[0].encode()), name)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    shown = "".join(char if char.isprintable() else f"{chr(92)}{ord(char) & 255:03d}" for char in escaped)
    return f'"{shown}"'


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Raises ``ValueError``, for addresses that hold on one link alone as well."""
    if "%" in text:
        raise ValueError
    return ipaddress.ip_network(text, strict=False)


def _reverse_zones(prefix: str) -> Iterable[str]:
    """The zones that hold the names of the addresses in a prefix: several, where it ends within an octet or digit."""
    try:
        network = _network(prefix)
    except ValueError:
        raise _Wrong from None
    step = 8 if network.version == 4 else 4
    length = max(step, -(-network.prefixlen // step) * step)
    for part in network.subnets(new_prefix=length) if length > network.prefixlen else (network,):
        if part.version == 4:
            octets = str(part.network_address).split(".")[: length // 8]
            yield ".".join(reversed(octets)) + ".in-addr.arpa"
        else:
            digits = part.network_address.exploded.replace(":", "")[: length // 4]
            yield ".".join(reversed(digits)) + ".ip6.arpa"


# -- options -----------------------------------------------------------------------------------------------------------


def _flag(key: str, setting: object = True) -> _Take:
    return partial(_flagged, key, setting)


def _flagged(key: str, setting: object, reader: _Reader, value: str, place: str) -> None:
    reader.flag(key, setting, value, place)


def _seconds(key: str, table: str = "") -> _Take:
    return lambda reader, value, place: reader.number(table, key, value, place)


def _listed(key: str) -> _Take:
    return lambda reader, value, place: reader.listed(key, value, place)


def _addresses(key: str) -> _Take:
    return lambda reader, value, place: reader.addresses(key, value)


def _parsed(key: str, parse: Callable[[str], object]) -> _Take:
    """Taken over word for word, if it makes sense."""
    return lambda reader, value, place: reader.parsed(key, parse, value)


def _filter(kind: str) -> _Take:
    return lambda reader, value, place: reader.filter_rr(kind, place)


TAKEN: dict[str, _Take] = {
    "address": _Reader.address,
    "add-subnet": _Reader.subnet,
    "addn-hosts": _listed("hosts-files"),
    "alias": _Reader.alias,
    "all-servers": _flag("strategy", "parallel"),
    "auth-server": _Reader.auth_server,
    "auth-soa": _Reader.auth_soa,
    "auth-ttl": _Reader.auth_ttl,
    "auth-zone": _Reader.auth_zone,
    "bogus-nxdomain": _addresses("bogus-nxdomain"),
    "bogus-priv": _flag("bogus-priv"),
    "caa-record": _Reader.caa,
    "cache-size": _Reader.cache_size,
    "cname": _Reader.cname,
    "conf-dir": _Reader.conf_dir,
    "conf-file": _Reader.conf_file,
    "conntrack": _flag("connmark"),
    "dhcp-fqdn": _flag("lease-short-names", False),
    "dhcp-leasefile": _Reader.leasefile,
    "dhcp-ttl": _seconds("lease-ttl"),
    "dns-rr": _Reader.dns_rr,
    "domain": _Reader.domain,
    "domain-needed": _flag("domain-needed"),
    "dynamic-host": _parsed("dynamic-host", parse_dynamic_host),
    "expand-hosts": _flag("expand-hosts"),
    "filter-A": _filter("A"),
    "filter-AAAA": _filter("AAAA"),
    "filter-rr": _Reader.filter_rr,
    "host-record": _Reader.host_record,
    "filterwin2k": _Reader.filter_windows,
    "hostsdir": _listed("hosts-files"),
    "ignore-address": _addresses("ignore-address"),
    "interface": _Reader.interface,
    "interface-name": _parsed("interface-name", parse_interface_name),
    "ipset": _parsed("ipset", dnsmasq_ipset),
    "listen-address": _Reader.listen_address,
    "local": _Reader.server,
    "local-ttl": _seconds("local-ttl"),
    "localise-queries": _flag("localise-queries"),
    "localmx": _Reader.local_mail,
    "log-queries": _Reader.log_queries,
    "max-cache-ttl": _Reader.max_cache_ttl,
    "max-ttl": _seconds("max-client-ttl", "cache"),
    "min-cache-ttl": _Reader.min_cache_ttl,
    "mx-host": _Reader.mx,
    "mx-target": _Reader.mx_target,
    "naptr-record": _Reader.naptr,
    "nftset": _parsed("nftset", dnsmasq_nftset),
    "no-hosts": _flag("use-system-hosts", False),
    "no-negcache": _Reader.no_negcache,
    "no-resolv": _Reader.no_resolv,
    "port": _Reader.port,
    "ptr-record": _Reader.ptr,
    "rebind-domain-ok": _Reader.rebind_domain,
    "rebind-localhost-ok": _flag("rebind-localhost"),
    "resolv-file": _Reader.resolv_file,
    "rev-server": _Reader.rev_server,
    "selfmx": _flag("machine-mx", "self"),
    "server": _Reader.server,
    "servers-file": _Reader.servers_file,
    "srv-host": _Reader.srv,
    "stop-dns-rebind": _flag("rebind-protection"),
    "strict-order": _flag("strategy", "strict"),
    "strip-subnet": _Reader.strip_subnet,
    "synth-domain": _parsed("synth-domain", parse_synth),
    "txt-record": _Reader.txt,
    "use-stale-cache": _Reader.stale,
}
"""Options that become keys of ours."""

NEEDLESS: dict[str, str] = {
    "bind-dynamic": "sockets are bound by device and need no renewal",
    "bind-interfaces": "sockets are bound to what 'listen' and 'interfaces' say",
    "cache-rr": "answers of every type are cached",
    "clear-on-reload": "answers are kept by server group, and 'cyfs-ns flush' empties the cache",
    "dns-forward-max": "questions in flight are bounded anyway",
    "dns-loop-detect": "loops are always looked for",
    "edns-packet-max": "1232 octets are offered and honoured",
    "fast-dns-retry": "servers that do not answer are tried again anyway",
    "group": "rights are the service manager's matter",
    "keep-in-foreground": "the service manager starts us",
    "local-service": "only local networks may ask unless 'allow-from' says otherwise",
    "log-async": "logging never waits",
    "log-debug": "'cyfs-ns explain' tells more",
    "log-facility": "the log goes to standard error, for the service manager",
    "max-tcp-connections": "connections are bounded anyway",
    "no-daemon": "we never leave the foreground",
    "no-ident": "nothing is told of ourselves unless 'version' says so",
    "no-poll": "files are watched, not polled",
    "no-round-robin": "records keep their order",
    "pid-file": "the service manager knows the process",
    "proxy-dnssec": "what servers say of DNSSEC is passed on to clients that ask for it",
    "strip-mac": "hardware addresses are never passed on",
    "user": "rights are the service manager's matter",
}
"""Options that ask for what is so anyway, and why."""

MISSING: dict[str, str] = {
    "add-cpe-id": "clients are not told to servers",
    "add-mac": "clients are not told to servers",
    "auth-peer": "zones are not transferred",
    "auth-sec-servers": "zones are not transferred",
    "conf-script": "reading a configuration runs nothing; give its output to conf-file",
    "connmark-allowlist": "say who may ask what with lists by client",
    "connmark-allowlist-enable": "say who may ask what with lists by client",
    "dnssec": "signatures are not checked; choose servers that do",
    "dnssec-check-unsigned": "signatures are not checked",
    "dnssec-debug": "signatures are not checked",
    "dnssec-limits": "signatures are not checked",
    "dnssec-no-timecheck": "signatures are not checked",
    "dnssec-timestamp": "signatures are not checked",
    "dumpfile": "use tcpdump",
    "dumpmask": "use tcpdump",
    "enable-dbus": "use the control interface",
    "enable-ubus": "use the control interface",
    "except-interface": "name those that shall answer in 'interfaces'",
    "max-port": "ports are the kernel's choice",
    "min-port": "ports are the kernel's choice",
    "neg-ttl": "answers that do not say how long they hold are not kept (RFC 2308)",
    "port-limit": "every question has its own port",
    "query-port": "one port for all questions invites forged answers",
    "trust-anchor": "signatures are not checked",
    "umbrella": "clients are not told to servers",
}
"""Options whose meaning is lost, and what to do instead."""

OUT_OF_SCOPE = frozenset({
    "bootp-dynamic", "bridge-interface", "dhcp-alternate-port", "dhcp-authoritative", "dhcp-boot", "dhcp-broadcast",
    "dhcp-circuitid", "dhcp-client-update", "dhcp-duid", "dhcp-generate-names", "dhcp-host", "dhcp-hostsdir",
    "dhcp-hostsfile", "dhcp-ignore", "dhcp-ignore-clid", "dhcp-ignore-names", "dhcp-lease-max", "dhcp-luascript",
    "dhcp-mac", "dhcp-match", "dhcp-name-match", "dhcp-no-override", "dhcp-option", "dhcp-option-force",
    "dhcp-optsdir", "dhcp-optsfile", "dhcp-proxy", "dhcp-pxe-vendor", "dhcp-range", "dhcp-rapid-commit", "dhcp-relay",
    "dhcp-remoteid", "dhcp-reply-delay", "dhcp-script", "dhcp-scriptuser", "dhcp-sequential-ip", "dhcp-subscrid",
    "dhcp-userclass", "dhcp-vendorclass", "enable-ra", "enable-tftp", "leasefile-ro", "log-dhcp", "no-dhcp-interface",
    "no-dhcpv4-interface", "no-dhcpv6-interface", "no-ping", "pxe-prompt", "pxe-service", "quiet-dhcp", "quiet-dhcp6",
    "quiet-ra", "quiet-tftp", "ra-param", "read-ethers", "script-arp", "script-on-renewal", "shared-network",
    "tag-if", "tftp-lowercase", "tftp-max", "tftp-mtu", "tftp-no-blocksize", "tftp-no-fail", "tftp-port-range",
    "tftp-root", "tftp-secure", "tftp-single-port", "tftp-unique-root",
})  # fmt: skip
"""Options about DHCP, router advertisements and TFTP."""

COMMANDS = frozenset({"help", "test", "version"})
"""Options that are given on the command line only."""
