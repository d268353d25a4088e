"""Several ways to one thing, tried one after the other until one opens.

One that failed, or leaves somebody waiting, is tried last for a while: who is silent costs one flow its time, and not
each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Generic, TypeVar

import trio

from cyfs_ns.errors import Unreachable
from tunnels.endpoint import Endpoint

_DOUBTED: Final = 30.0
"""Seconds for which a way that failed is tried after the others."""
_SLOW: Final = 1.0
"""Seconds after which a way that is still being opened is no longer the first for others."""
_MOST_DOUBTED: Final = 256

Way = TypeVar("Way")


class InTurn(Generic[Way]):
    """Remembers which ways are doubted."""

    def __init__(self) -> None:
        self._doubted: dict[Way, tuple[float, float]] = {}
        """From when and until when each way is tried last, those that were doubted longest ago first."""

    async def first(self, ways: Iterable[Way], open_way: Callable[[Way], Awaitable[Endpoint]]) -> Endpoint:
        """The first of ``ways``, the best first, that opens.  Raises ``Unreachable`` where none does, and whatever else
        ``open_way`` raises at once."""
        fault = Unreachable("there is no way")
        for way in sorted(ways, key=self._is_doubted):
            now = trio.current_time()
            if self._doubted.get(way, (now, now))[1] <= now:
                self._doubt(way, now + _SLOW, now + _DOUBTED)
            try:
                opened = await open_way(way)
            except Unreachable as failed:
                fault = failed
                self._doubt(way, now, trio.current_time() + _DOUBTED)
            except BaseException:
                # Nobody knows what would have come of it.
                if not self._is_doubted(way):
                    self._doubted.pop(way, None)
                raise
            else:
                self._doubted.pop(way, None)
                return opened
        raise fault

    def _is_doubted(self, way: Way) -> bool:
        since, until = self._doubted.get(way, (0.0, 0.0))
        return since <= trio.current_time() < until

    def _doubt(self, way: Way, since: float, until: float) -> None:
        self._doubted.pop(way, None)
        self._doubted[way] = since, until
        if len(self._doubted) > _MOST_DOUBTED:
            del self._doubted[next(iter(self._doubted))]
