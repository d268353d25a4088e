"""Datagrams by the batch: ``recvmmsg`` and ``sendmmsg`` over one block of memory that is laid out once.

A batch has ``SLOTS`` slots.  A datagram is answered in the slot it came in: the answer is written over the question
behind the id, the slot's length is changed, and the very header that received it, with the client's address and, on
wildcard sockets, the address that was asked, sends it.  What the kernel changed in the headers is put back with one
copy for all slots that were in use.

The calls keep the interpreter's lock (``PyDLL``): they never wait, and giving the lock away would let any busy thread
keep it for a whole switch interval (5 ms) in the middle of a batch.

Linux on 64 bits only: the layout of ``struct mmsghdr`` is written down here.
"""

from __future__ import annotations

import ctypes
import errno
import socket
from collections.abc import Iterator
from struct import Struct

SLOTS = 64
ROOM = 4096
"""Octets a slot can hold, coming and going."""

_STRIDE = ROOM + 64  # not a power of two: slots would share the cache's few ways
_HEADER, _VECTOR, _NAME, _CONTROL = 64, 16, 32, 64  # octets of each slot's parts
_MMSGHDR = Struct("=QIxxxxQQQQixxxxIxxxx")  # name, its size, vector, how many, control, its size, flags; octets came
_IOVEC = Struct("=QQ")
_NAME_SIZE_AT, _CONTROL_SIZE_AT, _CAME_AT = 8, 40, 56
_NATIVE_INT = Struct("=I")
_DONT_WAIT = int(socket.MSG_DONTWAIT)

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.recvmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]
_libc.sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]


class Batch:
    """The slots of one datagram socket.

    Octets of slot ``i`` are ``memory[starts[i] :]``; an answer of ``n`` octets there is announced by
    ``lengths[vectors[i]] = n``.  ``control``: with the ancillary data of each datagram (``IP_PKTINFO``).
    """

    def __init__(self, family: int, *, control: bool) -> None:
        headers = SLOTS * _HEADER
        names_at = headers + SLOTS * _VECTOR
        controls_at = names_at + SLOTS * _NAME
        self._block = bytearray(controls_at + SLOTS * _CONTROL)
        arena = bytearray(SLOTS * _STRIDE)
        block_at, arena_at = _address(self._block), _address(arena)
        for slot in range(SLOTS):
            _MMSGHDR.pack_into(
                self._block,
                slot * _HEADER,
                block_at + names_at + slot * _NAME,
                _NAME,
                block_at + headers + slot * _VECTOR,
                1,
                block_at + controls_at + slot * _CONTROL if control else 0,
                _CONTROL if control else 0,
                0,
                0,
            )
            _IOVEC.pack_into(self._block, headers + slot * _VECTOR, arena_at + slot * _STRIDE, ROOM)
        view = memoryview(self._block)
        self._fresh_headers, self._fresh_vectors = bytes(view[:headers]), bytes(view[headers:names_at])
        self._headers, self._vectors = view[:headers], view[headers:names_at]
        self._used = 0
        """Slots that are not as they were laid out, the first ones."""
        self._names = view[names_at:controls_at]
        self._came = view[:headers].cast("I")[_CAME_AT // 4 :: _HEADER // 4]
        packed = Struct("8x16s8x" if family == socket.AF_INET6 else "4x4s24x")
        self._unpack_addresses = packed.iter_unpack
        # Octets of the interface's index in in_pktinfo and in6_pktinfo, behind 16 of cmsghdr.
        index_at = 16 + (16 if family == socket.AF_INET6 else 0)
        self._interfaces = view[controls_at:].cast("I")[index_at // 4 :: _CONTROL // 4] if control else None
        self._block_at = block_at
        self._names_at, self._controls_at = names_at, controls_at
        self.memory = memoryview(arena)
        self.starts = [slot * _STRIDE for slot in range(SLOTS)]
        self.lengths = view[headers:names_at].cast("Q")
        self.vectors = [slot * 2 + 1 for slot in range(SLOTS)]

    def receive(self, fd: int) -> int:
        """Take what is there, ``SLOTS`` datagrams at most; 0: nothing.  Raises ``OSError``."""
        if used := self._used:
            self._headers[: used * _HEADER] = self._fresh_headers[: used * _HEADER]
            self._vectors[: used * _VECTOR] = self._fresh_vectors[: used * _VECTOR]
        count: int = _libc.recvmmsg(fd, self._block_at, SLOTS, _DONT_WAIT, None)
        if count >= 0:
            self._used = count
            return count
        self._used = 0
        code = ctypes.get_errno()
        if code in (errno.EAGAIN, errno.EINTR):
            return 0
        raise OSError(code, "cannot receive")

    def sizes(self, count: int) -> list[int]:
        """Octets of the first ``count`` datagrams."""
        return self._came[:count].tolist()

    def addresses(self, count: int) -> Iterator[tuple[bytes]]:
        """The clients' addresses of the first ``count``: 4 or 16 octets, each in a tuple (which is what is cheap)."""
        return self._unpack_addresses(self._names[: count * _NAME])

    def sender(self, slot: int) -> bytes:
        """The whole socket address (``sockaddr_in`` or ``sockaddr_in6``) slot's datagram came from."""
        at = self._names_at + slot * _NAME
        return bytes(self._block[at : at + _NATIVE_INT.unpack_from(self._block, slot * _HEADER + _NAME_SIZE_AT)[0]])

    def control(self, slot: int) -> bytes:
        """The ancillary data of slot's datagram."""
        at = self._controls_at + slot * _CONTROL
        return bytes(self._block[at : at + _NATIVE_INT.unpack_from(self._block, slot * _HEADER + _CONTROL_SIZE_AT)[0]])

    def send(self, fd: int, first: int, count: int) -> int:
        """Send the answers in ``count`` slots from ``first`` on; how many could not be sent.

        What cannot be sent is skipped: a client that is out of reach must not cost the others their answers.
        """
        if self._interfaces is not None:
            # The address that was asked shall answer, by whatever way leads to the client.
            self._interfaces[first : first + count] = _NO_INTERFACES[:count]
        failed = 0
        while count:
            sent: int = _libc.sendmmsg(fd, self._block_at + first * _HEADER, count, _DONT_WAIT)
            if sent < 0:
                if ctypes.get_errno() in (errno.EAGAIN, errno.ENOBUFS):
                    return failed + count
                failed += 1
                sent = 1
            first += sent
            count -= sent
        return failed


_NO_INTERFACES = memoryview(bytes(SLOTS * 4)).cast("I")


def _address(buffer: bytearray) -> int:
    """Where ``buffer`` lies: for as long as a view over it keeps it from being resized."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
