"""Tunnels to other devices: which stand, and whether somebody is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from cyfs_gateway.io.cli.common import (
    WATCH_SECONDS,
    Place,
    ask,
    home_option,
    json_option,
    pass_place,
    print_json,
    show_again,
    table,
)
from cyfs_ns.printable import printable


@click.command()
@click.argument("words", metavar="[URL | forget PEER]", nargs=-1)
@click.option("--watch", is_flag=True, help="Show again each second until interrupted.")
@json_option
@home_option
@pass_place
def tunnels(place: Place, words: tuple[str, ...], watch: bool, as_json: bool) -> None:
    """Show the tunnels to other devices, or try a tunnel URL.

    What is known of tunnel URLs is shown, too.  With forget the tunnels to PEER, a DID or host name, are closed, and
    what is remembered of it is forgotten.

    \b
    Example:
      cyfs-gateway tunnels socks://127.0.0.1:1080/www.example.org:443
      cyfs-gateway tunnels forget photos.home.example
    """
    if words[:1] == ("forget",) and len(words) == 2:
        _forget(place, words[1], as_json)
        return
    if len(words) > 1 or words == ("forget",):
        raise click.UsageError("one URL, or: forget PEER")
    if words:
        known = ask(place, "POST", "cyfs", "probe", body={"url": words[0]})
        if as_json:
            print_json(known)
        else:
            _show_urls([known])
        return
    show_again(
        watch,
        lambda: {**ask(place, "GET", "cyfs", "peers"), **ask(place, "GET", "cyfs", "tunnels")},
        _show_tunnels,
        as_json=as_json,
    )


@click.command()
@click.argument("peer")
@click.option("-n", "count", default=1, show_default=True, type=click.IntRange(1, 1000), help="How often.")
@click.option("--explain", is_flag=True, help="Show the way that is used, why it is, and all others that are known.")
@json_option
@home_option
@pass_place
def ping(place: Place, peer: str, count: int, explain: bool, as_json: bool) -> None:
    """Ask another device for a sign of life, by its DID or host name.

    A tunnel is made if none stands.

    \b
    Example:
      cyfs-gateway ping photos.home.example
      cyfs-gateway ping photos.home.example --explain -n 5
    """
    import time

    for number in range(count):
        if number:
            time.sleep(WATCH_SECONDS)
        said = ask(place, "POST", "cyfs", "ping", body={"peer": peer})
        if as_json:
            print_json(said, one_line=count > 1)
            continue
        click.echo(printable(f"{said['peer']}: {said['rtt']:.1f} ms, {said['trust']}, {_origin(said)}"))
        if explain:
            _explain(said)


def _explain(said: Mapping[str, Any]) -> None:
    if said["why"]:
        click.echo(printable(said["why"]))
    if not said["ways"]:
        click.echo("No other way is looked for.")
        return
    rows = [
        (
            one["name"],
            one["kind"],
            one["state"],
            _measured(one["rtt"], "ms"),
            f"{one['loss']:.0%}",
            _measured(one["heard"], "s"),
        )
        for one in said["ways"]
    ]
    table(("WAY", "KIND", "STATE", "RTT", "LOSS", "HEARD"), rows)


def _measured(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.1f} {unit}"


def _forget(place: Place, peer: str, as_json: bool) -> None:
    said = ask(place, "DELETE", "cyfs", "peers", peer)
    if as_json:
        print_json(said)
    else:
        click.echo(f"{said['closed']} tunnel{'' if said['closed'] == 1 else 's'} closed")


def _origin(one: Mapping[str, Any]) -> str:
    """Which way a tunnel goes; where it has no choice, how it came about."""
    if one["dialled"] or one["ways"]:
        return f"by {one['way']}" if one["way"] else "dialled"
    return f"from {one['way']}"


def _show_tunnels(said: Mapping[str, Any]) -> None:
    if said["peers"]:
        rows = [
            (one["peer"], one["trust"], one["owner"], one["version"], _origin(one), f"{one['silent']:.1f} s")
            for one in said["peers"]
        ]
        table(("PEER", "TRUST", "OWNER", "VERSION", "WAY", "SILENT"), rows)
        click.echo()
    _show_urls(said["tunnels"])


def _show_urls(known: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        (one["url"], one["state"], one["reason"], one["source"], "" if one["rtt"] is None else f"{one['rtt']:.1f} ms")
        for one in known
    ]
    table(("URL", "STATE", "REASON", "SOURCE", "RTT"), rows)
