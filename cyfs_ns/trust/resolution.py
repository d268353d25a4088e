"""One resolution as a machine: steps come out, what providers brought goes in, and at the end there is one outcome."""

from __future__ import annotations

from dataclasses import replace

from cyfs_ns.trust.anchors import Anchors
from cyfs_ns.trust.evidence import Claim
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Conflicted, Found, Outcome, Revoked, TooWeak, Unreachable
from cyfs_ns.trust.plan import Plan, Step
from cyfs_ns.trust.weigh import Accepted, Weighed, weigh


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

    def next_step(self, now: float) -> Step | None:
        """Whom to ask next; None when enough is known or nobody is left."""
        if not self._steps or self._revoked or self._level(self._weigh(now)) >= self.plan.ask.stop_at:
            return None
        return self._steps.pop(0)

    def take(self, provider: str, brought: Outcome) -> None:
        """What ``provider`` answered."""
        if isinstance(brought, Found):
            self._claims.extend(brought.claims)
            self._faults.extend(brought.faults)
        elif isinstance(brought, Absent):
            self._absent.append(brought)
            self._faults.extend(brought.faults)
        elif isinstance(brought, Revoked):
            self._revoked.append(brought)
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
        if self._revoked:
            return self._revoked[0]
        about = [claim for claim in weighed.claims if claim.about.canonical == ask.subject.canonical]
        wanted = [claim for claim in about if claim.kind in ask.kinds]
        if not wanted and weighed.revoked:
            return Revoked(
                subject=ask.subject,
                why=f"{ask.subject}: its owner ended it",
                evidence=weighed.revoked[0],
                faults=faults,
            )
        best = self._level(weighed)
        for sides in weighed.conflicts:
            if sides[0].about.canonical == ask.subject.canonical and sides[0].trust >= max(ask.least, best):
                return Conflicted(subject=ask.subject, sides=sides, faults=faults)
        sure = tuple(claim for claim in weighed.claims if claim.trust >= ask.least)
        if any(claim in sure for claim in wanted):
            ends = [end for claim in sure if (end := claim.evidence.ends) is not None]
            return Found(subject=ask.subject, claims=sure, until=min(ends, default=None), faults=faults)
        if wanted:
            return TooWeak(subject=ask.subject, asked=ask.least, found=tuple(wanted), faults=faults)
        if self._absent and not self._missed and not weighed.faults:
            strongest = max(self._absent, key=lambda absent: absent.evidence.trust)
            return replace(strongest, exists=any(absent.exists for absent in self._absent))
        why = f"{ask.subject}: nobody who could be asked knows it"
        return Unreachable(subject=ask.subject, why=why, faults=faults)

    def _weigh(self, now: float) -> Weighed:
        return weigh(self._claims, self._anchors, now)

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
