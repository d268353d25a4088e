"""The module host: finds modules, runs those the configuration names, and takes back what they registered.

A module that fails is switched off and says why in ``status``; a reload that changes its section, or names it again
after it failed, starts it anew.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import trio

from cyfs_gateway.host import ENTRY_POINTS, ControlMethod, Module, Names, Service, Status
from cyfs_gateway.io.services import RouteOutbound, ServiceOutbound
from cyfs_ns import names
from cyfs_ns.errors import ConfigFault, Misuse
from tunnels import url as urls
from tunnels.endpoint import Endpoint

if TYPE_CHECKING:
    from cyfs_gateway.io.gateway import RunningGateway
    from cyfs_gateway.io.world import Around

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
        self._nursery: trio.Nursery | None = None

    async def run(self, module: Module) -> None:
        """The module's whole life."""
        with self.scope:
            try:
                async with trio.open_nursery() as self._nursery:
                    await module.run(self, self.settings)
                    self._nursery.cancel_scope.cancel()
            except Exception as fault:
                self.fault = str(fault) or type(fault).__name__
                _log.exception("module %s failed and is off", self.section)
            finally:
                around = self._modules.around
                for answer in self._names:
                    around.names.remove(answer)
                for host in self._hosts:
                    around.routes.pop(host, None)
                self.methods.clear()

    def register_names(self, names: Names) -> None:
        self._names.append(names)
        self._modules.around.names.append(names)

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
        for section, seat in list(self._seats.items()):
            if seat.fault or section not in settings or settings[section] != seat.settings:
                seat.scope.cancel()
                del self._seats[section]
        for section, value in settings.items():
            if section not in self._seats:
                seat = self._seats[section] = _Seat(self, section, value)
                self._nursery.start_soon(seat.run, self._known[section]())

    def status(self) -> dict[str, Any]:
        """What each module says of itself."""
        return {
            section: {"running": not seat.fault, **({"fault": seat.fault} if seat.fault else {})}
            | (dict(seat.status()) if seat.status is not None and not seat.fault else {})
            for section, seat in self._seats.items()
        }

    async def control(self, section: str, method: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Call a module's control method.  ``KeyError``: no such module or method."""
        return await self._seats[section].methods[method](body)
