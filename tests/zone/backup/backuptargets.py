"""Targets for tests: a directory, and a real WebDAV server before one; and machines that make backups there."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from freeport import free_port
from zones import KEYS, sign

from cyfs_ns.io.dial import plain_dial
from cyfs_ns.io.http import fetch
from zone.backup.chunks import SECRET
from zone.backup.manifest import Kind
from zone.io.backup.backups import Maker
from zone.io.backup.s3 import Bucket
from zone.io.backup.sources import Files, Source
from zone.io.backup.target import Directory, Target
from zone.io.backup.webdav import WebDav

ZONE = sign("ood1", "ood2")
HOME = "did:web:home.example"
S3_KEY = "AKIAIOSFODNN7EXAMPLE"
KINDS = ["directory", "webdav", "s3"]


def maker(folder: Path, machine: str = "ood1") -> Maker:
    return Maker(ZONE.of(machine), KEYS[machine], bytes(range(SECRET)), folder / f"{machine}.last")


def sources(folder: Path) -> list[Source]:
    """A file and a folder with a little of everything."""
    data = folder / "data"
    if not data.exists():
        (data / "deep" / "empty").mkdir(parents=True)
        for number in range(150):
            (data / f"note-{number:03}").write_bytes(f"note {number}\n".encode() * 300)
        (data / "deep" / "big").write_bytes(noise(2_500_001))
        (data / "deep" / "link").symlink_to("big")
        (data / "note-000").chmod(0o640)
        (folder / "config.db").write_bytes(noise(3_000_000))
    return [Files("system_config", folder / "config.db", Kind.FILE, 42), Files("web.data", data, Kind.FOLDER)]


def noise(size: int) -> bytes:
    """Bytes that do not repeat, the same each time."""
    return random.Random(size).randbytes(size)


@asynccontextmanager
async def serving(kind: str, folder: Path) -> AsyncGenerator[Target]:
    """A target of that kind, whose files are in ``folder``."""
    await trio.Path(folder).mkdir(exist_ok=True)
    if kind == "directory":
        yield Directory(folder)
        return
    if kind == "s3":
        async with s3() as url:
            yield Bucket(url, plain_dial(), f"{S3_KEY}:secret")
        return
    async with webdav(folder) as url:
        yield WebDav(url, plain_dial(), "alice:secret")


@asynccontextmanager
async def s3() -> AsyncGenerator[str]:
    """The place of a bucket at moto's server, until the block ends."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    async with _serving(command, port):
        url = f"127.0.0.1:{port}/bucket"
        assert (await fetch(f"http://{url}", dial=plain_dial(), method="PUT")).status == 200
        yield f"s3+http://{url}/of the zone"


@asynccontextmanager
async def webdav(folder: Path) -> AsyncGenerator[str]:
    """The URL of rclone's server, until the block ends."""
    program = shutil.which("rclone")
    if program is None:
        pytest.skip("needs rclone (Debian's rclone)")
    port = free_port()
    arguments = ["serve", "webdav", str(folder), "--addr", f"127.0.0.1:{port}", "--user", "alice", "--pass", "secret"]
    command = [program, *arguments, "--config", "/dev/null", "--dir-cache-time", "0s", "--vfs-cache-mode", "off"]
    async with _serving(command, port):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def _serving(command: Sequence[str], port: int) -> AsyncGenerator[None]:
    process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with trio.fail_after(60):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    assert process.poll() is None
                    await trio.sleep(0.05)
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
