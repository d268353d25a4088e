"""Why we believe something, as a tree a person can read: each node is one fact, with the facts it stands on below it.

A *claim* is one thing said about one identity (its key, a document, an address) with the evidence for it.  What a
provider brings is the evidence of its channel; ``weigh.py`` joins claims into ones that stand on several.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import Document
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.token import Token
from cyfs_ns.trust.level import Trust

Kind: TypeAlias = Literal["key", "token", "document", "address", "text", "content", "did", "name", "record"]
"""What a claim is of.  ``key`` is a PublicKey; ``token`` a Token nobody has verified yet, ``document`` one that is
verified; ``address`` an IP address as text; ``text`` a record of text under a key (``url``, ``avatar``, a coin);
``content`` a content hash; ``did`` another identity of the same; ``name`` a name for a key or address; ``record`` a DNS
record."""

IDENTITY: frozenset[Kind] = frozenset({"key", "document", "did", "content", "text"})
"""The kinds that say who somebody is; an address only says where."""

KEPT_THERE = "kept by another"
"""The key of a claim with a token that, as whoever told it says, its owner may have replaced since."""

Value: TypeAlias = str | bytes | PublicKey | Token | Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One fact and what it stands on.

    ``what`` is a sentence without a full stop; ``source`` names who said so (a provider, a server, a file).  ``at`` is
    when we learnt it, ``until`` when it ends, in seconds since 1970; None: no end of its own.
    """

    trust: Trust
    what: str
    source: str
    at: float
    until: float | None = None
    because: tuple[Evidence, ...] = ()

    @property
    def ends(self) -> float | None:
        """When the first of all facts below ends."""
        ends = [fact.until for fact in self.walk() if fact.until is not None]
        return min(ends) if ends else None

    def walk(self) -> Iterator[Evidence]:
        yield self
        for below in self.because:
            yield from below.walk()

    def standing_on(self, *below: Evidence) -> Evidence:
        return replace(self, because=(*self.because, *below))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that was said of ``about``, or found where ``about`` publishes itself, and is not believed.  ``why``
    names the document and the rule it breaks."""

    about: Did
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One thing said about ``about``.  ``key`` tells apart what is of one kind: the role of a key (``self`` or
    ``owner``), the kind of a document, the name of a text; a token that was kept here (``weigh.KEPT``), or by whoever
    told it (``KEPT_THERE``)."""

    about: Did
    kind: Kind
    key: str = ""
    value: Value
    evidence: Evidence

    @property
    def trust(self) -> Trust:
        return self.evidence.trust
