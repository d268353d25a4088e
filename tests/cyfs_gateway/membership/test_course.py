"""What is said to an SN, and when: the pure part, by its own clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_gateway.membership import (
    AGAIN,
    LOOK_AGAIN,
    Course,
    Step,
    Word,
    check_domain,
    next_seq,
    public_addresses,
    sign_word,
)
from cyfs_gateway.sn.talk import Here, Leased, Place
from cyfs_gateway.sn.zoneupdate import MOST_ADDRESSES, read_update
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import dev_did
from tests.cyfs_ns.identity.identities import NAS, secret

WORD = Word(("192.0.2.1",))


def here(names: Sequence[str] = ("alice",), seen: str = "198.51.100.9", leases: Sequence[Place] = ()) -> Here:
    return Here(
        domain="sn.example",
        did=dev_did(secret(9).public),
        seen=seen,
        knows=bool(names),
        names=tuple(names),
        leases=tuple(Leased(place) for place in leases),
    )


def settled(now: float = 0.0, word: Word | None = None, *, expose: Sequence[str] = ()) -> Course:
    """One to which all is said."""
    course = Course("", expose, document=True)
    if word is not None:
        course.say(word)
    course.looked(here(), now)
    course.shown()
    course.told(course.word, now)
    return course


def test_the_first_conversation_goes_step_by_step() -> None:
    course = Course("", document=True)
    course.say(WORD)
    assert course.why == "not reached yet"
    assert course.next_step(0) is Step.LOOK
    course.looked(here(()), 0)
    assert course.next_step(0) is Step.SHOW
    course.shown()
    assert course.next_step(0) is Step.LOOK, "before it knew us it could not tell our names"
    course.looked(here(), 0)
    assert (course.next_step(0), course.name) == (Step.TELL, "alice")
    course.told(WORD, 0)
    assert (course.next_step(0), course.why) == (None, "")


def test_a_word_is_told_again_before_the_sn_forgets_it_and_nothing_is_told_once() -> None:
    course = settled(0, WORD)
    course.looked(here(), AGAIN - 1)
    assert course.next_step(AGAIN - 1) is None
    assert course.next_step(AGAIN) is Step.TELL
    silent = settled(0)
    silent.looked(here(), 10 * AGAIN)
    assert silent.next_step(10 * AGAIN) is None
    assert silent.next_deadline() == 10 * AGAIN + LOOK_AGAIN


def test_a_word_that_changes_while_it_is_told_is_told_again_at_once() -> None:
    course = settled(0, WORD)
    course.say(Word(("192.0.2.2",)))
    assert course.next_step(0) is Step.TELL
    telling = course.word
    course.say(Word(("192.0.2.3",)))
    course.told(telling, 0)
    assert course.next_step(0) is Step.TELL


def test_what_the_sn_sees_anew_is_answered_with_our_word() -> None:
    course = settled(0, WORD)
    course.looked(here(seen="203.0.113.5"), 1)
    assert course.next_step(1) is Step.TELL


def test_a_new_tunnel_and_a_new_network_look_at_once() -> None:
    course = settled(0, WORD)
    course.anew()
    assert course.next_step(0) is Step.LOOK
    course.looked(here(), 0)
    assert course.next_step(0) is None


def test_who_is_refused_waits_longer_each_time_and_not_for_ever() -> None:
    course, now, waits = settled(0, WORD), 0.0, []
    course.say(Word(("192.0.2.2",)))
    for _ in range(8):
        course.refused(Step.TELL, "no", now)
        waits.append(course._due[Step.TELL] - now)
        now = course._due[Step.TELL]
    assert waits == sorted(waits) and waits[0] >= 1 and waits[-1] == waits[-2] == 900
    assert course.why == "telling what stands in its DNS: no"
    course.told(course.word, now)
    assert course.why == ""


def test_nothing_is_signed_while_it_is_not_clear_who_it_is() -> None:
    course = settled(0, WORD)
    course.anew()
    course.say(Word(("192.0.2.2",)))
    course.refused(Step.LOOK, "it says that its domain is other.example", 0)
    assert course.next_step(0) is None
    assert course.next_deadline() == 5


def test_who_has_nothing_to_show_says_so_and_shows_nothing() -> None:
    course = Course("alice", document=False)
    course.say(WORD)
    course.looked(here(()), 0)
    assert course.next_step(0) is None
    assert "no document" in course.why
    course.renewed(document=True)
    course.looked(here(()), 0)
    assert course.next_step(0) is Step.SHOW


def test_the_document_is_shown_again_to_who_has_forgotten_us() -> None:
    course = settled(0, WORD)
    course.unknown()
    assert course.next_step(0) is Step.SHOW


def test_who_was_removed_shows_its_document_again_and_not_at_every_look() -> None:
    course = settled(0, WORD)
    course.looked(here(()), 1)
    assert (course.next_step(1), course.why) == (None, "showing our document: not done yet")
    assert course.next_step(6) is Step.SHOW
    course.refused(Step.SHOW, "its owner removed this machine", 6)
    assert course.why == "showing our document: its owner removed this machine"


def test_what_leads_here_is_claimed_by_its_full_name_and_again_in_time() -> None:
    course = settled(0, expose=["photos", "@", "www.home.example", "tcp:2222", "udp:53/dns"])
    wanted = [
        Place("name", name="photos.alice.sn.example"),
        Place("name", name="alice.sn.example"),
        Place("name", name="www.home.example"),
        Place("tcp", 2222),
        Place("udp", 53, "dns"),
    ]
    assert course.next_step(0) is Step.CLAIM and course.places == wanted
    assert course.why == "claiming what leads here: not done yet"
    course.claimed([*(Leased(place) for place in wanted[:3]), *(Leased(place, 600) for place in wanted[3:])], 0)
    assert (course.leads, course.next_step(299), course.why) == (wanted, None, "")
    assert course.next_step(300) is Step.CLAIM
    course.anew()  # the SN may have begun anew
    course.looked(here(), 301)
    assert course.next_step(301) is Step.CLAIM


@given(st.lists(st.floats(0, 4e9, allow_nan=False), min_size=2, max_size=30))
def test_numbers_grow_whatever_the_clock_does(clock: list[float]) -> None:
    last, seen = 0, []
    for wall in clock:
        seen.append(last := next_seq(last, wall))
    assert seen == sorted(set(seen))
    assert seen[0] == int(clock[0] * 1000) or seen[0] == 1


@pytest.mark.parametrize(
    ("told", "before", "host", "others", "why"),
    [
        ("sn.example", "", "", (), ""),
        ("sn.example", "sn.example", "sn.example", ("other.example",), ""),
        ("sn.example", "", "de1.sn.example", (), ""),
        ("sn.example", "", "example", (), ""),
        ("sn.example", "", "xsn.example", (), "it is called xsn.example"),
        ("other.example", "sn.example", "", (), "it was sn.example before"),
        ("other.example", "", "", ("other.example",), "which is another SN's"),
    ],
)
def test_an_sn_has_one_domain_and_not_another_ones(
    told: str, before: str, host: str, others: tuple[str, ...], why: str
) -> None:
    if not why:
        check_domain(told, before, host, others)
        return
    with pytest.raises(BadWire, match=why):
        check_domain(told, before, host, others)


def test_a_word_is_a_token_for_one_sn_with_all_that_is_to_say() -> None:
    wall = time.time()
    word = Word(("192.0.2.1", "2001:db8::1"), True, {"": ("x" * 43,)})
    token = sign_word(word, domain="sn.example", name="alice", device="ood1", key=NAS, seq=7, wall=wall)
    update, read = read_update(token)
    assert read.verify(NAS.public)
    assert (update.audience, update.name, update.device, update.seq) == ("sn.example", "alice", "ood1", 7)
    assert (update.addresses, update.exposed, dict(update.challenges)) == (word.addresses, True, word.challenges)


def test_only_addresses_that_mean_something_elsewhere_are_told() -> None:
    own = ["127.0.0.1", "192.168.1.2", "10.0.0.1", "fe80::1", "fd00::1", "100.64.0.9", "8.8.8.8", "2606:4700::1"]
    assert public_addresses(own) == ("8.8.8.8", "2606:4700::1")
    assert public_addresses(reversed(own)) == public_addresses(own)
    assert len(public_addresses(f"8.8.8.{n}" for n in range(40))) == MOST_ADDRESSES


def test_there_is_always_a_next_look() -> None:
    assert Course("", document=False).next_deadline() == -inf
    assert settled(5).next_deadline() == 5 + LOOK_AGAIN
