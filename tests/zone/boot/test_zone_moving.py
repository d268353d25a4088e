"""What a document that changes who carries the zone waits for on each machine."""

from __future__ import annotations

import pytest
from zones import MALLORY, NOW, OOD1, OOD2, OOD3, Signed, sign

from zone.boot.known import FOUNDS, Known, may_found
from zone.boot.moving import View, lacking
from zone.etcd.seats import seats_of
from zone.membership import Membership

ONE = sign("ood1", nodes=["ood2", "ood3", "nas"])
THREE = sign("ood1", "ood2", "ood3", nodes=["nas"], iat=NOW - 100)
OTHERS = sign("ood2", "ood3", nodes=["ood1", "nas"], iat=NOW - 50)
LATE = sign("ood2", "ood1", nodes=["ood3", "nas"], iat=NOW - 50)
NEW_KEY = sign(
    "ood1", "ood2", "ood3", nodes=["nas"], keys={"ood1": OOD1, "ood2": OOD2, "ood3": MALLORY, "nas": OOD3}, iat=NOW - 50
)
URLS = {seat.name: seat.url("0123abcd") for seat in seats_of(THREE.of("ood1").zone)}


def of(name: str, old: Signed, new: Signed, *members: str, **more: object) -> str:
    zone = new.of("nas").zone
    urls = [URLS.get(one, one) for one in members]
    return lacking(
        View(name=name, old=old.of("nas").zone, new=zone, seats=seats_of(zone), members=urls, **more)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("name", ["nas", "ood2"])
def test_what_carries_nothing_goes_by_it_at_once(name: str) -> None:
    assert of(name, ONE, THREE) == ""


@pytest.mark.parametrize(
    ("new", "reached", "words"),
    [
        (THREE, {"ood2"}, ""),
        (THREE, {"ood3", "ood2"}, ""),
        (THREE, {"nas"}, "1 of ood2, ood3"),
        (THREE, (), "1 of ood2, ood3"),
        (OTHERS, {"ood2", "ood3"}, "has to stay the first OOD"),
        (LATE, {"ood2"}, "has to stay the first OOD"),
    ],
)
def test_the_only_one_waits_until_it_can_carry_the_zone_with_others(new: Signed, reached: set[str], words: str) -> None:
    told = of("ood1", ONE, new, has_file=True, reached=frozenset(reached))
    assert (words in told) if words else told == ""


def test_a_member_waits_until_the_members_are_those_of_the_document() -> None:
    assert of("ood1", THREE, NEW_KEY, "ood1", "ood2", "ood3") == "ood3, to become a member of etcd"
    mallory = seats_of(NEW_KEY.of("nas").zone)[2].url("0123abcd")
    assert of("ood1", THREE, NEW_KEY, "ood1", "ood2", mallory) == ""
    assert "to remove" in of("ood1", THREE, NEW_KEY, "ood1", "ood2", "ood3", mallory)
    assert "to become" in of("ood1", THREE, NEW_KEY)
    assert of("ood2", THREE, OTHERS, "ood2", "ood3") == ""


def test_a_member_that_goes_waits_until_it_was_removed() -> None:
    assert "to remove the member" in of("ood1", THREE, OTHERS, "ood1", "ood2", "ood3")
    assert of("ood1", THREE, OTHERS, has_left=True) == ""


@pytest.mark.parametrize(
    ("extra", "booted", "now", "may"),
    [
        ({FOUNDS: NOW}, False, NOW - 1, True),
        ({FOUNDS: NOW}, False, NOW, False),
        ({FOUNDS: NOW}, True, NOW - 1, False),
        ({FOUNDS: "soon"}, False, NOW - 1, False),
        ({}, False, NOW - 1, False),
    ],
)
def test_who_may_found_the_cluster_of_a_new_zone(extra: dict[str, object], booted: bool, now: float, may: bool) -> None:
    signed = sign("ood1", extra=extra)  # type: ignore[arg-type]
    own: Membership = signed.of("ood1")
    assert may_found(Known(zone=signed.state(own), booted=booted), own.device, now) is may
