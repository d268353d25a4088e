"""Name servers against each other: hits, latencies, misses, doors with TLS; the cost of lists, caches and restarts.

The stage is that of the other races: contestants on one CPU, load and upstream on the other, all started, all filled,
then rounds in turn.  Saturating loads are dnsperf's, with eight sockets and a hundred questions under way; steady ones
are ``dnsload.c``'s, which is the upstream, too.  Filling is checked: an upstream's address tells the name it is for, so
a contestant that answers wrongly has no figure.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import stage
from dnsrivals import Doors, NameServer, ours
from measures import Sample, one_round, run_load
from report import Figure
from rivals import HELPERS
from rounds import Allowance
from rules import names as made_up_names
from stage import Failed

from cyfs_ns.identity.did import parse_did
from cyfs_ns.io.selfsigned import ensure_certificate
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Pin
from tests.cyfs_ns.identity.identities import ALICE, boot

NAMES, GET_NAMES, CONNS, UNDER_WAY = 10_000, 1_000, 8, 100
HIT_RATE, MISS_RATE = 5_011, 1_013
"""Questions a second of the steady loads.  No multiples of the timer's 250 Hz: at 5,000 a second every twentieth
question meets the kernel's tick, or none does, for as long as a round lasts, and that is chance."""
CACHE_ENTRIES = 100_000
BLOCKED = 1_000_000
KEPT, FAKES = 50_000, 20_000
ZONES = 200
_LONGEST, _MOST_ROUNDS = 1.5, 3
"""Seconds of a round and, but for the first race, rounds of a race: there are many, and a cache settles at once."""
_PROBES = 100
_BUILD_SECONDS = 15


@dataclass(frozen=True, slots=True)
class DnsPlan:
    """How long to measure, and with whom."""

    contestants: list[tuple[NameServer, str]]
    seconds: float
    rounds: int
    allowance: Allowance
    """Hands out the turns of each race."""
    direct: bool
    """Race a bare responder in C too: the ceiling of the load."""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    pid: int
    doors: Doors


def _hit(number: int) -> str:
    return f"n{number}.hit.bench.example"


def _address(name: str) -> str:
    """What the upstream says."""
    return socket.inet_ntoa(bytes([44]) + (zlib.crc32(name.lower().encode()) & 0xFFFFFF).to_bytes(3, "big"))


def _ask_all(port: int, wanted: Sequence[str], window: int = 50) -> dict[str, str]:
    """Each name's address, RCODE or ``lost``."""
    command = [stage.load_tool("dnsload"), "ask", str(port), "--window", str(window)]
    told = run_load(command, 60, "\n".join(wanted) + "\n")
    return dict(line.split(" ", 1) for line in told.splitlines())


def _fill(port: int, wanted: Sequence[str]) -> None:
    found = _ask_all(port, wanted)
    wrong = [f"{name}: {found.get(name)}" for name in wanted if found.get(name) != _address(name)]
    if wrong:
        raise Failed(f"{len(wrong)} of {len(wanted)} answers are wrong, such as {wrong[0]}")


def _query(name: str, ident: bytes = bytes(2)) -> bytes:
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b"."))
    return ident + b"\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


def _ask(sock: socket.socket, name: str) -> str:
    """An address, or empty for whatever else came, or came not."""
    ident = random.randbytes(2)
    try:
        sock.send(_query(name, ident))
        while not (heard := sock.recv(4096)).startswith(ident):
            pass
    except OSError:
        return ""
    return "" if heard[3] & 15 or heard[6:8] == b"\0\0" else socket.inet_ntoa(heard[-4:])


def _overflowed(port: int) -> int:
    """Questions to a port of 127.0.0.1 that the kernel dropped because nobody had fetched those before."""
    lines = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return sum(int(fields[-1]) for fields in lines if fields[1].endswith(f":{port:04X}"))


@contextlib.contextmanager
def _asker(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.02)
        sock.connect(("127.0.0.1", port))
        yield sock


def _until_right(
    port: int, expected: dict[str, str], child: subprocess.Popen[str], log: Path, seconds: float = 20
) -> None:
    """Return once every name has had its address in an answer."""
    deadline = time.monotonic() + seconds
    with _asker(port) as sock:
        for name, address in expected.items():
            while (heard := _ask(sock, name)) != address:
                if child.poll() is not None:
                    raise Failed(f"ended with status {child.returncode}: {stage.last_words(log)}")
                if time.monotonic() > deadline:
                    raise Failed(f"{name} is {heard or 'not answered'}, not {address}: {stage.last_words(log)}")
                if not heard:
                    time.sleep(0.002)


