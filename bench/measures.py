"""What is measured, and how one sample is taken.

A race runs its contestants on one stage: all are started, each is warmed up, then rounds go A B C, A B C, so that a
disturbance of the machine or a drift of its clock meets everybody.  The others stay idle while one runs.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import stage
from report import Figure
from rivals import HELPERS, Ports, Rival, nginx
from rounds import Allowance
from stage import Failed

CONNRATE_CONNS, KEPT_CONNS, CROWD = 64, 32, 10_000
_CROWD_SPARE = 500


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure, and with whom."""

    contestants: list[tuple[Rival, str]]
    """Present rivals with the paths of their programs, in racing order."""
    seconds: float
    rounds: int
    direct: bool
    """Measure the load without a relay too."""
    allowance: Allowance
    """Hands out the turns of each race."""
    who: Sequence[str] = ()
    """The names that were asked for; empty: everybody."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A started contestant; without ``pids`` it is the load talking to the upstream without anybody between."""

    name: str
    ports: Ports
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one round of load saw."""

    count: int
    seconds: float
    errors: int = 0
    p99_ms: float | None = None
    mean_ms: float | None = None


def _load(*arguments: object, seconds: float) -> Sample:
    """Run the load tool once on its own CPU."""
    told = run_load([stage.load_tool(), *map(str, arguments), "--seconds", str(seconds)], seconds)
    result = json.loads(told)
    p99 = result.get("p99_us")
    return Sample(result["count"], result["seconds"], result["errors"], None if p99 is None else p99 / 1000)


def run_load(command: list[str], seconds: float, words: str | None = None, cpu: int = stage.LOAD_CPU) -> str:
    """What a command of about so many seconds prints; ``words`` are its standard input."""
    given = {} if words is None else {"stdin": subprocess.PIPE}
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        log = Path(home, "log")
        with stage.process(command, cpu, log, stdout=subprocess.PIPE, **given) as child:
            try:
                told, _ = child.communicate(words, timeout=seconds + 40)
            except subprocess.TimeoutExpired:
                raise Failed(f"no end of {Path(command[0]).name} after {seconds + 40:.0f} s") from None
            if child.returncode:
                raise Failed(f"{Path(command[0]).name}: {stage.last_words(log)}")
    return told


def _bulk_socks(entry: _Entry, to: Ports, seconds: float) -> Sample:
    return _load("bulk", f"127.0.0.1:{to.bulk}", "--socks", f"127.0.0.1:{entry.ports.socks}", seconds=seconds)


def _bulk_forward(entry: _Entry, _to: Ports, seconds: float) -> Sample:
    return _load("bulk", f"127.0.0.1:{entry.ports.bulk}", seconds=seconds)


def _connrate_forward(entry: _Entry, _to: Ports, seconds: float) -> Sample:
    return _load("rate", f"127.0.0.1:{entry.ports.reply}", "--conns", CONNRATE_CONNS, seconds=seconds)


def _connrate_socks(entry: _Entry, to: Ports, seconds: float) -> Sample:
    through = ("--socks", f"127.0.0.1:{entry.ports.socks}")
    return _load("rate", f"localhost:{to.reply}", "--conns", CONNRATE_CONNS, *through, seconds=seconds)


def _requests_echo(entry: _Entry, _to: Ports, seconds: float) -> Sample:
    return _load("echo", f"127.0.0.1:{entry.ports.echo}", "--conns", KEPT_CONNS, seconds=seconds)


def _requests_http(entry: _Entry, _to: Ports, seconds: float) -> Sample:
    program = HELPERS["wrk"].find()
    if program is None:
        raise Failed(f"wrk is absent: {HELPERS['wrk'].install}")
    length = max(1, round(seconds))
    url = f"http://127.0.0.1:{entry.ports.http}/"
    told = run_load([program, "-t1", f"-c{KEPT_CONNS}", f"-d{length}s", "--latency", url], length)
    total = re.search(r"(\d+) requests in ([\d.]+)s", told)
    slowest = re.search(r"99%\s+([\d.]+)(us|ms|s)", told)
    if not total or not slowest:
        raise Failed(f"wrk said: {told[-300:]}")
    faults = sum(
        int(n)
        for line in re.findall(r"Socket errors: (.*)|Non-2xx.*: (\d+)", told)
        for n in re.findall(r"\d+", " ".join(line))
    )
    scale = {"us": 0.001, "ms": 1, "s": 1000}[slowest.group(2)]
    return Sample(int(total.group(1)), float(total.group(2)), faults, float(slowest.group(1)) * scale)


@dataclass(frozen=True, slots=True)
class Race:
    """A rate, measured in rounds."""

    sample: Callable[[_Entry, Ports, float], Sample]
    rivals: tuple[str, ...]
    unit: str = "/s"
    scale: float = 1
    """Figure = count / seconds * scale."""
    cost_unit: str = "µs each"
    cost_scale: float = 1e6
    """Cost = CPU seconds / count * cost_scale."""


_BITS = {"unit": "Gb/s", "scale": 8e-9, "cost_unit": "s/GB", "cost_scale": 1e9}
RACES = {
    "bulk-socks": Race(_bulk_socks, ("ours", "sing-box", "microsocks"), **_BITS),  # type: ignore[arg-type]
    "bulk-forward": Race(_bulk_forward, ("ours", "haproxy", "sing-box", "direct"), **_BITS),  # type: ignore[arg-type]
    "connrate-forward": Race(_connrate_forward, ("ours", "sing-box", "haproxy", "direct")),
    "connrate-socks": Race(_connrate_socks, ("ours", "sing-box", "microsocks")),
    "requests-http": Race(_requests_http, ("ours", "sing-box", "haproxy", "direct")),
    "requests-echo": Race(_requests_echo, ("ours", "sing-box", "haproxy", "direct")),
}


@contextlib.contextmanager
def _upstream(home: Path, with_http: bool) -> Iterator[tuple[Ports, int]]:
    """The upstreams' ports, and the process that works in this measure."""
    ports = Ports(*(stage.free_port() for _ in range(4)))
    log = home / "upstream.log"
    with contextlib.ExitStack() as running:
        command = [stage.load_tool(), "source", str(ports.bulk), str(ports.echo), str(ports.reply)]
        child = running.enter_context(stage.process(command, stage.LOAD_CPU, log))
        stage.wait_for_port(ports.reply, child, log)
        if with_http:
            program = HELPERS["nginx"].find()
            if program is None:
                raise Failed(f"nginx is absent: {HELPERS['nginx'].install}")
            child = running.enter_context(stage.process(nginx(program, home, ports.http), stage.LOAD_CPU, log))
            stage.wait_for_port(ports.http, child, log)
        yield ports, child.pid


