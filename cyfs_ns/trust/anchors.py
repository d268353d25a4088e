"""What this machine's owner has said once and for all: this identity has this key.

A pin is where chains of signatures end.  Without one a signature only says that whoever published the key also
signed the document, which is worth what the channel of the key was worth.  A pin counts for the one identity it names:
an owner we know, but who is not pinned for this very zone, cannot speak for it, or every friend could for every zone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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


class Anchors:
    """All pins of this machine, and the highest revision it ever believed of each document, by the key it was signed
    with: whoever follows is not bound by the dates that the one before wrote."""

    def __init__(self, pins: Iterable[Pin] = (), marks: Iterable[tuple[Did, str, PublicKey, Revision]] = ()) -> None:
        self._pins = {pin.about.canonical: pin for pin in pins}
        self._marks = {(about.canonical, kind, key): mark for about, kind, key, mark in marks}
        self.revoked_keys = frozenset(pin.key for pin in self._pins.values() if pin.revoked)
        """Keys that nobody signs with any more, unless one is pinned for somebody else all the same."""

    def pin(self, about: Did) -> Pin | None:
        """What is pinned about ``about``."""
        return self._pins.get(about.canonical)

    def mark(self, about: Did, kind: str, key: PublicKey) -> Revision | None:
        """The highest revision believed of the document of ``kind`` about ``about`` that ``key`` signed."""
        return self._marks.get((about.canonical, kind, key))

    @property
    def not_before(self) -> int:
        """It is no earlier than this (seconds since 1970): somebody who is pinned has dated a document so."""
        keys = {pin.key for pin in self._pins.values() if not pin.revoked}
        return max((mark.iat for (_, _, key), mark in self._marks.items() if key in keys), default=0)
