"""One resolution as a machine: steps come out, what providers brought goes in, and at the end there is one outcome."""

from __future__ import annotations

from dataclasses import replace

from cyfs_ns.identity.did import Did
from cyfs_ns.trust.anchors import Anchors
from cyfs_ns.trust.evidence import Claim
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Conflicted, Found, Outcome, Revoked, TooWeak, Unreachable
from cyfs_ns.trust.plan import Plan, Step
from cyfs_ns.trust.weigh import Accepted, Weighed, is_within, weigh


class Resolution:
    """Carries out ``plan``.  Ask :meth:`next_step`, give every answer to :meth:`take`, and so on until None."""

    def __init__(self, plan: Plan, anchors: Anchors) -> None:
        self.plan = plan
        self._anchors = anchors
        self._steps = list(plan.steps)
        self._claims: list[Claim] = []
        self._absent: list[Absent] = []
        self._revoked: list[Revoked] = []
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

    def take(self, provider: str, brought: Outcome) -> None:
        """What ``provider`` answered.  It may speak of whom it was asked about, and of the names above."""
        self._weighed = None
        if isinstance(brought, Found):
            strays = [claim.about for claim in brought.claims if not self._in_question(claim.about)]
            self._claims.extend(claim for claim in brought.claims if self._in_question(claim.about))
            self._faults.extend(brought.faults)
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

    def accepted(self, now: float) -> tuple[Accepted, ...]:
        """The tokens that were believed, for keeping."""
        return self._weigh(now).accepted

    def outcome(self, now: float) -> Outcome:
        """What is known now."""
        ask, weighed = self.plan.ask, self._weigh(now)
        faults = (*self._faults, *weighed.faults)
        best = self._level(weighed)
        if (ended := self._ended()) is not None:
            return replace(ended, faults=(*ended.faults, *faults))
        revoked = max(self._revoked, key=lambda said: said.evidence.trust, default=None)
        if revoked is not None and revoked.evidence.trust >= best:
            return replace(revoked, faults=faults)
        about = [claim for claim in weighed.claims if claim.about.canonical == ask.subject.canonical]
        wanted = [claim for claim in about if claim.kind in ask.kinds]
        ended_by = [fact for whom, fact in weighed.revoked if whom == ask.subject.canonical]
        if not wanted and ended_by:
            why = f"{ask.subject}: its owner ended it"
            return Revoked(subject=ask.subject, why=why, evidence=ended_by[0], faults=faults)
        for sides in weighed.conflicts:
            if sides[0].about.canonical == ask.subject.canonical and sides[0].trust >= max(ask.least, best):
                return Conflicted(subject=ask.subject, sides=sides, faults=faults)
        disputed = {id(side) for sides in weighed.conflicts for side in sides}
        sure = tuple(claim for claim in weighed.claims if claim.trust >= ask.least and id(claim) not in disputed)
        if any(claim in sure for claim in wanted):
            ends = [end for claim in sure if (end := claim.evidence.ends) is not None]
            return Found(subject=ask.subject, claims=sure, until=min(ends, default=None), faults=faults)
        if wanted:
            return TooWeak(subject=ask.subject, asked=ask.least, found=tuple(wanted), faults=faults)
        if self._absent and not self._missed and not weighed.faults:
            strongest = max(self._absent, key=lambda absent: absent.evidence.trust)
            return replace(strongest, exists=any(absent.exists for absent in self._absent), faults=faults)
        why = f"{ask.subject}: nobody who could be asked knows it"
        return Unreachable(subject=ask.subject, why=why, faults=faults)

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
            self._weighed = now, weigh(self._claims, self._anchors, now)
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
