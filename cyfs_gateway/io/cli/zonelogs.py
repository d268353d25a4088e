"""What the logs of a zone have, for commands: found, shown, followed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from cyfs_gateway.io.cli.common import ask_module, print_json
from cyfs_ns.printable import printable

if TYPE_CHECKING:
    from cyfs_gateway.io.cli.common import Place

OFF: Final = "this machine is in no zone, or its gateway runs without it: cyfs-gateway node status"
_WAIT: Final = 20.0
"""Seconds of a question for lines that come."""
_PAGE: Final = 1000
_AGAIN: Final = 1.0


class When(click.ParamType):  # type: ignore[type-arg]
    """A time: a date and time of here, ``2026-01-31T12:00``, or how long ago, ``1h``.  Unix seconds."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from cyfs_ns.config.written import parse_duration

        if isinstance(value, float):
            return value
        if (ago := parse_duration(value)) is not None:
            return max(0.0, time.time() - ago)
        try:
            return max(0.0, datetime.fromisoformat(value).timestamp())
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time: how long ago, such as 90s, 1h, 2d, or 2026-01-31T12:00", param, ctx)


def show(place: Place, wanted: Mapping[str, Any], limit: int, *, follow: bool, as_json: bool) -> None:
    """The newest ``limit`` lines that are wanted; with ``follow``, then those that come, until interrupted."""
    lines, answer = _newest(place, wanted, limit)
    _tell_away(answer["away"], {})
    if as_json and not follow:
        print_json({"lines": lines, "away": answer["away"]})
        return
    _print(lines, as_json=as_json)
    with suppress(KeyboardInterrupt):
        while follow:
            away = answer["away"]
            answer = _ask(place, {**wanted, "after": answer["after"], "wait": _WAIT})
            _print(answer["lines"], as_json=as_json)
            _tell_away(answer["away"], away)
            if answer["away"]:
                time.sleep(_AGAIN)


def _newest(place: Place, wanted: Mapping[str, Any], limit: int) -> tuple[list[Any], Mapping[str, Any]]:
    """Lines, and the first answer, which says from where to follow."""
    first = answer = _ask(place, {**wanted, "limit": min(limit, _PAGE)})
    lines = list(answer["lines"])
    while answer["before"] and len(lines) < limit:
        more = {"before": answer["before"], "limit": min(limit - len(lines), _PAGE)}
        answer = _ask(place, {**wanted, **more})
        lines = [*answer["lines"], *lines]
    return lines, first


def _ask(place: Place, body: Mapping[str, Any]) -> Mapping[str, Any]:
    said: Mapping[str, Any] = ask_module(place, "zone", "logs", body, off=OFF)
    return said


def _print(lines: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    for line in lines:
        if as_json:
            print_json(line, one_line=True)
            continue
        when = datetime.fromtimestamp(line["time"]).astimezone().isoformat(" ", "milliseconds")
        about = f"{line['node']} {line['service']}"
        click.echo(printable(f"{when} {line['level']:<7} {about}: {line['message']}"))


def _tell_away(away: Mapping[str, str], before: Mapping[str, str]) -> None:
    for name, why in away.items():
        if name not in before:
            click.echo(printable(f"without the lines that {name} has: {why}"), err=True)
