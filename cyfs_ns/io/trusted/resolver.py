"""Carries out plans: the one place where the house asks who somebody is.

Where a document that holds is known, from files or from earlier, nobody is waited for long; who kept us waiting is not
asked about that zone again for some seconds.

What was found is remembered for as long as its facts last; the same question of many is asked once; how much is under
way and remembered is bounded.  What was believed by a pin is kept on disk, and is the mark behind which nothing goes
back.

A disk takes tens of milliseconds for that.  Whoever asks waits for it only where somebody else may have believed
something newer meanwhile: in a process that lives on the disk is written behind the answer, a moment after it.  A kill
in that moment takes the mark with it: what is believed after the start is as if nobody had asked.
"""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import trio

from cyfs_ns.clock import is_unset
from cyfs_ns.errors import BadWire, CyfsError, Misuse
from cyfs_ns.errors import Unreachable as CannotAsk
from cyfs_ns.identity.did import Did
from cyfs_ns.io.merging import Merged
from cyfs_ns.io.trusted.providers import Provider
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.evidence import Kind
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Conflicted, Found, Outcome, Refused, Revoked, TooWeak, Unreachable
from cyfs_ns.trust.places import lineage
from cyfs_ns.trust.plan import Ask, Plan, plan
from cyfs_ns.trust.resolution import Resolution
from cyfs_ns.trust.strongest import Accepted

log = logging.getLogger(__name__)

_MOST_REMEMBERED = 4096
_AT_ONCE = 64
_WAITING_MOST = 1024
_LONGEST = 86_400.0  # seconds; a year is too long to hear nothing of an identity
_SHORTEST = 1.0
_NEGATIVE = 30.0
_NEGATIVE_LONGEST = 900.0  # whoever can forge one answer of DNS chooses its TTL too
_NOBODY = 5.0  # seconds before those who could not be asked are asked again
_STALE = 7 * 86_400.0
_PATIENCE = 2.0  # seconds for all who are asked, where what is held here will do
_SILENT = 10.0  # seconds for which who did not answer in that time is not asked
_MOST_SILENT = 1024
_FIRST = 0.2  # seconds in which whoever was answered has better use for this machine than what is written behind

_Key = tuple[Did, frozenset[Kind], Trust, Trust, int]


class _Writing:
    """What is being written down in one directory."""

    def __init__(self) -> None:
        self.begun = self.done = 0
        """How often so far."""
        self.is_behind = False
        """Whether somebody was answered before it is done."""
        self.hurry, self.over = trio.Event(), trio.Event()
        """Of what is behind an answer: somebody waits for it, and it is done."""

    async def caught_up(self) -> None:
        """Until nothing is behind an answer."""
        while self.is_behind:
            self.hurry.set()
            await self.over.wait()


_writing: dict[Path, _Writing] = {}
"""Of this process, since a change of the configuration exchanges whoever asks."""


