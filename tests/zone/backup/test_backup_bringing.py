"""The zone's configuration is put back into a store, cut off and contended for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from configstores import Etcd, Kind, Sqlite
from zones import OOD1, OOD2

from cyfs_ns.errors import BadWire, Unreachable
from rtcp.v5.keys import device_key
from zone.backup.state import is_saved, read_state, write_state
from zone.boot.settle import BOOT
from zone.config.faults import ConfigError
from zone.config.keys import Below
from zone.config.model import Commit, Create, Set, Transaction
from zone.io.backup.bringing import RESTORING, put_back
from zone.io.backup.sources import Configuration
from zone.io.config.backend import Backend
from zone.io.config.sealing import SealedBackend
from zone.io.config.sqlite import Database, SqliteBackend
from zone.io.config.store import ConfigStore

STATE = [Set(BOOT, '{"jwt":"x"}'), *(Set(f"users/u{number}/profile", f'"{number:01000}"') for number in range(1500))]


@pytest.fixture(scope="module", params=[Sqlite, Etcd], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    with request.param(tmp_path_factory.mktemp("store")) as kind:
        yield kind


@pytest.fixture
async def backend(kind: Kind) -> AsyncIterator[Backend]:
    kind.fresh()
    one = kind.open()
    yield one
    await one.aclose()


async def held(backend: Backend) -> dict[str, str | None]:
    return {entry.key: entry.value for entry in (await backend.read([Below()])).entries}


class Cut(Exception):
    """A kill, as far as the store can tell."""


class Dying:
    """A store whose user is killed before its commit ``left``."""

    def __init__(self, inner: Backend, left: int) -> None:
        self._inner, self._left = inner, left

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    async def commit(self, commit: Commit) -> int | None:
        if self._left == 0:
            raise Cut
        self._left -= 1
        return await self._inner.commit(commit)

    async def revoke(self, lease: int) -> None:
        if self._left:
            await self._inner.revoke(lease)


async def test_all_of_it_is_there_and_the_zone_last(backend: Backend) -> None:
    await put_back(ConfigStore(backend), STATE, "ood1")
    assert await held(backend) == {one.key: one.value for one in STATE}
    entries = {entry.key: entry for entry in (await backend.read([Below()])).entries}
    assert entries.pop(BOOT).revision > max(entry.revision for entry in entries.values())


async def test_cut_off_anywhere_it_goes_on(backend: Backend) -> None:
    for left in (1, 2, 2, 2):
        with pytest.raises(Cut):
            await put_back(ConfigStore(Dying(backend, left)), STATE, "ood1")  # type: ignore[arg-type]
        assert BOOT not in await held(backend)
    await put_back(ConfigStore(backend), STATE, "ood1")
    assert await held(backend) == {one.key: one.value for one in STATE}


async def test_what_an_earlier_try_left_of_another_backup_goes(backend: Backend) -> None:
    other = [*STATE[:900], Set("services/gone/spec", "1")]
    with pytest.raises(Cut):
        await put_back(ConfigStore(Dying(backend, 3)), other, "ood1")  # type: ignore[arg-type]
    assert "services/gone/spec" in await held(backend)
    await put_back(ConfigStore(backend), STATE, "ood1")
    assert await held(backend) == {one.key: one.value for one in STATE}


async def test_nothing_is_written_over_a_zone(backend: Backend) -> None:
    store = ConfigStore(backend)
    await store.transact(Transaction((Create(BOOT, "{}"), Create("services/web/spec", "1"))))
    with pytest.raises((ConfigError, Unreachable)):
        await put_back(store, STATE, "ood1")
    assert await held(backend) == {BOOT: "{}", "services/web/spec": "1"}


async def test_one_machine_at_a_time(backend: Backend) -> None:
    store = ConfigStore(backend)
    lease = await store.grant(60)
    await store.transact(Transaction((Create(RESTORING, '"ood2"', lease),)))
    with pytest.raises(Unreachable, match="another machine restores"):
        await put_back(store, STATE, "ood1")
    assert list(await held(backend)) == [RESTORING]


async def test_the_state_of_no_zone_is_refused(backend: Backend) -> None:
    with pytest.raises(BadWire, match="no zone"):
        await put_back(ConfigStore(backend), STATE[1:], "ood1")
    assert await held(backend) == {}


async def test_secrets_are_in_it_for_the_owner_and_sealed_to_whoever_carries_the_zone_then(tmp_path: Path) -> None:
    old = SealedBackend(SqliteBackend(Database(tmp_path / "old.db")), device_key(OOD1), [OOD1.public])
    await ConfigStore(old).transact(Transaction((Set(BOOT, "{}"), Set("security/mail", '"hush"'))))
    reading = await old.read([Below()])
    pieces = list(Configuration(reading).pieces(lambda line: None))
    assert pieces == list(write_state(entry for entry in reading.entries if is_saved(entry)))
    inner = SqliteBackend(Database(tmp_path / "new.db"))
    new = SealedBackend(inner, device_key(OOD2), [OOD2.public])
    await put_back(ConfigStore(new), read_state(b"".join(pieces)), "ood2")
    assert (await held(new))["security/mail"] == '"hush"'
    assert "hush" not in ((await held(inner))["security/mail"] or "")
    told: list[str] = []
    stranger = SealedBackend(inner, device_key(OOD1), [OOD1.public])
    assert b"hush" not in b"".join(Configuration(await stranger.read([Below()])).pieces(told.append))
    assert told == ["security/mail cannot be read by this OOD, and is not in it"]
    await old.aclose()
    await inner.aclose()
