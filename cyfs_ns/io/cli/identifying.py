"""What the commands about identities share: how faults are told, how people say names, keys and times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyfs_ns.io.cli.common import F, config_option
from cyfs_ns.printable import printable

if TYPE_CHECKING:
    from cyfs_ns.config.identity import IdentityConfig
    from cyfs_ns.identity.did import Bridges, Did
    from cyfs_ns.identity.keys import PublicKey, SecretKey
    from cyfs_ns.identity.request import Request
    from cyfs_ns.io.trusted.keystore import OwnerStore

_BRIDGES = "cyfs.bridges"
_ZONE = "The zone, as home.example."

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
out_option = click.option("-o", "--out", type=click.Path(path_type=Path), metavar="FILE", help="Where to write it.")
days_option = click.option(
    "--days", default=3650, show_default=True, type=click.IntRange(1, 36_500), help="How long it is valid."
)

owner_option = click.option(
    "--owner",
    "pem",
    type=click.Path(path_type=Path),
    metavar="PEM",
    help="The owner's key; what it signs is kept beside it. [default: HOME/identity/owner.pem]",
)


def bridges_option(command: F) -> F:
    """``-c FILE``, whose ``identity.bridges`` say whose names hosts are, to :func:`did_of` and :func:`bridges`."""

    def read(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
        if value is not None:
            context.meta[_BRIDGES] = identity_section(value).bridges

    return config_option("The file whose identity.bridges say what other names stand for.", read)(command)


def zone_option(command: F) -> F:
    """``--zone``, for :func:`zone_of`."""
    zone = click.option("--zone", default="", metavar="HOST", help=_ZONE)
    return zone(bridges_option(command))


def needed_zone_option(command: F) -> F:
    """``--zone`` where it has to be said, for :func:`did_of`."""
    return click.option("--zone", required=True, metavar="HOST", help=_ZONE)(bridges_option(command))


def bridges() -> Bridges:
    """What the command's ``-c`` says; none without one."""
    found: Bridges = click.get_current_context().meta.get(_BRIDGES, {})
    return found


def identity_section(path: Path | None) -> IdentityConfig:
    """``identity`` of a configuration file, whatever else is in it.  Raises ``click.UsageError``."""
    from cyfs_ns.config.identity import IdentityConfig, load_identity
    from cyfs_ns.config.source import MAX_BYTES
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.io.configfile import files_beside, read_bounded

    if path is None:
        return IdentityConfig()
    try:
        data, _ = read_bounded(path, MAX_BYTES)
    except ConfigFault as fault:
        raise click.UsageError(str(fault)) from None
    config, told = load_identity(data, environ=os.environ, read_file=files_beside(path))
    for each in told:
        click.echo(f"{path}: {printable(str(each))}", err=True)
    if any(each.severity == "error" for each in told):
        raise click.UsageError(f"{path} cannot be used")
    return config


@contextmanager
def telling() -> Iterator[None]:
    """Faults of files, documents and the command line end the command with one line."""
    from cyfs_ns.errors import CyfsError

    try:
        yield
    except CyfsError as fault:
        raise click.ClickException(printable(str(fault))) from None
    except OSError as fault:
        where = f"{fault.filename}: " if fault.filename else ""
        raise click.ClickException(printable(f"{where}{fault.strerror or fault}")) from None


def writing(home: Path) -> None:
    """Raises ``ConfigFault`` where root would write what the service that lives in ``home`` could not read."""
    import pwd

    from cyfs_ns.errors import ConfigFault

    if os.geteuid() or not home.exists() or not (owner := home.stat().st_uid):
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"user {owner}"
    raise ConfigFault(
        f"{home} belongs to {name}, who could not read what root writes there;"
        f" say the same as {name}: runuser -u {name} -- …"
    )


def sure(question: str, yes: bool) -> None:
    """Ask on the terminal unless ``yes`` was said.  No, or nobody there to ask, ends the command."""
    if yes:
        return
    try:
        click.confirm(question, abort=True, err=True)
    except click.Abort:
        click.echo("nothing was done (without a terminal, say --yes)", err=True)
        raise SystemExit(1) from None


def did_of(text: str) -> Did:
    """A DID, or the identity that a host name stands for.  Raises ``BadWire``."""
    from cyfs_ns.identity.did import subject

    return subject(text, bridges())


def zone_of(text: str) -> Did | None:
    """The zone in ``--zone``, None if it was not said."""
    return did_of(text) if text else None


def public_key(text: str) -> PublicKey:
    """A key as people have it: 43 characters of base64url, a DID that is a key, or an owner's document.

    Raises ``BadWire`` and ``ConfigFault``.
    """
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.identity.did import did_of_host, parse_did
    from cyfs_ns.identity.keys import read_x
    from cyfs_ns.io.trusted.keystore import read_token_file

    if text.startswith("did:") or text.endswith(".dev.did"):
        key = (parse_did(text) if text.startswith("did:") else did_of_host(text)).key
        if key is None:
            raise ConfigFault(f"{text} is a name and not a key; give the key it has: did:dev:…, or its 43 characters")
        return key
    path = Path(text)
    if not path.exists():
        if len(text) != 43:
            raise ConfigFault(f"{text[:80]!r} is neither a key (43 characters, did:dev:…, did:key:…) nor a file")
        return read_x(text)
    token, document = read_token_file(path)
    if document.kind != "owner" or document.main_key is None or not token.verify(document.main_key):
        raise ConfigFault(f"{path}: not an owner's document, signed by the key in it")
    return document.main_key


def seconds_of(text: str) -> int:
    """``now``, a day, a moment (UTC) or seconds since 1970, as seconds since 1970."""
    import time
    from datetime import UTC, datetime

    if text == "now":
        return int(time.time())
    try:
        if text.isascii() and text.isdigit():
            moment = datetime.fromtimestamp(int(text), UTC)
        else:
            moment = datetime.fromisoformat(text)
        seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError, OSError):
        seconds = -1
    if seconds < 0:
        raise click.BadParameter(
            f"{text[:40]!r} is no time since 1970: now, 2026-11-21, 2026-11-21T10:00:00, or seconds"
        )
    return seconds


def day(seconds: int) -> str:
    """As people read it, in UTC."""
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def put_out(out: Path | None, text: str) -> None:
    """To the file ``out``, whole or not at all; to standard output without one."""
    from cyfs_ns.io.atomic import write_atomic

    if out is None:
        click.echo(text, nl=False)
    elif out.exists() and not out.is_file():  # /dev/stdout, a pipe
        out.write_text(text)
    else:
        write_atomic(out, text.encode(), 0o644)


def put_request(request: Request, key: SecretKey, out: Path | None) -> None:
    """The file that asks for ``request``, which is proven by ``key``."""
    import json

    from cyfs_ns.identity.did import dev_did
    from cyfs_ns.identity.request import write_request

    put_out(out, json.dumps(write_request(request, key), indent=2) + "\n")
    click.echo(
        f"{request.name or 'this machine'} asks with the key {dev_did(key.public)}, until {day(request.exp)}", err=True
    )


def owner_store(pem: Path | None, home: Path) -> OwnerStore:
    """Where the owner lives: beside the key of ``--owner``, else in the home."""
    from cyfs_ns.io.trusted.keystore import OwnerStore

    return OwnerStore(pem.absolute() if pem else home / "identity" / "owner.pem")
