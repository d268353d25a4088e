"""The page about trust says what the code decides."""

from __future__ import annotations

import re
from pathlib import Path

from cyfs_ns.trust.level import Purpose, Trust

PAGE = (Path(__file__).parents[3] / "docs/trust.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose first head is ``heading``, without its two head lines."""
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.M)
    assert table is not None, heading
    return [[cell.strip().strip("`") for cell in line.strip("|\n").split("|")] for line in table[1].splitlines()]


def test_every_level_stands_there_with_its_meaning_in_order() -> None:
    assert rows(r"level \| it is wrong only if") == [[level.label, level.meaning] for level in Trust]


def test_every_purpose_stands_there_with_its_least_level() -> None:
    assert rows(r"to \| at least") == [[purpose.value, purpose.least.label] for purpose in Purpose]


def test_what_a_level_may_be_used_for() -> None:
    heads = re.search(r"^\| level \| (show .*) \|$", PAGE, re.M)
    assert heads is not None and heads[1].split(" | ") == [purpose.name.lower() for purpose in Purpose]
    assert rows(r"level \| show .*") == [
        [level.label, *("yes" if level >= purpose.least else "" for purpose in Purpose)] for level in Trust
    ]
