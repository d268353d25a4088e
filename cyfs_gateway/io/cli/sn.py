"""``sn``: to belong to an SN (``member``), and to run one (``snhost``)."""

from __future__ import annotations

import click

from cyfs_gateway.io.cli import member, snhost


@click.group()
def sn() -> None:
    """Belong to an SN, or run one.

    An SN is a public relay that leads others to this machine.

    \b
    Example:
      cyfs-gateway sn join sn.example.org --name alice
    """


for _command in (*member.COMMANDS, *snhost.COMMANDS):
    sn.add_command(_command)
