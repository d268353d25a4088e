"""Once version 5 was spoken there is no way back that an attacker could choose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.keys import PublicKey
from rtcp.v5.memory import CERTAIN_FOR, Opening, VersionMemory, read_memory
from tests.rtcp.pair import ALICE, BOB


@pytest.mark.parametrize(
    ("spoke", "versions", "opening"),
    [
        ("", (5, 4), Opening.MASKED),
        ("4", (5, 4), Opening.MARKED),
        ("5", (5, 4), Opening.NATIVE),
        ("45", (5, 4), Opening.NATIVE),
        ("54", (5, 4), Opening.NATIVE),
        ("", (5,), Opening.NATIVE),
        ("4", (5,), Opening.NATIVE),
        ("", (4,), Opening.PLAIN),
        ("5", (4,), Opening.PLAIN),
    ],
)
def test_what_is_known_decides_how_a_call_begins(spoke, versions, opening):
    memory = VersionMemory()
    for version in spoke:
        if version == "5":
            memory.spoke_5(BOB.public)
        else:
            memory.spoke_4(BOB.public, 0)
    assert memory.opening(BOB.public, versions, 1) is opening


def test_version_4_is_certain_for_a_day():
    memory = VersionMemory()
    memory.spoke_4(BOB.public, 0)
    assert memory.opening(BOB.public, (5, 4), CERTAIN_FOR - 1) is Opening.MARKED
    assert memory.opening(BOB.public, (5, 4), CERTAIN_FOR) is Opening.MASKED


def test_only_a_person_makes_it_forget():
    memory = VersionMemory()
    assert memory.spoke_5(BOB.public) and not memory.spoke_5(BOB.public)
    assert memory.opening(BOB.public, (5, 4), 1e12) is Opening.NATIVE
    assert memory.forget(BOB.public) and not memory.forget(BOB.public)
    assert memory.opening(BOB.public, (5, 4), 0) is Opening.MASKED


def test_it_outlives_the_process():
    memory = VersionMemory([ALICE.public, BOB.public])
    again = read_memory(memory.write())
    assert again.write() == memory.write()
    assert again.opening(ALICE.public, (5, 4), 0) is Opening.NATIVE
    nobody = VersionMemory().write()
    assert read_memory(nobody).write() == nobody
    assert read_memory(f"{BOB.public.x}\n".encode()).opening(BOB.public, (5, 4), 0) is Opening.NATIVE


def test_nothing_at_all_is_not_a_list_of_nobody():
    with pytest.raises(BadWire):
        read_memory(b"")


@pytest.mark.parametrize("cut", [1, 20, 43, 45])
def test_a_list_that_was_cut_off_is_not_a_shorter_list(cut):
    written = VersionMemory([ALICE.public, BOB.public]).write()
    with pytest.raises(BadWire):
        read_memory(written[:-cut])


def test_a_line_has_its_end():
    with pytest.raises(BadWire):
        read_memory(VersionMemory([ALICE.public]).write()[:-1] + b"x")


@given(st.binary(max_size=100))
def test_a_value_or_its_one_error(data):
    try:
        memory = read_memory(data)
    except BadWire:
        return
    assert read_memory(memory.write()).write() == memory.write()


def test_strangers_do_not_fill_it():
    memory = VersionMemory()
    keys = [PublicKey((i + 9).to_bytes(32, "little")) for i in range(5000)]
    for key in keys:
        memory.spoke_4(key, 0)
    assert memory.opening(keys[0], (5, 4), 1) is Opening.MASKED
    assert memory.opening(keys[-1], (5, 4), 1) is Opening.MARKED
