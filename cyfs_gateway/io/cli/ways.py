"""Ways out and the rules that choose them: shown, measured, changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cyfs_gateway.io.cli.common import (
    Place,
    ask,
    config_option,
    home_option,
    json_option,
    pass_place,
    print_json,
    table,
)
from cyfs_ns.printable import printable


@click.command()
@json_option
@home_option
@pass_place
def proxies(place: Place, as_json: bool) -> None:
    """List outbounds and groups, with what each group has chosen.

    \b
    Example:
      cyfs-gateway proxies
    """
    said = ask(place, "GET", "proxies")
    if as_json:
        print_json(said)
        return
    rows = []
    for name, one in said["proxies"].items():
        delay = one["history"][-1]["delay"] if one["history"] else 0
        alive = "yes" if one["alive"] else "no"
        rows.append([name, one["type"], alive, f"{delay} ms" if delay else "", one.get("now", "")])
    table(("NAME", "TYPE", "ALIVE", "DELAY", "NOW"), rows)


def _outbound(place: Place, name: str) -> dict[str, Any]:
    """What is known of an outbound or group."""
    unknown = f"there is no outbound or group {name} (cyfs-gateway proxies shows them)"
    said: dict[str, Any] = ask(place, "GET", "proxies", name, unknown=unknown)
    return said


@click.command()
@click.argument("group")
@click.argument("name")
@home_option
@pass_place
def select(place: Place, group: str, name: str) -> None:
    """Choose the member NAME in GROUP.

    \b
    Example:
      cyfs-gateway select Proxy my-server
    """
    members = _outbound(place, group).get("all")
    if members is None:
        raise click.ClickException(printable(f"{group} is no group, so nothing is chosen in it"))
    if name not in members:
        raise click.ClickException(printable(f"{group} has no member {name}; there is {', '.join(members)}"))
    ask(place, "PUT", "proxies", group, body={"name": name})


@click.command()
@click.argument("name")
@click.option("--url", default="", help="What to fetch through it.")
@click.option("--timeout", default=5000, show_default=True, type=click.IntRange(1, 60_000), help="Milliseconds.")
@json_option
@home_option
@pass_place
def delay(place: Place, name: str, url: str, timeout: int, as_json: bool) -> None:
    """Measure an outbound, or every member of a group.

    \b
    Example:
      cyfs-gateway delay my-server
    """
    query: dict[str, str | int] = {"timeout": timeout, **({"url": url} if url else {})}
    members = _outbound(place, name).get("all")
    if members is not None:
        said = ask(place, "GET", "group", name, "delay", query=query)
    else:
        said = {name: ask(place, "GET", "proxies", name, "delay", query=query)["delay"]}
    if as_json:
        print_json(said)
    else:
        rows = [(one, f"{said[one]} ms" if one in said else "no answer") for one in members or [name]]
        table(("NAME", "DELAY"), rows)


@click.command()
@json_option
@home_option
@pass_place
def rules(place: Place, as_json: bool) -> None:
    """List the rules in force with how often each decided.

    \b
    Example:
      cyfs-gateway rules
    """
    said = ask(place, "GET", "rules")
    if as_json:
        print_json(said)
        return
    rows = []
    for one in said["rules"]:
        extra = one["extra"]
        state = "off" if extra["disabled"] else ""
        rows.append([one["index"], one["type"], one["payload"], one["proxy"], extra["hitCount"], state])
    table(("INDEX", "TYPE", "PAYLOAD", "PROXY", "HITS", ""), rows)


@click.command()
@json_option
@home_option
@pass_place
def providers(place: Place, as_json: bool) -> None:
    """List proxy and rule providers.

    \b
    Example:
      cyfs-gateway providers
    """
    said = {kind: ask(place, "GET", "providers", kind)["providers"] for kind in ("proxies", "rules")}
    if as_json:
        print_json(said)
        return
    rows = []
    for kind, listed in said.items():
        for name, one in listed.items():
            entries = one.get("ruleCount", len(one.get("proxies") or ()))
            rows.append([name, kind, one.get("vehicleType", ""), entries, one.get("updatedAt", "")])
    table(("NAME", "OF", "FROM", "ENTRIES", "UPDATED"), rows)


@click.command()
@config_option
@home_option
@pass_place
def reload(place: Place, config: Path | None) -> None:
    """Load the configuration again, or another one.

    All of the new configuration runs afterwards, or all of the old.  Open connections go on.

    \b
    Example:
      cyfs-gateway reload -c config.yaml
    """
    body = {}
    if config is not None:
        path = config.resolve()
        if path.is_relative_to(place.home.resolve()):
            body["path"] = str(path)
        else:
            try:
                body["payload"] = path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as fault:
                raise click.ClickException(printable(str(fault))) from None
    for found in ask(place, "POST", "cyfs", "reload", body=body)["warnings"]:
        click.echo(printable(f"{found['line']}:{found['column']}: {found['path']}: {found['message']}"), err=True)
