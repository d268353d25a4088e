"""The two directories the control API touches: the dashboard, only read, and the store where dashboards keep settings.

A request names path *segments*.  Those that could mean another place (``..``, a slash or NUL that was
percent-encoded) are refused before the file system is asked, and what it answers is resolved and must still lie under
the root, so a symbolic link leads nowhere either.  Stored values are written whole or not at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cyfs_ns.io.atomic import write_atomic

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
    ".txt": "text/plain; charset=utf-8",
}
_MOST_UI = 32 << 20
_MOST_KEYS = 64
MOST_VALUE = 1 << 20
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


def ui_file(root: Path, segments: Sequence[str]) -> tuple[str, bytes] | None:
    """Media type and content of a dashboard file; a directory means its ``index.html``.  ``None``: nothing to show."""
    if any(part in ("..", ".") or set(part) & {"/", "\\", "\0"} for part in segments):
        return None
    try:
        base = root.resolve(strict=True)
        path = base.joinpath(*segments).resolve(strict=True)
        if path.is_dir():
            path = (path / "index.html").resolve(strict=True)
        if not path.is_relative_to(base):
            return None
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not path.is_file() or os.fstat(file.fileno()).st_size > _MOST_UI:
                return None
            content = file.read(_MOST_UI)
    except (OSError, ValueError):
        return None
    return _TYPES.get(path.suffix.lower(), "application/octet-stream"), content


class Storage:
    """JSON texts by key, one file each.  Calls block on the disk: run them in a thread, one at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @staticmethod
    def good_key(key: str) -> bool:
        """Letters, digits, dot, dash, underscore; at most 64; it does not begin with a dot."""
        return _KEY.match(key) is not None

    def get(self, key: str) -> bytes | None:
        """The value as it was put, ``None`` when there is none."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, value: bytes) -> bool:
        """False when the store holds as many keys as it may and this would be one more.  Raises ``OSError``."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(key)
        if not path.exists() and sum(1 for _ in self._directory.glob("*.json")) >= _MOST_KEYS:
            return False
        write_atomic(path, value)
        return True

    def delete(self, key: str) -> None:
        """Forget the key; no fault when it is not there."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.json"
