"""A universal resolver: somebody who resolves DIDs of any method for others, by ``GET <base>/<did>``.

It is believed as far as its line goes, and no further: it may lie about everything that is not signed.  What it gives
as tokens is checked like any token.  For a machine of a zone it is also asked as the forerunner asks, for the document
of the machine's name in the zone (``<zone>?type=<name>``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import quote, urlsplit

from cyfs_ns import names
from cyfs_ns.config.identity import is_loopback
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Bridges, Did
from cyfs_ns.io.trusted.safefetch import SafeFetch
from cyfs_ns.io.trusted.web import unsigned_claims
from cyfs_ns.trust.didresult import DOCUMENT, RESULT, TOKEN, Resolved, read_resolved
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Found, Outcome, Revoked
from cyfs_ns.trust.plan import Ask, Card, Cost, Privacy

_ACCEPT = (("accept", f"{TOKEN}, {RESULT};q=0.9, {DOCUMENT};q=0.8, application/json;q=0.5"),)
_AGE = 300.0


class UniversalResolver:
    """Asks the resolver at ``base``, a URL that ends in ``/``.

    The owner of this machine chose it, so it may stand anywhere.
    """

    def __init__(
        self,
        base: str,
        fetch: SafeFetch,
        *,
        bridges: Bridges | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        parts = urlsplit(base)
        self._base, self._fetch, self._wall = base, fetch, wall
        self._zones = frozenset({"web", *(bridges or {})})
        self._local = is_loopback(names.host(parts.hostname or ""))
        self.card = Card(
            name=f"resolver {parts.netloc}{parts.path.rstrip('/')}",
            methods=frozenset(),
            best=Trust.OWNER_SIGNED,
            cost=Cost.FAR,
            privacy=Privacy.SERVICE,
        )

    async def ask(self, ask: Ask) -> Outcome:
        subject = ask.subject
        said = await self._get(subject, "")
        about = subject
        if said.error == "notFound" and (above := self._above(subject)) is not None:
            said, about = await self._get(above, subject.id.partition(".")[0]), above
        now = self._wall()
        fact = Evidence(
            trust=Trust.AUTH_CHANNEL,
            what=f"resolved {subject} for us",
            source=self.card.name,
            at=now,
            until=now + _AGE,
        )
        if said.deactivated:
            return Revoked(subject=subject, why=f"{subject}: deactivated, says {self.card.name}", evidence=fact)
        if said.token is not None:
            claim = Claim(about=about, kind="token", value=said.token, evidence=fact)
            return Found(subject=subject, claims=(claim,))
        if said.document is not None:
            return Found(subject=subject, claims=tuple(unsigned_claims(subject, said.document, fact, now)))
        if said.error == "notFound":
            why = f"{subject}: not found, says {self.card.name}"
            return Absent(subject=subject, why=why, evidence=fact, until=fact.until)
        raise BadWire(f"{subject} was not resolved: {said.error[:80]}")

    def _above(self, subject: Did) -> Did | None:
        """The zone of what may be a machine."""
        above = Did(subject.method, subject.id.partition(".")[2])
        return above if subject.method in self._zones and not subject.path and "." in above.id else None

    async def _get(self, did: Did, kind: str) -> Resolved:
        url = self._base + quote(str(did), safe=":") + (f"?type={quote(kind, safe='')}" if kind else "")
        response = await self._fetch.fetch(url, headers=_ACCEPT, private=True, insecure=self._local)
        return read_resolved(response.status, response.header("content-type"), response.body)
