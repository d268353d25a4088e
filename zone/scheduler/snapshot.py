"""What the scheduler knows in one round, frozen: the store's keys at one revision, who is heard of, and the time.

``Reading`` is that as it was read, and the only thing a decision depends on.  ``snapshot_of`` looks at each value by
itself: one that cannot be read becomes the ``fault`` of its service or node, and of nobody else.

| key | who writes it | what it says |
|---|---|---|
| ``services/<s>/spec`` | the owner | the page |
| ``services/<s>/placement`` | the scheduler | ``Memory``: the good version, the failed one, where volumes are |
| ``services/<s>/info`` | the scheduler | where clients find it, with weights |
| ``services/<s>/instances/<n>`` | the node | ``Report`` |
| ``nodes/<n>/intent`` | the owner | that it belongs to the zone; its labels; ``drain`` |
| ``nodes/<n>/config`` | the scheduler | its items |
| ``devices/<n>/info`` | the node | ``cpu_num`` (cores) and ``total_mem`` (bytes), among other things |

A node is heard of as long as it holds its lease in the store.  When that was last seen is kept by whoever reads the
store, on its own clock, because no other clock can be compared with ``now``; who takes that over from another counts
every node as seen at that moment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cyfs_ns.config.source import BadYaml, Map, tree_of
from cyfs_ns.config.written import Reader, Section
from cyfs_ns.errors import BadWire
from zone.config.model import MOST_VALUE
from zone.scheduler.service import (
    MAX_CPU,
    MAX_MEMORY,
    NAME,
    Pairs,
    ServiceSpec,
    Work,
    read_labels,
    read_ports,
    read_service,
    read_work,
)

State = Literal["starting", "ready", "failed", "stopped"]
Target = Literal["running", "stopped"]

_MAX_REVISION = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Claim:
    """What an item takes of its node."""

    cpu: int
    memory: int
    ports: frozenset[int]

    def __or__(self, other: Claim) -> Claim:
        return Claim(max(self.cpu, other.cpu), max(self.memory, other.memory), self.ports | other.ports)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What a node is to do about one service."""

    work: Work
    ports: tuple[tuple[str, int], ...] = ()
    """Name and number on this node."""
    target: Target = "running"
    epoch: int
    """The revision of the store on which this was decided; a report that repeats it is about this item as it is now."""
    placed: float
    """When that was, by the scheduler's clock."""
    why: str = ""
    before: Claim | None = None
    """What it replaces; taken as well until the node has reported about this one."""

    @property
    def claim(self) -> Claim:
        """What it takes by itself."""
        return Claim(self.work.cpu, self.work.memory, frozenset(number for _, number in self.ports))

    def as_plain(self) -> dict[str, Any]:
        """As it stands in ``nodes/<n>/config``."""
        plain: dict[str, Any] = {
            "work": self.work.as_page(),
            "ports": dict(self.ports),
            "target": self.target,
            "epoch": self.epoch,
            "placed": self.placed,
            "why": self.why,
        }
        if self.before is not None:
            ports = {str(number): number for number in self.before.ports}
            plain["before"] = {"cpu": self.before.cpu, "memory": self.before.memory, "ports": ports}
        return plain


