"""Kept connections to name servers on slow roads, and when the road changes under a question."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from dnsfakes import framed, frames, zone

from cyfs_ns.asking import Asking, FramedAsking
from cyfs_ns.io import kept
from cyfs_ns.io.kept import Opener, Pool

GOOD = zone("www.example. 60 IN A 192.0.2.1")
QUERY = b"\0\0\1\0\0\1\0\0\0\0\0\0\3www\7example\0\0\1\0\1"
REPLY = GOOD(QUERY)


class Far:
    """A server on the other end of as many connections as are opened."""

    def __init__(self) -> None:
        self.ends: list[trio.abc.Stream] = []
        self.asked: list[tuple[trio.abc.Stream, bytes]] = []

    def opener(self, nursery: trio.Nursery) -> Opener:
        async def hear(end: trio.abc.Stream) -> None:
            async for query in frames(end):
                self.asked.append((end, query))

        async def open_one() -> tuple[trio.abc.Stream, Asking]:
            near, far = trio.testing.memory_stream_pair()
            self.ends.append(far)
            nursery.start_soon(hear, far)
            return near, FramedAsking(iter(range(100)).__next__)

        return open_one

    async def answer(self, number: int) -> None:
        """Answer the ``number``-th question."""
        end, query = self.asked[number]
        reply = GOOD(query)
        assert reply is not None
        await end.send_all(framed(reply))

    async def heard(self, questions: int) -> None:
        with trio.fail_after(60):
            while len(self.asked) < questions:  # noqa: ASYNC110 (what is waited for happens in tasks that tell nobody)
                await trio.sleep(0.002)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes two seconds takes next to nothing."""
    monkeypatch.setattr(kept, "_STALLED", 0.02)
    monkeypatch.setattr(kept, "_SILENT", 0.0)


async def test_a_late_reply_counts_though_the_question_was_asked_again(hasty: None) -> None:
    far = Far()
    async with trio.open_nursery() as nursery:
        pool = Pool(far.opener(nursery))

        async def ask() -> None:
            with trio.fail_after(60):
                assert await pool.ask(QUERY) == REPLY
            nursery.cancel_scope.cancel()

        nursery.start_soon(ask)
        await far.heard(2)
        await far.answer(0)
        await trio.sleep_forever()


async def test_a_connection_that_takes_long_to_open_is_still_good(hasty: None) -> None:
    far, tries, another = Far(), 0, trio.Event()
    async with trio.open_nursery() as nursery:
        open_one = far.opener(nursery)

        async def slow() -> tuple[trio.abc.Stream, Asking]:
            nonlocal tries
            tries += 1
            if tries > 1:
                another.set()
                await trio.sleep_forever()
            await another.wait()
            return await open_one()

        async def reply() -> None:
            await far.heard(1)
            await far.answer(0)

        nursery.start_soon(reply)
        with trio.fail_after(60):
            assert await Pool(slow).ask(QUERY) == REPLY
        nursery.cancel_scope.cancel()


async def test_a_question_outlives_the_connection_we_let_go_of() -> None:
    far = Far()
    async with trio.open_nursery() as nursery:
        pool = Pool(far.opener(nursery))

        async def ask() -> None:
            with trio.fail_after(60):
                assert await pool.ask(QUERY) == REPLY
            nursery.cancel_scope.cancel()

        nursery.start_soon(ask)
        await far.heard(1)
        pool.close()
        await far.heard(2)
        assert far.asked[0][0] is not far.asked[1][0]
        await far.answer(1)
        await trio.sleep_forever()
