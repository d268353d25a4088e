"""The installed ``cyfs-ns`` as a process, and an upstream of a few lines behind it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cyfs_ns.dnsfakes import Handler

CODE = "from cyfs_ns.io.cli import main; main(prog_name='cyfs-ns')"


def cyfs_ns(*words: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-c", CODE, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
    )


@contextmanager
def upstream(handler: Handler, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A UDP server on an IPv4 address, in a thread; its port."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((host, port))
        sock.settimeout(0.05)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    query, client = sock.recvfrom(4096)
                except TimeoutError:
                    continue
                reply = handler(query)
                if reply is not None:
                    sock.sendto(reply, client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            over.set()
            thread.join()


class Running:
    """A server that is ready."""

    def __init__(self, child: subprocess.Popen[bytes], config: Path, home: Path, port: int, log: Path) -> None:
        self.child, self.config, self.home, self.port, self.log = child, config, home, port, log

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command for this server."""
        return cyfs_ns(*words, "--home", self.home)

    def resolve(self, *words: str) -> subprocess.CompletedProcess[str]:
        return cyfs_ns("resolve", *words, f"@127.0.0.1:{self.port}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.child.send_signal(number)
        return self.child.wait(20)


@contextmanager
def server(folder: Path, text: str, port: int) -> Iterator[Running]:
    """``cyfs-ns serve`` with the configuration ``text``, ready to answer (as it tells systemd)."""
    config, home, log = folder / "config.yaml", folder / "home", folder / "log"
    config.write_text(text)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, log.open("ab") as output:
        place = folder / "notify"
        place.unlink(missing_ok=True)
        notify.bind(str(place))
        notify.settimeout(30)
        child = subprocess.Popen(
            [sys.executable, "-c", CODE, "serve", "-c", str(config), "--home", str(home)],
            stderr=output,
            env={**os.environ, "NOTIFY_SOCKET": str(place)},
        )
        try:
            assert notify.recv(100) == b"READY=1", log.read_text()
            yield Running(child, config, home, port, log)
        finally:
            child.kill()
            child.wait()
