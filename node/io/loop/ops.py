"""Tasks of a node, carried out: each is announced in the store, done, and its receipt written.

What a task has on the disk is named ``SERVICE+op-NAME`` where a service's own is named ``SERVICE``, and goes with the
task.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cyfs_ns.identity.strictjson import write_json
from node.io.run.kinds import Processes
from node.io.run.runs import Runs
from node.loop.ops import Begin, Op, Ops, Receipt
from node.run.runner import Kind, Order, Place, RunFault
from zone.config.faults import Code, ConfigError
from zone.config.model import AtRevision, Delete, Set, Transaction
from zone.io.config.store import ConfigStore
from zone.scheduler.snapshot import item_key

_AGAIN: Final = 1.0
"""Seconds before the store is asked again after it did not answer."""
_OF_TASK: Final = "+op-"
_FOLDERS: Final = ("items", "logs", "runs")
_GOING: Final = ".going-"

_log = logging.getLogger("cyfs.node")


class OpTasks:
    """The tasks of ``node``.  ``is_here``: whether anything of a service is; ``held`` hears when ``holds`` changed."""

    def __init__(
        self,
        node: str,
        home: str,
        store: ConfigStore,
        runs: Runs,
        kinds: Mapping[str, Kind],
        is_here: Callable[[str], bool],
        held: Callable[[], Awaitable[None]],
    ) -> None:
        self._node, self._home, self._store, self._runs, self._kinds = node, home, store, runs, kinds
        self._is_here, self._held = is_here, held
        self._ops = Ops(time.time)
        self._entries: Mapping[str, tuple[int, str]] = {}
        self._is_known = False
        self._said: dict[str, Receipt | None] = {}
        self._places: frozenset[tuple[str, str]] | None = None
        self._doing: dict[str, trio.CancelScope] = {}
        self._news = trio.Event()
        self.holds: frozenset[str] = frozenset()

    def know(self, entries: Mapping[str, tuple[int, str]]) -> None:
        """What stands below ``nodes/<n>`` now: key to revision and text."""
        written, told = self._below(entries, "ops/"), self._below(entries, "status/ops/")
        if not self._is_known:
            self._said = dict.fromkeys(told)
        self._entries, self._is_known = entries, True
        self._ops.know(written, told)
        self.holds = self._ops.holds()
        self._news.set()

    def _below(self, entries: Mapping[str, tuple[int, str]], part: str) -> dict[str, str]:
        start = f"nodes/{self._node}/{part}"
        return {key.removeprefix(start): text for key, (_, text) in entries.items() if key.startswith(start)}

    def look(self) -> None:
        """What ``is_here`` says may have changed."""
        self._news.set()

    async def run(self) -> None:
        """Until it is cancelled; what is under way then is found in the middle by the next daemon."""
        async with trio.open_nursery() as nursery:
            while True:
                self._news = trio.Event()
                if self._is_known:
                    try:
                        await self._go_on(nursery)
                    except ConfigError as fault:
                        _log.warning("the zone cannot be told of the tasks of %s: %s", self._node, fault)
                        await trio.sleep(_AGAIN)
                        continue
                await self._news.wait()

    async def _go_on(self, nursery: trio.Nursery) -> None:
        if (places := self._ops.places()) != self._places:
            await self._clear(places)
            self._places = places
        self._ops.decide(lambda service: item_key(self._node, service) in self._entries, self._is_here)
        if (holds := self._ops.holds()) != self.holds:
            self.holds = holds
            await self._held()
        await self._write()
        self._ops.told({name: said for name, said in self._said.items() if said is not None})
        for step in self._ops.steps():
            if isinstance(step, Begin):
                scope = self._doing[step.op.name] = trio.CancelScope()
                nursery.start_soon(self._do, step.op, scope)
            else:
                self._doing[step.op.name].cancel()

    async def _write(self) -> None:
        # All is looked at before anything is written: meanwhile other tasks may come to be known.
        receipts = self._ops.receipts()
        writes = {
            name: Transaction(
                (Set(self._receipt(name), write_json(receipt.as_plain()).decode()),), self._guards(name, receipt)
            )
            for name, receipt in receipts.items()
            if self._said.get(name) != receipt
        }
        for name, transaction in writes.items():
            try:
                await self._store.transact(transaction)
            except ConfigError as fault:
                # It is not what was read any more; what it is now is on its way here.
                if fault.code is not Code.CONFLICT:
                    raise
                self._ops.put_back(name)
            else:
                self._said[name] = receipts[name]
        for name in self._said.keys() - receipts.keys():
            await self._store.transact(Transaction((Delete(self._receipt(name)),)))
            del self._said[name]

    def _receipt(self, name: str) -> str:
        return f"nodes/{self._node}/status/ops/{name}"

    def _guards(self, name: str, receipt: Receipt) -> tuple[AtRevision, ...]:
        """What must be as it was read for ``receipt`` to be true: the task, and that no item is where none may be."""
        if receipt.state != "running":
            return ()
        key, service = f"nodes/{self._node}/ops/{name}", self._ops.empties(name)
        same = AtRevision(key, self._entries.get(key, (0, ""))[0])
        return (same, AtRevision(item_key(self._node, service), 0)) if service else (same,)

    async def _do(self, op: Op, scope: trio.CancelScope) -> None:
        _log.info("task %s: %s of %s begins", op.name, op.kind, op.service)
        done, fault = "", "cancelled"
        with scope:
            try:
                with trio.move_on_after(op.timeout) as patience:
                    done, fault = await self._carry_out(op), ""
                if patience.cancelled_caught:
                    fault = f"took longer than {op.timeout:g} s"
            except (RunFault, OSError) as wrong:
                fault = str(wrong) or repr(wrong)
            except Exception as wrong:  # a fault of ours in one task is no reason to let everything else go
                _log.exception("task %s failed", op.name)
                fault = repr(wrong)
        del self._doing[op.name]
        _log.log(logging.WARNING if fault else logging.INFO, "task %s: %s", op.name, fault or done)
        self._ops.ended(op, done, fault)
        self._news.set()

    async def _carry_out(self, op: Op) -> str:
        """What was done; raises ``RunFault`` or ``OSError``."""
        place = self._runs.place(op.service)
        if op.kind == "remove-volume":
            return await trio.to_thread.run_sync(_remove_volume, Path(place.volume(op.volume)))
        if op.work is None or (kind := self._kinds.get(op.work.kind)) is None:
            raise RunFault("this node runs no items of this kind")
        own = Place(place.home, f"{op.service}{_OF_TASK}{op.name}")
        if op.kind == "prepare":
            await kind.prepare(Order(service=own.service, work=op.work), own)
            return f"{op.work.image} is unpacked"
        if not isinstance(kind, Processes):
            raise RunFault("this node runs no commands")
        ended = await kind.run_once(Order(service=op.service, work=op.work), place, own, self._runs)
        if ended.code != 0:
            raise RunFault(f"{ended}; its output is in {own.logs}")
        return f"it {ended}; its output is in {own.logs}"

    async def _clear(self, places: frozenset[tuple[str, str]]) -> None:
        """Give back what tasks had that are there no more, also those of a daemon that was killed."""
        kept = {f"{service}{_OF_TASK}{name}" for service, name in places}
        for name in await trio.to_thread.run_sync(self._found) - kept:
            for kind in self._kinds.values():
                try:
                    await kind.release(Place(self._home, name))
                except (RunFault, OSError) as fault:
                    _log.warning("%s: %s", name, fault)
            for folder in _FOLDERS:
                await trio.to_thread.run_sync(
                    partial(shutil.rmtree, Path(self._home, folder, name), ignore_errors=True)
                )

    def _found(self) -> set[str]:
        return {path.name for folder in _FOLDERS for path in Path(self._home, folder).glob(f"*{_OF_TASK}*")}


def _remove_volume(volume: Path) -> str:
    """First out of the way, whole, so that nobody ever finds a part of it.  Raises ``OSError`` or ``RunFault``."""
    going = volume.with_name(f"{_GOING}{volume.name}")
    if volume.is_symlink():
        raise RunFault(f"{volume} is a link: what it leads to is not removed")
    was_there = volume.exists() or going.exists()
    if going.exists():
        shutil.rmtree(going)
    if volume.exists():
        volume.rename(going)
        shutil.rmtree(going)
    return f"{volume} is removed" if was_there else f"there is no {volume}"
