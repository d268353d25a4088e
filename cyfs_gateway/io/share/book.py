"""The owner's book of grants on disk, the key that signs links, and the proofs that have counted: files of mode 0600,
each replaced as a whole.

What is promised is on disk before it is told: a link works after a crash, one that was revoked never does again, and a
proof that has opened a link is not good for a second time by a restart in between.
Everything blocks on the disk.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cyfs_gateway.share.passes import Grant, read_grants, read_spent, write_grants
from cyfs_gateway.share.visits import Book
from cyfs_ns.errors import BadWire, ConfigFault, Refused
from cyfs_ns.identity.keys import SecretKey, read_pem
from cyfs_ns.io.atomic import write_atomic

MOST_GRANTS: Final = 10_000


class GrantBook:
    """The book in ``path``.  Raises ``ConfigFault`` when it cannot be read: then nobody is let in, and nothing is
    written over it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = self._key()
            self._grants = read_grants(self._json("grants.json"))
            self._spent = read_spent(self._json("spent.json"))
        except (OSError, BadWire, ValueError) as fault:
            raise ConfigFault(f"{path}: {fault}") from fault
        self._secret, self._public = key, key.public

    @property
    def book(self) -> Book:
        """As it stands now."""
        return Book(grants=self._grants, key=self._secret, public=self._public)

    def spent(self, now: float) -> Mapping[str, int]:
        """Proofs that have counted, and until when they would again."""
        self._spent = {proof: until for proof, until in self._spent.items() if until > now}
        return self._spent

    def spend(self, proof: str, until: int) -> None:
        """``proof`` has counted, as :meth:`spent` says from now on; :meth:`write_spent` is to follow."""
        self._spent = {**self._spent, proof: until}  # another thread may be writing what was

    def write_spent(self) -> None:
        """Write down which proofs have counted.  One at a time.  Raises ``OSError``."""
        write_atomic(self._path / "spent.json", json.dumps(self._spent).encode())

    def give(self, service: str, host: str, *, until: int, note: str, now: int, whose: str = "") -> Grant:
        """Write a new grant down.  Raises ``Refused`` (there are too many), ``OSError``."""
        kept = {grant.id: grant for grant in self._grants.values() if grant.until > now}
        if len(kept) >= MOST_GRANTS:
            raise Refused(f"there are {len(kept)} links already; revoke some")
        id = secrets.token_hex(8)
        grant = Grant(id=id, service=service, host=host, made=now, until=until, note=note, whose=whose)
        self._write({**kept, grant.id: grant})
        return grant

    def revoke(self, id: str) -> Grant:
        """Strike a grant out.  Raises ``Refused`` (there is none), ``OSError`` (it still holds)."""
        if id not in self._grants:
            raise Refused(f"there is no link {id[:40]!r}")
        grant = self._grants[id]
        self._write({key: other for key, other in self._grants.items() if key != id})
        return grant

    def _write(self, grants: dict[str, Grant]) -> None:
        write_atomic(self._path / "grants.json", json.dumps(write_grants(grants), indent=1).encode())
        self._grants = grants

    def _json(self, name: str) -> Any:
        file = self._path / name
        return json.loads(file.read_bytes()) if file.exists() else {}

    def _key(self) -> SecretKey:
        file = self._path / "key.pem"
        if file.exists():
            return read_pem(file.read_bytes())
        key = SecretKey(secrets.token_bytes(32))
        write_atomic(file, key.pem())
        return key
