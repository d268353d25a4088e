"""The lookups of ``cyfs_ns.ens.lookup`` carried out: calls go to all Ethereum nodes and are weighed, gateways are asked
by the gate.  Everything of one question is learnt at one block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio

from cyfs_ns.ens.asks import RecordAsk
from cyfs_ns.ens.claims import called
from cyfs_ns.ens.coins import ETH
from cyfs_ns.ens.lookup import (
    Answer,
    Call,
    Fetch,
    Fetched,
    Steps,
    Together,
    ask_resolver,
    ask_universal,
    ask_universal_many,
    find_resolver,
)
from cyfs_ns.ens.namehash import namehash
from cyfs_ns.ens.normalise import Normal
from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.trusted.ccipgate import CcipGate
from cyfs_ns.io.trusted.chain import Chain, ChainConfig, View

MAINNET_REGISTRY = "0x00000000000c2e074ec69a0dfb2997ba6c7d2e1e"
MAINNET_UNIVERSAL = "0xeeeeeeee14d718c2b47d9923deab1335e144eeee"

_T = TypeVar("_T")


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
class Learnt:
    """What one question brought, record by record."""

    normal: Normal
    values: dict[RecordAsk, tuple[str | bytes, Answer]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class EnsLookups:
    """``gate``: who asks gateways; without one, records that need a gateway are out of reach."""

    def __init__(
        self, config: EnsConfig, gate: CcipGate | None = None, *, wall: Callable[[], float] = time.time
    ) -> None:
        self.config = config
        self._gate, self._chain = gate, Chain(config.nodes, wall)

    async def view(self) -> View:
        """The chain now, for one question.  Raises ``Unreachable``."""
        return await self._chain.view()

    async def learn(self, normal: Normal, wanted: Sequence[RecordAsk], view: View) -> Learnt:
        """All these records, at the same time.  Raises ``NoResolver``."""
        name, node = normal.name, namehash(normal.name)
        data = [record.data(node) for record in wanted]
        if not self.config.universal:
            resolver = await self._carry_out(find_resolver(name, self.config.registry), view)
            lookups: list[Steps[Answer]] = [ask_resolver(name, each, resolver) for each in data]
            said = await self._together(lookups, view)
        elif len(data) == 1:
            said = [await self._one(ask_universal(name, data[0], self.config.universal), view)]
        else:
            said = await self._carry_out(ask_universal_many(name, data, self.config.universal), view)
        learnt = Learnt(normal)
        for record, answer in zip(wanted, said, strict=True):
            if isinstance(answer, Exception):
                learnt.faults.append(f"{called(record)}: {answer}")
                continue
            try:
                value = record.read(answer.data)
            except BadWire as fault:
                learnt.faults.append(f"{called(record)}: {fault}")
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
