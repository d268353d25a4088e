"""Who calls an SN that is just starting is asked to come again, and who is inside stays: nobody who could tell has said
no."""

from __future__ import annotations

from pathlib import Path

from rtcp.io.roll import AnyTunnel
from tests.cyfs_gateway.io.inprocess import until
from tests.cyfs_gateway.membership.membership_sn import FakeSn, fake_sn
from tests.cyfs_gateway.membership.test_member import S1, member, settled
from tests.cyfs_ns.identity.identities import ALICE, NAS
from tests.freeport import free_port


async def test_who_comes_too_early_is_not_turned_away_for_long(tmp_path: Path) -> None:
    async with fake_sn(tmp_path / "s", S1, free_port(), "sn.example", ALICE) as sn:
        offers = sn.house.gateway.offers
        offers.welcomes.clear()
        offers.expected.add("sn")
        async with member(tmp_path / "early", NAS, f"[{sn.entry}]") as home:
            await until(lambda: "cannot be told just now" in home.gateway.status()["memberships"][0]["why"])
        offers.expected.clear()
        async with member(tmp_path / "late", NAS, f"[{sn.entry}]") as home:
            await until(lambda: "no tunnel for" in home.gateway.status()["memberships"][0]["why"])


async def test_members_stay_inside_while_the_sn_begins_anew(tmp_path: Path) -> None:
    async with fake_sn(tmp_path / "s", S1, free_port(), "sn.example", ALICE) as sn:
        sn.register("alice")
        offers, desk = sn.house.gateway.offers, sn.house.gateway.peer_desk
        async with member(tmp_path / "b", NAS, f"[{sn.entry}]") as home:
            await settled(home)
            (before,) = await _tunnels(sn)
            offers.expected.add("sn")
            offers.welcomes.clear()
            desk.doubt()
            assert desk._peers is not None
            await desk._peers._gatekeeper.sweep()
            assert not before.over.is_set()
            offers.expected.clear()
            await desk._peers._gatekeeper.sweep()
            assert before.over.is_set()


async def _tunnels(sn: FakeSn) -> list[AnyTunnel]:
    return (await sn.house.gateway.peer_desk.device()).tunnels()
