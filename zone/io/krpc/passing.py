"""Calls that come in by a machine's own doors and are answered elsewhere in its zone.

Services of the zone itself are on every OOD; all others are where the scheduler says.  A call goes there with the token
of whoever made it, and as nobody's without one: that this machine passes it on is no proof of anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from cyfs_ns.identity.strictjson import Json
from zone.io.krpc.dispatch import Dispatcher
from zone.krpc.batch import Batch
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import MOST_SECONDS, CallContext
from zone.krpc.wire import Single


class Way(Protocol):
    """A ``Transport`` for calls of others."""

    async def ask(
        self, service: str, asked: Single | Batch, *, seconds: float, trace: str = "", token: str | None = None
    ) -> Json: ...


@dataclass(frozen=True, slots=True)
class _Ways:
    placed: Way
    carried: Collection[str]
    oods: Way | None


class Passing:
    """An ``Elsewhere``: passes on what ``dispatcher`` does not answer, as far as there are ways just now."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._ways: _Ways | None = None

    @contextmanager
    def by(self, placed: Way, carried: Collection[str] = (), oods: Way | None = None) -> Iterator[None]:
        """Calls of ``carried`` go to ``oods``, those of other services as ``placed`` has it, while the block lasts."""
        self._ways = _Ways(placed, carried, oods)
        try:
            yield
        finally:
            self._ways = None

    def takes(self, service: str) -> bool:
        """As ``Elsewhere.takes``."""
        ways = self._ways
        return ways is not None and (service in ways.carried or service not in self._dispatcher)

    async def ask(self, service: str, asked: Single | Batch, token: str, context: CallContext) -> Json:
        """As ``Elsewhere.ask``."""
        ways = self._ways
        if ways is None:
            raise KrpcFault(Code.UNAVAILABLE, "the zone is not up on this machine")
        way = ways.oods if ways.oods is not None and service in ways.carried else ways.placed
        seconds = min(context.seconds, MOST_SECONDS)
        return await way.ask(service, asked, seconds=seconds, trace=context.trace, token=token)
