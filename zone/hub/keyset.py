"""The keys of a zone's verify_hub: one that signs, the next one, and the one before.

All three are published, so a verifier whose news are old knows the next key before it signs anything, and a token
outlives the rotation after it was made.  Keys rotate every ``PERIOD`` at most, which is longer than any token lives.
After a theft none of them stays (``new_keys``), and with them ends every session there is.

A key is called by its thumbprint (RFC 7638), so a name cannot be bent to another key.  There is no key to fall back to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.bases import from_base64url, to_base64url
from cyfs_ns.identity.keys import PublicKey, SecretKey, read_x
from cyfs_ns.identity.strictjson import read_object, write_json

PERIOD: Final = 30 * 24 * 3600
"""Seconds for which a key signs."""
SEED: Final = 32
"""Random bytes that a key takes."""


def kid_of(key: PublicKey) -> str:
    """The name of ``key``: its thumbprint, RFC 7638 with RFC 8037 §2."""
    return to_base64url(hashlib.sha256(write_json(key.jwk())).digest())


@dataclass(frozen=True, slots=True)
class Published:
    """What everybody knows: the zone, and its verify_hub's keys by their names."""

    zone: str
    keys: Mapping[str, PublicKey]

    def text(self) -> str:
        """As it stands in the store."""
        return write_json({"zone": self.zone, "keys": [key.x for key in self.keys.values()]}).decode()


def read_published(untrusted: str) -> Published:
    """Raises ``BadWire``."""
    said = read_object(untrusted, "keys of verify-hub")
    zone, spelled = said.get("zone"), said.get("keys")
    if not isinstance(zone, str) or not zone or not isinstance(spelled, list) or not 2 <= len(spelled) <= 3:
        raise BadWire("keys of verify-hub: a zone and two or three keys are needed")
    keys = [read_x(x) if isinstance(x, str) else None for x in spelled]
    return Published(zone, {kid_of(key): key for key in keys if key is not None})


@dataclass(frozen=True, slots=True)
class KeySet:
    """What the hubs know."""

    zone: str
    current: SecretKey = field(repr=False)
    next: SecretKey = field(repr=False)
    previous: PublicKey | None
    since: int
    """When ``current`` began to sign, in Unix seconds."""

    @property
    def published(self) -> Published:
        keys = [self.current.public, self.next.public, *([self.previous] if self.previous else [])]
        return Published(self.zone, {kid_of(key): key for key in keys})

    def text(self) -> str:
        """As it stands in the store, sealed there."""
        return write_json(
            {
                "zone": self.zone,
                "current": to_base64url(self.current.seed),
                "next": to_base64url(self.next.seed),
                "previous": self.previous.x if self.previous else None,
                "since": self.since,
            }
        ).decode()


def new_keys(zone: str, dice: bytes, now: float) -> KeySet:
    """The first of a zone, or those after a theft; ``dice``: twice ``SEED`` random bytes."""
    return KeySet(zone, SecretKey(dice[:SEED]), SecretKey(dice[SEED : 2 * SEED]), None, int(now))


def rotated(keys: KeySet, dice: bytes, now: float) -> KeySet:
    """The next one signs from now on; ``dice``: ``SEED`` random bytes."""
    return KeySet(keys.zone, keys.next, SecretKey(dice[:SEED]), keys.current.public, int(now))


def is_due(keys: KeySet, now: float) -> bool:
    """Whether it is time to rotate."""
    return now >= keys.since + PERIOD


def read_keys(text: str) -> KeySet:
    """What ``KeySet.text`` wrote.  Raises ``BadWire``, which quotes nothing of it."""
    said = read_object(text, "secret keys of verify-hub")
    zone, since, previous = said.get("zone"), said.get("since"), said.get("previous")
    seeds = said.get("current"), said.get("next")
    if not isinstance(zone, str) or not isinstance(since, int) or not (previous is None or isinstance(previous, str)):
        raise BadWire("secret keys of verify-hub: not what was written")
    current, following = (SecretKey(from_base64url(seed, "seed")) if isinstance(seed, str) else None for seed in seeds)
    if current is None or following is None:
        raise BadWire("secret keys of verify-hub: not what was written")
    return KeySet(zone, current, following, read_x(previous) if previous is not None else None, since)
