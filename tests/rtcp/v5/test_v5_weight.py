"""What a tunnel weighs that nobody uses, and what is left when a thousand streams have come and gone."""

from __future__ import annotations

import gc
import tracemalloc

from tests.rtcp.v5.duet import WEB, Duet, standing


def test_an_idle_tunnel_is_small_and_a_used_one_returns_to_it():
    duet = standing()  # whatever is made once is made
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        duets = [Duet() for _ in range(20)]
        for duet in duets:
            duet.talk()
            for data in duet.all_sent.values():
                data.clear()
            duet.sleep(60)
        gc.collect()
        idle = (tracemalloc.get_traced_memory()[0] - before) / 40
        assert idle < 16 << 10, f"{idle:.0f} bytes a side, its carrier and its share of the test included"
        for duet in duets:
            for _ in range(100):
                stream = duet.alice.tunnel.open(WEB, duet.now)
                duet.send(duet.alice, stream, bytes(1000))
                duet.talk()
                duet.send(duet.bob, stream, bytes(1000))
                duet.talk()
            duet.sleep(60)
            for side in duet.sides:
                side.book.clear()
                side.events.clear()
                assert not side.tunnel.conversations and not side.tunnel.kept
            for data in duet.all_sent.values():
                data.clear()
        gc.collect()
        used = (tracemalloc.get_traced_memory()[0] - before) / 40
        assert used < 32 << 10, f"{used:.0f} bytes a side"
        print(f"idle {idle:.0f}, used {used:.0f} bytes a side")
    finally:
        tracemalloc.stop()
