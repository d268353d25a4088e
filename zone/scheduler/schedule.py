"""The scheduler: a snapshot in, a plan out.

A round has four turns over all services, in the order of their names unless it says otherwise:

1. **settle**: which items stay, which version is wanted, whether one failed or may be accepted, whose turn it is to be
   upgraded.  An item stays while its node is heard of (or was, a grace time ago) and still fits it.
2. **fill**: places for what is missing, the largest first.  Nodes are filtered, then the best is taken: the least
   crowded value of the ``spread`` label, then beside ``near`` services, then most room left, then by name.
3. **release**: items that do not stay are told to stop, as soon as what takes their place can do without them.
4. **tell**: selectors for clients, and the account of each service.

Room is only taken during a round, and whatever was refused stays refused, so a second round finds nothing to do.  The
commit grows decision by decision, each with all that it writes; the first that does not fit in ends it, and since what
takes the place of another comes before the other goes, what was decided until then is safe by itself.  Every
comparison with the time goes through ``_Clock.due``, which remembers the next moment at which one would turn out
otherwise; before that moment the same snapshot gives the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cyfs_ns.identity.strictjson import Json, write_json
from zone.config.model import MOST_ACTIONS, MOST_WRITTEN, Commit
from zone.scheduler.plan import ROUND, Account, Action, Bar, Decision, Plan, Refusal, Standing
from zone.scheduler.service import MAX_LIST, ServiceSpec, Work
from zone.scheduler.snapshot import Claim, Failed, Item, Memory, Node, Service, Snapshot, item_key

LEASE = 15.0
"""Seconds for which a node that was seen counts as heard of."""
AUTO_PORTS = range(10_000, 20_000)
"""Where ports come from that the scheduler chooses."""
_WEIGHT = 100
"""Of the node with the most processors; others have their share of it."""
_MOST_WHY = 300
"""Characters that a node may say of an item."""

Check = Callable[[Snapshot, Plan], str]
"""Looks at a plan before it is written, and says what is wrong with it; nothing: ``""``."""


def schedule(snapshot: Snapshot, checks: Sequence[Check] = ()) -> Plan:
    """Decide.  Pure: the same snapshot gives the same plan, whatever the order of its mappings.

    When a check objects, the plan still says what would be done, and its commit is empty.
    """
    about = _Round(snapshot)
    plan = about.plan()
    if vetoes := tuple(said for check in checks if (said := check(snapshot, plan))):
        return replace(plan, commit=Commit({}, {}), look_again=about.clock.next, vetoes=vetoes)
    return plan


class _Draft:
    """The commit as it grows: never more than the store takes, and nothing further once something did not fit."""

    def __init__(self, at: Snapshot) -> None:
        self._at = at
        self.writes: dict[str, str | None] = {}
        self._read: set[str] = set()
        self._size = self._actions = 0
        self.is_full = False
        self.write({ROUND: _text(at.revision)})
        self._actions += 1  # the lease is compared too

    def write(self, writes: Mapping[str, str | None], stands_on: Collection[str] = ()) -> bool:
        """All of ``writes`` (None deletes), while ``stands_on`` is as it was read; False: it did not fit in."""
        read = {*writes, *stands_on} - self._read
        actions = self._actions + len(read) + sum(key not in self.writes for key in writes)
        size = self._size + sum(
            _size(key, text) - (_size(key, self.writes[key]) if key in self.writes else 0)
            for key, text in writes.items()
        )
        self.is_full = self.is_full or actions > MOST_ACTIONS or size > MOST_WRITTEN
        if not self.is_full:
            self.writes.update(writes)
            self._read |= read
            self._actions, self._size = actions, size
        return not self.is_full

    def commit(self) -> Commit:
        """Nothing at all when there is nothing but the round itself."""
        if self.writes.keys() == {ROUND}:
            return Commit({}, {})
        lease, revision = self._at.lease
        guards = {key: self._at.revisions.get(key, 0) for key in sorted(self._read)}
        return Commit(guards | {lease: revision}, dict(sorted(self.writes.items())))


def _size(key: str, text: str | None) -> int:
    return len(key) + len((text or "").encode())


class _Clock:
    def __init__(self, now: float) -> None:
        self.now = now
        self.next: float | None = None

    def due(self, when: float) -> bool:
        if self.now >= when:
            return True
        if self.next is None or when < self.next:
            self.next = when
        return False


class _Room:
    """A node in this round: its items as decided so far, and what they take, stopping ones included."""

    def __init__(self, node: Node, clock: _Clock) -> None:
        self.node = node
        self.name = node.name
        self.labels = dict(node.labels)
        self.items: dict[str, Item] = {}
        self.claims: dict[str, Claim] = {}
        self.cpu = self.memory = 0
        self.ports: set[int] = set()
        self.is_live = node.seen is not None and not clock.due(node.seen + LEASE)
        self.is_open = self.is_live and not (node.fault or node.drain) and node.cpu > 0 and node.memory > 0

    def take(self, service: str, item: Item, claim: Claim) -> None:
        """An item, and what it takes: never less than what it took before in this round."""
        taken = self.claims.get(service, Claim(0, 0, frozenset()))
        self.items[service], self.claims[service] = item, claim
        self.cpu += claim.cpu - taken.cpu
        self.memory += claim.memory - taken.memory
        self.ports |= claim.ports

    def refusal(self, case: _Case, apart: set[str]) -> Refusal | None:
        """Why the work of ``case`` cannot be placed here now; ``apart`` has the services that must not be here."""
        node, work = self.node, case.work
        if node.fault:
            return Refusal(self.name, Bar.UNREADABLE, node.fault)
        if not self.is_live:
            since = "never heard of" if node.seen is None else f"not heard of since {node.seen:.0f}"
            return Refusal(self.name, Bar.SILENT, since)
        if node.drain:
            return Refusal(self.name, Bar.DRAINED, "drained")
        if not node.cpu or not node.memory:
            return Refusal(self.name, Bar.CAPACITY, "it has not said how much it can carry")
        if lacking := [f"{key}={said}" for key, said in case.spec.labels if self.labels.get(key) != said]:
            return Refusal(self.name, Bar.LABELS, f"lacks the label {', '.join(lacking)}")
        if (here := self.items.get(case.name)) is not None:
            return Refusal(self.name, Bar.TAKEN, "runs there" if here.target == "running" else "still stopping there")
        if foes := sorted(apart & self.items.keys()):
            return Refusal(self.name, Bar.APART, f"must be apart from {', '.join(foes)}")
        if work.cpu > node.cpu - self.cpu:
            return Refusal(self.name, Bar.CPU, f"needs {_cores(work.cpu)} cores, {_cores(node.cpu - self.cpu)} left")
        if work.memory > node.memory - self.memory:
            return Refusal(self.name, Bar.MEMORY, f"needs {_mib(work.memory)}, {_mib(node.memory - self.memory)} left")
        return self.port_refusal(work, frozenset())

    def port_refusal(self, work: Work, own: frozenset[int]) -> Refusal | None:
        """Why the ports cannot be had here; ``own`` are those of the item that would be replaced."""
        clash = [number for _, number in work.ports if number in self.ports and number not in own]
        if clash:
            return Refusal(self.name, Bar.PORTS, f"port {clash[0]} is taken")
        if len(self.ports) + len(work.ports) > len(AUTO_PORTS):
            return Refusal(self.name, Bar.PORTS, "its ports are all taken")
        return None

    def ports_for(self, work: Work, old: tuple[tuple[str, int], ...] = ()) -> tuple[tuple[str, int], ...]:
        """A number for each port; one that is chosen stays what it was in ``old``."""
        fixed = {number for _, number in work.ports}
        kept = dict(old)
        free = (number for number in AUTO_PORTS if number not in self.ports and number not in fixed)
        found = []
        for name, number in work.ports:
            if not number and (before := kept.get(name, 0)) in AUTO_PORTS and before not in fixed:
                number = before
            found.append((name, number or next(free)))
        return tuple(found)


@dataclass(slots=True)
class _Case:
    """A service in this round."""

    name: str
    spec: ServiceSpec
    work: Work
    service: Service
    memory: Memory
    kept: list[str] = field(default_factory=list)
    """Nodes whose items stay."""
    leaving: dict[str, str] = field(default_factory=dict)
    """Nodes that no longer do, and why."""
    lost: list[str] = field(default_factory=list)
    """Nodes that were silent for longer than its grace."""
    notes: list[str] = field(default_factory=list)

    @property
    def is_pinned(self) -> bool:
        return bool(self.work.volumes)

    @property
    def homes(self) -> tuple[str, ...]:
        """The nodes whose volumes count."""
        return self.memory.pins[: self.spec.replicas]

    @property
    def missing(self) -> int:
        return max(0, self.spec.replicas - len(self.kept))


class _Round:
    def __init__(self, snapshot: Snapshot) -> None:
        self.at = snapshot
        self.draft = _Draft(snapshot)
        self.clock = _Clock(snapshot.now)
        self.decisions: list[Decision] = []
        self.rooms = {name: _Room(snapshot.nodes[name], self.clock) for name in sorted(snapshot.nodes)}
        self.holders: dict[str, list[str]] = {}
        self.fitting: dict[object, list[_Room]] = {}
        self.apart: dict[str, set[str]] = {}
        self.most_cpu = max((node.cpu for node in snapshot.nodes.values()), default=1) or 1
        for name, service in snapshot.services.items():
            for other in service.spec.apart if service.spec else ():
                self.apart.setdefault(name, set()).add(other)
                self.apart.setdefault(other, set()).add(name)
        for room in self.rooms.values():
            self._open(room)

    def plan(self) -> Plan:
        cases = [case for name in sorted(self.at.services) if (case := self._settle(name)) is not None]
        for case in sorted(cases, key=lambda c: (not c.memory.pins, -c.work.memory, -c.work.cpu, c.name)):
            self._fill(case)
        for case in cases:
            self._release(case)
        accounts = {case.name: self._account(case) for case in cases}
        for name, service in sorted(self.at.services.items()):
            self._tell(name, service)
            if name not in accounts and (service.fault or service.spec or name in self.holders):
                note = service.fault or ("left for the next round" if service.spec else "its page was taken away")
                accounts[name] = Account(0, self._standing(name, service), notes=(note,))
        for node, left in self.at.departed:
            self.draft.write({item_key(node, left): None}, (f"nodes/{node}/intent",))
        return Plan(
            commit=self.draft.commit(),
            decisions=tuple(self.decisions),
            accounts=accounts,
            look_again=self.at.now if self.draft.is_full else self.clock.next,
        )

    def _open(self, room: _Room) -> None:
        for service in sorted(room.node.items):
            item = room.node.items[service]
            report = self.at.services[service].reports.get(room.name)
            answers = report is not None and report.epoch == item.epoch
            has_stopped = item.target == "stopped" and answers and report is not None and report.state == "stopped"
            if has_stopped and self._write_item(room, service, None):
                self._decide("forget", service, room.name, "it has stopped")
                continue
            claim = item.claim
            if item.before is not None and not answers:
                claim |= item.before
            elif item.before is not None:
                item = replace(item, before=None)
            room.take(service, item, claim)
            self.holders.setdefault(service, []).append(room.name)

    # What stays

    def _settle(self, name: str) -> _Case | None:
        service = self.at.services[name]
        if service.fault:
            return None
        if service.spec is None:
            for node in self.holders.get(name, ()):
                self._stop(name, node, "its page was taken away")
            return None
        case = _Case(name, service.spec, service.spec.work, service, service.memory)
        self._judge_items(case)
        if not self._judge_version(case) or (case.is_pinned and not self._hold_pins(case)):
            return None
        if not case.is_pinned:
            case.kept.sort(key=lambda node: (not self._is_ready(case, node), self._work(case, node) != case.work, node))
            while len(case.kept) > case.spec.replicas:
                self._stop(name, case.kept.pop(), f"{case.spec.replicas} wanted")
        self._accept(case)
        self._upgrade(case)
        return case

    def _judge_items(self, case: _Case) -> None:
        for node in self.holders.get(case.name, ()):
            room, item = self.rooms[node], self.rooms[node].items[case.name]
            if item.target == "stopped":
                continue
            if not item.work.volumes and self._is_lost(case, room):
                case.lost.append(node)
            elif why := self._unwanted(case, room):
                case.leaving[node] = why
            elif not self.draft.is_full and (why := self._crowded(case, room)):
                self._stop(case.name, node, why)
            else:
                case.kept.append(node)

    def _is_lost(self, case: _Case, room: _Room) -> bool:
        return not room.is_live and (
            room.node.seen is None or self.clock.due(room.node.seen + max(case.spec.grace, LEASE))
        )

    def _unwanted(self, case: _Case, room: _Room) -> str:
        """Why the owner wants an item away from its node; it may serve there until another does elsewhere."""
        if room.node.fault:
            return ""
        if room.node.drain:
            return "its node is drained"
        lacking = [f"{key}={said}" for key, said in case.spec.labels if room.labels.get(key) != said]
        return f"its node lacks the label {', '.join(lacking)}" if lacking else ""

    def _crowded(self, case: _Case, room: _Room) -> str:
        """Why an item cannot stay beside the others; it stops at once, so that the next one is judged without it."""
        node = room.node
        running = {name: item.work for name, item in room.items.items() if item.target == "running"}
        if foes := sorted(running.keys() & set(case.spec.apart)):
            return f"must be apart from {', '.join(foes)}"
        needs = sum(work.cpu for work in running.values()), sum(work.memory for work in running.values())
        if node.cpu and node.memory and (needs[0] > node.cpu or needs[1] > node.memory):
            return "its node has less room than its items take"
        return ""

    # Which version

    def _judge_version(self, case: _Case) -> bool:
        """False: it is left for the next round."""
        wanted, memory = case.spec.work, case.memory
        if memory.good == wanted:
            return self._remember(case, replace(memory, failed=None))
        if memory.failed is not None and memory.failed.version != wanted.version:
            memory = replace(memory, failed=None)
        why = self._failure(case) if memory.good is not None and memory.failed is None else ""
        if why:
            memory = replace(memory, failed=Failed(wanted.version, why))
        if not self._remember(case, memory):
            return False
        if why:
            self._decide("roll back", case.name, "", f"version {wanted.version}: {why}")
        if memory.failed is not None and memory.good is not None:
            case.work = memory.good
            case.notes.append(f"version {memory.failed.version} was taken back: {memory.failed.why}")
        return True

    def _remember(self, case: _Case, memory: Memory) -> bool:
        """Whether ``memory`` is what will be written of the service, if it is another at all."""
        if memory != case.memory and not self._write_memory(case.name, memory):
            return False
        case.memory = memory
        return True

    def _accept(self, case: _Case) -> None:
        if case.memory.good == case.work or not case.kept:
            return
        if all(self._is_settled(case, node) for node in case.kept) and self._remember(
            case, replace(case.memory, good=case.work, failed=None)
        ):
            self._decide("accept", case.name, "", f"version {case.work.version} is ready everywhere")

    def _failure(self, case: _Case) -> str:
        for node in case.kept:
            item = self.rooms[node].items[case.name]
            if item.work != case.spec.work or not self.rooms[node].is_live:
                continue
            if self._state(case.service, case.name, node) == "failed":
                return ": ".join(filter(None, (f"it failed on {node}", self._complaint(case, node))))
            if not self._is_ready(case, node) and self.clock.due(item.placed + case.spec.upgrade.deadline):
                return f"it was not ready on {node} {case.spec.upgrade.deadline:g} s after it was placed"
        return ""

    def _upgrade(self, case: _Case) -> None:
        outdated = [node for node in sorted(case.kept) if self._work(case, node) != case.work]
        if not outdated:
            return
        # An item that cannot serve is replaced at once; of those that serve, so many that few enough are missing.
        for node in outdated:
            if self.rooms[node].is_live and not self._is_ready(case, node):
                self._replace(case, node)
        for node in [node for node in outdated if node in case.kept and self._work(case, node) != case.work]:
            unsettled = sum(not self._serves(case, other) for other in case.kept)
            if unsettled >= case.spec.upgrade.at_once:
                case.notes.append(f"{node} waits for its turn to be upgraded")
            elif self._is_ready(case, node):
                self._replace(case, node)

    def _serves(self, case: _Case, node: str) -> bool:
        is_new = self._work(case, node) == case.work
        return self._is_settled(case, node) if is_new else self._is_ready(case, node)

    def _replace(self, case: _Case, node: str) -> None:
        """Another version where the item stands, or on another node when there is no room for it here."""
        room = self.rooms[node]
        old = room.items[case.name]
        work, taken = case.work, room.claims[case.name]
        why = f"version {work.version} instead of {old.work.version}"
        more_cpu, more_memory = max(0, work.cpu - taken.cpu), max(0, work.memory - taken.memory)
        fits = (
            (not more_cpu or room.cpu + more_cpu <= room.node.cpu)
            and (not more_memory or room.memory + more_memory <= room.node.memory)
            and room.port_refusal(work, taken.ports) is None
            and len(taken.ports) + len(work.ports) <= MAX_LIST
        )
        if fits:
            item = self._item(work, room.ports_for(work, old.ports), old.why, taken)
            if self._write_item(room, case.name, item):
                room.take(case.name, item, item.claim | taken)
                self._decide("upgrade", case.name, node, why)
        elif not case.is_pinned and (best := self._best(case)) is not None:
            if self._place(case, *best):
                case.kept.remove(node)
                self._stop(case.name, node, f"{why}, for which it has no room")
        else:
            case.notes.append(f"{node} keeps version {old.work.version}: no room for version {work.version}")

    # Where volumes are

    def _hold_pins(self, case: _Case) -> bool:
        """The first volumes count, as many as are wanted; the others keep what they have for another time.

        False: it is left for the next round.
        """
        pins = case.memory.pins
        adopted = [node for node in case.kept if node not in pins]
        pins += tuple(adopted[: max(0, case.spec.replicas - len(pins))])
        if not self._remember(case, replace(case.memory, pins=pins)):
            return False
        for node in [node for node in case.kept if node not in case.homes]:
            case.kept.remove(node)
            case.leaving[node] = f"{case.spec.replicas} wanted" if node in pins else "its volumes are elsewhere"
        return True

    def _suspects(self, case: _Case) -> list[str]:
        """Nodes on which something of it may run that is not to stay."""
        held = [node for node in self.holders.get(case.name, ()) if node not in case.kept]
        return held + self._unread(case.name)

    def _unread(self, name: str) -> list[str]:
        return [node for node, room in self.rooms.items() if name in room.node.unread]

    # What is missing

    def _fill(self, case: _Case) -> None:
        if case.is_pinned:
            self._fill_pins(case)
            return
        while case.missing and (best := self._best(case)) is not None:
            if not self._place(case, *best):
                return

    def _fill_pins(self, case: _Case) -> None:
        allowed = case.missing - len(self._suspects(case))
        for pin in case.homes:
            room = self.rooms.get(pin)
            if allowed <= 0 or room is None or pin in case.kept:
                continue
            if room.refusal(case, self._foes(case)) is None:
                if not self._place(case, room, "its volumes are here"):
                    return
                allowed -= 1
        allowed = min(allowed, case.spec.replicas - len(case.memory.pins))
        while allowed > 0 and (best := self._best(case)) is not None:
            memory = replace(case.memory, pins=(*case.memory.pins, best[0].name))
            if not self._place(case, *best, memory):
                return
            allowed -= 1

    def _best(self, case: _Case) -> tuple[_Room, str] | None:
        work, spec, name = case.work, case.spec, case.name
        foes = self._foes(case)
        taken = [self.rooms[node].labels.get(spec.spread, "") for node in case.kept] if spec.spread else []
        pins = case.memory.pins if case.is_pinned else ()
        best: _Room | None = None
        best_key = (0, 0, 0)
        fit = 0
        for room in self._labelled(spec):
            node = room.node
            left_cpu, left_memory = node.cpu - room.cpu - work.cpu, node.memory - room.memory - work.memory
            if left_cpu < 0 or left_memory < 0 or name in room.items:
                continue
            if (foes and not foes.isdisjoint(room.items)) or room.name in pins:
                continue
            if work.ports and room.port_refusal(work, frozenset()) is not None:
                continue
            fit += 1
            crowd = taken.count(room.labels.get(spec.spread, "")) if taken else 0
            beside = sum(other in room.items for other in spec.near) if spec.near else 0
            left = left_cpu * 1000 // node.cpu + left_memory * 1000 // node.memory
            key = (-crowd, beside, left)
            if best is None or key > best_key:
                best, best_key = room, key
        if best is None:
            return None
        near = [other for other in spec.near if other in best.items]
        why = f"best of {fit} of {len(self.rooms)} nodes: {best_key[2] / 20:.0f} % free"
        why += f", near {', '.join(near)}" if near else ""
        why += f", {spec.spread}={best.labels.get(spec.spread, '')}" if spec.spread else ""
        return best, why

    def _labelled(self, spec: ServiceSpec) -> list[_Room]:
        """The nodes on which something could be placed that have the labels."""
        found = self.fitting.get(spec.labels)
        if found is None:
            wanted = set(spec.labels)
            found = [room for room in self.rooms.values() if room.is_open and wanted <= room.labels.items()]
            self.fitting[spec.labels] = found
        return found

    def _foes(self, case: _Case) -> set[str]:
        return self.apart.get(case.name, set())

    def _place(self, case: _Case, room: _Room, why: str, memory: Memory | None = None) -> bool:
        """Whether it was placed; with the new ``memory`` of its service, if there is one, or not at all."""
        item = self._item(case.work, room.ports_for(case.work), why, None)
        if not self._write_item(room, case.name, item, memory):
            return False
        case.memory = memory or case.memory
        room.take(case.name, item, item.claim)
        self.holders.setdefault(case.name, []).append(room.name)
        case.kept.append(room.name)
        self._decide("place", case.name, room.name, why)
        return True

    def _item(self, work: Work, ports: tuple[tuple[str, int], ...], why: str, before: Claim | None) -> Item:
        return Item(work=work, ports=ports, epoch=self.at.revision, placed=self.at.now, why=why, before=before)

    # What goes

    def _release(self, case: _Case) -> None:
        coming = 0 if case.is_pinned else sum(self._is_coming(case, node) for node in case.kept)
        for node, why in sorted(case.leaving.items()):
            if coming and self._is_ready(case, node):
                coming -= 1
                case.notes.append(f"{node} serves until another is ready: {why}")
            else:
                self._stop(case.name, node, why)
        for node in sorted(case.lost)[case.missing :]:
            self._stop(case.name, node, "its node was silent for too long")

    def _is_coming(self, case: _Case, node: str) -> bool:
        item = self.rooms[node].items[case.name]
        return (
            not self._is_ready(case, node)
            and self._state(case.service, case.name, node) != "failed"
            and not self.clock.due(item.placed + case.spec.upgrade.deadline)
        )

    def _stop(self, service: str, node: str, why: str) -> None:
        item = self.rooms[node].items[service]
        if item.target == "stopped":
            return
        room = self.rooms[node]
        stopped = replace(item, target="stopped", epoch=self.at.revision, placed=self.at.now, why=why)
        if self._write_item(room, service, stopped):
            room.take(service, stopped, room.claims[service])
            self._decide("stop", service, node, why)

    # What is known of an item

    def _work(self, case: _Case, node: str) -> Work:
        return self.rooms[node].items[case.name].work

    def _state(self, service: Service, name: str, node: str) -> str:
        room = self.rooms[node]
        item, report = room.items[name], service.reports.get(node)
        if item.target == "stopped":
            return "stopping"
        if not room.is_live:
            return "silent"
        if report is None or report.epoch != item.epoch or report.state == "stopped":
            return "starting"
        return report.state

    def _complaint(self, case: _Case, node: str) -> str:
        """Why the item does not serve, as its node says."""
        item, report = self.rooms[node].items[case.name], case.service.reports.get(node)
        is_about = report is not None and report.epoch == item.epoch and item.target == "running"
        return report.why[:_MOST_WHY] if is_about and report is not None else ""

    def _is_ready(self, case: _Case, node: str) -> bool:
        return self._state(case.service, case.name, node) == "ready"

    def _is_settled(self, case: _Case, node: str) -> bool:
        item, report = self.rooms[node].items[case.name], case.service.reports.get(node)
        if item.work != case.work or report is None or not self._is_ready(case, node):
            return False
        return self.clock.due(max(report.heard, item.placed) + case.spec.upgrade.settle)

    # What is told

    def _tell(self, name: str, service: Service) -> None:
        holders = self.holders.get(name, ())
        spec, info, placement = (f"services/{name}/{part}" for part in ("spec", "info", "placement"))
        if holders or service.spec is not None:
            told = self._selector(name, service)
            if told != service.info:
                self.draft.write({info: _text(told)})
        elif not service.fault and not self._unread(name):
            if info in self.at.revisions:
                self.draft.write({info: None}, (spec,))
            memory = Memory(pins=service.memory.pins)
            if not memory.pins and placement in self.at.revisions:
                self.draft.write({placement: None}, (spec,))
            elif memory != service.memory:
                self._write_memory(name, memory)

    def _selector(self, name: str, service: Service) -> dict[str, Json]:
        """Where clients find it: what is ready on a node that is heard of, by the processors of the node."""
        found: dict[str, Json] = {}
        for node in sorted(self.holders.get(name, ())):
            if self._state(service, name, node) == "ready":
                room = self.rooms[node]
                weight = max(1, room.node.cpu * _WEIGHT // self.most_cpu)
                found[node] = {
                    "node_did": room.node.did,
                    "node_net_id": room.node.net_id,
                    "state": "Started",
                    "weight": weight,
                    "service_port": dict(room.items[name].ports),
                }
        return {"selector_type": "random", "node_list": found}

    def _account(self, case: _Case) -> Account:
        refusals = tuple(self._refusals(case)) if case.missing else ()
        if case.missing and self.draft.is_full:
            case.notes.append("more is left for the next round")
        if case.lost and case.missing:
            case.notes.append(f"what was on {', '.join(case.lost)} stays there for now: there is no other place")
        for node in case.kept:
            room = self.rooms[node]
            if not room.is_live and case.is_pinned:
                case.notes.append(f"{node} has its volumes and is silent: bring it back, or let it leave the zone")
            elif why := self._complaint(case, node):
                case.notes.append(f"on {node}: {why}")
        standing = self._standing(case.name, case.service)
        return Account(case.spec.replicas, standing, case.missing, refusals, tuple(case.notes))

    def _refusals(self, case: _Case) -> Iterator[Refusal]:
        foes = self._foes(case)
        told = set(case.kept)
        if case.is_pinned:
            for node in self._suspects(case):
                told.add(node)
                yield Refusal(node, Bar.ELSEWHERE, "may still run there, and writes what it writes")
            for pin in case.homes:
                if pin not in self.rooms:
                    yield Refusal(pin, Bar.ABSENT, "has its volumes and belongs to the zone no more")
            if len(case.homes) == case.spec.replicas:
                pinned = (self.rooms[pin] for pin in case.homes if pin in self.rooms and pin not in told)
                yield from filter(None, (room.refusal(case, foes) for room in pinned))
                return
        for room in self.rooms.values():
            if room.name not in told and (refusal := room.refusal(case, foes)) is not None:
                yield refusal

    def _standing(self, name: str, service: Service) -> tuple[Standing, ...]:
        return tuple(
            Standing(node, self._state(service, name, node), self.rooms[node].items[name].why)
            for node in sorted(self.holders.get(name, ()))
        )

    def _decide(self, action: Action, service: str, node: str, why: str) -> None:
        self.decisions.append(Decision(action, service, node, why))

    # What is written

    def _write_item(self, room: _Room, service: str, item: Item | None, memory: Memory | None = None) -> bool:
        stands_on = (f"services/{service}/spec", f"services/{service}/placement", f"nodes/{room.name}/intent")
        writes = {item_key(room.name, service): None if item is None else _text(item.as_plain())}
        if memory is not None:
            writes[f"services/{service}/placement"] = _text(memory.as_plain())
        return self.draft.write(writes, stands_on)

    def _write_memory(self, service: str, memory: Memory) -> bool:
        placement = f"services/{service}/placement"
        return self.draft.write({placement: _text(memory.as_plain())}, (f"services/{service}/spec",))


def _text(plain: Json) -> str:
    return write_json(plain).decode()


def _cores(thousandths: int) -> str:
    return f"{thousandths / 1000:g}"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):g} MiB"
