"""The module host: finds modules, runs those the configuration names, and takes back what they registered.

A module that fails is switched off and says why in ``status``; a reload that changes its section, or names it again
after it failed, starts it anew.  Whom it bars stays barred meanwhile, by what it knew last: nobody gets in because a
module is off.  That ends when a module in its place says anew whom it bars, or the section goes.
"""

from __future__ import annotations

import importlib.metadata
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from cyfs_gateway.flow import ANSWERED, Identity
from cyfs_gateway.host import (
    ENTRY_POINTS,
    UNASKED,
    Bar,
    Begun,
    Changed,
    ControlMethod,
    Judge,
    Metrics,
    Module,
    Names,
    Offer,
    PublisherFor,
    Search,
    Service,
    Status,
    TxtPublisher,
    Vouch,
    Vouched,
    Ways,
    Whereabouts,
)
from cyfs_gateway.io.offers import PORT as OFFERED
from cyfs_gateway.io.services import RouteOutbound, ServiceOutbound
from cyfs_ns import names
from cyfs_ns.errors import BadWire, ConfigFault, Misuse, Refused, Unreachable
from cyfs_ns.message import TXT
from cyfs_ns.metrics import Metric
from tunnels import url as urls
from tunnels.endpoint import Endpoint
from tunnels.io.reactor import Reactor

if TYPE_CHECKING:
    from cyfs_gateway.certs.source import CertificateSource
    from cyfs_gateway.io.gateway import RunningGateway
    from cyfs_gateway.io.world import Around
    from cyfs_ns.authority import Authority, Statement
    from cyfs_ns.identity.did import Did
    from cyfs_ns.identity.keys import PublicKey
    from rtcp.io.pipe import Answered, DatagramPipe, GiveUp
    from rtcp.party import Address

_DNS_SECONDS: Final = 10.0
_BEGINNING: Final = 5.0
"""Seconds that a module has for its first control method, when somebody asks for one."""

_log = logging.getLogger("cyfs.modules")


