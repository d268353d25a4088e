"""Keeps the lists of the house fresh: fetches, has them compiled by a process of its own, and swaps them whole.

The serving process never reads a list.  A download goes to disk piece by piece; a child (``listchild``) reads all lists
and writes one compiled piece, named by the hash of what went into it; that file is mapped, and the last step is one
assignment.  So serving goes on while lists are built, memory does not jump, and after a restart the piece of last time
is mapped at once.

Nothing bad replaces anything good: not a download that breaks off or is no list, not a build that fails or takes too
long.  The old lists stay, and ``status`` tells why.  What fails is tried again, ever more seldom: a disk that was full,
at the very first start perhaps, has room one day.

In ``home``: ``state.json`` (what was fetched, when), ``<id>.list`` (a download), ``<hash>.piece``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import trio

from cyfs_ns.errors import BadWire, ConfigFault, CyfsError, Unreachable
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.http import Response, Sink
from cyfs_ns.listcompile import MAX_BYTES, ListSource, compile_lists
from cyfs_ns.listpiece import VERSION
from cyfs_ns.lists import ListReport, ListSet

log = logging.getLogger(__name__)

CHILD: Final = (sys.executable, "-m", "cyfs_ns.io.listchild")
_RETRY_FIRST, _RETRY_MOST = 60.0, 3600.0
_FILE_INTERVAL = 60.0  # seconds between looks at the files of the owner's own
_DOWNLOADS = 4  # at a time
_STATE = "state.json"


class Fetch(Protocol):
    """``io.http.fetch`` with the ways to the network filled in."""

    async def __call__(
        self, url: str, *, headers: Iterable[tuple[str, str]], max_bytes: int, sink: Sink
    ) -> Response: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSpec:
    """One list: where it is, how to read it, how often to look."""

    source: ListSource
    place: str
    """An http or https URL, or a path."""
    interval: float = 86400.0

    @property
    def remote(self) -> bool:
        return self.place.startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLimits:
    """What one list and one build may cost."""

    max_bytes: int = MAX_BYTES
    memory: int = 2 << 30
    """Address space of the child."""
    seconds: int = 120


@dataclass(slots=True)
class ListState:
    """What is known of one list."""

    digest: str = ""
    """SHA-256 of the bytes in use, empty before the first."""
    etag: str = ""
    modified: str = ""
    checked: float = 0.0
    """When it was last looked for, with success or not; seconds since 1970."""
    changed: float = 0.0
    fault: str = ""
    failures: int = 0
    stamp: tuple[int, ...] = ()
    """Size and time of a file of the owner's own."""


