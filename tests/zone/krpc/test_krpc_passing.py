"""A machine's own door leads to every service of its zone, and gives nobody a right that they do not have."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from krpcservices import House, Notes, Odd, until, user, verify

from cyfs_gateway.flow import Identity
from cyfs_ns.trust.level import Trust
from tunnels.io.waiting import TcpEndpoint
from zone.io.krpc.client import Client
from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.passing import Passing
from zone.io.krpc.server import KrpcServer
from zone.io.krpc.transport import HttpTransport, by_endpoint, by_unix
from zone.krpc.faults import Code, KrpcFault

DEVICE = Identity(did="laptop", host="", trust=Trust.KEY_PROVEN)


def to_peer(serve: Callable[..., Any], nursery: trio.Nursery) -> HttpTransport:
    """Through a tunnel of ``DEVICE``."""

    async def opening() -> TcpEndpoint:
        near, far = socket.socketpair()
        ends = []
        for sock in (near, far):
            sock.setblocking(False)
            ends.append(TcpEndpoint(sock.family, sock.type, sock.proto, sock.detach()))
        nursery.start_soon(serve, DEVICE, ends[1])
        return ends[0]

    return HttpTransport(by_endpoint(opening))


@dataclass
class Place:
    """A machine that answers ``here`` itself, and has a way to a house that answers ``notes`` and ``odd``."""

    far: House
    passing: Passing
    server: KrpcServer
    door: Path
    to_far: HttpTransport

    def client(self, service: str, token: str = "") -> Client:
        async def tokens() -> str:
            return token

        return Client(HttpTransport(by_unix(self.door), tokens), service, seconds=20)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with machine(tmp_path) as made:
        yield made


@asynccontextmanager
async def machine(folder: Path) -> AsyncIterator[Place]:
    far, dispatcher, door = House(), Dispatcher(), folder / "k.sock"
    dispatcher.register("here", Odd())
    passing = Passing(dispatcher)
    server = KrpcServer(dispatcher, verify, lambda identity: user(identity.did), passing)
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        await nursery.start(lambda task_status: server.serve(unix=door, task_status=task_status))
        yield Place(far, passing, server, door, to_peer(far.server.serve_passed_on, nursery))


async def test_a_call_goes_on_with_the_token_of_its_caller(place: Place):
    with place.passing.by(place.to_far):
        ann, nobody = place.client("notes", "for.ann.x").of(Notes), place.client("notes").of(Notes)
        assert await ann.whoami() == "ann"
        # The tunnel is this machine's, the call is not.
        assert await nobody.whoami() == ""
        with pytest.raises(KrpcFault) as caught:
            await nobody.put("milk")
        assert caught.value.code == Code.UNAUTHENTICATED
        assert await ann.whoami() == "ann"
        with pytest.raises(KrpcFault) as caught:
            await place.client("notes", "from.ann.x").of(Notes).whoami()
        assert caught.value.code == Code.UNAUTHENTICATED
        async with place.client("notes", "for.ann.x").batch(Notes) as calls:
            last = calls.step(calls.step(0))
            calls.put("milk")
        assert await last == 2 and list(place.far.kept) == ["ann"]


async def test_what_is_here_is_answered_here(place: Place):
    assert await place.client("here").call("x", {"a": 1}) == {"a": 1}
    with place.passing.by(place.to_far):
        assert await place.client("here").call("x", {"a": 1}) == {"a": 1}
        assert not place.far.odd.calls


async def test_what_the_oods_carry_goes_to_them_whoever_answers_it_here(place: Place):
    async with trio.open_nursery() as nursery:
        oods = House()
        oods.dispatcher.register("here", oods.odd)
        way = to_peer(oods.server.serve_passed_on, nursery)
        with place.passing.by(place.to_far, {"here"}, way):
            assert await place.client("here", "for.ann.x").call("x", {}) == {}
            assert await place.client("notes", "for.ann.x").of(Notes).whoami() == "ann"
        assert oods.odd.calls == ["x"] and not place.far.odd.calls
        nursery.cancel_scope.cancel()


async def test_without_the_zone_nothing_goes_on(place: Place):
    with pytest.raises(KrpcFault) as caught:
        await place.client("notes").of(Notes).whoami()
    assert caught.value.code == Code.UNKNOWN_SERVICE


async def test_what_comes_by_a_tunnel_goes_no_further(place: Place):
    async with trio.open_nursery() as nursery:
        with place.passing.by(place.to_far):
            for serve in (place.server.serve_peer, place.server.serve_passed_on):
                with pytest.raises(KrpcFault) as caught:
                    await Client(to_peer(serve, nursery), "notes", seconds=20).of(Notes).whoami()
                assert caught.value.code == Code.UNKNOWN_SERVICE
        nursery.cancel_scope.cancel()


async def test_limits_and_deadlines_go_on_as_well(place: Place):
    with place.passing.by(place.to_far):
        with pytest.raises(KrpcFault) as caught:
            await Client(HttpTransport(by_unix(place.door)), "odd", seconds=0.5, trace="t1").call("hang", {})
        assert caught.value.code == Code.DEADLINE
        assert place.far.odd.contexts[0].trace == "t1" and place.far.odd.contexts[0].seconds <= 0.5
        await until(lambda: not place.far.odd.running)
