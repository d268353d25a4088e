"""What ENSIP-15 and Unicode's NFC say of each character, in one small table that is read when first asked for.

All of Unicode falls into some four thousand ranges of characters treated alike, and those into under a thousand kinds.
So a character costs one bisection, and the whole specification 2 MB of memory instead of the 95 MB of its JSON form.
``tools/make-ens-tables`` writes the file.  First a line of JSON (the versions), then, deflated, eight sections, each
behind its length (u32; all numbers little-endian):

1. the first character of each range (u32);  2. the kind of each range (u16);
3. the kinds: flags (u8), canonical combining rank (u8), the groups that have the character and the groups in which
   something looks like it (bit masks as wide as there are groups, in whole bytes);
4. the groups' names in order of priority, ``!`` before a restricted one, ``+`` before one whose marks are counted;
5. mapped characters, each followed by what it becomes;  6. emoji, fully qualified;
7. canonical decompositions, behind ``+`` or, if never composed again, ``-``;  8. confusable characters, each followed
   by what it looks like.  Sections 4-8 are lines of UTF-8.
"""

from __future__ import annotations

import json
import pkgutil
import zlib
from array import array
from bisect import bisect_right
from functools import cache
from struct import unpack
from typing import NamedTuple

VALID, IGNORED, MARK, NON_SPACING, FENCED, EMOJI, UNIQUE, CONFUSED = (1 << bit for bit in range(8))
"""Flags of a kind.  ``EMOJI``: one begins here.  ``UNIQUE``: in one group only, and nothing else looks like it."""

FE0F = "\ufe0f"
"""Asks for the coloured form of the character before it; optional in what people type, absent from normal names."""


class Kind(NamedTuple):
    """What all characters of some ranges have in common."""

    flags: int
    rank: int
    """Orders combining marks; 0 for what begins a new cluster."""
    groups: int
    """The groups that have these characters, as bits."""
    alike: int
    """The groups in which other characters look like these, as bits."""


class Group(NamedTuple):
    """A set of characters that may stand in one label together: a script, more or less."""

    name: str
    restricted: bool
    """Of a script that is not in everyday use."""
    counted: bool
    """Whether its non-spacing marks are counted."""


class Tables:
    """The specification, ready to be asked."""

    def __init__(self, packed: bytes) -> None:
        head, _, body = packed.partition(b"\n")
        self.most_marks: int = json.loads(head)["marks"]
        starts, numbers, kinds, groups, mapped, emoji, decomposed, alike = _sections(zlib.decompress(body))
        self._starts, self._numbers = _numbers("I", starts), _numbers("H", numbers)
        self.groups = tuple(
            Group(line.lstrip("!+"), line.startswith("!"), "+" in line[:2]) for line in groups.decode().split("\n")
        )
        self._kinds = tuple(_kinds(kinds, (len(self.groups) + 7) // 8))
        self.mapped = {line[0]: line[1:] for line in mapped.decode().split("\n")}
        self.looks_like = {line[0]: line[1:] for line in alike.decode().split("\n")}
        self.parts = {line[1]: line[2:] for line in decomposed.decode().split("\n")}
        self.composed = {
            line[2:]: line[1] for line in decomposed.decode().split("\n") if line[0] == "+" and len(line) == 4
        }
        self._emoji = _spellings(emoji.decode().split("\n"))

    def kind(self, char: str) -> Kind:
        """The kind of one character."""
        return self._kinds[self._numbers[bisect_right(self._starts, ord(char)) - 1]]

    def emoji_end(self, text: str, at: int) -> int:
        """Where the longest emoji that begins at ``at`` ends, or ``at``."""
        end, here, known = at, at + 1, self._emoji
        while here <= len(text) and (whole := known.get(text[at:here])) is not None:
            if whole:
                end = here
            here += 1
        return end


@cache
def tables() -> Tables:
    """The one copy."""
    return Tables(_packed())


@cache
def spec_version() -> str:
    """Which edition of the rules this is, for the provenance of an answer; without unpacking them."""
    about = json.loads(_packed().partition(b"\n")[0])
    return f"ENSIP-15 of {about['spec'][:10]}, Unicode {about['unicode']}"


def _packed() -> bytes:
    # Part of the program, and read the way the program's modules are.
    packed = pkgutil.get_data(__package__ or "", "ensip15.bin")
    assert packed is not None, "the package is not whole: ensip15.bin is missing"
    return packed


def _sections(body: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(body):
        size = int.from_bytes(body[at : at + 4], "little")
        found.append(body[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def _numbers(code: str, section: bytes) -> array[int]:
    size = {"I": 4, "H": 2}[code]
    return array(code, unpack(f"<{len(section) // size}{code}", section))


def _kinds(section: bytes, width: int) -> list[Kind]:
    size = 2 + 2 * width
    return [
        Kind(
            section[at],
            section[at + 1],
            int.from_bytes(section[at + 2 : at + 2 + width], "little"),
            int.from_bytes(section[at + 2 + width : at + size], "little"),
        )
        for at in range(0, len(section), size)
    ]


def _spellings(emoji: list[str]) -> dict[str, bool]:
    """Every way to begin an emoji, with and without each optional U+FE0F, and whether it is whole there."""
    found: dict[str, bool] = {}
    for sequence in emoji:
        spelt = [""]
        for char in sequence:
            longer = [start + char for start in spelt]
            for start in longer:
                found.setdefault(start, False)
            spelt = spelt + longer if char == FE0F else longer
        for whole in spelt:
            found[whole] = True
    return found
