"""The house's one HTTP/1.1 client: a request over any stream, a whole response or an error.

One connection a request, closed afterwards.  What comes back is a stranger's: head, body and decoded body are bounded
while they are read; a body that ends early (connection lost, length or chunks not fulfilled, TLS cut without
goodbye, compressed data without its end) is an error and never a short success.  Redirects are followed to http and
https only, a bounded number of times, and credentials do not follow to another origin.

Errors: ``Unreachable`` when no whole response could be had, ``BadWire`` when what came breaks the rules or the limits.
"""

from __future__ import annotations

import base64
import ssl
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

import h11
import trio

from cyfs_ns import names
from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.dial import Dial

Headers = tuple[tuple[str, str], ...]
Sink = Callable[[bytes], object]
"""Takes the pieces of a body as they come."""

_READ = 65536
_MAX_INTERIM = 16  # 1xx responses before the real one
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NOT_ABROAD = frozenset({"authorization", "cookie", "proxy-authorization"})
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response, whatever its status."""

    status: int
    headers: Headers
    """Names in lower case, in the order sent."""
    body: bytes
    """Decoded."""
    url: str
    """Where it came from, after redirects."""

    def header(self, name: str) -> str:
        """The value of the first header called ``name`` (lower case), or empty."""
        return next((value for key, value in self.headers if key == name), "")


async def fetch(
    url: str,
    *,
    dial: Dial,
    via: str | None = None,
    method: str = "GET",
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    max_bytes: int = 16 << 20,
    timeout: float = 30,
    max_redirects: int = 5,
    user_agent: str = "cyfs-gateway",
    tls: ssl.SSLContext | None = None,
    sink: Sink | None = None,
) -> Response:
    """Send one request and read the response, redirects and all, within ``timeout`` seconds.

    ``max_bytes`` bounds the body both as sent and as decoded.  ``headers`` are added to our own; for a conditional
    request give ``if-none-match`` and look for status 304.  ``user:password@`` in the URL becomes Basic authorization.
    ``tls`` replaces the system's trust.  With ``sink`` the decoded body of a response of status 200 goes there piece by
    piece, for big ones, and ``Response.body`` stays empty; when an error follows, the pieces given are worth nothing.
    """
    wanted = [(key.lower(), value) for key, value in headers]
    try:
        with trio.fail_after(timeout):
            for _ in range(max_redirects + 1):
                request = _Request(url, method, wanted, body, user_agent)
                response = await _once(request, dial, via, max_bytes, tls, sink)
                following = response.header("location")
                if response.status not in _REDIRECTS or not following:
                    return response
                try:
                    url = urljoin(url, following)
                except ValueError:
                    raise BadWire(f"{_shown(url)}: redirected to what is no URL") from None
                if _origin(_split(url)) != _origin(request.parts):
                    wanted = [(key, value) for key, value in wanted if key not in _NOT_ABROAD]
                elif request.parts.username is not None and _split(url).username is None:
                    url = _split(url)._replace(netloc=request.parts.netloc).geturl()
                if response.status == 303 or (response.status in (301, 302) and method == "POST"):
                    method, body = ("HEAD" if method == "HEAD" else "GET"), b""
    except trio.TooSlowError:
        raise Unreachable(f"{_shown(url)}: no response in {timeout:g} s", "connect_timeout") from None
    raise BadWire(f"{_shown(url)}: more than {max_redirects} redirects")


class _Request:
    """One hop: the URL taken apart and the h11 events that ask for it."""

    def __init__(self, url: str, method: str, wanted: list[tuple[str, str]], body: bytes, user_agent: str) -> None:
        self.parts = parts = _split(url)
        self.url, self.body = parts._replace(fragment="").geturl(), body
        self.scheme, self.host, self.port = _origin(parts)
        shown = f"[{self.host}]" if ":" in self.host else self.host
        own = {
            "host": shown if self.port == _PORTS[self.scheme] else f"{shown}:{self.port}",
            "user-agent": user_agent,
            "accept": "*/*",
            "accept-encoding": "gzip, deflate",
            "connection": "close",
        }
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            own["authorization"] = "Basic " + base64.b64encode(secret.encode()).decode()
        if body or method in ("POST", "PUT", "PATCH"):
            own["content-length"] = str(len(body))
        given = {key for key, _ in wanted}
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (
            "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?") if parts.query else ""
        )
        try:
            self.event = h11.Request(
                method=method,
                target=path,
                headers=[(key, value) for key, value in own.items() if key not in given] + wanted,
            )
        except (h11.LocalProtocolError, UnicodeError) as fault:
            raise BadWire(f"{_shown(url)}: {fault}") from None


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _PORTS and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise BadWire(f"not an http or https URL: {_shown(url)}")
    return parts


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, names.host(parts.hostname or ""), parts.port or _PORTS[parts.scheme]


def _shown(url: str) -> str:
    """A URL fit for logs: subscriptions carry their secrets in the query, the path and before the host."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2].partition('?')[0][:100]}"


