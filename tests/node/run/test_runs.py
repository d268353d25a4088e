"""Runs with real processes: how they begin, end and are found again, and that nothing of them stays."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from runhelp import alive, keeper_of, kill_keeper, lines, order, shell, until

from node.io.run.runs import Runs
from node.run.runner import Ended, Launch, RunFault

NOTES = order(command=("a", "b"), ports=(("http", 8080),))


@pytest.fixture
async def runs(tmp_path: Path) -> AsyncIterator[Runs]:
    found = Runs(str(tmp_path))
    yield found
    for service in await found.find():
        await found.stop(service, at_once=True)
        await found.wait(service)


async def spoken(home: Path, line: str) -> None:
    """Until the service has written ``line``."""
    await until(lambda: line in lines(home))


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9), ("exit 137", 137)])
async def test_how_it_ended_is_known(runs: Runs, script: str, code: int) -> None:
    await runs.start(NOTES, shell(script))
    assert await runs.wait("notes") == Ended(code)
    assert await runs.find() == {}


@pytest.mark.parametrize(("lingers", "code", "is_over"), [(False, 0, True), (True, 0, False), (True, 3, True)])
async def test_a_run_is_over_before_it_is_cleared(runs: Runs, lingers: bool, code: int, is_over: bool) -> None:
    await runs.start(NOTES, shell(f"(trap '' TERM; exec sleep 600) & exit {code}", lingers=lingers))
    await until(lambda: "code=" in Path(runs.place("notes").runs, "state").read_text())
    assert await runs.is_over("notes") == is_over
    await runs.stop("notes", at_once=True)
    await runs.wait("notes")
    assert await runs.is_over("notes")


async def test_a_run_that_goes_on_is_not_over_and_one_without_its_keeper_is(runs: Runs, tmp_path: Path) -> None:
    await runs.start(NOTES, shell("exec sleep 600"))
    assert not await runs.is_over("notes")
    kill_keeper(tmp_path)
    with trio.fail_after(200):
        while not await runs.is_over("notes"):  # noqa: ASYNC110 -- it dies in its own time
            await trio.sleep(0.005)


async def test_both_outputs_are_kept_line_by_line(runs: Runs, tmp_path: Path) -> None:
    await runs.start(NOTES, shell("echo one; sleep 0.1; echo two >&2; printf three"))
    await runs.wait("notes")
    assert sorted(lines(tmp_path)) == ["e two", "o one", "o three"]


async def test_a_long_line_goes_on_in_the_next(runs: Runs, tmp_path: Path) -> None:
    await runs.start(NOTES, shell("head -c 20000 /dev/zero | tr '\\0' x; echo; echo done"))
    await runs.wait("notes")
    assert [(line[0], len(line) - 2) for line in lines(tmp_path)] == [("O", 8192), ("O", 8192), ("o", 3616), ("o", 4)]


async def test_a_command_that_is_not_there_says_so(runs: Runs) -> None:
    with pytest.raises(RunFault, match="cannot start /no/such: No such file"):
        await runs.start(NOTES, Launch(argv=("/no/such",)))
    assert await runs.find() == {}


async def test_a_directory_that_is_not_there_says_so(runs: Runs) -> None:
    with pytest.raises(RunFault, match="cannot enter /no/such: No such file"):
        await runs.start(NOTES, shell("exit", cwd="/no/such"))


async def test_what_it_leaves_behind_is_ended_with_it(runs: Runs, tmp_path: Path) -> None:
    forks = "(setsid sh -c 'sleep 600 & sleep 600' &) ; sleep 600 & exit 4"
    await runs.start(NOTES, shell(forks))
    ended = await runs.wait("notes")
    assert ended.code == 4
    assert ended.left
    assert alive(tmp_path) == []


async def test_it_is_asked_to_end(runs: Runs, tmp_path: Path) -> None:
    await runs.start(NOTES, shell("trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done"))
    await spoken(tmp_path, "o up")
    await runs.stop("notes")
    assert (await runs.wait("notes")).code == 5
    assert "o bye" in lines(tmp_path)


async def test_who_does_not_listen_is_ended(runs: Runs, tmp_path: Path) -> None:
    await runs.start(NOTES, shell("trap '' TERM; echo up; while :; do sleep 0.05; done"))
    await spoken(tmp_path, "o up")
    await runs.stop("notes")
    with trio.move_on_after(0.3):
        await runs.wait("notes")
    assert alive(tmp_path)
    await runs.stop("notes", at_once=True)
    assert (await runs.wait("notes")).code == -9
    assert alive(tmp_path) == []


async def test_carriers_are_not_asked(runs: Runs, tmp_path: Path) -> None:
    script = "sh -c 'trap \"exit 3\" TERM; echo up; while :; do sleep 0.05; done'; exit $?"
    await runs.start(NOTES, shell(script, carriers=1))
    await spoken(tmp_path, "o up")
    await runs.stop("notes")
    assert (await runs.wait("notes")).code == 3


async def test_a_run_may_linger(runs: Runs, tmp_path: Path) -> None:
    await runs.start(NOTES, shell("(sleep 0.2; echo later) & exit 0", lingers=True))
    assert await runs.wait("notes") == Ended(0)
    assert lines(tmp_path) == ["o later"]


async def test_the_environment_is_what_was_said(runs: Runs, tmp_path: Path) -> None:
    env = (("CYFS_RUN", "/of/another"), ("GREETING", "a=b\nc"))
    await runs.start(NOTES, Launch(argv=("/usr/bin/env",), env=env))
    await runs.wait("notes")
    assert lines(tmp_path) == [f"o CYFS_RUN={tmp_path}/runs/notes", "o GREETING=a=b", "o c"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only it becomes somebody else")
async def test_it_becomes_somebody_else_for_good(runs: Runs, tmp_path: Path) -> None:
    script = "id -u; id -G; grep NoNewPrivs /proc/self/status; cat /proc/self/limits | grep 'open files'"
    await runs.start(NOTES, shell(script, user=(1_900_000_123, 1_900_000_123), limits=((7, 50),)))
    await runs.wait("notes")
    said = [" ".join(line.split()) for line in lines(tmp_path)]
    assert said == ["o 1900000123", "o 1900000123", "o NoNewPrivs: 1", "o Max open files 50 50 files"]


async def test_a_flood_is_bounded(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.io.run.runs.LOG_SIZE", 100_000)
    await runs.start(NOTES, shell("seq 1 200000"))
    assert await runs.wait("notes") == Ended(0)
    files = sorted((tmp_path / "logs" / "notes").iterdir())
    assert [file.name for file in files] == ["log", "log.1", "log.2", "log.3"]
    assert all(file.stat().st_size <= 300_000 for file in files)
    newest = [int(line.split()[2]) for file in reversed(files) for line in file.read_text().splitlines()]
    assert newest == list(range(newest[0], 200_001))


async def test_a_run_that_nobody_can_look_at_is_not_over(runs: Runs, tmp_path: Path) -> None:
    """Without descriptors: to take it for over would be to start it twice."""
    await runs.start(NOTES, shell("sleep 600"))
    ended: list[Ended] = []

    async def wait() -> None:
        ended.append(await runs.wait("notes"))

    async with trio.open_nursery() as nursery:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            nursery.start_soon(wait)
            nursery.start_soon(lambda: runs.stop("notes", at_once=True))
            await trio.sleep(0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [found.code for found in ended] == [-9]
    assert alive(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only it has capabilities to give")
async def test_the_capabilities_of_the_daemon_are_not_the_services(runs: Runs, tmp_path: Path) -> None:
    """A daemon that is no root has a few, so that what it executes keeps them (capabilities(7): ambient)."""
    first = daemon(
        tmp_path,
        "grep CapAmb /proc/self/status",
        "setpriv",
        "--inh-caps",
        "+net_admin",
        "--ambient-caps",
        "+net_admin",
    )
    assert first.stdout is not None
    assert await trio.to_thread.run_sync(first.stdout.readline) == b"begun\n"
    first.kill()
    first.wait()
    await runs.wait("notes")
    assert lines(tmp_path) == ["o CapAmb:\t0000000000000000"]


DAEMON = """
import sys, trio
sys.path[:0] = [{tests!r}, {root!r}]
from runhelp import order, shell
from node.io.run.runs import Runs
async def main():
    await Runs({home!r}).start(order(command=("a", "b"), ports=(("http", 8080),)), shell({script!r}))
    print("begun", flush=True)
    await trio.sleep_forever()
