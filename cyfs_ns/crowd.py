"""How many may be connected, and who has to go when one more comes (RFC 7766 section 6.2.3).

A crowd has two limits: of all, and of one client, so that a single address cannot fill the house.  At a limit the
member that has been quiet for longest makes room, if it is idle; if nobody is, the newcomer is turned away, for whoever
is being served has waited longer.  As the crowd grows past its half, quiet members are sent home earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

Member = TypeVar("Member", bound=Hashable)

_SHORTEST = 1.0
"""Seconds of quiet that are allowed even in the thickest crowd."""


def client_prefix(packed: bytes) -> bytes:
    """Whom an address counts for: IPv4 itself, IPv6 its /64, which is what one host can choose from freely."""
    return packed[:8] if len(packed) == 16 else packed


class Crowd(Generic[Member]):
    """See the module's text.  ``idle`` tells whether a member could go without loss."""

    def __init__(self, most: int, most_of_one: int, idle: Callable[[Member], bool]) -> None:
        self._most, self._most_of_one, self._idle = most, most_of_one, idle
        self._members: dict[Member, bytes] = {}  # quietest first
        self._of_one: dict[bytes, dict[Member, None]] = {}  # the same order

    def __len__(self) -> int:
        return len(self._members)

    def admit(self, member: Member, prefix: bytes) -> tuple[bool, Member | None]:
        """Take ``member`` in, or not; and who must be sent home for it, already out of the count."""
        same = self._of_one.get(prefix, {})
        leaver = None
        if len(same) >= self._most_of_one:
            leaver = self._quietest(same)
        elif len(self._members) >= self._most:
            leaver = self._quietest(self._members)
        else:
            self._add(member, prefix)
            return True, None
        if leaver is None:
            return False, None
        self.leave(leaver)
        self._add(member, prefix)
        return True, leaver

    def _add(self, member: Member, prefix: bytes) -> None:
        self._members[member] = prefix
        self._of_one.setdefault(prefix, {})[member] = None

    def _quietest(self, members: Iterable[Member]) -> Member | None:
        return next((member for member in members if self._idle(member)), None)

    def quietest(self) -> Member | None:
        """Who would go first, whatever the limits."""
        return self._quietest(self._members)

    def heard(self, member: Member) -> None:
        """``member`` has just shown life."""
        prefix = self._members.pop(member, None)
        if prefix is not None:
            self._members[member] = prefix
            same = self._of_one[prefix]
            del same[member]
            same[member] = None

    def leave(self, member: Member) -> None:
        """``member`` is gone; harmless when it was not in."""
        prefix = self._members.pop(member, None)
        if prefix is not None:
            same = self._of_one[prefix]
            del same[member]
            if not same:
                del self._of_one[prefix]

    def patience(self, idle: float) -> float:
        """How long, in seconds, quiet is allowed now when ``idle`` is allowed in an empty house."""
        free = 1 - len(self._members) / self._most
        return max(min(idle, _SHORTEST), idle * min(1.0, 2 * free))
