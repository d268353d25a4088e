"""The keeper of one run: ``python -I -S keeper.py RUN_DIRECTORY``, run as a program and never imported by the daemon.

It starts the run, keeps its log, ends with it, and leaves nothing of it behind; it knows nothing of the daemon, whose
death it does not notice.  What it needs stands in the directory, and what it learns it writes there:

* ``launch``: records ``NAME=VALUE``, each ended by NUL (``node.io.run.runs`` writes them).  The keeper holds a lock
  on this file as long as it lives, which is how others know: whoever gets the lock finds it dead, or not yet begun,
  and then removes the file before letting go, so that it never begins.
* ``state``: ``NAME=VALUE`` lines in 1 KiB that are written over in place, because that works on a full disk:
  ``keeper`` (process, and when it was started in ticks), ``main``, ``code``, ``left``, ``fault``; ``over`` last.

All that the run starts stays below the keeper, whatever it does: it is the subreaper (prctl(2)) that orphans are given
to.  SIGTERM asks the service to end, SIGUSR1 ends everything.  It stays small: no modules beyond the interpreter's
own few, no threads, one line buffer a stream.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_LINE = 8192
"""Bytes of a line; a longer one becomes several."""
_BATCH = 65536
_STATE = 1024
_LOW = 64
"""Descriptors below are for the run's inputs."""
_SET_PDEATHSIG, _SET_NO_NEW_PRIVS, _SET_CHILD_SUBREAPER, _AMBIENT, _CLEAR_ALL = 1, 38, 36, 47, 4
_PRCTL = ctypes.CDLL(None, use_errno=True).prctl


