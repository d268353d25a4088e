"""A wall clock that jumps: by decades when a router without a battery hears of the time, by an hour when somebody errs.

Deadlines are the monotonic clock's.  The wall clock is for people and for what is read again after a restart, so a jump
may change what is displayed and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import dnslib
import pytest
from cryptography.x509 import load_pem_x509_certificate

from tests.attack.outside import dns, rests
from tests.cyfs_gateway.io.inprocess import dead_port
from tests.cyfs_ns.dnsfakes import Counted, zone
from tests.cyfs_ns.nsprogram import Running, server, upstream
from tests.e2e.e2e_house import Gateway, gateway, until
from tests.freeport import free_port
from tests.webserver import Quiet, WebServer

YEARS = 30 * 365 * 86400
JUMPS = {"30 years on": YEARS, "30 years back": -YEARS, "an hour on": 3600, "an hour back": -3600}
TICK = 1.1
"""Seconds in which everything that looks at the clock once a second has looked."""


class WallClock:
    """The wall clock of programs started from here on."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.write_bytes(bytes(8))
        with place.open("r+b") as file:
            self._wrong_by = mmap.mmap(file.fileno(), 8)

    def jump(self, by: int) -> None:
        """Wrong by so many seconds, running programs too."""
        self._wrong_by[:8] = struct.pack("=q", by)

    def to_1970(self) -> None:
        self.jump(5 - int(time.time()))

    def now(self) -> float:
        return float(time.time() + struct.unpack("=q", self._wrong_by[:8])[0])


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (Debian packages gcc, libc6-dev)")
    made = tmp_path_factory.mktemp("shim") / "wrongclock.so"
    source = Path(__file__).with_name("wrongclock.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", made, source], check=True)
    return made


