"""Figures, the targets they are held against, and how both are shown on a terminal and in docs/benchmarks.md.

A figure keeps every round; its value is the median of those that count (``rounds.py``).  A rate also tells the CPU time
of the program under test, because a program that leaves its CPU half idle was held up by the load, and then the ratio
of rates is no measure of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from rounds import DISTURBED, counted


@dataclass(slots=True)
class Figure:
    """What one contestant reached in one measure."""

    measure: str
    who: str
    unit: str
    rounds: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    """CPU time of the contestant for one piece of work, in ``cost_unit``."""
    cost_unit: str = ""
    busy: list[float] = field(default_factory=list)
    """Share of its CPU the contestant used, 1.0: all of it."""
    strangers: list[float] = field(default_factory=list)
    """CPUs' worth of time that others took meanwhile, the hypervisor among them; 1.0: one whole CPU."""
    planned: int = 0
    """Rounds that were wanted; of more, the calm ones count (``rounds.py``).  0: what there is counts."""
    p99_ms: list[float] = field(default_factory=list)
    errors: int = 0
    note: str = ""
    failed: str = ""
    """Why there is no figure."""

    @property
    def value(self) -> float:
        """The median of the rounds that count."""
        return median(self.counting(self.rounds))

    def counting(self, values: list[float]) -> list[float]:
        """Of one value for each round those that count."""
        if not self.planned or not values or not self.strangers:
            return values
        return [values[turn] for turn in counted(self.strangers, self.planned)]

    @property
    def is_disturbed(self) -> bool:
        """Whether a round counts that others disturbed."""
        return max(self.counting(self.strangers), default=0) > DISTURBED


@dataclass(frozen=True, slots=True)
class Target:
    """``measure`` of ours must be at least (or at most) ``bound``: times the rival's, or in the figure's own unit."""

    measure: str
    rival: str | None
    bound: float
    at_least: bool = True
    row: str = "ours"
    """Without a rival: pattern of the rows that are held to it."""


@dataclass(slots=True)
class Verdict:
    """How a target fared in this run."""

    measure: str
    what: str
    reached: float | None
    """None: there is no figure."""
    target: str
    """Empty: the ratio is only told."""
    ok: bool
    by_cpu: float | None = None
    """The same ratio in work for one second of the contestant's CPU time."""
    out_of_reach: bool = False
    """The target lies above what the load reaches with nobody between."""


