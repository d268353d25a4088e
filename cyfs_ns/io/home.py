"""A home directory that one server at a time lives in."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from cyfs_ns.errors import ConfigFault


class HomeLock:
    """Holds the directory ``path``, which is made if there is none.

    ``folders`` below it are swept of the drafts that a killed ``write_atomic`` left: the lock is ours, so nobody is
    writing them.  Raises ``ConfigFault`` when the directory cannot be used, or another ``whose`` lives in it.
    """

    def __init__(self, path: Path, whose: str, folders: Iterable[str] = ()) -> None:
        self.path = path = path.absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as fault:
            why = "no directory" if isinstance(fault, FileExistsError | NotADirectoryError) else fault.strerror
            raise ConfigFault(f"--home {path}: {why}; give a directory that can be written to") from fault
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise ConfigFault(f"another {whose} runs in {path}; stop it, or give this one its own --home") from None
        for folder in (path, *(path / name for name in folders)):
            for draft in folder.glob(".*.tmp"):
                with suppress(OSError):
                    draft.unlink()

    def close(self) -> None:
        """Give the directory up."""
        os.close(self._lock)


def identity_home(environment: Mapping[str, str], uid: int) -> Path:
    """Where a machine's identity lives unless ``--home`` says otherwise: in the home of its gateway.

    CYFS_HOME; else /var/lib/cyfs for root, and cyfs-gateway below XDG_STATE_HOME (~/.local/state) for others.
    """
    return default_home(environment, uid, "CYFS_HOME", "/var/lib/cyfs", "cyfs-gateway")


def default_home(environment: Mapping[str, str], uid: int, variable: str, of_root: str, of_users: str) -> Path:
    """What ``variable`` says; else ``of_root`` for root, and ``of_users`` below XDG_STATE_HOME for others."""
    if named := environment.get(variable):
        return Path(named)
    if uid == 0:
        return Path(of_root)
    base = environment.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        base = str(Path(environment.get("HOME") or "~").expanduser() / ".local" / "state")
    return Path(base, of_users)