@contextlib.contextmanager
def _upstream(home: Path) -> Iterator[tuple[int, int]]:
    """Port and process of the upstream."""
    port, log = stage.free_port(), home / "upstream.log"
    command = [stage.load_tool("dnsload"), "answer", str(port)]
    with stage.process(command, stage.LOAD_CPU, log) as child:
        _until_right(port, {_hit(0): _address(_hit(0))}, child, log)
        yield port, child.pid


def _doors(home: Path, upstream: int) -> Doors:
    certificate = ensure_certificate(home / "doors.pem", ["localhost", "127.0.0.1"])
    plain, tls, https = (stage.free_port() for _ in range(3))
    return Doors(plain=plain, tls=tls, https=https, upstream=upstream, certificate=certificate)


@contextlib.contextmanager
def _started(command: list[str], room: Path, doors: Doors) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    log = room / "log"
    with stage.process(command, stage.PROXY_CPU, log) as child:
        _until_right(doors.plain, {"first.bench.example": _address("first.bench.example")}, child, log)
        yield child, log


# Rates


def _dnsperf(arguments: Sequence[object], seconds: float, *, once: bool = False) -> Sample:
    program = HELPERS["dnsperf"].find()
    if program is None:
        raise Failed(f"dnsperf is absent: {HELPERS['dnsperf'].install}")
    span = ["-n", "1"] if once else ["-l", f"{seconds:g}"]
    told = run_load([program, "-W", "-t", "2", "-s", "127.0.0.1", *map(str, arguments), *span], seconds)
    found = [
        re.search(pattern, told) for pattern in (r"completed:\s+(\d+)", r"lost:\s+(\d+)", r"Run time \(s\):\s+([\d.]+)")
    ]
    good = re.search(r"NOERROR (\d+)", told)
    if not all(found):
        raise Failed(f"dnsperf said: {told[-300:]}")
    completed, lost, took = (float(each.group(1)) for each in found if each)
    wrong = completed - (int(good.group(1)) if good else 0)
    mean = re.search(r"Average Latency \(s\):\s+([\d.]+)", told)
    return Sample(int(completed), took, int(lost + wrong), mean_ms=float(mean.group(1)) * 1000 if mean else None)


def _udp(entry: _Entry) -> list[object]:
    return ["-p", entry.doors.plain, "-c", CONNS, "-q", UNDER_WAY]


def _dot(entry: _Entry) -> list[object]:
    return ["-m", "dot", "-p", entry.doors.tls, "-c", CONNS, "-q", UNDER_WAY]


def _doh(entry: _Entry) -> list[object]:
    place = ["-p", entry.doors.https, "-O", "doh-uri=https://localhost/dns-query", "-O", "doh-method=POST"]
    return ["-m", "doh", *place, "-c", CONNS, "-q", UNDER_WAY]


