"""The gateway itself, its file, and what a killed one left behind."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import click

from cyfs_gateway import __version__
from cyfs_gateway.io.cli.common import SOCKET, Place, config_option, home_option, json_option, pass_place, print_json
from cyfs_ns.printable import printable


@click.command()
@config_option
@home_option
@pass_place
def run(place: Place, config: Path | None) -> None:
    """Run the gateway until it is told to stop.

    Without a file it serves its defaults: a mixed proxy on loopback and the control socket.

    \b
    Example:
      cyfs-gateway run -c /etc/cyfs/config.yaml --home /var/lib/cyfs
    """
    import trio

    from cyfs_gateway.io.run import run_gateway
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.io.logs import setup_logs
    from cyfs_ns.io.process import tell_service_manager

    setup_logs("info", sys.stderr, json=not sys.stderr.isatty())
    path = str(config.absolute()) if config else None
    try:
        code = trio.run(lambda: run_gateway(path, place.home, on_ready=tell_service_manager))
    except ConfigFault as fault:
        raise click.ClickException(printable(str(fault))) from None
    except KeyboardInterrupt:
        code = 0
    sys.exit(code)


@click.command()
@config_option
@json_option
@home_option
@pass_place
def check(place: Place, config: Path | None, as_json: bool) -> None:
    """Say everything that is wrong with a configuration.

    Each fault comes with its place in the file.  Exits with 1 when there are errors; warnings alone are no failure.

    \b
    Example:
      cyfs-gateway check -c config.yaml
    """
    from cyfs_gateway.control.shapes import faults_json
    from cyfs_gateway.io.checked import read_checked

    if config is None:
        raise click.UsageError("which file? cyfs-gateway check -c FILE")
    loaded = read_checked(config, place.home)
    if as_json:
        print_json({"errors": len(loaded.errors), "faults": faults_json(loaded.faults)})
    else:
        for fault in loaded.faults:
            where = f"{config}:{fault.line}:{fault.column}" if fault.line else str(config)
            click.echo(printable(f"{where}: {fault.severity}: {fault.path}: {fault.message}"))
        if not loaded.errors:
            warnings = f", {len(loaded.faults)} warnings" if loaded.faults else ""
            click.echo(printable(f"{config}: good{warnings}"))
    sys.exit(1 if loaded.errors else 0)


@click.command()
@home_option
@pass_place
def cleanup(place: Place) -> None:
    """Remove what a killed gateway left in the kernel.

    These are nftables rules and routes.  It touches what gateways of every home directory made, so stop them first.

    \b
    Example:
      sudo cyfs-gateway cleanup
    """
    import trio

    from cyfs_gateway.io.netfilter import cleanup as clean
    from cyfs_ns.errors import CyfsError
    from cyfs_ns.io.client import Client

    with suppress(CyfsError):
        Client(place.home / SOCKET).call("GET", "version")
        raise click.ClickException("a gateway is running from this home directory: stop it first")
    try:
        removed = trio.run(clean)
    except CyfsError as fault:
        raise click.ClickException(printable(str(fault))) from None
    click.echo("\n".join(f"removed {instance}" for instance in removed) or "nothing was left behind")


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version of this program.

    \b
    Example:
      cyfs-gateway version
    """
    if as_json:
        print_json({"version": __version__})
    else:
        click.echo(f"cyfs-gateway {__version__}")
