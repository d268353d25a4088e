"""Who spoke version 5 before, and how to open a connection to somebody, so that nobody between can undo it (§2.2).

That a key spoke version 5 is never forgotten by itself: from then on there is no way back to version 4 which an
attacker could choose.  That one spoke version 4 for certain is worth a day: until then we need not hide who calls from
somebody who would show it anyway.

The first has to outlive the process.  Whoever keeps it writes :meth:`VersionMemory.write` before a tunnel stands.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from enum import Enum

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.keys import PublicKey, read_x

CERTAIN_FOR = 86400.0
_HEAD = "# keys that spoke version 5 of rtcp"
_MOST_CERTAIN = 4096


class Opening(Enum):
    """How a call begins, and so what may come of it."""

    NATIVE = "message 1: version 5 or nothing"
    MASKED = "a marked Hello under a key for this once: version 5, or a marked call on a new connection"
    MARKED = "a marked Hello under our own key: version 5, else version 4"
    PLAIN = "a Hello: version 4"


class VersionMemory:
    """What is known of the keys we dialled.  ``now`` is in seconds of a clock that never goes back."""

    def __init__(self, version_5: Iterable[PublicKey] = ()) -> None:
        self._version_5 = set(version_5)
        self._version_4: OrderedDict[PublicKey, float] = OrderedDict()

    def opening(self, key: PublicKey, versions: Collection[int], now: float) -> Opening:
        """How to call ``key``; ``versions`` are those we may speak, out of 5 and 4."""
        if 5 not in versions:
            return Opening.PLAIN
        if 4 not in versions or key in self._version_5:
            return Opening.NATIVE
        return Opening.MARKED if self._version_4.get(key, now) > now else Opening.MASKED

    def spoke_5(self, key: PublicKey) -> bool:
        """A message 2 of ``key`` has verified.  Whether that is news, to be written down."""
        self._version_4.pop(key, None)
        if key in self._version_5:
            return False
        self._version_5.add(key)
        return True

    def spoke_4(self, key: PublicKey, now: float) -> None:
        """``key`` answered a marked Hello in version 4, and signed that."""
        self._version_4.pop(key, None)
        self._version_4[key] = now + CERTAIN_FOR
        if len(self._version_4) > _MOST_CERTAIN:
            self._version_4.popitem(last=False)

    def forget(self, key: PublicKey) -> bool:
        """A person says that ``key`` does not speak version 5 any more.  Whether it was known to."""
        known = key in self._version_5
        self._version_5.discard(key)
        self._version_4.pop(key, None)
        return known

    def write(self) -> bytes:
        """What has to be kept: the keys that spoke version 5, one a line; even of none it is never empty."""
        return "".join(f"{line}\n" for line in (_HEAD, *sorted(key.x for key in self._version_5))).encode()


def read_memory(untrusted: bytes) -> VersionMemory:
    """What :meth:`VersionMemory.write` wrote.  Raises ``BadWire`` for anything else: who starts with less than was
    known opens a way back to version 4, so that is for a person to decide."""
    try:
        lines = untrusted.decode("ascii").splitlines(keepends=True)
    except UnicodeDecodeError:
        raise BadWire("not a list of keys") from None
    if not lines or any(not line.endswith("\n") for line in lines):
        raise BadWire("a list of keys that was cut off")
    return VersionMemory(read_x(line[:-1]) for line in lines if not line.startswith("#"))
