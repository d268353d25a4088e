"""Streams in WebSocket messages: the rules of endpoints, a WebSocket of other authors, and peers that mean harm."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import trio
import trustme
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Request, TextMessage

from cyfs_ns.errors import BadWire, Unreachable
from tests.tunnels.exam import check_endpoint
from tests.tunnels.test_transports import tcp_pair, tls_over
from tunnels.endpoint import Endpoint
from tunnels.io.stream import EndpointStream
from tunnels.io.waiting import TcpEndpoint, receive_some, send_all
from tunnels.io.websocket import MOST_HEAD, PATH, SUBPROTOCOL, WebSocketEndpoint, answer_websocket, open_websocket


def endpoint(sock: socket.socket) -> TcpEndpoint:
    sock.setblocking(False)
    return TcpEndpoint(sock.family, sock.type, sock.proto, sock.detach())


async def head_of(lower: Endpoint) -> bytes:
    said = b""
    while b"\r\n\r\n" not in said:
        said += await receive_some(lower)
    return said


async def opened(client: Endpoint, server: Endpoint) -> tuple[Endpoint, Endpoint]:
    """A WebSocket between the two, its client first."""
    ends: dict[str, Endpoint] = {}

    async def ask() -> None:
        ends["client"] = await open_websocket(client, "sn.example")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        ends["server"] = await answer_websocket(server, await head_of(server))
    return ends["client"], ends["server"]


def sockets() -> tuple[TcpEndpoint, TcpEndpoint]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return endpoint(near), endpoint(far)


@pytest.mark.parametrize("ours", ["client", "server"])
async def test_both_ends_sit_the_exam(ours: str) -> None:
    async def make_pair() -> tuple[Endpoint, EndpointStream]:
        client, server = await opened(*sockets())
        return (client, EndpointStream(server)) if ours == "client" else (server, EndpointStream(client))

    await check_endpoint(make_pair)


async def test_inside_tls_it_keeps_the_rules() -> None:
    ca = trustme.CA()

    async def make_pair() -> tuple[Endpoint, EndpointStream]:
        near, far = await tcp_pair()
        inner, outer = await tls_over(near, far, ca)
        client, server = await opened(inner, outer._endpoint)
        return client, EndpointStream(server)

    await check_endpoint(make_pair)


# A WebSocket of other authors


@contextlib.contextmanager
def other_server(handler: Callable[[ServerConnection], None], **options: object) -> Iterator[int]:
    with serve(handler, "127.0.0.1", 0, **options) as server:  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


def says_back(connection: ServerConnection) -> None:
    assert connection.request is not None and connection.request.path == PATH
    with contextlib.suppress(ConnectionClosed):
        for message in connection:
            connection.send(message)


async def dial(port: int) -> Endpoint:
    return endpoint(socket.create_connection(("127.0.0.1", port)))


async def test_a_server_of_others_takes_what_we_say() -> None:
    words = bytes(range(256)) * 1200
    with other_server(says_back, subprotocols=[SUBPROTOCOL]) as port:
        ours = await open_websocket(await dial(port), "127.0.0.1")
        heard = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, ours, words)
            while len(heard) < len(words):
                heard += await receive_some(ours)
        assert heard == words
        ours.shutdown_write()
        await send_all(ours, b"")
        assert await receive_some(ours) == b""
        ours.close()


@pytest.mark.parametrize("options", [{}, {"subprotocols": ["chat"]}])
async def test_a_server_that_has_none_for_us_is_unreachable(options: dict[str, object]) -> None:
    with other_server(says_back, **options) as port, pytest.raises(Unreachable):
        await open_websocket(await dial(port), "127.0.0.1")


async def test_a_client_of_others_is_served() -> None:
    near, far = sockets()
    words = b"0123456789" * 30_000

    def theirs() -> bytes:
        plain = socket.socket(fileno=near.detach())
        with connect(
            f"ws://sn.example{PATH}", sock=plain, subprotocols=[SUBPROTOCOL], compression="deflate", close_timeout=0.1
        ) as client:
            client.send([words[:1000], words[1000:200_000], words[200_000:]])  # one message in fragments
            heard = b""
            while len(heard) < len(words):
                piece = client.recv()
                assert isinstance(piece, bytes)
                heard += piece
            client.send(b"")
            assert client.recv() == b""
            return heard

    async with trio.open_nursery() as nursery:
        result: list[bytes] = []

        async def other() -> None:
            result.append(await trio.to_thread.run_sync(theirs))

        nursery.start_soon(other)
        ours = await answer_websocket(far, await head_of(far))
        async with trio.open_nursery() as echo:
            (send, receive) = trio.open_memory_channel[bytes](1000)

            async def back() -> None:
                async for piece in receive:
                    await send_all(ours, piece)
                ours.shutdown_write()
                await send_all(ours, b"")

            echo.start_soon(back)
            async with send:
                while piece := await receive_some(ours):
                    await send.send(piece)
    assert result == [words]
    ours.close()


async def test_a_client_of_others_that_wants_something_else_is_told() -> None:
    near, far = sockets()

    def theirs() -> None:
        plain = socket.socket(fileno=near.detach())
        with pytest.raises((InvalidHandshake, ConnectionError, EOFError)), connect("ws://sn.example/chat", sock=plain):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, theirs)
        with pytest.raises(BadWire):
            await answer_websocket(far, await head_of(far))
        far.close()


# Peers that mean harm


async def peer_of_ours() -> tuple[Endpoint, Endpoint, WSConnection]:
    """Our server's end, the raw other end, and its machine."""
    near, far = sockets()
    machine = WSConnection(ConnectionType.CLIENT)
    await send_all(near, machine.send(Request(host="sn.example", target=PATH, subprotocols=[SUBPROTOCOL])))
    ours = await answer_websocket(far, await head_of(far))
    machine.receive_data(await head_of(near))
    assert [*machine.events()]
    return ours, near, machine


