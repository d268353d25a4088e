"""Tasks of a node: what is to be done once, in an order, before services that wait for it go on.

A task is ``nodes/<n>/ops/<name>``, written by whoever orders the node about; what came of it is its receipt,
``nodes/<n>/status/ops/<name>``, written by the node.  Another ``epoch`` is another task.  To delete a task is to cancel
it; its receipt goes with it.

* **A receipt is never a lie.**  ``running`` is in the store before anything is done, and is written only where the task
  is still what was read.  So whoever finds it there, and nobody at work, knows that a daemon ended in the middle.
  What may be done twice is done again then, a few times; anything else is ``unknown``, and for people.
* **Nothing happens by surprise.**  ``failed``, ``refused`` and ``unknown`` are final: another epoch tries again.
* **Who waits stays as it is** until the task is ``done`` or deleted: neither started nor stopped nor upgraded.

=================  ==========================================================================  ==========
``kind``           what is done                                                                twice
=================  ==========================================================================  ==========
``prepare``        the package or image of ``work`` is unpacked, and kept while the task is    yes
``remove-volume``  ``volume`` of ``service``, which has no item on this node                   yes
``run``            the command of ``work`` runs to its end, as the user of ``service``         ``repeatable``
=================  ==========================================================================  ==========
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from cyfs_ns.config.source import BadYaml, Map, tree_of
from cyfs_ns.config.written import Reader, Section
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import read_json, read_object
from zone.scheduler.service import MAX_LIST, MAX_PAGE, NAME, Work, read_work

OpKind = Literal["prepare", "remove-volume", "run"]
OpState = Literal["pending", "running", "done", "failed", "refused", "unknown"]

MOST_OPS: Final = 256
"""Tasks of a node; the names that sort after these are refused."""
MOST_AT_ONCE: Final = 4
MOST_ATTEMPTS: Final = 5
"""Daemons that may end in the middle of a task before it counts as failed."""
MOST_TIMEOUT: Final = 24 * 3600.0
MOST_SAID: Final = 1000
"""Characters of each text of a receipt."""
_TIMEOUT: Final = 600.0
_RUNS_HERE: Final[Mapping[OpKind, tuple[str, ...]]] = {"prepare": ("process", "container"), "run": ("process",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """A task as meant."""

    name: str
    kind: OpKind
    service: str
    epoch: int
    work: Work | None = None
    """Of ``prepare`` and ``run``."""
    volume: str = ""
    repeatable: bool = True
    timeout: float = _TIMEOUT
    """Seconds."""
    after: tuple[str, ...] = ()
    """Tasks that must be done before."""
    holds: tuple[str, ...] = ()
    """Services that wait until this is done."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What came of a task."""

    state: OpState
    epoch: int
    """Of the task; 0: it cannot be read."""
    attempts: int = 0
    started: float = 0.0
    """Unix seconds, of the last attempt; 0: none yet."""
    ended: float = 0.0
    done: str = ""
    """What was done."""
    why: str = ""
    """Why it is not done."""

    def as_plain(self) -> dict[str, Any]:
        """As it stands in the store; ``read_receipt`` reads it back."""
        return {
            "state": self.state,
            "epoch": self.epoch,
            "attempts": self.attempts,
            "started": self.started,
            "ended": self.ended,
            "done": self.done,
            "why": self.why,
        }


def read_op(name: str, untrusted: str) -> Op:
    """The task in a value.  Raises ``BadWire``, also for what is merely not understood: a task is done or it is not."""
    try:
        if len(untrusted) > MAX_PAGE:
            raise BadWire(f"{name}: at most {MAX_PAGE} characters are read")
        tree = tree_of(read_json(untrusted, name))
    except BadYaml as bad:
        raise BadWire(f"{name}: {bad.message}") from None
    if not NAME.fullmatch(name) or not isinstance(tree, Map):
        raise BadWire(f"{name[:80]}: expected a task, by a name of small letters, digits and hyphens")
    page = Section(Reader(), tree, "")
    page.needed("kind")
    kind: OpKind = page.choice("kind", get_args(OpKind), "prepare")
    work = None
    if kind in _RUNS_HERE:
        table = page.table("work")
        if table is None:
            page.error("work", f"{kind} needs it")
        else:
            work = read_work(table)
            table.finish()
            if work.kind not in _RUNS_HERE[kind]:
                table.error("kind", f"{kind} is for {' and '.join(_RUNS_HERE[kind])}")
            if kind == "run" and not work.command:
                table.error("command", "there is nothing to run")
    op = Op(
        name=name,
        kind=kind,
        service=_name(page, "service"),
        epoch=page.integer("epoch", 0, 1, 2**53),
        work=work,
        volume=_name(page, "volume") if kind == "remove-volume" else "",
        repeatable=page.flag("repeatable") if kind == "run" else True,
        timeout=page.seconds("timeout", _TIMEOUT),
        after=_names(page, "after"),
        holds=_names(page, "holds"),
    )
    if op.epoch == 0:
        page.error("epoch", "a task has one, from 1 on")
    if not 0 < op.timeout <= MOST_TIMEOUT:
        page.error("timeout", f"at most {MOST_TIMEOUT:g} s")
    page.finish()
    if faults := page.reader.faults():
        raise BadWire(f"{name}: {'; '.join(f'{fault.path}: {fault.message}' for fault in faults[:8])}")
    return op