def _prctl(option: int, value: int) -> None:
    if _PRCTL(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def _stat(pid: int) -> tuple[int, int]:
    """The parent of a process, and when it was started in ticks; raises ``OSError`` when there is none."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        words = file.read().rpartition(b")")[2].split()
    return int(words[1]), int(words[19])


def _descendants() -> list[tuple[int, int, int]]:
    """Process, when it was started, and its generation, from 1, of all that is below us; zombies are nothing."""
    below: dict[int, list[tuple[int, int]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parent, started = _stat(int(name))
            except OSError:
                continue
            below.setdefault(parent, []).append((int(name), started))
    found, generation = [], [(pid, started, 1) for pid, started in below.get(os.getpid(), ())]
    while generation:
        found += generation
        generation = [(pid, at, depth + 1) for up, _, depth in generation for pid, at in below.get(up, ())]
    return found


def _signal(pid: int, started: int, number: int) -> None:
    """Send a signal to the process that was started then, and to no other that got its number since."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _stat(pid)[1] == started:
            signal.pidfd_send_signal(handle, number)
    except OSError:
        pass
    finally:
        os.close(handle)


def tell_groups(joined: list[str], name: str, data: bytes) -> None:
    """Write ``data`` into the file ``name`` of each control group that has it; ``joined``: as ``Launch.join``."""
    for path in joined:
        try:
            _give(f"{os.path.dirname(path)}/{name}", data)
        except OSError:
            continue


class Log:
    """Lines in ``DIRECTORY/log``, which is turned over at ``size`` bytes; ``keep`` older ones stay.

    A line is ``SECONDS STREAM TEXT``: ``o`` or ``e`` for the two outputs, capital when the line was too long and goes
    on in the next, ``k`` for what the keeper has to say.  A disk that is full costs lines, which are counted.
    """

    def __init__(self, directory: str, size: int, keep: int) -> None:
        self._path, self._most, self._keep = f"{directory}/log", size, keep
        self._fd = -1
        self._size = self._lost = 0
        self._parts = {b"o": b"", b"e": b""}

    def take(self, stream: bytes, data: bytes) -> None:
        """What was read from a stream; none: its end."""
        *lines, rest = (self._parts[stream] + data).split(b"\n")
        if not data and rest:
            lines, rest = [rest], b""
        head = b"%.6f " % time.time()
        records = []
        for line in lines:
            while len(line) > MOST_LINE:
                records.append(head + stream.upper() + b" " + line[:MOST_LINE] + b"\n")
                line = line[MOST_LINE:]
            records.append(head + stream + b" " + line + b"\n")
        while len(rest) > MOST_LINE:
            records.append(head + stream.upper() + b" " + rest[:MOST_LINE] + b"\n")
            rest = rest[MOST_LINE:]
        self._parts[stream] = rest
        self._write(records)

    def say(self, text: str) -> None:
        self._write([b"%.6f k %s\n" % (time.time(), text.encode("utf-8", "replace"))])

    def _write(self, records: list[bytes]) -> None:
        if not records:
            return
        if self._lost:
            records.insert(0, b"%.6f k %d lines were lost here\n" % (time.time(), self._lost))
        data = b"".join(records)
        try:
            if self._fd < 0 or self._size + len(data) > self._most:
                self._open(len(data))
            done = os.write(self._fd, data)
            if done < len(data):
                os.ftruncate(self._fd, self._size)
                raise OSError
        except OSError:
            self._lost += len(records) - bool(self._lost)
            return
        self._size += done
        self._lost = 0

    def _open(self, coming: int) -> None:
        """The file to go on with; raises ``OSError``."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if not self._has_room(coming):
            for number in range(self._keep, 0, -1):
                older = f"{self._path}.{number - 1}" if number > 1 else self._path
                if os.path.exists(older):
                    os.replace(older, f"{self._path}.{number}")
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _has_room(self, coming: int) -> bool:
        try:
            return os.stat(self._path).st_size + coming <= self._most
        except FileNotFoundError:
            return True


class Keeper:
    """See the top of this file."""

    def __init__(self, directory: str, launch: list[tuple[str, str]]) -> None:
        self._launch = launch
        one = dict(launch)
        self._log = Log(one["log"], int(one["log-size"]), int(one["log-keep"]))
        self._groups = [path for name, path in launch if name == "join"]
        self._carriers, self._lingers = int(one["carriers"]), one["lingers"] == "1"
        self._state = os.open(f"{directory}/state", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._told = {"keeper": f"{os.getpid()} {_stat(os.getpid())[1]}"}
        self._awake, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._outputs: dict[int, bytes] = {}
        self._main = 0
        self._code: int | None = None
        self._is_ending = False

    def tell(self, **words: object) -> None:
        """Have it stand in ``state``."""
        self._told |= {name: str(word).replace("\n", " ") for name, word in words.items()}
        text = "".join(f"{name}={word}\n" for name, word in self._told.items()).encode("utf-8", "replace")
        os.pwrite(self._state, text[: _STATE - 1].ljust(_STATE, b"\n"), 0)

    def begin(self) -> str:
        """Start what is to run; why it cannot be started, or nothing."""
        self.tell()
        _prctl(_SET_CHILD_SUBREAPER, 1)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        if fault := self._start():
            self._log.say(fault)
        else:
            self.tell(main=self._main)
        return fault

    def watch(self) -> None:
        """Until nothing of the run is left."""
        poll = select.poll()
        for fd in (self._awake, *self._outputs):
            poll.register(fd, select.POLLIN)
        while self._reap():
            if self._is_ending:
                self._kill()
            # Whoever was killed and is not dead yet is asked after again.
            for fd, _ in poll.poll(20 if self._is_ending else None):
                if fd == self._awake:
                    self._obey(os.read(fd, 512))
                elif not self._hear(fd):
                    poll.unregister(fd)
                    os.close(fd)
                    del self._outputs[fd]
        for fd, stream in self._outputs.items():
            os.set_blocking(fd, False)
            try:
                while self._hear(fd):
                    pass
            except BlockingIOError:
                # Somebody outside was given this end; nobody of ours has it.
                self._log.take(stream, b"")
        self.tell(over=1)

    def _obey(self, signals: bytes) -> None:
        if signal.SIGUSR1 in signals:
            self._is_ending = True
        elif signal.SIGTERM in signals:
            for pid, started, generation in _descendants():
                if generation > self._carriers:
                    _signal(pid, started, signal.SIGTERM)

    def _hear(self, fd: int) -> bool:
        data = os.read(fd, _BATCH)
        self._log.take(self._outputs[fd], data)
        return bool(data)

    def _reap(self) -> bool:
        """Collect the dead; whether anybody is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._main:
                self._code = os.waitstatus_to_exitcode(status)
                left = len(_descendants())
                self._is_ending = self._is_ending or not self._lingers or self._code != 0
                self.tell(main=0, code=self._code, left=left if self._is_ending else 0)

    def _kill(self) -> None:
        """Stop all of them first, until there are no new ones, so that nobody outruns us by forking.

        Of several chains in which each process forks and ends, only a control group gets hold.
        """
        tell_groups(self._groups, "cgroup.kill", b"1")
        tell_groups(self._groups, "freezer.state", b"FROZEN")
        stopped: set[tuple[int, int]] = set()
        for _ in range(100):
            found = {(pid, started) for pid, started, _ in _descendants()}
            if found <= stopped:
                break
            for pid, started in found - stopped:
                _signal(pid, started, signal.SIGSTOP)
            stopped |= found
        for pid, started in stopped:
            _signal(pid, started, signal.SIGKILL)
        tell_groups(self._groups, "freezer.state", b"THAWED")

    def _start(self) -> str:
        """Why the run could not be started; empty: it was."""
        out, out_end = os.pipe2(os.O_CLOEXEC)
        err, err_end = os.pipe2(os.O_CLOEXEC)
        word, word_end = os.pipe2(os.O_CLOEXEC)
        self._outputs = {out: b"o", err: b"e"}
        pid = os.fork()
        if pid == 0:
            step = "begin"
            try:
                word_end = fcntl.fcntl(word_end, fcntl.F_DUPFD_CLOEXEC, _LOW)
                for doing in _become(self._launch, out_end, err_end):
                    step = doing
            except (OSError, ValueError) as bad:
                os.write(word_end, f"cannot {step}: {getattr(bad, 'strerror', None) or bad}".encode()[:400])
            os._exit(127)
        for fd in (out_end, err_end, word_end):
            os.close(fd)
        fault = os.read(word, 400).decode("utf-8", "replace")
        os.close(word)
        if fault:
            os.waitpid(pid, 0)
        self._main = pid
        return fault[:400]


def _become(launch: list[tuple[str, str]], out: int, err: int) -> Iterator[str]:
    """Turn this process into what is to run; each step says what it is before it is done, and raises ``OSError``."""
    one = dict(launch)
    argv = [value for name, value in launch if name == "argv"]
    yield "begin a session"
    os.setsid()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o022)
    for name, value in launch:
        if name == "join":
            yield f"join {value}"
            _give(value, b"0")
    yield "take its outputs"
    ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOW) for fd in (os.open(os.devnull, os.O_RDONLY), out, err)]
    for target, fd in enumerate(ends):
        os.dup2(fd, target)
    for name, value in launch:
        if name == "input":
            at, _, path = value.partition(":")
            yield f"open {path}"
            fd = fcntl.fcntl(os.open(path, os.O_RDONLY), fcntl.F_DUPFD_CLOEXEC, _LOW)
            os.dup2(fd, int(at))
    # Before it gives up its rights: the way there may be closed to it.
    yield f"enter {one['cwd']}"
    os.chdir(one["cwd"])
    for name, value in launch:
        if name == "limit":
            yield f"limit what it may take ({value})"
            what, most = map(int, value.split(":"))
            resource.setrlimit(what, (most, most))
    if "user" in one:
        yield f"become user {one['user']}"
        user, group = map(int, one["user"].split(":"))
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    yield "give up the capabilities of the daemon"
    _prctl(_AMBIENT, _CLEAR_ALL)
    if one["new-privileges"] != "1":
        yield "give up new privileges"
        _prctl(_SET_NO_NEW_PRIVS, 1)
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    yield f"start {argv[0]}"
    os.execve(argv[0], argv, dict(value.split("=", 1) for name, value in launch if name == "env"))  # noqa: S606 -- that is the point


def _give(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, data)
    os.close(fd)


def main() -> None:
    """Begin, say by ending with 0 that the run has begun or cannot, and go on behind the back of who started it."""
    directory = sys.argv[1]
    held = os.open(f"{directory}/launch", os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    text = os.read(held, os.fstat(held).st_size).decode("utf-8", "surrogateescape")
    if os.fstat(held).st_nlink == 0:
        sys.exit("the launch was taken back")
    word, word_end = os.pipe2(os.O_CLOEXEC)
    if os.fork() != 0:
        # The child has the same open file, and with it the lock.
        os.close(word_end)
        os._exit(0 if os.read(word, 1) else 1)
    os.setsid()
    records = [record.partition("=") for record in text.split("\0")[:-1]]
    keeper = Keeper(directory, [(name, value) for name, _, value in records])
    if fault := keeper.begin():
        keeper.tell(fault=fault, over=1)
    os.write(word_end, b".")
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    os.close(nothing)
    if not fault:
        keeper.watch()


if __name__ == "__main__":
    main()
