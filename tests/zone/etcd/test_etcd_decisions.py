"""What is decided about members: seats and their URLs, the next step of a cluster, the start of a machine, its room."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.keys import SecretKey
from zone.etcd.care import Care, Room, care_for
from zone.etcd.launch import Launch, Trouble, diagnose, flags, heartbeat
from zone.etcd.membership import (
    LEARNER_SILENCE,
    SILENCE,
    ActOn,
    AddLearner,
    HandOver,
    Member,
    Nothing,
    Promote,
    Remove,
    View,
    next_step,
)
from zone.etcd.seats import Seat, check_url, owner_of, socket_name
from zone.etcd.start import (
    Begin,
    Found,
    Mark,
    Run,
    Stage,
    Told,
    Wait,
    abandoned,
    check_urls,
    read_mark,
    remembered,
    removed,
    rivals,
    way_to_start,
)
from zone.etcd.talk import MOST_LINE, Report, read_report, write_report

OWNER, KEYS = SecretKey(bytes(31) + b"\x01"), [SecretKey(bytes(31) + bytes([number])) for number in range(2, 8)]
ZONE = Did("web", "home.example")


def seat(name: str, key: int) -> Seat:
    return Seat(name, Did("web", f"{name}.home.example"), KEYS[key].public)


ONE, TWO, THREE = (seat(f"ood{number + 1}", number) for number in range(3))
ALL = (ONE, TWO, THREE)
LIVES = ("00000001", "00000002", "00000003", "00000004")


# Seats


def test_a_url_tells_the_machine_its_key_and_its_life():
    url = TWO.url(LIVES[0])
    assert url == check_url(url) == f"unix://ood2.{TWO.mark}.00000001:1"
    assert owner_of(url, ALL) is TWO
    assert owner_of(url, (ONE, seat("ood2", 5))) is None
    assert owner_of(url, (Seat("other", TWO.did, TWO.key),)) is None
    assert len(socket_name(Seat("a" * 63, TWO.did, TWO.key).url(LIVES[0]))) < 100


@pytest.mark.parametrize(
    "bad", ["", "http://127.0.0.1:1", "unix:///etc/x:1", "unix://a.b:1", ONE.url("1")[:-1], ONE.url(LIVES[0]) + "\n"]
)
def test_other_urls_are_nobodys(bad: str):
    assert owner_of(bad, ALL) is None
    with pytest.raises(BadWire):
        check_url(bad)
    with pytest.raises(BadWire):
        check_urls([bad])


# The next step


def member(of: Seat, number: int, life: str = LIVES[0], *, learner: bool = False) -> Member:
    return Member(id=number, url=of.url(life), is_learner=learner)


def view(*members: Member, seats: tuple[Seat, ...] = ALL, **changes: object) -> View:
    asked = {one.name: one.url(LIVES[0]) for one in seats}
    silent = dict.fromkeys(asked.values(), 0.0)
    told = View(seats=seats, document=1, acted_on=1, members=members, leader=1, asked=asked, silent=silent)
    return replace(told, **changes)


FIRST, SECOND, THIRD = member(ONE, 1), member(TWO, 2), member(THREE, 3)


def test_one_becomes_three_one_at_a_time():
    assert next_step(view(FIRST)) == AddLearner(url=TWO.url(LIVES[0]), why="ood2 is an OOD and has no member")
    learning = member(TWO, 2, learner=True)
    assert next_step(view(FIRST, learning)) == Promote(id=2, why="ood2 catches up")
    assert isinstance(next_step(view(FIRST, SECOND)), AddLearner)
    assert next_step(view(FIRST, SECOND, THIRD)) == Nothing(settled=True, why="3 of 3 OODs are members")


def test_only_the_leader_acts_and_by_the_newest_document():
    assert next_step(view(FIRST, leader=0)) == Nothing(why="another member leads")
    assert next_step(view(FIRST, document=5)) == ActOn(document=5, why="the zone document is of 5")
    assert "a newer one of 7" in next_step(view(FIRST, acted_on=7)).why
    assert not next_step(view(FIRST, seats=())).settled  # type: ignore[union-attr]


def test_who_begins_anew_is_removed_and_then_added():
    again = TWO.url(LIVES[1])
    told = {**view().asked, "ood2": again}
    assert next_step(view(FIRST, SECOND, THIRD, asked=told)) == Remove(
        id=2, why=f"ood2 begins anew: the data of {SECOND.url} are gone"
    )
    assert next_step(view(FIRST, THIRD, asked=told)) == AddLearner(url=again, why="ood2 is an OOD and has no member")


def test_a_replaced_key_goes_first():
    new = seat("ood2", 4)
    step = next_step(view(FIRST, SECOND, THIRD, seats=(ONE, new, THREE)))
    assert step == Remove(id=2, why=f"{SECOND.url} is of no OOD of the zone document")


def test_another_key_of_the_same_name_supersedes_nobody():
    told = {**view().asked, "ood2": seat("ood2", 4).url(LIVES[1])}
    assert next_step(view(FIRST, SECOND, THIRD, asked=told)).settled  # type: ignore[union-attr]


def test_nobody_is_removed_where_too_few_would_be_alive():
    silent = {**view().silent, THIRD.url: SILENCE}
    told = {**view().asked, "ood2": TWO.url(LIVES[1])}
    step = next_step(view(FIRST, SECOND, THIRD, asked=told, silent=silent))
    assert isinstance(step, Nothing)
    assert "too few" in step.why


def test_a_learner_gets_no_vote_that_would_cost_the_majority():
    silent = {**view().silent, SECOND.url: 99.0}
    learner = member(THREE, 3, learner=True)
    # Where most are dead there is no leader, but one may not know yet.
    dead = member(seat("ood4", 3), 4)
    seats = (*ALL, seat("ood4", 3))
    step = next_step(view(FIRST, SECOND, dead, learner, seats=seats, silent={learner.url: 0.0}))
    assert step == Nothing(why="ood3 gets its vote when more members are alive")
    step = next_step(view(FIRST, SECOND, learner, silent={**silent, learner.url: 99.0}))
    assert isinstance(step, Nothing)
    assert isinstance(next_step(view(FIRST, SECOND, learner, silent=silent)), Promote)
    assert isinstance(next_step(view(FIRST, learner, down=frozenset({learner.url}))), Nothing)


def test_a_learner_that_does_not_come_makes_room_for_who_waits():
    learner = member(TWO, 2, learner=True)
    gone = {THREE.url(LIVES[0]): 0.0, learner.url: LEARNER_SILENCE}
    assert next_step(view(FIRST, learner, silent=gone)) == Remove(id=2, why="ood2 does not come, and ood3 waits")
    assert isinstance(next_step(view(FIRST, learner, silent=gone, asked={"ood1": FIRST.url})), Nothing)
    # A leader that listens for a moment has not heard of everybody yet.
    assert isinstance(next_step(view(FIRST, learner, silent={}, listening=1.0)), Nothing)


def test_a_leader_without_a_seat_hands_over():
    step = next_step(view(FIRST, SECOND, THIRD, seats=(TWO, THREE)))
    assert isinstance(step, HandOver)
    assert step.to == 2
    assert isinstance(next_step(view(FIRST, seats=(TWO,))), AddLearner)


def test_what_is_missing_is_told():
    assert "ood3" in next_step(view(FIRST, SECOND, asked={"ood1": FIRST.url, "ood2": SECOND.url})).why
    assert next_step(view(FIRST, SECOND, THIRD, down=frozenset({SECOND.url}))).why == "ood2 does not answer"


def test_from_anywhere_a_cluster_gets_to_its_seats_without_losing_its_majority():
    """Machines die, come back, are wiped and replaced; whoever leads takes one step after another."""
    for round_ in range(300):
        dice = random.Random(round_)
        seats, keys = list(ALL), 3
        members, number = [Member(id=1, url=ONE.url(LIVES[0]))], 1
        lives = dict.fromkeys(seats, LIVES[0])
        alive = set(seats)
        for turn in range(60):
            if turn < 30:  # troubles
                which = dice.randrange(3)
                name = f"ood{which + 1}"
                others = [one for one in members if not one.is_learner and not seats[which].owns(one.url)]
                safe = sum(owner_of(one.url, tuple(seats)) in alive for one in others)
                voters = [one for one in members if not one.is_learner]
                kind = dice.choice(["die", "come", "wipe", "replace", "rest"])
                if kind != "come" and kind != "rest" and safe < len(voters) // 2 + 1:
                    continue  # it would be the end of any cluster
                if kind == "die":
                    alive.discard(seats[which])
                elif kind == "come":
                    alive.add(seats[which])
                elif kind == "wipe":
                    lives[seats[which]] = f"{round_:04x}{turn:04x}"
                elif kind == "replace":
                    alive.discard(seats[which])
                    keys = 3 + (keys - 2) % 3
                    seats[which] = seat(name, keys)
                    lives[seats[which]] = f"{round_:04x}{turn:04x}"
                    alive.add(seats[which])
            else:
                alive = set(seats)
            here = tuple(seats)
            running = {lives[one] and one.url(lives[one]): one for one in alive}
            leaders = [one for one in members if not one.is_learner and one.url in running]
            voters = [one for one in members if not one.is_learner]
            assert len(leaders) >= len(voters) // 2 + 1, (round_, turn, "the majority is lost")
            leader = dice.choice(leaders)
            step = next_step(
                View(
                    seats=here,
                    document=1,
                    acted_on=1,
                    members=tuple(members),
                    leader=leader.id,
                    asked={one.name: one.url(lives[one]) for one in alive},
                    silent={one.url(lives[one]): 0.0 for one in alive},
                    listening=1e9,
                )
            )
            if isinstance(step, AddLearner):
                number += 1
                members.append(Member(id=number, url=step.url, is_learner=True))
            elif isinstance(step, Remove):
                assert step.id != leader.id
                members = [one for one in members if one.id != step.id]
            elif isinstance(step, Promote):
                members = [replace(one, is_learner=one.is_learner and one.id != step.id) for one in members]
        assert isinstance(step, Nothing), (round_, step)
        assert step.settled, (round_, step)
        assert {owner_of(one.url, tuple(seats)) for one in members} == set(seats)


# The start of a machine

CLUSTER = Told(cluster="c1", urls=(ONE.url(LIVES[0]),), leads=True)


def start(own: Seat, mark: Mark | None = None, *, has_data: bool = False, **more: object):
    told, asked = more.pop("told", {}), more.pop("asked", {})
    return way_to_start(own, ALL, mark, told, asked, has_data=has_data, **more)  # type: ignore[arg-type]


def test_who_may_found():
    assert start(ONE, may_found=True) == Begin(
        stage=Stage.FOUNDING, why="the owner permits to found the zone's cluster"
    )
    for way in (
        start(ONE),
        start(TWO, may_found=True),
        start(ONE, may_found=True, told={"ood2": CLUSTER}),
        start(ONE, Mark(LIVES[0], Stage.MEMBER), may_found=True),
    ):
        assert isinstance(way, Begin)
        assert way.stage is Stage.JOINING


FIRSTS = tuple(one.url(LIVES[0]) for one in ALL)
ASKED = {"ood2": FIRSTS[1], "ood3": FIRSTS[2]}
FOUNDING = Mark(LIVES[0], Stage.FOUNDING)
BEGUN = Told(cluster="", urls=FIRSTS)


def test_a_cluster_is_founded_with_who_has_asked():
    assert start(ONE, FOUNDING, asked=ASKED) == Found(urls=FIRSTS, why="3 of 3 OODs found the zone's cluster")
    two = {"ood3": FIRSTS[2]}
    for asked in ({}, two, {"ood3": FIRSTS[1]}, {**two, "ood2": FIRSTS[0]}):
        assert isinstance(start(ONE, FOUNDING, asked=asked), Wait)
    late = start(ONE, FOUNDING, asked=two, is_late=True)
    assert late == Found(urls=(FIRSTS[0], FIRSTS[2]), why="2 of 3 OODs found the zone's cluster")
    assert start(ONE, FOUNDING, is_late=True) == Found(urls=FIRSTS[:1], why="1 of 3 OODs found the zone's cluster")


def test_all_of_them_begin_it_alike():
    joining = Mark(LIVES[0], Stage.JOINING)
    told = {"ood1": BEGUN, "ood3": None}
    assert start(TWO, joining, told=told) == Found(
        urls=FIRSTS, why="ood1 founds the zone's cluster together with this machine"
    )
    for mark in (FOUNDING, joining):
        way = start(TWO, replace(mark, urls=FIRSTS), told=told, asked=ASKED)
        assert way == Run(life=LIVES[0], urls=FIRSTS, is_new=True, why="one of the zone's first members")
    assert isinstance(start(TWO, Mark(LIVES[1], Stage.JOINING), told=told), Wait), "another life was counted on"
    assert isinstance(start(ONE, Mark(LIVES[1], Stage.FOUNDING), told={"ood2": BEGUN}, asked=ASKED), Wait)


def test_a_founder_that_crashed_goes_on_unless_somebody_else_has_founded():
    mark = replace(FOUNDING, urls=FIRSTS)
    assert start(ONE, mark, told={"ood2": None}) == Run(
        life=LIVES[0], urls=FIRSTS, is_new=True, why="one of the zone's first members"
    )
    assert start(ONE, mark, has_data=True) == Run(life=LIVES[0], why="the data of this life are here")
    elsewhere = replace(CLUSTER, urls=FIRSTS[1:])
    assert isinstance(start(ONE, mark, told={"ood2": elsewhere}), Begin)
    assert isinstance(start(ONE, FOUNDING, told={"ood2": elsewhere}, asked=ASKED), Begin)
    # The others were faster, with it.
    assert start(ONE, mark, told={"ood2": replace(CLUSTER, urls=FIRSTS)}) == Run(
        life=LIVES[0], urls=FIRSTS, why="a member of cluster c1"
    )


def test_what_was_never_founded_and_never_will_be_is_given_up():
    mark, gone = replace(FOUNDING, urls=FIRSTS), {"ood2": TWO.url(LIVES[1]), "ood3": THREE.url(LIVES[1])}
    for has_data in (True, False):
        way = start(ONE, mark, has_data=has_data, asked=gone, told={"ood2": None})
        assert isinstance(way, Begin)
        assert way.stage is Stage.FOUNDING
    assert "never founded" in abandoned(ALL, mark, gone)
    assert "never founded" in abandoned((ONE,), mark, {})
    assert not abandoned(ALL, mark, {**gone, "ood3": FIRSTS[2]}), "two of three elect a leader"
    assert not abandoned(ALL, replace(mark, stage=Stage.MEMBER), gone), "it had a leader"
    assert not abandoned(ALL, FOUNDING, gone)


def test_who_joins_waits_until_it_is_added():
    mark = Mark(LIVES[0], Stage.JOINING)
    assert start(TWO, mark) == Wait(why="no other OOD says of which cluster to be a member")
    assert start(TWO, mark, told={"ood1": CLUSTER}) == Wait(why="not added to cluster c1 yet")
    added = replace(CLUSTER, urls=(*CLUSTER.urls, TWO.url(LIVES[0])))
    assert start(TWO, mark, told={"ood3": None, "ood1": added}) == Run(
        life=LIVES[0], urls=added.urls, why="a member of cluster c1"
    )


def test_a_member_that_does_not_answer_is_a_cluster_all_the_same():
    for mark in (None, FOUNDING, Mark(LIVES[0], Stage.JOINING)):
        assert remembered(mark) is None
    assert remembered(replace(FOUNDING, urls=FIRSTS)) == BEGUN
    silent = remembered(Mark(LIVES[0], Stage.MEMBER, "c1"))
    assert silent == Told(cluster="c1", urls=())
    # The disk of the founder was wiped while the owner's permission still stood.
    for told in ({"ood2": silent}, {"ood2": silent, "ood3": None}):
        way = start(ONE, told=told, may_found=True)
        assert isinstance(way, Begin)
        assert way.stage is Stage.JOINING
    assert isinstance(start(ONE, replace(FOUNDING, urls=FIRSTS), told={"ood2": silent}), Wait)
    # Who leads has the word.
    way = start(TWO, Mark(LIVES[0], Stage.MEMBER), is_lost="damaged", told={"ood1": silent, "ood3": CLUSTER})
    assert way == Begin(stage=Stage.JOINING, why="damaged")
    joining = Mark(LIVES[0], Stage.JOINING)
    assert start(TWO, joining, told={"ood1": silent}) == Wait(why="not added to cluster c1 yet")


def test_who_lost_its_data_begins_anew_and_never_as_it_was():
    mark = Mark(LIVES[0], Stage.MEMBER)
    assert start(TWO, mark) == Begin(stage=Stage.JOINING, why="the data of this life are gone")
    for stage in Stage:
        way = start(TWO, Mark(LIVES[0], stage), has_data=True, is_lost="damaged", told={"ood1": CLUSTER})
        assert way == Begin(stage=Stage.JOINING, why="damaged")
    for told in ({}, {"ood1": None}, {"ood1": replace(CLUSTER, leads=False)}):
        way = start(TWO, mark, has_data=True, is_lost="damaged", told=told, may_found=True)
        assert isinstance(way, Wait)
        assert "restore a snapshot" in way.why


def test_who_is_no_ood_runs_on_until_it_is_removed_and_no_longer():
    other = seat("ood9", 4)
    assert isinstance(start(other), Wait)
    assert isinstance(start(other, Mark(LIVES[0], Stage.MEMBER), has_data=True), Run)


def test_a_member_without_a_leader_learns_from_one_that_it_was_removed():
    url = TWO.url(LIVES[0])
    sure = replace(CLUSTER, acts=True)
    mark = Mark(LIVES[0], Stage.MEMBER, "c1")
    assert removed(TWO, mark, {"ood1": sure}) == "ood1 leads cluster c1, of which this machine's member is none"
    for told in (None, CLUSTER, replace(sure, urls=(*sure.urls, url))):
        assert not removed(TWO, mark, {"ood1": told, "ood3": None})
    assert not removed(TWO, Mark(LIVES[0], Stage.JOINING), {"ood1": sure}), "it may have been added just now"
    again = {"ood1": replace(sure, urls=(url,))}
    assert removed(TWO, replace(mark, cluster="c0"), again), "the zone goes on from a snapshot"
    assert not removed(TWO, replace(mark, cluster=""), again)
    assert rivals("c0", {"ood1": sure, "ood2": replace(sure, leads=False), "ood3": None}) == "ood1"
    assert not rivals("c1", {"ood1": sure})
    # Whoever has no seat either does not begin anew.
    way = start(seat("ood9", 4), Mark(LIVES[0], Stage.MEMBER), has_data=True, is_lost="removed", told={"ood1": sure})
    assert isinstance(way, Wait)


def test_what_machines_tell_each_other_is_read_as_it_was_said_and_nothing_else_is():
    url = ONE.url(LIVES[0])
    for told in (None, BEGUN, CLUSTER, replace(CLUSTER, acts=True, leads=False)):
        for report in (Report(url="", told=told), Report(url=url, runs=True, told=told)):
            assert read_report(write_report(report).rstrip()) == report
    for bad in (b"", b"[]", b'{"url":1,"runs":true}', b'{"url":"http://x","runs":true}', b'{"url":""}', b"\xff"):
        with pytest.raises(BadWire):
            read_report(bad)
    for bad in (
        b'"cluster":""',
        b'"cluster":1,"urls":[],"leads":true,"acts":true',
        b'"cluster":"12345678901234567","urls":[],"leads":true,"acts":true',
        b'"cluster":"1","urls":[],"leads":1,"acts":true',
        b'"cluster":"1","urls":["http://x"],"leads":true,"acts":true',
        b'"cluster":"1","urls":[1],"leads":true,"acts":true',
        b'"cluster":"1","urls":[%s],"leads":true,"acts":true' % b",".join([b'"%s"' % url.encode()] * 17),
    ):
        with pytest.raises(BadWire):
            read_report(b'{"url":"","runs":false,' + bad + b"}")
    long = Seat("a" * 63, ONE.did, ONE.key).url(LIVES[0])
    assert len(write_report(Report(url=long, told=replace(CLUSTER, urls=(long,) * 16)))) < MOST_LINE


@given(st.binary(max_size=200))
def test_strangers_bytes_are_bad_wire_or_something(data: bytes):
    for read in (read_report, read_mark):
        with suppress(BadWire):
            read(data)


def test_a_mark_is_read_as_it_was_written_and_nothing_else_is_one():
    for stage in Stage:
        for mark in (
            Mark(LIVES[0], stage),
            Mark(LIVES[0], stage, "c286c6477968505e"),
            Mark(LIVES[0], stage, "", FIRSTS),
        ):
            assert read_mark(mark.text()) == mark
    whole = Mark(LIVES[0], Stage.MEMBER, "c1").text()
    for old, new in ((b"0000000", b"x"), (b"member", b"king"), (b"cluster", b"klaster"), (b"c1", b"c" * 17)):
        with pytest.raises(BadWire):
            read_mark(whole.replace(old, new))
    for bad in (b"", b"[]", b"{}"):
        with pytest.raises(BadWire):
            read_mark(bad)


# The program


def test_flags_name_everybody_and_the_pace_follows_the_round_trip():
    told = flags(Launch(url=TWO.url(LIVES[0]), urls=(ONE.url(LIVES[0]), TWO.url(LIVES[0])), rtt=0.18))
    names = [url.removeprefix("unix://").removesuffix(":1") for url in (ONE.url(LIVES[0]), TWO.url(LIVES[0]))]
    assert f"--name={names[1]}" in told
    assert f"--initial-cluster={names[0]}={ONE.url(LIVES[0])},{names[1]}={TWO.url(LIVES[0])}" in told
    assert "--initial-cluster-state=existing" in told
    assert f"--initial-cluster-token={ONE.url(LIVES[0])}" in told
    assert "--heartbeat-interval=200" in told
    assert "--election-timeout=2000" in told
    assert [heartbeat(rtt) for rtt in (0.0, 0.05, 0.101, 0.4, 9.0)] == [100, 100, 150, 400, 1000]
    assert "--initial-cluster-state=new" in flags(Launch(url=ONE.url(LIVES[0]), is_new=True))


@pytest.mark.parametrize(
    ("words", "trouble"),
    [
        (["ready", '{"level":"fatal","error":"write: no space left on device"}', "exit"], Trouble.NO_ROOM),
        (["the member has been permanently removed from the cluster"], Trouble.REMOVED),
        (['{"level":"panic","msg":"failed to open WAL","error":"walpb: crc mismatch"}'], Trouble.DAMAGED),
        (['{"level":"fatal","msg":"failed to read WAL","error":"unexpected EOF"}'], Trouble.DAMAGED),
        (["panic: freelist: checksum error"], Trouble.DAMAGED),
        (
            ['{"level":"warn","msg":"lost TCP streaming connection with remote peer","error":"unexpected EOF"}'],
            Trouble.OTHER,
        ),
        (['{"level":"fatal","msg":"listen: bind: address already in use"}', "goroutine 1"], Trouble.OTHER),
        ([], Trouble.OTHER),
        (['{"level":"info","msg":"no space left on device"}'], Trouble.OTHER),
    ],
)
def test_last_words_are_understood(words: list[str], trouble: Trouble):
    told = diagnose(words)
    assert told.trouble is trouble
    assert str(told).startswith("etcd: ")
    assert "goroutine" not in str(told)


def test_a_member_is_cared_for():
    mega = 1024 * 1024
    room = Room(size=10 * mega, used=mega, quota=1024 * mega, alarm=False)
    assert care_for(room) == Care()
    big = replace(room, size=100 * mega)
    assert care_for(big).defragment
    assert care_for(replace(big, leads=True)) == Care()
    assert care_for(replace(big, size=600 * mega, leads=True)).defragment
    full = replace(room, size=1024 * mega, used=1000 * mega, alarm=True)
    assert (care_for(full).compact, care_for(full).disarm) == (True, False)
    again = care_for(replace(full, used=10 * mega))
    assert (again.defragment, again.disarm) == (True, True)
