"""ENS as one of those to ask about a name: ``did:ens:alice.eth``, that is ``alice.eth``, also a name of DNS in ENS.

An answer is worth what the nodes that stand behind all of it are worth together; what a gateway brought counts as much,
since its contract accepted it.

The name of an address is asked as its reverse name, ``<40 hex digits>.addr.reverse``, and believed only if the name in
turn has that address.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from cyfs_ns.ens import asks
from cyfs_ns.ens.asks import RecordAsk
from cyfs_ns.ens.claims import called, claims_of, wanted_dns, wanted_records
from cyfs_ns.ens.coins import address_text, read_reverse_host
from cyfs_ns.ens.lookup import Answer, NoResolver
from cyfs_ns.ens.namehash import from_dns
from cyfs_ns.ens.normalise import Normal, normalise
from cyfs_ns.ens.tables import spec_version
from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.trusted.ccipgate import CcipGate
from cyfs_ns.io.trusted.chain import View
from cyfs_ns.io.trusted.enslookups import EnsConfig, EnsLookups, Learnt
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Found
from cyfs_ns.trust.plan import Ask, Card, Cost, Privacy
from cyfs_ns.wire import name_wire

_MOST_ZONES = 3
"""Names above one that are asked for DNS records of it."""


class EnsProvider:
    """Asks ENS.  ``gate``: who asks gateways; without one, records that need a gateway are out of reach."""

    def __init__(
        self, config: EnsConfig, gate: CcipGate | None = None, *, wall: Callable[[], float] = time.time
    ) -> None:
        self.card = Card(
            name="ENS",
            methods=frozenset({"ens"}),
            best=Trust.QUORUM if config.nodes.needed > 1 else Trust.AUTH_CHANNEL,
            cost=Cost.CHAIN,
            privacy=Privacy.SERVICE,
        )
        self._config, self._wall = config, wall
        self._lookups = EnsLookups(config, gate, wall=wall)

    async def ask(self, ask: Ask) -> Found | Absent:
        """What the name holds of the kinds asked for.  Raises ``BadWire`` for a name that cannot be one, for nodes that
        contradict each other and for a resolver that breaks the rules; ``Unreachable`` if nobody could be asked."""
        normal = from_dns(ask.subject.id)
        reverse = read_reverse_host(normal.name)
        wanted = wanted_records(ask, self._config.coins, self._config.texts)
        if not wanted and (reverse is None or "name" not in ask.kinds):
            return Found(subject=ask.subject, claims=())
        with self._deadline():
            view = await self._lookups.view()
            if reverse is not None and "name" in ask.kinds:
                return await self._ask_reverse(ask, normal, view, *reverse)
            return await self._ask_forward(ask, wanted, normal, view)

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        try:
            with trio.fail_after(self._config.timeout):
                yield
        except trio.TooSlowError:
            raise Unreachable(f"no answer in {self._config.timeout:g} s", "connect_timeout") from None

    async def _ask_forward(self, ask: Ask, wanted: list[RecordAsk], normal: Normal, view: View) -> Found | Absent:
        try:
            learnt = await self._lookups.learn(normal, wanted, view)
        except NoResolver as nobody:
            in_zone = await self._learn_from_zone(ask, normal, view)
            if in_zone is None:
                return self._absent(ask, normal, view, f"{normal.name} is not in ENS: {nobody}")
            learnt = in_zone
        claims: list[Claim] = []
        told: set[str] = set()
        for record, (value, answer) in learnt.values.items():
            if record.key in told:
                continue
            evidence = self._evidence(f"{called(record)} of {normal.name}", normal, view, answer)
            try:
                said = list(claims_of(ask, record, value, evidence, learnt.faults))
            except BadWire as fault:
                learnt.faults.append(f"{called(record)}: {fault}")
                continue
            claims += said
            # What stands in DNS records or under data is not looked for again in the older places.
            if record.kind == "data":
                told.add(record.key)
            elif any(claim.kind == "address" for claim in said):
                told.add("ip")
        faults = (*normal.warnings, *_node_faults(view), *learnt.faults)
        if claims:
            return Found(
                subject=ask.subject, claims=tuple(claims), until=self._wall() + self._config.ttl, faults=faults
            )
        if learnt.faults:
            raise Unreachable("; ".join(learnt.faults))
        return self._absent(ask, normal, view, f"{normal.name} is in ENS, but has nothing of what was asked for")

    async def _ask_reverse(self, ask: Ask, normal: Normal, view: View, coin: int, address: bytes) -> Found | Absent:
        """The primary name of an address (ENSIP-3, ENSIP-19)."""
        name_of = asks.reverse_name()
        try:
            learnt = await self._lookups.learn(normal, [name_of], view)
        except NoResolver:
            return self._absent(ask, normal, view, f"{address_text(coin, address)} has no name")
        if learnt.faults:
            raise Unreachable("; ".join(learnt.faults))
        if name_of not in learnt.values:
            return self._absent(ask, normal, view, f"{address_text(coin, address)} has no name")
        said, answer = learnt.values[name_of]
        name = normalise(str(said))
        if name.name != said:
            raise BadWire(f"the name of {address_text(coin, address)} is not spelt as names are: {str(said)[:80]!a}")
        address_of = asks.coin_address(coin)
        try:
            forward = await self._lookups.learn(name, [address_of], view)
        except NoResolver:
            forward = Learnt(name)
        if forward.faults:
            raise Unreachable("; ".join(forward.faults))
        owned, back = forward.values.get(address_of, ("", None))
        if owned != address_text(coin, address):
            why = f"{address_text(coin, address)} calls itself {name.name}, which has another address"
            return self._absent(ask, normal, view, why)
        proof = self._evidence(f"{name.name} has the address {owned}", name, view, back)
        evidence = self._evidence(f"name of {owned}", normal, view, answer).standing_on(proof)
        return Found(
            subject=ask.subject,
            claims=(Claim(about=ask.subject, kind="name", value=name.name, evidence=evidence),),
            until=evidence.ends,
            faults=(*name.warnings, *_node_faults(view)),
        )

    async def _learn_from_zone(self, ask: Ask, normal: Normal, view: View) -> Learnt | None:
        """The DNS records that a name above keeps for this one, as the zone it is; or those of its wildcard."""
        labels, host = normal.name.split("."), ask.subject.id
        for at in range(1, min(len(labels) - 1, _MOST_ZONES + 1)):
            zone = Normal(".".join(labels[at:]), normal.warnings)
            exists = asks.has_dns_records(name_wire(host))
            if not (wanted := wanted_dns(ask, host)):
                return None
            try:
                learnt = await self._lookups.learn(zone, [exists, *wanted], view)
            except NoResolver:
                continue
            for cut in range(1, at + 1):
                if learnt.values or learnt.faults:
                    learnt.values.pop(exists, None)
                    return learnt
                learnt = await self._lookups.learn(zone, wanted_dns(ask, "*." + host.split(".", cut)[cut]), view)
            return learnt if learnt.values or learnt.faults else None
        return None

    def _absent(self, ask: Ask, normal: Normal, view: View, why: str) -> Absent:
        evidence = self._evidence(why, normal, view, None)
        return Absent(subject=ask.subject, why=why, evidence=evidence, until=evidence.ends, faults=_node_faults(view))

    def _evidence(self, what: str, normal: Normal, view: View, answer: Answer | None) -> Evidence:
        now = self._wall()
        facts: list[tuple[str, str]] = []
        if answer is not None:
            facts.append((f"its resolver is {answer.resolver}", self._config.universal or self._config.registry))
            facts += [(f"gateway {host} supplied it, and the resolver accepts it", host) for host in answer.gateways]
        agreed = f"{len(view.backers)} of {len(self._config.nodes.endpoints)} Ethereum nodes agree"
        facts.append((f"{agreed}, at block {view.block} ({view.hash})", _named(view)))
        facts += [(why, name) for name, why in view.faults.items()]
        facts.append((f"the name is normal by {spec_version()}", self.card.name))
        facts += [(f"warning: {warning}", self.card.name) for warning in normal.warnings]
        return Evidence(
            trust=view.trust,
            what=what,
            source=self.card.name,
            at=now,
            until=now + self._config.ttl,
            because=tuple(Evidence(trust=view.trust, what=fact, source=source, at=now) for fact, source in facts),
        )


def _named(view: View) -> str:
    return ", ".join(end.name for end in view.backers)


def _node_faults(view: View) -> tuple[str, ...]:
    return tuple(f"Ethereum node {name}: {why}" for name, why in view.faults.items())
