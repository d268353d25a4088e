"""``bench``: name servers measured against each other, from here."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyfs_ns.io.cli.common import json_option, print_json, run_to_end, table

if TYPE_CHECKING:
    from cyfs_ns.histogram import Summary
    from cyfs_ns.io.measure import Course, Measured
    from cyfs_ns.upstream import Upstream

_NAMES = (
    "google.com", "youtube.com", "facebook.com", "wikipedia.org", "amazon.com", "apple.com", "microsoft.com",
    "cloudflare.com", "github.com", "netflix.com", "linkedin.com", "instagram.com", "bing.com", "reddit.com",
    "debian.org", "kernel.org", "python.org", "mozilla.org", "bbc.co.uk", "nytimes.com", "spiegel.de", "lemonde.fr",
    "rakuten.co.jp", "baidu.com", "uol.com.br",
)  # fmt: skip
_PLOT = 60
_MOST_RATE = 1000.0


@click.command()
@click.argument("servers", nargs=-1, required=True, metavar="SERVER...")
@click.option("--names", type=click.Path(path_type=Path), metavar="FILE", help="Names to ask, one a line.")
@click.option("--count", default=50, show_default=True, type=click.IntRange(1, 100_000), help="Questions of each kind.")
@click.option(
    "--rate", default=20.0, show_default=True, type=click.FloatRange(0.1, _MOST_RATE), help="Questions a second, each."
)
@click.option("--timeout", default=2.0, show_default=True, metavar="SECONDS", help="After which one counts as lost.")
@click.option("--insecure", is_flag=True, help="Take any certificate.")
@json_option
def bench(
    servers: tuple[str, ...],
    names: Path | None,
    count: int,
    rate: float,
    timeout: float,
    insecure: bool,
    as_json: bool,
) -> None:
    """Measure name servers against each other, over UDP, TCP, TLS or HTTPS.

    Each server is asked for known names ("cached"), for names below them that nobody asked before ("uncached": it has
    to ask around itself), and, where there are connections, how long one takes to open ("set-up").  All are measured
    at the same time, question by question, so that what disturbs one disturbs all; none gets more than --rate
    questions a second.

    \b
    Examples:
      cyfs-ns bench 1.1.1.1 9.9.9.9 192.168.1.1
      cyfs-ns bench tls://1.1.1.1 https://dns.google/dns-query --count 200 --json
    """
    from dataclasses import replace

    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.io.measure import Course, measure, steps_of
    from cyfs_ns.io.sources import Sources
    from cyfs_ns.upstream import parse_upstream

    try:
        read = [parse_upstream(text.removeprefix("@")) for text in servers]
    except ConfigFault as fault:
        raise click.UsageError(str(fault)) from None
    sources = Sources()
    wanted = list(dict.fromkeys(real for server in read for real in sources.instead_of(server)))
    wanted = [replace(server, skip_cert_verify=server.skip_cert_verify or insecure) for server in wanted]
    course = Course(names=_names(names), count=count, rate=rate, timeout=timeout)
    with _Progress(steps_of(course) * len(wanted)) as progress:
        found = run_to_end(measure, wanted, course, progress.step)
    if as_json:
        print_json(_json(found, course))
    else:
        _show(found, wanted)
    raise SystemExit(0 if any(one.cached or one.uncached for one in found) else 9)


def _names(path: Path | None) -> tuple[str, ...]:
    from cyfs_ns import names
    from cyfs_ns.errors import BadWire

    if path is None:
        return _NAMES
    try:
        lines = path.read_text("utf-8").splitlines()
        found = [names.name(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    except (OSError, UnicodeDecodeError, BadWire) as fault:
        raise click.BadParameter(str(fault), param_hint="--names") from None
    if not found:
        raise click.BadParameter("there is no name in it", param_hint="--names")
    return tuple(dict.fromkeys(found))


class _Progress:
    """A bar on standard error while there is somebody to look at it."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("asking", total=self._steps)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self) -> None:
        if self._bar is not None:
            self._bar.advance(self._task)


def _show(found: Sequence[Measured], servers: Sequence[Upstream]) -> None:
    from cyfs_ns.histogram import Axis

    rows = []
    for one in found:
        for kind, said in one.summaries().items():
            if said.count or said.lost:
                rows.append((one.server, kind, said.count, f"{said.loss:.1%}", *_times(said)))
    table(("SERVER", "KIND", "ANSWERS", "LOSS", "MIN", "MEDIAN", "P90", "P99"), rows)
    for kind in ("cached", "uncached"):
        times = [time for one in found for time in getattr(one, kind)]
        if not times:
            continue
        axis = Axis.over(times, _PLOT)
        width = max(len(one.server) for one in found)
        click.echo(f"\n{kind}, milliseconds")
        for one in found:
            click.echo(f"{one.server:<{width}} │{axis.bars(getattr(one, kind))}│")
        click.echo(f"{'':<{width}}  {axis.scale()}")
    for one in found:
        if one.fault:
            click.echo(f"{one.server}: {one.fault}", err=True)


def _times(said: Summary) -> list[str]:
    times = (said.least, said.median, said.p90, said.p99)
    return ["" if math.isnan(time) else f"{time * 1000:.1f} ms" for time in times]


def _json(found: Sequence[Measured], course: Course) -> dict[str, Any]:
    shown = []
    for one in found:
        kinds = {}
        for kind, said in one.summaries().items():
            times = {"min": said.least, "median": said.median, "p90": said.p90, "p99": said.p99}
            milliseconds = {key: None if math.isnan(time) else round(time * 1000, 3) for key, time in times.items()}
            kinds[kind] = {"answers": said.count, "lost": said.lost, "milliseconds": milliseconds}
        shown.append({"server": one.server, **kinds, "fault": one.fault})
    return {"count": course.count, "rate": course.rate, "names": len(course.names), "servers": shown}
