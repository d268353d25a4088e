"""Another Noise: its messages are ours, byte by byte, with any keys, prologue and payloads; and it talks to ours."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.keys import SecretKey
from rtcp.v5.keys import DeviceKey, device_key
from rtcp.v5.noise import NAME, Initiator, Responder
from tests.rtcp.v5.people import ALICES_EPHEMERAL, ALICES_KEY, BOBS_EPHEMERAL, BOBS_KEY, MALLORYS_KEY

pytestmark = pytest.mark.filterwarnings("ignore:One of ephemeral keypairs is already set")
secret = st.binary(min_size=32, max_size=32)


def theirs(own: DeviceKey, ephemeral: bytes, prologue: bytes, remote: bytes | None = None) -> NoiseConnection:
    noise = NoiseConnection.from_name(NAME)
    noise.set_prologue(prologue)
    if remote is None:
        noise.set_as_responder()
    else:
        noise.set_as_initiator()
        noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, remote)
    noise.set_keypair_from_private_bytes(Keypair.STATIC, own.secret.private_bytes_raw())
    noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
    noise.start_handshake()
    return noise


def test_the_keys_of_the_other_are_ours():
    own = BOBS_KEY
    noise = theirs(own, BOBS_EPHEMERAL, b"")
    assert noise.noise_protocol.handshake_state.s.public_bytes == own.x25519


@settings(max_examples=50, deadline=None)
@given(
    secret, secret, secret, secret, st.binary(max_size=80), st.lists(st.binary(max_size=100), min_size=3, max_size=3)
)
def test_all_messages_and_what_is_left_are_the_same(alice, bob, hers, his, prologue, payloads):
    alices, bobs = device_key(SecretKey(alice)), device_key(SecretKey(bob))
    other_caller, other_called = theirs(alices, hers, prologue, bobs.x25519), theirs(bobs, his, prologue)
    caller = Initiator(prologue, alices.secret, hers, bobs.x25519)
    called = Responder(prologue, bobs.secret, bobs.x25519)

    first = caller.first(payloads[0])
    assert first == other_caller.write_message(payloads[0])
    assert called.first(first) == other_called.read_message(first) == payloads[0]
    second = called.second(payloads[1], his)
    assert second == other_called.write_message(payloads[1])
    assert caller.second(second) == other_caller.read_message(second) == payloads[1]
    third, split = caller.third(payloads[2])
    assert third == other_caller.write_message(payloads[2])
    assert other_called.read_message(third) == payloads[2]
    assert called.third(third) == (alices.x25519, payloads[2], split)

    assert split.h == other_caller.get_handshake_hash() == other_called.get_handshake_hash()
    protocol = other_caller.noise_protocol
    assert (protocol.cipher_state_encrypt.k, protocol.cipher_state_decrypt.k) == (split.k1, split.k2)


def shaken(upto: int) -> tuple[Initiator, Responder, bytes]:
    """Both sides before message ``upto`` is read, and that message."""
    caller = Initiator(b"", ALICES_KEY.secret, ALICES_EPHEMERAL, BOBS_KEY.x25519)
    called = Responder(b"", BOBS_KEY.secret, BOBS_KEY.x25519)
    message = caller.first(b"")
    if upto > 1:
        called.first(message)
        message = called.second(b"", BOBS_EPHEMERAL)
    if upto > 2:
        caller.second(message)
        message, _ = caller.third(b"introduction")
    return caller, called, message


@pytest.mark.parametrize("upto", [1, 2, 3])
def test_no_bit_of_a_message_can_be_changed(upto):
    size = len(shaken(upto)[2])
    for at, bit in itertools.product(range(size), (0x01, 0x80)):  # X25519 itself does not look at the last bit of a key
        caller, called, message = shaken(upto)
        wrong = bytearray(message)
        wrong[at] ^= bit
        reader = {1: called.first, 2: caller.second, 3: called.third}[upto]
        with pytest.raises(BadWire):
            reader(bytes(wrong))


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_an_ephemeral_key_that_fixes_the_secret_is_refused(point):
    _, called, message = shaken(1)
    with pytest.raises(BadWire):
        called.first(point + message[32:])
    caller, _, message = shaken(2)
    with pytest.raises(BadWire):
        caller.second(point + message[32:])


def test_a_message_1_for_somebody_else_does_not_open():
    caller = Initiator(b"", ALICES_KEY.secret, ALICES_EPHEMERAL, MALLORYS_KEY.x25519)
    with pytest.raises(BadWire):
        Responder(b"", BOBS_KEY.secret, BOBS_KEY.x25519).first(caller.first(b""))


def test_nothing_secret_shows():
    assert repr(ALICES_KEY).count(ALICES_KEY.secret.private_bytes_raw().hex()) == 0
    _, called, message = shaken(3)
    assert repr(called.third(message)[2]) == "Split()"
