"""The gateway's configuration file, read from this disk; the meaning is ``cyfs_gateway.config``'s."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from cyfs_gateway.config.load import load, load_default
from cyfs_gateway.config.model import Loaded
from cyfs_ns.config.source import MAX_BYTES
from cyfs_ns.config.written import Fault
from cyfs_ns.errors import ConfigFault
from cyfs_ns.io.configfile import files_beside, read_bounded


def read_config(path: str | Path | None, home: str | Path, module_sections: Collection[str] = ()) -> Loaded:
    """Load ``path``, or the defaults when it is None.  A file that cannot be read is a fault like any other.

    Blocks on the disk: call it in a worker thread where that matters.
    """
    base = str(Path(home).absolute())
    if path is None:
        return load_default(base)
    file = Path(path)
    try:
        data, _ = read_bounded(file, MAX_BYTES)
    except ConfigFault as fault:
        return Loaded(None, (Fault("/", 0, 0, str(fault)),))
    if not data.strip():
        # Whoever writes a file anew empties it first: a reload in that moment must not throw away every rule.
        return Loaded(None, (Fault("/", 0, 0, f"{file} is empty; to start with the defaults, name no file"),))
    return load(data, home=base, environ=os.environ, read_file=files_beside(file), module_sections=module_sections)
