"""What a machine does about its own member: run it, found the zone's cluster with it, ask to join, or begin anew.

A file beside the data (:class:`Mark`) says which life they are of and how far it got; it is written before anything is
done in its name.  Founding is what must never happen twice, so it takes all of this: the machine is the first OOD of
the zone document, it has the zone's state in a file or the owner's permission that has not run out, and no other OOD
knows of a cluster.  A disk that is wiped later has neither of them, and asks to join.

It founds together with those who have asked to join by then, so a zone that is switched on has all its members at once.
With whom is written down first (``Mark.urls``), and by each of them when it hears that it is one, since a cluster
begins as the same one only where all begin it with the same members.  Where most of them have lost what they wrote
down before there ever was a leader, that cluster can have no vote any more, and who waits for it begins anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from zone.etcd.seats import Seat, check_url, owner_of

_MOST: Final = 4096
MOST_CLUSTER: Final = 16
"""Characters of a cluster's id."""
_MOST_MEMBERS: Final = 16
_LIFE: Final = re.compile(r"[0-9a-f]{8}\Z").match


class Stage(StrEnum):
    """How far a life has got."""

    FOUNDING = "founding"
    """It may begin a cluster of its own, until it has."""
    JOINING = "joining"
    """It waits to be added, or was."""
    MEMBER = "member"
    """Its data have been a member: without them, this life is over."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What stands on disk about a life."""

    life: str
    stage: Stage
    cluster: str = ""
    """The cluster that it was last a member of; empty: none yet."""
    urls: tuple[str, ...] = ()
    """The first members of the cluster that is being founded, itself among them; empty: none is, or it is open."""

    def text(self) -> bytes:
        words: dict[str, Json] = {"life": self.life, "stage": str(self.stage), "cluster": self.cluster}
        return write_json(words | ({"urls": list(self.urls)} if self.urls else {}))


