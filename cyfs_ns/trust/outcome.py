"""What came out of asking who somebody is.  Not knowing has several forms, and they call for different next steps.

``Absent`` is an answer: there is no such name.  ``Revoked`` too: there was one, and its owner ended it.
``Unreachable`` is none: nobody could be asked.  ``Refused`` heard what must not be believed where a pin says who may
speak, and nothing else.  ``TooWeak`` found something that is not sure enough for what was asked.  ``Conflicted`` found
two truths of equal weight, and names both.

Whoever is pinned, or is a machine of a zone that is, has ``heard`` said of those that found nothing: whether a document
of theirs holds, which leaves open what was asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from cyfs_ns.identity.did import Did
from cyfs_ns.trust.evidence import Claim, Evidence, Kind, Refusal
from cyfs_ns.trust.level import Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """``claims`` are all at or above the level that was asked for, strongest first; ``trust`` is the strongest's about
    the subject: a strong word about somebody else proves nothing.

    ``until`` is when the first of their facts ends (seconds since 1970), None: no end.  ``stale`` ones are past it, and
    told because the policy allows it and nobody could be asked.  ``faults`` tells what was thrown away, and why;
    ``refused`` what of it a pin decides, unless documents of the subject and of its zone hold all the same.
    """

    subject: Did
    claims: tuple[Claim, ...]
    until: float | None = None
    stale: bool = False
    faults: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()

    @property
    def trust(self) -> Trust:
        whom = self.subject.canonical
        return max((claim.trust for claim in self.claims if claim.about.canonical == whom), default=Trust.NONE)

    @property
    def why(self) -> str:
        return f"{self.subject} is known: {self.trust}" + (", stale" if self.stale else "")

    @property
    def heard(self) -> bool:
        """Whether a document holds, of the subject or of a name above it."""
        return any(claim.kind == "document" and claim.trust >= Trust.HOST_SNAPSHOT for claim in self.claims)

    def of(self, kind: Kind, key: str | None = None, about: Did | None = None) -> Iterator[Claim]:
        """The claims of one kind (and key) about the subject, or about another identity they brought along."""
        whom = (self.subject if about is None else about).canonical
        return (
            claim
            for claim in self.claims
            if claim.kind == kind and claim.about.canonical == whom and (key is None or claim.key == key)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """Whoever has to know says there is nothing.  ``until`` is when to ask again.

    ``exists``: the name is there all the same and has other things (NODATA), as far as this one knows.
    """

    subject: Did
    why: str
    evidence: Evidence
    until: float | None = None
    exists: bool = False
    heard: bool = False
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """There was one, and its owner ended it."""

    subject: Did
    why: str
    evidence: Evidence
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """Nobody who knows could be asked.  ``faults`` tells of each."""

    subject: Did
    why: str
    heard: bool = False
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """All that was heard goes against a pin, or nobody can tell whether it does: the pins cannot be read."""

    subject: Did
    why: str
    refused: tuple[Refusal, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TooWeak:
    """``found`` is all there is, and it is below ``asked``."""

    subject: Did
    asked: Trust
    found: tuple[Claim, ...]
    heard: bool = False
    faults: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        best = max((claim.trust for claim in self.found), default=Trust.NONE)
        return f"{self.subject} is known by {best} only, {self.asked} was asked for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflicted:
    """``sides`` are claims of one level that cannot both be true."""

    subject: Did
    sides: tuple[Claim, ...]
    faults: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        said = " and ".join(f"{side.evidence.source} ({side.evidence.what})" for side in self.sides)
        what = f"{self.sides[0].key} {self.sides[0].kind}".strip()
        return f"{self.subject}: two different truths about its {what}, both {self.sides[0].trust}: {said}"


Outcome: TypeAlias = Found | Absent | Revoked | Unreachable | Refused | TooWeak | Conflicted
