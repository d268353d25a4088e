"""Links and cookies: what opens a service, and everything that does not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.share.passes import Grant, Kind, admit, read_grants, write_grants, write_pass
from cyfs_gateway.share.until import LONGEST, read_until
from cyfs_ns.errors import BadWire, ConfigFault, Refused
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.token import sign_token

NOW = 1_800_000_000
KEY = SecretKey(b"k" * 32)
GRANT = Grant(id="0123456789abcdef", service="photos", host="photos.me.example", made=NOW, until=NOW + 3600, note="Ann")
LINK, COOKIE = (write_pass(GRANT, kind, KEY) for kind in ("share-link", "share-cookie"))  # type: ignore[arg-type]


def enter(token: str, kind: Kind = "share-link", **more: Any) -> Grant:
    usual = {"service": "photos", "host": "photos.me.example", "grants": {GRANT.id: GRANT}, "now": NOW + 1.0}
    return admit(token, kind, **{**usual, "key": KEY.public, **more})


def test_a_link_opens_its_service_until_it_ends() -> None:
    assert enter(LINK) == enter(COOKIE, "share-cookie") == GRANT
    assert enter(LINK, now=NOW + 3599.9) == GRANT
    for now in (NOW + 3600, NOW + 1e9):
        with pytest.raises(Refused, match="expired"):
            enter(LINK, now=now)


@pytest.mark.parametrize(
    ("token", "kind", "more"),
    [
        (LINK, "share-cookie", {}),
        (COOKIE, "share-link", {}),
        (LINK, "share-link", {"service": "files"}),
        (LINK, "share-link", {"host": "files.me.example"}),
        (LINK, "share-link", {"grants": {}}),
        (LINK, "share-link", {"grants": {GRANT.id: replace(GRANT, until=NOW + 9999)}}),
        (LINK, "share-link", {"grants": {GRANT.id: replace(GRANT, service="files")}, "service": "files"}),
        (write_pass(replace(GRANT, host="x.example"), "share-link", KEY), "share-link", {}),
        (sign_token({"kind": "share-link", "id": GRANT.id}, KEY), "share-link", {}),
    ],
)
def test_what_was_signed_for_something_else_is_refused(token: str, kind: Kind, more: Any) -> None:
    with pytest.raises(Refused):
        enter(token, kind, **more)


def test_what_others_signed_is_nothing() -> None:
    with pytest.raises(BadWire, match="not signed here"):
        enter(write_pass(GRANT, "share-link", SecretKey(b"x" * 32)))


@settings(max_examples=200)
@given(st.integers(0, len(LINK) - 1), st.text("ABCabc012-_.=", max_size=2), st.integers(0, 3))
def test_no_altered_link_opens_anything(at: int, put: str, take: int) -> None:
    altered = LINK[:at] + put + LINK[at + take :]
    if altered != LINK:
        with pytest.raises((BadWire, Refused)):
            enter(altered)


@settings(max_examples=100)
@given(st.text(max_size=400))
def test_anything_else_is_refused_in_one_way(text: str) -> None:
    with pytest.raises(BadWire):
        enter(text)


def test_the_book_is_read_as_it_was_written() -> None:
    assert read_grants(json.loads(json.dumps(write_grants({GRANT.id: GRANT})))) == {GRANT.id: GRANT}


_GRANT = write_grants({GRANT.id: GRANT})[GRANT.id]


@pytest.mark.parametrize(
    "book",
    [
        [],
        {"x": 7},
        {"x": {}},
        {"0": _GRANT},
        {GRANT.id: {**_GRANT, "until": "2027"}},
        {GRANT.id: {**_GRANT, "until": True}},
        {GRANT.id: {**_GRANT, "service": "../x"}},
        {GRANT.id: {**_GRANT, "more": 1}},
        {GRANT.id: {**_GRANT, "whose": 7}},
        {GRANT.id: {**_GRANT, "whose": "did:web:ann.example"}},
        {GRANT.id: {**_GRANT, "whose": "ann"}},
    ],
)
def test_a_book_that_makes_no_sense_admits_nobody(book: Any) -> None:
    with pytest.raises(BadWire):
        read_grants(book)


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)])
def test_spans(text: str, seconds: int) -> None:
    assert read_until(text, NOW) == NOW + seconds


def test_a_day_is_good_to_its_end() -> None:
    assert read_until("2027-01-31", NOW) % 86_400 == 0
    assert read_until("2027-01-31", NOW) > NOW


@pytest.mark.parametrize("text", ["", "7", "0d", "-1d", "tomorrow", "2020-01-01", "9999-12-31", "999999w", "7d7d"])
def test_what_is_no_time_or_over_is_refused(text: str) -> None:
    with pytest.raises(ConfigFault):
        read_until(text, NOW)
    assert read_until("3650d", NOW) <= NOW + LONGEST
