"""From a file into another store: whole, however often it is broken off."""

from __future__ import annotations

from pathlib import Path

import pytest

from zone.boot.settle import BOOT
from zone.config.faults import Code, ConfigError
from zone.config.keys import At, Below
from zone.config.model import Commit
from zone.io.boot.carrying import carry_over
from zone.io.config.sqlite import Database, SqliteBackend


class Killed(Exception):
    pass


class Next(SqliteBackend):
    """A store whose revisions are its own."""

    async def begin_after(self, revision: int) -> None:
        pass


class Dying(Next):
    """A store whose commits, from a certain one on, are not heard of any more: half of them are made."""

    left = 1 << 30

    async def commit(self, commit: Commit) -> int | None:
        if self.left <= 0:
            raise Killed
        self.left -= 1
        made = await super().commit(commit)
        if self.left == 0:
            raise Killed
        return made


async def filled(file: Path) -> dict[str, str]:
    backend = SqliteBackend(Database(file))
    values = {f"services/s{number}/spec": f'"{number}"' for number in range(1200)} | {BOOT: "{}", "big": '"é"' * 90_000}
    for start in range(0, len(values), 500):
        await backend.commit(Commit({}, dict([*values.items()][start : start + 500])))
    lease = await backend.grant(60)
    await backend.commit(Commit({}, {"nodes/a/alive": "1"}, {"nodes/a/alive": lease}))
    await backend.commit(Commit({"services/s0/spec": 2}, {"services/s0/spec": None}))
    del values["services/s0/spec"]
    await backend.aclose()
    return values


async def test_killed_at_each_step_it_is_whole_in_the_end(tmp_path: Path) -> None:
    file = tmp_path / "config.db"
    values = await filled(file)
    into = Dying(Database(tmp_path / "new.db"))
    tries = 0
    while file.exists():
        into.left = tries
        try:
            await carry_over(file, into)
        except Killed:
            # Nobody takes what is there so far for a zone's state, unless it is all there.
            found = {entry.key: entry.value for entry in (await into.read([Below()])).entries}
            assert BOOT not in found or found == values
            tries += 1
    assert tries > 3
    assert {entry.key: entry.value for entry in (await into.read([Below()])).entries} == values
    assert (tmp_path / "config.db.carried").exists()
    await into.aclose()


async def test_killed_before_the_file_was_put_away_nothing_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "config.db"
    await filled(file)
    into = Dying(Database(tmp_path / "new.db"))
    await into.commit(Commit({}, {BOOT: '"of now"', "services/s1/spec": '"new"'}))
    await carry_over(file, into)
    assert not file.exists()
    assert [entry.value for entry in (await into.read([Below()])).entries] == ['"of now"', '"new"']
    await into.aclose()


async def test_another_who_initialised_the_store_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "config.db"
    await filled(file)

    class Raced(Next):
        async def commit(self, commit: Commit) -> int | None:
            if BOOT in commit.guards:
                await super().commit(Commit({}, {BOOT: '"theirs"'}))
            return await super().commit(commit)

    into = Raced(Database(tmp_path / "new.db"))
    with pytest.raises(ConfigError) as caught:
        await carry_over(file, into)
    assert caught.value.code is Code.CONFLICT
    assert [entry.value for entry in (await into.read([At(BOOT)])).entries] == ['"theirs"']
    assert file.exists()
    await into.aclose()
