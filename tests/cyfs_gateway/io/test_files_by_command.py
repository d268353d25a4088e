"""``send`` and ``receive`` as real programs: what arrives, what is refused, what goes on later."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from commands import PROGRAM, Pair, gateway, line, pair, program
from inprocess import living, until
from peering import ALICE, DAY, HOME, LAPTOP, MALLORY, NAS, NOW, PI, dev, machine, published, settle
from peering import PHOTOS as PHOTOS_DID

from cyfs_gateway.io.offers import RECEIVE
from cyfs_ns.errors import ConfigFault
from cyfs_ns.identity.did import subject
from cyfs_ns.trust.plan import Ask
from tests.cyfs_ns.identity.identities import device
from tests.freeport import free_port

PHOTOS = "photos.home.example"


@asynccontextmanager
async def receiving(both: Pair, *words: str) -> AsyncIterator[trio.Process]:
    """``receive`` at photos, as soon as it can be sent to."""
    async with both.running("photos", "receive", *words) as process:
        await until(lambda: RECEIVE in both.photos.engine.offers._offered)
        if "--json" in words:
            assert json.loads(await line(process))["event"] == "waiting"
        yield process
        await until(lambda: RECEIVE not in both.photos.engine.offers._offered or process.poll() is None)


def some(path: Path, size: int) -> str:
    """A file of that size, which is like no other; its hash."""
    path.write_bytes(os.urandom(size))
    return digest(path)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def box(tmp_path: Path) -> Path:
    (tmp_path / "box").mkdir()
    return tmp_path / "box"


@pytest.mark.parametrize("versions", ["[4]", "[5]"])
async def test_files_arrive_whole_under_their_names(tmp_path: Path, box: Path, versions: str) -> None:
    files = [tmp_path / name for name in ("empty", "small.txt", "größer 🚀.bin")]
    hashes = [some(path, size) for path, size in zip(files, (0, 5, 3_000_000), strict=True)]
    os.utime(files[1], (1_600_000_000, 1_600_000_000))
    async with pair(tmp_path, versions=versions) as both, receiving(both, "--dir", str(box), "--once") as receiver:
        done = await both.run("laptop", "send", *map(str, files), PHOTOS)
        assert done.returncode == 0, done.stderr
        assert await receiver.wait() == 0
    assert [digest(box / path.name) for path in files] == hashes
    assert sorted(os.listdir(box)) == sorted(path.name for path in files)
    assert (box / "small.txt").stat().st_mtime == 1_600_000_000
    assert "größer 🚀.bin: 2.9 MiB to photos.home.example" in done.stdout.decode()


async def test_what_is_there_is_not_replaced_unless_it_may_be(tmp_path: Path, box: Path) -> None:
    path = tmp_path / "notes.txt"
    some(path, 100)
    (box / "notes.txt").write_bytes(b"x" * 100)
    (tmp_path / "other").write_text("other")
    async with pair(tmp_path) as both:
        async with receiving(both, "--dir", str(box)):
            done = await both.run("laptop", "send", str(path), str(tmp_path / "other"), PHOTOS)
            assert (done.returncode, b"another file of that name" in done.stderr) == (1, True), done.stderr
            assert (box / "notes.txt").read_bytes() == b"x" * 100
            assert (box / "other").read_text() == "other", "the next file had its chance"
            again = await both.run("laptop", "send", str(tmp_path / "other"), PHOTOS)
            assert again.returncode == 0, "the same file is no other one"
        await until(lambda: RECEIVE not in both.photos.engine.offers._offered)
        async with receiving(both, "--dir", str(box), "--overwrite"):
            done = await both.run("laptop", "send", str(path), PHOTOS)
            assert (done.returncode, digest(box / "notes.txt")) == (0, digest(path)), done.stderr


async def part_of(box: Path, least: int) -> Path:
    """The partial file, once it holds that much."""
    found: list[Path] = []

    def enough() -> bool:
        found[:] = [each for each in box.glob(".*.part") if each.stat().st_size >= least]
        return bool(found)

    await until(enough)
    return found[0]


@pytest.mark.parametrize("versions", ["[4]", "[5]"])
async def test_a_receiver_that_is_killed_goes_on_where_it_stopped(tmp_path: Path, box: Path, versions: str) -> None:
    path = tmp_path / "film.bin"
    expected = some(path, 64 << 20)
    words = ["--json", "--dir", str(box)]
    async with (
        pair(tmp_path, versions=versions) as both,
        both.running("laptop", "send", "--json", str(path), PHOTOS) as early,
    ):
        assert await early.wait() == 1, "nobody receives"
        sender_argv = ["send", "--json", "--retry", "60", str(path), PHOTOS]
        async with receiving(both, *words) as receiver, both.running("laptop", *sender_argv) as sender:
            await part_of(box, 4 << 20)
            os.kill(receiver.pid, 9)
            await receiver.wait()
            held = (await part_of(box, 4 << 20)).stat().st_size
            assert held < 64 << 20
            await until(lambda: RECEIVE not in both.photos.engine.offers._offered)
            async with receiving(both, *words, "--once") as second:
                begun = json.loads(await line(second))
                assert (begun["event"], begun["bytes"]) == ("begun", held)
                assert await sender.wait() == 0
                assert await second.wait() == 0
    assert (digest(box / "film.bin"), os.listdir(box)) == (expected, ["film.bin"])


async def test_a_sender_that_is_killed_goes_on_when_it_is_called_again(tmp_path: Path, box: Path) -> None:
    path = tmp_path / "film.bin"
    expected = some(path, 32 << 20)
    async with pair(tmp_path) as both, receiving(both, "--json", "--dir", str(box)) as receiver:
        async with both.running("laptop", "send", "--json", str(path), PHOTOS):
            await part_of(box, 1 << 20)
        assert json.loads(await line(receiver))["bytes"] == 0
        done = await both.run("laptop", "send", "--json", str(path), PHOTOS)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[0])["bytes"] > 0
    assert digest(box / "film.bin") == expected


async def test_a_beginning_that_is_another_is_not_gone_on_with(tmp_path: Path, box: Path) -> None:
    path = tmp_path / "film.bin"
    expected = some(path, 8 << 20)
    async with pair(tmp_path) as both, receiving(both, "--dir", str(box)):
        async with both.running("laptop", "send", "--json", str(path), PHOTOS):
            part = await part_of(box, 1 << 20)
        await until(lambda: not both.photos.gateway.connections())
        torn = bytearray(part.read_bytes()) if part.exists() else bytearray(1 << 20)
        torn[-1] ^= 1
        part.write_bytes(torn)
        (box / "film.bin").unlink(missing_ok=True)
        assert (await both.run("laptop", "send", str(path), PHOTOS)).returncode == 0
    assert (digest(box / "film.bin"), os.listdir(box)) == (expected, ["film.bin"])


async def test_a_tunnel_that_breaks_is_made_again(tmp_path: Path, box: Path) -> None:
    path = tmp_path / "film.bin"
    expected = some(path, 64 << 20)
    async with (
        pair(tmp_path) as both,
        receiving(both, "--dir", str(box)),
        both.running("laptop", "send", "--json", str(path), PHOTOS) as sender,
    ):
        await part_of(box, 4 << 20)
        closed = await both.run("laptop", "tunnels", "forget", PHOTOS)
        assert (closed.returncode, closed.stdout) == (0, b"1 tunnel closed\n"), closed.stderr
        both.photos.gateway.close_connections()
        assert await sender.wait() == 0
    assert digest(box / "film.bin") == expected


async def test_a_gateway_that_is_killed_costs_no_more_than_what_was_under_way(tmp_path: Path, box: Path) -> None:
    path = tmp_path / "film.bin"
    expected = some(path, 64 << 20)
    port = free_port()
    settle(tmp_path / "photos", NAS, PHOTOS_DID)
    settle(tmp_path / "laptop", PI, LAPTOP)
    config = f"rtcp: {{listen: '127.0.0.1:{port}'}}\n"
    receive = [*PROGRAM, "--home", str(tmp_path / "photos"), "receive", "--json", "--dir", str(box), "--once"]
    send = [*PROGRAM, "--home", str(tmp_path / "laptop"), "send", "--json", "--retry", "60", str(path), PHOTOS]
    async with (
        published(port) as dns,
        gateway(tmp_path / "laptop", "rtcp: {}\n", dns),
        AsyncExitStack() as senders,
    ):
        async with gateway(tmp_path / "photos", config, dns) as killed, program(receive) as receiver:
            assert json.loads(await line(receiver))["event"] == "waiting"
            sender = await senders.enter_async_context(program(send))
            held = (await part_of(box, 4 << 20)).stat().st_size
            killed.kill()
            with trio.fail_after(60):
                assert await receiver.wait() == 1
            assert held < 64 << 20
        async with gateway(tmp_path / "photos", config, dns), program(receive) as receiver:
            with trio.fail_after(80):
                assert (await sender.wait(), await receiver.wait()) == (0, 0)
    assert (digest(box / "film.bin"), os.listdir(box)) == (expected, ["film.bin"])


async def test_who_may_send_is_for_the_receiver_to_say(tmp_path: Path, box: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    stranger = str(dev(MALLORY))
    async with (
        pair(tmp_path) as both,
        machine(tmp_path / "mallory", MALLORY, "rtcp: {}\n", dns=both.dns),
    ):
        words = ("send", str(tmp_path / "notes.txt"), PHOTOS)
        async with receiving(both, "--dir", str(box)):
            done = await both.run("mallory", *words)
            assert done.returncode == 1, "a stranger"
        await until(lambda: RECEIVE not in both.photos.engine.offers._offered)
        async with receiving(both, "--dir", str(box), "--from", stranger):
            assert (await both.run("laptop", *words)).returncode == 1, "not named"
            for _ in range(20):  # who was turned away rests for a second
                done = await both.run("mallory", *words)
                if not done.returncode:
                    break
            assert (done.returncode, os.listdir(box)) == (0, ["notes.txt"]), done.stderr


@pytest.mark.parametrize("name", [str(LAPTOP), "laptop.home.example", "DID,did:web:laptop.home.example"])
async def test_a_device_that_is_pinned_may_be_named(tmp_path: Path, box: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    async with pair(tmp_path) as both:
        async with receiving(both, "--dir", str(box), "--from", "did:web:other.home.example"):
            refused = await both.run("laptop", "send", str(tmp_path / "notes.txt"), PHOTOS)
            assert (refused.returncode, os.listdir(box)) == (1, [])
        await until(lambda: RECEIVE not in both.photos.engine.offers._offered)
        async with receiving(both, "--dir", str(box), "--from", name):
            done = await both.run("laptop", "send", str(tmp_path / "notes.txt"), PHOTOS)
            assert (done.returncode, os.listdir(box)) == (0, ["notes.txt"]), done.stderr


async def test_a_stranger_who_was_let_in_for_a_command_has_to_go_with_it(tmp_path: Path) -> None:
    named = str(dev(MALLORY))
    async with pair(tmp_path) as both, machine(tmp_path / "mallory", MALLORY, "rtcp: {}\n", dns=both.dns) as mallory:
        async with both.photos.gateway.receive_from_peers([f"AND,((DID,{named}),(NETWORK,tcp))"]):
            tunnel = await mallory.gateway._peers.tunnel(subject(PHOTOS))
        with trio.fail_after(60):
            await tunnel.over.wait()


@pytest.mark.parametrize("case", ["older", "unsigned", "unpinned", "whole"])
async def test_who_does_not_know_whose_he_is_says_so_before_anybody_sends(tmp_path: Path, case: str) -> None:
    port, home = free_port(), tmp_path / "laptop"
    async with published(port) as dns:
        settle(home, PI, None if case == "unsigned" else LAPTOP, pinned=case != "unpinned")
        if case == "older":
            before = device("laptop", PI, ALICE, iat=NOW - 200, exp=NOW + DAY, zone=HOME)
            (home / "identity" / "device.jwt").write_text(before.text)
        base = f"dns: {{enable: true, use-system-hosts: false, nameserver: ['127.0.0.1:{dns.port}']}}\nipv6: true\n"
        async with living(home, "rtcp: {}\n", base=base) as laptop:
            if case == "older":  # it hears of the one in the DNS
                await laptop.gateway.trusted.resolve(Ask(subject=LAPTOP))
            house = Pair(laptop, laptop, tmp_path, dns)
            shown = await house.run("laptop", "id", "show")
            async with house.running("laptop", "receive") as process:
                assert process.stderr is not None
                said = b""
                while not said.endswith(b"\n"):
                    said += await process.stderr.receive_some()
    doubt = b"the device-mini document issued " if case == "older" else b"\0"
    assert (doubt in shown.stdout) == (case == "older"), shown
    assert {
        "older": doubt in said and b"(id accept)" in said,
        "unsigned": b"ask for one (id request)" in said,
        "unpinned": b"id trust did:dev:" in said,
        "whole": said.startswith(b"waiting for files"),
    }[case], said
    assert (b"--from" in said) is (case != "whole")


async def test_conditions_that_cannot_be_judged_are_refused_at_once(tmp_path: Path) -> None:
    async with pair(tmp_path) as both:
        for text in (
            "RULE-SET,ads",
            "AND,((RULE-SET,ads),(NETWORK,tcp))",
            "NOT,((SUB-RULE,(NETWORK,tcp),x))",
            "GEOIP,CN",
        ):
            with pytest.raises(ConfigFault):
                async with both.photos.gateway.receive_from_peers([text]):
                    pass
        done = await both.run("photos", "receive", "--from", "AND,((RULE-SET,ads),(NETWORK,tcp))")
        assert done.returncode != 0
        assert b"RULE-SET" in done.stderr


async def test_nobody_waits_and_nobody_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    async with pair(tmp_path) as both:
        for peer in (PHOTOS, "nobody.home.example"):
            done = await both.run("laptop", "send", str(tmp_path / "notes.txt"), peer)
            assert (done.returncode, b"Error: " in done.stderr) == (1, True)
        missing = await both.run("laptop", "send", str(tmp_path / "ghost"), PHOTOS)
        assert (missing.returncode, b"No such file" in missing.stderr) == (1, True)
        assert (await both.run("laptop", "send", PHOTOS)).returncode == 2
        assert (await both.run("nowhere", "send", str(tmp_path / "notes.txt"), PHOTOS)).returncode == 3
        assert (await both.run("nowhere", "receive")).returncode == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts a small disk")
async def test_what_does_not_fit_is_not_begun(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "huge.bin").touch()
    os.truncate(tmp_path / "huge.bin", 1 << 30)
    async with pair(tmp_path) as both, receiving(both, "--json", "--dir", str(small_disk)) as receiver:
        done = await both.run("laptop", "send", str(tmp_path / "huge.bin"), PHOTOS)
        assert (done.returncode, b"no room" in done.stderr) == (1, True), done.stderr
        assert json.loads(await line(receiver))["why"] == "there is no room for it on the disk"
    assert os.listdir(small_disk) == []


async def test_a_disk_that_becomes_full_is_told_to_both_sides(tmp_path: Path, box: Path) -> None:
    path = tmp_path / "film.bin"
    expected = some(path, 32 << 20)
    async with pair(tmp_path) as both:
        async with receiving(both, "--json", "--dir", str(box)) as receiver:
            # What the kernel says of files that are too large for a process is what it says of full disks, but for the
            # number.
            resource.prlimit(receiver.pid, resource.RLIMIT_FSIZE, (5 << 20, 5 << 20))
            done = await both.run("laptop", "send", str(path), PHOTOS)
            assert (done.returncode, b"the disk is full" in done.stderr) == (1, True), done.stderr
            said = [json.loads(await line(receiver))["event"]]
            while said[-1] != "failed":
                said.append(json.loads(await line(receiver))["event"])
        await until(lambda: RECEIVE not in both.photos.engine.offers._offered)
        assert (await part_of(box, 1)).stat().st_size == 5 << 20, "it is kept for better times"
        async with receiving(both, "--dir", str(box)):
            assert (await both.run("laptop", "send", str(path), PHOTOS)).returncode == 0
    assert digest(box / "film.bin") == expected
