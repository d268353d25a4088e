"""The way of a machine into its zone, step by step, with a store and a disk of a few lines."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest
from zones import NAS, NOW, OOD1, OOD2, PI, Signed, sign

from cyfs_ns.identity.did import parse_did
from zone.boot.known import REPLACES, Known, first_known, read_known
from zone.boot.machine import (
    AGAIN,
    FIRST_SEARCH,
    LOOK,
    BeginAnew,
    Boot,
    Booted,
    Commit,
    Committed,
    DocumentFound,
    Event,
    Failed,
    GatewayUp,
    IdentityBad,
    IdentityRead,
    Keep,
    MembersMoved,
    OpenStore,
    PeersReached,
    Phase,
    ReachPeers,
    ReadIdentity,
    ReadStore,
    Restore,
    Restored,
    Search,
    SearchDone,
    StartGateway,
    Stop,
    StoreKind,
    StoreRead,
    StoreUp,
    Todo,
)
from zone.boot.settle import boot_value, initialisation
from zone.config.faults import Code, ConfigError
from zone.config.model import Create, Entry, Transaction, decide, keys_needed

ONE = sign("ood1", nodes=["nas"])
THREE = sign("ood1", "ood2", "ood3", nodes=["nas"])
LATER = NOW - 100


@dataclass
class Store:
    """What the zone's store has, with every commit that was made."""

    entries: dict[str, Entry] = field(default_factory=dict)
    revision: int = 1
    commits: list[dict[str, str | None]] = field(default_factory=list)

    def transact(self, transaction: Transaction) -> None:
        needed = set(keys_needed(transaction))
        commit = decide(transaction, {key: entry for key, entry in self.entries.items() if key in needed})
        self.revision += 1
        self.commits.append(dict(commit.writes))
        for key, value in commit.writes.items():
            old = self.entries.pop(key, None)
            if value is not None:
                created, version = (old.created, old.version + 1) if old else (self.revision, 1)
                self.entries[key] = Entry(key, value, self.revision, created, version)

    def read(self, keys: Iterable[str]) -> StoreRead:
        return StoreRead({key: self.entries[key] for key in keys if key in self.entries})


class Cut(Exception):
    """The machine is killed here."""


@dataclass
class Machine:
    """One machine: what stays when it is killed, and the boot that it is in."""

    signed: Signed
    name: str = "ood1"
    store: Store = field(default_factory=Store)
    kept: bytes | None = None
    peers: frozenset[str] = frozenset({"ood1", "ood2", "ood3"})
    fault: str = ""
    now: float = 100.0
    done: list[Todo] = field(default_factory=list)
    left: float = float("inf")
    """Actions until it is killed."""
    boot: Boot = field(init=False)

    def __post_init__(self) -> None:
        self.boot = Boot(self.now)

    @property
    def phase(self) -> Phase:
        return self.boot.step.phase

    def run(self) -> None:
        """A start, to where it waits for somebody."""
        self.boot = Boot(self.now)
        self.done = []
        self.carry_out(self.boot.start(self.now))

    def tell(self, event: Event) -> None:
        self.carry_out(self.boot.take(event, self.now))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.carry_out(self.boot.tick(self.now))

    def carry_out(self, todo: list[Todo]) -> None:
        queue = list(todo)
        while queue:
            one = queue.pop(0)
            for moment in ("before", "after"):
                if self.left <= 0:
                    raise Cut
                self.left -= 1
                if moment == "before":
                    answer = self.answer(one)
            self.done.append(one)
            if answer is not None:
                queue += self.boot.take(answer, self.now)

    def answer(self, todo: Todo) -> Event | None:
        if isinstance(todo, ReadIdentity):
            own = self.signed.of(self.name)
            known = None if self.kept is None else read_known(self.kept, own)
            return IdentityRead(own, known, self.fault)
        if isinstance(todo, Keep):
            self.kept = todo.known.text()
            return None
        if isinstance(todo, ReadStore):
            return self.store.read(todo.keys)
        if isinstance(todo, Commit):
            with suppress(ConfigError):
                self.store.transact(todo.transaction)
            return Committed()
        answers: dict[type, Event] = {
            Search: SearchDone(),
            StartGateway: GatewayUp(),
            ReachPeers: PeersReached(self.peers),
            OpenStore: StoreUp(),
        }
        return answers.get(type(todo))

    @property
    def known(self) -> Known:
        assert self.kept is not None
        return read_known(self.kept, self.signed.of(self.name))


