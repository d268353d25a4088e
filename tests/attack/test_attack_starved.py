"""A name server without what it lives on: descriptors, room on the disk, time to end well, a configuration that stays.

It goes on answering what it knows, says once what is wrong, and is as before when the want is over.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import random
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dnslib
import pytest

from tests.attack.outside import asked, dns, rests
from tests.cyfs_ns import nsprogram
from tests.cyfs_ns.dnsfakes import zone
from tests.cyfs_ns.nsprogram import Running, server, upstream
from tests.e2e.e2e_house import until
from tests.freeport import free_port

CONFIG = """
dns:
  enable: true
  listen: 127.0.0.1:{port}
  listen-tls: 127.0.0.1:{tls}
  nameserver: [udp://127.0.0.1:{upstream}]
  use-system-hosts: false
"""
NAMES = zone(
    "brief.example. 1 A 192.0.2.1",
    "long.example. 600 A 192.0.2.2",
    *(f"new{number}.example. 600 A 192.0.2.3" for number in range(10)),
)
SERVFAIL = 2
ROUNDS = 5


def over_tcp(port: int, name: str) -> list[str]:
    query = dnslib.DNSRecord.question(name).pack()
    with socket.create_connection(("127.0.0.1", port), 5) as sock, sock.makefile("rb") as replies:
        sock.sendall(len(query).to_bytes(2) + query)
        size = int.from_bytes(replies.read(2))
        return [str(record.rdata) for record in dnslib.DNSRecord.parse(replies.read(size)).rr] if size else []


def allow_descriptors(running: Running, more: int) -> None:
    """So many beyond those it has."""
    highest = max(int(name) for name in os.listdir(f"/proc/{running.child.pid}/fd"))
    _, hard = resource.prlimit(running.child.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(running.child.pid, resource.RLIMIT_NOFILE, (highest + 1 + more, hard))


def no_more(running: Running, lines: int) -> None:
    said = running.log.read_text()
    assert "Traceback" not in said
    assert len(said.splitlines()) < lines, said


@pytest.fixture
def tls() -> int:
    return free_port()


@pytest.fixture
def running(tmp_path: Path, tls: int) -> Iterator[Running]:
    port = free_port()
    with upstream(NAMES) as behind, server(tmp_path, CONFIG.format(port=port, tls=tls, upstream=behind), port) as made:
        yield made


def test_clients_eat_every_descriptor(running: Running, tls: int) -> None:
    port = running.port
    assert dns(port, "long.example") == ["192.0.2.2"]
    allow_descriptors(running, 20)
    crowd = [socket.create_connection(("127.0.0.1", place), 5) for place in (port, tls) * 45]
    try:
        for _ in range(20):
            assert dns(port, "long.example") == ["192.0.2.2"]
        for number in range(3):
            assert asked(port, f"new{number}.example").header.rcode in (0, SERVFAIL)
        until("it waits for descriptors", lambda: rests(running.child.pid))
    finally:
        for sock in crowd:
            sock.close()
    until("TCP is served again", lambda: over_tcp(port, "new5.example") == ["192.0.2.3"])
    assert dns(port, "new6.example") == ["192.0.2.3"]
    assert running.run("status").returncode == 0
    no_more(running, 20)


def test_not_one_descriptor_for_a_question_to_others(running: Running) -> None:
    """What is known is told, stale or not; the rest goes through a socket left from before, or fails at once."""
    port = running.port
    assert dns(port, "brief.example") == ["192.0.2.1"]
    assert dns(port, "long.example") == ["192.0.2.2"]
    limits = resource.prlimit(running.child.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(running.child.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        time.sleep(1.1)
        assert dns(port, "brief.example") == ["192.0.2.1"]
        for _ in range(20):
            assert dns(port, "long.example") == ["192.0.2.2"]
        for number in range(5):
            assert asked(port, f"new{number}.example").header.rcode in (0, SERVFAIL)
    finally:
        resource.prlimit(running.child.pid, resource.RLIMIT_NOFILE, limits)
    assert dns(port, "new6.example") == ["192.0.2.3"]
    no_more(running, 20)


# The disk

FAKE = """
dns:
  listen: 127.0.0.1:{port}
  nameserver: [udp://127.0.0.1:{upstream}]
  enhanced-mode: fake-ip
  fake-ip-range: 198.18.0.0/16
  fake-ip-filter: [long.example]
  use-system-hosts: false
  query-log: {{privacy: full}}
"""


def everybody(query: bytes) -> bytes:
    """Knows one address for all names."""
    asked = dnslib.DNSRecord.parse(query)
    return bytes(asked.replyZone(f"{asked.q.qname} 600 A 192.0.2.9").pack())


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("needs root: mounts a small file system")
    place.mkdir(mode=0o700)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, f"size={size},mode=0700".encode()) == 0
    try:
        yield place
    finally:
        libc.umount2(os.fsencode(place), 2)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def is_fake(addresses: list[str]) -> bool:
    return [address[:7] for address in addresses] == ["198.18."]


@pytest.mark.parametrize(("size", "survive"), [("256k", 0), ("2m", 1000)])
def test_a_disk_that_is_full(tmp_path: Path, size: str, survive: int) -> None:
    """Fake addresses that were told stay, some new ones have room that was kept, the rest get no answer and no real
    address, until there is room again."""
    port = free_port()
    with small_disk(tmp_path / "home", size) as disk, upstream(everybody) as behind:
        text = FAKE.format(port=port, upstream=behind)
        with server(tmp_path, text, port) as running:
            kept = {f"kept{number}.example": dns(port, f"kept{number}.example") for number in range(50)}
            assert all(map(is_fake, kept.values()))
            filler = fill(disk)
            told = {}
            for number in range(survive + 600):
                name = f"{number}.{'in-the-midst-of-want.' * 8}example"
                if asked(port, name).header.rcode == SERVFAIL:
                    break
                told[name] = dns(port, name)
            assert all(map(is_fake, told.values()))
            assert survive <= len(told) < survive + 600
            kept |= told
            assert dns(port, "kept7.example") == kept["kept7.example"]
            assert "No space left" in running.run("status").stdout
            assert running.stop() == 0
            assert running.log.read_text().count("fake addresses cannot be written down") == 1
        with server(tmp_path, text, port) as running:
            assert {name: dns(port, name) for name in kept} == kept
            assert asked(port, name).header.rcode == SERVFAIL
            filler.unlink()
            kept["later.example"] = dns(port, "later.example")
            assert is_fake(kept["later.example"])
            assert running.stop(signal.SIGKILL) == -signal.SIGKILL
        with server(tmp_path, text, port) as running:
            assert {name: dns(port, name) for name in kept} == kept
        no_more(running, 30)


def test_a_home_that_cannot_be_written_to_is_said_at_the_start(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(FAKE.format(port=free_port(), upstream=1))
    with small_disk(tmp_path / "home", "64k") as disk:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mount(b"none", os.fsencode(disk), None, 0x21, None) == 0  # MS_REMOUNT, MS_RDONLY
        done = nsprogram.cyfs_ns("serve", "-c", config, "--home", disk)
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


HASTE = """
import cyfs_ns.io.serving as serving
serving._SAVE_SECONDS = serving._SYNC_SECONDS = serving._STATISTICS_SECONDS = serving._LUMP_SECONDS = 0.03
"""


def test_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under load, in the midst of writing everything: it starts again, and no address stands for another name."""
    monkeypatch.setattr(nsprogram, "CODE", HASTE + nsprogram.CODE)
    dice = random.Random(7)
    port, told, names = free_port(), {}, 0
    with upstream(everybody) as behind:
        for _ in range(ROUNDS):
            with server(tmp_path, FAKE.format(port=port, upstream=behind), port) as running:
                for name in dice.sample(sorted(told), min(len(told), 50)):
                    assert dns(port, name) == told[name]
                assert dns(port, "long.example") == ["192.0.2.9"]
                end = time.monotonic() + dice.uniform(0.02, 0.25)
                while time.monotonic() < end:
                    told[f"name{names}.example"] = dns(port, f"name{names}.example")
                    names += 1
                running.stop(signal.SIGKILL)
        with server(tmp_path, FAKE.format(port=port, upstream=behind), port) as running:
            assert {name: dns(port, name) for name in told} == told
    assert len({addresses[0] for addresses in told.values()}) == len(told) > ROUNDS
    assert "Traceback" not in running.log.read_text()
    assert '"warning"' not in running.log.read_text()


# Changes


class Asking(threading.Thread):
    """Asks one question after the other, new and known ones, until it is told to stop; ``lost`` were not answered."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._over = threading.Event()
        self.asked = self.lost = 0

    def run(self) -> None:
        while not self._over.is_set():
            self.asked += 1
            try:
                good = dns(self._port, "long.example" if self.asked % 3 else f"{self.asked}.long.example")
            except (OSError, AssertionError):
                good = []
            self.lost += not good

    def stop(self) -> None:
        self._over.set()
        self.join()


def reload_by_api(running: Running) -> int:
    call = http.client.HTTPConnection("localhost")
    call.sock = socket.socket(socket.AF_UNIX)
    call.sock.settimeout(30)
    call.sock.connect(str(running.home / "control.sock"))
    call.request("POST", "/reload")
    status = call.getresponse().status
    call.close()
    return status


def test_many_reloads_at_once_lose_no_question(tmp_path: Path) -> None:
    port = free_port()
    with upstream(everybody) as behind, socket.create_server(("127.0.0.1", 0)) as taken:
        good = CONFIG.format(port=port, tls=free_port(), upstream=behind)
        other = CONFIG.format(port=port, tls=free_port(), upstream=behind) + "  block: [+.ads.example]\n"
        texts = [good, other, "dns: [broken", CONFIG.format(port=port, tls=taken.getsockname()[1], upstream=behind)]
        with server(tmp_path, good, port) as running:
            asking = Asking(port)
            asking.start()
            said: list[int] = []
            for text in [*texts, good]:
                draft = running.config.with_suffix(".new")
                draft.write_text(text)
                draft.replace(running.config)
                calls = [threading.Thread(target=lambda: said.append(reload_by_api(running))) for _ in range(10)]
                for call in calls:
                    call.start()
                    running.child.send_signal(signal.SIGHUP)
                for call in calls:
                    call.join()
            asking.stop()
            assert said == [200] * 20 + [400] * 20 + [200] * 10
            assert asking.lost == 0 < asking.asked
            assert dns(port, "x.ads.example") == ["192.0.2.9"]
            assert "Traceback" not in running.log.read_text()


def test_a_change_that_is_said_during_the_start_comes_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    early = """
import os, signal
from cyfs_ns.io.serving import Serving
stage = Serving.stage
async def told(*words):
    Serving.stage = stage
    os.kill(os.getpid(), signal.SIGHUP)
    return await stage(*words)
Serving.stage = told
"""
    monkeypatch.setattr(nsprogram, "CODE", early + nsprogram.CODE)
    port = free_port()
    text = CONFIG.format(port=port, tls=free_port(), upstream=1)
    with server(tmp_path, text, port) as running:
        until("it is read again", lambda: '"reloaded"' in running.log.read_text())
        assert running.stop() == 0


@pytest.mark.parametrize("wrong", ["pipe", "/dev/zero", "."])
def test_a_list_that_is_no_file_holds_up_nobody(tmp_path: Path, wrong: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    port = free_port()
    with upstream(everybody) as behind:
        text = CONFIG.format(port=port, tls=free_port(), upstream=behind)
        text += f"  lists: {{ads: {{path: '{tmp_path / wrong}'}}}}\n"
        with server(tmp_path, text, port) as running:
            assert dns(port, "long.example") == ["192.0.2.9"]
            assert "is no regular file" in running.run("lists").stdout
            assert running.stop() == 0
    assert "Traceback" not in running.log.read_text()


def test_the_end_does_not_wait_for_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = """
from cyfs_ns.io.listbuild import ListKeeper
ListKeeper.__init__.__kwdefaults__["child"] = ("sleep", "60")
"""
    monkeypatch.setattr(nsprogram, "CODE", slow + nsprogram.CODE)
    port = free_port()
    (tmp_path / "ads").write_text("||ads.example^\n")
    with upstream(everybody) as behind:
        text = CONFIG.format(port=port, tls=free_port(), upstream=behind)
        with server(tmp_path, text, port) as running:
            running.config.write_text(text + f"  lists: {{ads: {{path: '{tmp_path}/ads'}}}}\n")
            running.child.send_signal(signal.SIGHUP)
            until("the build has begun", lambda: children(running.child.pid))
            assert dns(port, "long.example") == ["192.0.2.9"]
            assert running.stop() == 0
    assert "Traceback" not in running.log.read_text()


def children(pid: int) -> str:
    return "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
