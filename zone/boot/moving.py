"""When a document that changes who carries the zone may be in force on this machine: what is lacking until then.

The members of etcd follow the newest document that is known, in force or not (``zone/etcd/membership.py``).  In force
it may be on a machine whose part is done:

* what carries nothing has nothing to move;
* the only OOD has the zone's state in a file, and takes it along as the first member of etcd; before it closes the
  file, so many of the others have to be reached that the zone can be carried with them;
* a member waits until all OODs of the document are members and nobody else is; one that is none of them any more,
  until it was removed.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from cyfs_ns.identity.documents import ZoneDoc
from zone.etcd.seats import Seat, owner_of
from zone.membership import ood_names


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What this machine sees."""

    name: str
    """Its own, in the zone."""
    old: ZoneDoc
    """In force."""
    new: ZoneDoc
    """Ahead."""
    seats: tuple[Seat, ...]
    """Those of ``new``."""
    reached: Set[str] = frozenset()
    """OODs that can be reached now."""
    has_file: bool = False
    """The zone's state is in a file here."""
    members: Sequence[str] = ()
    """The URLs of etcd's members; empty: not known here."""
    has_left: bool = False
    """The member here was removed."""


def lacking(view: View) -> str:
    """What has to be brought about first, for people; empty: the document may be in force."""
    before, after = ood_names(view.old), ood_names(view.new)
    if view.name not in before:
        return ""
    if view.has_file:
        return _to_take_along(view, after)
    if view.name not in after:
        return "" if view.has_left else "the other OODs, to remove the member of etcd here"
    if missing := [seat.name for seat in view.seats if not any(seat.owns(url) for url in view.members)]:
        return f"{', '.join(missing)}, to become a member of etcd"
    if strangers := [url for url in view.members if owner_of(url, view.seats) is None]:
        return f"the other OODs, to remove {', '.join(strangers)}"
    return ""


def _to_take_along(view: View, after: Sequence[str]) -> str:
    if not after or after[0] != view.name:
        return f"its owner: {view.name} has the zone's state, and has to stay the first OOD"
    others = [name for name in after if name != view.name]
    missing = [name for name in others if name not in view.reached]
    least = (len(others) + 1) // 2
    still = least - (len(others) - len(missing))
    return f"{still} of {', '.join(missing)}, to carry the zone together with {view.name}" if still > 0 else ""
