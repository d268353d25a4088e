"""The services of this process, and how calls of them are carried out: with limits, in time, and each by its caller's
own rights.

Whatever comes in by a door ends here, and so do calls from within the process.  A batch is carried out here as well,
beside the services and what they keep.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import trio

from cyfs_ns.errors import ConfigFault, Misuse
from cyfs_ns.identity.strictjson import Json
from zone.config.faults import ConfigError
from zone.krpc.batch import Batch, Outcome, Plain, Ready, Run
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import MOST_SECONDS, NAME, CallContext, Service
from zone.krpc.wire import Single, plain_outcomes

MOST_AT_ONCE: Final = 8
"""Calls of one batch."""

_log = logging.getLogger("cyfs.krpc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Requests, calls or batches, that are carried out at once."""

    caller: int = 32
    """Of one caller; of those who proved nothing, from one place."""
    behind: int = 128
    """Of a user with all apps, a machine with all services, all who proved nothing: so nobody takes all the room."""
    all: int = 512


class Rooms:
    """What is carried out at once, within ``limits``."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def admitted(self, caller: Caller, source: str) -> Iterator[None]:
        """One more request of ``caller``, from ``source``, while the block lasts.  Raises ``KrpcFault``."""
        rooms = {
            ("caller", caller.name if caller.subjects else f"{caller.name} {source}"): self._limits.caller,
            ("behind", caller.behind): self._limits.behind,
            ("all", ""): self._limits.all,
        }
        if any(self._open[room] >= most for room, most in rooms.items()):
            raise KrpcFault(Code.LIMITED, "too much is asked at once: wait for some of the answers")
        self._open.update(rooms.keys())
        try:
            yield
        finally:
            self._open.subtract(rooms.keys())
            for room in rooms:
                if not self._open[room]:
                    del self._open[room]


class Dispatcher:
    """Services by name."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._rooms = Rooms(limits or Limits())
        self._services: dict[str, Service] = {}
        self._waiting = trio.lowlevel.ParkingLot()

    def register(self, name: str, service: Service) -> Callable[[], None]:
        """Answer calls of ``name`` until what comes back is called.  Raises ``ConfigFault`` where it is taken."""
        if not NAME.fullmatch(name):
            raise Misuse(f"{name!r} is no name of a service")
        if name in self._services:
            raise ConfigFault(f"there is a service {name} already")
        self._services[name] = service
        self._waiting.unpark_all()

        def end() -> None:
            if self._services.get(name) is service:
                del self._services[name]

        return end

    async def present(self, name: str) -> None:
        """Until there is a service ``name``."""
        while name not in self._services:
            await self._waiting.park()

    def __contains__(self, name: str) -> bool:
        return name in self._services

    async def answer(self, caller: Caller, service: str, asked: Single | Batch, context: CallContext) -> Json:
        """The result of a call; of a batch what ``read_outcomes`` reads.  Raises ``KrpcFault``."""
        seconds = min(context.seconds, MOST_SECONDS)
        with self._rooms.admitted(caller, context.source), trio.move_on_after(seconds):
            if isinstance(asked, Single):
                return await self._call(caller, service, asked, replace(context, seconds=seconds))
            return plain_outcomes(await self._batch(caller, service, asked, context))
        raise KrpcFault(Code.DEADLINE, f"{service} did not answer within {seconds:.3g} s")

    async def _call(self, caller: Caller, name: str, asked: Single, context: CallContext) -> Json:
        service = self._services.get(name)
        if service is None:
            raise KrpcFault(Code.UNKNOWN_SERVICE, f"there is no service {name!r} here"[:160])
        try:
            result = await service(caller, asked.method, asked.params, context)
        except KrpcFault as fault:
            _log.debug("%s.%s for %s [%s]: %s", name, asked.method, caller.name, context.trace, fault.code)
            raise
        except ConfigError as error:
            raise KrpcFault.of_config(error) from error
        except Exception:
            _log.exception("%s.%s for %s [%s] failed", name, asked.method, caller.name, context.trace)
            raise KrpcFault(Code.INTERNAL, f"{name}.{asked.method} failed, by a fault of the service") from None
        _log.debug("%s.%s for %s [%s]: answered", name, asked.method, caller.name, context.trace)
        return result

    async def _batch(self, caller: Caller, name: str, batch: Batch, context: CallContext) -> list[Outcome]:
        run = Run(batch)
        room = trio.CapacityLimiter(MOST_AT_ONCE)

        async def carry_out(one: Ready) -> None:
            async with room:
                left = trio.current_effective_deadline() - trio.current_time()
                asked = Single(one.method, one.params)
                outcome: Outcome
                try:
                    result = await self._call(caller, one.service or name, asked, replace(context, seconds=left))
                    outcome = Plain(result)
                except KrpcFault as fault:
                    outcome = fault
            run.finish(one.index, outcome)
            begin()

        async with trio.open_nursery() as nursery:

            def begin() -> None:
                for one in run.ready():
                    nursery.start_soon(carry_out, one)

            begin()
        return run.results()
