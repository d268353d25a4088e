"""Chunks, manifests and how long they stay: nothing but what was written is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zones import ALICE, DAY, KEYS, MALLORY, NOW, sign

from cyfs_ns.errors import BadWire, ConfigFault, Refused
from cyfs_ns.identity.keys import SecretKey
from zone.backup.chunks import PIECE, name_of, pack, seal, unpack, unseal
from zone.backup.manifest import (
    DICE,
    LATEST,
    Kind,
    Manifest,
    Part,
    Ref,
    is_part,
    missing,
    open_manifest,
    read_manifest,
    write_manifest,
)
from zone.backup.retention import Retention, kept

SECRET, OTHER = bytes(32), bytes([7]) * 32
ZONE = sign("ood1", "ood2")


def parts() -> list[Part]:
    data = b"piece" * 100
    chunk = seal(data, SECRET)
    ref = Ref(chunk.name, len(data), chunk.key)
    return [
        Part("system_config", Kind.FILE, 12, 2 * len(data), hashlib.sha256(data * 2).digest(), (ref, ref)),
        Part("empty", Kind.FILE, 0, 0, hashlib.sha256().digest(), ()),
    ]


def written(machine: str = "ood1", number: int = 1, seen: Mapping[str, int] | None = None) -> bytes:
    member = ZONE.of(machine)
    return write_manifest(member, KEYS[machine], number, NOW, "", seen or {}, parts(), bytes(range(DICE)))


def read(machine: str = "ood1", number: int = 1, seen: Mapping[str, int] | None = None) -> Manifest:
    return read_manifest(written(machine, number, seen), ALICE.public, machine, number)


@pytest.mark.parametrize("size", [1, 1000, PIECE])
def test_a_chunk_opens_with_its_key_alone(size: int) -> None:
    piece = bytes(size)
    chunk = seal(piece, SECRET)
    assert unseal(chunk.stored, chunk.key, size) == piece
    assert chunk.name == name_of(chunk.stored)
    with pytest.raises(BadWire):
        unseal(chunk.stored, SECRET, size)
    with pytest.raises(BadWire, match="in the place of"):
        unseal(chunk.stored, chunk.key, size + 1)


def test_equal_pieces_are_one_chunk_and_who_lacks_the_secret_cannot_tell() -> None:
    assert seal(b"diary", SECRET) == seal(b"diary", SECRET)
    assert seal(b"diary", SECRET).name != seal(b"diary", OTHER).name


def test_what_unpacks_to_more_than_there_may_be_is_refused_unread() -> None:
    with pytest.raises(BadWire, match="more than"):
        unpack(pack(bytes(PIECE + 1)), PIECE)


@given(st.binary(max_size=200))
def test_no_bytes_of_strangers_are_a_chunk_or_a_manifest(data: bytes) -> None:
    with pytest.raises(BadWire):
        unseal(data, bytes(32), 1)
    with pytest.raises(BadWire):
        read_manifest(b"cyfsbak1" + data, ALICE.public, "ood1", 1)


def test_the_owner_reads_what_was_saved_and_nobody_else() -> None:
    found = read()
    assert (found.label, found.made, found.zone) == ("ood1/1", NOW, "did:web:home.example")
    assert found.chunks == (seal(b"piece" * 100, SECRET).name,)
    assert list(open_manifest(found, ALICE)) == parts()
    with pytest.raises(Refused, match="this key is"):
        open_manifest(found, MALLORY)


def test_every_octet_of_a_manifest_is_signed() -> None:
    whole = written()
    for at in range(0, len(whole), 41):
        broken = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        with pytest.raises(BadWire):
            read_manifest(broken, ALICE.public, "ood1", 1)
    for length in range(0, len(whole), 197):
        with pytest.raises(BadWire):
            read_manifest(whole[:length], ALICE.public, "ood1", 1)


def test_a_manifest_in_the_place_of_another_is_told() -> None:
    with pytest.raises(BadWire, match="somebody exchanged them"):
        read_manifest(written(number=1), ALICE.public, "ood1", 2)
    with pytest.raises(BadWire, match="somebody exchanged them"):
        read_manifest(written("ood2"), ALICE.public, "ood1", 1)


def test_only_machines_of_the_owner_make_manifests() -> None:
    with pytest.raises(BadWire, match="its owner's key is"):
        read_manifest(written(), MALLORY.public, "ood1", 1)
    forged = write_manifest(ZONE.of("ood1"), SecretKey(bytes(32)), 1, NOW, "", {}, parts(), bytes(DICE))
    with pytest.raises(BadWire, match="not what ood1 signed"):
        read_manifest(forged, ALICE.public, "ood1", 1)


def test_a_target_that_holds_back_what_another_machine_saw_is_told() -> None:
    assert missing([read("ood1", 5), read("ood2", 3, {"ood1": 5})]) == []
    (line,) = missing([read("ood1", 4), read("ood2", 3, {"ood1": 5})])
    assert "ood1/5, which ood2/3 saw" in line
    (line,) = missing([read("ood2", 3, {"ood1": 5})])
    assert "ood1/5" in line
    assert missing([]) == []


@pytest.mark.parametrize("name", ["a", "system_config", "web.data-1", "A0.b.c"])
def test_names_of_parts(name: str) -> None:
    assert is_part(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a..b", "a.", "-x", "a" * 64, "ä", "a\n"])
def test_names_that_no_part_has(name: str) -> None:
    assert not is_part(name)


def test_the_newest_of_each_day_week_and_month_stay() -> None:
    made = {number: NOW + number * DAY // 2 for number in range(1, 200)}
    stay = kept(made, Retention(last=3, daily=4, weekly=0, monthly=0))
    assert sorted(stay) == [194, 196, 197, 198, 199]
    months = kept(made, Retention(last=1, daily=0, weekly=0, monthly=3))
    assert len(months) == 3
    assert 199 in months


def test_clocks_that_jump_cost_one_place_of_each_rule_and_never_the_newest() -> None:
    made = {number: NOW + number * DAY for number in range(1, 30)} | {15: LATEST, 30: 0}
    stay = kept(made, Retention(last=2, daily=7, weekly=0, monthly=0))
    assert {30, 29} <= stay
    assert len(stay) == 7


@given(st.dictionaries(st.integers(1, 1000), st.integers(0, LATEST), max_size=50), st.integers(1, 5))
def test_the_last_ones_stay_whatever_the_clocks_said(made: dict[int, int], last: int) -> None:
    stay = kept(made, Retention(last, 1, 1, 1))
    assert set(sorted(made)[-last:]) <= stay <= made.keys()


def test_a_rule_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ConfigFault):
        Retention(last=0)
