"""DNS cookies as a server gives them out (RFC 7873, RFC 9018), remembered for as long as they are fresh.

A client that brings a cookie gets ours along with it, and brings both the next time.  Making one costs more than all
the rest of a usual answer, so what was made stays at hand for ``FRESH`` seconds, half of its life.  Nobody is turned
away for a wrong cookie (the client may have spoken to a process before us); a right one only shows that the sender's
address is no forgery.  Worker processes know the secret and make none: they check.  A check costs as much as making
one, so of those that are not at hand only so many a second are checked, or made-up ones would be a burden.

Bounded like the hot tables: two generations, of which the elder is forgotten when the younger is full.
"""

from __future__ import annotations

from cyfs_ns.edns import COOKIE, server_cookie

FRESH = 1800
"""Seconds (RFC 9018 section 4.3)."""

_PAST, _FUTURE = 3600, 300  # seconds for which one is good, and by which it may be ahead (RFC 9018 section 4.3)
_CHECKS = 256  # a second

_MOST = 4096
_WHOLE = 24
_MARK = COOKIE.to_bytes(2) + _WHOLE.to_bytes(2)


class Cookies:
    """All that one server gave out.  ``secret``: 16 octets that nobody else knows."""

    __slots__ = ("_checked", "_elder", "_second", "_young", "secret")

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self._checked = self._second = 0
        self._young: dict[tuple[bytes, bytes], tuple[bytes, int]] = {}
        self._elder: dict[tuple[bytes, bytes], tuple[bytes, int]] = {}

    def answer(self, told: bytes, address: bytes, now: int) -> bytes:
        """The client's and the server's cookie for a client that told ``told`` (8 octets at least).

        ``address`` has 4 or 16 octets; ``now`` is seconds since 1970.
        """
        place = told[:8], address
        known = self._young.get(place) or self._elder.get(place)
        if known is None or not 0 <= now - known[1] < FRESH:
            known = told[:8] + server_cookie(self.secret, told[:8], address, now), now
            self._keep(place, known)
        return known[0]

    def vouch(self, address: bytes, untrusted: bytes, now: int) -> bool:
        """Whether a query brings a cookie that was given to that address lately: its sender is no forgery."""
        at = untrusted.rfind(_MARK)
        if at < 0:
            return False
        cookie = untrusted[at + len(_MARK) : at + len(_MARK) + _WHOLE]
        place = cookie[:8], address
        known = self._young.get(place) or self._elder.get(place)
        if known is not None and known[0] == cookie:
            return True
        made = int.from_bytes(cookie[12:16])
        if len(cookie) < _WHOLE or not -_FUTURE <= now - made <= _PAST or not self._may_check(now):
            return False
        if cookie[:8] + server_cookie(self.secret, cookie[:8], address, made) != cookie:
            return False
        if known is None:
            self._keep(place, (cookie, made))
        return True

    def _may_check(self, now: int) -> bool:
        if now != self._second:
            self._second, self._checked = now, 0
        self._checked += 1
        return self._checked <= _CHECKS

    def _keep(self, place: tuple[bytes, bytes], known: tuple[bytes, int]) -> None:
        if len(self._young) >= _MOST:
            self._elder, self._young = self._young, {}
        self._young[place] = known
