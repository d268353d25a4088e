"""Usage: counted once, by the month, whatever the clock does and whenever the power goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from sn_people import SN

from cyfs_gateway.io.sn.ledger import EVERY, Draw, Ledger
from cyfs_gateway.io.sn.store import KEPT, Database, Store
from cyfs_gateway.sn.accounts import Account, Change
from cyfs_gateway.sn.admission import Policy
from cyfs_gateway.sn.meter import Batch, Meter, Usage, month_of
from cyfs_gateway.sn.quota import Denied, Grant, Later, Quota
from cyfs_gateway.sn.registry import Registry
from cyfs_gateway.sn.upkeep import suspend, with_quota
from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.keys import SecretKey

KEY = SecretKey(bytes(31) + b"\1").public
ALICE, BOB = Did("bns", "alice"), Did("bns", "bob")
MB = 1 << 20


def at(year: int, month: int, day: int = 1, hour: int = 0) -> float:
    return datetime(year, month, day, hour, tzinfo=UTC).timestamp()


NOVEMBER, DECEMBER = at(2026, 11, 21), at(2026, 12, 1)


class House:
    """A ledger with its clocks in the test's hands."""

    def __init__(self, database: Database, quota: Quota | None = None, wall: float = NOVEMBER) -> None:
        self.wall, self.steady = wall, 0.0
        self.registry = Registry()
        self.registry.apply([Change(None, Account(owner=owner, key=KEY, since=0)) for owner in (ALICE, BOB)])
        self.store = Store(database)
        self.ledger = Ledger(
            self.store,
            database.tally(),
            self.registry,
            Policy(domain=SN, quota=quota or Quota()),
            lambda: self.wall,
            lambda: self.steady,
        )

    def carry(self, owner: Did, size: int) -> None:
        assert self.ledger.open(owner) == ""
        grant = self.ledger.ask(owner)
        assert isinstance(grant, Grant), grant
        self.ledger.settle(owner, grant, size, 0)
        self.ledger.close(owner)

    def account(self) -> Account:
        account = self.registry.account(ALICE)
        assert account is not None
        return account


async def until(so: Callable[[], bool]) -> None:
    for _ in range(100_000):
        if so():
            return
        await trio.sleep(1)
    pytest.fail("it never came")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sn.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with closing(Database(path)) as database:
        yield database


@pytest.mark.parametrize(
    ("now", "month"),
    [(0, 197001), (DECEMBER - 1, 202611), (DECEMBER, 202612), (at(2026, 12, 31, 23), 202612), (at(2027, 1), 202701)],
)
def test_months_are_utc(now: float, month: int):
    assert month_of(now) == month


async def test_usage_is_written_every_few_seconds_and_at_the_end(database: Database, autojump_clock: object):
    house = House(database)
    async with trio.open_nursery() as nursery:
        await nursery.start(house.ledger.run)
        house.carry(ALICE, 1000)
        await until(lambda: bool(database.tally().used))
        assert database.tally().used == {ALICE: Usage(1000, 0, 0.0, 1)}
        house.carry(ALICE, 500)
        house.carry(BOB, 7)
        assert house.ledger.used(ALICE).bytes == 1500
        nursery.cancel_scope.cancel()
    assert database.tally().used == house.ledger.totals() == {ALICE: Usage(1500, 0, 0.0, 2), BOB: Usage(7, 0, 0.0, 1)}


async def test_what_was_used_counts_after_a_restart(path: Path):
    quota = Quota(most_bytes=MB)
    with closing(Database(path)) as database:
        house = House(database, quota)
        house.carry(ALICE, MB)
        await house.ledger.write()
    with closing(Database(path)) as database:
        house = House(database, quota)
        assert "used up" in house.ledger.open(ALICE)
        assert house.ledger.open(BOB) == ""


def test_usage_of_years_ago_is_dropped(database: Database):
    months = [year * 100 + month for year in range(2023, 2027) for month in range(1, 13)]
    for number, month in enumerate(months, 1):
        database.add(Batch(number, month, {(month, owner): Usage(1, 1) for owner in (ALICE, BOB)}))
    assert [month for month in months if database.usage(month)] == months[-KEPT:]


