"""Cookies: what shows that somebody hears what is sent to the address they claim (§3.8 of the document).

Only for carriers that do not prove their source, and only while the door is busy.  Nothing is kept per caller: a cookie
is a hash of its address under a secret that changes every two minutes; the secret before it counts, too.
"""

from __future__ import annotations

import hmac
import ipaddress

from rtcp.v5.messages import COOKIE_SIZE, Message, carries

LIFETIME = 120.0


class CookieJar:
    """``secret``: 32 random bytes; ``now`` as everywhere."""

    def __init__(self, secret: bytes, now: float) -> None:
        self._secrets = [secret]
        self._due = now + LIFETIME

    def next_deadline(self) -> float:
        """When a new secret is due."""
        return self._due

    def renew(self, secret: bytes, now: float) -> None:
        """Cookies come from ``secret`` now, 32 random bytes."""
        self._secrets = [secret, self._secrets[0]]
        self._due = now + LIFETIME

    def cookie(self, host: str, port: int) -> bytes:
        """The cookie for who claims to be at ``host``, an IP address, and ``port``."""
        return _cookie(self._secrets[0], host, port)

    def proves(self, first: Message, host: str, port: int) -> bool:
        """Whether message 1 has the mac2 of a cookie that was sent there."""
        return any(carries(first, _cookie(secret, host, port)) for secret in self._secrets)


def _cookie(secret: bytes, host: str, port: int) -> bytes:
    address = ipaddress.ip_address(host)
    what = bytes((4 if address.version == 4 else 6,)) + address.packed + port.to_bytes(2, "big")
    return hmac.digest(secret, what, "sha256")[:COOKIE_SIZE]
