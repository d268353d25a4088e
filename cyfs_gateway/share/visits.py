"""What becomes of one request of a visitor: decided from its head alone, before a byte goes to the service.

The visitor is a stranger until a cookie says otherwise, and whoever has a cookie is a stranger still to every other
service.  So each request is judged by itself, also on a connection that has been let in before; the Host it names must
be the one TLS was made for; and what goes on to the service is not what came, but what was understood: no field that
only concerns this connection, nothing that speaks about who the visitor is, and none of our own cookies.

A link is good for opening the door, which sets the cookie and leads to the clean URL, so that the token is in no
referrer, bookmark or screenshot.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from cyfs_gateway.share.passes import MOST_SPENT, Grant, Kind, admit, check_proof, write_pass
from cyfs_gateway.share.section import Service
from cyfs_ns import names
from cyfs_ns.errors import BadWire, Refused
from cyfs_ns.identity.keys import PublicKey, SecretKey
from tunnels.http1 import Body, Fields, RequestHead, request_body, tokens_of, values_of

LINK: Final = "/.well-known/cyfs-share/"
"""Behind it stands the token of a link, and behind that a proof where it is for one machine."""
COOKIE: Final = "__Host-cyfs-share"
"""By its name, browsers take it from this host alone, over TLS alone (RFC 6265bis section 4.1.3.2)."""

_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"upgrade", b"expect"}
)
_ABOUT_THE_VISITOR: Final = (b"forwarded", b"x-forwarded-", b"x-real-ip", b"x-share-")
_NEVER_BY_CONNECTION: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"cookie", b"authorization"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """What decides about tokens: all grants that hold, and the key that signs."""

    grants: Mapping[str, Grant]
    key: SecretKey
    public: PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Let it through: ``head`` is what the service is told, ``body`` follows the rest of the request."""

    head: bytes = field(repr=False)
    body: Body = field(repr=False)
    websocket: bool = False
    waits: bool = False
    """Whether the visitor waits for a word before it sends the body (RFC 9110 section 10.1.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Say this; the service hears nothing of it."""

    status: int
    text: str = ""
    spent: tuple[str, int] | None = None
    """A proof that has counted, and until when nobody may forget that (Unix time)."""
    fields: tuple[tuple[str, str], ...] = ()


def judge(
    head: RequestHead,
    host: str,
    service: Service | None,
    book: Book,
    now: float,
    spent: Collection[str] = (),
    source: str = "",
) -> Forward | Answer:
    """What becomes of a request on a connection that was made to the canonical ``host``; ``service`` is what the owner
    has there, ``spent`` are proofs that have counted, ``source`` is the visitor's address if it is known."""
    try:
        named, body, dropped = _host_of(head), request_body(head), _dropped(head.fields)
    except BadWire as fault:
        return Answer(status=400, text=str(fault))
    if named != host:
        return Answer(status=421, text="this connection was made to another host")
    if service is None or service.host != host:
        return Answer(status=404, text="no service is here")
    if head.method in (b"CONNECT", b"TRACE") or not head.target.startswith(b"/"):
        return Answer(status=400, text="this is no proxy")
    path = head.target.decode("ascii")
    if path.startswith(LINK):
        return _opened(head.method, path.removeprefix(LINK), service, book, now, spent)
    share = ""
    if service.auth == "link":
        try:
            share = _admitted(_our_cookie(head.fields), "share-cookie", service, book, now).id
        except (BadWire, Refused) as fault:
            return Answer(status=401, text=f"this service is open to whoever has a link: {fault}")
    upgrade, connection = tokens_of(head.fields, b"upgrade"), tokens_of(head.fields, b"connection")
    websocket = upgrade == {b"websocket"} and b"upgrade" in connection and body.done
    return Forward(
        head=_rewritten(head, host, share, source, dropped, websocket),
        body=body,
        websocket=websocket,
        waits=tokens_of(head.fields, b"expect") == {b"100-continue"} and not body.done,
    )


