"""One piece of work for all who want it at the same time.

There are no tasks of its own: the first asker works, the others wait for what it finds.  When the one in front is
cancelled, the next in line begins anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from copy import copy
from typing import Generic, TypeVar

import trio

from cyfs_ns.errors import Unreachable

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Merged(Generic[K, T]):
    def __init__(self) -> None:
        self._flights: dict[K, _Flight[T]] = {}

    async def run(self, key: K, work: Callable[[], Awaitable[T]]) -> T:
        """The result of ``work``, ours or that of whoever is at it.  ``Unreachable`` is shared too."""
        while (flight := self._flights.get(key)) is not None:
            if flight.landed is None:
                flight.landed = trio.Event()
            await flight.landed.wait()
            if flight.fault is not None:
                raise copy(flight.fault) from flight.fault
            if flight.results:
                return flight.results[0]
        flight = self._flights[key] = _Flight()
        try:
            result = await work()
            flight.results.append(result)
        except Unreachable as fault:
            flight.fault = fault
            raise
        finally:
            del self._flights[key]
            if flight.landed is not None:
                flight.landed.set()
        return result


class _Flight(Generic[T]):
    __slots__ = ("fault", "landed", "results")

    def __init__(self) -> None:
        self.landed: trio.Event | None = None  # made for the first who waits
        self.results: list[T] = []
        self.fault: Unreachable | None = None
