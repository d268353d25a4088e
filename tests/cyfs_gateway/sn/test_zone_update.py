"""One door for what devices say: a value or its one error, whatever comes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cyfs_gateway.sn.zoneupdate import MOST_ADDRESSES, MOST_UPDATE, MOST_VALUES, ZoneUpdate, read_update, write_update
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.token import sign_token
from tests.cyfs_gateway.sn.zonefakes import HOME4, NOW, OOD, ORIGIN, said, value, zone

UPDATE = ZoneUpdate(
    audience=ORIGIN,
    name="alice",
    device="ood1",
    key=OOD.public,
    seq=7,
    iat=int(NOW),
    exp=int(NOW) + 60,
    addresses=(HOME4, "2001:db8::1"),
    exposed=True,
    challenges={"": (value(1), value(2)), "photos": (value(3),)},
)


def test_what_is_written_is_read() -> None:
    token = write_update(UPDATE, OOD)
    update, proof = read_update(token)
    assert update == UPDATE
    assert proof.verify(OOD.public)
    assert len(token) < 800


def test_the_largest_update_has_room() -> None:
    hosts = {f"{'h' * 60}.{'i' * 60}.{number:02}": (value(number),) for number in range(MOST_VALUES)}
    addresses = tuple(f"2001:db8:ffff:ffff:ffff:ffff:ffff:fff{number}" for number in range(MOST_ADDRESSES))
    token = said(addresses=addresses, challenges=hosts, seq=1 << 53, device="d" * 63, name="n" * 63)
    assert read_update(token)[0].challenges == hosts
    assert len(token) < MOST_UPDATE


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"kind": "device"}, "kind"),
        ({"aud": "sn..example"}, "host name"),
        ({"aud": None}, "aud"),
        ({"name": "al.ice"}, "name"),
        ({"name": "_acme-challenge"}, "name"),
        ({"name": "*"}, "name"),
        ({"name": ""}, "name"),
        ({"device": "a_b"}, "device"),
        ({"x": "AAAA"}, "43 characters"),
        ({"seq": -1}, "seq"),
        ({"seq": True}, "seq"),
        ({"seq": "7"}, "seq"),
        ({"iat": 1.5}, "iat"),
        ({"exp": None}, "exp"),
        ({"ips": ["198.51.100.300"]}, "ips"),
        ({"ips": ["fe80::1%eth0"]}, "ips"),
        ({"ips": [f"198.51.100.{number}" for number in range(MOST_ADDRESSES + 1)]}, "ips"),
        ({"ips": {"a": 1}}, "ips"),
        ({"expose": "yes"}, "expose"),
        ({"acme": []}, "acme"),
        ({"acme": None}, "acme"),
        ({"acme": {"*": [value(1)]}}, "acme"),
        ({"acme": {"a..b": [value(1)]}}, "acme"),
        ({"acme": {"A": [value(1)]}}, "acme"),
        ({"acme": {"a.b.c.d.e": [value(1)]}}, "acme"),
        ({"acme": {"_dmarc": [value(1)]}}, "acme"),
        ({"acme": {"a" * 129: [value(1)]}}, "acme"),
        ({"acme": {"": []}}, "acme"),
        ({"acme": {"": value(1)}}, "acme"),
        ({"acme": {"": ["v=spf1 +all"]}}, "acme"),
        ({"acme": {"": [value(1) + "\n"]}}, "acme"),
        ({"acme": {"": [value(1), value(1)]}}, "acme"),
        ({"acme": {"": [7]}}, "acme"),
        ({"acme": {"": [value(each) for each in range(MOST_VALUES + 1)]}}, "acme"),
        ({"acme": {f"h{each}": [value(each)] for each in range(MOST_VALUES + 1)}}, "acme"),
        ({"txt": ["anything"]}, "'txt'"),
        ({"owner": "did:web:mallory.example"}, "'owner'"),
    ],
)
def test_what_is_no_update(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(BadWire, match=r".") as caught:
        read_update(sign_token({**UPDATE.claims(), **wrong}, OOD))
    assert why in str(caught.value)


@pytest.mark.parametrize("missing", sorted(UPDATE.claims()))
def test_every_claim_is_needed(missing: str) -> None:
    claims = {name: told for name, told in UPDATE.claims().items() if name != missing}
    with pytest.raises(BadWire, match=missing):
        read_update(sign_token(claims, OOD))


def test_addresses_have_one_spelling() -> None:
    update, _ = read_update(sign_token({**UPDATE.claims(), "ips": ["::ffff:198.51.100.7", "198.51.100.7"]}, OOD))
    assert update.addresses == (HOME4,)


WHOLE = write_update(UPDATE, OOD)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def judged(untrusted: str) -> bool:
    """Whether a stranger's text is taken, by both doors alike; raises nothing but ``BadWire``, and that inside."""
    try:
        read_update(untrusted)
    except BadWire:
        assert not zone().update(untrusted, NOW).accepted
        return False
    return zone().update(untrusted, NOW).accepted


@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{86}"))
@hypothesis_settings(max_examples=150, deadline=None)
def test_no_text_is_taken(untrusted: str) -> None:
    assert not judged(untrusted)


@given(st.sampled_from(sorted(UPDATE.claims())), JSON)
@hypothesis_settings(max_examples=200, deadline=None)
def test_claims_of_any_kind_have_one_error(name: str, wrong: Any) -> None:
    header = base64.urlsafe_b64encode(b'{"alg":"EdDSA"}').rstrip(b"=").decode()
    claims = json.dumps({**UPDATE.claims(), name: wrong}).encode()
    body = base64.urlsafe_b64encode(claims).rstrip(b"=").decode()
    assert not judged(f"{header}.{body}.{WHOLE.rpartition('.')[2]}")


@given(st.integers(0, len(WHOLE) - 1), st.characters(codec="ascii"))
@hypothesis_settings(max_examples=200, deadline=None)
def test_one_other_character_is_a_forgery(at: int, other: str) -> None:
    changed = WHOLE[:at] + other + WHOLE[at + 1 :]
    assert judged(changed) == (changed == WHOLE)


def test_every_cut_is_seen() -> None:
    assert not any(judged(WHOLE[:at]) for at in range(len(WHOLE)))
