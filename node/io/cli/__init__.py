"""``cyfs-gateway node``: this machine in its owner's zone, and the owner's side of that.

It comes to the gateway's program by the entry point group ``cyfs_gateway.commands``.
"""

from __future__ import annotations

import click

from node.io.cli import activation


@click.group()
def node() -> None:
    """This machine in its owner's zone.

    \b
    Example:
      cyfs-gateway node activate --zone home.example
    """


for _command in (activation.activate, activation.sign, activation.remove, activation.status, activation.leave):
    node.add_command(_command)
