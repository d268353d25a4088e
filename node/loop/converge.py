"""What to do next about each service: orders, runs and the time in, actions and reports out.

Every service goes its own way, with at most one action under way:

    prepare -> (ask the run before it to end -> end it after its grace) -> start -> probe, again and again

* **A run is of one order.**  What changes the order (``runner.Order``: the work, the ports) means another run; what
  changes only the epoch does not.
* **What is slow comes first.**  Nothing that runs is asked to end before what replaces it is prepared, unless it never
  can be: then it ends as well, because only so the zone may be told that the new version failed.
* **What ends is started again**, after 0.5 s, then twice as long each time up to a minute, give or take a fifth.  After
  the third time in a row the service counts as failed, and is tried on.  A run that lasted a minute begins a new count.
* **Reports follow the scheduler's contract** (``zone/scheduler/snapshot.py``): an epoch is told when nothing runs that
  is not of its order, ``stopped`` when nothing runs, and another ``since`` comes with another state alone.

Times are seconds of a monotonic clock; only ``Report.since`` is of the wall's, and goes forward when that
goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from node.run.runner import Order
from zone.scheduler.snapshot import Item, State

GRACE: Final = 10.0
"""Seconds between asking a run to end and ending it."""
_FIRST_DELAY: Final = 0.5
_MOST_DELAY: Final = 60.0
_LASTED: Final = 60.0
_FAILED_AFTER: Final = 3
_SETTLE: Final = 1.0
"""Seconds after which a run that nobody asks about its health counts as ready."""
_EVERY: Final = 5.0
_EAGER: Final = 0.25
"""Seconds between probes of a run that began a moment ago."""
_EAGER_FOR: Final = 10.0
_MISSES: Final = 3
"""Probes in a row that fail before a run that was ready is not."""
_SICK_FOR: Final = 60.0
"""Seconds for which a run that was ready may fail its probes before it is started anew."""
_NEW_FOR: Final = 300.0
"""The same for one that never was ready; until then the scheduler may have taken it back."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Have ready what a run of this order needs; then ``prepared``."""

    order: Order


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a run; then ``started``.  ``ended`` follows when it has."""

    order: Order


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask whether the run can serve; then ``probed``."""

    order: Order


