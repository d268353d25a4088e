"""Fake addresses: the pool against a naive model, and the journal against kills, torn ends and full disks."""

from __future__ import annotations

import os
import random

import pytest
import trio
import trio.lowlevel
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import ConfigFault, Misuse
from cyfs_ns.fakeip import KEEP, FakePool, ranges
from cyfs_ns.io.atomic import AtomicFile
from cyfs_ns.io.fakefile import FakeFile

NAMES = [f"n{i}.example" for i in range(12)]
RANGES = ranges("198.18.0.1/16", "fdfe:dcba:9876::1/64")


class Model:
    """What the pool promises, written as plainly as possible: names in the order of their last use."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.order = capacity, []
        self.slot, self.told = {}, {}

    def take(self, name, now):
        if name not in self.slot:
            if len(self.slot) < self.capacity:
                self.slot[name] = len(self.slot)
            else:
                quiet = [n for n in self.order[:16] if self.told[n] <= now - KEEP]
                victim = quiet[0] if quiet else self.order[0]
                self.order.remove(victim)
                self.slot[name] = self.slot.pop(victim)
            self.order.append(name)
        self.told[name] = now

    def lose(self, name, now):
        """Nothing changes but whom the name would have pushed out, who is now the next to go."""
        if name in self.slot:
            self.told[name] = now
        elif len(self.slot) == self.capacity:
            quiet = [n for n in self.order[:16] if self.told[n] <= now - KEEP]
            victim = quiet[0] if quiet else self.order[0]
            self.order.remove(victim)
            self.order.insert(0, victim)

    def use(self, name):
        if name in self.slot:
            self.order.remove(name)
            self.order.append(name)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 6),
    st.lists(
        st.tuples(st.sampled_from(["take", "lose", "use"]), st.sampled_from(NAMES), st.integers(0, 400)), max_size=60
    ),
)
def test_the_pool_is_what_its_model_says(capacity, steps):
    pool, model, now = FakePool(capacity), Model(capacity), 10_000
    for what, name, later in steps:
        now += later
        if what == "take":
            before = pool.slot(name)
            taken = pool.take(name, now)
            model.take(name, now)
            assert taken.is_new == (before is None)
        elif what == "lose":
            taken = pool.take(name, now)
            if taken.is_new:
                pool.give_back(name, taken)
            model.lose(name, now)
        elif (slot := pool.slot(name)) is not None:
            pool.use(slot)
            model.use(name)
        assert {name: pool.slot(name) for name in NAMES if pool.slot(name) is not None} == model.slot
        assert [name for _, name, _ in pool.by_use()] == model.order
        assert all(pool.name(slot) == name for name, slot in model.slot.items())


def test_an_evicted_name_is_told_of_and_forgotten():
    pool = FakePool(2)
    pool.take("a.example", 0)
    pool.take("b.example", 0)
    pool.use(0)
    taken = pool.take("c.example", KEEP)
    assert (taken.slot, taken.is_new, taken.evicted) == (1, True, "b.example")
    assert pool.slot("b.example") is None
    assert pool.name(1) == "c.example"


def test_a_million_names_never_share_an_address():
    pool = FakePool(1 << 20)
    dice = random.Random(7)
    for number in range(1_000_000):
        pool.take(f"{number:x}.example", number // 1000)
        if not number % 16:
            pool.use(dice.randrange(len(pool)))
    assert len(pool) == 1_000_000
    held = {slot: name for slot, name, _ in pool.by_use()}
    assert len(held) == len(set(held.values())) == 1_000_000
    assert all(pool.slot(name) == slot for slot, name in held.items())


@pytest.mark.parametrize(
    ("address", "slot"),
    [
        ("198.18.0.4", 0),
        ("198.18.0.5", 1),
        ("198.18.255.254", 65530),
        ("198.18.255.255", None),
        ("198.18.0.3", None),
        ("198.18.0.1", None),
        ("198.19.0.4", None),
        ("fdfe:dcba:9876::4", 0),
        ("fdfe:dcba:9876::1", None),
        ("no address", None),
    ],
)
def test_addresses_and_slots(address, slot):
    assert RANGES.slot(address) == slot
    if slot is not None:
        assert address in RANGES.addresses(slot)


@pytest.mark.parametrize(("v4", "v6"), [("198.18.0.0/30", ""), ("", "fd00::/127"), ("", "")])
def test_a_range_without_room_is_refused(v4, v6):
    with pytest.raises(ConfigFault):
        ranges(v4, v6)


def test_one_family_alone():
    only6 = ranges("", "fd00::/64")
    assert only6.addresses(0) == ("", "fd00::4")
    with pytest.raises(Misuse):
        FakePool(0)


def _told(pool):
    return {name: slot for slot, name, _ in pool.by_use()}


def _opened(path):
    pool = FakePool(1000)
    return pool, FakeFile.open(path, RANGES, pool)


def _tell(pool, file, name, now=0):
    taken = pool.take(name, now)
    if taken.is_new and not file.wrote(taken.slot, name, now):
        pool.give_back(name, taken)


def test_what_was_told_is_there_after_a_kill(tmp_path):
    path = tmp_path / "fake-ip"
    pool, file = _opened(path)
    for number in range(50):
        _tell(pool, file, f"{number}.example", number)
    # Nothing is closed: this is what a killed process leaves.
    again, _ = _opened(path)
    assert _told(again) == _told(pool)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400), flip=st.integers(0, 400), bit=st.integers(0, 7))
def test_a_damaged_journal_gives_a_beginning_of_the_truth(tmp_path_factory, cut, flip, bit):
    path = tmp_path_factory.mktemp("journal") / "fake-ip"
    pool, file = _opened(path)
    for number in range(8):
        _tell(pool, file, f"{number}.example", number)
    data = bytearray(path.read_bytes()[: max(1, path.stat().st_size - cut)])
    data[flip % len(data)] ^= 1 << bit
    path.write_bytes(data)
    again, journal = _opened(path)
    assert _told(again).items() <= _told(pool).items()
    _tell(again, journal, "later.example")
    third, _ = _opened(path)
    assert _told(third) == _told(again)


async def test_uses_decide_who_goes_first_after_a_restart(tmp_path):
    path = tmp_path / "fake-ip"
    pool, file = _opened(path)
    for name in ("a.example", "b.example"):
        _tell(pool, file, name)
    pool.use(0)
    file.used(0)
    await file.sync()
    again, _ = _opened(path)
    assert [name for _, name, _ in again.by_use()] == ["b.example", "a.example"]


async def test_other_ranges_start_anew(tmp_path):
    path = tmp_path / "fake-ip"
    pool, file = _opened(path)
    _tell(pool, file, "a.example")
    other = FakePool(100)
    FakeFile.open(path, ranges("198.19.0.0/16", ""), other)
    assert not len(other)


async def test_what_is_told_during_a_rewrite_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "fake-ip"
    pool, file = _opened(path)
    _tell(pool, file, "before.example")
    monkeypatch.setattr("cyfs_ns.io.fakefile._SMALL", 0)
    monkeypatch.setattr("cyfs_ns.io.fakefile._USUAL_ENTRY", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.sync)
        for number in range(100):
            _tell(pool, file, f"{number}.example")
            await trio.lowlevel.checkpoint()
    again, _ = _opened(path)
    assert _told(again) == _told(pool)


def test_a_rewrite_holds_no_more_than_an_entry_at_a_time(tmp_path, monkeypatch):
    lots = []
    write = AtomicFile.write

    def noted(self, data):
        lots.append(len(data))
        write(self, data)

    monkeypatch.setattr(AtomicFile, "write", noted)
    path = tmp_path / "fake-ip"
    pool, file = _opened(path)
    for number in range(300):
        _tell(pool, file, f"{number}.example")
    lots.clear()
    file.clear()
    assert len(lots) == 301 and max(lots) < 100
    file.close()
    again, other = _opened(path)
    assert _told(again) == _told(pool)
    other.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small file system")
async def test_a_full_disk_takes_no_new_names_and_comes_back(tmp_path, caplog):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"tmpfs", os.fsencode(tmp_path), b"tmpfs", 0, b"size=64k") == 0
    try:
        path = tmp_path / "fake-ip"
        pool, file = _opened(path)
        _tell(pool, file, "first.example")
        filler = tmp_path / "filler"
        with pytest.raises(OSError, match="No space"), filler.open("wb") as big:
            big.write(bytes(1 << 20))
        for number in range(200):
            _tell(pool, file, f"a-name-that-is-long-{number:060}.example")
        assert 1 <= len(pool) < 100
        await file.sync()
        again, other = _opened(path)
        assert _told(again) == _told(pool)
        other.close()
        assert [record.levelname for record in caplog.records].count("WARNING") == 1
        filler.unlink()
        await file.sync()
        _tell(pool, file, "last.example")
        again, other = _opened(path)
        assert _told(again) == _told(pool)
        assert pool.slot("last.example") is not None
        other.close()
        file.close()
    finally:
        libc.umount2(os.fsencode(tmp_path), 2)
