"""A key and its certificates: what is read of them, and what is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from certmaking import parts
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.certs.bundle import MOST_BYTES, Bundle, read_bundle
from cyfs_gateway.io.certs.contexts import key_pem, new_key, server_context
from cyfs_ns.errors import BadWire

CERTIFICATE, KEY = parts("me.example", "*.Me.example")


@pytest.mark.parametrize("key", ["ECDSA", "RSA"])
def test_names_and_times_are_read_in_any_order_of_the_parts(key: str) -> None:
    certificate, private = parts("me.example", "*.me.example", key=key)
    one, other = read_bundle(private, certificate), read_bundle(certificate, private)
    assert one.names == other.names == {"me.example", "*.me.example"}
    assert one.not_before < one.not_after
    assert 0 <= one.spread < 1
    for each in (one, other):
        server_context(each.pem, ["h2", "http/1.1"])


def test_a_wildcard_covers_one_label() -> None:
    read = read_bundle(KEY, CERTIFICATE)
    assert read.covers("me.example") and read.covers("photos.me.example")
    assert not read.covers("a.photos.me.example") and not read.covers("example") and not read.covers("*.example")


def test_secrets_are_not_shown() -> None:
    assert "PRIVATE" not in repr(read_bundle(KEY, CERTIFICATE))


def _locked() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"", "no private key"),
        (CERTIFICATE, "no private key"),
        (KEY, "no certificate"),
        (key_pem(new_key()) + CERTIFICATE, "not that of the (first) certificate"),
        (_locked() + CERTIFICATE, "locked by a password"),
        (KEY + CERTIFICATE + b"#" * MOST_BYTES, "at most"),
        (KEY + CERTIFICATE.replace(b"MII", b"MIJ", 1), "no certificate that can be read"),
    ],
)
def test_what_cannot_be_used_says_why(given: bytes, said: str) -> None:
    with pytest.raises(BadWire) as fault:
        read_bundle(given)
    assert said in str(fault.value)
    assert "PRIVATE" not in str(fault.value)


_WHOLE = KEY + CERTIFICATE


@settings(max_examples=200)
@given(st.integers(0, len(_WHOLE) - 1), st.binary(max_size=8), st.integers(0, 40))
def test_whatever_is_changed_gives_a_bundle_or_its_one_error(at: int, put: bytes, take: int) -> None:
    with suppress(BadWire):
        assert isinstance(read_bundle(_WHOLE[:at] + put + _WHOLE[at + take :]), Bundle)


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_anything_between_the_lines_is_refused_in_one_way(noise: bytes) -> None:
    for kind in (b"CERTIFICATE", b"PRIVATE KEY", b"EC PRIVATE KEY"):
        with pytest.raises(BadWire):
            read_bundle(b"-----BEGIN " + kind + b"-----\n" + noise + b"\n-----END " + kind + b"-----\n")