@contextlib.contextmanager
def _started(rival: Rival, program: str, home: Path, to: Ports) -> Iterator[tuple[Ports, subprocess.Popen[str], Path]]:
    listeners = Ports(*(stage.free_port() for _ in range(5)))
    room = home / rival.name
    room.mkdir()
    log = room / "log"
    with stage.process(rival.command(program, room, listeners, to), stage.PROXY_CPU, log) as child:
        yield listeners, child, log


def race(name: str, plan: Plan) -> list[Figure]:
    """Run one race; a contestant that fails keeps its reason instead of a figure."""
    what = RACES[name]
    with contextlib.ExitStack() as running:
        home = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        to, upstream = running.enter_context(_upstream(home, with_http=what.sample is _requests_http))
        figures: dict[str, Figure] = {}
        entries: list[_Entry] = []
        for rival, program in plan.contestants:
            if rival.name not in what.rivals:
                continue
            figure = figures[rival.name] = Figure(
                name, rival.name, what.unit, cost_unit=what.cost_unit, planned=plan.rounds
            )
            try:
                listeners, child, log = running.enter_context(_started(rival, program, home, to))
                stage.wait_for_port(listeners.socks if "socks" in name else listeners.reply, child, log)
            except Failed as failure:
                figure.failed = str(failure)
                continue
            entries.append(_Entry(rival.name, listeners, (child.pid,)))
        if plan.direct and "direct" in what.rivals:
            figures["direct"] = Figure(name, "direct", what.unit, planned=plan.rounds)
            entries.append(_Entry("direct", to, ()))
        for turn in plan.allowance.turns(plan.rounds, lambda: [*figures.values()]):
            for entry in [e for e in entries if not figures[e.name].failed]:
                try:
                    if turn == 0:
                        what.sample(entry, to, min(plan.seconds, 1))
                    else:
                        sample = partial(what.sample, entry, to, plan.seconds)
                        one_round(figures[entry.name], sample, entry.pids, [upstream], what.scale, what.cost_scale)
                except (Failed, OSError) as failure:
                    figures[entry.name].failed = str(failure)
        return list(figures.values())


