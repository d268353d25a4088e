"""Tunnels: one against userspace WireGuard and against the same relays without encryption, and many to one gateway.

The stage is a lab of two network namespaces (``tunnelrivals.py``): near of everybody on one CPU together with the
client of the load, far on the other with the upstream.  Races go in rounds, as everywhere.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import stage
import tunnelrivals as lab_
from measures import Plan, Sample, one_round, run_load, strangers_from_now
from report import Figure
from stage import Failed
from tunnelrivals import Lab, Pair, Way

OPENS, ASKS, QUESTION = 1_013, 503, 1024
"""A second; no multiples of the timer's 250 Hz (as in ``dns.py``)."""
CROWD, STRANGERS = 5_000, 990
"""Devices with names, and without: of those a gateway takes 1,000."""
FLOOD = 1_000
"""Connections a second."""
FLOODS = ("garbage", "replay", "silence", "unfinished")
WHOLE = 10 << 30
_MOST_OPENING = 3_000
_LONGEST, _MOST_ROUNDS, _STEADY = 1.0, 5, 0.5
"""Seconds of a round; rounds of bulk, which hardly differ; seconds of a round of steady loads, of which there are four
times as many as of others, in another order each time (as in ``dns.py``)."""
_IDLE = 30
"""Seconds: a tunnel that is idle gives one sign of life in them."""


@dataclass(frozen=True, slots=True)
class _Load:
    """A race: a mode of ``load.c`` and a port of the upstream."""

    mode: str
    port: int
    options: tuple[object, ...] = ()
    is_bulk: bool = False


_LOADS = {
    "rtcp-download": _Load("bulk", lab_.BULK, is_bulk=True),
    "rtcp-upload": _Load("push", lab_.SINK, is_bulk=True),
    "rtcp-open": _Load("open", lab_.REPLY, ("--rate", OPENS, "--conns", _MOST_OPENING)),
    "rtcp-echo": _Load("ask", lab_.ECHO, ("--rate", ASKS, "--size", QUESTION)),
}


def _command(lab: Lab, way: Way, load: _Load, *more: object) -> list[str]:
    through = ["--socks", f"127.0.0.1:{way.socks}"] if way.socks else []
    words = [stage.load_tool(), load.mode, f"{way.host}:{load.port}", *load.options, *more, *through]
    return ["ip", "netns", "exec", lab.near, *map(str, words)]


def _sample(lab: Lab, way: Way, load: _Load, seconds: float) -> Sample:
    told = json.loads(run_load(_command(lab, way, load, "--seconds", seconds), seconds, cpu=lab_.NEAR_CPU))
    p99 = told.get("p99_us")
    return Sample(told["count"], told["seconds"], told["errors"], None if p99 is None else p99 / 1000)


@contextlib.contextmanager
def _lab() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="bench-") as home, Lab(Path(home)) as lab:
        yield lab


def _ours(plan: Plan) -> str | None:
    return next((program for rival, program in plan.contestants if rival.name == "ours"), None)


def _pair(lab: Lab, plan: Plan, **environment: str) -> Pair:
    program = _ours(plan)
    if program is None:
        raise Failed("ours is absent")
    return lab_.gateways(lab, program, environment)


def _ways(lab: Lab, plan: Plan) -> Iterator[tuple[str, Way | Failed]]:
    """Everybody who takes part, started, or why not."""
    if _ours(plan):
        yield from ((way.name, way) for way in _pair(lab, plan).ways)
    starters: dict[str, Callable[[Lab], Way]] = {
        "wireguard-go": lab_.wireguard_go,
        "sing-box": partial(lab_.sing_box, tun=False),
        "sing-box-tun": partial(lab_.sing_box, tun=True),
    }
    for name, start in starters.items():
        if plan.who and name not in plan.who:
            continue
        try:
            yield name, start(lab)
        except Failed as failure:
            yield name, failure
    if plan.direct:
        yield "direct", lab_.DIRECT


