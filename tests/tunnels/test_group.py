"""Groups, pure: who belongs, and who is chosen by what is known."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import ConfigFault
from tunnels.group import SLOWEST, Delay, GroupSpec, Health, StatusRanges, choose_members, chooser_for, site_of
from tunnels.namefilter import NameFilter
from tunnels.outbound import FlowHint

URL = "http://test.example/"
NAMES = ("a", "b", "c")
HINT = FlowHint(source="192.0.2.1", host="www.example.org")


def group(kind: Any, **options: Any) -> GroupSpec:
    return GroupSpec(name="g", kind=kind, url=URL, **options)


def known(**delays: int) -> Health:
    health = Health()
    for name, ms in delays.items():
        health.record(name, URL, Delay(0.0, ms))
    return health


def test_health_remembers_ten_checks_of_each_url() -> None:
    health = Health()
    assert health.alive("a", URL) and health.delay("a", URL) == SLOWEST and health.history("a", URL) == []
    for ms in range(1, 13):
        health.record("a", URL, Delay(float(ms), ms))
    assert [check.ms for check in health.history("a", URL)] == list(range(3, 13))
    health.record("a", URL, Delay(13.0, 0))
    assert not health.alive("a", URL) and health.delay("a", URL) == SLOWEST
    assert health.alive("a", "http://other.example/")
    assert health.urls("a") == [URL]
    assert Delay(0.5, 20).as_json() == {"time": "1970-01-01T00:00:00.500000+00:00", "delay": 20}
    health.keep_only(["b"])
    assert health.history("a", URL) == []


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [("*", [200, 404], []), ("", [500], []), ("204", [204], [200]), ("200/204-299", [200, 204, 299], [201, 300])],
)
def test_expected_status(text: str, good: list[int], bad: list[int]) -> None:
    ranges = StatusRanges(text)
    assert all(status in ranges for status in good)
    assert not any(status in ranges for status in bad)


@pytest.mark.parametrize("text", ["x", "200-", "-200", "300-200", "99", "200/600", "/", "200//204"])
def test_expected_status_that_is_none(text: str) -> None:
    with pytest.raises(ConfigFault):
        StatusRanges(text)


def test_members_by_filters() -> None:
    written = {"DIRECT": "Direct", "mine": "Socks5"}
    offered = {"HK 1": "Http", "US 1": "Socks5", "HK 2 x10": "Socks5", "mine": "Socks5", "Expire": "Socks5"}
    assert choose_members(group("select"), written, offered) == ["DIRECT", "mine", "HK 1", "US 1", "HK 2 x10", "Expire"]
    assert choose_members(group("select", filter="(?i)us`hk"), written, offered) == ["DIRECT", "mine", "US 1"]
    spec = group("select", filter="US`(?i)hk", exclude_filter="x10`^mine$", exclude_type="HTTP|Direct")
    assert choose_members(spec, written, offered) == ["US 1"]
    assert choose_members(spec, {}, {}) == []
    with pytest.raises(ConfigFault):
        choose_members(group("select", filter="("), {}, {})


def test_the_look_ahead_that_people_write() -> None:
    useful = NameFilter(r"^(?!.*(Expire|Traffic|\(old\))).*$")
    assert useful.matches("HK 1") and not useful.matches("Expire: soon") and not useful.matches("HK (old)")
    both = NameFilter(r"(?i)^(?=.*(hk|jp))(?!.*[)x]2).*\d$")
    assert both.matches("JP 1") and not both.matches("US 1") and not both.matches("HK X2") and not both.matches("hk")
    for text in ("(?<=a)b", "(?!.*(", "a" * 5000):
        with pytest.raises(ConfigFault):
            NameFilter(text)


@given(st.text(alphabet="(?!=.*|)[]^$\\aB1+", max_size=20), st.text(max_size=20))
@settings(max_examples=200)
def test_any_filter_works_or_is_a_fault(text: str, name: str) -> None:
    try:
        pattern = NameFilter(text)
    except ConfigFault:
        return
    assert pattern.matches(name) in (True, False)


def test_a_selector_takes_what_was_chosen_while_it_is_there() -> None:
    chooser = chooser_for(group("select"), Health())
    assert chooser.choose(NAMES, HINT, 0.0) == "a"
    chooser.fixed = "c"
    assert chooser.choose(NAMES, HINT, 0.0) == "c"
    assert chooser.choose(("a", "b"), HINT, 0.0) == "a"


def test_the_fastest_leads_until_clearly_beaten() -> None:
    health = known(a=100, b=80, c=0)
    chooser = chooser_for(group("url-test", tolerance=50), health)
    assert chooser.choose(NAMES, HINT, 0.0) == "b"
    health.record("a", URL, Delay(1.0, 40))
    assert chooser.choose(NAMES, HINT, 0.0) == "b"
    health.record("a", URL, Delay(2.0, 29))
    assert chooser.choose(NAMES, HINT, 0.0) == "a"
    health.record("a", URL, Delay(3.0, 0))
    assert chooser.choose(NAMES, HINT, 0.0) == "b"
    chooser.fixed = "c"
    assert chooser.choose(NAMES, HINT, 0.0) == "b"
    health.record("c", URL, Delay(4.0, 900))
    assert chooser.choose(NAMES, HINT, 0.0) == "c"


def test_nothing_tested_means_the_first() -> None:
    for kind in ("url-test", "fallback"):
        assert chooser_for(group(kind), Health()).choose(NAMES, HINT, 0.0) == "a"


def test_fallback_takes_the_first_that_lives() -> None:
    health = known(a=0, b=300, c=10)
    chooser = chooser_for(group("fallback"), health)
    assert chooser.choose(NAMES, HINT, 0.0) == "b"
    chooser.fixed = "c"
    assert chooser.choose(NAMES, HINT, 0.0) == "c"
    health.record("c", URL, Delay(1.0, 0))
    assert chooser.choose(NAMES, HINT, 0.0) == "b"
    health.record("b", URL, Delay(1.0, 0))
    assert chooser.choose(NAMES, HINT, 0.0) == "a"


def test_round_robin_skips_the_dead() -> None:
    chooser = chooser_for(group("load-balance", strategy="round-robin"), known(b=0))
    assert [chooser.choose(NAMES, HINT, 0.0) for _ in range(4)] == ["a", "c", "a", "c"]
    dead = chooser_for(group("load-balance", strategy="round-robin"), known(a=0, b=0, c=0))
    assert {dead.choose(NAMES, HINT, 0.0) for _ in range(3)} == set(NAMES)


def test_hashing_keeps_a_site_together_and_moves_little() -> None:
    names = tuple(f"m{i}" for i in range(10))
    health = Health()
    chooser = chooser_for(group("load-balance"), health)
    hosts = [f"www.site{i}.example" for i in range(1000)]

    def shares(members: tuple[str, ...]) -> dict[str, str]:
        return {host: chooser.choose(members, FlowHint(host=host), 0.0) for host in hosts}

    before = shares(names)
    assert before["www.site1.example"] == chooser.choose(names, FlowHint(host="cdn.site1.example"), 0.0)
    assert min(Counter(before.values()).values()) > 50
    grown = shares((*names, "m10"))
    assert sum(before[host] != grown[host] for host in hosts) < 200
    health.record("m3", URL, Delay(0.0, 0))
    after = shares(names)
    assert "m3" not in after.values()
    assert all(after[host] == before[host] for host in hosts if before[host] != "m3")


def test_sessions_stick_for_ten_minutes_of_silence() -> None:
    health = Health()
    chooser = chooser_for(group("load-balance", strategy="sticky-sessions"), health)
    first = chooser.choose(NAMES, HINT, 0.0)
    others = tuple(name for name in NAMES if name != first)
    assert chooser.choose((*others, first), HINT, 599.0) == first
    assert chooser.choose((*others, first), HINT, 1100.0) == first
    assert chooser.choose(others, HINT, 1101.0) in others
    moved = chooser.choose(NAMES, HINT, 1102.0)
    health.record(moved, URL, Delay(0.0, 0))
    assert chooser.choose(NAMES, HINT, 1103.0) != moved
    for i in range(1500):
        chooser.choose(NAMES, FlowHint(source=f"10.0.{i // 250}.{i % 250}", host="a.example"), 1104.0)
    assert len(chooser._sessions) <= 1000  # type: ignore[attr-defined]


def test_sites() -> None:
    assert site_of("a.b.example.org") == "example.org"
    assert site_of("localhost") == "localhost"
    assert site_of("192.0.2.1") == "192.0.2.1"
    assert site_of("2001:db8::1") == "2001:db8::1"


@given(
    st.sampled_from(["select", "url-test", "fallback", "round-robin", "consistent-hashing", "sticky-sessions"]),
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 1000)),
    st.sampled_from(["", "a", "gone"]),
    st.lists(st.sampled_from(["x.example", "y.example", "10.0.0.1"]), min_size=1, max_size=5),
)
@settings(max_examples=200)
def test_a_living_member_is_chosen_whenever_there_is_one(
    kind: str, names: list[str], delays: dict[str, int], fixed: str, hosts: list[str]
) -> None:
    spec = group(kind) if kind in ("select", "url-test", "fallback") else group("load-balance", strategy=kind)
    health = known(**delays)
    chooser = chooser_for(spec, health)
    chooser.fixed = fixed
    for host in hosts:
        chosen = chooser.choose(tuple(names), FlowHint(host=host), 0.0)
        assert chosen in names
        if kind != "select" and any(health.alive(name, URL) for name in names):
            assert health.alive(chosen, URL)
