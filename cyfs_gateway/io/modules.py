"""The module host: finds modules, runs those the configuration names, and takes back what they registered.

A module that fails is switched off and says why in ``status``; a reload that changes its section, or names it again
after it failed, starts it anew.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from cyfs_gateway.host import ENTRY_POINTS, Changed, ControlMethod, Module, Names, Service, Status
from cyfs_gateway.io.services import RouteOutbound, ServiceOutbound
from cyfs_ns import names
from cyfs_ns.errors import ConfigFault, Misuse
from tunnels import url as urls
from tunnels.endpoint import Endpoint

if TYPE_CHECKING:
    from cyfs_gateway.io.gateway import RunningGateway
    from cyfs_gateway.io.world import Around
    from cyfs_ns.authority import Authority, Statement

_log = logging.getLogger("cyfs.modules")


class _Seat:
    """One running module and everything it registered: its ``Host``."""

    def __init__(self, modules: Modules, section: str, settings: Any) -> None:
        self.section = section
        self.settings = settings
        self.scope = trio.CancelScope()
        self.fault = ""
        self.status: Status | None = None
        self.methods: dict[str, ControlMethod] = {}
        self._modules = modules
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
            self._done.set()

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
            if self._speaks:
                self._modules.gateway.speak_for(None)
            self.methods.clear()

    def _blame(self, fault: Exception) -> None:
        """The module failed: say so, and let it end."""
        if isinstance(fault, ExceptionGroup) and len(fault.exceptions) == 1:
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
        parsed = urls.parse(url)
        self._claim(("." if below else "") + names.name(host.lstrip(".")), RouteOutbound(parsed, self._modules.gateway))

    def _claim(self, host: str, outbound: ServiceOutbound | RouteOutbound) -> None:
        routes = self._modules.around.routes
        if host in routes:
            raise ConfigFault(f"module {self.section}: {host} is carried by {routes[host].name} already")
        routes[host] = outbound
        self._hosts.append(host)

    def register_control(self, method: str, handler: ControlMethod) -> None:
        self.methods[method] = handler

    def register_status(self, status: Status) -> None:
        self.status = status

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


class Modules:
    """All modules of one gateway."""

    def __init__(self, gateway: RunningGateway, nursery: trio.Nursery, around: Around) -> None:
        self.gateway = gateway
        self.around = around
        self._nursery = nursery
        self._known = self.discover()
        self._seats: dict[str, _Seat] = {}

    @staticmethod
    def discover() -> dict[str, type[Module]]:
        """Installed modules by section.  One that cannot be imported is reported and passed over."""
        found: dict[str, type[Module]] = {}
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
            try:
                module = entry.load()
            except Exception:
                _log.exception("module %s cannot be loaded", entry.name)
                continue
            found[module.section] = module
        return found

    @property
    def sections(self) -> frozenset[str]:
        """The configuration sections that belong to modules."""
        return frozenset(self._known)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raises ``ConfigFault`` for a section its module cannot use."""
        for section, value in settings.items():
            self._known[section].check(value)

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
                self._nursery.start_soon(seat.run, self._known[section](), left.get(section))

    def status(self) -> dict[str, Any]:
        """What each module says of itself."""
        return {section: seat.report() for section, seat in self._seats.items()}

    async def control(self, section: str, method: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Call a module's control method.  ``KeyError``: no such module or method."""
        return await self._seats[section].methods[method](body)
