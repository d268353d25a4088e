"""ENS as one of those to ask about a name: ``did:ens:alice.eth``, that is ``alice.eth``, also a name of DNS in ENS.

The lookups of ``cyfs_ns.ens.lookup`` are carried out here: calls go to all Ethereum nodes and are weighed, gateways are
asked by the gate.  Everything of one question is learnt at one block.  An answer is worth what the nodes that stand
behind all of it are worth together; what a gateway brought counts as much, since its contract accepted it.

The name of an address is asked as its reverse name, ``<40 hex digits>.addr.reverse``, and believed only if the name in
turn has that address.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio

from cyfs_ns.ens import asks
from cyfs_ns.ens.asks import RecordAsk
from cyfs_ns.ens.coins import ETH, address_text, read_reverse_host
from cyfs_ns.ens.contenthash import read_contenthash
from cyfs_ns.ens.lookup import (
    Answer,
    Call,
    Fetch,
    Fetched,
    NoResolver,
    Steps,
    Together,
    ask_resolver,
    ask_universal,
    ask_universal_many,
    find_resolver,
)
from cyfs_ns.ens.namehash import from_dns, namehash
from cyfs_ns.ens.normalise import Normal, normalise
from cyfs_ns.ens.records import read_addresses, stored_for
from cyfs_ns.ens.tables import spec_version
from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.identity.did import parse_did
from cyfs_ns.identity.txt import joined_txt, read_published
from cyfs_ns.io.trusted.ccipgate import CcipGate
from cyfs_ns.io.trusted.chain import Chain, ChainConfig, View
from cyfs_ns.message import AAAA, TXT, A, rtype_number, rtype_text
from cyfs_ns.trust.evidence import Claim, Evidence, Kind, Value
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Found
from cyfs_ns.trust.plan import Ask, Card, Cost, Privacy
from cyfs_ns.wire import name_wire

MAINNET_REGISTRY = "0x00000000000c2e074ec69a0dfb2997ba6c7d2e1e"
MAINNET_UNIVERSAL = "0xeeeeeeee14d718c2b47d9923deab1335e144eeee"

_T = TypeVar("_T")
_MOST_ZONES = 3
"""Names above one that are asked for DNS records of it."""
_DNS_TYPES = ("A", "AAAA", "CNAME", "MX", "TXT", "SRV", "SSHFP", "TLSA", "HTTPS", "CAA")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsConfig:
    """Where ENS is, and what is asked of it."""

    nodes: ChainConfig
    registry: str = MAINNET_REGISTRY
    universal: str = MAINNET_UNIVERSAL
    """The universal resolver; empty: go the direct way, which trusts nobody more and takes more calls."""
    timeout: float = 9.0
    """Seconds for one question, all in all."""
    ttl: float = 300.0
    """Seconds for which an answer holds: a chain's records have no lifetime of their own."""
    coins: tuple[int, ...] = (ETH,)
    texts: tuple[str, ...] = ("url", "avatar", "description", "email", "alias", "com.github")


