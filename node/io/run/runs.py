"""Runs: started through a keeper, waited for, told to stop, and found again by the next daemon.

``<home>/runs/<service>`` has one run: ``order`` (what it is), ``launch`` and ``state`` (see ``keeper``).  A run is
there while there is a ``launch``; it goes on while a keeper holds the lock on that file.  So nothing here goes by the
number of a process alone: the lock says that it is the keeper's, a pidfd that it is still the same process.

A run is cleared by whoever waits for it, after which nothing of it runs: a keeper that ended by itself has seen to
that; after one that was killed, all processes that carry the run's mark, or have its user, are killed here.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from cyfs_ns.config.source import BadYaml, Map, tree_of
from cyfs_ns.config.written import Reader, Section
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import read_json, write_json
from node.io.run import keeper
from node.run.runner import MARK, Ended, Launch, Order, Place, RunFault
from zone.scheduler.service import read_ports, read_work

LOG_SIZE: Final = 4 << 20
"""Bytes of a log file."""
LOG_KEEP: Final = 3
"""Older log files that stay."""
MOST_LOGS: Final = 32
"""Folders of logs whose service is not here any more."""
_BEGIN: Final = 20.0
"""Seconds for a keeper to begin; it takes 20 ms where there is nothing else to do."""
_CALL: Final = "+"
"""Between the names of a service and of a call; no service has it in its name."""
_MOST_ORDER: Final = 256 * 1024
_AGAIN: Final = 0.5
"""Seconds before a look at a run that failed is tried again."""

_log = logging.getLogger("cyfs.node")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Found:
    """A run as its files say."""

    order: Order | None
    """None: nobody can read it."""
    state: dict[str, str]
    is_kept: bool
    user: int | None
    groups: tuple[str, ...] = ()
    """As ``Launch.join``."""
    lingers: bool = False
    """As ``Launch.lingers``."""

    @property
    def is_over(self) -> bool:
        """It has ended, though it may not have been cleared yet; raises ``OSError`` where nobody can know."""
        if not self.is_kept or "over" in self.state:
            return True
        if "code" in self.state:
            return not self.lingers or self.state["code"] != "0"
        # Its keeper may be about to say so.
        return not self.lingers and "main" in self.state and _is_dead(self.state["main"])


def called(service: str, name: str) -> str:
    """The name of a run beside that of ``service``."""
    return f"{service}{_CALL}{name}"


class Runs:
    """The runs of a node.  No two calls for one service at once, but ``stop`` beside ``wait``."""

    def __init__(self, home: str) -> None:
        self._home = home

    def place(self, service: str) -> Place:
        """Where the parts of ``service`` are."""
        return Place(self._home, service)

    async def find(self) -> dict[str, Order | None]:
        """The service of every run that is there, going on or not, and its order; None: nobody can read it.

        Each is to be waited for.  Calls that an earlier daemon made are ended first.
        """
        found = await _persistently(self._find)
        for name in [name for name in found if _CALL in name]:
            del found[name]
            await self.finish(name)
        return found

    def _find(self) -> dict[str, Order | None]:
        try:
            names = sorted(os.listdir(f"{self._home}/runs"))
        except FileNotFoundError:
            return {}
        found = {name: self._look(name) for name in names}
        return {name: run.order for name, run in found.items() if run is not None}

    async def start(self, order: Order, launch: Launch) -> None:
        """Begin a run where there is none; raises ``RunFault``, and then there is none."""
        with trio.CancelScope(shield=True):
            await _in_thread(lambda: self._write(order, launch))
            directory = self.place(order.service).runs
            command = [sys.executable, "-I", "-S", keeper.__file__, directory]
            fault = ""
            try:
                with trio.move_on_after(_BEGIN) as patience:
                    begun = await trio.run_process(command, check=False, capture_stderr=True, start_new_session=True)
                    if begun.returncode != 0:
                        fault = begun.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:400] or "it died"
                if patience.cancelled_caught:
                    fault = f"it did not begin within {_BEGIN:g} s"
            except OSError as bad:
                fault = str(bad)
            if fault:
                await self.finish(order.service)
                raise RunFault(f"the keeper of the run: {fault}")
            state = (await _persistently(lambda: self._look(order.service))) or _Found(order, {}, False, None)
        if cannot := state.state.get("fault"):
            await self.wait(order.service)
            raise RunFault(cannot)

    def _write(self, order: Order, launch: Launch) -> None:
        place = self.place(order.service)
        plain = {"work": order.work.as_page(), "ports": dict(order.ports)}
        try:
            for path in (place.runs, place.logs):
                Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
            Path(place.runs, "state").unlink(missing_ok=True)
            _put(f"{place.runs}/order", write_json(plain))
            _put(f"{place.runs}/launch", _records(place, launch))
        except OSError as bad:
            raise RunFault(f"the run cannot be written down: {bad}") from bad

    async def is_over(self, service: str) -> bool:
        """Whether the run has ended, cleared or not."""
        return await _persistently(lambda: (run := self._look(service)) is None or run.is_over)

    async def wait(self, service: str) -> Ended:
        """Until nothing of the run runs any more, and clear it; how it ended."""
        while (found := await _persistently(lambda: self._look(service))) is not None:
            state = found.state
            if not found.is_kept:
                # A keeper that never said its name has started nothing.
                is_cut = "keeper" in state and "over" not in state
                if is_cut and await _persistently(lambda: self._sweep(service, found)) > 0:
                    await trio.sleep(0.02)
                elif await _persistently(lambda: self._clear(service)):
                    return _ended(state)
            elif (handle := await _persistently(partial(_opened, state))) is None:
                # Between its lock and its first word, or its last word and its end.
                await trio.sleep(0.01)
            else:
                try:
                    await trio.lowlevel.wait_readable(handle)
                finally:
                    os.close(handle)
        return Ended()

    async def call(self, order: Order, launch: Launch, patience: float) -> Ended | None:
        """A run from its start to its end; None: it took longer than ``patience`` seconds, and was ended.

        Raises ``RunFault``.
        """
        await self.start(order, launch)
        try:
            with trio.move_on_after(patience):
                return await self.wait(order.service)
        finally:
            await self.finish(order.service)
        return None

    async def finish(self, service: str) -> None:
        """End the run, if there is one, and clear it, whoever waits or is cancelled."""
        with trio.CancelScope(shield=True):
            await self.stop(service, at_once=True)
            await self.wait(service)

    async def forget(self, place: Place) -> None:
        """Nothing of the service is here any more.  The last few logs that are nobody's stay.  Raises ``OSError``."""
        await _in_thread(lambda: self._forget(place))

    def _forget(self, place: Place) -> None:
        runs, logs = Path(self._home, "runs"), Path(self._home, "logs")
        shutil.rmtree(place.runs, ignore_errors=True)
        gone = [log for log in logs.glob("*") if not (runs / log.name.partition(_CALL)[0]).exists()]
        for log in sorted(gone, key=lambda log: log.stat().st_mtime)[:-MOST_LOGS]:
            shutil.rmtree(log, ignore_errors=True)

    async def stop(self, service: str, *, at_once: bool = False) -> None:
        """Ask the run to end, or end it; whoever waits for it hears when it has."""
        number = signal.SIGUSR1 if at_once else signal.SIGTERM
        await _persistently(lambda: self._tell(service, number))

    def _tell(self, service: str, number: signal.Signals) -> None:
        found = self._look(service)
        if found is not None and found.is_kept and (handle := _opened(found.state)) is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            os.close(handle)

    def _look(self, service: str) -> _Found | None:
        directory = self.place(service).runs
        try:
            held = os.open(f"{directory}/launch", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            # Before its state is read: one that ends meanwhile has said its last word.
            is_kept = not _lock(held, fcntl.LOCK_SH)
            records = os.read(held, os.fstat(held).st_size).split(b"\0")
        finally:
            os.close(held)
        user = next((int(r[5:].split(b":")[0]) for r in records if r.startswith(b"user=")), None)
        groups = tuple(os.fsdecode(r[5:]) for r in records if r.startswith(b"join="))
        lingers = b"lingers=1" in records
        return _Found(_read_order(directory, service), _read_state(directory), is_kept, user, groups, lingers)

    def _clear(self, service: str) -> bool:
        directory = self.place(service).runs
        held = os.open(f"{directory}/launch", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # A keeper that begins late finds the file gone, or the lock taken, and goes.
            if not _lock(held, fcntl.LOCK_EX):
                return False
            for name in ("launch", "state", "order"):
                Path(directory, name).unlink(missing_ok=True)
            if _CALL in service:  # nobody forgets a call
                shutil.rmtree(directory, ignore_errors=True)
            return True
        finally:
            os.close(held)

    def _sweep(self, service: str, run: _Found) -> int:
        """Kill whatever is left of a run whose keeper was killed; how many those were."""
        keeper.tell_groups([*run.groups], "cgroup.kill", b"1")
        mark = b"\0%s=%s\0" % (MARK.encode(), self.place(service).runs.encode())
        found = 0
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                handle = os.pidfd_open(int(name))
            except ProcessLookupError:
                continue
            try:
                if _is_of(name, mark, run.user):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    found += 1
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                pass
            finally:
                os.close(handle)
        return found


def _is_dead(pid: str) -> bool:
    """Gone, or only not collected yet; raises ``OSError`` where nobody can know."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return True


def _is_of(pid: str, mark: bytes, user: int | None) -> bool:
    """Raises ``OSError`` where there is no such process, or nobody may look."""
    if _is_dead(pid):
        return False
    if user is not None and Path(f"/proc/{pid}").stat().st_uid == user:
        return True
    return mark in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()


def _records(place: Place, launch: Launch) -> bytes:
    """As the keeper reads them; raises ``RunFault`` for what no process can be given."""
    found = [
        ("log", place.logs),
        ("log-size", str(LOG_SIZE)),
        ("log-keep", str(LOG_KEEP)),
        ("carriers", str(launch.carriers)),
        ("lingers", "1" if launch.lingers else "0"),
        ("new-privileges", "1" if launch.new_privileges else "0"),
        ("cwd", launch.cwd),
        ("env", f"{MARK}={place.runs}"),
    ]
    if launch.user is not None:
        found.append(("user", f"{launch.user[0]}:{launch.user[1]}"))
    found += [("argv", word) for word in launch.argv]
    found += [("env", f"{name}={value}") for name, value in launch.env if name != MARK]
    found += [("join", path) for path in launch.join]
    found += [("limit", f"{number}:{most}") for number, most in launch.limits]
    found += [("input", f"{fd}:{path}") for fd, path in launch.inputs]
    if any("\0" in value for _, value in found):
        raise RunFault("neither commands nor variables may have a NUL in them", lasting=True)
    return "".join(f"{name}={value}\0" for name, value in found).encode("utf-8", "surrogateescape")


def _read_order(directory: str, service: str) -> Order | None:
    try:
        with Path(directory, "order").open("rb") as file:
            tree = tree_of(read_json(file.read(_MOST_ORDER).decode(), "order"))
        if not isinstance(tree, Map):
            return None
        section = Section(Reader(), tree, "")
        work = section.table("work")
        order = None if work is None else Order(service=service, work=read_work(work), ports=read_ports(section))
    except (FileNotFoundError, UnicodeDecodeError, BadYaml, BadWire):
        return None
    return None if section.reader.errors else order


def _read_state(directory: str) -> dict[str, str]:
    try:
        text = Path(directory, "state").read_text("utf-8", "replace")
    except FileNotFoundError:
        return {}
    return {name: value for name, _, value in (line.partition("=") for line in text.splitlines() if line)}


def _ended(state: dict[str, str]) -> Ended:
    code = state.get("code")
    return Ended(None if code is None else int(code), state.get("fault", ""), int(state.get("left", "0")))


def _opened(state: dict[str, str]) -> int | None:
    """A pidfd of the keeper that wrote ``state``, if it is still there; raises ``OSError`` where nobody can know."""
    pid, _, started = state.get("keeper", "").partition(" ")
    if not pid:
        return None
    try:
        handle = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return None
    is_it = False
    try:
        with suppress(FileNotFoundError, ProcessLookupError):
            is_it = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode() == started
    finally:
        if not is_it:
            os.close(handle)
    return handle if is_it else None


def _put(path: str, data: bytes) -> None:
    """Whole or not at all, for whoever looks; a power cut ends the run with its files."""
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    Path(f"{path}.new").replace(path)


def _lock(held: int, how: int) -> bool:
    try:
        fcntl.flock(held, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _in_thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work)


async def _persistently(work: Callable[[], T]) -> T:
    """Ask until there is an answer: a run that nobody can look at, for want of descriptors, is not over."""
    while True:
        try:
            return await _in_thread(work)
        except OSError as fault:
            _log.warning("a run cannot be looked at: %s", fault)
            await trio.sleep(_AGAIN)
