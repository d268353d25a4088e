"""Light work: what goes without a task, what becomes one, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from cyfs_ns.io.light import LightWork, Word, afterwards, in_task, light_work


class Spawned(trio.abc.Instrument):
    """Counts the tasks that begin."""

    def __init__(self) -> None:
        self.tasks = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.tasks += 1


async def test_what_waits_for_nothing_is_done_when_start_returns() -> None:
    said: list[str] = []

    async def speak() -> None:
        said.append("done")

    async with light_work() as work:
        work.start(speak())
        assert said == ["done"]


async def test_a_word_is_waited_for_without_a_task_and_heard_in_the_moment_it_is_said() -> None:
    word: Word[int] = Word()
    heard: list[int] = []

    async def hear() -> None:
        heard.append(await word)

    counted = Spawned()
    async with light_work() as work:
        trio.lowlevel.add_instrument(counted)
        work.start(hear())
        assert heard == []
        word.say(7)
        assert heard == [7]
        trio.lowlevel.remove_instrument(counted)
    assert counted.tasks == 0


async def test_a_word_said_before_anybody_waits_is_not_lost() -> None:
    word: Word[int] = Word()
    word.say(7)
    assert await word == 7


async def test_nobody_is_turned_within_another() -> None:
    word: Word[None] = Word()
    order: list[str] = []

    async def second() -> None:
        await word
        order.append("second goes on")

    async def first() -> None:
        word.say(None)
        order.append("first goes on")

    async with light_work() as work:
        work.start(second())
        work.start(first())
    assert order == ["first goes on", "second goes on"]


async def test_a_fault_is_raised_in_whoever_waits() -> None:
    faults: list[str] = []

    async def hear(word: Word[None]) -> None:
        try:
            await word
        except OSError as fault:
            faults.append(str(fault))

    light, heavy = Word[None](), Word[None]()
    async with trio.open_nursery() as nursery, light_work() as work:
        work.start(hear(light))
        nursery.start_soon(hear, heavy)
        await trio.testing.wait_all_tasks_blocked()
        light.fail(OSError("light"))
        heavy.fail(OSError("heavy"))
    assert faults == ["light", "heavy"]


async def test_a_task_that_waits_for_a_word_can_be_cancelled() -> None:
    word: Word[None] = Word()
    with trio.move_on_after(0) as scope:
        await word
    assert scope.cancelled_caught
    word.say(None)  # which wakes nobody


async def test_in_a_task_it_may_do_what_tasks_do_and_wait_for_words_still(
    autojump_clock: trio.testing.MockClock,
) -> None:
    first, second = Word[int](), Word[int]()
    heard: list[object] = []

    async def hear() -> None:
        heard.append(await first)
        await in_task()
        with trio.move_on_after(5) as patience:
            await trio.sleep_forever()
        heard.append(patience.cancelled_caught)
        await in_task()
        heard.append(await second)

    async with light_work() as work:
        work.start(hear())
        first.say(1)
        await trio.sleep(10)
        assert heard == [1, True]
        second.say(2)
    assert heard == [1, True, 2]


async def test_what_needs_a_task_and_does_not_say_so_ends_alone(caplog: pytest.LogCaptureFixture) -> None:
    word: Word[None] = Word()
    order: list[str] = []

    async def careless() -> None:
        try:
            with trio.fail_after(5):
                await trio.sleep(1)
        finally:
            order.append("careless ended")

    async def careful() -> None:
        await word
        order.append("careful heard")

    async with light_work() as work:
        work.start(careful())
        work.start(careless())
        await trio.lowlevel.checkpoint()  # this task has lost nothing
        word.say(None)
    assert order == ["careless ended", "careful heard"]
    assert "only a task can" in caplog.text


@pytest.mark.parametrize("heavy", [False, True])
async def test_a_bug_is_logged_and_ends_only_its_own(heavy: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        if heavy:
            await in_task()
        raise RuntimeError("a bug")

    async with light_work() as work:
        work.start(fail())
    assert "a bug" in caplog.text


@pytest.mark.parametrize("scope", [trio.CancelScope, lambda: trio.move_on_after(9)])
async def test_a_scope_that_is_left_hanging_is_noticed(
    scope: Callable[[], trio.CancelScope], caplog: pytest.LogCaptureFixture
) -> None:
    word: Word[None] = Word()

    async def wait() -> None:
        with scope():
            await word

    before = trio.current_effective_deadline()
    async with light_work() as work:
        work.start(wait())
        assert trio.current_effective_deadline() == before
    assert "in_task() is missing" in caplog.text


async def test_the_place_is_left_when_all_is_done() -> None:
    word: Word[None] = Word()
    order: list[str] = []

    async def hear() -> None:
        await word
        await in_task()
        await trio.lowlevel.checkpoint()
        order.append("done")

    async def leave() -> None:
        async with light_work() as work:
            work.start(hear())
        order.append("left")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await trio.testing.wait_all_tasks_blocked()
        assert order == []
        word.say(None)
    assert order == ["done", "left"]


async def test_a_place_that_is_cancelled_ends_what_waits_there() -> None:
    word: Word[None] = Word()
    ended: list[int] = []

    async def hear(number: int) -> None:
        try:
            await word
        finally:
            ended.append(number)

    async with trio.open_nursery() as nursery, light_work() as work:
        for number in range(3):
            work.start(hear(number))
        nursery.cancel_scope.cancel()
    assert sorted(ended) == [0, 1, 2]
    word.say(None)
    late: LightWork = work
    late.start(hear(9))  # ends before it begins
    assert sorted(ended) == [0, 1, 2]


async def test_afterwards_is_later_in_light_work_and_now_in_a_task(caplog: pytest.LogCaptureFixture) -> None:
    order: list[str] = []

    def note(what: str) -> None:
        order.append(what)
        if what == "boom":
            raise RuntimeError("a bug")

    async def answer() -> None:
        afterwards(lambda: note("boom"))
        afterwards(lambda: note("remembered"))
        order.append("answered")

    async with light_work() as work:
        work.start(answer())
        assert order == ["answered", "boom", "remembered"]
    assert "a bug" in caplog.text
    afterwards(lambda: note("now"))
    assert order[-1] == "now"
