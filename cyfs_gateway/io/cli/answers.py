"""Why things are as they are: what would happen to a connection, and what names are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyfs_gateway.io.cli.common import (
    Place,
    ask,
    config_option,
    home_option,
    json_option,
    leaves,
    pass_place,
    print_json,
    table,
)
from cyfs_ns.printable import printable

if TYPE_CHECKING:
    from cyfs_gateway.facade import Explanation


@click.command()
@click.argument("target", metavar="URL|HOST[:PORT]")
@click.option("--udp", is_flag=True, help="As a UDP flow.")
@click.option("--from", "source", default="127.0.0.1", show_default=True, metavar="IP", help="As from this client.")
@click.option("--process", default="", help="As from this program.")
@config_option
@json_option
@home_option
@pass_place
def explain(
    place: Place, target: str, udp: bool, source: str, process: str, config: Path | None, as_json: bool
) -> None:
    """Say what would happen to a connection, and why.

    Nothing is sent to the target.  Asks the running gateway, or reads FILE when one is given.

    \b
    Example:
      cyfs-gateway explain https://www.example.org/ --from 192.168.1.20
    """
    from ipaddress import ip_address

    from cyfs_ns.errors import BadWire

    try:
        host, port = _target(target)
        source = str(ip_address(source))
    except (BadWire, ValueError) as fault:
        raise click.UsageError(printable(str(fault))) from None
    network = "udp" if udp else "tcp"
    if config is None:
        query: dict[str, str | int] = {
            "host": host,
            "port": port,
            "network": network,
            "from": source,
            "process": process,
        }
        said = ask(place, "GET", "cyfs", "explain", query=query)
    else:
        said = _explain_offline(config, place, host, port, network, source, process)
    if as_json:
        print_json(said)
    else:
        _show_explanation(said)


def _explain_offline(
    config: Path, place: Place, host: str, port: int, network: str, source: str, process: str
) -> dict[str, Any]:
    import trio

    from cyfs_gateway.control.shapes import explanation_json
    from cyfs_gateway.io.explain import explain_offline
    from cyfs_ns.errors import CyfsError

    path = str(config.absolute())

    async def ask() -> Explanation:
        return await explain_offline(path, place.home, host, port, network=network, source=source, process=process)

    said: list[str] = []
    try:
        return explanation_json(trio.run(ask))
    except* CyfsError as faults:
        said += _texts(faults)
    raise click.ClickException("\n".join(map(printable, said)))


def _texts(fault: BaseException) -> list[str]:
    """The lines of a fault, or of all in a group of them."""
    return [line for leaf in leaves(fault) for line in str(leaf).splitlines()]


def _target(text: str) -> tuple[str, int]:
    """Host and port of a URL or authority; 443 where nothing says otherwise.  Raises ``BadWire``."""
    from tunnels.authority import parse_authority, parse_host

    scheme, found, rest = text.partition("://")
    usual = {"http": 80, "ws": 80, "ftp": 21, "ssh": 22}.get(scheme.lower(), 443) if found else 443
    authority = rest if found else text
    for end in "/?#":
        authority = authority.partition(end)[0]
    authority = authority.rpartition("@")[2]
    if authority.count(":") > 1 and not authority.startswith("["):
        return parse_host(authority.encode()), usual
    where = parse_authority(authority.encode(), usual)
    return where.host, where.port


def _show_explanation(said: Mapping[str, Any]) -> None:
    lines = [
        ("verdict", " > ".join(said["chain"])),
        ("rule", said["rule"] if said["index"] < 0 else f"{said['rule']} (number {said['index']})"),
        ("why", said["why"]),
        ("resolution", said["resolution"]),
        ("way", said["way"]),
        *(("passed over", text) for text in said["passed"]),
    ]
    for name, text in lines:
        click.echo(f"{name + ':':<13}{printable(text)}")


@click.command()
@click.argument("name")
@click.argument("rtype", metavar="[TYPE]", default="A")
@click.option("--explain", "whole", is_flag=True, help="Ask the name server, and tell the whole way of its answer.")
@click.option("--client", default="", metavar="IP", help="With --explain: who asks. [default: this machine]")
@json_option
@home_option
@pass_place
def dns(place: Place, name: str, rtype: str, whole: bool, client: str, as_json: bool) -> None:
    """Ask the gateway's name servers.

    With --explain the way of an answer is told, as its own name server gives it to clients.

    \b
    Example:
      cyfs-gateway dns www.example.org AAAA
      cyfs-gateway dns www.example.org --explain --client 192.168.1.20
    """
    if whole:
        said = ask(place, "GET", "dns", "explain", query={"name": name, "type": rtype, "client": client})
        if as_json:
            print_json(said)
            return
        from cyfs_ns.io.cli.running import show_explanation

        show_explanation(said)
        return
    said = ask(place, "GET", "dns", "query", query={"name": name, "type": rtype})
    if as_json:
        print_json(said)
        return
    if said["Status"]:
        from cyfs_ns.message import rcode_text

        raise click.ClickException(printable(f"{name}: the answer is {rcode_text(said['Status'])}"))
    table(("NAME", "TTL", "DATA"), [(one["name"], one["TTL"], one["data"]) for one in said.get("Answer", ())])


@click.command()
@home_option
@pass_place
def flush(place: Place) -> None:
    """Forget cached DNS answers and fake addresses.

    \b
    Example:
      cyfs-gateway flush
    """
    ask(place, "POST", "cache", "dns", "flush")
    ask(place, "POST", "cache", "fakeip", "flush")
