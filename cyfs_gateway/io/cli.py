"""``cyfs-gateway``: run the gateway, check a file, and talk to a running one.

Exit codes: 0 done, 1 it failed, 2 wrong usage, 3 no gateway is running.  Only click is imported here; every command
imports what it needs, so that starting the gateway does not pay for tables, nor a table for the gateway.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyfs_gateway import __version__
from cyfs_ns.io.cli import id_commands
from cyfs_ns.io.cli.asking import resolve
from cyfs_ns.io.home import identity_home as default_home
from cyfs_ns.printable import printable

if TYPE_CHECKING:
    from cyfs_gateway.facade import Explanation
    from cyfs_ns.io.client import Client

_SOCKET = "cyfs-gateway.sock"
_LEVELS = ("debug", "info", "warning", "error")
_WATCH_SECONDS = 1.0


class _NotRunning(click.ClickException):
    exit_code = 3


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the gateway lives and how it is reached."""

    home: Path
    controller: str
    secret_file: str

    def client(self) -> Client:
        from cyfs_ns.io.client import Client

        if not self.controller:
            return Client(self.home / _SOCKET)
        if not self.controller.startswith(("http://", "https://")):
            raise click.BadParameter("it is http://host:port or https://host:port", param_hint="--controller")
        try:
            secret = Path(self.secret_file).read_text("utf-8").strip() if self.secret_file else ""
        except (OSError, UnicodeDecodeError) as fault:
            raise click.BadParameter(str(fault), param_hint="--secret-file") from None
        return Client(self.controller.rstrip("/"), secret=secret)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--home", type=click.Path(path_type=Path), help="State directory. [default: CYFS_HOME, or by user]")
@click.option("--controller", default="", metavar="URL", help="Talk to http(s)://host:port, not to the unix socket.")
@click.option("--secret-file", default="", metavar="FILE", help="Holds the secret for --controller.")
@click.pass_context
def cli(context: click.Context, home: Path | None, controller: str, secret_file: str) -> None:
    """A gateway that carries connections by rules.

    \b
    Example:
      cyfs-gateway run -c config.yaml
    """
    context.obj = _Place((home or default_home(os.environ, os.geteuid())).absolute(), controller, secret_file)


def main() -> None:
    """The console script."""
    cli(prog_name="cyfs-gateway")


cli.add_command(id_commands)
cli.add_command(
    click.Command(
        "resolve",
        callback=resolve.callback,
        params=resolve.params,
        help=(resolve.help or "").replace("cyfs-ns", "cyfs-gateway").replace("Examples:", "Example:"),
    )
)

