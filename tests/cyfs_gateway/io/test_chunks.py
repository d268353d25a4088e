"""The stream between a command and the gateway: an endpoint like any other, whose end is told from its breaking."""

from __future__ import annotations

import socket

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.io.chunks import MOST_CHUNK, Chunked
from tests.tunnels.exam import check_endpoint
from tunnels.endpoint import Endpoint
from tunnels.io.stream import EndpointStream
from tunnels.io.waiting import TcpEndpoint, receive_some, send_all


def ends() -> tuple[TcpEndpoint, TcpEndpoint]:
    pair = []
    for sock in socket.socketpair():
        sock.setblocking(False)
        pair.append(TcpEndpoint(sock.family, sock.type, sock.proto, sock.detach()))
    return pair[0], pair[1]


async def test_it_is_an_endpoint() -> None:
    async def make() -> tuple[Endpoint, trio.abc.HalfCloseableStream]:
        ours, theirs = ends()
        return Chunked(ours), EndpointStream(Chunked(theirs))

    await check_endpoint(make)


async def test_a_stream_that_is_closed_without_its_last_word_is_broken() -> None:
    ours, theirs = (Chunked(end) for end in ends())
    await send_all(ours, b"so far")
    ours.close()
    assert await receive_some(theirs) == b"so far"
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            await receive_some(theirs)
    theirs.close()


def raw(pieces: list[bytes], *, closed: bool) -> tuple[bytes, str]:
    """What arrives of these bytes, and how it ends."""
    lower, other = ends()
    near = Chunked(lower)
    got, buffer = b"", memoryview(bytearray(64))
    try:
        for piece in [*pieces, b""]:
            if piece:
                other.send(piece)
            elif closed:
                other.close()
            try:
                while n := near.recv_into(buffer):
                    got += buffer[:n]
                return got, "end"
            except BlockingIOError:
                continue
            except OSError as fault:
                return got, type(fault).__name__
        return got, "more"
    finally:
        near.close()
        other.close()


def chunk(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=90).map(chunk) | st.binary(max_size=8) | st.just(bytes(4)), max_size=6),
    st.booleans(),
)
def test_strangers_bytes_are_data_an_end_or_a_fault_however_they_are_cut(parts: list[bytes], closed: bool) -> None:
    data = b"".join(parts)
    assert raw([data], closed=closed) == raw([data[i : i + 1] for i in range(len(data))], closed=closed)


def test_a_chunk_that_is_too_long_is_a_fault() -> None:
    assert raw([(MOST_CHUNK + 1).to_bytes(4, "big")], closed=False) == (b"", "ConnectionAbortedError")
    assert raw([chunk(b"a"), bytes(4), b"ignored"], closed=True) == (b"a", "end")