def _doh_get(entry: _Entry, asked: Path, seconds: float, *, once: bool = False) -> Sample:
    """By h2load: dnsperf loses most of what dnsdist answers once a connection has two questions under way."""
    program = HELPERS["h2load"].find()
    if program is None:
        raise Failed(f"h2load is absent: {HELPERS['h2load'].install}")
    place = f"https://localhost:{entry.doors.https}/dns-query?dns="
    urls = asked.with_name(f"urls-{entry.name}")
    if once:
        coded = (base64.urlsafe_b64encode(_query(_hit(number))).decode().rstrip("=") for number in range(GET_NAMES))
        urls.write_text("".join(f"{place}{each}\n" for each in coded))
    # Each connection goes through the whole list on its own.
    span = ["-n", str(GET_NAMES * CONNS)] if once else ["-D", f"{max(1, round(seconds))}"]
    there = f"127.0.0.1:{entry.doors.https}"
    load = ["-c", str(CONNS), "-m", str(UNDER_WAY // CONNS), "-t", "1"]
    told = run_load([program, "-i", str(urls), "--connect-to", there, *load, *span], seconds)
    rate, total = re.search(r"finished in .*?, ([\d.]+) req/s", told), re.search(r"requests: .* (\d+) done", told)
    if not rate or not total or float(rate.group(1)) == 0:
        raise Failed(f"h2load said: {told[-300:]}")
    faults = sum(int(number) for number in re.findall(r"(\d+) (?:failed|[345]xx)", told))
    return Sample(int(total.group(1)), int(total.group(1)) / float(rate.group(1)), faults)


@dataclass(frozen=True, slots=True)
class _Race:
    load: Callable[..., Sample]
    """(entry, file of the names, seconds, once=whether to go through the names but once)."""
    rivals: tuple[str, ...]


def _by_dnsperf(arguments: Callable[[_Entry], list[object]]) -> Callable[..., Sample]:
    def load(entry: _Entry, asked: Path, seconds: float, *, once: bool = False) -> Sample:
        return _dnsperf([*arguments(entry), "-d", asked], seconds, once=once)

    return load


_RACES = {
    "dns-udp-hits": _Race(
        _by_dnsperf(_udp), ("ours", "ours-worker", "dnsmasq", "unbound", "dnsdist", "sing-box", "direct")
    ),
    "dns-dot": _Race(_by_dnsperf(_dot), ("ours", "unbound", "dnsdist")),
    "dns-doh": _Race(_by_dnsperf(_doh), ("ours", "unbound")),
    "dns-doh-get": _Race(_doh_get, ("ours", "unbound", "dnsdist")),
}


@contextlib.contextmanager
def _staged(
    measure: str, plan: DnsPlan, rivals: Sequence[str], unit: str, rounds: int
) -> Iterator[tuple[dict[str, Figure], list[_Entry], int, Path]]:
    """A figure for each of ``rivals``, those that run and are filled, the upstream's process, a file of the names."""
    with contextlib.ExitStack() as running:
        home = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        asked = home / "names"
        wanted = [_hit(number) for number in range(NAMES)]
        asked.write_text("".join(f"{name} A\n" for name in wanted))
        upstream, upstream_pid = running.enter_context(_upstream(home))
        figures: dict[str, Figure] = {}
        entries: list[_Entry] = []
        for server, program in plan.contestants:
            if server.name not in rivals:
                continue
            figure = figures[server.name] = Figure(measure, server.name, unit, cost_unit="µs each", planned=rounds)
            room = home / str(len(figures))
            room.mkdir()
            doors = _doors(home, upstream)
            try:
                command = server.command(program, room, doors)
                child, _ = running.enter_context(_started(command, room, doors))
                _fill(doors.plain, wanted)
            except Failed as failure:
                figure.failed = str(failure)
                continue
            entries.append(_Entry(server.name, child.pid, doors))
        if plan.direct and "direct" in rivals:
            figures["direct"] = Figure(measure, "direct", unit, cost_unit="µs each", planned=rounds)
            doors = _doors(home, 0)
            command = [stage.load_tool("dnsload"), "answer", str(doors.plain)]
            child, _ = running.enter_context(_started(command, home, doors))
            entries.append(_Entry("direct", child.pid, doors))
        yield figures, entries, upstream_pid, asked


def _race(measure: str, plan: DnsPlan) -> list[Figure]:
    what, seconds = _RACES[measure], min(plan.seconds, _LONGEST)
    rounds = plan.rounds if measure == "dns-udp-hits" else min(plan.rounds, _MOST_ROUNDS)
    with _staged(measure, plan, what.rivals, "/s", rounds) as (figures, entries, upstream, asked):
        for turn in plan.allowance.turns(rounds, lambda: [*figures.values()]):
            for entry in [each for each in entries if not figures[each.name].failed]:
                try:
                    if turn == 0:
                        # Through this very door: dnsdist keeps apart what came by datagram and by stream.
                        what.load(entry, asked, 5, once=True)
                    else:
                        sample = partial(what.load, entry, asked, seconds)
                        one_round(figures[entry.name], sample, [entry.pid], [upstream])
                except (Failed, OSError) as failure:
                    figures[entry.name].failed = str(failure)
        return list(figures.values())


# Latencies


def _paced(entry: _Entry, pattern: str, rate: int, seconds: float, *more: object) -> Sample:
    command = [stage.load_tool("dnsload"), "pace", entry.doors.plain, pattern, "--rate", rate, "--seconds", seconds]
    told = json.loads(run_load([str(word) for word in (*command, *more)], seconds))
    mean, p99 = told["mean_us"] / 1000, told["p99_us"] / 1000
    return Sample(told["count"], told["seconds"], told["lost"] + told["wrong"], p99, mean)


def _latency(measure: str, plan: DnsPlan, rivals: Sequence[str]) -> list[Figure]:
    """Mean and 99th percentile of a steady load; of misses also the CPU time of each.

    Rounds are many, short, and each time in another order: what disturbs a machine for a second, and that is more than
    a contestant takes, must not be the fate of one.
    """
    miss = measure == "dns-miss"
    seconds, rounds = (0.5, 6 * plan.rounds) if miss else (0.2, 12 * plan.rounds)
    fresh = 0
    with _staged(measure, plan, rivals, "µs", rounds) as (figures, entries, upstream, _):
        slow = {name: Figure(f"{measure}-p99", name, "µs", planned=rounds) for name in figures}
        for turn in plan.allowance.turns(rounds, lambda: [*figures.values()]):
            for entry in random.sample(entries, len(entries)):
                if figures[entry.name].failed:
                    continue
                if miss:
                    name, more = "m%ld.miss.bench.example", ("--first", fresh, "--many", 1 << 30)
                    take = partial(_paced, entry, name, MISS_RATE, seconds, *more)
                    fresh += MISS_RATE * 10
                else:
                    take = partial(_paced, entry, _hit(0).replace("n0", "n%ld"), HIT_RATE, seconds, "--many", NAMES)
                figure = figures[entry.name]
                try:
                    if turn == 0:
                        take()
                        continue
                    sample = one_round(figure, take, [entry.pid], [upstream])
                except (Failed, OSError) as failure:
                    figure.failed = slow[entry.name].failed = str(failure)
                    continue
                figure.rounds[-1] = (sample.mean_ms or 0) * 1000
                slow[entry.name].rounds.append(figure.p99_ms.pop() * 1000)
        for name, figure in figures.items():
            slow[name].failed = slow[name].failed or figure.failed
            slow[name].errors, slow[name].strangers = figure.errors, figure.strangers
        cpu = [
            Figure("dns-miss-cpu", name, "µs", figure.cost, strangers=figure.strangers, planned=rounds)
            for name, figure in figures.items()
            if figure.cost
        ]
        return [*figures.values(), *slow.values(), *(cpu if miss else [])]


# Memory, lists, restarts


def _alone(
    plan: DnsPlan, names: Sequence[str], measure: str, take: Callable[[NameServer, str, Path], list[Figure]]
) -> list[Figure]:
    """What ``take`` tells of each contestant, which has the stage for itself."""
    figures: list[Figure] = []
    for server, program in plan.contestants:
        if server.name not in names:
            continue
        with tempfile.TemporaryDirectory(prefix="bench-") as home:
            try:
                figures += take(server, program, Path(home))
            except (Failed, OSError) as failure:
                figures.append(Figure(measure, server.name, "", failed=str(failure)))
    return figures


def _cache(server: NameServer, program: str, home: Path) -> list[Figure]:
    with _upstream(home) as (upstream, _):
        doors = _doors(home, upstream)
        with _started(server.command(program, home, doors), home, doors) as (child, _log):
            _fill(doors.plain, [_hit(number) for number in range(1000)])
            time.sleep(0.5)
            before = stage.rss_mb(child.pid)
            wanted = [f"n{number}.many.bench.example" for number in range(CACHE_ENTRIES)]
            for _ in range(2):  # what is asked again is kept ready-made as well
                _fill(doors.plain, wanted)
            grown = stage.rss_mb(child.pid) - before
    note = f"{grown * 1e6 / CACHE_ENTRIES:,.0f} bytes each, from {before:.0f} MB"
    return [Figure("dns-cache", server.name, "MB", [grown], note=note)]


def _blocklist(server: NameServer, program: str, home: Path) -> list[Figure]:
    """The list comes while the server serves, and is taken up at ``cyfs-ns lists --refresh``."""
    blocked = list(dict.fromkeys(made_up_names(random.Random(1), BLOCKED * 11 // 10)))[:BLOCKED]
    file = home / "ads"
    file.write_text("nobody.example\n")
    lists = {"ads": {"path": str(file), "format": "domains"}}
    with _upstream(home) as (upstream, _):
        doors = _doors(home, upstream)
        command = ours(program, home, doors, lists=lists, **{"block-answer": "0.0.0.0"})
        with _started(command, home, doors) as (child, log):
            _fill(doors.plain, [_hit(number) for number in range(NAMES)])
            _until_right(doors.plain, {"nobody.example": "0.0.0.0"}, child, log)
            time.sleep(0.5)
            before = stage.rss_mb(child.pid)
            file.write_text("\n".join(blocked) + "\n")
            pace = [stage.load_tool("dnsload"), "pace", str(doors.plain), _hit(0).replace("n0", "n%ld")]
            pace += ["--rate", str(HIT_RATE), "--seconds", str(_BUILD_SECONDS + 1), "--many", str(NAMES)]
            with stage.process(pace, stage.LOAD_CPU, log, stdout=subprocess.PIPE) as load:
                time.sleep(0.5)
                began = time.monotonic()
                refresh = [program, "lists", "--refresh", "--home", str(home / "state")]
                highest = 0.0
                with (
                    stage.process(refresh, stage.LOAD_CPU, log, stdout=subprocess.DEVNULL),
                    _asker(doors.plain) as sock,
                ):
                    while _ask(sock, blocked[-1]) != "0.0.0.0":
                        if time.monotonic() > began + 60:
                            raise Failed(f"the list was not taken up in a minute: {stage.last_words(log)}")
                        highest = max(highest, stage.rss_mb(child.pid))
                        time.sleep(0.05)
                    took = time.monotonic() - began
                told = json.loads(load.communicate(timeout=60)[0])
            overflowed = _overflowed(doors.plain)
            some = _ask_all(doors.plain, random.Random(2).sample(blocked, 20_000))
            passed = sum(answer != "0.0.0.0" for answer in some.values())
            _fill(doors.plain, [_hit(number) for number in range(NAMES)])
            grown = stage.rss_mb(child.pid) - before
    note = f"of {told['count'] + told['lost']:,}, {overflowed:,} by a full buffer"
    note += f"; their p99 {told['p99_us']:,.0f} µs, the longest {told['max_us']:,.0f} µs"
    return [
        Figure("dns-blocklist", "growth of memory", "MB", [grown], note=f"{grown * 1e6 / BLOCKED:.0f} bytes each"),
        Figure("dns-blocklist", "build", "s", [took], note="from the command to the first blocked answer"),
        Figure("dns-blocklist", "peak with the child", "MB", [highest]),
        Figure("dns-blocklist", "lost meanwhile", "questions", [told["lost"]], note=note),
        Figure("dns-blocklist", "not blocked", f"of {len(some):,}", [passed]),
    ]


def _restart(server: NameServer, program: str, home: Path) -> list[Figure]:
    """Twice, and without an upstream: what is answered then comes from the disk."""
    kept = {name: _address(name) for name in (f"n{number}.kept.bench.example" for number in range(KEPT))}
    fake = [f"n{number}.fake.bench.example" for number in range(FAKES)]
    late = [f"late{number}.fake.bench.example" for number in range(1000)]
    figures: list[Figure] = []

    def start(doors: Doors) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
        more = {"enhanced-mode": "fake-ip", "fake-ip-filter": ["+.kept.bench.example", "first.bench.example"]}
        return stage.process(ours(program, home, doors, **more), stage.PROXY_CPU, home / "log")

    def look(how: str, doors: Doors, faked: dict[str, str]) -> None:
        """Start, and hold what comes against what was known before."""
        began = time.monotonic()
        with start(doors) as child:
            some = random.Random(3)
            probes = dict(some.sample([*kept.items()], _PROBES) + some.sample([*faked.items()], _PROBES))
            _until_right(doors.plain, probes, child, home / "log")
            figures.append(Figure("dns-restart", f"{how}: right answers", "s", [time.monotonic() - began]))
            found = _ask_all(doors.plain, [*kept, *faked])
            wrong = sum(found.get(name) != address for name, address in kept.items())
            changed = sum(found.get(name) != address for name, address in faked.items())
            figures.append(Figure("dns-restart", f"{how}: wrong", f"of {len(kept):,}", [wrong]))
            figures.append(Figure("dns-restart", f"{how}: fake-ips changed", f"of {len(faked):,}", [changed]))
            if how == "after SIGTERM":
                faked |= _ask_all(doors.plain, late)
                child.send_signal(signal.SIGKILL)
                child.wait()

    with _upstream(home) as (upstream, _):
        doors = _doors(home, upstream)
        with start(doors) as child:
            _until_right(doors.plain, {"first.bench.example": _address("first.bench.example")}, child, home / "log")
            _fill(doors.plain, [*kept])
            faked = _ask_all(doors.plain, fake)
            if len(set(faked.values())) != FAKES or any(not each.startswith("198.") for each in faked.values()):
                raise Failed("the fake addresses are none, or not one for each name")
    look("after SIGTERM", doors, faked)
    look("after kill -9", doors, faked)
    return figures


# Identities


def _believe(home: Path, zones: Mapping[str, str]) -> None:
    """Pins for ``zones``, and what their owner has signed: where each is."""
    store, now = TrustStore(home), int(time.time())
    folder = home / "names" / "local"
    folder.mkdir(parents=True)
    for name, address in zones.items():
        zone = parse_did(f"did:web:{name}")
        store.pin(Pin(about=zone, key=ALICE.public, source="bench", at=now))
        token = boot(ALICE, f"ood1:{address}@wan", zone=zone, iat=now - 60, exp=now + 86_400)
        (folder / f"{name}.jwt").write_text(token.text)


def _size(port: int, name: str, *, edns: bool) -> int:
    query = bytearray(_query(name))
    if edns:
        query[11] = 1
        query += b"\0\0\x29\x10\0\0\0\0\0\0\0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.sendto(query, ("127.0.0.1", port))
        return len(sock.recv(4096))


def _trusted(plan: DnsPlan, server: NameServer, program: str, home: Path) -> list[Figure]:
    """Names of identities and of the DNS, asked of one server in turn; who goes first changes each round."""
    zones = {f"z{number}.zone.bench.example": f"45.7.1.{number + 1}" for number in range(ZONES)}
    names = {"ours": [*zones], "cached": [f"n{number}.name.bench.example" for number in range(ZONES)]}
    _believe(home / "state", zones)
    figures: list[Figure] = []
    with _upstream(home) as (upstream, upstream_pid):
        doors = _doors(home, upstream)
        with _started(server.command(program, home, doors), home, doors) as (child, _):
            _fill(doors.plain, names["cached"])
            if (found := _ask_all(doors.plain, [*zones])) != zones:
                wrong = next(name for name in zones if found.get(name) != zones[name])
                raise Failed(f"{wrong} is {found.get(wrong)}, its owner says {zones[wrong]}")
            for who, listed in names.items():
                (home / who).write_text("".join(f"{name} A\n" for name in listed))
            entry = _Entry("ours", child.pid, doors)
            for measure, more in (("dns-trusted", []), ("dns-trusted-edns", ["-e"])):
                planned = 4 * min(plan.rounds, _MOST_ROUNDS)
                pair = {who: Figure(measure, who, "/s", cost_unit="µs each", planned=planned) for who in names}
                for turn in plan.allowance.turns(planned, lambda pair=pair: [*pair.values()]):
                    for who in [*names] if turn % 2 else reversed(names):
                        load = [*_udp(entry), *more, "-d", home / who]
                        if turn == 0:
                            _dnsperf(load, 0.3)
                        else:
                            sample = partial(_dnsperf, load, min(plan.seconds, 0.5))
                            one_round(pair[who], sample, [child.pid], [upstream_pid])
                for who, figure in pair.items():
                    figure.note = f"answers of {_size(doors.plain, names[who][0], edns=bool(more))} bytes"
                figures += pair.values()
    return figures


MEASURES: dict[str, Callable[[DnsPlan], list[Figure]]] = {
    **{name: partial(_race, name) for name in _RACES},
    "dns-latency": lambda plan: _latency(
        "dns-latency", plan, ("ours", "ours-worker", "dnsmasq", "unbound", "sing-box")
    ),
    "dns-miss": lambda plan: _latency("dns-miss", plan, ("ours", "dnsmasq", "unbound", "dnsdist", "sing-box")),
    "dns-blocklist": lambda plan: _alone(plan, ("ours",), "dns-blocklist", _blocklist),
    "dns-cache": lambda plan: _alone(plan, ("ours", "unbound"), "dns-cache", _cache),
    "dns-restart": lambda plan: _alone(plan, ("ours",), "dns-restart", _restart),
    "dns-trusted": lambda plan: _alone(plan, ("ours",), "dns-trusted", partial(_trusted, plan)),
}
