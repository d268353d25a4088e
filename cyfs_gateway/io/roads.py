"""News of the network for whoever has tunnels: an address or a way out of this machine is another.

A tunnel finds a dead carrier by itself, but only by asking, which it seldom does while nothing goes on.  Who is told
that the laptop woke up in another network asks at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from cyfs_ns.errors import BadWire
from cyfs_ns.io.linkwatch import LinkWatch
from cyfs_ns.links import AddressAppeared, AddressGone, Change, Picture, WayFound

_log = logging.getLogger("cyfs.peers")


async def follow_roads(
    changed: Callable[[], None],
    look: Callable[[Picture], None] | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call ``changed`` for each news, until cancelled; or until it turns out that the kernel tells nothing.

    ``look`` is shown the links before each, and at first.
    """

    def tell(changes: tuple[Change, ...]) -> None:
        if any(isinstance(change, AddressAppeared | AddressGone | WayFound) for change in changes):
            if look is not None:
                look(watch.picture)
            changed()

    try:
        watch = LinkWatch()
        await watch.look()
        if look is not None:
            look(watch.picture)
        await watch.run(tell, task_status=task_status)
    except (OSError, BadWire) as fault:
        _log.warning("links are not watched, so tunnels notice a new network later: %s", fault)
