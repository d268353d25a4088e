"""Which of several stays: of documents the newest that somebody pinned has signed, else the newest of the strongest
level; of other claims those of the highest level.  Two that cannot both be true are a conflict.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import Document
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.revision import Revision
from cyfs_ns.identity.token import Token
from cyfs_ns.trust.evidence import Claim, Kind
from cyfs_ns.trust.level import Trust

_SINGLE: frozenset[Kind] = frozenset({"key", "document", "did", "content", "text"})
"""Kinds of which somebody has one of each name: two at one level cannot both be true."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A token that was believed, for keeping: ``about`` whom, its revision, and the level it reached.

    ``key`` has signed it; ``pinned``: by a pin it may speak here.
    """

    about: Did
    document: Document
    token: Token
    revision: Revision
    trust: Trust
    key: PublicKey
    pinned: bool


@dataclass(slots=True)
class Slot:
    """The best documents of one kind about somebody, by their digests: more than one is a conflict."""

    best: dict[str, tuple[Claim, Accepted]] = field(default_factory=dict)

    def put(self, claim: Claim, accepted: Accepted) -> None:
        """An owner's newest word is in force, however it came; strangers' words go by how they came.

        Of two owners whom we know neither can outdo the other by a later date: they contradict each other.
        """
        rivals = [
            (digest, other)
            for digest, (_, other) in self.best.items()
            if not (accepted.pinned and other.pinned) or other.key == accepted.key
        ]
        best = max((_rank(other) for _, other in rivals), default=(False, -1, -1))
        if _rank(accepted) < best:
            return
        if _rank(accepted) > best:
            for digest, _ in rivals:
                del self.best[digest]
        self.best.setdefault(accepted.revision.digest, (claim, accepted))


def strongest(claims: Iterable[Claim]) -> tuple[list[Claim], list[tuple[Claim, ...]]]:
    """Of each kind and name the claims of the highest level; and those among them that contradict each other."""
    groups: dict[tuple[Did, str, str], list[Claim]] = defaultdict(list)
    for claim in claims:
        groups[claim.about, claim.kind, claim.key].append(claim)
    kept, conflicts = [], []
    for group in groups.values():
        best = max(claim.trust for claim in group)
        top = list({_content(claim): claim for claim in reversed(group) if claim.trust == best}.values())[::-1]
        if len(top) > 1 and top[0].kind in _SINGLE:
            conflicts.append(tuple(top))
        kept.extend(top)
    return kept, conflicts


def _rank(one: Accepted) -> tuple[bool, int, int]:
    iat, trust = one.revision.iat, one.trust.value
    return (True, iat, trust) if one.pinned else (False, trust, iat)


def _content(claim: Claim) -> object:
    """What two claims must share to say the same."""
    value = claim.value
    return value if isinstance(value, str | bytes | PublicKey) else repr(value)