class TrustedNames:
    """Asks ``providers`` and keeps what is believed in ``store``.

    ``timeout``: seconds for one step of a plan.  ``wall`` tells seconds since 1970, ``clock`` is monotonic.
    ``writes_behind``: nobody waits for the disk who need not; for a process that lives on after the answer.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        store: TrustStore,
        *,
        timeout: float = 10.0,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        writes_behind: bool = False,
    ) -> None:
        self._providers = {provider.card.name: provider for provider in providers}
        if len(self._providers) != len(providers):
            raise Misuse("two providers of one name")
        self.store = store
        self._timeout, self._wall, self._clock = timeout, wall, clock
        self._remembered: OrderedDict[_Key, tuple[float, Outcome]] = OrderedDict()
        self._refused: dict[_Key, tuple[float, Refused]] = {}
        """Of those that were found before: what was heard since, and until when they are not asked again."""
        self._flights: Merged[_Key, Outcome] = Merged()
        self._flushed = 0
        self._silent: dict[tuple[str, Did], float] = {}
        """Until when whom is not asked, by the pinned name it was about."""
        self._room = trio.CapacityLimiter(_AT_ONCE)
        # In a crowd whoever came last for the lock on the disk might never get it: who keeps something waits here.
        self._keeping = trio.CapacityLimiter(1)
        self._writes_behind = writes_behind
        self._writing = _writing.setdefault(Path(os.path.realpath(store.path)), _Writing())

    def plan(self, ask: Ask) -> Plan:
        """Whom :meth:`resolve` would ask."""
        return plan(ask, (provider.card for provider in self._providers.values()))

    def reach(self, subject: Did) -> Trust:
        """The best level at which others can be asked about ``subject``; NONE: nobody but this machine can be."""
        cards = (provider.card for provider in self._providers.values())
        return max((card.best for card in cards if card.cost and card.serves(subject)), default=Trust.NONE)

    def peek(self, ask: Ask) -> Outcome | None:
        """What is remembered and still holds: a dictionary's answer, for hot paths."""
        held = self._remembered.get(_key(ask))
        if held is None or held[0] <= self._clock():
            return None
        outcome = held[1]
        if isinstance(outcome, Found) and outcome.until is not None and outcome.until + _SHORTEST <= self._wall():
            return None  # the clock was set while we slept on it
        return outcome

    def recall(self, ask: Ask) -> Found | None:
        """What was found last, though it may be another by now: for whoever asks again, and begins meanwhile with what
        nobody could be hurt by.  None: nothing was, nothing that lasts, or it was gone back on."""
        key = _key(ask)
        return None if key in self._refused else self._earlier(key)

    async def resolve(self, ask: Ask, *, fresh: bool = False) -> Outcome:
        """What is known of ``ask.subject``.  ``fresh``: not from memory.  Never raises for what others did wrong."""
        known = None if fresh else self.peek(ask)
        if known is not None:
            await trio.lowlevel.checkpoint()
            return known
        key = _key(ask)
        outcome: Outcome
        if not fresh and (refused := self._refused.get(key)) is not None and refused[0] > self._clock():
            await trio.lowlevel.checkpoint()
            outcome = refused[1]
        else:
            outcome = await self._flights.run(key, lambda: self._find(ask))
        return self._stale(ask, outcome) if ask.stale and isinstance(outcome, Unreachable | Refused) else outcome

    def flush(self, whose: Callable[[Did], bool] = lambda subject: True) -> int:
        """Forget what is remembered of those whom ``whose`` picks; how much that was.  The disk keeps its own."""
        keys = [key for key in self._remembered if whose(key[0])]
        for key in keys:
            del self._remembered[key]
            self._refused.pop(key, None)
        self._flushed += 1
        self._silent.clear()
        return len(keys)

    def is_silent(self, subject: Did) -> bool:
        """Whether somebody asked about ``subject``, who is pinned or below a name that is, let us wait a moment ago."""
        whom, now = lineage(subject), self._clock()
        return any(until > now and about in whom for (_, about), until in self._silent.items())

    async def _find(self, ask: Ask) -> Outcome:
        if self._room.statistics().tasks_waiting >= _WAITING_MOST:
            return Unreachable(subject=ask.subject, why=f"{ask.subject}: too many questions wait already")
        flushed = self._flushed
        outcome = await self._carry_out(ask)
        if flushed == self._flushed:
            return self._remember(ask, outcome)
        # What is to be forgotten may be what we have just learnt.
        return await self._carry_out(ask)

    async def _carry_out(self, ask: Ask) -> Outcome:
        writing = self._writing
        try:
            await writing.caught_up()
            done = writing.done
            anchors = await trio.to_thread.run_sync(self.store.anchors)
            resolution = Resolution(self.plan(ask), anchors)
            end: float | None = None
            while (step := resolution.next_step(self._wall())) is not None:
                far = any(self._providers[name].card.cost for name in step.providers)
                patience = self._patience(resolution) if far else None
                if patience is not None and end is None:
                    end = trio.current_time() + patience
                # Names whose servers are slow hold up nobody who is known here.
                async with self._room if far else nullcontext(), trio.open_nursery() as nursery:
                    for name in step.providers:
                        left = self._timeout if end is None else min(self._timeout, end - trio.current_time())
                        about = resolution.pinned if end is not None else None
                        nursery.start_soon(self._ask_one, name, resolution, left, about)
            now = self._wall()
            wanted = [accepted for accepted in resolution.accepted(now) if accepted.pinned]
            if wanted and self._writes_behind and done == writing.begun:
                # Nobody here has believed anything since we have read the marks, and whoever reads them from now on
                # waits until ours are written.
                writing.begun += 1
                writing.is_behind, writing.hurry, writing.over = True, trio.Event(), trio.Event()
                trio.lowlevel.spawn_system_task(self._keep_behind, _key(ask), wanted, now)
            elif wanted:
                await writing.caught_up()
                writing.begun += 1
                if not await self._keep(wanted, now):
                    # Somebody has believed a newer one meanwhile.
                    resolution.judge_by(await trio.to_thread.run_sync(self.store.anchors))
            return resolution.outcome(now)
        except (BadWire, OSError) as fault:
            self._remembered.pop(_key(ask), None)
            self._refused.pop(_key(ask), None)
            return Refused(subject=ask.subject, why=f"{ask.subject}: the pins cannot be read: {fault}")

    def _patience(self, resolution: Resolution) -> float | None:
        """Seconds for all who are asked; None: each may take its time."""
        if resolution.is_held(self._wall()):
            return _PATIENCE
        return None if resolution.pinned is None else resolution.plan.ask.patience

    async def _ask_one(self, name: str, resolution: Resolution, seconds: float, about: Did | None) -> None:
        """``about``: who is pinned, and so need not be waited for again at once."""
        ask = resolution.plan.ask
        brought: Outcome
        begun = trio.current_time()
        try:
            if seconds <= 0 or (about is not None and self._silent.get((name, about), 0.0) > self._clock()):
                raise CannotAsk("not asked: there was no answer a moment ago")
            with trio.fail_after(seconds):
                brought = await self._providers[name].ask(ask)
        except trio.TooSlowError:
            brought = _mute(ask, f"{name}: no answer within {seconds:g} s")
        except (CannotAsk, BadWire) as fault:
            brought = _mute(ask, f"{name}: {fault}")
        except OSError as fault:
            brought = _mute(ask, f"{name}: {fault.strerror or fault}")
        except Exception as fault:  # one stranger's bytes must not end the answers for everybody
            log.exception("%s failed on %s", name, ask.subject)
            brought = _mute(ask, f"{name}: failed ({type(fault).__name__}), a fault of this program")
        if about is not None and isinstance(brought, Unreachable) and trio.current_time() - begun >= _PATIENCE / 2:
            self._note_silence(name, about)
        resolution.take(name, brought)

    def _note_silence(self, name: str, about: Did) -> None:
        now = self._clock()
        if len(self._silent) >= _MOST_SILENT:
            self._silent = {key: until for key, until in self._silent.items() if until > now}
        if len(self._silent) < _MOST_SILENT:
            self._silent[name, about] = now + _SILENT

    async def _keep(self, wanted: Sequence[Accepted], now: float) -> bool:
        """Whether all that was believed is still the newest."""
        try:
            # In one turn: whoever had to wait again for each of theirs would be done when the whole crowd is.
            return await trio.to_thread.run_sync(self._keep_all, wanted, now, limiter=self._keeping)
        finally:
            self._writing.done += 1

    async def _keep_behind(self, key: _Key, wanted: Sequence[Accepted], now: float) -> None:
        """As :meth:`_keep`, for nobody who waits; also when all else ends."""
        writing = self._writing
        try:
            with trio.CancelScope(shield=True):
                with trio.move_on_after(_FIRST):
                    await writing.hurry.wait()
                if not await self._keep(wanted, now):
                    # Another process has believed a newer one: whoever asks next finds out.
                    self._remembered.pop(key, None)
        except Exception:  # nobody waits who could be told, and from here it would end the program
            log.exception("what was believed of %s could not be kept: a fault of this program", key[0])
            self._remembered.pop(key, None)
        finally:
            writing.is_behind = False
            writing.over.set()

    def _keep_all(self, wanted: Sequence[Accepted], now: float) -> bool:
        """As :meth:`_keep`, in a thread."""
        newest = True
        for accepted in wanted:
            try:
                newest &= self.store.keep(accepted, now).acceptable
            except (OSError, CyfsError) as fault:
                log.warning("a document of %s could not be kept: %s", accepted.about, fault)
        return newest

    def _remember(self, ask: Ask, outcome: Outcome) -> Outcome:
        key, now = _key(ask), self._clock()
        held = self._remembered.get(key)
        if isinstance(outcome, Unreachable | Refused) and held is not None and isinstance(held[1], Found):
            if isinstance(outcome, Refused):
                self._refused[key] = now + self._lifetime(outcome), outcome
            return outcome  # what was found stays, for those who take it stale
        self._refused.pop(key, None)
        self._remembered[key] = (now + self._lifetime(outcome), outcome)
        self._remembered.move_to_end(key)
        while len(self._remembered) > _MOST_REMEMBERED:
            self._refused.pop(self._remembered.popitem(last=False)[0], None)
        return outcome

    def _stale(self, ask: Ask, outcome: Unreachable | Refused) -> Outcome:
        """What was found earlier, as long as its documents last."""
        old = self._earlier(_key(ask))
        return outcome if old is None else replace(old, stale=True, faults=(*outcome.faults, outcome.why))

    def _earlier(self, key: _Key) -> Found | None:
        held = self._remembered.get(key)
        if held is None or not isinstance(old := held[1], Found) or self._clock() - held[0] >= _STALE:
            return None
        return old if all(_in_force(claim.value, self._wall()) for claim in old.claims) else None

    def _lifetime(self, outcome: Outcome) -> float:
        """Seconds for which ``outcome`` needs no asking again."""
        if isinstance(outcome, Unreachable) or (is_unset(self._wall()) and not isinstance(outcome, Found)):
            return _NOBODY
        if isinstance(outcome, Refused | Revoked | TooWeak | Conflicted):
            return _NEGATIVE
        until = outcome.until
        if until is None:
            return _NEGATIVE if isinstance(outcome, Absent) else _LONGEST
        longest = _NEGATIVE_LONGEST if isinstance(outcome, Absent) else _LONGEST
        return min(max(until - self._wall(), _SHORTEST), longest)


def _key(ask: Ask) -> _Key:
    return ask.subject.canonical, ask.kinds, ask.least, ask.stop_at, ask.privacy


def _mute(ask: Ask, fault: str) -> Unreachable:
    return Unreachable(subject=ask.subject, why=fault, faults=(fault,))


def _in_force(value: object, now: float) -> bool:
    """Whether a document, if it is one, has not ended."""
    return not hasattr(value, "exp") or value.exp > now
