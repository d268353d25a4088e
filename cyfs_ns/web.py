"""Which HTTP a client speaks when nothing has settled it beforehand.

TLS settles it by ALPN.  A reverse proxy on a plain connection may simply begin with HTTP/2 ("prior knowledge", RFC 9113
section 3.3); its preface was chosen so that no request of HTTP/1.1 begins alike.
"""

from __future__ import annotations

from cyfs_ns import doh
from cyfs_ns.conversation import Asked, Conversation, Page, Token
from cyfs_ns.http1 import Http1
from cyfs_ns.http2 import PREFACE, Http2

_TELLING = 3
"""Bytes that set ``PRI`` apart from every method that is answered."""


def by_alpn(protocol: str | None, width: int = 100, path: bytes = doh.PATH) -> Conversation:
    """The machine for what TLS has settled, or one that finds out by itself."""
    if protocol == "h2":
        return Http2(width, path)
    return Http1(path) if protocol == "http/1.1" else Web(width, path)


class Web:
    """A :class:`~cyfs_ns.conversation.Conversation` that becomes one of the two as soon as it knows which."""

    def __init__(self, width: int = 100, path: bytes = doh.PATH) -> None:
        self._width, self._path = width, path
        self._in = b""
        self._chosen: Conversation | None = None

    @property
    def width(self) -> int:
        return self._chosen.width if self._chosen is not None else 1

    @property
    def partial(self) -> bool:
        return self._chosen.partial if self._chosen is not None else bool(self._in)

    @property
    def finished(self) -> bool:
        return self._chosen is not None and self._chosen.finished

    def feed(self, untrusted: bytes, now: float) -> None:
        if self._chosen is None:
            self._in += untrusted
            if len(self._in) < _TELLING and PREFACE.startswith(self._in):
                return
            http2 = self._in.startswith(PREFACE[:_TELLING])
            self._chosen = Http2(self._width, self._path) if http2 else Http1(self._path)
            untrusted, self._in = self._in, b""
        self._chosen.feed(untrusted, now)

    def take(self, most: int) -> list[Asked]:
        return self._chosen.take(most) if self._chosen is not None else []

    def answer(self, token: Token, reply: bytes | None) -> None:
        if self._chosen is not None:
            self._chosen.answer(token, reply)

    def show(self, token: Token, page: Page | None) -> None:
        if self._chosen is not None:
            self._chosen.show(token, page)

    def leave(self) -> None:
        if self._chosen is not None:
            self._chosen.leave()

    def pieces_to_send(self) -> list[bytes]:
        return self._chosen.pieces_to_send() if self._chosen is not None else []
