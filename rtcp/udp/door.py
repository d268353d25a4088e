"""Whoever may be called: answers openings without remembering any, and makes a pipe for who comes back.

    cookie = HMAC(secret, tag | caller's key | family:u8 | address | port:u16)[0:16]

Secret and ephemeral key are made anew every two minutes; those before them count, too.  An opening costs a MAC to
drop, and another for the cookie; the key agreement is paid for callers only that have proved to hear what is sent to
their address.  A caller that repeats its entry meets the pipe that it has, by its id, and not this.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cyfs_ns.errors import BadWire
from rtcp.party import Address
from rtcp.udp.connection import Connection, Settings
from rtcp.udp.keys import Secrets, agree
from rtcp.udp.wire import COOKIE, Entry, Opening, door_key, knows_door, write_invite

DOOR_ENTROPY: Final = 64
LIFETIME: Final = 120.0


@dataclass(frozen=True, slots=True)
class _Season:
    cookies: bytes = field(repr=False)
    secret: X25519PrivateKey = field(repr=False)
    public: bytes


class Door:
    """Of the devices with the Ed25519 keys ``devices``; ``entropy``: ``DOOR_ENTROPY`` random bytes."""

    def __init__(self, devices: Collection[bytes], settings: Settings, entropy: bytes, now: float) -> None:
        self._doors = [door_key(device) for device in devices]
        self._settings = settings
        self._seasons = [_season(entropy)]
        self.due = now + LIFETIME
        """When ``renew`` is to be called."""

    def renew(self, entropy: bytes, now: float) -> None:
        """Other secrets from now on."""
        self._seasons = [_season(entropy), self._seasons[0]]
        self.due = now + LIFETIME

    def opening(self, opening: Opening, untrusted: bytes | memoryview, source: Address) -> bytes | None:
        """What to send back to ``source``; None: it does not know whom it calls."""
        if not any(knows_door(untrusted, door) for door in self._doors):
            return None
        return write_invite(opening.tag, *self.invite(opening.tag, opening.public, source))

    def invite(self, tag: bytes, public: bytes, source: Address) -> tuple[bytes, bytes]:
        """The key and the cookie for who opens so from ``source``, to be told where nobody else hears it."""
        season = self._seasons[0]
        return season.public, _cookie(season.cookies, tag, public, source)

    def proves(self, entry: Entry, source: Address) -> bool:
        """Whether it has the cookie that was sent to ``source``: worth the price of an ``entry``."""
        return self._season(entry, source) is not None

    def _season(self, entry: Entry, source: Address) -> _Season | None:
        for season in self._seasons:
            if hmac.compare_digest(_cookie(season.cookies, entry.tag, entry.public, source), entry.cookie):
                return season
        return None

    def entry(
        self, entry: Entry, source: Address, now: float, entropy: bytes, may_have: Callable[[int], bool]
    ) -> Connection | None:
        """The pipe of a caller that came back, with its first datagram in it; None: it is none.

        ``may_have`` says whether the pipe may have an id.  ``entropy``: 32 random bytes.
        """
        season = self._season(entry, source)
        if season is None:
            return None
        for door in self._doors:
            secrets = _secrets(season, door, entry)
            if secrets is not None and secrets.called_id == entry.id and may_have(entry.id):
                made = Connection.answer(source, secrets, self._settings, entropy, now)
                made.receive(entry.sealed, source, now)
                return made if made.has_heard else None
        return None


def _secrets(season: _Season, door: bytes, entry: Entry) -> Secrets | None:
    try:
        return agree(season.secret, entry.public, door=door, tag=entry.tag, caller=entry.public, called=season.public)
    except BadWire:
        return None


def _season(entropy: bytes) -> _Season:
    secret = X25519PrivateKey.from_private_bytes(entropy[32:])
    return _Season(entropy[:32], secret, secret.public_key().public_bytes_raw())


def _cookie(secret: bytes, tag: bytes, public: bytes, source: Address) -> bytes:
    address = ipaddress.ip_address(source[0])
    where = bytes((4 if address.version == 4 else 6,)) + address.packed + source[1].to_bytes(2, "big")
    return hmac.digest(secret, tag + public + where, "sha256")[:COOKIE]
