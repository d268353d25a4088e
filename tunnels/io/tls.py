"""TLS as an endpoint over any endpoint: records go through memory, so TLS in TLS in SOCKS is the same code.

The certificate is verified by default, against the system's roots and the name that was dialled.  A pinned SHA-256
``fingerprint`` replaces that judgement, ``skip-cert-verify`` drops it.  A stream that ends without ``close_notify`` was
perhaps cut by a stranger (RFC 8446 section 6.1) and is an error.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from contextlib import suppress
from functools import lru_cache
from typing import Final

import trio

from cyfs_ns.errors import ConfigFault, Unreachable
from tunnels.endpoint import Endpoint
from tunnels.io.waiting import within
from tunnels.spec import TlsOptions

_SEND_MOST: Final = 128 * 1024
_READ_SIZE: Final = 128 * 1024

_scratch = memoryview(bytearray(_READ_SIZE))
"""Ciphertext passes through here on its way into a ``MemoryBIO``; shared, since nobody awaits in between."""


class TlsEndpoint:
    """One TLS session over ``lower``, either side.  Made by :func:`wrap_tls`, or driven by ``handshake``."""

    def __init__(
        self,
        lower: Endpoint,
        context: ssl.SSLContext,
        *,
        hostname: str | None = None,
        server_side: bool = False,
    ) -> None:
        self._lower = lower
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        # Some Pythons (Debian's 3.11.2) by default take a cut connection for one that was finished.
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_side, server_hostname=hostname)
        self._owed = memoryview(b"")
        self._early = memoryview(b"")
        self._maybe_more = False
        self._write_ended = False
        self.fileno = lower.fileno

    @property
    def peer_certificate(self) -> bytes | None:
        """The leaf certificate in DER."""
        return self._tls.getpeercert(binary_form=True)

    @property
    def alpn(self) -> str | None:
        """The application protocol that was agreed on."""
        return self._tls.selected_alpn_protocol()

    def handshake(self) -> None:
        """Finish the handshake, or raise ``BlockingIOError`` while the peer is to speak, ``OSError`` if it failed."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self._pull()
            except ssl.SSLError:
                # The alert tells the peer why; whether it gets there does not matter any more.
                with suppress(OSError):
                    self.flush()
                raise
            else:
                return

    def recv_into(self, buffer: memoryview, /) -> int:
        if self._early:
            n = min(len(buffer), len(self._early))
            buffer[:n] = self._early[:n]
            self._early = self._early[n:]
            return n
        while True:
            try:
                n = self._read(buffer)
            except ssl.SSLWantReadError:
                self._maybe_more = False
                self._answer()
                self._pull()
            except ssl.SSLZeroReturnError:
                self._maybe_more = False
                return 0
            else:
                return self._fill(buffer, n)

    def _fill(self, buffer: memoryview, n: int) -> int:
        """OpenSSL gives one record at a time; whoever brings a big buffer gets all there are."""
        size = len(buffer)
        try:
            while 0 < n < size and self._in.pending:
                more = self._read(buffer[n:])
                if not more:
                    # The end stands right behind these bytes, and no descriptor will announce it.
                    self._maybe_more = True
                    return n
                n += more
        except ssl.SSLWantReadError:
            self._maybe_more = False
        except ssl.SSLError:
            # It stays broken, or at its end, and says so again when asked for what follows these bytes.
            self._maybe_more = True
        else:
            self._maybe_more = n > 0 and (self._tls.pending() > 0 or self._in.pending > 0)
        return n

    def _read(self, buffer: memoryview) -> int:
        return self._tls.read(len(buffer), buffer)  # type: ignore[return-value]  # typeshed does not know this form

    def _answer(self) -> None:
        """Reading can make TLS want to say something: a key update's echo, an alert."""
        if self._out.pending:
            with suppress(BlockingIOError):
                self.flush()

    def _pull(self) -> None:
        n = self._lower.recv_into(_scratch)
        if n:
            self._in.write(_scratch[:n])
        else:
            self._in.write_eof()

    def send(self, data: bytes | memoryview, /) -> int:
        if self._write_ended:
            raise BrokenPipeError("this side has finished sending")
        if self._owed or self._out.pending:
            self.flush()
        n = self._tls.write(memoryview(data)[:_SEND_MOST])
        with suppress(BlockingIOError):
            self.flush()
        return n

    def pending(self) -> bool:
        """May be true once too often: what was received can turn out to be half a record."""
        return bool(self._early) or self._maybe_more or self._lower.pending()

    def unsent(self) -> bool:
        return bool(self._owed) or self._out.pending > 0 or self._lower.unsent()

    def flush(self) -> None:
        while True:
            while self._owed:
                self._owed = self._owed[self._lower.send(self._owed) :]
            if not self._out.pending:
                break
            self._owed = memoryview(self._out.read())
        if self._lower.unsent():
            self._lower.flush()

    def shutdown_write(self) -> None:
        """Send ``close_notify``.  The lower endpoint stays open: TLS may still have to answer key updates."""
        if self._write_ended:
            return
        self._write_ended = True
        # OpenSSL's shutdown goes on to look for the peer's close_notify and would drop data it finds on the way.
        self._drain()
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        with suppress(BlockingIOError):
            self.flush()

    def _drain(self) -> None:
        """Decrypt what has been received already."""
        found = [bytes(self._early)]
        self._maybe_more = True
        try:
            while chunk := self._tls.read(_READ_SIZE):
                found.append(chunk)
        except ssl.SSLZeroReturnError:
            pass  # like an empty read: the end was among it, and no descriptor will announce that again
        except ssl.SSLWantReadError:
            self._maybe_more = False
        self._early = memoryview(b"".join(found))

    def close(self) -> None:
        self._owed = self._early = memoryview(b"")
        self._maybe_more = False
        self._lower.close()