async def test_a_disk_that_refuses_loses_nothing_and_counts_nothing_twice(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    house = House(database)
    add = database.add

    def lost_answer(batch: Batch) -> None:
        add(batch)
        raise Unreachable("nobody heard it")

    def full(batch: Batch) -> None:
        raise Unreachable("the disk is full")

    for fault in (lost_answer, full, lost_answer):
        monkeypatch.setattr(database, "add", fault)
        house.carry(ALICE, 100)
        with pytest.raises(Unreachable):
            await house.ledger.write()
    monkeypatch.setattr(database, "add", add)
    await house.ledger.write()
    assert database.tally().used == {ALICE: Usage(300, 0, 0.0, 3)} and house.ledger.used(ALICE).bytes == 300


async def test_the_month_turns_and_a_clock_that_goes_back_does_not_reopen_it(
    database: Database, autojump_clock: object
):
    house = House(database, Quota(most_bytes=MB))
    house.carry(ALICE, MB)
    assert house.ledger.open(ALICE)
    async with trio.open_nursery() as nursery:
        await nursery.start(house.ledger.run)
        house.wall = DECEMBER
        await until(lambda: house.ledger.month == 202612)
        house.carry(ALICE, MB)
        house.wall = NOVEMBER
        await trio.sleep(EVERY * 2)
        assert "used up" in house.ledger.open(ALICE)
        nursery.cancel_scope.cancel()
    assert database.usage(202611)[ALICE].bytes == MB and database.usage(202612)[ALICE].bytes == MB
    again = House(database, Quota(most_bytes=MB), wall=NOVEMBER)
    assert again.ledger.month == 202612 and "used up" in again.ledger.open(ALICE)


async def test_an_operator_mends_a_clock_that_was_wrong_forward(database: Database):
    house = House(database, Quota(most_bytes=MB))
    house.carry(ALICE, 1000)
    await house.ledger.write()
    house = House(database, Quota(most_bytes=MB), wall=at(2099, 1))
    assert house.ledger.month == 209901
    house.carry(ALICE, MB)
    house.wall = NOVEMBER
    await house.ledger.set_month(202611)
    assert house.ledger.used(ALICE).bytes == 1000 and house.ledger.open(ALICE) == ""
    assert House(database).ledger.month == 202611


async def test_a_hundred_streams_at_once_cannot_overspend(database: Database):
    house = House(database, Quota(most_bytes=20 * MB, streams=100))
    used = []

    async def stream() -> None:
        while isinstance(answer := house.ledger.ask(ALICE), Grant | Later):
            await trio.lowlevel.checkpoint()
            if isinstance(answer, Later):
                return
            house.ledger.settle(ALICE, answer, answer.bytes, 65_536)
            used.append(answer.bytes + 65_536)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            assert house.ledger.open(ALICE) == ""
            nursery.start_soon(stream)
        assert "100 streams" in house.ledger.open(ALICE)
    assert isinstance(house.ledger.ask(ALICE), Denied)
    assert sum(used) == house.ledger.used(ALICE).bytes <= 20 * MB + 65_536 * len(used)
    assert len(used) == 5


async def test_barred_and_unknown_accounts_get_nothing(database: Database):
    house = House(database)
    assert house.ledger.open(ALICE) == ""
    house.registry.apply([suspend(house.account(), "spam")])
    assert house.ledger.ask(ALICE) == Denied("spam") and house.ledger.open(ALICE) == "spam"
    house.ledger.close(ALICE)
    assert isinstance(house.ledger.ask(Did("bns", "nobody")), Denied)


async def test_a_quota_that_was_changed_counts_at_once(database: Database):
    house = House(database, Quota(most_bytes=MB))
    house.carry(ALICE, MB)
    assert house.ledger.open(ALICE)
    house.registry.apply([with_quota(house.account(), Quota(most_bytes=2 * MB))])
    house.carry(ALICE, MB)
    assert house.ledger.open(ALICE)


async def test_quiet_accounts_are_forgotten_and_their_usage_is_not(database: Database, autojump_clock: object):
    house = House(database, Quota(most_bytes=MB, rate=MB))
    async with trio.open_nursery() as nursery:
        await nursery.start(house.ledger.run)
        house.carry(ALICE, MB)
        house.steady = 100.0
        await trio.sleep(EVERY * 2)
        assert "used up" in house.ledger.open(ALICE) and house.ledger.streams() == 0
        nursery.cancel_scope.cancel()


async def test_a_carrier_that_cannot_wait_draws_whole_lots(database: Database):
    house = House(database, Quota(most_bytes=10 * MB, streams=1))
    draw = Draw(house.ledger, ALICE)
    with pytest.raises(Refused, match="1 streams"):
        Draw(house.ledger, ALICE)
    assert draw.take(3 * MB) and draw.take(3 * MB) and draw.take(3 * MB)
    draw.end(4 * MB)
    assert house.ledger.used(ALICE) == Usage(5 * MB, 0, 0.0, 1) and house.ledger.streams() == 0
    draw = Draw(house.ledger, ALICE)
    assert [draw.take(4 * MB) for _ in range(3)] == [True, False, False]
    draw.end(MB)
    assert house.ledger.used(ALICE).bytes == 8 * MB


async def test_whole_lots_keep_the_pace_too(database: Database):
    house = House(database, Quota(rate=100_000))
    draw, taken = Draw(house.ledger, ALICE), 0
    for _ in range(2000):
        taken += draw.take(MB)
        house.steady += 0.1
    assert 200 * 100_000 <= taken * MB <= 200 * 100_000 + 2 * MB


STEPS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from([ALICE, BOB]), st.integers(0, 1000)),
    st.tuples(st.just("clock"), st.none(), st.sampled_from([at(2026, month) for month in (1, 5, 10, 11, 12)])),
    st.tuples(st.just("write"), st.none(), st.booleans()),
)


@settings(max_examples=200)
@given(st.lists(STEPS, max_size=40))
def test_whatever_happens_the_disk_has_each_byte_once(steps: list):
    """A disk that takes every batch, with answers that get lost: what is added up is what it has."""
    disk: dict[tuple[int, Did], int] = {}
    number, highest, total, month = 0, 0, 0, 0
    meter = Meter(0, 0, {})
    for what, owner, value in [*steps, ("write", None, True), ("write", None, True)]:
        if what == "add":
            meter.add(owner, Usage(value, 0))
            total += value
        elif what == "clock":
            meter.turn(value)
            month = max(month, month_of(value))
        elif (batch := meter.batch()) is not None:
            highest = max(highest, batch.number)
            if batch.number > number:
                number = batch.number
                for key, used in batch.used.items():
                    disk[key] = disk.get(key, 0) + used.up
            if value:
                meter.written(batch)
    assert sum(disk.values()) == total and meter.month == month and number == highest
    for owner in (ALICE, BOB):
        assert meter.used(owner).up == disk.get((month, owner), 0)
