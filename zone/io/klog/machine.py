"""What this machine does with what its gateway says of the zone: a journal on its disk, from there to an OOD."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import trio

from cyfs_ns.io.logs import log_bus
from zone.io.klog.files import opened
from zone.io.klog.spool import Journal, Send, Shipping, Spool, follow

SPOOL: Final = "journal.db"


class OwnLines:
    """Run :meth:`run`."""

    def __init__(self) -> None:
        self._shipping: Shipping | None = None

    def status(self) -> Mapping[str, Any]:
        """As ``Shipping.status``; nothing while there is no spool."""
        return {} if self._shipping is None else self._shipping.status()

    async def run(self, folder: Callable[[], Awaitable[Path]], send: Send) -> None:
        """Until cancelled.  ``folder``: where the spool is, as soon as that is known; what is said before waits."""
        watcher = log_bus().subscribe("info")
        try:
            path = await folder() / SPOOL
            async with opened(path, Spool) as spool, trio.open_nursery() as nursery:
                shipping = self._shipping = Shipping(spool)
                journal = Journal(shipping)
                for work in (journal.run, lambda: follow(watcher, journal.put), lambda: shipping.run(send)):
                    nursery.start_soon(work)
        finally:
            self._shipping = None
            await watcher.aclose()
