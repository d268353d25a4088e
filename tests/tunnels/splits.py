"""Ways to cut a stream into pieces: a parser must not care which."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import strategies as st


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """``data`` in pieces that end at the given places, in order; empty pieces are left out."""
    ends = [*sorted({min(place, len(data)) for place in at}), len(data)]
    pieces, start = [], 0
    for end in ends:
        if end > start:
            pieces.append(data[start:end])
            start = end
    return pieces


def bytewise(data: bytes) -> Iterator[bytes]:
    """``data`` one byte at a time."""
    return (data[i : i + 1] for i in range(len(data)))


places = st.lists(st.integers(0, 600), max_size=6)
"""Random places to cut at."""
