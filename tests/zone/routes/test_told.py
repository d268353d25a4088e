"""What a node makes of what the scheduler tells it of the others; the value may be anything."""

from __future__ import annotations

import ipaddress
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_gateway.host import Whereabouts
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import dev_did, did_of_host, host_of_did, parse_did
from tests.zone.boot.zones import secret
from zone.routes.build import Routes, hints
from zone.routes.places import Place
from zone.routes.told import Told, read_told

BARN = dev_did(secret(2).public)
HOST = host_of_did(BARN, case_safe=True)
SN = parse_did("did:web:sn.example")


def value(**told: Any) -> str:
    return json.dumps({"routes": {}, "did_ip_hints": {}} | told)


def test_what_the_builder_writes_is_what_the_dialler_hears() -> None:
    barn = Place(
        name="barn", did=BARN, net="lan1", port=3980, endpoints=(ipaddress.ip_address("192.168.1.5"),), is_gateway=True
    )
    attic = Place(name="attic", did=dev_did(secret(3).public), net="lan1")
    routes = Routes((attic, barn), "rtcp://sn.example/")
    text = value(
        routes={"barn": [way.as_plain("attic") for way in routes.between("attic", "barn")]},
        did_ip_hints={barn.host: hints(barn)},
    )
    told = read_told(text)
    assert told.search(BARN) == Whereabouts((("192.168.1.5", 3980),), (SN,))
    assert told.search(SN) == Whereabouts()
    assert str(told.nodes["barn"]) == f"rtcp://{HOST}:3980"
    assert did_of_host(told.nodes["barn"].host) == BARN


def test_a_gateway_in_between_is_no_sn() -> None:
    way = {"url": f"rtcp://rtcp%3A%2F%2Fgate.example%2F@{HOST}/", "relay_node": "gate"}
    assert read_told(value(routes={"barn": [way]})).search(BARN) == Whereabouts()


@pytest.mark.parametrize(
    "told",
    [
        {"routes": [], "did_ip_hints": 5},
        {"routes": {"barn": [5, {}, {"url": 7}, {"url": "x"}, {"url": "tcp://a.example/"}, {"url": "rtcp:///"}]}},
        {"did_ip_hints": {"did": [{"ip": "1.2.3.4", "port": 1}]}},
        {
            "did_ip_hints": {
                HOST: [{"ip": "x", "port": 1}, {"ip": "1.2.3.4", "port": True}, {"ip": "::1", "port": 1 << 16}]
            }
        },
    ],
)
def test_what_makes_no_sense_is_left_out(told: dict[str, Any]) -> None:
    assert read_told(value(**told)) == Told()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just(HOST) | st.just(f"rtcp://{HOST}/"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["url", "ip", "port", "relay_node", HOST, "barn"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.fixed_dictionaries({"routes": JSON, "did_ip_hints": JSON}) | JSON)
def test_nothing_else_is_raised(told: Any) -> None:
    with suppress(BadWire):
        read_told(json.dumps(told))
