"""One UDP port and its users: each hears what is for it, and nothing else."""

from __future__ import annotations

import os

import trio
import trio.testing

from rtcp.io.nat.share import Share
from rtcp.nat.probe import ProbeBox, Word
from rtcp.nat.relaywire import write_lost
from rtcp.nat.stun import HostPort, Place, respond, write_request

HERE, SERVER, PEER = ("192.0.2.1", 5), ("203.0.113.1", 3478), ("203.0.113.2", 2000)


class Port:
    """What a share needs of an endpoint."""

    addresses = (HERE,)

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, tuple[str, int], int | None]] = []
        self.on_stranger = None

    def send(self, data, to, ttl=None) -> None:
        self.sent.append((data, to, ttl))


def probe(nonce: bytes) -> tuple[bytes, bytes]:
    box = ProbeBox(bytes(32), opens=True, our_nonce=nonce, their_nonce=bytes(16))
    return box.attempt, box.write(Word.PING)[1]


def answer(request: bytes) -> bytes:
    reply = respond(request, HostPort(*HERE), Place(here=HostPort(*SERVER)))
    assert reply is not None
    return reply.data


async def heard(part) -> list[bytes]:
    """All that has come by now."""
    found: list[bytes] = []

    async def hear() -> None:
        while True:
            found.append((await part.receive())[0])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return found


async def test_answers_go_to_who_asked_probes_to_their_attempt_and_the_rest_to_nobody():
    port = Port()
    share = Share(port)
    first, one = probe(b"1" * 16)
    second, other = probe(b"2" * 16)
    questions = [write_request(os.urandom(12)) for _ in range(3)]
    with share.part(first) as punching, share.part(second) as also, share.part() as asking:
        await asking.send(questions[0], SERVER, None)
        await punching.send(questions[1], SERVER, None)
        await punching.send(one, PEER, 4)
        for datagram in (one, other, b"noise", b"\x0a" * 36, write_lost(b"another"), *map(answer, questions)):
            port.on_stranger(datagram, PEER)
        assert await heard(asking) == [answer(questions[0])]
        assert await heard(punching) == [one, answer(questions[1])]
        assert await heard(also) == [other]
        assert asking.addresses == (HERE,)
    assert port.sent == [(questions[0], SERVER, None), (questions[1], SERVER, None), (one, PEER, 4)]
    for datagram in (one, answer(questions[0])):
        port.on_stranger(datagram, PEER)
    assert await heard(asking) == await heard(punching) == []
    assert not share._asked
    assert not share._attempts


async def test_a_relays_words_go_to_their_session():
    share = Share(port := Port())
    got: list[bytes] = []
    lost = write_lost(b"session")
    with share.session(b"session", lambda data, source: got.append(data)):
        for datagram in (lost, b"\x08session!", b"\x08another!", b"\x08", b"\x09"):
            port.on_stranger(datagram, SERVER)
    port.on_stranger(lost, SERVER)
    assert got == [lost, b"\x08session!"]


async def test_many_questions_and_many_answers_are_bounded():
    share = Share(port := Port())
    with share.part() as asking:
        for _ in range(1000):
            await asking.send(write_request(os.urandom(12)), SERVER, None)
        last = port.sent[-1][0]
        for _ in range(1000):
            port.on_stranger(answer(last), SERVER)
        assert len(await heard(asking)) == 64
        assert len(share._asked) == 256
