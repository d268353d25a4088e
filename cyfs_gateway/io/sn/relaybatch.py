"""Datagrams for a relay by the batch: taken in by ``recvmmsg``, sent on from where they lie by ``sendmmsg``.

What comes lies in slots, each with room for the largest datagram, or for a burst that the kernel joined (``UDP_GRO``):
datagrams of one sender and one size, the last of them perhaps shorter.  What goes is told as groups: places in the
slots that go to one address in one size, so that the kernel cuts them apart at the very end (``UDP_SEGMENT``) and a
burst costs one walk through its network code.  Nothing is copied in between; the kernel is given the addresses of the
octets.

The calls keep the interpreter's lock (``PyDLL``), as in :mod:`cyfs_ns.io.mmsg`: they never wait.

Linux on 64 bits only: the layout of ``struct mmsghdr`` is written down here.
"""

from __future__ import annotations

import ctypes
import errno
import socket
from array import array
from collections.abc import Iterator, Sequence
from struct import Struct

from rtcp.nat.relaywire import HEADER_SIZE

SLOTS = 64
MOST_JOINED = 64
"""Datagrams that every kernel with ``UDP_SEGMENT`` takes as one."""
MOST_OCTETS = 65000
"""Octets of one group; the kernel's own limit is that of one datagram, headers included."""

_ROOM = 65536
_STRIDE = _ROOM + 64  # not a power of two: slots would share the cache's few ways
_HEADER, _VECTOR, _NAME, _CONTROL = 64, 16, 32, 96  # octets of each slot's parts
_MMSGHDR = Struct("=QIxxxxQQQQixxxxIxxxx")  # name, its size, vector, how many, control, its size, flags; octets came
_PAIR = Struct("=QQ")
_CAME_AT = 56
_DONT_WAIT = int(socket.MSG_DONTWAIT)

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_JOINED = _SOL_UDP | _UDP_GRO << 32
"""Level and type of an ancillary message, read as one number."""
_SEGMENT_SIZE = Struct("=QiiHxxxxxx")
_CMSG_HEADER = Struct("=Qii")

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.recvmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]
_libc.sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]


def join_bursts(sock: socket.socket) -> None:
    """Have the kernel join what comes in one burst.  Kernels before 5.0 do not, and all goes one by one."""
    try:
        sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
    except OSError as fault:
        if fault.errno != errno.ENOPROTOOPT:
            raise


