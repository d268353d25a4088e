"""The stage of a race: pinned processes, their CPU time and memory, ports, and what machine this is.

The process under test runs on one CPU, the load and the upstream on another, so that neither steals from the other and
every contestant gets the same share.  On a machine with one CPU all share it; figures then compare only within a run.
CPU time and memory are those of a process with all its descendants.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_CPUS = sorted(os.sched_getaffinity(0))
PROXY_CPU, LOAD_CPU = _CPUS[0], _CPUS[-1]
FILE_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
_SCHEDULED = 2
_TICK = os.sysconf("SC_CLK_TCK")
_HERE = Path(__file__).parent


class Failed(Exception):
    """A contestant or the load did not do its part; the text says how."""


def _seat(cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILE_LIMIT, FILE_LIMIT))


@contextlib.contextmanager
def process(command: list[str], cpu: int, log: Path, **popen: object) -> Iterator[subprocess.Popen[str]]:
    """A process pinned to ``cpu``, its words in ``log``, ended on the way out: SIGTERM, five seconds, SIGKILL."""
    with log.open("ab") as words:
        popen = {"stdout": words, "stdin": subprocess.DEVNULL} | popen
        child = subprocess.Popen(command, stderr=words, text=True, preexec_fn=lambda: _seat(cpu), **popen)  # type: ignore[call-overload]
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def last_words(log: Path) -> str:
    """The end of a log, for a message."""
    return log.read_text(errors="replace")[-600:].strip() or "(it said nothing)"


def wait_for_port(port: int, child: subprocess.Popen[str], log: Path, seconds: float = 20) -> None:
    """Return once somebody accepts on 127.0.0.1:``port``; raise Failed when the process ends or the time does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise Failed(f"ended with status {child.returncode}: {last_words(log)}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.005)
    raise Failed(f"does not listen on {port} after {seconds:.0f} s: {last_words(log)}")


_given: set[int] = set()


def free_port() -> int:
    """A free port below the ephemeral range, so that no outgoing connection can take it before its server starts."""
    while True:
        port = random.randrange(20000, 32000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from _family(int(child))


def cpu_seconds(pid: int) -> float:
    """CPU time spent so far, user and system, in seconds.

    By the clock of each process (clock_getcpuclockid(3)), to the nanosecond: a hundredth of a second, as /proc tells
    it, is 20 us each for the questions of half a second.  Raises ``OSError`` when it is gone.
    """
    return sum(time.clock_gettime(~member << 3 | _SCHEDULED) for member in _family(pid))


def busy_seconds() -> float:
    """CPU time that anybody, this run or a stranger, has had on the CPUs of the stage."""
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in (f"cpu{PROXY_CPU}", f"cpu{LOAD_CPU}"):
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / _TICK


def own_seconds() -> float:
    """CPU time of this process and of the children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def rss_mb(pid: int) -> float:
    """Resident memory now, in MB (10^6 bytes)."""
    pages = sum(int(Path(f"/proc/{member}/statm").read_text().split()[1]) for member in _family(pid))
    return pages * resource.getpagesize() / 1e6


def peak_mb(pid: int) -> float:
    """The most memory that was ever resident in any of them, in MB (10^6 bytes), summed."""
    total = 0
    for member in _family(pid):
        lines = Path(f"/proc/{member}/status").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return total * 1024 / 1e6


def pss_kib(pid: int) -> int:
    """Memory now, in KiB, of what is shared its share."""
    total = 0
    for member in _family(pid):
        lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def load_tool(name: str = "load") -> str:
    """Path of a load tool, compiled when it is missing or older than its source."""
    source, tool = _HERE / f"{name}.c", _HERE / "bin" / name
    if not tool.exists() or tool.stat().st_mtime < source.stat().st_mtime:
        tool.parent.mkdir(exist_ok=True)
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", tool, source], check=True)
    return str(tool)


def output(*command: str) -> str:
    """What a command prints (both streams), or nothing when it cannot run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=_HERE)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).strip()


def machine() -> dict[str, str]:
    """What a reader must know to compare two runs."""
    told = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in told if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PHYS_PAGES") * resource.getpagesize() / 1e9
    pinned = f"under test on CPU {PROXY_CPU}, load and upstream on CPU {LOAD_CPU}"
    return {
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": f"{cpu}, {len(_CPUS)} usable, {memory:.0f} GB of memory",
        "pinning": pinned if PROXY_CPU != LOAD_CPU else "none: this machine has one CPU, shared by load and program",
        "tcp": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip() + " congestion control, loopback",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load average at the start": Path("/proc/loadavg").read_text().rsplit(maxsplit=2)[0],
    }
