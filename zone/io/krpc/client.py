"""A service as its callers see it: single calls, typed ones, and batches.

Nothing is tried again unless the method is declared idempotent, and the fault is one after which trying again makes
sense; then a few times, within the same deadline.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import trio

from cyfs_ns.errors import Misuse
from cyfs_ns.identity.strictjson import Json
from zone.io.krpc.transport import Transport
from zone.krpc.batch import Batch, Outcome
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.interface import Interface, Method, methods_of, stub
from zone.krpc.promise import Plan, Promise
from zone.krpc.service import SECONDS
from zone.krpc.wire import Single, read_outcomes

TRIES: Final = 3
_PAUSE: Final = 0.1

I = TypeVar("I", bound=Interface)  # noqa: E741


class Client:
    """Calls ``service`` by ``transport``; a call waits ``seconds``, or less where its surroundings do."""

    def __init__(self, transport: Transport, service: str, *, seconds: float = SECONDS, trace: str = "") -> None:
        self._transport, self.service = transport, service
        self._seconds, self._trace = seconds, trace

    async def call(self, method: str, params: Mapping[str, Json], *, idempotent: bool = False) -> Json:
        """One call.  Raises ``KrpcFault``."""
        return await self._ask(Single(method, params), TRIES if idempotent else 1)

    def of(self, interface: type[I]) -> I:
        """The service as its interface says; its methods raise ``KrpcFault``."""
        return stub(interface, self.call)

    @asynccontextmanager
    async def batch(self, interface: type[Interface] | None = None) -> AsyncIterator[Calls]:
        """Calls in one round trip, which is made at the end of the block (``zone/krpc/promise.py``).

            async with notes.batch(Notes) as calls:
                newest = calls.list().limit(1)[0]
                calls.archive(title=newest.title)
            print(await newest.title)

        With an interface, params may be given by place, and results are what it says.  What a call gave, or why it gave
        nothing, its promise tells; the block itself raises ``KrpcFault`` where the batch as a whole has no answer.
        """
        methods = {} if interface is None else methods_of(interface)

        async def send(batch: Batch) -> Sequence[Outcome]:
            known = (None if call.service else methods.get(call.method) for call in batch.calls)
            tries = TRIES if all(method is not None and method.idempotent for method in known) else 1
            return read_outcomes(await self._ask(batch, tries), len(batch.results))

        plan = Plan(send)
        yield Calls(plan, "", methods)
        await plan.send()

    async def _ask(self, asked: Single | Batch, tries: int) -> Json:
        ends = min(trio.current_time() + self._seconds, trio.current_effective_deadline())
        for tried in range(1, tries + 1):
            left = ends - trio.current_time()
            try:
                return await self._transport.ask(self.service, asked, seconds=max(left, 0.0), trace=self._trace)
            except KrpcFault as fault:
                again = fault.retryable or fault.code == Code.UNCERTAIN
                if tried == tries or not again or ends - trio.current_time() < _PAUSE * tried:
                    raise
            await trio.sleep(_PAUSE * tried)
        raise AssertionError("unreachable")


class Calls:
    """The calls of a batch: methods of the service it goes to, and of others beside it (``calls["time"].now()``)."""

    def __init__(self, plan: Plan, service: str, methods: Mapping[str, Method]) -> None:
        self._plan, self._service, self._methods = plan, service, methods

    def __getitem__(self, service: str) -> Calls:
        return Calls(self._plan, service, {})

    def __getattr__(self, name: str) -> Callable[..., Promise]:
        method = self._methods.get(name)
        if name.startswith("_") or (self._methods and method is None):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Promise:
            if method is None and args:
                raise Misuse(f"{name}: without an interface, params have names")
            try:
                params = kwargs if method is None else method.signature.bind(*args, **kwargs).arguments
            except TypeError as bad:
                raise Misuse(f"{name}: {bad}") from None
            return self._plan.call(self._service, name, params, None if method is None else method.read_result)

        return call
