"""Cookies: what they are is held by the RFC's vectors in the tests of edns; here, how they are kept."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns import cookies
from cyfs_ns.cookies import FRESH, Cookies
from cyfs_ns.edns import server_cookie

SECRET = bytes(range(16))
HOME, OTHER = bytes((192, 168, 1, 7)), bytes((192, 168, 1, 8))
NOW = 1_800_000_000


def query(cookie: bytes) -> bytes:
    return bytes(40) + b"\0\x0a" + len(cookie).to_bytes(2) + cookie


def whole(now: int) -> bytes:
    return b"8 octets" + server_cookie(SECRET, b"8 octets", HOME, now)


def test_a_client_gets_its_own_cookie_and_keeps_it_while_it_is_fresh() -> None:
    jar = Cookies(SECRET)
    first = jar.answer(b"8 octets", HOME, NOW)
    assert first == whole(NOW)
    assert jar.answer(first, HOME, NOW + FRESH - 1) == first
    second = jar.answer(first, HOME, NOW + FRESH)
    assert second == whole(NOW + FRESH) != first
    assert len({first, jar.answer(b"8 octets", OTHER, NOW), jar.answer(b"8 OCTETS", HOME, NOW)}) == 3


def test_a_clock_that_is_set_back_makes_a_new_one() -> None:
    jar = Cookies(SECRET)
    ahead = jar.answer(b"8 octets", HOME, NOW + 5000)
    assert jar.answer(ahead, HOME, NOW) == whole(NOW)


def test_only_who_was_given_a_cookie_is_vouched_for() -> None:
    jar = Cookies(SECRET)
    given_ = jar.answer(b"8 octets", HOME, NOW)
    assert jar.vouch(HOME, query(given_), NOW)
    assert jar.vouch(HOME, query(given_) + b"\0\x0c\0\2\0\0", NOW)
    assert not jar.vouch(OTHER, query(given_), NOW)
    assert not jar.vouch(HOME, query(given_[:-1] + b"?"), NOW)
    assert not jar.vouch(HOME, query(b"8 octets"), NOW)


@settings(max_examples=100)
@given(st.binary(max_size=80))
def test_nobody_is_vouched_for_by_chance(untrusted: bytes) -> None:
    jar = Cookies(SECRET)
    jar.answer(b"8 octets", HOME, NOW)
    assert not jar.vouch(HOME, untrusted, NOW)


def test_there_is_an_end_to_what_is_kept() -> None:
    jar = Cookies(SECRET)
    first = jar.answer(bytes(8), HOME, NOW)
    for number in range(1, 2 * cookies._MOST + 2):
        jar.answer(number.to_bytes(8), HOME, NOW)
    assert len(jar._young) + len(jar._elder) <= 2 * cookies._MOST
    assert jar.vouch(HOME, query(first), NOW)
    assert jar.answer(first, HOME, NOW) == first  # made again, and the same


def test_who_knows_the_secret_checks_what_others_gave_out() -> None:
    given_ = Cookies(SECRET).answer(b"8 octets", HOME, NOW)
    jar = Cookies(SECRET)
    assert jar.vouch(HOME, query(given_), NOW)
    assert not jar.vouch(OTHER, query(given_), NOW)
    for now, good in ((NOW + 3600, True), (NOW + 3601, False), (NOW - 300, True), (NOW - 301, False)):
        assert Cookies(SECRET).vouch(HOME, query(given_), now) is good
    assert not Cookies(b"another secret..").vouch(HOME, query(given_), NOW)


def test_made_up_cookies_are_no_burden() -> None:
    jar = Cookies(SECRET)
    real = Cookies(SECRET).answer(b"8 octets", HOME, NOW)
    for number in range(300):
        assert not jar.vouch(HOME, query(number.to_bytes(8) + real[8:]), NOW)
    assert not jar.vouch(HOME, query(real), NOW)  # nobody is checked any more in this second
    assert jar.vouch(HOME, query(real), NOW + 1)
    for number in range(300):
        assert not jar.vouch(HOME, query(number.to_bytes(8) + real[8:]), NOW + 1)
    assert jar.vouch(HOME, query(real), NOW + 1)  # who was known before is known
