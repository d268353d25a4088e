"""The mark by which a Hello of version 4 says that its sender speaks version 5, too.

It stands in the Hello's nonce, where a forerunner sees random bytes: half of them are, the other half is a hash over
them and the ephemeral key.  The token's signature covers it, so nobody between can take the offer away and leave the
Hello in force; whoever makes one by chance (odds 2**-64) or on purpose has offered version 5, no more.
"""

from __future__ import annotations

import hashlib
import hmac

RANDOM_SIZE = 8


def marked(xpub: bytes, random: bytes) -> bytes:
    """The 16 bytes of the nonce that go with the ephemeral key ``xpub``; ``random`` are ``RANDOM_SIZE`` of them."""
    return random + hashlib.sha256(b"rtcp5 offer" + xpub + random).digest()[: 16 - RANDOM_SIZE]


def is_marked(xpub: bytes, nonce: bytes) -> bool:
    """Whether the Hello with this ephemeral key and this nonce offers version 5."""
    return hmac.compare_digest(nonce, marked(xpub, nonce[:RANDOM_SIZE]))
