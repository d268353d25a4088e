"""The section ``sn``: what is written, what is meant, and that every fault names its key."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.sn.admission import OWN, USUAL
from cyfs_gateway.sn.settings import Opened, SnSettings, read_settings
from cyfs_ns.errors import ConfigFault
from cyfs_ns.identity.did import parse_did

DID = "did:dev:iQNPRzQcgrPnjkWFJ3IcnhBBIOR5BcvgZIyPzXqEBDA"


def read(**more: Any) -> SnSettings:
    return read_settings({"domain": "sn.example", **{key.replace("_", "-"): value for key, value in more.items()}})


def test_what_the_sn_calls_its_own_machines_nobody_gets() -> None:
    told = read(hosts={"shop": ["203.0.113.9"]}, nameservers={"dns1.sn.example": ["203.0.113.8"]})
    assert {"shop", "dns1", "admin"} <= told.policy(frozenset()).reserved


def test_a_domain_is_enough_and_lets_in_nobody() -> None:
    told = read()
    policy = told.policy(frozenset())
    assert (told.listen, told.opened, told.ingress) == (("", 3478), Opened.NOBODY, None)
    assert (policy.open, policy.invites, policy.owners) == (False, False, frozenset())
    assert (policy.quota, policy.own_quota) == (USUAL, OWN)
    zone = told.zone(["203.0.113.7", "2001:db8::7"], ["PKX=x;"])
    assert zone.nameservers == {"ns1.sn.example": ("203.0.113.7", "2001:db8::7")}
    assert (zone.ingress, zone.texts) == (("203.0.113.7", "2001:db8::7"), ("PKX=x;",))


def test_all_that_can_be_said() -> None:
    told = read(
        listen="127.0.0.1:3479",
        addresses=["203.0.113.7"],
        nameservers={"ns1": "203.0.113.7", "ns.other.example": None},
        hosts={"www": ["203.0.113.8"]},
        texts="v=spf1 -all",
        issuers=["letsencrypt.org"],
        ttl=30,
        private_addresses=True,
        open="invited",
        owners=[DID],
        reserved=["smith"],
        quota={"most-bytes": "10 GiB", "slow-bytes": "none", "rate": "1M", "names": 2},
        own_quota={"names": 3},
        grace_days=30,
        names_per_hour=2,
        accounts=10,
        guests=3,
        streams=4,
        relay={"sessions": 5, "rate": "10M"},
        ingress={"ports": "20000-20999"},
    )
    zone = told.zone((), ())
    assert told.listen == ("127.0.0.1", 3479)
    assert zone.nameservers == {"ns1.sn.example": ("203.0.113.7",), "ns.other.example": ()}
    assert (zone.hosts, zone.ttl, zone.private, zone.issuers) == (
        {"www": ("203.0.113.8",)},
        30,
        True,
        ("letsencrypt.org",),
    )
    policy = told.policy(told.owners)
    assert policy.owners == {parse_did(DID).canonical}
    assert policy.invites and not policy.open, "an invitation is no open door"
    assert {"smith", "admin"} <= policy.reserved
    assert (policy.quota.most_bytes, policy.quota.slow_bytes, policy.quota.rate) == (10 << 30, None, 1 << 20)
    assert (policy.quota.names, policy.own_quota.names, policy.grace) == (2, 3, 30 * 86_400)
    assert (told.relay.sessions, told.relay.rate, told.guests, told.streams) == (5, 10 << 20, 3, 4)
    assert told.ingress is not None
    assert told.ingress.ports == (20000, 20999)


def test_a_list_of_name_servers_of_ours_stands_where_the_sn_is() -> None:
    zone = read(nameservers=["ns1", "ns.other.example"]).zone(["203.0.113.7"], ())
    assert zone.nameservers == {"ns1.sn.example": ("203.0.113.7",), "ns.other.example": ()}


@pytest.mark.parametrize(
    ("written", "opened"),
    [(False, "none"), (None, "none"), ("none", "none"), ("invited", "invited"), ("anyone", "anyone"), (True, "anyone")],
)
def test_who_may_come(written: object, opened: str) -> None:
    assert read(open=written).opened == opened


@pytest.mark.parametrize("switch", [False, True, None, {}])
def test_the_ingress_is_on_where_it_is_named(switch: object) -> None:
    if switch == {}:
        assert read(ingress={}).ingress is not None
    else:
        assert (read(ingress=switch).ingress is None) == (switch is False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("domain", None),
        ("domain", "example"),
        ("domain", "no domain"),
        ("domain", 7),
        ("listen", 0.5),
        ("listen", True),
        ("listen", "localhost:3478"),
        ("listen", 70000),
        ("addresses", "nowhere"),
        ("addresses", [7]),
        ("addresses", {"a": "b"}),
        ("nameservers", 7),
        ("nameservers", [[]]),
        ("nameservers", {"ns1": 7}),
        ("nameservers", {"not a name": "203.0.113.7"}),
        ("nameservers", {"ns.other.example": "203.0.113.7"}),
        ("hosts", {"www": "nowhere"}),
        ("texts", [1]),
        ("issuers", [""]),
        ("ttl", 1),
        ("ttl", "60"),
        ("private-addresses", "yes"),
        ("open", "perhaps"),
        ("open", 1.5),
        ("owners", ["nobody"]),
        ("reserved", ["Capital"]),
        ("quota", []),
        ("quota", {"rate": 0}),
        ("quota", {"speed": 1}),
        ("quota", {"rate": "fast"}),
        ("quota", {"rate": -1}),
        ("own-quota", {"names": True}),
        ("grace-days", 0),
        ("names-per-hour", 0),
        ("accounts", -1),
        ("guests", 0),
        ("streams", "many"),
        ("relay", []),
        ("relay", {"rate": 1}),
        ("relay", {"speed": 1}),
        ("ingress", "yes"),
        ("ingress", {"https": 443}),
        ("quotas", {}),
    ],
)
def test_a_fault_names_its_key(key: str, value: object) -> None:
    with pytest.raises(ConfigFault) as fault:
        read_settings({"domain": "sn.example", "addresses": ["203.0.113.7"], key: value})
    assert "sn" in str(fault.value)
    assert key.removesuffix("s") in str(fault.value) or "zone sn.example" in str(fault.value)


def test_an_sn_without_an_address_says_so() -> None:
    with pytest.raises(ConfigFault, match="sn/addresses"):
        read().zone((), ())


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
KEYS = (
    *("domain", "listen", "addresses", "nameservers", "hosts", "texts", "issuers", "ttl", "private-addresses", "open"),
    *("owners", "reserved", "quota", "own-quota", "grace-days", "names-per-hour", "accounts", "guests", "streams"),
    *("relay", "ingress", "else"),
)


@settings(max_examples=200, deadline=None)
@given(JUNK | st.dictionaries(st.sampled_from(KEYS), JUNK, max_size=4))
def test_whatever_is_written_is_settings_or_a_fault(written: Any) -> None:
    if isinstance(written, dict):
        written = {"domain": "sn.example", **written}
    try:
        read_settings(written)
    except ConfigFault:
        return