def race(name: str, plan: Plan) -> list[Figure]:
    """One race of everybody; a contestant that fails keeps its reason instead of a figure."""
    load = _LOADS[name]
    unit, cost = ("Gb/s", "s/GB") if load.is_bulk else ("ms", "µs each")
    planned = min(plan.rounds, _MOST_ROUNDS) if load.is_bulk else 4 * plan.rounds
    with _lab() as lab:
        upstream = lab.upstream().pid
        ways = dict(_ways(lab, plan))
        figures = {who: Figure(name, who, unit, cost_unit=cost, planned=planned) for who in ways}
        whole = {who: Figure(f"{name}-cpu", who, cost, planned=planned) for who in ways}
        rates = {who: Figure(f"{name}-rate", who, "/s", planned=planned) for who in ways}
        seconds = min(plan.seconds, _LONGEST if load.is_bulk else _STEADY)
        for turn in plan.allowance.turns(planned, lambda: [*figures.values()]):
            for who, way in random.sample(list(ways.items()), len(ways)):
                figure = figures[who]
                if figure.failed:
                    continue
                try:
                    if isinstance(way, Failed):
                        raise way
                    if turn == 0:
                        _sample(lab, way, load, seconds / 2)
                        continue
                    busy = stage.busy_seconds()
                    take = partial(_sample, lab, way, load, seconds)
                    if load.is_bulk:
                        sample = one_round(figure, take, way.pids, [upstream], 8e-9, 1e9)
                        whole[who].rounds.append((stage.busy_seconds() - busy) / sample.count * 1e9)
                    else:
                        sample = one_round(figure, take, way.pids, [upstream])
                        figure.rounds[-1] = figure.p99_ms.pop()
                        rates[who].rounds.append(sample.count / sample.seconds)
                except (Failed, OSError) as failure:
                    figure.failed = whole[who].failed = rates[who].failed = str(failure)
    for who, figure in figures.items():
        whole[who].strangers = rates[who].strangers = figure.strangers
    if load.is_bulk:
        return [*figures.values(), *whole.values()]
    if name == "rtcp-open":
        return [*figures.values(), *rates.values()]
    return [*figures.values(), *_added(name, figures)]


def _added(name: str, figures: dict[str, Figure]) -> Iterator[Figure]:
    """What encryption adds to the same path, round by round."""
    ours, plain = figures.get("ours"), figures.get("plain")
    if name == "rtcp-echo" and ours and plain and ours.rounds and plain.rounds:
        rounds = [mine - theirs for mine, theirs in zip(ours.rounds, plain.rounds, strict=False)]
        noisier = [max(pair) for pair in zip(ours.strangers, plain.strangers, strict=False)]
        yield Figure("rtcp-echo-added", "ours", "ms", rounds, strangers=noisier, planned=ours.planned)


# Many devices


@contextlib.contextmanager
def crowd(lab: Lab, key: bytes, *words: object, gently: bool = False) -> Iterator[subprocess.Popen[str]]:
    """``tunnelcrowd.py`` in ``near``; ``gently``: only with the time that nobody else there wants."""
    script = str(Path(__file__).with_name("tunnelcrowd.py"))
    task, *more = map(str, words)
    command = [sys.executable, script, task, lab_.FAR, str(lab_.TUNNELS), key.hex(), *more]
    idle = ["chrt", "--idle", "0"] if gently else []
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    whole = ["ip", "netns", "exec", lab.near, *idle, *command]
    with stage.process(whole, lab_.NEAR_CPU, lab.home / "crowd.log", **pipes) as child:
        yield child


def told_by(lab: Lab, child: subprocess.Popen[str]) -> dict[str, float]:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise Failed(f"the crowd: {stage.last_words(lab.home / 'crowd.log')}")
    told: dict[str, float] = json.loads(line)
    return told


def handshakes(plan: Plan) -> list[Figure]:
    """Devices dial one gateway as fast as they can: those that are a key and nothing else, then those with names."""
    figures = []
    for known_by in ("keys", "names"):
        with _lab() as lab:
            pair = _pair(lab, plan)
            with crowd(lab, pair.key, "hold", STRANGERS, known_by) as holder:
                figures += _made("rtcp-handshakes", lab, pair, holder, f"{known_by}: ")[1]
    return figures


def _made(name: str, lab: Lab, pair: Pair, holder: subprocess.Popen[str], who: str = "") -> tuple[int, list[Figure]]:
    """How many tunnels stand now, and what they cost the gateway."""
    rate = Figure(name, f"{who}accepted", "/s", cost_unit="µs each")
    by_cpu = Figure(name, f"{who}of one whole CPU", "/s")
    spent = stage.cpu_seconds(pair.far)
    made = told_by(lab, holder)
    spent = stage.cpu_seconds(pair.far) - spent
    count = int(made["count"])
    if not count:
        raise Failed(f"no tunnel stands: {made['last_error']}")
    rate.rounds.append(count / made["seconds"])
    rate.cost.append(spent / count * 1e6)
    rate.busy.append(spent / made["seconds"])
    rate.errors = int(made["errors"])
    rate.note = f"version {made['version']}; {made['last_error']}".rstrip("; ")
    by_cpu.rounds.append(count / spent)
    return count, [rate, by_cpu]