TITLES = {
    "bulk-socks": "Bulk download through SOCKS5, one stream",
    "bulk-forward": "Bulk download through a static forward, one stream",
    "connrate-forward": "New relayed connections through a static forward, 64 at a time",
    "connrate-socks": "New relayed connections through SOCKS5 with a domain rule, 64 at a time",
    "requests-http": "HTTP requests (wrk) over 32 kept-alive relays to nginx",
    "requests-echo": "64-byte questions and answers over 32 kept-alive relays",
    "crowd": "Memory with 10,000 idle connections relayed from SOCKS5",
    "dns-udp-hits": "Questions over UDP answered from the cache, 10,000 names (dnsperf, 8 sockets, 100 under way)",
    "dns-dot": "Cached answers over TLS, 8 connections kept open, 100 under way",
    "dns-doh": "Cached answers over HTTP/2 (POST, dnsperf), 8 connections kept open, 100 under way",
    "dns-doh-get": "The same with GET and 1,000 names (h2load, 12 questions under way on each connection)",
    "dns-latency": "Mean latency of cached answers at 5,000 questions a second",
    "dns-latency-p99": "99th percentile of the same",
    "dns-miss": "Mean latency of names nobody asked before, 1,000 a second, forwarded to one upstream",
    "dns-miss-p99": "99th percentile of the same",
    "dns-miss-cpu": "CPU time of the name server for each of them",
    "dns-blocklist": "A list of 1,000,000 names taken up while 5,000 questions a second are served",
    "dns-cache": "Growth of memory with 100,000 cached answers, each asked for twice",
    "dns-restart": "Start with 50,000 cached answers and 20,000 fake addresses, the upstream gone",
    "dns-trusted": "Trusted answers, warm, against cached ones of the same server (dnsperf over UDP, 200 names each)",
    "dns-trusted-edns": "The same with EDNS, where trusted answers say in an extended error how sure they are",
    "rules": "Compiling and asking rule lists, loading domain sets (`bench/rules.py`)",
    "names": "Checking who somebody is: signatures, documents, normal forms of names (`bench/names.py`)",
    "zone-plan": "Planning 1,000 services on 100 nodes (`bench/zoneplan.py`)",
    "rtcp-download": "Bulk download through one tunnel between two machines, one stream",
    "rtcp-download-cpu": "CPU time of everybody meanwhile: load, kernel and strangers, too",
    "rtcp-upload": "Bulk upload through one tunnel between two machines, one stream",
    "rtcp-upload-cpu": "CPU time of everybody meanwhile: load, kernel and strangers, too",
    "rtcp-open": "99th percentile of the way to an open stream, 1,000 new ones a second through one tunnel",
    "rtcp-open-rate": "How many of them came to stand in each second",
    "rtcp-echo": "99th percentile of 1 KiB there and back, 500 a second over one stream kept open",
    "rtcp-echo-added": "What that is above the same two relays without encryption, round by round",
    "rtcp-handshakes": "New tunnels: 990 devices dial one gateway as fast as they can, known by their keys or by names",
    "rtcp-idle": "5,000 named devices dial one gateway, bring a document along, and then say nothing",
    "rtcp-flood": "1 KiB echo through a standing tunnel while strangers flood the door of its other end",
    "rtcp-10gib": "10 GiB through one stream, each byte checked; a wrong one fails it",
    "rtcp-device": "One tunnel between two devices over loopback, without gateways (`bench/tunneldevice.py`)",
    "sn-packets": "UDP relay of an SN, datagrams of 100 bytes, 4 pairs both ways",
    "sn-bulk": "UDP relay of an SN, datagrams of 1,200 bytes, 4 pairs both ways",
    "sn-bulk-bursts": "The same, sent in bursts of 40 (UDP_SEGMENT)",
    "sn-tcp-relay": "TCP relay of an SN, one stream from one member to another",
    "sn-ingress-bulk": "Public ingress of an SN: 64 MB downloads over TLS that is passed through",
    "sn-ingress-requests": "Public ingress of an SN: small pages over 32 TLS connections that are kept (wrk)",
    "sn-ingress-connections": "Public ingress of an SN: a TLS connection for each page, 32 at a time (wrk)",
    "sn-reconnect": "10,000 registered devices come back to a restarted SN at the same moment",
    "start": "Start to the first answer through SOCKS5, with an empty state directory",
    "idle": "Memory of the idle process, two seconds after it first served",
}

