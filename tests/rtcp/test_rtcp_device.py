"""Devices that dial each other, over loopback."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import dev_did
from rtcp.admission import Policy, Standing
from rtcp.backoff import Backoff
from rtcp.door import DoorLimits
from rtcp.io.device import Carrier
from rtcp.io.leg import Datagrams
from rtcp.io.tunnel import refuse
from rtcp.limits import Limits
from rtcp.packet import Purpose
from tests.freeport import free_port
from tests.rtcp.pair import ALICE, ALICES_NAME, BOB, BOBS_NAME, MALLORY, WALL, device_document
from tests.rtcp.town import (
    HOST,
    Middle,
    Reluctant,
    Town,
    connect,
    descriptors,
    echo,
    receive,
    receive_exactly,
    reject,
    send_all,
    talk,
    until,
)
from tests.tunnels.exam import black_hole, closed_port

ALICES_DID, BOBS_DID = dev_did(ALICE.public), dev_did(BOB.public)


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


@pytest.fixture
def hasty(monkeypatch):
    """Nobody waits long for a sign of life."""
    for module in ("rtcp.registry", "rtcp.io.tunnel"):
        monkeypatch.setattr(f"{module}.PROBE", 0.3)
        monkeypatch.setattr(f"{module}.FRESH", 0.05)


# Streams


async def test_a_stream_each_way_through_one_tunnel():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        leg = await alice.open_stream(BOBS_DID, None, 443)
        await talk(leg)
        leg.close()
        assert [tunnel.peer.device for tunnel in bob.tunnels()] == [ALICES_DID]
        back = await bob.open_stream(ALICES_DID, "printer.home", 631)
        await talk(back)
        back.close()
        assert town.asked == [BOBS_DID]


async def test_the_handler_is_told_who_asks_and_for_what():
    town, asked = Town(), []

    async def serve(request):
        asked.append((request.peer, request.purpose, request.host, request.port))
        await echo(request)

    town.settle(ALICE, about="a friend", did=ALICES_NAME)
    alices = {"did": ALICES_NAME, "doc": device_document(ALICE), "serve": serve, "wall": lambda: WALL}
    async with (
        town.live(ALICE, hosts=(), **alices) as alice,
        town.live(BOB, did=BOBS_NAME, serve=serve, wall=lambda: WALL) as bob,
    ):
        for leg in (
            await alice.open_stream(BOBS_NAME, None, 443),
            await bob.open_stream(ALICES_NAME, "printer.home", 631),
        ):
            await talk(leg)
            leg.close()
    (by_alice, *first), (by_bob, *second) = asked
    assert first == [Purpose.STREAM, None, 443] and second == [Purpose.STREAM, "printer.home", 631]
    assert (by_alice.did, by_alice.device, by_alice.about) == (ALICES_NAME, ALICES_DID, "a friend")
    assert (by_alice.dialled, by_alice.source) == (False, HOST)
    assert (by_bob.did, by_bob.device, by_bob.dialled, by_bob.source) == (BOBS_NAME, BOBS_DID, True, "")


async def test_the_server_may_speak_first():
    async def greet(request):
        leg = await request.accept()
        await send_all(leg, b"220 welcome")
        leg.shutdown_write()
        assert await receive(leg) == b""
        leg.close()

    town = Town()
    async with town.live(ALICE, hosts=(), serve=greet) as alice, town.live(BOB, serve=greet) as bob:
        for mine, to in ((alice, BOBS_DID), (bob, ALICES_DID)):
            leg = await mine.open_stream(to, None, 25)
            with trio.fail_after(60):
                assert await receive_exactly(leg, 11) == b"220 welcome"
                assert await receive(leg) == b""
                leg.shutdown_write()
                await until(lambda leg=leg: not leg.unsent())
            leg.close()


async def test_much_goes_through_both_ways_at_once():
    town, much = Town(), bytes(range(256)) * 8192
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        leg = await alice.open_stream(BOBS_DID, None, 443)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, leg, much)
            with trio.fail_after(60):
                assert await receive_exactly(leg, len(much)) == much
        leg.close()


async def test_datagrams_keep_their_edges():
    async def serve(request):
        assert request.purpose is Purpose.DATAGRAM
        datagrams = Datagrams(await request.accept())
        try:
            while True:
                await trio.lowlevel.wait_readable(datagrams.fileno())
                try:
                    data = datagrams.recv()
                except BlockingIOError:
                    continue
                datagrams.send(data)
        except ConnectionResetError:
            datagrams.close()

    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve):
        datagrams = await alice.open_datagrams(BOBS_DID, "dns.example", 53)
        with pytest.raises(BlockingIOError):
            datagrams.recv()
        sent = [b"", b"x", bytes(65507), b"last"]
        for data in sent:
            datagrams.send(data)
        got = []
        with trio.fail_after(60):
            while len(got) < len(sent):
                await trio.lowlevel.wait_readable(datagrams.fileno())
                try:
                    got.append(datagrams.recv())
                except BlockingIOError:
                    continue
        assert got == sent
        datagrams.send(bytes(65508))
        datagrams.close()
        datagrams.close()


async def test_a_burst_of_datagrams_is_dropped_and_the_rest_arrives_whole():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        datagrams = await alice.open_datagrams(BOBS_DID, "dns.example", 53)
        for number in range(4000):  # far more than the socket buffers hold, and nobody reads the echo
            datagrams.send(number.to_bytes(4, "big") * 4000)
        got = []
        with trio.move_on_after(10):
            while not got or got[-1] < 3999:
                try:
                    data = datagrams.recv()
                    assert len(data) == 16000 and data == data[:4] * 4000
                    got.append(int.from_bytes(data[:4], "big"))
                except BlockingIOError:
                    if len(got) > 5:
                        break
                    await trio.lowlevel.wait_readable(datagrams.fileno())
        assert got == sorted(got) and got[:3] == [0, 1, 2]
        datagrams.close()


@pytest.mark.parametrize("asker", ["who dialled", "who was dialled"])
@pytest.mark.parametrize(
    ("serve", "fault", "reason"),
    [
        (reject("not for you"), Refused, ""),
        (partial(trio.sleep, 0), Refused, ""),
        ("crash", Unreachable, "tunnel_open"),
        ("slow", Unreachable, "connect_timeout"),
        ("closed", Unreachable, "tunnel_open"),
    ],
    ids=["refused", "ignored", "crashed", "target too slow", "target closed"],
)
async def test_a_stream_that_is_not_served_is_told_so_and_the_tunnel_stands(asker, serve, fault, reason):
    served = []

    async def handler(request):
        served.append(request)
        if len(served) > 1:
            await echo(request)
        elif serve == "crash":
            raise ZeroDivisionError
        elif serve == "slow":
            raise Unreachable("no answer", "connect_timeout")
        elif serve == "closed":
            raise Unreachable("refused", "connect_refused")
        elif isinstance(serve, partial):
            await serve()
        else:
            await serve(request)

    town = Town()
    async with town.live(ALICE, hosts=(), serve=handler) as alice, town.live(BOB, serve=handler) as bob:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        mine, to = (alice, BOBS_DID) if asker == "who dialled" else (bob, ALICES_DID)
        with pytest.raises(fault) as failed:
            await mine.open_stream(to, None, 22)
        assert getattr(failed.value, "reason", "") == reason
        leg = await mine.open_stream(to, None, 22)
        await talk(leg)
        leg.close()


async def test_a_handler_that_thinks_too_long_is_ended():
    town, ended = Town(), trio.Event()

    async def think(request):
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=think, limits=Limits(answer=0.2)) as bob:
        with pytest.raises(Unreachable) as failed:
            await alice.open_stream(BOBS_DID, None, 22)
        assert failed.value.reason == "connect_timeout"
        with trio.fail_after(60):
            await ended.wait()
        assert len(bob.tunnels()) == 1


async def test_what_a_handler_does_after_accepting_takes_as_long_as_it_takes():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, limits=Limits(answer=0.2)):
        leg = await alice.open_stream(BOBS_DID, None, 22)
        await talk(leg)
        await trio.sleep(0.4)
        await talk(leg)
        leg.close()


async def test_without_a_handler_nothing_is_served():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=refuse):
        with pytest.raises(Refused):
            await alice.open_stream(BOBS_DID, None, 22)


# Tunnels


async def test_one_tunnel_is_made_for_all_who_want_it():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        legs = []

        async def open_one():
            legs.append(await alice.open_stream(BOBS_DID, None, 1))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(open_one)
        assert len(legs) == 20 and town.asked == [BOBS_DID] and len(bob.tunnels()) == 1
        for leg in legs:
            await talk(leg)
            leg.close()


async def test_two_who_dial_each_other_at_once_end_with_one_tunnel():
    for _ in range(10):
        town = Town()
        async with town.live(ALICE) as alice, town.live(BOB) as bob:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alice.tunnel, BOBS_DID)
                nursery.start_soon(bob.tunnel, ALICES_DID)
            for mine, to in ((alice, BOBS_DID), (bob, ALICES_DID)):
                leg = await mine.open_stream(to, None, 1)
                await talk(leg)
                leg.close()
            await until(lambda a=alice, b=bob: len(a.tunnels()) == len(b.tunnels()) == 1)
            (at_alice,), (at_bob,) = alice.tunnels(), bob.tunnels()
            assert at_alice.peer.dialled is not at_bob.peer.dialled, "they mean the same one"


async def test_two_names_of_one_device_are_dialled_once():
    town = Town()
    async with (
        town.live(ALICE, hosts=()) as alice,
        town.live(BOB, did=BOBS_NAME) as bob,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(alice.tunnel, BOBS_NAME)
        nursery.start_soon(alice.tunnel, BOBS_DID)
        await until(lambda: len(town.asked) == 2 and bob.tunnels())
    assert len(alice.tunnels()) == len(bob.tunnels()) == 0, "all over by now"


async def test_a_carrier_that_takes_a_few_bytes_at_a_time_is_slow_and_no_more():
    town = Town()

    async def dial(host, port):
        return Reluctant(await connect(host, port))

    town.dial = dial
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        leg = await alice.open_stream(BOBS_DID, "printer.home", 631)
        await talk(leg, bytes(range(256)) * 8)
        leg.close()
        back = await bob.open_stream(ALICES_DID, None, 1)
        await talk(back, b"hello" * 100)
        back.close()


async def test_a_name_and_its_device_share_a_tunnel():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, did=BOBS_NAME) as bob:
        first = await alice.tunnel(BOBS_NAME)
        assert await alice.tunnel(BOBS_DID) is first
        assert await alice.tunnel(BOBS_NAME) is first
        await until(bob.tunnels)
        assert len(bob.tunnels()) == 1 and town.asked == [BOBS_NAME]


async def test_both_families_are_listened_on():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, hosts=("::1", HOST), port=free_port()):
        port = town.people[BOBS_DID].addresses[0][1]
        assert town.people[BOBS_DID].addresses == (("::1", port), (HOST, port))
        for address in town.people[BOBS_DID].addresses:
            town.settle(BOB, address)
            tunnel = await alice.tunnel(BOBS_DID)
            await tunnel.ping()
            tunnel.close()
            await tunnel.over.wait()


async def test_whoever_answers_has_to_prove_the_key():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(MALLORY) as mallory, town.live(BOB):
        here = town.people[BOBS_DID].addresses
        there = town.people[dev_did(MALLORY.public)].addresses
        town.settle(BOB, *there)
        with pytest.raises(Unreachable):
            await alice.tunnel(BOBS_DID)
        town.settle(BOB, *there, *here)
        alice._resting.clear()
        tunnel = await alice.tunnel(BOBS_DID)
        await tunnel.ping()
        assert mallory.tunnels() == []


async def test_an_address_that_is_silent_costs_a_head_start_only():
    town = Town()
    with black_hole() as hole:
        async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
            good = town.people[BOBS_DID].addresses
            town.settle(BOB, (hole.host, hole.port), (HOST, closed_port()), *good)
            with trio.fail_after(60):
                tunnel = await alice.tunnel(BOBS_DID)
            await tunnel.ping()


async def test_who_cannot_be_reached_is_not_dialled_again_at_once():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice:
        faults = []
        for _ in range(3):
            with pytest.raises(Unreachable) as failed:
                await alice.open_stream(BOBS_DID, None, 1)
            faults.append(failed.value.reason)
        assert faults == ["pre_connect_dns"] * 3 and town.asked == [BOBS_DID]
        alice._resting.clear()
        with pytest.raises(Unreachable):
            await alice.open_stream(BOBS_DID, None, 1)
        assert len(town.asked) == 2


async def test_nobody_dials_himself():
    town = Town()
    async with town.live(ALICE) as alice:
        with pytest.raises(Refused, match="this device"):
            await alice.tunnel(ALICES_DID)
        town.settle(BOB, *town.people[ALICES_DID].addresses)
        with pytest.raises(Unreachable):
            await alice.tunnel(BOBS_DID)
        assert alice.tunnels() == []


async def test_the_rules_for_tunnels_say_why():
    town, seen = Town(), []

    async def welcome(peer):
        seen.append(peer.device)
        raise Refused("not on Sundays")

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, welcome=welcome) as bob:
        with pytest.raises(Refused, match="not on Sundays"):
            await alice.tunnel(BOBS_DID)
        assert seen == [ALICES_DID] and bob.tunnels() == [] == alice.tunnels()


async def test_only_so_many_tunnels_are_taken():
    town = Town()
    async with town.live(BOB, door=DoorLimits(standing=1)) as bob:
        async with town.live(ALICE, hosts=()) as alice, town.live(MALLORY, hosts=()) as mallory:
            await alice.tunnel(BOBS_DID)
            with pytest.raises(Refused, match="no more"):
                await mallory.tunnel(BOBS_DID)
        await until(lambda: not bob.tunnels())
        async with town.live(MALLORY, hosts=()) as mallory:
            await mallory.tunnel(BOBS_DID)


@pytest.mark.parametrize(
    ("vouched", "policy", "why"),
    [
        (Standing(key=None), Policy(), "nobody vouches"),
        (Standing(key=BOB.public), Policy(), "another key"),
        (Standing(key=ALICE.public, disowned=True), Policy(), "disowned"),
        (Refused("never heard of"), Policy(), "never heard of"),
        (Unreachable("DNS is down"), Policy(), "DNS is down"),
    ],
)
async def test_a_name_that_nobody_vouches_for_gets_no_answer(vouched, policy, why, caplog):
    async def vouch(proven):
        if isinstance(vouched, Exception):
            raise vouched
        return vouched

    town = Town()
    caplog.set_level("DEBUG", "cyfs.rtcp")
    async with (
        town.live(ALICE, hosts=(), did=ALICES_NAME, doc=device_document(ALICE), wall=lambda: WALL) as alice,
        town.live(BOB, vouch=vouch, policy=policy, wall=lambda: WALL) as bob,
    ):
        with pytest.raises(Unreachable):
            await alice.tunnel(BOBS_DID)
        await until(lambda: why in caplog.text)
        assert bob.tunnels() == []


async def test_a_name_belongs_to_one_device():
    town = Town()
    vouched = {"key": ALICE.public}

    async def vouch(proven):
        return Standing(key=vouched["key"])

    def live(key):
        return town.live(key, hosts=(), did=ALICES_NAME, doc=device_document(key), wall=lambda: WALL)

    async with town.live(BOB, vouch=vouch, wall=lambda: WALL) as bob:
        async with live(ALICE) as alice, live(MALLORY) as mallory:
            await alice.tunnel(BOBS_DID)
            vouched["key"] = MALLORY.public
            with pytest.raises(Unreachable):
                await mallory.tunnel(BOBS_DID)
            assert [tunnel.peer.device for tunnel in bob.tunnels()] == [ALICES_DID]
        await until(lambda: not bob.tunnels())
        async with live(MALLORY) as mallory:
            await mallory.tunnel(BOBS_DID)


async def test_a_way_around_is_a_tunnel_of_its_own_and_carries_every_leg():
    town, carried = Town(), []

    async def around(host, port):
        carried.append((host, port))
        return await connect(HOST, town.people[BOBS_DID].addresses[0][1])

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        (where,) = town.people[BOBS_DID].addresses
        by_proxy = Carrier("socks://hop", around)
        tunnel = await alice.tunnel(BOBS_DID, via=by_proxy)
        leg = await alice.open_stream(BOBS_DID, None, 1, via=by_proxy)
        await talk(leg)
        leg.close()
        assert carried == [where] * 2
        assert await alice.tunnel(BOBS_DID, via=by_proxy) is tunnel


async def test_a_tunnel_that_the_peer_dialled_serves_whatever_the_way():
    town = Town()
    async with town.live(BOB) as bob, town.live(ALICE, hosts=()) as alice:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        leg = await bob.open_stream(ALICES_DID, None, 1, via=Carrier("socks://hop", connect))
        await talk(leg)
        leg.close()
        with pytest.raises(Refused, match="duplicate"):
            await alice.open_stream(BOBS_DID, None, 1, via=Carrier("socks://hop", connect))


async def test_a_way_that_leads_there_by_itself_needs_no_address():
    town, carried = Town(), []

    async def around(host, port):
        carried.append((host, port))
        return await connect(*where)

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        (where,) = town.people[BOBS_DID].addresses
        town.settle(BOB)
        leg = await alice.open_stream(BOBS_DID, None, 1, via=Carrier("tcp:///bob:1", around, leads=True))
        await talk(leg)
        leg.close()
        assert carried == [("", 0)] * 2


async def test_a_tunnel_through_a_tunnel_is_secret_from_the_one_in_the_middle():
    town, relayed = Town(), bytearray()

    async def relay(request):
        """What a hop does: it connects to the target and carries bytes, which it may look at."""
        far = await connect(request.host, request.port)
        near = await request.accept()

        async def pump(source, sink):
            try:
                while data := await receive(source):
                    relayed.extend(data)
                    await send_all(sink, data)
                sink.shutdown_write()
                await send_all(sink, b"")
            except OSError:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, near, far)
            nursery.start_soon(pump, far, near)
        near.close()
        far.close()

    hop = dev_did(MALLORY.public)
    async with town.live(ALICE, hosts=()) as alice, town.live(MALLORY, serve=relay), town.live(BOB) as bob:

        async def over(host, port):
            return await alice.open_stream(hop, host, port)

        way = Carrier(f"rtcp://{hop}", over)
        leg = await alice.open_stream(BOBS_DID, None, 1, via=way)
        await talk(leg, b"a secret word")
        assert [tunnel.peer.device for tunnel in bob.tunnels()] == [ALICES_DID]
        back = await bob.open_stream(ALICES_DID, None, 1)
        await talk(back, b"another one")
        assert b"rtcp-v4" not in relayed and len(relayed) > 1000
        assert b"secret word" not in relayed and b"another one" not in relayed
        for one in (leg, back):
            one.close()


# What may happen to them


async def test_used_up_ids_cost_a_new_tunnel_and_nothing_else():
    town, few = Town(), Limits(stream_ids=2)
    for ours, theirs in ((few, Limits()), (Limits(), few)):
        async with town.live(ALICE, hosts=(), limits=ours) as alice, town.live(BOB, limits=theirs):
            tunnels = []
            for _ in range(4):
                leg = await alice.open_stream(BOBS_DID, None, 1)
                await talk(leg)
                leg.close()
                tunnels.append(await alice.tunnel(BOBS_DID))
            assert tunnels[0] is tunnels[1] is not tunnels[2] is tunnels[3]


async def test_requests_that_come_too_fast_are_repeated_later():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, limits=Limits(burst=2, per_second=20)):
        legs = []

        async def open_one():
            legs.append(await alice.open_stream(BOBS_DID, None, 1))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(open_one)
        for leg in legs:
            await talk(leg)
            leg.close()


async def test_streams_outlive_their_tunnel():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        leg = await alice.open_stream(BOBS_DID, None, 1)
        await talk(leg)
        (tunnel,) = alice.tunnels()
        tunnel.close()
        await until(lambda: not bob.tunnels() and not alice.tunnels())
        await talk(leg)
        leg.close()


@pytest.mark.parametrize("silent", [0.1, 0], ids=["longer than a sign of life counts", "a moment ago"])
async def test_a_peer_that_went_silent_is_found_out_by_whoever_needs_it(hasty, silent):
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob, trio.open_nursery() as nursery:
        (where,) = town.people[BOBS_DID].addresses
        road = await nursery.start(Middle(where[1]).run)
        town.settle(BOB, (HOST, road.port))
        first = await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        road.frozen = True
        town.settle(BOB, where)
        await trio.sleep(silent)
        with trio.fail_after(60):
            leg = await alice.open_stream(BOBS_DID, None, 1)
        await talk(leg)
        leg.close()
        assert first.over.is_set() and len(bob.tunnels()) == 1, "and Bob let the dead one go when she came back"
        nursery.cancel_scope.cancel()


async def test_a_stream_that_is_there_is_not_lost_with_its_tunnel():
    """The connection arrives, and in the same moment the tunnel ends."""
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        (tunnel,) = bob.tunnels()
        arrived = tunnel.arrived

        def arrive_and_end(stream_id, pipe):
            there = arrived(stream_id, pipe)
            tunnel.close()
            return there

        tunnel.arrived = arrive_and_end
        leg = await bob.open_stream(ALICES_DID, None, 1)
        await until(lambda: not bob.tunnels())
        await talk(leg)
        leg.close()


async def test_a_name_that_came_to_be_anothers_while_we_dialled_is_refused():
    town = Town()
    async with (
        town.live(BOB, did=BOBS_NAME),
        town.live(ALICE, hosts=()) as alice,
        town.live(MALLORY) as mallory,
    ):
        await mallory.tunnel(BOBS_NAME)

        async def dial(host, port):
            alice._register.call(dev_did(MALLORY.public), BOBS_NAME)
            return await connect(host, port)

        with pytest.raises(Refused, match="another device"):
            await alice.tunnel(BOBS_NAME, via=Carrier("slow", dial))


async def test_a_peer_that_comes_back_while_its_tunnel_lives_is_turned_away():
    town = Town()
    async with (
        town.live(BOB) as bob,
        town.live(ALICE, hosts=()) as alice,
        town.live(ALICE, hosts=()) as again,
    ):
        await alice.tunnel(BOBS_DID)
        with pytest.raises(Refused, match="duplicate"):
            await again.tunnel(BOBS_DID)
        assert len(bob.tunnels()) == 1
        leg = await alice.open_stream(BOBS_DID, None, 1)
        await talk(leg)
        leg.close()


async def test_streams_that_are_being_opened_fail_when_the_peer_is_killed():
    town, asked = Town(), trio.Event()

    async def never(request):
        asked.set()
        await trio.sleep_forever()

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=never), trio.open_nursery() as nursery:
        (where,) = town.people[BOBS_DID].addresses
        road = await nursery.start(Middle(where[1]).run)
        town.settle(BOB, (HOST, road.port))

        async def kill():
            await asked.wait()
            road.cut()

        nursery.start_soon(kill)
        with pytest.raises(Unreachable), trio.fail_after(5):
            await alice.open_stream(BOBS_DID, None, 1)
        assert alice.tunnels() == []


async def test_a_ping_tells_the_time_there_and_back_and_fails_with_the_tunnel():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob, trio.open_nursery() as nursery:
        (where,) = town.people[BOBS_DID].addresses
        road = await nursery.start(Middle(where[1]).run)
        town.settle(BOB, (HOST, road.port))
        tunnel = await alice.tunnel(BOBS_DID)
        assert 0 < await tunnel.ping() < 5
        await until(bob.tunnels)
        assert 0 < await bob.tunnels()[0].ping() < 5
        road.frozen = True
        with trio.move_on_after(0.05) as impatient:
            await tunnel.ping()
        assert impatient.cancelled_caught
        nursery.start_soon(soon, road.cut)
        with trio.fail_after(60):
            for _ in range(2):
                with pytest.raises(Unreachable):
                    await tunnel.ping()


async def soon(call):
    await trio.testing.wait_all_tasks_blocked()
    call()


async def test_a_silent_tunnel_is_felt_for_and_buried():
    town, short = Town(), Limits(quiet=0.2, pong=0.1, misses=2)
    async with (
        town.live(ALICE, hosts=(), limits=short) as alice,
        town.live(BOB, limits=short) as bob,
        trio.open_nursery() as nursery,
    ):
        (where,) = town.people[BOBS_DID].addresses
        road = await nursery.start(Middle(where[1]).run)
        town.settle(BOB, (HOST, road.port))
        tunnel = await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        await trio.sleep(1)
        assert alice.tunnels() == [tunnel] and len(bob.tunnels()) == 1, "it answers, so it lives"
        road.frozen = True
        await until(lambda: not alice.tunnels() and not bob.tunnels())
        assert "sign of life" in tunnel.end.why
        nursery.cancel_scope.cancel()


async def test_a_tunnel_that_is_kept_comes_back(monkeypatch):
    monkeypatch.setattr("rtcp.io.device._REST", 0.01)
    monkeypatch.setattr("rtcp.io.device.Backoff", partial(Backoff, 0.02, 0.04))
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, trio.open_nursery() as nursery:
        nursery.start_soon(alice.keep, BOBS_DID)
        await until(lambda: town.asked)
        port = 0
        for _ in range(3):
            async with town.live(BOB, port=port) as bob:
                port = town.people[BOBS_DID].addresses[0][1]
                await until(bob.tunnels)
                leg = await bob.open_stream(ALICES_DID, None, 1)
                await talk(leg)
                leg.close()
            await until(lambda: not alice.tunnels())
        nursery.cancel_scope.cancel()


async def test_whoever_gives_up_a_stream_of_a_tunnel_that_others_dialled_leaves_nothing_behind():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        before = descriptors()
        for attempt in range(60):
            with trio.move_on_after(attempt / 8000):
                leg = await bob.open_stream(ALICES_DID, None, 1)
                leg.close()
        await until(lambda: descriptors() <= before)
        assert not bob._shared.legs._owners
        leg = await bob.open_stream(ALICES_DID, None, 1)
        await talk(leg)
        leg.close()


async def test_whoever_gives_up_leaves_nothing_behind():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, door=DoorLimits(burst=1000)) as bob:
        before = descriptors()
        for attempt in range(60):
            with trio.move_on_after(attempt / 8000):
                leg = await alice.open_stream(BOBS_DID, None, 1)
                leg.close()
            if attempt % 3 == 0:
                for tunnel in alice.tunnels():
                    tunnel.close()
        for tunnel in alice.tunnels():
            tunnel.close()
        await until(lambda: not alice.tunnels() and not bob.tunnels())
        await until(lambda: descriptors() <= before)
        leg = await alice.open_stream(BOBS_DID, None, 1)
        await talk(leg)
        leg.close()


async def test_the_next_in_line_dials_when_the_first_gives_up():
    town, dialled, slow = Town(), [], trio.Event()

    async def dial(host, port):
        dialled.append(port)
        if len(dialled) == 1:
            slow.set()
            await trio.sleep_forever()
        return await connect(host, port)

    town.dial = dial
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB), trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def give_up():
            with first:
                await alice.tunnel(BOBS_DID)

        nursery.start_soon(give_up)
        await slow.wait()
        nursery.start_soon(alice.tunnel, BOBS_DID)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
        await until(alice.tunnels)
        assert len(dialled) == 2


async def test_after_the_end_of_a_device_nothing_is_opened():
    town, asked = Town(), trio.Event()

    async def never(request):
        asked.set()
        await trio.sleep_forever()

    async with town.live(BOB, serve=never), trio.open_nursery() as nursery:
        async with town.live(ALICE, hosts=()) as alice:

            async def wait():
                with pytest.raises(Unreachable):
                    await alice.open_stream(BOBS_DID, None, 1)

            nursery.start_soon(wait)
            await asked.wait()
        with pytest.raises(Unreachable):
            await alice.open_stream(BOBS_DID, None, 1)
