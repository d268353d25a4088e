"""Light work: a coroutine without a task of its own, until it needs one.

The usual question waits for one datagram and for nothing else; a task, with its scopes and its turns of the scheduler,
would cost as much as all that is decided for it.  So :class:`LightWork` turns such a coroutine itself: on to where it
waits for a :class:`Word`, and on again in the very moment the word is said.

What only a task can do (scopes, nurseries, events, sleep) is preceded by ``await in_task()``: from there on the
coroutine is a task like any other.  In a task ``in_task`` does nothing and a word is waited for as everything is, so
that the same code serves both.

A scope that is opened without ``in_task`` would be left hanging in whichever task turns the work at that moment, if a
word is waited for inside.  Looking for that costs a microsecond a step, so only tests do, by :data:`checked`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from types import coroutine
from typing import Any, Generic, TypeAlias, TypeVar

import trio

from cyfs_ns.errors import Misuse

T = TypeVar("T")
_Work: TypeAlias = Coroutine[Any, Any, None]

checked = False
"""Whether light work that waits within a scope of its own is ended with ``Misuse``."""

_log = logging.getLogger("cyfs.dns")


class _Turning:
    """Whose turn it is in a thread, and who is ready to go on."""

    __slots__ = ("later", "light", "ready")

    def __init__(self) -> None:
        self.light = False
        """Whether what runs now is light work."""
        self.ready: deque[tuple[LightWork, _Work]] = deque()
        self.later: deque[Callable[[], None]] = deque()

    def go_on(self) -> None:
        """Turn all who are ready, and those they make ready, then do what could wait; never one within another."""
        if self.light:
            return
        self.light = True
        ready, later = self.ready, self.later
        try:
            while True:
                if ready:
                    owner, work = ready.popleft()
                    owner.turn(work)
                elif later:
                    what = later.popleft()
                    try:
                        what()
                    except Exception:
                        _log.exception("what an answer did not wait for could not be done")
                else:
                    break
        finally:
            self.light = False


class _Here(threading.local):
    """What belongs to this thread.  To look at it costs more than any other attribute."""

    def __init__(self) -> None:
        self.turning = _Turning()


_here = _Here()


def afterwards(what: Callable[[], None]) -> None:
    """Do what nobody waits for once light work has come as far as it can, in the same turn; in a task, now."""
    turning = _here.turning
    turning.later.append(what)
    if not turning.light:
        turning.go_on()


class Word(Generic[T]):
    """A value, or a fault, that is said once; one coroutine waits for it."""

    __slots__ = ("_fault", "_parked", "_said", "_task")

    def __init__(self) -> None:
        self._said: tuple[T] | None = None
        self._fault: Exception | None = None
        self._parked: tuple[LightWork, _Work] | None = None
        self._task: trio.lowlevel.Task | None = None

    def say(self, value: T) -> None:
        """Whoever waits goes on with ``value``."""
        self._said = (value,)
        self._wake()

    def fail(self, fault: Exception) -> None:
        """In whoever waits ``fault`` is raised."""
        self._fault = fault
        self._wake()

    def __await__(self) -> Generator[Any, Any, T]:
        if self._said is None and self._fault is None:
            if _here.turning.light:
                yield self
            else:
                yield from self._wait().__await__()
        if self._said is None:
            assert self._fault is not None
            raise self._fault
        return self._said[0]

    def park(self, owner: LightWork, work: _Work) -> None:
        """``work`` of ``owner`` waits."""
        self._parked = owner, work

    async def _wait(self) -> None:
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._leave)

    def _wake(self) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None
        elif self._parked is not None:
            turning = self._parked[0].turning
            turning.ready.append(self._parked)
            self._parked = None
            turning.go_on()

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class _NeedsTask:
    def __await__(self) -> Generator[_NeedsTask, None, None]:
        yield self


_NEEDS_TASK = _NeedsTask()


async def in_task() -> None:
    """Be a task from here on."""
    if _here.turning.light:
        await _NEEDS_TASK


@asynccontextmanager
async def light_work() -> AsyncIterator[LightWork]:
    """A place for light work, left when all of it is done; cancelled, it ends all that is not."""
    async with trio.open_nursery() as nursery:
        work = LightWork(nursery)
        try:
            yield work
            await work.wait_done()
        finally:
            work.close()


class LightWork:
    """See :func:`light_work`.  What a coroutine raises is logged and ends only that one."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.turning = _here.turning
        """Of the thread it was made in, which turns it."""
        self._waiting: set[_Work] = set()
        self._closed = False
        self._done: trio.Event | None = None

    def start(self, work: _Work) -> None:
        """Turn ``work``, now, as far as it comes."""
        self.turning.ready.append((self, work))
        self.turning.go_on()

    async def wait_done(self) -> None:
        """Until nothing waits without a task."""
        while self._waiting:
            self._done = trio.Event()
            await self._done.wait()

    def close(self) -> None:
        """End all that waits without a task."""
        self._closed = True
        while self._waiting:
            self._waiting.pop().close()

    def turn(self, work: _Work) -> None:
        """One step of ``work``."""
        self._waiting.discard(work)
        if self._closed:
            work.close()
            return
        try:
            before = _scope() if checked else None
            waits_for = work.send(None)
            waits = isinstance(waits_for, Word)
            if not waits and waits_for is not _NEEDS_TASK:
                work.throw(Misuse("light work waits for what only a task can"))
            elif checked and _scope() is not before:
                work.throw(Misuse("light work waits within a scope: in_task() is missing"))
            elif waits:
                self._waiting.add(work)
                waits_for.park(self, work)
            else:
                self._nursery.start_soon(self._as_task, work)
        except StopIteration:
            pass
        except Exception:
            _log.exception("a question could not be answered")
        if self._done is not None and not self._waiting:
            self._done.set()

    async def _as_task(self, work: _Work) -> None:
        try:
            await _rest(work)
        except Exception:
            _log.exception("a question could not be answered")


def _scope() -> object:
    return trio.lowlevel.current_task()._cancel_status


@coroutine
def _rest(work: _Work) -> Generator[Any, Any, None]:
    """``yield from work``, which a coroutine that has begun does not allow."""
    sent = None
    try:
        while True:
            sent = yield work.send(sent)
    except StopIteration:
        return
    finally:
        work.close()
