"""From a request to a membership: the zones an owner makes of their machines, and what a machine accepts."""

from __future__ import annotations

import random

import pytest
from owners import ALICE, BOX, HOME, MALLORY, NAS, NOW, PI, Owner, secret

from cyfs_ns.errors import Refused
from cyfs_ns.identity.did import parse_did
from cyfs_ns.identity.revision import Change
from node.activation.accept import check_acceptable
from node.activation.code import DICE, SECONDS_EACH, WRONG_AT_ONCE, Answer, Guard, make_code
from zone.boot.known import FOUNDS, REPLACES, first_known
from zone.membership import Role, role_of, stranger

# -- where the owner lives


def test_a_zone_grows_machine_by_machine() -> None:
    owner = Owner()
    box = owner.enter("box", BOX, ips=("192.0.2.1",), sn="sn.example")
    assert [str(ood) for ood in box.zone.oods] == ["box:192.0.2.1"]
    assert (box.device.device_type, box.zone.sn) == ("ood", "sn.example")
    nas = owner.enter("nas", NAS)
    assert [str(ood) for ood in nas.zone.oods] == ["box:192.0.2.1"]
    assert (sorted(nas.zone.devices), nas.device.device_type) == (["box", "nas"], "server")
    assert nas.zone.devices["box"] == box.device
    pi = owner.enter("pi", PI, role=Role.OOD)
    assert [ood.name for ood in pi.zone.oods if ood.is_ood] == ["box", "pi"]
    gate = owner.enter("gate", secret(14), role=Role.GATEWAY)
    assert role_of(gate.zone.oods, "gate") is Role.GATEWAY
    assert box.zone.iat < nas.zone.iat < pi.zone.iat < gate.zone.iat
    assert gate.zone.sn == "sn.example"


def test_a_machine_takes_the_place_of_another_and_the_old_key_is_refused() -> None:
    owner = Owner()
    old = owner.enter("box", BOX)
    owner.enter("nas", NAS)
    with pytest.raises(Refused, match="--replace"):
        owner.sign("box", PI)
    new = owner.enter("box", PI, replaces=True)
    assert stranger(new.zone, "box", old.device.key).endswith("replaced")
    assert role_of(new.zone.oods, "box") is Role.OOD
    assert new.device.extra[REPLACES] == BOX.public.x
    assert first_known(new).booted
    # Signed anew, it takes nobody's place any more.
    assert REPLACES not in owner.enter("box", PI).device.extra


def test_the_first_machine_may_found_the_zone_however_often_it_is_signed() -> None:
    owner = Owner()
    until = owner.enter("box", BOX).device.extra[FOUNDS]
    assert FOUNDS not in owner.enter("nas", NAS, role=Role.OOD).device.extra
    assert owner.enter("box", BOX, ips=("192.0.2.1",)).device.extra[FOUNDS] == until
    assert FOUNDS not in owner.enter("nas", NAS).device.extra
    assert FOUNDS not in owner.enter("box", PI, replaces=True).device.extra


def test_what_an_owner_is_kept_from() -> None:
    owner = Owner()
    with pytest.raises(Refused, match="first machine"):
        owner.sign("box", BOX, role=Role.NODE)
    with pytest.raises(Refused, match="no other"):
        owner.sign("box", BOX, replaces=True)
    owner.sign("box", BOX)
    with pytest.raises(Refused, match="no other"):
        owner.sign("box", BOX, replaces=True)
    with pytest.raises(Refused, match="nobody would carry"):
        owner.sign("box", BOX, role=Role.NODE)
    with pytest.raises(Refused, match="'box'"):
        owner.sign("nas", BOX)
    with pytest.raises(Refused, match=r"did:web:other\.example"):
        owner.sign("nas", NAS, zone=parse_did("did:web:other.example"))
    with pytest.raises(Refused, match="no machine"):
        owner.remove("nas")
    with pytest.raises(Refused, match="alone carries"):
        owner.remove("box")


