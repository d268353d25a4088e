"""Who spoke version 5 before, on disk: nothing there is taken for less than it may have been, or waited for."""

from __future__ import annotations

import os

import pytest
import trio

from cyfs_gateway.io.versions import VersionFile
from cyfs_ns.errors import ConfigFault
from cyfs_ns.identity.keys import SecretKey
from rtcp.v5.memory import Opening, VersionMemory

KEY = SecretKey(bytes(range(32))).public


def opening(memory):
    return memory.opening(KEY, (5, 4), 0)


async def test_what_is_written_is_read(tmp_path):
    file = VersionFile(str(tmp_path))
    assert opening(file.read()) is Opening.MASKED, "nobody was ever called"
    memory = VersionMemory([KEY])
    await file.write(memory.write())
    assert opening(file.read()) is Opening.NATIVE
    memory.forget(KEY)
    await file.write(memory.write())
    assert opening(file.read()) is Opening.MASKED, "a person may forget the last"


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def lost(path):
    path.symlink_to(path.parent / "nowhere")


def too_large(path):
    with path.open("wb") as file:
        file.truncate((1 << 24) + 1)


@pytest.mark.parametrize(
    "spoil",
    [
        pipe,
        endless,
        lost,
        too_large,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(VersionMemory([KEY]).write()[:-1]),
        lambda path: path.write_bytes(b"key\n"),
        lambda path: path.write_bytes(b"\xff\n"),
    ],
    ids=["a pipe", "endless", "a link to nowhere", "too large", "a directory", "empty", "cut off", "no key", "binary"],
)
async def test_what_is_not_what_was_written_is_for_a_person(tmp_path, spoil):
    spoil(tmp_path / "rtcp-version-5")
    with trio.fail_after(10), pytest.raises(ConfigFault, match=r"rtcp-version-5.*delete the file"):
        await trio.to_thread.run_sync(VersionFile(str(tmp_path)).read, abandon_on_cancel=True)


async def test_what_cannot_be_written_is_an_error_of_the_disk(tmp_path):
    (tmp_path / "rtcp-version-5").mkdir()
    with pytest.raises(OSError):
        await VersionFile(str(tmp_path)).write(b"x")
