"""Gateways as processes of their own: an SN as the program is it, and machines of one owner that belong to it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.io.client import Client
from tests.cyfs_ns.identity.identities import ALICE, device
from tests.freeport import free_port

PROGRAM = [sys.executable, "-c", "from cyfs_gateway.io.cli import main; main()"]
NOW = int(time.time())
BASE = "dns: {enable: true, use-system-hosts: false, nameserver: ['127.0.0.1:9']}\n"


def udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class House:
    """One machine.  ``config`` is what stands in its file when it is started next."""

    home: Path
    key: SecretKey
    config: str
    process: trio.Process | None = None

    @property
    def did(self) -> Did:
        return dev_did(self.key.public)

    async def start(self) -> None:
        file = trio.Path(self.home / "config.yaml")
        await file.write_text(BASE + self.config)
        argv = [*PROGRAM, "--home", str(self.home), "run", "-c", str(file)]
        log = await trio.open_file(self.home / "log", "ab")
        async with log:
            self.process = await trio.lowlevel.open_process(argv, stdout=log.wrapped, stderr=log.wrapped)
        await self.until(lambda said: True)

    async def kill(self) -> None:
        """As ``kill -9`` does."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    async def status(self) -> dict[str, Any] | None:
        """What it says of itself; None while it does not answer."""
        client = Client(self.home / "cyfs-gateway.sock")
        try:
            said: dict[str, Any] = await trio.to_thread.run_sync(lambda: client.call("GET", "cyfs", "status"))
        except Exception:
            assert self.process is not None and self.process.poll() is None, (self.home / "log").read_text()[-3000:]
            return None
        return said

    async def until(self, holds: Callable[[dict[str, Any]], object], seconds: float = 100.0) -> dict[str, Any]:
        """Its status, once that is so."""
        said: dict[str, Any] | None = None
        try:
            with trio.fail_after(seconds):
                while (said := await self.status()) is None or not holds(said):  # noqa: ASYNC110 - another process
                    await trio.sleep(0.2)
        except trio.TooSlowError:
            log = (self.home / "log").read_text()[-4000:]
            raise AssertionError(f"{said and said.get('memberships')}\n{log}") from None
        return said

    async def settled(self) -> None:
        """Until all its SNs are content with it."""
        await self.until(lambda said: all(one["why"] == "" for one in said["memberships"]))

    async def look_again(self) -> None:
        """Have its SNs asked at once, which it else does when some time has passed."""
        client = Client(self.home / "cyfs-gateway.sock")
        await trio.to_thread.run_sync(lambda: client.call("POST", "cyfs", "memberships"))

    async def command(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        with trio.fail_after(100):
            done: subprocess.CompletedProcess[bytes] = await trio.run_process(
                [*PROGRAM, "--home", str(self.home), *words], capture_stdout=True, capture_stderr=True, check=False
            )
        return done

    async def told(self, *words: str) -> Any:
        """What a command that has to succeed prints as JSON."""
        done = await self.command(*words, "--json")
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)


def settle(home: Path, key: SecretKey, name: str, owner: SecretKey = ALICE) -> None:
    """``key`` lives at ``home``, with a document of ``owner`` as the machine ``name``."""
    folder = home / "identity"
    folder.mkdir(parents=True)
    (folder / "device.pem").write_bytes(key.pem())
    (folder / "device.pem").chmod(0o600)
    (folder / "device.jwt").write_text(device(name, key, owner, iat=NOW - 100, exp=NOW + 86_400).text)


def owned(home: Path, owner: SecretKey = ALICE) -> None:
    """The owner's key lives there, too."""
    (home / "identity" / "owner.pem").write_bytes(owner.pem())
    (home / "identity" / "owner.pem").chmod(0o600)


@dataclass
class Sn:
    """An SN and where it is."""

    house: House
    port: int

    @property
    def entry(self) -> str:
        return f"{{peer: '{self.house.did}', at: '127.0.0.1:{self.port}'}}"


def sn_at(home: Path, key: SecretKey, domain: str, owner: SecretKey = ALICE) -> Sn:
    """One for the people of ``owner``; not started."""
    settle(home, key, "sn", owner)
    port = free_port()
    config = f"""
listeners: []
rtcp: {{listen: '127.0.0.1:{port}', udp: false}}
sn:
  domain: {domain}
  listen: '127.0.0.1:{udp_port()}'
  addresses: [127.0.0.1]
  private-addresses: true
  owners: ['{dev_did(owner.public)}']
rules: ['MATCH,DIRECT']
"""
    return Sn(House(home, key, config), port)


@asynccontextmanager
async def killed_at_last(*houses: House) -> AsyncIterator[None]:
    """Whatever happens, none is left."""
    try:
        yield
    finally:
        for house in houses:
            await house.kill()
