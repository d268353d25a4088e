"""Keys, their spellings, and what is no key."""

from __future__ import annotations

import base64
import subprocess
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.bases import from_base32, from_base58, from_base64url, to_base32, to_base58, to_base64url
from cyfs_ns.identity.keys import Multikey, PublicKey, SecretKey, read_jwk, read_multikey, read_pem, read_x

_PEM_FAULTS = {
    "a PEM file with one key is smaller than this",
    "this PEM file is encrypted; give it decrypted, in a file of mode 0600",
    "not a private key in PKCS#8 PEM",
}
P = (1 << 255) - 19
D = -121665 * pow(121666, P - 2, P) % P


def double(point: tuple[int, int]) -> tuple[int, int]:
    """Edwards addition of a point to itself (RFC 8032 §5.1.4, affine)."""
    x, y = point
    t = D * x * x * y * y
    return 2 * x * y * pow(1 + t, P - 2, P) % P, (y * y + x * x) * pow(1 - t, P - 2, P) % P


def x_of(y: int) -> int | None:
    """A square root of (y²-1)/(dy²+1), if there is one."""
    ratio = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    root = pow(ratio, (P + 3) // 8, P)
    for candidate in (root, root * pow(2, (P - 1) // 4, P) % P):
        if candidate * candidate % P == ratio:
            return candidate
    return None


def refused(raw: bytes) -> bool:
    try:
        PublicKey(raw)
    except BadWire:
        return True
    return False


def test_the_refused_points_are_those_of_small_order() -> None:
    small = set()
    order8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
    x = x_of(order8)
    assert x is not None
    point = (x, order8)
    for _ in range(4):
        small.add(point[1])
        point = double(point)
    assert point == (0, 1) and 1 in small and P - 1 in small and 0 in small
    small.add(P - order8)
    for y in (*small, P, P + 1):
        assert refused(y.to_bytes(32, "little")) and refused((y | 1 << 255).to_bytes(32, "little"))
    assert not refused(SecretKey(bytes(32)).public.raw)


def test_a_secret_key_does_not_show_itself() -> None:
    key = SecretKey(b"\x07" * 32)
    assert key.seed.hex() not in repr(key) and repr(key.seed) not in repr(key)
    assert "\\x07" not in f"{key}"


def test_pem_is_the_forerunners_and_openssls(tmp_path: pytest.TempPathFactory) -> None:
    key = SecretKey(bytes(range(32)))
    der = base64.b64decode(b"".join(key.pem().splitlines()[1:-1]))
    assert der == bytes.fromhex("302e020100300506032b657004220420") + key.seed
    told = subprocess.run(
        ["openssl", "pkey", "-pubout", "-outform", "DER"], input=key.pem(), capture_output=True, check=True
    )
    assert told.stdout[-32:] == key.public.raw
    assert read_pem(key.pem()).seed == key.seed


def test_openssls_own_key_is_read() -> None:
    made = subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519"], capture_output=True, check=True).stdout
    assert read_pem(read_pem(made).pem()).public == read_pem(made).public
    for algorithm in ("x25519", "ed448"):
        other = subprocess.run(["openssl", "genpkey", "-algorithm", algorithm], capture_output=True, check=True).stdout
        with pytest.raises(BadWire, match="not of Ed25519"):
            read_pem(other)


@pytest.mark.parametrize(
    ("jwk", "fault"),
    [
        ([], "JSON object"),
        ({"kty": "RSA"}, "Ed25519 is needed"),
        ({"kty": "OKP", "crv": "X25519", "x": "A" * 43}, "Ed25519 is needed"),
        ({"kty": "OKP", "crv": "Ed25519"}, "without x"),
        ({"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "d": "A" * 43}, "secret"),
        ({"kty": "OKP", "crv": "Ed25519", "x": "A" * 43}, "small order"),
        ({"kty": "OKP", "crv": "Ed25519", "x": "_" * 43}, "a form nobody writes"),
    ],
)
def test_jwks_that_are_refused(jwk: object, fault: str) -> None:
    with pytest.raises(BadWire, match=fault):
        read_jwk(jwk)  # type: ignore[arg-type]


def test_multikeys_of_did_key() -> None:
    """The examples of the did:key specification (W3C CCG, did:key v0.7, test vectors)."""
    known = {
        "z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp": "Ed25519",
        "z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG": "Ed25519",
        "z6LSeu9HkTHSfLLeUs2nnzUSNedgDUevfNQgQjQC23ZCit6F": "X25519",
        "zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme": "secp256k1",
        "zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169": "P-256",
    }
    for text, kind in known.items():
        key = read_multikey(text)
        assert key.kind == kind and str(key) == text


@given(st.binary(max_size=64))
def test_the_three_bases_come_back(data: bytes) -> None:
    assert from_base64url(to_base64url(data)) == data
    assert from_base32(to_base32(data)) == data == from_base32(to_base32(data).upper())
    assert from_base58(to_base58(data)) == data


@given(st.text(max_size=60))
def test_anything_is_a_value_or_its_one_error(text: str) -> None:
    for read in (from_base64url, from_base32, from_base58, read_x, read_multikey):
        with suppress(BadWire):
            read(text)  # type: ignore[operator]


@given(st.binary(max_size=200))
def test_any_pem_is_a_key_or_the_one_error(data: bytes) -> None:
    for untrusted in (
        data,
        b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(data) + b"\n-----END PRIVATE KEY-----\n",
    ):
        try:
            read_pem(untrusted)
        except BadWire as bad:
            assert str(bad) in _PEM_FAULTS


@given(st.sampled_from(["Ed25519", "X25519", "secp256k1", "P-256"]), st.binary(min_size=33, max_size=33))
def test_multikeys_come_back(kind: str, raw: bytes) -> None:
    raw = raw[:32] if kind in ("Ed25519", "X25519") else b"\x02" + raw[1:]
    if kind == "Ed25519" and refused(raw):
        return
    assert read_multikey(str(Multikey(kind, raw))) == Multikey(kind, raw)