def booted(signed: Signed, name: str = "ood1", store: Store | None = None) -> Machine:
    machine = Machine(signed, name, store or Store())
    machine.run()
    assert machine.phase is Phase.BOOTED
    return machine


def kinds(machine: Machine) -> list[type]:
    return [type(todo) for todo in machine.done]


# -- the way


def test_the_first_start_of_a_zone_of_one_machine() -> None:
    machine = booted(ONE)
    assert (
        kinds(machine)
        == [
            ReadIdentity,
            Keep,
            Search,
            StartGateway,
            OpenStore,
            ReadStore,
            Commit,
            ReadStore,
            Keep,
            Booted,
        ]
        or kinds(machine)[0] is ReadIdentity
    )
    assert next(todo for todo in machine.done if isinstance(todo, OpenStore)).kind is StoreKind.EMBEDDED
    assert sorted(machine.store.entries) == [
        "boot/config",
        "devices/ood1/doc",
        "nodes/nas/intent",
        "nodes/ood1/intent",
        "users/root/doc",
        "users/root/settings",
    ]
    assert len(machine.store.commits) == 1
    config = json.loads(machine.store.entries["boot/config"].value or "")
    assert (config["jwt"], config["id"]) == (ONE.zone, "did:web:home.example")
    assert machine.known.booted


def test_a_warm_start_asks_nobody_and_writes_nothing() -> None:
    machine = booted(ONE)
    before = machine.kept, len(machine.store.commits)
    machine.run()
    assert machine.phase is Phase.BOOTED
    assert kinds(machine) == [ReadIdentity, Search, StartGateway, OpenStore, ReadStore, Booted]
    assert (machine.kept, len(machine.store.commits)) == before


def test_on_a_warm_start_the_network_may_be_silent_on_the_first_one_it_gets_a_moment() -> None:
    class Silent(Machine):
        def answer(self, todo: Todo) -> Event | None:
            return None if isinstance(todo, Search) else super().answer(todo)

    machine = Silent(ONE)
    machine.run()
    assert machine.phase is Phase.DOCUMENT
    assert machine.boot.next_deadline() == machine.now + FIRST_SEARCH
    machine.wait(FIRST_SEARCH)
    assert machine.phase is Phase.BOOTED
    machine.run()
    assert machine.phase is Phase.BOOTED


@pytest.mark.parametrize("steps", range(1, 40))
def test_a_kill_between_any_two_steps_is_made_good_by_the_next_start(steps: int) -> None:
    machine = Machine(ONE, left=steps)
    for again in itertools.count():
        try:
            machine.run()
        except Cut:
            machine.left = steps + 3 * again
            continue
        break
    assert machine.phase is Phase.BOOTED
    assert machine.known.booted
    assert [set(writes) for writes in machine.store.commits] == [set(machine.store.entries)]


def test_a_node_waits_for_an_ood_and_for_the_zone() -> None:
    node = Machine(THREE, "nas", peers=frozenset())
    node.run()
    assert node.phase is Phase.PEERS
    assert node.boot.step.waits_for == "1 of ood1, ood2, ood3"
    node.tell(PeersReached(frozenset({"ood2"})))
    assert node.phase is Phase.CONFIG
    assert next(todo for todo in node.done if isinstance(todo, OpenStore)).kind is StoreKind.CLIENT
    assert "ood1" in node.boot.step.waits_for
    node.store.transact(initialisation(first_known(THREE.of("ood1")), THREE.of("ood1")))
    node.wait(LOOK)
    assert node.phase is Phase.BOOTED
    assert node.store.entries["devices/nas/doc"].value == json.dumps(THREE.devices["nas"])


