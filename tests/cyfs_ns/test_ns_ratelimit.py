"""Buckets of answers by network."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns import ratelimit
from cyfs_ns.ratelimit import RateLimit


def ip(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def leased(limit: RateLimit, address: bytes, second: int) -> int:
    total = 0
    while lot := limit.lease(address, second):
        total += lot
    return total


def test_a_network_gets_so_many_a_second_and_no_more():
    limit = RateLimit(100)
    assert leased(limit, ip("192.0.2.1"), 5) == 100
    assert leased(limit, ip("192.0.2.1"), 6) == 100


def test_quiet_seconds_are_not_saved_up():
    limit = RateLimit(100)
    assert leased(limit, ip("192.0.2.1"), 5) == 100
    assert leased(limit, ip("192.0.2.1"), 500) == 100


def test_neighbours_share_and_strangers_do_not():
    limit = RateLimit(40)
    assert leased(limit, ip("192.0.2.1"), 5) == 40
    assert leased(limit, ip("192.0.2.250"), 5) == 0
    assert leased(limit, ip("::ffff:192.0.2.9"), 5) == 0
    assert leased(limit, ip("192.0.3.1"), 5) == 40
    assert leased(limit, ip("2001:db8:0:aa00::1"), 5) == 40
    assert leased(limit, ip("2001:db8:0:aaff::1"), 5) == 0
    assert leased(limit, ip("2001:db8:0:ab00::1"), 5) == 40


def test_a_slow_limit_still_leases_one_at_a_time():
    limit = RateLimit(3)
    assert [limit.lease(ip("192.0.2.1"), 5) for _ in range(4)] == [1, 1, 1, 0]


def test_every_second_refusal_slips():
    limit = RateLimit(1, slip=2)
    assert [limit.slips(ip("192.0.2.1"), 5) for _ in range(4)] == [False, True, False, True]
    silent = RateLimit(1, slip=0)
    assert not any(silent.slips(ip("192.0.2.1"), 5) for _ in range(4))


def test_a_flood_from_everywhere_is_remembered_in_bounds_and_the_loudest_is_not_forgotten():
    limit = RateLimit(10)
    loud = ip("192.0.2.1")
    assert leased(limit, loud, 5) == 10
    for number in range(3 * ratelimit.MAX_NETWORKS):
        limit.lease((number << 8 | 1 << 31).to_bytes(4), 5)
        if number % 100 == 0:
            assert limit.lease(loud, 5) == 0
    assert len(limit) <= ratelimit.MAX_NETWORKS


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=200), st.integers(1, 50))
def test_no_second_gives_more_than_a_bucket(steps: list[tuple[int, int]], per_second: int):
    limit, second, given_out = RateLimit(per_second), 0, dict[int, int]()
    for passed, most in steps:
        second += passed
        given_out[second] = given_out.get(second, 0) + limit.lease(b"\xc0\0\2\1", second, most)
    assert all(total <= per_second for total in given_out.values())
