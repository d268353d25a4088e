"""What becomes of results that nobody takes: every command, as a real program whose descriptors fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from control_house import House

PROGRAM = "from cyfs_gateway.io.cli import main; main()"

TELLING = (
    "status",
    "status --json",
    "connections",
    "connections --json",
    "proxies",
    "rules --json",
    "providers",
    "delay a",
    "dns www.example.com",
    "explain www.example.com",
    "tunnels",
    "tunnels --json",
    "tunnels forget did:web:a.example",
    "ping did:web:a.example",
    "logs",
    "logs --json",
    "version",
    "--help",
    "id --help",
)
"""Commands that have something to print."""


@pytest.fixture
def home(house: House) -> Path:
    (house.home / "cyfs-gateway.sock").symlink_to(house.socket)
    return house.home


async def run(home: Path, words: str, joined: str) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-c", PROGRAM, "--home", str(home), *words.split()]
    with trio.fail_after(60):
        done: subprocess.CompletedProcess[bytes] = await trio.run_process(
            ["sh", "-c", f'"$@" {joined}', "sh", *argv], capture_stdout=True, capture_stderr=True, check=False
        )
    return done


@pytest.mark.parametrize("words", TELLING)
async def test_a_full_disk_is_one_sentence(home: Path, words: str) -> None:
    done = await run(home, words, ">/dev/full")
    assert (done.returncode, done.stderr) == (1, b"Error: standard output: No space left on device\n")


@pytest.mark.parametrize("words", ["tunnels", "version --json", "--help"])
async def test_an_output_that_was_never_there_is_one_sentence(home: Path, words: str) -> None:
    done = await run(home, words, ">&-")
    assert (done.returncode, done.stderr) == (1, b"Error: standard output: Bad file descriptor\n")


@pytest.mark.parametrize("words", ["tunnels", "proxies --json", "version", "logs", "logs --json"])
async def test_a_reader_who_has_enough_is_told_nothing(home: Path, words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        argv = [sys.executable, "-c", PROGRAM, "--home", str(home), *words.split()]
        with trio.fail_after(60):
            done = await trio.run_process(argv, stdout=writing, capture_stderr=True, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("joined", ["2>&-", "2>/dev/full", "2>&- <&-"])
async def test_who_cannot_be_told_still_gets_the_exit_code(home: Path, tmp_path: Path, joined: str) -> None:
    assert (await run(tmp_path / "nowhere", "status", joined)).returncode == 3
    done = await run(home, "version --json", joined)
    assert (done.returncode, done.stdout[:1]) == (0, b"{")
