from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cyfs_ns import names
from cyfs_ns.errors import BadWire


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("r3---sn-x.example", "r3---sn-x.example"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("faß.de", "xn--fa-hia.de"),  # not transitional
        ("☕.example", "xn--53h.example"),
        ("ｅｘａｍｐｌｅ。com", "example.com"),
        ("1.0.0.127.in-addr.arpa", "1.0.0.127.in-addr.arpa"),
        ("a" * 63 + ".x", "a" * 63 + ".x"),
    ],
)
def test_a_name_has_one_spelling(written: str, meant: str) -> None:
    assert names.name(written) == meant
    assert names.host(written) == meant
    assert names.name(meant) == meant


@pytest.mark.parametrize(
    "written",
    [
        "",
        ".",
        "a..b",
        ".a",
        "a b",
        "a/b",
        "a:b",
        "a\0b",
        "a\n",
        "a" * 64 + ".x",
        ".".join(["a" * 63] * 4),
        "xn--ü.de",
        "\u0301a.de",
        "a\u200db.de",
        "ü" * 600,
        "ü" * 64 + ".de",
        "אa.example",
    ],
)
def test_what_is_no_name_is_refused(written: str) -> None:
    with pytest.raises(BadWire):
        names.name(written)


@pytest.mark.parametrize("written", ["127.1", "0x7f.1", "2130706433", "1.2.3.4.", "a.0x", "１２７。１", "01.02.03.04"])
def test_a_name_that_others_read_as_an_address_is_refused(written: str) -> None:
    with pytest.raises(BadWire):
        names.host(written)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("[::ffff:192.0.2.1]", "192.0.2.1"),
    ],
)
def test_an_address_has_one_spelling(written: str, meant: str) -> None:
    assert names.host(written) == meant
    assert names.is_ip(meant)


@pytest.mark.parametrize("written", ["[192.0.2.1]", "[::1", "::1]", "[]", "fe80::1%eth0", "::1::", "1.2.3.256"])
def test_what_is_no_address_is_refused(written: str) -> None:
    assert not names.is_ip(written)
    with pytest.raises(BadWire):
        names.host(written)


@given(st.ip_addresses())
def test_addresses_agree_with_the_standard_library(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    assert ipaddress.ip_address(names.ip(str(address))) == (mapped or address)


@settings(max_examples=200)
@given(st.one_of(st.text(max_size=80), st.text("ab1.-_xn☕ü\u200d:%[]", max_size=40)))
@example("xn--a.")
def test_any_text_is_a_stable_host_or_refused(text: str) -> None:
    try:
        meant = names.host(text)
    except BadWire:
        return
    assert names.host(meant) == meant
    assert meant.isascii() and meant == meant.lower() and 1 <= len(meant) <= 253