def test_a_machine_that_leaves_is_a_stranger_from_then_on() -> None:
    owner = Owner()
    owner.enter("box", BOX)
    owner.enter("nas", NAS, role=Role.OOD)
    assert owner.remove("nas").membership is None
    assert owner.last is not None
    assert [ood.name for ood in owner.last.oods] == ["box"]
    assert "no machine" in stranger(owner.last, "nas", NAS.public)


def test_a_zone_that_does_not_fit_into_its_document_is_told() -> None:
    owner = Owner()
    with pytest.raises(Refused, match="does not fit"):
        for number in range(1, 200):
            owner.sign(f"machine{number}", secret(number))
    assert len(owner.last.devices if owner.last else ()) > 32


# -- on the machine


def test_a_machine_accepts_its_own_and_what_follows_it() -> None:
    owner = Owner()
    first = owner.enter("box", BOX)
    assert check_acceptable(first, None, BOX.public, "box") is Change.FIRST
    assert check_acceptable(first, first, BOX.public) is Change.SAME
    second = owner.enter("box", BOX)
    assert check_acceptable(second, first, BOX.public) is Change.NEWER
    rotated = owner.enter("box", PI, replaces=True)
    assert check_acceptable(rotated, second, PI.public) is Change.NEWER


REFUSED = {
    "another machine's": (lambda: Owner().enter("box", NAS), "another machine's"),
    "another name": (lambda: Owner(iat=NOW + 9).enter("nas", BOX), "node leave"),
    "another owner": (lambda: Owner(MALLORY, iat=NOW + 9).enter("box", BOX), "node leave"),
    "issued before": (lambda: Owner(iat=NOW - 9).enter("box", BOX), "older"),
    "the same second": (lambda: Owner().enter("box", BOX, sn="sn.example"), "same second"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_machine_does_not_accept(what: str) -> None:
    make, words = REFUSED[what]
    held = Owner().enter("box", BOX)
    with pytest.raises(Refused, match=words):
        check_acceptable(make(), held, BOX.public)


def test_what_was_asked_for_is_what_is_accepted() -> None:
    with pytest.raises(Refused, match="'nas'"):
        check_acceptable(Owner().enter("box", BOX), None, BOX.public, "nas")
    assert Owner().enter("box", BOX).zone.id == HOME
    assert Owner().enter("box", BOX).owner.key == ALICE.public


# -- the code


def test_codes_are_read_as_people_read_them() -> None:
    code = make_code(bytes(range(100, 100 + DICE)))
    assert len(code) == 11
    for said in (code, code.lower(), code.replace("-", ""), f" {code} ", code.replace("0", "O").replace("1", "l")):
        assert Guard(code).look(said, 0.0) is Answer.RIGHT
    assert not set("ILOU") & set("".join(make_code(random.Random(n).randbytes(DICE)) for n in range(300)))


def test_who_guesses_is_slowed_down() -> None:
    guard = Guard("AAAAA-AAAAA")
    answers = [guard.look(f"B{n}", 0.0) for n in range(WRONG_AT_ONCE + 5)]
    assert answers.count(Answer.WRONG) == WRONG_AT_ONCE
    assert guard.look("AAAAA-AAAAA", 1.0) is Answer.LATER
    assert guard.look("AAAAA-AAAAA", SECONDS_EACH) is Answer.RIGHT
    tried = sum(guard.look("C", 100.0 + n / 10) is not Answer.LATER for n in range(36_000))
    assert tried <= WRONG_AT_ONCE + 3600 / SECONDS_EACH


@pytest.mark.parametrize("odd", ["", "\ud800", "é" * 1000, "A" * 1_000_000, "\0"])
def test_odd_codes_are_wrong_ones(odd: str) -> None:
    assert Guard("AAAAA-AAAAA").look(odd, 0.0) is Answer.WRONG
