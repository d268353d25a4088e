"""The reactor: one trio task that owns one nested epoll and moves the bytes of every flow.

The law is "trio decides, a reactor moves".  trio wakes this task when the nested epoll has anything at all; the task
then drains it with plain non-blocking calls, so the price of a trio wake-up is paid once a batch, not once a read.

Rules for handlers:

* a handler never blocks, never awaits, and does a bounded amount of work, then returns: interest is level-triggered
  (unless it was asked for with EPOLLET), so what it left undone is reported again, behind everybody else;
* an event is a hint: a handler finds out the truth with a non-blocking call and treats ``BlockingIOError`` as "nothing
  after all".  What a batch still holds for a descriptor that was closed in the same batch is dropped, since the number
  may belong to somebody new by then: a hang-up must not end the wrong connection;
* an exception that escapes a handler is our bug: it is logged, that descriptor is forgotten, the others live on.

Time: ``Reactor.now`` is a coarse monotonic clock in seconds, read once per batch.  Deadlines live in a wheel of
quarter-second buckets.  Whoever has one keeps it in its own ``deadline`` attribute and may push it forward by plain
assignment; the wheel looks again when the old one falls due.  Pulling a deadline forward needs ``reschedule``.
"""

from __future__ import annotations

import heapq
import logging
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import trio

READABLE = select.EPOLLIN | select.EPOLLRDHUP
"""Input, or the end of it."""
WRITABLE = select.EPOLLOUT

Handler = Callable[[int], None]

_BATCH = 128
_TURN_SECONDS = 0.004
_TICKS_PER_SECOND = 4

_log = logging.getLogger("cyfs.reactor")


class Perishable(Protocol):
    """Something with a deadline.  ``slot`` belongs to the wheel; 0 means "not in the wheel"."""

    deadline: float
    slot: int

    def expire(self) -> None:
        """The deadline has passed; called once, from the reactor."""


