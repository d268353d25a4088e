"""What the scheduler knows in one round, frozen: the store's keys at one revision, who is heard of, and the time.

``Observation`` is that as it was read, and the only thing a decision depends on.  ``snapshot_of`` looks at each value
by itself: one that cannot be read becomes the ``fault`` of its service or node, and of nobody else.

| key | who writes it | what it says |
|---|---|---|
| ``services/<s>/spec`` | the owner | the page |
| ``services/<s>/placement`` | the scheduler | ``Memory``: the good version, the failed one, where volumes are |
| ``services/<s>/info`` | the scheduler | where clients find it, with weights |
| ``services/<s>/instances/<n>`` | the node | ``Report`` about the item that it has |
| ``nodes/<n>/intent`` | the owner | that it belongs to the zone; its labels; ``drain`` |
| ``nodes/<n>/config/<s>`` | the scheduler | one item |
| ``system/scheduler/round`` | the scheduler | ``plan.ROUND``: that a round was written |
| ``devices/<n>/info`` | the node | ``cpu_num`` (cores), ``total_mem`` (bytes), ``did``, ``net_id``, and more |

Every time here is one of the scheduler's own clock, because no other can be compared with ``now``: when a node last
held its lease, and since when an item or a report says what it says, as ``heard_since`` keeps it.  A scheduler that
takes over from another begins anew: every node was seen, and every item and report heard, at that moment.

What a node owes for that: it reports an ``epoch`` only when nothing of the item before it runs any more, because that
report is what gives the room of the old one away; it says ``stopped`` only when nothing runs at all; and it changes
``since`` only with the state, because another ``since`` is another standing, which has to last from its beginning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeVar, cast, get_args

from cyfs_ns.config.source import BadYaml, Map, tree_of
from cyfs_ns.config.written import Reader, Section
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import read_json
from zone.config.model import MOST_VALUE
from zone.scheduler.service import (
    MAX_CPU,
    MAX_LIST,
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

MOST_REPORT: Final = 4 * 1024
"""Bytes of a report."""
MOST_INFO: Final = 64 * 1024
"""Bytes of what a device says of itself."""

_MAX_REVISION = 2**53
_NAMED = re.compile(r"[!#-\[\]-~]{0,128}")
"""A DID or network that a device names, which JSON writes as it is."""

T = TypeVar("T")


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
    """Since when this scheduler knows of it, by its clock; not written."""
    why: str = ""
    before: Claim | None = None
    """What it replaces; taken as well until the node has reported about this one."""

    @property
    def claim(self) -> Claim:
        """What it takes by itself."""
        return Claim(self.work.cpu, self.work.memory, frozenset(number for _, number in self.ports))

    def as_plain(self) -> dict[str, Any]:
        """As it stands in ``nodes/<n>/config/<s>``."""
        plain: dict[str, Any] = {
            "work": self.work.as_page(),
            "ports": dict(self.ports),
            "target": self.target,
            "epoch": self.epoch,
            "why": self.why,
        }
        if self.before is not None:
            before = self.before
            plain["before"] = {"cpu": before.cpu, "memory": before.memory, "ports": sorted(before.ports)}
        return plain


@dataclass(frozen=True, slots=True)
class Report:
    """A node's word about the item ``epoch``: ``stopped`` means that nothing of it runs."""

    state: State
    epoch: int
    since: float
    """By the clock of the node: never compared with a time, only with what it was."""
    why: str = field(default="", compare=False)
    """For people, where it is not ready; another reason is no other standing."""
    heard: float = field(default=0.0, compare=False)
    """Since when the scheduler knows of it, by its own clock."""


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
    did: str = ""
    net_id: str = ""
    items: Mapping[str, Item] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    """Services that have an item here which cannot be read."""
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
    """None: there is no page, or it cannot be read."""
    memory: Memory = Memory()
    reports: Mapping[str, Report] = field(default_factory=dict)
    info: object = None
    """What clients are told now, as plain data."""
    fault: str = ""
    """What of it cannot be read; it stays as it is then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was read, as it was read."""

    now: float
    """Unix seconds, by the scheduler's clock."""
    revision: int
    """Of the store, when it was read."""
    lease: tuple[str, int]
    """The key that makes this scheduler the one, and its revision."""
    seen: Mapping[str, float]
    """Node to when it last held its lease, by the same clock."""
    heard: Mapping[str, float]
    """Key of an item or report to since when it says what it says; as ``heard_since`` keeps it."""
    entries: Mapping[str, tuple[int, str]] = field(repr=False)
    """Key to its revision and its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was read, as it is meant."""

    now: float
    revision: int
    lease: tuple[str, int]
    nodes: Mapping[str, Node]
    services: Mapping[str, Service]
    departed: tuple[tuple[str, str], ...] = ()
    """Node and service of each item on a node that belongs to the zone no more."""
    revisions: Mapping[str, int] = field(default_factory=dict, repr=False)
    """Of every key that was read."""
    opened: Mapping[str, tuple[str, object]] = field(default_factory=dict, repr=False, compare=False)
    """Each value, and what was made of it; ``snapshot_of`` opens only what is another the next time."""


