"""One task that decides: requests come in a row, and whoever is in front is judged on what all before have changed.

What is waiting is decided and written together, so that ten thousand machines that come back at once cost some hundred
transactions; nobody hears yes before the disk has.  If it refuses, all of that lot is taken back and told so.

Refusals are written down too, but with the next transaction that there is anyway: a stranger must not be able to keep
the disk busy by being refused.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import trio

from cyfs_gateway.io.sn.ledger import Ledger
from cyfs_gateway.io.sn.store import Database, Line, Store
from cyfs_gateway.sn.accounts import AnyChange, Change
from cyfs_gateway.sn.admission import Circumstances, Code, Policy, Registrar, Verdict, challenge
from cyfs_gateway.sn.registry import Registry
from cyfs_gateway.sn.requests import Bind, Claimed, Report, Request, described, read_request
from cyfs_gateway.sn.upkeep import outdated
from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.keys import PublicKey

log = logging.getLogger(__name__)

_LOT: Final = 64
"""Requests decided and written together: few enough that the house does not stand still meanwhile (some 10 ms)."""
_WAITING: Final = 1024
"""Requests that may stand in the row."""
_PATIENCE: Final = 10.0
"""Seconds that whoever asks waits for the disk."""
_UPKEEP: Final = 3600.0
_MOST_REFUSALS: Final = 1000
_OPERATOR: Final = "operator"


@dataclass(slots=True, eq=False)
class _Job:
    decide: Callable[[float], Verdict]
    who: str
    what: str
    is_told_of: bool
    verdict: Verdict | None = None
    fault: Exception | None = None
    done: trio.Event = field(default_factory=trio.Event)


class Outside(Protocol):
    """What has to be asked of others.  Each answers in bounded time and does not raise."""

    async def key_of(self, owner: Did) -> PublicKey | None:
        """Whose word a DID that is no key itself is, as surely as the operator requires; None: nobody can say."""

    async def texts_at(self, name: str) -> Sequence[bytes]:
        """The TXT records at ``name``, each as one run of bytes; not from a cache that its owner cannot wait for."""


def read_books(database: Database) -> Registry:
    """The registry that is written down.  Blocks; raises ``ConfigFault``."""
    registry = Registry()
    registry.apply(Change(None, entry) for entry in database.entries())  # type: ignore[misc]
    return registry


class Books:
    """What an SN knows and may change.  ``store`` has what ``registry`` was read from.  Needs :meth:`run`."""

    def __init__(self, store: Store, registry: Registry, policy: Policy, wall: Callable[[], float] = time.time) -> None:
        self.store = store
        self.registry = registry
        self.registrar = Registrar(registry, policy)
        self.changed: Callable[[Sequence[AnyChange]], None] = _nobody
        """Hears what the registry has become, before anybody is told; also what is taken back."""
        self._wall = wall
        self._send, self._receive = trio.open_memory_channel[_Job](_WAITING)
        self._refusals: deque[Line] = deque(maxlen=_MOST_REFUSALS)
        self._is_ailing = False

    async def hear(self, untrusted: str, source: bytes, outside: Outside) -> Verdict:
        """Read a request that came from the address ``source``, find out what it takes to judge it, and carry it out.

        Raises ``BadWire`` for one that is malformed, out of its time, or not by whom it says.
        """
        claimed = read_request(untrusted, self.registrar.policy.domain, self._wall())
        request = await self._proven(claimed, Circumstances(source), outside)
        if isinstance(request, Verdict):
            return request
        txts: Sequence[bytes] = ()
        account = self.registry.account(request.issuer)
        # Strangers do not choose whom we ask.
        if isinstance(request.action, Bind) and account is not None and not account.barred:
            wanted = challenge(request.action.domain, account.owner, self.registrar.policy.domain)
            txts = await outside.texts_at(wanted.name)
        return await self.submit(request, Circumstances(source, tuple(txts)))

    async def _proven(self, claimed: Claimed, around: Circumstances, outside: Outside) -> Request | Verdict:
        account = self.registry.account(claimed.issuer)
        known = claimed.issuer.key or (None if account is None or account.closed is not None else account.key)
        if known is not None:
            try:
                return claimed.proven(known)
            except BadWire:
                if claimed.issuer.key is not None:
                    raise
        # A newcomer with a name, or an owner whose name resolves to another key by now.
        if no := self.registrar.asks_for(claimed.issuer, claimed.code, around, self._wall()):
            return no
        key = await outside.key_of(claimed.issuer)
        if key is None:
            raise BadWire(f"request: nobody can say which key {claimed.issuer} has")
        return claimed.proven(key)

    async def submit(self, request: Request, around: Circumstances) -> Verdict:
        """Have ``request`` decided and carried out.

        After ``UNWRITTEN`` nothing has changed.  After ``SLOW`` nobody knows yet; the same request may come again, and
        is ``REPLAYED`` if it was carried out.
        """
        return await self._ask(
            _Job(
                lambda now: self.registrar.decide(request, around, now),
                str(request.issuer),
                described(request.action),
                not isinstance(request.action, Report),
            )
        )

    async def operate(self, what: str, decide: Callable[[Registry, float], Sequence[AnyChange]]) -> None:
        """Carry out the operator's changes, decided by ``decide`` in their turn, from what it finds in the registry and
        the time; ``what`` stands in the audit log.

        Raises ``Unreachable`` if the disk did not take them, and whatever ``decide`` raises.
        """

        def judged(now: float) -> Verdict:
            return Verdict(Code.OK, "", tuple(decide(self.registry, now)))

        job = _Job(judged, _OPERATOR, what, is_told_of=True)
        verdict = await self._ask(job)
        if job.fault is not None:
            raise job.fault
        if not verdict.ok:
            raise Unreachable(verdict.why)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Decide and write until cancelled; then what was taken up is finished first."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_up)
            task_status.started()
            async for first in self._receive:
                lot = [first]
                while len(lot) < _LOT:
                    try:
                        lot.append(self._receive.receive_nowait())
                    except trio.WouldBlock:
                        break
                with trio.CancelScope(shield=True):
                    await self._serve(lot)

    async def _ask(self, job: _Job) -> Verdict:
        try:
            self._send.send_nowait(job)
        except trio.WouldBlock:
            return Verdict(Code.UNWRITTEN, f"{_WAITING} others are waiting; come again in a moment")
        with trio.move_on_after(_PATIENCE):
            await job.done.wait()
        return job.verdict or Verdict(Code.SLOW, "the disk is slow; ask later whether it was done")

    async def _serve(self, lot: Sequence[_Job]) -> None:
        now = self._wall()
        changes: list[AnyChange] = []
        undo: list[AnyChange] = []
        verdicts: list[Verdict] = []
        lines: list[Line] = []
        for job in lot:
            try:
                verdict = job.decide(now)
                undo[:0] = self.registry.apply(verdict.changes)
                self.changed(verdict.changes)
            except Exception as fault:
                if job.who != _OPERATOR:
                    raise
                # Theirs to hear of; it must not end the task that serves all.
                job.fault, verdict = fault, Verdict(Code.UNKNOWN, str(fault))
            verdicts.append(verdict)
            changes += verdict.changes
            if job.is_told_of and (verdict.changes or not verdict.ok):
                line = Line(int(now), job.who, job.what, verdict.code, verdict.why)
                (lines if verdict.ok else self._refusals).append(line)
        if changes:
            refused = list(self._refusals)
            try:
                await self.store.write(changes, refused + lines)
            except Unreachable as fault:
                if not self._is_ailing:
                    log.error("%s", fault)
                self._is_ailing = True
                self.registry.apply(undo)
                self.changed(undo)
                verdicts = [Verdict(Code.UNWRITTEN, str(fault))] * len(lot)
            else:
                if self._is_ailing:
                    log.warning("the books can be written again")
                self._is_ailing = False
                self._refusals.clear()
        for job, verdict in zip(lot, verdicts, strict=True):
            job.verdict = verdict
            job.done.set()

    async def _keep_up(self) -> None:
        grace = self.registrar.policy.grace
        while True:
            try:
                await self.operate("upkeep", lambda registry, now: outdated(registry, grace, now))
            except Unreachable as fault:
                log.warning("upkeep: %s", fault)
            await trio.sleep(_UPKEEP)


def _nobody(changes: Sequence[AnyChange]) -> None:
    """Nobody listens yet."""


@asynccontextmanager
async def open_books(
    path: Path, policy: Policy, wall: Callable[[], float] = time.time
) -> AsyncIterator[tuple[Books, Ledger]]:
    """The books in the file ``path`` (made if there is none) and their ledger, at work until the block is left.

    Then what was used up to there is written down.  Raises ``ConfigFault`` if the file cannot be used.
    """

    def read() -> tuple[Registry, Ledger]:
        database = Database(path)
        try:
            registry = read_books(database)
            return registry, Ledger(Store(database), database.tally(), registry, policy, wall)
        except BaseException:
            database.close()
            raise

    registry, ledger = await trio.to_thread.run_sync(read)
    try:
        books = Books(ledger.store, registry, policy, wall)
        async with trio.open_nursery() as nursery:
            await nursery.start(books.run)
            await nursery.start(ledger.run)
            yield books, ledger
            nursery.cancel_scope.cancel()
    finally:
        await ledger.store.aclose()
