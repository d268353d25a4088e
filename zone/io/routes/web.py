"""Keeps ``SERVICE.ZONE`` leading to where each service is, in the gateway of this node.

All services are followed by one watch.  So a flow asks nobody where its service is, one that has moved is found there
as soon as that was told, and while the store is away all stays as it was told last.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Protocol

import trio

from cyfs_gateway.host import Ways
from cyfs_ns.errors import BadWire, ConfigFault
from zone.config.faults import ConfigError
from zone.config.keys import Each
from zone.config.model import Entry
from zone.io.config.store import ConfigStore
from zone.krpc.selector import Instance
from zone.routes.web import web_instances, web_ways

MOST_SERVICES: Final = 4096
"""Services that are led to."""
_AGAIN: Final = 1.0
"""Seconds until the store is asked again after a fault."""
_SERVICES: Final = Each("services", "info")

_log = logging.getLogger("cyfs.zone.web")


class Carrier(Protocol):
    """What of the gateway's ``Host`` carries flows."""

    def register_ways(self, host: str, ways: Ways) -> Callable[[], None]: ...


class WebRoutes:
    """The routes of ``zone`` (a host name) in the gateway of ``node``."""

    def __init__(self, carrier: Carrier, store: ConfigStore, zone: str, node: str) -> None:
        self._carrier, self._store, self._zone, self._node = carrier, store, zone, node
        self._instances: dict[str, tuple[Instance, ...]] = {}
        self._withdraw: dict[str, Callable[[], None]] = {}

    async def run(self) -> None:
        """Until cancelled, and the routes with it."""
        try:
            await self._follow()
        finally:
            for service in list(self._withdraw):
                self._forget(service)

    async def _follow(self) -> None:
        while True:
            try:
                reading = await self._store.read([_SERVICES], stale_ok=True)
                self._learn(reading.entries)
                for gone in self._withdraw.keys() - {_service(entry) for entry in reading.entries}:
                    self._forget(gone)
                async with self._store.watch(_SERVICES, reading.revision) as changes:
                    async for change in changes:
                        self._learn(change.entries)
            except ConfigError as fault:
                _log.warning("services are led to where they were told last: %s", fault)
            await trio.sleep(_AGAIN)

    def _learn(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            service = _service(entry)
            if entry.created == 0:
                self._forget(service)
            elif entry.value is not None and self._is_led_to(service):
                self._instances[service] = web_instances(entry.value)

    def _is_led_to(self, service: str) -> bool:
        if service in self._withdraw:
            return True
        host = f"{service}.{self._zone}"
        if len(self._withdraw) >= MOST_SERVICES:
            _log.error("nobody is led to %s: there are %d services already", host, MOST_SERVICES)
            return False
        try:
            self._withdraw[service] = self._carrier.register_ways(host, partial(self._ways, service))
        except (BadWire, ConfigFault) as fault:
            # It is no name of a host, or another module's.
            _log.error("nobody is led to %s: %s", host, fault)
            return False
        return True

    def _forget(self, service: str) -> None:
        self._instances.pop(service, None)
        if (withdraw := self._withdraw.pop(service, None)) is not None:
            withdraw()

    def has(self, host: str) -> bool:
        """Whether ``host`` is the name of a service."""
        service, _, zone = host.partition(".")
        return zone == self._zone and service in self._instances

    def ways(self, host: str) -> tuple[str, ...] | None:
        """Tunnel URLs to the service of ``host``; empty: it is nowhere just now; None: there is no such service."""
        return self._ways(host.partition(".")[0], 0) if self.has(host) else None

    def _ways(self, service: str, _port: int) -> tuple[str, ...]:
        return web_ways(self._instances.get(service, ()), self._node, iter(random.random, None))


def _service(entry: Entry) -> str:
    """Whose ``services/<s>/info`` it is."""
    return entry.key.split("/")[1]
