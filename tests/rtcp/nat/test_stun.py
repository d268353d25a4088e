"""STUN messages: the vectors of RFC 5769, strangers' bytes, and what a server answers."""

from __future__ import annotations

import hashlib
import hmac
from socket import AF_INET, AF_INET6, inet_ntop

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, Misuse
from rtcp.nat.stun import (
    MOST,
    ROOM,
    SURPLUS,
    Change,
    HostPort,
    Kind,
    Message,
    Place,
    is_stun,
    read_message,
    respond,
    write_message,
    write_request,
)

ID = bytes.fromhex("b7e7a701bc34d686fa87dfae")
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b1"
    "51263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
RESPONSE_4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643000800142b91f599"
    "fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
RESPONSE_6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5"
    "bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)
LONG_TERM = bytes.fromhex(
    "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b900000015001c662f2f3439396b39"
    "353464364f4c33346f4c39465354767936347341001400 0b6578616d706c652e6f72670000080014f67024656dd64a3e02b8e0712e85c9a2"
    "8ca89666"
)
HERE = HostPort("192.0.2.1", 3478)
ALONE = Place(here=HERE)
WHOLE = Place(here=HERE, other_host="192.0.2.2", other_port=3479)
CLIENT, CLIENT_6 = HostPort("203.0.113.9", 40000), HostPort("2001:db8::9", 40000)

hosts = st.one_of(
    st.binary(min_size=4, max_size=4).map(lambda packed: inet_ntop(AF_INET, packed)),
    st.binary(min_size=16, max_size=16).map(lambda packed: inet_ntop(AF_INET6, packed)),
)
places = st.builds(HostPort, hosts, st.integers(0, 65535))
messages = st.builds(
    Message,
    kind=st.sampled_from(Kind),
    transaction=st.binary(min_size=12, max_size=12),
    seen=st.none() | places,
    seen_plain=st.none() | places,
    origin=st.none() | places,
    other=st.none() | places,
    change=st.none() | st.sampled_from([Change.NONE, Change.PORT, Change.HOST, Change.HOST | Change.PORT]),
    response_port=st.none() | st.integers(0, 65535),
    padding=st.none() | st.integers(0, 600),
    software=st.text(max_size=60),
    error=st.none() | st.tuples(st.integers(300, 699), st.text(max_size=40)),
    unknown=st.lists(st.integers(0, 65535), max_size=9).map(tuple),
    fingerprint=st.booleans(),
)


def test_the_vectors_are_those_of_the_rfc():
    # Their MESSAGE-INTEGRITY, which we pass over, says so: the header then counts up to its end.
    for vector in (REQUEST, RESPONSE_4, RESPONSE_6):
        at = vector.index(bytes.fromhex("00080014"))
        text = vector[:2] + (at + 24 - 20).to_bytes(2, "big") + vector[4:at]
        assert hmac.digest(b"VOkJxbRl1RmTxUk/WvJxBt", text, hashlib.sha1) == vector[at + 4 : at + 24]


def test_a_request_of_the_rfc_is_read():
    message = read_message(REQUEST)
    assert (message.kind, message.transaction, message.software) == (Kind.REQUEST, ID, "STUN test client")
    assert message.strange == (0x0024,)  # PRIORITY is for ICE; ICE-CONTROLLED may be passed over
    assert message.fingerprint


@pytest.mark.parametrize(
    ("vector", "seen"),
    [
        (RESPONSE_4, HostPort("192.0.2.1", 32853)),
        (RESPONSE_6, HostPort("2001:db8:1234:5678:11:2233:4455:6677", 32853)),
    ],
)
def test_a_response_of_the_rfc_is_read(vector, seen):
    assert read_message(vector) == Message(
        kind=Kind.SUCCESS, transaction=ID, software="test vector", seen=seen, fingerprint=True
    )


def test_long_term_credentials_are_known_and_passed_over():
    message = read_message(LONG_TERM)
    assert message == Message(kind=Kind.REQUEST, transaction=bytes.fromhex("78ad3433c6ad72c029da412e"))


@settings(max_examples=200)
@given(messages)
def test_what_is_written_is_read(message):
    datagram = write_message(message)
    assert is_stun(datagram)
    assert read_message(datagram) == message


def test_what_cannot_be_a_message_is_not_written():
    with pytest.raises(Misuse):
        write_message(Message(kind=Kind.REQUEST, transaction=ID[1:]))
    with pytest.raises(Misuse):
        write_message(Message(kind=Kind.REQUEST, transaction=ID, padding=MOST))
    with pytest.raises(Misuse):
        write_message(Message(kind=Kind.SUCCESS, transaction=ID, seen=HostPort("fe80::1%eth0", 1)))
    with pytest.raises(Misuse):
        write_message(read_message(REQUEST))