class Reactor:
    """See the module's text.  All methods are for the trio thread only."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._left: set[int] = set()
        """Descriptors given up since the last batch was fetched."""
        self._forks = 0
        self._soon: deque[Callable[[], None]] = deque()
        self._is_moving = False
        """A batch is under way, which ends with what is to be done soon."""
        self._buckets: dict[int, set[Perishable]] = {}
        self._ticks: list[int] = []
        self._alarm: trio.CancelScope | None = None
        self.now = time.monotonic()

    def freshen(self) -> None:
        """Read the clock: for a task that has waited for something else than the reactor."""
        self.now = time.monotonic()

    # Descriptors

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Call ``handler(events)`` whenever ``fd`` is ready; ``events`` may be 0 to hear of errors only."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def rewatch(self, fd: int, events: int) -> None:
        """Change what ``fd`` is watched for."""
        self._epoll.modify(fd, events)

    def rehandle(self, fd: int, handler: Handler) -> None:
        """Hand the events of a watched ``fd`` to another handler from now on."""
        self._handlers[fd] = handler

    def closing(self, fd: int) -> None:
        """``fd`` is about to be closed, which removes it from the epoll by itself; but see :meth:`forking`."""
        if self._forks:
            self.forget(fd)
        elif self._handlers.pop(fd, None) is not None:
            self._left.add(fd)

    @contextmanager
    def forking(self) -> Iterator[None]:
        """Whoever starts a program does it within this, until the program runs.

        A child between fork and exec holds another reference to every socket.  One that is closed meanwhile would stay
        in the epoll, and its hang-up would meet whoever is given its number next.
        """
        self._forks += 1
        try:
            yield
        finally:
            self._forks -= 1

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``, which stays open.  Harmless when it is not watched."""
        if self._handlers.pop(fd, None) is not None:
            self._left.add(fd)
            with suppress(OSError):  # a handler that failed may have closed it already
                self._epoll.unregister(fd)

    def soon(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` in the next batch: for what is ready although no descriptor says so."""
        self._soon.append(callback)
        if self._alarm is not None and not self._is_moving:
            self._alarm.deadline = -float("inf")

    def prompt(self, fd: int, events: int) -> None:
        """Tell whoever watches ``fd`` of ``events`` that epoll does not know of.  Harmless when nobody does.

        To be called from the reactor alone, by ``soon`` if need be, so that no handler runs within another.
        """
        handler = self._handlers.get(fd)
        if handler is not None:
            try:
                handler(events)
            except Exception:
                self._failed(fd)

    def _failed(self, fd: int) -> None:
        _log.exception("a flow handler failed")
        self.forget(fd)

    # Deadlines

    def schedule(self, item: Perishable) -> None:
        """Put ``item`` into the wheel by its ``deadline`` (seconds on the ``now`` clock)."""
        tick = int(item.deadline * _TICKS_PER_SECOND) + 1
        item.slot = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {item}
            heapq.heappush(self._ticks, tick)
            if self._ticks[0] == tick and self._alarm is not None:
                self._alarm.deadline = min(self._alarm.deadline, self._trio_time(tick))
        else:
            bucket.add(item)

    def reschedule(self, item: Perishable) -> None:
        """The item's deadline was pulled forward."""
        self.unschedule(item)
        self.schedule(item)

    def unschedule(self, item: Perishable) -> None:
        """Take ``item`` out of the wheel; harmless when it is not in it."""
        bucket = self._buckets.get(item.slot)
        if bucket is not None:
            bucket.discard(item)
        item.slot = 0

    def _trio_time(self, tick: int) -> float:
        return trio.current_time() + max(0.0, tick / _TICKS_PER_SECOND - time.monotonic())

    def _advance(self) -> None:
        self.now = now = time.monotonic()
        tick = int(now * _TICKS_PER_SECOND)
        while self._ticks and self._ticks[0] <= tick:
            due = heapq.heappop(self._ticks)
            for item in self._buckets.pop(due):
                if item.slot != due:
                    continue  # the end of one before it took this one out
                if item.deadline > now:
                    self.schedule(item)
                    continue
                item.slot = 0
                try:
                    item.expire()
                except Exception:
                    _log.exception("a deadline handler failed")

    async def _keep_time(self) -> None:
        while True:
            with trio.CancelScope() as self._alarm:
                if self._soon:
                    self._alarm.deadline = -float("inf")
                elif self._ticks:
                    self._alarm.deadline = self._trio_time(self._ticks[0])
                await trio.sleep_forever()
            self._advance()
            self._run_soon()

    # The loop

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Move bytes until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_time)
            task_status.started()
            try:
                await self._move()
            finally:
                nursery.cancel_scope.cancel()

    async def _move(self) -> None:
        poll = self._epoll.poll
        handlers = self._handlers
        get = handlers.get
        left = self._left
        clock = time.monotonic
        fd = self._epoll.fileno()
        while True:
            await trio.lowlevel.wait_readable(fd)
            turn_ends = clock() + _TURN_SECONDS
            while (events := poll(0, _BATCH)) or self._soon:
                self.now = now = clock()
                left.clear()
                self._is_moving = True
                for ready, what in events:
                    handler = get(ready)
                    if handler is None or (left and ready in left):
                        continue
                    try:
                        handler(what)
                    except Exception:
                        self._failed(ready)
                if self._soon:
                    self._run_soon()
                self._is_moving = False
                if now > turn_ends:
                    # Bounded turns keep the rest of the house answering while flows are busy.
                    await trio.lowlevel.checkpoint()
                    turn_ends = clock() + _TURN_SECONDS

    def _run_soon(self) -> None:
        for _ in range(len(self._soon)):
            callback = self._soon.popleft()
            try:
                callback()
            except Exception:
                _log.exception("a deferred handler failed")

    def close(self) -> None:
        """Give back the epoll descriptor; nothing may be watched any more."""
        self._handlers.clear()
        self._epoll.close()
