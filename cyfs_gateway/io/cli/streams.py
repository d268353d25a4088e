"""Streams to other devices: one through this terminal, or listening ports that lead there."""

from __future__ import annotations

from contextlib import suppress

import click

from cyfs_gateway.io.cli.common import Place, ask, home_option, json_option, pass_place, print_json, running_in_trio
from cyfs_ns.printable import printable


@click.command()
@click.argument("peer", metavar="PEER:PORT|PEER")
@click.argument("behind", metavar="[HOST:PORT]", default="")
@home_option
@pass_place
def nc(place: Place, peer: str, behind: str) -> None:
    """Join standard input and output with a stream to another device.

    PEER is a DID or host name.  With HOST:PORT the stream goes on to there, as PEER sees it and its rules allow.  The
    end of the input ends our side only; the command ends when the other side does.

    \b
    Example:
      cyfs-gateway nc photos.home.example:22
      ssh -o ProxyCommand='cyfs-gateway nc %h:%p' photos.home.example
    """
    from cyfs_gateway.io.command.piping import pipe_terminal
    from cyfs_gateway.remote import parse_remote
    from cyfs_ns.errors import BadWire

    try:
        remote = parse_remote(peer, behind)
    except BadWire as fault:
        raise click.UsageError(printable(str(fault))) from None
    running_in_trio(place, lambda controller: pipe_terminal(controller, remote))


@click.command()
@click.argument("pairs", metavar="LOCAL REMOTE...", nargs=-1, required=True)
@click.option("--udp", is_flag=True, help="Datagrams instead of connections.")
@json_option
@home_option
@pass_place
def forward(place: Place, pairs: tuple[str, ...], udp: bool, as_json: bool) -> None:
    """Listen here, and carry every connection to another device.

    That goes on until interrupted.  LOCAL is a port on loopback, or ADDRESS:PORT; port 0 finds one.  REMOTE is
    PEER:PORT, or PEER/HOST:PORT for a host behind it.  Several pairs may be given.

    \b
    Example:
      cyfs-gateway forward 8080 photos.home.example:80
      cyfs-gateway forward 2222 nas.home.example:22 5432 nas.home.example/db.lan:5432
    """
    from cyfs_gateway.io.command.forwarding import forward_all
    from cyfs_gateway.remote import parse_local, parse_remote
    from cyfs_ns.errors import BadWire

    if len(pairs) % 2:
        raise click.UsageError("LOCAL and REMOTE come in pairs, as in: forward 8080 photos.home.example:80")
    try:
        wanted = [(parse_local(pairs[i]), parse_remote(pairs[i + 1])) for i in range(0, len(pairs), 2)]
    except BadWire as fault:
        raise click.UsageError(printable(str(fault))) from None

    def say(fact: dict[str, object], text: str) -> None:
        if as_json:
            print_json(fact, one_line=True)
        else:
            click.echo(printable(text), err="fault" in fact)

    ask(place, "GET", "version")  # before anybody connects
    with suppress(KeyboardInterrupt):
        running_in_trio(place, lambda controller: forward_all(controller, wanted, udp=udp, say=say))