def read_mark(untrusted: bytes) -> Mark:
    """Raises ``BadWire``."""
    told = read_object(untrusted[:_MOST], "mark")
    life, stage, cluster = told.get("life"), told.get("stage"), told.get("cluster")
    if not isinstance(cluster, str) or len(cluster) > MOST_CLUSTER:
        raise BadWire("mark: no cluster")
    if not isinstance(life, str) or _LIFE(life) is None or stage not in [str(one) for one in Stage]:
        raise BadWire("mark: no life and stage")
    return Mark(life, Stage(stage), cluster, check_urls(told.get("urls", [])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What another OOD says of the cluster that it is a member of."""

    cluster: str
    """Empty: it is being founded, and nobody knows yet whether it will be."""
    urls: tuple[str, ...]
    """Of all members, learners and such as have not begun too."""
    leads: bool = False
    """It has a leader, or is it."""
    acts: bool = False
    """It is the leader, and has just made sure of it: what it says of the members is so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Start the member: with the data that are there, or with none in a cluster of those members."""

    life: str
    urls: tuple[str, ...] = ()
    """The members that it begins with, itself among them; empty: the data say it."""
    is_new: bool = False
    """The cluster begins with it."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Put away what data there are, and write down a new life."""

    stage: Stage
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Look again later."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Write down that the cluster is founded with these members."""

    urls: tuple[str, ...]
    why: str


Way = Run | Begin | Found | Wait


def way_to_start(
    own: Seat,
    seats: tuple[Seat, ...],
    mark: Mark | None,
    told: Mapping[str, Told | None],
    asked: Mapping[str, str],
    *,
    has_data: bool,
    is_lost: str = "",
    may_found: bool = False,
    is_late: bool = False,
) -> Way:
    """What to do about the member of ``own``.

    ``told``: what the other machines of ``seats`` say, by name; None: that they know of no cluster; absent: nothing.
    ``asked``: the URLs of the members that they have or want to have.
    ``is_lost`` says why the data are of no use any more: the member was removed, or they are damaged.
    ``is_late``: who has not asked by now is not waited for.
    """
    if own not in seats and (is_lost or not has_data):
        return Wait(why=f"{own.name} is no OOD of the zone document")
    clusters = [one for one in told.values() if one is not None and one.cluster]
    # Who leads one says more than who was a member of one.
    known = max(clusters, key=lambda one: (one.leads, bool(one.urls)), default=None)
    if mark is None or is_lost:
        return _first_or_again(own, seats, known, is_lost, may_found=may_found and mark is None)
    if why := abandoned(seats, mark, asked):
        return Begin(stage=mark.stage, why=why)
    if has_data:
        return Run(life=mark.life, why="the data of this life are here")
    if mark.stage is Stage.MEMBER:
        return Begin(stage=Stage.JOINING, why="the data of this life are gone")
    if known is None:
        return _founded(own, seats, mark, told, asked, is_late=is_late)
    url = own.url(mark.life)
    for one in told.values():
        if one is not None and one.cluster and url in one.urls:
            return Run(life=mark.life, urls=one.urls, why=f"a member of cluster {one.cluster}")
    if mark.urls and not known.urls:
        return Wait(why=f"nobody says just now who the members of cluster {known.cluster} are")
    if mark.urls or mark.stage is Stage.FOUNDING:
        return Begin(stage=Stage.JOINING, why=f"there is a cluster already: {known.cluster}")
    return Wait(why=f"not added to cluster {known.cluster} yet")


def _founded(
    own: Seat,
    seats: tuple[Seat, ...],
    mark: Mark,
    told: Mapping[str, Told | None],
    asked: Mapping[str, str],
    *,
    is_late: bool,
) -> Way:
    """Where no cluster is known."""
    if mark.urls:
        return Run(life=mark.life, urls=mark.urls, is_new=True, why="one of the zone's first members")
    url = own.url(mark.life)
    for name, one in told.items():
        if one is not None and url in one.urls:
            return Found(urls=one.urls, why=f"{name} founds the zone's cluster together with this machine")
    if mark.stage is Stage.JOINING:
        return Wait(why="no other OOD says of which cluster to be a member")
    if begun := [name for name, one in told.items() if one is not None]:
        return Wait(why=f"{', '.join(begun)} founds another cluster")
    others = {seat.name: asked.get(seat.name, "") for seat in seats if seat != own}
    missing = [seat.name for seat in seats if seat != own and not seat.owns(others[seat.name])]
    if missing and not is_late:
        return Wait(why=f"{', '.join(missing)}, to be among the first members")
    urls = (url, *(one for name, one in others.items() if name not in missing))
    return Found(urls=urls, why=f"{len(urls)} of {len(seats)} OODs found the zone's cluster")


def _first_or_again(
    own: Seat,
    seats: tuple[Seat, ...],
    known: Told | None,
    is_lost: str,
    *,
    may_found: bool,
) -> Way:
    if is_lost and (known is None or not known.leads):
        return Wait(why=f"{is_lost}; no cluster answers that could replace them: restore a snapshot")
    if is_lost:
        return Begin(stage=Stage.JOINING, why=is_lost)
    if known is None and may_found and own == seats[0]:
        # Others may be out of reach; for them stands the owner's permission.
        return Begin(stage=Stage.FOUNDING, why="the owner permits to found the zone's cluster")
    return Begin(stage=Stage.JOINING, why="this machine has no data yet")


def remembered(mark: Mark | None) -> Told | None:
    """What a machine knows of a cluster while its member does not answer.

    It was a member, so there is one: whoever took silence for none could found a second.
    """
    if mark is None or not (mark.cluster or mark.urls):
        return None
    return Told(cluster=mark.cluster, urls=mark.urls)


def abandoned(seats: tuple[Seat, ...], mark: Mark, asked: Mapping[str, str]) -> str:
    """Why the cluster that is being founded will never be one; empty: it may be.

    While it had no leader nothing was written to it, and with most of its members in other lives it gets none.
    """
    if mark.stage is Stage.MEMBER:
        return ""
    owners = {url: owner_of(url, seats) for url in mark.urls}
    gone = [url for url, seat in owners.items() if seat is None or asked.get(seat.name, url) != url]
    if len(mark.urls) - len(gone) > len(mark.urls) // 2:
        return ""
    return f"the cluster was never founded, and of its members are gone {', '.join(gone)}" if gone else ""


def removed(own: Seat, mark: Mark, told: Mapping[str, Told | None]) -> str:
    """Why the member of ``own``, which knows of no leader, is none any more; empty: it may be one.

    It was removed while nobody could tell it, or the zone goes on as another cluster, from a snapshot.  One that has a
    leader is not asked: a second cluster beside one that lives is somebody's mistake.
    """
    if mark.stage is not Stage.MEMBER:
        return ""
    for name, one in told.items():
        elsewhere = one is not None and mark.cluster not in ("", one.cluster)
        if one is not None and one.acts and (elsewhere or own.url(mark.life) not in one.urls):
            return f"{name} leads cluster {one.cluster}, of which this machine's member is none"
    return ""


def rivals(cluster: str, told: Mapping[str, Told | None]) -> str:
    """Who says that the zone has another cluster that lives beside ``cluster``; empty: nobody."""
    return ", ".join(name for name, one in told.items() if one is not None and one.leads and one.cluster != cluster)


def check_urls(untrusted: Json) -> tuple[str, ...]:
    """The peer URLs of a cluster, as another machine tells them.  Raises ``BadWire``."""
    if not isinstance(untrusted, list) or len(untrusted) > _MOST_MEMBERS:
        raise BadWire(f"members: no list of at most {_MOST_MEMBERS} URLs")
    return tuple(check_url(one) if isinstance(one, str) else check_url("") for one in untrusted)