async def _once(
    request: _Request, dial: Dial, via: str | None, max_bytes: int, tls: ssl.SSLContext | None, sink: Sink | None
) -> Response:
    stream = await dial(request.host, request.port, via)
    shown = _shown(request.url)
    try:
        if request.scheme == "https":
            tls = tls or ssl.create_default_context()
            # Some Pythons (Debian's 3.11.2) by default take a cut connection for one that was finished.
            tls.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
            stream = trio.SSLStream(stream, tls, server_hostname=request.host)
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError as fault:
                raise Unreachable(f"{shown}: TLS: {fault.__cause__ or fault}", "tls_handshake") from fault
        return await _converse(stream, request, max_bytes, sink)
    except trio.BrokenResourceError as fault:
        raise Unreachable(f"{shown}: connection lost: {fault.__cause__ or fault}") from fault
    except h11.RemoteProtocolError as fault:
        raise BadWire(f"{shown}: {fault}") from fault
    finally:
        await trio.aclose_forcefully(stream)


async def _converse(stream: trio.abc.Stream, request: _Request, max_bytes: int, sink: Sink | None) -> Response:
    http = h11.Connection(h11.CLIENT)
    head = http.send(request.event) or b""
    await stream.send_all(head + (http.send(h11.Data(data=request.body)) or b"" if request.body else b""))
    http.send(h11.EndOfMessage())

    async def next_event() -> h11.Event:
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(_READ)))
        if isinstance(event, h11.Event):
            return event
        raise BadWire(f"{_shown(request.url)}: nothing follows")

    for _ in range(_MAX_INTERIM):
        event = await next_event()
        if not isinstance(event, h11.InformationalResponse):
            break
    if not isinstance(event, h11.Response):
        raise BadWire(f"{_shown(request.url)}: no response but {type(event).__name__}")
    headers = tuple((key.decode("latin-1"), value.decode("latin-1")) for key, value in event.headers)
    encoding = next((v for k, v in headers if k == "content-encoding"), "")
    decoder = _Decoder(encoding, max_bytes, sink if event.status_code == 200 else None)
    while isinstance(part := await next_event(), h11.Data):
        decoder.feed(bytes(part.data))
    return Response(event.status_code, headers, decoder.finish(), request.url)


class _Decoder:
    """Collects a body, decoding as it goes; neither what comes in nor what it swells to may pass ``limit``."""

    def __init__(self, encoding: str, limit: int, sink: Sink | None = None) -> None:
        self._encoding, self._limit = encoding.strip().lower(), limit
        self._inflate: zlib._Decompress | None = None
        self._parts: list[bytes] = []
        self._keep = sink or self._parts.append
        self._came = self._size = 0
        if self._encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise BadWire(f"a content encoding we did not ask for: {self._encoding[:40]!r}")

    def feed(self, data: bytes) -> None:
        self._came += len(data)
        if self._came > self._limit:
            raise BadWire(f"a body of more than {self._limit} bytes")
        if self._encoding in ("", "identity"):
            self._keep(data)
            return
        while data:
            if self._inflate is None:
                self._inflate = zlib.decompressobj(self._window(data[0]))
            try:
                # One byte more than may come, and never 0, which would mean no limit at all.
                piece = self._inflate.decompress(data, self._limit - self._size + 1)
            except zlib.error as fault:
                raise BadWire(f"a body that is no {self._encoding}: {fault}") from None
            self._size += len(piece)
            if self._size > self._limit:
                raise BadWire(f"a body of more than {self._limit} bytes when unpacked")
            self._keep(piece)
            data = self._inflate.unused_data
            if data:  # gzip files may be joined end to end (RFC 1952 section 2.2)
                self._inflate = None

    def finish(self) -> bytes:
        # A response without any body, as to HEAD, may still name the encoding it would have.
        if self._came and self._inflate is not None and not self._inflate.eof:
            raise BadWire(f"a {self._encoding} body without its end")
        return b"".join(self._parts)

    def _window(self, first: int) -> int:
        if self._encoding != "deflate":
            return 16 + zlib.MAX_WBITS
        # Meant is zlib (RFC 9110 section 8.4.1.2); some servers send it bare.  A zlib header has method 8, window <= 7.
        return zlib.MAX_WBITS if first & 0x8F == 0x08 else -zlib.MAX_WBITS
