"""Containers, real ones, under both programs that build them: the same exam for each."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from containerhelp import Node, image, node_at, page
from runhelp import alive, keeper_of, lines, until

from node.io.run.cgroups import ControlGroups
from node.io.run.containers import look
from node.io.run.doors import sockets_within
from node.io.run.tokens import keep_renewed
from node.run.runner import Order, RunFault
from tests.freeport import free_port
from tests.node.image.imagery import file, folder, symlink

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers have users of their own"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed"),
]


@pytest.fixture(params=["bwrap", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture
async def node(tmp_path: Path, runtime: str) -> AsyncIterator[Node]:
    async with node_at(tmp_path, runtime) as found:
        yield found
        await found.close()


async def get(port: int, path: str = "/") -> bytes:
    """The body of an answer; none: it was cut."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        answer = b""
        with suppress(trio.BrokenResourceError):
            await stream.send_all(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            async for data in stream:
                answer += data
        return answer.partition(b"\r\n\r\n")[2]


async def served(port: int, path: str, wanted: bytes) -> None:
    """Until the service answers so."""
    with trio.fail_after(60):
        while await get(port, path) != wanted:  # noqa: ASYNC110 -- it tells no event
            await trio.sleep(0.01)


async def said(node: Node, *command: str, service: str = "web", **more: object) -> list[str]:
    """What a container writes that ends by itself."""
    await node.start(page(service, *command, **more))
    await node.ended(service)
    return lines(node.home, service)


async def script(node: Node, text: str, **more: object) -> list[str]:
    return await said(node, "/bin/sh", "-c", text.replace("$", "$$"), **more)


async def test_a_web_server_is_reached_at_its_port(node: Node, runtime: str):
    image(node.home, folder("www"), file("www/index.html", b"hello from inside"))
    port = free_port()
    order = page("web", "/bin/httpd", "-f", "-p", "$PORT_HTTP", "-h", "/www", on=(("http", port),))
    await node.start(order)
    await node.ready(order)
    await served(port, "/", b"hello from inside")
    # Under crun it is process 1 of its namespace, which hears no signal that it did not ask for.
    await node.runs.stop("web", at_once=runtime == "crun")
    assert await node.ended("web") == f"killed by signal {9 if runtime == 'crun' else 15}"
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", port)
    assert alive(node.home, "web") == []


async def test_a_server_that_clears_its_environment_is_reached_as_well(node: Node):
    """As those do that write what they are doing where their environment was."""
    image(node.home, file("www/index.html", b"hello"))
    port = free_port()
    serve = "exec busybox env -i /bin/httpd -f -p $$PORT_HTTP -h /www"
    order = page("web", "/bin/sh", "-c", serve, on=(("http", port),))
    await node.start(order)
    await node.ready(order)
    await served(port, "/index.html", b"hello")


async def test_an_image_that_has_one_port_is_met_there(node: Node):
    """As an image runs that knows nothing of us: its own entry point, user, folder, and a low port."""
    image(
        node.home,
        file("srv/page", b"plain"),
        Entrypoint=["/bin/httpd", "-f"],
        Cmd=["-p", "80"],
        WorkingDir="/srv",
        User="web",
        ExposedPorts={"80/tcp": {}},
    )
    port = free_port()
    order = page("web", on=(("http", port),))
    await node.start(order)
    await node.ready(order)
    await served(port, "/page", b"plain")


async def test_the_next_daemon_serves_what_the_one_before_it_started(tmp_path: Path, runtime: str):
    image(tmp_path, file("www/index.html", b"still here"))
    port = free_port()
    order = page("web", "/bin/httpd", "-f", "-p", "$PORT_HTTP", "-h", "/www", on=(("http", port),))
    async with node_at(tmp_path, runtime) as first:
        await first.start(order)
        await first.ready(order)
        await served(port, "/", b"still here")
    async with node_at(tmp_path, runtime) as second:
        assert await second.runs.find() == {"web": order}
        await second.ready(order)
        await served(port, "/", b"still here")
        usage = second.limits.usage("web")
        assert second.limits.lacking or usage.tasks
        await second.close()
    assert alive(tmp_path, "web") == []


async def test_who_it_is_and_what_it_may(node: Node):
    image(node.home)
    null = await trio.Path("/dev/null").stat()
    found = await script(
        node,
        "id -u; cat /proc/self/uid_map /etc/hostname;"
        "busybox grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status;"
        "busybox mount -t tmpfs none /tmp; busybox unshare -n true; busybox unshare -U true; busybox dmesg;"
        "busybox chroot / true; echo end; echo by-name > /dev/stdout",
    )
    words = [line.split() for line in found]
    assert ["o", "0"] in words and ["o", "web"] in words and ["o", "0", str(0x5000_0000), "65536"] in words
    assert ["o", "NoNewPrivs:", "1"] in words and ["o", "Seccomp:", "2"] in words
    assert ["o", "CapBnd:", "00000000000004fb"] in words
    refused = [line for line in found if "not permitted" in line or "permission denied" in line]
    assert len(refused) == 5, found
    assert "o by-name" in found
    after = await trio.Path("/dev/null").stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (null.st_uid, null.st_gid, null.st_mode)


async def test_its_token_is_for_its_user_alone(node: Node):
    image(node.home, User="web")
    found = await script(node, "cat $CYFS_TOKEN_FILE; busybox stat -c %a-%U $CYFS_TOKEN_FILE; echo $BUCKYOS_APP_ID")
    assert found == ["o e30.web.c2ln600-web", "o web"]


async def test_its_token_is_renewed_while_it_runs_and_only_for_reading(
    node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("node.io.run.tokens.RENEWED", 0.01)
    image(node.home, User="web")
    made = itertools.count()

    async def token(service: str) -> str:
        return f"{next(made)} for {service}"

    text = 'echo x > $CYFS_TOKEN_FILE; first=$(cat $CYFS_TOKEN_FILE); until test "$(cat $CYFS_TOKEN_FILE)" != "$first";'
    order = page("web", "/bin/sh", "-c", f"{text} do sleep 0.01; done; cat $CYFS_TOKEN_FILE".replace("$", "$$"))
    await node.start(order)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_renewed, str(tmp_path), token)
        await node.ended("web")
        nursery.cancel_scope.cancel()
    found = lines(node.home, "web")
    assert any("ead-only file system" in line for line in found), found
    assert found[-1].endswith(" for web")
    assert not (tmp_path / "tokens/web/token").exists()


async def test_what_it_has_for_devices_takes_no_more_memory_than_it_has(node: Node, runtime: str):
    image(node.home)
    found = await script(node, "for at in /dev /dev/shm; do busybox df -k $at | busybox tail -n 1; done; touch /dev/x")
    sizes = [int(line.split()[2]) for line in found[:2]]
    assert sizes[1] == 64 << 10  # as the page says
    assert sizes[0] == 64 << 10 or any("Read-only file system" in line for line in found), found


async def test_an_image_may_become_one_of_its_own_users(node: Node):
    image(node.home, folder("data", 0o700), ("home", "directory", b"", 0o755))
    text = "busybox chown web /data && busybox su web -s /bin/sh -c 'id -u; touch /data/x; touch /y'"
    found = await script(node, text)
    assert "o 101" in found
    assert any("/y" in line and "denied" in line for line in found)
    assert not any("/data" in line for line in found)


async def test_what_it_writes_is_gone_with_it_but_for_its_volumes(node: Node):
    image(node.home, User="web")
    more = {"volumes": (("data", "/var/lib/web"),)}
    text = "cat /var/lib/web/x /tmp/y /etc/new; echo kept > /var/lib/web/x; echo lost > /tmp/y; echo $? end"
    assert sum("No such file" in line for line in await script(node, text, **more)) == 3
    again = await script(node, text, **more)
    assert "o kept" in again and sum("No such file" in line for line in again) == 3 - 1 + 3
    assert (node.home / "volumes/web/data/x").read_text() == "kept\n"
    assert (node.home / "volumes/web/data/x").stat().st_uid == 0x5000_0000 + 101
    unpacked = next((node.home / "images").glob("sha256-*/rootfs"))
    assert not (unpacked / "tmp/y").exists() and (unpacked / "bin/busybox").stat().st_uid == 0


async def test_two_containers_have_nothing_of_each_other(node: Node):
    image(node.home)
    hidden = page("one", "/bin/sh", "-c", "echo secret > /tmp/mine; echo up; nc -l -p 7777 -e cat; sleep 3600")
    await node.start(hidden)
    await until(lambda: "o up" in lines(node.home, "one"))
    text = "ps; ls /tmp /proc; cat /tmp/mine; nc -w 1 127.0.0.1 7777; echo nc $?; busybox ip -o link; id"
    found = await script(node, text, service="two")
    assert not any("7777" in line for line in found if "ps;" not in line)
    assert any("/tmp/mine" in line and "No such file" in line for line in found)
    assert "o nc 1" in found
    assert any(line.startswith("o 1: lo") for line in found)
    assert sum(" mtu " in line for line in found) == 1
    users = {(node.home / f"items/{name}/users").read_text() for name in ("one", "two")}
    assert len(users) == 2


async def test_containers_that_begin_at_once_share_no_users(node: Node):
    image(node.home, Entrypoint=["/bin/true"])
    orders = [page(f"web{number}") for number in range(8)]
    for order in orders:
        await node.kind.prepare(order, node.runs.place(order.service))
    async with trio.open_nursery() as nursery:
        for order in orders:
            nursery.start_soon(node.kind.launch, order, node.runs.place(order.service))
    users = [(node.home / f"items/{order.service}/users").read_text() for order in orders]
    for order in orders:
        await node.kind.release(node.runs.place(order.service))
    assert len(set(users)) == len(users)


async def test_who_eats_memory_is_killed_alone(node: Node):
    if ControlGroups(str(node.home)).lacking:
        pytest.skip("needs control groups, which this machine does not allow")
    image(node.home, file("www/index.html", b"alive"))
    port = free_port()
    calm = page("calm", "/bin/httpd", "-f", "-p", "$PORT_HTTP", "-h", "/www", on=(("http", port),))
    await node.start(calm)
    await node.ready(calm)
    # Both as memory of its own, and as files that it writes beside its volumes.
    for eats in ("x=a; while true; do x=$$x$$x; done", "while true; do cat /bin/busybox >> /tmp/x || exit 1; done"):
        await node.start(page("hog", "/bin/sh", "-c", eats, memory=32 << 20))
        assert await node.ended("hog") == "used more than its 32 MiB of memory"
    await served(port, "/", b"alive")


async def test_who_forks_without_end_is_stopped_with_all_it_made(node: Node, monkeypatch: pytest.MonkeyPatch):
    if ControlGroups(str(node.home)).lacking:
        pytest.skip("needs control groups, which this machine does not allow")
    monkeypatch.setattr("node.run.cgroups.MOST_TASKS", 50)
    monkeypatch.setattr("node.io.run.cgroups.MOST_TASKS", 50)
    image(node.home)
    await node.start(page("bomb", "/bin/sh", "-c", "for i in $$(busybox seq 500); do busybox setsid sleep 600 & done"))
    assert await node.ended("bomb") == "wanted more than 50 processes and threads"
    assert alive(node.home, "bomb") == [] and node.limits.usage("bomb").tasks is None


async def test_a_keeper_that_was_killed_leaves_nothing_of_a_container(node: Node):
    image(node.home)
    await node.start(page("web", "/bin/sh", "-c", "echo up; busybox setsid sleep 3600 & sleep 3600"))
    await until(lambda: "o up" in lines(node.home, "web"))
    os.kill(keeper_of(node.home, "web"), 9)
    await node.ended("web")
    assert alive(node.home, "web") == []
    assert await script(node, "echo again") == ["o up", "o again"]


@pytest.mark.parametrize("way", ["volume", "etc"])
async def test_links_of_an_image_lead_nowhere(node: Node, way: str):
    outside = node.home / "outside"
    outside.mkdir()
    if way == "volume":
        image(node.home, symlink("var", str(outside)))
        found = await script(node, "echo never", volumes=(("data", "/var/lib"),))
        assert any("goes through 'var', which is no folder" in line for line in found)
    else:
        image(node.home, symlink("etc/hosts", str(outside / "hosts")), symlink("etc/passwd", "/etc/shadow"))
        assert "o fine" in await script(node, "echo fine")
    assert list(outside.iterdir()) == []


async def test_a_page_that_cannot_run_says_why(node: Node):
    image(node.home)
    order = page("web")
    await node.kind.prepare(order, node.runs.place("web"))
    with pytest.raises(RunFault, match="no entry point, and the page no command") as fault:
        await node.kind.launch(order, node.runs.place("web"))
    assert fault.value.lasting
    with pytest.raises(RunFault, match=r"image gone:2: .*No such file"):
        await node.kind.prepare(page("web", name="gone:2"), node.runs.place("web"))
    with pytest.raises(RunFault, match="is no package"):
        await node.kind.prepare(page("web", name="../etc"), node.runs.place("web"))
    (node.home / "packages" / "bad").mkdir()
    (node.home / "packages" / "bad" / "latest.tar").write_bytes(b"no image at all" * 100)
    with pytest.raises(RunFault, match="image bad: a header whose checksum"):
        await node.kind.prepare(page("web", name="bad"), node.runs.place("web"))
    found = await said(node, "/no/such/program")
    assert any("/no/such/program" in line for line in found)


async def test_a_port_that_is_taken_is_told(node: Node):
    image(node.home)
    taken = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    order = page("web", "/bin/sleep", "3600", on=(("http", taken.socket.getsockname()[1]),))
    async with taken:
        await node.start(order)
        await until_told(node, order, "in use")
    await node.ready(order)


async def until_told(node: Node, order: Order, why: str) -> None:
    with trio.fail_after(60):
        while why not in await node.kind.probe(order, node.runs.place("web")):  # noqa: ASYNC110 -- no event
            await trio.sleep(0.01)


async def test_images_that_nobody_uses_are_removed_in_the_end(node: Node):
    names = [image(node.home, file("n", str(number).encode()), name=f"box:{number}") for number in range(8)]
    await node.start(page("web", "/bin/sh", "-c", "echo up; sleep 3600", name=names[0]))
    await until(lambda: "o up" in lines(node.home, "web"))
    running = (node.home / "items/web/image").read_text()
    for name in names[1:]:
        await node.kind.prepare(page("web", name=name), node.runs.place("web"))
    found = {path.name for path in (node.home / "images").iterdir()}
    assert len(found) == 6
    assert found >= {running, (node.home / "items/web/image").read_text()}


async def test_containers_live_beside_processes(node: Node):
    """Which have the folder of their package where a container has the name of its image."""
    image(node.home)
    (node.home / "items/notes").mkdir(parents=True)
    (node.home / "items/notes/running").symlink_to(node.home)
    assert await script(node, "echo here") == ["o here"]


def test_a_machine_without_threads_refuses_a_connection_and_no_more(monkeypatch: pytest.MonkeyPatch):
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", start)
    with pytest.raises(OSError, match="can't start new thread"):
        sockets_within(-1)


def test_what_builds_containers_is_found_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert look().runtime == ("bwrap" if shutil.which("bwrap") else "crun")
    (tmp_path / "crun").write_text("")
    (tmp_path / "crun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look().why == "bubblewrap is not installed"
    assert "no filter" in look("mips").why
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RunFault, match="neither bubblewrap"):
        look()
