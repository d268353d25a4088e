"""``cyfs-gateway``: run the gateway, check a file, and talk to a running one.

Each module holds a group of commands; what they share is in ``common``.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from cyfs_gateway.io.cli import answers, certs, files, house, peers, share, sn, speed, streams, watching, ways
from cyfs_gateway.io.cli.common import Place
from cyfs_ns.io.cli import id_commands
from cyfs_ns.io.cli.asking import resolve
from cyfs_ns.io.cli.program import Program
from cyfs_ns.io.home import identity_home as default_home

__all__ = ["cli", "default_home", "main"]


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
