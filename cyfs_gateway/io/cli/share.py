"""Links to services at home, for people with nothing but a browser."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import click

from cyfs_gateway.io.cli.common import Place, ask_module, home_option, json_option, pass_place, print_json, table
from cyfs_ns.printable import printable

_OFF = "nothing is shared here: the configuration has no section share"


class _ServiceOrCommand(click.Group):
    """``share photos`` is short for ``share link photos``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["link", *args])


@click.group(cls=_ServiceOrCommand)
def share() -> None:
    """Give links to services at home, list them, take them back.

    \b
    Example:
      cyfs-gateway share photos --until 7d --note "for Ann"
    """


@share.command()
@click.argument("service")
@click.option("--until", default="7d", show_default=True, help="12h, 7d, or the day it ends.")
@click.option("--note", default="", help="For whom, to find it again.")
@click.option("--for", "whose", default="", metavar="DID", help="The one machine that may open it: share open there.")
@click.option("--qr/--no-qr", default=None, help="Draw a QR code. [default: on a terminal]")
@json_option
@home_option
@pass_place
def link(place: Place, service: str, until: str, note: str, whose: str, qr: bool | None, as_json: bool) -> None:
    """Give a link that opens SERVICE in any browser.  Whoever has the link has the service, but for --for.

    \b
    Example:
      cyfs-gateway share photos --until 2027-01-31
    """
    body = {"service": service, "until": until, "note": note, "for": whose}
    said = ask_module(place, "share", "link", body, off=_OFF)
    if as_json:
        print_json(said)
        return
    click.echo(printable(said["url"]))
    if qr or (qr is None and sys.stdout.isatty()):
        import segno

        code: Any = segno.make_qr(said["url"], error="l")
        code.terminal(compact=True)
    if "until" in said:
        until = f"{datetime.fromtimestamp(said['until'], UTC):%Y-%m-%d %H:%M} UTC"
        click.echo(f"until {until}; take it back with: cyfs-gateway share revoke {said['id']}", err=True)


@share.command(name="open")
@click.argument("url", metavar="LINK")
@json_option
@home_option
@pass_place
def open_(place: Place, url: str, as_json: bool) -> None:
    """Open a link that is for this machine.

    It is printed with a proof, by which a browser here opens it once and within two minutes.

    \b
    Example:
      xdg-open "$(cyfs-gateway share open https://photos.me.example/.well-known/cyfs-share/eyJhbGci...)"
    """
    import secrets
    import time

    from cyfs_gateway.share.passes import MOST_TOKEN, write_proof
    from cyfs_gateway.share.visits import LINK
    from cyfs_ns import names
    from cyfs_ns.errors import BadWire
    from cyfs_ns.identity.token import read_token
    from cyfs_ns.io.cli.identifying import telling
    from cyfs_ns.io.trusted.keystore import KeyStore

    scheme, _, rest = url.partition("://")
    authority, _, token = rest.partition(LINK)
    try:
        claims = read_token(token, "the link", MOST_TOKEN).claims
        host = names.name(authority.partition(":")[0])
    except BadWire as bad:
        raise click.UsageError(printable(str(bad))) from None
    if scheme != "https" or claims.get("kind") != "share-link" or claims.get("host") != host:
        raise click.UsageError("this is no link of the host it leads to")
    with telling():
        key = KeyStore(place.home).device()
    opened = f"{url}/{write_proof(str(claims.get('id')), host, key, time.time(), secrets.token_hex(8))}"
    if as_json:
        print_json({"url": opened})
    else:
        click.echo(printable(opened))


@share.command(name="list")
@json_option
@home_option
@pass_place
def list_(place: Place, as_json: bool) -> None:
    """List the links that were given.

    \b
    Example:
      cyfs-gateway share list
    """
    said = ask_module(place, "share", "list", {}, off=_OFF)
    if as_json:
        print_json(said)
        return
    rows = []
    for each in said["links"]:
        until = f"{datetime.fromtimestamp(each['until'], UTC):%Y-%m-%d %H:%M} UTC"
        state = "over" if each["expired"] else "good"
        rows.append([each["id"], each["service"], each["host"], until, state, each["whose"] or "anybody", each["note"]])
    table(("ID", "SERVICE", "HOST", "UNTIL", "STATE", "FOR", "NOTE"), rows)


@share.command()
@click.argument("id")
@json_option
@home_option
@pass_place
def revoke(place: Place, id: str, as_json: bool) -> None:
    """Take the link ID back.

    Whoever is in by it is out with the next request.

    \b
    Example:
      cyfs-gateway share revoke 5f1d0c3b9a7e2468
    """
    said = ask_module(place, "share", "revoke", {"id": id}, off=_OFF)
    if as_json:
        print_json(said)
    else:
        click.echo(printable(f"taken back: {said['service']} {said['note']}".rstrip()))
