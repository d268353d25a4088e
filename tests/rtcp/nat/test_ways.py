"""A tunnel begins by a relay, goes direct when both ends met, back when that breaks, and direct again; streams flow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import dev_did
from rtcp.io.nat.ground import PATHS, PATHS_PORT
from rtcp.io.pipe import accept, listen
from rtcp.io.udp.endpoint import UdpEndpoint
from rtcp.io.udp.pipe import UdpPipe
from rtcp.io.wayname import way_of
from rtcp.nat.race import Report
from rtcp.nat.signals import Again, Bound, write_signal
from rtcp.party import Found
from rtcp.udp.door import Door
from tests.rtcp.nat.village import ALICES, BOBS, BOBS_DID, RANDOM, RELAYS, SN, village
from tests.rtcp.pair import ALICE, BOB
from tests.rtcp.test_v5_device_takeover import drink, pour
from tests.rtcp.town import HOST, descriptors, receive, send_all, talk, until

ALICES_DID = dev_did(ALICE.public)


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


def told(report: Report | None) -> str:
    assert report is not None
    return f"{report.current.name if report.current else None}: {report.why}"


async def load(here, *, until_true, size: int = 1 << 20) -> None:
    """Downloads and uploads, until something is true and the last is whole."""
    while not until_true():
        pipe = await here.alice.open_stream(BOBS_DID, None, 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour, pipe, size)
            nursery.start_soon(drink, pipe, size)
        pipe.close()


async def test_it_goes_direct_back_to_the_relay_and_direct_again_under_a_download():
    async with village() as here:
        with trio.fail_after(60):
            quiet = await here.alice.open_stream(BOBS_DID, None, 1)
            tunnel = here.tunnel
            await load(here, until_true=lambda: isinstance(tunnel.pipe, UdpPipe))
            assert told(here.alice.explain(BOBS_DID)) == "udp 203.0.113.2:2000: direct"
            assert here.bob.explain(ALICES_DID).current.name == "udp 198.51.100.1:1000"
            here.internet.cut.add(BOBS)
            await load(here, until_true=lambda: not isinstance(tunnel.pipe, UdpPipe))
            assert told(here.alice.explain(BOBS_DID)) == "sn: udp 203.0.113.2:2000 stopped answering"
            here.internet.cut.clear()
            await load(here, until_true=lambda: isinstance(tunnel.pipe, UdpPipe))
            assert told(here.alice.explain(BOBS_DID)) == "udp 203.0.113.2:2000: direct"
            await talk(quiet)
            quiet.close()
            assert here.tunnel is tunnel


async def test_with_the_invite_in_the_answer_it_goes_direct_though_every_opening_is_lost(monkeypatch):
    monkeypatch.setattr(Door, "opening", lambda *_: None)
    async with village() as here:
        with trio.fail_after(60):
            await here.alice.tunnel(BOBS_DID)
            await load(here, until_true=lambda: isinstance(here.tunnel.pipe, UdpPipe))
            assert told(here.alice.explain(BOBS_DID)) == "udp 203.0.113.2:2000: direct"


@pytest.mark.parametrize("invite", [None, (b"k" * 32, b"c" * 16), (bytes(31) + b"\1", b"c" * 16)])
async def test_with_no_invite_or_one_that_lets_nobody_in_it_goes_direct_all_the_same(monkeypatch, invite):
    monkeypatch.setattr(UdpEndpoint, "invite", lambda *_: invite)
    async with village() as here:
        with trio.fail_after(60):
            await here.alice.tunnel(BOBS_DID)
            await load(here, until_true=lambda: isinstance(here.tunnel.pipe, UdpPipe))
            assert told(here.alice.explain(BOBS_DID)) == "udp 203.0.113.2:2000: direct"


async def test_where_no_direct_way_can_be_it_says_why_and_takes_a_relay_of_datagrams():
    async with village(bobs=RANDOM) as here:
        here.internet.walls.add(frozenset((ALICES, BOBS)))
        with trio.fail_after(60):
            await here.alice.tunnel(BOBS_DID)
            await load(here, until_true=lambda: "random" in told(here.alice.explain(BOBS_DID)))
            assert told(here.alice.explain(BOBS_DID)) == "sn: relayed because the far NAT is random-symmetric"
            assert not isinstance(here.tunnel.pipe, UdpPipe)
            await until(lambda: "(says the peer)" in here.bob.explain(ALICES_DID).why)


async def test_a_relay_of_datagrams_carries_and_when_it_dies_a_stream_does_again():
    async with village(bobs=RANDOM) as here:
        here.has_relay = True
        with trio.fail_after(60):
            here.internet.walls.add(frozenset((ALICES, BOBS)))
            pipe = await here.alice.open_stream(BOBS_DID, None, 1)
            await load(here, until_true=lambda: isinstance(here.tunnel.pipe, UdpPipe))
            assert told(here.alice.explain(BOBS_DID)) == (
                "relay udp 192.0.2.9:3478: relayed because the far NAT is random-symmetric"
            )
            assert here.bob.explain(ALICES_DID).current.relayed
            await load(here, until_true=lambda: here.relay.carried > 100)
            here.internet.cut.add(RELAYS)
            await load(here, until_true=lambda: not isinstance(here.tunnel.pipe, UdpPipe))
            assert here.alice.explain(BOBS_DID).current.name == "sn"
            await talk(pipe)
            pipe.close()


async def test_when_the_relay_it_began_by_dies_with_the_way_another_one_carries():
    async with village() as here:
        here.names = ("sn", "other sn")
        with trio.fail_after(60):
            await here.alice.tunnel(BOBS_DID)
            await load(here, until_true=lambda: isinstance(here.tunnel.pipe, UdpPipe))
            here.silent.add("sn")
            here.internet.cut.add(BOBS)
            await load(here, until_true=lambda: here.tunnel.way == "other sn")
            await until(lambda: "other sn: udp 203.0.113.2:2000" in told(here.alice.explain(BOBS_DID)))
            report = here.alice.explain(BOBS_DID)
            assert [each.way.name for each in report.ways if each.state == "in use"] == ["other sn"]
            here.silent.clear()
            here.internet.cut.clear()
            await load(here, until_true=lambda: isinstance(here.tunnel.pipe, UdpPipe))


async def test_a_relay_that_cannot_tell_whether_it_leads_anywhere_is_no_stand_in():
    async with village() as here:
        here.names, here.blind = ("sn", "port", "other sn"), {"port"}
        with trio.fail_after(60):
            await here.alice.tunnel(BOBS_DID)
            await load(here, until_true=lambda: isinstance(here.tunnel.pipe, UdpPipe))
            here.dialled.clear()
            here.silent.add("sn")
            here.internet.cut.add(BOBS)
            await load(here, until_true=lambda: here.tunnel.way == "other sn")
            assert here.dialled[0] == "sn"
            assert "port" not in here.dialled


async def test_a_leg_that_stayed_on_the_relay_comes_along_while_the_tunnel_is_direct():
    async with village() as here:
        with trio.fail_after(60):
            pipe = await here.alice.open_stream(BOBS_DID, None, 1)
            tunnel = here.tunnel
            await load(here, until_true=lambda: isinstance(tunnel.pipe, UdpPipe))
            direct = way_of(tunnel.pipe).rank
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pour, pipe, 64 << 20)
                nursery.start_soon(drink, pipe, 64 << 20)
                await until(lambda: tunnel._machine.legs)
                await tunnel.bring(tunnel._machine.legs, lambda: here.alice.open_stream(SN, "bob", 1))
                await until(lambda: tunnel._machine.legs and not tunnel.strays(direct))
                assert isinstance(tunnel.pipe, UdpPipe)
            pipe.close()


async def test_it_looks_for_ways_when_it_stands_and_not_again_while_it_is_direct():
    async with village() as here:
        with trio.fail_after(60):
            await here.alice.tunnel(BOBS_DID)
            await until(lambda: isinstance(here.tunnel.pipe, UdpPipe))
            for _ in range(3):
                await load(here, until_true=iter([False, True]).__next__)
            assert sorted(here.gathered) == ["alice", "alice", "bob", "bob"], "each once in advance, and once"


async def test_when_the_far_end_changes_networks_the_pipe_follows_or_both_look_again():
    async with village() as here:
        with trio.fail_after(30):
            pipe = await here.alice.open_stream(BOBS_DID, None, 1)
            await load(here, until_true=lambda: isinstance(here.tunnel.pipe, UdpPipe))
            elsewhere = ("203.0.113.77", 7777)
            here.internet.move(BOBS, elsewhere)
            here.bob.network_changed()
            await load(here, until_true=lambda: here.tunnel.way == "udp 203.0.113.77:7777")
            seen = len(here.gathered)
            here.internet.move(elsewhere, BOBS)
            here.internet.walls.add(frozenset((ALICES, BOBS)))
            here.bob.network_changed()
            await load(here, until_true=lambda: len(here.gathered) > seen + 1)
            assert here.tunnel.way == "sn"
            await talk(pipe)
            pipe.close()


async def test_a_peer_whose_port_is_open_for_udp_alone_is_direct_at_once():
    async with village() as here:
        here.addresses, here.relays_streams = [BOBS], False
        with trio.fail_after(60):
            pipe = await here.alice.open_stream(BOBS_DID, None, 1)
            await talk(pipe)
            assert told(here.alice.explain(BOBS_DID)) == "udp 203.0.113.2:2000: it answered first"
            assert here.tunnel.way == "udp 203.0.113.2:2000"
            assert here.bob.explain(ALICES_DID).current.name == "udp 198.51.100.1:1000"
            here.relays_streams = True
            here.internet.cut.add(BOBS)
            await load(here, until_true=lambda: here.tunnel.way == "sn")
            await talk(pipe)
            pipe.close()


async def test_somebody_who_answers_where_the_peer_was_does_not_keep_the_relay_away(nursery):
    async def say_no(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"HTTP/1.1 511 Network Authentication Required\r\n\r\n")

    (portal,) = await trio.open_tcp_listeners(0, host=HOST)
    nursery.start_soon(trio.serve_listeners, say_no, [portal])
    async with village() as here:
        here.addresses, here.relays_streams = [BOBS], False
        with trio.fail_after(60):
            pipe = await here.alice.open_stream(BOBS_DID, None, 1)
            await talk(pipe)
            here.addresses, here.relays_streams = [portal.socket.getsockname()[:2]], True
            here.internet.cut.add(BOBS)
            await load(here, until_true=lambda: here.tunnel.way == "sn")
            await talk(pipe)
            pipe.close()


async def test_where_a_relay_won_what_is_found_of_whom_was_known_before_is_tried_as_well(nursery, monkeypatch):
    monkeypatch.setattr("rtcp.nat.race.RETRY", float("inf"))
    async with village(bobs=RANDOM) as here:
        here.internet.cut.add(BOBS)
        (door,) = listen(0, (HOST,))
        nursery.start_soon(accept, door, here.bob.accepted)
        house = here.alice._house

        async def find(did, port):
            if did == BOBS_DID:
                await until(lambda: here.bob._reception._visits)
                await trio.testing.wait_all_tasks_blocked(0.05)
                return Found(BOB.public, [(HOST, door.getsockname()[1])])
            return await house.find(did, port)

        async def recall(did, port):
            return Found(BOB.public, here.addresses) if did == BOBS_DID else None

        here.alice._house = replace(house, find=find, recall=recall)
        pipe = await here.alice.open_stream(BOBS_DID, None, 1)
        await talk(pipe)
        await until(lambda: here.tunnel.way == f"tcp {HOST}:{door.getsockname()[1]}")
        await talk(pipe)
        pipe.close()


async def test_a_door_that_the_peer_tells_of_is_knocked_at_within_the_budget_whoever_it_is(monkeypatch):
    stranger, knocked = ("198.51.100.77", 443), []

    async def dial(host, port):
        knocked.append((host, port))
        raise Unreachable("it drops what comes")

    async with village(bobs=RANDOM) as here:
        await here.alice.tunnel(BOBS_DID)
        monkeypatch.setattr("rtcp.nat.budget.MOST_UNANSWERED", 2)
        monkeypatch.setattr(here.alice._ground, "dial", dial)
        ways = here.tunnel.ways
        ways._try_doors(here.alice._ground, [stranger])
        (road,) = [road for road in ways._roads.values() if road.address == stranger]
        for _ in range(5):
            await ways._try(road)
        await trio.testing.wait_all_tasks_blocked()
        assert knocked == [stranger] * 2


async def test_a_stream_for_signals_is_for_tunnels_that_others_dialled_and_speaks_their_language():
    async with village() as here:
        with trio.fail_after(60):
            await here.alice.tunnel(BOBS_DID)
            for said in (b"\xff" * 100, write_signal(Bound()), write_signal(Again("please"))):
                pipe = await here.alice.open_stream(BOBS_DID, PATHS, PATHS_PORT)
                await send_all(pipe, said)
                assert await ends(pipe)
                pipe.close()
            with pytest.raises((Refused, Unreachable)):
                await here.alice.open_datagrams(BOBS_DID, PATHS, PATHS_PORT)
            with pytest.raises((Refused, Unreachable)):
                await here.bob.open_stream(SN, PATHS, PATHS_PORT)


async def ends(pipe) -> bool:
    try:
        while await receive(pipe):
            pass
    except OSError:
        pass
    return True
