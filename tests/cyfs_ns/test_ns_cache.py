from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.cache import AddressCache


def test_addresses_live_for_their_ttl() -> None:
    cache = AddressCache()
    cache.put("a", ("192.0.2.1",), 30, now=100)
    assert cache.get("a", 129.9) == ("192.0.2.1",)
    assert cache.get("a", 130) is None
    assert len(cache) == 0


def test_ttls_are_held_within_limits() -> None:
    cache = AddressCache(min_ttl=5, max_ttl=100, max_negative=10)
    cache.put("short", ("192.0.2.1",), 0, now=0)
    cache.put("long", ("192.0.2.1",), 10**9, now=0)
    cache.put("none", (), 3600, now=0)
    assert [cache.get(name, 4) for name in ("short", "long", "none")] == [("192.0.2.1",), ("192.0.2.1",), ()]
    assert [cache.get(name, 11) for name in ("short", "long", "none")] == [None, ("192.0.2.1",), None]
    assert cache.get("long", 101) is None


def test_a_full_cache_forgets_what_was_unused_longest() -> None:
    cache = AddressCache(capacity=2)
    for name in "ab":
        cache.put(name, (name,), 60, now=0)
    assert cache.get("a", 1)
    cache.put("c", ("c",), 60, now=1)
    assert [cache.get(name, 2) for name in "abc"] == [("a",), None, ("c",)]
    cache.clear()
    assert cache.get("a", 2) is None


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 20), st.integers(0, 5), st.booleans()), max_size=60)
)
def test_it_never_outgrows_its_capacity_nor_serves_the_dead(steps: list[tuple[str, int, int, bool]]) -> None:
    cache = AddressCache(capacity=3, min_ttl=0)
    now, dies = 0, dict[str, int]()
    for name, ttl, pause, write in steps:
        now += pause
        if write:
            cache.put(name, (name,), ttl, now)
            dies[name] = now + ttl
        elif cache.get(name, now) is not None:
            assert dies[name] > now
        assert len(cache) <= 3
