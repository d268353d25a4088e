"""The steps of a machine into its zone, as a machine without a clock: events in, actions and the present step out.

    identity → document → gateway → peers → store → config → booted
                  │                                   ├ initialise: the first OOD of a new zone makes its first keys
                  │                                   ├ register: what of this machine is new is written
                  │                                   └ restore: the store was lost
                  └ halted: no identity, a wrong one, or this machine was replaced

A machine whose zone was up here before goes by the last known good document and waits for no network; what is found
later is judged then, in whichever step.  One that comes up for the first time gives the network a moment to say that
its documents are outdated.  Nothing is given up: what fails is tried again, and ``step`` says who is waited for.  A
halted machine looks at its identity only: another activation is what it waits for.

Whoever carries the actions out answers each with an event.  All times are of one clock that nobody sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, TypeAlias

from cyfs_ns.identity.oods import Ood
from zone.boot.known import Finding, Known, ZoneState, differs, first_known, replaced, role_in, take
from zone.boot.settle import Believe, Foreign, Lost, Settled, Wait, Write, keys_needed, settle
from zone.config.model import Action, Entry, Transaction
from zone.membership import Membership, Role, ood_names

FIRST_SEARCH: Final = 2.0
"""Seconds in which a machine that comes up for the first time may hear that its documents are outdated."""
AGAIN: Final = 5.0
"""Seconds until what failed is tried again."""
LOOK: Final = 1.0
"""Seconds between looks whether another OOD has initialised the zone."""
MOST_NOTES: Final = 10


class Phase(StrEnum):
    """Where a machine is on its way."""

    IDENTITY = "identity"
    DOCUMENT = "document"
    GATEWAY = "gateway"
    PEERS = "peers"
    STORE = "store"
    CONFIG = "config"
    RESTORE = "restore"
    INITIALISE = "initialise"
    REGISTER = "register"
    BOOTED = "booted"
    HALTED = "halted"


@dataclass(frozen=True, slots=True)
class Step:
    """The present one, for ``zone status``."""

    phase: Phase
    since: float
    waits_for: str
    """Who or what has to do something; empty: nobody."""
    why: str = ""
    """What happened last on the way, or what is wrong."""


class StoreKind(StrEnum):
    """How this machine gets at the zone's state."""

    EMBEDDED = "embedded"
    """A file: it is the only OOD."""
    MEMBER = "member"
    """It carries a part of the cluster."""
    CLIENT = "client"
    """It asks an OOD."""


# -- actions


@dataclass(frozen=True, slots=True)
class ReadIdentity:
    """Answer with ``IdentityRead`` or ``IdentityBad``."""


@dataclass(frozen=True, slots=True)
class Search:
    """Ask everywhere for the zone's document; answer with ``DocumentFound`` for each."""

    membership: Membership


@dataclass(frozen=True, slots=True)
class Keep:
    """Put this on the disk, before anything else is done."""

    known: Known


@dataclass(frozen=True, slots=True)
class StartGateway:
    """Let these machines be reached, and the relay; answer with ``GatewayUp`` or ``Failed``."""

    peers: tuple[Ood, ...]
    sn: str | None


@dataclass(frozen=True, slots=True)
class ReachPeers:
    """Keep tunnels to these machines; tell with ``PeersReached`` whenever other ones stand."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OpenStore:
    """Answer with ``StoreUp`` or ``Failed``."""

    kind: StoreKind
    oods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadStore:
    """Read these keys at one revision; answer with ``StoreRead`` or ``Failed``."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """Answer with ``Committed``, whether it was made or others were faster, or with ``Failed``."""

    transaction: Transaction


@dataclass(frozen=True, slots=True)
class Restore:
    """Find a backup of the zone and put it in the place of the store; answer with ``Restored`` or ``Failed``."""


@dataclass(frozen=True, slots=True)
class Booted:
    """The zone is up on this machine: the node loop may begin."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Tunnels, store and node loop end: this machine must not go on in the zone."""


