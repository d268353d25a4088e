"""Why a carrier or a tunnel is closed, as a code that the other side acts on (§12 of the document).

The codes are few because each asks for something else: come back at once, later, after ``wait`` seconds, elsewhere, or
not at all.  The reason beside it is for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from cyfs_ns.errors import BadWire
from rtcp.events import End

MOST_REASON = 200
CLOSE_TYPE = 0x14

_FRAME = Struct(">QBH")


class CloseCode(IntEnum):
    """What is said; a number that is none of these means ``REFUSED``."""

    DONE = 0
    FAULT = 1
    REFUSED = 2
    REPLACED = 3
    UNKNOWN_TUNNEL = 4
    UNKNOWN_CHANNEL = 5
    STALE = 6
    LIMIT = 7
    BUSY = 8
    DRAINED = 9
    SELF = 10
    REVOKED = 11
    UNKNOWN_NAME = 12
    LOST = 13

    @property
    def end(self) -> End:
        """What it is to a shell."""
        return _ENDS.get(self, End.LOST)


_ENDS = {
    CloseCode.DONE: End.ASKED,
    CloseCode.FAULT: End.FAULT,
    CloseCode.LIMIT: End.FAULT,
    CloseCode.REFUSED: End.REFUSED,
    CloseCode.REPLACED: End.REFUSED,
    CloseCode.SELF: End.REFUSED,
    CloseCode.REVOKED: End.REFUSED,
    CloseCode.UNKNOWN_NAME: End.REFUSED,
}
_KNOWN = frozenset(CloseCode)


@dataclass(frozen=True, slots=True)
class Close:
    """``wait``: seconds before the other side may come back; ``reason``: cut to ``MOST_REASON`` bytes when written."""

    code: CloseCode
    wait: int = 0
    reason: str = ""

    def frame(self) -> bytes:
        """The whole frame, head and payload."""
        reason = self.reason.encode()[:MOST_REASON].decode(errors="ignore").encode()
        return _FRAME.pack(CLOSE_TYPE << 56 | (_FRAME.size - 8 + len(reason)) << 40, self.code, self.wait) + reason


def read_close(untrusted: bytes | memoryview) -> Close:
    """The payload of a CLOSE frame.  Raises ``BadWire``."""
    if not 3 <= len(untrusted) <= 3 + MOST_REASON:
        raise BadWire(f"CLOSE: a payload of {len(untrusted)} bytes")
    try:
        reason = str(untrusted[3:], "utf-8")
    except UnicodeDecodeError:
        raise BadWire("CLOSE: its reason is no text") from None
    code = CloseCode(untrusted[0]) if untrusted[0] in _KNOWN else CloseCode.REFUSED
    return Close(code, untrusted[1] << 8 | untrusted[2], reason)
