"""Streams of version 5 that are asked for without a task: who asked hears once what became of it, from the reactor."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import dev_did
from rtcp.io.mux import MuxedTunnel
from rtcp.io.tunnel import refuse
from rtcp.v5.frames import LAST_ID
from tests.rtcp.pair import ALICE, BOB
from tests.rtcp.town import Town, descriptors, receive, send_all, talk, until

BOBS_DID = dev_did(BOB.public)


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


@pytest.fixture(autouse=True)
def nothing_fails(caplog):
    """What escapes a handler is logged, and nobody else would see it."""
    yield
    assert [one for one in caplog.get_records("call") if one.exc_info] == []


@pytest.fixture
def town():
    return Town(versions=frozenset({5, 4}))


class Asker:
    def __init__(self) -> None:
        self.heard: list[object] = []
        self.told = trio.Event()

    def __call__(self, what: object) -> None:
        self.heard.append(what)
        self.told.set()

    async def hear(self) -> object:
        await self.told.wait()
        (what,) = self.heard
        return what


def one_of(device) -> MuxedTunnel:
    (tunnel,) = device.tunnels()
    assert isinstance(tunnel, MuxedTunnel)
    return tunnel


async def test_it_is_heard_of_and_talks(town):
    asker = Asker()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        await alice.tunnel(BOBS_DID)
        give_up = alice.ask_stream(BOBS_DID, None, 443, asker)
        assert give_up is not None and asker.heard == []
        stream = await asker.hear()
        give_up()  # too late, and no harm
        await talk(stream)
        stream.close()
        await until(lambda: not one_of(alice)._machine.conversations)


async def test_many_asked_at_once_go_out_together(town):
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        await alice.tunnel(BOBS_DID)
        askers = [Asker() for _ in range(50)]
        for asker in askers:
            assert alice.ask_stream(BOBS_DID, None, 443, asker) is not None
        assert one_of(alice)._machine.conversations == 50
        for stream in [await asker.hear() for asker in askers]:
            stream.close()


async def test_a_refusal_is_heard_of(town):
    asker = Asker()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=refuse):
        await alice.tunnel(BOBS_DID)
        assert alice.ask_stream(BOBS_DID, None, 443, asker) is not None
        assert isinstance(await asker.hear(), Refused)
        assert not one_of(alice)._machine.conversations and not one_of(alice)._streams


async def test_who_gives_up_hears_nothing_and_leaves_nothing(town):
    asker, ended = Asker(), trio.Event()

    async def serve(request):
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve) as bob:
        await alice.tunnel(BOBS_DID)
        give_up = alice.ask_stream(BOBS_DID, None, 443, asker)
        assert give_up is not None
        await until(bob.tunnels)
        await until(lambda: one_of(bob)._machine.conversations)
        give_up()
        give_up()
        await ended.wait()
        await until(lambda: not one_of(bob)._machine.conversations)
        assert asker.heard == [] and not one_of(alice)._machine.conversations and not one_of(alice)._streams


async def test_who_gives_up_between_the_answer_and_its_hearing_hears_nothing(town):
    asker = Asker()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        await alice.tunnel(BOBS_DID)
        give_up = alice.ask_stream(BOBS_DID, None, 443, asker)
        assert give_up is not None
        (asked,) = one_of(alice)._asking._asked.values()
        asked.answer(None)
        give_up()
        await until(lambda: bob.tunnels() and not one_of(bob)._machine.conversations)
        assert asker.heard == [] and not one_of(alice)._streams


async def test_a_tunnel_that_ends_meanwhile_has_it_asked_for_again(town):
    asker = Asker()

    async def serve(request):
        await trio.sleep_forever()

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve) as bob:
        await alice.tunnel(BOBS_DID)
        assert alice.ask_stream(BOBS_DID, None, 443, asker) is not None
        await until(lambda: bob.tunnels() and one_of(bob)._machine.conversations)
        one_of(bob).close()
        assert await asker.hear() is None


async def test_what_has_to_be_waited_for_takes_a_task(town):
    """No tunnel, none without a carrier, none that takes no more, none of version 4."""
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        assert alice.ask_stream(BOBS_DID, None, 443, Asker()) is None
        await alice.tunnel(BOBS_DID)
        tunnel = one_of(alice)
        tunnel._machine._ids._next_ours = LAST_ID + 2
        assert alice.ask_stream(BOBS_DID, None, 443, Asker()) is None
        tunnel._machine.lost(tunnel._machine.carrier, trio.current_time())
        assert not tunnel._machine.is_up and alice.ask_stream(BOBS_DID, None, 443, Asker()) is None
    four = Town(versions=frozenset({4}))
    async with four.live(ALICE, hosts=()) as alice, four.live(BOB):
        await alice.tunnel(BOBS_DID)
        assert alice.ask_stream(BOBS_DID, None, 443, Asker()) is None


async def test_a_carrier_that_is_gone_meanwhile_and_does_not_come_back_is_heard_of(town, monkeypatch):
    """Whoever is no task has the same patience as a task."""
    monkeypatch.setattr("rtcp.io.asking._HELD_PATIENCE", 0.0)
    asker = Asker()

    async def serve(request):
        await trio.sleep_forever()

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve) as bob:
        await alice.tunnel(BOBS_DID)
        tunnel = one_of(alice)
        assert alice.ask_stream(BOBS_DID, None, 443, asker) is not None
        await until(lambda: bob.tunnels() and one_of(bob)._machine.conversations)
        tunnel._machine.lost(tunnel._machine.carrier, trio.current_time())
        tunnel._asking.doubt()
        assert isinstance(await asker.hear(), Unreachable)


async def test_a_server_that_speaks_first_is_heard_by_who_is_told(town):
    async def serve(request):
        stream = await request.accept()
        await send_all(stream, b"hello")
        stream.shutdown_write()
        stream.close()

    asker = Asker()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve):
        await alice.tunnel(BOBS_DID)
        assert alice.ask_stream(BOBS_DID, None, 22, asker) is not None
        stream = await asker.hear()
        assert await receive(stream) == b"hello" and await receive(stream) == b""
        stream.close()


async def test_what_goes_behind_the_request_arrives_though_the_tunnel_is_full(town):
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        streams = [await alice.open_stream(BOBS_DID, None, 443) for _ in range(40)]
        for each in streams:
            with suppress(BlockingIOError):
                while True:
                    each.send(bytes(1 << 16))
        first = bytes(range(250)) * 8
        stream = await one_of(alice).open_stream(None, 443, first=first)
        came = b""
        with trio.fail_after(60):
            while len(came) < len(first):
                came += await receive(stream)
        assert came == first
        for each in (*streams, stream):
            each.close()