def read(untrusted: bytes) -> Message | None:
    try:
        return read_message(untrusted)
    except BadWire:
        return None


@settings(max_examples=200)
@given(st.binary(max_size=200), st.binary(max_size=100), st.sampled_from(Kind))
def test_bytes_are_a_message_or_bad(garbage, tail, kind):
    read(garbage)
    body = tail + bytes(-len(tail) % 4)
    read(kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + bytes.fromhex("2112a442") + ID + body)


@pytest.mark.parametrize("vector", [REQUEST, RESPONSE_4, RESPONSE_6], ids=["request", "v4", "v6"])
def test_a_fingerprint_shows_every_flipped_bit_and_every_missing_octet(vector):
    for place in range(len(vector)):
        for bit in range(8):
            flipped = bytearray(vector)
            flipped[place] ^= 1 << bit
            # Unless the bit is in its name, or in a length that makes it part of the attribute before.
            message = read(bytes(flipped))
            assert message is None or not message.fingerprint
        assert read(vector[:place]) is None


@settings(max_examples=200)
@given(messages, st.data())
def test_flipped_bytes_are_a_message_or_bad(message, data):
    datagram = bytearray(write_message(message))
    for _ in range(data.draw(st.integers(1, 4))):
        datagram[data.draw(st.integers(0, len(datagram) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(datagram))


def attribute(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)


def request(*attributes: bytes) -> bytes:
    body = b"".join(attributes)
    return b"\0\1" + len(body).to_bytes(2, "big") + bytes.fromhex("2112a442") + ID + body


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        REQUEST + b"\0\0\0\0",
        request()[:4] + bytes(4) + ID,  # no cookie: RFC 3489
        b"\0\3" + request()[2:],  # TURN's Allocate
        request(b"\x80\x22\0\5abcd"),  # claims more than there is
        request(b"\0\0\0"),
        request(*[attribute(0x8022, b"")] * 33),
        request(attribute(0x0020, b"\0\1\0\1")),
        request(attribute(0x0001, b"\0\2" + bytes(6))),  # IPv6 of the size of IPv4
        request(attribute(0x0003, b"\0\0")),
        request(attribute(0x0027, b"\1")),
        request(attribute(0x0009, b"\0\0\7\0")),
        request(attribute(0x0009, b"\0")),
        request(attribute(0x000A, b"\0")),
        request(attribute(0x8022, b"\xff")),
        request(attribute(0x8028, bytes(4))),
        request(attribute(0x0026, bytes(MOST))),
    ],
)
def test_what_no_honest_sender_writes_is_bad(bad):
    assert read(bad) is None
    assert respond(bad, CLIENT, WHOLE, surplus=SURPLUS) is None


def test_of_two_the_first_counts_and_nothing_behind_an_integrity():
    first, second = attribute(0x8022, b"one!"), attribute(0x8022, b"two!")
    assert read_message(request(first, second)).software == "one!"
    assert read_message(request(attribute(0x0008, bytes(20)), second, attribute(0x7F00, b""))).strange == ()


@pytest.mark.parametrize(
    ("datagram", "stun"),
    [
        (REQUEST, True),
        (REQUEST[:-4], False),
        (b"\x40" + REQUEST[1:], False),  # QUIC, or a TURN channel
        (b"\x16\xfe\xfd" + bytes(40), False),  # DTLS
        (REQUEST[:4] + b"\0" + REQUEST[5:], False),
        (b"", False),
    ],
)
def test_stun_is_told_from_its_neighbours(datagram, stun):
    assert is_stun(datagram) is stun
    assert is_stun(memoryview(datagram)) is stun


@pytest.mark.parametrize("client", [CLIENT, CLIENT_6])
@pytest.mark.parametrize("change", [Change.NONE, Change.PORT, Change.HOST, Change.HOST | Change.PORT])
def test_our_own_requests_are_answered_in_full(client, change):
    place = WHOLE if client is CLIENT else Place(here=HostPort("::1", 1), other_host="::2", other_port=2)
    asked = write_request(ID, change=change)
    assert len(asked) == ROOM
    reply = respond(asked, client, place)
    other = HostPort(place.other_host, place.other_port)
    origin = HostPort(
        place.other_host if Change.HOST in change else place.here.host,
        place.other_port if Change.PORT in change else place.here.port,
    )
    assert (reply.origin, reply.to) == (origin, client)
    assert read_message(reply.data) == Message(
        kind=Kind.SUCCESS, transaction=ID, seen=client, seen_plain=client, origin=origin, other=other, fingerprint=True
    )


