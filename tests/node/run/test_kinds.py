"""Processes and scripts, as the loop has them: prepared, launched, probed and taken back, with real programs."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
from freeport import free_port
from runhelp import alive, lines, shell, until

from node.io.run.cgroups import ControlGroups
from node.io.run.kinds import Processes, Scripts
from node.io.run.packages import Packages
from node.io.run.runs import Runs
from node.io.run.users import FIRST, MOST, Users
from node.run.runner import Ended, Kind, Order, Place, RunFault
from zone.scheduler.service import Work


@dataclass
class Machine:
    """What a node has to run processes and scripts with."""

    home: Path
    runs: Runs
    packages: Packages
    kinds: dict[str, Kind]

    def package(self, version: str, **files: str) -> None:
        folder = self.home / "packages" / "notes" / version
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def place(self) -> Place:
        return self.runs.place("notes")

    async def prepare(self, order: Order) -> None:
        await self.kinds[order.work.kind].prepare(order, self.place())

    async def start(self, order: Order) -> None:
        await self.prepare(order)
        await self.runs.start(order, await self.kinds[order.work.kind].launch(order, self.place()))

    async def wait(self, order: Order) -> Ended:
        ended = await self.runs.wait("notes")
        await self.kinds[order.work.kind].release(self.place())
        return ended


def order(kind: str = "process", version: str = "1", **work: object) -> Order:
    made = Work(image=f"notes:{version}", kind=kind, **work)  # type: ignore[arg-type]
    return Order(service="notes", work=made, ports=work.get("ports", ()))  # type: ignore[arg-type]


@pytest.fixture
async def machine(open_folder: Path) -> AsyncIterator[Machine]:
    home = str(open_folder)
    runs, packages, users, limits = Runs(home), Packages(home), Users(home), ControlGroups(home)

    async def token(service: str) -> str:
        return f"token of {service}"

    kinds: dict[str, Kind] = {
        "process": Processes("ood1", packages, users, limits, token),
        "script": Scripts("ood1", packages, users, limits, runs),
    }
    yield Machine(open_folder, runs, packages, kinds)
    for service in await runs.find():
        await runs.stop(service, at_once=True)
        await runs.wait(service)
    await limits.leave("notes")
    limits.close()


async def test_a_process_serves_from_its_package_and_volume(machine: Machine) -> None:
    port = free_port()
    machine.package("1", page="hello")
    served = order(
        command=("python3", "-m", "http.server", "--bind", "127.0.0.1", "${PORT_HTTP}"),
        ports=(("http", port),),
        volumes=(("data", "/data"),),
        memory=256 << 20,
    )
    await machine.start(served)

    def ask() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/page", timeout=5) as reply:
                return bool(reply.read() == b"hello")
        except OSError:
            return False

    with trio.fail_after(200):
        while not await trio.to_thread.run_sync(ask):  # noqa: ASYNC110 -- another process
            await trio.sleep(0.05)
    assert await machine.kinds["process"].probe(served, machine.place()) == ""
    await machine.runs.stop("notes")
    assert (await machine.wait(served)).code == -15
    assert alive(machine.home) == []


async def test_what_a_process_is_told(machine: Machine) -> None:
    machine.package(
        "1",
        tell='#!/bin/sh\necho "$PORT_HTTP $BUCKYOS_APP_ID $1"; cat "$CYFS_TOKEN_FILE"; echo\n'
        'stat -c %a-%u "$CYFS_TOKEN_FILE"; id -u\n'
        'echo kept > "$VOLUME_MY_DATA/file"; touch "$BUCKYOS_PKG_DIR/x" 2>/dev/null || echo read-only\n',
    )
    told = order(
        command=("tell", "a $$b"), ports=(("http", 4711),), volumes=(("my-data", "/d"),), env=(("PORT_HTTP", "x"),)
    )
    await machine.start(told)
    assert await machine.wait(told) == Ended(0)
    is_root = os.geteuid() == 0
    given = Users(str(machine.home)).user_of("notes")
    user = os.geteuid() if given is None else given[0]
    expected = ["o 4711 notes a $b", "o token of notes", f"o 600-{user}", f"o {user}"] + ["o read-only"] * is_root
    assert lines(machine.home) == expected
    assert (machine.home / "volumes/notes/my-data/file").read_text() == "kept\n"
    assert not (machine.home / "tokens/notes/token").exists()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"command": ()}, "no command"),
        ({"command": ("nothing-of-this-name",)}, "no program 'nothing-of-this-name'"),
        ({"command": ("echo", "$PORT_HTTP")}, r"names \$PORT_HTTP"),
        ({"command": ("echo",), "version": "../1"}, "is no package"),
        ({"kind": "script"}, "no program 'start'"),
    ],
)
async def test_a_page_that_can_never_run_says_so(machine: Machine, wrong: dict[str, str], why: str) -> None:
    machine.package("1", tell="")
    with pytest.raises(RunFault, match=why) as fault:
        await machine.start(order(**wrong))  # type: ignore[arg-type]
    assert fault.value.lasting


async def test_a_package_that_is_missing_may_still_come(machine: Machine) -> None:
    with pytest.raises(RunFault, match=r"there is no package .*notes/1, nor") as fault:
        await machine.prepare(order(command=("tell",)))
    assert not fault.value.lasting
    machine.package("1", tell="#!/bin/sh\nexit 6")
    await machine.start(order(command=("tell",)))
    assert (await machine.wait(order())).code == 6


async def test_a_script_is_within_its_limits_whatever_of_it_runs(machine: Machine, open_folder: Path) -> None:
    if "memory" in ControlGroups(str(open_folder)).lacking:
        pytest.skip("needs root: memory is limited by groups")
    eat = "#!/bin/sh\nexec python3 -c 'bytearray(200 << 20)'"
    machine.package("1", deploy=eat, start="#!/bin/sh\n")
    with pytest.raises(RunFault, match=r"^deploy used more than its 32 MiB of memory"):
        await machine.prepare(order("script", memory=32 << 20))
    machine.package("2", start="#!/bin/sh\nsleep 600 &", status=eat)
    wanted = order("script", "2", memory=32 << 20)
    await machine.start(wanted)
    said = await machine.kinds["script"].probe(wanted, machine.place())
    assert said == "status used more than its 32 MiB of memory"
    await machine.runs.stop("notes")
    await machine.wait(wanted)


@pytest.mark.parametrize("kind", ["process", "script"])
async def test_of_a_service_that_is_forgotten_its_log_and_its_volumes_stay(machine: Machine, kind: str) -> None:
    machine.package(
        "1", start='#!/bin/sh\necho here > "$VOLUME_DATA/file"; cat "$VOLUME_DATA/file"', deploy="#!/bin/sh\n"
    )
    once = order(kind, command=("start",), volumes=(("data", "/d"),))
    await machine.start(once)
    assert (await machine.wait(once)).code == 0
    await machine.kinds[kind].forget(machine.place())
    await machine.runs.forget(machine.place())
    left = {str(path.relative_to(machine.home)) for path in machine.home.glob("*/notes*/*")}
    assert left - {"logs/notes+deploy/log"} == {"packages/notes/1", "logs/notes/log", "volumes/notes/data"}


def tarred(machine: Machine, end: str, *options: str) -> None:
    machine.package("1", tell="#!/bin/sh\necho tarred")
    folder = machine.home / "packages/notes/1"
    subprocess.run(["tar", *options, "-cf", f"{folder}{end}", "-C", str(folder), "."], check=True)
    (folder / "tell").unlink()
    folder.rmdir()


@pytest.mark.parametrize(("end", "options"), [(".tar", ()), (".tar.gz", ("-z",))])
async def test_a_package_may_be_a_tar(machine: Machine, end: str, options: tuple[str, ...]) -> None:
    tarred(machine, end, *options)
    await machine.start(order(command=("tell",)))
    assert await machine.wait(order()) == Ended(0)
    assert lines(machine.home) == ["o tarred"]


async def test_a_package_is_for_all_to_read_and_for_nobody_to_write(machine: Machine) -> None:
    """Several services, each a user of its own, may run from one copy; whatever modes the tar has."""
    machine.package("1", tell="#!/bin/sh\necho x > word || cat word", word="first")
    folder = machine.home / "packages/notes/1"
    (folder / "word").chmod(0o666)
    await trio.run_process(["tar", "--mode=u+rwX,go+w", "-cf", f"{folder}.tar", "-C", str(folder), "."])
    shutil.rmtree(folder)
    await machine.prepare(order(command=("tell",)))
    copy = machine.packages.linked(machine.place(), "prepared")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (copy, *copy.iterdir())}
    assert modes == {copy.name: 0o755, "tell": 0o755, "word": 0o644}


async def test_a_tar_that_is_none_can_never_run(machine: Machine) -> None:
    (machine.home / "packages/notes").mkdir(parents=True)
    (machine.home / "packages/notes/1.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(RunFault, match="notes:1") as fault:
        await machine.prepare(order(command=("tell",)))
    assert fault.value.lasting
    assert [path for path in (machine.home / "unpacked").iterdir() if path.name[0] != "."] == []


async def test_what_runs_is_not_what_is_put_down_later(machine: Machine) -> None:
    machine.package("1", tell=f"#!/bin/sh\nuntil [ -e {machine.home}/go ]; do sleep 0.02; done; cat word", word="first")
    await machine.start(order(command=("tell",)))
    (machine.home / "packages/notes/1/word").write_text("second")
    for version in range(2, 8):
        machine.package(str(version), tell=f"#!/bin/sh\necho {version}")
        await machine.prepare(order(version=str(version), command=("tell",)))
    (machine.home / "go").touch()
    assert await machine.wait(order()) == Ended(0)
    assert lines(machine.home) == ["o first"]
    assert len(list((machine.home / "unpacked").iterdir())) == 4


async def test_a_service_keeps_its_user(machine: Machine) -> None:
    users = Users(str(machine.home))
    if os.geteuid() != 0:
        assert users.user_of("a") is None
        return
    a, b, again = (users.user_of(name) for name in ("a", "b", "a"))
    assert a is not None
    assert FIRST <= a[0] < 2**31 - MOST
    assert (b, again) == ((a[0] + 1,) * 2, a)
    assert Users(str(machine.home)).user_of("b") == b


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: services have users of their own")
def test_homes_give_users_from_ranges_of_their_own(tmp_path: Path) -> None:
    given = {Users(str(tmp_path / home)).user_of("web") for home in ("attic", "barn", "cellar", "den")}
    assert len(given) > 1  # two may meet, by chance


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: services have users of their own")
async def test_a_way_that_is_closed_to_the_user_is_named(machine: Machine) -> None:
    machine.package("1", tell="#!/bin/sh")
    machine.home.chmod(0o700)
    with pytest.raises(RunFault, match=f"chmod o\\+x {machine.home}$"):
        await machine.start(order(command=("tell",)))


SCRIPTS = {
    "deploy": "#!/bin/sh\necho deployed >> $VOLUME_DATA/told",
    "start": "#!/bin/sh\nsetsid sh -c 'echo $$ > $VOLUME_DATA/pid; echo up; while :; do sleep 0.05; done' &\nexit 0",
    "status": '#!/bin/sh\nkill -0 "$(cat $VOLUME_DATA/pid)" 2>/dev/null',
    "stop": '#!/bin/sh\necho "stopped $1" >> $VOLUME_DATA/told; kill -9 "$(cat $VOLUME_DATA/pid)"',
}


def script(*command: str) -> Order:
    return order("script", volumes=(("data", "/data"),), command=command)


async def test_a_script_is_deployed_started_asked_and_stopped(machine: Machine) -> None:
    machine.package("1", **SCRIPTS)
    scripts = machine.kinds["script"]
    await machine.start(script("now"))
    await until(lambda: "o up" in lines(machine.home))
    assert await scripts.probe(script(), machine.place()) == ""
    assert await scripts.stop(script("now"), machine.place())
    assert await machine.wait(script()) == Ended(0)
    assert (machine.home / "volumes/notes/data/told").read_text() == "deployed\nstopped now\n"
    assert alive(machine.home) == []


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ("exit 3", "status exited with 3"),
        ("kill -9 $$", "status killed by signal 9"),
        ("sleep 600", "did not end within"),
    ],
)
async def test_a_status_that_is_not_0_says_why(
    machine: Machine, status: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.io.run.kinds.STATUS", 1.0)
    machine.package("1", **SCRIPTS | {"status": f"#!/bin/sh\n{status}"})
    await machine.start(script())
    assert why in await machine.kinds["script"].probe(script(), machine.place())
    assert alive(machine.home, "notes+status") == []


@pytest.mark.parametrize(("name", "why"), [("deploy", "deploy exited with 4"), ("start", "")])
async def test_a_script_that_fails(machine: Machine, name: str, why: str) -> None:
    machine.package("1", **SCRIPTS | {name: "#!/bin/sh\nsleep 600 &\nexit 4"})
    if why:
        with pytest.raises(RunFault, match=why):
            await machine.prepare(script())
    else:
        await machine.start(script())
        assert (await machine.wait(script())).code == 4
    assert alive(machine.home, f"notes+{name}") + alive(machine.home) == []


def fill(file: Path) -> None:
    """Take all the room there is."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while True:
            os.write(fd, bytes(4096))
    os.close(fd)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small one."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a disk that is full is mounted")
