"""The door of an HTTP proxy, and how a mixed port tells SOCKS from HTTP: bytes in, commands out.

``HttpDoor`` stands between one client connection and at most one upstream at a time.  Its owner feeds it what either
side sent, tells it how dialling went, and carries out the commands it returns, in order.  Two kinds of request come in:

* ``CONNECT host:port``: one ``Dial``, a 200, and from then on ``Tunnel``: the door steps aside.
* ``GET http://host/path``: the request is rewritten to origin form and sent to that host; the answer comes back with
  the headers of the hop taken off.  Then the *next* request on the same connection is read, and it may name another
  host, so the door follows every body to its end (``tunnels.http1``).  An answer of 101 makes a ``Tunnel`` of it.

The door is strict since it forwards: what it cannot read in exactly one way is answered with 400 and the connection is
closed.  Errors always close.  ``Via`` is not added, for it would tell every server that a proxy is used.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from cyfs_ns.errors import BadWire, Misuse
from tunnels.authority import parse_authority
from tunnels.endpoint import Target
from tunnels.http1 import (
    Body,
    Fields,
    RequestHead,
    ResponseHead,
    cut_head,
    parse_request,
    parse_response,
    request_body,
    response_body,
    tokens_of,
    values_of,
)
from tunnels.socks import proves


@dataclass(frozen=True, slots=True)
class Dial:
    """Reach ``target`` by the rules; answer with ``opened()`` or ``failed()``."""

    target: Target
    user: str
    """The authenticated user; empty when nothing was proven."""
    connect: bool = False
    """Asked by CONNECT: once open, nothing but a tunnel follows."""


@dataclass(frozen=True, slots=True)
class ToUpstream:
    """Send these bytes to the upstream."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToClient:
    """Send these bytes to the client."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CloseUpstream:
    """Close the upstream; the client's connection goes on."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The door is done: relay whatever comes, both ways, until both ends close."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the upstream if there is one, and the client's connection once all is sent."""


Command = Dial | ToUpstream | ToClient | CloseUpstream | Tunnel | Close

_REALM = "proxy"
_PHRASES = {
    400: "Bad Request",
    403: "Forbidden",
    407: "Proxy Authentication Required",
    502: "Bad Gateway",
    504: "Gateway Timeout",
}
_MAX_INTERIM = 16
_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]+)([^#]*)")
_OF_THE_HOP = frozenset(
    b"connection proxy-connection keep-alive te upgrade http2-settings "
    b"proxy-authorization proxy-authenticate proxy-authentication-info".split()
)
_NEVER_OF_THE_HOP = frozenset({b"host", b"content-length", b"transfer-encoding"})
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def speaks_socks(first: int) -> bool:
    """Whether a client whose first byte is ``first`` speaks SOCKS 4 or 5; on a mixed port all others speak HTTP."""
    return first in (4, 5)


def error_response(status: int, message: str, *, body: bool = True) -> bytes:
    """A complete answer that ends the connection; ``message`` tells a person what happened."""
    text = message.encode("utf-8", "replace") + b"\n"
    lines = [f"HTTP/1.1 {status} {_PHRASES[status]}"]
    if status == 407:
        lines.append(f'Proxy-Authenticate: Basic realm="{_REALM}"')
    lines += [
        "Content-Type: text/plain; charset=utf-8",
        "X-Content-Type-Options: nosniff",
        f"Content-Length: {len(text)}",
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (text if body else b"")


class _State(Enum):
    HEAD = "waiting for a request"
    DIALLING = "waiting for the upstream"
    EXCHANGE = "request and response under way"
    GONE = "tunnel or closed"


class _Exchange:
    """One request and its response."""

    __slots__ = ("answered", "body", "head", "interim", "keep", "outgoing", "reply", "reply_head", "reused", "upgrade")

    def __init__(self, head: RequestHead, body: Body) -> None:
        self.head = head
        self.body = body
        self.outgoing = b""
        self.keep = head.minor == 1 and not _wants_close(head.fields)
        self.upgrade: list[bytes] = []
        self.reused = False
        self.interim = 0
        self.answered = False
        self.reply_head = b""
        self.reply: Body | None = None


class HttpDoor:
    """One client's connection to an HTTP proxy.

    ``users`` maps names to passwords; with ``auth_required`` only those are served.  Read from the client only while
    ``wants_client``: that is what bounds the bytes held here.  Calls never raise on strangers' bytes; what they did
    wrong becomes an answer and a ``Close``.  After ``Tunnel`` or ``Close`` the door must not be used again.
    """

    __slots__ = ("_auth_required", "_client_ended", "_exchange", "_held", "_state", "_upstream", "_users")

    def __init__(self, users: Mapping[str, str] | None, auth_required: bool) -> None:
        self._users = users or {}
        self._auth_required = auth_required
        self._state = _State.HEAD
        self._held = b""
        self._exchange: _Exchange | None = None
        self._upstream: Dial | None = None
        self._client_ended = False

    @property
    def wants_client(self) -> bool:
        """Whether more bytes of the client are of use now."""
        if self._state is _State.EXCHANGE:
            return not self._current.body.done
        return self._state is _State.HEAD

    @property
    def kept(self) -> int:
        """How many bytes of the client are kept until they can be understood or passed on."""
        return len(self._held)

    @property
    def head_begun(self) -> bool:
        """Whether a request head has begun to come and is not whole yet."""
        return self._state is _State.HEAD and bool(self._held)

    @property
    def is_answering(self) -> bool:
        """Whether the client has a part of an answer, and not yet all of it."""
        exchange = self._exchange
        return exchange is not None and exchange.reply is not None and not exchange.reply.done

    def client(self, untrusted: bytes) -> list[Command]:
        """The client sent these bytes."""
        self._still_here()
        self._held += untrusted
        return self._read_client([])

    def upstream(self, untrusted: bytes) -> list[Command]:
        """The upstream sent these bytes."""
        self._still_here()
        if self._state is not _State.EXCHANGE:
            # Nobody asked: a server about to hang up, or one that hopes to answer the next request in advance.
            return self._drop_upstream()
        exchange = self._current
        try:
            out = self._read_upstream(exchange, untrusted)
        except BadWire as fault:
            if exchange.reply is None:
                return self._refuse(502, f"The server answered in broken HTTP: {fault}")
            return self._close()
        if exchange.reply is not None and exchange.reply.done and self._state is _State.EXCHANGE:
            return self._finish(exchange, out)
        return out

    def opened(self) -> list[Command]:
        """The upstream asked for by ``Dial`` is there."""
        if self._state is not _State.DIALLING:
            raise Misuse("nothing was being dialled")
        exchange = self._current
        if self._upstream is not None and self._upstream.connect:
            return self._tunnel([ToClient(_ESTABLISHED)])
        self._state = _State.EXCHANGE
        return self._read_client([ToUpstream(exchange.outgoing)])

    def failed(self, status: int, message: str) -> list[Command]:
        """``Dial`` came to nothing: 403 for a rule's refusal, 502 or 504 for an unreachable server."""
        if self._state is not _State.DIALLING:
            raise Misuse("nothing was being dialled")
        return self._refuse(status, message)

    def client_eof(self) -> list[Command]:
        """The client sends no more; a request that is whole is still answered."""
        self._still_here()
        self._client_ended = True
        if self._state is _State.HEAD or not self._current.body.done:
            return self._close()
        return []

    def upstream_eof(self) -> list[Command]:
        """The upstream sends no more."""
        self._still_here()
        if self._state is not _State.EXCHANGE:
            return self._drop_upstream()
        exchange = self._current
        if exchange.answered or exchange.reused:
            # A kept connection that dies under a new request is nobody's fault; clients retry when they get no answer.
            return self._close()
        return self._refuse(502, "The server closed the connection without an answer.")

    @property
    def _current(self) -> _Exchange:
        if self._exchange is None:
            raise Misuse("no request is under way")
        return self._exchange

    def _still_here(self) -> None:
        if self._state is _State.GONE:
            raise Misuse("the door is closed, or has become a tunnel")

    def _read_client(self, out: list[Command]) -> list[Command]:
        try:
            while self._held:
                if self._state is _State.HEAD:
                    # RFC 9112 section 2.2: an old client may send one empty line after a body.
                    at = 2 if self._held.startswith(b"\r\n") else 0
                    found = cut_head(self._held[at:])
                    if found is None:
                        break
                    self._held = self._held[at + found[1] :]
                    self._begin(parse_request(found[0]), out)
                elif self._state is _State.EXCHANGE and not self._current.body.done:
                    body = self._current.body
                    checked = body.feed(self._held)
                    self._held = body.rest
                    if checked:
                        out.append(ToUpstream(checked))
                    if not body.done:
                        break
                else:
                    break
        except BadWire as fault:
            if self._state is _State.EXCHANGE and self._current.answered:
                return out + self._close()
            return out + self._refuse(400, f"The request is malformed: {fault}")
        return out

    def _begin(self, head: RequestHead, out: list[Command]) -> None:
        exchange = self._exchange = _Exchange(head, request_body(head))
        if len(values_of(head.fields, b"host")) > 1:
            raise BadWire("more than one Host field")
        proven, user = self._authenticate(head.fields)
        if self._auth_required and not proven:
            out += self._refuse(407, "This proxy serves known users only: send a user name and a password.")
            return
        if head.method == b"CONNECT":
            if not exchange.body.done or values_of(head.fields, b"transfer-encoding"):
                raise BadWire("CONNECT with a body")
            dial = Dial(parse_authority(head.target), user, True)
        else:
            dial = Dial(self._rewrite(exchange), user)
            if dial == self._upstream:
                exchange.reused = True
                self._state = _State.EXCHANGE
                out.append(ToUpstream(exchange.outgoing))
                return
        if self._upstream is not None:
            out.append(CloseUpstream())
        self._upstream = dial
        self._state = _State.DIALLING
        out.append(dial)

    def _authenticate(self, fields: Fields) -> tuple[bool, str]:
        offered = values_of(fields, b"proxy-authorization")
        if len(offered) != 1:
            return False, ""
        scheme, _, encoded = offered[0].partition(b" ")
        if scheme.lower() != b"basic":
            return False, ""
        try:
            user, colon, password = b64decode(encoded.strip(b" "), validate=True).partition(b":")
        except Base64Error:
            return False, ""
        if not colon or not proves(self._users, user, password):
            return False, ""
        return True, user.decode()

    def _rewrite(self, exchange: _Exchange) -> Target:
        """Make the request one for the server itself; returns where that is."""
        head = exchange.head
        found = _ABSOLUTE.fullmatch(head.target)
        if found is None:
            raise BadWire("this is a proxy: ask for http://host/path, or use CONNECT")
        scheme, authority, path = found[1].lower(), found[2], found[3]
        if scheme != b"http":
            raise BadWire(f"this proxy forwards http only, not {scheme.decode()}; use CONNECT")
        target = parse_authority(authority, default_port=80)
        if not path:
            path = b"*" if head.method == b"OPTIONS" else b"/"
        elif path.startswith(b"?"):
            path = b"/" + path
        host = str(target) if target.port != 80 else str(target).removesuffix(":80")
        lines = [b"%s %s HTTP/1.%d" % (head.method, path, head.minor), b"Host: " + host.encode()]
        lines += _without_hop(head.fields, drop=b"host")
        offered = values_of(head.fields, b"upgrade")
        if head.minor and b"upgrade" in tokens_of(head.fields, b"connection") and not _offers_h2c(head.fields):
            exchange.upgrade = offered
        lines += _upgrade_lines(exchange.upgrade)
        exchange.outgoing = b"\r\n".join(lines) + b"\r\n\r\n"
        return target

    def _read_upstream(self, exchange: _Exchange, untrusted: bytes) -> list[Command]:
        out: list[Command] = []
        exchange.answered = exchange.answered or bool(untrusted)
        if exchange.reply is not None:
            checked = exchange.reply.feed(untrusted)
            return [ToClient(checked)] if checked else out
        exchange.reply_head += untrusted
        while exchange.reply is None and (found := cut_head(exchange.reply_head)) is not None:
            head = parse_response(found[0])
            exchange.reply_head = exchange.reply_head[found[1] :]
            if head.status == 101:
                if not exchange.upgrade or not exchange.body.done or not values_of(head.fields, b"upgrade"):
                    raise BadWire("an upgrade nobody asked for")
                lines = [*_plain_head(head), *_upgrade_lines(values_of(head.fields, b"upgrade"))]
                out.append(ToClient(b"\r\n".join(lines) + b"\r\n\r\n"))
                if exchange.reply_head:
                    out.append(ToClient(exchange.reply_head))
                return self._tunnel(out)
            if head.status < 200:
                exchange.interim += 1
                if exchange.interim > _MAX_INTERIM:
                    raise BadWire("too many interim answers")
                if exchange.head.minor:
                    out.append(ToClient(b"\r\n".join(_plain_head(head)) + b"\r\n\r\n"))
                continue
            self._begin_reply(exchange, head, out)
        return out

    def _begin_reply(self, exchange: _Exchange, head: ResponseHead, out: list[Command]) -> None:
        reply = response_body(head, exchange.head.method)
        if not exchange.head.minor and values_of(head.fields, b"transfer-encoding"):
            raise BadWire("a chunked answer to an HTTP/1.0 request")
        lines = _plain_head(head)
        if reply.until_close or not head.minor or _wants_close(head.fields):
            self._upstream = None
        if reply.until_close or self._client_ended:
            exchange.keep = False
        if not exchange.keep:
            lines.append(b"Connection: close")
        exchange.reply = reply
        checked = reply.feed(exchange.reply_head)
        out.append(ToClient(b"\r\n".join(lines) + b"\r\n\r\n" + checked))

    def _finish(self, exchange: _Exchange, out: list[Command]) -> list[Command]:
        if not exchange.keep or not exchange.body.done or self._client_ended:
            return out + self._close()
        if self._upstream is None or (exchange.reply is not None and exchange.reply.rest):
            self._upstream = None
            out.append(CloseUpstream())
        self._exchange = None
        self._state = _State.HEAD
        return self._read_client(out)

    def _tunnel(self, out: list[Command]) -> list[Command]:
        if self._held:
            out.append(ToUpstream(self._held))
            self._held = b""
        self._state = _State.GONE
        return [*out, Tunnel()]

    def _drop_upstream(self) -> list[Command]:
        if self._upstream is None or self._state is not _State.HEAD:
            return []
        self._upstream = None
        return [CloseUpstream()]

    def _refuse(self, status: int, message: str) -> list[Command]:
        body = self._exchange is None or self._exchange.head.method != b"HEAD"
        return [ToClient(error_response(status, message, body=body)), *self._close()]

    def _close(self) -> list[Command]:
        self._state = _State.GONE
        self._held = b""
        self._upstream = None
        return [Close()]


def _wants_close(fields: Fields) -> bool:
    return b"close" in tokens_of(fields, b"connection") | tokens_of(fields, b"proxy-connection")


def _offers_h2c(fields: Fields) -> bool:
    # h2c would let the client speak to the server past every check made here on requests.
    return b"h2c" in tokens_of(fields, b"upgrade")


def _upgrade_lines(protocols: list[bytes]) -> list[bytes]:
    return [b"Connection: Upgrade", *(b"Upgrade: " + name for name in protocols)] if protocols else []


def _plain_head(head: ResponseHead) -> list[bytes]:
    return [b"HTTP/1.1 %d %s" % (head.status, head.phrase), *_without_hop(head.fields)]


def _without_hop(fields: Fields, drop: bytes = b"") -> list[bytes]:
    """The field lines that go past this hop (RFC 9110 section 7.6.1)."""
    listed = tokens_of(fields, b"connection") | tokens_of(fields, b"proxy-connection")
    if listed & _NEVER_OF_THE_HOP:
        raise BadWire("Connection names a field that must go on")
    dropped = _OF_THE_HOP | listed | {drop}
    return [name + b": " + value for name, value in fields if name.lower() not in dropped]
