"""Files to other devices, and from them."""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from pathlib import Path

import click

from cyfs_gateway.io.cli.common import Place, home_option, json_option, pass_place, running_in_trio
from cyfs_ns.printable import printable


@click.command()
@click.argument("words", metavar="FILE... PEER", nargs=-1, required=True)
@click.option("--retry", default=60.0, show_default=True, metavar="SECONDS", help="How long a broken way is mended.")
@json_option
@home_option
@pass_place
def send(place: Place, words: tuple[str, ...], retry: float, as_json: bool) -> None:
    """Send files to another device.

    `cyfs-gateway receive` has to wait for them there.  PEER is a DID or host name.  What was interrupted goes on
    where it stopped when it is sent again.  Exits with 1 when a file was not taken.

    \b
    Example:
      cyfs-gateway send holiday.mp4 notes.txt photos.home.example
    """
    from cyfs_gateway.io.command.giving import NotGiven, Source, give_all
    from cyfs_gateway.io.command.progress import teller

    if len(words) < 2:
        raise click.UsageError("what, and to whom? As in: send holiday.mp4 photos.home.example")
    *names, peer = words
    paths = [Path(name) for name in names]
    try:
        for path in paths:
            Source(path).close()
    except NotGiven as fault:
        raise click.ClickException(printable(str(fault))) from None
    witness = teller("to", as_json=as_json)
    with closing(witness):
        refused = running_in_trio(place, lambda controller: give_all(controller, paths, peer, witness, retry=retry))
    sys.exit(1 if refused else 0)


@click.command()
@click.option("--dir", "directory", type=click.Path(path_type=Path), default=".", help="Where to. [default: here]")
@click.option("--from", "senders", multiple=True, metavar="PEER", help="A DID or host name; may be repeated.")
@click.option("--once", is_flag=True, help="End when somebody has sent all that he wanted.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@json_option
@home_option
@pass_place
def receive(
    place: Place, directory: Path, senders: tuple[str, ...], once: bool, overwrite: bool, as_json: bool
) -> None:
    """Take files that other devices send, until interrupted.

    Without --from those are devices of the same owner.  --from also takes conditions, such as ZONE,home.example.  A
    file has its name when it is whole and right; until then it is hidden, and goes on where it stopped.

    \b
    Example:
      cyfs-gateway receive --dir ~/Downloads --from laptop.home.example
    """
    from cyfs_gateway.io.command.inbox import Inbox
    from cyfs_gateway.io.command.progress import teller
    from cyfs_gateway.io.command.receiving import receive_all
    from cyfs_gateway.io.command.taking import Taker

    try:
        inbox = Inbox(directory, overwrite=overwrite)
    except OSError as fault:
        raise click.ClickException(printable(f"{directory}: {fault.strerror}")) from None
    witness = teller("from", as_json=as_json)
    taker = Taker(inbox, witness)
    with closing(inbox), closing(witness), suppress(KeyboardInterrupt):
        running_in_trio(
            place,
            lambda controller: receive_all(
                controller, taker, senders, once=once, on_ready=lambda: witness.waiting(directory)
            ),
        )