class Inbox:
    """The slots of one socket.  Octets of slot ``i`` are ``memory[starts[i] :]``, at the address ``at + starts[i]``."""

    def __init__(self, family: int) -> None:
        vectors_at = SLOTS * _HEADER
        controls_at = vectors_at + SLOTS * _VECTOR
        names_at = controls_at + SLOTS * _CONTROL
        self._block = bytearray(names_at + SLOTS * _NAME)
        arena = bytearray(SLOTS * _STRIDE)
        block_at, self.at = _address(self._block), _address(arena)
        for slot in range(SLOTS):
            _MMSGHDR.pack_into(
                self._block,
                slot * _HEADER,
                block_at + names_at + slot * _NAME,
                _NAME,
                block_at + vectors_at + slot * _VECTOR,
                1,
                block_at + controls_at + slot * _CONTROL,
                _CONTROL,
                0,
                0,
            )
            _PAIR.pack_into(self._block, vectors_at + slot * _VECTOR, self.at + slot * _STRIDE, _ROOM)
        view = memoryview(self._block)
        self._template = bytes(view[:names_at])
        self._resettable = view[:names_at]
        self._came = view[:vectors_at].cast("I")[_CAME_AT // 4 :: _HEADER // 4]
        controls = view[controls_at:names_at]
        self._kinds = controls.cast("Q")[1 :: _CONTROL // 8]
        self._segments = controls.cast("I")[4 :: _CONTROL // 4]
        self._controls = controls
        self._names = view[names_at:]
        size = 28 if family == socket.AF_INET6 else 16
        self._unpack_names = Struct(f"{size}s{_NAME - size}x").iter_unpack
        self._unpack_heads = Struct(f"{HEADER_SIZE}s{_STRIDE - HEADER_SIZE}x").iter_unpack
        self._block_at = block_at
        self.memory = memoryview(arena)
        self.starts = [slot * _STRIDE for slot in range(SLOTS)]

    def receive(self, fd: int) -> int:
        """Take what is there, ``SLOTS`` datagrams or bursts at most; 0: nothing.  Raises ``OSError``."""
        self._resettable[:] = self._template
        count: int = _libc.recvmmsg(fd, self._block_at, SLOTS, _DONT_WAIT, None)
        if count >= 0:
            return count
        code = ctypes.get_errno()
        if code in (errno.EAGAIN, errno.EINTR):
            return 0
        raise OSError(code, "cannot receive")

    def sizes(self, count: int) -> list[int]:
        """Octets in the first ``count`` slots."""
        return self._came[:count].tolist()

    def joined(self, count: int) -> list[int]:
        """Of each of the first ``count``: the size of its datagrams if it is a burst, else 0."""
        kinds = self._kinds[:count].tolist()
        if _JOINED not in kinds:
            return [0] * count
        segments = self._segments[:count].tolist()
        return [segment if kind == _JOINED else 0 for kind, segment in zip(kinds, segments, strict=True)]

    def names(self, count: int) -> Iterator[tuple[bytes]]:
        """Whom the first ``count`` are from: ``sockaddr_in`` or ``sockaddr_in6``, each in a tuple."""
        return self._unpack_names(self._names[: count * _NAME])

    def heads(self, count: int) -> Iterator[tuple[bytes]]:
        """The first octets of the first ``count``, each in a tuple.  What lies behind a shorter datagram is older."""
        return self._unpack_heads(self.memory[: count * _STRIDE])

    def pktinfo(self, slot: int) -> bytes:
        """``IP_PKTINFO`` or ``IPV6_PKTINFO`` of a slot, behind the size of a burst if there is one; else empty."""
        at = slot * _CONTROL
        if self._kinds[slot] == _JOINED:
            at += _SEGMENT_SIZE.size
        size, level, _ = _CMSG_HEADER.unpack_from(self._controls, at)
        if level not in (socket.IPPROTO_IP, socket.IPPROTO_IPV6) or size < _CMSG_HEADER.size:
            return b""
        return bytes(self._controls[at + _CMSG_HEADER.size : at + size])


Group = tuple[int, bytes, bytes, int, Sequence[int]]
"""Descriptor to send by; address; ancillary data; size of the datagrams if they are several, else 0; and where they
lie: address and octets of each place, one after the other."""


class Outbox:
    """What is to be sent, ``SLOTS`` groups at a time."""

    def __init__(self) -> None:
        vectors_at = SLOTS * _HEADER
        names_at = vectors_at + SLOTS * MOST_JOINED * _VECTOR
        controls_at = names_at + SLOTS * _NAME
        self._block = bytearray(controls_at + SLOTS * _CONTROL)
        view = memoryview(self._block)
        self._vectors = view[vectors_at:names_at].cast("Q")
        self._block_at = _address(self._block)
        self._vectors_at, self._names_at, self._controls_at = vectors_at, names_at, controls_at
        self._segments: dict[int, bytes] = {}

    def send(self, groups: Sequence[Group]) -> list[tuple[int, int]]:
        """Send ``SLOTS`` groups at most; of those that could not be sent: which, and why (``errno``).

        What cannot be sent is skipped: an address out of reach must not cost the others their datagrams.
        """
        block, block_at = self._block, self._block_at
        places: list[int] = []
        for index, (_, name, control, segment, where) in enumerate(groups):
            name_at = self._names_at + index * _NAME
            block[name_at : name_at + len(name)] = name
            control_at = self._controls_at + index * _CONTROL
            if segment:
                control += self._segment(segment)
            if control:
                block[control_at : control_at + len(control)] = control
            _MMSGHDR.pack_into(
                block,
                index * _HEADER,
                block_at + name_at,
                len(name),
                block_at + self._vectors_at + len(places) * 8,
                len(where) // 2,
                block_at + control_at if control else 0,
                len(control),
                0,
                0,
            )
            places += where
        self._vectors[: len(places)] = memoryview(array("Q", places))
        failed: list[tuple[int, int]] = []
        first = 0
        while first < len(groups):
            fd = groups[first][0]
            end = first + 1
            while end < len(groups) and groups[end][0] == fd:
                end += 1
            while first < end:
                sent: int = _libc.sendmmsg(fd, block_at + first * _HEADER, end - first, _DONT_WAIT)
                if sent <= 0:
                    failed.append((first, ctypes.get_errno()))
                    sent = 1
                first += sent
        return failed

    def _segment(self, size: int) -> bytes:
        told = self._segments.get(size)
        if told is None:
            if len(self._segments) >= 2048:
                self._segments.clear()
            told = self._segments[size] = _SEGMENT_SIZE.pack(_CMSG_HEADER.size + 2, _SOL_UDP, _UDP_SEGMENT, size)
        return told


def pktinfo_message(family: int, pktinfo: bytes) -> bytes:
    """Ancillary data that sends from the address ``pktinfo`` says was asked, by whatever way leads to the peer."""
    if not pktinfo:
        return b""
    if family == socket.AF_INET6:
        level, kind, data = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, pktinfo[:16] + bytes(4)
    else:
        level, kind, data = socket.IPPROTO_IP, _IP_PKTINFO, bytes(4) + pktinfo[4:12]
    message = _CMSG_HEADER.pack(_CMSG_HEADER.size + len(data), level, kind) + data
    return message + bytes(-len(message) % 8)


_IP_PKTINFO = 8


def _address(buffer: bytearray) -> int:
    """Where ``buffer`` lies: for as long as a view over it keeps it from being resized."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
