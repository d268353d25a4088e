"""The tables of an SN's books, and how the values of ``cyfs_gateway/sn/accounts.py`` stand in their rows.

Columns have names and types of their own, so that an operator can read a copy with any SQLite tool.  A row that cannot
be what it should be raises ``BadWire``: files come from disks and from people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from cyfs_gateway.sn.accounts import Account, Device, Entry, Invitation, Name, Stamp, Whereabouts
from cyfs_gateway.sn.quota import Quota, read_quota
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, parse_did
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.revision import Revision
from cyfs_ns.identity.strictjson import read_object, write_json

Row: TypeAlias = tuple[Any, ...]

APPLICATION: Final = 0x43_59_53_4E
"""``CYSN``: what the head of the file says it is (SQLite file format §1.3.15)."""

MIGRATIONS: Final = (
    """
    CREATE TABLE account (
        owner TEXT PRIMARY KEY, key BLOB NOT NULL, since INTEGER NOT NULL, quota TEXT,
        asked_iat INTEGER NOT NULL, asked_seq INTEGER NOT NULL, mark_iat INTEGER, mark_digest TEXT,
        least_iat INTEGER NOT NULL, suspended TEXT NOT NULL, closed INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE device (
        did TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, since INTEGER NOT NULL,
        mark_iat INTEGER NOT NULL, mark_digest TEXT NOT NULL, expires INTEGER NOT NULL, mini TEXT NOT NULL,
        removed INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE whereabouts (
        did TEXT PRIMARY KEY, iat INTEGER NOT NULL, seen INTEGER NOT NULL, addresses TEXT NOT NULL,
        observed TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE name (
        name TEXT PRIMARY KEY, owner TEXT NOT NULL, since INTEGER NOT NULL, device TEXT, boot TEXT NOT NULL,
        issuers TEXT NOT NULL, released INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE invitation (
        digest TEXT PRIMARY KEY, uses INTEGER NOT NULL, used INTEGER NOT NULL, expires INTEGER NOT NULL, quota TEXT,
        note TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE usage (
        month INTEGER NOT NULL, owner TEXT NOT NULL, up INTEGER NOT NULL, down INTEGER NOT NULL,
        seconds REAL NOT NULL, streams INTEGER NOT NULL, PRIMARY KEY (month, owner)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE ledger (batch INTEGER NOT NULL, month INTEGER NOT NULL) STRICT;
    INSERT INTO ledger VALUES (0, 0);
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL,
        verdict TEXT NOT NULL, why TEXT NOT NULL
    ) STRICT;
    CREATE INDEX audit_refused ON audit (verdict = 'ok', id);
    CREATE TRIGGER audit_stands BEFORE UPDATE ON audit BEGIN SELECT raise(ABORT, 'the audit log stands'); END;
    """,
)
"""What makes each version of the books out of the one before; the first out of nothing."""


@dataclass(frozen=True, slots=True)
class Table:
    """One kind of entry: how it becomes a row and comes back, its key first."""

    name: str
    columns: int
    row: Callable[[Any], Row]
    entry: Callable[[Row], Entry]

    @property
    def put(self) -> str:
        return f"REPLACE INTO {self.name} VALUES ({', '.join('?' * self.columns)})"  # noqa: S608


def _quota(quota: Quota | None) -> str | None:
    return None if quota is None else write_json(quota.claims()).decode()


def _read_quota(text: str | None) -> Quota | None:
    return None if text is None else read_quota(read_object(text, "quota"))


def _did_or_none(text: str | None) -> Did | None:
    return None if text is None else parse_did(text)


def _account_row(one: Account) -> Row:
    mark = (None, None) if one.mark is None else (one.mark.iat, one.mark.digest)
    start = (str(one.owner), one.key.raw, one.since, _quota(one.quota), *one.asked)
    return (*start, *mark, one.least_iat, one.suspended, one.closed)


def _account(row: Row) -> Account:
    owner, key, since, quota, iat, seq, mark_iat, mark_digest, least_iat, suspended, closed = row
    return Account(
        owner=parse_did(owner),
        key=PublicKey(key),
        since=since,
        quota=_read_quota(quota),
        asked=Stamp(iat, seq),
        mark=None if mark_iat is None else Revision(mark_iat, mark_digest),
        least_iat=least_iat,
        suspended=suspended,
        closed=closed,
    )


def _device_row(one: Device) -> Row:
    start = (str(one.did), str(one.owner), one.name, one.since)
    return (*start, one.mark.iat, one.mark.digest, one.expires, one.mini, one.removed)


def _device(row: Row) -> Device:
    did, owner, name, since, mark_iat, mark_digest, expires, mini, removed = row
    return Device(
        did=parse_did(did),
        owner=parse_did(owner),
        name=name,
        since=since,
        mark=Revision(mark_iat, mark_digest),
        expires=expires,
        mini=mini,
        removed=removed,
    )


def _whereabouts_row(one: Whereabouts) -> Row:
    return (str(one.did), one.iat, one.seen, " ".join(one.addresses), one.observed)


def _whereabouts(row: Row) -> Whereabouts:
    did, iat, seen, addresses, observed = row
    return Whereabouts(did=parse_did(did), iat=iat, seen=seen, addresses=tuple(addresses.split()), observed=observed)


def _name_row(one: Name) -> Row:
    device = None if one.device is None else str(one.device)
    return (one.name, str(one.owner), one.since, device, one.boot, "\n".join(one.issuers), one.released)


def _name(row: Row) -> Name:
    name, owner, since, device, boot, issuers, released = row
    return Name(
        name=name,
        owner=parse_did(owner),
        since=since,
        device=_did_or_none(device),
        boot=boot,
        issuers=tuple(issuers.splitlines()),
        released=released,
    )


def _invitation_row(one: Invitation) -> Row:
    return (one.digest, one.uses, one.used, one.expires, _quota(one.quota), one.note)


def _invitation(row: Row) -> Invitation:
    digest, uses, used, expires, quota, note = row
    return Invitation(digest=digest, uses=uses, used=used, expires=expires, quota=_read_quota(quota), note=note)


TABLES: Mapping[type[Entry], Table] = {
    Account: Table("account", 11, _account_row, _account),
    Device: Table("device", 9, _device_row, _device),
    Whereabouts: Table("whereabouts", 5, _whereabouts_row, _whereabouts),
    Name: Table("name", 7, _name_row, _name),
    Invitation: Table("invitation", 6, _invitation_row, _invitation),
}
"""In the order in which they are read, so that everything stands on what is there already."""

KEYS: Mapping[str, str] = {
    "account": "owner",
    "device": "did",
    "whereabouts": "did",
    "name": "name",
    "invitation": "digest",
}


def read_row(table: Table, row: Row) -> Entry:
    """The entry in a ``row``.  Raises ``BadWire``, which names the row."""
    try:
        return table.entry(row)
    except BadWire as bad:
        raise BadWire(f"{table.name} {row[0]!r}: {bad}") from None
