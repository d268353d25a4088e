"""What is remembered of SNs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_gateway.io.memberfile import MemberFile, Remembered, _read, _written
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.identity.did import dev_did, parse_did
from tests.cyfs_ns.identity.identities import secret

S1, S2 = dev_did(secret(31).public), parse_did("did:web:sn.example")


async def test_it_outlives_us_and_a_clock_that_goes_back(tmp_path: Path) -> None:
    file = MemberFile(tmp_path)
    assert await file.of(S1) == Remembered()
    await file.learnt(S1, "sn.example")
    first = await file.next_seq(S1, 1_700_000_000.5)
    assert first == 1_700_000_000_500
    again = MemberFile(tmp_path)
    assert await again.of(S1) == Remembered("sn.example", first)
    assert await again.next_seq(S1, 5.0) == first + 1
    assert await again.next_seq(S2, 5.0) == 5000, "each SN has numbers of its own"


async def test_what_cannot_be_read_or_written_is_told_and_nothing_is_used(tmp_path: Path) -> None:
    file = MemberFile(tmp_path)
    await file.next_seq(S1, 1.0)
    (tmp_path / "memberships.json").write_bytes(b"{")
    with pytest.raises(ConfigFault, match=r"memberships\.json: .*remove it"):
        await MemberFile(tmp_path).next_seq(S1, 1.0)
    gone = MemberFile(tmp_path / "nowhere")
    with pytest.raises(ConfigFault, match="nowhere"):
        await gone.next_seq(S1, 1.0)


@given(st.binary(max_size=200))
def test_whatever_stands_there_is_read_or_refused(data: bytes) -> None:
    try:
        _read(data)
    except BadWire:
        return


@given(st.dictionaries(st.sampled_from([S1, S2]), st.integers(0, 1 << 52)))
def test_what_is_written_is_read(seqs: dict) -> None:  # type: ignore[type-arg]
    held = {sn: Remembered("sn.example", seq) for sn, seq in seqs.items()}
    assert _read(_written(held)) == held
