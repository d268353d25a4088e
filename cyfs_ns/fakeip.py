"""Addresses that stand for names: what a client is told to connect to, so that the gateway learns the name.

One mapping is a *slot*: slot n is the n-th usable address of the IPv4 prefix and of the IPv6 prefix alike, so a name
has one place in both.  The first four addresses of a prefix are never handed out (mihomo's clients expect the second
to be the gateway), nor is the last.

A full pool takes the slot that no flow used for longest.  Asking is no use: programs that only look names up do not
push out those that connect.  But a slot that was told to somebody within ``KEEP`` seconds is passed over while there is
another, or two names would share an address in some program's hands.

Nothing here touches a disk: :meth:`FakePool.take` returns what has to be written down before the answer leaves.  Time
is handed in, in seconds of the wall clock, since mappings outlive the machine.
"""

from __future__ import annotations

import ipaddress
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from cyfs_ns.errors import ConfigFault, Misuse

FIRST = 4
"""Offset of the first usable address of a prefix."""

KEEP = 600
"""Seconds for which a told address stays with its name if it can."""

MAX_SLOTS = 1 << 20

_CHANCES = 16  # slots looked at for one that nobody was told of lately


@dataclass(frozen=True, slots=True)
class Taken:
    """The slot of a name."""

    slot: int
    is_new: bool
    """It has to be written down before anybody is told."""
    evicted: str = ""
    """The name that had it before."""
    told: int = 0
    """When somebody was last told that it was that name's."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """The prefixes of a pool, each perhaps absent."""

    v4: ipaddress.IPv4Network | None
    v6: ipaddress.IPv6Network | None

    @property
    def slots(self) -> int:
        """How many names fit."""
        sizes = [prefix.num_addresses - FIRST - 1 for prefix in (self.v4, self.v6) if prefix is not None]
        return max(0, min(sizes, default=0))

    def addresses(self, slot: int) -> tuple[str, str]:
        """The IPv4 and the IPv6 address of a slot; empty where there is no prefix."""
        v4 = str(self.v4.network_address + FIRST + slot) if self.v4 is not None else ""
        v6 = str(self.v6.network_address + FIRST + slot) if self.v6 is not None else ""
        return v4, v6

    def slot(self, address: str) -> int | None:
        """The slot an address belongs to, whether taken or not; None for one that is never handed out."""
        try:
            given = ipaddress.ip_address(address)
        except ValueError:
            return None
        prefix = self.v4 if given.version == 4 else self.v6
        if prefix is None or given not in prefix:
            return None
        slot = int(given) - int(prefix.network_address) - FIRST
        return slot if 0 <= slot < min(self.slots, MAX_SLOTS) else None

    def __contains__(self, address: str) -> bool:
        try:
            given = ipaddress.ip_address(address)
        except ValueError:
            return False
        prefix = self.v4 if given.version == 4 else self.v6
        return prefix is not None and given in prefix

    def __str__(self) -> str:
        return " ".join(str(prefix) for prefix in (self.v4, self.v6) if prefix is not None)


def ranges(v4: str, v6: str) -> Ranges:
    """Prefixes as the configuration writes them (``198.18.0.1/16``).  Raises ``ConfigFault`` when nothing fits in."""
    found = Ranges(
        ipaddress.IPv4Network(v4, strict=False) if v4 else None,
        ipaddress.IPv6Network(v6, strict=False) if v6 else None,
    )
    if found.slots < 1:
        raise ConfigFault(f"no fake address fits into {found}: use at least a /29")
    return found


class FakePool:
    """Names and their slots, both ways in one step."""

    __slots__ = ("_capacity", "_names", "_newer", "_older", "_slots", "_told")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise Misuse("a pool needs room for one name")
        self._capacity = min(capacity, MAX_SLOTS)
        self._slots: dict[str, int] = {}
        self._names: list[str] = []
        self._told = array("Q")  # when each slot was last told, whole seconds
        # A ring of slots by use: the entry behind the last slot's is the ring's head, its newer is the oldest slot.
        self._newer = array("I", (0,))
        self._older = array("I", (0,))

    def __len__(self) -> int:
        return len(self._slots)

    def take(self, name: str, now: float) -> Taken:
        """The slot of a canonical name, a new one if it has none."""
        slot = self._slots.get(name)
        if slot is not None:
            self._told[slot] = int(now)
            return Taken(slot, is_new=False)
        evicted, told = "", 0
        if len(self._names) < self._capacity:
            slot = len(self._names)
            self._names.append("")
            self._told.append(0)
            self._newer.append(0)
            self._older.append(0)
        else:
            slot = self._least_used(int(now) - KEEP)
            evicted, told = self._names[slot], self._told[slot]
            if evicted:
                del self._slots[evicted]
            self._unlink(slot)
        self._names[slot] = name
        self._slots[name] = slot
        self._told[slot] = int(now)
        self._link(slot)
        return Taken(slot, is_new=True, evicted=evicted, told=told)

    def give_back(self, name: str, taken: Taken) -> None:
        """Undo the last :meth:`take`, which gave ``name`` a new slot: it could not be written down."""
        slot = taken.slot
        del self._slots[name]
        self._unlink(slot)
        if not taken.evicted and slot == len(self._names) - 1:
            for column in (self._names, self._told, self._newer, self._older):
                column.pop()
            return
        self._names[slot] = taken.evicted
        self._told[slot] = taken.told
        if taken.evicted:
            self._slots[taken.evicted] = slot
        self._link(slot, oldest=True)

    def name(self, slot: int) -> str:
        """The name that has a slot, or empty."""
        return self._names[slot] if slot < len(self._names) else ""

    def told(self, slot: int) -> int:
        """When a slot was last told, whole seconds; 0: never."""
        return self._told[slot] if slot < len(self._told) else 0

    def slot(self, name: str) -> int | None:
        """The slot of a name, if it has one."""
        return self._slots.get(name)

    def use(self, slot: int) -> None:
        """A flow goes to this slot."""
        if slot < len(self._names):
            self._unlink(slot)
            self._link(slot)

    def restore(self, slot: int, name: str, told: float) -> None:
        """Put back what was written down; later calls count as later uses, and the last word on a slot or name wins."""
        if slot >= self._capacity or not name:
            return
        # Slots that were never written down stand empty, as the least used of all.
        for empty in range(len(self._names), slot + 1):
            self._names.append("")
            self._told.append(0)
            self._newer.append(0)
            self._older.append(0)
            self._link(empty, oldest=True)
        before = self._slots.get(name)
        if before is not None and before != slot:
            self._names[before] = ""
        holder = self._names[slot]
        if holder and holder != name:
            del self._slots[holder]
        self._names[slot] = name
        self._slots[name] = slot
        self._told[slot] = int(told)
        self.use(slot)

    def clear(self) -> None:
        """Forget every mapping."""
        fresh = FakePool(self._capacity)
        for attribute in ("_slots", "_names", "_told", "_newer", "_older"):
            setattr(self, attribute, getattr(fresh, attribute))

    def by_use(self) -> Iterator[tuple[int, str, int]]:
        """(slot, name, when last told), the least used first."""
        at = self._newer[0]
        while at:
            slot = at - 1
            if self._names[slot]:
                yield slot, self._names[slot], self._told[slot]
            at = self._newer[at]

    def snapshot(self) -> FakePool:
        """A copy to read :meth:`by_use` from, whatever happens to this pool meanwhile; good for nothing else."""
        copy = FakePool(self._capacity)
        copy._names, copy._told, copy._newer = list(self._names), self._told[:], self._newer[:]
        return copy

    # The ring counts from one: its entry 0 is the head.

    def _least_used(self, told_before: int) -> int:
        first = at = self._newer[0]
        for _ in range(_CHANCES):
            if not at:
                break
            if self._told[at - 1] <= told_before:
                return at - 1
            at = self._newer[at]
        return first - 1

    def _link(self, slot: int, *, oldest: bool = False) -> None:
        at = slot + 1
        before = 0 if oldest else self._older[0]
        after = self._newer[before]
        self._older[at], self._newer[at] = before, after
        self._newer[before] = self._older[after] = at

    def _unlink(self, slot: int) -> None:
        at = slot + 1
        self._newer[self._older[at]] = self._newer[at]
        self._older[self._newer[at]] = self._older[at]
