"""The outbound ``dns``: whatever is sent there is a question, and our own name server answers it in this process.

Datagrams are answered in the name of whom they were sent to; a stream carries questions as TCP to a name server does.
The name server sees them come from the client whose flow it is, so that its rules, log and counts hold for them.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from cyfs_ns.dnsframes import DnsFrames
from cyfs_ns.errors import BadWire
from cyfs_ns.peer import Peer
from tunnels.endpoint import Target
from tunnels.io.waiting import TcpEndpoint

Answer = Callable[[bytes, Peer], Awaitable[bytes | None]]
"""From a stranger's octets to the finished reply, or None for silence."""

_AT_ONCE = 64
_READ = 16 * 1024
_IDLE_SECONDS = 30.0


class DatagramQuestions:
    """A way for datagrams that ends here; beyond 64 unanswered questions more are dropped, as UDP may."""

    def __init__(self, nursery: trio.Nursery, answer: Answer, client: str) -> None:
        """``client``: the canonical address of who asks."""
        self._nursery, self._answer = nursery, answer
        self._peer = Peer(client, 0, "udp", "", "")
        self._outer, self._inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._asked: deque[Target] = deque()
        """Whose the replies are that wait between the sockets."""
        self._open = 0
        self.fileno = self._outer.fileno

    def recv(self) -> tuple[bytes, Target]:
        """One reply, and who was asked."""
        data = self._outer.recv(0xFFFF)
        return data, self._asked.popleft()

    def send(self, data: bytes | memoryview, to: Target) -> None:
        """Ask."""
        if self._open < _AT_ONCE:
            self._open += 1
            self._nursery.start_soon(self._reply, bytes(data), to)

    async def _reply(self, question: bytes, asked: Target) -> None:
        try:
            reply = await self._answer(question, self._peer)
        finally:
            self._open -= 1
        if reply is None:
            return
        try:
            self._inner.send(reply)
        except OSError:  # closed, or nobody fetches them
            return
        self._asked.append(asked)

    def close(self) -> None:
        """Give the way up; what is being asked is not told any more."""
        self._outer.close()
        self._inner.close()


def open_stream(nursery: trio.Nursery, answer: Answer, client: str) -> TcpEndpoint:
    """A way for a byte stream of ``client``, a canonical address, that ends here."""
    outer, inner = socket.socketpair()
    outer.setblocking(False)
    end = TcpEndpoint(outer.family, outer.type, 0, outer.detach())
    end.setblocking(False)
    nursery.start_soon(_converse, trio.SocketStream(trio.socket.from_stdlib_socket(inner)), answer, client)
    return end


async def serve_sockets(door: socket.socket, datagrams: socket.socket, answer: Answer, client: str) -> None:
    """Answer what comes to a TCP socket that listens and to a UDP socket, until cancelled; both are closed then."""
    with trio.socket.from_stdlib_socket(datagrams) as udp:
        async with trio.SocketListener(trio.socket.from_stdlib_socket(door)) as tcp, trio.open_nursery() as nursery:
            nursery.start_soon(_answer_datagrams, udp, answer, client, nursery)
            room = trio.Semaphore(_AT_ONCE)
            while True:
                await room.acquire()
                nursery.start_soon(_converse_in, room, await tcp.accept(), answer, client)


async def _converse_in(room: trio.Semaphore, stream: trio.SocketStream, answer: Answer, client: str) -> None:
    try:
        await _converse(stream, answer, client)
    finally:
        room.release()


async def _answer_datagrams(sock: trio.socket.SocketType, answer: Answer, client: str, nursery: trio.Nursery) -> None:
    room = trio.Semaphore(_AT_ONCE)

    async def reply(question: bytes, to: tuple[str, int]) -> None:
        try:
            if (said := await answer(question, Peer(client, 0, "udp", "", ""))) is not None:
                await sock.sendto(said, to)
        except OSError:  # whoever asked has gone
            pass
        finally:
            room.release()

    while True:
        await room.acquire()
        try:
            question, asker = await sock.recvfrom(0xFFFF)
        except OSError:  # an error that an earlier answer met
            room.release()
        else:
            nursery.start_soon(reply, question, asker)


async def _converse(stream: trio.SocketStream, answer: Answer, client: str) -> None:
    """Answer questions one after the other, until the client leaves, is silent or says nonsense."""
    frames = DnsFrames()
    peer = Peer(client, 0, "tcp", "", "")
    async with stream:
        try:
            while True:
                with trio.fail_after(_IDLE_SECONDS):
                    data = await stream.receive_some(_READ)
                if not data:
                    return
                frames.feed(data, 0.0)
                while asked := frames.take(_AT_ONCE):
                    for each in asked:
                        assert isinstance(each.query, bytes)
                        frames.answer(each.token, await answer(each.query, peer))
                with trio.fail_after(_IDLE_SECONDS):
                    await stream.send_all(b"".join(frames.pieces_to_send()))
        except (BadWire, trio.BrokenResourceError, trio.TooSlowError):
            return
