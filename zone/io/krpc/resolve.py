"""``service("time")``: the best instance of a service, from any node, found again whenever it moves.

A service of this process is called in place.  Of all others this follows what the scheduler tells
(``services/<s>/info``), by one watch, from the first call on: so a call asks nobody where a service is, and one that
has moved is called where it is now as soon as the change was told.

A node that could not be had is doubted for a while, and another one is asked, as long as nothing was sent.  While the
store is away what was told last goes on being used; with nothing told, a call waits for as long as it has.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import trio

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.identity.did import Did, host_of_did
from cyfs_ns.identity.strictjson import Json
from tunnels.endpoint import Endpoint
from zone.config.faults import ConfigError
from zone.config.keys import Each
from zone.config.model import Entry
from zone.io.config.store import ConfigStore
from zone.io.krpc.client import Client
from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.server import OFFER
from zone.io.krpc.transport import HttpTransport, LocalTransport, Tokens, Way, by_endpoint, by_tcp, by_unix, no_token
from zone.krpc.batch import Batch
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.selector import Instance, order, read_selector
from zone.krpc.service import NAME, SECONDS
from zone.krpc.wire import Single

DOUBT: Final = 5.0
"""Seconds for which a node that could not be had comes last."""
_AGAIN: Final = 1.0
"""Seconds until the store is asked again after a fault."""
_NOT_DONE: Final = frozenset({Code.UNAVAILABLE, Code.UNKNOWN_SERVICE, Code.LIMITED})
_DOUBTFUL: Final = _NOT_DONE | {Code.UNCERTAIN, Code.DEADLINE}

_SERVICES: Final = Each("services", "info")

_Place: TypeAlias = tuple[str, Did | None, int | None]
"""Where calls are answered: several services may be at one."""

_log = logging.getLogger("cyfs.krpc")


class Opener(Protocol):
    """What of the gateway's ``Host`` leads to other nodes."""

    async def open_url(self, url: str) -> Endpoint: ...

    async def call_offer(self, peer: Did, name: str) -> Endpoint: ...


@dataclass(frozen=True, slots=True)
class Here:
    """This node, as a place that calls."""

    node: str
    """Its name in the zone."""
    opener: Opener
    door: Path | None
    """The unix socket at which this node answers calls; None: whoever calls is that door."""
    offer: str = OFFER
    """What other nodes answer calls at."""

    def leads_to(self, instance: Instance) -> bool:
        """Whether there is any way to ``instance``."""
        if instance.node == self.node:
            return instance.port is not None or self.door is not None
        return instance.did is not None

    def way(self, instance: Instance) -> Way:
        """To ``instance``, which it leads to."""
        port, did = instance.port, instance.did
        if instance.node == self.node:
            if port is not None:
                return by_tcp("127.0.0.1", port)
            if self.door is not None:
                return by_unix(self.door)
        if did is None:
            raise Misuse(f"there is no way to {instance.node}")
        if port is None:
            return by_endpoint(lambda: self.opener.call_offer(did, self.offer))
        url = f"rtcp://{host_of_did(did, case_safe=True)}/:{port}"
        return by_endpoint(lambda: self.opener.open_url(url), f"127.0.0.1:{port}")


