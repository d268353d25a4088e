"""``zone status``, ``nodes``, ``services``, ``why``, ``plan``, ``deploy``, ``rm``, ``scale``, ``drain``, ``events``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from cyfs_gateway.io.cli.common import (
    Place,
    ask,
    home_option,
    json_option,
    pass_place,
    print_json,
    show_again,
    table,
)
from cyfs_gateway.io.cli.zonelogs import When, show
from cyfs_ns.io.cli.common import facts
from cyfs_ns.printable import printable
from zone.io.cli.asking import OFF, control

_NO_SERVICE: Final = "the zone has no such service (cyfs-gateway zone services shows them)"
_NO_NODE: Final = "the zone has no such node (cyfs-gateway zone nodes shows them)"
_LOOK: Final = 0.1
_EVENTS: Final = ("cyfs.zone", "cyfs.scheduler", "cyfs.node", "cyfs.etcd")
"""Those who decide, and see."""


@click.command("status")
@click.option("--watch", is_flag=True, help="Show again each second until interrupted.")
@json_option
@home_option
@pass_place
def status(place: Place, watch: bool, as_json: bool) -> None:
    """Show how far this machine has come into its zone.

    At which step it is, since when, and who is waited for.

    \b
    Example:
      cyfs-gateway zone status --watch
    """

    def said() -> Mapping[str, Any]:
        told: Mapping[str, Any] | None = ask(place, "GET", "cyfs", "status")["modules"].get("zone")
        if told is None:
            raise click.ClickException(OFF)
        return told

    show_again(watch, said, _show_status, as_json=as_json)


def _show_status(said: Mapping[str, Any]) -> None:
    if not said["running"]:
        click.echo(printable(f"it does not run: {said['fault']}"))
        return
    shown = {
        "zone": said.get("zone", "none yet"),
        "machine": f"{said['name']}, {said['role']}" if "name" in said else "",
        "step": f"{said['step']}, for {said['seconds']:.0f} s",
        "waits for": said["waits_for"],
        "why": said["why"],
        "document": said.get("document", ""),
        "ahead": said.get("ahead") or "",
        "services at": ", ".join(said["kapi"]),
        "noted": "; ".join(said["notes"]),
    }
    facts({name: value for name, value in shown.items() if value})


@click.command("nodes")
@json_option
@home_option
@pass_place
def nodes(place: Place, as_json: bool) -> None:
    """Show the machines of the zone, and what they are to run.

    \b
    Example:
      cyfs-gateway zone nodes
    """
    told = control(place, "nodes")
    if as_json:
        print_json(told)
        return
    rows = []
    for name, node in told["nodes"].items():
        silent = node["silent"]
        heard = "never" if silent is None else "now" if silent < 1 else f"{silent:.0f} s ago"
        state = node["fault"] or ("drained" if node["drain"] else "")
        room = f"{node['cpu']:g} cores, {node['memory'] >> 20} MiB"
        rows.append((name, heard, room, ", ".join(node["services"]), state))
    table(("node", "heard of", "room", "services", ""), rows)


@click.command("services")
@json_option
@home_option
@pass_place
def services(place: Place, as_json: bool) -> None:
    """Show the services of the zone, and how they stand.

    \b
    Example:
      cyfs-gateway zone services
    """
    told = control(place, "services")
    if as_json:
        print_json(told)
        return
    rows = []
    for name, one in told["services"].items():
        where = ", ".join(_where(one, node, state) for node, state, _ in one["standing"])
        rows.append((name, f"{_ready(one)}/{one['wanted']}", where, one["fault"] or "; ".join(one["notes"])))
    table(("service", "ready", "where", ""), rows)


@click.command("why")
@click.argument("service")
@json_option
@home_option
@pass_place
def why(place: Place, service: str, as_json: bool) -> None:
    """Say why SERVICE runs where it runs, or why it does not.

    \b
    Example:
      cyfs-gateway zone why web
    """
    told = control(place, "why", _NO_SERVICE, service=service)
    if as_json:
        print_json(told)
    else:
        _show_why(told)


@click.command("plan")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), required=False)
@json_option
@home_option
@pass_place
def plan(place: Place, file: Path | None, as_json: bool) -> None:
    """Show what the scheduler would do, and do nothing.

    With FILE, if that page were deployed.

    \b
    Example:
      cyfs-gateway zone plan web.yaml
    """
    told = control(place, "plan", **({} if file is None else {"page": _page(file)}))
    if as_json:
        print_json(told)
        return
    for action, service, node, reason in told["decisions"]:
        click.echo(printable(f"{action} {service}{' on ' + node if node else ''}: {reason}"))
    for veto in told["vetoes"]:
        click.echo(printable(f"but nothing is written: {veto}"))
    for name, one in told["services"].items():
        for node, bar, reason in one["refusals"]:
            click.echo(printable(f"{name} not on {node} ({bar}): {reason}"))
    if not told["decisions"]:
        click.echo("nothing is to be done")


@click.command("deploy")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--wait", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds until it serves.")
@json_option
@home_option
@pass_place
def deploy(place: Place, file: Path, wait: float, as_json: bool) -> None:
    """Have the service of the page FILE run in the zone.

    Waits until it serves.

    Ends with 1 where it does not within the time, and says what hinders it; it stays deployed.

    \b
    Example:
      cyfs-gateway zone deploy web.yaml
    """
    made = control(place, "deploy", page=_page(file))
    until = time.monotonic() + wait
    told: Mapping[str, Any] = {}
    serves = False
    while wait:
        told = control(place, "why", service=made["service"], after=made["revision"])
        is_decided = told["version"] == made["version"]
        is_new = set(told["versions"].values()) <= {made["version"]}
        serves = is_decided and is_new and _ready(told) == len(told["standing"]) == told["wanted"]
        if serves or (is_decided and _is_hopeless(told)) or time.monotonic() > until:
            break
        time.sleep(_LOOK)
    if as_json:
        print_json({**made, "serves": serves, "why": dict(told)})
    else:
        click.echo(f"{made['service']}: version {made['version']}, revision {made['revision']}")
        if told:
            _show_why(told)
    sys.exit(0 if serves or not wait else 1)


@click.command("rm")
@click.argument("service")
@json_option
@home_option
@pass_place
def remove(place: Place, service: str, as_json: bool) -> None:
    """Have SERVICE run in the zone no longer.  Its volumes stay where they are.

    \b
    Example:
      cyfs-gateway zone rm web
    """
    _done(control(place, "remove", _NO_SERVICE, service=service), as_json)


@click.command("scale")
@click.argument("service")
@click.argument("replicas", type=click.IntRange(min=0))
@json_option
@home_option
@pass_place
def scale(place: Place, service: str, replicas: int, as_json: bool) -> None:
    """Have SERVICE run on REPLICAS machines.

    \b
    Example:
      cyfs-gateway zone scale web 2
    """
    _done(control(place, "scale", _NO_SERVICE, service=service, replicas=replicas), as_json)


@click.command("drain")
@click.argument("node")
@click.option("--undo", is_flag=True, help="Let services come again.")
@json_option
@home_option
@pass_place
def drain(place: Place, node: str, undo: bool, as_json: bool) -> None:
    """Have services leave NODE, and none come.

    Those that can run elsewhere.

    \b
    Example:
      cyfs-gateway zone drain box
    """
    _done(control(place, "drain", _NO_NODE, node=node, on=not undo), as_json)


@click.command("events")
@click.option("--service", default="", metavar="NAME", help="Only what is about it.")
@click.option("--node", default="", metavar="NAME", help="Only what that machine said.")
@click.option("--since", type=When(), metavar="WHEN", help="How long ago (1h), or 2026-01-31T12:00.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=200, show_default=True, help="The newest.")
@json_option
@home_option
@pass_place
def events(place: Place, service: str, node: str, since: float | None, follow: bool, limit: int, as_json: bool) -> None:
    """Show what happened in the zone, and what was decided.

    Who leads, where services were placed and why, how they fared, and how machines came up.

    \b
    Example:
      cyfs-gateway zone events --since 1d
      cyfs-gateway zone events --service web -f
    """
    wanted = {"service": list(_EVENTS), "level": "info", "node": node, "since": since, "about": service}
    show(place, wanted, limit, follow=follow, as_json=as_json)


def _done(told: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(told)
    else:
        click.echo(f"revision {told['revision']}")


def _page(file: Path) -> str:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return data.decode()
    except (OSError, UnicodeDecodeError) as fault:
        raise click.ClickException(printable(f"{file}: {fault}")) from None


def _is_hopeless(one: Mapping[str, Any]) -> bool:
    """Whether somebody has to do something, rather than wait."""
    from zone.scheduler.plan import Bar

    # Which is how it is with a node that has just begun.
    is_passing = any(bar in (Bar.SILENT, Bar.CAPACITY) for _, bar, _ in one["refusals"])
    return bool(one["fault"] or one["failed"] or (one["missing"] and not is_passing))


def _ready(one: Mapping[str, Any]) -> int:
    return sum(state == "ready" for _, state, _ in one["standing"])


def _where(one: Mapping[str, Any], node: str, state: str) -> str:
    ports = " ".join(f"{name}:{number}" for name, number in one["ports"].get(node, {}).items())
    return " ".join(filter(None, (node, "" if state == "ready" else f"({state})", ports)))


def _show_why(one: Mapping[str, Any]) -> None:
    click.echo(printable(f"{one['service']}: {_ready(one)} of {one['wanted']} ready"))
    if one["fault"]:
        click.echo(printable(f"  its page: {one['fault']}"))
    if one["failed"]:
        click.echo(printable(f"  version {one['version']} failed: {one['failed']}"))
    for node, state, reason in one["standing"]:
        click.echo(printable(f"  {_where(one, node, state)}: {state}{': ' + reason if reason else ''}"))
    for node, bar, reason in one["refusals"]:
        click.echo(printable(f"  not on {node} ({bar}): {reason}"))
    for note in one["notes"]:
        click.echo(printable(f"  {note}"))


COMMANDS: Final = (status, nodes, services, why, plan, deploy, remove, scale, drain, events)