_config_option = click.option("-c", "--config", type=click.Path(path_type=Path), metavar="FILE", help="Clash YAML.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
_pass_place = click.make_pass_decorator(_Place)


def _home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--home`` may also stand behind the command."""

    def override(context: click.Context, _: click.Parameter, value: Path | None) -> None:
        if value is not None:
            place = context.find_object(_Place)
            context.obj = _Place(value.absolute(), *((place.controller, place.secret_file) if place else ("", "")))

    kind = click.Path(path_type=Path)
    option = click.option(
        "--home", type=kind, expose_value=False, callback=override, is_eager=True, help="State directory."
    )
    return option(command)


# --- the gateway itself --------------------------------------------------------------------------------------------


@cli.command()
@_config_option
@_home_option
@_pass_place
def run(place: _Place, config: Path | None) -> None:
    """Run the gateway until it is told to stop.

    Without a file it serves its defaults: a mixed proxy on loopback and the control socket.

    \b
    Example:
      cyfs-gateway run -c /etc/cyfs/config.yaml --home /var/lib/cyfs
    """
    import trio

    from cyfs_gateway.io.run import run_gateway
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.io.logs import setup_logs
    from cyfs_ns.io.process import tell_service_manager

    setup_logs("info", sys.stderr, json=not sys.stderr.isatty())
    path = str(config.absolute()) if config else None
    try:
        code = trio.run(lambda: run_gateway(path, place.home, on_ready=tell_service_manager))
    except ConfigFault as fault:
        raise click.ClickException(str(fault)) from None
    except KeyboardInterrupt:
        code = 0
    sys.exit(code)


@cli.command()
@_config_option
@_json_option
@_home_option
@_pass_place
def check(place: _Place, config: Path | None, as_json: bool) -> None:
    """Say everything that is wrong with a configuration file, with its place.

    Exits with 1 when there are errors; warnings alone are no failure.

    \b
    Example:
      cyfs-gateway check -c config.yaml
    """
    from importlib.metadata import entry_points

    from cyfs_gateway.control.shapes import faults_json
    from cyfs_gateway.host import ENTRY_POINTS
    from cyfs_gateway.io.configfile import read_config

    if config is None:
        raise click.UsageError("which file? cyfs-gateway check -c FILE")
    loaded = read_config(config, place.home, [point.name for point in entry_points(group=ENTRY_POINTS)])
    if as_json:
        _print_json({"errors": len(loaded.errors), "faults": faults_json(loaded.faults)})
    else:
        for fault in loaded.faults:
            where = f"{config}:{fault.line}:{fault.column}" if fault.line else str(config)
            click.echo(f"{where}: {fault.severity}: {printable(fault.path)}: {printable(fault.message)}")
        if not loaded.errors:
            click.echo(f"{config}: good, {len(loaded.faults)} warnings" if loaded.faults else f"{config}: good")
    sys.exit(1 if loaded.errors else 0)


@cli.command()
@_home_option
@_pass_place
def cleanup(place: _Place) -> None:
    """Remove the nftables rules and routes that a killed gateway left behind.

    It touches what gateways of every home directory made, so stop them first.

    \b
    Example:
      sudo cyfs-gateway cleanup
    """
    import trio

    from cyfs_gateway.io.netfilter import cleanup as clean
    from cyfs_ns.errors import CyfsError
    from cyfs_ns.io.client import Client

    with suppress(CyfsError):
        Client(place.home / _SOCKET).call("GET", "version")
        raise click.ClickException("a gateway is running from this home directory: stop it first")
    try:
        removed = trio.run(clean)
    except CyfsError as fault:
        raise click.ClickException(str(fault)) from None
    click.echo("\n".join(f"removed {instance}" for instance in removed) or "nothing was left behind")


@cli.command()
@_json_option
def version(as_json: bool) -> None:
    """Print the version of this program.

    \b
    Example:
      cyfs-gateway version
    """
    if as_json:
        _print_json({"version": __version__})
    else:
        click.echo(f"cyfs-gateway {__version__}")


# --- a running gateway ---------------------------------------------------------------------------------------------


@cli.command()
@_json_option
@_home_option
@_pass_place
def status(place: _Place, as_json: bool) -> None:
    """Show what the running gateway does.

    \b
    Example:
      cyfs-gateway status
    """
    from cyfs_ns.io.tables import bytes_text, seconds_text

    said = _ask(place, "GET", "cyfs", "status")
    if as_json:
        _print_json(said)
        return
    known = {
        "version": said["version"],
        "up": seconds_text(said["uptime"]),
        "configuration": said["config"] or "defaults",
        "home": said["home"],
        "mode": said["mode"],
        "rules": said["rules"],
        "connections": said["connections"],
        "sent": bytes_text(said["uploadTotal"]),
        "received": bytes_text(said["downloadTotal"]),
        "memory": bytes_text(said["memory"]),
    }
    if own := said.get("identity"):
        known["identity"] = own.get("did") or own["fault"]
        if document := own.get("document"):
            known["owned by"] = document["fault"] or document["owner"]
    for name, value in known.items():
        click.echo(f"{name + ':':<15}{printable(str(value))}")
    for part in ("listeners", "modules"):
        _show_part(part, said.get(part))


@cli.command()
@click.option("--watch", is_flag=True, help="Show again each second until interrupted.")
@_json_option
@_home_option
@_pass_place
def connections(place: _Place, watch: bool, as_json: bool) -> None:
    """List the connections that are open now.

    \b
    Example:
      cyfs-gateway connections --watch
    """
    import time

    with suppress(KeyboardInterrupt):
        while True:
            said = _ask(place, "GET", "connections")
            if as_json:
                _print_json(said, one_line=watch)
            else:
                if watch:
                    click.clear()
                _show_connections(said)
            if not watch:
                return
            time.sleep(_WATCH_SECONDS)


@cli.command()
@_json_option
@_home_option
@_pass_place
def proxies(place: _Place, as_json: bool) -> None:
    """List outbounds and groups, with what each group has chosen.

    \b
    Example:
      cyfs-gateway proxies
    """
    said = _ask(place, "GET", "proxies")
    if as_json:
        _print_json(said)
        return
    rows = []
    for name, one in said["proxies"].items():
        delay = one["history"][-1]["delay"] if one["history"] else 0
        alive = "yes" if one["alive"] else "no"
        rows.append([name, one["type"], alive, f"{delay} ms" if delay else "", one.get("now", "")])
    _table(("NAME", "TYPE", "ALIVE", "DELAY", "NOW"), rows)


@cli.command()
@click.argument("group")
@click.argument("name")
@_home_option
@_pass_place
def select(place: _Place, group: str, name: str) -> None:
    """Choose the member NAME in GROUP.

    \b
    Example:
      cyfs-gateway select Proxy my-server
    """
    _ask(place, "PUT", "proxies", group, body={"name": name})


@cli.command()
@click.argument("name")
@click.option("--url", default="", help="What to fetch through it.")
@click.option("--timeout", default=5000, show_default=True, type=click.IntRange(1, 60_000), help="Milliseconds.")
@_json_option
@_home_option
@_pass_place
def delay(place: _Place, name: str, url: str, timeout: int, as_json: bool) -> None:
    """Measure an outbound, or every member of a group.

    \b
    Example:
      cyfs-gateway delay my-server
    """
    query: dict[str, str | int] = {"timeout": timeout, **({"url": url} if url else {})}
    if "all" in _ask(place, "GET", "proxies", name):
        said = _ask(place, "GET", "group", name, "delay", query=query)
    else:
        said = {name: _ask(place, "GET", "proxies", name, "delay", query=query)["delay"]}
    if as_json:
        _print_json(said)
    else:
        _table(("NAME", "DELAY"), [(member, f"{milliseconds} ms") for member, milliseconds in said.items()])


@cli.command()
@_json_option
@_home_option
@_pass_place
def rules(place: _Place, as_json: bool) -> None:
    """List the rules in force with how often each decided.

    \b
    Example:
      cyfs-gateway rules
    """
    said = _ask(place, "GET", "rules")
    if as_json:
        _print_json(said)
        return
    rows = []
    for one in said["rules"]:
        extra = one["extra"]
        state = "off" if extra["disabled"] else ""
        rows.append([one["index"], one["type"], one["payload"], one["proxy"], extra["hitCount"], state])
    _table(("INDEX", "TYPE", "PAYLOAD", "PROXY", "HITS", ""), rows)


@cli.command()
@_json_option
@_home_option
@_pass_place
def providers(place: _Place, as_json: bool) -> None:
    """List proxy and rule providers.

    \b
    Example:
      cyfs-gateway providers
    """
    said = {kind: _ask(place, "GET", "providers", kind)["providers"] for kind in ("proxies", "rules")}
    if as_json:
        _print_json(said)
        return
    rows = []
    for kind, listed in said.items():
        for name, one in listed.items():
            entries = one.get("ruleCount", len(one.get("proxies") or ()))
            rows.append([name, kind, one.get("vehicleType", ""), entries, one.get("updatedAt", "")])
    _table(("NAME", "OF", "FROM", "ENTRIES", "UPDATED"), rows)


@cli.command()
@_config_option
@_home_option
@_pass_place
def reload(place: _Place, config: Path | None) -> None:
    """Load the configuration again, or another one, without touching open connections.

    All of the new configuration runs afterwards, or all of the old.

    \b
    Example:
      cyfs-gateway reload -c config.yaml
    """
    body = {}
    if config is not None:
        path = config.resolve()
        if path.is_relative_to(place.home.resolve()):
            body["path"] = str(path)
        else:
            try:
                body["payload"] = path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as fault:
                raise click.ClickException(str(fault)) from None
    for found in _ask(place, "POST", "cyfs", "reload", body=body)["warnings"]:
        click.echo(f"{found['line']}:{found['column']}: {found['path']}: {printable(found['message'])}", err=True)


@cli.command()
@click.option("-f", "--follow", is_flag=True, help="Accepted for habit: logs are always followed.")
@click.option("--level", default="info", show_default=True, type=click.Choice(_LEVELS), help="This and above.")
@_json_option
@_home_option
@_pass_place
def logs(place: _Place, follow: bool, level: str, as_json: bool) -> None:
    """Follow the logs of the running gateway.

    \b
    Example:
      cyfs-gateway logs -f --level debug
    """
    with _asking(place), suppress(KeyboardInterrupt):
        for line in place.client().lines("logs", query={"level": level, "format": "structured"}):
            if as_json:
                _print_json(line, one_line=True)
                continue
            facts = " ".join(f"{fact['key']}={fact['value']}" for fact in line["fields"])
            click.echo(printable(f"{line['time']} {line['level']:<7} {line['message']} {facts}".rstrip()))


@cli.command()
@click.argument("target", metavar="URL|HOST[:PORT]")
@click.option("--udp", is_flag=True, help="As a UDP flow.")
@click.option("--from", "source", default="127.0.0.1", show_default=True, metavar="IP", help="As from this client.")
@click.option("--process", default="", help="As from this program.")
@_config_option
@_json_option
@_home_option
@_pass_place
def explain(
    place: _Place, target: str, udp: bool, source: str, process: str, config: Path | None, as_json: bool
) -> None:
    """Say what would happen to a connection and why, without making it.

    Asks the running gateway, or reads FILE when one is given.

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
        raise click.UsageError(str(fault)) from None
    network = "udp" if udp else "tcp"
    if config is None:
        query: dict[str, str | int] = {
            "host": host,
            "port": port,
            "network": network,
            "from": source,
            "process": process,
        }
        said = _ask(place, "GET", "cyfs", "explain", query=query)
    else:
        said = _explain_offline(config, place, host, port, network, source, process)
    if as_json:
        _print_json(said)
    else:
        _show_explanation(said)


@cli.command()
@click.argument("url", default="")
@click.option("--watch", is_flag=True, help="Show again each second until interrupted.")
@_json_option
@_home_option
@_pass_place
def tunnels(place: _Place, url: str, watch: bool, as_json: bool) -> None:
    """Show the tunnels to other devices, and what is known of tunnel URLs; or try one URL.

    \b
    Example:
      cyfs-gateway tunnels socks://127.0.0.1:1080/www.example.org:443
    """
    import time

    if url:
        known = _ask(place, "POST", "cyfs", "probe", body={"url": url})
        if as_json:
            _print_json(known)
        else:
            _show_urls([known])
        return
    with suppress(KeyboardInterrupt):
        while True:
            said = {**_ask(place, "GET", "cyfs", "peers"), **_ask(place, "GET", "cyfs", "tunnels")}
            if as_json:
                _print_json(said, one_line=watch)
            else:
                if watch:
                    click.clear()
                _show_tunnels(said)
            if not watch:
                return
            time.sleep(_WATCH_SECONDS)


@cli.command()
@click.argument("peer")
@click.option("-n", "count", default=1, show_default=True, type=click.IntRange(1, 1000), help="How often.")
@_json_option
@_home_option
@_pass_place
def ping(place: _Place, peer: str, count: int, as_json: bool) -> None:
    """Ask another device for a sign of life, by its DID or host name.

    A tunnel is made if none stands.

    \b
    Example:
      cyfs-gateway ping photos.home.example
    """
    import time

    for number in range(count):
        if number:
            time.sleep(_WATCH_SECONDS)
        said = _ask(place, "POST", "cyfs", "ping", body={"peer": peer})
        if as_json:
            _print_json(said, one_line=count > 1)
        else:
            click.echo(printable(f"{said['peer']}: {said['rtt']:.1f} ms, {said['trust']}, {_origin(said)}"))


def _origin(one: Mapping[str, Any]) -> str:
    """How a tunnel came about."""
    if one["dialled"]:
        return f"by {one['way']}" if one["way"] else "dialled"
    return f"from {one['way']}"


def _show_tunnels(said: Mapping[str, Any]) -> None:
    if said["peers"]:
        rows = [
            (one["peer"], one["trust"], one["owner"], _origin(one), f"{one['silent']:.1f} s") for one in said["peers"]
        ]
        _table(("PEER", "TRUST", "OWNER", "WAY", "SILENT"), rows)
        click.echo()
    _show_urls(said["tunnels"])


def _show_urls(known: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        (one["url"], one["state"], one["reason"], one["source"], "" if one["rtt"] is None else f"{one['rtt']:.1f} ms")
        for one in known
    ]
    _table(("URL", "STATE", "REASON", "SOURCE", "RTT"), rows)


@cli.command()
@click.argument("name")
@click.argument("rtype", metavar="[TYPE]", default="A")
@click.option("--explain", "whole", is_flag=True, help="Ask the name server, and tell the whole way of its answer.")
@click.option("--client", default="", metavar="IP", help="With --explain: who asks. [default: this machine]")
@_json_option
@_home_option
@_pass_place
def dns(place: _Place, name: str, rtype: str, whole: bool, client: str, as_json: bool) -> None:
    """Ask the gateway's resolver, or explain what its name server tells clients.

    \b
    Example:
      cyfs-gateway dns www.example.org AAAA
      cyfs-gateway dns www.example.org --explain --client 192.168.1.20
    """
    if whole:
        said = _ask(place, "GET", "dns", "explain", query={"name": name, "type": rtype, "client": client})
        if as_json:
            _print_json(said)
            return
        from cyfs_ns.io.cli.running import show_explanation

        show_explanation(said)
        return
    said = _ask(place, "GET", "dns", "query", query={"name": name, "type": rtype})
    if as_json:
        _print_json(said)
        return
    if said["Status"]:
        raise click.ClickException(f"the answer is an error, DNS code {said['Status']}")
    _table(("NAME", "TTL", "DATA"), [(one["name"], one["TTL"], one["data"]) for one in said.get("Answer", ())])


@cli.command()
@_home_option
@_pass_place
def flush(place: _Place) -> None:
    """Forget cached DNS answers and fake addresses.

    \b
    Example:
      cyfs-gateway flush
    """
    _ask(place, "POST", "cache", "dns", "flush")
    _ask(place, "POST", "cache", "fakeip", "flush")


# --- helpers -------------------------------------------------------------------------------------------------------


@contextmanager
def _asking(place: _Place) -> Iterator[None]:
    from cyfs_ns.errors import BadWire, Unreachable
    from cyfs_ns.io.client import ApiFault

    try:
        yield
    except Unreachable as fault:
        raise _NotRunning(f"{fault}\nStart one with: cyfs-gateway run --home {place.home}") from None
    except ApiFault as fault:
        hint = " (is --secret-file right?)" if fault.status == 401 else ""
        raise click.ClickException(printable(str(fault)) + hint) from None
    except (BadWire, OSError, ValueError) as fault:
        raise click.ClickException(printable(str(fault))) from None


def _ask(
    place: _Place, method: str, *segments: str, query: Mapping[str, str | int] | None = None, body: object = None
) -> Any:
    with _asking(place):
        return place.client().call(method, *segments, query=query, body=body)


def _explain_offline(
    config: Path, place: _Place, host: str, port: int, network: str, source: str, process: str
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
    raise click.ClickException("\n".join(said))


def _texts(fault: BaseException) -> list[str]:
    """The messages of a fault, or of all in a group of them."""
    if isinstance(fault, BaseExceptionGroup):
        return [text for inner in fault.exceptions for text in _texts(inner)]
    return [str(fault)]


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


def _show_connections(said: Mapping[str, Any]) -> None:
    from cyfs_ns.io.tables import bytes_text

    rows = []
    for one in said["connections"]:
        meta = one["metadata"]
        host = meta["host"] or meta["sniffHost"] or meta["destinationIP"]
        rule = f"{one['rule']},{one['rulePayload']}" if one["rulePayload"] else one["rule"]
        rows.append(
            [
                f"{meta['sourceIP']}:{meta['sourcePort']}",
                f"{host}:{meta['destinationPort']}",
                meta["network"],
                rule,
                " > ".join(reversed(one["chains"])),
                bytes_text(one["upload"]),
                bytes_text(one["download"]),
            ]
        )
    _table(("CLIENT", "DESTINATION", "NET", "RULE", "WAY", "UP", "DOWN"), rows)


def _show_explanation(said: Mapping[str, Any]) -> None:
    lines = [
        ("verdict", " > ".join(said["chain"])),
        ("rule", said["rule"] if said["index"] < 0 else f"{said['rule']} (number {said['index']})"),
        ("why", said["why"]),
        ("resolution", " ".join([said["resolution"], *said["addresses"]])),
        ("way", said["way"]),
        *(("passed over", text) for text in said["passed"]),
    ]
    for name, text in lines:
        click.echo(f"{name + ':':<13}{printable(text)}")


def _show_part(name: str, content: Any) -> None:
    """A part of the status whose shape belongs to others: one line an entry."""
    if not content:
        return
    click.echo(f"{name}:")
    entries = content.items() if isinstance(content, dict) else (("", entry) for entry in content)
    for key, entry in entries:
        facts = " ".join(f"{k}={v}" for k, v in entry.items()) if isinstance(entry, dict) else str(entry)
        click.echo(f"  {printable(f'{key} {facts}'.strip())}")


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from cyfs_ns.io.tables import show_table

    show_table(columns, rows)


def _print_json(value: object, *, one_line: bool = False) -> None:
    click.echo(json.dumps(value, indent=None if one_line else 2))
