"""Big sets of names and addresses, small in memory and quick to ask.

*Names.*  A domain set speaks mihomo's four forms: ``a.b`` is that name, ``+.a.b`` that name and all below it, ``.a.b``
only what is below, and a ``*`` label stands for exactly one label anywhere.  Names are kept reversed letter by letter,
so that "below" becomes "begins with": a million of them take a few tens of megabytes in one of two tries:
``DomainSet``, built from lines, or ``SuccinctTrie``, which walks an mrs file's own trie as it lies there.

*Addresses.*  ``CidrSet`` is sorted, merged ranges and a bisection.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Protocol, TypeAlias

import marisa_trie

from cyfs_ns.address import WIDTH, Address, Prefix
from cyfs_ns.errors import BadWire


class HostSet(Protocol):
    """A set of names; ``len`` is the number of entries it was made from."""

    def match(self, host: str) -> bool: ...
    def __len__(self) -> int: ...


class DomainSet:
    """Names from lines of text.  ``entries`` are already lower-case ASCII and correct (``domain_entry``)."""

    def __init__(self, entries: Iterable[bytes]) -> None:
        self._count = 0
        self._wild: _Branch = {}
        below: list[bytes] = []
        self._trie = marisa_trie.BinaryTrie(self._keys(entries, below))
        self._below = marisa_trie.BinaryTrie(below) if below else None

    def _keys(self, entries: Iterable[bytes], below: list[bytes]) -> Iterator[bytes]:
        """Reversed names; those that stand for all below too end in a dot.  The rare kinds are put aside."""
        for entry in entries:
            self._count += 1
            if b"*" in entry:
                self._plant(entry)
            elif entry.startswith(b"+."):
                yield entry[:0:-1]
            elif entry.startswith(b"."):
                below.append(entry[::-1])
            else:
                yield entry[::-1]

    def _plant(self, entry: bytes) -> None:
        first, *rest = entry.split(b".")
        ends = {b"+": (_HERE, _BELOW), b"": (_BELOW,)}.get(first, (_HERE,))
        branch = self._wild
        for label in reversed(rest if first in (b"+", b"") else [first, *rest]):
            branch = branch.setdefault(label, {})
        for end in ends:
            branch[end] = {}

    def match(self, host: str) -> bool:
        key = host.encode()[::-1]
        for found in self._trie.prefixes(key + b"."):
            if found.endswith(b".") or len(found) == len(key):
                return True
        if self._below is not None and self._below.prefixes(key):
            return True
        return bool(self._wild) and _walk(self._wild, host.encode().split(b"."))

    def __len__(self) -> int:
        return self._count


_Branch: TypeAlias = "dict[bytes, _Branch]"
_HERE, _BELOW = b"", b"."  # neither can be a label


def _walk(branch: _Branch, labels: list[bytes]) -> bool:
    """Whether the wild entries under ``branch`` match ``labels``, of which the last comes first."""
    stack = [(branch, len(labels))]
    while stack:
        branch, left = stack.pop()
        if left == 0:
            if _HERE in branch:
                return True
            continue
        if _BELOW in branch:
            return True
        for label in (labels[left - 1], b"*"):
            if label and (deeper := branch.get(label)) is not None:
                stack.append((deeper, left - 1))
    return False


_ENTRY = re.compile(rb"(?:\+\.|\.)?(?:(?:\*|[^\x00-\x20*+./,<>\x7f-\xff]+)\.)*(?:\*|[^\x00-\x20*+./,<>\x7f-\xff]+)")


def domain_entry(line: bytes) -> bytes | None:
    """``line`` as DomainSet wants it, or None when it is no entry of a domain set; ASCII only."""
    entry = line.lower()
    return entry if _ENTRY.fullmatch(entry) else None


class SuccinctTrie:
    """The trie of an mrs file (LOUDS: breadth-first, one bit string), with an index of where children begin.

    ``bitmap`` has for every node, in breadth-first order, a 0 for each child and then a 1; ``labels`` has one byte a
    child in the same order, so child ``k`` overall is node ``k + 1``; ``leaves`` marks nodes that end a key.  Keys are
    reversed names; a byte ``+`` in a label's place means "anything from here", ``*`` "any one label".  Both bit strings
    come as big-endian 64-bit words whose lowest bit is first.  The index costs four bytes a node and makes a step one
    ``bytes.find``.  Every label has one node above it, and a node that can be reached comes after that one, so even a
    forged trie has no circle.  Raises BadWire when the three do not fit together.
    """

    def __init__(self, leaves: bytes, bitmap: bytes, labels: bytes, count: int) -> None:
        self._leaves, self._labels, self._count = leaves, labels, count
        self._first = _child_index(bitmap, len(labels))

    def match(self, host: str) -> bool:
        key = host.encode()[::-1]
        end = len(key)
        if end == 0:
            return False
        labels, first = self._labels, self._first
        stack = [(0, 0)]
        while stack:
            node, at = stack.pop()
            fresh = True  # at the beginning of a label, or just behind one that "*" stood for
            while True:
                if at == end:
                    if self._is_leaf(node):
                        return True
                    break
                low, high = first[node], first[node + 1]
                if fresh and key[at] != _DOT:
                    if labels.find(b"+", low, high) >= 0:
                        return True
                    star = labels.find(b"*", low, high)
                    if star >= 0:
                        dot = key.find(b".", at)
                        stack.append((star + 1, end if dot < 0 else dot))
                found = labels.find(key[at], low, high)
                if found < 0:
                    break
                fresh = key[at] == _DOT
                node, at = found + 1, at + 1
        return False

    def entries(self) -> Iterator[bytes]:
        """All names in it, as ``DomainSet`` takes them; none longer than a name can be."""
        stack = [(0, b"")]
        while stack:
            node, name = stack.pop()
            if self._is_leaf(node):
                yield name[1:] if name.startswith(b"+.") else name
            if len(name) <= _MAX_NAME:
                first = self._first[node]
                letters = self._labels[first : self._first[node + 1]]
                stack.extend((first + at, bytes((letter,)) + name) for at, letter in enumerate(letters, 1))

    def _is_leaf(self, node: int) -> bool:
        byte = ((node >> 6) << 3) + 7 - ((node & 63) >> 3)
        return byte < len(self._leaves) and bool(self._leaves[byte] >> (node & 7) & 1)

    def __len__(self) -> int:
        return self._count


_DOT = 0x2E
_MAX_NAME = 255
_CHUNK = 1 << 15  # bytes of bitmap turned into text at a time: big enough for C speed, small enough for memory


def _child_index(bitmap: bytes, labels: int) -> array[int]:
    """``first[n]``: how many children all nodes before ``n`` have; one more entry closes the last node."""
    first = array("I", (0,))
    unclosed = 0
    for start in range(0, len(bitmap), _CHUNK):
        words = array("Q", bitmap[start : start + _CHUNK])
        words.byteswap()  # now the lowest bit of the whole chunk, read as little-endian, is the first
        bits = format(int.from_bytes(words.tobytes(), "little"), f"0{len(words) * 64}b")[::-1]
        runs = list(map(len, bits.split("1")))
        runs[0] += unclosed
        unclosed = runs.pop()
        first.extend(islice(accumulate(runs, initial=first[-1]), 1, None))
    if len(first) != labels + 2 or first[-1] != labels or unclosed >= 64:
        raise BadWire(f"a trie of {labels} labels and {len(first) - 1} nodes does not fit together")
    return first


class CidrSet:
    """Addresses as merged ranges.  ``count`` is how many entries it was made from, for people."""

    def __init__(self, ranges: Iterable[tuple[int, int, int]], count: int | None = None) -> None:
        """``ranges`` are inclusive ``(family, low, high)``, in any order."""
        split: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        given = 0
        for given, (family, low, high) in enumerate(ranges, 1):  # noqa: B007 - the last value is the count
            split[family].append((low, high))
        self._count = given if count is None else count
        low4, high4 = _merged(split[4])
        self._ranges: dict[int, tuple[Sequence[int], Sequence[int]]] = {
            4: (array("I", low4), array("I", high4)),
            6: _merged(split[6]),
        }

    @classmethod
    def of(cls, prefixes: Iterable[Prefix]) -> CidrSet:
        return cls(prefix_range(prefix) for prefix in prefixes)

    def has(self, address: Address) -> bool:
        lows, highs = self._ranges[address[0]]
        at = bisect_right(lows, address[1]) - 1
        return at >= 0 and address[1] <= highs[at]

    def __len__(self) -> int:
        return self._count


def prefix_range(prefix: Prefix) -> tuple[int, int, int]:
    """``(family, lowest, highest)`` address of a prefix."""
    below = (1 << (WIDTH[prefix.family] - prefix.bits)) - 1
    return prefix.family, prefix.number & ~below, prefix.number | below


def _merged(ranges: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    ranges.sort()
    lows: list[int] = []
    highs: list[int] = []
    for low, high in ranges:
        if highs and low <= highs[-1] + 1:
            highs[-1] = max(highs[-1], high)
        else:
            lows.append(low)
            highs.append(high)
    return lows, highs
