"""Tunnels that stand are judged again: a door is no use if whoever came in yesterday stays for good.

There are two occasions.  Something that verdicts rest on has changed (the configuration, a pin, a document): then at
once, and once more when those have come in who stood at the door meanwhile.  And every few minutes, since owners say
new things elsewhere: what was found is good until its facts end, so most of this asks nobody.

A round does not wait for the one before it: some answers are long in coming, and nobody else stays for that.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Generic, TypeVar

import trio

_EVERY: Final = 300.0
_AT_THE_DOOR: Final = 20.0
"""Seconds for which somebody who was judged before the change may still be coming in."""
_AT_ONCE: Final = 32

_Standing = TypeVar("_Standing")

_log = logging.getLogger("cyfs.peers")


class Vigil(Generic[_Standing]):
    """``judge`` is called for each that ``sweep()`` leaves; what either raises is logged and ends nothing.

    Those two are equal (and hash alike) for whom one verdict does; about one of them ``judge`` is asked by one task.
    """

    def __init__(
        self,
        sweep: Callable[[], Awaitable[Iterable[_Standing]]],
        judge: Callable[[_Standing], Awaitable[None]],
    ) -> None:
        self._sweep, self._judge = sweep, judge
        self._doubt = trio.Event()
        self._room = trio.CapacityLimiter(_AT_ONCE)

    def doubt(self) -> None:
        """What was judged by has changed."""
        self._doubt.set()

    async def run(self) -> None:
        """Keep it; until cancelled."""
        pause = _EVERY
        doubted: dict[_Standing, bool] = {}
        """Who is being judged, and whether that was doubted since it began."""
        async with trio.open_nursery() as nursery:
            while True:
                with trio.move_on_after(pause):
                    await self._doubt.wait()
                pause = _AT_THE_DOOR if self._doubt.is_set() else _EVERY
                self._doubt = trio.Event()
                try:
                    left = await self._sweep()
                except Exception:
                    _log.exception("judging tunnels again failed in a way nobody foresaw")
                    continue
                for each in left:
                    if each not in doubted:
                        nursery.start_soon(self._judge_one, each, doubted)
                    doubted[each] = True

    async def _judge_one(self, standing: _Standing, doubted: dict[_Standing, bool]) -> None:
        while doubted[standing]:
            async with self._room:
                doubted[standing] = False
                try:
                    await self._judge(standing)
                except Exception:
                    _log.exception("judging a tunnel again failed in a way nobody foresaw")
        del doubted[standing]
