"""A gateway's whole life in one process: from the first descriptor limit to the last signal."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import trio

from cyfs_gateway.io.gateway import RunningGateway
from cyfs_gateway.io.state import Home
from cyfs_ns.errors import ConfigFault, CyfsError
from cyfs_ns.io.process import settle_in
from tunnels.io.reactor import Reactor

_log = logging.getLogger("cyfs.gateway")


async def run_gateway(config_path: str | None, home: Path, *, on_ready: Callable[[], None] = lambda: None) -> int:
    """Run until SIGTERM, SIGINT or a stop by the API.  Returns the exit code; faults of the start go to the log."""
    settle_in()
    try:
        place = Home(home)
    except ConfigFault as fault:
        _log.error("%s", fault)
        return 1
    await trio.to_thread.run_sync(place.settle_identity)
    path = _absolute(config_path)
    reactor = Reactor()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(reactor.run)
            gateway = RunningGateway(place, nursery, reactor)
            loaded = await gateway.read(path or None)
            for found in loaded.faults:
                severity = logging.ERROR if found.severity == "error" else logging.WARNING
                _log.log(severity, "%s: %s", path or "defaults", found)
            if loaded.config is None:
                _log.error("the configuration cannot be used; nothing was started")
                nursery.cancel_scope.cancel()
                return 1
            begun = trio.Event()
            # Before the first door opens: whoever sees one may send a signal.
            await nursery.start(_heed_signals, gateway, begun)
            try:
                await gateway.begin(loaded, path)
            except ConfigFault as fault:
                _log.error("%s", fault)
                with trio.CancelScope(shield=True):
                    await gateway.end()
                nursery.cancel_scope.cancel()
                return 1
            try:
                begun.set()
                nursery.start_soon(gateway.keep_status)
                _log.info("ready", extra={"control": str(gateway.config.control.unix), "pid": os.getpid()})
                on_ready()
                await gateway.wait_stopped()
            finally:
                await gateway.end()
                nursery.cancel_scope.cancel()
    finally:
        reactor.close()
        place.close()
    return 0


async def _heed_signals(
    gateway: RunningGateway, begun: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        task_status.started()
        async for number in received:
            if number != signal.SIGHUP:
                gateway.stop()
                return
            await begun.wait()
            try:
                for fault in await gateway.reload():
                    _log.warning("%s", fault)
            except CyfsError:
                continue  # the reload has said so itself


def _absolute(path: str | None) -> str:
    """The path as it is to be found again at a reload."""
    return str(Path(path).absolute()) if path else ""
