"""One piece of work for all who want it at the same time.

There are no tasks of its own: the first asker works, the others wait for what it finds.  When the one in front is
cancelled, the next in line begins anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from copy import copy
from typing import Generic, ParamSpec, TypeVar

from cyfs_ns.errors import Unreachable
from cyfs_ns.io.light import Word

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
P = ParamSpec("P")


class Merged(Generic[K, T]):
    def __init__(self) -> None:
        self._flights: dict[K, _Flight[T]] = {}

    async def run(self, key: K, work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of ``work(*args)``, ours or that of whoever is at it.  ``Unreachable`` is shared too."""
        while (flight := self._flights.get(key)) is not None:
            landed: Word[None] = Word()
            flight.waiting.append(landed)
            await landed
            if flight.fault is not None:
                raise copy(flight.fault) from flight.fault
            if flight.result is not None:
                return flight.result[0]
        flight = self._flights[key] = _Flight()
        try:
            result = await work(*args, **kwargs)
            flight.result = (result,)
        except Unreachable as fault:
            flight.fault = fault
            raise
        finally:
            del self._flights[key]
            for landed in flight.waiting:
                landed.say(None)
        return result


class _Flight(Generic[T]):
    __slots__ = ("fault", "result", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Word[None]] = []
        self.result: tuple[T] | None = None
        self.fault: Unreachable | None = None
