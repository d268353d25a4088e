"""What this machine believes of its zone's document, and what another one that was found is to it.

One document is *in force*: routes, members and rights go by it.  A newer one takes its place by itself only where
nothing depends on it that has to be moved first.  Where OODs change, the members of the store have to change one by one
before the document may be in force: until then it is *ahead*, which is enough to refuse whom it refuses.  Nothing ever
goes back: the newest that was ever believed is the mark, and what is kept on disk keeps it.

``booted`` says that this zone was up here before, so that a store that is empty now is one that was lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.documents import DeviceDoc, ZoneBoot, ZoneDoc
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.proof import verify
from cyfs_ns.identity.revision import Change, Revision, judge, revision_of
from cyfs_ns.identity.strictjson import read_object, write_json
from cyfs_ns.identity.token import MOST_TOKEN, Token, read_token
from zone.membership import Membership, Role, ood_names, read_zone, role_of, stranger

KIND: Final = "last-known-good"
REPLACES: Final = "replaces"
"""What a device's document has when the machine took the place of another: that one's key."""
FOUNDS: Final = "founds"
"""What the document of a zone's first machine has: until when, in seconds since 1970, it may found the zone's cluster.

Later a machine that knows of no zone has lost what it knew, and asks the others.
"""
MOST_KNOWN: Final = 2 * MOST_TOKEN + 1024
"""Bytes of the longest that is read."""


class Finding(Enum):
    """What a document is to the one in force."""

    SAME = "the one in force"
    COMPATIBLE = "newer, and in force from now on"
    ROLLBACK = "older than one that was believed: refused"
    CONFLICT = "other content signed for the same second: refused"
    CONSENSUS_MODEL = "newer; the zone changes between one OOD and several, which has to be done first"
    MEMBERS = "newer; other machines carry the zone, which has to be brought about first"
    ROLE = "newer; this machine begins or ceases to carry the zone, which has to be brought about first"
    REPLACED = "newer, and this machine is none of the zone any more"


_WAITING: Final = frozenset({Finding.CONSENSUS_MODEL, Finding.MEMBERS, Finding.ROLE})


@dataclass(frozen=True, slots=True)
class ZoneState:
    """A document of the zone and the token it stands in, verified."""

    document: ZoneDoc
    token: Token

    @property
    def revision(self) -> Revision:
        return revision_of(self.document, self.token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What this machine believes of its zone."""

    zone: ZoneState
    """In force."""
    ahead: ZoneState | None = None
    """Newer, and not in force yet."""
    booted: bool = False

    @property
    def newest(self) -> ZoneState:
        """Whom it names, is; whom it does not, is refused."""
        return self.ahead or self.zone

    def text(self) -> bytes:
        """As it is kept."""
        ahead = {} if self.ahead is None else {"ahead": self.ahead.token.text}
        return write_json({"kind": KIND, "zone": self.zone.token.text, "booted": self.booted, **ahead}) + b"\n"

    def caught_up(self) -> Known:
        """With what was ahead in force."""
        return replace(self, zone=self.newest, ahead=None)


def first_known(membership: Membership) -> Known:
    """What a machine knows that was activated and nothing else.

    One that took the place of another knows that the zone was up before, and that what it has of it is on the other.
    """
    state = ZoneState(membership.zone, membership.zone_token)
    return Known(zone=state, booted=REPLACES in membership.device.extra)


def read_known(untrusted: bytes, membership: Membership) -> Known:
    """What was kept, of the zone of ``membership``.  Raises ``BadWire``: it is damaged, or another zone's.

    When it was written it held, so nothing is asked of the clock.
    """
    if len(untrusted) > MOST_KNOWN:
        raise BadWire(f"{KIND}: {len(untrusted)} bytes, at most {MOST_KNOWN} are read")
    fields = Fields(read_object(untrusted, KIND), KIND)
    if fields.text("kind") != KIND:
        raise fields.wrong("kind", f"is not {KIND!r}")
    zone, ahead = fields.text_or_none("zone", MOST_TOKEN), fields.text_or_none("ahead", MOST_TOKEN)
    if zone is None:
        raise fields.wrong("zone", "is missing")
    return Known(
        zone=read_state(zone, membership),
        ahead=None if ahead is None else read_state(ahead, membership),
        booted=fields.flag("booted", True),
    )


