"""Tasks of a node, decided: stories of single tasks, and daemons that end at any moment."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from node.loop.ops import MOST_ATTEMPTS, MOST_OPS, Begin, Cancel, Op, Ops, Receipt, read_op, read_receipt

WORK = {"image": "web:2", "kind": "process", "command": ["migrate"]}
RUN = {"kind": "run", "service": "web", "epoch": 1, "work": WORK}
PREPARE = {"kind": "prepare", "service": "web", "epoch": 1, "work": WORK}
REMOVE = {"kind": "remove-volume", "service": "web", "volume": "data", "epoch": 1}


def text(page: object, **more: object) -> str:
    return json.dumps({**page, **more} if isinstance(page, dict) else page)


@dataclass
class Play:
    """A store without delay, and one daemon after the other."""

    written: dict[str, str] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)
    items: set[str] = field(default_factory=set)
    here: set[str] = field(default_factory=set)
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.daemon()

    def daemon(self) -> None:
        """Another one: the one before was killed."""
        self.ops = Ops(self.wall)

    def wall(self) -> float:
        self.now += 1
        return self.now

    def know(self, **written: str | None) -> list[Any]:
        for name, page in written.items():
            if page is None:
                self.written.pop(name, None)
            else:
                self.written[name] = page
        return self.go_on()

    def go_on(self) -> list[Any]:
        self.ops.know(self.written, self.stored)
        return self.turn()

    def turn(self) -> list[Any]:
        self.ops.decide(self.items.__contains__, self.here.__contains__)
        self.tell()
        return self.ops.steps()

    def tell(self) -> None:
        receipts = self.ops.receipts()
        self.stored = {name: json.dumps(receipt.as_plain()) for name, receipt in receipts.items()}
        self.ops.told(receipts)

    def said(self, name: str) -> tuple[str, int]:
        receipt = read_receipt(self.stored[name])
        return receipt.state, receipt.attempts

    def why(self, name: str) -> str:
        return read_receipt(self.stored[name]).why


def test_a_task_is_announced_done_and_not_done_again() -> None:
    play = Play()
    assert play.know(a=text(RUN)) == [Begin(read_op("a", text(RUN)))]
    assert play.said("a") == ("running", 1)
    play.ops.ended(read_op("a", text(RUN)), "it exited with 0")
    assert play.turn() == []
    assert play.said("a") == ("done", 1)
    play.daemon()
    assert play.go_on() == []
    assert play.said("a") == ("done", 1)
    assert play.know(a=text(RUN, epoch=2)) == [Begin(read_op("a", text(RUN, epoch=2)))]


def test_nothing_begins_before_the_store_says_so() -> None:
    ops = Ops(lambda: 5.0)
    ops.know({"a": text(RUN)}, {})
    ops.decide(lambda _: False, lambda _: False)
    assert ops.receipts()["a"].state == "running"
    assert ops.steps() == []
    ops.put_back("a")
    assert ops.receipts()["a"].state == "pending"
    assert ops.receipts()["a"].attempts == 0
    ops.know({"a": text(RUN, epoch=2)}, {})
    assert ops.receipts()["a"] == Receipt("pending", 2)


def test_the_echo_of_an_announcement_changes_nothing() -> None:
    play = Play()
    play.ops.know({"a": text(RUN)}, {})
    play.ops.decide(lambda _: False, lambda _: False)
    play.tell()
    play.ops.know({"a": text(RUN)}, play.stored)
    assert play.ops.steps() == [Begin(read_op("a", text(RUN)))]


def test_a_daemon_that_ended_in_the_middle_is_told_of() -> None:
    play = Play()
    for attempt in range(1, MOST_ATTEMPTS + 1):
        begun = play.know(once=text(RUN), again=text(RUN, service="b", repeatable=True))
        assert len(begun) == (2 if attempt == 1 else 1)
        assert play.said("again") == ("running", attempt)
        play.daemon()
    assert play.go_on() == []
    assert play.said("again") == ("failed", MOST_ATTEMPTS)
    assert play.said("once") == ("unknown", 1)
    assert "look what it did" in play.why("once")


def test_a_failure_is_final_and_holds_who_waits() -> None:
    play = Play()
    play.know(a=text(RUN, holds=["web", "shop"]))
    assert play.ops.holds() == {"web", "shop"}
    play.ops.ended(read_op("a", text(RUN)), "", "exited with 3")
    assert play.turn() == []
    assert (play.said("a"), play.why("a")) == (("failed", 1), "exited with 3")
    assert play.ops.holds() == {"web", "shop"}
    play.know(a=None)
    assert play.ops.holds() == set()
    assert play.stored == {}


def test_tasks_follow_their_order_and_say_for_whom_they_wait() -> None:
    play = Play()
    first, second = text(RUN), text(PREPARE, service="shop", after=["first", "other"])
    assert play.know(second=second) == []
    assert play.why("second") == "waits for first, which is not there"
    assert play.know(first=first) == [Begin(read_op("first", first))]
    assert play.why("second") == "waits for first, which is running"
    play.ops.ended(read_op("first", first), "done")
    assert play.turn() == []
    assert play.why("second") == "waits for other, which is not there"
    assert play.know(second=text(PREPARE, service="shop", after=["first"])) != []


def test_one_service_has_one_task_at_a_time_and_a_node_a_few() -> None:
    play = Play()
    pages = {name: text(PREPARE, service=name) for name in "abcdef"} | {"z": text(PREPARE, service="a")}
    assert len(play.know(**pages)) == 4
    assert play.why("e") == "4 others are at work"
    for name in "bcd":
        play.ops.ended(read_op(name, pages[name]), "done")
    assert [step.op.name for step in play.turn()] == ["e", "f"]
    assert play.why("z") == "a is at work on a"


def test_deleting_a_task_cancels_it() -> None:
    play = Play()
    op = read_op("a", text(RUN, holds=["web"]))
    play.know(a=text(RUN, holds=["web"]))
    assert play.know(a=None) == [Cancel(op)]
    assert play.turn() == []
    assert play.ops.holds() == {"web"}
    play.ops.ended(op, "", "cancelled")
    assert play.turn() == []
    assert play.ops.holds() == set()
    assert play.stored == {}


def test_another_epoch_cancels_what_runs_and_begins_when_that_has_ended() -> None:
    play = Play()
    play.know(a=text(RUN))
    assert play.know(a=text(RUN, epoch=2)) == [Cancel(read_op("a", text(RUN)))]
    play.ops.ended(read_op("a", text(RUN)), "", "cancelled")
    assert play.turn() == [Begin(read_op("a", text(RUN, epoch=2)))]


def test_volumes_in_use_are_not_removed() -> None:
    play = Play(items={"web"}, here={"web"})
    assert play.know(a=text(REMOVE)) == []
    assert play.said("a") == ("refused", 0)
    play.items.clear()
    assert play.turn() == []
    assert play.said("a") == ("refused", 0)
    assert play.know(a=text(REMOVE, epoch=2)) == []
    assert play.why("a") == "waits until nothing of web is here"
    play.here.clear()
    assert play.turn() == [Begin(read_op("a", text(REMOVE, epoch=2)))]
    assert play.ops.holds() == {"web"}


def test_a_volume_half_removed_is_not_touched_where_its_service_came_back() -> None:
    play = Play()
    assert len(play.know(a=text(REMOVE))) == 1
    play.daemon()
    play.items.add("web")
    assert play.go_on() == []
    assert play.said("a") == ("unknown", 1)


@pytest.mark.parametrize(
    "page",
    [
        [],
        {},
        {**RUN, "kind": "shell"},
        {**RUN, "epoch": 0},
        {**RUN, "epoch": True},
        {**RUN, "service": "../web"},
        {**RUN, "work": {**WORK, "command": []}},
        {**RUN, "work": {**WORK, "kind": "container"}},
        {**RUN, "timeout": 1e9},
        {**RUN, "timeout": 0},
        {**RUN, "volume": "data"},
        {**REMOVE, "volume": "a/b"},
        {**REMOVE, "volume": ""},
        {**REMOVE, "force": True},
        {**PREPARE, "after": ["A"]},
        {**PREPARE, "holds": ["x"] * 65},
    ],
)
def test_what_is_not_understood_is_refused(page: object) -> None:
    play = Play()
    assert play.know(a=text(page)) == []
    assert play.said("a") == ("refused", 0)
    assert play.why("a").startswith("a: ")
    assert len(play.know(a=text(RUN))) == 1


def test_too_many_tasks_are_refused() -> None:
    play = Play()
    play.know(**{f"t{number:03}": text(RUN) for number in range(MOST_OPS + 1)})
    assert play.said(f"t{MOST_OPS:03}")[0] == "refused"
    assert play.said(f"t{MOST_OPS - 1:03}")[0] == "pending"


@given(st.text())
def test_any_text_is_a_task_or_none(untrusted: str) -> None:
    for read in (lambda: read_op("a", untrusted), lambda: read_receipt(untrusted)):
        with suppress(BadWire):
            read()


@pytest.mark.parametrize("seed", range(300))
def test_whatever_ends_in_the_middle_no_receipt_lies(seed: int) -> None:
    """The store may lag, lose or refuse; tasks come, change and go; items come and go; daemons are killed."""
    dice = random.Random(seed)
    play = Play()
    begun: dict[tuple[str, int], int] = {}
    finished: set[tuple[str, int]] = set()
    doing: list[Op] = []
    epochs = dict.fromkeys("abcd", 0)
    pages = {
        "a": text(RUN, holds=["web"]),
        "b": text(RUN, service="b", repeatable=True, after=["a"]),
        "c": text(REMOVE),
        "d": text(PREPARE, service="d", after=["b"]),
    }

    def page(name: str) -> str:
        return json.dumps(json.loads(pages[name]) | {"epoch": epochs[name]})

    def turn(*, store: bool) -> None:
        known = play.ops.receipts()
        play.ops.decide(play.items.__contains__, lambda _: False)
        for name, receipt in play.ops.receipts().items():
            if receipt.state == "running" != known[name].state:
                for before in json.loads(pages[name]).get("after", ()):
                    assert (before, known[before].epoch) in finished
            if receipt.state == "running" and play.ops.empties(name) in play.items:
                play.ops.put_back(name)
        if store:
            play.tell()
        for step in play.ops.steps():
            key = step.op.name, step.op.epoch
            if isinstance(step, Begin):
                assert read_receipt(play.stored[step.op.name]).state == "running"
                begun[key] = begun.get(key, 0) + 1
                assert step.op.repeatable or begun[key] == 1
                assert begun[key] <= MOST_ATTEMPTS
                assert step.op.kind != "remove-volume" or step.op.service not in play.items
                assert all(each.service != step.op.service for each in doing)
                doing.append(step.op)
        for op in doing:
            if op.kind == "remove-volume":
                assert op.service in play.ops.holds()

    def check() -> None:
        for name, said in play.stored.items():
            receipt = read_receipt(said)
            if receipt.state == "done":
                assert (name, receipt.epoch) in finished
            if receipt.state in ("pending", "refused") and receipt.attempts == 0:
                assert (name, receipt.epoch) not in finished

    for _ in range(200):
        match dice.randrange(8):
            case 0 | 1:
                name = dice.choice("abcd")
                epochs[name] += 1
                play.written[name] = page(name)
                play.ops.know(play.written, play.stored)
            case 2 if dice.random() < 0.3:
                play.written.pop(dice.choice("abcd"), None)
                play.ops.know(play.written, play.stored)
            case 3 if doing:
                op = doing.pop(dice.randrange(len(doing)))
                fault = "no" if dice.random() < 0.3 else ""
                if not fault:
                    finished.add((op.name, op.epoch))
                play.ops.ended(op, "done", fault)
            case 4 if dice.random() < 0.5:
                play.daemon()
                doing.clear()
                play.ops.know(play.written, play.stored)
            case 5 if "web" not in play.ops.holds():
                play.items ^= {"web"}
            case _:
                turn(store=dice.random() < 0.7)
        check()