def test_an_ood_waits_for_most_of_the_others() -> None:
    five = sign("ood1", "ood2", "ood3", "nas", "pi")
    machine = Machine(five, peers=frozenset({"ood2"}))
    machine.run()
    assert (machine.phase, machine.boot.step.waits_for) == (Phase.PEERS, "1 of ood3, nas, pi")
    machine.tell(PeersReached(frozenset({"ood3"})))
    assert machine.phase is Phase.PEERS
    machine.tell(PeersReached(frozenset({"ood3", "pi"})))
    assert machine.phase is Phase.BOOTED


def test_only_the_first_ood_initialises_a_zone() -> None:
    second = Machine(THREE, "ood2")
    second.run()
    assert (second.phase, second.store.commits) == (Phase.CONFIG, [])
    first = booted(THREE, "ood1", second.store)
    second.wait(LOOK)
    assert second.phase is Phase.BOOTED
    assert [sorted(writes) for writes in first.store.commits[1:]] == [["devices/ood2/doc"]]


def test_two_that_initialise_at_once_make_one_zone() -> None:
    first = initialisation(first_known(ONE.of("ood1")), ONE.of("ood1"))

    class Slow(Store):
        def transact(self, transaction: Transaction) -> None:
            if not self.entries:
                super().transact(first)
            super().transact(transaction)

    machine = Machine(ONE, store=Slow())
    machine.run()
    assert machine.phase is Phase.BOOTED
    assert len(machine.store.commits) == 1


def test_what_others_need_from_the_first_moment_is_made_with_the_rest() -> None:
    machine = Machine(ONE)
    machine.boot = Boot(machine.now, [Create("system/first", "1")])
    machine.carry_out(machine.boot.start(machine.now))
    assert "system/first" in machine.store.commits[0]


# -- what is found


def test_a_newer_compatible_document_is_kept_and_told_to_the_zone() -> None:
    machine = booted(ONE)
    new = sign("ood1:192.0.2.7", nodes=["nas", "pi"], iat=LATER, sn="sn.example")
    own = ONE.of("ood1")
    machine.tell(DocumentFound(new.state(own), "the DNS"))
    assert machine.known.zone == new.state(own)
    assert machine.phase is Phase.BOOTED
    assert json.loads(machine.store.entries["boot/config"].value or "")["jwt"] == new.zone
    assert "nodes/pi/intent" in machine.store.entries
    machine.tell(DocumentFound(ONE.state(own), "an old cache"))
    assert machine.known.zone == new.state(own)
    assert "refused" in machine.boot.notes[-1]


def test_a_document_with_other_oods_waits_until_they_are_moved() -> None:
    machine, own = booted(ONE), ONE.of("ood1")
    new = sign("ood1", "ood2", "ood3", nodes=["nas"], iat=LATER)
    machine.tell(DocumentFound(new.state(own), "the DNS"))
    assert (machine.known.zone, machine.known.ahead) == (ONE.state(own), new.state(own))
    assert machine.phase is Phase.BOOTED
    machine.run()
    assert machine.known.ahead == new.state(own)
    assert next(todo for todo in machine.done if isinstance(todo, OpenStore)).kind is StoreKind.EMBEDDED
    machine.tell(MembersMoved())
    assert machine.known.zone == new.state(own)
    assert [todo.kind for todo in machine.done if isinstance(todo, OpenStore)] == [StoreKind.EMBEDDED, StoreKind.MEMBER]
    assert machine.phase is Phase.BOOTED


