"""Fake addresses as the name server hands them out and the gateway takes them back.

A name gets a fake address unless the filter (:mod:`cyfs_ns.fakefilter`) says otherwise.  It is asked with every answer
that is made, so a change of it holds at once for names that were mapped before; what was told of them stays known to
the gateway.

An answer may be said again unasked for half as long as the pool keeps a told address with its name, so the pool never
takes for forgotten what is still told.  Where that happens all the same, because everything was told lately, the name
that lost its address is named.  Sets of names change behind our back; with them, answers are asked for more often.

When the ranges change or fake addresses are switched off, what was told is still in use for a while, so whoever owned
the old mappings asks :meth:`FakeIps.known` on.  New ranges that overlap with old ones take over what stood there, or a
program would find another name behind its address.

A asks for the IPv4 address, AAAA for the IPv6 one, or hears NODATA with an SOA where there is no IPv6 range.  SVCB and
HTTPS are NODATA too: their hints would lead past us.  All other types are answered for real.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from cyfs_ns.blockanswer import negative_soa
from cyfs_ns.config.dns import DnsConfig
from cyfs_ns.fakefilter import fake_filter
from cyfs_ns.fakeip import KEEP, FakePool, Ranges, ranges
from cyfs_ns.given import Stand
from cyfs_ns.io.fakefile import FakeFile
from cyfs_ns.message import AAAA, A
from cyfs_ns.records import HTTPS, SVCB
from cyfs_ns.reply import make_reply
from cyfs_ns.special import address_data
from cyfs_ns.splitdns import Sets
from cyfs_ns.wire import Record

_SERVFAIL = 2
_OTHER = 0  # extended error (RFC 8914)
_UNWRITTEN = "fake-ip: cannot be written down, disk full?"


class FakeIps:
    """The mappings of one house.  Made by :meth:`open`; :meth:`with_filter` shares them with the next house."""

    def __init__(
        self,
        ranges_: Ranges,
        pool: FakePool,
        journal: FakeFile,
        config: DnsConfig,
        sets: Sets | None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Raises ``ConfigFault``."""
        self.ranges, self.pool = ranges_, pool
        self.draining = False
        """The gateway is about to stop: nobody is told of a fake address any more."""
        self._journal, self._wall = journal, wall
        self._wants = fake_filter(config.fake_ip_filter_mode, config.fake_ip_filter, sets)
        self._ttl = config.fake_ip_ttl

    @classmethod
    def open(
        cls,
        home: Path,
        config: DnsConfig,
        sets: Sets | None,
        wall: Callable[[], float] = time.time,
        before: Iterable[FakeIps] = (),
    ) -> FakeIps:
        """Take up the mappings of the last time, and of ``before`` those in the same ranges.

        Blocks on the disk.  Raises ``ConfigFault``.
        """
        found = _ranges(config)
        # Each pair of ranges has a journal: trying another one costs nothing that could be wanted back.
        path = home / f"fake-ip.{zlib.crc32(str(found).encode()):08x}"
        fake_filter(config.fake_ip_filter_mode, config.fake_ip_filter, sets)  # before a file is touched
        pool = FakePool(found.slots)
        journal = FakeFile.open(path, found, pool)
        for each in before:
            _take_over(each, found, pool, journal)
        return cls(found, pool, journal, config, sets, wall)

    @property
    def fault(self) -> str:
        """Why new names get no address now; empty: they do."""
        return self._journal.fault

    def fits(self, config: DnsConfig) -> bool:
        """Whether the same addresses are wanted."""
        return _ranges(config) == self.ranges

    def shares_with(self, other: FakeIps | None) -> bool:
        """Whether these are the mappings of the other, too."""
        return other is not None and other.pool is self.pool

    def with_filter(self, config: DnsConfig, sets: Sets | None) -> FakeIps:
        """The same mappings under another filter.  Raises ``ConfigFault``."""
        return FakeIps(self.ranges, self.pool, self._journal, config, sets, self._wall)

    def answer(self, name: str, question: bytes, rtype: int) -> Stand | None:
        """The answer with fake addresses, written down already; None: this name and type get a real answer.

        While nothing can be written down, a new name gets SERVFAIL: an address that a restart would give to another
        name would lead astray, and a real one past the rules.
        """
        if rtype not in (A, AAAA, HTTPS, SVCB) or self.draining or not self._wants(name):
            return None
        owner = question[:-4].lower()
        answer: list[Record] = []
        freed = ""
        if rtype in (A, AAAA):
            now = self._wall()
            taken = self.pool.take(name, now)
            if taken.is_new:
                if not self._journal.wrote(taken.slot, name, now):
                    self.pool.give_back(name, taken)
                    reply = make_reply(question, rcode=_SERVFAIL, ede=((_OTHER, _UNWRITTEN),))
                    return Stand(reply, 0.0)
                freed = taken.evicted if now - taken.told < KEEP else ""
            address = self.ranges.addresses(taken.slot)[rtype == AAAA]
            if address:
                kind, ttl, data = address_data(address, self._ttl)
                answer.append((owner, kind, ttl, data))
        authority = [] if answer else [negative_soa(question, self._ttl)]
        return Stand(make_reply(question, answer=answer, authority=authority), KEEP / 2, freed)

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

    def known(self, address: str) -> str:
        """The name behind an address that was told, or empty, when nobody is told of these any more."""
        slot = self.ranges.slot(address)
        return "" if slot is None else self.pool.name(slot)

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


def _take_over(before: FakeIps, ranges_: Ranges, pool: FakePool, journal: FakeFile) -> None:
    """Whoever was told last at an address keeps it."""
    for old, name, told in before.pool.snapshot().by_use():
        v4, v6 = before.ranges.addresses(old)
        slot = ranges_.slot(v4 or v6)
        if slot is not None and pool.told(slot) < told:
            pool.restore(slot, name, told)
            journal.wrote(slot, name, told)


def _ranges(config: DnsConfig) -> Ranges:
    return ranges(config.fake_ip_range, config.fake_ip_range6)
