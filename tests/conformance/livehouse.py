"""A running name server of ours in a process of its own, with a door of every kind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from asking import LOOPBACK, Asker, asker

from tests.freeport import free_port

ROOT = Path(__file__).parents[2]
TROUBLE = ("Traceback", "could not be answered", "ERROR")


@dataclass
class LiveHouse:
    """``log`` holds what the server has said."""

    ports: Mapping[str, int]
    child: subprocess.Popen[bytes]
    config: Path
    home: Path
    log: Path

    def asker(self, transport: str, host: str = LOOPBACK) -> Asker:
        return asker(transport, self.ports, host)

    def ask(self, query: bytes, transport: str = "udp") -> bytes | None:
        with self.asker(transport) as one:
            return one.ask(query)

    @property
    def rss(self) -> int:
        """Resident octets of the server, its worker processes included."""
        pages = 0
        for pid in (self.child.pid, *self.children()):
            with suppress(FileNotFoundError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def children(self) -> list[int]:
        """Processes of the server's own."""
        found: list[int] = []
        for task in Path(f"/proc/{self.child.pid}/task").iterdir():
            with suppress(FileNotFoundError):
                found += map(int, (task / "children").read_text().split())
        return found

    def assert_well(self) -> None:
        """It lives, and nothing was raised past a door."""
        assert self.child.poll() is None, self.log.read_text()
        told = self.log.read_text()
        assert not [line for line in told.splitlines() if any(word in line for word in TROUBLE)], told

    def kill(self) -> None:
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()


class Place(NamedTuple):
    """A house and the address it is asked at."""

    house: LiveHouse
    host: str

    def asker(self, transport: str) -> Asker:
        return self.house.asker(transport, self.host)


@contextmanager
def live_house(
    place: Path,
    settings: Mapping[str, object],
    *,
    ports: Mapping[str, int] | None = None,
    inside: Sequence[str] = (),
    trust: Path | None = None,
) -> Iterator[LiveHouse]:
    """Start with these keys of ``dns``; ``place`` keeps the state, so the same place twice is a restart.

    ``inside``: a command that runs the one behind it, in a namespace for instance.  ``trust``: a file of certificates
    that takes the place of the system's.
    """
    ports = ports or {kind: free_port() for kind in ("plain", "tls", "https")}
    dns = {
        "listen": everywhere(ports["plain"]),
        "listen-tls": everywhere(ports["tls"]),
        "listen-https": everywhere(ports["https"]),
        "use-system-hosts": False,
        **settings,
    }
    place.mkdir(parents=True, exist_ok=True)
    config, log = place / "config.yaml", place / "log"
    config.write_text(json.dumps({"dns": dns}))
    program = [sys.executable, str(Path(__file__).with_name("serve.py"))]
    command = [*inside, *program, str(config), str(place / "home")]
    around = {**os.environ, "PYTHONPATH": str(ROOT), **({"SSL_CERT_FILE": str(trust)} if trust else {})}
    with log.open("ab") as output:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, cwd=ROOT, env=around)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n", log.read_text()
        yield LiveHouse(ports, child, config, place / "home", log)
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def everywhere(port: int) -> list[str]:
    return [f"127.0.0.1:{port}", f"[::1]:{port}"]


def eventually(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.02)