def spec_key(service: str) -> str:
    """Where the page of ``service`` is kept."""
    return f"services/{service}/spec"


def item_key(node: str, service: str) -> str:
    """Of the item of ``service`` on ``node``."""
    return f"nodes/{node}/config/{service}"


def heard_since(now: float, entries: Mapping[str, tuple[int, str]], last: Observation | None) -> dict[str, float]:
    """``Observation.heard`` for what is read ``now``; ``last`` is what this scheduler read before, if anything."""
    known = {} if last is None else last.entries
    heard = {} if last is None else last.heard
    found = {}
    for key, (_, text) in entries.items():
        kind, _, rest = key.partition("/")
        part = rest.partition("/")[2].partition("/")[0]
        if (kind, part) in (("nodes", "config"), ("services", "instances")):
            is_same = key in known and (known[key][1] == text or _says_the_same(key, known[key][1], text))
            found[key] = heard.get(key, now) if is_same else now
    return found


def _says_the_same(key: str, before: str, text: str) -> bool:
    try:
        return key.startswith("services/") and _report(key, before) == _report(key, text)
    except BadWire:
        return False


@dataclass(frozen=True, slots=True)
class _Fault:
    why: str


class _Opener:
    """Opens values, and remembers those of the last time that are still the same."""

    def __init__(self, last: Snapshot | None) -> None:
        self._last = {} if last is None else last.opened
        self.opened: dict[str, tuple[str, object]] = {}

    def open(self, key: str, text: str, read: Callable[[str, str], T]) -> T | _Fault:
        known = self._last.get(key)
        if known is None or known[0] != text:
            try:
                known = text, read(key, text)
            except BadWire as bad:
                known = text, _Fault(str(bad))
        self.opened[key] = known
        return cast("T | _Fault", known[1])


def snapshot_of(observed: Observation, last: Snapshot | None = None) -> Snapshot:
    """Never raises: what cannot be read is a ``fault`` where it belongs.  Keys that are none of ours are read past.

    ``last``, an earlier snapshot, only saves time.
    """
    parts: dict[str, dict[str, dict[str, str]]] = {"nodes": {}, "services": {}, "devices": {}}
    for key, (_, value) in observed.entries.items():
        kind, _, rest = key.partition("/")
        name, _, part = rest.partition("/")
        if kind in parts and NAME.fullmatch(name):
            parts[kind].setdefault(name, {})[part] = value
    opener = _Opener(last)
    found: dict[str, Node] = {}
    departed = []
    holders: dict[str, list[str]] = {}
    for name, held in parts["nodes"].items():
        items = {part.removeprefix("config/"): text for part, text in held.items() if part.startswith("config/")}
        items = {service: text for service, text in items.items() if NAME.fullmatch(service)}
        if "intent" in held:
            found[name] = _node(name, held["intent"], items, parts["devices"].get(name, {}), observed, opener)
            for service in items:
                holders.setdefault(service, []).append(name)
        else:
            departed += [(name, service) for service in items]
    services = parts["services"]
    return Snapshot(
        now=observed.now,
        revision=observed.revision,
        lease=observed.lease,
        nodes=found,
        services={
            name: _service(name, services.get(name, {}), holders.get(name, ()), observed, opener)
            for name in services.keys() | holders.keys()
        },
        departed=tuple(sorted(departed)),
        revisions={key: revision for key, (revision, _) in observed.entries.items()},
        opened=opener.opened,
    )


def _node(
    name: str,
    intent: str,
    held: Mapping[str, str],
    device: Mapping[str, str],
    observed: Observation,
    opener: _Opener,
) -> Node:
    node = Node(name=name, seen=observed.seen.get(name))
    faults = []
    meant = opener.open(f"nodes/{name}/intent", intent, _intent)
    if isinstance(meant, _Fault):
        faults.append(meant.why)
    else:
        node = replace(node, labels=meant[0], drain=meant[1])
    items: dict[str, Item] = {}
    for service, text in sorted(held.items()):
        key = item_key(name, service)
        item = opener.open(key, text, read_item)
        if isinstance(item, _Fault):
            faults.append(item.why)
        else:
            items[service] = replace(item, placed=observed.heard.get(key, observed.now))
    if "info" in device:
        facts = opener.open(f"devices/{name}/info", device["info"], _facts)
        if isinstance(facts, _Fault):
            faults.append(facts.why)
        else:
            node = replace(node, cpu=facts[0], memory=facts[1], did=facts[2], net_id=facts[3])
    return replace(node, items=items, unread=frozenset(held.keys() - items.keys()), fault="; ".join(faults))


