"""Vectors of RFC 9001 and RFC 9369, and packets sealed by a small client of our own that those vectors vouch for."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st

from cyfs_gateway.sniff import MORE, NOT_IT, Sniffed
from cyfs_gateway.sniff.quic import QuicSniffer

V1, V2 = 1, 0x6B3343CF
RFC_DCID = bytes.fromhex("8394c8f03e515708")
RFC_KEYS = {
    V1: ("1f369613dd76d5467730efcbe3b1a22d", "fa044b2f42a3fd3b46fb255c", "9f50449e04a0e810283a1e9933adedd2"),
    V2: ("8b1a0bc121284290a29e0971b5cd045d", "91f73e2351d8fa91660e909f", "45b95e15235d6f45a6b19cbcb0294ba9"),
}
"""Client key, iv and header protection key for the connection ID above (appendix A.1 of both)."""

RFC_CRYPTO_FRAME = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c0000000"
    "10000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e0005000501000000000033"
    "00260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e040305"
    "0306030203080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff08011001048000"
    "75300901100f088394c8f03e51570806048000ffff"
)
RFC_HEADERS = {V1: "c300000001", V2: "d36b3343cf"}
RFC_SEALED_STARTS = {
    V1: "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11d242b123dc9bd8bab936b47d92ec356c",
    V2: "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485dd04de806071bf03dceebfa162e75d6c",
}
HELLO = RFC_CRYPTO_FRAME[4:]
FOUND = Sniffed("quic", "example.com", ("alpn",))


def varint(number: int) -> bytes:
    return (number | 0x80000000).to_bytes(4, "big")


def crypto(offset: int, data: bytes) -> bytes:
    return b"\x06" + varint(offset) + varint(len(data)) + data


def initial(frames: bytes, number: int = 0, *, version: int = V1, dcid: bytes = RFC_DCID, token: bytes = b"") -> bytes:
    """One Initial packet under the keys of the RFCs' connection ID, whatever ``dcid`` it carries."""
    frames = frames.ljust(20, b"\0")
    header = bytes((0xC3 if version == V1 else 0xD3,)) + version.to_bytes(4, "big")
    header += bytes((len(dcid),)) + dcid + b"\0" + varint(len(token)) + token + varint(4 + len(frames) + 16)
    return seal(header + number.to_bytes(4, "big"), frames, number, version)


def seal(header: bytes, frames: bytes, number: int, version: int) -> bytes:
    key, iv, hp = (bytes.fromhex(text) for text in RFC_KEYS[version])
    nonce = (int.from_bytes(iv, "big") ^ number).to_bytes(12, "big")
    sealed = AESGCM(key).encrypt(nonce, frames, header)
    mask = Cipher(AES(hp), ECB()).encryptor().update(sealed[:16])  # noqa: S305
    masked = bytes(a ^ b for a, b in zip(header[-4:], mask[1:], strict=False))
    return bytes((header[0] ^ mask[0] & 15,)) + header[1:-4] + masked + sealed


def sniff(*datagrams: bytes) -> object:
    sniffer = QuicSniffer()
    found: object = None
    for datagram in datagrams:
        found = sniffer.feed(datagram)
    return found


@pytest.mark.parametrize("version", [V1, V2])
def test_the_packet_of_the_rfcs(version: int) -> None:
    header = bytes.fromhex(RFC_HEADERS[version] + "088394c8f03e5157080000449e00000002")
    packet = seal(header, RFC_CRYPTO_FRAME.ljust(1162, b"\0"), 2, version)
    assert packet.startswith(bytes.fromhex(RFC_SEALED_STARTS[version]))
    assert len(packet) == 1200
    if version == V1:
        assert packet.endswith(bytes.fromhex("e221af44860018ab0856972e194cd934"))
    assert sniff(packet) == FOUND


@pytest.mark.parametrize("version", [V1, V2])
def test_a_hello_over_two_datagrams(version: int) -> None:
    first = initial(crypto(0, HELLO[:100]), 0, version=version, token=b"tok")
    second = initial(crypto(100, HELLO[100:]), 1, version=version, token=b"tok")
    assert sniff(first) is MORE
    assert sniff(first, second) == FOUND
    assert sniff(second) is MORE
    assert sniff(second, first) == FOUND


