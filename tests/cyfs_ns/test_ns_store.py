"""The cache against a naive model, a clock that jumps, and files nobody wrote."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.reply import Reply, make_reply, records
from cyfs_ns.store import PAUSE, AnswerCache, Key, key_of
from cyfs_ns.wire import name_wire

SOA_DATA = b"\0\0" + bytes(16) + (600).to_bytes(4)


def key(
    text: str = "www.example.com",
    rtype: int = 1,
    *,
    do: bool = False,
    cd: bool = False,
    group: str = "",
    subnet: bytes = b"",
) -> Key:
    return key_of(name_wire(text), rtype, 1, do=do, cd=cd, group=group, subnet=subnet)


def owner(of: Key) -> bytes:
    return of[3 : 3 + of[0]]


def question(of: Key) -> bytes:
    return of[3 : 3 + of[0] + 4]


def positive(of: Key, ttl: int, address: bytes = b"abcd") -> Reply:
    return make_reply(question(of), answer=[(owner(of), int.from_bytes(question(of)[-4:-2]), ttl, address)])


def negative(of: Key, ttl: int, rcode: int = 3) -> Reply:
    return make_reply(question(of), rcode=rcode, authority=[(b"\3com\0", 6, ttl, SOA_DATA)])


def failure(of: Key) -> Reply:
    return make_reply(question(of), rcode=2, ede=((22, "nobody reached"),))


def big() -> AnswerCache:
    return AnswerCache(1 << 20)


# -- one entry --------------------------------------------------------------------------------------------------------


def test_an_answer_comes_back_as_it_went_in() -> None:
    cache, www = big(), key()
    target = name_wire("edge.example.net")
    reply = make_reply(
        question(www),
        aa=True,
        answer=[(owner(www), 5, 300, target), (target, 1, 60, b"abcd")],
        authority=[(target, 2, 70, target)],
        additional=[(target, 28, 80, bytes(16))],
        ede=((15, "on a list"), (0, "")),
    )
    reply = reply._replace(ecs_scope=24)
    assert cache.put(www, reply, 100.0).reply is reply
    found = cache.get(www, 130.5)
    assert found is not None
    assert found[:5] == (reply, 30, False, False, 160.0)
    assert [r[2] for r in records(found.reply, 0)] == [300, 60]


@pytest.mark.parametrize(
    "other",
    [
        key("www.example.org"),
        key(rtype=28),
        key(do=True),
        key(cd=True),
        key(group="lan"),
        key(subnet=b"\0\1\x18\0abc"),
    ],
)
def test_every_part_of_the_key_counts(other: Key) -> None:
    cache = big()
    cache.put(key(), positive(key(), 60), 0.0)
    assert cache.get(other, 1.0) is None and cache.get(key(), 1.0) is not None


def test_an_answer_is_gone_when_its_time_is_over() -> None:
    cache = big()
    cache.put(key(), positive(key(), 60), 0.0)
    assert cache.get(key(), 59.9) is not None
    assert cache.get(key(), 60.0) is None
    assert (len(cache), cache.size) == (0, 0)


def test_what_may_not_be_kept_is_not() -> None:
    cache = big()
    for reply in (positive(key(), 0), make_reply(question(key())), positive(key(), 60)._replace(truncated=True)):
        cache.put(key(), positive(key(), 60), 0.0)
        cache.put(key(), reply, 1.0)
        assert cache.get(key(), 1.0) is None


def test_ttls_are_raised_and_bounded() -> None:
    cache = AnswerCache(1 << 20, min_ttl=30, max_ttl=100, max_negative=20)
    raised = cache.put(key(), positive(key(), 5), 0.0).reply
    assert [r[2] for r in records(raised, 0)] == [30]
    found = cache.get(key(), 29.0)
    assert found is not None and found.reply == raised and found.until == 30.0
    cache.put(key(), positive(key(), 5000), 0.0)
    assert (found := cache.get(key(), 99.0)) is not None and found.until == 100.0
    for rcode in (0, 3):
        cache.put(key(), negative(key(), 500, rcode), 0.0)
        assert (found := cache.get(key(), 0.0)) is not None and found.until == 20.0
    cache.put(key(), negative(key(), 2), 0.0)
    assert (found := cache.get(key(), 0.0)) is not None and found.until == 2.0, "min_ttl is not for these"


def test_an_alias_to_nothing_is_negative() -> None:
    cache, www = AnswerCache(1 << 20, min_ttl=50, max_negative=20), key()
    other = name_wire("other.com")
    reply = make_reply(question(www), answer=[(owner(www), 5, 300, other)], authority=[(b"\3com\0", 6, 900, SOA_DATA)])
    cache.put(www, reply, 0.0)
    assert (found := cache.get(www, 0.0)) is not None and found.until == 20.0


def test_failures_are_kept_for_seconds_and_never_stale() -> None:
    cache = AnswerCache(1 << 20, max_stale=1000)
    cache.put(key(), failure(key()), 0.0)
    found = cache.get(key(), 4.9)
    assert found is not None and found.reply == failure(key()) and not found.refresh
    assert cache.get(key(), 4.9) is not None and cache.get(key(), 5.0) is None
    cache.put(key(), failure(key()), 6.0)
    cache.put(key(), positive(key(), 60), 7.0)
    assert (found := cache.get(key(), 8.0)) is not None and found.reply.rcode == 0


def fresh_until(cache: AnswerCache, now: float) -> float:
    found = cache.get(key(), now, count=False)
    assert found is not None
    return found.until


def test_failures_that_follow_each_other_are_kept_for_longer_and_longer() -> None:
    cache, now, kept = AnswerCache(1 << 20, failure_ttl=5, max_failure_ttl=60), 100.0, []
    for _ in range(6):
        for _ in range(3):
            cache.put(key(), failure(key()), now)  # all who waited for it report it
        until = fresh_until(cache, now)
        kept.append(until - now)
        assert cache.get(key(), until - 0.1) is not None and cache.get(key(), until) is None
        now = until + 1.0
    assert kept == [5, 10, 20, 40, 60, 60]
    now += 60.0  # it was quiet for as long as the last one was kept: that is over
    assert cache.get(key(), now) is None
    cache.put(key(), failure(key()), now)
    assert fresh_until(cache, now) == now + 5
    cache.forgive(now + 6.0)
    cache.put(key(), failure(key()), now + 7.0)
    assert fresh_until(cache, now + 7.0) == now + 12


# -- stale, refresh ---------------------------------------------------------------------------------------------------


def test_a_stale_answer_serves_until_it_is_too_old() -> None:
    cache = AnswerCache(1 << 20, max_stale=100)
    cache.put(key(), positive(key(), 60), 0.0)
    found = cache.get(key(), 60.0)
    assert found is not None and (found.stale, found.refresh, found.age) == (True, True, 60)
    assert cache.get(key(), 159.9) is not None
    assert cache.get(key(), 160.0) is None


def test_a_failed_refresh_is_not_tried_again_at_once() -> None:
    cache = AnswerCache(1 << 20, max_stale=1000)
    cache.put(key(), positive(key(), 60), 0.0)
    cache.put(key(), failure(key()), 70.0)
    for now, refresh in ((70.0, False), (70.0 + PAUSE - 0.1, False), (70.0 + PAUSE, True)):
        found = cache.get(key(), now)
        assert found is not None and found.reply.rcode == 0 and (found.stale, found.refresh) == (True, refresh)
    cache.put(key(), positive(key(), 60, b"wxyz"), 101.0)
    assert (found := cache.get(key(), 102.0)) is not None and (found.stale, found.refresh) == (False, False)


def test_failures_before_another_way_was_found_are_forgiven() -> None:
    cache = AnswerCache(1 << 20, max_stale=1000)
    cache.put(key(), positive(key(), 60), 0.0)
    for each in (key(), key("other.example")):
        cache.put(each, failure(each), 70.0)
    cache.forgive(71.0)
    assert (found := cache.get(key(), 71.0)) is not None and (found.stale, found.refresh) == (True, True)
    assert cache.get(key("other.example"), 71.0) is None
    for each in (key(), key("other.example")):
        cache.put(each, failure(each), 72.0)
        assert (found := cache.get(each, 73.0)) is not None and not found.refresh


def test_a_failure_replaces_what_is_too_old() -> None:
    cache = AnswerCache(1 << 20, max_stale=10)
    cache.put(key(), positive(key(), 60), 0.0)
    cache.put(key(), failure(key()), 70.0)
    assert (found := cache.get(key(), 71.0)) is not None and found.reply.rcode == 2


def test_only_hot_names_are_refreshed_early() -> None:
    cache = big()
    cache.put(key(), positive(key(), 100), 0.0)
    asked = [cache.get(key(), now) for now in (90.5, 90.5)]
    assert [found.refresh for found in asked if found] == [False, True], "the second time asked makes it hot"
    cache.put(key(), positive(key(), 100), 0.0)
    asked = [cache.get(key(), now) for now in (1.0, 2.0, 89.0, 90.0, 90.1)]
    assert [found.refresh for found in asked if found] == [False, False, False, False, True]


def test_askings_answered_elsewhere_count() -> None:
    cache = big()
    origin = cache.put(key(), positive(key(), 100), 0.0).origin
    assert origin is not None
    cache.credit(origin, 1000)
    assert (found := cache.get(key(), 95.0)) is not None and found.refresh
    assert len(cache) == 1


def test_what_is_asked_for_elsewhere_is_spared_once() -> None:
    one = big()
    one.put(key("n0.com"), positive(key("n0.com"), 60), 0.0)
    cache = AnswerCache(one.size * 3)

    def put(number: int) -> None:
        cache.put(key(f"n{number}.com"), positive(key(f"n{number}.com"), 60), 0.0)

    def kept() -> list[int]:
        return [n for n in range(9) if cache.get(key(f"n{n}.com"), 0.0, count=False) is not None]

    for number in range(3):
        put(number)
    found = cache.get(key("n0.com"), 0.0, count=False)
    assert found is not None
    origin = found.origin
    cache.credit(origin, 1)
    put(3)
    assert kept() == [0, 2, 3]
    for number in (4, 5):
        put(number)
    assert kept() == [0, 4, 5]
    put(6)
    assert kept() == [4, 5, 6]
    cache.credit(origin, 1)
    assert kept() == [4, 5, 6], "an entry that has left stays away"


def test_there_is_room_even_if_all_are_asked_for() -> None:
    cache = AnswerCache(20_000)
    for number in range(1000):
        at = key(f"n{number:04d}.com")
        origin = cache.put(at, positive(at, 60), 0.0).origin
        assert origin is not None and cache.size <= 20_000
        cache.credit(origin, 1)


def test_a_flood_between_two_savings_leaves_no_trace() -> None:
    cache = AnswerCache(100_000)
    saved = b"".join(cache.dump(0.0, 0.0))
    tracemalloc.start()
    try:
        for number in range(20_000):
            at = key(f"n{number:08d}.example.com")
            cache.put(at, negative(at, 60), 0.0)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 400_000
    news = cache.news(0.0, 0.0)
    assert news is not None and big().load(saved + b"".join(news), 0.0, 0.0) == len(cache) > 100


def test_a_look_leaves_no_trace() -> None:
    cache = big()
    cache.put(key(), positive(key(), 100), 0.0)
    looks = [cache.get(key(), 95.0, count=False) for _ in range(5)]
    assert [found.refresh for found in looks if found] == [False] * 5


# -- flush ------------------------------------------------------------------------------------------------------------


def test_flush_by_name_by_suffix_and_all() -> None:
    def filled() -> AnswerCache:
        cache = big()
        for text in ("example.com", "www.example.com", "badexample.com", "com", "org"):
            for rtype in (1, 28):
                cache.put(key(text, rtype), positive(key(text, rtype), 60, bytes(16 if rtype == 28 else 4)), 0.0)
        return cache

    name = name_wire("example.com")
    assert filled().flush(name) == 2
    cache = filled()
    assert cache.flush(name, below=True) == 4
    assert cache.get(key("badexample.com"), 0.0) is not None and cache.get(key("www.example.com"), 0.0) is None
    assert cache.flush(b"\0", below=True) == 6 and cache.size == 0
    cache = filled()
    assert cache.flush() == 10 and (len(cache), cache.size) == (0, 0)


# -- the model --------------------------------------------------------------------------------------------------------


@dataclass
class Held:
    reply: Reply
    put_at: float
    life: int
    asked: int = 0
    pause: float = 0.0


class Naive:
    """The rules, one by one, over a list from the longest unused to the last used."""

    def __init__(self, max_stale: int) -> None:
        self.max_stale = max_stale
        self.held: list[tuple[Key, Held]] = []

    def find(self, wanted: Key) -> Held | None:
        return next((held for k, held in self.held if k == wanted), None)

    def drop(self, wanted: Key) -> None:
        self.held = [pair for pair in self.held if pair[0] != wanted]

    def get(self, wanted: Key, now: float) -> tuple[Reply, int, bool, bool] | None:
        held = self.find(wanted)
        if held is None:
            return None
        until = held.put_at + held.life
        failed = held.reply.rcode == 2
        if now >= until + (held.life if failed else self.max_stale):
            self.drop(wanted)
            return None
        if failed and now >= until:
            return None
        self.drop(wanted)
        self.held.append((wanted, held))
        held.asked += 1
        stale = now >= until
        early = not failed and held.asked >= 2 and until - now < held.life / 10
        return held.reply, int(now - held.put_at), stale, (stale or early) and now >= held.pause

    def put(self, at: Key, reply: Reply, now: float) -> None:
        old = self.find(at)
        serves = old is not None and old.reply.rcode != 2 and now < old.put_at + old.life + self.max_stale
        if old is not None and serves and reply.rcode == 2:
            old.pause = now + 30
            return
        failed = old is not None and old.reply.rcode == 2
        if old is not None and failed and reply.rcode == 2 and now < old.put_at + old.life:
            return
        self.drop(at)
        first = 5
        if old is not None and failed and now < old.put_at + 2 * old.life:
            first = min(60, 2 * old.life)
        life = first if reply.rcode == 2 else min(reply.ttl, 3600) if reply.rcode else reply.ttl
        if life:
            self.held.append((at, Held(reply, now, life)))


KEYS = [key(text, rtype) for text in ("a.com", "b.a.com", "c.org") for rtype in (1, 16)]
replies = st.one_of(
    st.tuples(st.just("positive"), st.sampled_from([0, 1, 20, 100])),
    st.tuples(st.just("negative"), st.sampled_from([0, 10, 50])),
    st.tuples(st.just("failure"), st.just(0)),
)
steps = st.lists(
    st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), replies), st.sampled_from([0, 1, 2, 9, 30, 60])), max_size=40
)


def told(of: Key, what: tuple[str, int]) -> Reply:
    kind, ttl = what
    return positive(of, ttl) if kind == "positive" else negative(of, ttl) if kind == "negative" else failure(of)


@settings(max_examples=200)
@given(steps, st.sampled_from([0, 50]))
def test_the_cache_does_as_the_model(plan: list[tuple[Key, tuple[str, int] | None, int]], max_stale: int) -> None:
    cache, model, now = AnswerCache(1 << 20, max_stale=max_stale), Naive(max_stale), 1000.0
    for at, what, pause in plan:
        if what is None:
            found, want = cache.get(at, now), model.get(at, now)
            assert (found and found[:4]) == want
        else:
            cache.put(at, told(at, what), now)
            model.put(at, told(at, what), now)
        now += pause
        assert len(cache) == len(model.held)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=80), st.integers(1, 6))
def test_the_longest_unused_goes_first_and_the_bound_holds(plan: list[tuple[bool, int]], room: int) -> None:
    def numbered(number: int) -> Key:
        return key(f"n{number:02d}.com")

    one = big()
    one.put(numbered(0), positive(numbered(0), 60), 0.0)
    cache = AnswerCache(one.size * room)
    order: list[int] = []
    for is_put, number in plan:
        if is_put:
            cache.put(numbered(number), positive(numbered(number), 60), 0.0)
            order = [*(n for n in order if n != number), number][-room:]
        else:
            assert (cache.get(numbered(number), 0.0) is not None) == (number in order)
            if number in order:
                order = [*(n for n in order if n != number), number]
        assert cache.size == len(order) * one.size <= one.size * room


def test_an_entry_too_big_for_the_cache_is_not_kept() -> None:
    cache = AnswerCache(100)
    cache.put(key(), positive(key(), 60), 0.0)
    assert (len(cache), cache.size) == (0, 0)


# -- memory -----------------------------------------------------------------------------------------------------------

_WEIGH = """
import gc, random
from cyfs_ns.reply import make_reply
from cyfs_ns.store import AnswerCache, key_of
from cyfs_ns.wire import name_wire
dice, cache = random.Random(1), AnswerCache(1 << 30)
def rss():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def fill(count):
    for _ in range(count):
        name = name_wire(f"host{dice.randrange(10**6)}.domain{dice.randrange(10**5)}.example.com")
        edge = name_wire(f"edge{dice.randrange(10**6)}.cdn.example.net")
        answer = [(name, 5, 300, edge), (edge, 1, 60, dice.randbytes(4)), (edge, 1, 60, dice.randbytes(4))]
        reply = make_reply(name + bytes([0, 1, 0, 1]), answer=answer)
        cache.put(key_of(name, 1, 1, do=False, cd=False, group="default"), reply, 0.0)
