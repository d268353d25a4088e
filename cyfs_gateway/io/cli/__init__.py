"""``cyfs-gateway``: run the gateway, check a file, and talk to a running one.

Each module holds a group of commands; what they share is in ``common``.  Packages above this one bring commands of
their own by the entry point group ``cyfs_gateway.commands``; each is imported when it is called, or
listed by ``--help``.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path

import click

from cyfs_gateway.io.cli import answers, certs, files, house, peers, share, sn, speed, streams, watching, ways
from cyfs_gateway.io.cli.common import Place
from cyfs_ns.io.cli import id_commands
from cyfs_ns.io.cli.asking import resolve
from cyfs_ns.io.cli.program import Program
from cyfs_ns.io.home import identity_home as default_home

__all__ = ["cli", "default_home", "main"]

ENTRY_POINTS = "cyfs_gateway.commands"


class _Commands(Program):
    """Those of this package, and those that others bring."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_brought()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is None and (entry := _brought().get(cmd_name)) is not None:
            command = entry.load()
            assert isinstance(command, click.Command)
        return command


def _brought() -> Mapping[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--home", type=click.Path(path_type=Path), help="State directory. [default: CYFS_HOME, or by user]")
@click.option("--controller", default="", metavar="URL", help="Talk to http(s)://host:port, not to the unix socket.")
@click.option("--secret-file", default="", metavar="FILE", help="Holds the secret for --controller.")
@click.pass_context
def cli(context: click.Context, home: Path | None, controller: str, secret_file: str) -> None:
    """A gateway that carries connections by rules.

    \b
    Example:
      cyfs-gateway run -c config.yaml

    \b
    Exit codes:
      0  done
      1  it failed, or was refused
      2  wrong usage
      3  no gateway is running there
    """
    context.obj = Place((home or default_home(os.environ, os.geteuid())).absolute(), controller, secret_file)


def main() -> None:
    """The console script."""
    cli(prog_name="cyfs-gateway")


for _command in (
    house.run,
    house.check,
    house.cleanup,
    house.version,
    watching.status,
    watching.connections,
    watching.logs,
    ways.proxies,
    ways.select,
    ways.delay,
    ways.rules,
    ways.providers,
    ways.reload,
    answers.explain,
    answers.dns,
    answers.flush,
    certs.certs,
    share.share,
    peers.tunnels,
    peers.ping,
    streams.nc,
    streams.forward,
    files.send,
    files.receive,
    speed.speedtest,
    sn.sn,
    id_commands,
):
    cli.add_command(_command)
cli.add_command(
    click.Command(
        "resolve",
        callback=resolve.callback,
        params=resolve.params,
        help=(resolve.help or "").replace("cyfs-ns", "cyfs-gateway").replace("Examples:", "Example:"),
    )
)
