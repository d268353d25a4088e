"""The SN's own name at its ingress: devices whose networks let only HTTP pass, and authorities that look for proofs.

A device asks for a WebSocket (``tunnels/io/websocket.py``), over TLS or without; what comes out of it goes where a
connection to the port of tunnels goes, and is judged there.  TLS ends here, by the certificate that the gateway has for
the SN's name; it is a coat for the way, for what proves the SN is the handshake inside.  Nothing else is served.

Until it has its WebSocket a visitor costs a task and one read.  Such half-open ones are bounded by number, in all and
for each source, and by time; the oldest makes room.  How fast they come is bounded, too, since a handshake of TLS
costs the SN more than whoever asks for it.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from typing import Final

import trio

from cyfs_gateway.certs.source import ACME_TLS, CertificateSource
from cyfs_gateway.sn.ingress import MAX_LOOK, Alert, alert, page
from cyfs_gateway.sn.ingresscrowd import Crowd, Pace, source_of
from cyfs_gateway.sniff import Sniffed, sniff_tls
from cyfs_ns.errors import BadWire, Refused, Unreachable
from rtcp.party import Address
from tunnels.endpoint import Endpoint
from tunnels.http1 import RequestHead, cut_head, parse_request, tokens_of
from tunnels.io.tls import wrap_tls
from tunnels.io.waiting import TcpEndpoint, receive_some, send_all
from tunnels.io.websocket import MOST_HEAD, answer_websocket

HALF_OPEN: Final = 512
HALF_OPEN_OF: Final = 32
SECONDS: Final = 10.0
"""From the first byte until there is a WebSocket."""
RATE: Final = 1024
"""New ones a second, of which one source has a 32nd."""
_PARTING: Final = 2.0

_log = logging.getLogger("cyfs.ingress")

TakePeer = Callable[[Endpoint, Address], None]
Certificates = Callable[[], CertificateSource | None]


class OwnDoor:
    """``name`` is the SN's; ``take`` gets the streams of devices.  Needs :meth:`run`, and takes nobody before."""

    def __init__(
        self, name: str, certificates: Certificates, take: TakePeer, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self.half_open: Crowd[trio.CancelScope] = Crowd(HALF_OPEN, HALF_OPEN_OF)
        self._name, self._certificates, self._take = name, certificates, take
        self._steady, self._pace = steady, Pace(RATE, steady())
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def enter(self, sock: TcpEndpoint, address: Address, is_tls: bool) -> None:
        """Somebody asks for the SN by name; nothing has been read of ``sock``, which is taken over."""
        source = source_of(address[0])
        if self._nursery is None or not self._pace.allows(source, self._steady()):
            sock.close()
            return
        visit = trio.CancelScope(deadline=trio.current_time() + SECONDS)
        out = self.half_open.enter(visit, source)
        if out is not None:
            out.cancel()
        self._nursery.start_soon(self._visit, visit, sock, address, is_tls)

    async def _visit(self, visit: trio.CancelScope, sock: TcpEndpoint, address: Address, is_tls: bool) -> None:
        stream: Endpoint | None = None
        try:
            with visit:
                plain: Endpoint | None = await self._uncovered(sock) if is_tls else sock
                stream = None if plain is None else await self._asked(plain)
        except (BadWire, Refused, Unreachable, OSError) as fault:
            _log.debug("%s: %s", address[0], fault)
        except Exception:
            _log.exception("a visitor of the SN failed in a way nobody foresaw")
        finally:
            self.half_open.leave(visit)
            if stream is None:
                sock.close()
        if stream is not None:
            self._take(stream, address)

    async def _uncovered(self, sock: TcpEndpoint) -> Endpoint | None:
        """What is inside TLS; None: it was an authority's visit, and is over."""
        hello = sniff_tls(sock.recv(MAX_LOOK, socket.MSG_PEEK))
        source = self._certificates()
        if not isinstance(hello, Sniffed) or source is None:
            context = None
        else:
            context = source.certificate_for(hello.host, hello.alpn)
        if context is None:
            await _say(sock, alert(Alert.UNRECOGNIZED_NAME))
            raise Refused(f"no certificate for {self._name}")
        plain = await wrap_tls(sock, context, None, server_side=True)
        return None if isinstance(hello, Sniffed) and ACME_TLS in hello.alpn else plain

    async def _asked(self, plain: Endpoint) -> Endpoint | None:
        """The stream of a device; None: something else was asked for, and answered."""
        said = b""
        while (cut := cut_head(said)) is None:
            if len(said) > MOST_HEAD:
                raise BadWire(f"a head of more than {MOST_HEAD} bytes")
            piece = await receive_some(plain, MOST_HEAD)
            if not piece:
                raise BadWire("it went away")
            said += piece
        head = parse_request(cut[0])
        if b"websocket" in tokens_of(head.fields, b"upgrade"):
            try:
                return await answer_websocket(plain, said)
            except BadWire:
                await _say(plain, page(400, "This WebSocket is for devices."))
                raise
        await _say(plain, self._page(head))
        return None

    def _page(self, head: RequestHead) -> bytes:
        source = self._certificates()
        proof = None
        if source is not None and head.method == b"GET":
            proof = source.proof_for(self._name, head.target.decode("latin-1"))
        return page(404, "This is a relay; there is nothing to see.") if proof is None else _bare(proof)


def _bare(proof: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(proof), proof)


async def _say(plain: Endpoint, answer: bytes) -> None:
    """A last word; closing upon bytes that nobody read would call it back."""
    await send_all(plain, answer)
    plain.shutdown_write()
    with trio.move_on_after(_PARTING):
        while await receive_some(plain, MOST_HEAD):
            pass