TARGETS = [
    Target("bulk-socks", "sing-box", 1.2),
    Target("bulk-forward", "haproxy", 1.0),
    Target("connrate-forward", "sing-box", 1.5),
    Target("connrate-forward", "haproxy", 0.7),
    Target("connrate-socks", "sing-box", 1.0),
    Target("connrate-socks", "microsocks", 1.0),
    Target("requests-http", "sing-box", 1.2),
    Target("requests-echo", "sing-box", 1.2),
    Target("crowd", None, 200, at_least=False),
    Target("start", None, 1.5, at_least=False),
    Target("idle", None, 60, at_least=False),
    Target("rtcp-download", "wireguard-go", 3),
    Target("rtcp-download", "sing-box", 1.0),
    Target("rtcp-download", "sing-box-tun", 1.0),
    Target("rtcp-download", "plain", 0.6),
    Target("rtcp-upload", "wireguard-go", 3),
    Target("rtcp-upload", "sing-box", 1.0),
    Target("rtcp-upload", "sing-box-tun", 1.0),
    Target("rtcp-upload", "plain", 0.6),
    Target("rtcp-open", None, 3, at_least=False),
    Target("rtcp-open-rate", None, 1000),
    Target("rtcp-echo-added", None, 0.3, at_least=False),
    *(Target(name, "coturn", 1.0) for name in ("sn-packets", "sn-bulk", "sn-bulk-bursts")),
    Target("sn-packets", None, 100_000),
    Target("sn-bulk", None, 1.0),
    Target("sn-bulk-bursts", None, 1.0),
    Target("sn-tcp-relay", "haproxy", 0.8),
    *(Target(f"sn-ingress-{what}", "haproxy", 0.6) for what in ("bulk", "requests", "connections")),
    Target("sn-reconnect", None, 30, at_least=False, row="all back"),
    Target("sn-reconnect", None, 512, at_least=False, row="peak"),
    Target("sn-reconnect", None, 32, at_least=False, row="each tunnel"),
    Target("rtcp-handshakes", None, 300, row=".*: accepted"),
    Target("rtcp-idle", None, 32, at_least=False, row="each tunnel"),
    Target("rtcp-flood", None, 3, at_least=False, row=".*: times that of before"),
    Target("rtcp-10gib", None, 3, row="changes of the key"),
    Target("dns-udp-hits", "dnsmasq", 1.0),
    Target("dns-udp-hits", "unbound", 0.8),
    Target("dns-udp-hits", "sing-box", 5),
    Target("dns-dot", None, 15_000),
    Target("dns-doh", None, 8_000),
    Target("dns-doh-get", None, 8_000),
    Target("dns-latency-p99", "dnsmasq", 1.5, at_least=False),
    Target("dns-miss-p99", "dnsmasq", 1.5, at_least=False),
    Target("dns-miss-cpu", None, 250, at_least=False),
    Target("dns-blocklist", None, 40, at_least=False, row="growth of memory"),
    Target("dns-blocklist", None, 15, at_least=False, row="build"),
    Target("dns-blocklist", None, 0, at_least=False, row="lost meanwhile"),
    Target("dns-blocklist", None, 0, at_least=False, row="not blocked"),
    Target("dns-cache", None, 60, at_least=False),
    Target("dns-restart", None, 1, at_least=False, row=".*: right answers"),
    Target("dns-restart", None, 0, at_least=False, row=".*: (wrong|fake-ips changed)"),
    Target("dns-trusted", "cached", 0.95),
    Target("dns-trusted-edns", "cached", 0.95),
    Target("names", None, 200, at_least=False, row="signature: check"),
    Target("names", None, 8, at_least=False, row="normal forms: memory.*"),
    Target("names", None, 0, at_least=False, row="web3: loaded at start"),
    Target("zone-plan", None, 1, at_least=False, row=".*: planned"),
    Target("rules", None, 50, at_least=False, row=".* mixed rules: p99"),
    Target("rules", None, 3, at_least=False, row=".* mixed rules: compile"),
    Target("rules", None, 5, at_least=False, row=".* domains, .*: load"),
    Target("rules", None, 250, at_least=False, row=".* domains, .*: peak rss"),
]


def verdicts(figures: Sequence[Figure]) -> Iterator[Verdict]:
    """Every target of what was measured, whether or not it failed, and every ratio to a rival that has none."""
    rivals = {t.rival for t in TARGETS}
    known = {(f.measure, f.who): f for f in figures if f.rounds and (not f.failed or f.who in rivals)}
    for figure in figures:
        for t in TARGETS if (figure.measure, figure.who) not in known else ():
            if t.measure == figure.measure and re.fullmatch(t.row, figure.who):
                against = f" / {t.rival}" if t.rival else f", {figure.unit}"
                yield _judge(figure.measure, f"{figure.who}{against}", None, t)
    for (measure, who), figure in known.items():
        for t in TARGETS:
            if t.measure == measure and t.rival is None and re.fullmatch(t.row, who):
                yield _judge(measure, f"{who}, {figure.unit}", figure.value, t)
        ours, direct = known.get((measure, "ours")), known.get((measure, "direct"))
        if ours is None or who in ("ours", "direct"):
            continue
        target = next((t for t in TARGETS if (t.measure, t.rival) == (measure, who)), None)
        verdict = _judge(measure, f"ours / {who}", ours.value / figure.value, target)
        if ours.cost and figure.cost:
            verdict.by_cpu = median(figure.counting(figure.cost)) / median(ours.counting(ours.cost))
        if target and target.at_least and direct:
            verdict.out_of_reach = target.bound * figure.value > direct.value
        yield verdict


def _judge(measure: str, what: str, reached: float | None, target: Target | None) -> Verdict:
    if target is None:
        return Verdict(measure, what, reached, "", True)
    ok = reached is not None and (reached >= target.bound if target.at_least else reached <= target.bound)
    return Verdict(measure, what, reached, f"{'>=' if target.at_least else '<='} {target.bound:g}", ok)


