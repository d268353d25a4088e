"""A name of ENS in its one spelling (ENSIP-15), or the reason why it has none.

What people type has many spellings, and only one is hashed; so this stands before everything else, and two programs
that disagree here send money to different places.  In short: emoji are set apart, each other character is kept, mapped
or dropped, what is left is composed (NFC), and then each label must look like what it is: one script, no mark without
its letter, no label that reads as another script's.  A name that *may* be what it seems, but could be read as
another, comes back with warnings to show.

ASCII names, which are nearly all, never load the tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from cyfs_ns.ens.nfc import compose, decompose
from cyfs_ns.ens.tables import CONFUSED, EMOJI, FE0F, FENCED, IGNORED, MARK, NON_SPACING, UNIQUE, VALID, Tables, tables
from cyfs_ns.errors import BadWire

MAX_NAME = 1000
"""Characters of a name; ENS itself sets no limit."""

_PLAIN = re.compile(r"(?:(?=[^.])_*+[a-z0-9$-]*+(?:\.(?!\Z)|\Z))++\Z").match


@dataclass(frozen=True, slots=True)
class Normal:
    """A name in its one spelling."""

    name: str
    warnings: tuple[str, ...] = ()
    """Sentences for people: what in it can be mistaken for something else."""


def normalise(name: str) -> Normal:
    """The normal form of a name.  Raises ``BadWire`` saying which label breaks which rule."""
    if len(name) > MAX_NAME:
        raise BadWire(f"a name of {len(name)} characters: {name[:40]!r}...")
    if _PLAIN(name) is not None and ("--" not in name or all(label[2:4] != "--" for label in name.split("."))):
        return Normal(name)
    if not name:
        return Normal("")
    rules = tables()
    labels = [_Label(label, rules) for label in name.split(".")]
    return Normal(".".join(label.text for label in labels), tuple(_warnings(labels, rules)))


class _Label:
    """One label, read and checked."""

    def __init__(self, given: str, rules: Tables) -> None:
        self._given, self._rules = given, rules
        self.pieces = self._tokens()
        self.text = "".join(piece for piece, _ in self.pieces)
        self.letters = "".join(piece for piece, is_emoji in self.pieces if not is_emoji)
        self.group = self._check()

    def _tokens(self) -> list[tuple[str, bool]]:
        """What is written, in runs of text (mapped and composed) and emoji (``True``)."""
        rules, given = self._rules, self._given
        pieces: list[tuple[str, bool]] = []
        run: list[str] = []
        at = 0
        while at < len(given):
            char = given[at]
            kind = rules.kind(char)
            end = rules.emoji_end(given, at) if kind.flags & EMOJI else at
            if end > at:
                if run:
                    pieces.append((compose("".join(run), rules), False))
                    run = []
                pieces.append((given[at:end].replace(FE0F, ""), True))
                at = end
                continue
            at += 1
            if kind.flags & VALID:
                run.append(char)
            elif (becomes := rules.mapped.get(char)) is not None:
                run.append(becomes)
            elif not kind.flags & IGNORED:
                raise self._refused(f"the character {_shown(char)} is not allowed")
        if run:
            pieces.append((compose("".join(run), rules), False))
        return pieces

    def _check(self) -> str:
        """Every rule on a whole label; the name of its group, or empty for ASCII and emoji."""
        text = self.text
        if not text:
            raise self._refused("nothing is left of it" if self._given else "it is empty")
        if "_" in text.lstrip("_"):
            raise self._refused("an underscore may only stand at the beginning")
        if text.isascii() and not any(is_emoji for _, is_emoji in self.pieces):
            if text[2:4] == "--":
                raise self._refused("its third and fourth characters are hyphens")
            return ""
        if not self.letters:
            return ""
        kind = self._rules.kind
        for at, (piece, is_emoji) in enumerate(self.pieces):
            if not is_emoji and kind(piece[0]).flags & MARK:
                raise self._refused(f"the combining mark {_shown(piece[0])} {'follows an emoji' if at else 'leads'}")
        self._check_fences()
        return self._check_scripts()

    def _check_fences(self) -> None:
        """Punctuation such as the apostrophe stands between two other characters, nowhere else."""
        fenced = [bool(self._rules.kind(char).flags & FENCED) for char in self.text]
        if fenced[0] or fenced[-1]:
            raise self._refused(f"{_shown(self.text[0 if fenced[0] else -1])} may not stand at an end")
        for at, (one, two) in enumerate(pairwise(fenced)):
            if one and two:
                raise self._refused(f"{_shown(self.text[at])} and {_shown(self.text[at + 1])} may not stand together")

    def _check_scripts(self) -> str:
        groups, kind = self._rules.groups, self._rules.kind
        unique = dict.fromkeys(self.letters)
        fit = -1
        for char in unique:
            has = kind(char).groups
            if not has:
                raise self._refused(f"the character {_shown(char)} is not allowed")
            if not fit & has:
                raise self._refused(
                    f"it mixes scripts: {_shown(char)} of {groups[_first(has)].name} in {groups[_first(fit)].name}"
                )
            fit &= has
        chosen = groups[_first(fit)]
        if chosen.counted:
            self._check_marks()
        self._check_whole(unique, chosen.name)
        return chosen.name

    def _check_marks(self) -> None:
        """No non-spacing mark twice on one letter, nor too many of them (UTS 39 section 5.4)."""
        run: list[str] = []
        for char in decompose(self.letters, self._rules):
            if not self._rules.kind(char).flags & NON_SPACING:
                run = []
                continue
            if char in run:
                raise self._refused(f"the mark {_shown(char)} stands twice on one letter")
            run.append(char)
            if len(run) > self._rules.most_marks:
                raise self._refused(f"more than {self._rules.most_marks} marks on one letter")

    def _check_whole(self, unique: dict[str, None], own: str) -> None:
        """No label that another script could spell with characters that look the same."""
        makers, shared = -1, -1
        for char in unique:
            kind = self._rules.kind(char)
            if kind.flags & UNIQUE:
                return
            if kind.flags & CONFUSED:
                makers &= kind.alike
                if not makers:
                    return
            else:
                shared &= kind.groups
        if makers != -1 and makers & shared:
            raise self._refused(f"all of it, in {own}, looks like {self._rules.groups[_first(makers & shared)].name}")

    def _refused(self, why: str) -> BadWire:
        return BadWire(f"not a name by ENSIP-15: label {self._given[:63]!a}: {why}")


def _warnings(labels: list[_Label], rules: Tables) -> list[str]:
    restricted = {group.name for group in rules.groups if group.restricted}
    found = []
    for label in labels:
        for char in dict.fromkeys(label.letters):
            if (like := rules.looks_like.get(char)) is not None:
                found.append(f"{_shown(char)} looks like {_shown(like)}")
        if label.group in restricted:
            found.append(f"label {label.text!r} is in {label.group}, a script not in everyday use")
    scripts = list(dict.fromkeys(label.group or "ASCII" for label in labels if label.letters))
    if len(scripts) > 2 or (len(scripts) == 2 and "ASCII" not in scripts):
        found.append(f"its labels are in different scripts: {', '.join(scripts)}")
    return found


def _first(bits: int) -> int:
    """The lowest bit: groups stand in order of priority."""
    return (bits & -bits).bit_length() - 1


def _shown(chars: str) -> str:
    points = " ".join(f"U+{ord(char):04X}" for char in chars)
    return f"{chars!r} ({points})" if chars.isprintable() else points
