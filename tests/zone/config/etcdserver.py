"""Real etcd on loopback: one member, or several that form a quorum; killed and started again as a test likes."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import trio
from freeport import free_port

from zone.config.faults import Code, ConfigError
from zone.io.config.etcd import EtcdBackend

NAMESPACE = "/buckyos/home.example/"


class Cluster:
    """Members that know each other, none of which runs yet."""

    def __init__(self, directory: Path, members: int = 1, **options: str) -> None:
        program = shutil.which("etcd")
        if program is None:
            pytest.skip("needs etcd (Debian's etcd-server)")
        self._program = program
        self._directory = directory
        self._peers = [f"http://127.0.0.1:{free_port()}" for _ in range(members)]
        self.ports = [free_port() for _ in range(members)]
        self._options = options
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *members: int) -> None:
        """Those members, or all of them."""
        for member in members or range(len(self.ports)):
            ours = f"http://127.0.0.1:{self.ports[member]}"
            options = {
                "name": f"ood{member}",
                "data-dir": str(self._directory / f"ood{member}"),
                "listen-client-urls": ours,
                "advertise-client-urls": ours,
                "listen-peer-urls": self._peers[member],
                "initial-advertise-peer-urls": self._peers[member],
                "initial-cluster": ",".join(f"ood{number}={peer}" for number, peer in enumerate(self._peers)),
                "initial-cluster-token": self._directory.name,
                "max-txn-ops": "2048",
                "logger": "zap",
                **self._options,
            }
            with (self._directory / f"ood{member}.log").open("ab") as log:
                self._running[member] = subprocess.Popen(
                    [self._program, *(f"--{name}={value}" for name, value in options.items())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )

    def signal(self, number: signal.Signals, *members: int) -> None:
        """Send it to those members, or to all that run; what it kills is waited for."""
        for member in members or tuple(self._running):
            self._running[member].send_signal(number)
            if number in (signal.SIGKILL, signal.SIGTERM):
                self._running[member].wait()
                del self._running[member]

    def close(self) -> None:
        self.signal(signal.SIGKILL)

    def open(self, *members: int, namespace: str = NAMESPACE, patience: float = 5.0) -> EtcdBackend:
        """The store by those members, or by all."""
        ports = [self.ports[member] for member in members] or self.ports
        return EtcdBackend([f"127.0.0.1:{port}" for port in ports], namespace, patience)

    def wait_for_quorum(self) -> None:
        """Until the first that is asked can answer for all."""

        async def asked() -> None:
            with trio.fail_after(120):
                backend = self.open()
                await until_answered(backend)
                await backend.aclose()

        trio.run(asked)


async def until_answered(backend: EtcdBackend) -> int:
    """The revision that the quorum is at, when there is one."""
    while True:
        try:
            return (await backend.read([])).revision
        except ConfigError as fault:
            assert fault.code is Code.UNAVAILABLE
