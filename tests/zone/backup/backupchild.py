"""A machine that makes a backup in a process of its own, for tests that kill it: ``backupchild.py TARGET FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import trio
from backuptargets import HOME, maker, sources
from zones import NOW

from zone.io.backup.backups import back_up, begin
from zone.io.backup.target import Directory


async def main(place: Path, folder: Path) -> None:
    target = Directory(place)
    await begin(target, HOME)
    await back_up(target, maker(folder), sources(folder), made=NOW, progress=lambda *_: print("piece", flush=True))


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]))