@dataclass(frozen=True, slots=True)
class Report:
    """A node's word about the item ``epoch``: ``stopped`` means that nothing of it runs."""

    state: State
    epoch: int
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of the zone."""

    name: str
    cpu: int = 0
    """Thousandths of a core; 0: it has not said."""
    memory: int = 0
    labels: Pairs = ()
    drain: bool = False
    seen: float | None = None
    """When it last held its lease; None: never."""
    items: Mapping[str, Item] = field(default_factory=dict)
    fault: str = ""
    """What of it cannot be read; nothing new is placed on it then."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A version that was taken back."""

    version: str
    why: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What the scheduler must remember of a service beyond its items."""

    good: Work | None = None
    """The last that was ready everywhere."""
    failed: Failed | None = None
    pins: tuple[str, ...] = ()
    """The nodes that have its volumes, in the order in which they came."""

    def as_plain(self) -> dict[str, Any]:
        """As it stands in ``services/<s>/placement``."""
        return {
            "good": self.good and self.good.as_page(),
            "failed": self.failed and {"version": self.failed.version, "why": self.failed.why},
            "pins": list(self.pins),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """All that is known of one service."""

    spec: ServiceSpec | None = None
    """None: its page was taken away, or cannot be read."""
    memory: Memory = Memory()
    reports: Mapping[str, Report] = field(default_factory=dict)
    info: object = None
    """What clients are told now, as plain data."""
    fault: str = ""
    """What of it cannot be read; it stays as it is then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read, as it was read."""

    now: float
    """Unix seconds, by the scheduler's clock."""
    revision: int
    """Of the store, when it was read."""
    lease: tuple[str, int]
    """The key that makes this scheduler the one, and its revision."""
    seen: Mapping[str, float]
    """Node to when it last held its lease, by the same clock."""
    entries: Mapping[str, tuple[int, str]]
    """Key to its revision and its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was read, as it is meant."""

    now: float
    revision: int
    lease: tuple[str, int]
    nodes: Mapping[str, Node]
    services: Mapping[str, Service]
    departed: tuple[str, ...] = ()
    """Nodes that have a config and belong to the zone no more."""
    revisions: Mapping[str, int] = field(default_factory=dict)
    """Of every key that was read."""


def snapshot_of(reading: Reading) -> Snapshot:
    """Never raises: what cannot be read is a ``fault`` where it belongs.  Keys that are none of ours are read past."""
    parts: dict[str, dict[str, dict[str, str]]] = {"nodes": {}, "services": {}, "devices": {}}
    for key, (_, value) in reading.entries.items():
        kind, _, rest = key.partition("/")
        name, _, part = rest.partition("/")
        if kind in parts and NAME.fullmatch(name):
            parts[kind].setdefault(name, {})[part] = value
    nodes, services = parts["nodes"], parts["services"]
    named = {name for name, held in nodes.items() if "intent" in held}
    found = {name: _node(name, nodes[name], parts["devices"].get(name, {}), reading.seen.get(name)) for name in named}
    placed = {service for node in found.values() for service in node.items}
    return Snapshot(
        now=reading.now,
        revision=reading.revision,
        lease=reading.lease,
        nodes=found,
        services={name: _service(name, services.get(name, {})) for name in services.keys() | placed},
        departed=tuple(sorted(name for name, held in nodes.items() if "config" in held and name not in named)),
        revisions={key: revision for key, (revision, _) in reading.entries.items()},
    )