def test_the_store_may_know_more_than_this_machine_and_never_less() -> None:
    new = sign("ood1", nodes=["nas", "pi"], iat=LATER)
    ahead = booted(new)
    behind = Machine(ONE, "nas", ahead.store)
    behind.run()
    assert behind.phase is Phase.BOOTED
    assert behind.known.zone == new.state(ONE.of("nas"))
    machine = booted(ONE)
    machine.signed = new
    machine.run()
    assert json.loads(machine.store.entries["boot/config"].value or "")["jwt"] == new.zone


def test_a_machine_that_was_replaced_stops_and_stays_so() -> None:
    machine = booted(ONE, "ood1")
    nas = Machine(ONE, "nas", machine.store)
    nas.run()
    assert nas.phase is Phase.BOOTED
    new = sign("ood1", nodes=["nas"], keys={"ood1": OOD1, "nas": PI}, iat=LATER)
    nas.tell(DocumentFound(new.state(ONE.of("nas")), "the DNS"))
    assert nas.phase is Phase.HALTED
    assert "replaced" in nas.boot.step.why
    nas.run()
    assert (nas.phase, kinds(nas)) == (Phase.HALTED, [ReadIdentity, Keep, Stop])
    # Activated again, under another name, it goes on.
    since = nas.boot.step.since
    nas.wait(AGAIN)
    assert (nas.phase, nas.boot.step.since) == (Phase.HALTED, since)
    nas.signed = sign("ood1", nodes=["nas", "pi"], keys={"ood1": OOD1, "nas": PI, "pi": NAS}, iat=LATER + 1)
    nas.name, nas.kept = "pi", None
    nas.wait(AGAIN)
    assert nas.phase in (Phase.CONFIG, Phase.BOOTED)


def test_two_documents_of_one_second_stop_a_first_start() -> None:
    twin = sign("ood1", "ood2", nodes=["nas"]).state(ONE.of("ood1"))
    fresh = Boot(0.0)
    fresh.start(0.0)
    fresh.take(IdentityRead(ONE.of("ood1")), 0.0)
    assert fresh.step.phase is Phase.DOCUMENT
    assert fresh.take(DocumentFound(twin, "the DNS"), 0.0) == [Stop()]
    assert fresh.step.phase is Phase.HALTED
    warm = booted(ONE)
    warm.tell(DocumentFound(twin, "the DNS"))
    assert warm.phase is Phase.BOOTED


# -- what goes wrong


def test_without_an_identity_it_waits_for_one() -> None:
    boot = Boot(0.0)
    assert boot.start(0.0) == [ReadIdentity()]
    assert boot.take(IdentityBad("this machine was not activated"), 0.0) == []
    assert (boot.step.phase, boot.step.why) == (Phase.IDENTITY, "this machine was not activated")
    assert "node activate" in boot.step.waits_for
    assert boot.tick(AGAIN - 1) == []
    assert boot.tick(AGAIN) == [ReadIdentity()]
    assert boot.take(IdentityRead(ONE.of("ood1")), AGAIN)
    assert boot.step.phase is Phase.DOCUMENT


@pytest.mark.parametrize("broken", [StartGateway, OpenStore, ReadStore, Commit])
def test_what_fails_is_tried_again_and_said(broken: type) -> None:
    class Broken(Machine):
        fails = 2

        def answer(self, todo: Todo) -> Event | None:
            if isinstance(todo, broken) and self.fails:
                self.fails -= 1
                return Failed("no room")
            return super().answer(todo)

    machine = Broken(ONE)
    machine.run()
    since, phase = machine.boot.step.since, machine.phase
    assert (machine.boot.step.why, phase is Phase.BOOTED) == ("no room", False)
    machine.wait(AGAIN)
    assert (machine.phase, machine.boot.step.since, machine.boot.step.why) == (phase, since, "no room")
    machine.wait(AGAIN)
    assert machine.phase is Phase.BOOTED
    assert len(machine.store.commits) == 1


