"""Two tasks at one endpoint, one for each direction: neither gets in the other's way, in TLS either."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from relaypairs import ends

from tunnels.endpoint import Endpoint
from tunnels.io.stream import EndpointStream
from tunnels.io.waiting import Preloaded, receive_some, send_all

BIG = bytes(range(256)) * 65536
"""Sixteen megabytes: more than any socket buffer holds."""
KIND = pytest.mark.parametrize("kind", ["raw", "tls"])


async def whole(ep: Endpoint, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        chunk = await receive_some(ep)
        assert chunk
        got += chunk
    return bytes(got)


async def fill(ep: Endpoint) -> int:
    """Send until the way takes no more, and for good; the bytes that it took."""
    sent = still = 0
    while still < 5:
        try:
            sent += ep.send(BIG)
            still = 0
        except BlockingIOError:
            still += 1
            await trio.testing.wait_all_tasks_blocked(0.01)
    return sent


@KIND
async def test_both_ends_send_all_they_have_while_they_read(kind: str) -> None:
    near, far, _ = await ends(kind)
    got: dict[str, bytes] = {}

    async def read(name: str, ep: Endpoint) -> None:
        got[name] = await whole(ep, len(BIG))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for name, ep in (("near", near), ("far", far)):
                nursery.start_soon(send_all, ep, BIG)
                nursery.start_soon(read, name, ep)
    assert got == {"near": BIG, "far": BIG}
    near.close()
    far.close()


@KIND
async def test_a_reader_hears_while_the_sender_is_stuck(kind: str) -> None:
    near, far, _ = await ends(kind)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            sent = await fill(near)
            nursery.start_soon(send_all, near, BIG)
            await trio.testing.wait_all_tasks_blocked(0.05)
            heard: list[bytes] = []

            async def hear() -> None:
                heard.append(await receive_some(near))

            nursery.start_soon(hear)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await send_all(far, b"hello")
            while not heard:  # noqa: ASYNC110 - the reader has no event to give
                await trio.sleep(0.002)
            assert heard == [b"hello"]
            await whole(far, sent + len(BIG))
    near.close()
    far.close()


@KIND
async def test_what_is_owed_goes_out_while_only_a_reader_waits(kind: str) -> None:
    near, far, _ = await ends(kind)
    with trio.fail_after(60):
        sent = await fill(near)
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                await whole(far, sent)
                await send_all(far, b"got it")

            nursery.start_soon(answer)
            stream = EndpointStream(near)
            assert await stream.receive_some() == b"got it"
            await stream.aclose()
    far.close()


@pytest.mark.parametrize("breakable", [True, False])
def test_what_was_read_too_early_does_not_keep_a_stream_from_being_broken_off(breakable):
    class Inner:
        fileno = send = unsent = flush = shutdown_write = close = staticmethod(lambda *_: 0)
        broken = 0

    class Breaking(Inner):
        def break_off(self) -> None:
            self.broken += 1

    inner = Breaking() if breakable else Inner()
    Preloaded(inner, b"early").break_off()
    assert inner.broken == breakable
