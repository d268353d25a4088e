"""One question to one name server, over whatever carries it: UDP, TCP, TLS (RFC 7858) or HTTPS (RFC 8484).

Against forged UDP replies: a fresh socket for each question (the kernel picks a random port), connected (so only the
server's address passes), and a random id; datagrams with another id are passed over.  One with our id that is not the
reply is a broken server and ends the attempt.
"""

from __future__ import annotations

import math
import secrets
import socket
import ssl
import struct
from collections.abc import Sequence

import trio

from cyfs_ns import message
from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.dial import Dial, is_interface, prepare
from cyfs_ns.message import Answer, Question
from cyfs_ns.upstream import RCODE_WORDS, Upstream

_RESEND = (1.0, 1.5, 2.5)  # seconds to wait after each sending of a datagram
_PATIENCE = 1.5  # seconds for one address of several
_MAX_MESSAGE = 65535


class Exchange:
    """Knows how to reach servers; remembers nothing but TLS settings.

    ``mark`` and ``interface`` go on UDP sockets; on streams they are ``dial``'s matter.
    """

    def __init__(self, dial: Dial, *, mark: int = 0, interface: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.dial, self.mark, self.interface = dial, mark, interface
        self._tls: dict[bool, ssl.SSLContext] = {} if tls is None else {False: tls}

    async def ask(self, upstream: Upstream, addresses: Sequence[str], question: Question) -> Answer:
        """Ask ``upstream``, found at any of ``addresses`` (none are needed for ``rcode``).

        Raises ``Unreachable`` or ``BadWire``.  An address has seconds only while there is a next one to try; the limit
        for the whole is the caller's.
        """
        if upstream.scheme == "rcode":
            rcode = RCODE_WORDS[upstream.host]
            return Answer(question=question, rcode=rcode, flags=message.QR | message.RD | message.RA | rcode)
        last: Unreachable | None = None
        for at, address in enumerate(addresses, 1):
            try:
                with trio.fail_after(_PATIENCE if at < len(addresses) else math.inf):
                    answer = await self._send(upstream, address, question, edns=True)
                    if answer.rcode in (message.FORMERR, message.NOTIMP):  # an old server that cannot read EDNS
                        answer = await self._send(upstream, address, question, edns=False)
                    return answer
            except Unreachable as fault:
                last = fault
            except trio.TooSlowError:
                last = Unreachable(f"{address} does not answer", "connect_timeout")
        raise last or Unreachable(upstream.why_not or f"{upstream} has no address", "unsupported_scheme")

    async def _send(self, upstream: Upstream, address: str, question: Question, *, edns: bool) -> Answer:
        if upstream.scheme in ("https", "http"):
            return await self._https(upstream, address, question, edns)
        ident = secrets.randbits(16)
        query = message.build_query(question, ident, edns=edns)
        # A datagram can leave by an interface, but an outbound only carries streams for us.
        if upstream.scheme == "udp" and (not upstream.via or is_interface(upstream.via)):
            answer = message.read_reply(await self._datagram(upstream, address, query), question, ident)
            if not answer.truncated:
                return answer
        answer = message.read_reply(await self._stream(upstream, address, query), question, ident)
        if answer.truncated:
            raise BadWire("reply truncated where there was room for it")
        return answer

    async def _datagram(self, upstream: Upstream, address: str, query: bytes) -> bytes:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
                prepare(sock, self.mark, upstream.via or self.interface)
                await sock.connect((address, upstream.port))
                for patience in _RESEND:
                    await sock.send(query)
                    with trio.move_on_after(patience):
                        while (reply := await sock.recv(_MAX_MESSAGE))[:2] != query[:2]:
                            pass
                        return reply
        except OSError as fault:
            refused = isinstance(fault, ConnectionRefusedError)
            raise Unreachable(fault.strerror or str(fault), "connect_refused" if refused else "other") from fault
        raise Unreachable("no answer", "connect_timeout")

    async def _stream(self, upstream: Upstream, address: str, query: bytes) -> bytes:
        stream = await self.dial(address, upstream.port, upstream.via or None)
        try:
            if upstream.scheme == "tls":
                stream = trio.SSLStream(stream, self._context(upstream), server_hostname=upstream.host)
                await stream.do_handshake()
            await stream.send_all(struct.pack("!H", len(query)) + query)
            (length,) = struct.unpack("!H", await _exactly(stream, 2))
            return await _exactly(stream, length)
        except trio.BrokenResourceError as fault:
            reason = "tls_handshake" if isinstance(fault.__cause__, ssl.SSLError) else "other"
            raise Unreachable(f"connection lost: {fault.__cause__ or fault}", reason) from fault
        finally:
            await trio.aclose_forcefully(stream)

    async def _https(self, upstream: Upstream, address: str, question: Question, edns: bool) -> Answer:
        from cyfs_ns.io.http import fetch

        async def dial(_host: str, port: int, via: str | None) -> trio.abc.Stream:
            return await self.dial(address, port, via)

        where = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
        kind = "application/dns-message"
        response = await fetch(
            f"{upstream.scheme}://{where}:{upstream.port}{upstream.path}",
            dial=dial,
            via=upstream.via or None,
            method="POST",
            headers=[("content-type", kind), ("accept", kind)],
            body=message.build_query(question, 0, edns=edns),  # id 0, as HTTP caches like it (RFC 8484 section 4.1)
            max_bytes=_MAX_MESSAGE,
            max_redirects=0,
            tls=self._context(upstream) if upstream.scheme == "https" else None,
        )
        if response.status != 200:
            raise Unreachable(f"HTTP status {response.status}")
        if response.header("content-type").partition(";")[0].strip().lower() != kind:
            raise BadWire(f"HTTP body of type {response.header('content-type')[:80]!r}")
        return message.read_reply(response.body, question, 0)

    def _context(self, upstream: Upstream) -> ssl.SSLContext:
        context = self._tls.get(upstream.skip_cert_verify)
        if context is None:
            context = ssl.create_default_context()  # reads all of the system's roots: once
            if upstream.skip_cert_verify:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._tls[upstream.skip_cert_verify] = context
        return context


async def _exactly(stream: trio.abc.Stream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        some = await stream.receive_some(size - len(data))
        if not some:
            raise BadWire(f"connection closed after {len(data)} of {size} bytes")
        data += some
    return bytes(data)
