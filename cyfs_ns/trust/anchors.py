"""What this machine's owner has said once and for all: this identity has this key.

A pin is where chains of signatures end.  Without one a signature only says that whoever published the key also
signed the document, which is worth what the channel of the key was worth.  A pin counts for the one identity it names:
an owner we know, but who is not pinned for this very zone, cannot speak for it, or every friend could for every zone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from cyfs_ns.identity.did import Did
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.revision import Revision
from cyfs_ns.trust.evidence import Evidence
from cyfs_ns.trust.level import Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """``about`` signs with ``key``.  What was issued before ``least_iat`` (seconds since 1970) is revoked, and with
    ``revoked`` all of it.  ``source`` is the file that says so, written at ``at``."""

    about: Did
    key: PublicKey
    least_iat: int = 0
    revoked: bool = False
    source: str
    at: float

    @property
    def evidence(self) -> Evidence:
        return Evidence(
            trust=Trust.HOST_SNAPSHOT,
            what=f"{self.about} signs with {self.key.x}, pinned on this machine",
            source=self.source,
            at=self.at,
        )


@dataclass(frozen=True, slots=True)
class Mark:
    """The highest revision ever believed of the document of ``kind`` about ``about`` that ``key`` signed."""

    about: Did
    kind: str
    key: PublicKey
    revision: Revision

    @property
    def id(self) -> str:
        """A name for the three that it is of."""
        return _mark_id(self.about, self.kind, self.key)


class Anchors:
    """All pins of this machine, and the highest revision it ever believed of each document, by the key it was signed
    with: whoever follows is not bound by the dates that the one before wrote.

    ``lost`` tells by the id of a mark that there was one, and why nobody knows it any more.
    """

    def __init__(
        self, pins: Iterable[Pin] = (), marks: Iterable[Mark] = (), lost: Mapping[str, str] | None = None
    ) -> None:
        self._pins = {pin.about.canonical: pin for pin in pins}
        self._marks = {(mark.about.canonical, mark.kind, mark.key): mark.revision for mark in marks}
        self._lost = lost or {}
        self.revoked_keys = frozenset(pin.key for pin in self._pins.values() if pin.revoked)
        """Keys that nobody signs with any more, unless one is pinned for somebody else all the same."""

    def pin(self, about: Did) -> Pin | None:
        """What is pinned about ``about``."""
        return self._pins.get(about.canonical)

    def mark(self, about: Did, kind: str, key: PublicKey) -> Revision | None:
        """The highest revision believed of the document of ``kind`` about ``about`` that ``key`` signed."""
        return self._marks.get((about.canonical, kind, key))

    def lost(self, about: Did, kind: str, key: PublicKey) -> str | None:
        """Why the mark of such a document is lost, if it is: then nobody can tell whether one goes back."""
        return self._lost.get(_mark_id(about, kind, key)) if self._lost else None

    @cached_property
    def not_before(self) -> int:
        """It is no earlier than this (seconds since 1970): somebody who is pinned has dated a document so."""
        keys = {pin.key for pin in self._pins.values() if not pin.revoked}
        return max((mark.iat for (_, _, key), mark in self._marks.items() if key in keys), default=0)


def _mark_id(about: Did, kind: str, key: PublicKey) -> str:
    return hashlib.sha256(f"{about.canonical} {kind} {key.x}".encode()).hexdigest()[:40]