class ListKeeper:
    """``lists`` is what to judge by, always whole; it is empty until ``open``."""

    def __init__(
        self,
        home: Path,
        specs: Sequence[ListSpec],
        fetch: Fetch,
        *,
        limits: BuildLimits | None = None,
        child: Sequence[str] = CHILD,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.lists = ListSet(compile_lists(()))
        self._home, self._specs, self._fetch = home, tuple(specs), fetch
        # A child that outlives a killed server must not write into what the next one builds.
        self._raw = home / f"building-{secrets.token_hex(8)}.piece"
        self._limits, self._child, self._clock = limits or BuildLimits(), tuple(child), clock
        self._states = {spec.source.name: ListState() for spec in specs}
        self._built = self._failed = ""
        self._failed_at, self._failures = 0.0, 0
        self._turn = trio.Lock()
        self._downloads = trio.CapacityLimiter(_DOWNLOADS)
        self.fault = ""
        """Why the last build failed, if it did."""

    @property
    def specs(self) -> tuple[ListSpec, ...]:
        """The lists that are kept."""
        return self._specs

    async def open(self) -> None:
        """Take what is on disk: the piece of last time, or lists still to be compiled.  Asks no network."""
        async with self._turn:
            await trio.to_thread.run_sync(self._read_state)
            for spec in self._specs:
                if not spec.remote:
                    await self._look_at(spec, {})
            await self._build({})

    async def refresh(self, names: Collection[str] | None = None) -> bool:
        """Look for the lists that are due, or for these, due or not.  Whether ``lists`` changed."""
        async with self._turn:
            now = self._clock()
            fresh: dict[str, ListState] = {}
            async with trio.open_nursery() as looks:
                for spec in self._specs:
                    if self._due_in(spec, now) <= 0 if names is None else spec.source.name in names:
                        looks.start_soon(self._look_at, spec, fresh)
            if names is not None:
                self._failed = ""
            return await self._build(fresh)

    async def keep_fresh(self, on_swap: Callable[[ListSet], object]) -> None:
        """Refresh for ever; ``on_swap`` is called with each new set."""
        while True:
            if await self.refresh():
                on_swap(self.lists)
            now = self._clock()
            due = [self._due_in(spec, now) for spec in self._specs]
            if self._lacking() and self._failed == self._key():
                due.append(self._build_due_in(now))
            await trio.sleep(max(1.0, min(due, default=_RETRY_MOST)))

    def status(self) -> list[tuple[ListSpec, ListState, ListReport | None]]:
        """Every list, what is known of it, and what was found in it."""
        reports = {report.name: report for report in self.lists.reports}
        return [(spec, self._states[spec.source.name], reports.get(spec.source.name)) for spec in self._specs]

    def _due_in(self, spec: ListSpec, now: float) -> float:
        state = self._states[spec.source.name]
        wait = spec.interval if spec.remote else _FILE_INTERVAL
        if state.failures and spec.remote:
            wait = min(wait, _retry(state.failures))
        return _left(wait, state.checked, now)

    def _lacking(self) -> bool:
        """Whether some list is there, and ``lists`` is not made of those that are."""
        return self._key() != self._built and any(state.digest for state in self._states.values())

    def _build_due_in(self, now: float) -> float:
        return _left(_retry(self._failures), self._failed_at, now)

    async def _look_at(self, spec: ListSpec, fresh: dict[str, ListState]) -> None:
        """A new download goes to ``fresh``; a file of the owner's own changes the state itself."""
        state = self._states[spec.source.name]
        try:
            if spec.remote:
                async with self._downloads:
                    found = await self._download(spec, state)
                if found is not None:
                    fresh[spec.source.name] = found
            else:
                await self._look_at_file(spec, state)
        except (CyfsError, OSError) as fault:
            self._blame(spec.source.name, str(fault))
        else:
            if spec.source.name not in fresh:  # what a download is worth its build tells
                state.fault, state.failures = "", 0
        state.checked = self._clock()

    def _blame(self, name: str, fault: str) -> None:
        state = self._states[name]
        state.fault, state.failures = fault, state.failures + 1
        log.warning("list %s: %s; what was there stays", name, fault)

    async def _look_at_file(self, spec: ListSpec, state: ListState) -> None:
        found = await trio.Path(spec.place).stat()
        stamp = (found.st_size, found.st_mtime_ns)
        if stamp != state.stamp:
            state.digest = await trio.to_thread.run_sync(_digest, Path(spec.place))
            state.stamp, state.changed = stamp, self._clock()

    async def _download(self, spec: ListSpec, state: ListState) -> ListState | None:
        known = (("if-none-match", state.etag), ("if-modified-since", state.modified))
        asked = [(key, value) for key, value in known if value and state.digest]
        hasher = hashlib.sha256()
        self._home.mkdir(parents=True, exist_ok=True)
        with self._fresh(spec).open("wb") as file:

            def keep(data: bytes) -> None:
                hasher.update(data)
                file.write(data)

            response = await self._fetch(spec.place, headers=asked, max_bytes=self._limits.max_bytes, sink=keep)
        if response.status == 304 and state.digest:
            return None
        if response.status != 200:
            raise Unreachable(f"the server answered with status {response.status}")
        etag, modified = response.header("etag"), response.header("last-modified")
        if hasher.hexdigest() == state.digest:
            state.etag, state.modified = etag, modified
            return None
        return ListState(digest=hasher.hexdigest(), etag=etag, modified=modified, changed=self._clock())

    async def _build(self, fresh: dict[str, ListState]) -> bool:
        """Compile, unless that was done for the same contents; downloads that hold a list come to stay."""
        made: ListSet | None = None
        key = self._key()
        put_off = key == self._failed and self._build_due_in(self._clock()) > 0
        if fresh or (self._lacking() and not put_off):
            if not fresh:
                made = await trio.to_thread.run_sync(_mapped, self._piece(key))
            if made is None:
                made = await self._compiled(fresh)
            key = self._key()
        if made is not None:
            if self._failed:
                log.info("the lists are built now")
            self.lists, self._built, self._failed, self.fault = made, key, "", ""
        await trio.to_thread.run_sync(self._tidy)
        return made is not None

    async def _compiled(self, fresh: dict[str, ListState]) -> ListSet | None:
        try:
            used = await self._run_child(fresh)
        except (CyfsError, OSError) as fault:
            self.fault, key = str(fault), self._key()
            self._failures = self._failures + 1 if key == self._failed else 1
            self._failed, self._failed_at = key, self._clock()
            stays = "the old ones stay" if self._built else "there are none until they can be"
            log.warning("lists could not be built: %s; %s", fault, stays)
            for name in fresh:
                self._blame(name, self.fault)
            return None
        for spec in self._specs:
            name = spec.source.name
            if name in fresh and used.get(name) == 0:
                self._fresh(spec).replace(self._kept(spec))
                self._states[name] = replace(fresh[name], checked=self._clock())
            elif name in fresh or (name not in used and self._states[name].digest):
                self._blame(name, "it holds no entry of a list")
        piece = self._piece(self._key())
        self._raw.replace(piece)
        return await trio.to_thread.run_sync(_mapped, piece)

    async def _run_child(self, fresh: Collection[str]) -> dict[str, int]:
        """Which of its files each list was read from.  Raises CyfsError or OSError when there is no piece."""
        self._home.mkdir(parents=True, exist_ok=True)
        self._raw.unlink(missing_ok=True)
        job = {
            "lists": [
                {"source": asdict(spec.source), "paths": [str(path) for path in self._paths(spec, fresh)]}
                for spec in self._specs
            ],
            "out": str(self._raw),
            "max_bytes": self._limits.max_bytes,
            "memory": self._limits.memory,
            "seconds": self._limits.seconds,
        }
        with trio.move_on_after(self._limits.seconds * 2) as patience:
            done = await trio.run_process(
                self._child, stdin=json.dumps(job).encode(), capture_stdout=True, capture_stderr=True, check=False
            )
        if patience.cancelled_caught:
            raise Unreachable(f"the build took more than {self._limits.seconds * 2} seconds")
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise Unreachable(f"the build ended with status {done.returncode}: {lines[-1] if lines else 'no word'}")
        try:
            used = {str(name): int(place) for name, place in json.loads(done.stdout)["used"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadWire("the build said nothing that can be read") from None
        if not self._raw.exists():
            raise BadWire("the build wrote nothing")
        return used

    def _paths(self, spec: ListSpec, fresh: Collection[str]) -> list[Path]:
        if not spec.remote:
            return [Path(spec.place)]
        return [self._fresh(spec), self._kept(spec)] if spec.source.name in fresh else [self._kept(spec)]

    def _key(self) -> str:
        """The hash of what goes into the piece."""
        parts = [[asdict(spec.source), self._states[spec.source.name].digest] for spec in self._specs]
        return hashlib.sha256(json.dumps([VERSION, parts]).encode()).hexdigest()[:32]

    def _piece(self, key: str) -> Path:
        return self._home / f"{key}.piece"

    def _kept(self, spec: ListSpec) -> Path:
        return self._home / f"{_id(spec)}.list"

    def _fresh(self, spec: ListSpec) -> Path:
        return self._home / f"{_id(spec)}.new"

    def _read_state(self) -> None:
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            told = json.loads((self._home / _STATE).read_text())
            for spec in self._specs:
                if spec.remote and self._kept(spec).exists() and _id(spec) in told:
                    self._states[spec.source.name] = ListState(**told[_id(spec)])

    def _tidy(self) -> None:
        """Write down what is known, and remove what is needed no more.  A removed piece lives on where it is mapped."""
        told = {_id(spec): asdict(self._states[spec.source.name]) for spec in self._specs}
        with suppress(OSError):
            self._home.mkdir(parents=True, exist_ok=True)
            write_atomic(self._home / _STATE, json.dumps(told).encode())
            needed = {_STATE, self._piece(self._built).name, *(self._kept(spec).name for spec in self._specs)}
            for path in self._home.iterdir():
                if path.name not in needed and path.suffix in (".piece", ".list", ".new", ".tmp"):
                    path.unlink()


def _retry(failures: int) -> float:
    """Seconds until the next attempt after so many that failed."""
    return min(_RETRY_MOST, _RETRY_FIRST * 2.0 ** min(failures - 1, 16))


def _left(wait: float, since: float, now: float) -> float:
    # A clock that was wrong and was set right must not put anything off for years.
    return wait - (now - since) if now >= since else 0.0


def _id(spec: ListSpec) -> str:
    return hashlib.sha256(f"{spec.source.name}\0{spec.place}".encode()).hexdigest()[:24]


def _digest(path: Path) -> str:
    # Not to wait for somebody to write into a pipe, nor for the end of a device.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is no regular file")
        with os.fdopen(fd, "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    finally:
        os.close(fd)


def _mapped(path: Path) -> ListSet | None:
    """The lists in a piece; None when there is none, or it was damaged."""
    try:
        with path.open("rb") as file:
            return ListSet(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, BadWire, ConfigFault) as fault:
        log.warning("compiled lists %s: %s; they are compiled anew", path.name, fault)
        return None
