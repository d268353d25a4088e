"""Who knocks through an SN is found out about while the two shake hands, within bounds, and is judged as ever."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from cyfs_gateway.config.model import KeptTunnel, MemberConfig, RtcpConfig
from cyfs_gateway.io.peerservices import PeerServices
from cyfs_ns.errors import Refused
from cyfs_ns.identity.did import dev_did
from cyfs_ns.trust.level import Trust
from rtcp.packet import Purpose
from tests.cyfs_ns.identity.identities import NAS, PI

SN, OTHER = dev_did(NAS.public), dev_did(PI.public)


class Acquainted:
    """Finds somebody out for as long as it is let."""

    bridges: dict[str, str] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.rtcp = RtcpConfig(sns=(MemberConfig(sn=KeptTunnel(peer=SN)),))
        self.expected: list[str] = []
        self.found = trio.Event()

    def identity(self, peer: Any) -> Any:
        return SimpleNamespace(trust=Trust.KEY_PROVEN)

    async def expect(self, host: str) -> None:
        self.expected.append(host)
        await self.found.wait()


class Knock:
    """Somebody at the door, by an SN."""

    purpose, port, source = Purpose.STREAM, 1, ("198.51.100.7", 0)

    def __init__(self, host: str, by: Any = SN) -> None:
        self.host = host
        self.peer = SimpleNamespace(did=by, device=by)

    async def accept(self) -> str:
        await trio.lowlevel.checkpoint()
        return "a pipe"


def services() -> tuple[PeerServices, Acquainted, list[Any]]:
    let_in: list[Any] = []
    device = SimpleNamespace(
        accepted=lambda pipe, source: let_in.append((pipe, source)), local=SimpleNamespace(answers_to=lambda did: False)
    )
    acquainted = Acquainted()
    made = PeerServices(None, None, acquainted, lambda: device, frozenset)  # type: ignore[arg-type]
    return made, acquainted, let_in


async def test_whoever_is_named_is_found_out_about_when_they_are_let_knock() -> None:
    made, acquainted, let_in = services()
    acquainted.found.set()
    await made.serve(Knock("laptop.alice.sn.example.rtcp.invalid"))  # type: ignore[arg-type]
    await made.serve(Knock("rtcp.invalid"))  # type: ignore[arg-type]
    assert acquainted.expected == ["laptop.alice.sn.example"]
    assert let_in == [("a pipe", ("198.51.100.7", 0))] * 2


async def test_an_sn_has_only_so_many_looked_up_at_a_time_and_all_of_them_knock() -> None:
    made, acquainted, let_in = services()
    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(made.serve, Knock(f"d{number}.alice.sn.example.rtcp.invalid"))
        await trio.testing.wait_all_tasks_blocked()
        assert len(let_in) == 40
        assert len(acquainted.expected) == 16
        acquainted.found.set()
    await made.serve(Knock("last.alice.sn.example.rtcp.invalid"))  # type: ignore[arg-type]
    assert acquainted.expected[-1] == "last.alice.sn.example"


async def test_whoever_is_no_sn_of_ours_names_nobody() -> None:
    made, acquainted, let_in = services()
    with pytest.raises(Refused, match="no SN"):
        await made.serve(Knock("laptop.alice.sn.example.rtcp.invalid", by=OTHER))  # type: ignore[arg-type]
    assert not acquainted.expected and not let_in