def strangers_from_now(pids: Sequence[int]) -> Callable[[], float]:
    """Tells how many CPUs' worth of time went to others since: neither to this run nor to the processes ``pids``."""

    def others() -> float:
        return stage.busy_seconds() - stage.own_seconds() - sum(map(stage.cpu_seconds, pids))

    before, began = others(), time.monotonic()
    return lambda: max(0.0, (others() - before) / (time.monotonic() - began))


def one_round(
    figure: Figure,
    take_sample: Callable[[], Sample],
    pids: Sequence[int],
    helpers: Sequence[int],
    scale: float = 1,
    cost_scale: float = 1e6,
) -> Sample:
    """One round of the contestant's processes, added to its figure; the ``helpers`` work for the load."""

    def contestant() -> float:
        return sum(stage.cpu_seconds(pid) for pid in pids)

    spent = contestant()
    strangers = strangers_from_now([*helpers, *pids])
    sample = take_sample()
    others = strangers()  # with the time in which the load waited for answers that were lost
    if sample.count == 0:
        raise Failed(f"nothing came through ({sample.errors} errors)")
    figure.rounds.append(sample.count / sample.seconds * scale)
    figure.strangers.append(others)
    figure.errors += sample.errors
    if sample.p99_ms is not None:
        figure.p99_ms.append(sample.p99_ms)
    if pids:
        spent = contestant() - spent
        figure.cost.append(spent / sample.count * cost_scale)
        figure.busy.append(spent / sample.seconds)
    return sample


def _ask_through_socks(socks: int, echo: int) -> None:
    """One question and its answer through SOCKS5, to the echo upstream; OSError until that works."""
    with socket.create_connection(("127.0.0.1", socks), 5) as conversation:
        for words, length in (
            (b"\5\1\0", 2),
            (b"\5\1\0\1\x7f\0\0\1" + echo.to_bytes(2, "big"), 10),
            (b"hello", 5),
        ):
            conversation.sendall(words)
            heard = conversation.recv(length, socket.MSG_WAITALL)
            if len(heard) != length or (words[0] == 5 and heard[1] != 0):
                raise ConnectionError(f"refused: {heard!r}")


def start(plan: Plan) -> list[Figure]:
    """Start-up time and idle memory, each start with an empty state directory."""
    names = [rival.name for rival, _ in plan.contestants if rival.name in ("ours", "sing-box")]
    begin = {name: Figure("start", name, "s", planned=plan.rounds) for name in names}
    idle = {name: Figure("idle", name, "MB") for name in begin}
    for turn in plan.allowance.turns(plan.rounds, lambda: [*begin.values()]):
        for rival, program in plan.contestants if turn else ():
            if rival.name not in begin or begin[rival.name].failed:
                continue
            with contextlib.ExitStack() as running:
                home = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
                to, upstream = running.enter_context(_upstream(home, with_http=False))
                began = time.monotonic()
                listeners, child, log = running.enter_context(_started(rival, program, home, to))
                strangers = strangers_from_now([child.pid, upstream])
                try:
                    _until_served(listeners.socks, to.echo, child, log)
                    begin[rival.name].rounds.append(time.monotonic() - began)
                    begin[rival.name].strangers.append(strangers())
                    time.sleep(2)
                    idle[rival.name].rounds.append(stage.rss_mb(child.pid))
                except (Failed, OSError) as failure:
                    begin[rival.name].failed = idle[rival.name].failed = str(failure)
    return [*begin.values(), *idle.values()]