def _node(name: str, held: Mapping[str, str], device: Mapping[str, str], seen: float | None) -> Node:
    labels: Pairs = ()
    drain = False
    items: dict[str, Item] = {}
    cpu = memory = 0
    faults = []
    try:
        intent = _opened(f"nodes/{name}/intent", held["intent"])
        labels, drain = read_labels(intent), intent.flag("drain")
        _checked(intent)
    except BadWire as bad:
        faults.append(str(bad))
    try:
        if "config" in held:
            items = _items(_opened(f"nodes/{name}/config", held["config"]))
    except BadWire as bad:
        faults.append(str(bad))
    try:
        if "info" in device:
            facts = _opened(f"devices/{name}/info", device["info"])
            cpu = facts.integer("cpu_num", 0, 1, MAX_CPU // 1000) * 1000
            memory = facts.integer("total_mem", 0, 1, MAX_MEMORY << 10)
            _checked(facts)
    except BadWire as bad:
        faults.append(str(bad))
        cpu = memory = 0
    return Node(
        name=name,
        cpu=cpu,
        memory=memory,
        labels=labels,
        drain=drain,
        seen=seen,
        items=items,
        fault="; ".join(faults),
    )


def _items(config: Section) -> dict[str, Item]:
    found = {}
    for name, table in config.named_tables("services"):
        if not NAME.fullmatch(name):
            config.error("services", f"{name[:64]!r} is no name of a service")
        work = table.table("work")
        if work is None:
            table.error("work", "'work' is missing")
            continue
        found[name] = Item(
            work=read_work(work),
            ports=read_ports(table),
            target=table.choice("target", get_args(Target), "running"),
            epoch=_revision(table, "epoch"),
            placed=table.seconds("placed"),
            why=table.text("why"),
            before=_claim(table),
        )
    _checked(config)
    return found


def _claim(item: Section) -> Claim | None:
    table = item.table("before")
    if table is None:
        return None
    ports = frozenset(number for _, number in read_ports(table))
    return Claim(table.integer("cpu", 0, 0, MAX_CPU), table.integer("memory", 0, 0, MAX_MEMORY), ports)


def _service(name: str, held: Mapping[str, str]) -> Service:
    spec: ServiceSpec | None = None
    memory = Memory()
    faults = []
    try:
        if "spec" in held:
            page = _opened(f"services/{name}/spec", held["spec"])
            spec = read_service(page)
            if spec.name != name:
                page.error("service", f"expected {name!r}, after which the key is named")
            _checked(page)
    except BadWire as bad:
        spec = None
        faults.append(str(bad))
    try:
        if "spec" in held and "placement" in held:
            memory = _memory(_opened(f"services/{name}/placement", held["placement"]))
    except BadWire as bad:
        faults.append(str(bad))
    return Service(
        spec=spec, memory=memory, reports=dict(_reports(held)), info=_lenient(held.get("info")), fault="; ".join(faults)
    )


def _memory(written: Section) -> Memory:
    good, failed = written.table("good"), written.table("failed")
    memory = Memory(
        read_work(good) if good is not None else None,
        Failed(failed.needed("version"), failed.text("why")) if failed is not None else None,
        written.texts("pins"),
    )
    if not all(NAME.fullmatch(pin) for pin in memory.pins) or len(set(memory.pins)) != len(memory.pins):
        written.error("pins", "expected names of nodes, each once")
    _checked(written)
    return memory


def _reports(held: Mapping[str, str]) -> Iterable[tuple[str, Report]]:
    for part, value in held.items():
        kind, _, node = part.partition("/")
        if kind != "instances" or not NAME.fullmatch(node):
            continue
        try:
            table = _opened(part, value)
            # Without a word about the item it is about, and its state, a report says nothing.
            state = table.choice("state", get_args(State), "starting")
            report = Report(state, _revision(table, "epoch"), table.seconds("since"))
            _checked(table)
        except BadWire:
            continue
        yield node, report


def _revision(table: Section, key: str) -> int:
    if not table.has(key):
        table.error(key, f"{key!r} is missing")
    return table.integer(key, 0, 0, _MAX_REVISION)


def _lenient(text: str | None) -> object:
    try:
        return None if text is None else plain_json(text)
    except BadWire:
        return None  # it is ours alone, and will be written anew


def _opened(key: str, text: str) -> Section:
    """The mapping a value holds; raises ``BadWire`` when it holds none."""
    try:
        if len(text) > MOST_VALUE:
            raise BadWire(f"{len(text)} characters; at most {MOST_VALUE}")
        tree = tree_of(plain_json(text))
    except BadYaml as bad:
        raise BadWire(f"{key}: {bad.message}") from None
    except BadWire as bad:
        raise BadWire(f"{key}: {bad}") from None
    if not isinstance(tree, Map):
        raise BadWire(f"{key}: expected an object of JSON")
    return Section(Reader(), tree, key)


def _checked(section: Section) -> None:
    faults = [fault for fault in section.reader.faults() if fault.severity == "error"]
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise BadWire(f"{faults[0].path}: {faults[0].message}{more}")


def plain_json(text: str) -> Any:
    """JSON (RFC 8259) that can be read in one way only: no key twice, no NaN.  Raises ``BadWire``, and nothing else."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as bad:
        raise BadWire(f"no JSON that we read: {str(bad)[:200]}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number")
