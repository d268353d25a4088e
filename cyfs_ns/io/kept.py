"""Connections to name servers that outlive the question that opened them.

A connection belongs to no asker: the first may be cancelled while others wait for theirs.  So each lives in a task of
trio's own (a system task), which ends when nothing has been asked for a while, when the server closes, or with the
run.  Askers only put queries in and wait; being cancelled they leave no half-written message behind.

A connection that had served before, or that we let go of, and turns out closed is no failure: the question goes out
again on a fresh one.  So it does when a connection falls silent or takes long to open; but what was asked there stays
asked, for on a slow road the first reply is the one that comes in time.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeAlias

import trio

from cyfs_ns.asking import Asking
from cyfs_ns.errors import BadWire, CyfsError, Unreachable

Opener: TypeAlias = Callable[[], Awaitable[tuple[trio.abc.Stream, Asking]]]
"""Connects, and says what is spoken.  Raises ``CyfsError``, ``OSError`` or ``trio.BrokenResourceError``."""

IDLE = 15.0
"""Seconds without a question before a connection is closed."""

_OPENING = 5.0
_STALLED = 2.0  # seconds without a reply after which a question is asked again
_SILENT = 1.0  # seconds without a byte after which an asker in want of a reply takes the connection for dead
_READ = 65536
_MOST_UNSENT = 1 << 20  # bytes taken in while the other side does not take ours
_MOST_CONNECTIONS = 8
_TRIES = 4
_WHILE_OPENING = 64

_log = logging.getLogger("cyfs.dns")


class Gone(Unreachable):
    """The connection ended before the reply came."""


class Pool:
    """The connections to one server, a few at most: a second one opens only where the first has no room."""

    def __init__(self, opener: Opener, *, idle: float = IDLE) -> None:
        self._opener, self._idle = opener, idle
        self._kept: list[_Kept] = []

    async def ask(self, query: bytes) -> bytes:
        """The reply to a query of id 0, with id 0.  Raises ``CyfsError``."""
        asked: dict[_Waiter, _Kept] = {}
        try:
            for patience in (*(_STALLED,) * (_TRIES - 1), inf):
                kept = self._pick()
                waiter = _Waiter(query)
                asked[waiter] = kept
                kept.take(waiter)
                with trio.move_on_after(patience):
                    reply = await _first_reply(asked)
                    if reply is not None:
                        return reply
                kept.doubt(waiter)
            raise Gone("every connection was closed", "other")
        finally:
            for waiter, kept in asked.items():
                kept.leave(waiter)

    def close(self) -> None:
        for kept in self._kept:
            kept.close()
        self._kept.clear()

    def __len__(self) -> int:
        return sum(not kept.over for kept in self._kept)

    def _pick(self) -> _Kept:
        self._kept = usable = [kept for kept in self._kept if kept.usable]
        best = min(usable, key=lambda kept: kept.load, default=None)
        if best is None or (not best.has_room and len(usable) < _MOST_CONNECTIONS):
            best = _Kept(self._opener, self._idle)
            usable.append(best)
        return best


async def _first_reply(asked: dict[_Waiter, _Kept]) -> bytes | None:
    """The first reply to a question that was asked on each of these connections; None: it is to be asked anew.

    Those that come to nothing leave ``asked``.  Raises what the last of them failed with.
    """
    while True:
        done = trio.Event()
        for waiter, kept in [*asked.items()]:
            result = waiter.result
            if isinstance(result, bytes):
                return result
            if result is None:
                waiter.done = done
                continue
            del asked[waiter]
            if not asked and isinstance(result, Gone) and (kept.answered or kept.let_go):
                return None
            if not asked:
                raise result
        await done.wait()


class _Waiter:
    """A question on one connection."""

    __slots__ = ("begun", "done", "query", "result", "ticket")

    def __init__(self, query: bytes) -> None:
        self.query = query
        self.begun = trio.current_time()
        self.ticket = -1
        self.done: trio.Event | None = None
        self.result: bytes | CyfsError | None = None

    def finish(self, result: bytes | CyfsError) -> None:
        self.result = result
        if self.done is not None:
            self.done.set()


class _Kept:
    """One connection, opened at once in a task of its own."""

    def __init__(self, opener: Opener, idle: float) -> None:
        self._opener, self._idle = opener, idle
        self._asking: Asking | None = None
        self._queue: list[_Waiter] = []
        self._waiting: dict[int, _Waiter] = {}
        self._scope = trio.CancelScope()
        self._wake = trio.Event()
        self._heard = trio.current_time()
        self._unsent, self._sending = 0, False
        self._fault, self._reason = "the connection was closed", "other"
        self._dead = self._silent = False
        self.over = False
        self.let_go = False
        """Closed by us."""
        self.answered = 0
        """Replies that came."""
        trio.lowlevel.spawn_system_task(self._live, name="connection to a name server")

    @property
    def usable(self) -> bool:
        return not (self.over or self._dead or self._silent or (self._asking is not None and self._asking.over))

    @property
    def load(self) -> int:
        return len(self._waiting) + len(self._queue)

    @property
    def has_room(self) -> bool:
        if self._asking is None:  # what it will be able to carry is not known yet
            return len(self._queue) < _WHILE_OPENING
        return self._asking.room > len(self._queue)

    def take(self, waiter: _Waiter) -> None:
        """Ask, until ``waiter`` is finished or leaves."""
        self._queue.append(waiter)
        self._scope.deadline = inf
        self._feed()

    def doubt(self, waiter: _Waiter) -> None:
        """No reply yet, which says something about the connection if nothing else has come either."""
        if waiter.result is None and trio.current_time() - max(waiter.begun, self._heard) > _SILENT:
            self._silent = True

    def leave(self, waiter: _Waiter) -> None:
        """Nobody waits for that any more; harmless when it is finished."""
        if waiter.result is not None:
            return
        if waiter in self._queue:
            self._queue.remove(waiter)
        elif self._waiting.pop(waiter.ticket, None) is not None and self._asking is not None:
            self._asking.forget(waiter.ticket)
            self._wake.set()
        self.doubt(waiter)
        self._rest()

    def close(self) -> None:
        self.let_go = True
        self._scope.cancel()

    def _rest(self) -> None:
        """Nobody waits: the clock of idleness runs."""
        if not self._waiting and not self._queue:
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + self._idle)

    def _feed(self) -> None:
        asking = self._asking
        if asking is None:
            return
        while self._queue and asking.room > 0:
            waiter = self._queue.pop(0)
            try:
                waiter.ticket = asking.ask(waiter.query)
            except BadWire as fault:
                waiter.finish(fault)
                self._dead = True
            else:
                self._waiting[waiter.ticket] = waiter
        self._wake.set()

    async def _live(self) -> None:
        stream: trio.abc.Stream | None = None
        try:
            with self._scope:
                with trio.fail_after(_OPENING):
                    stream, self._asking = await self._opener()
                self._heard = trio.current_time()
                self._feed()
                self._rest()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, stream, self._asking, nursery.cancel_scope)
                    await self._read(stream, self._asking)
                    nursery.cancel_scope.cancel()
        except trio.TooSlowError:
            self._fault, self._reason = f"no connection in {_OPENING:g} s", "connect_timeout"
        except (CyfsError, OSError, trio.BrokenResourceError) as fault:
            self._fault = str(fault) or "the connection broke"
            self._reason = fault.reason if isinstance(fault, Unreachable) else "other"
        except Exception:
            # Nobody is above a system task to catch this, and no server may end the house.
            self._fault = "a fault of our own"
            _log.exception("connection to a name server")
        finally:
            self.over = True
            with trio.CancelScope(shield=True):
                if stream is not None:
                    await trio.aclose_forcefully(stream)
            for waiter in (*self._waiting.values(), *self._queue):
                waiter.finish(Gone(self._fault, self._reason))
            self._waiting.clear()
            self._queue.clear()

    async def _write(self, stream: trio.abc.Stream, asking: Asking, scope: trio.CancelScope) -> None:
        while True:
            self._wake = trio.Event()
            data = asking.data_to_send()
            if not data:
                await self._wake.wait()
                continue
            self._unsent, self._sending = 0, True
            try:
                await stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as fault:
                self._fault = f"connection lost: {fault.__cause__ or fault}"
                scope.cancel()
                return
            self._sending = False

    async def _read(self, stream: trio.abc.Stream, asking: Asking) -> None:
        while True:
            try:
                data = await stream.receive_some(_READ)
                if not data:
                    self._fault = "the server closed the connection"
                    return
                replies = asking.receive(bytes(data))
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as fault:
                self._fault = f"connection lost: {fault.__cause__ or fault}"
                return
            except BadWire as fault:
                self._fault = str(fault)
                return
            self._heard, self._silent = trio.current_time(), False
            for ticket, reply in replies:
                waiter = self._waiting.pop(ticket, None)
                if waiter is not None:
                    self.answered += 1
                    waiter.finish(reply)
            self._unsent += len(data)
            if self._sending and self._unsent > _MOST_UNSENT:
                self._fault = "the server talks and does not listen"
                return
            self._feed()
            self._rest()
            if asking.over and not self._waiting:
                return
