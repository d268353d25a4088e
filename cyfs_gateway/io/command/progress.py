"""How files move, told to people on a terminal by bars, elsewhere by lines, and to programs by JSON lines."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cyfs_gateway.transfer import Offer
from cyfs_ns.io.tables import bytes_text
from cyfs_ns.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_JSON_SECONDS = 1.0


class Lines:
    """A line for each file that is through, or is not."""

    def __init__(self, verb: str, out: TextIO = sys.stdout, err: TextIO = sys.stderr) -> None:
        self._verb, self._out, self._err = verb, out, err
        self._began: dict[tuple[str, str], tuple[float, int]] = {}

    def begun(self, peer: str, offer: Offer, held: int) -> None:
        self._began[peer, offer.name] = time.monotonic(), held

    def moved(self, peer: str, offer: Offer, held: int) -> None:
        """Lines tell of ends only."""

    def whole(self, peer: str, offer: Offer) -> None:
        began, held = self._began.pop((peer, offer.name), (0.0, offer.size))
        moved = offer.size - held
        rate = f", {bytes_text(round(moved / max(time.monotonic() - began, 1e-3)))}/s" if moved else ""
        self.say(f"{offer.name}: {bytes_text(offer.size)} {self._verb} {peer}{rate}")

    def failed(self, peer: str, name: str, why: str) -> None:
        self._began.pop((peer, name), None)
        print(printable(f"{name or 'nothing'} {self._verb} {peer}: {why}"), file=self._err, flush=True)

    def waiting(self, directory: Path) -> None:
        """From now on files can be sent here."""
        print(printable(f"waiting for files, into {directory}"), file=self._err, flush=True)

    def say(self, text: str) -> None:
        """Any other news."""
        print(printable(text), file=self._out, flush=True)

    def close(self) -> None:
        """Lines need no end."""


class JsonLines:
    """An object a line: ``event`` is waiting, begun, moved (of each file once a second at most), whole or failed."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._told: dict[tuple[str, str], float] = {}
        """When the last ``moved`` was told, of those under way."""

    def begun(self, peer: str, offer: Offer, held: int) -> None:
        self._tell("begun", peer, offer.name, size=offer.size, bytes=held)

    def moved(self, peer: str, offer: Offer, held: int) -> None:
        told = self._told.get((peer, offer.name))
        if told is None or time.monotonic() - told >= _JSON_SECONDS:
            self._told[peer, offer.name] = time.monotonic()
            self._tell("moved", peer, offer.name, size=offer.size, bytes=held)

    def whole(self, peer: str, offer: Offer) -> None:
        self._told.pop((peer, offer.name), None)
        self._tell("whole", peer, offer.name, size=offer.size)

    def failed(self, peer: str, name: str, why: str) -> None:
        self._told.pop((peer, name), None)
        self._tell("failed", peer, name, why=why)

    def waiting(self, directory: Path) -> None:
        """From now on files can be sent here."""
        print(json.dumps({"event": "waiting", "dir": str(directory)}), file=self._out, flush=True)

    def close(self) -> None:
        """Lines need no end."""

    def _tell(self, event: str, peer: str, name: str, **more: object) -> None:
        print(json.dumps({"event": event, "peer": peer, "name": name, **more}), file=self._out, flush=True)


class Bars:
    """A bar for each file under way, with rate and time left; lines for the rest."""

    def __init__(self, verb: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._verb = verb
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def begun(self, peer: str, offer: Offer, held: int) -> None:
        self._end(peer, offer.name)
        self._progress.start()
        task = self._progress.add_task(printable(offer.name), total=offer.size, completed=held)
        self._tasks[peer, offer.name] = task

    def moved(self, peer: str, offer: Offer, held: int) -> None:
        task = self._tasks.get((peer, offer.name))
        if task is not None:
            self._progress.update(task, completed=held)

    def whole(self, peer: str, offer: Offer) -> None:
        self._end(peer, offer.name)
        self.say(f"{offer.name}: {bytes_text(offer.size)} {self._verb} {peer}")

    def failed(self, peer: str, name: str, why: str) -> None:
        self._end(peer, name)
        self.say(f"{name or 'nothing'} {self._verb} {peer}: {why}")

    def waiting(self, directory: Path) -> None:
        """From now on files can be sent here."""
        self.say(f"waiting for files, into {directory}")

    def say(self, text: str) -> None:
        """Any other news."""
        self._console.print(printable(text))

    def close(self) -> None:
        """Give the terminal back."""
        self._progress.stop()

    def _end(self, peer: str, name: str) -> None:
        task = self._tasks.pop((peer, name), None)
        if task is not None:
            self._progress.remove_task(task)
        if not self._tasks:
            self._progress.stop()


def teller(verb: str, *, as_json: bool) -> Lines | JsonLines | Bars:
    """Whoever fits standard error and the wish."""
    if as_json:
        return JsonLines()
    return Bars(verb) if sys.stderr.isatty() else Lines(verb)
