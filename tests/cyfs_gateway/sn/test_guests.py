"""Who may have a tunnel to an SN, and how often anybody may ask."""

from __future__ import annotations

from sn_people import NOW, Office, Person, person

from cyfs_gateway.flow import Identity
from cyfs_gateway.sn.crowd import QUIET
from cyfs_gateway.sn.guests import STAY, Budgets, Guests
from cyfs_gateway.sn.requests import Register, Remove
from cyfs_gateway.sn.upkeep import suspend
from cyfs_ns.trust.level import Trust

OWNER, BOX, LAPTOP, MALLORY = (person(number) for number in range(1, 5))


class Door:
    """Guests of an office, and the time there."""

    def __init__(self, most: int) -> None:
        self.now, self.office = 0.0, Office(open=True)
        self.crowded = 0
        self.guests = Guests(self.office.registry, lambda: NOW + self.now, lambda: self.now, self.doubt)
        self.guests.make_room(most)

    def doubt(self) -> None:
        self.crowded += 1

    def wants(self, who: Person, did: str = "", source: str = "192.0.2.1") -> bool:
        return self.guests.wants(self.coming(who, did, source=source))

    def bars(self, who: Person, owner: str = "") -> str:
        return self.guests.bars(self.coming(who, owner=owner))

    @staticmethod
    def coming(who: Person, did: str = "", **more: str) -> Identity:
        device = str(who.did)
        return Identity(did=did or device, host="", trust=Trust.KEY_PROVEN, device=device, **more)

    def joins(self, who: Person, name: str = "ood1") -> None:
        assert self.office.admit(OWNER, who, name).ok


def test_who_is_registered_is_wanted_for_as_long_as_the_document_holds() -> None:
    door = Door(0)
    door.office(OWNER, Register("alice"))
    assert not door.wants(BOX)
    door.joins(BOX)
    assert door.wants(BOX)
    assert door.wants(BOX, "did:web:box.example"), "by the key, whatever the name"
    door.now = 366 * 86_400.0
    assert not door.wants(BOX)


def test_strangers_stay_for_a_while_and_have_to_wait_as_long_again() -> None:
    door = Door(1)
    assert door.wants(BOX)
    assert not door.wants(LAPTOP), "no room"
    door.now = STAY - 1
    assert door.wants(BOX)
    assert door.guests.next_deadline() == STAY
    door.guests.hear(BOX.did)
    door.now = STAY
    assert not door.wants(BOX)
    assert not door.wants(LAPTOP)
    assert door.guests.next_deadline() is None
    door.now = 2 * STAY - 1
    assert not door.wants(BOX)
    door.now = 2 * STAY
    assert door.wants(LAPTOP)
    assert not door.wants(BOX)


def test_who_became_a_member_makes_room() -> None:
    door = Door(1)
    assert door.wants(BOX)
    door.office(OWNER, Register("alice"))
    door.joins(BOX)
    assert door.wants(LAPTOP)
    assert door.wants(BOX)
    assert len(door.guests) == 1


def test_somebody_new_has_the_place_of_who_has_been_silent_longest_in_its_network() -> None:
    door, crowd = Door(64), [person(number) for number in range(10, 18)]
    assert door.wants(MALLORY, source="198.51.100.1"), "silent longer than all of them, but elsewhere"
    for second, who in enumerate(crowd):
        door.now = float(second)
        assert door.wants(who)
    door.now = QUIET - 1
    assert not door.wants(BOX), "nobody has been silent for so long"
    door.guests.hear(crowd[0].did)
    door.now = QUIET + 1
    assert door.wants(BOX, source=""), "nobody goes for a question"
    assert door.crowded == 0
    assert door.wants(BOX)
    assert door.crowded == 1, "those who have tunnels are judged again"
    assert [who for who in crowd if not door.wants(who)] == [crowd[1]], "who was heard stays"
    assert door.crowded == 1, "who had to go takes nobody's place on the way out"
    assert door.wants(MALLORY, source="198.51.100.1")
    door.now += QUIET
    assert door.wants(crowd[1]), "and may come again"
    assert len(door.guests) == 9