def _opened(method: bytes, said: str, service: Service, book: Book, now: float, spent: Collection[str]) -> Answer:
    token, slash, proof = said.partition("/")
    used: tuple[str, int] | None = None
    if method != b"GET":
        return Answer(status=405, text="a link is followed", fields=(("allow", "GET"),))
    try:
        grant = _admitted(token, "share-link", service, book, now)
        if grant.whose and not proof:
            return Answer(status=403, text="this link is for one machine; there: cyfs-gateway share open LINK")
        if grant.whose:
            if len(spent) >= MOST_SPENT:
                raise Refused("too many have opened links just now")
            used = check_proof(proof, grant, spent, now)
        elif slash:
            raise Refused("this link needs no proof: it opens as it was given")
    except BadWire:
        return Answer(status=403, text="this is no link of ours")
    except Refused as fault:
        return Answer(status=403, text=str(fault))
    cookie = f"{COOKIE}={write_pass(grant, 'share-cookie', book.key)}; Max-Age={max(1, int(grant.until - now))}"
    return Answer(
        status=303,
        spent=used,
        fields=(
            ("location", "/"),
            ("set-cookie", f"{cookie}; Path=/; Secure; HttpOnly; SameSite=Lax"),
            ("referrer-policy", "no-referrer"),
        ),
    )


def _admitted(token: str, kind: Kind, service: Service, book: Book, now: float) -> Grant:
    return admit(token, kind, service=service.name, host=service.host, grants=book.grants, key=book.public, now=now)


def _host_of(head: RequestHead) -> str:
    """The one host a request names.  Raises ``BadWire``."""
    values = values_of(head.fields, b"host")
    if len(values) != 1:
        raise BadWire("a request names one host")
    host, colon, port = values[0].decode("latin-1").partition(":")
    if colon and (not port.isascii() or not port.isdigit()):
        raise BadWire("Host is a name and a port")
    return names.name(host)


def _our_cookie(fields: Fields) -> str:
    """The token in our cookie.  Of several none counts: whoever could add one would choose which (cookie tossing)."""
    pairs = [pair.strip(b" \t") for value in values_of(fields, b"cookie") for pair in value.split(b";")]
    ours = [pair for pair in pairs if _is_ours(pair)]
    if not ours:
        raise Refused("there is no cookie")
    if len(ours) > 1:
        raise Refused("there are two cookies")
    return ours[0].partition(b"=")[2].decode("latin-1")


def _is_ours(pair: bytes) -> bool:
    return pair.partition(b"=")[0].strip(b" \t") == COOKIE.encode()


def _dropped(fields: Fields) -> frozenset[bytes]:
    """Names of fields that end here.  Raises ``BadWire`` where Connection would take away what decides."""
    named = frozenset(tokens_of(fields, b"connection"))
    if wrong := named & _NEVER_BY_CONNECTION:
        raise BadWire(f"Connection names {min(wrong).decode()}")
    return named | _HOP


def _rewritten(
    head: RequestHead, host: str, share: str, source: str, dropped: frozenset[bytes], websocket: bool
) -> bytes:
    """The head for the service, which serves this one request and closes."""
    lines = [b"%b %b HTTP/1.%d" % (head.method, head.target, head.minor)]
    cookies = []
    for name, value in head.fields:
        lower = name.lower()
        if lower == b"cookie":
            cookies += [pair for pair in map(bytes.strip, value.split(b";")) if pair and not _is_ours(pair)]
        elif lower not in dropped and lower != b"host" and not lower.startswith(_ABOUT_THE_VISITOR):
            lines.append(name + b": " + value)
    if cookies:
        lines.append(b"Cookie: " + b"; ".join(cookies))
    lines += [b"Host: " + host.encode(), b"X-Forwarded-Proto: https", b"X-Forwarded-Host: " + host.encode()]
    lines += [b"X-Forwarded-For: " + source.encode()] if source else []
    lines += [b"X-Share-Id: " + share.encode()] if share else []
    lines += [b"Connection: upgrade", b"Upgrade: websocket"] if websocket else [b"Connection: close"]
    return b"\r\n".join(lines) + b"\r\n\r\n"
