"""A name server at work: its doors, its files, its lists, and one configuration after the other.

A change is a transaction.  The new ``House`` is built beside the one that runs, doors that are missing are bound; until
here everything can be taken back, and is when something fails.  Then the server wears the new house, doors that are no
longer wanted close, and nothing that was asked before is lost: the cache, connections to servers that stay, and
questions on their way.

State under ``home``: ``cache`` (answers), ``fake-ip.*`` (a journal for each pair of ranges), ``lists/``, ``doors.pem``
(a made certificate), ``queries.log``, ``statistics``.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trio

from cyfs_ns.config.dns import DnsConfig
from cyfs_ns.config.identity import IdentityConfig
from cyfs_ns.conversation import Page, PageWanted
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.given import Given
from cyfs_ns.hot import Hot, HotClient, HotEntry
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.cachefile import CacheFile
from cyfs_ns.io.datagram import OpenDatagrams
from cyfs_ns.io.dial import Dial, plain_dial
from cyfs_ns.io.doors import Doors, Fresh
from cyfs_ns.io.fakenames import FakeIps
from cyfs_ns.io.house import House, build_house, networks_set, read_lease_files
from cyfs_ns.io.http import Response, Sink, fetch
from cyfs_ns.io.linkwatch import LinkWatch
from cyfs_ns.io.listbuild import ListKeeper, ListSpec
from cyfs_ns.io.nameserver import NameServer, spell
from cyfs_ns.io.netlink import ConntrackMarks, SetFeeder
from cyfs_ns.io.resolver import Resolver
from cyfs_ns.io.ring import Ring
from cyfs_ns.io.sources import is_local
from cyfs_ns.io.streams import StreamHall, StreamLimits
from cyfs_ns.io.texts import lease_paths
from cyfs_ns.io.trustgate import TrustGate
from cyfs_ns.io.watch import Sign, signs_of, watch_files
from cyfs_ns.leases import Lease
from cyfs_ns.links import Change, NeighbourLearned, WayFound, WayLost
from cyfs_ns.lists import ListSet
from cyfs_ns.loops import own_doors
from cyfs_ns.message import rcode_text, rtype_text
from cyfs_ns.peer import Peer
from cyfs_ns.query import Query
from cyfs_ns.querylog import LogEntry, to_line
from cyfs_ns.records import data_text
from cyfs_ns.reply import records
from cyfs_ns.splitdns import GeoIp, Sets
from cyfs_ns.store import AnswerCache
from cyfs_ns.upstream import Upstream
from cyfs_ns.wire import name_text

if TYPE_CHECKING:
    from cyfs_ns.io.trusted.answers import TrustedAnswers
    from cyfs_ns.io.trusted.resolver import TrustedNames
    from cyfs_ns.io.trusted.service import DidService

_SYNC_SECONDS = 20.0
_DRAIN_SECONDS = 3600.0  # fake addresses are known after they were given up: programs keep them beyond their TTL
_LOG_SECONDS = 1.0
_LUMP_SECONDS = 10.0  # a killed process loses the log of no more than these
_STATISTICS_SECONDS = 600.0
_LOG_BUDGET = 2000  # lines a second: above it equal questions are one line, and the rest is only counted
_COUNTED_AT_A_TURN, _LINES_AT_A_TURN, _SKIPPED_AT_A_TURN = 64, 2, 64  # before questions get their turn again

T = TypeVar("T")

_log = logging.getLogger("cyfs.dns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a house around this server may lend it; alone it gets by with plain sockets."""

    dial: Dial | None = None
    """Opens streams to name servers."""
    download: Dial | None = None
    """Opens streams for lists."""
    open_datagrams: OpenDatagrams | None = None
    mark: int = 0
    interface: str = ""
    sets: Sets | None = None
    geoip: GeoIp | None = None
    names: Callable[[str], Sequence[str]] | None = None
    """Addresses of names that services of the house have registered; empty for those of others."""
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    """Whom to ask who somebody is."""
    identity_home: Path | None = None
    """Where pins, keys and documents are; None: in the server's own home."""


@dataclass(frozen=True, slots=True)
class StagedHouse:
    """Everything ready for a change."""

    house: House
    hosts: Mapping[str, tuple[str, ...]]
    around: Surroundings
    resolver: Resolver
    keeper: ListKeeper
    fake: FakeIps | None
    leases: list[Lease]
    lease_signs: Mapping[Path, Sign]
    """Of the files that decide the leases, from before they were read."""
    fresh: Fresh


