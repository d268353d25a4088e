"""The zone as a module of the gateway: what brings this machine up in its zone, and what an OOD does there.

    booting      which step this machine is at, and why (``zone status``)
    verify_hub, system_config    answered at ``/kapi``, to this machine and, through tunnels, to the zone's machines
    scheduler    stands by, or leads
    web          ``SERVICE.ZONE`` leads to where a service is; doors for visitors who know nothing of the zone
    nodes        where the others may be met, and ``NODE.ZONE``
    ports        what runs here is open to the zone's machines
    backups      made where and when the zone's configuration says; restored in the boot, when the owner says it
    klog         keeps what the zone's machines say; here, what this gateway says of the zone goes there
    operator     what the control API does

The doors are there from the first moment; the services behind them while the zone is up.  What runs elsewhere is called
at a machine's own doors, too, which pass it on.  A machine that is no OOD has the boot and the routes, and passes what
is called of ``verify-hub``, ``system_config`` and ``klog`` on to an OOD.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import trio

from cyfs_gateway.flow import Identity
from cyfs_gateway.host import Host
from cyfs_ns import names
from cyfs_ns.errors import BadWire, ConfigFault, Unreachable
from cyfs_ns.identity.did import host_of_did, parse_did
from cyfs_ns.identity.documents import ZoneDoc
from cyfs_ns.identity.strictjson import Json
from cyfs_ns.io.dial import plain_dial
from cyfs_ns.trust.places import device_did
from tunnels.authority import parse_authority
from zone.hub.subjects import machine
from zone.io.backup.bringing import Bringing
from zone.io.backup.keeping import Backups
from zone.io.boot.asking import AnyOod, PassedOn
from zone.io.boot.booting import Booting
from zone.io.boot.memory import Memory
from zone.io.boot.search import by_dns, by_hand
from zone.io.boot.together import Together
from zone.io.config.remote import SERVICE
from zone.io.config.rules import RulesWatch
from zone.io.config.service import ConfigService
from zone.io.config.store import ConfigStore
from zone.io.here import client_as, services_of
from zone.io.hub.service import Hub
from zone.io.hub.trust import TrustWatch
from zone.io.klog import service as klog
from zone.io.klog.asking import Ask
from zone.io.klog.files import opened
from zone.io.klog.machine import OwnLines
from zone.io.klog.noticing import Noticing
from zone.io.klog.service import sender
from zone.io.klog.store import LogStore
from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.passing import Passing
from zone.io.krpc.resolve import Here, Services, open_services
from zone.io.krpc.server import OFFER, PASSED_ON, PORT, KrpcServer
from zone.io.operator import OPERATOR, Operator
from zone.io.routes.door import Serve, WebDoor
from zone.io.routes.nodes import NodeRoutes
from zone.io.routes.ports import NodePorts
from zone.io.routes.web import WebRoutes
from zone.io.scheduler.loop import Scheduler
from zone.io.scheduler.service import SERVICE as SCHEDULER
from zone.io.scheduler.service import SchedulerService, by_tunnels
from zone.klog.line import Batch
from zone.klog.patterns import Patterns
from zone.krpc.caller import NOBODY, Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import MOST_SECONDS, Service
from zone.krpc.wire import Single
from zone.membership import Membership, Role, ood_names, role_of

SOCKET: Final = "kapi.sock"
"""Where services are called by programs of this machine, below the state directory."""
HUB: Final = "verify-hub"
CARRIED: Final = frozenset({HUB, SERVICE, klog.NAME})
"""Services that every OOD answers, and no other machine."""

_AGAIN: Final = 5.0
"""Seconds before a port that another program has is asked for again."""
_MOST_DOORS: Final = 16

_log = logging.getLogger("cyfs.zone")


@dataclass(frozen=True, slots=True)
class Settings:
    """The section as meant."""

    port: int = PORT
    """On loopback; 0: any."""
    web: tuple[tuple[str, int], ...] = ()
    """Addresses of this machine where visitors get to services by their names."""


def read_settings(untrusted: Any) -> Settings:
    """Raises ``ConfigFault``."""
    if untrusted is None or untrusted is True:
        return Settings()
    if not isinstance(untrusted, dict) or untrusted.keys() - {"port", "web"}:
        raise ConfigFault("zone: expected a mapping with the keys 'port' and 'web' only, or false")
    port = untrusted.get("port", PORT)
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port < 65536:
        raise ConfigFault("zone/port: expected a port, from 0 to 65535")
    web = untrusted.get("web", [])
    if not isinstance(web, list) or len(web) > _MOST_DOORS:
        raise ConfigFault(f"zone/web: expected a list of at most {_MOST_DOORS} addresses with ports")
    return Settings(port, tuple(map(_door, web)))


def _door(untrusted: Any) -> tuple[str, int]:
    try:
        found = parse_authority(str(untrusted).encode())
        return names.ip(found.host), found.port
    except BadWire:
        raise ConfigFault(
            f"zone/web: {str(untrusted)[:60]!r} is no address with a port, such as 192.168.1.2:80"
        ) from None


class ZoneModule:
    """See the module's text."""

    section: ClassVar[str] = "zone"
    welcomes: ClassVar[bool] = True

    @classmethod
    def check(cls, settings: Any) -> None:
        read_settings(settings)

    async def run(self, host: Host, settings: Any) -> None:
        await _Zone(host, read_settings(settings)).run()


