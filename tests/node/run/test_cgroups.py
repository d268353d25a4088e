"""Limits: of real processes in real control groups, and by rlimits where there are none."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from runhelp import alive, kill_keeper, lines, order, shell, until

from node.io.run.cgroups import ControlGroups
from node.io.run.runs import Runs
from node.run.cgroups import Layout, Usage, count_of, find_layout, settings
from node.run.runner import Bounds, Ended, Launch, Order, RunFault
from zone.scheduler.service import Work

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pi\\040ds rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def test_the_trees_of_a_hybrid_machine_are_found_below_our_own_groups():
    found = find_layout(HYBRID, "9:name=systemd:/\n8:pids:/\n4:memory:/a/b\n1:cpu,cpuacct:/x\n0::/user\n")
    assert found == Layout(
        {
            "cpu": "/sys/fs/cgroup/cpu,cpuacct/x",
            "memory": "/sys/fs/cgroup/memory/a/b",
            "pids": "/sys/fs/cgroup/pi ds",
        },
        "/sys/fs/cgroup/unified",
    )


@pytest.mark.parametrize(
    ("root", "group", "folder"),
    [
        ("/", "/", "/m"),
        ("/", "/a", "/m/a"),
        ("/docker/1", "/docker/1", "/m"),
        ("/docker/1", "/docker/1/a", "/m/a"),
        ("/docker/1", "/docker/12", "/m"),
        ("/", "/../../other", "/m"),
    ],
)
def test_a_part_of_a_tree_that_is_mounted_is_looked_at_from_there(root: str, group: str, folder: str):
    assert find_layout(f"1 2 0:3 {root} /m rw - cgroup c rw,memory", f"4:memory:{group}").v1 == {"memory": folder}


def test_a_machine_of_v2_and_one_of_nothing():
    v2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate"
    assert find_layout(v2, "0::/system.slice/x") == Layout({}, "/sys/fs/cgroup")
    assert find_layout("torn - \n\n- x", ":::\nno") == Layout({}, "")


def test_what_is_written_for_a_page():
    work = Work(image="x", memory=64 << 20, cpu=500)
    assert {name: text for name, text, _ in settings(work, "memory", 1)} == {
        "memory.limit_in_bytes": "67108864",
        "memory.memsw.limit_in_bytes": "67108864",
    }
    assert {name: text for name, text, _ in settings(work, "memory", 2)} == {
        "memory.max": "67108864",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
    }
    assert settings(work, "cpu", 1) == (("cpu.shares", "512", True),)
    assert settings(work, "cpu", 2) == (("cpu.weight", "50", True),)
    for cpu in (1, 1_000_000):
        work = Work(image="x", cpu=cpu)
        assert int(settings(work, "cpu", 1)[0][1]) >= 2 and 1 <= int(settings(work, "cpu", 2)[0][1]) <= 10_000
    assert settings(work, "freezer", 1) == ()
    held = Work(image="x", cpu=500, cpu_limit=1500)
    assert settings(held, "cpu", 1)[1:] == (("cpu.cfs_period_us", "100000", True), ("cpu.cfs_quota_us", "150000", True))
    assert settings(held, "cpu", 2)[1:] == (("cpu.max", "150000 100000", True),)
    assert count_of("low 0\noom 3\noom_kill 12\n", "oom_kill") == 12 and count_of("", "oom_kill") == 0


def made(found: ControlGroups) -> ControlGroups:
    if found.lacking:
        pytest.skip(f"needs control groups, which this machine does not allow: {found.lacking}")
    return found


def _text(path: str) -> str:
    return Path(path).read_text()


@pytest.fixture
def groups(tmp_path: Path) -> ControlGroups:
    return made(ControlGroups(str(tmp_path)))


@pytest.fixture
async def runs(tmp_path: Path, groups: ControlGroups) -> AsyncIterator[Runs]:
    found = Runs(str(tmp_path))
    yield found
    for service in await found.find():
        await found.stop(service, at_once=True)
        await found.wait(service)
        await groups.leave(service)
    groups.close()


def limited(service: str, memory: int) -> Order:
    return order(service, memory=memory)


def python(code: str, bounds: Bounds) -> Launch:
    return Launch(argv=(sys.executable, "-c", code), join=bounds.join, limits=bounds.limits)


async def test_who_eats_memory_is_killed_alone_and_it_is_told_why(runs: Runs, groups: ControlGroups, tmp_path: Path):
    hog, calm = limited("hog", 64 << 20), limited("calm", 64 << 20)
    await runs.start(calm, shell("echo here; exec sleep 3600", join=(await groups.enter(calm)).join))
    await runs.start(hog, python("x = bytearray(1 << 30)", await groups.enter(hog)))
    ended = await runs.wait("hog")
    assert ended.code == -signal.SIGKILL
    assert groups.explain("hog", ended) == "used more than its 64 MiB of memory"
    await groups.leave("hog")
    await until(lambda: "o here" in lines(tmp_path, "calm"))
    usage = groups.usage("calm")
    assert usage.tasks and 0 < (usage.memory or 0) < 64 << 20
    await runs.stop("calm")
    ended = await runs.wait("calm")
    assert ended == Ended(-signal.SIGTERM) and groups.explain("calm", ended) == ""
    await groups.leave("calm")


async def test_who_spins_is_held_at_its_limit(runs: Runs, groups: ControlGroups, tmp_path: Path):
    spinner = order("spinner", cpu_limit=100)
    bounds = await groups.enter(spinner)
    stats = [stat for path in bounds.join if (stat := Path(path).with_name("cpu.stat")).exists()]
    await runs.start(spinner, shell("while :; do :; done", join=bounds.join))
    # Each time it wanted more than its tenth of a period, it had to wait for the next.
    await until(lambda: any(count_of(stat.read_text(), "nr_throttled") > 5 for stat in stats))
    await runs.stop("spinner")
    await runs.wait("spinner")
    await groups.leave("spinner")


FORKS = """
import os, time
count = 0
try:
    while count < 500:
        if os.fork() == 0:
            time.sleep(600)
        count += 1
