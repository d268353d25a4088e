"""``zone backup``: where backups of the zone are made, and how they are; ``zone restore`` and ``zone permit``: the way
back."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from cyfs_gateway.io.cli.common import Place, ask, home_option, json_option, pass_place, print_json, table
from cyfs_ns.io.cli.common import facts, identity_home_option
from cyfs_ns.io.cli.identifying import out_option, owner_option, owner_store, put_out, sure, telling, yes_option
from cyfs_ns.printable import printable
from zone.io.cli.asking import OFF, control

_NO_TARGET: Final = "the zone has no such target (cyfs-gateway zone backup list shows them)"
_LOOK: Final = 0.2

access_option = click.option(
    "--access",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file for you alone with USER:PASSWORD, or with ACCESS-KEY:SECRET-KEY of a bucket.",
)


@click.group("backup")
def backup() -> None:
    """Backups of the zone, which only its owner can read.

    \b
    Example:
      cyfs-gateway zone backup add usb /mnt/usb/backup
      cyfs-gateway zone backup now usb
    """


@backup.command("add")
@click.argument("name")
@click.argument("target")
@access_option
@click.option("--every", default="1d", show_default=True, metavar="TIME", help="How often, as 12h.")
@click.option("--keep-last", "last", type=click.IntRange(min=1), help="So many of the newest stay. [default: 3]")
@click.option("--keep-daily", "daily", type=click.IntRange(min=0), help="One of each of so many days. [default: 7]")
@click.option("--keep-weekly", "weekly", type=click.IntRange(min=0), help="Of so many weeks. [default: 4]")
@click.option("--keep-monthly", "monthly", type=click.IntRange(min=0), help="Of so many months. [default: 6]")
@json_option
@home_option
@pass_place
def add(place: Place, /, name: str, target: str, access: Path | None, every: str, as_json: bool, **keep: int) -> None:
    """Have backups made at TARGET.

    NAME is what the target is called from then on.  TARGET is a directory of this OOD, a WebDAV folder (https://…)
    or a bucket (s3+https://HOST/BUCKET/PREFIX); it is there, and empty or this zone's already.  Said again, it is
    changed.

    \b
    Example:
      cyfs-gateway zone backup add usb /mnt/usb/backup --every 12h
      cyfs-gateway zone backup add nas https://nas.example/dav/zone --access nas.access
    """
    path = target if "://" in target else str(Path(target).absolute())
    said: dict[str, Any] = {"to": path, "every": every}
    if path == str(Path(target).absolute()):
        said["on"] = _status(place)["name"]
    if rules := {rule: number for rule, number in keep.items() if number is not None}:
        said["keep"] = rules
    _done(control(place, "backup-add", name=name, target=said, access=_access(access)), as_json)


@backup.command("drop")
@click.argument("name")
@json_option
@home_option
@pass_place
def drop(place: Place, name: str, as_json: bool) -> None:
    """Have no more backups made at NAME.

    Those that are there stay.

    \b
    Example:
      cyfs-gateway zone backup drop usb
    """
    _done(control(place, "backup-drop", _NO_TARGET, name=name), as_json)


@backup.command("now")
@click.argument("name", required=False)
@json_option
@home_option
@pass_place
def now(place: Place, name: str | None, as_json: bool) -> None:
    """Make a backup now, and look at all of it.

    At NAME, or at the only target there is.  Ends with 1 where that failed; nothing is lost then, and it may be said
    again.

    \b
    Example:
      cyfs-gateway zone backup now usb
    """
    told = _through(place, control(place, "backup-now", _NO_TARGET, name=name or _only(place)))
    if as_json:
        print_json(told)
    elif not told["fault"]:
        click.echo(
            printable(
                f"{told['by']}/{told['number']}: {told['size']} bytes in {told['chunks']} chunks,"
                f" of which {told['written']} bytes were new; looked at, all of it is there"
            )
        )
        _warn(told["warnings"])
    _end(told["fault"])


@backup.command("list")
@click.argument("name", required=False)
@json_option
@home_option
@pass_place
def list_(place: Place, name: str | None, as_json: bool) -> None:
    """Show the targets, or the backups at one.

    With NAME, the backups that are there; else how the last one went on each target.

    \b
    Example:
      cyfs-gateway zone backup list
      cyfs-gateway zone backup list usb
    """
    if name is not None:
        there = control(place, "backup-list", _NO_TARGET, name=name)
        if as_json:
            print_json(there)
            return
        table(
            ("backup", "made", "chunks"),
            [(one["backup"], _time(one["made"]), one["chunks"]) for one in there["backups"]],
        )
        _warn(there["faults"])
        return
    told = control(place, "backup-targets")
    if as_json:
        print_json(told)
        return
    rows = []
    for target, one in told["targets"].items():
        last = one["last"]
        how = last.get("fault") or "; ".join(last.get("warnings", []))
        made = f"{last['by']}/{last['number']}" if "number" in last else ""
        rows.append((target, one["to"], one.get("on", "any OOD"), one["every"], made, _time(last.get("at", 0)), how))
    table(("name", "target", "on", "every", "last", "at", ""), rows)


@backup.command("verify")
@click.argument("name", required=False)
@click.option("--backup", "label", default="", metavar="MACHINE/NUMBER", help="That one; else each machine's newest.")
@json_option
@home_option
@pass_place
def verify(place: Place, name: str | None, label: str, as_json: bool) -> None:
    """Look whether backups are whole.

    All their bytes at NAME are read.  Nobody's key is needed.  Ends with 1 where something is wrong.

    \b
    Example:
      cyfs-gateway zone backup verify usb --backup ood1/7
    """
    told = _through(place, control(place, "backup-verify", _NO_TARGET, name=name or _only(place), backup=label))
    rows, faults = told.get("backups", []), told.get("faults", [])
    bad = [one for one in rows if one["lost"] or one["damaged"]]
    if as_json:
        print_json(told)
    elif not told["fault"]:
        table(
            ("backup", "made", "chunks", "lost", "damaged"),
            [(one["backup"], _time(one["made"]), one["chunks"], one["lost"], one["damaged"]) for one in rows],
        )
        _warn(faults)
    _end(told["fault"])
    sys.exit(1 if bad or faults else 0)


@backup.command("forget")
@click.argument("name")
@click.argument("machine")
@json_option
@home_option
@pass_place
def forget(place: Place, name: str, machine: str, as_json: bool) -> None:
    """Say that MACHINE works at NAME no more.

    For one that was lost while it made a backup there.

    \b
    Example:
      cyfs-gateway zone backup forget nas ood2
    """
    control(place, "backup-forget", "no machine of that name made backups there", name=name, machine=machine)
    if as_json:
        print_json({})


@click.command("restore")
@click.argument("target", required=False)
@access_option
@click.option("--backup", "label", default="", metavar="MACHINE/NUMBER", help="That one. [default: the newest]")
@click.option("--permit", type=click.Path(path_type=Path), metavar="FILE", help="What the owner gave for it.")
@click.option("--request", type=click.Path(path_type=Path), metavar="FILE", help="Write what the owner has to open.")
@owner_option
@click.option("--wait", type=click.FloatRange(min=0), default=600.0, show_default=True, help="Seconds until it is up.")
@json_option
@home_option
@pass_place
def restore(
    place: Place,
    target: str | None,
    access: Path | None,
    label: str,
    permit: Path | None,
    request: Path | None,
    pem: Path | None,
    wait: float,
    as_json: bool,
) -> None:
    """Have the zone again from a backup at TARGET.

    For an OOD whose zone was up before and that has lost all of it, or that was signed in the place of the lost one
    (zone status: restore).  TARGET is a directory, a URL, or a name that the machine remembers.  Only the owner's key
    opens a backup.  With --owner it does so here, and goes no further; else the command writes a request, which
    "zone permit" opens where that key is.

    \b
    Example:
      cyfs-gateway zone restore /mnt/usb/backup --request box.restore
      cyfs-gateway zone restore --permit box.permit
    """
    if (target is None) == (permit is None):
        raise click.UsageError("say a TARGET, or --permit FILE for the one that was said before")
    if target is not None:
        where = str(Path(target).absolute()) if Path(target).is_dir() else target
        told = control(place, "restore", target=where, access=_access(access), backup=label)
        click.echo(printable(f"backup {told['backup']} of {_time(told['made'])}"), err=True)
        _warn(told["faults"])
        if pem is None:
            with telling():
                request = request or Path("zone.restore")
                put_out(request, told["request"])
            said = {"backup": told["backup"], "made": told["made"], "request": str(request)}
            if as_json:
                print_json(said)
            else:
                click.echo(f"where the owner's key is: cyfs-gateway zone permit {request}")
                click.echo("then here: cyfs-gateway zone restore --permit FILE")
            return
        with telling():
            given = _permit(told["request"].encode(), pem, place.home)
    else:
        assert permit is not None
        given = _read(permit).decode("utf-8", "replace")
    backup_name = control(place, "restore-permit", permit=given)["backup"]
    step = _restored(place, wait)
    if as_json:
        print_json({"backup": backup_name, "step": step["step"], "why": step["why"]})
    elif step["step"] != "restore":
        click.echo(f"restored from {backup_name}; the zone comes up: {step['step']}")
    _end(step["why"] if step["step"] == "restore" else "")


@click.command("permit")
@click.argument("request", type=click.Path(path_type=Path, allow_dash=True))
@out_option
@owner_option
@yes_option
@identity_home_option
def permit(request: Path, out: Path | None, pem: Path | None, yes: bool, home: Path) -> None:
    """Open a backup for the machine that asks.

    It is said where the owner's key is.  The machine can read that one backup then, and nobody else can.

    \b
    Example:
      cyfs-gateway zone permit zone.restore
    """
    from cyfs_ns.identity.did import dev_did
    from zone.backup.permit import read_request

    with telling():
        text = sys.stdin.buffer.read() if str(request) == "-" else _read(request)
        asked = read_request(text)
        facts(
            {
                "machine": asked.asks,
                "key": dev_did(asked.its_key),
                "zone": asked.zone,
                "wants to read": f"{asked.machine}/{asked.number} of {_time(asked.made)}",
            }
        )
        sure("Is that your machine, and shall it read that backup?", yes)
        out = out or Path(f"{asked.asks}.permit")
        put_out(out, _permit(text, pem, home))
    click.echo(f"opened: {out}")
    click.echo(f"on the machine: cyfs-gateway zone restore --permit {out}")


def _permit(request: bytes, pem: Path | None, home: Path) -> str:
    """Raises ``CyfsError``."""
    import secrets

    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.identity.documents import ZoneDoc
    from zone.backup.permit import permit as permitted
    from zone.backup.permit import read_request
    from zone.config.sealed import DICE

    store = owner_store(pem, home)
    zone = store.last(store.path / "zone.jwt")
    if not isinstance(zone, ZoneDoc):
        raise ConfigFault(f"{store.path / 'zone.jwt'}: no document of a zone; nobody knows which machines are of it")
    return permitted(read_request(request), store.key(), zone, secrets.token_bytes(DICE)).decode()


def _restored(place: Place, wait: float) -> Mapping[str, Any]:
    """How the machine stands when it has restored, cannot, or the time is up."""
    until, failed = time.monotonic() + wait, None
    with _bar("restoring") as show:
        while True:
            told = _status(place)
            going = told["restoring"]
            failed = going["failed"] if failed is None else failed
            if told["step"] != "restore" or going["failed"] > failed or time.monotonic() > until:
                return told
            show(going.get("done", 0), going.get("size", 0))
            time.sleep(_LOOK)


def _through(place: Place, job: Mapping[str, Any]) -> Mapping[str, Any]:
    """The job when it is over."""
    with _bar(job["what"]) as show:
        while not job["ended"]:
            time.sleep(_LOOK)
            job = control(place, "backup-job", "the gateway was started anew meanwhile", job=job["job"])
            show(job["done"], job["size"])
    return job


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda done, size: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, size: progress.update(task, completed=done, total=size or None)


def _status(place: Place) -> Mapping[str, Any]:
    told: Mapping[str, Any] | None = ask(place, "GET", "cyfs", "status")["modules"].get("zone")
    if told is None or "name" not in told:
        raise click.ClickException(OFF)
    return told


def _only(place: Place) -> str:
    names = list(control(place, "backup-targets")["targets"])
    if len(names) != 1:
        raise click.UsageError(f"say which target: {', '.join(names) or 'there is none (zone backup add)'}")
    return str(names[0])


def _access(file: Path | None) -> str:
    from zone.io.backup.webdav import read_credentials

    with telling():
        return "" if file is None else read_credentials(file)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as fault:
        raise click.ClickException(printable(f"{file}: {fault.strerror}")) from None


def _time(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""


def _warn(lines: list[str]) -> None:
    for line in lines:
        click.echo(printable(f"warning: {line}"), err=True)


def _end(fault: str) -> None:
    if fault:
        raise click.ClickException(printable(fault))


def _done(told: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(told)
    else:
        click.echo(f"revision {told['revision']}")


COMMANDS: Final = (backup, restore, permit)
