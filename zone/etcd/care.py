"""Room in a member's file: when it is defragmented, and when its alarm is taken back.

etcd forgets old revisions by itself, but a file never shrinks: what was forgotten is room inside it.  Beyond the quota
the member raises an alarm, and the whole cluster takes no write until that is taken back, so it must not be done early.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_WORTH: Final = 64 * 1024 * 1024
"""Bytes: a smaller file is not worth the pause."""
_ROOM: Final = 0.8
"""An alarm is taken back when no more than this of the quota is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a member says of its file."""

    size: int
    used: int
    quota: int
    alarm: bool
    """It takes no writes for want of room."""
    leads: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Care:
    """What to do, in this order, and what to tell."""

    compact: bool = False
    """Forget all revisions but the present one."""
    defragment: bool = False
    disarm: bool = False
    why: str = ""


def care_for(room: Room) -> Care:
    """What the member needs now.  Whoever leads is defragmented only when it must be: it answers nobody meanwhile."""
    if room.alarm:
        if room.used > room.quota * _ROOM:
            return Care(
                compact=True,
                why=f"no room for more: {room.used} of {room.quota} bytes are used; delete what is not needed",
            )
        return Care(defragment=room.size > room.quota * _ROOM, disarm=True, why="there is room again, writes are taken")
    if room.size >= _WORTH and room.used * 2 < room.size and not (room.leads and room.size < room.quota // 2):
        return Care(defragment=True, why=f"{room.size - room.used} of {room.size} bytes are empty")
    return Care()