class Services:
    """The services of a zone, as this process calls them.

    ``caller`` is who it is to services of its own; ``tokens`` prove it to the others.
    """

    def __init__(
        self,
        store: ConfigStore,
        here: Here,
        dispatcher: Dispatcher,
        caller: Caller,
        nursery: trio.Nursery,
        tokens: Tokens = no_token,
    ) -> None:
        self._store, self._here, self._tokens, self._nursery = store, here, tokens, nursery
        self._dispatcher, self._local = dispatcher, LocalTransport(dispatcher, caller)
        self._instances: dict[str, tuple[Instance, ...]] = {}
        self._told: trio.Event | None = None
        """When they are known; None: nobody has asked yet."""
        self._transports: dict[_Place, HttpTransport] = {}
        self._doubted: dict[str, float] = {}

    def service(self, name: str, *, seconds: float = SECONDS, trace: str = "") -> Client:
        """To call ``name``, wherever it is at the moment of each call."""
        if not NAME.fullmatch(name):
            raise Misuse(f"{name!r} is no name of a service")
        return Client(self, name, seconds=seconds, trace=trace)

    async def ask(
        self, service: str, asked: Single | Batch, *, seconds: float, trace: str = "", token: str | None = None
    ) -> Json:
        """As ``Transport.ask``, by the best instance; ``token`` as with ``HttpTransport``."""
        if service in self._dispatcher:
            return await self._local.ask(service, asked, seconds=seconds, trace=trace)
        ends = trio.current_time() + seconds
        fault = KrpcFault(Code.UNAVAILABLE, f"{service} is ready nowhere")
        for instance in await self._candidates(service, seconds):
            transport = self._transport(instance)
            left = max(0.0, ends - trio.current_time())
            try:
                return await transport.ask(service, asked, seconds=left, trace=trace, token=token)
            except KrpcFault as failed:
                if failed.code in _DOUBTFUL:
                    self._doubted[instance.node] = trio.current_time() + DOUBT
                if failed.code not in _NOT_DONE:
                    raise
                fault = failed
        raise fault

    async def _candidates(self, service: str, seconds: float) -> tuple[Instance, ...]:
        if self._told is None:
            self._told = trio.Event()
            self._nursery.start_soon(self._follow, self._told)
        with trio.move_on_after(seconds):
            await self._told.wait()
        if not self._told.is_set():
            raise KrpcFault(Code.UNAVAILABLE, f"nobody could tell in time where {service} is")
        now = trio.current_time()
        self._doubted = {node: until for node, until in self._doubted.items() if until > now}
        there = filter(self._here.leads_to, self._instances.get(service, ()))
        return order(there, self._here.node, self._doubted, iter(random.random, None))

    async def _follow(self, told: trio.Event) -> None:
        while True:
            try:
                reading = await self._store.read([_SERVICES], stale_ok=True)
                for gone in self._instances.keys() - {_service(entry) for entry in reading.entries}:
                    del self._instances[gone]
                await self._learn(reading.entries)
                told.set()
                async with self._store.watch(_SERVICES, reading.revision) as changes:
                    async for change in changes:
                        await self._learn(change.entries)
            except ConfigError as fault:
                _log.debug("where services are cannot be read: %s", fault)
            await trio.sleep(_AGAIN)

    async def _learn(self, entries: Iterable[Entry]) -> None:
        """That services are where ``entries`` say."""
        for entry in entries:
            try:
                value = entry.text()
                if value is None:
                    self._instances.pop(_service(entry), None)
                else:
                    self._instances[_service(entry)] = read_selector(value)
            except (BadWire, ConfigError) as bad:
                _log.warning("%s: %s; what was told before stays", entry.key, bad)
        known = {_place(one) for instances in self._instances.values() for one in instances}
        for place in self._transports.keys() - known:
            await self._transports.pop(place).aclose()

    async def aclose(self) -> None:
        """Close the connections that are kept."""
        while self._transports:
            await self._transports.popitem()[1].aclose()

    def _transport(self, instance: Instance) -> HttpTransport:
        place = _place(instance)
        if place not in self._transports:
            self._transports[place] = HttpTransport(self._here.way(instance), self._tokens)
        return self._transports[place]


def _service(entry: Entry) -> str:
    return entry.key.split("/")[1]


def _place(instance: Instance) -> _Place:
    return instance.node, instance.did, instance.port


@asynccontextmanager
async def open_services(
    store: ConfigStore, here: Here, dispatcher: Dispatcher, caller: Caller, tokens: Tokens = no_token
) -> AsyncIterator[Services]:
    """``Services`` that follow the store for as long as the block lasts."""
    async with trio.open_nursery() as nursery:
        services = Services(store, here, dispatcher, caller, nursery, tokens)
        try:
            yield services
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await services.aclose()