def _name(page: Section, key: str) -> str:
    name = page.needed(key)
    if name and not NAME.fullmatch(name):
        page.error(key, "expected a name of small letters, digits and hyphens")
    return name


def _names(page: Section, key: str) -> tuple[str, ...]:
    names = page.texts(key)
    if len(names) > MAX_LIST or not all(map(NAME.fullmatch, names)):
        page.error(key, f"expected names of small letters, digits and hyphens, at most {MAX_LIST}")
        return ()
    return tuple(sorted(set(names)))


def read_receipt(untrusted: str) -> Receipt:
    """Raises ``BadWire``."""
    said = read_object(untrusted.encode(), "receipt")
    match [said.get(name) for name in ("state", "epoch", "attempts", "started", "ended", "done", "why")]:
        case [
            str(state),
            int(epoch),
            int(attempts),
            int() | float() as started,
            int() | float() as ended,
            str(done),
            str(why),
        ] if state in get_args(OpState):
            return Receipt(cast(OpState, state), epoch, attempts, float(started), float(ended), done, why)
    raise BadWire("receipt: not as receipts are written")


@dataclass(frozen=True, slots=True)
class Begin:
    """Do this; then ``ended``."""

    op: Op


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop what was begun; then ``ended``."""

    op: Op


Step: TypeAlias = Begin | Cancel


@dataclass(slots=True)
class _Held:
    op: Op | None
    """None: it was deleted, or cannot be read."""
    receipt: Receipt
    doing: Op | None = None
    is_cancelled: bool = False
    is_written: bool = True
    """There is such a task in the store, also if it cannot be read."""


class Ops:
    """See the top of this file.  ``wall`` gives the Unix time."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._held: dict[str, _Held] = {}
        self._told: Mapping[str, Receipt] = {}

    # What happened

    def know(self, written: Mapping[str, str], told: Mapping[str, str]) -> None:
        """These are the tasks, all of them, and the receipts in the store; of a task that is new here they count."""
        for name, held in list(self._held.items()):
            held.is_written = name in written
            if not held.is_written:
                held.op = None
                if held.doing is None:
                    del self._held[name]
        for place, name in enumerate(sorted(written)):
            try:
                if place >= MOST_OPS:
                    raise BadWire(f"{name[:80]}: a node has at most {MOST_OPS} tasks")
                self._meant(name, read_op(name, written[name]), told.get(name))
            except BadWire as bad:
                refused = Receipt("refused", 0, why=str(bad)[:MOST_SAID])
                held = self._held.setdefault(name, _Held(None, refused))
                held.op, held.receipt = None, refused

    def _meant(self, name: str, op: Op, told: str | None) -> None:
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = _Held(op, _found(op, told))
        held.op = op
        if held.receipt.epoch != op.epoch:
            held.receipt = Receipt("pending", op.epoch)

    def put_back(self, name: str) -> None:
        """The store did not take that ``name`` is running: something is not as it was read, so think again."""
        held = self._held.get(name)
        if held is not None and held.doing is None and held.receipt.state == "running":
            held.receipt = replace(held.receipt, state="pending", attempts=held.receipt.attempts - 1)

    def told(self, receipts: Mapping[str, Receipt]) -> None:
        """These are in the store now."""
        self._told = dict(receipts)

    def ended(self, op: Op, done: str, fault: str = "") -> None:
        """``Begin`` came to an end; ``fault``: why it is not done."""
        held = self._held[op.name]
        was_cancelled, held.doing, held.is_cancelled = held.is_cancelled, None, False
        if not held.is_written:
            del self._held[op.name]
        elif held.op is not None and held.receipt.epoch == op.epoch and held.receipt.state == "running":
            state: OpState = "failed" if fault or was_cancelled else "done"
            held.receipt = replace(
                held.receipt,
                state=state,
                ended=self._wall(),
                done=done[:MOST_SAID],
                why=fault[:MOST_SAID],
            )

    # What is to be done

    def decide(self, has_item: Callable[[str], bool], is_here: Callable[[str], bool]) -> None:
        """Which tasks go on, given which services have an item on this node, and of which anything is here."""
        for name in sorted(self._held):
            held = self._held[name]
            op, receipt = held.op, held.receipt
            if op is None or receipt.state != "pending" or held.doing is not None:
                continue
            if op.kind == "remove-volume" and has_item(op.service):
                # One that was in the middle of it may have removed it already.
                state: OpState = "unknown" if receipt.attempts else "refused"
                why = f"{op.service} has an item on this node: its volumes are in use"
                held.receipt = replace(receipt, state=state, why=why, ended=self._wall())
            elif why := self._waits_for(op, is_here):
                held.receipt = replace(receipt, why=why[:MOST_SAID])
            else:
                now, attempts = self._wall(), receipt.attempts + 1
                held.receipt = replace(receipt, state="running", attempts=attempts, started=now, ended=0.0, why="")

    def _waits_for(self, op: Op, is_here: Callable[[str], bool]) -> str:
        for name in op.after:
            before = self._held.get(name)
            if before is None or not before.is_written:
                return f"waits for {name}, which is not there"
            if before.receipt.state != "done":
                return f"waits for {name}, which is {before.receipt.state}"
        if op.kind == "remove-volume" and is_here(op.service):
            return f"waits until nothing of {op.service} is here"
        busy = [held.doing or held.op for held in self._held.values() if held.doing or held.receipt.state == "running"]
        if len(busy) >= MOST_AT_ONCE:
            return f"{MOST_AT_ONCE} others are at work"
        if other := next((each for each in busy if each is not None and each.service == op.service), None):
            return f"{other.name} is at work on {op.service}"
        return ""

    def steps(self) -> list[Step]:
        """What to begin and cancel now."""
        found: list[Step] = []
        for name in sorted(self._held):
            held = self._held[name]
            op, doing = held.op, held.doing
            if doing is not None:
                if not held.is_cancelled and (op is None or op.epoch != doing.epoch):
                    held.is_cancelled = True
                    found.append(Cancel(doing))
            elif op is not None and held.receipt.state == "running" and self._told.get(name) == held.receipt:
                held.doing = op
                found.append(Begin(op))
        return found

    def receipts(self) -> dict[str, Receipt]:
        """What the store is to be told."""
        return {name: held.receipt for name, held in self._held.items()}

    def empties(self, name: str) -> str:
        """The service that must have no item here while the task is done; empty: none."""
        op = self._held[name].op
        return op.service if op is not None and op.kind == "remove-volume" else ""

    def places(self) -> frozenset[tuple[str, str]]:
        """Service and name of every task that may have files here."""
        ops = [each for held in self._held.values() for each in (held.op, held.doing)]
        return frozenset((op.service, op.name) for op in ops if op is not None)

    def holds(self) -> frozenset[str]:
        """The services that stay as they are for now."""
        found: set[str] = set()
        for held in self._held.values():
            for op in (held.doing, held.op if held.receipt.state != "done" else None):
                if op is not None:
                    found |= set(op.holds)
                    if op.kind == "remove-volume" and (held.doing or held.receipt.state == "running"):
                        found.add(op.service)
        return frozenset(found)


def _found(op: Op, told: str | None) -> Receipt:
    """The receipt of a task that this daemon sees for the first time, from the one that an earlier one left."""
    fresh = Receipt("pending", op.epoch)
    if told is None:
        return fresh
    try:
        receipt = read_receipt(told)
    except BadWire as bad:
        # Nobody can say whether it was begun.
        return fresh if op.repeatable else Receipt("unknown", op.epoch, why=str(bad)[:MOST_SAID])
    if receipt.epoch != op.epoch:
        return fresh
    if receipt.state != "running":
        return receipt
    why = "the node's daemon ended in the middle of it"
    if not op.repeatable:
        return replace(receipt, state="unknown", why=f"{why}: look what it did; another epoch does it again")
    if receipt.attempts >= MOST_ATTEMPTS:
        return replace(receipt, state="failed", why=f"{why}, {receipt.attempts} times")
    return replace(receipt, state="pending", why=why)