def _intent(key: str, text: str) -> tuple[Pairs, bool]:
    intent = _opened(key, text)
    found = read_labels(intent), intent.flag("drain")
    _checked(intent)
    return found


def _facts(key: str, text: str) -> tuple[int, int, str, str]:
    facts = _opened(key, text, MOST_INFO)
    cpu = facts.integer("cpu_num", 0, 1, MAX_CPU // 1000) * 1000
    memory = facts.integer("total_mem", 0, 1, MAX_MEMORY << 10)
    names = facts.text("did"), facts.text("net_id")
    for name, said in zip(("did", "net_id"), names, strict=True):
        if not _NAMED.fullmatch(said):
            facts.error(name, "expected at most 128 printable characters of ASCII")
    _checked(facts)
    return cpu, memory, *names


def read_item(key: str, text: str) -> Item:
    """The item in a value; ``placed`` is 0.  Raises ``BadWire``."""
    table = _opened(key, text)
    work = table.table("work")
    if work is None:
        raise BadWire(f"{key}: 'work' is missing")
    item = Item(
        work=read_work(work),
        ports=read_ports(table),
        target=table.choice("target", get_args(Target), "running"),
        epoch=_revision(table, "epoch"),
        placed=0.0,
        why=table.text("why"),
        before=_claim(table),
    )
    _checked(table)
    return item


def _claim(item: Section) -> Claim | None:
    table = item.table("before")
    if table is None:
        return None
    ports = table.texts("ports")
    if len(ports) > MAX_LIST or not all(port.isascii() and port.isdigit() and len(port) < 6 for port in ports):
        table.error("ports", f"expected numbers, at most {MAX_LIST}")
        return None
    numbers = frozenset(int(port) for port in ports)
    return Claim(table.integer("cpu", 0, 0, MAX_CPU), table.integer("memory", 0, 0, MAX_MEMORY), numbers)


def _service(
    name: str, held: Mapping[str, str], holders: Sequence[str], observed: Observation, opener: _Opener
) -> Service:
    service = Service()
    faults = []
    if "spec" in held:
        spec = opener.open(spec_key(name), held["spec"], _spec)
        if isinstance(spec, _Fault):
            faults.append(spec.why)
        else:
            service = replace(service, spec=spec)
    if "placement" in held:
        memory = opener.open(f"services/{name}/placement", held["placement"], _memory)
        if isinstance(memory, _Fault):
            faults.append(memory.why)
        else:
            service = replace(service, memory=memory)
    reports = {}
    for node in holders:
        if (text := held.get(f"instances/{node}")) is not None:
            key = f"services/{name}/instances/{node}"
            report = opener.open(key, text, _report)
            if not isinstance(report, _Fault):
                reports[node] = replace(report, heard=observed.heard.get(key, observed.now))
    info = opener.open(f"services/{name}/info", held["info"], _info) if "info" in held else None
    return replace(service, reports=reports, info=info, fault="; ".join(faults))


def _spec(key: str, text: str) -> ServiceSpec:
    page = _opened(key, text)
    spec = read_service(page)
    if key != f"services/{spec.name}/spec":
        page.error("service", f"expected {key.split('/')[1]!r}, after which the key is named")
    _checked(page)
    return spec


def _memory(key: str, text: str) -> Memory:
    written = _opened(key, text)
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


def _report(key: str, text: str) -> Report:
    """Without a word about the item it is about, and its state, a report says nothing."""
    table = _opened(key, text, MOST_REPORT)
    report = Report(
        table.choice("state", get_args(State), "starting"),
        _revision(table, "epoch"),
        table.seconds("since"),
        table.text("why"),
    )
    _checked(table)
    return report


def _info(key: str, text: str) -> object:
    """What cannot be read is another than what will be told, and is written anew."""
    return read_json(text, key)


def _revision(table: Section, key: str) -> int:
    if not table.has(key):
        table.error(key, f"{key!r} is missing")
    return table.integer(key, 0, 0, _MAX_REVISION)


def _opened(key: str, text: str, most: int = MOST_VALUE) -> Section:
    """The mapping a value holds; raises ``BadWire`` when it holds none, or has more than ``most`` characters."""
    if len(text) > most:
        raise BadWire(f"{key}: {len(text)} characters; at most {most}")
    try:
        tree = tree_of(read_json(text, key))
    except BadYaml as bad:
        raise BadWire(f"{key}: {bad.message}") from None
    if not isinstance(tree, Map):
        raise BadWire(f"{key}: expected an object of JSON")
    return Section(Reader(), tree, key)


def _checked(section: Section) -> None:
    faults = [fault for fault in section.reader.faults() if fault.severity == "error"]
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise BadWire(f"{faults[0].path}: {faults[0].message}{more}")
