"""Original destinations, as far as a loopback can tell; interception itself is tried in netns-lab."""

from __future__ import annotations

import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_gateway.io.transparent import (
    IP_RECVORIGDSTADDR,
    IPV6_RECVORIGDSTADDR,
    ORIG_DST_SPACE,
    is_own_address,
    original_dst,
    parse_orig_dst,
    receive_orig_dst,
    reply_socket,
    tproxy_dst,
)
from cyfs_ns.errors import BadWire, Refused

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: CAP_NET_ADMIN binds foreign addresses")
BOTH = pytest.mark.parametrize(("family", "ip"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])


def test_both_forms_of_a_kernel_address_are_read():
    v4 = struct.pack("=H", socket.AF_INET) + b"\x00\x35" + bytes([192, 0, 2, 7]) + bytes(8)
    v6 = struct.pack("=H", socket.AF_INET6) + b"\x01\xbb" + bytes(4) + bytes.fromhex("20010db8" + "00" * 11 + "07")
    noise = (socket.SOL_SOCKET, 1, b"x")
    assert parse_orig_dst([noise, (socket.IPPROTO_IP, IP_RECVORIGDSTADDR, v4)]) == ("192.0.2.7", 53)
    assert parse_orig_dst([(socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, v6 + bytes(4))]) == ("2001:db8::7", 443)


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 41]), st.sampled_from([20, 74, 80]), st.binary(max_size=32)), max_size=4)
)
def test_any_ancillary_data_is_an_address_or_its_one_error(ancdata):
    try:
        host, port = parse_orig_dst(ancdata)
    except BadWire:
        return
    socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    assert 0 <= port <= 65535


@BOTH
def test_a_connection_nobody_redirected_is_refused(family, ip):
    with socket.create_server((ip, 0), family=family) as listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted, pytest.raises(Refused):
            original_dst(accepted)


def test_a_mapped_address_is_told_as_ipv4():
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = listener.accept()
            with accepted:
                assert tproxy_dst(accepted) == ("127.0.0.1", port)
                with pytest.raises(Refused):
                    original_dst(accepted)


@BOTH
def test_a_datagram_brings_its_destination(family, ip):
    with socket.socket(family, socket.SOCK_DGRAM) as ear, socket.socket(family, socket.SOCK_DGRAM) as mouth:
        receive_orig_dst(ear)
        ear.bind((ip, 0))
        mouth.sendto(b"hello", ear.getsockname())
        _, ancdata, _, _ = ear.recvmsg(100, ORIG_DST_SPACE)
    assert parse_orig_dst(ancdata)[0] == ip


@needs_root
@pytest.mark.parametrize("ip", ["203.0.113.99", "2001:db8:99::1"])
def test_a_reply_leaves_in_a_foreign_name_and_two_clients_may_share_it(ip):
    with reply_socket(ip, 5353, mark=0x2D0) as first, reply_socket(ip, 5353) as second:
        for sock in (first, second):
            assert sock.getsockname()[:2] == (ip, 5353)
            with pytest.raises(BlockingIOError):
                sock.recv(1)
        assert first.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0x2D0


@pytest.mark.parametrize("ip", ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::"])
def test_loopback_and_the_unspecified_are_our_own(ip):
    assert is_own_address(ip)


@pytest.mark.parametrize("ip", ["203.0.113.99", "198.51.100.1", "2001:db8:99::1", "224.0.0.1"])
def test_foreign_addresses_are_not_ours(ip):
    assert not is_own_address(ip)
