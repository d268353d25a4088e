"""``cyfs-gateway zone`` and ``cyfs-gateway config``: the zone of this machine, as its administrator sees it.

They come to the gateway's program by the entry point group ``cyfs_gateway.commands``.
"""

from __future__ import annotations

import click

from zone.io.cli import backups, configuration, documents, services


@click.group()
def zone() -> None:
    """The zone of this machine: how it is, and what runs in it.

    \b
    Example:
      cyfs-gateway zone status
    """


@click.group()
def config() -> None:
    """The zone's configuration: keys, such as services/web/spec, with values of JSON.

    \b
    Example:
      cyfs-gateway config get boot/config
    """


for _command in (*services.COMMANDS, *backups.COMMANDS, *documents.COMMANDS):
    zone.add_command(_command)
for _command in configuration.COMMANDS:
    config.add_command(_command)