def test_a_request_is_as_large_as_wanted():
    assert len(write_request(ID, room=20)) == 28
    assert [len(write_request(ID, room=room)) for room in (64, 100, 156)] == [64, 100, 156]


anything = messages.map(write_message) | st.lists(
    st.builds(attribute, st.integers(0, 0x60) | st.integers(0x7FF0, 0x8040), st.binary(max_size=24)), max_size=8
).map(lambda attributes: request(*attributes))


@settings(max_examples=200)
@given(
    anything,
    places,
    st.sampled_from([ALONE, WHOLE, Place(here=HERE, other_port=3479), Place(here=HERE, other_host="192.0.2.2")]),
    st.sampled_from([0, 12, SURPLUS]),
)
def test_no_answer_is_larger_than_its_unproven_request(datagram, source, place, surplus):
    reply = respond(datagram, source, place, surplus=surplus)
    if reply is None:
        return
    asked, answer = read_message(datagram), read_message(reply.data)
    assert asked.kind is Kind.REQUEST
    assert answer.kind in (Kind.SUCCESS, Kind.ERROR)
    assert answer.transaction == asked.transaction
    assert reply.to.host == source.host
    straight = (reply.origin, reply.to) == (place.here, source)
    assert len(reply.data) <= len(datagram) + (surplus if straight else 0)


def test_a_bare_request_is_answered_only_by_a_server_that_allows_more():
    bare = request()
    assert respond(bare, CLIENT, WHOLE) is None
    assert len(respond(bare, CLIENT, WHOLE, surplus=12).data) == 32
    for client in (CLIENT, CLIENT_6):
        answer = read_message(respond(bare, client, WHOLE, surplus=SURPLUS).data)
        assert answer.seen == client
        assert answer.other == ("192.0.2.2", 3479)
    # Never where the answer would come from elsewhere, or go elsewhere.
    assert respond(request(attribute(3, b"\0\0\0\6")), CLIENT, WHOLE, surplus=SURPLUS) is None
    assert respond(request(attribute(0x27, b"\x12\x34\0\0")), CLIENT, WHOLE, surplus=SURPLUS) is None


def test_what_must_be_understood_and_is_not_is_refused():
    reply = respond(REQUEST, CLIENT, WHOLE)
    assert read_message(reply.data) == Message(
        kind=Kind.ERROR, transaction=ID, error=(420, ""), unknown=(0x0024,), fingerprint=True
    )
    assert respond(request(attribute(0x7F00, b"")), CLIENT, WHOLE) is None  # no room to say so
    assert read_message(respond(request(attribute(0x7F00, bytes(12))), CLIENT, WHOLE).data).unknown == (0x7F00,)


@pytest.mark.parametrize("change", [Change.HOST, Change.HOST | Change.PORT, Change.PORT])
def test_a_change_to_a_place_the_server_does_not_have_is_refused(change):
    reply = respond(write_request(ID, change=change), CLIENT, ALONE)
    assert (reply.origin, reply.to) == (HERE, CLIENT)
    assert read_message(reply.data).error == (420, "")
    assert read_message(reply.data).unknown == (0x0003,)


def test_with_one_address_only_the_port_can_change_and_no_other_address_is_told():
    place = Place(here=HERE, other_port=3479)
    reply = respond(write_request(ID, change=Change.PORT), CLIENT, place)
    assert reply.origin == ("192.0.2.1", 3479)
    assert read_message(reply.data).other is None
    assert read_message(respond(write_request(ID, change=Change.HOST), CLIENT, place).data).error == (420, "")


def test_the_answer_goes_to_another_port_if_asked():
    reply = respond(request(attribute(0x27, b"\x12\x34\0\0"), attribute(0x8022, b" " * 60)), CLIENT, WHOLE)
    assert reply.to == (CLIENT.host, 0x1234)
    assert read_message(reply.data).seen == CLIENT
    assert respond(request(attribute(0x27, bytes(4)), attribute(0x8022, b" " * 60)), CLIENT, WHOLE) is None
    assert respond(write_request(ID), HostPort(CLIENT.host, 0), WHOLE) is None


def test_padding_is_answered_by_padding_up_to_the_size_of_the_request():
    asked = write_message(Message(kind=Kind.REQUEST, transaction=ID, padding=1500))
    reply = respond(asked, CLIENT, WHOLE)
    assert len(reply.data) == len(asked)
    assert read_message(reply.data).padding


@pytest.mark.parametrize("kind", [Kind.INDICATION, Kind.SUCCESS, Kind.ERROR])
def test_what_is_no_request_is_not_answered(kind):
    assert respond(write_message(Message(kind=kind, transaction=ID, padding=100)), CLIENT, WHOLE) is None
