"""Which of two documents of the same identity is the newer one, and when the older must never be believed again.

A document is ordered by ``iat``, the second it was issued.  Equal ``iat`` with equal content is the same document;
with other content it is two truths signed for one moment, and neither replaces the other.  Going back is refused: the
highest revision ever believed is a mark that stays.  An owner who lost a key raises the *least iat*: everything issued
before is revoked at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cyfs_ns.identity.documents import Document
from cyfs_ns.identity.token import Token


@dataclass(frozen=True, slots=True, order=True)
class Revision:
    """``iat`` in seconds since 1970 and the SHA-256 of what was signed, in hex."""

    iat: int
    digest: str

    def __str__(self) -> str:
        return f"{self.iat}/{self.digest[:12]}"


def revision_of(document: Document, token: Token) -> Revision:
    """Where the document stands among those of its subject."""
    return Revision(document.iat, token.digest)


class Change(Enum):
    """What a document is to the one we hold."""

    FIRST = "the first we see"
    SAME = "the one we have"
    NEWER = "newer than the one we have"
    ROLLBACK = "older than one we have believed: refused"
    CONFLICT = "other content signed for the same second: refused"
    REVOKED = "issued before its owner's least iat: refused"

    @property
    def acceptable(self) -> bool:
        return self in (Change.FIRST, Change.SAME, Change.NEWER)


def judge(mark: Revision | None, new: Revision, least_iat: int = 0) -> Change:
    """What ``new`` is to the highest revision believed so far (``mark``)."""
    if new.iat < least_iat:
        return Change.REVOKED
    if mark is None:
        return Change.FIRST
    if new.iat != mark.iat:
        return Change.NEWER if new.iat > mark.iat else Change.ROLLBACK
    return Change.SAME if new.digest == mark.digest else Change.CONFLICT