class _Zone:
    """The zone on one machine."""

    def __init__(self, host: Host, settings: Settings) -> None:
        self._host, self._settings = host, settings
        self._services = services_of(host.home)
        searches = (by_hand(host.home), by_dns(host.txt_records))
        self._backups = Backups(host.home, plain_dial(), time.time)
        self._bringing = Bringing(host.home, plain_dial(), lambda: self._booting.bereft)
        self._world = Together(host, time.time, self._bringing.bring)
        self._booting = Booting(host.home, self._world, searches, self._live)
        self._passing = Passing(self._services)
        self._server = KrpcServer(self._services, self._believe, self._known, self._passing)
        self._trust: TrustWatch | None = None
        self._lines = OwnLines()
        self._operator = Operator(self._services, self._booting.status, self._logs)
        self._urls: tuple[str, ...] = ()
        self._lacks = ""
        """Why there is no port for calls."""
        self._web: WebRoutes | None = None
        self._door = WebDoor(host, self._ways, self._own)
        self._sys: str | None = None
        """The host of the zone itself, which no service has."""
        self._at = tuple(dict.fromkeys(ip for ip, _ in settings.web if not ipaddress.ip_address(ip).is_unspecified))

    async def run(self) -> None:
        host, server = self._host, self._server
        async with trio.open_nursery() as nursery:
            self._urls = await nursery.start(partial(server.serve, unix=host.home / SOCKET))
            nursery.start_soon(self._open_port, nursery)
            host.register_offer(OFFER, server.serve_peer)
            host.register_offer(PASSED_ON, server.serve_passed_on)
            for methods in (self._operator.methods, self._backups.methods, self._bringing.methods):
                for name, method in methods.items():
                    host.register_control(name, method)
            host.register_control("take", self._take)
            host.register_status(self._status)
            host.register_names(self._addresses)
            for address in self._settings.web:
                nursery.start_soon(self._door.serve, address)
            nursery.start_soon(self._lines.run, self._folder, self._send_lines)
            await self._booting.run()

    async def _open_port(self, nursery: trio.Nursery) -> None:
        """Where programs of this machine call, as soon as nobody else has it; all else goes on without."""
        tcp = ("127.0.0.1", self._settings.port)
        while True:
            try:
                self._urls += await nursery.start(partial(self._server.serve, tcp=tcp))
            except ConfigFault as fault:
                if self._lacks != str(fault):
                    self._lacks = str(fault)
                    _log.warning("services are not called by TCP: %s", fault)
                await trio.sleep(_AGAIN)
            else:
                self._lacks = ""
                return

    def _status(self) -> Mapping[str, Any]:
        faults: dict[str, Any] = {"web": self._door.faults} if self._door.faults else {}
        faults |= {"lacks": self._lacks} if self._lacks else {}
        more = {"restoring": self._bringing.status(), "journal": self._lines.status(), **faults}
        return {**self._booting.status(), "kapi": list(self._urls), **more}

    def _ways(self, host: str) -> Sequence[str] | None:
        if self._web is None:
            return ()
        return None if host == self._sys else self._web.ways(host)

    def _addresses(self, host: str) -> Sequence[str]:
        """Where the door to ``host`` is, for clients of this machine's name server."""
        return self._at if host == self._sys or (self._web is not None and self._web.has(host)) else ()

    def _own(self, host: str) -> Serve | None:
        return partial(self._server.serve_visitor, host) if host == self._sys else None

    async def _folder(self) -> Path:
        """Where this machine keeps what is its zone's, as soon as it knows of one."""
        await self._booting.until(lambda _: self._booting.membership is not None)
        assert self._booting.membership is not None
        return Memory(self._host.home, self._booting.membership).path

    async def _send_lines(self, batch: Batch) -> int:
        zone, membership = self._booting.zone, self._booting.membership
        if zone is None or membership is None or (me := machine(zone, membership.device.key)) is None:
            raise Unreachable("this machine is in no zone")
        return await sender(client_as(me, self._services, klog.NAME))(batch)

    async def _take(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``document``: a zone's, which its owner has just signed.  It is judged as from anybody else."""
        document = body.get("document")
        if not isinstance(document, str):
            raise BadWire("'document' is a text, and is needed")
        state, finding = self._booting.judge(document)
        await self._booting.hear(document, "its administrator")
        return {"document": str(state.revision), "finding": finding.value}

    def _believe(self, token: str) -> Caller:
        if self._trust is None:
            raise KrpcFault(Code.UNAVAILABLE, "the zone is not up on this machine yet")
        return self._trust.believe(token)

    def _known(self, identity: Identity) -> Caller | None:
        """Which machine of the zone is at the far end of a tunnel."""
        zone, key = self._booting.zone, parse_did(identity.device).key if identity.device else None
        return None if zone is None or key is None else machine(zone, key)

    def _is_still(self, who: Caller) -> bool:
        """Whether a machine that its tunnel has proven is in the zone; of others their tokens say it."""
        zone = self._booting.zone
        return who.key is None or (zone is not None and machine(zone, who.key) == who)

    def _is_ours(self, identity: Identity) -> bool:
        return self._known(identity) is not None

    async def _live(self, store: ConfigStore, membership: Membership) -> None:
        zone = self._booting.zone or membership.zone
        here = Here(membership.name, self._host, None, PASSED_ON)
        # None of this process's own services: those would take calls of anybody for this machine's.
        async with open_services(store, here, Dispatcher(), NOBODY) as placed, trio.open_nursery() as nursery:
            self._sys = f"sys.{host_of_did(zone.id)}"
            self._web = WebRoutes(self._host, store, host_of_did(zone.id), membership.name)
            for routes in (self._web, NodeRoutes(self._host, store, host_of_did(zone.id), membership.name)):
                nursery.start_soon(routes.run)
            nursery.start_soon(NodePorts(self._host, store, membership.name, self._is_ours).run)
            if role_of(zone.oods, membership.name) is Role.OOD:
                with self._passing.by(placed):
                    await self._carry(store, membership)
            else:
                await self._pass_on(zone, membership, placed)

    async def _pass_on(self, zone: ZoneDoc, membership: Membership, placed: Services) -> None:
        """What any other machine does, for as long as an OOD lets it use the store."""
        me, mine, others = (
            machine(zone, membership.device.key),
            self._world.oods(zone),
            self._world.oods(zone, PASSED_ON),
        )
        assert me is not None  # A machine that the zone's document does not name is halted.
        try:
            with (
                self._passing.by(placed, CARRIED, others),
                _answered(self._services, {name: PassedOn(name, mine, me) for name in (SERVICE, klog.NAME)}),
            ):
                await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await mine.aclose()
                await others.aclose()

    async def _carry(self, store: ConfigStore, membership: Membership) -> None:
        """What an OOD does, for as long as it has the store."""
        await self._bringing.over(membership)
        hub = Hub(store, membership)
        trust, rules = TrustWatch(store, hub.zone), RulesWatch(store)
        config = ConfigService(store, lambda: rules.rules, lambda who: trust.stands(who) and self._is_still(who))

        def zone() -> ZoneDoc:
            return self._booting.zone or membership.zone

        scheduler = Scheduler(membership.name, store, zone=zone)
        told = SchedulerService(membership.name, scheduler, store, zone, by_tunnels(self._host, zone), OPERATOR)
        async with trio.open_nursery() as nursery:
            for part in (hub, trust, rules, config):
                await nursery.start(part.run)
            self._trust = trust
            nursery.start_soon(self._keep_lines, store, membership, rules)
            try:
                with _answered(self._services, {HUB: hub, SERVICE: config, SCHEDULER: told}):
                    nursery.start_soon(self._backups.run, store, membership, lambda: scheduler.plan is not None)
                    await scheduler.run()
            finally:
                self._trust = None

    async def _keep_lines(self, store: ConfigStore, membership: Membership, rules: RulesWatch) -> None:
        """Those of all machines; beside everything else, which does without them where the disk takes none."""
        noticing = Noticing(store)
        async with opened(Memory(self._host.home, membership).path / "logs.db", LogStore) as lines:
            service = klog.KlogService(lines, lambda: rules.rules, Patterns(), noticing.notice, self._oods)
            try:
                with _answered(self._services, {klog.NAME: service}):
                    await noticing.run()
            finally:
                await service.aclose()

    def _oods(self) -> tuple[str, ...]:
        return () if self._booting.zone is None else ood_names(self._booting.zone)

    def _logs(self) -> Mapping[str, Ask]:
        zone, membership = self._booting.zone, self._booting.membership
        if zone is None or membership is None:
            return {}
        own = client_as(OPERATOR, self._services, klog.NAME)
        others = {name: partial(self._ask_log, zone, name) for name in ood_names(zone) if name != membership.name}
        return {membership.name: partial(own.call, "query"), **others}

    async def _ask_log(self, zone: ZoneDoc, name: str, asked: Mapping[str, Json]) -> Json:
        ood = AnyOod(self._host, [(name, device_did(name, zone.id))], lambda: self._world.reached)
        try:
            return await ood.ask(klog.NAME, Single("query", asked), seconds=MOST_SECONDS)
        finally:
            with trio.CancelScope(shield=True):
                await ood.aclose()


@contextmanager
def _answered(dispatcher: Dispatcher, services: dict[str, Service]) -> Iterator[None]:
    ends: list[Callable[[], None]] = []
    try:
        ends += [dispatcher.register(name, service) for name, service in services.items()]
        yield
    finally:
        for end in ends:
            end()
