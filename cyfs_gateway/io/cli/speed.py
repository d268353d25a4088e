"""How fast the way to another device is."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from cyfs_gateway.io.cli.common import Place, home_option, json_option, pass_place, print_json, running_in_trio

if TYPE_CHECKING:
    from cyfs_gateway.speed import Times


@click.command()
@click.argument("peer")
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0.1, 30), help="For each direction.")
@json_option
@home_option
@pass_place
def speedtest(place: Place, peer: str, seconds: float, as_json: bool) -> None:
    """Measure the way to another device.

    That is round-trip times idle and under load, and the rate in both directions.  PEER is a DID or host name; it
    answers devices of the same owner, and whom its configuration lets (rtcp, speedtest).

    \b
    Example:
      cyfs-gateway speedtest photos.home.example --seconds 3
    """
    from cyfs_gateway.io.command.measuring import measure

    def say(what: str) -> None:
        if not as_json:
            click.echo(f"measuring: {what}", err=True)

    said = running_in_trio(place, lambda controller: measure(controller, peer, seconds, say))
    if as_json:
        print_json(
            {
                "peer": peer,
                "download": {"mbps": said.down, "bytes": said.bytes_down},
                "upload": {"mbps": said.up, "bytes": said.bytes_up},
                "rtt": {
                    name: None if times is None else asdict(times)
                    for name, times in (("idle", said.idle), ("download", said.while_down), ("upload", said.while_up))
                },
            }
        )
        return
    click.echo(f"idle:      {_shown(said.idle)}")
    click.echo(f"download:  {said.down:.1f} Mb/s, {_shown(said.while_down)}")
    click.echo(f"upload:    {said.up:.1f} Mb/s, {_shown(said.while_up)}")


def _shown(times: Times | None) -> str:
    if times is None:
        return "no answers"
    return f"{times.median:.1f} ms ({times.least:.1f} to {times.most:.1f}, {times.count} answers)"