def _until_served(socks: int, echo: int, child: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            return _ask_through_socks(socks, echo)
        except OSError as refusal:
            if child.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"never served ({refusal}): {stage.last_words(log)}") from None
        time.sleep(0.002)


def crowd(plan: Plan) -> list[Figure]:
    """Memory with 10,000 idle relayed connections, or as many as fit, the growth scaled up to 10,000.

    Each takes two descriptors of the relay, and six where each direction keeps a pipe for splice.
    """
    figures = []
    for rival, program in plan.contestants:
        if rival.name not in ("ours", "sing-box"):
            continue
        figures.append(figure := Figure("crowd", rival.name, "MB"))
        for descriptors in (2, 6):
            size = min(CROWD, (stage.FILE_LIMIT - _CROWD_SPARE) // descriptors)
            try:
                before, after = _crowded(rival, program, size)
            except (Failed, OSError) as failure:
                figure.failed = str(failure)
                continue
            grown = after - before
            figure.rounds.append(before + grown * CROWD / size)
            figure.note = f"{size:,} held, {grown * 1e3 / size:.1f} KB each"
            break
    return figures


def _crowded(rival: Rival, program: str, size: int) -> tuple[float, float]:
    """RSS in MB before and with ``size`` idle connections."""
    with contextlib.ExitStack() as running:
        home = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        to, _ = running.enter_context(_upstream(home, with_http=False))
        listeners, child, log = running.enter_context(_started(rival, program, home, to))
        _until_served(listeners.socks, to.echo, child, log)
        time.sleep(1)
        return stage.rss_mb(child.pid), _hold(size, listeners.socks, to.echo, child.pid, home)


def _hold(size: int, socks: int, echo: int, pid: int, home: Path) -> float:
    """RSS with ``size`` idle connections, all of which must still answer afterwards."""
    through = ["--socks", f"127.0.0.1:{socks}", "--conns", str(size)]
    command = [stage.load_tool(), "hold", f"127.0.0.1:{echo}", *through]
    log = home / "hold.log"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with stage.process(command, stage.LOAD_CPU, log, **pipes) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        held = json.loads(holder.stdout.readline() or "{}").get("held")
        if held != size:
            raise Failed(f"held {held} of {size}: {stage.last_words(log)}")
        time.sleep(2)
        memory = stage.rss_mb(pid)
        holder.stdin.close()
        alive = json.loads(holder.stdout.readline() or "{}").get("alive")
        if alive != size:
            raise Failed(f"only {alive} of {size} still answered: {stage.last_words(log)}")
    return memory


def told_by(script: str, measure: str, _plan: Plan) -> list[Figure]:
    """What bench/``script``.py tells: deciding by rules, checking who somebody is and planning need no network."""
    told = json.loads(run_load([sys.executable, str(Path(__file__).with_name(f"{script}.py")), "--json"], 600))
    figures = []
    for subject, values in told.items():
        for key, value in values.items():
            name, _, unit = key.rpartition("_")
            if unit in _UNITS:
                row = f"{subject}: {name.replace('_', ' ')}"
                figures.append(Figure(measure, row, _UNITS[unit], [value]))
    return figures


_UNITS = {"us": "µs", "ms": "ms", "s": "s", "mb": "MB", "modules": "modules"}


def take(name: str, plan: Plan) -> list[Figure]:
    """Take one measure by its name; Failed when there is no stage for it."""
    if name in RACES:
        return race(name, plan)
    scripts = {"rules": "rules", "names": "names", "zone-plan": "zoneplan"}
    alone = {"crowd": crowd, "start": start} | {of: partial(told_by, script, of) for of, script in scripts.items()}
    return alone[name](plan)
