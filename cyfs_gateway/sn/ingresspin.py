"""One HTTP connection stays with one host.

A client may ask for another host with each request on a connection, and the bytes go to a device unread.  Were only the
first request looked at, the second could reach that device under a name that is somebody else's, and an intermediary
that shares connections would hand its users each other's pages.  So requests are followed to their ends
(``tunnels/http1.py``), and the first for another host, or that cannot be read in exactly one way, ends the connection:
nothing of it is passed on, what was asked before is still answered, and the client, which has no answer, asks again on
a connection of its own (RFC 9112 section 9.3.1).

To close after each response would need less, but every picture of a page would cost a connection through the tunnel;
and that response would have to be changed.  Here nothing is.

Responses are followed for two reasons only: to know when the last one is over, and whether an Upgrade was granted, for
from there on anything may follow (WebSockets).  What a client says before it knows that is kept back.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from cyfs_gateway.sn.ingress import MAX_HEAD, host_of
from cyfs_ns.errors import BadWire
from tunnels.http1 import (
    Body,
    RequestHead,
    cut_head,
    parse_request,
    parse_response,
    request_body,
    response_body,
    tokens_of,
)

_MOST_ASKED: Final = 64


class Pinned:
    """The requests for ``host`` (canonical) on one connection.

    ``over``: nothing more will pass from the client, and all it asked for is answered.
    """

    __slots__ = ("_answer", "_asked", "_body", "_ends", "_heard", "_held", "_host", "is_free")

    def __init__(self, host: str) -> None:
        self._host = host
        self._held = b""
        self._body: Body | None = None
        self._asked: deque[tuple[bytes, bool]] = deque()
        """Methods that are not answered yet, and whether they ask for an Upgrade."""
        self._heard = b""
        self._answer: Body | None = None
        self._ends = False
        self.is_free = False
        """An Upgrade was granted: it is HTTP no more."""

    @property
    def over(self) -> bool:
        return self._ends and not self._asked

    @property
    def is_holding(self) -> bool:
        """Whether something was kept back that an answer may release."""
        return bool(self._held)

    def client(self, untrusted: bytes) -> bytes:
        """The client said this; what may be passed on, now that it did."""
        if self.is_free:
            return untrusted
        if self._ends:
            return b""
        self._held += untrusted
        passed: list[bytes] = []
        try:
            while self._held and self._step(passed):
                pass
            if len(self._held) > MAX_HEAD:
                raise BadWire("a long head, or too much is said before it was answered")
        except BadWire:
            self._ends, self._held = True, b""
        return b"".join(passed)

    def _step(self, passed: list[bytes]) -> bool:
        if self.is_free:
            passed.append(self._held)
            self._held = b""
            return False
        if self._body is not None:
            passed.append(self._body.feed(self._held))
            self._held = self._body.rest
            if not self._body.done:
                return False
            self._body = None
            return True
        if self._asked and (self._asked[-1][1] or len(self._asked) >= _MOST_ASKED):
            return False
        if self._held.startswith(b"\r\n"):  # an old client may send an empty line (RFC 9112 section 2.2)
            self._held = self._held[2:]
            return True
        found = cut_head(self._held)
        if found is None:
            return False
        head = parse_request(found[0])
        if host_of(head) != self._host:
            raise BadWire("for another host")
        body = request_body(head)
        self._body = None if body.done else body
        self._asked.append((head.method, _wants_upgrade(head)))
        passed.append(self._held[: found[1]])
        self._held = self._held[found[1] :]
        return True

    def server(self, data: bytes) -> None:
        """The server said this, which the client has got.  Raises ``BadWire`` when it answers what nobody asked."""
        if self.is_free:
            return
        self._heard = self._heard + data if self._heard else data
        while self._heard:
            if self._answer is None and not self._begin_answer():
                return
            if self._answer is not None:
                self._answer.feed(self._heard)
                self._heard = self._answer.rest
                if not self._answer.done:
                    return
                self._answer = None
                self._asked.popleft()

    def _begin_answer(self) -> bool:
        """Read the next head; False: there is no more to do."""
        found = cut_head(self._heard)
        if found is None:
            return False
        if not self._asked:
            raise BadWire("an answer without a question")
        head = parse_response(found[0])
        method, wants_upgrade = self._asked[0]
        self._heard = self._heard[found[1] :]
        if head.status == 101:
            if not wants_upgrade or b"h2c" in tokens_of(head.fields, b"upgrade"):  # HTTP/2 has requests for many hosts
                raise BadWire("an Upgrade nobody asked for, or one that hides what is asked for next")
            self.is_free, self._heard = True, b""
            return False
        if head.status >= 200:
            answer = response_body(head, method)
            if answer.done:
                self._asked.popleft()
            else:
                self._answer = answer
        return True


def _wants_upgrade(head: RequestHead) -> bool:
    return b"upgrade" in tokens_of(head.fields, b"connection")
