"""What all tunnels of a device hold together, and who gives way when that is too much (§11.1 of the document).

Each tunnel has bounds of its own, but ten thousand times those is more than a machine has.  So each has a *share* in
one ledger.  Bytes that arrive and that are read are counted as they come and go; what is kept for the peer, once in a
turn (``settle``).  When three quarters of the room are taken, windows shrink; when all of it is, the tunnels that hold
most give way, those of nobody's first: ``debtors``.

Windows are promises of room.  Up to ``SMALL`` each stream has its own; all that is larger comes out of one stock.  When
that is used up all shrink as they are renewed, until half of it is back.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nlargest

SMALL = 256 << 10
_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Bytes: ``all`` that is unread or kept, of which the ``anonymous`` have a part; the stock of ``windows``; and what
    is kept in tunnels that are ``held`` without a carrier."""

    all: int = 512 << 20
    anonymous: int = 128 << 20
    windows: int = 256 << 20
    held: int = 64 << 20


class Share:
    """What one tunnel holds.  Made by :meth:`Ledger.open`; ``unread`` is counted by its streams' windows."""

    __slots__ = ("_ledger", "_windows", "anonymous", "held", "holds", "unread")

    def __init__(self, ledger: Ledger, anonymous: bool) -> None:
        self._ledger, self.anonymous = ledger, anonymous
        self.holds = self.held = self.unread = self._windows = 0

    @property
    def is_tight(self) -> bool:
        """Whether so much of the room is taken that nothing should grow."""
        return self._ledger.is_tight(self.anonymous)

    def settle(self, kept: int, *, held: bool) -> bool:
        """``kept`` bytes are held for the peer; ``held``: while there is no way to it.  Whether somebody has to give
        way."""
        holds = kept + self.unread
        if holds == self.holds and not held and not self.held:
            return False
        return self._ledger.settle(self, holds, kept if held else 0)

    def stock(self, has: int, wants: int) -> int:
        """What a window has of the stock that has ``has`` of it and should have ``wants``: that, or nothing."""
        if wants and (self.is_tight or not self._ledger.grants(wants - has)):
            wants = 0
        self._windows += wants - has
        self._ledger.windows += wants - has
        return wants

    def close(self) -> None:
        """The tunnel is over."""
        self._ledger.windows -= self._windows
        self._windows = self.unread = 0
        self._ledger.close(self)


class Ledger:
    """One of a device."""

    def __init__(self, room: Room | None = None) -> None:
        self._room = room or Room()
        self._shares: set[Share] = set()
        self._all = self._anonymous = self._held = 0
        self._held_by: dict[Share, None] = {}
        """The longest held first."""
        self.windows = 0
        self._is_scarce = False

    def open(self, *, anonymous: bool) -> Share:
        """A share for a tunnel."""
        share = Share(self, anonymous)
        self._shares.add(share)
        return share

    @property
    def is_over(self) -> bool:
        """Whether somebody has to give way."""
        room = self._room
        return self._all > room.all or self._anonymous > room.anonymous or self._held > room.held

    def is_tight(self, anonymous: bool) -> bool:
        room = self._room
        return 4 * self._all > 3 * room.all or (anonymous and 4 * self._anonymous > 3 * room.anonymous)

    def grants(self, more: int) -> bool:
        """Whether a window may have ``more`` of the stock than it has, or even keep that."""
        most = self._room.windows
        if self.windows + more > most:
            self._is_scarce = True
        elif 2 * self.windows <= most:
            self._is_scarce = False
        return not self._is_scarce

    def debtors(self) -> list[Share]:
        """Who has to give way now, whoever holds most first; then ask again."""
        room = self._room
        if self._held > room.held:
            return [next(iter(self._held_by))]
        if (excess := self._anonymous - room.anonymous) > 0:
            among = [share for share in self._shares if share.anonymous]
        elif (excess := self._all - room.all) > 0:
            among = [share for share in self._shares if share.holds]
        debtors: list[Share] = []
        if excess > 0:
            for share in nlargest(_AT_ONCE, among, key=lambda share: (share.anonymous, share.holds)):
                debtors.append(share)
                excess -= share.holds
                if excess <= 0:
                    break
        return debtors

    def settle(self, share: Share, holds: int, held: int) -> bool:
        """As :meth:`Share.settle`."""
        more = holds - share.holds
        share.holds = holds
        self._all += more
        if share.anonymous:
            self._anonymous += more
        if held != share.held:
            self._held += held - share.held
            share.held = held
            if not held:
                del self._held_by[share]
            else:
                self._held_by.setdefault(share)
        return self.is_over

    def close(self, share: Share) -> None:
        self.settle(share, 0, 0)
        self._shares.discard(share)
