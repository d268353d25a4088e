"""Every number of §16 that this part computes, read from the document itself."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.token import read_token
from rtcp.packet import PacketReader
from rtcp.tokens import read_hello_claims
from rtcp.v5.answering import CallerProven, Guard
from rtcp.v5.carrier import Carrier, Kind, Record
from rtcp.v5.closing import Close, CloseCode, read_close
from rtcp.v5.cookies import CookieJar
from rtcp.v5.keys import device_key, x25519_public, x25519_secret
from rtcp.v5.noise import Initiator, Responder
from rtcp.v5.opening import marked_prologue, native_prologue
from rtcp.v5.payloads import Introduction, read_introduction
from rtcp.v5.schedule import Cipher, Secrets, derived, next_secret, secrets_of
from tests.rtcp.pair import ALICE, BOB
from tests.rtcp.v5.people import (
    ALICE_SAYS,
    ALICES_EPHEMERAL,
    ALICES_KEY,
    BOBS_EPHEMERAL,
    BOBS_KEY,
    BOOT,
    CALLEDS,
    CALLERS,
    NOBODY,
    OPENINGS,
    Meeting,
    answering,
    native,
    told,
)
from tests.rtcp.v5.vectors import section


def test_static_keys():
    vectors = section("16.1")
    seed = SecretKey(vectors.hex("seed"))
    assert x25519_secret(seed) == vectors.hex("secret, clamped")
    assert x25519_public(seed.public) == device_key(seed).x25519 == vectors.hex("public")
    for name, key in (("caller", ALICE), ("called", BOB)):
        assert key.public.raw == vectors.hex(f"{name} Ed25519")
        assert x25519_public(key.public) == vectors.hex(f"{name} X25519")


def test_native_opening():
    vectors = section("16.2")
    assert native_prologue(BOB.public) == vectors.hex("prologue")
    meeting = Meeting().knock().reply()
    hers = meeting.prove()
    assert meeting.first == vectors.hex("message 1")
    assert meeting.second == vectors.hex("message 2")
    assert meeting.third == vectors.hex("message 3")
    assert (
        told(meeting.answer)[-1]
        == CallerProven(read_introduction(vectors.hex("payload 3")))
        == CallerProven(ALICE_SAYS)
    )
    assert hers.tunnel == section("16.3").hex("tunnel id")


def noise_split(prologue, payload, *, first_tag=True, ephemerals=(ALICES_EPHEMERAL, BOBS_EPHEMERAL)):
    """What both ends of a bare handshake leave, message 3, and the bytes of message 1 behind the key."""
    caller = Initiator(prologue, ALICES_KEY.secret, ephemerals[0], BOBS_KEY.x25519)
    called = Responder(prologue, BOBS_KEY.secret, BOBS_KEY.x25519)
    first = caller.first(b"")
    if first_tag:
        assert called.first(first) == b""
    else:
        called.first_unsealed(first[:32])
    assert caller.second(called.second(CALLEDS.write(), ephemerals[1])) == CALLEDS.write()
    third, split = caller.third(payload)
    assert called.third(third) == (ALICES_KEY.x25519, payload, split)
    return split, third, first[32:]


def test_what_the_handshake_leaves():
    vectors = section("16.2")
    split, third, _ = noise_split(native_prologue(BOB.public), ALICE_SAYS.write())
    assert (split.k1, split.k2, split.h) == (vectors.hex("k1"), vectors.hex("k2"), vectors.hex("h"))
    assert vectors.hex("message 3")[4:] == third


def test_keys_of_three_phases():
    vectors, shaken = section("16.3"), section("16.2")
    secrets = secrets_of(shaken.hex("k1"), shaken.hex("k2"), shaken.hex("h"))
    assert secrets.tunnel == vectors.hex("tunnel id")
    for side, secret in (("caller", secrets.caller), ("called", secrets.called)):
        for phase in range(3):
            assert secret == vectors.hex(f"{side} S[{phase}]")
            key, iv = derived(secret)
            assert key == vectors.hex(f"{side} key[{phase}]")
            assert iv == vectors.hex(f"{side} iv[{phase}]")
            secret = next_secret(secret)
    assert root() == vectors.hex("root")


def secrets() -> Secrets:
    shaken = section("16.2")
    return secrets_of(shaken.hex("k1"), shaken.hex("k2"), shaken.hex("h"))


def root() -> bytes:
    shaken = section("16.2")
    return hmac.digest(shaken.hex("h"), shaken.hex("k1") + shaken.hex("k2"), "sha256")


def sealed(carrier: Carrier, kind: Kind, plain: bytes) -> bytes:
    return bytes(carrier.seal(kind, (plain,), 0))


def test_records():
    vectors = section("16.4")
    caller, called = (Carrier(secrets(), Cipher.AES_256_GCM, called=side, leg=True) for side in (False, True))
    opening = vectors.hex('caller, kind 0: OPEN id 1, stream, target :443; DATA "GET / HTTP/1.1\\r\\n"; plain')
    welcome = vectors.hex("called, kind 1: WELCOME expect 0, 198.51.100.7 port 40000; plain")
    answer = vectors.hex("called, kind 0, count 1: ACK 1, ANSWER 0; plain")
    ping = vectors.hex("caller, kind 1, phase 1: PING; plain")
    assert sealed(caller, Kind.NUMBERED, opening) == vectors.hex("record", 0)
    assert sealed(called, Kind.LOOSE, welcome) == vectors.hex("record", 1)
    assert sealed(called, Kind.NUMBERED, answer) == vectors.hex("record", 2)
    caller._sending.step()
    assert sealed(caller, Kind.LOOSE, ping) == vectors.hex("record", 3)

    # The other ends read them, the step included.
    reader = Carrier(secrets(), Cipher.AES_256_GCM, called=True)
    wire = vectors.hex("record", 0) + vectors.hex("record", 3)
    assert list(reader.receive(wire, 0)) == [Record(Kind.NUMBERED, opening), Record(Kind.LOOSE, ping)]
    reader = Carrier(secrets(), Cipher.AES_256_GCM, called=False)
    wire = vectors.hex("record", 1) + vectors.hex("record", 2)
    assert list(reader.receive(wire, 0)) == [Record(Kind.LOOSE, welcome), Record(Kind.NUMBERED, answer)]

    other = Carrier(secrets(), Cipher.CHACHA20_POLY1305, called=False)
    other._sending.step()
    assert sealed(other, Kind.LOOSE, ping) == vectors.hex("the same with ChaCha20-Poly1305")


def test_the_largest_record():
    vectors = section("16.4")
    called = Carrier(secrets(), Cipher.AES_256_GCM, called=True)
    called._sending.step()
    called._sending.step()
    called._sending.count = (1 << 24) - 1
    keys = called._sending
    plain = bytes(range(256)) * 256
    record = bytearray(vectors.hex("head") + plain + bytes(16))
    nonce = keys.take(len(plain), 0)
    keys.aead.encrypt_into(nonce, plain, bytes(record[:4]), memoryview(record)[4:])
    assert record[-16:] == vectors.hex("tag")
    assert hashlib.sha256(record).digest() == vectors.hex("SHA-256 of all")


def test_a_datagram_beside_the_pipe():
    vectors = section("16.4")
    plain = vectors.hex('datagram, caller, count 5: DGRAM id 7 to the flow\'s target, "hi"; plain')
    beside = section("16.3")
    for side in ("caller", "called"):
        secret = hmac.digest(root(), f"rtcp5 loose {side}\x01".encode(), "sha256")
        assert secret == beside.hex(f"loose {side} S")
        assert derived(secret) == (beside.hex(f"loose {side} key"), beside.hex(f"loose {side} iv"))
    key, iv = beside.hex("loose caller key"), beside.hex("loose caller iv")
    wire = vectors.hex("datagram")
    nonce = (int.from_bytes(iv, "big") ^ 5).to_bytes(12, "big")
    assert AESGCM(key).decrypt(nonce, wire[8:], wire[:8]) == plain
    assert wire[:8] == bytes.fromhex("0400") + (5).to_bytes(6, "big")


def test_retry():
    vectors, shaken = section("16.5"), section("16.2")
    jar = CookieJar(b"\x55" * 32, 0)
    assert jar.cookie("198.51.100.7", 40000) == vectors.hex("cookie")
    answer = answering(guard=Guard(jar, "198.51.100.7", 40000, b"\x66" * 12))
    meeting = Meeting(native(retries=True), answer).knock().reply()
    assert meeting.second == vectors.hex("retry")
    again = meeting.call.data_to_send()
    assert again == shaken.hex("message 1")[:-16] + vectors.hex("mac2")


def test_takeover():
    vectors, shaken = section("16.6"), section("16.3")
    told_of = Introduction(key=ALICE.public, parameters=CALLERS, boot=BOOT, tunnel=shaken.hex("tunnel id"), move=1)
    prologue = native_prologue(BOB.public)
    split, third, _ = noise_split(prologue, told_of.write(), ephemerals=(b"\x12" * 32, b"\x23" * 32))
    assert (vectors.hex("message 3")[4:], vectors.hex("h")) == (third, split.h)
    assert hmac.digest(split.h, split.k1 + split.k2, "sha256") == vectors.hex("root")
    again = secrets_of(split.k1, split.k2, split.h)
    caller, called = (Carrier(again, Cipher.AES_256_GCM, called=side) for side in (False, True))
    assert sealed(called, Kind.LOOSE, vectors.hex("WELCOME, plain")) == vectors.hex("record")
    first = section("16.4")[0][1]
    assert sealed(caller, Kind.NUMBERED, bytes.fromhex(first)) == vectors.hex("OPEN, DATA again")


def test_marked_opening():
    vectors, native_one = section("16.7"), section("16.2")
    meeting = Meeting(OPENINGS["masked"]()).knock().reply()
    meeting.prove()
    assert len(meeting.first) == 718
    assert hashlib.sha256(meeting.first).digest() == vectors.hex("H(Hello)")
    hello = PacketReader()
    hello.receive_data(meeting.first)
    packet = hello.next_packet()
    claims = read_hello_claims(read_token(packet.body.tunnel_token))
    assert claims.nonce == vectors.hex("claim nonce")
    assert claims.sender == f"{SecretKey(NOBODY).public.x}.dev.did"
    assert meeting.second == vectors.hex("message 2")
    assert meeting.third == vectors.hex("message 3")
    split, _, tag = noise_split(marked_prologue(BOB.public, meeting.first), ALICE_SAYS.write(), first_tag=False)
    assert (split.h, tag) == (vectors.hex("h"), vectors.hex("tag not sent"))
    assert hmac.digest(split.h, split.k1 + split.k2, "sha256") == vectors.hex("root")
    assert meeting.third[4:36] == native_one.hex("message 3")[4:36]


def test_close():
    wire = section("16.8").hex("CLOSE, DONE")
    assert Close(CloseCode.DONE).frame() == wire
    assert read_close(wire[8:]) == Close(CloseCode.DONE)
