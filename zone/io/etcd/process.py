"""The program of one member, in a directory of its own: started once, watched, started again when it ended, stopped.

``DIR/lock`` is held by the program itself, as long as it lives, through a descriptor that it inherits: so whoever finds
the lock held knows that a member runs there, whatever became of the process that started it.  Its process id is in
``DIR/member.pid``, written by itself before it becomes etcd.  A gateway that was killed finds its member that way: it
takes it over if that is the one it wants, and else ends it before it starts another.

The directory is for its owner alone, since etcd asks nobody who comes by its sockets who they are.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from cyfs_ns.errors import ConfigFault, Unreachable
from zone.etcd.launch import Diagnosis, Launch, Trouble, diagnose, flags
from zone.etcd.seats import CLIENT, socket_name
from zone.io.etcd.files import has_data

PROGRAM: Final = "etcd"
LOG: Final = "etcd.log"
_LOCK: Final = "lock"
_PID: Final = "member.pid"
# The shell has the process id that etcd will have, and the lock already.
_SCRIPT: Final = f'echo $$ >{_PID} && exec "$0" "$@"'

_GRACE: Final = 10.0
"""Seconds from being asked to end to being ended."""
_PATIENCE: Final = 2.0
"""Seconds in which a process that holds the lock has written its id."""
_LEAST_PAUSE, _MOST_PAUSE = 0.5, 30.0
"""Seconds before it is started again, at first and at most."""
_LONG: Final = 60.0
"""Seconds after which one that ran is not to blame for those before it."""
_EVERY: Final = 0.5
"""Seconds from one look at the log to the next."""
_MOST_LOG: Final = 8 * 1024 * 1024
_MOST_READ: Final = 256 * 1024
_LAST_LINES: Final = 64
_ROOM: Final = 1 << 20
"""Bytes without which a disk counts as full."""
_MOST_PATH: Final = 107
"""Octets of a socket's path (``unix(7)``)."""

_log = logging.getLogger("cyfs.etcd")


