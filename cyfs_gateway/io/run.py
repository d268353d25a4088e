"""A gateway's whole life in one process: from the first descriptor limit to the last signal."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from cyfs_gateway.io.gateway import RunningGateway
from cyfs_gateway.io.state import Home
from cyfs_ns.errors import ConfigFault, CyfsError
from cyfs_ns.io.process import keep_spare_memory, settle_in
from tunnels.io.reactor import Reactor

_HEEDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_log = logging.getLogger("cyfs.gateway")


async def run_gateway(config_path: str | None, home: Path, *, on_ready: Callable[[], None] = lambda: None) -> int:
    """Run until SIGTERM, SIGINT or a stop by the API.  Returns the exit code; faults of the start go to the log.

    The process is to end after that: it hears these signals no more.
    """
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
                is_wanted = gateway.is_stopping
                _log.log(logging.INFO if is_wanted else logging.ERROR, "%s", fault)
                with trio.CancelScope(shield=True):
                    await gateway.end()
                nursery.cancel_scope.cancel()
                return 0 if is_wanted else 1
            try:
                keep_spare_memory()
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
        # Whoever is still impatient gets what is wanted, and the interpreter has a while to go.
        for heeded in _HEEDED:
            signal.signal(heeded, signal.SIG_IGN)
    return 0


async def _heed_signals(
    gateway: RunningGateway, begun: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Hear signals from now on, also when cancelled: a second Ctrl-C must not cut off what the first one began.

    Reloads have this task to themselves, since they may wait for servers, and a wish to stop ends that.
    """
    asked, reloads = trio.open_memory_channel[None](1)
    token = trio.lowlevel.current_trio_token()

    def heed(number: int) -> None:
        if number != signal.SIGHUP:
            gateway.stop()
            return
        # A reload that waits for its turn will find what is there then.
        with contextlib.suppress(trio.WouldBlock):
            asked.send_nowait(None)

    for heeded in _HEEDED:
        signal.signal(heeded, lambda number, _frame: token.run_sync_soon(heed, number))
    task_status.started()
    await begun.wait()
    async for _ in reloads:
        try:
            for fault in await gateway.reload():
                _log.warning("%s", fault)
        except CyfsError:
            continue  # the reload has said so itself


def _absolute(path: str | None) -> str:
    """The path as it is to be found again at a reload."""
    return str(Path(path).absolute()) if path else ""
