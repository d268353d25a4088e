"""Who is to be a member of etcd's cluster: from what its leader knows to the one next step, and why.

Only the leader changes anything, one step at a time, and looks again after each: so a crash at any point leaves a state
from which the next leader goes on.  A machine becomes a member by asking for it, in the life that its data has; that it
asks in another life than that of its member tells that the old data are gone.

* A cluster grows by one learner at a time, which gets a vote when it has caught up.
* Whoever has no seat any more, or comes in a new life, is removed before anybody is added: a key that was replaced
  must not stay, and a dead member counts towards the majority.
* Nothing is done that would leave fewer voters alive than a majority, and a leader never removes itself: it hands over.
* Documents have an order.  A machine with an older one than the membership was last changed by changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from zone.etcd.seats import Seat, owner_of

SILENCE: Final = 10.0
"""Seconds after its last sign of life in which a member counts as alive."""
LEARNER_SILENCE: Final = 60.0
"""Seconds after which a learner that is silent makes room for another machine; etcd has one at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One of the cluster."""

    id: int
    url: str
    is_learner: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the leader knows.  Times are seconds since."""

    seats: tuple[Seat, ...]
    """Who is to have a member, by the document here."""
    document: int
    """The ``iat`` of that."""
    acted_on: int
    """That of the document that the membership was last changed by; 0: never."""
    members: tuple[Member, ...]
    leader: int
    """Id of the member here, which leads; 0: it does not."""
    asked: Mapping[str, str] = field(default_factory=dict)
    """The URL that each machine last asked for or runs, by the name of its seat; the leader's own too."""
    silent: Mapping[str, float] = field(default_factory=dict)
    """How long nothing was heard of the machine, by the URL that it spoke for; absent: never heard of."""
    down: frozenset[str] = frozenset()
    """URLs whose machines say that no member runs there."""
    listening: float = 0.0
    """How long this machine listens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """Nothing is to be done now."""

    settled: bool = False
    """Nothing is missing either."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActOn:
    """Write down that the membership follows this document from now on."""

    document: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddLearner:
    """Add a member without a vote."""

    url: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote:
    """Give a learner its vote, if it has caught up: etcd refuses until then."""

    id: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Remove a member for ever."""

    id: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """Let another member lead."""

    to: int
    why: str


Step = Nothing | ActOn | AddLearner | Promote | Remove | HandOver


def next_step(view: View) -> Step:
    """What to do next."""
    if not view.leader:
        return Nothing(why="another member leads")
    if not view.seats:
        return Nothing(why="the zone document names no OOD")
    if view.document < view.acted_on:
        return Nothing(
            why=f"the zone document here is of {view.document}, the members follow a newer one of {view.acted_on}"
        )
    if view.document > view.acted_on:
        return ActOn(document=view.document, why=f"the zone document is of {view.document}")
    return _removal(view) or _promotion(view) or _addition(view) or _rest(view)


def _removal(view: View) -> Step | None:
    blocked: Step | None = None
    for member in view.members:
        why = _against(member, view)
        if why is None:
            continue
        if member.id == view.leader:
            heirs = [one for one in _voters(view) if _against(one, view) is None and _lives(one, view)]
            if heirs:
                return HandOver(to=heirs[0].id, why=f"the member that leads has to go: {why}")
            # Somebody has to be added first.
            continue
        if member.is_learner or _stands([one for one in _voters(view) if one.id != member.id], view):
            return Remove(id=member.id, why=why)
        blocked = blocked or Nothing(why=f"{why}, but without it too few members would be alive")
    # One that cannot be removed yet may be so when somebody has been added.
    return blocked if blocked is not None and _addition(view) is None and _promotion(view) is None else None


def _against(member: Member, view: View) -> str | None:
    """Why ``member`` is not to stay; None: it is."""
    seat = owner_of(member.url, view.seats)
    if seat is None:
        return f"{member.url} is of no OOD of the zone document"
    asked = view.asked.get(seat.name)
    if asked is not None and asked != member.url and seat.owns(asked):
        return f"{seat.name} begins anew: the data of {member.url} are gone"
    if member.is_learner and view.silent.get(member.url, view.listening) >= LEARNER_SILENCE:
        waiting = [one for one in _wanted(view) if one[0] is not seat]
        if waiting:
            return f"{seat.name} does not come, and {waiting[0][0].name} waits"
    return None


def _promotion(view: View) -> Step | None:
    for member in view.members:
        if member.is_learner and _against(member, view) is None and _lives(member, view):
            seat = owner_of(member.url, view.seats)
            assert seat is not None
            if _stands([*_voters(view), member], view):
                return Promote(id=member.id, why=f"{seat.name} catches up")
            return Nothing(why=f"{seat.name} gets its vote when more members are alive")
    return None


def _addition(view: View) -> Step | None:
    if any(member.is_learner for member in view.members):
        return None
    for seat, url in _wanted(view):
        return AddLearner(url=url, why=f"{seat.name} is an OOD and has no member")
    return None


def _rest(view: View) -> Step:
    missing = [seat.name for seat in view.seats if not any(seat.owns(member.url) for member in view.members)]
    if missing:
        return Nothing(why=f"{', '.join(missing)}: an OOD that has not asked to be a member yet")
    for member in view.members:
        seat = owner_of(member.url, view.seats)
        if seat is None:
            return Nothing(why=f"{member.url} has to go, when another can lead")
        if not _lives(member, view):
            return Nothing(why=f"{seat.name} does not answer")
    return Nothing(settled=True, why=f"{len(view.members)} of {len(view.seats)} OODs are members")


def _wanted(view: View) -> list[tuple[Seat, str]]:
    """Machines that asked to be members and are none in whatever life."""
    return [
        (seat, url)
        for seat in view.seats
        if (url := view.asked.get(seat.name)) is not None
        and seat.owns(url)
        and not any(seat.owns(member.url) for member in view.members)
    ]


def _voters(view: View) -> list[Member]:
    return [member for member in view.members if not member.is_learner]


def _lives(member: Member, view: View) -> bool:
    return member.id == view.leader or (view.silent.get(member.url, SILENCE) < SILENCE and member.url not in view.down)


def _stands(voters: list[Member], view: View) -> bool:
    """Whether those would have a majority that is alive."""
    return sum(_lives(one, view) for one in voters) >= len(voters) // 2 + 1