@given(st.randoms(use_true_random=False), st.integers(1, 12), st.booleans())
def test_scattered_frames_over_coalesced_packets(dice: random.Random, count: int, overlap: bool) -> None:
    ends = [*sorted(dice.sample(range(1, len(HELLO)), count - 1)), len(HELLO)]
    frames, start = [], 0
    for end in ends:
        frames.append(crypto(max(0, start - 5 * overlap), HELLO[max(0, start - 5 * overlap) : end]))
        start = end
    dice.shuffle(frames)
    ack = b"\x02" + varint(3) + varint(0) + varint(1) + varint(0) + varint(0) + varint(0)
    packets = [initial(b"\x01\0\0" + frame + ack, number) for number, frame in enumerate(frames)]
    handshake = b"\xe0" + V1.to_bytes(4, "big") + b"\x08" + RFC_DCID + b"\0" + varint(30) + b"h" * 30
    half = len(packets) // 2
    datagrams = [b"".join(packets[:half]), b"".join(packets[half:]) + handshake + b"\0" * 40]
    assert sniff(*(datagram for datagram in datagrams if datagram)) == FOUND


def test_the_keys_outlive_a_change_of_connection_id() -> None:
    first = initial(crypto(0, HELLO[:100]), 0)
    second = initial(crypto(100, HELLO[100:]), 1, dcid=b"server's id")
    assert sniff(first, second) == FOUND


def test_an_answer_is_kept() -> None:
    sniffer = QuicSniffer()
    assert sniffer.feed(initial(crypto(0, HELLO))) == FOUND
    assert sniffer.feed(b"anything") == FOUND


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\0" * 1200,
        b"\x40short header",
        b"\xc3\x00\x00\x00\x02" + b"\0" * 40,
        b"\xc3\x00\x00\x00\x01\x15" + b"d" * 60,
        b"\xc3\x00\x00\x00\x01\x08" + b"d" * 100,
        b"\x83\x00\x00\x00\x01" + b"\0" * 60,
        initial(crypto(0, HELLO))[:-1],
        initial(crypto(0, HELLO), dcid=b"not the key's"),
        initial(crypto(0, b"\x02" + HELLO[1:])),
        initial(crypto(0, b"\x01\xff\xff\xff")),
        initial(crypto(0, b"\x01\0\0\x02\x03\x03")),
        initial(crypto(1 << 20, HELLO)),
        initial(b"\x08\x00stream frames are not allowed here"),
        initial(b"\x06\x00\x7f"),
        b"\xf0\x00\x00\x00\x01\x08" + RFC_DCID + b"\0" + b"retry" * 20,
    ],
)
def test_what_is_no_quic_hello(datagram: bytes) -> None:
    assert sniff(datagram) is NOT_IT


def test_a_hello_that_never_ends_is_given_up() -> None:
    sniffer = QuicSniffer()
    answers = [sniffer.feed(initial(crypto(0, HELLO[:50]), number)) for number in range(16)]
    assert answers == [MORE] * 15 + [NOT_IT]


def test_crumbs_are_bounded() -> None:
    crumbs = b"".join(crypto(2 * at, b"\0") for at in range(1, 300))
    assert sniff(initial(crumbs)) is NOT_IT


@given(st.lists(st.binary(max_size=80), max_size=4))
def test_any_frames_give_an_answer(frames: list[bytes]) -> None:
    assert sniff(*(initial(frame, number) for number, frame in enumerate(frames))) in (None, MORE, NOT_IT, FOUND)


WHOLE = initial(crypto(0, HELLO))


@given(st.dictionaries(st.integers(0, len(WHOLE) - 1), st.integers(0, 255), max_size=3), st.binary(max_size=60))
def test_any_datagram_gives_an_answer(spots: dict[int, int], tail: bytes) -> None:
    changed = bytearray(WHOLE)
    for at, value in spots.items():
        changed[at] = value
    assert sniff(bytes(changed) + tail) in (MORE, NOT_IT, FOUND)
    assert sniff(b"\xc0\0\0\0\x01" + tail) is NOT_IT
