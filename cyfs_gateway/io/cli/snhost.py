"""``sn``, for who runs one: a first configuration, and what the operator sees and does while it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from cyfs_gateway.io.cli.common import (
    Place,
    ask,
    ask_module,
    home_option,
    json_option,
    pass_place,
    print_json,
    show_again,
    table,
)
from cyfs_ns.io.cli.common import facts
from cyfs_ns.io.tables import bytes_text
from cyfs_ns.printable import printable

_OFF = "no SN runs here: the configuration has no section sn (cyfs-gateway sn init DOMAIN writes one)"
_NOBODY = "no account here has that name or DID (cyfs-gateway sn users shows them)"


def _control(place: Place, method: str, **body: Any) -> Mapping[str, Any]:
    said: Mapping[str, Any] = ask_module(place, "sn", method, body, off=_OFF, unknown=_NOBODY)
    return said


@click.command()
@click.argument("domain")
@click.option("--address", "addresses", multiple=True, metavar="IP", help="Where the SN is reached. [default: found]")
@click.option("--owner", "owners", multiple=True, metavar="DID", help="Whose it is, beside the owner of this machine.")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="FILE", help="[default: HOME/sn.yaml]")
@json_option
@home_option
@pass_place
def init(
    place: Place, domain: str, addresses: tuple[str, ...], owners: tuple[str, ...], out: Path | None, as_json: bool
) -> None:
    """Write the configuration of an SN for DOMAIN.

    It says what the registrar has to be told, how to start it, and by what devices belong to it.  This machine gets a
    key if it has none. A file that is there already is left alone.

    \b
    Example:
      cyfs-gateway sn init sn.example.org --address 203.0.113.7
    """
    from cyfs_gateway.io.sn.firstrun import prepare
    from cyfs_ns.errors import BadWire, ConfigFault

    try:
        told = prepare(place.home, domain, addresses, owners, out or place.home / "sn.yaml")
    except (BadWire, ConfigFault, OSError) as fault:
        raise click.ClickException(printable(str(fault))) from None
    if as_json:
        print_json(told)
        return
    click.echo(printable(f"{told['file']} is written; this machine is {told['did']}"))
    click.echo("\nSet these records where the domain above is served:\n")
    for record in told["records"]:
        click.echo(f"  {record}")
    click.echo("\nThen, as a service (docs/sn.md has the unit and the firewall):\n")
    click.echo(printable(f"  cyfs-gateway run -c {told['file']} --home {place.home}"))
    click.echo("\nDevices belong to it by this entry of their configuration:\n")
    click.echo(printable(f"  rtcp: {{sn: [{{peer: '{told['did']}', at: '{told['domain']}:2980'}}]}}"))
    if not owners:
        click.echo(
            "\nIts owner is who signed this machine's document and is pinned here. Where nobody did, say in the file"
        )
        click.echo("whose it is (owners), or who else may have an account (open): else nobody may.")


@click.command("status")
@click.option("--watch", is_flag=True, help="Show again each second until interrupted.")
@json_option
@home_option
@pass_place
def status(place: Place, watch: bool, as_json: bool) -> None:
    """Show how the SN of this machine is.

    \b
    Example:
      cyfs-gateway sn status --watch
    """

    def said() -> Mapping[str, Any]:
        told: Mapping[str, Any] | None = ask(place, "GET", "cyfs", "status")["modules"].get("sn")
        if told is None:
            raise click.ClickException(_OFF)
        return told

    show_again(watch, said, _show_status, as_json=as_json)


@click.command("users")
@click.argument("who", default="", metavar="[NAME | DID]")
@json_option
@home_option
@pass_place
def users(place: Place, who: str, as_json: bool) -> None:
    """Show the accounts of the SN, or one of them with its machines.

    \b
    Example:
      cyfs-gateway sn users alice
    """
    told = _control(place, "users", only=who)
    if as_json:
        print_json(told)
        return
    rows = [
        (
            " ".join(one["names"]) or "-",
            one["owner"],
            f"{one['here']}/{one['devices']}",
            bytes_text(one["up"] + one["down"]),
            one["state"],
        )
        for one in told["users"]
    ]
    table(("NAMES", "OWNER", "HERE", "THIS MONTH", "STATE"), rows)
    for one in told["users"] if who else ():
        machines = [
            (each["name"], each["did"], "here" if each["here"] else "away", _day(each["expires"]))
            for each in one["machines"]
        ]
        click.echo()
        table(("MACHINE", "DID", "TUNNEL", "UNTIL"), machines)
    if len(told["users"]) < told["total"]:
        click.echo(f"{told['total'] - len(told['users'])} more")


@click.command("usage")
@click.option("--month", type=click.DateTime(["%Y%m"]), metavar="YYYYMM", help="[default: this month]")
@json_option
@home_option
@pass_place
def usage(place: Place, month: datetime | None, as_json: bool) -> None:
    """Show who used what of the SN in a month, most first.

    \b
    Example:
      cyfs-gateway sn usage --month 202611
    """
    told = _control(place, "usage", month=0 if month is None else month.year * 100 + month.month)
    if as_json:
        print_json(told)
        return
    click.echo(f"month {told['month']} (UTC)\n")
    rows = [
        (
            " ".join(one["names"]) or one["owner"],
            bytes_text(one["up"]),
            bytes_text(one["down"]),
            f"{one['seconds'] / 3600:.1f} h",
            one["streams"],
        )
        for one in told["usage"]
    ]
    table(("WHO", "UP", "DOWN", "TIME", "STREAMS"), rows)


@click.command("drain")
@click.option("--off", is_flag=True, help="Be open again.")
@json_option
@home_option
@pass_place
def drain(place: Place, off: bool, as_json: bool) -> None:
    """Have the SN begin nothing new.

    Then it can be ended without breaking much: what runs goes on; devices go to their other SNs for what is new.
    sn status shows how much is left.

    \b
    Example:
      cyfs-gateway sn drain
    """
    told = _control(place, "drain", on=not off)
    if as_json:
        print_json(told)
    else:
        click.echo("the SN is open again" if off else "the SN begins nothing new")


@click.command("invite")
@click.option("--uses", default=1, show_default=True, type=click.IntRange(1, 1_000_000), help="For how many accounts.")
@click.option("--days", default=30, show_default=True, type=click.IntRange(1, 3650), help="How long it is good.")
@click.option("--note", default="", help="For your own memory.")
@json_option
@home_option
@pass_place
def invite(place: Place, uses: int, days: int, note: str, as_json: bool) -> None:
    """Make a code by which somebody gets an account at the SN.

    It is shown this once.

    \b
    Example:
      cyfs-gateway sn invite --note "for grandma"
    """
    told = _control(place, "invite", uses=uses, days=days, note=note)
    if as_json:
        print_json(told)
    else:
        click.echo(told["code"])


@click.command("suspend")
@click.argument("who", metavar="NAME | DID")
@click.option("--why", default="", help="The reason, which its devices are told.")
@click.option("--off", is_flag=True, help="Let it in again.")
@json_option
@home_option
@pass_place
def suspend(place: Place, who: str, why: str, off: bool, as_json: bool) -> None:
    """Bar an account from the SN; its names stay its own.

    \b
    Example:
      cyfs-gateway sn suspend mallory --why "abuse reported on 3 May"
    """
    if off == bool(why):
        raise click.UsageError("either --why REASON or --off")
    told = _control(place, "suspend", of=who, why=why)
    if as_json:
        print_json(told)
    else:
        click.echo(printable(f"{told['owner']} is {'barred' if why else 'let in again'}"))


@click.command("audit")
@click.option("-n", "newest", default=40, show_default=True, type=click.IntRange(1, 1000), help="How many lines.")
@json_option
@home_option
@pass_place
def audit(place: Place, newest: int, as_json: bool) -> None:
    """Show what the SN was asked, by whom, and what came of it.

    \b
    Example:
      cyfs-gateway sn audit -n 100
    """
    told = _control(place, "audit", newest=newest)
    if as_json:
        print_json(told)
        return
    rows = [(_time(one["at"]), one["who"], one["what"], one["verdict"], one["why"]) for one in told["lines"]]
    table(("AT (UTC)", "WHO", "WHAT", "VERDICT", "WHY"), rows)


def _show_status(told: Mapping[str, Any]) -> None:
    if not told["running"]:
        facts({"running": "no", "fault": told["fault"]})
        return
    facts(
        {
            "domain": told["domain"],
            "did": told["did"],
            "addresses": ", ".join(told["addresses"]),
            "STUN, relay": ", ".join(told["udp"]),
            "ingress": ", ".join(told["ingress"]) or "off",
            "open to": _open_to(told) + (", draining" * told["draining"]),
            "owners": ", ".join(told["owners"]) or "none; say whose it is: sn/owners in the configuration",
            "accounts": f"{told['accounts']} (names: {told['names']}, devices: {told['devices']})",
            "here now": f"devices: {told['here']}, guests: {told['guests']}",
            "streams": f"{told['streams']} between members ({bytes_text(told['stream_bytes'])} so far)",
            "relay": f"{told['relay_sessions']} sessions ({bytes_text(told['relay_bytes'])} so far)",
            "visitors": told["visitors"],
        }
    )


def _open_to(told: Mapping[str, Any]) -> str:
    """Who may have an account."""
    strangers = {"none": "", "invited": "who has an invitation", "anyone": "anyone"}[told["open"]]
    return strangers if told["open"] == "anyone" else " and ".join(filter(None, ("its owners", strangers)))


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(when))


def _time(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(when))


COMMANDS = (init, status, users, usage, drain, invite, suspend, audit)