fill(500)
before, counted = rss(), cache.size
fill(100_000)
print(rss() - before, cache.size - counted)
"""


def test_a_hundred_thousand_answers_weigh_what_we_count() -> None:
    run = subprocess.run([sys.executable, "-c", _WEIGH], capture_output=True, text=True, check=True)
    weighed, counted = map(int, run.stdout.split())
    assert weighed <= 60_000_000
    assert 0.85 * weighed <= counted <= 1.25 * weighed


# -- over restarts ----------------------------------------------------------------------------------------------------

WALL = 1_800_000_000.0


def saved() -> tuple[AnswerCache, bytes]:
    cache = AnswerCache(1 << 20, max_stale=100)
    for number in range(30):
        at = key(f"n{number}.example")
        cache.put(at, positive(at, 10 * (number + 1)), 1000.0)
    cache.put(key("gone.example"), failure(key("gone.example")), 1000.0)
    return cache, b"".join(cache.dump(1050.0, WALL))


def test_answers_come_back_with_the_time_they_have_left() -> None:
    cache, content = saved()
    other = AnswerCache(1 << 20, max_stale=100)
    assert other.load(content, 7.0, WALL + 20) == 30
    for number in range(30):
        at = key(f"n{number}.example")
        was, found = cache.get(at, 1070.0), other.get(at, 7.0)
        assert was is not None and found is not None
        assert found[:4] == was[:4] and found.until == was.until - 1063
    assert other.get(key("gone.example"), 7.0) is None, "failures are not worth a restart"
    assert [c.put(key(), positive(key(), 1), 7.0).reply.ttl for c in (cache, other)] == [1, 1]


def test_what_was_too_old_by_then_does_not_come_back() -> None:
    _, content = saved()
    assert AnswerCache(1 << 20).load(content, 7.0, WALL + 20) == 23
    assert AnswerCache(1 << 20, max_stale=100).load(content, 7.0, WALL + 10_000) == 0


def test_a_clock_not_yet_set_makes_all_stale() -> None:
    _, content = saved()
    cache = AnswerCache(1 << 20, max_stale=100)
    assert cache.load(content, 7.0, 1000.0) == 30
    found = cache.get(key("n29.example"), 7.0)
    assert found is not None and found.stale and found.refresh
    assert AnswerCache(1 << 20).load(content, 7.0, 1000.0) == 0


def test_the_order_of_use_and_the_bound_come_back() -> None:
    cache, _ = saved()
    cache.get(key("n5.example"), 1001.0)
    content = b"".join(cache.dump(1001.0, WALL))
    one = big()
    one.put(key("n29.example"), positive(key("n29.example"), 60), 0.0)
    small = AnswerCache(one.size * 3, max_stale=100)
    small.load(content, 0.0, WALL)
    assert len(small) == 3 and small.get(key("n5.example"), 0.0) is not None
    assert small.get(key("n27.example"), 0.0) is None


def test_what_is_already_here_stays() -> None:
    _, content = saved()
    cache, at = big(), key("n29.example")
    newer = cache.put(at, positive(at, 60, b"wxyz"), 0.0).reply
    cache.load(content, 0.0, WALL)
    assert (found := cache.get(at, 0.0)) is not None and found.reply == newer


def test_entries_may_change_between_the_pieces() -> None:
    cache, _ = saved()
    pieces = cache.dump(1050.0, WALL)
    head = next(pieces)
    cache.flush(name_wire("n7.example"))
    cache.put(key(), positive(key(), 60), 1050.0)
    assert AnswerCache(1 << 20, max_stale=100).load(head + b"".join(pieces), 0.0, WALL) == 29


def test_a_torn_end_costs_only_what_is_torn() -> None:
    _, content = saved()
    counts = [AnswerCache(1 << 20, max_stale=100).load(content[:size], 0.0, WALL) for size in range(len(content) + 1)]
    assert counts == sorted(counts) and (counts[0], counts[-2], counts[-1]) == (0, 29, 30)
    zeros = content[:-40] + bytes(4096)
    assert AnswerCache(1 << 20, max_stale=100).load(zeros, 0.0, WALL) == 29


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), max_size=4), st.binary(max_size=80))
def test_spoilt_files_never_raise(changes: list[tuple[int, int]], tail: bytes) -> None:
    cache, content = saved()
    spoilt = bytearray(content)
    for at, octet in changes:
        spoilt[at] = octet
    spoilt += tail
    other = AnswerCache(1 << 20, max_stale=100)
    other.load(bytes(spoilt), 1050.0, WALL)
    other.load(tail, 1050.0, WALL)
    for at in (key(f"n{number}.example") for number in range(30)):
        found, was = other.get(at, 1050.0, count=False), cache.get(at, 1050.0, count=False)
        assert found is None or (was is not None and found.reply == was.reply)


def test_changes_are_counted() -> None:
    cache = big()
    assert cache.changes == 0
    cache.put(key(), positive(key(), 60), 0.0)
    cache.get(key(), 1.0)
    assert cache.changes == 1