trio.run(main)
"""


def daemon(home: Path, script: str, *before: str) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[3]
    source = textwrap.dedent(DAEMON).format(
        tests=str(Path(__file__).parent), root=str(root), home=str(home), script=script
    )
    return subprocess.Popen([*before, sys.executable, "-c", source], stdout=subprocess.PIPE)


async def test_another_daemon_goes_on_with_it(runs: Runs, tmp_path: Path) -> None:
    first = daemon(tmp_path, f"while [ ! -e {tmp_path}/go ]; do seq 1 3000; done; exit 9")
    assert first.stdout is not None
    assert await trio.to_thread.run_sync(first.stdout.readline) == b"begun\n"
    first.kill()
    first.wait()
    assert await runs.find() == {"notes": NOTES}
    log = tmp_path / "logs" / "notes" / "log"
    await until(log.exists)
    before = log.stat().st_mtime_ns
    await until(lambda: log.stat().st_mtime_ns > before)
    (tmp_path / "go").touch()
    assert await runs.wait("notes") == Ended(9)


async def test_a_daemon_killed_at_any_moment_of_a_start_leaves_none_or_one(runs: Runs, tmp_path: Path) -> None:
    for delay in range(12):
        first = daemon(tmp_path, "echo up; sleep 600")
        await until((tmp_path / "runs" / "notes" / "launch").exists)
        await trio.sleep(delay * 0.005)
        first.kill()
        first.wait()
        assert await runs.find() == {"notes": NOTES}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runs.wait, "notes")
            with trio.move_on_after(30):
                while await runs.find():
                    await runs.stop("notes", at_once=True)
                    await trio.sleep(0.01)
        assert await runs.find() == {}
        await trio.sleep(0.1)
        assert alive(tmp_path) == []


async def test_a_keeper_that_is_killed_takes_all_with_it(runs: Runs, tmp_path: Path) -> None:
    await runs.start(NOTES, shell("setsid sleep 600 & echo up; sleep 600"))
    await spoken(tmp_path, "o up")
    kill_keeper(tmp_path)
    assert await runs.wait("notes") == Ended(None)
    assert alive(tmp_path) == []


async def test_a_number_that_another_process_has_now_is_not_signalled(runs: Runs, tmp_path: Path) -> None:
    await runs.start(NOTES, shell("sleep 600"))
    state = tmp_path / "runs" / "notes" / "state"
    keeper = keeper_of(tmp_path)
    text = state.read_text()
    stranger = await trio.lowlevel.open_process(["/bin/sleep", "600"])
    try:
        started = text.partition("keeper=")[2].split()[1]
        state.write_text(text.replace(f"keeper={keeper} {started}", f"keeper={stranger.pid} {started}"))
        await runs.stop("notes", at_once=True)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        await stranger.wait()
        state.write_text(text)
    os.kill(keeper, signal.SIGUSR1)
    assert (await runs.wait("notes")).code == -9