def idle(plan: Plan) -> list[Figure]:
    """Named devices that dial one gateway; what they cost it when they stay and say nothing."""
    memory, beat = Figure("rtcp-idle", "each tunnel", "KiB"), Figure("rtcp-idle", "of a CPU", "%")
    with _lab() as lab:
        pair = _pair(lab, plan)
        time.sleep(1)
        before = stage.pss_kib(pair.far)
        with crowd(lab, pair.key, "hold", CROWD, "names") as holder:
            count, made = _made("rtcp-idle", lab, pair, holder)
            time.sleep(3)
            memory.rounds.append((stage.pss_kib(pair.far) - before) / count)
            memory.note = f"{count:,} tunnels, from {before / 1024:.0f} MiB"
            spent = stage.cpu_seconds(pair.far)
            time.sleep(_IDLE)
            beat.rounds.append((stage.cpu_seconds(pair.far) - spent) / _IDLE * 100)
            assert holder.stdin is not None
            holder.stdin.close()
            if (alive := int(told_by(lab, holder)["alive"])) != count:
                memory.failed = beat.failed = f"only {alive} of {count} tunnels still stand"
                memory.rounds.clear()
                beat.rounds.clear()
    return [memory, beat, *made]


def flood(plan: Plan) -> list[Figure]:
    """The echo of a standing tunnel while strangers flood the door of its other end, and while nobody does, in turn."""
    load, seconds = _LOADS["rtcp-echo"], min(plan.seconds, 2)
    planned = min(plan.rounds, _MOST_ROUNDS)
    quiet = Figure("rtcp-flood", "nobody floods: echo p99", "ms", planned=planned)
    flooded = {kind: Figure("rtcp-flood", f"{kind}: echo p99", "ms", planned=planned) for kind in FLOODS}
    with _lab() as lab:
        upstream = lab.upstream().pid
        pair = _pair(lab, plan)
        way = pair.ways[0]

        def measure(figure: Figure, *flooders: int) -> None:
            strangers = strangers_from_now([*way.pids, upstream, *flooders])
            found = _sample(lab, way, load, seconds).p99_ms
            assert found is not None
            figure.strangers.append(strangers())
            figure.rounds.append(found)

        for turn in plan.allowance.turns(planned, lambda: [quiet, *flooded.values()]):
            if not turn:
                _sample(lab, way, load, seconds)
                continue
            measure(quiet)
            for kind, figure in flooded.items():
                if figure.failed:
                    continue
                try:
                    with crowd(lab, pair.key, "flood", kind, FLOOD, seconds + 1, gently=True) as strangers:
                        told_by(lab, strangers)
                        spent = stage.cpu_seconds(pair.far)
                        measure(figure, strangers.pid)
                        spent = stage.cpu_seconds(pair.far) - spent
                        told = told_by(lab, strangers)
                except (Failed, OSError) as failure:
                    figure.failed = str(failure)
                    continue
                arrived = f"{told['count'] / told['seconds']:.0f} connections a second"
                figure.note = f"{arrived}; the gateway used {spent / seconds:.0%} of its CPU"
    figures = [quiet]
    for kind, figure in flooded.items():
        times = Figure("rtcp-flood", f"{kind}: times that of before", "times", failed=figure.failed)
        if not figure.failed:
            times.rounds.append(figure.value / quiet.value)
        figures += [figure, times]
    return figures


def whole(plan: Plan) -> list[Figure]:
    """10 GiB through one stream, each byte checked."""
    figure = Figure("rtcp-10gib", "speed", "Gb/s", cost_unit="s/GB")
    changes = Figure("rtcp-10gib", "changes of the key", "times")
    with _lab() as lab:
        upstream = lab.upstream().pid
        seen = lab.home / "changes"
        pair = _pair(lab, plan, KEYS_SEEN_IN=str(seen), PYTHONPATH=str(Path(__file__).with_name("keychanges")))
        load = _Load("fetch", lab_.PATTERN, ("--bytes", WHOLE))
        take = partial(_sample, lab, pair.ways[0], load, 60)
        try:
            one_round(figure, take, pair.ways[0].pids, [upstream], 8e-9, 1e9)
        except Failed as failure:
            figure.failed = changes.failed = str(failure)
            return [figure, changes]
        figure.note = "all bytes right"
        told = seen.read_text().split() if seen.exists() else []
        changes.rounds.append(told.count(str(pair.near)))
        changes.note = "as often has the receiver followed the sender to its next key"
    return [figure, changes]


def device(_plan: Plan) -> list[Figure]:
    """What of all that is rtcp's own."""
    script = str(Path(__file__).with_name("tunneldevice.py"))
    found: dict[str, dict[str, float]] = json.loads(run_load([sys.executable, script, "--json"], 60))
    return [
        Figure("rtcp-device", f"{subject}: {key.rpartition('_')[0]}", _UNITS[key.rpartition("_")[2]], [value])
        for subject, values in found.items()
        for key, value in values.items()
    ]


_UNITS = {"ms": "ms", "gbps": "Gb/s", "spgb": "s/GB", "streams": "streams"}


MEASURES: dict[str, Callable[[Plan], list[Figure]]] = {
    **{name: partial(race, name) for name in _LOADS},
    "rtcp-handshakes": handshakes,
    "rtcp-idle": idle,
    "rtcp-flood": flood,
    "rtcp-10gib": whole,
    "rtcp-device": device,
}
