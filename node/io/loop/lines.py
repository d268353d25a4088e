"""What services write becomes lines of the zone's log: read once in a while, kept here, given to an OOD."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from node.io.run.tail import Look, Tails
from zone.io.klog.files import opened
from zone.io.klog.spool import Send, Shipping, Spool

SPOOL: Final = "services.db"
_LOOK: Final = 1.0
"""Seconds between looks: with what one takes at most, this is how much a service may say."""

_log = logging.getLogger("cyfs.node")


class ServiceLines:
    """Those of the services below the node's ``home``.  Run :meth:`run`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._shipping: Shipping | None = None

    def status(self) -> Mapping[str, Any]:
        """As ``Shipping.status``; nothing while there is no spool."""
        return {} if self._shipping is None else self._shipping.status()

    async def run(self, folder: Path, send: Send) -> None:
        """Until cancelled.  ``folder``: where the spool is."""
        try:
            async with opened(folder / SPOOL, Spool) as spool:
                tails = Tails(self._home, await trio.to_thread.run_sync(spool.marks))
                shipping = self._shipping = Shipping(spool)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(shipping.run, send)
                    while True:
                        await self._keep(shipping, await trio.to_thread.run_sync(tails.look))
                        await trio.sleep(_LOOK)
        finally:
            self._shipping = None

    async def _keep(self, shipping: Shipping, look: Look) -> None:
        """Until the disk has it: what comes meanwhile waits in the services' own files."""
        while look.lines or look.marks:
            try:
                await shipping.add(look.lines, look.marks)
            except sqlite3.Error as fault:
                _log.debug("lines of services wait: %s", fault)
                await trio.sleep(_LOOK)
            else:
                return