class EtcdMember:
    """The member in ``folder``."""

    def __init__(self, folder: Path, program: str = PROGRAM) -> None:
        self._folder, self._program = folder, program
        self.pid = 0
        """Of the program; 0: it does not run."""
        self.adopted = False
        """It was running before we came."""
        self.starts = 0
        self.fault: Diagnosis | None = None
        """Why it ended the last time, until it has run for long."""

    @property
    def client(self) -> str:
        """Where clients on this machine reach it, for gRPC."""
        return f"unix:{self._folder / CLIENT}"

    async def keep(self, launch: Launch) -> Diagnosis:
        """Have it run, until it makes no sense to start it again: then why.  When this is cancelled, it is stopped.

        Raises ``ConfigFault`` if it cannot be started at all, ``Unreachable`` if another process is in its place.
        """
        pause = _LEAST_PAUSE
        while True:
            begun = trio.current_time()
            self.fault = await self._live(launch)
            if self.fault.trouble in (Trouble.REMOVED, Trouble.DAMAGED):
                _log.error("%s", self.fault)
                return self.fault
            if launch.urls and not has_data(self._folder):
                # The cluster that it was to begin in may have others in it by now.
                _log.warning("%s", self.fault)
                return self.fault
            if trio.current_time() - begun > _LONG:
                pause = _LEAST_PAUSE
            _log.error("%s; started again in %g s", self.fault, pause)
            await trio.sleep(pause)
            pause = min(pause * 2, _MOST_PAUSE)

    async def _live(self, launch: Launch) -> Diagnosis:
        """One life, and why it ended."""
        _own(self._folder)
        words = _Words(self._folder / LOG)
        process = await self._begun(launch)
        try:
            self.pid = process.pid
            async with trio.open_nursery() as nursery:
                nursery.start_soon(words.tell)
                try:
                    await process.wait()
                except trio.Cancelled:
                    with trio.CancelScope(shield=True):
                        await process.stop()
                    raise
                nursery.cancel_scope.cancel()
        finally:
            self.pid = 0
            process.close()
        words.read()
        if process.killed_by:
            return Diagnosis(Trouble.OTHER, f"killed by signal {process.killed_by}")
        told = diagnose(words.last)
        if told.trouble is Trouble.DAMAGED and _is_full(self._folder):
            # Its last words may lack the very last; nothing is put away before there is room to look again.
            return Diagnosis(Trouble.NO_ROOM, "no space left on device")
        return told

    async def _begun(self, launch: Launch) -> _Process:
        """The process, ours or one that runs already."""
        while True:
            lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pass
                else:
                    self.adopted = False
                    self.starts += 1
                    return self._spawn(launch, lock)
            finally:
                os.close(lock)
            running = await self._found()
            if running is None:
                continue
            if f"--listen-peer-urls={launch.url}" in _arguments(running.pid):
                _log.info("etcd runs already, process %d", running.pid)
                self.adopted = True
                return running
            _log.warning("another etcd runs in %s, process %d: it is ended", self._folder, running.pid)
            try:
                await running.stop()
            finally:
                running.close()

    def _spawn(self, launch: Launch, lock: int) -> _Process:
        for name in (CLIENT, socket_name(launch.url), _PID):
            # Nobody listens there: we hold the lock.
            (self._folder / name).unlink(missing_ok=True)
        with (self._folder / LOG).open("ab") as log:
            try:
                child = subprocess.Popen(
                    ["/bin/sh", "-c", _SCRIPT, self._program, *flags(launch)],
                    cwd=self._folder,
                    # Of the environment it would take flags.
                    env={"PATH": os.environ.get("PATH", os.defpath)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[lock],
                    start_new_session=True,
                )
            except OSError as fault:
                raise ConfigFault(f"etcd cannot be started: {fault}") from fault
        return _Process(child.pid, os.pidfd_open(child.pid), child)

    async def _found(self) -> _Process | None:
        """The process that holds the lock; None: it has ended meanwhile.  Raises ``Unreachable``."""
        deadline = trio.current_time() + _PATIENCE
        while True:
            pid = _read_pid(self._folder / _PID)
            with suppress(OSError):
                if pid:
                    descriptor = os.pidfd_open(pid)
                    # Whoever has that descriptor is looked at after it was opened: so it is the one.
                    if _is_in(pid, self._folder):
                        return _Process(pid, descriptor, None)
                    os.close(descriptor)
            if _is_free(self._folder / _LOCK):
                return None
            if trio.current_time() > deadline:
                raise Unreachable(f"{self._folder / _LOCK} is held by a process that is not known; end it")
            await trio.sleep(0.05)


def find_program(program: str = PROGRAM) -> str:
    """Where it is.  Raises ``ConfigFault``."""
    if (found := shutil.which(program)) is None:
        raise ConfigFault(f"a zone of several machines needs {program}, which is not installed (Debian: etcd-server)")
    return found


class _Process:
    """A process by its descriptor, which stays that process's whatever becomes of the number."""

    def __init__(self, pid: int, descriptor: int, child: subprocess.Popen[bytes] | None) -> None:
        self.pid, self._descriptor, self._child = pid, descriptor, child

    @property
    def killed_by(self) -> int:
        """The signal that ended it; 0: it ended by itself, or was not started by us."""
        code = None if self._child is None else self._child.returncode
        return 0 if code is None else max(0, -code)

    async def wait(self) -> None:
        """Until it has ended."""
        await trio.lowlevel.wait_readable(self._descriptor)
        if self._child is not None:
            self._child.wait()

    async def stop(self) -> None:
        """End it: politely, and after a while not."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)
            with trio.move_on_after(_GRACE):
                await self.wait()
                return
        raise Unreachable(f"process {self.pid} does not end, it hangs in the kernel")

    def close(self) -> None:
        os.close(self._descriptor)


class _Words:
    """What a program says to its log file from now on: warnings are passed on, and the last of it is kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = path.stat().st_size if path.exists() else 0
        self._rest = b""
        self.last: deque[str] = deque(maxlen=_LAST_LINES)

    async def tell(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(_EVERY)
            self.read()

    def read(self) -> None:
        """What was said since."""
        with suppress(FileNotFoundError), self._path.open("rb+") as file:
            file.seek(self._read)
            while said := file.read(_MOST_READ):
                self._read += len(said)
                *lines, self._rest = (self._rest + said).split(b"\n")
                self._rest = self._rest[-_MOST_READ:]
                for line in lines:
                    self._take(line.decode(errors="replace"))
            if self._read > _MOST_LOG:
                # It is written at its end, wherever that is.
                file.truncate(0)
                self._read = 0

    def _take(self, line: str) -> None:
        self.last.append(line)
        try:
            told = json.loads(line)
            level, said = told["level"], told["msg"]
        except (ValueError, TypeError, KeyError):
            return
        if level in ("error", "fatal", "panic"):
            _log.warning("%s: %s", said, str(told.get("error", ""))[:200])
        else:
            _log.debug("%s", said)


def _is_full(folder: Path) -> bool:
    try:
        found = os.statvfs(folder)
    except OSError:
        return True
    return found.f_bavail * found.f_frsize < _ROOM


def _own(folder: Path) -> None:
    """Have the directory be there, for us alone.  Raises ``ConfigFault``."""
    if len(os.fsencode(folder / CLIENT)) > _MOST_PATH:
        raise ConfigFault(f"{folder}: too long for a socket in it; choose another home")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as fault:
        raise ConfigFault(f"{folder} cannot be kept for etcd alone: {fault}") from fault


def _read_pid(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _is_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:
        return False


def _is_free(lock: Path) -> bool:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
