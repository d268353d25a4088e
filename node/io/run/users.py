"""Users for services: where the daemon is root, each service runs as a user that nothing else on the machine is.

The numbers are beyond those of any list of users, of systemd's dynamic ones and of container managers.  A number is
given once and stays with the name of the service for good, as its volumes do: another service never comes to own them.

Each home gives from a range that follows from its path, so that two nodes on one machine leave each other's services
alone: what a run left behind is found by its user, too.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Final

from cyfs_ns.io.atomic import write_atomic
from node.run.runner import RunFault

FIRST: Final = 1_900_000_000
MOST: Final = 60_000
"""Of one home."""
_RANGES: Final = 4096
"""All of them end below 2**31: beyond are numbers that some programs take for negative."""


class Users:
    """The users below ``home``; blocks on the disk."""

    def __init__(self, home: str) -> None:
        self._folder = Path(home, "users")
        self._first = FIRST + MOST * (int.from_bytes(hashlib.sha256(home.encode()).digest()) % _RANGES)
        self._giving = threading.Lock()

    def user_of(self, service: str) -> tuple[int, int] | None:
        """User and group of ``service``; None: we are not root, so it is who we are.  Raises ``RunFault``."""
        if os.geteuid() != 0:
            return None
        with self._giving:
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                given = {path.name: int(path.read_text()) for path in self._folder.iterdir() if path.name[0] != "."}
                if service not in given:
                    taken = frozenset(given.values())
                    free = (number for number in range(self._first, self._first + MOST) if number not in taken)
                    given[service] = next(free)
                    write_atomic(self._folder / service, str(given[service]).encode())
            except (OSError, ValueError, StopIteration) as bad:
                raise RunFault(f"no user can be given to it: {bad!r}") from bad
        return given[service], given[service]
