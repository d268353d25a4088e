"""``resolve``: one question to name servers, over whatever carries it, and what came back; or, with ``--trust``, who a
name is and how sure that is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyfs_ns.io.cli.common import config_option, identity_home_option, json_option, print_json, run_to_end

if TYPE_CHECKING:
    from cyfs_ns.io.measure import Heard, Wish
    from cyfs_ns.printed import Transcript
    from cyfs_ns.upstream import Upstream

NO_SERVER = 9
"""Exit code when no server answered, as dig has it."""

_CLASSES = {"IN": 1, "CH": 3, "HS": 4}


@click.command()
@click.argument("words", nargs=-1, metavar="NAME [TYPE] [@SERVER]...")
@click.option("-x", "address", default="", metavar="ADDR", help="Ask for the name of an address (PTR).")
@click.option("--short", is_flag=True, help="Print the data of the answer only, one a line.")
@json_option
@click.option("--tcp", is_flag=True, help="Ask over TCP where UDP would be used.")
@click.option("--dnssec", is_flag=True, help="Ask for signatures too (DO).")
@click.option("--cd", is_flag=True, help="Ask for answers even if they fail the server's validation (CD).")
@click.option("--no-recurse", is_flag=True, help="Ask for what the server knows itself.")
@click.option("--client-subnet", default="", metavar="PREFIX", help="Ask as if for clients there (RFC 7871).")
@click.option("--insecure", is_flag=True, help="Take any certificate.")
@click.option("--timeout", default=5.0, show_default=True, metavar="SECONDS", help="How long one server may take.")
@click.option("--trust", is_flag=True, help="Say who NAME is (a DID or a host name), and how sure that is.")
@click.option("--min", "least", default="", metavar="LEVEL", help="With --trust: take nothing below this level.")
@click.option("--plan", is_flag=True, help="With --trust: print whom it would ask, and ask nobody.")
@config_option("With --trust: the file whose section 'identity' counts.")
@identity_home_option
def resolve(
    words: tuple[str, ...],
    address: str,
    short: bool,
    as_json: bool,
    tcp: bool,
    dnssec: bool,
    cd: bool,
    no_recurse: bool,
    client_subnet: str,
    insecure: bool,
    timeout: float,
    trust: bool,
    least: str,
    plan: bool,
    config: Path | None,
    home: Path,
) -> None:
    """Ask name servers for the records of NAME.

    These are addresses (A) unless TYPE says otherwise.  An IP address as NAME asks for its name.  Without @SERVER the
    system's servers are asked; several are asked at once, and the first good answer counts.  A server is written as
    in a Clash file: 1.1.1.1, tcp://1.1.1.1, tls://dns.google, https://dns.google/dns-query.  A class (CH) may follow
    the type.

    With --trust the answer is a key, documents and addresses, and below each the evidence it stands on.

    \b
    Examples:
      cyfs-ns resolve example.com
      cyfs-ns resolve example.com AAAA @9.9.9.9 --dnssec
      cyfs-ns resolve example.com MX @tls://1.1.1.1 @https://dns.google/dns-query --json
      cyfs-ns resolve -x 192.0.2.1 --short
      cyfs-ns resolve ood1.home.example --trust --min owner-signed

    \b
    Exit codes:
      0  the name and its records (or none of this type) were found
      1  the server answered with an error, NXDOMAIN among them; with --trust: absent, too weak, revoked, conflicting
      2  the command line makes no sense
      9  no server answered; with --trust: nobody who knows could be asked
    """
    from cyfs_ns.errors import BadWire, ConfigFault, Unreachable

    if trust:
        raise SystemExit(_trusted(words, tcp, insecure, timeout, least, plan, config, home, as_json))
    if least or plan:
        raise click.UsageError("--min and --plan go with --trust")
    try:
        wish, servers = _understood(((address,) if address else ()) + words, reverse=bool(address))
        servers = [_as_wished(server, tcp, insecure) for server in servers]
        wish = replace(wish, do=dnssec, cd=cd, rd=not no_recurse, subnet=_subnet(client_subnet))
    except (BadWire, ConfigFault, ValueError) as fault:
        raise click.UsageError(str(fault)) from None
    try:
        server, heard, said = run_to_end(_first, wish, servers, timeout)
    except Unreachable as fault:
        click.echo(f"{click.get_current_context().find_root().info_name}: {fault}", err=True)
        raise SystemExit(NO_SERVER) from None
    _show(server, heard, said, short=short, as_json=as_json)
    raise SystemExit(1 if said.rcode else 0)


def _trusted(
    words: tuple[str, ...],
    tcp: bool,
    insecure: bool,
    timeout: float,
    least: str,
    plan: bool,
    config: Path | None,
    home: Path,
    as_json: bool,
) -> int:
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.io.cli.trusting import resolve_trusted
    from cyfs_ns.upstream import parse_upstream

    try:
        servers = [_as_wished(parse_upstream(word[1:]), tcp, insecure) for word in words if word.startswith("@")]
    except ConfigFault as fault:
        raise click.UsageError(str(fault)) from None
    asked = [word for word in words if not word.startswith("@")]
    return resolve_trusted(
        asked, servers, least=least, home=home, config=config, only_plan=plan, as_json=as_json, timeout=timeout
    )


def _understood(words: tuple[str, ...], *, reverse: bool) -> tuple[Wish, list[Upstream]]:
    from cyfs_ns import message, names
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.io.measure import Wish
    from cyfs_ns.upstream import SYSTEM, parse_upstream
    from cyfs_ns.wire import name_wire

    servers = [parse_upstream(word[1:]) for word in words if word.startswith("@")]
    asked = [word for word in words if not word.startswith("@")]
    rclass = 1
    if len(asked) > 1 and asked[-1].upper() in _CLASSES:
        rclass = _CLASSES[asked.pop().upper()]
    if not 1 <= len(asked) <= 2:
        raise ConfigFault("wanted NAME and perhaps TYPE")
    name = asked[0]
    if names.is_ip(name):
        rtype, name = message.PTR, message.reverse_name(names.ip(name))
    elif reverse:
        raise ConfigFault(f"not an address: {name[:80]!r}")
    else:
        rtype, name = message.A, names.name(name) if name != "." else ""
    rtype = message.rtype_number(asked[1]) if len(asked) == 2 else rtype
    return Wish(name=name_wire(name), rtype=rtype, rclass=rclass), servers or [SYSTEM]


def _as_wished(server: Upstream, tcp: bool, insecure: bool) -> Upstream:
    if tcp and server.scheme == "udp":
        server = replace(server, scheme="tcp")
    return replace(server, skip_cert_verify=server.skip_cert_verify or insecure)


def _subnet(text: str) -> Any:
    import ipaddress

    from cyfs_ns.edns import ecs_of

    if not text:
        return None
    network = ipaddress.ip_network(text, strict=False)
    return ecs_of(network.network_address.packed, network.prefixlen)


async def _first(wish: Wish, servers: list[Upstream], timeout: float) -> tuple[Upstream, Heard, Transcript]:
    """The first good answer, or else the first of any kind.  Raises ``Unreachable``, which tells what each did."""
    import secrets

    import trio

    from cyfs_ns.errors import CyfsError, Unreachable
    from cyfs_ns.io.measure import Line
    from cyfs_ns.io.sources import Sources
    from cyfs_ns.printed import read_transcript

    wish = replace(wish, cookie=secrets.token_bytes(8))
    sources = Sources()
    found: list[tuple[Upstream, Heard, Transcript]] = []
    faults: dict[str, str] = {}

    async def one(server: Upstream) -> None:
        try:
            with trio.fail_after(timeout):
                async with Line(server) as line:
                    heard = await line.ask(wish)
            said = read_transcript(heard.data)
        except trio.TooSlowError:
            faults[str(server)] = f"no answer in {timeout:g} s"
        except CyfsError as fault:
            faults[str(server)] = str(fault)
        else:
            found.append((server, heard, said))
            if said.rcode in (0, 3):
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for server in dict.fromkeys(real for upstream in servers for real in sources.instead_of(upstream)):
            nursery.start_soon(one, server)
    if not found:
        raise Unreachable("; ".join(f"{server}: {fault}" for server, fault in faults.items()))
    return next((each for each in found if each[2].rcode in (0, 3)), found[0])


def _show(server: Upstream, heard: Heard, said: Transcript, *, short: bool, as_json: bool) -> None:
    from cyfs_ns.printed import transcript_json, transcript_lines

    shown = str(server)
    if heard.transport != server.scheme:
        shown += f" over {heard.transport}"
    if as_json:
        times = {"Milliseconds": round(heard.seconds * 1000, 2), "SetUpMilliseconds": round(heard.set_up * 1000, 2)}
        print_json(
            {**transcript_json(said), "Server": str(server), "Transport": heard.transport, **times, "Size": said.size}
        )
        return
    if short:
        for record in said.answer:
            click.echo(record.data)
        return
    for line in transcript_lines(said):
        click.echo(line)
    set_up = f" after {heard.set_up * 1000:.1f} ms of set-up" if heard.set_up else ""
    click.echo(f";; {heard.seconds * 1000:.1f} ms{set_up}, {said.size} octets, {shown}")