class _Seat:
    """One running module and everything it registered: its ``Host``."""

    def __init__(self, modules: Modules, section: str, settings: Any) -> None:
        self.section = section
        self.settings = settings
        self.scope = trio.CancelScope()
        self.fault = ""
        self.status: Status | None = None
        self.metrics: Metrics | None = None
        self.methods: dict[str, ControlMethod] = {}
        self._answers = trio.Event()
        """Set when it has registered control methods, or will not any more."""
        self.publisher_for: PublisherFor | None = None
        self.source: CertificateSource | None = None
        self._modules = modules
        self._offers: list[str] = []
        self._judges: list[Judge] = []
        self._searches: list[Search] = []
        self._vouches: list[Vouch] = []
        self._ports: list[int] = []
        self._names: list[Names] = []
        self._hosts: list[str] = []
        self._speaks = False
        self._nursery: trio.Nursery | None = None
        self._done = trio.Event()

    async def run(self, module: Module, before: _Seat | None) -> None:
        """The module's whole life; it begins when the one who sat here ``before`` has left."""
        try:
            if before is not None:
                await before._done.wait()
            with self.scope:
                await self._live(module)
        finally:
            self._answers.set()
            self._done.set()

    async def control(self, method: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Call a control method; whoever asks right after a reload waits until there are some.  Raises ``KeyError``."""
        with trio.move_on_after(_BEGINNING):
            await self._answers.wait()
        return await self.methods[method](body)

    async def _live(self, module: Module) -> None:
        try:
            async with trio.open_nursery() as self._nursery:
                await module.run(self, self.settings)
                self._nursery.cancel_scope.cancel()
        except Exception as fault:
            self._blame(fault)
        finally:
            around = self._modules.around
            for answer in self._names:
                around.names.remove(answer)
            for host in self._hosts:
                around.routes.pop(host, None)
            for offer in self._offers:
                self._modules.gateway.offers.remove(offer)
            for judge in self._judges:
                self._modules.gateway.offers.welcomes.remove(judge)
            for port in self._ports:
                del self._modules.gateway.offers.ports[port]
            for search in self._searches:
                self._modules.gateway.offers.searches.remove(search)
            for vouch in self._vouches:
                self._modules.gateway.offers.vouches.remove(vouch)
            self._modules.forget_bars()
            self._modules.gateway.offers.expected.discard(self)
            if self._judges:
                self._modules.gateway.peer_desk.doubt()
            if self._speaks:
                self._modules.gateway.speak_for(None)
            self.metrics = self.publisher_for = self.source = None
            self.methods.clear()

    def _blame(self, fault: Exception) -> None:
        """The module failed: say so, and let it end."""
        while isinstance(fault, ExceptionGroup) and len(fault.exceptions) == 1:
            fault = fault.exceptions[0]
        self.fault = str(fault) or type(fault).__name__
        _log.error("module %s failed and is off", self.section, exc_info=fault)
        self.scope.cancel()

    def register_names(self, names: Names) -> None:
        def guarded(host: str) -> Sequence[str]:
            try:
                return names(host)
            except Exception as fault:
                self._blame(fault)
                return ()

        self._names.append(guarded)
        self._modules.around.names.append(guarded)

    def report(self) -> dict[str, Any]:
        """What ``status`` shows of the module."""
        said: Mapping[str, Any] = {}
        if self.status is not None and not self.fault:
            try:
                said = dict(self.status())
            except Exception as fault:
                self._blame(fault)
        return {"running": not self.fault, **({"fault": self.fault} if self.fault else {}), **said}

    def register_authority(self, authority: Authority) -> Changed:
        if self._nursery is None:
            raise Misuse("a module registers while it runs")
        if not self._speaks and self._modules.gateway.has_authority:
            raise ConfigFault(f"module {self.section}: another module speaks for a domain already")
        self._speaks = True
        return self._modules.gateway.speak_for(_Guarded(authority, self._blame))

    def register_service(self, host: str, service: Service) -> None:
        if self._nursery is None:
            raise Misuse("a module registers while it runs")
        self._claim(names.name(host), ServiceOutbound(f"{self.section}:{host}", service, self._nursery))

    def register_route(self, host: str, url: str) -> None:
        below = host.startswith(".")
        ways = (urls.parse(url),)
        outbound = RouteOutbound(ways[0].redacted, lambda port: ways, self._modules.gateway)
        self._claim(("." if below else "") + names.name(host.lstrip(".")), outbound)

    def register_ways(self, host: str, ways: Ways) -> Callable[[], None]:
        def guarded(port: int) -> Sequence[urls.TunnelUrl]:
            try:
                return [urls.parse(url) for url in ways(port)]
            except Exception as fault:
                self._blame(fault)
                return ()

        name = names.name(host)
        self._claim(name, RouteOutbound(f"{self.section}:{name}", guarded, self._modules.gateway))

        def withdraw() -> None:
            self._modules.around.routes.pop(name)
            self._hosts.remove(name)

        return withdraw

    def _claim(self, host: str, outbound: ServiceOutbound | RouteOutbound) -> None:
        routes = self._modules.around.routes
        if host in routes:
            raise ConfigFault(f"module {self.section}: {host} is carried by {routes[host].name} already")
        routes[host] = outbound
        self._hosts.append(host)

    def register_control(self, method: str, handler: ControlMethod) -> None:
        self.methods[method] = handler
        self._answers.set()

    def register_status(self, status: Status) -> None:
        self.status = status

    def register_metrics(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def measured(self) -> Sequence[Metric]:
        """What the metrics page has of the module."""
        if self.metrics is not None and not self.fault:
            try:
                return tuple(self.metrics())
            except Exception as fault:
                self._blame(fault)
        return ()

    # Peers

    def register_offer(self, name: str, serve: Offer) -> None:
        if self._nursery is None:
            raise Misuse("a module registers while it runs")
        host = name + ANSWERED
        try:
            self._modules.gateway.offers.host(host, serve, self._nursery)
        except Refused as taken:
            raise ConfigFault(f"module {self.section}: {taken}") from None
        self._offers.append(host)

    def register_welcome(self, judge: Judge, bar: Bar | None = None) -> Callable[[], None]:
        gateway = self._modules.gateway

        def guarded(identity: Identity) -> bool:
            try:
                return judge(identity)
            except Exception as fault:
                self._blame(fault)
                return False

        def barred(identity: Identity) -> str:
            assert bar is not None
            try:
                return bar(identity)
            except Exception as fault:
                if not self.fault:
                    self._blame(fault)
                return "whether anything speaks against this device cannot be told just now"

        if not self._judges:
            gateway.offers.bars.pop(self.section, None)  # whom the one before it barred is its to say from now on
        if bar is not None:
            gateway.offers.bars.setdefault(self.section, []).append(barred)
        gateway.offers.welcomes.append(guarded)
        self._judges.append(guarded)
        gateway.offers.expected.discard(self)
        gateway.peer_desk.doubt()  # of who stayed inside meanwhile
        return gateway.peer_desk.doubt

    def register_port(self, port: int, judge: Judge) -> Callable[[], None]:
        ports = self._modules.gateway.offers.ports
        if port in ports:
            raise ConfigFault(f"module {self.section}: peers reach port {port} by a module already")

        def guarded(identity: Identity) -> bool:
            try:
                return judge(identity)
            except Exception as fault:
                self._blame(fault)
                return False

        ports[port] = guarded
        self._ports.append(port)

        def withdraw() -> None:
            del ports[port]
            self._ports.remove(port)

        return withdraw

    def register_vouch(self, vouches: Vouch) -> None:
        def guarded(did: Did) -> Vouched | None:
            try:
                return vouches(did)
            except Exception as fault:
                self._blame(fault)
                return None

        self._modules.gateway.offers.vouches.append(guarded)
        self._vouches.append(guarded)

    def register_search(self, search: Search) -> Callable[[], None]:
        def guarded(did: Did) -> Whereabouts:
            try:
                return search(did)
            except Exception as fault:
                self._blame(fault)
                return Whereabouts()

        self._searches.append(guarded)
        self._modules.gateway.offers.searches.append(guarded)

        def withdraw() -> None:
            self._modules.gateway.offers.searches.remove(guarded)
            self._searches.remove(guarded)

        return withdraw

    @property
    def reactor(self) -> Reactor:
        return self._modules.gateway.reactor

    @property
    def home(self) -> Path:
        return self._modules.gateway.home

    async def own_did(self) -> Did:
        return (await self._modules.gateway.peer_desk.device()).local.canonical

    async def owner(self) -> str:
        return await self._modules.gateway.peer_desk.owner()

    async def key_of(self, did: Did) -> PublicKey | None:
        return await self._modules.gateway.peer_desk.key_of(did)

    async def txt_records(self, name: str) -> Sequence[bytes]:
        from cyfs_ns.identity.txt import joined_txt
        from cyfs_ns.records import data_wire

        with trio.move_on_after(_DNS_SECONDS), suppress(Unreachable, BadWire):
            answer = await self._modules.gateway.dns_query(name, "TXT")
            return [joined_txt(data_wire(one.rtype, one.data)) for one in answer.answer if one.rtype == TXT]
        return ()

    def take_peer(self, sock: Endpoint, source: Address) -> None:
        self._modules.gateway.take_peer(sock, *source)

    def standing(self, device: Did) -> bool:
        return self._modules.gateway.peer_desk.standing(device) is not None

    async def open_to_peer(
        self, device: Did, host: str | None, port: int, *, source: Address | None = None
    ) -> Endpoint:
        return await self._modules.gateway.peer_desk.open_standing(device, host, port, source=source)

    def ask_peer(
        self,
        device: Did,
        host: str | None,
        port: int,
        then: Answered,
        *,
        source: Address | None = None,
        first: bytes = b"",
    ) -> GiveUp | None:
        return self._modules.gateway.peer_desk.ask_standing(device, host, port, then, source=source, first=first)

    async def begin_to_peer(self, device: Did, host: str | None, port: int, *, source: Address | None = None) -> Begun:
        return await self._modules.gateway.peer_desk.begin_standing(device, host, port, source=source)

    async def open_datagrams_to_peer(
        self, device: Did, host: str | None, port: int, *, source: Address | None = None
    ) -> DatagramPipe:
        return await self._modules.gateway.peer_desk.open_standing_datagrams(device, host, port, source=source)

    async def call_offer(self, peer: Did, name: str) -> Endpoint:
        desk = self._modules.gateway.peer_desk
        return await desk.open_stream(peer, name + ANSWERED, OFFERED, **await desk.way_to(peer))

    # Certificates

    def register_publisher(self, publisher_for: PublisherFor) -> None:
        self.publisher_for = publisher_for

    def publisher(self, name: str) -> TxtPublisher | None:
        found = (seat.publisher_for(name) for seat in self._modules.seats if seat.publisher_for is not None)
        own = next((publisher for publisher in found if publisher is not None), None)
        return own if own is not None else self._modules.gateway.peer_desk.publisher(name)

    def register_certificates(self, source: CertificateSource) -> None:
        if self._modules.certificates is not None:
            raise ConfigFault(f"module {self.section}: another module gives certificates already")
        self.source = source

    @property
    def certificates(self) -> CertificateSource | None:
        return self._modules.certificates

    async def serve_fenced(self, name: str, door: socket.socket) -> None:
        await self._modules.gateway.serve_fenced(name, door)

    async def serve_questions(self, door: socket.socket, datagrams: socket.socket) -> None:
        await self._modules.gateway.serve_questions(door, datagrams)

    async def open_url(self, url: str) -> Endpoint:
        return await self._modules.gateway.tunnels.open_url(urls.parse(url))

    def gateway_status(self) -> Mapping[str, Any]:
        whole = self._modules.gateway.status()
        return {key: whole[key] for key in ("uptime", "mode", "connections", "seen", "up", "down", "memory")}


class _Guarded:
    """An authority whose faults are its module's alone: every question of the house comes by here first."""

    def __init__(self, authority: Authority, blame: Callable[[Exception], None]) -> None:
        self._authority, self._blame = authority, blame

    def lookup(self, name: bytes, rtype: int) -> Statement | None:
        try:
            return self._authority.lookup(name, rtype)
        except Exception as fault:
            self._blame(fault)
            return None


class _Installed(Mapping[str, type[Module]]):
    """Modules as their packages announce them.  Raises ``ConfigFault`` for one that cannot be imported."""

    def __init__(self, entries: Mapping[str, importlib.metadata.EntryPoint]) -> None:
        self._entries = entries

    def __getitem__(self, section: str) -> type[Module]:
        entry = self._entries[section]
        try:
            module: type[Module] = entry.load()
        except Exception as fault:
            _log.exception("module %s cannot be loaded", section)
            what = str(fault) or type(fault).__name__
            raise ConfigFault(f"{section}: the module cannot be loaded: {what}") from fault
        return module

    def __contains__(self, section: object) -> bool:
        # A mapping would look by getting, which imports.
        return section in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Modules:
    """All modules of one gateway."""

    def __init__(self, gateway: RunningGateway, nursery: trio.Nursery, around: Around) -> None:
        self.gateway = gateway
        self.around = around
        self._nursery = nursery
        self._known = self.discover()
        self._seats: dict[str, _Seat] = {}

    @staticmethod
    def discover() -> Mapping[str, type[Module]]:
        """Installed modules by section.  Each is imported when its section is named, and costs nothing until then."""
        return _Installed({entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)})

    @property
    def seats(self) -> Sequence[_Seat]:
        """Those that run, and those that failed."""
        return tuple(self._seats.values())

    @property
    def certificates(self) -> CertificateSource | None:
        """Who gives certificates."""
        return next((seat.source for seat in self._seats.values() if seat.source is not None), None)

    @property
    def sections(self) -> frozenset[str]:
        """The configuration sections that belong to modules."""
        return frozenset(self._known)

    def meant(self, written: Mapping[str, Any]) -> dict[str, Any]:
        """The sections of the modules that are to run: of those that are written, and of those that run unasked."""
        meant = {section: value for section, value in written.items() if value is not False}
        for entry in importlib.metadata.entry_points(group=UNASKED):
            if entry.name in self._known and entry.name not in written and entry.load()(self.gateway.home):
                meant[entry.name] = None
        return meant

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raises ``ConfigFault`` for a section its module cannot use."""
        for section, value in settings.items():
            self._known[section].check(value)

    def expect(self, settings: Mapping[str, Any]) -> None:
        """These are about to be run: who comes meanwhile is not turned away for what they would say."""
        self.gateway.offers.expected.update(
            section
            for section, value in settings.items()
            if section not in self._seats or self._seats[section].settings != value or self._seats[section].fault
            if self._welcomes(section)
        )

    def _welcomes(self, section: str) -> bool:
        return bool(getattr(self._known[section], "welcomes", False))

    def switch(self, settings: Mapping[str, Any]) -> None:
        """Run exactly the modules named, with these settings; one that is unchanged is left alone."""
        left: dict[str, _Seat] = {}
        for section, seat in list(self._seats.items()):
            if seat.fault or section not in settings or settings[section] != seat.settings:
                seat.scope.cancel()
                left[section] = self._seats.pop(section)
        for section, value in settings.items():
            if section not in self._seats:
                seat = self._seats[section] = _Seat(self, section, value)
                if self._welcomes(section):
                    self.gateway.offers.expected.add(seat)
                self._nursery.start_soon(seat.run, self._known[section](), left.get(section))
        self.gateway.offers.expected.difference_update(self._known)
        self.forget_bars()

    def forget_bars(self) -> None:
        """Of modules that the configuration does not name any more."""
        bars = self.gateway.offers.bars
        for section in bars.keys() - self._seats.keys():
            del bars[section]

    def status(self) -> dict[str, Any]:
        """What each module says of itself."""
        return {section: seat.report() for section, seat in self._seats.items()}

    def metrics(self) -> Iterator[Metric]:
        """What all of them measured."""
        for seat in list(self._seats.values()):
            yield from seat.measured()

    async def control(self, section: str, method: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Call a module's control method.  ``KeyError``: no such module or method."""
        return await self._seats[section].control(method, body)
