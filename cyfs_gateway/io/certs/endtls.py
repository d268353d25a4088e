"""Where TLS ends: the ClientHello is read, a certificate is found for what it asks, and the handshake is done.

The hello is looked at before OpenSSL sees it, since both the name and the protocols it offers decide, and a client
without a certificate here hears so in words of TLS (RFC 6066 section 3: unrecognized_name).
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence

import trio

from cyfs_gateway.certs.source import ACME_TLS, CertificateSource
from cyfs_gateway.sniff.result import MORE, Sniffed
from cyfs_gateway.sniff.tls import MAX_HELLO, sniff_tls
from cyfs_ns.errors import BadWire, Refused

HANDSHAKE = 15.0
"""Seconds for hello and handshake."""
UNRECOGNIZED_NAME = bytes.fromhex("15030300020270")
"""The alert for whoever asks for a name that is not here."""

_READ = 1 << 14


async def end_tls(
    stream: trio.abc.Stream, source: CertificateSource, *, speak: Sequence[str] = ("http/1.1",)
) -> tuple[trio.SSLStream[trio.abc.Stream], str] | None:
    """The plain side of ``stream`` and the host that was asked for; None when it was an authority's visit, and is over.

    Raises ``BadWire`` (no TLS), ``Refused`` (no certificate for that name), ``trio.TooSlowError``,
    ``trio.BrokenResourceError``.  The caller closes ``stream`` in any case but the first.
    """
    with trio.fail_after(HANDSHAKE):
        hello = b""
        while (found := sniff_tls(hello)) is MORE:
            piece = await stream.receive_some(_READ)
            if not piece or len(hello) > 2 * MAX_HELLO:
                raise BadWire("no whole ClientHello")
            hello += piece
        if not isinstance(found, Sniffed):
            raise BadWire("no TLS")
        context = source.certificate_for(found.host, found.alpn, speak=speak)
        if context is None:
            await stream.send_all(UNRECOGNIZED_NAME)
            raise Refused(f"no certificate for {found.host or 'a client that names no host'}")
        plain: trio.SSLStream[trio.abc.Stream] = trio.SSLStream(
            Replayed(stream, hello), context, server_side=True, https_compatible=True
        )
        try:
            await plain.do_handshake()
        except ssl.SSLError as fault:
            raise BadWire(f"the handshake failed: {fault.reason or fault}") from None
        except trio.BrokenResourceError as fault:
            raise BadWire(f"the handshake failed: {fault.__cause__ or fault}") from None
        if ACME_TLS in found.alpn:
            await stream.aclose()
            return None
        return plain, found.host


class Replayed(trio.abc.Stream):
    """A stream whose first bytes have been read already."""

    def __init__(self, inner: trio.abc.Stream, first: bytes) -> None:
        self._inner, self._first = inner, first

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._first:
            cut = len(self._first) if max_bytes is None else max_bytes
            given, self._first = self._first[:cut], self._first[cut:]
            await trio.lowlevel.checkpoint()
            return given
        return await self._inner.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._inner.aclose()
