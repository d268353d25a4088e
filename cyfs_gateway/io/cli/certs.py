"""Certificates: how they are, and having one ordered now."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import click

from cyfs_gateway.io.cli.common import Place, ask_module, home_option, json_option, pass_place, print_json, table
from cyfs_ns.printable import printable

_DAY = 86_400
_OFF = "no certificates are kept here: the configuration has no section certificates"


@click.group()
def certs() -> None:
    """Certificates that the gateway keeps.

    \b
    Example:
      cyfs-gateway certs list
    """


@certs.command(name="list")
@json_option
@home_option
@pass_place
def list_(place: Place, as_json: bool) -> None:
    """List certificates, how they are, and until when.

    \b
    Example:
      cyfs-gateway certs list
    """
    said = ask_module(place, "certificates", "list", {}, off=_OFF)
    if as_json:
        print_json(said)
        return
    now = time.time()
    table(("CERTIFICATE", "STATE", "EXPIRES", "RENEWED", "FROM"), [_row(each, now) for each in said["certificates"]])
    for each in said["certificates"]:
        if "fault" in each:
            advice = f" ({each['advice']})" if "advice" in each else ""
            again = f"; again {_when(each['next_try'], now)}" if "next_try" in each else ""
            click.echo(printable(f"{each['label']}: {each['fault']}{advice}{again}"), err=True)
    for name, fault in said.get("doors", {}).items():
        click.echo(printable(f"listen/{name}: {fault}"), err=True)
    if "waits" in said:
        click.echo(printable(f"nothing is ordered: {said['waits']}"), err=True)


@certs.command()
@click.argument("name", default="")
@json_option
@home_option
@pass_place
def renew(place: Place, name: str, as_json: bool) -> None:
    """Order the certificate NAME, or all of them, anew.

    That is done however long they are still good.  Authorities count orders: this is for certificates that must not be
    used any more, and for trying again at once what went wrong.

    \b
    Example:
      cyfs-gateway certs renew photos.me.example
    """
    said = ask_module(place, "certificates", "renew", {"name": name}, off=_OFF)
    if as_json:
        print_json(said)
        return
    for label in said["renewing"]:
        click.echo(printable(f"ordered: {label}"))


def _row(each: dict[str, Any], now: float) -> list[str]:
    state = "ordered" if each.get("working") else each["state"]
    if "not_after" not in each:
        return [each["label"], state, "", "", each["source"]]
    renewal = _when(each["renewal"], now) if each["renewal"] is not None else "by others"
    return [each["label"], state, _when(each["not_after"], now), renewal, each["issuer"]]


def _when(moment: float, now: float) -> str:
    days = (moment - now) / _DAY
    if abs(days) < 1:
        return f"{datetime.fromtimestamp(moment, UTC):%H:%M} UTC"
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d} ({days:+.0f} d)"