async def test_a_full_disk_costs_lines_and_never_the_service(disk: Path, tmp_path: Path) -> None:
    runs = Runs(str(disk))
    full, flooded, go = (tmp_path / name for name in ("full", "flooded", "go"))
    await runs.start(
        order(),
        shell(
            f"echo up; until [ -e {full} ]; do sleep 0.02; done; seq 1 40000; : > {flooded}"
            f"; until [ -e {go} ]; do sleep 0.02; done; echo last; exit 7"
        ),
    )
    await until(lambda: "o up" in lines(disk))
    fill(disk / "room")
    full.touch()
    await until(flooded.exists)
    with pytest.raises(RunFault, match="No space left"):
        await runs.start(replace(order(), service="mail"), shell("exit 0"))
    assert list(await runs.find()) == ["notes"]
    (disk / "room").unlink()
    go.touch()
    assert (await runs.wait("notes")).code == 7
    assert lines(disk)[-1] == "o last"
    assert any("lines were lost here" in line for line in lines(disk))


async def test_without_descriptors_it_fails_and_the_next_time_it_does_not(machine: Machine) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    held = [os.dup(0) for _ in range(highest + 8)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, limits[1]))
    try:
        for spare in range(8):
            os.close(held.pop())
            if spare < 7:
                with suppress(RunFault):
                    await machine.runs.start(order(), shell("exit 7"))
                    assert (await machine.runs.wait("notes")).code == 7
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in held:
            os.close(fd)
    await machine.runs.start(order(), shell("exit 7"))
    assert (await machine.runs.wait("notes")).code == 7