@pytest.mark.parametrize(
    "said",
    [
        [TextMessage("words")],
        [CloseConnection(1000)],
        [BytesMessage(b""), BytesMessage(b"after the end")],
    ],
    ids=["text", "closed without the end", "after the end"],
)
async def test_what_may_not_be_said_breaks_it(said: list[Event]) -> None:
    ours, near, machine = await peer_of_ours()
    await send_all(near, b"".join(machine.send(event) for event in said))
    with pytest.raises(ConnectionAbortedError):
        await receive_some(ours)
    near.close()
    ours.close()


@pytest.mark.parametrize(
    "said", [b"\x82\x03abc", b"\xff" * 20, b"\x82\xff" + b"\xff" * 12], ids=["bare", "noise", "huge"]
)
async def test_bytes_that_are_no_frame_break_it(said: bytes) -> None:
    ours, near, _ = await peer_of_ours()
    await send_all(near, said)
    near.shutdown_write()
    with pytest.raises(OSError):
        await receive_some(ours)
    near.close()
    ours.close()


async def test_a_cut_is_no_end() -> None:
    ours, near, machine = await peer_of_ours()
    await send_all(near, machine.send(BytesMessage(b"so far")))
    near.close()
    assert await receive_some(ours) == b"so far"
    with pytest.raises(ConnectionResetError):
        await receive_some(ours)
    ours.close()


async def test_pings_that_nobody_reads_the_answers_of_are_not_collected() -> None:
    ours, near, machine = await peer_of_ours()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # type: ignore[attr-defined]
    ping = machine.send(Ping(b"p" * 125)) * 500

    async def flood() -> None:
        with contextlib.suppress(OSError):
            while True:
                await send_all(near, ping)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        with pytest.raises(ConnectionAbortedError), trio.fail_after(30):
            await receive_some(ours)
        nursery.cancel_scope.cancel()
    ours.close()
    near.close()


@pytest.mark.parametrize("frame", [b"\x89\x80", b"\x8a\x80", b"\x00\x80"], ids=["ping", "pong", "empty piece"])
def test_frames_without_a_byte_do_not_keep_the_reader_busy(frame: bytes) -> None:
    class Flood:
        """One that always has more of them, and takes all that is answered."""

        reads = 0

        def fileno(self) -> int:
            return -1

        def recv_into(self, buffer: memoryview) -> int:
            self.reads += 1
            assert self.reads < 10, "it is read on and on"
            said = (b"\x02\x80" + bytes(4) if self.reads == 1 else b"") + (frame + bytes(4)) * 100
            buffer[: len(said)] = said
            return len(said)

        def send(self, data: bytes) -> int:
            return len(data)

        def unsent(self) -> bool:
            return False

    machine = WSConnection(ConnectionType.SERVER)
    asked = WSConnection(ConnectionType.CLIENT).send(Request(host="a", target=PATH, subprotocols=[SUBPROTOCOL]))
    machine.receive_data(asked)
    list(machine.events())
    machine.send(AcceptConnection(subprotocol=SUBPROTOCOL))
    stream = WebSocketEndpoint(Flood(), machine)  # type: ignore[arg-type]
    with pytest.raises(ConnectionAbortedError):
        stream.recv_into(memoryview(bytearray(64)))


async def test_an_answer_without_end_is_given_up() -> None:
    near, far = sockets()
    async with trio.open_nursery() as nursery:

        async def talk() -> None:
            with contextlib.suppress(OSError):
                await send_all(far, b"HTTP/1.1 101 Switching\r\nx: " + b"y" * 64 * MOST_HEAD)

        nursery.start_soon(talk)
        with pytest.raises(Unreachable):
            await open_websocket(near, "sn.example")
        nursery.cancel_scope.cancel()
    far.close()


_NOT_ASCII = ["Connection: \xff", "Sec-WebSocket-Protocol: \xff", "Sec-WebSocket-Extensions: \xff"]


@pytest.mark.parametrize("line", _NOT_ASCII)
async def test_an_answer_whose_head_is_not_ascii_is_no_websocket(line: str) -> None:
    near, far = sockets()
    await send_all(far, f"HTTP/1.1 101 Switching\r\n{line}\r\n\r\n".encode("latin-1"))
    with pytest.raises(Unreachable):
        await open_websocket(near, "sn.example")
    assert near.fileno() < 0
    far.close()


@pytest.mark.parametrize("line", ["Host: \xff", *_NOT_ASCII])
async def test_a_request_whose_head_is_not_ascii_is_bad(line: str) -> None:
    near, far = sockets()
    with pytest.raises(BadWire):
        asked = f"GET {PATH} HTTP/1.1\r\nUpgrade: websocket\r\n{line}\r\n\r\n"
        await answer_websocket(far, asked.encode("latin-1"))
    near.close()
    far.close()
