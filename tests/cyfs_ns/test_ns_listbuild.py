"""Lists kept fresh: built in a process of their own, swapped whole, and nothing bad replaces anything good."""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import trio

from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.http import Response, Sink
from cyfs_ns.io.listbuild import BuildLimits, ListKeeper, ListSpec
from cyfs_ns.judgement import Action
from cyfs_ns.listcompile import ListSource
from cyfs_ns.lists import ListSet

URL = "https://lists.example/ads.txt"
FAST = BuildLimits(seconds=30)


class Web:
    """One page, and what was asked for."""

    def __init__(self, body: bytes = b"||a.example^\n") -> None:
        self.body, self.etag, self.status = body, '"1"', 200
        self.fault: Exception | None = None
        self.cut: int | None = None
        self.asked: list[dict[str, str]] = []

    async def fetch(self, url: str, *, headers: Iterable[tuple[str, str]], max_bytes: int, sink: Sink) -> Response:
        await trio.lowlevel.checkpoint()
        self.asked.append(dict(headers))
        if self.fault is not None:
            if self.cut is not None:
                sink(self.body[: self.cut])
            raise self.fault
        if self.asked[-1].get("if-none-match") == self.etag:
            return Response(304, (), b"", url)
        if self.status == 200:
            for at in range(0, len(self.body), 5):
                sink(self.body[at : at + 5])
        return Response(self.status, (("etag", self.etag),), b"", url)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def remote(interval: float = 3600.0) -> ListSpec:
    return ListSpec(source=ListSource(name="ads"), place=URL, interval=interval)


def local(path: Path) -> ListSpec:
    return ListSpec(source=ListSource(name="mine", format="domains"), place=str(path))


Make = Callable[..., ListKeeper]


@pytest.fixture
def web() -> Web:
    return Web()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, web: Web, clock: Clock) -> Make:
    def made(*specs: ListSpec, **more: object) -> ListKeeper:
        options = {"limits": FAST, "clock": clock, **more}
        return ListKeeper(tmp_path / "lists", specs or (remote(),), web.fetch, **options)  # type: ignore[arg-type]

    return made


def blocks(keeper: ListKeeper, name: str = "a.example") -> bool:
    return keeper.lists.judge(name, 1).action is Action.BLOCK


def files(tmp_path: Path) -> list[str]:
    return sorted(path.suffix for path in (tmp_path / "lists").iterdir())


async def test_a_list_is_fetched_built_and_swapped_in(make: Make, tmp_path: Path):
    keeper = make()
    await keeper.open()
    before = keeper.lists
    assert not blocks(keeper)
    assert await keeper.refresh()
    assert blocks(keeper) and keeper.lists is not before and not blocks_with(before)
    assert files(tmp_path) == [".json", ".list", ".piece"]
    [(_, state, report)] = keeper.status()
    assert (state.fault, report and report.entries) == ("", 1)


FORSAKEN = """
import json, pathlib, sys
pathlib.Path(sys.argv[1]).write_text(json.load(sys.stdin)["out"])
sys.exit(1)
"""
WITH_ONE_FORSAKEN = """
import pathlib, sys
from cyfs_ns.io.listchild import main
main()
pathlib.Path(pathlib.Path(sys.argv[1]).read_text()).write_bytes(b"lists of yesterday")
"""


async def test_a_child_whose_server_was_killed_spoils_nothing(make: Make, tmp_path: Path):
    note = str(tmp_path / "note")
    assert not await make(child=(sys.executable, "-c", FORSAKEN, note)).refresh()
    keeper = make(child=(sys.executable, "-c", WITH_ONE_FORSAKEN, note))
    assert await keeper.refresh()
    assert blocks(keeper)
    await keeper.refresh()
    assert files(tmp_path) == [".json", ".list", ".piece"]


def blocks_with(lists: ListSet) -> bool:
    return lists.judge("a.example", 1).action is Action.BLOCK


async def test_after_a_restart_the_piece_is_there_without_network_or_build(make: Make, web: Web):
    await make().refresh()
    web.fault = Unreachable("no network")
    again = make(child=(sys.executable, "-c", "raise SystemExit('must not be built')"))
    await again.open()
    assert blocks(again)
    assert not await again.refresh()  # not due: nothing is asked
    assert len(web.asked) == 1


async def test_a_damaged_piece_is_built_anew_from_the_kept_list(make: Make, tmp_path: Path):
    await make().refresh()
    [piece] = (tmp_path / "lists").glob("*.piece")
    piece.write_bytes(piece.read_bytes()[:-3] + b"xyz")
    again = make()
    await again.open()
    assert blocks(again)


