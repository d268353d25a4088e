"""How much room each has: so that one app, user, device or service cannot fill what all share.

A *plot* is a subtree with a limit of bytes and keys.  A key may lie in more than one (an app's in its user's).  What a
service keeps is below ``data``, apart from ``services``, which many read whole and again and again.  Reports of
instances, which lie where their service is, are no plot: a machine may only report on what it has orders for, shortly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from zone.config.faults import Code, ConfigError
from zone.config.model import Append, Create, Delete, Entry, Set, SetPath, Transaction


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of keys and values, and how many keys."""

    size: int = 0
    keys: int = 0

    def __add__(self, other: Room) -> Room:
        return Room(self.size + other.size, self.keys + other.keys)

    def fits(self, most: Room) -> bool:
        return self.size <= most.size and self.keys <= most.keys


_PLOTS: Final[Mapping[tuple[str, ...], Room]] = {
    ("users", "*"): Room(16 << 20, 16_000),
    ("users", "*", "apps", "*"): Room(2 << 20, 2_000),
    ("users", "*", "agents", "*"): Room(2 << 20, 2_000),
    ("devices", "*"): Room(512 << 10, 256),
    ("nodes", "*", "status"): Room(512 << 10, 256),
    ("data", "*"): Room(8 << 20, 8_000),
}


def plots(key: str) -> Iterator[tuple[str, Room]]:
    """The prefixes of the plots that ``key`` lies in, with what each may hold."""
    segments = key.split("/")
    for pattern, most in _PLOTS.items():
        if len(segments) > len(pattern) and all(
            wanted in ("*", found) for wanted, found in zip(pattern, segments, strict=False)
        ):
            yield "/".join(segments[: len(pattern)]), most


@dataclass(frozen=True, slots=True)
class Charge:
    """What a transaction asks for in one plot."""

    most: Room
    wanted: Room
    """As if every key were new."""
    replaced: frozenset[str]
    """Keys whose present values it does away with."""
    written: frozenset[str]
    """Keys that are there afterwards."""

    def after(self, present: Iterable[Entry]) -> Room:
        """What is there when it is done, ``present`` being what is there now."""
        room = self.wanted
        for entry in present:
            is_kept = entry.key not in self.replaced
            room += Room(_size(entry) if is_kept else 0, int(entry.key not in self.written and is_kept))
        return room


def charges(transaction: Transaction) -> dict[str, Charge]:
    """By plot; those that nothing is added to are left out."""
    found: dict[str, list[Set | Create | Append | SetPath]] = {}
    limits: dict[str, Room] = {}
    done_away: dict[str, set[str]] = {}
    for action in transaction.actions:
        for plot, most in plots(action.key):
            if isinstance(action, Set | Create | Append | SetPath):
                found.setdefault(plot, []).append(action)
                limits[plot] = most
            if isinstance(action, Set | Create | Delete):
                done_away.setdefault(plot, set()).add(action.key)
    return {
        plot: Charge(
            limits[plot],
            Room(
                sum(len(action.value.encode()) for action in actions)
                + sum(map(len, {action.key for action in actions if isinstance(action, Set | Create)})),
                len({action.key for action in actions}),
            ),
            frozenset(done_away.get(plot, ())),
            frozenset(action.key for action in actions),
        )
        for plot, actions in found.items()
    }


def check_room(plot: str, charge: Charge, present: Iterable[Entry]) -> Room:
    """What ``plot`` has after ``charge``.  Raises ``ConfigError`` (``FULL``) if that is too much, and more than now."""
    present = list(present)
    now = Room(sum(map(_size, present)), len(present))
    after = charge.after(present)
    if not after.fits(charge.most) and (after.size > now.size or after.keys > now.keys):
        raise ConfigError(
            Code.FULL, f"{plot} has room for {charge.most.size >> 10} KiB in {charge.most.keys} keys; delete some"
        )
    return after


def _size(entry: Entry) -> int:
    return len(entry.key) + len((entry.value or "").encode())
