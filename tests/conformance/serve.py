"""The name server as a process: ``serve.py CONFIG HOME``; says ``ready`` when it answers."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import trio

from cyfs_ns.config.load import load_dns
from cyfs_ns.io import serving


async def main(config: Path, home: Path) -> None:
    loaded = load_dns(await trio.Path(config).read_bytes())
    if loaded.dns is None:
        sys.exit("\n".join(map(str, loaded.faults)))
    async with trio.open_nursery() as nursery:
        await nursery.start(serving.Serving(home, loaded.dns).run, loaded.hosts)
        print("ready", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]))