@pytest.fixture
def clock(shim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    place = tmp_path / "clock"
    made = WallClock(place)
    monkeypatch.setenv("WRONG_CLOCK", str(place))
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    return made


class Library(WebServer):
    """A web server that has a rule set for whoever asks, and counts them by path."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        library = self

        class Answer(Quiet):
            def do_GET(self) -> None:
                library.asked[self.path] += 1
                body = b"payload: ['+.listed.test']\n"
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_GET

        super().__init__(Answer)


@pytest.fixture
def library() -> Iterator[Library]:
    made = Library()
    yield made
    made.close()


def dns_over_tls(port: int, name: str) -> list[str]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    query = dnslib.DNSRecord.question(name).pack()
    with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain) as sock:
        sock.sendall(len(query).to_bytes(2) + query)
        reply = sock.makefile("rb")
        return [str(r.rdata) for r in dnslib.DNSRecord.parse(reply.read(int.from_bytes(reply.read(2)))).rr]


class Mirror:
    """Echoes TCP and UDP on one port."""

    def __init__(self) -> None:
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._packets = socket.socket(type=socket.SOCK_DGRAM)
        self._packets.bind(("127.0.0.1", self.port))
        for work in (self._accept, self._answer):
            threading.Thread(target=work, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._echo, args=(self._listener.accept()[0],), daemon=True).start()

    @staticmethod
    def _echo(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(65536):
                sock.sendall(data)

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, client = self._packets.recvfrom(65536)
                if client is None:
                    return  # shut down
                self._packets.sendto(data, client)

    def close(self) -> None:
        for sock in (self._listener, self._packets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    made = Mirror()
    yield made
    made.close()


class Client:
    """A SOCKS5 client with a connection and an association to the mirror, both kept."""

    def __init__(self, port: int, mirror: int) -> None:
        self._place = b"\0\0\0\x01\x7f\0\0\x01" + mirror.to_bytes(2)
        self.stream = self._asked(port, 1, mirror)[0]
        self.control, relay = self._asked(port, 3, 0)
        self.packets = socket.socket(type=socket.SOCK_DGRAM)
        self.packets.settimeout(5)
        self.packets.connect(("127.0.0.1", relay))

    @staticmethod
    def _asked(port: int, command: int, to: int) -> tuple[socket.socket, int]:
        sock = socket.create_connection(("127.0.0.1", port), 5)
        sock.sendall(b"\5\1\0\5" + bytes((command,)) + b"\0\1\x7f\0\0\1" + to.to_bytes(2))
        said = b""
        while len(said) < 12:
            said += sock.recv(12 - len(said)) or pytest.fail("the gateway hung up")
        assert said[:4] == b"\5\0\5\0"
        return sock, int.from_bytes(said[10:12])

    def both_carry(self, word: bytes) -> None:
        self.stream.sendall(word)
        assert self.stream.recv(100) == word
        self.packets.send(self._place + word)
        assert self.packets.recv(100)[-len(word) :] == word

    def close(self) -> None:
        for sock in (self.stream, self.control, self.packets):
            sock.close()


def seconds_ago(moment: str, now: float) -> float:
    return now - datetime.fromisoformat(moment).timestamp()


def house(library: Library, mixed: int, names: int, tls: int, behind: int) -> dict[str, Any]:
    def provided(path: str, interval: int) -> dict[str, Any]:
        url = f"{library.address}/{path}"
        return {"type": "http", "behavior": "domain", "url": url, "interval": interval, "proxy": "DIRECT"}

    return {
        "mixed-port": mixed,
        "ipv6": False,
        "dns": {
            "enable": True,
            "listen": f"127.0.0.1:{names}",
            "listen-tls": f"127.0.0.1:{tls}",
            "nameserver": [f"udp://127.0.0.1:{behind}"],
            "enhanced-mode": "fake-ip",
            "fake-ip-filter": ["+.real.example"],
            "use-system-hosts": False,
        },
        "proxy-groups": [
            {
                "name": "auto", "type": "url-test", "proxies": ["DIRECT"], "url": f"{library.address}/check",
                "interval": 1, "lazy": False,
            }
        ],
        "rule-providers": {"list": provided("list", 3600), "often": provided("often", 1)},
        "rules": ["RULE-SET,list,REJECT", "RULE-SET,often,REJECT", "MATCH,auto"],
    }  # fmt: skip


def test_a_gateway_whose_clock_jumps(clock: WallClock, tmp_path: Path, mirror: Mirror, library: Library) -> None:
    mixed, names, tls = free_port(), free_port(), free_port()
    with (
        upstream(zone("a.real.example. 600 A 192.0.2.1")) as behind,
        gateway(tmp_path / "home", house(library, mixed, names, tls, behind)) as running,
    ):
        client = Client(mixed, mirror.port)
        client.both_carry(b"before")
        fake = dns(names, "www.example")
        assert dns(names, "a.real.example") == ["192.0.2.1"]
        began = time.monotonic()
        for word, by in {**JUMPS, "as it was": 0}.items():
            clock.jump(by)
            time.sleep(TICK)
            client.both_carry(word.encode())
            assert dns(names, "www.example") == fake
            assert dns(names, "a.real.example") == dns_over_tls(tls, "a.real.example") == ["192.0.2.1"]
            now = time.time() + by
            status = running.api("/cyfs/status")
            assert 0 < status["uptime"] < 100, word
            assert abs(seconds_ago(status["started"], now)) < 100, word
            live = running.connections()
            assert len(live) == 2
            assert all(-1 < seconds_ago(one["start"], now) < 100 for one in live), word
            Client(mixed, mirror.port).close()
        until("an interval passed", lambda: library.asked["/often"] >= 4)
        took = time.monotonic() - began
        assert "updatedAt" in running.api("/providers/rules")["providers"]["list"]
        assert library.asked["/list"] == 1
        assert 2 <= library.asked["/check"] <= took + 3
        assert library.asked["/often"] <= took + 3
        pid = child_of(running)
        until("it waits for something", lambda: rests(pid))
        client.close()
    well(running.log)


def test_a_router_without_a_clock_of_its_own(
    clock: WallClock, tmp_path: Path, mirror: Mirror, library: Library
) -> None:
    """It starts in 1970, with a list that was saved this year, and hears of the time later on."""
    mixed, names, tls = free_port(), free_port(), free_port()
    config = house(library, mixed, names, tls, dead_port())
    with gateway(tmp_path / "home", config):
        until("the list is there", lambda: library.asked["/list"] == 1)
        until("it is saved", lambda: list((tmp_path / "home/rules").glob("*")))
    clock.to_1970()
    library.asked.clear()
    (tmp_path / "home/dns/doors.pem").unlink()
    with gateway(tmp_path / "home", config) as running:
        until("a list from the future is looked for", lambda: library.asked["/list"] == 1)
        client = Client(mixed, mirror.port)
        fake = dns(names, "www.example")
        clock.jump(0)
        time.sleep(TICK)
        client.both_carry(b"after")
        assert dns(names, "www.example") == fake
        assert 0 < running.api("/cyfs/status")["uptime"] < 100
        certificate = load_pem_x509_certificate((tmp_path / "home/dns/doors.pem").read_bytes())
        assert certificate.not_valid_before_utc.timestamp() < time.time() < certificate.not_valid_after_utc.timestamp()
        client.close()
        assert library.asked["/list"] == 1
    well(running.log)


HOUSE = """
dns:
  listen: 127.0.0.1:{port}
  nameserver: [udp://127.0.0.1:{upstream}]
  enhanced-mode: fake-ip
  fake-ip-range: 198.18.0.0/24
  fake-ip-filter: [+.real.example]
  lists: {{ads: {{url: '{url}/list', format: clash-yaml, interval: 1h}}}}
  lease-files: [{leases}]
  domain: lan
  use-system-hosts: false
  query-log: {{privacy: full}}
"""
NAMES = zone(*(f"{letter}.real.example. 600 A 192.0.2.{number}" for number, letter in enumerate("abcd", 1)))


@contextlib.contextmanager
def name_server(place: Path, library: Library, port: int, behind: int) -> Iterator[Running]:
    text = HOUSE.format(port=port, upstream=behind, url=library.address, leases=place / "leases")
    with server(place, text, port) as running:
        yield running
        assert running.stop() == 0
    well(running.log)


def status(running: Running) -> Any:
    done = running.run("status", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_name_server_whose_clock_jumps(clock: WallClock, tmp_path: Path, library: Library) -> None:
    expires = int(time.time()) + 7200
    (tmp_path / "leases").write_text(f"{expires} aa:bb:cc:dd:ee:01 192.168.1.7 laptop *\n")
    heard = Counted(NAMES)
    with upstream(heard) as behind, name_server(tmp_path, library, port := free_port(), behind) as running:
        fake = dns(port, "www.example")
        assert fake == ["198.18.0.4"]
        assert dns(port, "a.real.example") == ["192.0.2.1"]
        asked = len(heard.queries)
        for word, by in {"30 years on": YEARS, "an hour on": 3600, "30 years back": -YEARS}.items():
            clock.jump(by)
            time.sleep(TICK)
            assert dns(port, "www.example") == fake, word
            assert dns(port, "a.real.example") == ["192.0.2.1"], word
            assert (dns(port, "laptop.lan") == ["192.168.1.7"]) == (by < YEARS), word
        assert len(heard.queries) == asked
        assert library.asked["/list"] == 1
        clock.jump(YEARS)
        assert 0 < status(running)["uptime"] < 100
        until("it waits for something", lambda: rests(running.child.pid))


@pytest.mark.parametrize("by", [YEARS, -YEARS, None], ids=["saved long ago", "saved in the future", "in 1970"])
def test_files_of_a_name_server_from_another_time(
    clock: WallClock, tmp_path: Path, library: Library, by: int | None
) -> None:
    """What was saved serves or is asked for anew; no fake address changes; lists are looked for once."""

    def looked_for() -> bool:
        (state,) = json.loads((running.home / "lists/state.json").read_text()).values()
        return abs(state["checked"] - clock.now()) < 100

    (tmp_path / "leases").touch()
    names = [f"{number}.example" for number in range(20)]
    port = free_port()
    with upstream(NAMES) as behind:
        with name_server(tmp_path, library, port, behind) as running:
            fakes = [dns(port, name) for name in names]
            assert dns(port, "a.real.example") == ["192.0.2.1"]
            until("the list is there", looked_for)
        if by is None:
            clock.to_1970()
        else:
            clock.jump(by)
        library.asked.clear()
        for _ in range(2):  # the second time with what it saved itself
            with name_server(tmp_path, library, port, behind) as running:
                assert [dns(port, name) for name in reversed(names)] == fakes[::-1]
                assert dns(port, "a.real.example") == ["192.0.2.1"]
                until("the list is looked for", looked_for)
                assert 0 < status(running)["uptime"] < 100
        assert library.asked["/list"] == 1
        clock.jump(0)
        with name_server(tmp_path, library, port, behind) as running:
            assert [dns(port, name) for name in names] == fakes
            assert dns(port, "b.real.example") == ["192.0.2.2"]


def child_of(running: Gateway) -> int:
    said = running.log.read_text()
    return int(next(json.loads(line)["pid"] for line in said.splitlines() if '"pid"' in line))


def well(log: Path) -> None:
    said = log.read_text()
    assert not [word for word in ("Traceback", "nobody foresaw", "failed", "ERROR") if word in said], said
