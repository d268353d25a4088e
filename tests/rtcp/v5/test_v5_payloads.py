"""What is told inside a handshake is read back as it was said, or not at all."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.identity.keys import PublicKey, SecretKey
from rtcp.events import End
from rtcp.v5.closing import Close, CloseCode, read_close
from rtcp.v5.keys import device_key, x25519_public
from rtcp.v5.messages import Type, take_message
from rtcp.v5.payloads import Feature, Introduction, Parameters, read_introduction, read_parameters
from rtcp.v5.schedule import Cipher
from tests.rtcp.pair import ALICE
from tests.rtcp.v5.people import ALICE_SAYS

u16 = st.integers(0, 0xFFFF)
parameters = st.builds(
    lambda port, features, **more: Parameters(
        port=port, features=Feature(features) | (Feature.CALLABLE if port else Feature(0)), **more
    ),
    port=u16,
    features=st.sampled_from([0, 2, 4, 6, 8, 14]),
    ciphers=st.sampled_from([Cipher(2), Cipher(3)]),
    stream_credit=st.integers(1 << 12, 1 << 24),
    tunnel_credit=st.integers(1 << 16, 1 << 26),
    conversations=st.integers(1, 0xFFFF),
    flows=u16,
    legs=u16,
    hold=st.integers(10, 600),
)
eight = st.binary(min_size=8, max_size=8)
names = st.text(max_size=100)
new_tunnels = st.builds(
    Introduction,
    key=st.just(ALICE.public),
    parameters=parameters,
    boot=eight,
    to=names,
    sender=names,
    document=st.text(max_size=2000),
)
next_carriers = st.builds(
    Introduction,
    key=st.just(ALICE.public),
    parameters=parameters,
    boot=eight,
    tunnel=st.binary(min_size=16, max_size=16).filter(any),
    channel=st.integers(0, (1 << 32) - 1),
    move=st.integers(0, (1 << 32) - 1),
    expect=st.integers(0, (1 << 64) - 1),
)


@settings(deadline=None)
@given(parameters, st.binary(max_size=50))
def test_parameters_come_back(value, more):
    wire = value.write()
    assert len(wire) == 32
    assert read_parameters(wire + more) == value
    assert read_parameters(wire[:20] + b"\xff" * 12) == value  # reserved


@settings(deadline=None)
@given(new_tunnels | next_carriers, st.binary(max_size=50))
def test_an_introduction_comes_back(value, more):
    assert read_introduction(value.write() + more) == value


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 140))
def test_a_value_or_its_one_error(data, keep):
    for wire in (data, ALICE_SAYS.write()[:keep] + data):
        try:
            value = read_introduction(wire)
        except BadWire:
            continue
        assert read_introduction(value.write()) == value


@pytest.mark.parametrize(
    "wrong",
    [
        {"ciphers": Cipher.AES_256_GCM},
        {"ciphers": Cipher(0)},
        {"port": 1},
        {"features": Feature.CALLABLE},
        {"stream_credit": (1 << 12) - 1},
        {"stream_credit": (1 << 24) + 1},
        {"tunnel_credit": (1 << 16) - 1},
        {"tunnel_credit": (1 << 26) + 1},
        {"conversations": 0},
        {"conversations": 1 << 16},
        {"flows": -1},
        {"legs": 1 << 16},
        {"hold": 9},
        {"hold": 601},
    ],
    ids=str,
)
def test_values_out_of_their_range(wrong):
    with pytest.raises(Misuse):
        Parameters(**wrong)
    if (max(wrong.values()) >= 1 << 16 and "credit" not in str(wrong)) or min(wrong.values()) < 0:
        return  # cannot even be written
    value = Parameters()
    for name, number in wrong.items():
        object.__setattr__(value, name, number)
    with pytest.raises(BadWire):
        read_parameters(value.write())


def test_bits_nobody_knows_mean_nothing():
    wire = bytearray(Parameters().write())
    wire[0] |= 0xFC
    wire[1] |= 0xE0
    assert read_parameters(bytes(wire)) == Parameters()


@pytest.mark.parametrize(
    "wrong",
    [
        {"boot": b"7 bytes"},
        {"tunnel": b"15 bytes only.."},
        {"to": "ü" * 257},
        {"sender": "x" * 513},
        {"document": "x" * 12289},
        {"tunnel": b"sixteen bytes...", "to": "did:web:a.example"},
    ],
    ids=str,
)
def test_what_cannot_be_said_is_our_own_fault(wrong):
    with pytest.raises(Misuse):
        dataclasses.replace(ALICE_SAYS, **wrong)


def test_the_largest_introduction_fits_into_message_3():
    largest = dataclasses.replace(ALICE_SAYS, to="x" * 512, sender="y" * 512, document="z" * 12288).write()
    assert read_introduction(largest).document == "z" * 12288
    wire = bytearray((68 + len(largest)).to_bytes(2, "big") + b"\5\3" + bytes(64 + len(largest)))
    assert take_message(wire, Type.THIRD) is not None and not wire


@pytest.mark.parametrize(
    ("wire", "close"),
    [
        (b"\0\0\0", Close(CloseCode.DONE)),
        (b"\x07\x01\x00later", Close(CloseCode.LIMIT, 256, "later")),
        (b"\x63\0\1", Close(CloseCode.REFUSED, 1)),
    ],
)
def test_a_close_is_read(wire, close):
    assert read_close(wire) == close


@pytest.mark.parametrize("wire", [b"", b"\0\0", b"\0\0\0\xff", bytes(3) + b"x" * 201])
def test_a_close_that_is_none(wire):
    with pytest.raises(BadWire):
        read_close(wire)


@given(st.sampled_from(CloseCode), u16, st.text(max_size=300))
def test_a_close_comes_back_with_as_much_of_its_reason_as_may_be(code, wait, reason):
    frame = Close(code, wait, reason).frame()
    again = read_close(frame[8:])
    assert (again.code, again.wait) == (code, wait)
    assert reason.startswith(again.reason) and len(again.reason.encode()) >= min(197, len(reason.encode()))
    assert frame[:8] == bytes((0x14,)) + (len(frame) - 8).to_bytes(2, "big") + bytes(5)


def test_each_code_is_an_end():
    ends = {End.ASKED: {0}, End.FAULT: {1, 7}, End.REFUSED: {2, 3, 10, 11, 12}, End.LOST: {4, 5, 6, 8, 9, 13}}
    assert {end: {code for code in CloseCode if code.end is end} for end in ends} == ends


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_the_two_forms_of_a_key_agree(seed):
    key = SecretKey(seed)
    assert x25519_public(key.public) == device_key(key).x25519


@pytest.mark.parametrize("y", [(1 << 255) - 19 + 2, (1 << 255) - 19 + 18])
def test_a_key_past_the_prime_is_refused(y):
    for sign in (0, 1 << 255):
        with pytest.raises(BadWire):
            x25519_public(PublicKey((y | sign).to_bytes(32, "little")))
