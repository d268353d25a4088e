"""Fake addresses as the name server hands them out and the gateway takes them back.

A name gets a fake address unless the filter says otherwise: ``blacklist`` names those that get real ones, ``whitelist``
those that get fake ones, ``rule`` is a list of ``TYPE,payload,fake-ip|real-ip`` of which the first that fits decides.
The filter is asked with every answer, so a change of it holds at once for names that were mapped before; what was told
of them stays known to the gateway.

A asks for the IPv4 address, AAAA for the IPv6 one, or hears NODATA with an SOA where there is no IPv6 range.  SVCB and
HTTPS are NODATA too: their hints would lead past us.  All other types are answered for real.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from cyfs_ns import names
from cyfs_ns.blockanswer import negative_soa
from cyfs_ns.config.dns import DnsConfig
from cyfs_ns.domains import DomainMap
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.fakeip import FakePool, Ranges, ranges
from cyfs_ns.io.fakefile import FakeFile
from cyfs_ns.message import AAAA, A
from cyfs_ns.records import HTTPS, SVCB
from cyfs_ns.reply import Reply, make_reply
from cyfs_ns.special import address_data
from cyfs_ns.splitdns import Sets
from cyfs_ns.wire import Record

_SETS = ("rule-set:", "geosite:")
_Wants = Callable[[str], bool]


class FakeIps:
    """The mappings of one house.  Made by :meth:`open`; :meth:`with_filter` shares them with the next house."""

    def __init__(self, ranges_: Ranges, pool: FakePool, journal: FakeFile, wants: _Wants, ttl: int) -> None:
        self.ranges, self.pool = ranges_, pool
        self.draining = False
        """The gateway is about to stop: nobody is told of a fake address any more."""
        self._journal, self._wants, self._ttl = journal, wants, ttl

    @classmethod
    def open(cls, home: Path, config: DnsConfig, sets: Sets | None) -> FakeIps:
        """Take up the mappings of the last time.  Blocks on the disk.  Raises ``ConfigFault``."""
        found = _ranges(config)
        # Each pair of ranges has a journal: trying another one costs nothing that could be wanted back.
        path = home / f"fake-ip.{zlib.crc32(str(found).encode()):08x}"
        wants = fake_filter(config, sets)
        pool = FakePool(found.slots)
        return cls(found, pool, FakeFile.open(path, found, pool), wants, config.fake_ip_ttl)

    def fits(self, config: DnsConfig) -> bool:
        """Whether the same addresses are wanted."""
        return _ranges(config) == self.ranges

    def shares_with(self, other: FakeIps | None) -> bool:
        """Whether these are the mappings of the other, too."""
        return other is not None and other.pool is self.pool

    def with_filter(self, config: DnsConfig, sets: Sets | None) -> FakeIps:
        """The same mappings under another filter.  Raises ``ConfigFault``."""
        return FakeIps(self.ranges, self.pool, self._journal, fake_filter(config, sets), config.fake_ip_ttl)

    def answer(self, name: str, question: bytes, rtype: int) -> Reply | None:
        """The answer with fake addresses, written down already; None: this name and type get a real answer."""
        if rtype not in (A, AAAA, HTTPS, SVCB) or self.draining or not self._wants(name):
            return None
        owner = question[:-4].lower()
        answer: list[Record] = []
        if rtype in (A, AAAA):
            now = time.time()
            taken = self.pool.take(name, now)
            if taken.is_new:
                self._journal.wrote(taken.slot, name, now)
            address = self.ranges.addresses(taken.slot)[rtype == AAAA]
            if address:
                kind, ttl, data = address_data(address, self._ttl)
                answer.append((owner, kind, ttl, data))
        authority = [] if answer else [negative_soa(question, self._ttl)]
        return make_reply(question, answer=answer, authority=authority)

    def is_fake(self, address: str) -> bool:
        """Whether an address is of the ranges, whether it was handed out or not."""
        return address in self.ranges

    def name(self, address: str) -> str:
        """The name behind a fake address, or empty; a flow goes there, so the mapping was used."""
        slot = self.ranges.slot(address)
        name = "" if slot is None else self.pool.name(slot)
        if name and slot is not None:
            self.pool.use(slot)
            self._journal.used(slot)
        return name

    def flush(self) -> int:
        """Forget every mapping; how many."""
        count = len(self.pool)
        self.pool.clear()
        self._journal.clear()
        return count

    async def sync(self) -> None:
        """See the mappings onto the disk."""
        await self._journal.sync()

    def close(self) -> None:
        """Let go of the file, unless another house goes on with it."""
        self._journal.close()


def fake_filter(config: DnsConfig, sets: Sets | None) -> _Wants:
    """Whether a canonical name gets a fake address.  Raises ``ConfigFault``."""
    if config.fake_ip_filter_mode == "rule":
        return _by_rules(config.fake_ip_filter, sets)
    listed = _listed(config.fake_ip_filter, sets)
    if config.fake_ip_filter_mode == "whitelist":
        return listed
    return lambda name: not listed(name)


def _listed(entries: Iterable[str], sets: Sets | None) -> _Wants:
    plain = [entry for entry in entries if not entry.startswith(_SETS)]
    matchers = [_set(entry, sets) for entry in entries if entry.startswith(_SETS)]
    table = DomainMap(dict.fromkeys(plain, True))
    return lambda name: table.get(name) is not None or any(matcher(name) for matcher in matchers)


def _by_rules(lines: Iterable[str], sets: Sets | None) -> _Wants:
    rules: list[tuple[_Wants, bool]] = []
    for line in lines:
        kind, *payload, what = [part.strip() for part in line.split(",")]
        if what.lower() not in ("fake-ip", "real-ip") or len(payload) > 1 or (not payload) != (kind == "MATCH"):
            raise ConfigFault(f"fake-ip-filter: {line[:80]!r} is not TYPE,payload,fake-ip or ...,real-ip")
        rules.append((_rule(kind, payload[0] if payload else "", line, sets), what.lower() == "fake-ip"))

    def wants(name: str) -> bool:
        return next((fake for fits, fake in rules if fits(name)), True)

    return wants


def _rule(kind: str, payload: str, line: str, sets: Sets | None) -> _Wants:
    try:
        match kind.upper():
            case "MATCH":
                return lambda name: True
            case "DOMAIN":
                wanted = names.name(payload)
                return lambda name: name == wanted
            case "DOMAIN-SUFFIX":
                suffix = names.name(payload.lstrip("."))
                return lambda name: name == suffix or name.endswith("." + suffix)
            case "DOMAIN-KEYWORD":
                keyword = payload.lower()
                return lambda name: keyword in name
            case "GEOSITE":
                return _set(f"geosite:{payload}", sets)
            case "RULE-SET":
                return _set(f"rule-set:{payload}", sets)
    except BadWire as fault:
        raise ConfigFault(f"fake-ip-filter: {line[:80]!r}: {fault}") from None
    raise ConfigFault(
        f"fake-ip-filter: {kind[:40]!r} is not one of DOMAIN, DOMAIN-SUFFIX, DOMAIN-KEYWORD, GEOSITE, RULE-SET, MATCH"
    )


def _set(name: str, sets: Sets | None) -> _Wants:
    if sets is None:
        raise ConfigFault(f"fake-ip-filter: there are no rule sets here, so {name[:60]!r} cannot be looked into")
    return sets(name)


def _ranges(config: DnsConfig) -> Ranges:
    return ranges(config.fake_ip_range, config.fake_ip_range6)
