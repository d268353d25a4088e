"""A name server's whole life in one process: from the first descriptor limit to the last signal.

SIGTERM and SIGINT end it, SIGHUP has it read its configuration again: all of the new one serves afterwards, or all of
the old.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from pathlib import Path

import trio

from cyfs_ns.config.dns import DnsConfig
from cyfs_ns.config.written import Fault
from cyfs_ns.control.access import Door
from cyfs_ns.control.router import Router
from cyfs_ns.errors import ConfigFault
from cyfs_ns.io.configfile import read_dns_file
from cyfs_ns.io.control.conversation import Site
from cyfs_ns.io.control.entrance import Entrance, close_entrances, open_tcp, open_unix, serve_entrances
from cyfs_ns.io.control.nameserver import Served, metrics_route, routes
from cyfs_ns.io.home import HomeLock
from cyfs_ns.io.process import Begun, settle_in
from cyfs_ns.io.serving import Serving, StagedHouse, Surroundings

SOCKET = "control.sock"
"""The control API, in the home directory."""

_log = logging.getLogger("cyfs.dns")


async def run_server(path: Path | None, home: Path, *, on_ready: Callable[[], None] = lambda: None) -> int:
    """Serve until SIGTERM or SIGINT.  Returns the exit code; faults of the start go to the log."""
    # Said during the start it must not end the server, nor take the place of its end.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with trio.open_signal_receiver(signal.SIGHUP) as changes:
        return await _run(path, home, on_ready, changes)


async def _run(path: Path | None, home: Path, on_ready: Callable[[], None], changes: AsyncIterator[int]) -> int:
    settle_in()
    begun = Begun()
    entrances: list[Entrance] = []
    watched: list[Entrance] = []
    lock: HomeLock | None = None
    try:
        lock = HomeLock(home, "name server", ("lists",))
        life = _Life(path, lock.path)
        staged = await life.begin()
        try:
            socket = lock.path / SOCKET
            entrances.append(Entrance(listener=open_unix(socket), door=Door(), url=f"unix:{socket}", path=socket))
            for address in life.serving.config.metrics:
                watched += await open_tcp(address, Door())
        except (OSError, ConfigFault) as fault:
            life.serving.abandon(staged)
            raise ConfigFault(str(fault)) from fault
        async with trio.open_nursery() as nursery:
            await nursery.start(life.heed_signals)
            life.serving.begin(nursery, staged)
            nursery.start_soon(life.heed_changes, changes)
            served = Served(life.serving, lambda: begun.at, life.reload)
            nursery.start_soon(serve_entrances, Site(served, Router(routes(lambda served: served))), entrances)
            nursery.start_soon(serve_entrances, Site(served, Router([metrics_route()])), watched)
            _log.info("ready", extra={"control": str(socket), "pid": os.getpid()})
            on_ready()
            await life.ended.wait()
            nursery.cancel_scope.cancel()
    except ConfigFault as fault:
        _log.error("%s", fault)
        return 1
    finally:
        close_entrances((*entrances, *watched))
        if lock is not None:
            lock.close()
    return 0


def _fixed(config: DnsConfig) -> tuple[object, ...]:
    """What a running server cannot change."""
    return replace(config.cache, stale_wait=0.0, prefetch=False, max_client_ttl=0), config.metrics


class _Life:
    """The configuration of one server, again and again."""

    def __init__(self, path: Path | None, home: Path) -> None:
        self._path, self._home = path, home
        self._turn = trio.Lock()
        self.serving: Serving
        self.ended = trio.Event()

    async def begin(self) -> StagedHouse:
        """Read the file for the first time.  Raises ``ConfigFault``."""
        loaded = await trio.to_thread.run_sync(read_dns_file, self._path)
        self._tell(loaded.faults)
        if loaded.dns is None:
            raise ConfigFault("the configuration cannot be used; nothing was started")
        self.serving = Serving(self._home, loaded.dns, Surroundings(identity=loaded.identity))
        return await self.serving.stage(loaded.dns, loaded.hosts, self.serving.around)

    async def reload(self) -> tuple[Fault, ...]:
        """Read the file again and serve by it.  Returns the warnings.  Raises ``ConfigFault``: the old one serves."""
        async with self._turn:
            loaded = await trio.to_thread.run_sync(read_dns_file, self._path)
            if loaded.dns is None:
                raise ConfigFault("; ".join(str(fault) for fault in loaded.faults if fault.severity == "error"))
            before = _fixed(self.serving.config)
            around = replace(self.serving.around, identity=loaded.identity)
            await self.serving.change(loaded.dns, loaded.hosts, around)
            if before != _fixed(loaded.dns):
                _log.warning("metrics-listen and most of cache change with the next start")
            _log.info("reloaded")
            return loaded.faults

    async def heed_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            task_status.started()
            async for _ in received:
                # A reload under way may wait for lists to be built; the end does not.
                self.ended.set()

    async def heed_changes(self, said: AsyncIterator[int]) -> None:
        async with trio.open_nursery() as reloads:
            async for _ in said:
                if len(reloads.child_tasks) < 2:  # one that waits for its turn will read what is new now
                    reloads.start_soon(self._reload)

    async def _reload(self) -> None:
        try:
            self._tell(await self.reload())
        except ConfigFault as fault:
            _log.error("%s; what was there stays", fault)
        except Exception:  # a fault of ours must not end what serves well
            _log.exception("the change failed in a way nobody foresaw; what was there stays")

    def _tell(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            level = logging.ERROR if fault.severity == "error" else logging.WARNING
            _log.log(level, "%s: %s", self._path or "defaults", fault)
