"""Where the status table lives between two runs: one JSON file, written whole and only when something was learnt."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Final

import trio

from cyfs_ns.errors import BadWire
from cyfs_ns.io.atomic import write_atomic
from tunnels.status import StatusTable

_EVERY: Final = 5.0
_LARGEST: Final = 32 * 1024 * 1024

_log = logging.getLogger("cyfs.tunnels")


def load_status(path: Path, table: StatusTable) -> None:
    """Fill ``table`` from ``path``.  A missing or spoilt file only means that nothing is known yet."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise BadWire("too big")
        table.load(json.loads(text))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError, BadWire) as fault:
        _log.warning("the saved URL statuses in %s cannot be used: %s", path, fault)


async def keep_saved(path: Path, table: StatusTable) -> None:
    """Save ``table`` every few seconds while it changes, and once more when cancelled."""
    saved = table.version
    try:
        while True:
            await trio.sleep(_EVERY)
            if table.version != saved:
                saved = table.version
                await trio.to_thread.run_sync(_save, path, table.dump())
    finally:
        if table.version != saved:
            _save(path, table.dump())


def _save(path: Path, entries: list[dict[str, object]]) -> None:
    try:
        write_atomic(path, json.dumps(entries).encode())
    except OSError as fault:
        _log.warning("URL statuses cannot be saved: %s", fault)