class _Clocked:
    """The ready-made answers as of now."""

    def __init__(self, hot: Hot) -> None:
        self._hot = hot

    def answer(self, client_ip: bytes, query: bytes, door: str) -> bytes | None:
        return self._hot.answer(client_ip, query, door, int(time.monotonic()))


class Serving:
    """See the module's text.  ``begin`` in a nursery, then ``change`` as often as you like."""

    def __init__(self, home: Path, config: DnsConfig, around: Surroundings | None = None) -> None:
        """``config`` decides what outlives a change: the size of the cache and whether it is kept."""
        self.home = home
        self.around = around or Surroundings()
        cache = config.cache
        self.cache = AnswerCache(
            cache.max_bytes,
            min_ttl=cache.min_ttl,
            max_ttl=cache.max_ttl,
            max_negative=cache.max_negative,
            max_stale=cache.max_stale,
            failure_ttl=cache.failure_ttl,
            max_failure_ttl=cache.max_failure_ttl,
        )
        self._cache_file = CacheFile(self.cache, home / "cache") if cache.persist else None
        self._links = _or_none(LinkWatch, "links")
        self._feeder = _or_none(SetFeeder, "sets")
        self.server = NameServer(
            self.cache,
            feeder=self._feeder,
            marks=_or_none(ConntrackMarks, "marks") if config.house.sets.connmark else None,
            note=self._note,
            note_hits=self._note_hits,
            mac_of=self._links.mac if self._links is not None else None,
        )
        self.ring: Ring | None = None
        self.lists: ListKeeper | None = None
        self.fake: FakeIps | None = None
        self._former: list[tuple[FakeIps, float]] = []
        """Mappings that were switched off, and until when they are known, the youngest last."""
        self.config = config
        self._hosts: Mapping[str, tuple[str, ...]] = {}
        self._resolver: Resolver | None = None
        self._trusted: TrustedNames | None = None
        self._did_service: DidService | None = None
        self._gate = self.server.trusted = TrustGate(self._trusted_answers)
        hall = StreamHall(_Clocked(self.server.hot), self.server.serve, StreamLimits())
        hall.pages = self.show_page
        self.doors = Doors(home, hall, self.server.hot, self.server.serve)
        self._nursery: trio.Nursery
        self._following: trio.CancelScope | None = None
        self._staging = trio.Semaphore(1, max_value=1)
        self._lines = 0
        self._noting: Iterator[None] = iter(())
        self._restored = False
        self.unlogged = 0
        """Questions the log had no room for."""

    async def run(
        self,
        hosts: Mapping[str, tuple[str, ...]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; started when questions are answered.  Raises ``ConfigFault``."""
        staged = await self.stage(self.config, hosts, self.around)
        async with trio.open_nursery() as nursery:
            self.begin(nursery, staged)
            task_status.started()

    def begin(self, nursery: trio.Nursery, staged: StagedHouse) -> None:
        """Serve by what was staged, in tasks of ``nursery``; once in a life."""
        self._nursery = nursery
        self.doors.open_in(nursery)
        self.commit(staged)
        nursery.start_soon(self.server.live)
        if self._cache_file is not None:
            nursery.start_soon(self._cache_file.keep, self.config.cache.save_interval)
        if self._links is not None:
            nursery.start_soon(self._follow_links, self._links)
        if self._feeder is not None:
            nursery.start_soon(self._feeder.watch)
        nursery.start_soon(self._write_log)
        nursery.start_soon(self._keep_statistics)
        nursery.start_soon(self._sync_fake)
        nursery.start_soon(self._gate.live, self.around.identity_home or self.home, self.server.forget_ready_made)

    async def change(
        self, config: DnsConfig, hosts: Mapping[str, tuple[str, ...]], around: Surroundings | None = None
    ) -> None:
        """Serve by this configuration from now on, or raise ``ConfigFault`` and go on as before."""
        self.commit(await self.stage(config, hosts, around or self.around))

    async def stage(self, config: DnsConfig, hosts: Mapping[str, tuple[str, ...]], around: Surroundings) -> StagedHouse:
        """Make everything ready for :meth:`commit`, or for :meth:`abandon`.  Raises ``ConfigFault``.

        Whoever stages next waits until one of them was called: two houses would fight for the same doors.
        """
        await self._staging.acquire()
        try:
            return await self._stage(config, hosts, around)
        except OSError as fault:  # no descriptor, no room: so it cannot be had now
            self._staging.release()
            raise ConfigFault(str(fault)) from fault
        except BaseException:
            self._staging.release()
            raise

    async def _stage(
        self, config: DnsConfig, hosts: Mapping[str, tuple[str, ...]], around: Surroundings
    ) -> StagedHouse:
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Who is pinned speaks for their names from the first question on.
        await self._gate.look(around.identity_home or self.home)
        if not self._restored:
            self._restored = True
            await trio.to_thread.run_sync(self._restore)
            if self._links is not None:
                # Who is on our links is to be known before the first of them asks.
                with suppress(OSError, BadWire):
                    await self._links.look()
                self._look_around(self._links)
        house = await trio.to_thread.run_sync(lambda: build_house(config, hosts, sets=around.sets, geoip=around.geoip))
        resolver = _resolver_for(house, around)
        fake: FakeIps | None = None
        try:
            keeper = await self._keeper(config, around)
            fake = await trio.to_thread.run_sync(self._fake_for, config, around, self._former_fakes())
            leases, lease_signs = await trio.to_thread.run_sync(_read_leases, house)
            fresh = await self.doors.stage(config.doors)
        except BaseException:
            self._let_go(resolver, fake)
            raise
        return StagedHouse(house, hosts, around, resolver, keeper, fake, leases, lease_signs, fresh)

    def abandon(self, staged: StagedHouse) -> None:
        """Take back what :meth:`stage` did."""
        self._staging.release()
        self.doors.abandon(staged.fresh)
        self._let_go(staged.resolver, staged.fake)

    def _let_go(self, resolver: Resolver, fake: FakeIps | None) -> None:
        resolver.close()
        if fake is not None and not any(fake.shares_with(each) for each in self._former_fakes()):
            fake.close()

    def commit(self, staged: StagedHouse) -> None:
        """Serve by what was staged; neither waits nor fails."""
        self._staging.release()
        house = staged.house
        config = house.config
        self.server.wear(house, staged.resolver.forwarder, staged.keeper.lists)
        self.server.take_leases(staged.leases)
        before, self._resolver = self._resolver, staged.resolver
        if self.around != staged.around:
            self._trusted = self._did_service = None
            self._gate.renew()
        self.config, self._hosts, self.lists, self.around = config, staged.hosts, staged.keeper, staged.around
        if self.fake is not None and not self.fake.shares_with(staged.fake):
            self._former.append((self.fake, time.monotonic() + _DRAIN_SECONDS))
        if staged.fake is not None:
            self._former = [each for each in self._former if not staged.fake.shares_with(each[0])]
        self.fake = self.server.fake = staged.fake
        self.server.registered = staged.around.names
        self.doors.commit(config.doors, staged.fresh)
        self._begin_log(config)
        if self._following is not None:
            self._following.cancel()
        self._following = trio.CancelScope()
        self._nursery.start_soon(self._follow, staged, self._following)
        if before is not None:
            before.close()

    @property
    def trusted(self) -> TrustedNames:
        """Who knows who somebody is: by the names of this house, then by its servers and dialers.

        Made when it is needed first.  Raises ``ConfigFault`` for Ethereum nodes that cannot make a quorum.
        """
        if self._trusted is None:
            # Megabytes that a name server needs only once somebody's identity is asked for.
            from cyfs_ns.io.trusted.build import addresses_by, build_trusted, local_first

            around = self.around
            self._trusted = build_trusted(
                around.identity,
                around.identity_home or self.home,
                records=local_first(lambda: self.server.local, self._resolver_now, around.identity.validators),
                addresses=addresses_by(self._resolver_now, lambda host: self.server.local.addresses(host)),
                dial=around.download or plain_dial(mark=around.mark, interface=around.interface),
                writes_behind=True,
            )
        return self._trusted

    def _trusted_answers(self) -> TrustedAnswers:
        from cyfs_ns.io.trusted.answers import TrustedAnswers

        home, bridges = self.around.identity_home or self.home, self.around.identity.bridges
        return TrustedAnswers(self.trusted, home, bridges=bridges)

    def vouches(self, host: str) -> bool:
        """Whether documents may say where ``host``, lower case, is: ask :meth:`vouched_addresses`."""
        return self._gate.knows(host)

    async def vouched_addresses(self, host: str) -> Sequence[str] | None:
        """Where documents say that ``host`` is; None: the DNS knows as much.

        Raises ``Unreachable`` where what is said is not believed.
        """
        return await self._gate.addresses(host)

    async def show_page(self, wanted: PageWanted, peer: Peer | None = None) -> Page | None:
        """The page about an identity that ``peer`` asks for, or, without one, the owner of this machine."""
        if peer is not None and (self.around.identity.serve == "off" or self.server.house.is_denied(peer.ip)):
            return None
        if self._did_service is None:
            from cyfs_ns.io.trusted.service import DidService

            around = self.around
            home, identity = around.identity_home or self.home, around.identity
            self._did_service = DidService(self.trusted, home, serve=identity.serve, bridges=identity.bridges)
        return await self._did_service.page(wanted, owner=peer is None)

    def _resolver_now(self) -> Resolver:
        assert self._resolver is not None, "a server that never wore a configuration"
        return self._resolver

    def name_behind(self, address: str) -> str | None:
        """The name a fake address stands for, empty if that is not known; ``None``: it is no fake address.

        Those of ranges that were given up count for a while, if they were told.
        """
        if self.fake is not None and self.fake.is_fake(address):
            return self.fake.name(address)
        if self._former:
            return next((name for fake in self._drained() if (name := fake.known(address))), None)
        return None

    def is_fake(self, address: str) -> bool:
        """Whether an address is one that stands for a name."""
        return (self.fake is not None and self.fake.is_fake(address)) or bool(
            self._former and any(fake.known(address) for fake in self._drained())
        )

    def flush_fake(self) -> int:
        """Forget which names fake addresses stand for; how many of those that are told."""
        self._former.clear()
        self.server.hot.flush()
        return 0 if self.fake is None else self.fake.flush()

    def _drained(self) -> list[FakeIps]:
        """Mappings that nobody is told of any more, the youngest first."""
        now = time.monotonic()
        while self._former and self._former[0][1] <= now:
            self._former.pop(0)[0].close()
        return [fake for fake, _ in reversed(self._former)]

    async def refresh_lists(self, names: Collection[str] | None = None) -> bool:
        """Look for these lists now, or for all; whether anything changed."""
        keeper = self.lists
        if keeper is None:
            return False
        changed = await keeper.refresh([spec.source.name for spec in keeper.specs] if names is None else names)
        if changed and keeper is self.lists:
            self._take_lists(keeper.lists)
        return changed

    async def reread(self) -> None:
        """Files that the configuration names have changed: build the same house again.  Faults are logged."""
        while True:
            config, hosts = self.config, self._hosts
            try:
                staged = await self.stage(config, hosts, self.around)
            except ConfigFault as fault:
                _log.error("%s; what was there stays", fault)
                return None
            except Exception:  # a fault of ours must not end what serves well
                _log.exception("the change failed in a way nobody foresaw; what was there stays")
                return None
            if config is self.config and hosts is self._hosts:
                return self.commit(staged)
            self.abandon(staged)  # another configuration has come meanwhile: it is the one whose files count

    # Parts of a house

    def _restore(self) -> None:
        if self._cache_file is not None:
            _log.info("%d answers came back from the last time", self._cache_file.restore())
        path = self.home / "statistics"
        try:
            self.server.statistics.load(path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, BadWire) as fault:
            _log.warning("statistics begin anew: %s: %s", path, fault)

    async def _keeper(self, config: DnsConfig, around: Surroundings) -> ListKeeper:
        specs = tuple(
            ListSpec(source=each.source, place=each.place, interval=each.interval) for each in config.house.policy.lists
        )
        if self.lists is not None and self.lists.specs == specs:
            return self.lists
        dial = around.download or self._own_dial(around)

        async def get(url: str, *, headers: Iterable[tuple[str, str]], max_bytes: int, sink: Sink) -> Response:
            return await fetch(url, dial=dial, headers=list(headers), max_bytes=max_bytes, sink=sink)

        keeper = ListKeeper(self.home / "lists", specs, get)
        await keeper.open()
        return keeper

    def _own_dial(self, around: Surroundings) -> Dial:
        """Connects to names as our own servers know them: on a router the system's resolver is ourselves."""
        plain = plain_dial(mark=around.mark, interface=around.interface)

        async def dial(host: str, port: int, via: str | None) -> trio.abc.Stream:
            resolver = self._resolver
            addresses = await resolver.addresses(host) if resolver is not None else (host,)
            return await plain(addresses[0], port, via)

        return dial

    def _former_fakes(self) -> list[FakeIps]:
        return [*([self.fake] if self.fake is not None else []), *self._drained()]

    def _fake_for(self, config: DnsConfig, around: Surroundings, former: Sequence[FakeIps]) -> FakeIps | None:
        if config.enhanced_mode != "fake-ip" or not config.enable:
            return None
        known = next((fake for fake in former if fake.fits(config)), None)
        if known is not None:
            return known.with_filter(config, around.sets)
        return FakeIps.open(self.home, config, around.sets, before=former)

    # What goes on beside

    async def _follow(self, staged: StagedHouse, scope: trio.CancelScope) -> None:
        """Keep up with the files and lists of a house while it is worn."""
        house, keeper = staged.house, staged.keeper
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keeper.keep_fresh, self._take_lists)
                groups = (house.servers.standard, *house.servers.split.groups)
                nursery.start_soon(self.server.forwarder.watch_for_loops, groups)
                for signs, changed in (
                    (house.watched, self._files_changed),
                    (staged.lease_signs, self._leases_changed),
                ):
                    if signs:
                        nursery.start_soon(partial(watch_files, signs, changed, since=signs))

    def _take_lists(self, lists: ListSet) -> None:
        self.server.take_lists(lists)

    async def _files_changed(self, paths: frozenset[Path]) -> None:
        _log.info("changed: %s", ", ".join(sorted(map(str, paths))))
        # In a task of its own: it ends the watch that told of it.
        self._nursery.start_soon(self.reread)

    async def _leases_changed(self, _: frozenset[Path]) -> None:
        leases = await trio.to_thread.run_sync(read_lease_files, self.server.house.lease_files)
        self.server.take_leases(leases)

    async def _follow_links(self, links: LinkWatch) -> None:
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(links.run, self._links_changed)
                self._look_around(links)
        except* (OSError, BadWire) as faults:
            _log.warning("links are not watched: %s", faults.exceptions[0])

    def _look_around(self, links: LinkWatch) -> None:
        self.server.near = networks_set(links.picture.networks)
        self.server.take_homes(links.picture.homes)
        self.server.hot.forget_clients()

    def _links_changed(self, changes: tuple[Change, ...]) -> None:
        learned = [change for change in changes if isinstance(change, NeighbourLearned)]
        if learned and any(":" in word for view in self.config.house.policy.views for word in view.match):
            self.server.hot.forget_clients()
        ways = [change for change in changes if isinstance(change, WayLost | WayFound)]
        for change in ways:
            if isinstance(change, WayLost):
                _log.warning("no way out by IPv%d any more (%s); old answers serve", change.version, change.interface)
            else:
                _log.info("the way out by IPv%d is %s", change.version, change.interface)
        if ways:
            # Connections by the old way are dead, and so is what was learnt of servers over it.
            self.server.forwarder.flush()
        if any(isinstance(change, WayFound) for change in ways):
            self.cache.forgive(time.monotonic())
        if self._links is not None and len(learned) < len(changes):
            self._look_around(self._links)
        self.doors.heed(changes)

    async def _sync_fake(self) -> None:
        while True:
            await trio.sleep(_SYNC_SECONDS)
            if self.fake is not None:
                await self.fake.sync()

    # The query log

    def _begin_log(self, config: DnsConfig) -> None:
        log = config.house.log
        self.server.statistics.obey(log.statistics)
        if self.ring is not None and (log.privacy == "none" or self.ring.max_bytes != log.max_bytes):
            self._nursery.start_soon(trio.to_thread.run_sync, self.ring.write)
            self.ring = None
        if self.ring is None and log.privacy != "none":
            self.ring = Ring(self.home / "queries.log", log.max_bytes)
        for door in self.server.hot.doors.values():
            door.journal = None if self.ring is None else door.journal or []

    def _note(self, query: Query, peer: Peer, given: Given, took: float) -> None:
        if self.ring is None:
            return
        self._add_line(
            LogEntry(
                at=time.time(),
                client=peer.ip,
                name=query.text,
                rtype=rtype_text(query.rtype),
                door=peer.door,
                source=given.source,
                rcode=rcode_text(given.reply.rcode),
                answers=tuple(data_text(rtype, data) for _, rtype, _, data in records(given.reply, 0)),
                why=given.why,
                milliseconds=round(took * 1000, 2),
            )
        )

    @property
    def _log_is_full(self) -> bool:
        return self._lines >= _LOG_BUDGET

    def _add_line(self, entry: LogEntry) -> None:
        if self.ring is None:
            return
        if self._log_is_full:
            self.unlogged += entry.times
            return
        self._lines += 1
        self.ring.add(to_line(entry, self.config.house.log.privacy))

    async def _write_log(self) -> None:
        due = trio.current_time() + _LUMP_SECONDS
        try:
            while True:
                await trio.sleep(_LOG_SECONDS)
                self._lines = 0
                if self.ring is not None and (self.ring.full or trio.current_time() >= due):
                    due = trio.current_time() + _LUMP_SECONDS
                    await trio.to_thread.run_sync(self.ring.write)
        finally:
            if self.ring is not None:
                self.gather_log()
                self.ring.write()

    async def _keep_statistics(self) -> None:
        path = self.home / "statistics"
        try:
            while True:
                await trio.sleep(_STATISTICS_SECONDS)
                self.server.settle()
                dumped = self.server.statistics.dump()
                await trio.to_thread.run_sync(_write_quietly, path, dumped)
        finally:
            self.server.settle()
            _write_quietly(path, self.server.statistics.dump())

    def gather_log(self) -> None:
        """Write down the hits up to now."""
        for pieces in (self._noting, self._note_hits()):
            for _ in pieces:
                pass

    def _note_hits(self) -> Iterator[None]:
        self._noting = self._hits_noted()
        return self._noting

    def _hits_noted(self) -> Iterator[None]:
        """Write down the hits since the last time, some microseconds' worth at a turn."""
        now = time.time()
        for kind, door in self.server.hot.doors.items():
            if not door.journal:
                continue
            seen, door.journal = door.journal, []
            counted: Counter[tuple[HotClient, HotEntry]] = Counter()
            for at in range(0, len(seen), _COUNTED_AT_A_TURN):
                counted.update(seen[at : at + _COUNTED_AT_A_TURN])
                yield
            for number, ((client, entry), times) in enumerate(counted.items()):
                if number % (_SKIPPED_AT_A_TURN if self._log_is_full else _LINES_AT_A_TURN) == 0:
                    yield
                if self._log_is_full:
                    self.unlogged += times
                    continue
                name, rtype = entry.about
                self._add_line(
                    LogEntry(
                        at=now,
                        client=spell(client.address),
                        name=name_text(name),
                        rtype=rtype_text(rtype),
                        door=kind,
                        source=str(entry.label),
                        rcode=rcode_text(entry.tail[1] & 0xF),
                        times=times,
                    )
                )


def _read_leases(house: House) -> tuple[list[Lease], dict[Path, Sign]]:
    signs = signs_of(each for path in house.lease_files for each in lease_paths(str(path)))
    return read_lease_files(house.lease_files), signs


def _write_quietly(path: Path, data: bytes) -> None:
    """What is lost with it is not worth an end."""
    try:
        write_atomic(path, data)
    except OSError as fault:
        _log.warning("%s cannot be written: %s", path, fault.strerror or fault)


def _resolver_for(house: House, around: Surroundings) -> Resolver:
    servers = house.servers

    def is_own(upstream: Upstream) -> bool:
        return bool(own_doors([upstream], house.config.doors.plain, is_local))

    return Resolver(
        servers.standard,
        bootstrap=servers.bootstrap.servers,
        policy=servers.split.choose,
        fallback=servers.fallback,
        suspicion=servers.suspicion,
        dial=around.dial or plain_dial(mark=around.mark, interface=around.interface),
        open_datagrams=around.open_datagrams,
        mark=around.mark,
        interface=around.interface,
        resolv_conf_path=house.config.resolv_file or "/etc/resolv.conf",
        is_own=is_own,
    )


def _or_none(make: Callable[[], T], what: str) -> T | None:
    try:
        return make()
    except OSError as fault:
        _log.warning("%s are not watched: %s", what, fault)
        return None