async def test_what_did_not_change_is_asked_with_conditions_and_not_built(make: Make, web: Web, clock: Clock):
    keeper = make()
    await keeper.refresh()
    lists = keeper.lists
    clock.now += 3601
    assert not await keeper.refresh()
    assert web.asked[1] == {"if-none-match": '"1"'}
    web.etag = '"2"'  # the server says changed, the bytes are the same
    assert not await keeper.refresh(["ads"])
    assert keeper.lists is lists
    web.body, web.etag = b"||b.example^\n", '"3"'
    assert await keeper.refresh(["ads"])
    assert blocks(keeper, "b.example") and not blocks(keeper)


@pytest.mark.parametrize("kind", ["unreachable", "cut", "bomb", "status", "page", "empty", "broken mrs"])
async def test_nothing_bad_replaces_the_good_list(kind: str, make: Make, web: Web, tmp_path: Path):
    keeper = make()
    await keeper.refresh()
    lists, good = keeper.lists, web.body
    web.etag = '"2"'
    match kind:
        case "unreachable":
            web.fault = Unreachable("no route")
        case "cut":
            web.body, web.fault, web.cut = b"||b.example^\n||c.example^\n", Unreachable("connection lost"), 13
        case "bomb":
            web.body = gzip.compress(b"||b.example^\n" + b"\n" * (FAST.max_bytes + 1))
        case "status":
            web.status = 500
        case "page":
            web.body = b"\n<!DOCTYPE html>\n<script>\nelse\n</script>\nlogin.example.com\nhere\n</html>\n"
        case "empty":
            web.body = b""
        case "broken mrs":
            web.body = b"\x28\xb5\x2f\xfd" + bytes(50)
    await keeper.refresh(["ads"])
    assert blocks(keeper) and not blocks(keeper, "b.example")
    [(_, state, _)] = keeper.status()
    assert state.fault and state.failures == 1
    [kept] = (tmp_path / "lists").glob("*.list")
    assert kept.read_bytes() == good
    assert keeper.lists.reports == lists.reports
    again = make()
    await again.open()
    assert blocks(again)
    web.fault, web.status, web.body, web.etag = None, 200, b"||b.example^\n", '"4"'
    assert await keeper.refresh(["ads"]) and blocks(keeper, "b.example")


async def test_a_failed_list_is_tried_again_later_and_later(make: Make, web: Web, clock: Clock):
    web.fault = Unreachable("no route")
    keeper = make()
    await keeper.refresh()
    for times, wait in enumerate((60, 120, 240), 1):
        clock.now += wait - 1
        await keeper.refresh()
        assert len(web.asked) == times
        clock.now += 1
        await keeper.refresh()
        assert len(web.asked) == times + 1
    web.fault = None
    clock.now = 5.0  # the clock was wrong, and is set right
    assert await keeper.refresh()


@pytest.mark.parametrize(
    "child",
    [
        "raise SystemExit('out of luck')",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "print('what?')",
        "print('{\"used\": {}}')",
    ],
)
async def test_a_build_that_fails_leaves_the_old_lists(child: str, make: Make, web: Web):
    await make().refresh()
    web.body, web.etag = b"||b.example^\n", '"2"'
    keeper = make(child=(sys.executable, "-c", child))
    await keeper.open()
    await keeper.refresh(["ads"])
    assert blocks(keeper) and not blocks(keeper, "b.example")
    assert keeper.fault
    well = make()
    await well.open()
    assert blocks(well)
    assert await well.refresh(["ads"]) and blocks(well, "b.example")


