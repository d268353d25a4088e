"""What people write for a place at another device, and for one here."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.remote import Remote, parse_local, parse_remote
from cyfs_ns.errors import BadWire


@pytest.mark.parametrize(
    ("text", "behind", "found"),
    [
        ("photos.home.example:22", "", Remote("photos.home.example", "", 22)),
        ("did:web:photos.home.example:22", "", Remote("did:web:photos.home.example", "", 22)),
        ("did:dev:x-_y:1", "", Remote("did:dev:x-_y", "", 1)),
        ("photos.home.example", "Db.LAN:5432", Remote("photos.home.example", "db.lan", 5432)),
        ("photos.home.example/db.lan:5432", "", Remote("photos.home.example", "db.lan", 5432)),
        ("photos.home.example/[2001:db8::1]:80", "", Remote("photos.home.example", "2001:db8::1", 80)),
    ],
)
def test_places_there(text: str, behind: str, found: Remote) -> None:
    assert parse_remote(text, behind) == found
    assert parse_remote(str(found)) == found


@pytest.mark.parametrize(
    ("text", "behind"),
    [
        ("photos.home.example", ""),
        ("photos.home.example:", ""),
        ("photos.home.example:0", ""),
        ("photos.home.example:65536", ""),
        ("photos.home.example:²", ""),
        (":22", ""),
        ("/a:22", ""),
        ("", "a:22"),
        ("x/", ""),
        ("x/a", ""),
        ("x/a:0", ""),
        ("x/a:1", "b:2"),
        ("x" * 2000 + ":1", ""),
        ("x/\udcff:7", ""),
        ("x", "\udcff:7"),
        ("\udcff:7", ""),
        ("x\x1b[31m:7", ""),
    ],
)
def test_what_is_no_place_there(text: str, behind: str) -> None:
    with pytest.raises(BadWire):
        parse_remote(text, behind)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8080", ("127.0.0.1", 8080)),
        ("0", ("127.0.0.1", 0)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:80", ("localhost", 80)),
    ],
)
def test_places_here(text: str, found: tuple[str, int]) -> None:
    assert parse_local(text) == found


@pytest.mark.parametrize("text", ["", "x", "::1:80", "1:2:3", "70000", "-1", "a:", "\udcff:7", "a\n:7"])
def test_what_is_no_place_here(text: str) -> None:
    with pytest.raises(BadWire):
        parse_local(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.text(max_size=20))
def test_any_text_is_a_place_or_a_fault(text: str, behind: str) -> None:
    for parse in (lambda: parse_remote(text, behind), lambda: parse_local(text)):
        try:
            parse()
        except BadWire:
            continue
