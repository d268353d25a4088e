"""One resolution as a machine: steps come out, what providers brought goes in, and at the end there is one outcome.

A machine without a clock starts in 1970, and clocks are set back.  So it is never earlier here than the newest document
that somebody pinned has dated: what had ended by then stays ended, and what was kept still counts.
"""

from __future__ import annotations

from dataclasses import replace

from cyfs_ns.clock import is_unset, why_unset
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import ZoneBoot, ZoneDoc
from cyfs_ns.trust.anchors import Anchors
from cyfs_ns.trust.evidence import Claim, Refusal
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Conflicted, Found, Outcome, Refused, Revoked, TooWeak, Unreachable
from cyfs_ns.trust.places import device_did, is_within, lineage
from cyfs_ns.trust.plan import Plan, Step
from cyfs_ns.trust.strongest import Accepted
from cyfs_ns.trust.weigh import Weighed, weigh


class Resolution:
    """Carries out ``plan``.  Ask :meth:`next_step`, give every answer to :meth:`take`, and so on until None.

    ``now`` is always what this machine's clock says, in seconds since 1970.
    """

    def __init__(self, plan: Plan, anchors: Anchors) -> None:
        self.plan = plan
        self._anchors = anchors
        self._steps = list(plan.steps)
        self._claims: list[Claim] = []
        self._absent: list[Absent] = []
        self._revoked: list[Revoked] = []
        self._refused: list[Refusal] = []
        self._faults: list[str] = list(plan.why)
        self._missed = False
        self._weighed: tuple[float, Weighed] | None = None

    def judge_by(self, anchors: Anchors) -> None:
        """Go on by other pins and marks."""
        self._anchors, self._weighed = anchors, None

    def next_step(self, now: float) -> Step | None:
        """Whom to ask next; None when enough is known or nobody is left."""
        if not self._steps or self._ended() is not None:
            return None
        known = max((revoked.evidence.trust for revoked in self._revoked), default=Trust.NONE)
        if max(known, self._level(self._weigh(now))) >= self.plan.ask.stop_at:
            return None
        return self._steps.pop(0)

    @property
    def pinned(self) -> Did | None:
        """The subject, or the nearest name above it, that is pinned."""
        return next((whom for whom in lineage(self.plan.ask.subject) if self._anchors.pin(whom) is not None), None)

    def is_held(self, now: float) -> bool:
        """Whether a document that holds is known of the subject or of its pinned zone, so that others may be late."""
        whom = {self.plan.ask.subject.canonical, self.pinned}
        return self.plan.ask.least <= Trust.HOST_SNAPSHOT and any(
            claim.kind == "document" and claim.trust >= Trust.HOST_SNAPSHOT and claim.about.canonical in whom
            for claim in self._weigh(now).claims
        )

    def take(self, provider: str, brought: Outcome) -> None:
        """What ``provider`` answered.  It may speak of whom it was asked about, and of the names above."""
        self._weighed = None
        if isinstance(brought, Found):
            strays = [claim.about for claim in brought.claims if not self._in_question(claim.about)]
            self._claims.extend(claim for claim in brought.claims if self._in_question(claim.about))
            self._faults.extend(brought.faults)
            self._refused.extend(brought.refused)
            self._faults.extend(f"{provider}: speaks of {stray}, and was not asked" for stray in dict.fromkeys(strays))
        elif isinstance(brought, Absent):
            self._absent.append(brought)
            self._faults.extend(brought.faults)
        elif isinstance(brought, Revoked):
            self._revoked.append(brought)
            self._faults.extend(brought.faults)
        else:
            self._missed = True
            self._faults.extend(brought.faults or (f"{provider}: {brought.why}",))
            if isinstance(brought, Refused):
                self._refused.extend(brought.refused)

    def accepted(self, now: float) -> tuple[Accepted, ...]:
        """The tokens that were believed, for keeping."""
        return self._weigh(now).accepted

    def outcome(self, now: float) -> Outcome:
        """What is known now."""
        ask, weighed = self.plan.ask, self._weigh(now)
        faults = (*self._faults, *weighed.faults, *weighed.notices)
        best = self._level(weighed)
        if (ended := self._ended()) is not None:
            return replace(ended, faults=(*ended.faults, *faults))
        revoked = max(self._revoked, key=lambda said: said.evidence.trust, default=None)
        if revoked is not None and revoked.evidence.trust >= best:
            return replace(revoked, faults=faults)
        refused, heard = self._refusals(weighed)
        claims = [
            claim
            for claim in weighed.claims
            if not refused or claim.trust >= Trust.KEY_PROVEN or claim.about.canonical != ask.subject.canonical
        ]
        about = [claim for claim in claims if claim.about.canonical == ask.subject.canonical]
        wanted = [claim for claim in about if claim.kind in ask.kinds]
        ended_by = [fact for whom, fact in weighed.revoked if whom == ask.subject.canonical]
        if not wanted and ended_by:
            why = f"{ask.subject}: its owner ended it"
            return Revoked(subject=ask.subject, why=why, evidence=ended_by[0], faults=faults)
        for sides in weighed.conflicts:
            if sides[0].about.canonical == ask.subject.canonical and sides[0].trust >= max(ask.least, best):
                return Conflicted(subject=ask.subject, sides=sides, faults=faults)
        disputed = {id(side) for sides in weighed.conflicts for side in sides}
        sure = tuple(claim for claim in claims if claim.trust >= ask.least and id(claim) not in disputed)
        if any(claim in sure for claim in wanted):
            ends = [end for claim in sure if (end := claim.evidence.ends) is not None]
            until = min(ends, default=None)
            return Found(subject=ask.subject, claims=sure, until=until, faults=faults, refused=refused)
        if refused:
            why = f"{ask.subject}: refused: {refused[0].why}"
            return Refused(subject=ask.subject, why=why, refused=refused, faults=faults)
        if wanted:
            return TooWeak(subject=ask.subject, asked=ask.least, found=tuple(wanted), heard=heard, faults=faults)
        if self._absent and not self._missed and not weighed.faults:
            strongest = max(self._absent, key=lambda absent: absent.evidence.trust)
            exists = any(absent.exists for absent in self._absent)
            return replace(strongest, exists=exists, heard=heard, faults=faults)
        why = f"{ask.subject}: {why_unset(now) if is_unset(now) else 'nobody who could be asked knows it'}"
        return Unreachable(subject=ask.subject, why=why, heard=heard, faults=faults)

    def _refusals(self, weighed: Weighed) -> tuple[tuple[Refusal, ...], bool]:
        """What was refused where a pin decides and no document holds instead; and whether one of the subject or of its
        zone does, all the same.

        What is wrong with the zone hides where its machines are, and which there are, unless its own documents hold and
        do not list the subject: then it is a name like any other.
        """
        subject = self.plan.ask.subject.canonical
        zone = Did(subject.method, subject.id.partition(".")[2]) if "." in subject.id else subject
        if self._anchors.pin(subject) is None and self._anchors.pin(zone) is None:
            return (), False
        held: dict[Did, list[object]] = {subject: [], zone: []}
        for claim in weighed.claims:
            if claim.kind == "document" and claim.trust >= Trust.HOST_SNAPSHOT:
                held.get(claim.about.canonical, []).append(claim.value)
        lists = [document for document in held[zone] if isinstance(document, ZoneBoot | ZoneDoc)]
        machines = {device_did(ood.name, zone).canonical for one in lists for ood in one.oods}
        # A list that is not believed, or left open, does not say whom it leaves out.
        listed = subject in machines or (bool(lists) and not machines)
        decisive = set() if held[subject] else {subject}
        if not held[zone] or (listed and not held[subject]):
            decisive.add(zone)
        unread = (said for said in self._refused if self._anchors.pin(said.about) is not None)
        refused = (said for said in (*weighed.refused, *unread) if said.about.canonical in decisive)
        return tuple(dict.fromkeys(refused)), bool(held[subject] or held[zone])

    def _ended(self) -> Revoked | None:
        """The end that the owner of this machine has put to the subject."""
        subject = self.plan.ask.subject
        pin = self._anchors.pin(subject)
        if pin is None or not pin.revoked:
            return None
        return Revoked(subject=subject, why=f"{subject}: revoked on this machine", evidence=pin.evidence)

    def _in_question(self, about: Did) -> bool:
        subject = self.plan.ask.subject
        if about.canonical == subject.canonical:
            return True
        # The host of a DID with a port or a path is above it too.
        return is_within(Did(subject.method, subject.id.partition("%")[0]), about)

    def _weigh(self, now: float) -> Weighed:
        """All claims together; as long as nothing new came and the second is the same, as weighed before."""
        if self._weighed is None or int(self._weighed[0]) != int(now):
            self._weighed = now, weigh(self._claims, self._anchors, max(now, float(self._anchors.not_before)), now)
        return self._weighed[1]

    def _level(self, weighed: Weighed) -> Trust:
        """How sure we are of what was asked for."""
        ask = self.plan.ask
        return max(
            (
                claim.trust
                for claim in weighed.claims
                if claim.about.canonical == ask.subject.canonical and claim.kind in ask.kinds
            ),
            default=Trust.NONE,
        )
