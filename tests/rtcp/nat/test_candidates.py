"""Offers: what is written is read, what strangers send is an offer or ``BadWire``, and nobody dangerous is probed."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, Misuse
from rtcp.nat.behaviour import Dependence, HostPort, NatBehaviour, PortStep, Scope, Verdict
from rtcp.nat.candidates import (
    MOST_ADDRESSES,
    MOST_CANDIDATES,
    NO_NETWORK,
    Candidate,
    Filtering,
    Kind,
    Mapping,
    Nat,
    Offer,
    Transport,
    predicted,
    priority,
    read_offer,
    told,
    worth_offering,
    worth_probing,
)

NONCE = bytes(range(16))
HOME, ELSEWHERE = b"home-net", b"else-net"


def at(address: str, port: int = 4000, kind: Kind = Kind.OBSERVED, **more: object) -> Candidate:
    return Candidate(address=address, port=port, kind=kind, **more)  # type: ignore[arg-type]


def offer(*candidates: Candidate, nat: Nat | None = None) -> Offer:
    return Offer(nonce=NONCE, nat=nat or Nat(), candidates=candidates)


ADDRESSES = st.ip_addresses().map(str).filter(lambda text: "%" not in text)
CANDIDATES = st.builds(
    Candidate,
    address=ADDRESSES,
    port=st.integers(1, 65535),
    kind=st.sampled_from(Kind),
    transport=st.sampled_from(Transport),
    foundation=st.integers(0, 0xFFFFFFFF),
    priority=st.integers(0, 0xFFFFFFFF),
    network=st.binary(min_size=8, max_size=8),
)
OFFERS = st.builds(
    Offer,
    nonce=st.binary(min_size=16, max_size=16),
    nat=st.builds(
        Nat,
        mapping=st.sampled_from(Mapping),
        filtering=st.sampled_from(Filtering),
        udp=st.booleans(),
        tcp=st.booleans(),
        delta=st.integers(-64, 64),
    ),
    candidates=st.lists(CANDIDATES, max_size=MOST_CANDIDATES, unique_by=lambda c: (c.transport, c.address, c.port)).map(
        tuple
    ),
)


@settings(max_examples=100, deadline=None)
@given(OFFERS)
def test_what_is_written_is_read(one):
    assert read_offer(one.write()) == one


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_offer_or_bad_wire(data):
    try:
        found = read_offer(data)
    except BadWire:
        return
    assert read_offer(found.write()) == found


@settings(max_examples=200, deadline=None)
@given(OFFERS, st.data())
def test_one_changed_byte_is_an_offer_or_bad_wire(one, data):
    wire = bytearray(one.write())
    wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_offer(bytes(wire))
    except BadWire:
        return
    assert len(found.candidates) <= MOST_CANDIDATES


@settings(max_examples=100, deadline=None)
@given(OFFERS, st.data())
def test_an_offer_cut_off_or_with_something_behind_it_is_none(one, data):
    wire = one.write()
    with pytest.raises(BadWire):
        read_offer(wire[: data.draw(st.integers(0, len(wire) - 1))])
    with pytest.raises(BadWire):
        read_offer(wire + b"\0")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: at("198.51.100.1", 0),
        lambda: at("198.51.100.1", 65536),
        lambda: at("198.51.100.01"),
        lambda: at("2001:DB8::1"),
        lambda: at("fe80::1%eth0"),
        lambda: at("host.example"),
        lambda: at("198.51.100.1", network=b"short"),
        lambda: at("198.51.100.1", priority=1 << 32),
        lambda: Nat(delta=65),
        lambda: offer(*[at("198.51.100.1", port) for port in range(1, MOST_CANDIDATES + 2)]),
        lambda: offer(at("198.51.100.1"), at("198.51.100.1", kind=Kind.MAPPED)),
        lambda: Offer(nonce=b"short", nat=Nat()),
    ],
)
def test_what_cannot_be_written_cannot_be_made(wrong):
    with pytest.raises(Misuse):
        wrong()


HARMFUL = (
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "127.8.8.8",
    "169.254.169.254",
    "192.0.0.8",
    "224.0.0.251",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "fe80::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:192.168.1.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
)


@pytest.mark.parametrize("address", HARMFUL)
def test_nobody_special_is_offered_or_probed(address):
    one = at(str(ipaddress.ip_address(address)))
    assert worth_probing(offer(one), offer(), (), private=True) == ()
    assert worth_offering([one], private=True) == ()


@pytest.mark.parametrize("address", ["10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "100.127.255.1", "fd00::1"])
def test_private_addresses_are_for_peers_the_owner_trusts(address):
    one = at(address, kind=Kind.HOST, network=HOME)
    assert worth_probing(offer(one), offer(), (), private=True) == (one,)
    assert worth_probing(offer(one), offer(), (), private=False) == ()
    assert worth_offering([one], private=True) == (one,)
    assert worth_offering([one], private=False) == ()


def test_whose_network_it_is_is_not_told_to_others():
    (one,) = worth_offering([at("198.51.100.1", network=HOME)], private=False)
    assert one.network == NO_NETWORK


def test_our_own_address_is_probed_only_as_another_port_of_a_network_we_share():
    ours = offer(at("192.168.1.2", 5000, Kind.HOST, network=HOME))
    neighbour = at("192.168.1.2", 6000, Kind.HOST, network=HOME)
    for far, chosen in (
        (neighbour, (replace(neighbour, kind=Kind.LAN),)),
        (at("192.168.1.2", 5000, Kind.HOST, network=HOME), ()),
        (at("192.168.1.2", 6000, Kind.HOST, network=ELSEWHERE), ()),
        (at("192.168.1.2", 6000, Kind.HOST), ()),
    ):
        assert worth_probing(offer(far), ours, {"192.168.1.2"}, private=True) == chosen


def test_what_is_on_a_network_of_ours_comes_first_and_a_relay_there_is_a_relay():
    ours = offer(at("192.168.1.2", 5000, Kind.HOST, network=HOME))
    near = at("192.168.1.3", 5000, Kind.HOST, network=HOME)
    theirs = offer(at("198.51.100.7", 5000, Kind.HOST), near, at("192.168.1.4", 5000, Kind.RELAY, network=HOME))
    assert [c.kind for c in worth_probing(theirs, ours, (), private=True)] == [Kind.LAN, Kind.HOST]


def test_our_own_place_outside_is_not_probed_and_another_port_of_it_is():
    ours = offer(at("198.51.100.1", 5000))
    same, neighbour = at("198.51.100.1", 5000), at("198.51.100.1", 5001)
    assert worth_probing(offer(same, neighbour), ours, (), private=False) == (neighbour,)


def test_few_strangers_are_probed_and_relays_are_not():
    many = [at(f"203.0.113.{n}", kind=Kind.OBSERVED, priority=n) for n in range(1, 21)]
    chosen = worth_probing(offer(*many, at("198.51.100.9", kind=Kind.RELAY)), offer(), (), private=False)
    assert [c.address for c in chosen] == [f"203.0.113.{n}" for n in range(20, 20 - MOST_ADDRESSES, -1)]


@settings(max_examples=200, deadline=None)
@given(OFFERS, st.booleans())
def test_whatever_is_offered_what_is_probed_is_harmless(theirs, private):
    chosen = worth_probing(theirs, offer(), {"198.51.100.1"}, private=private)
    assert len({c.address for c in chosen}) <= MOST_ADDRESSES
    for c in chosen:
        ip = ipaddress.ip_address(c.address)
        assert not (ip.is_loopback or ip.is_multicast or ip.is_link_local or ip.is_unspecified)
        assert private or not c.private
        assert c.kind is not Kind.RELAY
        assert c.address != "198.51.100.1"


def test_the_best_come_first_and_each_place_once():
    told_of = worth_offering(
        [
            at("198.51.100.1", kind=Kind.OBSERVED),
            at("2001:db8::1", kind=Kind.IPV6),
            at("198.51.100.1", kind=Kind.MAPPED),
            at("192.168.1.2", kind=Kind.HOST),
        ],
        private=True,
    )
    assert [c.kind for c in told_of] == [Kind.HOST, Kind.IPV6, Kind.MAPPED]
    assert len(worth_offering([at("198.51.100.1", n) for n in range(1, 100)], private=True)) == MOST_CANDIDATES


def test_priorities_order_kinds_first():
    assert priority(Kind.LAN, 0) > priority(Kind.HOST) > priority(Kind.RELAY) > 0
    assert priority(Kind.LAN) <= 0xFFFFFFFF


def test_predicted_ports_are_real_ones():
    ports = [c.port for c in predicted(at("198.51.100.1", 65530), 3, range(1, 21))]
    assert ports == [65533]
    assert [c.port for c in predicted(at("198.51.100.1", 1030), -2, range(1, 5))] == [1028, 1026, 1024]


@pytest.mark.parametrize("mapping", [None, *Dependence])
@pytest.mark.parametrize("step", [0, 2, 1000])
def test_what_a_survey_found_is_told(mapping, step):
    unknown = Verdict(None, "not asked")
    survey = NatBehaviour(
        local=HostPort("192.168.1.2", 5000),
        seen=(),
        rtt=0.01,
        blocked=Verdict(False, ""),
        translated=Verdict(True, ""),
        mapping=Verdict(mapping, ""),
        filtering=Verdict(Dependence.ADDRESS, ""),
        port_kept=unknown,
        ports=Verdict(PortStep(step, 1.0, ()), ""),
        hairpin=unknown,
        spoilt=unknown,
        scope=Verdict(Scope.PRIVATE, ""),
        seen_scope=Verdict(Scope.PUBLIC, ""),
    )
    nat = told(survey, tcp=True)
    assert (
        nat.mapping
        is {
            None: Mapping.UNKNOWN,
            Dependence.ENDPOINT_INDEPENDENT: Mapping.EIM,
            Dependence.ADDRESS: Mapping.ADM,
            Dependence.ADDRESS_AND_PORT: Mapping.APDM,
        }[mapping]
    )
    assert (nat.filtering, nat.udp, nat.tcp) == (Filtering.ADF, True, True)
    assert nat.predictable == (mapping is Dependence.ADDRESS_AND_PORT and step == 2)
