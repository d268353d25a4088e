"""Unicode's canonical forms (UAX 15) by the specification's own tables: Python's are those of whatever Unicode its
release knew, and two machines that disagree about a name would hash it differently."""

from __future__ import annotations

from cyfs_ns.ens.tables import Tables

# Hangul syllables are composed by arithmetic (Unicode 3.12).
_SYLLABLE, _LEAD, _VOWEL, _TAIL = 0xAC00, 0x1100, 0x1161, 0x11A7
_LEADS, _VOWELS, _TAILS = 19, 21, 28


def decompose(text: str, tables: Tables) -> str:
    """The canonical decomposition (NFD), marks in their canonical order."""
    found: list[str] = []
    for char in text:
        _take_apart(char, found, tables)
    ranks = [tables.kind(char).rank for char in found]
    at = 0
    while at < len(found):
        if ranks[at]:
            end = at
            while end < len(found) and ranks[end]:
                end += 1
            found[at:end] = [char for _, char in sorted(zip(ranks[at:end], found[at:end], strict=True), key=_rank)]
            at = end
        at += 1
    return "".join(found)


def compose(text: str, tables: Tables) -> str:
    """The composed form (NFC)."""
    out: list[str] = []
    starter = -1  # where in ``out`` the last character of rank 0 stands
    last = 0  # the rank of what was put last behind it
    for char in decompose(text, tables):
        rank = tables.kind(char).rank
        # A mark is blocked from its starter by one of the same or a higher rank, and anything by whatever is between.
        free = starter >= 0 and (starter == len(out) - 1 or (rank and last < rank))
        joined = _joined(out[starter], char, tables) if free else None
        if joined is not None:
            out[starter] = joined
            continue
        if not rank:
            starter = len(out)
        last = rank
        out.append(char)
    return "".join(out)


def _rank(pair: tuple[int, str]) -> int:
    return pair[0]


def _take_apart(char: str, found: list[str], tables: Tables) -> None:
    index = ord(char) - _SYLLABLE
    if 0 <= index < _LEADS * _VOWELS * _TAILS:
        lead, rest = divmod(index, _VOWELS * _TAILS)
        vowel, tail = divmod(rest, _TAILS)
        found += [chr(_LEAD + lead), chr(_VOWEL + vowel)]
        if tail:
            found.append(chr(_TAIL + tail))
    elif char in tables.parts:
        for part in tables.parts[char]:
            _take_apart(part, found, tables)
    else:
        found.append(char)


def _joined(first: str, second: str, tables: Tables) -> str | None:
    one, two = ord(first), ord(second)
    if _LEAD <= one < _LEAD + _LEADS and _VOWEL <= two < _VOWEL + _VOWELS:
        return chr(_SYLLABLE + ((one - _LEAD) * _VOWELS + two - _VOWEL) * _TAILS)
    index = one - _SYLLABLE
    if 0 <= index < _LEADS * _VOWELS * _TAILS and index % _TAILS == 0 and _TAIL < two < _TAIL + _TAILS:
        return chr(one + two - _TAIL)
    return tables.composed.get(first + second)