@dataclass(slots=True)
class _Learnt:
    """What one question brought, record by record."""

    normal: Normal
    values: dict[RecordAsk, tuple[str | bytes, Answer]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


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
        self._config, self._gate, self._wall = config, gate, wall
        self._chain = Chain(config.nodes, wall)

    async def ask(self, ask: Ask) -> Found | Absent:
        """What the name holds of the kinds asked for.  Raises ``BadWire`` for a name that cannot be one, for nodes that
        contradict each other and for a resolver that breaks the rules; ``Unreachable`` if nobody could be asked."""
        normal = from_dns(ask.subject.id)
        reverse = read_reverse_host(normal.name)
        wanted = self._wanted(ask)
        if not wanted and (reverse is None or "name" not in ask.kinds):
            return Found(subject=ask.subject, claims=())
        with self._deadline():
            view = await self._chain.view()
            if reverse is not None and "name" in ask.kinds:
                return await self._ask_reverse(ask, normal, view, *reverse)
            return await self._ask_forward(ask, wanted, normal, view)

    async def record(self, name: str, wanted: RecordAsk) -> tuple[str | bytes | None, Evidence]:
        """One record of a name in any spelling, and the evidence.  Raises as :meth:`ask` does, and ``NoResolver``."""
        normal = normalise(name)
        with self._deadline():
            view = await self._chain.view()
            learnt = await self._learn(normal, [wanted], view)
        if learnt.faults:
            raise Unreachable(learnt.faults[0])
        value, answer = learnt.values.get(wanted, (None, None))
        return value, self._evidence(f"{_called(wanted)} of {normal.name}", normal, view, answer)

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        try:
            with trio.fail_after(self._config.timeout):
                yield
        except trio.TooSlowError:
            raise Unreachable(f"no answer in {self._config.timeout:g} s", "connect_timeout") from None

    async def _ask_forward(self, ask: Ask, wanted: list[RecordAsk], normal: Normal, view: View) -> Found | Absent:
        try:
            learnt = await self._learn(normal, wanted, view)
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
            evidence = self._evidence(f"{_called(record)} of {normal.name}", normal, view, answer)
            try:
                said = list(_claims(ask, record, value, evidence, learnt.faults))
            except BadWire as fault:
                learnt.faults.append(f"{_called(record)}: {fault}")
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
            learnt = await self._learn(normal, [name_of], view)
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
            forward = await self._learn(name, [address_of], view)
        except NoResolver:
            forward = _Learnt(name)
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

    def _wanted(self, ask: Ask) -> list[RecordAsk]:
        wanted, kinds = _dns(ask, ask.subject.id), ask.kinds
        if "address" in kinds:
            wanted += [asks.blob("ip"), asks.text("ip")]
        if "content" in kinds:
            wanted.append(asks.contenthash())
        if "did" in kinds:
            wanted += [asks.blob("did"), asks.text("did")]
        if "text" in kinds:
            wanted += [asks.coin_address(coin) for coin in self._config.coins]
            wanted += [asks.text(key) for key in self._config.texts]
            wanted.append(asks.pubkey())
        return wanted

    async def _learn_from_zone(self, ask: Ask, normal: Normal, view: View) -> _Learnt | None:
        """The DNS records that a name above keeps for this one, as the zone it is; or those of its wildcard."""
        labels, host = normal.name.split("."), ask.subject.id
        for at in range(1, min(len(labels) - 1, _MOST_ZONES + 1)):
            zone = Normal(".".join(labels[at:]), normal.warnings)
            exists = asks.has_dns_records(name_wire(host))
            if not (wanted := _dns(ask, host)):
                return None
            try:
                learnt = await self._learn(zone, [exists, *wanted], view)
            except NoResolver:
                continue
            for cut in range(1, at + 1):
                if learnt.values or learnt.faults:
                    learnt.values.pop(exists, None)
                    return learnt
                learnt = await self._learn(zone, _dns(ask, "*." + host.split(".", cut)[cut]), view)
            return learnt if learnt.values or learnt.faults else None
        return None

    async def _learn(self, normal: Normal, wanted: Sequence[RecordAsk], view: View) -> _Learnt:
        """All these records, at the same time.  Raises ``NoResolver``."""
        name, node = normal.name, namehash(normal.name)
        data = [record.data(node) for record in wanted]
        if not self._config.universal:
            resolver = await self._carry_out(find_resolver(name, self._config.registry), view)
            lookups: list[Steps[Answer]] = [ask_resolver(name, each, resolver) for each in data]
            said = await self._together(lookups, view)
        elif len(data) == 1:
            said = [await self._one(ask_universal(name, data[0], self._config.universal), view)]
        else:
            said = await self._carry_out(ask_universal_many(name, data, self._config.universal), view)
        learnt = _Learnt(normal)
        for record, answer in zip(wanted, said, strict=True):
            if isinstance(answer, Exception):
                learnt.faults.append(f"{_called(record)}: {answer}")
                continue
            try:
                value = record.read(answer.data)
            except BadWire as fault:
                learnt.faults.append(f"{_called(record)}: {fault}")
                continue
            if value is not None:
                learnt.values[record] = (value, answer)
        return learnt

    async def _carry_out(self, steps: Steps[_T], view: View) -> _T:
        """A lookup, each of its wishes fulfilled."""
        reply: Any = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as end:
                result: _T = end.value
                return result
            match step:
                case Call():
                    reply = await view.call(step)
                case Fetch():
                    reply = await self._fetch(step)
                case Together():
                    reply = await self._together(step.lookups, view)

    async def _together(self, lookups: Sequence[Steps[Any]], view: View) -> list[Any]:
        results: list[Any] = [None] * len(lookups)

        async def one(at: int, lookup: Steps[Any]) -> None:
            results[at] = await self._one(lookup, view)

        async with trio.open_nursery() as nursery:
            for at, lookup in enumerate(lookups):
                nursery.start_soon(one, at, lookup)
        return results

    async def _one(self, lookup: Steps[_T], view: View) -> _T | BadWire | Unreachable:
        try:
            return await self._carry_out(lookup, view)
        except (BadWire, Unreachable) as fault:
            return fault

    async def _fetch(self, wanted: Fetch) -> Fetched:
        if self._gate is None:
            return Fetched(0, why="gateways are not asked here")
        return await self._gate.fetch(wanted)

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


def _dns(ask: Ask, owner: str) -> list[RecordAsk]:
    """The DNS records under ``owner`` that can hold what is asked for."""
    types: dict[str, None] = {}
    if ask.kinds & {"key", "document"}:
        types["TXT"] = None
    if "address" in ask.kinds:
        types |= {"A": None, "AAAA": None}
    if "record" in ask.kinds:
        types |= dict.fromkeys(_DNS_TYPES)
    return [asks.dns_record(name_wire(owner), rtype_number(rtype)) for rtype in types]


def _claims(ask: Ask, record: RecordAsk, value: str | bytes, evidence: Evidence, faults: list[str]) -> Iterator[Claim]:
    """What a record says.  Raises ``BadWire`` if that is nothing sensible."""

    def claim(kind: Kind, said: Value, key: str = "") -> Claim:
        return Claim(about=ask.subject, kind=kind, key=key, value=said, evidence=evidence)

    match record.kind, record.key:
        case (("text" | "data"), "ip"):
            yield from (claim("address", address) for address in read_addresses(value))
        case (("text" | "data"), "did"):
            yield claim("did", str(parse_did(value if isinstance(value, str) else value.decode("ascii", "replace"))))
        case "contenthash", _:
            yield claim("content", str(read_contenthash(_octets(value))))
        case "addr", coin:
            yield claim("text", value, f"a.{coin}")
        case "pubkey", _:
            yield claim("text", _octets(value).hex(), "pubkey")
        case "dns", rtype:
            stored = stored_for(ask.subject.id, int(rtype), _octets(value))
            if "record" in ask.kinds:
                yield claim("record", value, rtype_text(int(rtype)))
            if "address" in ask.kinds and int(rtype) in (A, AAAA):
                yield from (claim("address", each.text) for each in stored)
            if int(rtype) != TXT or not ask.kinds & {"key", "document"}:
                return
            # As a zone publishes itself in DNS, it may here.
            published = read_published(joined_txt(each.data) for each in stored)
            faults.extend(published.faults)
            if published.key is not None:
                # Of the name alone: whoever has one must not say, as surely as a chain does, who somebody else is.
                yield claim("key", published.key, "owner")
            for token in (published.boot, published.zone, *published.devices):
                if token is not None:
                    yield claim("token", token)
        case _:
            yield claim("text", value, record.key)


def _octets(value: str | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


def _called(record: RecordAsk) -> str:
    return f"{record.kind} {record.key}".strip()


def _named(view: View) -> str:
    return ", ".join(end.name for end in view.backers)


def _node_faults(view: View) -> tuple[str, ...]:
    return tuple(f"Ethereum node {name}: {why}" for name, why in view.faults.items())