@dataclass(frozen=True, slots=True)
class Abandon:
    """Give up the preparation or the probe that is under way, and say so as if it had failed."""

    service: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the run to end."""

    order: Order


@dataclass(frozen=True, slots=True)
class End:
    """End the run, with all that belongs to it."""

    order: Order


@dataclass(frozen=True, slots=True)
class Forget:
    """Give back what was prepared for a service that is wanted no more; then ``forgotten``."""

    service: str


Action: TypeAlias = Prepare | Start | Probe | Abandon | Ask | End | Forget


@dataclass(frozen=True, slots=True)
class Report:
    """What the zone is told of a service."""

    state: State
    epoch: int
    since: float
    """Unix seconds."""
    why: str = ""


@dataclass(slots=True)
class _Held:
    """One service on this node."""

    name: str
    item: Item | None = None
    run: Order | None = None
    """What there is a run of; while it starts, may be."""
    doing: Literal["", "prepare", "start", "probe", "forget"] = ""
    is_abandoned: bool = False
    prepared: Order | None = None
    begun: float = 0.0
    """When the run began, as far as this daemon knows."""
    asked: float | None = None
    is_ended: bool = False
    """The run was told to end at once."""
    is_restart: bool = False
    """It was asked to end because it does not serve."""
    failures: int = 0
    retry_at: float = 0.0
    is_hopeless: bool = False
    """Trying again changes nothing."""
    why: str = ""
    is_ready: bool = False
    was_ready: bool = False
    misses: int = 0
    bad_since: float = 0.0
    probe_at: float = 0.0
    report: Report | None = None
    is_unread: bool = False

    @property
    def wanted(self) -> Order | None:
        """What is to run, if anything."""
        item = self.item
        if item is None or item.target != "running":
            return None
        return Order(service=self.name, work=item.work, ports=item.ports)


class Convergence:
    """See the top of this file.  ``dice`` gives numbers from 0 to 1, ``wall`` the Unix time."""

    def __init__(self, dice: Callable[[], float], wall: Callable[[], float], told: Mapping[str, Report]) -> None:
        """``told``: the reports of the daemon before."""
        self._dice, self._wall = dice, wall
        self._held: dict[str, _Held] = {}
        for name, report in told.items():
            held = self._of(name)
            held.report = report
            held.failures = _FAILED_AFTER if report.state == "failed" else 0

    def _of(self, name: str) -> _Held:
        return self._held.setdefault(name, _Held(name))

    # What happened

    def adopt(self, order: Order, now: float) -> None:
        """There is a run of ``order`` that an earlier daemon began."""
        self._began(self._of(order.service), order, now)

    def obey(self, items: Mapping[str, Item], unread: Collection[str], now: float) -> None:
        """These are the orders now, all of them; what stands in those ``unread`` cannot be read, so they stay."""
        for name in {*items, *unread}:
            held = self._of(name)
            held.is_unread = name not in items
            before, held.item = held.wanted, items.get(name, held.item)
            if held.wanted != before:
                # At first, this daemon knows of it what the one before told of this very item.
                told = held.report if held.item and held.report and held.report.epoch == held.item.epoch else None
                held.failures = held.failures if told else 0
                if told and told.state == "ready" and held.run == held.wanted:
                    held.is_ready = held.was_ready = True
                held.retry_at, held.is_hopeless, held.why = now, False, ""
        for name, held in self._held.items():
            if name not in items and name not in unread:
                held.item, held.is_unread = None, False

    def knows(self, service: str) -> bool:
        """Whether anything of ``service`` is here: an order, a run, or what was prepared."""
        return service in self._held

    def prepared(self, order: Order, now: float, fault: str = "", *, lasting: bool = False) -> None:
        """``Prepare`` is done, or was abandoned; ``fault``: why not."""
        held = self._held[order.service]
        is_abandoned, held.doing, held.is_abandoned = held.is_abandoned, "", False
        if not fault:
            held.prepared = order
        elif held.wanted == order and not is_abandoned:
            self._failed(held, now, fault, lasting=lasting)

    def started(self, order: Order, now: float, fault: str = "", *, lasting: bool = False) -> None:
        """``Start`` is done; ``fault``: why there is no run."""
        held = self._held[order.service]
        held.doing = ""
        if not fault:
            self._began(held, order, now)
            return
        held.run = held.prepared = None
        if held.wanted == order:
            self._failed(held, now, fault, lasting=lasting)

    def ended(self, service: str, now: float, why: str) -> None:
        """Nothing of the run runs any more."""
        held = self._held[service]
        was_asked = held.asked is not None and not held.is_restart
        lasted, is_wanted = now - held.begun, held.run == held.wanted
        why = held.why if held.is_restart else why
        held.run, held.asked, held.is_ended, held.is_restart, held.is_ready = None, None, False, False, False
        if is_wanted and not was_asked:
            held.failures = 0 if lasted >= _LASTED else held.failures
            self._failed(held, now, why)

    def probed(self, order: Order, now: float, why: str) -> None:
        """``Probe`` is done; ``why`` it cannot serve, if it cannot."""
        held = self._held[order.service]
        is_abandoned, held.doing, held.is_abandoned = held.is_abandoned, "", False
        if held.run != order or held.asked is not None or is_abandoned:
            return
        health = order.work.health
        every = health.every if health is not None else _EVERY
        is_eager = not held.is_ready and now - held.begun < _EAGER_FOR
        held.probe_at = now + (min(every, _EAGER) if is_eager else every)
        if not why:
            held.is_ready = held.was_ready = True
            held.misses, held.why = 0, ""
            held.bad_since = now
            return
        held.misses += 1
        if held.misses >= _MISSES:
            held.is_ready = False
        if not held.is_ready:
            held.why = why

    def forgotten(self, service: str) -> None:
        """``Forget`` is done."""
        held = self._held[service]
        held.doing, held.prepared = "", None
        if held.item is None:
            del self._held[service]

    def _began(self, held: _Held, order: Order, now: float) -> None:
        held.run, held.begun, held.bad_since = order, now, now
        held.asked, held.is_ended, held.is_restart = None, False, False
        held.is_ready, held.was_ready, held.misses = False, False, 0
        held.probe_at = now + (_EAGER if order.work.health is not None else _SETTLE)

    def _failed(self, held: _Held, now: float, why: str, *, lasting: bool = False) -> None:
        held.failures += 1
        held.why, held.is_hopeless = why, lasting
        delay = _MOST_DELAY if lasting else min(_MOST_DELAY, _FIRST_DELAY * 2.0 ** min(held.failures - 1, 10))
        held.retry_at = now + delay * (0.8 + 0.4 * self._dice())

    # What is to be done

    def actions(self, now: float) -> list[Action]:
        """What to begin now; each is told to have been done before the service gets another."""
        return [action for name in sorted(self._held) for action in self._next(self._held[name], now)]

    def _next(self, held: _Held, now: float) -> Iterator[Action]:
        wanted = held.wanted
        if held.is_unread and held.item is None:
            return
        if held.doing in ("prepare", "probe"):
            is_moot = wanted is None or (held.doing == "probe" and held.run != wanted) or self._is_sick(held, now)
            if is_moot and not held.is_abandoned:
                held.is_abandoned = True
                yield Abandon(held.name)
        elif held.doing:
            return
        elif held.run is not None:
            yield from self._about_run(held, held.run, wanted, now)
        elif wanted is None:
            if held.item is None:
                yield self._do(held, "forget", Forget(held.name))
        elif now >= held.retry_at:
            if held.prepared != wanted:
                yield self._do(held, "prepare", Prepare(wanted))
            else:
                held.run, held.was_ready, held.is_ready = wanted, False, False
                yield self._do(held, "start", Start(wanted))

    def _about_run(self, held: _Held, run: Order, wanted: Order | None, now: float) -> Iterator[Action]:
        if held.asked is not None:
            if not held.is_ended and now >= held.asked + GRACE:
                held.is_ended = True
                yield End(run)
        elif run == wanted:
            if self._is_sick(held, now):
                held.asked, held.is_restart, held.is_ready = now, True, False
                yield Ask(run)
            elif now >= held.probe_at:
                yield self._do(held, "probe", Probe(run))
        elif wanted is not None and held.prepared != wanted and not held.is_hopeless:
            if now >= held.retry_at:
                yield self._do(held, "prepare", Prepare(wanted))
        else:
            held.asked = now
            yield Ask(run)

    def _do(self, held: _Held, doing: Literal["prepare", "start", "probe", "forget"], action: Action) -> Action:
        held.doing, held.is_abandoned = doing, False
        return action

    def _is_sick(self, held: _Held, now: float) -> bool:
        return held.run is not None and held.asked is None and held.misses >= _MISSES and now >= self._patience(held)

    def _patience(self, held: _Held) -> float:
        return held.bad_since + (_SICK_FOR if held.was_ready else _NEW_FOR)

    def next_deadline(self) -> float | None:
        """When ``actions`` may have something to say though nothing happens."""
        return min((at for held in self._held.values() for at in self._deadlines(held)), default=None)

    def _deadlines(self, held: _Held) -> Iterator[float]:
        if held.doing:
            return
        if held.run is not None and held.asked is not None:
            if not held.is_ended:
                yield held.asked + GRACE
        elif held.run is not None and held.run == held.wanted:
            yield held.probe_at
        elif held.wanted is not None:
            yield held.retry_at

    # What is told

    def reports(self) -> dict[str, Report]:
        """What the zone is to be told of each service; of those that are not there, nothing."""
        for held in self._held.values():
            held.report = self._report(held)
        return {name: held.report for name, held in self._held.items() if held.report is not None}

    def _report(self, held: _Held) -> Report | None:
        before, item = held.report, held.item
        if held.run is not None and held.run != held.wanted:
            return before
        if item is None:
            return before if held.is_unread else None
        state = self._state(held)
        why = "" if state in ("ready", "stopped") else held.why
        if before is None:
            return Report(state, item.epoch, self._wall(), why)
        since = before.since if before.state == state else max(self._wall(), before.since + 0.001)
        return Report(state, item.epoch, since, why)

    def _state(self, held: _Held) -> State:
        if held.wanted is None:
            return "stopped"
        if held.run is not None and held.is_ready and held.asked is None:
            return "ready"
        # Wanted again while it ends, because it was not for a moment: that is no fault of its own.
        is_leaving = held.asked is not None and not held.is_restart
        is_sick = held.run is not None and held.was_ready and not is_leaving
        return "failed" if held.failures >= _FAILED_AFTER or held.is_hopeless or is_sick else "starting"
