"""Services, callers and a server for tests of kRPC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from cyfs_ns.identity.strictjson import Json
from zone.config.access import Subject
from zone.io.krpc.dispatch import Dispatcher, Limits
from zone.io.krpc.server import KrpcServer
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.interface import Interface, Served, idempotent
from zone.krpc.service import CallContext


def user(name: str) -> Caller:
    return Caller(name=name, user=name, subjects=(Subject(frozenset({"user"}), {"user": name}),))


@dataclass(frozen=True)
class Note:
    title: str
    year: int = 2026


class Notes(Interface):
    """Keeps notes, each of somebody."""

    async def put(self, title: str, year: int = 2026) -> Note:
        """Keep one."""
        raise NotImplementedError

    @idempotent
    async def list(self) -> list[Note]:
        """Whoever calls has these."""
        raise NotImplementedError

    @idempotent
    async def step(self, number: int) -> int:
        """The next number."""
        raise NotImplementedError

    async def whoami(self) -> str:
        """Who calls."""
        raise NotImplementedError


class KeptNotes(Notes):
    def __init__(self, kept: dict[str, list[Note]], caller: Caller) -> None:
        self._kept, self._caller = kept, caller

    async def put(self, title: str, year: int = 2026) -> Note:
        if not self._caller.subjects:
            raise KrpcFault(Code.UNAUTHENTICATED, "whose note is it?")
        note = Note(title, year)
        self._kept.setdefault(self._caller.name, []).append(note)
        return note

    async def list(self) -> list[Note]:
        return list(self._kept.get(self._caller.name, []))

    async def step(self, number: int) -> int:
        return number + 1

    async def whoami(self) -> str:
        return self._caller.name


class Odd:
    """A service without an interface, that does what nobody should."""

    def __init__(self) -> None:
        self.running = 0
        self.most_running = 0
        self.contexts: list[CallContext] = []
        self.calls: list[str] = []
        self.release = trio.Event()

    async def __call__(self, caller: Caller, method: str, params: Mapping[str, Json], context: CallContext) -> Json:
        self.contexts.append(context)
        self.calls.append(method)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            return await self._do(method, params)
        finally:
            self.running -= 1

    async def _do(self, method: str, params: Mapping[str, Json]) -> Any:
        if method == "hang":
            await trio.sleep_forever()
        elif method == "wait":
            await self.release.wait()
        elif method == "fail":
            raise RuntimeError("secret detail")
        elif method == "flaky":
            if len(self.calls) < 3:
                raise KrpcFault(Code.UNAVAILABLE, "not yet")
        elif method == "big":
            return "x" * 5_000_000
        elif method == "unsendable":
            return object()
        return dict(params)


def verify(token: str) -> Caller:
    """A token of tests says who it is: ``for.NAME.x``."""
    kind, name, _ = token.split(".")
    if kind != "for":
        raise KrpcFault(Code.UNAUTHENTICATED, "this token is not of this zone")
    return user(name)


class House:
    """A dispatcher with notes and an odd service, and its server."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.kept: dict[str, list[Note]] = {}
        self.odd = Odd()
        self.dispatcher = Dispatcher(limits)
        self.dispatcher.register("notes", Served(Notes, lambda caller, _: KeptNotes(self.kept, caller)))
        self.dispatcher.register("odd", self.odd)
        self.server = KrpcServer(self.dispatcher, verify, lambda identity: user(identity.did) if identity.did else None)


@asynccontextmanager
async def serving(house: House, **where: Any):
    async with trio.open_nursery() as nursery:
        yield await nursery.start(lambda task_status: house.server.serve(**where, task_status=task_status))
        nursery.cancel_scope.cancel()


async def until(happens: Callable[[], object]) -> None:
    """Give others the time that they need."""
    with trio.fail_after(30):
        while not happens():  # noqa: ASYNC110
            await trio.sleep(0.01)