def read_state(untrusted: str, membership: Membership, now: float | None = None) -> ZoneState:
    """The document in a token, of the zone of ``membership`` and in force at ``now``.  Raises ``BadWire``.

    ``now`` in seconds since 1970; None for what others have judged before, which nothing is asked of any clock for.
    """
    token = read_token(untrusted, "zone document")
    if now is None:
        iat = token.claims.get("iat")
        now = iat if isinstance(iat, int) else 0
    found = ZoneState(read_zone(token, membership.owner, now), token)
    if found.document.id.canonical != membership.zone.id.canonical:
        raise BadWire(f"zone document: it is {found.document.id}'s, and this machine is of {membership.zone.id}")
    return found


def find(known: Known, new: ZoneState, own: DeviceDoc) -> Finding:
    """What ``new`` is to ``known``, for the machine ``own``."""
    change = judge(known.newest.revision, new.revision)
    if change is Change.SAME:
        return Finding.SAME if known.ahead is None else differs(known.zone.document, new.document, own)
    if change is not Change.NEWER:
        return Finding.CONFLICT if change is Change.CONFLICT else Finding.ROLLBACK
    return differs(known.zone.document, new.document, own)


def take(known: Known, new: ZoneState, own: DeviceDoc) -> tuple[Known, Finding]:
    """``known`` after ``new`` was found, and what it is.

    Before the zone was up here for the first time nothing depends on the one in force, so any newer one takes its
    place.
    """
    finding = find(known, new, own)
    if finding is Finding.COMPATIBLE or (finding in _WAITING and not known.booted):
        return replace(known, zone=new, ahead=None), Finding.COMPATIBLE
    if finding in _WAITING or finding is Finding.REPLACED:
        return replace(known, ahead=new), finding
    return known, finding


def news(known: Known, untrusted: Token, membership: Membership, now: float) -> str:
    """What a boot document says that ``known`` does not know; empty: nothing.  Raises ``BadWire``.

    It is too short to go by: it names machines, and no keys.
    """
    owner = membership.owner
    boot = verify(untrusted, ZoneBoot.kind, owner.key, now, issuer=owner.id)
    if boot.subject is None or boot.subject.canonical != membership.zone.id.canonical:
        raise BadWire(f"boot document: it is {boot.subject}'s, and this machine is of {membership.zone.id}")
    held = known.newest.document
    if boot.iat <= held.iat:
        return ""
    return f"its owner signed the zone anew at {boot.iat}, and the document here is of {held.iat}: names/local takes it"


def may_found(known: Known, own: DeviceDoc, now: float) -> bool:
    """Whether the owner lets the machine ``own`` found the cluster of a zone that was never up here."""
    until = own.extra.get(FOUNDS)
    return not known.booted and isinstance(until, int) and now < until


def replaced(known: Known, own: DeviceDoc) -> str:
    """Why this machine is none of the zone any more; empty: it is one."""
    return stranger(known.newest.document, own.name, own.key)


def differs(old: ZoneDoc, new: ZoneDoc, own: DeviceDoc) -> Finding:
    """What ``new``, which is newer, asks of the machine ``own`` where ``old`` is in force."""
    if stranger(new, own.name, own.key):
        return Finding.REPLACED
    before, after = _carriers(old), _carriers(new)
    if (len(before) == 1) != (len(after) == 1):
        return Finding.CONSENSUS_MODEL
    # The only OOD with a new key is where its store is: nothing has to be moved.
    if before == after or before.keys() == after.keys() == {own.name}:
        return Finding.COMPATIBLE
    return Finding.ROLE if (own.name in before) != (own.name in after) else Finding.MEMBERS


def _carriers(zone: ZoneDoc) -> dict[str, PublicKey | None]:
    """The OODs by name: another key is another machine, whose part of the store is empty."""
    return {name: zone.devices[name].key if name in zone.devices else None for name in ood_names(zone)}


def role_in(known: Known, own: DeviceDoc) -> Role:
    """What this machine is by the document in force."""
    return role_of(known.zone.document.oods, own.name)
