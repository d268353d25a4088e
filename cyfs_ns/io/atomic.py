"""State on disk that survives ``kill -9`` and power cuts: a reader finds the old content or the new, never a mixture.

The new content goes to a temporary file in the same directory, reaches the disk, and takes the name in one rename;
then the directory itself is synced, so that after we return the new content is what a crash leaves.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_atomic(path: str | Path, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` with ``data``.  Raises ``OSError`` and then has changed nothing.

    Blocks on the disk: milliseconds to seconds.  From trio, call it in a worker thread.  A kill in mid-write may leave
    ``.NAME.XXXXXXXX.tmp`` beside the file; it is nobody's and may be deleted.
    """
    path = Path(path)
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            os.fsync(fd)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
