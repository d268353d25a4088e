"""Has the gateway of this node find the other nodes of its zone: where each may be met, and what ``NODE.ZONE`` is.

``nodes/<n>/gateway_info`` is followed by a watch.  What was told last holds while the store is away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Protocol

import trio

from cyfs_gateway.host import Search, Ways
from cyfs_ns.errors import BadWire, ConfigFault
from zone.config.faults import ConfigError
from zone.config.keys import At
from zone.config.model import Entry
from zone.io.config.following import follow
from zone.io.config.store import ConfigStore
from zone.routes.info import gateway_info_key
from zone.routes.told import Told, read_told

_log = logging.getLogger("cyfs.zone.nodes")

_NOTHING: Final = Told()


class Carrier(Protocol):
    """What of the gateway's ``Host`` dials nodes."""

    def register_search(self, search: Search) -> Callable[[], None]: ...
    def register_ways(self, host: str, ways: Ways) -> Callable[[], None]: ...


class NodeRoutes:
    """The other nodes of ``zone`` (a host name), as ``node`` is told of them.

    Absent on purpose: a name for this node.  Whoever may use the gateway would get to all that listens on its loopback.
    """

    def __init__(self, carrier: Carrier, store: ConfigStore, zone: str, node: str) -> None:
        self._carrier, self._store, self._zone = carrier, store, zone
        self._key = gateway_info_key(node)
        self._told = _NOTHING
        self._withdraw: dict[str, Callable[[], None]] = {}

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled, and the routes with it."""
        withdraw = self._carrier.register_search(lambda did: self._told.search(did))
        try:
            await follow(self._store, At(self._key), self._begin, self._put, task_status)
        finally:
            withdraw()
            self._learn(_NOTHING)

    def _begin(self, entries: Iterable[Entry]) -> None:
        found = next(iter(entries), None)
        if found is None:
            self._learn(_NOTHING)
        else:
            self._put(found)

    def _put(self, entry: Entry) -> None:
        try:
            text = entry.text()
            self._learn(_NOTHING if text is None else read_told(text))
        except (BadWire, ConfigError) as bad:
            _log.error("nodes are met where they were told to be last: %s", bad)

    def _learn(self, told: Told) -> None:
        self._told = told
        for gone in self._withdraw.keys() - told.nodes.keys():
            self._withdraw.pop(gone)()
        for node in told.nodes.keys() - self._withdraw.keys():
            host = f"{node}.{self._zone}"
            try:
                self._withdraw[node] = self._carrier.register_ways(host, partial(self._ways, node))
            except (BadWire, ConfigFault) as fault:
                # It is no name of a host, or another module's.
                _log.error("nobody is led to %s: %s", host, fault)

    def _ways(self, node: str, port: int) -> tuple[str, ...]:
        url = self._told.nodes.get(node)
        return () if url is None else (f"{url}/:{port}",)
