"""The messages as bytes: what is read is a value or BadWire, whatever the kernel may say."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns import conntrack, kernelsets, links, netlink
from cyfs_ns.errors import BadWire
from cyfs_ns.netlink import Message, attribute, attributes, error_number, message, messages, nested

READERS = [
    lambda wire: list(messages(wire)),
    attributes,
    lambda wire: attributes(wire, 4),
    kernelsets.nft_shape,
    kernelsets.nft_is_permanent,
    kernelsets.ipset_shape,
    conntrack.read_mark,
    lambda wire: error_number(Message(netlink.ERROR, 0, 0, 0, wire)),
    lambda wire: kernelsets.nft_event(Message(10 << 8 | 9, 0, 0, 0, wire)),
    lambda wire: kernelsets.nft_event(Message(10 << 8 | 2, 0, 0, 0, wire)),
    *[
        lambda wire, kind=kind: links.read_news(Message(kind, 0, 0, 0, wire))
        for kind in (16, 17, 20, 21, 24, 28, 29, 9)
    ],
]

bodies = st.one_of(
    st.binary(max_size=80),
    st.lists(
        st.tuples(
            st.integers(0, 20), st.one_of(st.sampled_from([b"\0\0\0\4", b"x\0", bytes(16)]), st.binary(max_size=20))
        ),
        max_size=6,
    ).map(lambda pairs: bytes(4) + b"".join(attribute(*pair) for pair in pairs)),
)


@pytest.mark.parametrize("read", READERS)
@given(bodies)
def test_any_bytes_are_a_value_or_bad_wire(read, wire):
    for untrusted in (wire, bytes(8) + wire, bytes(12) + wire):
        with suppress(BadWire):
            read(untrusted)


@given(
    st.lists(
        st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 1 << 31), st.binary(max_size=20)),
        max_size=5,
    )
)
def test_messages_come_back(parts):
    padded = [(kind, flags, seq, body + bytes(-len(body) % 4)) for kind, flags, seq, body in parts]
    wire = b"".join(message(*part) for part in padded)
    assert list(messages(wire)) == [Message(k, f | netlink.REQUEST, s, 0, b) for k, f, s, b in padded]
    if wire:
        with pytest.raises(BadWire):
            list(messages(wire[:-1]))


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=20)))
def test_attributes_come_back(values):
    wire = b"".join(attribute(kind, data) for kind, data in values.items())
    assert attributes(wire) == values
    assert attributes(attributes(nested(7, wire))[7]) == values


def test_an_error_has_its_number_and_an_acknowledgement_none():
    assert error_number(Message(netlink.ERROR, 0, 1, 0, struct.pack("=i", -2) + bytes(16))) == 2
    assert error_number(Message(netlink.ERROR, 0, 1, 0, struct.pack("=i", 0) + bytes(16))) == 0
    assert error_number(Message(16, 0, 1, 0, b"\xff\xff\xff\xff")) == 0


def test_a_flow_has_two_addresses_of_one_family():
    with pytest.raises(BadWire):
        conntrack.mark_query(conntrack.UDP, (bytes(4), 1), (bytes(16), 2), 1)
    with pytest.raises(BadWire):
        conntrack.mark_query(conntrack.UDP, (b"", 1), (b"", 2), 1)
    assert conntrack.mark_query(conntrack.TCP, (socket.inet_aton("192.0.2.1"), 1), (bytes(4), 2), 1)
