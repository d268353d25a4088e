"""Two machines of one owner, and the program at their command lines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from inprocess import Living
from names_house import Behind
from peering import LAPTOP, NAS, PHOTOS, PI, machine, published

from tests.freeport import free_port

PROGRAM = [sys.executable, "-c", "from cyfs_gateway.io.cli import main; main()"]


@dataclass(frozen=True)
class Pair:
    """``photos`` listens, ``laptop`` dials it by name."""

    photos: Living
    laptop: Living
    base: Path
    dns: Behind

    def argv(self, who: str, *words: str) -> list[str]:
        return [*PROGRAM, "--home", str(self.base / who), *words]

    async def run(
        self, who: str, *words: str, stdin: bytes = b"", seconds: float = 30
    ) -> subprocess.CompletedProcess[bytes]:
        """A command until it ends."""
        with trio.fail_after(seconds):
            done: subprocess.CompletedProcess[bytes] = await trio.run_process(
                self.argv(who, *words), stdin=stdin, capture_stdout=True, capture_stderr=True, check=False
            )
        return done

    @asynccontextmanager
    async def running(self, who: str, *words: str) -> AsyncIterator[trio.Process]:
        """A command that is killed at last."""
        async with program(self.argv(who, *words)) as process:
            yield process


@asynccontextmanager
async def program(argv: list[str]) -> AsyncIterator[trio.Process]:
    """Any program that is killed at last."""
    process = await trio.lowlevel.open_process(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            await pipe.aclose()


@asynccontextmanager
async def pair(
    base: Path, more: str = "", rules: str = "['MATCH,DIRECT']", laptop: str = "", versions: str = "[5, 4]"
) -> AsyncIterator[Pair]:
    """``more`` goes into the section ``rtcp`` of photos, ``laptop`` into that of the other; both speak ``versions``."""
    port = free_port()
    more, second_config = f"  versions: {versions}\n{more}", f"rtcp:\n  versions: {versions}\n{laptop}\n"
    config = f"rtcp:\n  listen: 127.0.0.1:{port}\n{more}\nrules: {rules}\n"
    async with (
        published(port) as dns,
        machine(base / "photos", NAS, config, did=PHOTOS, dns=dns) as photos,
        machine(base / "laptop", PI, second_config, did=LAPTOP, dns=dns) as second,
    ):
        yield Pair(photos, second, base, dns)


def service(name: str, target: int, port: int, allow: str = "ZONE,home.example", network: str = "tcp") -> str:
    where = f"{network}://127.0.0.1:{target}"
    return f"  services: [{{name: {name}, port: {port}, target: '{where}', allow: ['{allow}']}}]"


async def line(process: trio.Process) -> bytes:
    """The next line that it prints."""
    assert process.stdout is not None
    heard = b""
    with trio.fail_after(60):
        while not heard.endswith(b"\n"):
            data = await process.stdout.receive_some(1)
            assert data, heard
            heard += data
    return heard


@asynccontextmanager
async def gateway(home: Path, config: str, dns: Behind) -> AsyncIterator[trio.Process]:
    """A gateway as a process of its own, once it answers; killed at last.  ``settle`` was called for its home."""
    resolver = f"dns: {{enable: true, use-system-hosts: false, nameserver: ['127.0.0.1:{dns.port}']}}\nlisteners: []\n"
    file = trio.Path(home / "config.yaml")
    await file.write_text(resolver + config)
    process = await trio.lowlevel.open_process(
        [*PROGRAM, "--home", str(home), "run", "-c", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with trio.fail_after(60):
            while (await trio.run_process([*PROGRAM, "--home", str(home), "status"], **_QUIETLY)).returncode:
                assert process.poll() is None
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


_QUIETLY: dict[str, Any] = {"check": False, "capture_stdout": True, "capture_stderr": True}
