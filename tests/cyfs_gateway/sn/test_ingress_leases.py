"""Ports that are leased: which one, to whom, for how long, and what is remembered of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.sn.ingressleases import REST, Leases, read_leases
from cyfs_ns.errors import BadWire, Refused
from cyfs_ns.identity.did import Did
from tests.cyfs_gateway.sn.sn_people import NOW, person

ALICE, NAS, DESK, MALLORY = (person(seed).did.canonical for seed in range(1, 5))
DAY = 86400.0


def table(first: int = 20000, last: int = 20009, most: int = 3) -> Leases:
    return Leases((first, last), most, DAY)


def ask(leases: Leases, device: Did = NAS, service: str = "ssh", now: float = NOW, port: int = 0) -> int:
    return leases.ask(ALICE, device, "tcp", service, now, port=port).port


def test_to_ask_again_is_to_renew() -> None:
    leases = table()
    port = ask(leases)
    assert ask(leases, now=NOW + DAY / 2) == port
    assert len(list(leases.standing(NOW + DAY))) == 1, "renewed at noon, it lasts until tomorrow noon"
    assert ask(table()) == port, "nobody had to remember it"
    assert leases.of(NAS, NOW)[0].service == "ssh"
    assert not leases.of(DESK, NOW)


def test_each_service_and_network_has_its_own() -> None:
    leases = table(most=10)
    ports = {ask(leases, service=f"s{number}") for number in range(10)}
    assert ports == set(range(20000, 20010))
    with pytest.raises(Refused, match="all tcp ports"):
        ask(leases, DESK)
    assert leases.ask(ALICE, DESK, "udp", "dns", NOW).network == "udp"


def test_a_device_has_so_many() -> None:
    leases = table(most=2)
    ask(leases, service="a")
    second = ask(leases, service="b")
    with pytest.raises(Refused, match="2 ports at most"):
        ask(leases, service="c")
    assert ask(leases, service="b") == second
    assert leases.give_back(NAS, "tcp", second, NOW)
    ask(leases, service="c")
    with pytest.raises(Refused, match="2 ports at most"):
        ask(leases, service="b", now=NOW + 1)


def test_the_port_that_is_wanted_or_none() -> None:
    leases = table()
    assert ask(leases, port=20005) == 20005
    with pytest.raises(Refused, match="somebody else's"):
        ask(leases, DESK, port=20005)
    with pytest.raises(Refused, match="none of those"):
        ask(leases, port=80)
    with pytest.raises(Refused, match="no name"):
        ask(leases, service="a.b")
    with pytest.raises(Refused, match="leases no ports"):
        ask(Leases(None, 3, DAY))


@pytest.mark.parametrize("by_hand", [True, False])
def test_nobody_picks_up_the_visitors_of_another(by_hand: bool) -> None:
    leases = table(20000, 20000)
    ask(leases)
    over = NOW if by_hand else NOW + DAY
    if by_hand:
        assert not leases.give_back(DESK, "tcp", 20000, NOW)
        assert leases.give_back(NAS, "tcp", 20000, NOW)
        assert not leases.give_back(NAS, "tcp", 20000, NOW)
    assert not list(leases.standing(over))
    for now in (over, over + REST - 1):
        with pytest.raises(Refused):
            ask(leases, MALLORY, now=now)
    leases.tidy(over + REST)
    assert ask(leases, MALLORY, now=over + REST) == 20000


def test_a_port_that_another_program_has_is_nobodys() -> None:
    leases = table(20000, 20001)
    spoilt = ask(leases)
    leases.spoil("tcp", spoilt)
    assert ask(leases) == 40001 - spoilt
    with pytest.raises(Refused):
        ask(leases, DESK)


def test_leases_are_remembered() -> None:
    leases = table()
    leases.ask(ALICE, NAS, "udp", "game", NOW, proves=True)
    ask(leases, DESK)
    again = table()
    again.restore(read_leases(leases.written()))
    assert list(again.standing(NOW)) == list(leases.standing(NOW))
    assert again.of(NAS, NOW)[0].proves
    elsewhere = table(30000, 30009)
    elsewhere.restore(read_leases(leases.written()))
    assert not list(elsewhere.standing(NOW)), "the operator gives out other ports by now"


ROW = ["tcp", 20000, str(ALICE), str(NAS), "ssh", NOW, False]


@given(
    st.one_of(
        st.binary(max_size=60),
        st.builds(
            lambda at, what: json.dumps({"leases": [[*ROW[:at], what, *ROW[at + 1 :]]]}).encode(),
            st.integers(0, 7),
            st.one_of(st.none(), st.text(max_size=5), st.integers(), st.floats(), st.lists(st.integers(), max_size=1)),
        ),
    )
)
@settings(max_examples=200, deadline=None)
def test_what_is_no_file_of_leases_is_said_so(untrusted: bytes) -> None:
    try:
        found = read_leases(untrusted)
    except BadWire:
        return
    assert all(0 < one.port < 65536 for one in found)
