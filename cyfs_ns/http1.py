"""HTTP/1.1 for a DNS server (RFC 9112), by h11: one request after the other, kept alive.

h11 judges the bytes; here is only what DoH makes of them.  A request that is refused before its body has come closes
the connection, so that no body of a stranger is read in vain.  This is the door for scripts and reverse proxies;
browsers and resolvers come by HTTP/2.
"""

from __future__ import annotations

import h11

from cyfs_ns import doh
from cyfs_ns.conversation import MAX_MESSAGE, Asked, Page, PageWanted, Token
from cyfs_ns.doh import Refusal
from cyfs_ns.errors import BadWire

_MAX_HEAD = 16384
_STATUS_WORDS = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    406: b"Not Acceptable",
    410: b"Gone",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
}


class Http1:
    """A :class:`~cyfs_ns.conversation.Conversation` with one client."""

    width = 1

    def __init__(self, path: bytes = doh.PATH) -> None:
        self._path = path
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._out: list[bytes] = []
        self._fault = ""
        self._query: bytes | PageWanted | Refusal | None = None
        self._body = bytearray()
        self._forwarded = ""
        self._bare = self._waiting = self._leaving = False

    @property
    def partial(self) -> bool:
        return not self._waiting and (self._http.their_state is not h11.IDLE or bool(self._http.trailing_data[0]))

    @property
    def finished(self) -> bool:
        return bool(self._fault) or (not self._waiting and self._http.our_state in (h11.MUST_CLOSE, h11.CLOSED))

    def feed(self, untrusted: bytes, now: float) -> None:
        if untrusted and not self._fault:
            self._http.receive_data(untrusted)

    def take(self, most: int) -> list[Asked]:
        if self._fault:
            raise BadWire(self._fault)
        if self._waiting or most < 1:
            return []
        try:
            while not self.finished:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._head_came(event)
                elif isinstance(event, h11.Data) and not isinstance(self._query, Refusal):
                    self._body += event.data
                    if len(self._body) > MAX_MESSAGE:
                        self._refuse(doh.TOO_LONG)
                elif isinstance(event, h11.EndOfMessage):
                    if (asked := self._request_came()) is not None:
                        return [asked]
                else:
                    if isinstance(self._query, Refusal):  # and a body is still to come
                        self._refuse(self._query)
                    break
        except h11.RemoteProtocolError as fault:
            self._fault = str(fault) or "no HTTP"
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self._refuse(Refusal(fault.error_status_hint, "this is no proper HTTP request"))
            raise BadWire(self._fault) from None
        return []

    def answer(self, token: Token, reply: bytes | None) -> None:
        self._waiting = False
        if reply is None:
            self._refuse(doh.SILENCE)
            return
        headers = [
            ("content-type", doh.DNS_MESSAGE),
            ("content-length", str(len(reply))),
            ("cache-control", f"max-age={doh.max_age(reply)}"),
        ]
        self._respond(200, b"OK", headers, reply)

    def show(self, token: Token, page: Page | None) -> None:
        self._waiting = False
        if page is None:
            self._refuse(doh.NO_PAGE)
            return
        headers = [
            ("content-type", page.content_type),
            ("content-length", str(len(page.body))),
            ("cache-control", f"max-age={page.max_age}" if page.max_age else "no-store"),
            ("vary", "accept"),
        ]
        self._respond(page.status, _STATUS_WORDS.get(page.status, b"Other"), headers, page.body)

    def leave(self) -> None:
        self._leaving = True

    def pieces_to_send(self) -> list[bytes]:
        pieces, self._out = self._out, []
        return pieces

    def _head_came(self, request: h11.Request) -> None:
        content_type, host, accept, length, forwarded = b"", b"", b"", None, []
        for name, value in request.headers:
            if name == b"content-type":
                content_type = value
            elif name == b"content-length":
                length = int(value)
            elif name == b"host":
                host = value
            elif name == b"accept":
                accept = value
            elif name == b"x-forwarded-for":
                forwarded.append(value.decode("latin-1"))
        self._forwarded = ",".join(forwarded)
        self._bare = request.method == b"HEAD"
        self._body.clear()
        self._query = doh.read_request(
            request.method, request.target, content_type, length, self._path, host=host, accept=accept
        )
        if self._query is None and self._http.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))

    def _request_came(self) -> Asked | None:
        query = self._query if self._query is not None else doh.checked(bytes(self._body))
        if isinstance(query, Refusal):
            self._refuse(query)
            return None
        self._waiting = True
        return Asked(None, query, self._forwarded)

    def _refuse(self, refusal: Refusal) -> None:
        text = f"{refusal.reason}\n".encode()
        headers = [
            ("content-type", "text/plain"),
            ("content-length", str(len(text))),
            ("cache-control", "no-store"),
        ]
        if refusal.status == 405:
            headers.append(("allow", doh.ALLOWED))
        self._respond(refusal.status, _STATUS_WORDS.get(refusal.status, b"Refused"), headers, text)

    def _respond(self, status: int, words: bytes, headers: list[tuple[str, str]], body: bytes) -> None:
        whole = self._http.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)
        if self._leaving or not whole:
            headers.append(("connection", "close"))
        events: list[h11.Event] = [h11.Response(status_code=status, headers=headers, reason=words)]
        if not self._bare:
            events.append(h11.Data(data=body))
        self._send(*events, h11.EndOfMessage())
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._bare, self._query = False, None

    def _send(self, *events: h11.Event) -> None:
        self._out.append(b"".join(self._http.send(event) or b"" for event in events))
