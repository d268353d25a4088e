"""What DNS says of a name: the TXT records of its zone, and its addresses.

The records of a zone stand at the zone's own name; a device or an application is a child of it.  So the name and the
one above are asked at once.  What comes is worth the line it came over; signatures may lift it (``trust/weigh.py``).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import trio

from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.identity.did import Bridges, Did, host_of_did
from cyfs_ns.identity.txt import Published, joined_txt, read_published
from cyfs_ns.io.trusted.records import AskRecords, RecordSet
from cyfs_ns.message import AAAA, TXT, A, rtype_text
from cyfs_ns.trust.evidence import KEPT_THERE, Claim, Evidence, Refusal
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Found, Outcome, Refused
from cyfs_ns.trust.plan import Ask, Card, Cost, Privacy

_ADDRESSES = (A, AAAA)
_PART = 0.95
"""Of the time that is given, for asking."""


class DnsRecords:
    """Asks DNS through ``records``.  ``bridges`` say where the names of other methods are published."""

    def __init__(
        self, records: AskRecords, *, bridges: Bridges | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        self._records, self._bridges, self._wall = records, dict(bridges or {}), wall
        self.card = Card(
            name="DNS",
            methods=frozenset({"web", *self._bridges}),
            best=Trust.OWNER_SIGNED,
            cost=Cost.NEAR,
            privacy=Privacy.RESOLVER,
        )

    async def ask(self, ask: Ask) -> Outcome:
        subject = ask.subject
        own = Did(subject.method, subject.id.partition("%")[0])
        above = Did(own.method, own.id.partition(".")[2])
        zones = [own, above] if self._may_be_a_zone(above) else [own]
        got: dict[tuple[Did, int], RecordSet | Exception] = {}

        async def one(whom: Did, rtype: int) -> None:
            try:
                got[whom, rtype] = await self._records(host_of_did(whom, self._bridges), rtype)
            except (Unreachable, BadWire) as fault:
                got[whom, rtype] = fault

        wanted = [*((zone, TXT) for zone in zones), *((own, rtype) for rtype in _ADDRESSES if "address" in ask.kinds)]
        # What was heard when we have to answer counts.
        left = trio.current_effective_deadline() - trio.current_time()
        with trio.move_on_after(max(0.0, left * _PART)):
            async with trio.open_nursery() as nursery:
                for whom, rtype in wanted:
                    nursery.start_soon(one, whom, rtype)
        for whom, rtype in wanted:
            if (whom, rtype) not in got:
                late = f"{host_of_did(whom, self._bridges)}. {rtype_text(rtype)}: no name server answered in time"
                got[whom, rtype] = Unreachable(late, "pre_connect_dns")
        claims: list[Claim] = []
        faults: list[str] = []
        missed: list[str] = []
        refused: list[Refusal] = []
        for (whom, rtype), said in got.items():
            if isinstance(said, Exception):
                missed.append(str(said))
                faults.append(f"DNS: {said}")
            elif rtype == TXT:
                published = read_published(map(joined_txt, said.data))
                claims.extend(self._said_by_txt(whom, published, said))
                unread = [f"TXT of {host_of_did(whom, self._bridges)}: {fault}" for fault in published.faults]
                faults.extend(unread)
                refused.extend(Refusal(whom, why) for why in unread)
            else:
                claims.extend(self._said_by_addresses(subject, rtype, said))
        heard = [said for said in got.values() if isinstance(said, RecordSet)]
        if claims:
            return Found(subject=subject, claims=tuple(claims), faults=tuple(faults), refused=tuple(refused))
        if refused:
            why = f"{subject}: nothing of it can be read"
            return Refused(subject=subject, why=why, faults=tuple(faults), refused=tuple(refused))
        if missed:
            # Whoever adds garbage to a zone must not make it vanish.
            raise Unreachable("; ".join(missed))
        weakest = min(heard, key=lambda said: said.channel)
        exists = any(said.exists for (whom, _), said in got.items() if whom == own and isinstance(said, RecordSet))
        what = "has no records of ours" if exists else "does not exist"
        return Absent(
            subject=subject,
            why=f"{subject}: {host_of_did(own, self._bridges)} {what}, says {weakest.server}",
            evidence=self._fact(weakest, f"{host_of_did(own, self._bridges)} {what}"),
            until=self._wall() + min(said.ttl for said in heard),
            exists=exists,
        )

    def _may_be_a_zone(self, whom: Did) -> bool:
        """A top-level domain is nobody's zone; below a bridge one label is enough."""
        return bool(whom.id) and ("." in whom.id or whom.method in self._bridges)

    def _said_by_txt(self, zone: Did, published: Published, said: RecordSet) -> list[Claim]:
        fact = self._fact(said, f"published in TXT records of {host_of_did(zone, self._bridges)}")
        claims = []
        if published.key is not None:
            claims.append(Claim(about=zone, kind="key", key="owner", value=published.key, evidence=fact))
        for token in (published.boot, published.zone, *published.devices):
            if token is not None:
                key = KEPT_THERE if said.kept else ""
                claims.append(Claim(about=zone, kind="token", key=key, value=token, evidence=fact))
        return claims

    def _said_by_addresses(self, subject: Did, rtype: int, said: RecordSet) -> list[Claim]:
        family, size = (socket.AF_INET, 4) if rtype == A else (socket.AF_INET6, 16)
        texts = [socket.inet_ntop(family, data) for data in said.data if len(data) == size]
        return [
            Claim(about=subject, kind="address", value=text, evidence=self._fact(said, f"DNS has it at {text}"))
            for text in texts
        ]

    def _fact(self, said: RecordSet, what: str) -> Evidence:
        now = self._wall()
        return Evidence(trust=said.channel, what=what, source=said.server, at=now, until=now + said.ttl)
