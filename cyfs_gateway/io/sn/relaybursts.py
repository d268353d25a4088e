"""Bursts: which datagrams can be sent on as one, and which must be taken apart first.

The kernel joins what comes from one address and has one size, and cuts apart what goes to one address in one size.  A
sheaf is what goes to one side of a session in one size, in the order it came; the order within a session is kept,
except around bursts that mix sessions.
"""

from __future__ import annotations

from typing import TypeAlias

from cyfs_gateway.io.sn.relaybatch import MOST_JOINED, MOST_OCTETS
from cyfs_gateway.io.sn.relaydoor import Door
from cyfs_gateway.sn.relay import Side
from rtcp.nat.relaywire import HEADER_SIZE

Piece: TypeAlias = tuple[int, int, int, int, tuple[bytes], tuple[bytes]]
"""Where it lies, octets, size of its datagrams if it is a burst (else 0), slot, whom it is from, its header."""


class Sheaf:
    """Datagrams of one size that go to one side, in their order; after a shorter one nothing is added.

    ``spare``: how many more may be.
    """

    __slots__ = ("places", "segment", "spare", "to")

    def __init__(self, to: Side[Door], place: int, size: int, segment: int) -> None:
        self.to = to
        self.places = [place, size]
        self.segment = segment = segment or size
        self.spare = 0
        if to.joined and size % segment == 0:
            self.spare = max(0, min(MOST_JOINED, MOST_OCTETS // segment) - size // segment)

    def grow(self, place: int, size: int, segment: int) -> bool:
        """Add what came next, if it can be sent along with the rest."""
        own = self.segment
        count = datagrams_in(size, segment)
        if (segment or size) > own or (segment != own and count > 1) or count > self.spare:
            return False
        self.places += (place, size)
        self.spare = 0 if size % own else self.spare - count
        return True


def datagrams_in(size: int, segment: int) -> int:
    return -(-size // segment) if segment else 1


def is_uniform(memory: memoryview, start: int, size: int, segment: int) -> bool:
    """Whether all datagrams of a burst have the same header; none that is shorter than one has."""
    end, count = start + size, datagrams_in(size, segment)
    return all(
        memory[start + at : end : segment].tobytes() == memory[start + at : start + at + 1].tobytes() * count
        for at in range(HEADER_SIZE)
    )


def cut(memory: memoryview, start: int, size: int, segment: int, slot: int, name: bytes) -> list[Piece]:
    """The datagrams of a burst one by one."""
    end = start + size
    return [
        (part, min(segment, end - part), 0, slot, (name,), (memory[part : part + HEADER_SIZE].tobytes(),))
        for part in range(start, end, segment)
    ]
