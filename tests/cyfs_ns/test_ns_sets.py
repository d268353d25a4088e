"""The trie of an mrs file gives back what went into it, whole or forged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.mrs import read_addresses, read_domains
from cyfs_ns.sets import SuccinctTrie
from tests.cyfs_gateway.rules.mrs_writer import domain_mrs

PLENTY = 1 << 20
LABELS = st.sampled_from(["a", "b", "ab", "com", "*"])
ENTRIES = st.tuples(st.sampled_from(["", "+.", "."]), st.lists(LABELS, min_size=1, max_size=4).map(".".join)).map(
    "".join
)


@settings(max_examples=200, deadline=None)
@given(entries=st.lists(ENTRIES, min_size=1, max_size=20))
def test_entries_come_back(entries: list[str]):
    found = sorted(read_domains(domain_mrs(entries), PLENTY).entries())
    both = {entry[2:] for entry in entries if entry.startswith("+.")}
    below = {entry[entry.index(".") :] for entry in entries if entry.startswith(("+.", "."))}
    rest = {entry for entry in entries if not entry.startswith(("+.", "."))}
    assert found == sorted(entry.encode() for entry in both | below | rest)


def test_the_other_kind_is_refused():
    with pytest.raises(BadWire, match="does not hold addresses"):
        read_addresses(domain_mrs(["a.example"]), PLENTY)


@settings(max_examples=200, deadline=None)
@given(labels=st.binary(max_size=40), leaves=st.binary(max_size=16), data=st.data())
def test_a_forged_trie_has_bounded_entries(labels: bytes, leaves: bytes, data: st.DataObject):
    shape = [*data.draw(st.permutations([False] * len(labels) + [True] * len(labels))), True]
    bits = sum(bit << at for at, bit in enumerate(shape))
    words = -(-len(shape) // 64)
    bitmap = b"".join((bits >> 64 * at & (1 << 64) - 1).to_bytes(8, "big") for at in range(words))
    found = list(SuccinctTrie(leaves, bitmap, labels, 0).entries())
    assert len(found) <= len(labels) + 1
    assert sum(map(len, found)) <= len(labels) ** 2
