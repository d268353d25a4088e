"""Tokens: the published signature, and when a token is believed."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.token import read_token, sign_token
from rtcp.tokens import (
    ACK_AUDIENCE,
    HELLO_AUDIENCE,
    AckClaims,
    HelloClaims,
    check_times,
    read_ack_claims,
    read_hello_claims,
    sign_ack,
    sign_hello,
)
from tests.rtcp.pair import ALICE, BOB, WALL, dialled

HELLO = HelloClaims(
    to="responder.example",
    canonical_to=f"did:dev:{BOB.public.x}",
    sender=f"{ALICE.public.x}.dev.did",
    listen_port=2980,
    xpub=bytes.fromhex("7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13"),
    iat=WALL,
    exp=WALL + 60,
    nonce=(1).to_bytes(16, "big"),
)
ACK = AckClaims(
    to=HELLO.sender, sender=HELLO.to, xpub=b"r" * 32, peer_xpub=HELLO.xpub, iat=WALL, exp=WALL + 60, nonce=b"n" * 16
)


def test_the_published_signature():
    token = sign_hello(HELLO, ALICE)
    assert token.rpartition(".")[2] == (
        "Ulz5WT6R-0zphBi3xOGGxGyECV41i0weGAzTavryhwAiseQSPLUwlpGL6bqX-b1oGcaHSy40KRnXlm6yIrI9BA"
    )
    assert token.encode() in dialled().data_to_send()


def test_what_is_written_is_read():
    hello, ack = read_token(sign_hello(HELLO, ALICE)), read_token(sign_ack(ACK, BOB))
    assert read_hello_claims(hello) == HELLO and hello.verify(ALICE.public) and not hello.verify(BOB.public)
    assert read_ack_claims(ack) == ACK and ack.verify(BOB.public)


@pytest.mark.parametrize("audience", [None, "", ACK_AUDIENCE, "buckyos-rtcp-v3-hello", [HELLO_AUDIENCE], 4])
def test_a_token_of_another_place_version_or_direction_is_none(audience):
    claims = {**read_token(sign_hello(HELLO, ALICE)).claims, "aud": audience}
    with pytest.raises(BadWire, match="is needed"):
        read_hello_claims(read_token(sign_token(claims, ALICE)))


def test_a_hello_is_no_ack():
    with pytest.raises(BadWire):
        read_ack_claims(read_token(sign_hello(HELLO, ALICE)))


@pytest.mark.parametrize("name", ["to", "canonical_to", "from", "listen_port", "xpub", "iat", "exp", "nonce"])
@pytest.mark.parametrize("value", [None, "", -1, 1.5, True, [], "G" * 64, "A" * 64, "a" * 62, "x" * 600, 1 << 53])
def test_each_claim_is_needed_in_its_kind(name, value):
    claims = {**read_token(sign_hello(HELLO, ALICE)).claims, name: value}
    token = read_token(sign_token(claims, ALICE))
    if (name in ("to", "canonical_to", "from") and isinstance(value, str) and 0 < len(value) <= 512) or (
        name in ("iat", "exp") and value == 1 << 53
    ):
        read_hello_claims(token)
        return
    with pytest.raises(BadWire):
        read_hello_claims(token)


@pytest.mark.parametrize(
    ("iat", "exp", "now", "good"),
    [
        (0, 60, 0, True),
        (0, 60, -60, True),
        (0, 60, -61, False),
        (0, 60, 120, True),
        (0, 60, 121, False),
        (0, 61, 0, False),
        (0, 0, 0, True),
        (1, 0, 0, False),
    ],
)
def test_a_token_is_in_force_for_a_minute_give_or_take_one(iat, exp, now, good):
    claims = dataclasses.replace(ACK, iat=WALL + iat, exp=WALL + exp)
    if good:
        check_times(claims, WALL + now)
        return
    with pytest.raises(BadWire):
        check_times(claims, WALL + now)


@given(
    st.dictionaries(
        st.sampled_from(
            ["aud", "to", "canonical_to", "from", "listen_port", "xpub", "iat", "exp", "nonce", "peer_xpub"]
        ),
        st.none() | st.integers(-1, 1 << 53) | st.text("0123456789abcdef", max_size=64) | st.just(HELLO_AUDIENCE),
    )
)
def test_claims_of_strangers_are_a_value_or_the_one_error(claims):
    token = read_token(sign_token({**claims, "aud": HELLO_AUDIENCE}, ALICE))
    with contextlib.suppress(BadWire):
        assert isinstance(read_hello_claims(token), HelloClaims)
