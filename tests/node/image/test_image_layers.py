"""Layers over layers: what a stranger's entries become, told as the steps that would be taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from node.image import layers
from node.image.layers import MakeDirectory, MakeLink, MakeSymlink, Remove, Step, Tree, WriteFile
from node.image.tar import Entry, EntryKind


def entry(path: str, kind: EntryKind = "file", target: str = "", mode: int = 0o644, size: int = 0) -> Entry:
    return Entry(path=path, kind=kind, target=target, mode=mode, size=size)


def laid(*stack: list[Entry]) -> list[Step]:
    """The steps of the last of the layers."""
    tree, steps = Tree(), []
    for each in stack:
        tree.next_layer()
        steps = [step for one in each for step in tree.steps(one)]
    return steps


def test_parents_that_no_entry_names_are_made():
    assert laid([entry("a/b/c")]) == [
        MakeDirectory("a", 0o755),
        MakeDirectory("a/b", 0o755),
        WriteFile("a/b/c", 0o644, 0),
    ]


def test_links_on_the_way_are_followed_within_the_image():
    merged = [entry("lib", "symlink", "/usr/lib"), entry("usr/lib", "directory")]
    assert laid(merged, [entry("lib/x")]) == [WriteFile("usr/lib/x", 0o644, 0)]
    out = [entry("out", "symlink", "../../../../etc")]
    assert laid(out, [entry("out/passwd")]) == [MakeDirectory("etc", 0o755), WriteFile("etc/passwd", 0o644, 0)]


def test_a_link_is_replaced_and_never_written_through():
    assert laid([entry("x", "symlink", "/etc/passwd")], [entry("x")]) == [Remove("x"), WriteFile("x", 0o644, 0)]


def test_a_folder_over_a_folder_keeps_what_is_in_it():
    assert laid([entry("d/x")], [entry("d", "directory", mode=0o700)]) == [MakeDirectory("d", 0o700, is_new=False)]
    assert laid([entry("d/x")], [entry("d")]) == [Remove("d"), WriteFile("d", 0o644, 0)]


def test_whiteouts_hide_what_is_below_and_nothing_of_their_own_layer():
    assert laid([entry("d/x")], [entry("d/.wh.x")]) == [Remove("d/x")]
    assert laid([entry("d/x")], [entry("d/x"), entry("d/.wh.x")]) == [Remove("d/x"), WriteFile("d/x", 0o644, 0)]
    below = [entry("d/x"), entry("d/y"), entry("d/e/z")]
    opaque = [entry("d/e/new"), entry("d/.wh..wh..opq")]
    assert set(laid(below, opaque)) == {WriteFile("d/e/new", 0o644, 0), Remove("d/x"), Remove("d/y"), Remove("d/e/z")}
    assert laid([entry("x")], [entry(".wh.nothing"), entry("gone/.wh.x"), entry(".wh..wh.plnk", "directory")]) == []


def test_hard_links_name_what_was_laid():
    assert laid([entry("a/x")], [entry("y", "hardlink", "a/x")]) == [MakeLink("y", "a/x")]
    assert laid([entry("x")], [entry("x", "hardlink", "x")]) == []
    with_link = [entry("a/x"), entry("l", "symlink", "a")]
    assert laid(with_link, [entry("y", "hardlink", "l/x")]) == [MakeLink("y", "a/x")]
    assert laid([entry("s", "symlink", "/etc/shadow")], [entry("y", "hardlink", "s")]) == [MakeLink("y", "s")]


def test_owners_are_kept_as_far_as_a_container_has_users():
    tree = Tree()
    tree.next_layer()
    owned = Entry(path="x", kind="file", mode=0o644, owner=(101, 70_000))
    assert tree.steps(owned) == [WriteFile("x", 0o644, 0, (101, 65534))]


def test_devices_and_set_user_id_are_left_out():
    assert laid([entry("null", "device"), entry("pipe", "fifo")]) == []
    assert laid([entry("su", mode=0o6755)]) == [WriteFile("su", 0o755, 0)]
    assert laid([entry("tmp", "directory", mode=0o1777)]) == [MakeDirectory("tmp", 0o1777)]
    assert laid([entry("locked", "directory", mode=0)]) == [MakeDirectory("locked", 0o700)]


BAD = {
    "a way up": [entry("../etc/passwd")],
    "a way up in the middle": [entry("a/../../x")],
    "a null in a path": [entry("a\0b")],
    "a long name": [entry("x" * 256)],
    "a link to nothing": [entry("x", "symlink", "")],
    "a hard link to what is not there": [entry("x", "hardlink", "etc/shadow")],
    "a hard link out": [entry("x", "hardlink", "../../etc/shadow")],
    "a hard link to a folder": [entry("d", "directory"), entry("x", "hardlink", "d")],
    "a hard link to what it replaces": [entry("d/x"), entry("d", "hardlink", "d/x")],
    "links in a circle": [entry("a", "symlink", "b"), entry("b", "symlink", "a"), entry("a/x")],
    "a circle to link to": [entry("a", "symlink", "a"), entry("x", "hardlink", "a/x")],
    "a deep path": [entry("d/" * 300 + "x")],
    "a path that grows by links": [
        entry(f"{'n' * 250}/" * 8 + "x"),
        entry("long", "symlink", f"{'n' * 250}/" * 8),
        entry("long/" + f"{'m' * 250}/" * 9 + "x"),
    ],
    "a bomb": [entry("x", size=layers.MOST_UNPACKED), entry("y", size=1)],
}


@pytest.mark.parametrize("why", BAD)
def test_an_image_that_means_harm_is_refused(why: str):
    with pytest.raises(BadWire):
        laid(BAD[why])


def test_folders_that_no_entry_names_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layers, "MOST_ENTRIES", 3)
    assert len(laid([entry("a/b/c")])) == 3
    with pytest.raises(BadWire, match="more than 3 entries"):
        laid([entry("a/b/c/d")])


def test_links_through_many_folders_again_and_again_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layers, "MOST_WALKED", 5000)
    back_and_forth = "a/../" * 400
    links = [entry("a", "directory"), *(entry(f"l{n}", "symlink", f"{back_and_forth}l{n + 1}") for n in range(9))]
    with pytest.raises(BadWire, match="too many folders"):
        laid([*links, *(entry(f"l0/{number}") for number in range(100))])


def test_a_whiteout_that_is_said_again_looks_at_nothing_again():
    tree = Tree()
    tree.next_layer()
    tree.steps(entry("d/old"))
    tree.next_layer()
    for number in range(100):
        tree.steps(entry(f"d/{number}"))
    for name in (".wh.d", "d/.wh..wh..opq"):
        below = Counting(tree._root.below["d"].below or {})  # type: ignore[index]
        tree._root.below["d"].below = below  # type: ignore[index]
        for _ in range(5):
            tree.steps(entry(name))
        assert below.looked <= 1
    assert "old" not in below and len(below) == 100


class Counting(dict[str, Any]):
    """Knows how often all of it was gone through."""

    looked = 0

    def __iter__(self) -> Iterator[str]:
        self.looked += 1
        return super().__iter__()


def test_the_number_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layers, "MOST_ENTRIES", 3)
    with pytest.raises(BadWire, match="more than 3 entries"):
        laid([entry(str(number)) for number in range(4)])


NAMES = st.sampled_from(["a", "b", "c", "..", ".", ".wh.a", ".wh.b", ".wh..wh..opq", ""])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from(["file", "directory", "symlink", "hardlink"])
TARGETS = st.tuples(st.sampled_from(["", "/", "../"]), PATHS).map("".join)
STACKS = st.lists(st.lists(st.builds(entry, PATHS, KINDS, TARGETS), max_size=8), max_size=4)


@given(STACKS)
def test_every_step_is_possible_and_on_plain_folders(stack: list[list[Entry]]):
    tree = Tree()
    real: dict[str, str] = {"": "directory"}
    for each in stack:
        tree.next_layer()
        for one in each:
            try:
                steps = tree.steps(one)
            except BadWire:
                return
            for step in steps:
                parent = step.path.rpartition("/")[0]
                assert real.get(parent) == "directory", step
                match step:
                    case Remove():
                        assert step.path in real
                        below = f"{step.path}/"
                        real = {at: kind for at, kind in real.items() if not f"{at}/".startswith(below)}
                        continue
                    case MakeDirectory(is_new=False):
                        assert real[step.path] == "directory"
                        continue
                    case MakeLink():
                        assert real[step.existing] in ("file", "symlink")
                        kind = real[step.existing]
                    case MakeSymlink():
                        kind = "symlink"
                    case MakeDirectory():
                        kind = "directory"
                    case WriteFile():
                        kind = "file"
                assert step.path not in real
                real[step.path] = kind
