"""How many talk to an SN at a time, and that none of them can keep the others out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing
from sn_people import NOW, Office, person

from cyfs_gateway.flow import Identity
from cyfs_gateway.io.sn import desk
from cyfs_gateway.io.sn.desk import Desk
from cyfs_gateway.sn.crowd import QUIET
from cyfs_gateway.sn.guests import Guests
from cyfs_gateway.sn.requests import Register
from cyfs_gateway.sn.talk import RelayWith, write_ask
from cyfs_ns.errors import Refused
from cyfs_ns.trust.level import Trust
from tests.cyfs_gateway.membership.test_answered import pair


class Lobby:
    """A desk of an office, and streams to it on which nothing is said but what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(desk, "_MOST_OF_STRANGERS", 64)
        nothing, self.office = cast(Any, None), Office(open=True)
        guests = Guests(self.office.registry, lambda: NOW, lambda: 0.0)
        books = cast(Any, SimpleNamespace(registry=self.office.registry))
        self.here = Desk(nothing, books, nothing, guests, nothing, nothing, None, nothing)
        self.streams: dict[int, trio.SocketStream] = {}

    async def call(self, number: int, source: str) -> None:
        ours, self.streams[number] = pair()
        did = str(person(number).did)
        try:
            await self.here.serve(Identity(did=did, host="", trust=Trust.KEY_PROVEN, device=did, source=source), ours)
        finally:
            ours.close()

    async def close(self) -> None:
        for stream in self.streams.values():
            await stream.aclose()


async def test_somebody_new_has_the_stream_of_the_most_silent_and_members_need_none_of_theirs(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    lobby, refused = Lobby(monkeypatch), []
    lobby.office(person(30), Register("alice"))
    assert lobby.office.admit(person(30), person(31), "ood1").ok

    async def call(number: int) -> None:
        try:
            await lobby.call(number, "192.0.2.1")
        except Refused as no:
            refused.append((number, str(no)))

    async with trio.open_nursery() as nursery:
        for number in range(10, 18):
            nursery.start_soon(call, number)
            await trio.sleep(1)
        await trio.sleep(QUIET - 10)
        await lobby.streams[10].send_all(write_ask(RelayWith(person(11).did)))
        assert await lobby.streams[10].receive_some()
        nursery.start_soon(call, 20)
        await trio.sleep(0.1)
        assert [number for number, _ in refused] == [20], "nobody has been silent for long"
        nursery.start_soon(call, 31)
        await trio.sleep(5)
        assert len(lobby.here) == 9, "a member has a stream beside them"
        nursery.start_soon(call, 21)
        await trio.sleep(0.1)
        assert [number for number, _ in refused] == [20, 11] and "room" in refused[1][1]
        assert len(lobby.here) == 9
        await lobby.close()
    assert len(lobby.here) == 0


async def test_strangers_from_one_network_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    lobby = Lobby(monkeypatch)
    here, call = lobby.here, lobby.call

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(call, 10 + number, f"192.0.2.{number}")
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Refused, match="one network"):
                await call(20, "192.0.2.99")
            nursery.start_soon(call, 21, "198.51.100.1")
            await trio.testing.wait_all_tasks_blocked()
            assert len(here) == 9
            await lobby.close()
        assert len(here) == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, 20, "192.0.2.99")
            await trio.testing.wait_all_tasks_blocked()
            assert len(here) == 1, "who is gone counts no more"
            await lobby.close()
