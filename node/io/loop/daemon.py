"""The node loop, carried out: orders followed, actions done, reports told.

Four tasks go on beside each other and share one ``Convergence`` (a fifth, ``ops``, does what is to be done once):

* **follow** reads the orders and watches them.  What was read last is kept on the disk, and obeyed while the store is
  away, also by a daemon that begins meanwhile.
* **converge** begins actions as ``Convergence`` says, each in a task of its own; what comes of one is told it at once.
* **watch over** each run: a task waits for its end.
* **tell** keeps the node's lease and what stands under it: that the node is there, reports, and facts.  A lease that
  is lost is granted anew and everything written again.

Ending the loop ends none of the runs: the next one adopts them.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import write_json
from cyfs_ns.io.atomic import write_atomic
from node.io.loop.health import fault_of
from node.io.loop.machine import look
from node.io.loop.ops import OpTasks
from node.io.run.runs import Runs
from node.loop.converge import Abandon, Action, Ask, Convergence, End, Forget, Prepare, Probe, Report, Start
from node.loop.facts import Facts, as_plain
from node.loop.kept import MOST_KEPT, Orders, orders_of, read_orders, read_told, told_as_bytes
from node.run.runner import Ended, Kind, Order, RunFault
from zone.config.faults import Code, ConfigError
from zone.config.keys import Below
from zone.config.model import Action as Write
from zone.config.model import Delete, Set, Transaction
from zone.io.config.store import ConfigStore
from zone.scheduler.observe import alive_key
from zone.scheduler.service import Work

TTL: Final = 15
"""Seconds of the node's lease."""
_SIGN_OF_LIFE: Final = 5.0
"""Seconds between signs of life, and between looks at the machine's facts."""
_TELL_USAGE: Final = 30.0
_AGAIN: Final = 1.0
"""Seconds before the store is asked again after it did not answer."""
_CLEAR_AGAIN: Final = 5.0
_MOST_WHY: Final = 300
"""Characters that the zone is told of why a service does not run: a report is of 4 KiB at most, whatever they are."""
_ABANDONED: Final = "abandoned"

T = TypeVar("T")

_log = logging.getLogger("cyfs.node")


