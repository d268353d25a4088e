"""What the running gateway does: its state, its connections, its logs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import click

from cyfs_gateway.io.cli.common import (
    Place,
    ask,
    asking,
    home_option,
    json_option,
    pass_place,
    print_json,
    show_again,
    table,
)
from cyfs_gateway.io.cli.zonelogs import When, show
from cyfs_ns.printable import printable

_LEVELS = ("debug", "info", "warning", "error")


@click.command()
@json_option
@home_option
@pass_place
def status(place: Place, as_json: bool) -> None:
    """Show what the running gateway does.

    \b
    Example:
      cyfs-gateway status
    """
    from cyfs_ns.io.tables import bytes_text, seconds_text

    said = ask(place, "GET", "cyfs", "status")
    if as_json:
        print_json(said)
        return
    known = {
        "version": said["version"],
        "up": seconds_text(said["uptime"]),
        "configuration": said["config"] or "defaults",
        "home": said["home"],
        "mode": said["mode"],
        "rules": said["rules"],
        "connections": said["connections"],
        "sent": bytes_text(said["uploadTotal"]),
        "received": bytes_text(said["downloadTotal"]),
        "memory": bytes_text(said["memory"]),
    }
    if own := said.get("identity"):
        known["identity"] = own.get("did") or own["fault"]
        if document := own.get("document"):
            known["owned by"] = document["fault"] or document["owner"]
    for name, value in known.items():
        click.echo(f"{name + ':':<15}{printable(str(value))}")
    _show_part("listeners", said.get("listeners"))
    _show_part("memberships", [_membership(one) for one in said.get("memberships", ())])
    _show_part("modules", said.get("modules"))


def _membership(told: Mapping[str, Any]) -> str:
    """How things stand with one SN, in a line."""
    from cyfs_ns.io.cli.identifying import day

    name = f"{told['domain']} ({told['sn']})" if told["domain"] else told["sn"]
    if told["tunnel"] != "stands":
        return f"{name}: no tunnel; {told['why']}"
    parts = [
        f"as {told['name']}" if told["name"] else "",
        f"tunnel since {day(told['since'])}",
        f"seen as {told['seen']}" if told["seen"] else "",
        f"leads {', '.join(told['leads'])} here" if told["leads"] else "",
    ]
    return f"{name}: {', '.join(filter(None, parts))}" + (f"; {told['why']}" if told["why"] else "")


def _show_part(name: str, content: Any) -> None:
    """A part of the status whose shape belongs to others: one line an entry."""
    if not content:
        return
    click.echo(f"{name}:")
    entries = content.items() if isinstance(content, dict) else (("", entry) for entry in content)
    for key, entry in entries:
        facts = " ".join(f"{k}={v}" for k, v in entry.items()) if isinstance(entry, dict) else str(entry)
        click.echo(f"  {printable(f'{key} {facts}'.strip())}")


@click.command()
@click.option("--watch", is_flag=True, help="Show again each second until interrupted.")
@json_option
@home_option
@pass_place
def connections(place: Place, watch: bool, as_json: bool) -> None:
    """List the connections that are open now.

    \b
    Example:
      cyfs-gateway connections --watch
    """
    show_again(watch, lambda: ask(place, "GET", "connections"), _show_connections, as_json=as_json)


def _show_connections(said: Mapping[str, Any]) -> None:
    from cyfs_ns.io.tables import bytes_text

    rows = []
    for one in said["connections"]:
        meta = one["metadata"]
        host = meta["host"] or meta["sniffHost"] or meta["destinationIP"]
        rule = f"{one['rule']},{one['rulePayload']}" if one["rulePayload"] else one["rule"]
        rows.append(
            [
                f"{meta['sourceIP']}:{meta['sourcePort']}",
                f"{host}:{meta['destinationPort']}",
                meta["network"],
                rule,
                " > ".join(reversed(one["chains"])),
                bytes_text(one["upload"]),
                bytes_text(one["download"]),
            ]
        )
    table(("CLIENT", "DESTINATION", "NET", "RULE", "WAY", "UP", "DOWN"), rows)


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes; without --zone, that is how it always is.")
@click.option("--level", default="info", show_default=True, type=click.Choice(_LEVELS), help="This and above.")
@click.option(
    "--zone", "of_zone", is_flag=True, help="What the zone's machines and services said, as the OODs have it."
)
@click.option("--service", "services", multiple=True, metavar="NAME", help="Of the zone: only its lines.")
@click.option("--node", default="", metavar="NAME", help="Of the zone: only the lines of that machine.")
@click.option("--since", type=When(), metavar="WHEN", help="Of the zone: how long ago (1h), or 2026-01-31T12:00.")
@click.option("--until", type=When(), metavar="WHEN", help="Of the zone: not later than that.")
@click.option("--text", default="", metavar="TEXT", help="Of the zone: lines with that text.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Of the zone: lines.")
@json_option
@home_option
@pass_place
def logs(
    place: Place,
    follow: bool,
    level: str,
    of_zone: bool,
    services: tuple[str, ...],
    node: str,
    since: float | None,
    until: float | None,
    text: str,
    limit: int,
    as_json: bool,
) -> None:
    """Follow the logs of the running gateway, or show those of its zone.

    Parts of this program have names with a dot there: cyfs.gateway, cyfs.zone.

    \b
    Example:
      cyfs-gateway logs -f --level debug
      cyfs-gateway logs --zone --service web --since 1h
      cyfs-gateway logs --zone --level warning -f
    """
    wanted = {"service": list(services), "node": node, "since": since, "until": until, "text": text}
    if of_zone:
        show(place, {"level": level, **wanted}, limit, follow=follow, as_json=as_json)
        return
    if any(value not in (None, "", []) for value in wanted.values()):
        raise click.UsageError("--service, --node, --since, --until and --text are for --zone")
    with asking(place), suppress(KeyboardInterrupt):
        for line in place.client().lines("logs", query={"level": level, "format": "structured"}):
            if as_json:
                print_json(line, one_line=True)
                continue
            facts = " ".join(f"{fact['key']}={fact['value']}" for fact in line["fields"])
            click.echo(printable(f"{line['time']} {line['level']:<7} {line['message']} {facts}".rstrip()))
