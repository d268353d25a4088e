"""State on disk that survives ``kill -9`` and power cuts: a reader finds the old content or the new, never a mixture.

The new content goes to a temporary file in the same directory, reaches the disk, and takes the name in one rename;
then the directory itself is synced, so that after we return the new content is what a crash leaves.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self


class AtomicFile:
    """New content for ``path``, written piece by piece: in force with :meth:`commit`, or given up at the block's end.

    Everything here blocks on the disk: milliseconds to seconds.  From trio, call it in a worker thread.  A kill in
    mid-write may leave ``.NAME.XXXXXXXX.tmp`` beside the file; it is nobody's and may be deleted.
    """

    def __init__(self, path: str | Path, mode: int = 0o600) -> None:
        """Raises ``OSError``."""
        self._path, self._mode = Path(path), mode
        fd, self._temporary = tempfile.mkstemp(prefix=f".{self._path.name}.", suffix=".tmp", dir=self._path.parent)
        self._file = os.fdopen(fd, "wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the old content where the new one is not in force, and no litter."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            Path(self._temporary).unlink()

    def write(self, data: bytes) -> None:
        """Add ``data``.  Raises ``OSError``, after which it can only be given up."""
        self._file.write(data)

    def commit(self) -> None:
        """Take the name.  Raises ``OSError`` and then has changed nothing."""
        with self._file as file:
            file.flush()
            os.fchmod(file.fileno(), self._mode)
            os.fsync(file.fileno())
        Path(self._temporary).replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_atomic(path: str | Path, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` with ``data``.  Raises ``OSError`` and then has changed nothing.  Blocks: see above."""
    with AtomicFile(path, mode) as file:
        file.write(data)
        file.commit()
