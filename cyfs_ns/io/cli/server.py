"""The server and its configuration: ``serve``, ``check``, ``import``."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyfs_ns.io.cli.common import config_option, home_option, json_option, print_json, run_to_end
from cyfs_ns.printable import printable

if TYPE_CHECKING:
    from cyfs_ns.config.written import Fault


@click.command()
@config_option("Clash YAML; its sections 'dns' and 'hosts' count.")
@home_option
@click.option(
    "--log-level", type=click.Choice(("debug", "info", "warning", "error")), default="info", show_default=True
)
def serve(config: Path | None, home: Path, log_level: str) -> None:
    """Run the name server until it is told to stop.

    Without a file it is a cache for the house: it listens on port 53 and asks the servers of the system.

    \b
    Example:
      cyfs-ns serve -c /etc/cyfs-ns.yaml
    """
    from cyfs_ns.io.logs import setup_logs
    from cyfs_ns.io.process import tell_service_manager
    from cyfs_ns.io.run import run_server

    setup_logs(log_level, sys.stderr, json=not sys.stderr.isatty())
    path = config.absolute() if config is not None else None
    sys.exit(run_to_end(lambda: run_server(path, home, on_ready=tell_service_manager)))


@click.command()
@config_option("The file to look at.")
@json_option
def check(config: Path | None, as_json: bool) -> None:
    """Say everything that is wrong with a configuration, with its place.

    Files that it names (zones) are read too.  Exits with 1 when there are errors; warnings alone are no failure.

    \b
    Example:
      cyfs-ns check -c /etc/cyfs-ns.yaml
    """
    from cyfs_ns.config.written import Fault
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.io.configfile import read_dns_file
    from cyfs_ns.io.house import build_house

    if config is None:
        raise click.UsageError("which file? cyfs-ns check -c FILE")
    loaded = read_dns_file(config)
    faults = list(loaded.faults)
    if loaded.dns is not None:
        try:
            build_house(loaded.dns, loaded.hosts)
        except ConfigFault as fault:
            faults.append(Fault("/dns", 0, 0, str(fault)))
    errors = sum(fault.severity == "error" for fault in faults)
    if as_json:
        shown = [
            {"severity": f.severity, "path": f.path, "line": f.line, "column": f.column, "message": f.message}
            for f in faults
        ]
        print_json({"errors": errors, "faults": shown})
    else:
        _show_faults(config, faults)
        if not errors:
            click.echo(f"{config}: good, {len(faults)} warnings" if faults else f"{config}: good")
    sys.exit(1 if errors else 0)


def _show_faults(file: Path, faults: Iterable[Fault]) -> None:
    for fault in faults:
        where = f"{file}:{fault.line}:{fault.column}" if fault.line else str(file)
        click.echo(f"{where}: {fault.severity}: {printable(fault.path)}: {printable(fault.message)}")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_(file: Path) -> None:
    """Turn the dnsmasq configuration FILE into one of ours, on standard output.

    What could not be taken over stands in comments at its top, and on standard error.  Nothing that the configuration
    names is run.  Exits with 1 when a line makes no sense.

    \b
    Example:
      cyfs-ns import /etc/dnsmasq.conf > /etc/cyfs-ns.yaml
    """
    from cyfs_ns.dnsmasq import imported_yaml, read_dnsmasq
    from cyfs_ns.io.texts import Disk

    if not file.is_file():
        raise click.ClickException(f"{file}: no such file")
    imported = read_dnsmasq(str(file), Disk(), socket.gethostname())
    for note in imported.notes:
        if note.level != "note":
            click.echo(printable(str(note)), err=True)
    click.echo(imported_yaml(imported), nl=False)
    sys.exit(1 if any(note.level == "error" for note in imported.notes) else 0)
