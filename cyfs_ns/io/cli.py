"""``cyfs-ns``: names from the command line.  Nothing heavy is imported before the command that needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cyfs_ns.message import Answer
    from cyfs_ns.upstream import Upstream

NO_SERVER = 9
"""Exit code when no server answered, as dig has it."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Ask about names."""


@main.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        click.echo(f"cyfs-ns {installed('cyfs-gateway')}")
    except PackageNotFoundError:
        click.echo("cyfs-ns (run from its sources)")


@main.command(short_help="Ask name servers for records.")
@click.argument("words", nargs=-1, required=True, metavar="NAME [TYPE] [@SERVER]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in the shape of Clash's GET /dns/query.")
@click.option("--tcp", is_flag=True, help="Ask over TCP where UDP would be used.")
@click.option("--time", "timed", is_flag=True, help="Print how long it took and who answered.")
@click.option("--timeout", default=5.0, show_default=True, metavar="SECONDS", help="How long one server may take.")
def query(words: tuple[str, ...], as_json: bool, tcp: bool, timed: bool, timeout: float) -> None:
    """Ask name servers for the records of NAME: addresses (A) unless TYPE says otherwise.

    An IP address as NAME asks for its name (PTR).  Without @SERVER the system's servers are asked; with several, the
    first good answer counts.  A server is written as in a Clash file: 1.1.1.1, tcp://1.1.1.1, tls://dns.google,
    https://dns.google/dns-query.

    \b
    Examples:
      cyfs-ns query example.com
      cyfs-ns query example.com AAAA @9.9.9.9 --time
      cyfs-ns query example.com MX @tls://1.1.1.1 @https://dns.google/dns-query
      cyfs-ns query 192.0.2.1 --json

    \b
    Exit codes:
      0  the name and its records (or none of this type) were found
      1  the server answered with an error, NXDOMAIN among them
      2  the command line makes no sense
      9  no server answered
    """
    import json
    import time

    import trio

    from cyfs_ns import message
    from cyfs_ns.errors import BadWire, ConfigFault, Unreachable

    try:
        name, rtype, servers = _understood(words, tcp)
    except (BadWire, ConfigFault) as fault:
        raise click.UsageError(str(fault)) from None
    begun = time.perf_counter()
    try:
        answer = trio.run(_ask, name, rtype, servers, timeout)
    except Unreachable as fault:
        click.echo(f"cyfs-ns: {fault}", err=True)
        raise SystemExit(NO_SERVER) from None
    took = (time.perf_counter() - begun) * 1000
    if as_json:
        shape = message.to_clash_json(answer)
        if timed:
            shape |= {"Server": answer.server, "Milliseconds": round(took, 1)}
        click.echo(json.dumps(shape, indent=2))
    else:
        click.echo(_printed(answer))
        if timed:
            click.echo(f";; {took:.1f} ms, {answer.server}")
    raise SystemExit(0 if answer.rcode == message.NOERROR else 1)


def _understood(words: tuple[str, ...], tcp: bool) -> tuple[str, int, list[Upstream]]:
    from dataclasses import replace

    from cyfs_ns import message, names
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.upstream import parse_upstream

    servers = [parse_upstream(word[1:]) for word in words if word.startswith("@")]
    if tcp:
        servers = [replace(server, scheme="tcp") if server.scheme == "udp" else server for server in servers]
    asked = [word for word in words if not word.startswith("@")]
    if not 1 <= len(asked) <= 2:
        raise ConfigFault("wanted NAME and perhaps TYPE")
    name = asked[0]
    if names.is_ip(name):
        rtype, name = message.PTR, message.reverse_name(names.ip(name))
    else:
        rtype, name = message.A, names.name(name) if name != "." else ""
    return name, message.rtype_number(asked[1]) if len(asked) == 2 else rtype, servers


async def _ask(name: str, rtype: int, servers: list[Upstream], timeout: float) -> Answer:
    from cyfs_ns.io.resolver import Resolver

    return await Resolver(servers, timeout=timeout).query(name, rtype)


def _printed(answer: Answer) -> str:
    """The answer in dig's manner: comments with ``;;``, records as zone file lines."""
    from cyfs_ns import message

    bits = {
        "qr": message.QR,
        "aa": message.AA,
        "tc": message.TC,
        "rd": message.RD,
        "ra": message.RA,
        "ad": message.AD,
        "cd": message.CD,
    }
    flags = " ".join(key for key, bit in bits.items() if answer.flags & bit)
    lines = [
        f";; {message.rcode_text(answer.rcode)}; flags: {flags}",
        ";; QUESTION",
        f";{answer.question.name}.\tIN\t{message.rtype_text(answer.question.rtype)}",
    ]
    sections = {"ANSWER": answer.answer, "AUTHORITY": answer.authority, "ADDITIONAL": answer.additional}
    for title, records in sections.items():
        if records:
            lines.append(f";; {title}")
        lines += [f"{r.name}.\t{r.ttl}\tIN\t{message.rtype_text(r.rtype)}\t{r.data}" for r in records]
    return "\n".join(lines)
