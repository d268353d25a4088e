"""Tokens of services: a file each, which its user alone can read, and which is another one every minute.

What a machine signs for a service is good for one login and for minutes, so what was written down at the start is worth
nothing when the service has to log in again.  A service that runs therefore finds a fresh one in its file at any time;
it is read when it is needed, and not kept.  The file lies in a folder of its own, which containers see read-only, so
that another file can take its place.  A service that has ended has none: nothing that renews brings it back.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from node.run.runner import Place

RENEWED: Final = 60.0
"""Seconds between two tokens of a service; each has to be good for longer."""
_NEW: Final = ".new"
_changing: Final = threading.Lock()
"""Services end while others are renewed, each in a thread."""

Token = Callable[[str], Awaitable[str]]
"""A token for a service."""

_log = logging.getLogger("cyfs.node")


def put_token(place: Place, token: str, owner: tuple[int, int] | None) -> None:
    """Have ``token`` in the file of the service, for user and group ``owner`` (None: us).  Raises ``OSError``."""
    file = Path(place.token)
    for folder in (file.parent.parent, file.parent):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
    with _changing:
        _replace(file, token, owner)


def drop_token(place: Place) -> None:
    """The service does not run any more.  Raises ``OSError``."""
    with _changing:
        Path(place.token).unlink(missing_ok=True)


def forget_token(place: Place) -> None:
    """Nothing of the service is here any more.  Raises ``OSError``."""
    folder = Path(place.token).parent
    with _changing, suppress(FileNotFoundError):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


async def keep_renewed(home: str, token: Token) -> None:
    """Give every service that has a token another one, now and again, until cancelled."""
    while True:
        for place in await trio.to_thread.run_sync(_held, home):
            made = await token(place.service)
            try:
                await trio.to_thread.run_sync(_renew, Path(place.token), made)
            except OSError as fault:
                _log.warning("%s: its token cannot be renewed: %s", place.service, fault)
        await trio.sleep(RENEWED)


def _held(home: str) -> list[Place]:
    places = [Place(home, folder.name) for folder in Path(home, "tokens").glob("*")]
    return [place for place in places if Path(place.token).exists()]


def _renew(file: Path, token: str) -> None:
    with _changing, suppress(FileNotFoundError):  # it ended meanwhile
        found = file.stat()
        _replace(file, token, (found.st_uid, found.st_gid))


def _replace(file: Path, token: str, owner: tuple[int, int] | None) -> None:
    """Whole, and never another's, for whoever opens it; a power cut ends the service too."""
    new = file.with_name(_NEW)
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as written:
        written.write(token)
        if owner is not None:
            os.fchown(fd, *owner)
    new.replace(file)