Todo: TypeAlias = (
    ReadIdentity | Search | Keep | StartGateway | ReachPeers | OpenStore | ReadStore | Commit | Restore | Booted | Stop
)


# -- events


@dataclass(frozen=True, slots=True)
class IdentityRead:
    """What this machine holds.  ``known``: what it kept, None if nothing; ``fault``: why what it kept was no use."""

    membership: Membership
    known: Known | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class IdentityBad:
    """There is none, or it cannot be used."""

    why: str


@dataclass(frozen=True, slots=True)
class DocumentFound:
    """Verified, and of this zone."""

    state: ZoneState
    source: str


@dataclass(frozen=True, slots=True)
class SearchDone:
    """Everybody who could be asked was; ``notes`` tell what could not be used."""

    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GatewayUp:
    pass


@dataclass(frozen=True, slots=True)
class PeersReached:
    """Exactly these can be reached now."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class StoreUp:
    pass


@dataclass(frozen=True, slots=True)
class StoreRead:
    """The keys that were asked for and are there."""

    entries: Mapping[str, Entry] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Committed:
    pass


@dataclass(frozen=True, slots=True)
class Restored:
    pass


@dataclass(frozen=True, slots=True)
class BeginAnew:
    """The owner says that there is no backup, and that the zone is to begin with an empty store."""


@dataclass(frozen=True, slots=True)
class MembersMoved:
    """What was ahead has been brought about: it may be in force."""


@dataclass(frozen=True, slots=True)
class Failed:
    """What was asked for last did not work."""

    why: str


Answer: TypeAlias = GatewayUp | StoreUp | StoreRead | Committed | Restored | BeginAnew
Event: TypeAlias = (
    IdentityRead | IdentityBad | DocumentFound | SearchDone | PeersReached | MembersMoved | Failed | Answer
)

_READING: Final = (Phase.CONFIG, Phase.INITIALISE, Phase.REGISTER, Phase.BOOTED)
_OWNER: Final = "its owner: node activate"


class Boot:
    """See the module's text.  ``more``: what others need in the store of a new zone from its first moment."""

    def __init__(self, now: float, more: Sequence[Action] = ()) -> None:
        self.step = Step(Phase.IDENTITY, now, "this machine's files")
        self.membership: Membership | None = None
        self.known: Known | None = None
        self.notes: tuple[str, ...] = ()
        """What was found of the zone's document beside the one in force, the newest last."""
        self._more = tuple(more)
        self._reached: frozenset[str] = frozenset()
        self._deadline: float | None = None
        self._again: Todo | None = None
        """What is done when the deadline has passed."""

    def start(self, now: float) -> list[Todo]:
        """Begin."""
        self._go(Phase.IDENTITY, now, "this machine's files")
        return [ReadIdentity()]

    def next_deadline(self) -> float | None:
        """When :meth:`tick` is due."""
        return self._deadline

    def tick(self, now: float) -> list[Todo]:
        """The deadline has passed."""
        if self._deadline is None or now < self._deadline:
            return []
        self._deadline = None
        if self.step.phase is Phase.DOCUMENT:
            return self._to_gateway(now)
        return [] if self._again is None else [self._again]

    def take(self, event: Event, now: float) -> list[Todo]:
        """What to do about ``event``.  One that answers a step which is over changes nothing."""
        if self.step.phase in (Phase.IDENTITY, Phase.HALTED):
            return self._identity(event, now)
        if isinstance(event, DocumentFound):
            return self._found(event, now)
        if isinstance(event, SearchDone):
            self._note(*event.notes)
            return self._to_gateway(now) if self.step.phase is Phase.DOCUMENT else []
        if isinstance(event, MembersMoved):
            return self._believe(self._held[1].caught_up(), now)
        if isinstance(event, PeersReached):
            self._reached = event.names
            return self._await_peers(now) if self.step.phase is Phase.PEERS else []
        if isinstance(event, Failed):
            self._try_again(event.why, now)
            return []
        if isinstance(event, IdentityRead | IdentityBad):
            return []
        return self._answer(event, now)

    @property
    def _held(self) -> tuple[Membership, Known]:
        """Behind the first step there are both."""
        assert self.membership is not None
        assert self.known is not None
        return self.membership, self.known

    def _identity(self, event: Event, now: float) -> list[Todo]:
        if isinstance(event, IdentityBad):
            if self.step.phase is Phase.IDENTITY:
                self._go(Phase.IDENTITY, now, _OWNER, event.why)
            self._later(now + AGAIN, ReadIdentity())
        if not isinstance(event, IdentityRead):
            return []
        if self.step.phase is Phase.HALTED and event.membership == self.membership:
            self._later(now + AGAIN, ReadIdentity())
            return []
        self.membership, kept = event.membership, event.known
        if event.fault:
            self._note(event.fault)
        if kept is None:
            kept = first_known(event.membership)
            # Nobody can tell any more whether the zone was up here: then an empty store is one that was lost.
            kept = replace(kept, booted=kept.booted or bool(event.fault))
        self.known, _ = take(kept, first_known(event.membership).zone, event.membership.device)
        if why := replaced(self.known, event.membership.device):
            return [Keep(self.known), *self._halt(why, _OWNER, now)]
        todo: list[Todo] = [Keep(self.known)] if self.known != event.known else []
        todo.append(Search(self.membership))
        if self.known.booted:
            return [*todo, *self._to_gateway(now)]
        self._go(Phase.DOCUMENT, now, "what the network says of the zone")
        self._deadline = now + FIRST_SEARCH
        return todo

    def _found(self, event: DocumentFound, now: float) -> list[Todo]:
        membership, known = self._held
        after, finding = take(known, event.state, membership.device)
        if finding is not Finding.SAME:
            self._note(f"{event.source}: the zone's document of {event.state.revision} is {finding.value}")
        if finding is Finding.CONFLICT and not known.booted:
            return self._halt(f"{event.source}: {finding.value}", "its owner, to sign a newer one: node sign", now)
        return self._believe(after, now)

    def _believe(self, after: Known, now: float) -> list[Todo]:
        """Go on by what is known now."""
        membership, before = self._held
        if after == before:
            return []
        self.known = after
        if why := replaced(after, membership.device):
            return [Keep(after), *self._halt(why, _OWNER, now)]
        if after.zone == before.zone or self.step.phase is Phase.DOCUMENT:
            return [Keep(after)]
        if differs(before.zone.document, after.zone.document, membership.device) is not Finding.COMPATIBLE:
            return [Keep(after), *self._to_gateway(now)]
        reading = [self._reading()] if self.step.phase in _READING else []
        return [Keep(after), self._gateway(), *reading]

    def _answer(self, event: Answer, now: float) -> list[Todo]:
        known, phase = self._held[1], self.step.phase
        if isinstance(event, GatewayUp) and phase is Phase.GATEWAY:
            return self._to_peers(now)
        if isinstance(event, StoreUp) and phase is Phase.STORE:
            return self._to_config(now)
        if isinstance(event, StoreRead) and phase in _READING:
            return self._settle(event, now)
        if isinstance(event, Committed) and phase in _READING:
            return [self._reading()]
        if isinstance(event, Restored) and phase is Phase.RESTORE:
            return self._to_config(now)
        if isinstance(event, BeginAnew) and phase is Phase.RESTORE:
            self.known = replace(known, booted=False)
            return [Keep(self.known), *self._to_config(now)]
        return []

    def _settle(self, event: StoreRead, now: float) -> list[Todo]:
        membership, known = self._held
        settling = settle(known, membership, event.entries, self._more)
        if isinstance(settling, Believe):
            self._note(f"the store: the zone's document is {settling.finding.value}")
            todo = self._believe(settling.known, now)
            if settling.known.zone == known.zone and self.step.phase in _READING:
                todo.append(self._reading())
            return todo
        if isinstance(settling, Write):
            if self.step.phase is not Phase.BOOTED:
                phase = Phase.INITIALISE if settling.initialises else Phase.REGISTER
                self._go(phase, now, "the store", settling.why)
            return [Commit(settling.transaction)]
        if isinstance(settling, Wait):
            self._go(Phase.CONFIG, now, settling.waits_for)
            self._later(now + LOOK, self._reading())
            return []
        if isinstance(settling, Lost):
            self._go(Phase.RESTORE, now, "a backup of the zone", "the store is empty, and the zone was up before")
            self._again = Restore()
            return [self._again]
        if isinstance(settling, Foreign):
            return self._halt(settling.why, "its owner: another store, or another identity", now)
        assert isinstance(settling, Settled)
        if self.step.phase is Phase.BOOTED:
            return []
        self._go(Phase.BOOTED, now, "")
        if known.booted:
            return [Booted()]
        self.known = replace(known, booted=True)
        return [Keep(self.known), Booted()]

    def _to_gateway(self, now: float) -> list[Todo]:
        self._go(Phase.GATEWAY, now, "the gateway")
        return [self._gateway()]

    def _gateway(self) -> StartGateway:
        membership, known = self._held
        zone = known.zone.document
        gateway = StartGateway(tuple(ood for ood in zone.oods if ood.name != membership.name), zone.sn)
        if self.step.phase is Phase.GATEWAY:
            self._again = gateway
        return gateway

    def _to_peers(self, now: float) -> list[Todo]:
        others = self._others()
        reaching: list[Todo] = [ReachPeers(others)] if others else []
        return [*reaching, *self._await_peers(now)]

    def _await_peers(self, now: float) -> list[Todo]:
        lacking = self._lacking()
        if not lacking:
            return self._to_store(now)
        missing = [name for name in self._others() if name not in self._reached]
        self._go(Phase.PEERS, now, f"{lacking} of {', '.join(missing)}")
        return []

    def _to_store(self, now: float) -> list[Todo]:
        oods = ood_names(self._held[1].zone.document)
        kind = StoreKind.CLIENT if self._role() is not Role.OOD else StoreKind.MEMBER
        if kind is StoreKind.MEMBER and len(oods) == 1:
            kind = StoreKind.EMBEDDED
        self._go(Phase.STORE, now, "the store")
        self._again = OpenStore(kind, oods)
        return [self._again]

    def _to_config(self, now: float) -> list[Todo]:
        self._go(Phase.CONFIG, now, "the store")
        return [self._reading()]

    def _others(self) -> tuple[str, ...]:
        membership, known = self._held
        return tuple(name for name in ood_names(known.zone.document) if name != membership.name)

    def _lacking(self) -> int:
        """How many more OODs have to be reached.

        An OOD that does not reach most of them sees a part of the zone and must not take it for the whole; any other
        machine needs one to ask.
        """
        others = self._others()
        needed = (len(others) + 1) // 2 if self._role() is Role.OOD else 1
        return max(0, needed - len(self._reached.intersection(others)))

    def _role(self) -> Role:
        membership, known = self._held
        return role_in(known, membership.device)

    def _reading(self) -> ReadStore:
        membership, known = self._held
        self._again = reading = ReadStore(keys_needed(known, membership))
        return reading

    def _try_again(self, why: str, now: float) -> None:
        """What was asked for last is asked for again; a commit that failed is decided anew."""
        if self.step.phase not in (Phase.DOCUMENT, Phase.PEERS):
            self.step = replace(self.step, why=why)
            self._deadline = now + AGAIN

    def _later(self, when: float, todo: Todo) -> None:
        self._deadline, self._again = when, todo

    def _note(self, *notes: str) -> None:
        """Each once, where it was said last."""
        self.notes = (*(note for note in self.notes if note not in notes), *notes)[-MOST_NOTES:]

    def _go(self, phase: Phase, now: float, waits_for: str, why: str = "") -> None:
        since = self.step.since if phase is self.step.phase else now
        self.step = Step(phase, since, waits_for, why)
        self._deadline = None

    def _halt(self, why: str, waits_for: str, now: float) -> list[Todo]:
        self._go(Phase.HALTED, now, waits_for, why)
        self._later(now + AGAIN, ReadIdentity())
        return [Stop()]
