"""Calls to whichever OOD answers: the one that did last, and the next one as soon as it does not.

On a machine that carries no store, whoever lives in its gateway calls ``system_config`` in place all the same
(``zone/io/here.py``); such calls are passed on, and the tunnel proves there which machine calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from cyfs_ns.errors import Misuse
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.strictjson import Json
from tunnels.endpoint import Endpoint
from zone.io.krpc.server import OFFER
from zone.io.krpc.transport import HttpTransport, by_endpoint
from zone.krpc.batch import Batch
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import CallContext
from zone.krpc.wire import Single

_PATIENCE: Final = 5.0
"""Seconds for one OOD to answer, beyond those that a call itself waits (a poll for changes)."""
_NOT_DONE: Final = frozenset({Code.UNAVAILABLE, Code.UNKNOWN_SERVICE, Code.LIMITED})
_DOUBTFUL: Final = _NOT_DONE | {Code.UNCERTAIN, Code.DEADLINE}


class Opener(Protocol):
    """What of the gateway leads there (``cyfs_gateway/host.py``)."""

    async def call_offer(self, peer: Did, name: str) -> Endpoint: ...


class AnyOod:
    """A ``Transport`` to what ``oods`` offer, the nearest first; ``reached`` says which are there now."""

    def __init__(
        self,
        host: Opener,
        oods: Sequence[tuple[str, Did]],
        reached: Callable[[], frozenset[str]],
        offer: str = OFFER,
    ) -> None:
        if not oods:
            raise Misuse("nobody to ask")
        self._host, self._reached, self._offer = host, reached, offer
        self._places = [(name, self._transport(did)) for name, did in oods]

    def _transport(self, did: Did) -> HttpTransport:
        return HttpTransport(by_endpoint(lambda: self._host.call_offer(did, self._offer)))

    async def ask(
        self, service: str, asked: Single | Batch, *, seconds: float, trace: str = "", token: str | None = None
    ) -> Json:
        """As ``Transport.ask``, of the first that says more than that it cannot; ``token`` as with
        ``HttpTransport``."""
        reached = self._reached()
        if isinstance(asked, Single) and isinstance(waits := asked.params.get("seconds", 0), int | float):
            seconds = min(seconds, waits + _PATIENCE)
        fault = KrpcFault(Code.UNAVAILABLE, "no OOD can be reached")
        for place in [one for one in self._places if one[0] in reached]:
            try:
                return await place[1].ask(service, asked, seconds=seconds, trace=trace, token=token)
            except KrpcFault as failed:
                if failed.code in _DOUBTFUL:
                    self._places = [*(one for one in self._places if one is not place), place]
                if failed.code not in _NOT_DONE:
                    raise
                fault = failed
        raise fault

    async def aclose(self) -> None:
        """Close the connections that are kept."""
        for _, transport in self._places:
            await transport.aclose()


class PassedOn:
    """``service`` of the OODs, for ``me``, which is this machine, and for nobody else: its tunnels speak for it."""

    def __init__(self, service: str, oods: AnyOod, me: Caller) -> None:
        self._service, self._oods, self._me = service, oods, me

    async def __call__(self, caller: Caller, method: str, params: Mapping[str, Json], context: CallContext) -> Json:
        if caller != self._me:
            raise KrpcFault(Code.DENIED, f"{self._service} is not on this machine; call it on an OOD")
        return await self._oods.ask(self._service, Single(method, params), seconds=context.seconds, trace=context.trace)
