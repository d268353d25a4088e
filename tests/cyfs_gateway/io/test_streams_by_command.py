"""``nc`` and ``forward`` as real programs, between two gateways."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import resource
import shlex
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import trio
from commands import Pair, line, pair, program, service
from inprocess import Living, connect, curl, dead_port, echo, exactly, hello, serve, the_rest, udp_echo, until
from peering import LAPTOP, MALLORY, NAS, PI, dev, machine, published
from peering import PHOTOS as PHOTOS_DID
from test_cuts import how_it_ends

from tests.freeport import free_port

PHOTOS = "photos.home.example"


async def talkative(stream: trio.SocketStream) -> None:
    """Speaks first, and answers what it hears when the other side has ended."""
    await stream.send_all(b"220 welcome\r\n")
    heard = b""
    async for chunk in stream:
        heard += chunk
    await stream.send_all(b"heard " + heard)


@pytest.mark.parametrize("versions", ["[4]", "[5]"])
async def test_a_stream_through_the_terminal_keeps_both_ends_apart(
    tmp_path: Path, nursery: trio.Nursery, versions: str
) -> None:
    target = await serve(nursery, talkative)
    async with pair(tmp_path, service("ssh", target, 22), versions=versions) as both:
        for peer in (PHOTOS, "did:web:photos.home.example"):
            done = await both.run("laptop", "nc", f"{peer}:22", stdin=b"HELO")
            assert (done.returncode, done.stdout) == (0, b"220 welcome\r\nheard HELO"), done.stderr
        assert both.laptop.tracker.seen == 2


async def test_the_server_may_speak_first_while_our_side_is_silent(tmp_path: Path, nursery: trio.Nursery) -> None:
    target = await serve(nursery, talkative)
    async with (
        pair(tmp_path, service("ssh", target, 22)) as both,
        both.running("laptop", "nc", f"{PHOTOS}:22") as process,
    ):
        assert await line(process) == b"220 welcome\r\n"
        (flow,) = both.laptop.gateway.connections()
        assert (flow.flow.in_name, flow.flow.host, flow.flow.dst_port) == ("COMMAND", PHOTOS, 22)
        assert process.stdin is not None
        await process.stdin.send_all(b"QUIT")
        await process.stdin.aclose()
        assert await line_to_end(process) == b"heard QUIT"
        assert await process.wait() == 0
        await until(lambda: not both.laptop.gateway.connections() and not both.photos.gateway.connections())


FAR = "laptop.home.example"


@asynccontextmanager
async def behind_a_relay(
    base: Path, nursery: trio.Nursery, config: Callable[[str], str]
) -> AsyncIterator[tuple[Pair, Living]]:
    """``laptop`` is at home, without an address; ``photos`` is its relay; ``mallory`` is away and knows the way, which
    ``config`` is given."""
    port, inner, target = free_port(), free_port(), await serve(nursery, echo)
    who = dev(MALLORY)
    kept = f"rtcp:\n  listen: 127.0.0.1:{inner}\n  keep-tunnel: [{PHOTOS}]\n{service('web', target, 80, str(who))}\n"
    rules = f"['AND,((DID,{who}),(DOMAIN,{FAR}),(DST-PORT,{inner})),DIRECT']"
    way = f"rtcp://{PHOTOS}/{quote(f'rtcp://{FAR}/:{inner}', safe='')}"
    relay = f"rtcp: {{listen: '127.0.0.1:{port}'}}\nrules: {rules}\n"
    async with (
        published(port) as dns,
        machine(base / "photos", NAS, relay, did=PHOTOS_DID, dns=dns) as photos,
        machine(base / "laptop", PI, kept, did=LAPTOP, dns=dns) as laptop,
    ):
        await until(photos.gateway.peers)
        async with machine(base / "mallory", MALLORY, config(way), dns=dns) as mallory:
            yield Pair(photos, laptop, base, dns), mallory


def far_by(via: str, more: str = "") -> str:
    return f"proxies: [{{name: far, type: rtcp, server: {FAR}, via: '{via}'}}]\nrules: ['MATCH,DIRECT']\n{more}"


def keeping(way: str) -> str:
    return f"rtcp: {{keep-tunnel: ['rtcp://{quote(way, safe='')}@{FAR}']}}\n"


@pytest.mark.parametrize("config", [far_by, keeping])
async def test_the_way_that_the_configuration_knows_leads_there(
    tmp_path: Path, nursery: trio.Nursery, config: Callable[[str], str]
) -> None:
    async with behind_a_relay(tmp_path, nursery, config) as (house, mallory):
        for peer in (FAR, str(LAPTOP)):
            done = await house.run("mallory", "nc", f"{peer}:80", stdin=b"hello")
            assert (done.returncode, done.stdout) == (0, b"hello"), done.stderr
        done = await house.run("mallory", "ping", FAR)
        assert done.returncode == 0, done.stderr
        assert {one.peer for one in mallory.gateway.peers()} == {str(LAPTOP), str(PHOTOS_DID)}
        assert len(mallory.gateway.peers()) == 2


async def test_a_tunnel_that_stands_comes_before_the_way_that_is_written(tmp_path: Path, nursery: trio.Nursery) -> None:
    def config(way: str) -> str:
        return far_by(f"socks://127.0.0.1:{dead_port()}", keeping(way))

    async with behind_a_relay(tmp_path, nursery, config) as (house, mallory):
        await until(lambda: len(mallory.gateway.peers()) == 2)
        done = await house.run("mallory", "nc", f"{FAR}:80", stdin=b"hello")
        assert (done.returncode, done.stdout) == (0, b"hello"), done.stderr


async def line_to_end(process: trio.Process) -> bytes:
    assert process.stdout is not None
    return await the_rest(process.stdout)


async def test_a_host_behind_the_peer_is_reached_if_its_rules_agree(tmp_path: Path, nursery: trio.Nursery) -> None:
    target = await serve(nursery, echo)
    async with pair(tmp_path, rules="['ZONE,home.example,DIRECT']") as both:
        for words in ((PHOTOS, f"127.0.0.1:{target}"), (f"{PHOTOS}/127.0.0.1:{target}",)):
            done = await both.run("laptop", "nc", *words, stdin=b"x" * 1_000_000)
            assert (done.returncode, done.stdout) == (0, b"x" * 1_000_000), done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((f"{PHOTOS}:23",), 1, "refuses"),
        ((f"{PHOTOS}:22",), 1, "the peer"),
        (("nobody.elsewhere.example:22",), 1, "nobody.elsewhere.example"),
        ((PHOTOS,), 2, "a peer and a port"),
        ((f"{PHOTOS}:99999",), 2, "a peer and a port"),
        ((f"{PHOTOS}/a:1", "b:2"), 2, "twice"),
    ],
)
async def test_what_cannot_be_had_is_said_and_is_exit_code_1(
    tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    async with pair(tmp_path, service("ssh", dead_port(), 22)) as both:
        done = await both.run("laptop", "nc", *words)
        assert done.returncode == code
        assert said in done.stderr.decode().lower(), done.stderr
        assert b"Traceback" not in done.stderr


async def test_a_stream_that_breaks_is_no_stream_that_ended(tmp_path: Path, nursery: trio.Nursery) -> None:
    target = await serve(nursery, talkative)
    async with (
        pair(tmp_path, service("ssh", target, 22)) as both,
        both.running("laptop", "nc", f"{PHOTOS}:22") as process,
    ):
        assert await line(process) == b"220 welcome\r\n"
        both.laptop.gateway.close_connections()
        assert await process.wait() == 1
        assert process.stderr is not None
        assert b"broke off" in await the_rest(process.stderr)


@pytest.mark.parametrize(
    ("joined", "versions", "said"),
    [
        ("<&-", "[4]", "standard input: Bad file descriptor"),
        ("<&-", "[5]", "standard input: Bad file descriptor"),
        ("0>/dev/null", "[5]", "standard input: Bad file descriptor"),
        (">&-", "[5]", "standard output: Bad file descriptor"),
        (">/dev/full", "[5]", "standard output: No space left on device"),
    ],
)
async def test_an_input_or_output_that_fails_breaks_the_stream(
    tmp_path: Path, nursery: trio.Nursery, joined: str, versions: str, said: str
) -> None:
    ends: list[str] = []

    async def asks(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 welcome\r\n")
        try:
            while await stream.receive_some():
                pass
            ends.append("ended")
        except trio.BrokenResourceError:
            ends.append("broke")

    target = await serve(nursery, asks)
    async with pair(tmp_path, service("ssh", target, 22), versions=versions) as both:
        argv = both.argv("laptop", "nc", f"{PHOTOS}:22")
        async with program(["sh", "-c", f'exec "$@" {joined}', "sh", *argv]) as process:
            with trio.fail_after(60):
                assert await process.wait() == 1
            assert process.stderr is not None
            assert await the_rest(process.stderr) == f"Error: {said}\n".encode()
        await until(lambda: ends == ["broke"])


async def test_without_a_gateway_the_code_is_3(tmp_path: Path) -> None:
    async with pair(tmp_path) as both:
        for words in (["nc", f"{PHOTOS}:22"], ["forward", "0", f"{PHOTOS}:80"]):
            done = await both.run("nowhere", *words, seconds=30)
            assert (done.returncode, b"cyfs-gateway run" in done.stderr) == (3, True), done.stderr


async def test_a_port_here_is_a_service_there(tmp_path: Path, nursery: trio.Nursery) -> None:
    target, other = await serve(nursery, hello), await serve(nursery, talkative)
    rules = "['ZONE,home.example,DIRECT']"
    async with (
        pair(tmp_path, service("web", target, 80), rules) as both,
        both.running(
            "laptop", "forward", "--json", "0", f"{PHOTOS}:80", "[::1]:0", f"{PHOTOS}/127.0.0.1:{other}"
        ) as process,
    ):
        first, second = json.loads(await line(process)), json.loads(await line(process))
        assert (first["to"], second["to"]) == (f"{PHOTOS}:80", f"{PHOTOS}/127.0.0.1:{other}")
        port = int(first["listen"].rpartition(":")[2])
        assert first["listen"] == f"127.0.0.1:{port}"
        for path in ("/one", "/two"):
            assert await curl(f"http://127.0.0.1:{port}{path}") == (0, f"hello {path}")
        async with await connect(int(second["listen"].rpartition(":")[2]), "::1") as stream:
            assert await exactly(stream, 13) == b"220 welcome\r\n"
            await stream.send_all(b"EHLO")
            await stream.send_eof()
            assert await the_rest(stream) == b"heard EHLO"
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_what_is_under_way_when_the_command_ends_is_cut(
    tmp_path: Path, nursery: trio.Nursery, how: signal.Signals
) -> None:
    async def begin(stream: trio.SocketStream) -> None:
        await stream.send_all(b"half of")
        await trio.sleep_forever()

    target = await serve(nursery, begin)
    async with (
        pair(tmp_path, service("web", target, 80)) as both,
        both.running("laptop", "forward", "--json", "0", f"{PHOTOS}:80", "0", f"{PHOTOS}:81") as process,
    ):
        port, nobody = [int(json.loads(await line(process))["listen"].rpartition(":")[2]) for _ in range(2)]
        async with await connect(nobody) as refused:
            assert await how_it_ends(refused) == "cut"
        async with await connect(port) as stream:
            assert await exactly(stream, 7) == b"half of"
            process.send_signal(how)
            assert await how_it_ends(stream) == "cut"
        assert await process.wait() == 0
        await until(lambda: not both.laptop.gateway.connections())


async def test_many_at_once_are_carried_side_by_side(tmp_path: Path, nursery: trio.Nursery) -> None:
    target = await serve(nursery, echo)
    async with (
        pair(tmp_path, service("web", target, 80)) as both,
        both.running("laptop", "forward", "--json", "0", f"{PHOTOS}:80") as process,
    ):
        port = int(json.loads(await line(process))["listen"].rpartition(":")[2])
        sent = bytes(range(256)) * 2048
        streams = [await connect(port) for _ in range(150)]
        with trio.fail_after(60):
            for stream in streams:
                await stream.send_all(b"here")
            for stream in streams:
                assert await exactly(stream, 4) == b"here"
            async with trio.open_nursery() as moving:
                moving.start_soon(streams[0].send_all, sent)
                assert await exactly(streams[0], len(sent)) == sent
        for stream in streams:
            await stream.aclose()
        await until(lambda: not both.laptop.gateway.connections())


async def test_without_descriptors_a_connection_is_refused_and_the_others_are_carried(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    target = await serve(nursery, echo)
    async with (
        pair(tmp_path, service("web", target, 80)) as both,
        both.running("laptop", "forward", "--json", "0", f"{PHOTOS}:80") as process,
    ):
        port = int(json.loads(await line(process))["listen"].rpartition(":")[2])
        async with await connect(port) as before:
            await before.send_all(b"here")
            assert await exactly(before, 4) == b"here"
            usual = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
            used = {int(name) for name in os.listdir(f"/proc/{process.pid}/fd")}
            free = next(number for number in itertools.count() if number not in used)
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (free + 1, usual[1]))  # one is left
            with pytest.raises((OSError, trio.BrokenResourceError)):  # cut, perhaps before we hear that it stood
                async with await connect(port) as refused:
                    await refused.receive_some()
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, usual)
            async with await connect(port) as after:
                for stream in (before, after):
                    await stream.send_all(b"still")
                    assert await exactly(stream, 5) == b"still"


async def test_without_any_descriptor_connections_wait_and_that_is_said_once(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    target = await serve(nursery, echo)
    async with (
        pair(tmp_path, service("web", target, 80)) as both,
        both.running("laptop", "forward", "--json", "0", f"{PHOTOS}:80") as process,
    ):
        port = int(json.loads(await line(process))["listen"].rpartition(":")[2])
        usual = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        used = {int(name) for name in os.listdir(f"/proc/{process.pid}/fd")}
        free = next(number for number in itertools.count() if number not in used)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (free, usual[1]))
        async with await connect(port) as stream:
            assert "new connections have to wait: Too many open files" in json.loads(await line(process))["fault"]
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, usual)
            await stream.send_all(b"here")
            assert await exactly(stream, 4) == b"here"
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stderr is not None
        assert [chunk async for chunk in process.stdout] == []
        assert [chunk async for chunk in process.stderr] == []


@pytest.mark.parametrize("versions", ["[4]", "[5]"])
async def test_datagrams_are_carried_both_ways_for_each_client(
    tmp_path: Path, nursery: trio.Nursery, versions: str
) -> None:
    target = await udp_echo(nursery, b"re: ")
    async with (
        pair(tmp_path, service("dns", target, 53, network="udp"), versions=versions) as both,
        both.running("laptop", "forward", "--udp", "--json", "0", f"{PHOTOS}:53") as process,
    ):
        port = int(json.loads(await line(process))["listen"].rpartition(":")[2])
        for number in range(3):
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, trio.fail_after(60):
                await client.connect(("127.0.0.1", port))
                for size in (1, 1200):
                    sent = bytes([number]) * size
                    await client.send(sent)
                    assert await client.recv(65535) == b"re: " + sent
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


async def test_whoever_stops_reading_ends_it(tmp_path: Path, nursery: trio.Nursery) -> None:
    async def endless(stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(b"more " * 10_000)

    target = await serve(nursery, endless)
    async with (
        pair(tmp_path, service("ssh", target, 22)) as both,
        both.running("laptop", "nc", f"{PHOTOS}:22") as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        assert await process.stdout.receive_some(5) == b"more "
        await process.stdout.aclose()
        assert await process.wait() == 0
        assert await the_rest(process.stderr) == b""
        await until(lambda: not both.laptop.gateway.connections() and not both.photos.gateway.connections())


@pytest.fixture
def keys(tmp_path: Path) -> None:
    """Of a machine, and of somebody who may come in."""
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)


@pytest.fixture
async def sshd(tmp_path: Path, keys: None) -> AsyncIterator[int]:
    """A real one, which lets ``tmp_path/key`` in."""
    port = free_port()
    options = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "key.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
        "PidFile": "none",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    process = await trio.lowlevel.open_process(["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *words])
    try:
        yield port
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/usr/sbin/sshd").exists(), reason="needs root and sshd: it lets somebody log in"
)
async def test_ssh_goes_through_it(tmp_path: Path, sshd: int) -> None:
    async with pair(tmp_path, service("ssh", sshd, 22)) as both:
        proxy = " ".join(map(shlex.quote, both.argv("laptop", "nc"))) + " %h:%p"
        options = {
            "ProxyCommand": proxy,
            "IdentityFile": tmp_path / "key",
            "UserKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "no",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
            "ConnectionAttempts": 1,
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        with trio.fail_after(60):
            while True:  # sshd may just be starting
                done = await trio.run_process(
                    ["ssh", "-F", "/dev/null", *words, f"root@{PHOTOS}", "sha256sum"],
                    stdin=b"x" * 1_000_000,
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                )
                if not done.returncode:
                    break
        assert done.stdout.split()[0].decode() == hashlib.sha256(b"x" * 1_000_000).hexdigest()
