"""What a stream door and the machine behind it say to each other.

A *conversation* is one connection seen from the server, as a pure machine: untrusted bytes go in, queries come out;
replies go in, bytes to send come out.  Do53 framing, HTTP/1.1 and HTTP/2 are three such machines; one shell
(``io/streams.py``) moves the bytes of all of them.  The shell pulls queries, never more than it may have unanswered, so
what a client sends beyond that stays as bytes in the machine's bounded buffer, then in the kernel's, then with the
client: back pressure all the way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from cyfs_ns.peer import Peer

Token: TypeAlias = Any
"""The machine's own mark of a query, given back with its reply."""

MAX_MESSAGE = 65535
"""Bytes of a DNS message: what the two bytes of a length can say (RFC 1035 section 4.2.2)."""

HEADER_SIZE = 12
"""Bytes of the header that every DNS message begins with (RFC 1035 section 4.1.1)."""


@dataclass(frozen=True, slots=True)
class PageWanted:
    """A web page that is asked for at a door of DNS over HTTPS; all three as the client wrote them."""

    target: str
    host: str
    accept: str


@dataclass(frozen=True, slots=True)
class Page:
    """A response that is no DNS message: ``max_age`` is the seconds for which it may be kept, 0: not at all."""

    status: int
    content_type: str
    body: bytes
    max_age: int = 0


class Asked(NamedTuple):
    """One query, whole."""

    token: Token
    query: bytes | PageWanted
    """A DNS message as sent: at least a header long, nothing else is known of it; or the page that HTTP asks for."""
    forwarded: str = ""
    """For whom the client says it asks (``X-Forwarded-For``): worth what the client is worth."""


class Conversation(Protocol):
    """See the module's text."""

    @property
    def width(self) -> int:
        """How many queries may be unanswered at once."""

    @property
    def partial(self) -> bool:
        """The peer owes us something: the rest of a message, or leave to send what we hold."""

    @property
    def finished(self) -> bool:
        """No further query will come: send what is left and close."""

    def feed(self, untrusted: bytes, now: float) -> None:
        """Take bytes of the peer; ``now`` in seconds of any steady clock.  Costs nothing but memory."""

    def take(self, most: int) -> list[Asked]:
        """Up to ``most`` queries out of what was fed; none when more bytes are needed.

        Raises ``BadWire`` when the peer broke the rules, now and ever after, but only once everything good before the
        fault was handed out.  ``pieces_to_send`` then ends with the farewell the protocol has for this.
        """

    def answer(self, token: Token, reply: bytes | None) -> None:
        """The reply to one query of ``take``; ``None``: it deserves none.  Late replies are dropped."""

    def show(self, token: Token, page: Page | None) -> None:
        """The page that one query of ``take`` wanted; ``None``: there is none."""

    def leave(self) -> None:
        """We shall close soon: say so, if the protocol has words for it."""

    def pieces_to_send(self) -> list[bytes]:
        """What is to be sent since last asked, cut where messages end.

        TLS gives each piece a record of its own: there are clients that take one record for one reply.
        """


class Hot(Protocol):
    """The cache of finished replies, as doors see it."""

    def answer(self, client_ip: bytes, query: bytes, door: str) -> bytes | None:
        """The whole reply, empty for silence, or ``None`` when this needs thought; ``client_ip`` is 4 or 16 bytes."""


Serve: TypeAlias = Callable[[bytes, Peer], Awaitable[bytes | None]]
"""The cold path: an untrusted query of a client to its reply, or to silence (``None`` or empty)."""

ShowPage: TypeAlias = Callable[[PageWanted, Peer], Awaitable[Page | None]]
"""A page for a client; ``None``: there is none."""
