"""What is said to be written down is there after a power cut, too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cyfs_ns.fakeip import FakePool, ranges
from cyfs_ns.identity.did import parse_did
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.cachefile import CacheFile
from cyfs_ns.io.fakefile import FakeFile
from cyfs_ns.io.selfsigned import ensure_certificate
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.reply import make_reply
from cyfs_ns.store import AnswerCache, key_of
from cyfs_ns.trust.anchors import Pin
from cyfs_ns.wire import name_wire
from tests.cyfs_ns.identity.identities import secret
from tests.powercut import PowerCut

RANGES = ranges("198.18.0.0/16", "")


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> PowerCut:
    return PowerCut(monkeypatch)


async def plain(home: Path) -> Path:
    for content in (b"old", b"new"):
        write_atomic(home / "state", content)
    return home / "state"


async def certificate(home: Path) -> Path:
    return ensure_certificate(home / "doors.pem", ["dns.example"])


async def cache(home: Path) -> Path:
    answers = AnswerCache(1 << 20)
    file = CacheFile(answers, home / "cache", monotonic=lambda: 0.0, wall=lambda: 1e9)
    name = name_wire("a.example")
    key = key_of(name, 1, 1, do=False, cd=False, group="")
    answers.put(key, make_reply(name + b"\0\1\0\1", answer=[(name, 1, 3600, b"abcd")]), 0.0)
    await file.save()
    return home / "cache"


async def pins(home: Path) -> Path:
    return TrustStore(home).pin(Pin(about=parse_did("did:web:a.example"), key=secret(1).public, source="test", at=1.0))


@pytest.mark.parametrize("store", [plain, certificate, cache, pins])
async def test_what_was_written_is_left(
    store: Callable[[Path], Awaitable[Path]], cut: PowerCut, tmp_path: Path
) -> None:
    path = await store(tmp_path)
    assert path.read_bytes()
    assert cut.leaves(path) == path.read_bytes()


async def test_fake_addresses_are_left_once_they_are_synced(cut: PowerCut, tmp_path: Path) -> None:
    path, pool = tmp_path / "fake-ip", FakePool(1000)
    journal = FakeFile.open(path, RANGES, pool)
    assert journal.wrote(pool.take("a.example", 0.0).slot, "a.example", 0.0)
    assert left(cut, path, tmp_path) == set()
    await journal.sync()
    assert left(cut, path, tmp_path) == {"a.example"}
    assert journal.wrote(pool.take("b.example", 0.0).slot, "b.example", 0.0)
    journal.used(0)
    await journal.sync()
    assert left(cut, path, tmp_path) == {"a.example", "b.example"}
    pool.clear()
    journal.clear()
    assert left(cut, path, tmp_path) == set()
    journal.close()


def left(cut: PowerCut, path: Path, folder: Path) -> set[str]:
    """Who has a fake address after a power cut and a start."""
    after = folder / "after"
    after.write_bytes(cut.leaves(path) or b"")
    pool = FakePool(1000)
    FakeFile.open(after, RANGES, pool).close()
    after.unlink()
    return {name for _, name, _ in pool.by_use()}
