"""The loop's decisions: stories of single services, and worlds in which anything happens in any order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from node.loop.converge import (
    Abandon,
    Action,
    Ask,
    Convergence,
    End,
    Forget,
    Prepare,
    Probe,
    Report,
    Start,
)
from node.run.runner import Order
from zone.scheduler.service import Health, Work
from zone.scheduler.snapshot import Item

WEB = Work(image="web:1", ports=(("http", 0),), health=Health("http", "/"))
NEWER = Work(image="web:2", ports=(("http", 0),), health=Health("http", "/"))


def item(work: Work = WEB, epoch: int = 1, target: str = "running") -> Item:
    return Item(work=work, ports=(("http", 8080),), epoch=epoch, target=target, placed=0.0)  # type: ignore[arg-type]


def order(work: Work = WEB, name: str = "web") -> Order:
    return Order(service=name, work=work, ports=(("http", 8080),))


@dataclass
class Play:
    """One service, step by step."""

    now: float = 100.0
    told: dict[str, Report] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.loop = Convergence(lambda: 0.5, lambda: 1000.0 + self.now, self.told)

    def obey(self, item: Item | None) -> list[Action]:
        self.loop.obey({} if item is None else {"web": item}, (), self.now)
        return self.next()

    def next(self, after: float = 0.0) -> list[Action]:
        self.now += after
        return self.loop.actions(self.now)

    def report(self) -> tuple[str, int] | None:
        found = self.loop.reports().get("web")
        return None if found is None else (found.state, found.epoch)

    def bring_up(self, work: Work = WEB, epoch: int = 1) -> None:
        assert self.obey(item(work, epoch)) == [Prepare(order(work))]
        self.loop.prepared(order(work), self.now)
        assert self.next() == [Start(order(work))]
        self.loop.started(order(work), self.now)
        assert self.next(1) == [Probe(order(work))]
        self.loop.probed(order(work), self.now, "")
        assert self.report() == ("ready", epoch)


def test_a_service_is_prepared_started_and_ready_when_it_answers() -> None:
    play = Play()
    play.bring_up()
    assert play.next() == []


def test_an_upgrade_prepares_first_and_is_told_when_nothing_old_runs() -> None:
    play = Play()
    play.bring_up()
    assert play.obey(item(NEWER, 2)) == [Prepare(order(NEWER))]
    assert play.report() == ("ready", 1)
    play.loop.prepared(order(NEWER), play.now)
    assert play.next() == [Ask(order())]
    assert play.report() == ("ready", 1)
    assert play.next(9) == []
    assert play.next(2) == [End(order())]
    play.loop.ended("web", play.now, "killed by signal 9")
    assert play.report() == ("starting", 2)
    assert play.next() == [Start(order(NEWER))]


def test_another_epoch_of_the_same_order_touches_nothing() -> None:
    play = Play()
    play.bring_up()
    since = play.loop.reports()["web"].since
    assert play.obey(item(epoch=5)) == []
    assert play.loop.reports()["web"] == Report("ready", 5, since)


def test_stopped_is_told_when_nothing_runs() -> None:
    play = Play()
    play.bring_up()
    assert play.obey(item(epoch=2, target="stopped")) == [Ask(order())]
    assert play.report() == ("ready", 1)
    play.loop.ended("web", play.now, "exited with 0")
    assert play.report() == ("stopped", 2)
    assert play.next(1000) == []
    assert play.obey(None) == [Forget("web")]
    assert play.report() is None


def test_who_is_wanted_again_while_it_ends_has_not_failed() -> None:
    play = Play()
    play.bring_up()
    assert play.obey(item(epoch=2, target="stopped")) == [Ask(order())]
    assert play.obey(item(epoch=3)) == []
    assert play.report() == ("starting", 3)
    play.loop.ended("web", play.now, "exited with 0")
    assert play.report() == ("starting", 3)
    assert play.next() == [Start(order())]


def test_what_ends_is_started_again_later_and_later() -> None:
    play = Play()
    play.bring_up()
    delays = []
    for _ in range(9):
        play.loop.ended("web", play.now, "exited with 1")
        assert play.next() == []
        at = play.loop.next_deadline()
        assert at is not None
        delays.append(at - play.now)
        assert play.next(at - play.now) == [Start(order())]
        play.loop.started(order(), play.now)
    assert [round(delay, 3) for delay in delays] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    report = play.loop.reports()["web"]
    assert (report.state, report.why) == ("failed", "exited with 1")
    play.next(1)
    play.loop.probed(order(), play.now, "")
    assert play.report() == ("ready", 1)


def test_what_lasted_a_minute_begins_a_new_count() -> None:
    play = Play()
    play.bring_up()
    for _ in range(5):
        play.now += 61
        play.loop.ended("web", play.now, "exited with 1")
        assert play.report() == ("starting", 1)
        assert play.next(0.5) == [Start(order())]
        play.loop.started(order(), play.now)


def test_what_can_never_be_prepared_ends_the_old_and_fails_at_once() -> None:
    play = Play()
    play.bring_up()
    play.obey(item(NEWER, 2))
    play.loop.prepared(order(NEWER), play.now, "the image has no entry point", lasting=True)
    assert play.next() == [Ask(order())]
    play.loop.ended("web", play.now, "")
    assert play.next() == []
    report = play.loop.reports()["web"]
    assert (report.state, report.epoch, report.why) == ("failed", 2, "the image has no entry point")
    assert play.next(60) == [Prepare(order(NEWER))]


def test_what_cannot_be_prepared_now_leaves_the_old_alone() -> None:
    play = Play()
    play.bring_up()
    play.obey(item(NEWER, 2))
    play.loop.prepared(order(NEWER), play.now, "no space left on device")
    assert play.next() == []
    assert play.next(0.5) == [Prepare(order(NEWER))]
    assert play.report() == ("ready", 1)


def test_three_misses_make_it_fail_and_a_minute_of_them_start_it_anew() -> None:
    play = Play()
    play.bring_up()
    for missed in range(1, 12):
        assert play.next(5) == [Probe(order())]
        play.loop.probed(order(), play.now, "connection refused")
        assert play.report() == (("ready" if missed < 3 else "failed"), 1)
    assert play.next(5) == [Ask(order())]
    play.loop.ended("web", play.now, "exited with 0")
    assert play.loop.reports()["web"].why == "connection refused"
    assert play.next(0.5) == [Start(order())]


def test_a_preparation_that_nobody_wants_is_abandoned() -> None:
    play = Play()
    assert play.obey(item()) == [Prepare(order())]
    assert play.obey(None) == [Abandon("web")]
    assert play.next() == []
    play.loop.prepared(order(), play.now, "abandoned")
    assert play.next() == [Forget("web")]
    play.loop.forgotten("web")
    assert play.loop.next_deadline() is None


def test_an_order_that_cannot_be_read_leaves_all_as_it_is() -> None:
    play = Play()
    play.bring_up()
    play.loop.obey({}, {"web"}, play.now)
    assert play.next() == []
    assert play.report() == ("ready", 1)
    again = Play(told=play.loop.reports())
    again.loop.adopt(order(), again.now)
    again.loop.obey({}, {"web"}, again.now)
    assert again.next(100) == []
    assert again.report() == ("ready", 1)


def test_the_next_daemon_tells_the_same_of_what_went_on() -> None:
    play = Play()
    play.bring_up()
    before = play.loop.reports()
    again = Play(now=5.0, told=before)
    again.loop.adopt(order(), again.now)
    assert again.obey(item()) == []
    assert again.loop.reports() == before


def test_what_was_told_of_the_one_before_says_nothing_of_what_runs_now() -> None:
    again = Play(told={"web": Report("ready", 1, 50.0)})
    again.loop.adopt(order(NEWER), again.now)
    assert again.obey(item(NEWER, 2)) == []
    assert again.report() == ("starting", 2)


def test_the_next_daemon_knows_what_failed() -> None:
    again = Play(told={"web": Report("failed", 1, 50.0, "exited with 1")})
    again.obey(item())
    assert again.loop.reports()["web"].since == 50.0
    again.obey(item(NEWER, 2))
    assert again.report() == ("starting", 2)


class World:
    """Services, runs and a daemon; whatever may go wrong does, in an order that a seed chooses."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.now, self.wall, self.epoch = 0.0, 1e9, 0
        self.items: dict[str, Item] = {}
        self.runs: dict[str, Order] = {}
        self.asked: set[str] = set()
        self.doing: list[Action] = []
        self.told: dict[str, Report] = {}
        self.epochs: dict[int, Item] = {}
        self.starts: list[tuple[float, Order]] = []
        self.is_kind = False
        self.loop = Convergence(self.dice.random, lambda: self.wall, {})

    def step(self) -> None:
        moves: list[Callable[[], None]] = [self.finish] * 6 + [self.pass_time] * 3
        if not self.is_kind:
            moves += [self.order, self.order, self.crash, self.kill_daemon, self.jump, self.withdraw]
        self.dice.choice(moves)()
        self.obey()

    def obey(self) -> None:
        for action in self.loop.actions(self.now):
            name = action.service if isinstance(action, Abandon | Forget) else action.order.service
            if isinstance(action, Ask):
                assert self.runs[name] == action.order
                self.asked.add(name)
            elif isinstance(action, End):
                assert name in self.asked
                self.end(name)
            elif isinstance(action, Abandon):
                self.doing = [other for other in self.doing if self.name(other) != name or not self.abandon(other)]
            else:
                assert name not in map(self.name, self.doing), "two things at once"
                if isinstance(action, Start):
                    assert name not in self.runs, "two runs of one service"
                    self.starts.append((self.now, action.order))
                self.doing.append(action)
        self.check()

    def name(self, action: Action) -> str:
        return action.service if isinstance(action, Abandon | Forget) else action.order.service

    def abandon(self, action: Action) -> bool:
        if isinstance(action, Prepare):
            self.loop.prepared(action.order, self.now, "abandoned")
        elif isinstance(action, Probe):
            self.loop.probed(action.order, self.now, "abandoned")
        else:
            raise AssertionError(action)
        return True

    def check(self) -> None:
        reports = self.loop.reports()
        for name, report in reports.items():
            before = self.told.get(name)
            run = self.runs.get(name)
            if before is not None:
                assert (report.since == before.since) == (report.state == before.state)
            if before is None or report.epoch != before.epoch:
                meant = self.epochs[report.epoch]
                assert run is None or (run.work, run.ports) == (meant.work, meant.ports), "an older run still runs"
            assert report.state != "stopped" or run is None
        self.told = reports

    def order(self) -> None:
        name = self.dice.choice(["web", "db", "mail"])
        self.epoch += 1
        found = item(self.dice.choice([WEB, NEWER]), self.epoch, self.dice.choice(["running", "running", "stopped"]))
        self.items[name] = self.epochs[self.epoch] = found
        self.loop.obey(self.items, (), self.now)

    def withdraw(self) -> None:
        if self.items:
            del self.items[self.dice.choice(sorted(self.items))]
            self.loop.obey(self.items, (), self.now)

    def end(self, name: str) -> None:
        del self.runs[name]
        self.asked.discard(name)
        self.loop.ended(name, self.now, "ended")

    def crash(self) -> None:
        up = sorted(self.runs.keys() - {self.name(a) for a in self.doing if isinstance(a, Start)})
        if up:
            self.end(self.dice.choice(up))

    def finish(self) -> None:
        leaving = sorted(self.asked)
        if leaving and self.dice.random() < 0.5:
            self.end(leaving[0])
        if not self.doing:
            return
        action = self.doing.pop(self.dice.randrange(len(self.doing)))
        fault = "" if self.is_kind or self.dice.random() < 0.7 else "bad luck"
        lasting = bool(fault) and self.dice.random() < 0.3
        match action:
            case Prepare():
                self.loop.prepared(action.order, self.now, fault, lasting=lasting)
            case Start():
                if not fault:
                    self.runs[action.order.service] = action.order
                self.loop.started(action.order, self.now, fault, lasting=lasting)
            case Probe():
                self.loop.probed(action.order, self.now, fault)
            case Forget():
                self.loop.forgotten(action.service)

    def pass_time(self) -> None:
        least = self.loop.next_deadline()
        step = self.dice.choice([0.01, 0.3, 2.0, 40.0]) if least is None else max(0.0, least - self.now)
        self.now += step
        self.wall += step

    def jump(self) -> None:
        self.wall += self.dice.choice([-1e6, -1.0, 1e6])

    def kill_daemon(self) -> None:
        for action in self.doing:
            if isinstance(action, Start) and self.dice.random() < 0.5:
                self.runs[action.order.service] = action.order
        self.doing.clear()
        self.asked.clear()
        self.now = self.dice.choice([0.0, self.now])
        self.loop = Convergence(self.dice.random, lambda: self.wall, self.told)
        for run in self.runs.values():
            self.loop.adopt(run, self.now)
        self.loop.obey(self.items, (), self.now)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_the_contract_holds_and_in_the_end_all_is_as_it_should(seed: int) -> None:
    world = World(seed)
    for _ in range(400):
        world.step()
    world.is_kind = True
    for _ in range(600):
        world.step()
    wanted = {name: found for name, found in world.items.items() if found.target == "running"}
    assert {name: run.work for name, run in world.runs.items()} == {name: found.work for name, found in wanted.items()}
    assert {name: (report.state, report.epoch) for name, report in world.told.items()} == {
        name: ("ready" if name in wanted else "stopped", found.epoch) for name, found in world.items.items()
    }


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_started_in_a_hot_loop(seed: int) -> None:
    world = World(seed)
    world.items = {"web": item()}
    world.epochs[1] = world.items["web"]
    world.loop.obey(world.items, (), world.now)
    while world.now < 3600:
        world.obey()
        if world.doing:
            world.is_kind = True
            world.finish()
        elif "web" in world.runs:
            world.end("web")
        else:
            world.pass_time()
    minutes = Counter(int(at // 60) for at, _ in world.starts)
    assert minutes[0] <= 8
    assert max(count for minute, count in minutes.items() if minute) <= 2
