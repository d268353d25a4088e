"""The levels of trust, weak to strong, and what each is good for.  This module alone decides both.

A level says who would have to lie for the answer to be wrong.  It is not a mark for quality: an address from plain DNS
is quite good enough to dial when the peer has to prove its key afterwards, and never good enough to learn the key from.
"""

from __future__ import annotations

from enum import Enum, IntEnum

from cyfs_ns.errors import BadWire


class Trust(IntEnum):
    """Ordered: a higher level wins over a lower one.  ``meaning`` completes "it is wrong only if …"."""

    NONE = 0
    PLAIN_DNS = 1
    AUTH_CHANNEL = 2
    DNSSEC = 3
    QUORUM = 4
    STORAGE_PROOF = 5
    KEY_PROVEN = 6
    HOST_SNAPSHOT = 7
    ZONE_SNAPSHOT = 8
    OWNER_SIGNED = 9

    @property
    def label(self) -> str:
        """As people write it: ``plain-dns``."""
        return self.name.lower().replace("_", "-")

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]

    def __str__(self) -> str:
        return self.label


_MEANINGS = {
    Trust.NONE: "anybody says so",
    Trust.PLAIN_DNS: "somebody on the way to the DNS server, or the server, lies",
    Trust.AUTH_CHANNEL: "the server we asked over TLS, or a certificate authority, lies",
    Trust.DNSSEC: "a validating resolver we chose, or a key between the root and the zone, lies",
    Trust.QUORUM: "most of several independent servers agree to lie",
    Trust.STORAGE_PROOF: "the consensus of the chain itself is broken",
    Trust.KEY_PROVEN: "the key is stolen: the name is the key",
    Trust.HOST_SNAPSHOT: "this machine's own files, or a document verified earlier and kept here, are wrong",
    Trust.ZONE_SNAPSHOT: "the zone's shared state is wrong",
    Trust.OWNER_SIGNED: "the owner signed something wrong, just now, with a key we know",
}


class Purpose(Enum):
    """What an answer is about to be used for; the value is how people call it."""

    SHOW = "show to a person, with its level"
    DIAL = "dial an address, whose peer then proves its key"
    OPEN = "open as a web page or a plain service"
    MEET = "learn the key of somebody met for the first time"
    CHAIN = "take a record of a chain name (address, content)"
    MATCH = "match a rule on identities"
    ADMIT = "admit a device to the zone"
    BOOT = "boot a zone"
    REPLACE = "replace a key or a document that is pinned"

    @property
    def least(self) -> Trust:
        """The weakest level that will do."""
        return _LEAST[self]


_LEAST = {
    Purpose.SHOW: Trust.NONE,
    Purpose.DIAL: Trust.PLAIN_DNS,
    Purpose.OPEN: Trust.PLAIN_DNS,
    Purpose.MEET: Trust.AUTH_CHANNEL,
    Purpose.CHAIN: Trust.QUORUM,
    Purpose.MATCH: Trust.KEY_PROVEN,
    Purpose.ADMIT: Trust.HOST_SNAPSHOT,
    Purpose.BOOT: Trust.HOST_SNAPSHOT,
    Purpose.REPLACE: Trust.OWNER_SIGNED,
}


def read_trust(text: str) -> Trust:
    """The level called ``text``: ``owner-signed``.  Raises ``BadWire``, which lists them."""
    try:
        return Trust[text.strip().upper().replace("-", "_")]
    except KeyError:
        known = ", ".join(level.label for level in Trust)
        raise BadWire(f"{text[:40]!r} is no level of trust; they are {known}") from None
