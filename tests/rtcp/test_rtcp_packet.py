"""Packets: the bytes of the published vectors, and whatever a stranger sends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, Misuse
from rtcp.packet import (
    Hello,
    HelloAck,
    HelloAckConfirm,
    Open,
    OpenResp,
    Packet,
    PacketReader,
    Ping,
    Pong,
    Purpose,
    ROpen,
    ROpenResp,
    TunnelResult,
    read_hello_stream,
    write_hello_stream,
    write_packet,
)

ID = "00112233445566778899aabbccddeeff"
VECTORS = [
    (Packet(1, Ping(1711111111)), "00200803000000017b2274696d657374616d70223a313731313131313131317d"),
    (Packet(1, Pong()), "00170804000000017b2274696d657374616d70223a307d"),
    (
        Packet(0x01020304, Open(ID, Purpose.DATAGRAM, 53, "dns.example")),
        "00750807010203047b2273747265616d6964223a223030313132323333343435353636373738383939616162626363646465656666222c"
        "22707572706f7365223a22446174616772616d222c22646573745f706f7274223a35332c22646573745f686f7374223a22646e732e6578"
        "616d706c65227d",
    ),
    (
        Packet(0, HelloAckConfirm("ff" * 16)),
        "003d0809000000007b226368616c6c656e67655f6563686f223a226666666666666666666666666666666666666666666666666666666666"
        "666666227d",
    ),
    (Packet(0, TunnelResult(True)), "0019080a000000007b226163636570746564223a747275657d"),
]


def read(data: bytes, *, bytewise: bool = False) -> list[Packet] | str:
    """All packets in ``data``, or that it is none."""
    reader, packets = PacketReader(), []
    try:
        for piece in [data[at : at + 1] for at in range(len(data))] if bytewise else [data]:
            reader.receive_data(piece)
            while (packet := reader.next_packet()) is not None:
                packets.append(packet)
    except BadWire:
        with pytest.raises(BadWire):
            reader.next_packet()
        return "bad"
    return packets


def framed(json: bytes, command: int = 3) -> bytes:
    return (8 + len(json)).to_bytes(2, "big") + bytes((8, command)) + bytes(4) + json


@pytest.mark.parametrize(("packet", "wire"), VECTORS, ids=lambda value: type(getattr(value, "body", "")).__name__)
def test_packets_are_the_published_bytes(packet, wire):
    assert write_packet(packet).hex() == wire
    assert read(bytes.fromhex(wire)) == [packet]


@pytest.mark.parametrize(
    ("body", "json"),
    [
        (
            Hello("did:dev:a", "did:web:b", 2980, "t"),
            b'{"from_id":"did:dev:a","to_id":"did:web:b","my_port":2980,"tunnel_token":"t"}',
        ),
        (
            Hello("did:dev:a", "did:web:b", 2980, "t", "d"),
            b'{"from_id":"did:dev:a","to_id":"did:web:b","my_port":2980,"tunnel_token":"t","device_doc_jwt":"d"}',
        ),
        (
            HelloAck("t", "0" * 32, "did:web:b"),
            b'{"ack_token":"t","challenge":"' + b"0" * 32 + b'","responder_id":"did:web:b"}',
        ),
        (
            ROpen(ID, Purpose.STREAM, 443, None),
            b'{"streamid":"%s","purpose":"Stream","dest_port":443,"dest_host":null}' % ID.encode(),
        ),
        (OpenResp(5), b'{"result":5}'),
        (ROpenResp(4294967295), b'{"result":4294967295}'),
        (TunnelResult(False, "zu spät"), '{"accepted":false,"reason":"zu spät"}'.encode()),
    ],
)
def test_bodies_are_compact_json_in_the_order_of_their_fields(body, json):
    wire = write_packet(Packet(7, body))
    assert wire[8:] == json
    assert read(wire) == [Packet(7, body)]


@pytest.mark.parametrize("name", ["streamid", "stream_id"])
@pytest.mark.parametrize("purpose", ['"purpose":null,', "", '"purpose":"Stream",'])
def test_streams_are_asked_for_in_several_spellings(name, purpose):
    json = f'{{"dest_port":1,{purpose}"unheard_of":[1],"{name}":"{ID}"}}'.encode()
    assert read(framed(json, 7)) == [Packet(0, Open(ID, Purpose.STREAM, 1, None))]


@pytest.mark.parametrize(
    "wire",
    [
        *(bytes((0, length)) for length in range(1, 9)),
        bytes.fromhex("0010 07 03"),
        bytes.fromhex("0010 09 03"),
        bytes.fromhex("0010 ff 03"),
        bytes.fromhex("0010 08 00"),
        bytes.fromhex("0010 08 0b"),
        framed(b"\xff\xfe"),
        framed(b"[]"),
        framed(b"{}"),
        framed(b'{"timestamp":1}x'),
        framed(b'{"timestamp":1,"timestamp":1}'),
        framed(b'{"timestamp":-1}'),
        framed(b'{"timestamp":true}'),
        framed(b'{"timestamp":1.0}'),
        framed(b'{"timestamp":"1"}'),
        framed(b'{"from_id":"a","to_id":"b","my_port":1,"tunnel_token":null}', 1),
        framed(b'{"from_id":"a","to_id":"b","my_port":65536,"tunnel_token":"t"}', 1),
        framed(b'{"ack_token":"a","challenge":"00","responder_id":"b"}', 2),
        framed(b'{"streamid":"x","purpose":"stream","dest_port":1}', 7),
        framed(b'{"streamid":"x","purpose":0,"dest_port":1}', 7),
        framed(b'{"streamid":"x","stream_id":"x","dest_port":1}', 7),
        framed(b'{"streamid":"x","dest_port":65536}', 7),
        framed(b'{"accepted":1}', 10),
    ],
    ids=lambda wire: wire[:60].hex(),
)
def test_what_is_no_packet_has_one_error(wire):
    assert read(wire) == "bad"
    assert read(wire, bytewise=True) == "bad"


@given(st.binary(max_size=80) | st.lists(st.sampled_from([bytes.fromhex(wire) for _, wire in VECTORS])).map(b"".join))
def test_packets_are_read_the_same_however_they_come(data):
    assert read(data) == read(data, bytewise=True)


@given(st.integers(1, 10), st.binary(max_size=80), st.booleans())
def test_bodies_of_strangers_give_a_packet_or_the_one_error(command, json, cut):
    wire = framed(json, command)[: -1 if cut else None]
    assert read(wire) == read(wire, bytewise=True)


@given(
    st.sampled_from([wire for _, wire in VECTORS]).map(bytes.fromhex),
    st.integers(0, 1000),
    st.integers(1, 255),
)
def test_a_flipped_byte_gives_a_packet_or_the_one_error(wire, at, flip):
    at %= len(wire)
    hurt = wire[:at] + bytes((wire[at] ^ flip,)) + wire[at + 1 :]
    assert read(hurt) == read(hurt, bytewise=True)


def test_a_packet_that_does_not_fit_is_our_own_fault():
    with pytest.raises(Misuse):
        write_packet(Packet(0, TunnelResult(False, "x" * 65536)))


def test_ids_and_tokens_do_not_show():
    shown = repr(Packet(1, Open(ID, Purpose.STREAM, 1, None))) + repr(Hello("a", "b", 1, "secret", "document"))
    assert ID not in shown and "secret" not in shown and "document" not in shown


def test_a_stream_opens_with_its_id():
    wire = b"\0\0" + ID.encode()
    assert write_hello_stream(bytes.fromhex(ID)) == wire
    assert read_hello_stream(wire + b"more") == bytes.fromhex(ID)
    assert [read_hello_stream(wire[:at]) for at in range(34)] == [None] * 34


@given(st.binary(max_size=40) | st.text("0123456789abcdefABG", max_size=36).map(lambda text: b"\0\0" + text.encode()))
def test_first_bytes_of_strangers_are_an_id_or_the_one_error(data):
    def arrives(data: bytes) -> bytes | str | None:
        try:
            return read_hello_stream(data)
        except BadWire:
            return "bad"

    last: bytes | str | None = None
    for at in range(len(data) + 1):
        if (last := arrives(data[:at])) is not None:
            break
    assert last == arrives(data)
