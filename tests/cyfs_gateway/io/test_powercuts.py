"""What the gateway says it has written down is there after a power cut, too."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from cyfs_gateway.io.command.inbox import Inbox
from cyfs_gateway.io.memberfile import MemberFile
from cyfs_gateway.io.share.book import GrantBook
from cyfs_gateway.transfer import Offer
from cyfs_ns.identity.did import parse_did
from cyfs_ns.io.sqlitefile import open_sqlite
from tests.powercut import PowerCut


async def member(home: Path) -> Path:
    await MemberFile(home).learnt(parse_did("did:web:sn.example"), "sn.example")
    return home / "memberships.json"


async def grants(home: Path) -> Path:
    GrantBook(home).give("photos", "photos.example", until=2, note="", now=1)
    return home / "grants.json"


async def key(home: Path) -> Path:
    GrantBook(home)
    return home / "key.pem"


async def spent(home: Path) -> Path:
    book = GrantBook(home)
    book.spend("proof", 2)
    book.write_spent()
    return home / "spent.json"


async def received(home: Path, *, overwrite: bool = False) -> Path:
    data = b"film" * 1000
    with closing(Inbox(home, overwrite=overwrite)) as inbox:
        part = inbox.part(Offer("film.bin", len(data), 1_600_000_000_000_000), "alice")
        part.append(data)
        part.finish(hashlib.sha256(data).hexdigest())
        part.close()
    return home / "film.bin"


async def received_again(home: Path) -> Path:
    await received(home)
    return await received(home, overwrite=True)


@pytest.mark.parametrize("store", [member, grants, key, spent, received, received_again])
async def test_what_was_written_is_left(
    store: Callable[[Path], Awaitable[Path]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cut = PowerCut(monkeypatch)
    path = await store(tmp_path)
    assert path.read_bytes()
    assert cut.leaves(path) == path.read_bytes()


def test_books_wait_for_the_disk_at_each_transaction(tmp_path: Path) -> None:
    """What SQLite calls FULL: in WAL mode, too, a transaction that has ended outlives a power cut."""
    with closing(open_sqlite(tmp_path / "books")) as database:
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)