def told(verdict: Verdict) -> str:
    """How it ended, in a word or two."""
    if not verdict.target:
        return ""
    if verdict.reached is None:
        return "FAILED"
    return "ok" if verdict.ok else "MISSED" + (" (above the ceiling of the load)" if verdict.out_of_reach else "")


def number(value: float | None) -> str:
    """Three or more significant digits, thousands parted."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _cells(figure: Figure) -> list[str]:
    if not figure.rounds:
        return [figure.who, "-", "", "", "", "failed: " + " ".join(figure.failed.split())]
    rounds, cost, busy, p99_ms = map(figure.counting, (figure.rounds, figure.cost, figure.busy, figure.p99_ms))
    return [
        figure.who,
        f"{number(figure.value)} {figure.unit}",
        f"{number(min(rounds))} - {number(max(rounds))}",
        f"{number(median(cost))} {figure.cost_unit}" if cost else "",
        f"{median(busy):.0%}" if busy else "",
        " ".join(
            filter(
                None,
                [
                    f"p99 {number(median(p99_ms))} ms" if p99_ms else "",
                    f"{figure.errors} errors" if figure.errors else "",
                    _disturbance(figure),
                    figure.note,
                    f"not in every round: {' '.join(figure.failed.split())}" if figure.failed else "",
                ],
            )
        ),
    ]


def _disturbance(figure: Figure) -> str:
    if not figure.is_disturbed:
        return ""
    strangers = figure.counting(figure.strangers)
    noisy = sum(others > DISTURBED for others in strangers)
    return f"disturbed: in {noisy} of {len(strangers)} rounds others took up to {max(strangers):.0%} of a CPU"


_HEAD = ["contestant", "median", "min - max", "CPU", "of its CPU", ""]


def as_text(figures: list[Figure]) -> str:
    """One measure for a terminal."""
    rows = [_HEAD, *map(_cells, figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    for v in verdicts(figures):
        by_cpu = f" (by CPU time {number(v.by_cpu)})" if v.by_cpu else ""
        lines.append(
            f"  {v.what} = {number(v.reached)}{by_cpu}" + (f"  target {v.target}: {told(v)}" if v.target else "")
        )
    measure = figures[0].measure
    return "\n".join(line.rstrip() for line in [f"{measure}: {TITLES.get(measure, '')}", *lines]) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def _calmness(figures: list[Figure]) -> str:
    """How far this run was the programs' own, in a sentence."""
    watched = [figure for figure in figures if figure.strangers]
    disturbed = sum(figure.is_disturbed for figure in watched)
    dropped = sum(len(f.rounds) - len(f.counting(f.rounds)) for f in watched)
    return (
        f"A round counts when others took no more than {DISTURBED:.0%} of a CPU meanwhile: {dropped} were dropped. "
        f"{disturbed} of {len(watched)} rows had too few such rounds, and show the calmest they had (*disturbed*)."
    )


def as_markdown(figures: list[Figure], about: dict[str, str], command: str, notes: str) -> str:
    """The whole run as docs/benchmarks.md."""
    lines = [
        "# Benchmarks",
        "",
        f"Written by `{command}`; do not edit.",
        "Every rival ran in the same run, on the same CPUs, in interleaved rounds.",
        _calmness(figures),
        "",
        *(f"* {name}: {value}" for name, value in about.items()),
        "",
        "## Targets",
        "",
        _row(["measure", "figure", "reached", "by CPU time", "target", ""]),
        "|---|---|---:|---:|---:|---|",
    ]
    for v in verdicts(figures):
        by_cpu = number(v.by_cpu) if v.by_cpu else ""
        lines.append(_row([v.measure, v.what, number(v.reached), by_cpu, v.target, told(v)]))
    lines += ["", "## Figures", ""]
    for measure in dict.fromkeys(f.measure for f in figures):
        lines += [f"### {measure}", "", TITLES.get(measure, ""), "", _row(_HEAD), "|---|---:|---:|---:|---:|---|"]
        lines += [_row(_cells(f)) for f in figures if f.measure == measure]
        lines.append("")
    return "\n".join([*lines, "## How to read this", "", notes.strip(), ""])
