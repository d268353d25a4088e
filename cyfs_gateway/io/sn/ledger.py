"""Who may carry how much, and who did: the one door for the relay and the ingress.

A carrier opens a stream for an account, asks for grants, settles them, closes.  All of that is arithmetic in memory;
every few seconds what came together is written down as one numbered batch, and once more at the end.  ``kill -9`` loses
what came since the last batch; a batch that is written twice counts once (``cyfs_gateway/sn/meter.py``).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import trio

from cyfs_gateway.io.sn.store import Store, Tally
from cyfs_gateway.sn.admission import Policy
from cyfs_gateway.sn.meter import Meter, Usage
from cyfs_gateway.sn.quota import LARGEST, Allowance, Answer, Denied, Grant, Later, Quota, Spent
from cyfs_gateway.sn.registry import Registry
from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import Did

log = logging.getLogger(__name__)

EVERY: Final = 5.0
"""Seconds from one batch to the next."""


class Ledger:
    """The allowances of all accounts, and their usage.  Owners are canonical DIDs.  Needs :meth:`run`."""

    def __init__(
        self,
        store: Store,
        tally: Tally,
        registry: Registry,
        policy: Policy,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self._registry, self._policy = registry, policy
        self._wall, self._steady = wall, steady
        self._meter = Meter(tally.month, tally.batch, tally.used)
        self._meter.turn(wall())
        self._allowances: dict[Did, tuple[Quota, Allowance]] = {}
        self._is_ailing = False

    @property
    def month(self) -> int:
        """The UTC month that is being counted, as ``202611``."""
        return self._meter.month

    def open(self, owner: Did) -> str:
        """One more stream of ``owner``.  Why not, or empty: then it counts until :meth:`close`."""
        allowance = self._allowance(owner)
        if isinstance(allowance, Denied):
            return allowance.why
        why = allowance.open()
        if not why:
            self._meter.add(owner, Usage(streams=1))
        return why

    def close(self, owner: Did) -> None:
        """A stream that :meth:`open` let in has ended; its grants were settled before."""
        self._allowances[owner][1].close()

    def ask(self, owner: Did, wanted: int = LARGEST, whole: bool = False) -> Answer:
        """Leave for an open stream of ``owner`` to carry up to ``wanted`` bytes (``whole``: all of them), or how long
        to wait, or why not."""
        allowance = self._allowance(owner)
        return allowance if isinstance(allowance, Denied) else allowance.ask(self._steady(), wanted, whole)

    def settle(self, owner: Did, grant: Grant, up: int, down: int) -> None:
        """``grant`` is done with: ``up`` bytes came from machines of ``owner``, ``down`` went to them."""
        now = self._steady()
        self._allowances[owner][1].settle(grant, up + down, now)
        self._meter.add(owner, Usage(up, down, max(0.0, now - grant.since)))

    def charge(self, owner: Did, used: Usage) -> Later | Denied | None:
        """Count what was carried for ``owner`` without leave, by somebody who looks at his streams now and then.  None:
        they may go on."""
        allowance = self._allowance(owner)
        self._meter.add(owner, used)
        return (
            allowance if isinstance(allowance, Denied) else allowance.charge(used.bytes, used.seconds, self._steady())
        )

    def used(self, owner: Did) -> Usage:
        """What ``owner`` used this month, up to this moment."""
        return self._meter.used(owner)

    def totals(self) -> Mapping[Did, Usage]:
        """What each owner used this month, up to this moment."""
        return self._meter.totals()

    def streams(self) -> int:
        """How many streams are open."""
        return sum(allowance.streams for _, allowance in self._allowances.values())

    async def set_month(self, month: int) -> None:
        """An operator says which month it is, after a clock was wrong.  Raises ``Unreachable``."""
        await self.write()
        await self.store.set_month(month)
        self._meter.set_month(month, await self.store.usage(month))
        self._turn_allowances()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write every few seconds until cancelled, and then once more."""
        task_status.started()
        try:
            while True:
                await trio.sleep(EVERY)
                await self._write_or_wait()
        finally:
            with trio.CancelScope(shield=True):
                await self._write_or_wait()

    async def write(self) -> None:
        """Write down what came together.  Raises ``Unreachable``: then it is kept, and goes with the next."""
        while (batch := self._meter.batch()) is not None:
            await self.store.add(batch)
            self._meter.written(batch)

    async def _write_or_wait(self) -> None:
        if self._meter.turn(self._wall()):
            self._turn_allowances()
        now = self._steady()
        for owner in [owner for owner, (_, allowance) in self._allowances.items() if allowance.is_idle(now)]:
            del self._allowances[owner]
        try:
            await self.write()
        except Unreachable as fault:
            if not self._is_ailing:
                log.error("usage: %s; it is kept in memory", fault)
            self._is_ailing = True
        else:
            self._is_ailing = False

    def _turn_allowances(self) -> None:
        for owner, (_, allowance) in self._allowances.items():
            used = self._meter.used(owner)
            allowance.new_month(Spent(used.bytes, used.seconds))

    def _allowance(self, owner: Did) -> Allowance | Denied:
        account = self._registry.account(owner)
        if account is None:
            return Denied(f"{owner} has no account here")
        if account.barred:
            return Denied(account.barred)
        quota = self._policy.quota_of(account)
        held = self._allowances.get(owner)
        if held is None:
            used = self._meter.used(owner)
            held = quota, Allowance(quota, Spent(used.bytes, used.seconds), self._steady())
            self._allowances[owner] = held
        elif held[0] != quota:
            held[1].change(quota, self._steady())
            self._allowances[owner] = quota, held[1]
        return held[1]


class Draw:
    """One open stream that takes lots of one size, whole, and asks for the next while it still has some of the last:
    for carriers that cannot wait, as the UDP relay.  They do not tell directions apart, so all of it counts as ``up``.
    """

    def __init__(self, ledger: Ledger, owner: Did) -> None:
        """Raises ``Refused`` if ``owner`` may have no stream now."""
        if why := ledger.open(owner):
            raise Refused(why)
        self._ledger, self._owner = ledger, owner
        self._held: deque[Grant] = deque()

    def take(self, octets: int) -> bool:
        """Whether there is another lot of ``octets``.  All before the last one is used up."""
        while len(self._held) > 1:
            self._settle(self._held.popleft(), 0)
        answer = self._ledger.ask(self._owner, octets, whole=True)
        if isinstance(answer, Grant):
            self._held.append(answer)
        return isinstance(answer, Grant)

    def end(self, unused: int) -> None:
        """The stream has ended, with ``unused`` octets of its last lots left.  To be called once."""
        while self._held:
            last = self._held.pop()
            self._settle(last, unused)
            unused = max(0, unused - last.bytes)
        self._ledger.close(self._owner)

    def _settle(self, grant: Grant, unused: int) -> None:
        self._ledger.settle(self._owner, grant, max(0, grant.bytes - unused), 0)
