"""The conversation about files: two machines that agree, and strangers' bytes that break nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.transfer import (
    MOST_LINE,
    WAIT,
    Code,
    Data,
    Done,
    Ended,
    Giving,
    Have,
    Hold,
    Misnamed,
    No,
    Offer,
    Start,
    Taking,
)
from cyfs_ns.errors import BadWire, Misuse

CONTENT = bytes(range(256)) * 8
HASH = hashlib.sha256(CONTENT).hexdigest()
OFFER = Offer("film.bin", len(CONTENT), 1_700_000_000_123_456)
NOTHING = hashlib.sha256().hexdigest()


def joined(told: Sequence[object]) -> list[object]:
    """Events with neighbouring bytes put together, since it means nothing how they were cut."""
    found: list[object] = []
    for event in told:
        if isinstance(event, Data) and found and isinstance(found[-1], Data):
            found[-1] = Data(found[-1].data + event.data)
        else:
            found.append(event)
    return found


def test_a_new_file_is_held_started_moved_and_done() -> None:
    giving, taking = Giving(), Taking()
    assert taking.receive_data(giving.offer(OFFER)) == [OFFER]
    assert giving.receive_data(WAIT + taking.hold(0, NOTHING)) == [Hold(0, NOTHING)]
    assert taking.receive_data(WAIT + giving.start(0)) == [Start(0)]
    assert joined(taking.receive_data(CONTENT[:100]) + taking.receive_data(CONTENT[100:] + giving.end(HASH))) == [
        Data(CONTENT),
        Ended(HASH),
    ]
    assert not taking.between
    assert giving.receive_data(taking.done()) == [Done()]
    assert taking.between
    assert giving.may_offer
    assert taking.receive_data(giving.offer(OFFER)) == [OFFER], "and so on with the next"


@pytest.mark.parametrize("offset", [0, 1000, len(CONTENT)])
def test_what_was_begun_is_gone_on_with_or_begun_anew(offset: int) -> None:
    giving, taking = Giving(), Taking()
    taking.receive_data(giving.offer(OFFER))
    giving.receive_data(taking.hold(1000, HASH) if offset == 1000 else taking.hold(offset, HASH))
    taking.receive_data(giving.start(offset))
    assert joined(taking.receive_data(CONTENT[offset:] + giving.end(HASH)))[-1] == Ended(HASH)


def test_what_is_there_already_has_to_be_proved() -> None:
    giving, taking = Giving(), Taking()
    taking.receive_data(giving.offer(OFFER))
    assert giving.receive_data(taking.have()) == [Have()]
    assert taking.receive_data(giving.end(HASH)) == [Ended(HASH)]
    assert giving.receive_data(taking.hold(0, NOTHING)) == [Hold(0, NOTHING)], "another one, which may be replaced"
    taking.receive_data(giving.start(0) + CONTENT + giving.end(HASH))
    assert giving.receive_data(taking.done()) == [Done()]


def test_an_empty_file_has_no_bytes() -> None:
    giving, taking = Giving(), Taking()
    taking.receive_data(giving.offer(Offer("empty", 0, 0)))
    giving.receive_data(taking.hold(0, NOTHING))
    assert taking.receive_data(giving.start(0) + giving.end(NOTHING)) == [Start(0), Ended(NOTHING)]


def test_no_in_answer_leaves_the_next_file_its_chance_and_no_in_the_middle_ends() -> None:
    giving, taking = Giving(), Taking()
    taking.receive_data(giving.offer(OFFER))
    assert giving.receive_data(taking.no(Code.EXISTS, "there")) == [No(Code.EXISTS, "there")]
    assert giving.may_offer
    assert taking.between
    taking.receive_data(giving.offer(OFFER))
    giving.receive_data(taking.hold(0, NOTHING))
    taking.receive_data(giving.start(0) + CONTENT[:10])
    assert giving.receive_data(taking.no(Code.FULL, "x" * 1000)) == [No(Code.FULL, "x" * 300)]
    assert not giving.may_offer


def test_a_name_that_cannot_stand_here_is_an_answer_and_no_fault() -> None:
    taking = Taking()
    (said,) = taking.receive_data(offered(name="../../etc/passwd"))
    assert isinstance(said, Misnamed)
    assert json.loads(taking.no(Code.NAME, said.why))["no"]["code"] == "name"


def offered(**changed: Any) -> bytes:
    fields = {"v": 1, "name": "film.bin", "size": len(CONTENT), "mtime": 0, **changed}
    return json.dumps({"offer": fields}).encode() + b"\n"


@pytest.mark.parametrize(
    "untrusted",
    [
        b"x" * MOST_LINE,
        b"[]\n",
        b"{}\n",
        b'{"offer":1}\n',
        b'{"start":0}\n',
        b'{"end":"' + HASH.encode() + b'"}\n',
        b'{"offer":{},"wait":true}\n',
        b"\xff\n",
        offered(v=2),
        offered(size=-1),
        offered(size=True),
        offered(size=1 << 53),
        offered(size=None),
        offered(name=7),
        offered(mtime="x"),
        offered() + offered(),
    ],
)
def test_nonsense_to_the_taker_is_one_fault_for_ever(untrusted: bytes) -> None:
    taking = Taking()
    with pytest.raises(BadWire):
        taking.receive_data(untrusted)
        taking.receive_data(b"")
    with pytest.raises(BadWire):
        taking.receive_data(offered())


@pytest.mark.parametrize(
    ("answers", "at"),
    [
        (b'{"done":true}\n', 0),
        (b'{"hold":{"offset":99999,"sha256":"' + HASH.encode() + b'"}}\n', 0),
        (b'{"hold":{"offset":0,"sha256":"xyz"}}\n', 0),
        (b'{"hold":{"offset":0,"sha256":"' + HASH.upper().encode() + b'"}}\n', 0),
        (b'{"hold":[]}\n', 0),
        (b'{"no":{"code":1,"text":""}}\n', 0),
        (b'{"what":true}\n', 0),
        (b"z" * MOST_LINE, 0),
        (b'{"have":true}\n{"have":true}\n', 1),
    ],
)
def test_nonsense_to_the_giver_is_one_fault_for_ever(answers: bytes, at: int) -> None:
    giving = Giving()
    giving.offer(OFFER)
    with pytest.raises(BadWire):
        assert len(giving.receive_data(answers)) == at
        giving.receive_data(b"")
    with pytest.raises(BadWire):
        giving.receive_data(b'{"have":true}\n')


def test_what_we_say_at_the_wrong_time_is_our_fault() -> None:
    for wrong in (lambda: Giving().start(0), lambda: Giving().end(HASH), lambda: Taking().done(), Taking().have):
        with pytest.raises(Misuse):
            wrong()


def test_a_code_of_the_future_is_a_failure() -> None:
    giving = Giving()
    giving.offer(OFFER)
    assert giving.receive_data(b'{"no":{"code":"tired","text":"later"}}\n') == [No(Code.FAILED, "later")]


# Strangers

LINES = st.sampled_from(
    [
        offered(),
        offered(size=3),
        offered(name="\x1b"),
        b'{"start":0}\n',
        b'{"start":5}\n',
        b'{"end":"' + HASH.encode() + b'"}\n',
        WAIT,
        b"abc",
        b"\n",
        b'{"hold":{"offset":0,"sha256":"' + HASH.encode() + b'"}}\n',
        b'{"have":true}\n',
        b'{"done":true}\n',
        b'{"no":{"code":"full","text":"t"}}\n',
    ]
)
BYTES = st.lists(LINES | st.binary(max_size=40), max_size=12).map(b"".join)


def run(make: Callable[[], Any], heed: Callable[[Any, Any], None], pieces: Sequence[bytes]) -> tuple[list[object], str]:
    """What comes of these bytes: events, and the fault."""
    machine, events = make(), []
    try:
        for piece in [*pieces, b""]:
            for event in machine.receive_data(piece):
                events.append(event)
                heed(machine, event)
    except BadWire as bad:
        return joined(events), str(bad)
    return joined(events), ""


def take(machine: Taking, event: object) -> None:
    match event:
        case Offer():
            machine.hold(0, NOTHING)
        case Misnamed():
            machine.no(Code.NAME, "")
        case Ended():
            machine.done()


def given_to() -> Giving:
    machine = Giving()
    machine.offer(OFFER)
    return machine


def give(machine: Giving, event: object) -> None:
    match event:
        case Hold():
            machine.start(0)
            machine.end(HASH)
        case Have():
            machine.end(HASH)
        case Done() | No() if machine.may_offer:
            machine.offer(OFFER)


@settings(max_examples=200, deadline=None)
@given(BYTES, st.lists(st.integers(1, 30), max_size=40))
def test_whatever_strangers_say_is_an_event_or_a_fault_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    # One line at a time, as the other side may only speak when it was answered.
    for make, heed in ((Taking, take), (given_to, give)):
        bytewise = run(make, heed, [data[i : i + 1] for i in range(len(data))])
        pieces, at = [], 0
        for cut in cuts:
            pieces.append(data[at : at + cut])
            at += cut
        pieces.append(data[at:])
        again = run(make, heed, [piece[i : i + 1] for piece in pieces for i in range(len(piece))])
        assert again == bytewise
        whole = run(make, lambda machine, event: None, [data])
        unanswered = run(make, lambda machine, event: None, [data[i : i + 1] for i in range(len(data))])
        assert whole == unanswered
