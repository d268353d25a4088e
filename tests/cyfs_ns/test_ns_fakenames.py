"""Fake addresses as they are handed out: who gets one, of which type, for how long, and what a change leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cyfs_ns.config.dns import DnsConfig
from cyfs_ns.config.load import load_dns
from cyfs_ns.errors import ConfigFault
from cyfs_ns.fakefilter import fake_filter
from cyfs_ns.fakeip import KEEP
from cyfs_ns.io.fakenames import FakeIps
from cyfs_ns.reply import records
from cyfs_ns.splitdns import Matcher
from cyfs_ns.wire import name_wire


def config(**keys: Any) -> DnsConfig:
    spelt = {key.replace("_", "-"): value for key, value in keys.items()}
    loaded = load_dns(json.dumps({"dns": {"listen": ":53", "enhanced-mode": "fake-ip", **spelt}}).encode())
    assert loaded.dns is not None, loaded.faults
    return loaded.dns


def sets(name: str) -> Matcher:
    known = {"geosite:private": "lan", "rule-set:mine": "mine.example"}
    if name not in known:
        raise ConfigFault(f"there is no set called {name!r}")
    return lambda asked: asked.endswith(known[name])


class Wall:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def fakes(tmp_path: Path, wall: Wall) -> Iterator[FakeIps]:
    made = FakeIps.open(tmp_path, config(fake_ip_range="198.18.0.0/24", fake_ip_range6="fd00:18::/112"), sets, wall)
    yield made
    made.close()


def told(fakes: FakeIps, name: str, rtype: int = 1) -> list[tuple[int, int, bytes]] | None:
    stand = fakes.answer(name, name_wire(name) + rtype.to_bytes(2) + b"\0\1", rtype)
    return None if stand is None else [record[1:] for record in records(stand.reply, 0)]


V4, V6 = bytes((198, 18, 0, 4)), bytes.fromhex("fd00001800000000000000000000") + b"\0\4"


def test_both_families_have_the_same_place(fakes: FakeIps) -> None:
    assert told(fakes, "www.example") == [(1, 1, V4)]
    assert told(fakes, "www.example", 28) == [(28, 1, V6)]
    assert (fakes.name("198.18.0.4"), fakes.name("fd00:18::4")) == ("www.example", "www.example")
    assert (fakes.name("198.18.0.5"), fakes.is_fake("198.18.0.5"), fakes.is_fake("198.19.0.5")) == ("", True, False)


@pytest.mark.parametrize("rtype", [64, 65])
def test_hints_would_lead_past_us(fakes: FakeIps, rtype: int) -> None:
    stand = fakes.answer("www.example", name_wire("www.example") + rtype.to_bytes(2) + b"\0\1", rtype)
    assert stand is not None
    assert stand.reply.counts == (0, 1, 0)
    assert [record[1] for record in records(stand.reply, 1)] == [6]
    assert len(fakes.pool) == 0


@pytest.mark.parametrize("rtype", [5, 15, 16, 255])
def test_other_types_are_answered_for_real(fakes: FakeIps, rtype: int) -> None:
    assert told(fakes, "www.example", rtype) is None


def test_without_a_range_there_is_no_address_of_that_family(tmp_path: Path) -> None:
    fakes = FakeIps.open(tmp_path, config(), None)
    stand = fakes.answer("www.example", name_wire("www.example") + b"\0\x1c\0\1", 28)
    assert stand is not None
    assert (stand.reply.rcode, stand.reply.counts) == (0, (0, 1, 0))
    fakes.close()


@pytest.mark.parametrize(
    ("mode", "entries", "fake", "real"),
    [
        ("blacklist", ["+.lan", "stun.*.example"], ["www.example", "stun.a.b.example"],
         ["lan", "a.lan", "stun.a.example"]),
        ("blacklist", ["geosite:private"], ["www.example"], ["nas.lan"]),
        ("whitelist", ["+.example", "rule-set:mine"], ["www.example", "x.mine.example"], ["www.test"]),
        ("whitelist", [], [], ["www.example"]),
        ("rule", ["DOMAIN,a.example,real-ip", "DOMAIN-SUFFIX,example,fake-ip", "MATCH,real-ip"],
         ["b.example", "example"], ["a.example", "www.test", "anexample"]),
        ("rule", ["DOMAIN-KEYWORD,stun,real-ip"], ["www.example"], ["my-stun.example"]),
        ("rule", ["GEOSITE,private,real-ip", "RULE-SET,mine,real-ip"], ["www.example"], ["nas.lan", "mine.example"]),
    ],
)  # fmt: skip
def test_the_filter(mode: Any, entries: list[str], fake: list[str], real: list[str]) -> None:
    wants = fake_filter(mode, entries, sets)
    assert [name for name in (*fake, *real) if wants(name)] == fake


@pytest.mark.parametrize(
    ("mode", "entry"),
    [
        ("blacklist", "a b"),
        ("blacklist", "geosite:nothing"),
        ("rule", "DOMAIN,a.example"),
        ("rule", "DOMAIN,a b,real-ip"),
        ("rule", "MATCH,all,real-ip"),
        ("rule", "IP-CIDR,1.2.3.4/32,real-ip"),
        ("rule", "real-ip"),
        ("rule", ""),
        ("rule", "GEOSITE,nothing,real-ip"),
    ],
)
def test_a_filter_that_makes_no_sense(mode: Any, entry: str) -> None:
    with pytest.raises(ConfigFault):
        fake_filter(mode, [entry], sets)


def test_without_rule_sets_there_is_nothing_to_look_into() -> None:
    with pytest.raises(ConfigFault, match="no rule sets"):
        fake_filter("blacklist", ["geosite:private"], None)


def test_what_cannot_be_written_down_is_not_told(fakes: FakeIps, monkeypatch: pytest.MonkeyPatch) -> None:
    told(fakes, "www.example")
    with monkeypatch.context() as full:
        full.setattr("os.pwrite", lambda fd, data, at: len(data) - 1)
        assert told(fakes, "www.example") == [(1, 1, bytes((198, 18, 0, 4)))]
        for rtype in (1, 28):
            stand = fakes.answer("new.example", name_wire("new.example") + rtype.to_bytes(2) + b"\0\1", rtype)
            assert stand is not None
            assert (stand.reply.rcode, stand.reply.counts, stand.life) == (2, (0, 0, 0), 0.0)
            assert stand.reply.ede == ((0, "fake-ip: cannot be written down, disk full?"),)
        assert "fake-ip." in fakes.fault
    assert told(fakes, "later.example") == [(1, 1, bytes((198, 18, 0, 5)))]


def test_a_draining_house_tells_nobody_but_knows_still(fakes: FakeIps) -> None:
    told(fakes, "www.example")
    fakes.draining = True
    assert told(fakes, "www.example") is None
    assert fakes.name("198.18.0.4") == "www.example"


def test_a_new_filter_keeps_the_mappings(fakes: FakeIps) -> None:
    told(fakes, "www.example")
    after = fakes.with_filter(config(fake_ip_filter=["+.example"]), sets)
    assert after.shares_with(fakes)
    assert told(after, "www.example") is None
    assert after.name("198.18.0.4") == "www.example"


def test_another_range_begins_anew_and_the_old_one_can_come_back(tmp_path: Path) -> None:
    first, second = config(fake_ip_range="198.18.0.0/24"), config(fake_ip_range="10.9.0.0/24")
    fakes = FakeIps.open(tmp_path, first, None)
    told(fakes, "www.example")
    assert fakes.fits(first)
    assert not fakes.fits(second)
    other = FakeIps.open(tmp_path, second, None)
    assert not other.shares_with(fakes)
    assert told(other, "mail.example") == [(1, 1, bytes((10, 9, 0, 4)))]
    other.close()
    fakes.close()
    again = FakeIps.open(tmp_path, first, None)
    assert again.name("198.18.0.4") == "www.example"
    again.close()


def test_flushing_forgets_everything(fakes: FakeIps) -> None:
    told(fakes, "www.example")
    assert (fakes.flush(), fakes.name("198.18.0.4"), len(fakes.pool)) == (1, "", 0)


def test_answers_are_told_again_for_as_long_as_nobody_can_lose_an_address_unseen(tmp_path: Path, wall: Wall) -> None:
    fakes = FakeIps.open(tmp_path, config(fake_ip_range="198.18.0.0/29"), None, wall)  # room for three

    def freed(name: str) -> str:
        stand = fakes.answer(name, name_wire(name) + b"\0\1\0\1", 1)
        assert stand is not None
        assert stand.life <= KEEP / 2
        return stand.freed

    assert [freed(f"{name}.example") for name in "abc"] == ["", "", ""]
    assert freed("d.example") == "a.example"  # told a moment ago: perhaps told still
    wall.now += KEEP + 1
    assert freed("e.example") == ""
    fakes.close()