def test_where_all_places_are_taken_it_is_the_most_silent_of_all_unless_there_is_less_room_now() -> None:
    door, crowd = Door(8), [person(number) for number in range(10, 18)]
    for number, who in enumerate(crowd):
        assert door.wants(who, source=f"192.0.{number // 2}.1")
    door.now = QUIET
    assert door.wants(BOX, source="198.51.100.1")
    assert not door.wants(crowd[0], source="192.0.0.1")
    door.now = 2 * QUIET
    door.guests.make_room(4)
    assert not door.wants(LAPTOP, source="203.0.113.1")
    assert len(door.guests) == 8


def test_strangers_never_keep_a_member_out() -> None:
    door, crowd = Door(8), [person(number) for number in range(10, 14)]
    door.office(OWNER, Register("alice"))
    assert all(map(door.wants, crowd))
    door.joins(BOX)
    assert not door.wants(LAPTOP)
    assert door.wants(BOX)
    assert all(map(door.wants, crowd)), "who is no stranger has no stranger's place"


def test_no_network_has_all_places() -> None:
    door, crowd = Door(64), [person(number) for number in range(10, 60)]
    assert sum(door.wants(who, source=f"192.0.2.{number}") for number, who in enumerate(crowd)) == 8
    assert sum(door.wants(who, source=f"2001:db8::{number}:0:1") for number, who in enumerate(crowd[8:])) == 8
    assert door.wants(BOX, source="::ffff:198.51.100.1"), "elsewhere there is room"
    assert door.wants(crowd[0], source="203.0.113.1"), "who has a place keeps it, from wherever"
    assert len(door.guests) == 17
    door.now = 2 * STAY
    assert door.wants(LAPTOP, source="192.0.2.77"), "its network's places are free again"
    assert len(door.guests) == 1


def test_who_is_only_asked_about_takes_no_place() -> None:
    door = Door(1)
    assert door.wants(BOX, source="") and door.wants(LAPTOP, source="")
    assert not len(door.guests)
    assert door.wants(BOX)
    assert not door.wants(LAPTOP, source="")


def test_a_member_makes_room_in_its_network() -> None:
    door, crowd = Door(8), [person(number) for number in range(10, 15)]
    door.office(OWNER, Register("alice"))
    assert [door.wants(who) for who in crowd] == [True] * 4 + [False]
    door.joins(crowd[0])
    door.now = 2.0
    assert door.wants(crowd[4])


def test_who_was_barred_is_no_stranger_again_and_who_was_removed_is() -> None:
    door = Door(8)
    door.office(OWNER, Register("alice"))
    door.joins(BOX)
    door.joins(LAPTOP, "laptop")
    assert door.office(OWNER, Remove(LAPTOP.did)).ok
    assert door.wants(LAPTOP)
    account = door.office.registry.account(OWNER.did)
    assert account is not None
    door.office.registry.apply([suspend(account, "spam")])
    for device in (BOX, LAPTOP):
        assert "spam" in door.bars(device)
        assert not door.wants(device)
    assert not door.bars(MALLORY)
    assert "spam" in door.bars(MALLORY, owner=str(OWNER.did)), "never registered, but theirs"
    assert door.wants(MALLORY)


def test_who_has_proven_no_key_is_nobody() -> None:
    door = Door(8)
    for device in ("", "did:web:box.example", "nonsense"):
        assert not door.guests.wants(Identity(did="x", host="", trust=Trust.KEY_PROVEN, device=device))


def test_a_budget_fills_up_steadily_and_is_of_one_device() -> None:
    budgets = Budgets()
    waits = [budgets.spend(BOX.did, 0.0) for _ in range(60)]
    assert waits[:30] == [0.0] * 30
    assert waits[-1] > waits[-2] > 0
    assert budgets.spend(LAPTOP.did, 0.0) == 0.0
    assert budgets.spend(BOX.did, 60.0) == 0.0
