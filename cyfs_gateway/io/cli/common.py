"""What the commands share: where the gateway is, how it is asked, and how answers are shown.

Exit codes: 0 done, 1 it failed, 2 wrong usage, 3 no gateway is running.  Only click is imported here; every command
imports what it needs, so that starting the gateway does not pay for tables, nor a table for the gateway.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cyfs_ns.io.cli.common import NotRunning, json_option, print_json, table
from cyfs_ns.printable import printable

if TYPE_CHECKING:
    from cyfs_gateway.io.command.attached import Controller
    from cyfs_ns.io.client import Client

__all__ = [
    "SOCKET",
    "WATCH_SECONDS",
    "Place",
    "ask",
    "ask_module",
    "asking",
    "config_option",
    "home_option",
    "json_option",
    "leaves",
    "pass_place",
    "print_json",
    "running_in_trio",
    "show_again",
    "table",
]

_T = TypeVar("_T")

SOCKET = "cyfs-gateway.sock"
WATCH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the gateway lives and how it is reached."""

    home: Path
    controller: str
    secret_file: str

    def client(self) -> Client:
        """Who asks it, and blocks."""
        from cyfs_ns.io.client import Client

        place, secret = self._reached()
        return Client(place, secret=secret)

    def streams(self) -> Controller:
        """Who gets streams from it."""
        from cyfs_gateway.io.command.attached import Controller

        return Controller(*self._reached())

    def _reached(self) -> tuple[Path | str, str]:
        if not self.controller:
            return self.home / SOCKET, ""
        if not self.controller.startswith(("http://", "https://")):
            raise click.BadParameter("it is http://host:port or https://host:port", param_hint="--controller")
        try:
            secret = Path(self.secret_file).read_text("utf-8").strip() if self.secret_file else ""
        except (OSError, UnicodeDecodeError) as fault:
            raise click.BadParameter(printable(str(fault)), param_hint="--secret-file") from None
        return self.controller.rstrip("/"), secret


config_option = click.option("-c", "--config", type=click.Path(path_type=Path), metavar="FILE", help="Clash YAML.")
pass_place = click.make_pass_decorator(Place)


def home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--home`` may also stand behind the command."""

    def override(context: click.Context, _: click.Parameter, value: Path | None) -> None:
        if value is not None:
            place = context.find_object(Place)
            context.obj = Place(value.absolute(), *((place.controller, place.secret_file) if place else ("", "")))

    kind = click.Path(path_type=Path)
    option = click.option(
        "--home", type=kind, expose_value=False, callback=override, is_eager=True, help="State directory."
    )
    return option(command)


@contextmanager
def asking(place: Place) -> Iterator[None]:
    from cyfs_ns.errors import BadWire, Unreachable
    from cyfs_ns.io.client import ApiFault

    try:
        yield
    except Unreachable as fault:
        raise NotRunning(f"{fault}\nStart one with: cyfs-gateway run --home {place.home}") from None
    except ApiFault as fault:
        hint = " (is --secret-file right?)" if fault.status == 401 else ""
        raise click.ClickException(printable(str(fault)) + hint) from None
    except UnicodeEncodeError as fault:  # an argument that is no UTF-8
        raise click.ClickException(f"{fault.object!a} is no text") from None
    except (BadWire, OSError, ValueError) as fault:
        raise click.ClickException(printable(str(fault))) from None


def ask(
    place: Place,
    method: str,
    *segments: str,
    query: Mapping[str, str | int] | None = None,
    body: object = None,
    unknown: str = "",
) -> Any:
    """``unknown`` is said where the gateway knows nothing of the kind."""
    from cyfs_ns.io.client import ApiFault

    with asking(place):
        try:
            return place.client().call(method, *segments, query=query, body=body)
        except ApiFault as fault:
            if fault.status != 404 or not unknown:
                raise
            raise click.ClickException(printable(unknown)) from None


def ask_module(place: Place, section: str, method: str, body: Mapping[str, Any], *, off: str, unknown: str = "") -> Any:
    """Call a module's control method.  ``off`` is said where the configuration has no such section, ``unknown`` where
    the method does not know what it was asked about."""
    from cyfs_ns.io.client import ApiFault

    with asking(place):
        client = place.client()
        try:
            return client.call("POST", "cyfs", "modules", section, method, body=body)
        except ApiFault as fault:
            if fault.status != 404:
                raise
            told = client.call("GET", "cyfs", "status")["modules"].get(section)
            if told is None:
                raise click.ClickException(off) from None
            if not told["running"]:
                raise click.ClickException(printable(f"{section} does not run: {told['fault']}")) from None
            raise click.ClickException(unknown or printable(str(fault))) from None


def running_in_trio(place: Place, work: Callable[[Controller], Awaitable[_T]]) -> _T:
    """Run ``work``, and say what went wrong with it as every command does; an interrupt stays one."""
    import trio

    from cyfs_ns.errors import CyfsError

    controller = place.streams()
    try:
        return trio.run(work, controller)
    except BaseException as fault:
        said = leaves(fault)
    foreseen = (CyfsError, OSError, click.ClickException)
    with asking(place):
        raise min(said, key=lambda fault: isinstance(fault, foreseen))
    raise AssertionError("a fault was raised")


def leaves(fault: BaseException) -> list[BaseException]:
    """The faults in a group of them, or the one."""
    if isinstance(fault, BaseExceptionGroup):
        return [leaf for inner in fault.exceptions for leaf in leaves(inner)]
    return [fault]


def show_again(watch: bool, ask: Callable[[], Any], show: Callable[[Any], None], *, as_json: bool) -> None:
    """Show what is asked, with ``watch`` each second until interrupted."""
    with suppress(KeyboardInterrupt):
        while True:
            said = ask()
            if as_json:
                print_json(said, one_line=watch)
            else:
                if watch:
                    click.clear()
                show(said)
            if not watch:
                return
            time.sleep(WATCH_SECONDS)
