"""Users as their settings tell them, and what a password is checked with (scrypt, RFC 7914).

A password is known by nobody: what is kept is a hash under a salt of its own, with the cost that it was made at, so
that the cost can grow.  It takes as long to refuse somebody who does not exist as somebody who mistyped.
"""

from __future__ import annotations

import hmac
import unicodedata
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.bases import from_base64url, to_base64url
from cyfs_ns.identity.strictjson import read_object, write_json
from zone.hub.tokens import Type

SALT: Final = 16
"""Random bytes that a password takes."""
LEAST_PASSWORD: Final = 8
MOST_PASSWORD: Final = 1024
"""Characters."""
TYPES: Final = frozenset({Type.ROOT, Type.ADMIN, Type.USER, Type.LIMITED, Type.GUEST})
STATES: Final = frozenset({"active", "pending", "suspended", "deleted", "banned"})

_COST: Final = (1 << 15, 8, 1)
"""32 MiB, and about a tenth of a second."""
_MOST_COST: Final = 1 << 17


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``users/<u>/settings`` says to verify_hub; whatever else it has is not for here."""

    type: Type
    state: str
    """``active``, ``pending`` or ``deleted``, or ``suspended:<reason>`` or ``banned:<reason>``."""


def read_settings(text: str) -> Settings:
    """Raises ``BadWire``: who cannot be read is nobody."""
    said = read_object(text, "settings")
    kind, state = said.get("type"), said.get("state")
    if not isinstance(kind, str) or kind not in TYPES:
        raise BadWire(f"settings: type is one of {', '.join(sorted(TYPES))}")
    if not isinstance(state, str) or state.partition(":")[0] not in STATES:
        raise BadWire(f"settings: state is one of {', '.join(sorted(STATES))}, perhaps with a reason")
    return Settings(Type(kind), state)


@dataclass(frozen=True, slots=True)
class Lock:
    """What a password is checked with."""

    salt: bytes = field(repr=False)
    hash: bytes = field(repr=False)
    cost: tuple[int, int, int] = _COST

    def text(self) -> str:
        n, r, p = self.cost
        salt, key = to_base64url(self.salt), to_base64url(self.hash)
        return write_json({"scrypt": {"n": n, "r": r, "p": p, "salt": salt, "hash": key}}).decode()

    def opens(self, password: str) -> bool:
        """Whether it is this one.  Takes a tenth of a second and 32 MiB: for a thread.

        What is longer than any password is none; to bring it into the one form could take minutes.
        """
        if len(password) > MOST_PASSWORD:
            return False
        return hmac.compare_digest(_derived(password, self.salt, self.cost), self.hash)


NOBODYS: Final = Lock(bytes(SALT), bytes(32))
"""Of those who do not exist: opened by nothing that anybody knows, in the same time."""


def check_password(untrusted: str) -> str:
    """``untrusted``, which is fit for a new password.  Raises ``BadWire``."""
    if not LEAST_PASSWORD <= len(untrusted) <= MOST_PASSWORD or not untrusted.isprintable():
        raise BadWire(f"a password has {LEAST_PASSWORD} to {MOST_PASSWORD} characters, all of them printable")
    return untrusted


def new_lock(password: str, salt: bytes) -> Lock:
    """For a new password; ``salt``: ``SALT`` random bytes.  As slow as ``Lock.opens``."""
    return Lock(salt, _derived(password, salt, _COST))


def read_lock(text: str) -> Lock:
    """Raises ``BadWire``, which quotes nothing of it."""
    said = read_object(text, "password").get("scrypt")
    if not isinstance(said, dict):
        raise BadWire("password: not what was written")
    n, r, p = (said.get(name) for name in "nrp")
    salt, key = said.get("salt"), said.get("hash")
    if type(n) is not int or type(r) is not int or type(p) is not int or n * r * p > _MOST_COST * 8 or min(n, r, p) < 1:
        raise BadWire("password: its cost is none")
    if n < 2 or n & (n - 1) or not isinstance(salt, str) or not isinstance(key, str):
        raise BadWire("password: not what was written")
    lock = Lock(from_base64url(salt, "salt"), from_base64url(key, "hash"), (n, r, p))
    if len(lock.salt) < SALT or len(lock.hash) != 32:
        raise BadWire("password: not what was written")
    return lock


def _derived(password: str, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    n, r, p = cost
    # One form for what looks the same on all keyboards (RFC 8265 §4.2).
    spelled = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
    return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(spelled)
