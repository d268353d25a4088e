"""The process that compiles lists, started anew for every build by ``listbuild``: what it eats dies with it.

A job comes as JSON on standard input, the outcome goes as JSON to standard output, the compiled piece to a file that
appears whole or not at all.  The process bounds its own memory and time and takes a back seat to whoever serves.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import zlib
from pathlib import Path
from typing import Any

from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.listcompile import ListSource, compile_lists
from cyfs_ns.listlines import Tally, read_list
from cyfs_ns.lists import ListSet

_GZIP = b"\x1f\x8b"
_NICENESS = 10


def main() -> None:
    """Do the one job on standard input.  Exit status 1: a fault, told on standard error."""
    job = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
    resource.setrlimit(resource.RLIMIT_CPU, (job["seconds"], job["seconds"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)
    try:
        used = _build(job["lists"], Path(job["out"]), job["max_bytes"])
    except (BadWire, ConfigFault, OSError, MemoryError) as fault:
        sys.exit(f"{type(fault).__name__}: {fault}")
    json.dump({"used": used}, sys.stdout)


def _build(lists: list[dict[str, Any]], out: Path, max_bytes: int) -> dict[str, int]:
    """Of each list the first of its files that holds an entry is taken; which one it was is the outcome."""
    used: dict[str, int] = {}
    sources = []
    for wanted in lists:
        source = ListSource(**wanted["source"])
        data = b""
        for place, path in enumerate(wanted["paths"]):
            data = _unpacked(Path(path), max_bytes)
            if _holds_an_entry(source, data, max_bytes):
                used[source.name] = place
                break
        sources.append((source, data))
    piece = compile_lists(sources, max_bytes)
    del sources, data
    ListSet(piece)  # what cannot be loaded must not be written
    write_atomic(out, piece)
    return used


def _holds_an_entry(source: ListSource, data: bytes, max_bytes: int) -> bool:
    try:
        return any(True for _ in read_list(data, source.format, Tally(), max_bytes))
    except BadWire:
        return False


def _unpacked(path: Path, max_bytes: int) -> bytes:
    """The file, unpacked if it is gzip; more than the limit, or damaged, is as good as nothing."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if data.startswith(_GZIP):
            inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
            data = inflate.decompress(data, max_bytes + 1)
    except (OSError, zlib.error):
        return b""
    return data if len(data) <= max_bytes else b""


if __name__ == "__main__":
    main()