except BlockingIOError:
    print("stopped at", count, flush=True)
time.sleep(600)
"""


async def test_who_forks_without_end_comes_to_one(
    runs: Runs, groups: ControlGroups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("node.run.cgroups.MOST_TASKS", 40)
    bomb = limited("bomb", 256 << 20)
    await runs.start(bomb, python(FORKS, await groups.enter(bomb)))
    await until(lambda: any("stopped at 39" in line for line in lines(tmp_path, "bomb")))
    assert groups.usage("bomb").tasks == 40
    await runs.stop("bomb", at_once=True)
    ended = await runs.wait("bomb")
    assert "processes and threads" in groups.explain("bomb", ended)
    assert alive(tmp_path, "bomb") == []
    await groups.leave("bomb")


STRAYS = """
import os, select, sys

def has_ended():
    return bool(select.select([0], [], [], 0)[0])

for path in sys.argv[1:]:
    with open(path, "w") as file:
        file.write("0")
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        while not has_ended():
            if os.fork() != 0:
                os._exit(0)
        os._exit(0)
os.write(1, b".")
select.select([0], [], [])
"""
"""Without mark, parent or session, and a new process every moment: the group alone tells whose they are.

They end with the test whatever becomes of it, since nobody else holds the other end of their input.
"""


@pytest.mark.parametrize("way", ["kill", "freezer"])
async def test_what_an_earlier_run_left_in_the_groups_is_ended(tmp_path: Path, way: str):
    layout = find_layout(_text("/proc/self/mountinfo"), _text("/proc/self/cgroup"))
    if way == "freezer":
        if "freezer" not in layout.v1:
            pytest.skip("needs control groups, which this machine does not allow: no freezer")
        layout = Layout(layout.v1, "")
    groups = made(ControlGroups(str(tmp_path), layout))
    stray = limited("stray", 64 << 20)
    join = (await groups.enter(stray)).join
    again = ControlGroups(str(tmp_path), layout)  # the next daemon
    command = [sys.executable, "-c", STRAYS, *join]
    strays = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert strays.stdin is not None and strays.stdout is not None
    try:
        assert await strays.stdout.receive_some() == b"."
        assert again.usage("stray").tasks
        await again.enter(stray)
        assert await strays.wait() == -signal.SIGKILL
        assert again.usage("stray").tasks == 0
    finally:
        await strays.stdin.aclose()
        await again.leave("stray")
    await again.leave("stray")
    again.close()


CHAINS = """
import os, time
until = time.monotonic() + 120
for _ in range(200):
    if os.fork() == 0:
        os.setsid()
        while time.monotonic() < until:
            try:
                if os.fork() != 0:
                    os._exit(0)
            except BlockingIOError:
                pass
        os._exit(0)
print("up", flush=True)
time.sleep(120)
"""
"""Each process forks and ends: who lists them comes too late."""


@pytest.mark.parametrize("way", ["keeper", "daemon"])
async def test_chains_of_processes_are_ended(runs: Runs, groups: ControlGroups, tmp_path: Path, way: str):
    """By their keeper, and where that was killed, by who waits for it."""
    chains = limited("chains", 256 << 20)
    await runs.start(chains, python(CHAINS, await groups.enter(chains)))
    await until(lambda: "o up" in lines(tmp_path, "chains"))
    if way == "keeper":
        await runs.stop("chains", at_once=True)
    else:
        kill_keeper(tmp_path, "chains")
    with trio.fail_after(60):
        ended = await runs.wait("chains")
    assert ended.code == (-signal.SIGKILL if way == "keeper" else None)
    assert alive(tmp_path, "chains") == []
    await groups.leave("chains")


async def test_without_groups_each_process_is_limited_and_that_is_said(tmp_path: Path):
    groups = ControlGroups(str(tmp_path), Layout({}, ""))
    assert set(groups.lacking) == {"memory", "cpu", "pids"}
    runs = Runs(str(tmp_path))
    hog = limited("hog", 64 << 20)
    bounds = await groups.enter(hog)
    assert bounds.join == () and dict(bounds.limits)[resource.RLIMIT_DATA] == 64 << 20
    await runs.start(hog, python("x = bytearray(1 << 30)", bounds))
    assert (await runs.wait("hog")).code == 1
    assert any("MemoryError" in line for line in lines(tmp_path, "hog"))
    assert groups.usage("hog") == Usage()
    await groups.leave("hog")


async def test_a_limit_that_the_machine_refuses_is_told_and_leaves_nothing(groups: ControlGroups):
    with pytest.raises(RunFault, match=r"its limits cannot be set: .*No such file"):
        await groups.enter(limited("no/such", 64 << 20))
    groups.close()


async def test_no_right_to_make_groups_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    groups = ControlGroups(str(tmp_path), Layout({"memory": str(tmp_path / "file")}, str(tmp_path / "none")))
    assert "Not a directory" in groups.lacking["memory"] and "No such file" in groups.lacking["cpu"]