class NodeLoop:
    """The loop of ``node``, whose files are below ``home``."""

    def __init__(
        self, node: str, store: ConfigStore, home: str, kinds: Mapping[str, Kind], did: str = "", net_id: str = ""
    ) -> None:
        self._node, self._store, self._home = node, store, Path(home)
        self._runs, self._kinds = Runs(home), kinds
        self._did, self._net_id = did, net_id
        self._loop = Convergence(random.random, time.time, {})
        self._orders: Orders | None = None
        self._ordered = trio.Event()
        self._reports: dict[str, Report] = {}
        self._news, self._reports_changed = trio.Event(), trio.Event()
        self._doing: dict[str, trio.CancelScope] = {}
        self._asking: dict[str, trio.CancelScope] = {}
        self._ops = OpTasks(node, home, store, self._runs, kinds, lambda name: self._loop.knows(name), self._hold)
        self._keeping = trio.Lock()

    def _make_home(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        # Users of services have to get through, whatever the umask of the daemon.
        self._home.chmod(self._home.stat().st_mode & 0o777 | 0o111)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until it is cancelled; started when what ran before is adopted and the last orders are obeyed."""
        await _in_thread(self._make_home)
        told = await _in_thread(lambda: self._read("told.json", read_told))
        self._loop = Convergence(random.random, time.time, told or {})
        async with trio.open_nursery() as nursery:
            for service, order in (await self._runs.find()).items():
                unknown = Order(service=service, work=Work(image=""))
                self._loop.adopt(order or unknown, trio.current_time())
                nursery.start_soon(self._watch_over, service, order)
            if (orders := await _in_thread(lambda: self._read("orders.json", read_orders))) is not None:
                self._obey(orders)
            nursery.start_soon(self._converge)
            nursery.start_soon(self._follow)
            nursery.start_soon(self._tell)
            nursery.start_soon(self._ops.run)
            task_status.started()

    # Orders

    async def _follow(self) -> None:
        while True:
            try:
                # One watch for orders and tasks: a task that an order waits for is never seen after it.
                scope = Below(f"nodes/{self._node}")
                reading = await self._store.read([scope])
                entries = {entry.key: (entry.revision, entry.value or "") for entry in reading.entries}
                await self._take(reading.revision, entries)
                async with self._store.watch(scope, reading.revision) as changes:
                    async for change in changes:
                        for entry in change.entries:
                            if entry.value is None and entry.fault is None:
                                entries.pop(entry.key, None)
                            else:  # what nobody here can open is an order that cannot be read
                                entries[entry.key] = (entry.revision, entry.value or "")
                        await self._take(change.revision, entries)
            except ConfigError as fault:
                _log.warning("the orders of %s cannot be followed, so the last go on: %s", self._node, fault)
            await trio.sleep(_AGAIN)

    async def _take(self, revision: int, entries: Mapping[str, tuple[int, str]]) -> None:
        self._ops.know(dict(entries))
        texts = {key: text for key, (_, text) in entries.items()}
        await self._adopt(orders_of(self._node, revision, texts, self._ops.holds))

    async def _hold(self) -> None:
        """Other services wait for tasks than did."""
        if self._orders is not None:
            await self._adopt(replace(self._orders, held=self._ops.holds))

    async def _adopt(self, orders: Orders) -> None:
        before = self._orders
        if before is None or (orders.texts, orders.held) != (before.texts, before.held):
            self._obey(orders)
            async with self._keeping:
                if orders is self._orders:
                    await _in_thread(lambda: self._keep("orders.json", orders.as_bytes()))

    def _obey(self, orders: Orders) -> None:
        self._orders = orders
        items, unread = orders.meant()
        for service, why in unread.items():
            level = logging.INFO if service in orders.held else logging.ERROR
            _log.log(level, "%s stays as it is: %s", service, why)
        self._loop.obey(items, unread, trio.current_time())
        self._ordered.set()
        self._news.set()

    # Files

    def _read(self, name: str, read: Callable[[bytes], T]) -> T | None:
        try:
            with (self._home / name).open("rb") as file:
                return read(file.read(MOST_KEPT))
        except FileNotFoundError:
            return None
        except (OSError, BadWire) as fault:
            _log.error("%s is as good as none: %s", name, fault)
            return None

    def _keep(self, name: str, data: bytes) -> None:
        """A disk that is full costs what the next daemon would know, and stops nothing."""
        try:
            write_atomic(self._home / name, data)
        except OSError as fault:
            _log.error("%s cannot be kept: %s", name, fault)

    # Actions

    async def _converge(self) -> None:
        # Without orders, old or new, nobody knows what of that which runs is wanted.
        await self._ordered.wait()
        async with trio.open_nursery() as nursery:
            while True:
                self._news = trio.Event()
                for action in self._loop.actions(trio.current_time()):
                    self._begin(nursery, action)
                self._ops.look()
                if (reports := self._loop.reports()) != self._reports:
                    _tell_of_failures(self._reports, reports)
                    self._reports = reports
                    self._reports_changed.set()
                deadline = self._loop.next_deadline()
                with trio.CancelScope(deadline=float("inf") if deadline is None else deadline):
                    await self._news.wait()

    def _begin(self, nursery: trio.Nursery, action: Action) -> None:
        match action:
            case Abandon(service):
                self._doing[service].cancel()
            case Forget(service):
                nursery.start_soon(self._forget, service)
            case Ask(order):
                nursery.start_soon(self._ask, order)
            case End(order):
                if (asking := self._asking.get(order.service)) is not None:
                    asking.cancel()
                nursery.start_soon(self._end, order.service)
            case Prepare(order) | Start(order) | Probe(order):
                scope = self._doing[order.service] = trio.CancelScope()
                nursery.start_soon(self._do, nursery, action, scope)

    async def _do(self, nursery: trio.Nursery, action: Prepare | Start | Probe, scope: trio.CancelScope) -> None:
        order = action.order
        fault, lasting = _ABANDONED, False
        with scope:
            try:
                fault = await self._done(action)
            except RunFault as wrong:
                fault, lasting = str(wrong) or repr(wrong), wrong.lasting
            except OSError as wrong:
                fault = str(wrong)
            except Exception as wrong:  # a fault of ours in one kind is no reason to let all other services go
                _log.exception("%s: %s failed", order.service, type(action).__name__.lower())
                fault = repr(wrong)
        now = trio.current_time()
        match action:
            case Prepare():
                self._loop.prepared(order, now, fault, lasting=lasting)
            case Start():
                if not fault:
                    nursery.start_soon(self._watch_over, order.service, order)
                    said = _event("started", order.service)
                    _log.info("%s: started, version %s", order.service, order.work.version, extra=said)
                self._loop.started(order, now, fault, lasting=lasting)
            case Probe():
                self._loop.probed(order, now, fault)
        if fault and fault != _ABANDONED:
            what = type(action).__name__.lower()
            _log.warning("%s: %s: %s", order.service, what, fault, extra=_event(f"{what}-failed", order.service))
        self._news.set()

    async def _done(self, action: Prepare | Start | Probe) -> str:
        order = action.order
        kind, place = self._kind(order), self._runs.place(order.service)
        match action:
            case Prepare():
                await kind.prepare(order, place)
            case Start():
                try:
                    await self._runs.start(order, await kind.launch(order, place))
                except RunFault:
                    await kind.release(place)
                    raise
            case Probe():
                if fault := await kind.probe(order, place) or await fault_of(order):
                    return fault
                # Asked last: what answers on the port of a run that is over is another program.
                return "it has ended" if await self._runs.is_over(order.service) else ""
        return ""

    def _kind(self, order: Order) -> Kind:
        if (kind := self._kinds.get(order.work.kind)) is None:
            raise RunFault(f"this node runs no items of kind {order.work.kind}", lasting=True)
        return kind

    async def _ask(self, order: Order) -> None:
        _log.info("%s: asked to end", order.service, extra=_event("asked-to-end", order.service))
        with trio.CancelScope() as scope:
            self._asking[order.service] = scope
            try:
                if await self._kind(order).stop(order, self._runs.place(order.service)):
                    return
            except Exception as wrong:  # as with actions
                _log.warning("%s: its kind cannot stop it: %r", order.service, wrong)
            await self._runs.stop(order.service)

    async def _end(self, service: str) -> None:
        await self._runs.stop(service, at_once=True)

    async def _watch_over(self, service: str, order: Order | None) -> None:
        ended = await self._runs.wait(service)
        if (asking := self._asking.pop(service, None)) is not None:
            asking.cancel()
        why = await self._clear(service, order, ended)
        _log.info("%s: %s", service, why, extra=_event("ended", service))
        self._loop.ended(service, trio.current_time(), why)
        self._news.set()

    async def _clear(self, service: str, order: Order | None, ended: Ended) -> str:
        """Give back what the run held, which may need patience: until then something of it may run."""
        place = self._runs.place(service)
        kind = None if order is None else self._kinds.get(order.work.kind)
        why = str(ended) if kind is None else kind.explain(place, ended)
        for each in self._kinds.values() if kind is None else (kind,):
            while (fault := await _fault(lambda each=each: each.release(place))) is not None:  # type: ignore[misc]
                _log.error("%s: %s", service, fault)
                await trio.sleep(_CLEAR_AGAIN)
        return why

    async def _forget(self, service: str) -> None:
        place = self._runs.place(service)
        for part in (*self._kinds.values(), self._runs):
            if (fault := await _fault(lambda part=part: part.forget(place))) is not None:  # type: ignore[misc]
                _log.warning("%s: %s", service, fault)
        self._loop.forgotten(service)
        self._news.set()

    # Reports

    async def _tell(self) -> None:
        lease = 0
        said: dict[str, str] = {}
        kept: dict[str, Report] = {}
        facts: Facts | None = None
        usage_at = sign_at = 0.0
        info = ""
        while True:
            self._reports_changed = trio.Event()
            # Before it is told: the next daemon is to tell the same.
            reports = self._reports
            if reports != kept:
                kept = reports
                await trio.to_thread.run_sync(self._keep, "told.json", told_as_bytes(reports))
            try:
                now = trio.current_time()
                if lease == 0:
                    lease, said, sign_at = await self._store.grant(TTL), {}, now + _SIGN_OF_LIFE
                elif now >= sign_at:
                    await self._store.keep_alive(lease)
                    sign_at = now + _SIGN_OF_LIFE
                found, usage = await _in_thread(lambda: look(str(self._home), self._did, self._net_id))
                if found != facts or now >= usage_at:
                    facts, usage_at = found, now + _TELL_USAGE
                    info = write_json(as_plain(found, usage)).decode()
                wanted = {alive_key(self._node): "{}", f"devices/{self._node}/info": info}
                wanted |= {f"services/{name}/instances/{self._node}": _text(each) for name, each in reports.items()}
                await self._write(wanted, said, lease)
                said = wanted
            except ConfigError as fault:
                if fault.code is not Code.UNAVAILABLE:
                    # Whatever stands there now, it is written anew, under a lease that is ours.
                    lease = 0
                _log.warning("the zone cannot be told of %s: %s", self._node, fault)
                await trio.sleep(_AGAIN)
                continue
            except OSError as fault:
                _log.warning("the facts of this machine: %s", fault)
            with trio.move_on_at(sign_at):
                await self._reports_changed.wait()

    async def _write(self, wanted: Mapping[str, str], said: Mapping[str, str], lease: int) -> None:
        writes: list[Write] = [Set(key, text, lease) for key, text in wanted.items() if said.get(key) != text]
        writes += [Delete(key) for key in said if key not in wanted]
        if writes:
            await self._store.transact(Transaction(tuple(writes)))


def _text(report: Report) -> str:
    plain = {"state": report.state, "epoch": report.epoch, "since": report.since, "why": report.why[:_MOST_WHY]}
    return write_json(plain).decode()


def _tell_of_failures(before: Mapping[str, Report], reports: Mapping[str, Report]) -> None:
    for service, report in reports.items():
        if report.state == "failed" and (service not in before or before[service].state != "failed"):
            _log.warning("%s: counts as failed: %s", service, report.why, extra=_event("failed", service))


def _event(event: str, service: str) -> Mapping[str, str]:
    """What the log says beside the words, for ``zone events``."""
    return {"event": event, "about": service}


async def _fault(work: Callable[[], Awaitable[None]]) -> Exception | None:
    try:
        await work()
    except (RunFault, OSError) as fault:
        return fault
    return None


async def _in_thread(work: Callable[[], Any]) -> Any:
    return await trio.to_thread.run_sync(work)
