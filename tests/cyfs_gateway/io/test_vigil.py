"""When those who are inside are judged again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cyfs_gateway.io.vigil import Vigil


def inside(*who: str) -> Callable[[], Awaitable[list[str]]]:
    async def sweep() -> list[str]:
        await trio.lowlevel.checkpoint()
        return list(who)

    return sweep


async def test_all_are_judged_at_once_when_something_changed_and_else_now_and_then(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    judged: list[tuple[float, str]] = []
    begun = trio.current_time()

    async def judge(who: str) -> None:
        judged.append((round(trio.current_time() - begun), who))

    vigil = Vigil(inside("alice", "bob"), judge)
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

    vigil = Vigil(inside("alice"), judge)
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

    vigil = Vigil(inside("alice", "bob"), judge)
    nursery.start_soon(vigil.run)
    for _ in range(2):
        vigil.doubt()
        await wait_all_tasks_blocked()
    assert judged == ["bob", "bob"] and "nobody foresaw" in caplog.text


async def test_one_who_is_slow_to_judge_does_not_keep_the_others(nursery: trio.Nursery) -> None:
    judged: list[str] = []
    answer = trio.Event()

    async def judge(who: str) -> None:
        if who == "alice":
            await answer.wait()
        judged.append(who)

    vigil = Vigil(inside("alice", "bob"), judge)
    nursery.start_soon(vigil.run)
    for rounds in (1, 2, 3):
        vigil.doubt()
        await wait_all_tasks_blocked()
        assert judged == ["bob"] * rounds
    answer.set()
    await wait_all_tasks_blocked()
    assert judged == ["bob"] * 3 + ["alice"] * 2, "what was doubted meanwhile is judged once more"


async def test_so_many_are_judged_at_once_and_no_more(nursery: trio.Nursery) -> None:
    judging = most = done = 0
    go_on = trio.Event()

    async def judge(_who: str) -> None:
        nonlocal judging, most, done
        judging += 1
        most = max(most, judging)
        await go_on.wait()
        judging -= 1
        done += 1

    vigil = Vigil(inside(*map(str, range(100))), judge)
    nursery.start_soon(vigil.run)
    vigil.doubt()
    await wait_all_tasks_blocked()
    go_on.set()
    await wait_all_tasks_blocked()
    assert (most, done) == (32, 100)


async def test_a_sweep_that_fails_is_followed_by_the_next(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    swept = 0
    judged: list[str] = []

    async def sweep() -> list[str]:
        nonlocal swept
        swept += 1
        if swept == 1:
            raise ValueError(swept)
        return ["alice"]

    async def judge(who: str) -> None:
        judged.append(who)

    vigil = Vigil(sweep, judge)
    nursery.start_soon(vigil.run)
    for _ in range(2):
        vigil.doubt()
        await wait_all_tasks_blocked()
    assert judged == ["alice"] and "nobody foresaw" in caplog.text
