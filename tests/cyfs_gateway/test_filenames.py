"""Names from afar: what may stand here, and what never reaches the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.filenames import MOST_NAME, check_name, part_name, part_prefix
from cyfs_ns.errors import BadWire


@pytest.mark.parametrize(
    "name", ["notes.txt", "größer 🚀.bin", "👩‍👩‍👧.jpg", "a", "x" * MOST_NAME, "a..b", "CON", "%2e%2e"]
)
def test_ordinary_names_stand(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".bashrc",
        "../x",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "C:\\x",
        "-rf",
        "~",
        "~root",
        " x",
        "x ",
        "x\u00a0",
        "a\0b",
        "a\nb",
        "a\x1b[31m",
        "a\x7f",
        "a\x9b",
        "exe\u202egpj.scr",
        "\ufeffx",
        "a\u2028b",
        "\ud800",
        "x" * (MOST_NAME + 1),
        "ü" * (MOST_NAME // 2 + 1),
    ],
)
def test_others_do_not(name: str) -> None:
    with pytest.raises(BadWire):
        check_name(name)


def test_partial_files_are_told_apart_by_sender_and_content() -> None:
    names = {part_name("n", who, size, time) for who in ("a", "b") for size in (1, 2) for time in (1, 2)}
    assert len(names) == 8
    assert len(part_prefix("n", "a")) == len(".n.-") + 16, "nobody finds another name that means the same file"
    assert all(name.startswith(".n.") and name.endswith(".part") for name in names)
    assert part_name("n", "a", 1, 1).startswith(part_prefix("n", "a"))
    assert not part_name("n", "a", 1, 1).startswith(part_prefix("n", "b"))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=210) | st.binary(max_size=210).map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_what_passes_is_one_file_in_its_directory(name: str) -> None:
    try:
        check_name(name)
    except BadWire:
        return
    base = Path("/box")
    for each in (name, part_name(name, "did:dev:x", 1, 1)):
        assert Path(os.path.normpath(base / each)).parent == base
        assert len(os.fsencode(each)) <= 255
