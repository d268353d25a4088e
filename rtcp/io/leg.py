"""A stream of a tunnel as a pipe: records over its connection; and datagrams over such a stream.

The reactor moves the bytes, so everything here is one plain call that does as much as it can.  Both directions pass
through one shared buffer; a stream that is idle holds none.  What a call took and could not send stays here (``unsent``
is true) and blocks further sending, so at most one call's worth of records is held for a peer that does not read.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from cyfs_ns.errors import BadWire, Unreachable
from rtcp.datagrams import MOST_DATAGRAM, DatagramReader, write_datagram
from rtcp.io.pipe import Pipe, break_off
from rtcp.legs import Leg
from rtcp.records import MOST_PLAIN, Spent

_SEND_MOST: Final = 8 * MOST_PLAIN
_READ_SIZE: Final = 8 * (MOST_PLAIN + 18)
_HALF_A_HEAD: Final = b"\0"

_scratch = memoryview(bytearray(_READ_SIZE))
_incoming = memoryview(bytearray(_READ_SIZE))
"""Shared, since nobody awaits between filling and emptying them.  A pipe below may read through the same ones, so
nobody reads from below into one that holds anything (``_may_fill``)."""


class LegPipe:
    """``leg`` over ``lower``, which is taken over.  ``clock`` tells seconds.

    A fault of the peer, and keys that are spent or too old, are ``ConnectionAbortedError``.
    """

    __slots__ = (
        "_brimful",
        "_clock",
        "_early",
        "_ended",
        "_ending",
        "_fault",
        "_finished",
        "_is_lowest",
        "_leg",
        "_lower",
        "_more",
        "_owed",
        "fileno",
    )

    def __init__(self, leg: Leg, lower: Pipe, clock: Callable[[], float]) -> None:
        self._leg, self._lower, self._clock = leg, lower, clock
        self._early = memoryview(b"")
        self._owed = memoryview(leg.preamble)
        self._more = self._brimful = self._ended = self._finished = self._ending = False
        self._is_lowest = isinstance(lower, socket.SocketType)
        self._fault: OSError | None = None
        self.fileno = lower.fileno
        with suppress(OSError):  # whoever uses it next finds out
            self.flush()

    def recv_into(self, buffer: memoryview, /) -> int:
        if self._fault is not None:
            raise self._fault
        got, size = 0, len(buffer)
        try:
            while got < size:
                if not self._early:
                    plain = self._leg.next_data()
                    if plain is None:
                        self._more = False
                        if self._ended or (got and not (self._brimful and self._may_fill(buffer))):
                            break
                        self._pull()
                        continue
                    self._early = memoryview(plain)
                n = min(size - got, len(self._early))
                buffer[got : got + n] = self._early[:n]
                self._early = self._early[n:]
                got += n
                self._more = True
        except BlockingIOError:
            if not got:
                raise
        except OSError as fault:
            self._fault = fault
        except BadWire as bad:
            self._fault = ConnectionAbortedError(str(bad))
        if self._fault is not None:
            if not got:
                raise self._fault
            self._more = True  # what was good comes first
        self._more = self._more or (self._ended and got > 0)  # nobody else will tell of the end
        return got

    def _may_fill(self, buffer: memoryview) -> bool:
        """Whether more may be read from below while ``buffer`` holds something: nothing there reads through it."""
        return self._is_lowest and buffer.obj is not _scratch.obj

    def _pull(self) -> None:
        n = self._lower.recv_into(_scratch)
        self._brimful = n == _READ_SIZE
        self._check_age()
        if n:
            self._leg.receive_data(_scratch[:n])
        else:
            self._leg.receive_eof()
            self._ended = True

    def send(self, data: bytes | memoryview, /) -> int:
        if self._finished:
            raise BrokenPipeError("this side has finished sending")
        if self._owed:
            self.flush()
        self._check_age()
        view, taken = memoryview(data), 0
        while taken < len(view) and not self._owed:
            chunk = view[taken : taken + _SEND_MOST]
            try:
                self._owed = memoryview(self._leg.seal(chunk))
            except Spent as spent:
                raise ConnectionAbortedError(str(spent)) from spent
            taken += len(chunk)
            with suppress(BlockingIOError):
                self.flush()
        return taken

    def _check_age(self) -> None:
        if self._clock() >= self._leg.expires:
            raise ConnectionAbortedError("the keys of this stream are too old")

    def pending(self) -> bool:
        """May be true once too often: what was received can turn out to be half a record."""
        return self._more or self._lower.pending()

    def unsent(self) -> bool:
        return bool(self._owed) or self._lower.unsent()

    def flush(self) -> None:
        while self._owed:
            self._owed = self._owed[self._lower.send(self._owed) :]
        if self._lower.unsent():
            self._lower.flush()
        if self._ending:
            self._ending = False
            self._lower.shutdown_write()

    def shutdown_write(self) -> None:
        if not self._finished:
            self._finished = self._ending = True
            self._owed = memoryview(bytes(self._owed) + self._leg.finish())
            with suppress(BlockingIOError):
                self.flush()

    def break_off(self) -> None:
        """Before ``close``: end inside a record, so that the peer cannot take what it got for all there was.

        What the connection has no room for could be cut between two records, so it is broken off itself.
        """
        if self._finished and not self._ending:
            return
        try:
            self._lower.send(_HALF_A_HEAD)
        except OSError:
            break_off(self._lower)
        else:
            if not self._is_lowest:  # it may drop what it took
                break_off(self._lower)

    def close(self) -> None:
        self._owed = self._early = memoryview(b"")
        self._more = False
        self._lower.close()


class Datagrams:
    """Datagrams both ways over one stream, which is taken over.  Sending drops what does not fit, as UDP does."""

    def __init__(self, stream: Pipe) -> None:
        """``stream`` is closed should there be no more descriptors.  Raises ``Unreachable`` then."""
        self._stream = stream
        self._reader = DatagramReader()
        self._arrived: deque[bytes] = deque()
        try:
            self._epoll = select.epoll(1)
        except OSError as fault:
            stream.close()
            raise Unreachable(f"no datagrams can be carried: {fault}", "other") from fault
        self._events = int(select.EPOLLIN)
        self._epoll.register(stream.fileno(), self._events)
        self._heed()

    def fileno(self) -> int:
        """Readable when ``recv`` has something to do, which may be sending the rest of a datagram."""
        return self._epoll.fileno()

    def recv(self) -> bytes:
        """The next datagram.  Raises ``BlockingIOError``, or another ``OSError`` when the way is gone."""
        try:
            with suppress(BlockingIOError):
                self._stream.flush()
            while not self._arrived:
                self._pull()
            return self._arrived.popleft()
        finally:
            self._heed()

    def _pull(self) -> None:
        n = self._stream.recv_into(_incoming)
        if not n:
            raise ConnectionResetError("the peer ended the datagrams")
        self._reader.receive_data(bytes(_incoming[:n]))
        try:
            while (payload := self._reader.next_datagram()) is not None:
                self._arrived.append(payload)
        except BadWire as bad:
            if not self._arrived:
                raise ConnectionAbortedError(str(bad)) from bad

    def send(self, data: bytes | memoryview) -> None:
        """Send one datagram, or drop it.  Raises ``OSError`` when the way is gone."""
        if len(data) > MOST_DATAGRAM:
            return
        with suppress(BlockingIOError):
            self._stream.flush()
            if not self._stream.unsent():
                self._stream.send(write_datagram(bytes(data)))
        self._heed()

    def _heed(self) -> None:
        """Ask to be woken.  For what has been decrypted already there is no event, but one may always write."""
        at_once = self._stream.unsent() or self._arrived or self._stream.pending()
        events = select.EPOLLIN | (select.EPOLLOUT if at_once else 0)
        if events != self._events and not self._epoll.closed:
            self._events = events
            self._epoll.modify(self._stream.fileno(), events)

    def close(self) -> None:
        self._epoll.close()
        self._arrived.clear()
        self._stream.close()
