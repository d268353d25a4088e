"""``config get``, ``config set``, ``config watch``: keys and values of the zone's configuration."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Final

import click

from cyfs_gateway.io.cli.common import Place, home_option, json_option, pass_place, print_json
from cyfs_ns.printable import printable
from zone.io.cli.asking import call

_POLL: Final = 20.0
"""Seconds of a question for changes."""


@click.command("get")
@click.argument("key")
@click.option("--revision", type=click.IntRange(min=1), metavar="N", help="As it was then.")
@json_option
@home_option
@pass_place
def get(place: Place, key: str, revision: int | None, as_json: bool) -> None:
    """Show the value of KEY; of all keys below it, if it ends with a slash.

    \b
    Example:
      cyfs-gateway config get services/web/spec
      cyfs-gateway config get nodes/
    """
    params: dict[str, Any] = {"scopes": [_scope(key)], **({} if revision is None else {"revision": revision})}
    entries: list[dict[str, Any]] = []
    while True:
        told = call(place, "read", **params)
        entries += told["entries"]
        if (following := told.get("next")) is None:
            break
        params |= {"revision": told["revision"], "after_key": following}
    if not entries and not key.endswith("/"):
        raise click.ClickException(printable(f"{key} is absent"))
    if as_json:
        print_json({"revision": told["revision"], "entries": entries})
    elif key.endswith("/"):
        for entry in entries:
            click.echo(printable(f"{entry['key']} {_shown(entry)}"))
    else:
        click.echo("\n".join(map(printable, _shown(entries[0], 2).split("\n"))))


@click.command("set")
@click.argument("key")
@click.argument("value")
@click.option(
    "--if-revision", type=click.IntRange(min=0), metavar="N", help="Only if KEY was written by N; 0: by none."
)
@json_option
@home_option
@pass_place
def put(place: Place, key: str, value: str, if_revision: int | None, as_json: bool) -> None:
    """Give KEY the VALUE, which is JSON; what is none is taken as a text.

    \b
    Example:
      cyfs-gateway config set services/web/settings '{"theme": "dark"}'
    """
    meant: Any = value
    with suppress(ValueError):
        meant = json.loads(value)
    guards = [] if if_revision is None else [{"key": key, "revision": if_revision}]
    told = call(place, "transact", **{"actions": [{"do": "set", "key": key, "value": meant}], "if": guards})
    if as_json:
        print_json(told)
    else:
        click.echo(f"revision {told['revision']}")


@click.command("watch")
@click.argument("key")
@json_option
@home_option
@pass_place
def watch(place: Place, key: str, as_json: bool) -> None:
    """Show every change of KEY, or below it, until interrupted.

    Of all keys below it, if it ends with a slash.

    \b
    Example:
      cyfs-gateway config watch services/
    """
    with suppress(KeyboardInterrupt):
        after = call(place, "read", scopes=[])["revision"]
        while True:
            told = call(place, "watch", scope=_scope(key), after=after, seconds=_POLL)
            after = told["revision"]
            for change in told["changes"]:
                for entry in change["entries"]:
                    if as_json:
                        print_json(entry, one_line=True)
                    else:
                        click.echo(printable(f"{change['revision']} {entry['key']} {_shown(entry)}"))


def _scope(key: str) -> dict[str, str]:
    return {"below": key[:-1]} if key.endswith("/") else {"at": key}


def _shown(entry: dict[str, Any], indent: int | None = None) -> str:
    if "fault" in entry:
        return f"({entry['fault']})"
    return json.dumps(entry["value"], indent=indent, ensure_ascii=False) if "value" in entry else "(deleted)"


COMMANDS: Final = (get, put, watch)
