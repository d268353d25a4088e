"""DNS over a stream: every message behind its length in two bytes (RFC 1035 section 4.2.2, RFC 7766 section 8).

The machine keeps no more than what was fed and not yet taken.  Replies leave in the order they are given, which need
not be the order of the queries: clients match them by id (RFC 7766 section 7).
"""

from __future__ import annotations

from cyfs_ns.conversation import HEADER_SIZE, Asked, Page, Token
from cyfs_ns.errors import BadWire


class DnsFrames:
    """A :class:`~cyfs_ns.conversation.Conversation` of plain frames, for TCP and for TLS (RFC 7858)."""

    finished = False

    def __init__(self, width: int = 100) -> None:
        self.width = width
        self._in = bytearray()
        self._out: list[bytes] = []
        self._fault = ""

    @property
    def partial(self) -> bool:
        return bool(self._in)

    def feed(self, untrusted: bytes, now: float) -> None:
        self._in += untrusted

    def take(self, most: int) -> list[Asked]:
        if self._fault:
            raise BadWire(self._fault)
        buffer = self._in
        size = len(buffer)
        asked: list[Asked] = []
        at = 0
        while len(asked) < most and size - at >= 2:
            length = buffer[at] << 8 | buffer[at + 1]
            if length < HEADER_SIZE:
                # Whoever says this has lost count of its bytes; what follows would be read as noise.
                self._fault = f"a frame of {length} bytes holds no DNS message"
                if asked:
                    break
                raise BadWire(self._fault)
            ends = at + 2 + length
            if ends > size:
                break
            asked.append(Asked(None, bytes(buffer[at + 2 : ends])))
            at = ends
        del buffer[:at]
        return asked

    def answer(self, token: Token, reply: bytes | None) -> None:
        if reply is not None:
            self._out.append(len(reply).to_bytes(2, "big") + reply)

    def show(self, token: Token, page: Page | None) -> None:
        """Nobody can ask for one here."""

    def leave(self) -> None:
        """Plain frames have no word for this."""

    def pieces_to_send(self) -> list[bytes]:
        pieces, self._out = self._out, []
        return pieces
