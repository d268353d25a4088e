"""What a machine remembers of its zone, in ``zone/`` below its home: the last known good document, and the store.

The document is written whole or not at all.  With one that cannot be read the machine goes on by what it was activated
with, and takes an empty store for a lost one.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.trusted.keystore import read_file
from zone.boot.known import MOST_KNOWN, Known, read_known
from zone.membership import Membership

FOLDER: Final = "zone"
_KNOWN: Final = "known.json"


class Memory:
    """The directory ``<home>/zone/<zone>``, one for each zone the machine was ever in.  Blocks on the disk."""

    def __init__(self, home: Path, membership: Membership) -> None:
        self.path = home / FOLDER / str(membership.zone.id.canonical).replace(":", "_")
        self._membership = membership

    @property
    def store(self) -> Path:
        """The file of the embedded store."""
        return self.path / "config.db"

    @property
    def etcd(self) -> Path:
        """The directory of this machine's member of etcd."""
        return self.path / "etcd"

    def read(self) -> tuple[Known | None, str]:
        """What was kept, None if nothing was or it is no use; and why it is no use.  Raises ``OSError``."""
        path = self.path / _KNOWN
        if not path.exists():
            return None, ""
        try:
            return read_known(read_file(path, MOST_KNOWN), self._membership), ""
        except (BadWire, ConfigFault) as fault:
            return None, f"{path}: {fault}; what the machine was activated with is taken instead"

    def keep(self, known: Known) -> None:
        """Raises ``OSError``, and what was there stays."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for draft in self.path.glob(f".{_KNOWN}.*.tmp"):
            with suppress(OSError):
                draft.unlink()
        write_atomic(self.path / _KNOWN, known.text())
