"""Opens the ports of what runs on this node to the other machines of its zone, through their tunnels.

Which they are is said by the node's orders, ``nodes/<n>/config/*``, so a service that has moved away is reached here no
more.  What was told last holds while the store is away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

import trio

from cyfs_gateway.flow import Identity
from cyfs_gateway.host import Judge
from cyfs_ns.errors import BadWire, ConfigFault
from zone.config.faults import ConfigError
from zone.config.keys import Below
from zone.config.model import Entry
from zone.io.config.following import follow
from zone.io.config.store import ConfigStore
from zone.scheduler.snapshot import read_item

_log = logging.getLogger("cyfs.zone.ports")


class Opener(Protocol):
    """What of the gateway's ``Host`` opens ports."""

    def register_port(self, port: int, judge: Judge) -> Callable[[], None]: ...


class NodePorts:
    """Those of ``node``.  ``judge``: who is a machine of the zone."""

    def __init__(self, opener: Opener, store: ConfigStore, node: str, judge: Callable[[Identity], bool]) -> None:
        self._opener, self._store, self._judge = opener, store, judge
        self._orders = Below(f"nodes/{node}/config")
        self._ports: dict[str, frozenset[int]] = {}
        """By the key of the order."""
        self._open: dict[int, Callable[[], None]] = {}

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then they are closed."""
        try:
            await follow(self._store, self._orders, self._begin, self._put, task_status)
        finally:
            self._begin(())

    def _begin(self, entries: Iterable[Entry]) -> None:
        there = list(entries)
        for key in self._ports.keys() - {entry.key for entry in there}:
            del self._ports[key]
        for entry in there:
            self._read(entry)
        self._settle()

    def _put(self, entry: Entry) -> None:
        self._read(entry)
        self._settle()

    def _read(self, entry: Entry) -> None:
        try:
            text = entry.text()
            item = None if text is None else read_item(entry.key, text)
        except (BadWire, ConfigError) as bad:
            _log.error("its ports are as they were: %s", bad)
            return
        if item is None or item.target != "running":
            self._ports.pop(entry.key, None)
        else:
            self._ports[entry.key] = frozenset(number for _, number in item.ports)

    def _settle(self) -> None:
        wanted = frozenset().union(*self._ports.values())
        for port in self._open.keys() - wanted:
            self._open.pop(port)()
        for port in wanted - self._open.keys():
            try:
                self._open[port] = self._opener.register_port(port, self._judge)
            except ConfigFault as taken:
                _log.error("nobody gets to a service: %s", taken)