class TlsClient:
    """Wraps endpoints by one set of ``TlsOptions``.  The context is made on first use: reading roots takes time."""

    def __init__(self, options: TlsOptions, handshake_timeout: float = 5.0) -> None:
        self._options = options
        self._timeout = handshake_timeout
        self._context: ssl.SSLContext | None = None
        self._pin = options.fingerprint.replace(":", "").lower()

    @property
    def context(self) -> ssl.SSLContext:
        """Raises ``ConfigFault`` when the file of roots cannot be used."""
        if self._context is None:
            options = self._options
            verify = not (options.skip_cert_verify or self._pin)
            make = _make_context if options.certificate else _shared_context
            self._context = make(options.certificate, verify, options.alpn)
        return self._context

    async def wrap(self, lower: Endpoint, host: str) -> TlsEndpoint:
        """A finished handshake over ``lower``, with ``host`` unless the options name another.

        Raises ``Unreachable`` (``tls_handshake``); then, and when cancelled, ``lower`` is closed.
        """
        name = self._options.sni or host
        try:
            context = self.context
        except ConfigFault:
            lower.close()
            raise
        with within(self._timeout, f"the TLS handshake with {name}"):
            tls = await wrap_tls(lower, context, name)
        if self._pin and not hmac.compare_digest(_fingerprint(tls), self._pin):
            tls.close()
            raise Unreachable(f"{name} has another certificate than the pinned one", "tls_handshake")
        return tls


def _make_context(certificate: str, verify: bool, alpn: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif certificate:
        try:
            context.load_verify_locations(certificate)
        except OSError as fault:
            raise ConfigFault(f"certificate {certificate}: {fault}") from fault
    else:
        context.load_default_certs()
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


# The system's roots cost milliseconds and a megabyte, and a subscription may bring hundreds of TLS proxies.
_shared_context = lru_cache(maxsize=32)(_make_context)


def _fingerprint(tls: TlsEndpoint) -> str:
    return hashlib.sha256(tls.peer_certificate or b"").hexdigest()


async def wrap_tls(
    lower: Endpoint, context: ssl.SSLContext, hostname: str | None, *, server_side: bool = False
) -> TlsEndpoint:
    """Shake hands over ``lower``.  Raises ``Unreachable``; then, and when cancelled, ``lower`` is closed."""
    try:
        tls = TlsEndpoint(lower, context, hostname=hostname, server_side=server_side)
        await trio.lowlevel.checkpoint()
        while True:
            try:
                tls.handshake()
                break
            except BlockingIOError:
                if tls.unsent():
                    await trio.lowlevel.wait_writable(tls.fileno())
                else:
                    await trio.lowlevel.wait_readable(tls.fileno())
        while tls.unsent():
            try:
                tls.flush()
            except BlockingIOError:
                await trio.lowlevel.wait_writable(tls.fileno())
    except (OSError, ValueError) as fault:
        lower.close()
        raise Unreachable(f"TLS with {hostname or 'the peer'} failed: {_short(fault)}", "tls_handshake") from fault
    except BaseException:
        lower.close()
        raise
    return tls


def _short(fault: Exception) -> str:
    return getattr(fault, "verify_message", "") or getattr(fault, "reason", None) or str(fault)
