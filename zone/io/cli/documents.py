"""``zone take``: what the owner has signed becomes known to the zone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from cyfs_gateway.io.cli.common import Place, home_option, json_option, pass_place, print_json
from cyfs_ns.printable import printable
from zone.io.cli.asking import control


@click.command("take")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
@home_option
@pass_place
def take(place: Place, file: Path, as_json: bool) -> None:
    """Tell the zone of its new document, FILE.

    That is the zone.jwt which node sign and node remove leave beside the owner's key.  On any machine of the zone; the
    others hear of it at once.  zone status says when it is in force, and what that waits for.

    \b
    Example:
      cyfs-gateway zone take zone.jwt
    """
    from cyfs_ns.identity.token import MOST_TOKEN
    from cyfs_ns.io.trusted.keystore import read_file

    document = read_file(file, MOST_TOKEN + 1).decode("ascii", "replace").strip()
    told = control(place, "take", document=document)
    if as_json:
        print_json(told)
    else:
        click.echo(printable(f"{told['document']}: {told['finding']}"))


COMMANDS: Final = (take,)