async def test_a_build_that_takes_too_long_is_ended(make: Make, mock_clock: trio.testing.MockClock, tmp_path: Path):
    mark = tmp_path / "pid"
    keeper = make(child=("sh", "-c", f"echo $$ > {mark}.new; mv {mark}.new {mark}; exec sleep 600"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.refresh)
        while not await trio.Path(mark).exists():
            await trio.to_thread.run_sync(time.sleep, 0.01)
        mock_clock.jump(3 * FAST.seconds)
    assert "took more than" in keeper.fault
    assert not alive(mark)


def alive(mark: Path) -> bool:
    return Path(f"/proc/{mark.read_text().strip()}").exists()


async def test_the_child_bounds_its_own_memory(make: Make, web: Web):
    web.body = b"\n".join(b"||n%d.example^" % number for number in range(200_000))
    keeper = make(limits=BuildLimits(memory=80 << 20))
    assert not await keeper.refresh()
    assert "the build ended with status" in keeper.fault


async def test_a_build_for_which_there_is_no_room_is_made_when_there_is(make: Make, clock: Clock, tmp_path: Path):
    path, room = tmp_path / "mine.txt", tmp_path / "room"
    path.write_text("a.example\n")
    full = "{ echo 'OSError: No space left on device' >&2; exit 1; }"
    child = ("sh", "-c", f"test -e {room} || {full}; exec {sys.executable} -m cyfs_ns.io.listchild")
    keeper = make(local(path), child=child)
    await keeper.open()
    for wait in (60, 120, 240):
        assert "No space left" in keeper.fault and not blocks(keeper)
        clock.now += wait - 1
        keeper.fault = ""
        assert not await keeper.refresh()
        assert not keeper.fault, "not tried before its time"
        clock.now += 2
        assert not await keeper.refresh()
    room.touch()
    clock.now += 480
    assert await keeper.refresh()
    assert blocks(keeper) and not keeper.fault


@pytest.mark.parametrize("then", ["is gone", "has the old one again", "never had one"])
async def test_a_download_that_could_not_be_built_is_waited_for_like_any_other(
    then: str, make: Make, web: Web, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    room = tmp_path / "room"
    keeper = make(child=("sh", "-c", f"test -e {room} && exec {sys.executable} -m cyfs_ns.io.listchild"))
    if then != "never had one":
        room.touch()
        assert await keeper.refresh()
        room.unlink()
    body, etag = web.body, web.etag
    web.body, web.etag = b"||b.example^\n", '"2"'
    clock.now += 3601
    assert not await keeper.refresh() and keeper.fault
    if then == "has the old one again":
        web.body, web.etag = body, etag
    else:
        web.fault = Unreachable("gone")
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock.now += seconds
        if len(waited) == 4:
            raise StopAsyncIteration

    monkeypatch.setattr(trio, "sleep", sleep)
    with pytest.raises(StopAsyncIteration):
        await keeper.keep_fresh(lambda lists: None)
    assert waited == ([60, 3600, 3600, 3600] if then == "has the old one again" else [60, 120, 240, 480])


async def test_a_download_that_cannot_be_built_is_fetched_ever_more_seldom(make: Make, web: Web, clock: Clock):
    keeper = make(child=("false",))
    for times, wait in enumerate((60, 120, 240, 480), 1):
        assert not await keeper.refresh()
        assert keeper.status()[0][1].fault
        clock.now += wait - 1
        await keeper.refresh()
        assert len(web.asked) == times
        clock.now += 1
    well = make()
    assert await well.refresh()
    assert (well.status()[0][1].fault, well.status()[0][1].failures) == ("", 0)


async def test_a_file_of_the_owners_own_is_watched_and_may_be_missing(make: Make, clock: Clock, tmp_path: Path):
    path = tmp_path / "mine.txt"
    keeper = make(local(path))
    await keeper.open()
    assert "No such file" in keeper.status()[0][1].fault
    path.write_text("a.example\n")
    clock.now += 61
    assert await keeper.refresh() and blocks(keeper)
    path.write_text("a.example\nb.example\n")
    clock.now += 61
    assert await keeper.refresh() and blocks(keeper, "b.example")
    path.unlink()
    clock.now += 61
    assert not await keeper.refresh() and blocks(keeper, "b.example")
    assert keeper.status()[0][1].fault


async def test_a_file_may_be_packed(make: Make, tmp_path: Path):
    path = tmp_path / "mine.gz"
    path.write_bytes(gzip.compress(b"a.example\n"))
    keeper = make(local(path))
    await keeper.open()
    assert blocks(keeper)


async def test_one_bad_list_does_not_keep_the_others_from_being_new(make: Make, web: Web, tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_text("b.example\n")
    web.body = b"<html>"
    keeper = make(remote(), local(path))
    assert await keeper.refresh()
    assert blocks(keeper, "b.example")
    assert [bool(state.fault) for _, state, _ in keeper.status()] == [True, False]


async def test_a_broken_state_file_is_as_none(make: Make, tmp_path: Path):
    await make().refresh()
    for text in ("{", "[]", json.dumps({"x": 1})):
        (tmp_path / "lists" / "state.json").write_text(text)
        keeper = make()
        await keeper.open()
        assert await keeper.refresh() and blocks(keeper)


async def test_keeping_fresh_tells_of_every_swap(make: Make, web: Web):
    keeper, seen = make(), trio.Event()
    told: list[ListSet] = []

    def swapped(lists: ListSet) -> None:
        told.append(lists)
        seen.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.keep_fresh, swapped)
        await seen.wait()
        nursery.cancel_scope.cancel()
    assert told == [keeper.lists] and blocks(keeper)


async def test_a_stranger_may_fail_with_bad_wire_too(make: Make, web: Web):
    web.fault = BadWire("not HTTP")
    keeper = make()
    assert not await keeper.refresh()
    assert "not HTTP" in keeper.status()[0][1].fault
