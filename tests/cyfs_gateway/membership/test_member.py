"""A home gateway and its SNs: what it says to them, and what they do for it.  The SNs are our own, in this process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cyfs_gateway.sn.requests import Admit, read_request
from cyfs_gateway.sn.talk import Connect, Lease, RelaySession, Submit, Where
from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.keys import SecretKey
from rtcp.party import Found
from tests.cyfs_gateway.io.inprocess import Living, echo, living, serve, until
from tests.cyfs_gateway.membership.membership_sn import SEEN, FakeSn, fake_sn
from tests.cyfs_ns.identity.identities import ALICE, NAS, PI, device, secret
from tests.freeport import free_port
from tunnels.io.stream import EndpointStream

S1, S2 = secret(31), secret(32)
NOW = int(time.time())


def settle(home: Path, key: SecretKey, name: str = "", owner: SecretKey = ALICE) -> None:
    """``key`` lives at ``home``, with a document of ``owner`` if it has a name."""
    folder = home / "identity"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "device.pem").write_bytes(key.pem())
    (folder / "device.pem").chmod(0o600)
    if name:
        signed = device(name, key, owner, iat=NOW - 100, exp=NOW + 86_400)
        (folder / "device.jwt").write_text(signed.text)


@asynccontextmanager
async def member(home: Path, key: SecretKey, sns: str, more: str = "", name: str = "ood1") -> AsyncIterator[Living]:
    settle(home, key, name)
    async with living(home, f"rtcp:\n  sn: {sns}\n{more}\nrules: ['MATCH,DIRECT']\n") as house:
        yield house


def standing(house: Living) -> list[str]:
    """What is the matter with each SN; empty for one that is content."""
    return [one["why"] for one in house.gateway.status()["memberships"]]


async def settled(house: Living) -> None:
    """Until its only SN is content."""
    await until(lambda: standing(house) == [""])


async def test_who_is_new_shows_its_document_and_the_sn_knows_it_then(tmp_path: Path) -> None:
    port = free_port()
    async with fake_sn(tmp_path / "s", S1, port, "sn.example", ALICE) as sn:
        sn.register("alice")
        async with member(tmp_path / "b", NAS, f"[{sn.entry}]") as home:
            await settled(home)
            assert sn.registry.device(dev_did(NAS.public)) is not None
            (told,) = home.gateway.status()["memberships"]
            assert (told["domain"], told["name"], told["seen"], told["tunnel"]) == (
                "sn.example",
                "alice",
                SEEN,
                "stands",
            )
            (update,) = sn.updates()  # one word that says nothing, lest an earlier one of ours stays
            assert (update.name, update.device, update.addresses) == ("alice", "ood1", ())
            assert home.gateway.peer_desk._peers is not None
            membership = home.gateway.peer_desk._peers.membership
            assert membership.observers() == [("127.0.0.1", 3478), ("127.0.0.1", 3479)]
            session = await membership.relay_session(dev_did(PI.public))
            assert isinstance(session, RelaySession) and session.seconds == 60


async def test_what_an_sn_refuses_is_shown_and_hinders_nothing(tmp_path: Path) -> None:
    port, target = free_port(), free_port()
    async with fake_sn(tmp_path / "s", S1, port, "sn.example", ALICE) as sn:
        # Nobody has registered a name: the SN knows no account of this owner.
        more = f"  keep-tunnel: ['{dev_did(S2.public)}']\n  listen: '127.0.0.1:{target}'"
        async with member(tmp_path / "b", NAS, f"[{sn.entry}]", more) as home:
            await until(lambda: standing(home) and "has no account here" in standing(home)[0])
            assert standing(home)[0].startswith("showing our document: ")
            assert not sn.updates()
            sn.register("alice")  # and then the next look finds it
            membership = home.gateway.peer_desk._peers.membership  # type: ignore[union-attr]
            membership.network_changed()
            await settled(home)


async def test_numbers_grow_across_a_restart_and_are_written_before_they_are_used(tmp_path: Path) -> None:
    port = free_port()
    async with fake_sn(tmp_path / "s", S1, port, "sn.example", ALICE) as sn:
        sn.register("alice")
        for _ in range(2):
            async with member(tmp_path / "b", NAS, f"[{sn.entry}]") as home:
                await settled(home)
        first, second = sn.updates()
        assert second.seq > first.seq


async def test_challenges_stand_in_the_dns_at_once_and_go_again(tmp_path: Path) -> None:
    port, value = free_port(), "x" * 43
    async with fake_sn(tmp_path / "s", S1, port, "sn.example", ALICE) as sn:
        sn.register("alice")
        async with member(tmp_path / "b", NAS, f"[{sn.entry}]") as home:
            await until(lambda: standing(home) == [""] and sn.updates())
            membership = home.gateway.peer_desk._peers.membership  # type: ignore[union-attr]
            assert membership.publisher("bob.sn.example") is None
            photos = membership.publisher("photos.alice.sn.example")
            assert photos is not None
            await photos.publish("photos.alice.sn.example", value)
            proof = "_acme-challenge.photos.alice.sn.example."
            assert any(line.startswith(proof) and value in line for line in sn.zone.lines(time.time()))
            await photos.withdraw("photos.alice.sn.example", value)
            await until(lambda: not any(value in line for line in sn.zone.lines(time.time())))
            with pytest.raises(Refused, match="no certificate authority asks for"):
                await photos.publish("photos.alice.sn.example", "short")


async def test_names_and_ports_are_claimed_and_again_when_the_sn_has_forgotten(tmp_path: Path) -> None:
    port = free_port()
    async with fake_sn(tmp_path / "s", S1, port, "sn.example", ALICE) as sn:
        sn.register("alice")
        entry = sn.entry.replace("}", ", expose: [photos, '@', 'tcp:2222']}")
        async with member(tmp_path / "b", NAS, f"[{entry}]") as home:
            await until(lambda: standing(home) == [""] and len(sn.asked(Lease)) == 3)
            told = home.gateway.status()["memberships"][0]["leads"]
            assert told == ["photos.alice.sn.example", "alice.sn.example", "tcp:2222"]
            membership = home.gateway.peer_desk._peers.membership  # type: ignore[union-attr]
            membership.network_changed()
            await until(lambda: len(sn.asked(Lease)) == 6)


async def test_an_sn_cannot_have_things_signed_for_another(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    async with (
        fake_sn(tmp_path / "s1", S1, ports[0], "sn.example", ALICE) as good,
        fake_sn(tmp_path / "s2", S2, ports[1], "other.example", ALICE) as liar,
    ):
        good.register("alice")
        async with member(tmp_path / "b", NAS, f"[{good.entry}, {liar.entry}]") as home:
            await until(lambda: standing(home)[0] == "" and good.updates() and liar.asked(Submit))
            signed = len(liar.asked(Submit)) + len(liar.updates())
            liar.domain = "sn.example"  # from now on it plays the other's part
            membership = home.gateway.peer_desk._peers.membership  # type: ignore[union-attr]
            membership.network_changed()
            await until(lambda: "its domain is sn.example, and it was other.example" in standing(home)[1])
            assert len(liar.asked(Submit)) + len(liar.updates()) == signed
            assert standing(home)[0] == ""


async def test_what_is_signed_is_for_that_sn_and_of_this_device(tmp_path: Path) -> None:
    port = free_port()
    async with fake_sn(tmp_path / "s", S1, port, "sn.example", ALICE) as sn:
        sn.register("alice")
        async with member(tmp_path / "b", NAS, f"[{sn.entry}]") as home:
            await settled(home)
        (submitted,) = sn.asked(Submit)
        assert isinstance(submitted, Submit)
        request = read_request(submitted.request, "sn.example", time.time()).proven(NAS.public)
        assert request.issuer == dev_did(NAS.public) and isinstance(request.action, Admit)


@asynccontextmanager
async def two_members(base: Path, sn: FakeSn, service: int) -> AsyncIterator[tuple[Living, Living]]:
    """A laptop, and a box at home that nobody can dial."""
    allow = (
        f"  services: [{{name: web, port: 80, target: 'tcp://127.0.0.1:{service}', allow: ['{dev_did(PI.public)}']}}]"
    )
    async with (
        member(base / "b", NAS, f"[{sn.entry}]", allow) as home,
        member(base / "a", PI, f"[{sn.entry}]", name="laptop") as laptop,
    ):
        await until(lambda: standing(home) == [""] and standing(laptop) == [""])
        yield home, laptop


async def carried(laptop: Living, did: Did) -> EndpointStream:
    """A stream to port 80 of ``did``, by the first way through an SN."""
    desk = laptop.gateway.peer_desk
    assert desk._peers is not None and did.key is not None
    (carrier,) = await desk._peers.membership.relays(did, Found(did.key))
    assert carrier.leads
    return EndpointStream(await (await desk.device()).open_stream(did, None, 80, via=carrier))


async def test_a_box_without_a_door_is_reached_through_the_sn(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await serve(nursery, echo)
    async with fake_sn(tmp_path / "s", S1, port, "sn.example", ALICE) as sn:
        sn.register("alice")
        async with two_members(tmp_path, sn, target) as (home, laptop):
            stream = await carried(laptop, dev_did(NAS.public))
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
            assert [ask.device for ask in sn.asked(Connect) if isinstance(ask, Connect)] == [dev_did(NAS.public)]
            (flow,) = home.gateway.connections()
            assert flow.flow.identity is not None and flow.flow.identity.did == str(dev_did(PI.public))
            await stream.aclose()


async def test_a_no_of_the_sn_is_told_to_whoever_dials(tmp_path: Path) -> None:
    port, stranger = free_port(), dev_did(secret(77).public)
    async with fake_sn(tmp_path / "s", S1, port, "sn.example", ALICE) as sn:
        sn.register("alice")
        async with two_members(tmp_path, sn, 9) as (_, laptop):
            with pytest.raises(Unreachable, match="there is no tunnel to"):
                await carried(laptop, stranger)


async def test_one_sn_that_is_silent_or_away_keeps_nobody_waiting(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    dead = f"{{peer: '{dev_did(secret(78).public)}', at: '127.0.0.1:{free_port()}'}}"
    async with (
        fake_sn(tmp_path / "s1", S1, ports[0], "sn.example", ALICE) as good,
        fake_sn(tmp_path / "s2", S2, ports[1], "other.example", ALICE) as mute,
    ):
        good.register("alice")
        mute.silent = True
        async with member(tmp_path / "b", NAS, f"[{dead}, {mute.entry}, {good.entry}]") as home:
            await until(lambda: standing(home)[2] == "" and mute.asked(Where))
            told = home.gateway.status()["memberships"]
            assert (told[0]["tunnel"], told[1]["why"]) == ("none", "not reached yet")
            assert not mute.updates()


async def test_nobody_knocks_through_a_peer_that_is_no_sn_of_ours(tmp_path: Path) -> None:
    port = free_port()
    async with (
        fake_sn(tmp_path / "s", S1, port, "sn.example", ALICE) as sn,
        member(tmp_path / "b", NAS, f"[{sn.entry}]") as home,
    ):
        await until(lambda: home.gateway.peers())
        await home.reload(f"rtcp: {{keep-tunnel: ['{sn.did}']}}\nrules: ['MATCH,DIRECT']\n")
        desk = sn.house.gateway.peer_desk
        with pytest.raises(Refused):
            await desk.open_standing(dev_did(NAS.public), "rtcp.invalid", 1)
