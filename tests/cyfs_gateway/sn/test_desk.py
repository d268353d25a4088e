"""How many talk to an SN at a time, and that none of them can keep the others out."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
import trio.testing
from sn_people import NOW, Office, person

from cyfs_gateway.flow import Identity
from cyfs_gateway.io.sn import desk
from cyfs_gateway.io.sn.desk import Desk
from cyfs_gateway.sn.guests import Guests
from cyfs_ns.errors import Refused
from cyfs_ns.trust.level import Trust
from tests.cyfs_gateway.membership.test_answered import pair


async def test_strangers_from_one_network_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_MOST_OF_STRANGERS", 64)
    nothing, office = cast(Any, None), Office(open=True)
    guests = Guests(office.registry, lambda: NOW, lambda: 0.0)
    here = Desk(nothing, nothing, nothing, guests, nothing, nothing, None, nothing)
    streams = []

    async def call(number: int, source: str) -> None:
        """A stream on which nothing is said."""
        ours, theirs = pair()
        streams.append(theirs)
        did = str(person(number).did)
        try:
            await here.serve(Identity(did=did, host="", trust=Trust.KEY_PROVEN, device=did, source=source), ours)
        finally:
            ours.close()

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
            for stream in streams:
                await stream.aclose()
        assert len(here) == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, 20, "192.0.2.99")
            await trio.testing.wait_all_tasks_blocked()
            assert len(here) == 1, "who is gone counts no more"
            await streams[-1].aclose()
