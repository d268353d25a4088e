"""DNS cookies as a server gives them out (RFC 7873, RFC 9018), remembered for as long as they are fresh.

A client that brings a cookie gets ours along with it, and brings both the next time.  Making one costs more than all
the rest of a usual answer, so what was made stays at hand for ``FRESH`` seconds, half of its life.  Nobody is turned
away for a wrong cookie (the client may have spoken to a process before us); a right one only shows that the sender's
address is no forgery.

Bounded like the hot tables: two generations, of which the elder is forgotten when the younger is full.
"""

from __future__ import annotations

from cyfs_ns.edns import COOKIE, server_cookie

FRESH = 1800
"""Seconds (RFC 9018 section 4.3)."""

_MOST = 4096
_WHOLE = 24
_MARK = COOKIE.to_bytes(2) + _WHOLE.to_bytes(2)


class Cookies:
    """All that one server gave out.  ``secret``: 16 octets that nobody else knows."""

    __slots__ = ("_elder", "_secret", "_young")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._young: dict[tuple[bytes, bytes], tuple[bytes, int]] = {}
        self._elder: dict[tuple[bytes, bytes], tuple[bytes, int]] = {}

    def answer(self, told: bytes, address: bytes, now: int) -> bytes:
        """The client's and the server's cookie for a client that told ``told`` (8 octets at least).

        ``address`` has 4 or 16 octets; ``now`` is seconds since 1970.
        """
        place = told[:8], address
        known = self._young.get(place) or self._elder.get(place)
        if known is None or not 0 <= now - known[1] < FRESH:
            known = told[:8] + server_cookie(self._secret, told[:8], address, now), now
            if len(self._young) >= _MOST:
                self._elder, self._young = self._young, {}
            self._young[place] = known
        return known[0]

    def vouch(self, address: bytes, untrusted: bytes) -> bool:
        """Whether a query brings a cookie that was given to that address lately: its sender is no forgery."""
        at = untrusted.rfind(_MARK) + len(_MARK)
        cookie = untrusted[at : at + _WHOLE]
        known = self._young.get((cookie[:8], address)) or self._elder.get((cookie[:8], address))
        return known is not None and known[0] == cookie