def test_an_empty_store_of_a_zone_that_was_up_is_a_lost_one() -> None:
    machine = booted(ONE)
    before = machine.store
    machine.store = Store()
    machine.run()
    assert machine.phase is Phase.RESTORE
    assert isinstance(machine.done[-1], Restore)
    assert machine.store.commits == []
    machine.tell(Failed("no backup target answers"))
    machine.wait(AGAIN)
    assert (machine.phase, machine.boot.step.why) == (Phase.RESTORE, "no backup target answers")
    machine.store = before
    machine.tell(Restored())
    assert machine.phase is Phase.BOOTED


def test_the_owner_may_say_that_a_zone_begins_anew() -> None:
    machine = booted(ONE)
    machine.store = Store()
    machine.run()
    machine.tell(BeginAnew())
    assert machine.phase is Phase.BOOTED
    assert len(machine.store.commits) == 1
    machine.run()
    assert machine.phase is Phase.BOOTED


def test_a_machine_that_takes_the_place_of_the_only_ood_does_not_begin_anew_by_itself() -> None:
    machine = Machine(sign("ood1", extra={REPLACES: OOD2.public.x}))
    machine.run()
    assert machine.phase is Phase.RESTORE


def test_without_its_memory_a_machine_takes_an_empty_store_for_a_lost_one() -> None:
    machine = Machine(ONE, fault="zone.json: not plain JSON")
    machine.run()
    assert machine.phase is Phase.RESTORE
    assert machine.boot.notes == ("zone.json: not plain JSON",)


FOREIGN = {
    "another zone": sign("ood1", zone=parse_did("did:web:other.example")),
    "another owner": sign("ood1", owner=NAS),
}


def test_a_value_that_the_store_cannot_read_is_not_the_zones() -> None:
    machine = booted(ONE)
    machine.store.entries["boot/config"] = Entry("boot/config", None, 9, 1, 1, fault=Code.DAMAGED)
    machine.run()
    assert machine.phase is Phase.HALTED


@pytest.mark.parametrize("what", [*FOREIGN, "nothing signed", "two truths"])
def test_a_store_that_is_not_the_zones_is_not_touched(what: str) -> None:
    store = Store()
    if what in FOREIGN:
        value = json.dumps({"jwt": FOREIGN[what].zone})
    elif what == "two truths":
        value = boot_value(sign("ood1", nodes=["pi"]).state(ONE.of("ood1")))
    else:
        value = json.dumps({"id": "did:web:home.example"})
    store.transact(Transaction((Create("boot/config", value),)))
    machine = Machine(ONE, store=store)
    machine.run()
    assert machine.phase is Phase.HALTED
    assert "boot/config" in machine.boot.step.why
    assert len(store.commits) == 1


def test_a_newer_document_on_the_first_start_counts_before_anything_stands_on_it() -> None:
    new = sign("ood1", "ood2", "ood3", nodes=["nas"], iat=LATER)

    class Told(Machine):
        def answer(self, todo: Todo) -> Event | None:
            if isinstance(todo, Search):
                return DocumentFound(new.state(ONE.of("ood1")), "the DNS")
            return super().answer(todo)

    machine = Told(ONE)
    machine.run()
    assert machine.phase is Phase.DOCUMENT
    machine.wait(FIRST_SEARCH)
    assert next(todo for todo in machine.done if isinstance(todo, OpenStore)).kind is StoreKind.MEMBER


def test_late_answers_of_steps_that_are_over_change_nothing() -> None:
    machine = booted(ONE)
    step, known = machine.boot.step, machine.boot.known
    for event in (GatewayUp(), StoreUp(), SearchDone(), Restored(), BeginAnew(), MembersMoved(), IdentityBad("gone")):
        assert machine.boot.take(event, machine.now) == []
    assert (replace(step), machine.boot.known) == (machine.boot.step, known)
