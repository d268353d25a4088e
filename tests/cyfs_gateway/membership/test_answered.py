"""A stream that begins with an answer nobody waited for."""

from __future__ import annotations

import socket

import pytest
import trio

from cyfs_gateway.io.answered import Answered
from cyfs_ns.errors import BadWire
from tests.tunnels.exam import check_endpoint
from tunnels.io.waiting import TcpEndpoint, receive_some, send_all


def pair() -> tuple[TcpEndpoint, trio.SocketStream]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    end = TcpEndpoint(ours.family, ours.type, 0, ours.detach())
    return end, trio.SocketStream(trio.socket.from_stdlib_socket(theirs))


def fine(line: bytes) -> None:
    if line != b"ok":
        raise BadWire(f"it says {line.decode()}")


async def test_it_is_an_endpoint_like_any_other() -> None:
    async def make() -> tuple[Answered, trio.SocketStream]:
        ours, theirs = pair()
        await theirs.send_all(b"ok\n")
        return Answered(ours, fine, 100), theirs

    await check_endpoint(make)


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5])
async def test_what_comes_with_the_answer_is_not_lost_however_it_is_cut(cut: int) -> None:
    ours, theirs = pair()
    end, said = Answered(ours, fine, 100), b"ok\nhello"
    await theirs.send_all(said[:cut])
    with pytest.raises(BlockingIOError) if cut <= 3 else pytest.raises(AssertionError):
        end.recv_into(memoryview(bytearray(9)))
        raise AssertionError
    if cut <= 3:
        await theirs.send_all(said[cut:])
        assert await receive_some(end) == b"hello"
    end.close()
    await theirs.aclose()


async def test_what_is_sent_does_not_wait_for_the_answer() -> None:
    ours, theirs = pair()
    end = Answered(ours, fine, 100)
    await send_all(end, b"question")
    assert await theirs.receive_some() == b"question"
    await theirs.send_all(b"ok\nanswer")
    room = bytearray(3)
    assert end.recv_into(memoryview(room)) == 3 and end.pending()
    assert room + await receive_some(end) == b"answer"
    assert not end.pending()
    end.close()
    await theirs.aclose()


@pytest.mark.parametrize(
    ("said", "fault", "why"),
    [
        (b"go away\nx", ConnectionRefusedError, "it says go away"),
        (b"x" * 101, ConnectionResetError, "no answer"),
        (b"", ConnectionResetError, "before it was answered"),
        (b"ok", ConnectionResetError, "before it was answered"),
    ],
)
async def test_a_no_and_what_is_no_answer_are_faults_of_the_wire(said: bytes, fault: type[OSError], why: str) -> None:
    ours, theirs = pair()
    end = Answered(ours, fine, 100)
    await theirs.send_all(said)
    await theirs.send_eof()
    with pytest.raises(fault, match=why):
        await receive_some(end)
    end.close()
    await theirs.aclose()
