"""What several commands share: where the server lives, how it is asked, how things are printed."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cyfs_ns.io.home import default_home, identity_home
from cyfs_ns.printable import printable

if TYPE_CHECKING:
    from cyfs_ns.io.client import Client

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_SOCKET = "control.sock"
_GATEWAY_SOCKET = "cyfs-gateway.sock"
"""In the home of a gateway, whose API has a name server's below ``/dns``."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def config_option(
    help: str, read: Callable[[click.Context, click.Parameter, Path | None], None] | None = None
) -> Callable[[F], F]:
    """``-c FILE``.  With ``read``, it is what takes the path, and the command does not."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=help,
        expose_value=read is None,
        callback=read,
    )


def home_option(command: F) -> F:
    """``--home``, handed over as an absolute path."""

    def chosen(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
        return (value or _default_home(os.environ, os.geteuid())).absolute()

    return click.option(
        "--home",
        type=click.Path(path_type=Path),
        callback=chosen,
        help="State directory. [default: CYFS_NS_HOME, or by user]",
    )(command)


def identity_home_option(command: F) -> F:
    """``--home`` of commands about identities, which both programs have: the gateway's home, also for ``cyfs-ns``."""

    def chosen(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
        above = context.find_root().params.get("home")
        return (value or above or identity_home(os.environ, os.geteuid())).absolute()

    return click.option(
        "--home",
        type=click.Path(path_type=Path),
        callback=chosen,
        help="The gateway's state directory. [default: CYFS_HOME, or by user]",
    )(command)


def _default_home(environment: Mapping[str, str], uid: int) -> Path:
    return default_home(environment, uid, "CYFS_NS_HOME", "/var/lib/cyfs-ns", "cyfs-ns")


class NotRunning(click.ClickException):
    exit_code = 3


def ask(home: Path, method: str, *segments: str, query: Mapping[str, str | int] | None = None) -> Any:
    """The JSON the running server answers with."""
    with _speaking(home) as (client, prefix):
        return client.call(method, *prefix, *segments, query=query)


def follow(home: Path, *segments: str, query: Mapping[str, str | int]) -> Iterator[Any]:
    """The objects of an endless answer, until the server or the user ends it."""
    try:
        with _speaking(home) as (client, prefix):
            yield from client.lines(*prefix, *segments, query=query)
    except KeyboardInterrupt:
        return


@contextmanager
def _speaking(home: Path) -> Iterator[tuple[Client, tuple[str, ...]]]:
    from cyfs_ns.errors import BadWire, Unreachable
    from cyfs_ns.io.client import ApiFault, Client

    try:
        if not (home / _SOCKET).exists() and (home / _GATEWAY_SOCKET).exists():
            yield Client(home / _GATEWAY_SOCKET), ("dns",)
        else:
            yield Client(home / _SOCKET, whose="name server"), ()
    except Unreachable as fault:
        raise NotRunning(f"{fault}; is it running, with this --home?") from None
    except (ApiFault, BadWire) as fault:
        raise click.ClickException(printable(str(fault))) from None


def run_to_end(main: Callable[..., Awaitable[T]], *args: Any) -> T:
    """``trio.run``, and a quiet end when the user interrupts, wherever that happened."""
    import trio

    try:
        return trio.run(main, *args)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        raise click.Abort from None


def print_json(value: object, *, one_line: bool = False) -> None:
    click.echo(json.dumps(value, indent=None if one_line else 2))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from cyfs_ns.io.tables import show_table

    show_table(columns, rows)


def facts(pairs: Mapping[str, object]) -> None:
    """One line each, names before values."""
    width = max(map(len, pairs)) + 2
    for name, value in pairs.items():
        click.echo(f"{name + ':':<{width}}{printable(str(value))}")
