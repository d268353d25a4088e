"""What the end that was dialled says of the way that its tunnel goes."""

from __future__ import annotations

import socket
from contextlib import closing
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from rtcp.io.nat.guest import Guest
from rtcp.io.pipe import TcpPipe, send_all
from rtcp.nat.signals import Told, write_signal

NO_WAY, DIRECT = "relayed because the far NAT is random-symmetric", "direct by UDP, through its NAT"


@pytest.mark.parametrize(
    ("told", "relayed", "direct"),
    [
        (None, "the peer dialled it", "the peer dialled it"),
        (Told(False, NO_WAY), f"{NO_WAY} (says the peer)", "the peer dialled it"),
        (Told(True, DIRECT), "the peer dialled it", DIRECT),
    ],
)
async def test_what_the_peer_told_holds_for_such_a_way_alone(told: Told | None, relayed: str, direct: str) -> None:
    """By a port that the router maps the tunnel may go directly after an attempt that found nothing."""
    tunnel = SimpleNamespace(pipe=object(), peer=SimpleNamespace(did="did:web:peer.example"))
    guest = Guest(cast(Any, None), cast(Any, tunnel))
    ours, theirs = (TcpPipe(fileno=end.detach()) for end in socket.socketpair())
    ours.setblocking(False)
    with trio.fail_after(60), closing(theirs):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guest.answer, ours)
            if told is not None:
                await send_all(theirs, write_signal(told))
            await trio.testing.wait_all_tasks_blocked()
            assert guest.explain().why == relayed
            nursery.cancel_scope.cancel()
    with (
        socket.create_server(("127.0.0.1", 0)) as door,
        closing(TcpPipe()) as tunnel.pipe,
    ):
        tunnel.pipe.connect(door.getsockname())
        assert not guest.explain().current.relayed
        assert guest.explain().why == direct
    guest.close()
