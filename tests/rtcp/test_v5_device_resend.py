"""What a leg has to send again goes before what is new, the end of the stream included (§6.3)."""

from __future__ import annotations

import pytest

from tests.rtcp.v5.duet import BULK, standing


@pytest.mark.parametrize("size", [100_000, 300_000, 500_000])
def test_the_end_of_a_stream_does_not_overtake_what_is_sent_again(size):
    """It was finished while its leg was gone, and more is to be sent again than fits into one turn."""
    duet = standing()
    stream = duet.alice.tunnel.open(BULK, duet.now)
    duet.send(duet.alice, stream, bytes(2 << 20), finish=False)
    duet.talk()
    before = len(duet.bob.told(stream).data)
    last = bytes(range(250)) * (size // 250)
    assert duet.alice.tunnel.send(stream, last, duet.now) == size
    while duet.write():
        pass
    duet.cut(1)
    duet.alice.tunnel.finish(stream, duet.now)
    duet.sleep(5)
    assert bytes(duet.bob.told(stream).data[before:]) == last and duet.bob.told(stream).finished
    assert not any(side.ended for side in duet.sides)
