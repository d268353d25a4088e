"""The installed program as its owner meets it: started, told to change, starved, killed and started again."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from inprocess import dead_port

PROGRAM = Path(sys.executable).with_name("cyfs-gateway")
CONFIG = """
ipv6: false
dns: {{use-system-hosts: false}}
proxy-groups: [{{name: choice, type: select, proxies: [DIRECT, REJECT]}}]
{listener}: {port}
rules: ["{rule}"]
"""


class Program:
    """One gateway process and its home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.file = home / "config.yaml"
        self.log = home / "log"
        self.port = dead_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.write()

    def write(self, rule: str = "MATCH,DIRECT", *, port: int = 0, listener: str = "mixed-port", more: str = "") -> None:
        self.file.write_text(CONFIG.format(port=port or self.port, rule=rule, listener=listener) + more)

    @contextmanager
    def running(self, descriptors: int = 0) -> Iterator[Program]:
        def starve() -> None:
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        with self.log.open("ab") as log:
            told = log.tell()
            command = [str(PROGRAM), "run", "-c", str(self.file), "--home", str(self.home)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=starve)
        try:
            # The last thing that is made is what commands talk to.
            eventually(lambda: self.accepts() and b'"ready"' in self.log.read_bytes()[told:], self)
            yield self
        finally:
            self.process.kill()
            self.process.wait()

    def accepts(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), 5).close()
        except ConnectionRefusedError:
            return False
        return True

    def tell(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(PROGRAM), *words, "--home", str(self.home)], capture_output=True, text=True, timeout=30, check=False
        )


def eventually(holds: Callable[[], object], program: Program) -> None:
    deadline = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline, program.log.read_text()
        time.sleep(0.02)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def mirror() -> Iterator[int]:
    """A TCP server that takes what comes; connections wait in its queue."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        yield listener.getsockname()[1]


def ask(port: int, to: int) -> tuple[socket.socket, int]:
    """A SOCKS5 request; the connection and the reply code, -1 when there was none."""
    sock = socket.create_connection(("127.0.0.1", port), 10)
    try:
        sock.sendall(b"\x05\x01\x00\x05\x01\x00\x01\x7f\0\0\x01" + to.to_bytes(2, "big"))
        got = b""
        while len(got) < 12:
            chunk = sock.recv(12 - len(got))
            if not chunk:
                return sock, -1
            got += chunk
    except (ConnectionError, TimeoutError):
        return sock, -1
    return sock, got[3]


def code(port: int, to: int) -> int:
    sock, found = ask(port, to)
    sock.close()
    return found


@pytest.mark.parametrize("how", ["signal", "command"])
def test_reload_by_signal_and_by_command(program: Program, mirror: int, how: str) -> None:
    with program.running() as running:
        kept, found = ask(running.port, mirror)
        assert found == 0
        program.write("MATCH,REJECT", listener="socks-port")
        if how == "signal":
            assert running.process is not None
            running.process.send_signal(signal.SIGHUP)
        else:
            told = running.tell("reload")
            assert told.returncode == 0, told.stderr
        eventually(lambda: code(running.port, mirror) == 2, running)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            program.write("MATCH,DIRECT", port=taken.getsockname()[1])
            told = running.tell("reload")
            assert told.returncode != 0
            assert "port" in told.stderr + told.stdout
        assert code(running.port, mirror) == 2
        kept.sendall(b"still open")
        kept.settimeout(0.05)
        with pytest.raises(TimeoutError):
            kept.recv(1)
        kept.close()


def test_killed_and_started_again(program: Program, mirror: int) -> None:
    program.write("MATCH,choice")
    for expected in (0, 2, 2):
        with program.running() as running:
            assert code(running.port, mirror) == expected
            second = subprocess.run(
                [str(PROGRAM), "run", "-c", str(program.file), "--home", str(program.home)],
                capture_output=True, text=True, timeout=30, check=False,
            )  # fmt: skip
            assert second.returncode == 1
            assert "another gateway" in second.stderr + second.stdout
            if expected == 0:
                told = running.tell("select", "choice", "REJECT")
                assert told.returncode == 0, told.stderr
            eventually(lambda: running.tell("status").returncode == 0, running)
            # Leaving the block kills it with SIGKILL: socket and lock are left as they are.


def test_terminated_it_ends_well(program: Program) -> None:
    with program.running() as running:
        assert running.process is not None
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(15) == 0
    assert "Traceback" not in program.log.read_text()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_while_it_waits_to_begin_it_ends_well(program: Program, mirror: int, how: signal.Signals) -> None:
    program.write("GEOIP,CN,DIRECT", more=f"geox-url: {{mmdb: 'http://127.0.0.1:{mirror}/geo'}}\n")
    with program.log.open("wb") as log:
        command = [str(PROGRAM), "run", "-c", str(program.file), "--home", str(program.home)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        eventually(lambda: "downloading" in program.log.read_text(), program)
        process.send_signal(how)
        assert process.wait(15) == 0, program.log.read_text()
    finally:
        process.kill()
        process.wait()
    told = program.log.read_text()
    assert "the gateway was stopped before" in told and '"error"' not in told and "Traceback" not in told


@pytest.mark.parametrize("impatience", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_told_again_and_again_it_ends_well(program: Program, impatience: signal.Signals) -> None:
    # With fake addresses the end takes two seconds, lest clients are left with what leads nowhere.
    program.file.write_text(
        f"mixed-port: {program.port}\n"
        f"dns: {{enable: true, listen: '127.0.0.1:{dead_port()}', enhanced-mode: fake-ip, use-system-hosts: false}}\n"
        "proxy-groups: [{name: choice, type: select, proxies: [DIRECT]}]\n"
    )
    with program.running() as running:
        assert running.process is not None
        eventually(lambda: '"ready"' in program.log.read_text(), program)
        running.process.send_signal(signal.SIGINT)
        while running.process.poll() is None:
            running.process.send_signal(impatience)
            time.sleep(0.02)
        assert running.process.returncode == 0, program.log.read_text()
    assert "Traceback" not in program.log.read_text()
    assert (program.home / "selected.json").exists()


def test_a_reload_that_waits_for_others_does_not_keep_it_from_ending(program: Program, mirror: int) -> None:
    with program.running() as running:
        assert running.process is not None
        eventually(lambda: '"ready"' in program.log.read_text(), program)
        program.write("GEOIP,CN,DIRECT", more=f"geox-url: {{mmdb: 'http://127.0.0.1:{mirror}/geo'}}\n")
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: "downloading" in program.log.read_text(), program)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(15) == 0


def test_out_of_descriptors_it_pauses_and_recovers(program: Program, mirror: int) -> None:
    with program.running(descriptors=64) as running:
        assert running.process is not None
        eventually(lambda: '"ready"' in program.log.read_text(), program)
        kept, found = ask(running.port, mirror)
        assert found == 0
        idle = [socket.create_connection(("127.0.0.1", running.port), 10) for _ in range(80)]
        eventually(lambda: "stops accepting" in program.log.read_text(), program)
        kept.sendall(b"flows that live go on")
        for sock in idle:
            sock.close()
        eventually(lambda: code(running.port, mirror) == 0, program)
        assert running.process.poll() is None
        kept.close()
    assert "nobody foresaw" not in program.log.read_text()
    assert "handler failed" not in program.log.read_text()
