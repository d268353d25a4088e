"""When those who are inside are judged again."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cyfs_gateway.io.vigil import Vigil


async def test_all_are_judged_at_once_when_something_changed_and_else_now_and_then(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    judged: list[tuple[float, str]] = []
    begun = trio.current_time()

    async def judge(who: str) -> None:
        judged.append((round(trio.current_time() - begun), who))

    vigil = Vigil(lambda: ["alice", "bob"], judge)
    nursery.start_soon(vigil.run)
    await trio.sleep(10)
    vigil.doubt()
    await trio.sleep(340)
    assert sorted(judged) == [(at, who) for at in (10, 30, 330) for who in ("alice", "bob")]


async def test_a_change_while_they_are_judged_has_them_judged_again(nursery: trio.Nursery) -> None:
    judged = 0
    go_on = trio.Event()

    async def judge(who: str) -> None:
        nonlocal judged
        judged += 1
        await go_on.wait()

    vigil = Vigil(lambda: ["alice"], judge)
    nursery.start_soon(vigil.run)
    vigil.doubt()
    await wait_all_tasks_blocked()
    vigil.doubt()
    go_on.set()
    await wait_all_tasks_blocked()
    assert judged == 2


async def test_one_who_cannot_be_judged_does_not_keep_the_others(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    judged: list[str] = []

    async def judge(who: str) -> None:
        if who == "alice":
            raise ValueError(who)
        judged.append(who)

    vigil = Vigil(lambda: ["alice", "bob"], judge)
    nursery.start_soon(vigil.run)
    for _ in range(2):
        vigil.doubt()
        await wait_all_tasks_blocked()
    assert judged == ["bob", "bob"] and "nobody foresaw" in caplog.text
