"""``id sign``: what an owner puts their name to."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cyfs_ns.io.cli.common import facts, identity_home_option
from cyfs_ns.io.cli.identifying import (
    day,
    days_option,
    did_of,
    needed_zone_option,
    out_option,
    owner_option,
    owner_store,
    put_out,
    sure,
    telling,
    yes_option,
    zone_of,
    zone_option,
)

if TYPE_CHECKING:
    from cyfs_ns.identity.did import Did
    from cyfs_ns.identity.documents import DeviceDoc, OwnerDoc, ZoneBoot, ZoneDoc
    from cyfs_ns.identity.issue import Issuer
    from cyfs_ns.identity.keys import PublicKey
    from cyfs_ns.identity.request import DeviceRequest, OwnerRequest
    from cyfs_ns.io.trusted.keystore import OwnerStore

    R = TypeVar("R", DeviceRequest, OwnerRequest)

_machines = click.option(
    "--ood", "oods", multiple=True, required=True, metavar="[#|$]NAME[:IP][@NET]", help="A machine of it; repeated."
)
_relay = click.option("--sn", default=None, metavar="HOST", help="The relay it is reached by.")


@dataclass(frozen=True, slots=True)
class _Desk:
    """Where one document is signed: beside whose key, for how many days, and where it goes."""

    store: OwnerStore
    days: int
    out: Path | None
    yes: bool

    def issuer(self, path: Path, whose: Did | None = None) -> Issuer:
        """The owner, signing the successor of what is at ``path``, which has to be ``whose``."""
        from cyfs_ns.errors import ConfigFault
        from cyfs_ns.identity.did import dev_did
        from cyfs_ns.identity.issue import Issuer, next_iat

        key, owner, last = self.store.key(), self.store.document(), self.store.last(path)
        if last is not None and whose is not None and last.subject != whose:
            raise ConfigFault(
                f"{path}: {last.subject}'s is kept there; an owner of two zones keeps each with its own --owner"
            )
        iat = next_iat(None if last is None else last.iat, time.time())
        id = owner.id if owner is not None and owner.key == key.public else dev_did(key.public)
        return Issuer(key=key, id=id, iat=iat, exp=iat + self.days * 86_400)

    def sign(self, path: Path, token: str, question: str = "Sign it?") -> None:
        """After a yes: beside the key, where the next document finds its predecessor, and where the person wants it."""
        sure(question, self.yes)
        self.store.put(path, token)
        if self.out is not None:
            put_out(self.out, token + "\n")
        click.echo(f"signed: {self.out or path}")


def _at_desk(command: Callable[..., None]) -> Callable[..., None]:
    """The options that every signature has, handed over as a ``_Desk``."""

    @functools.wraps(command)
    def seated(pem: Path | None, days: int, out: Path | None, yes: bool, home: Path, **more: Any) -> None:
        command(_Desk(owner_store(pem, home), days, out, yes), **more)

    return owner_option(days_option(out_option(yes_option(identity_home_option(seated)))))


@click.group()
def sign() -> None:
    """Sign documents with the owner's key.

    It may live on a machine without a network: requests and documents are files.

    \b
    Example:
      cyfs-gateway id sign device ood1.request -o ood1.jwt
    """


@sign.command()
@click.argument("request", required=False, type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="What the owner is called.")
@click.option("--full-name", metavar="TEXT", help="What the owner is called in full.")
@zone_option
@click.option("--did", default="", metavar="DID", help="Who the owner is.")
@_at_desk
def owner(desk: _Desk, request: Path | None, name: str | None, full_name: str | None, zone: str, did: str) -> None:
    """Sign the owner's own document anew.

    It may get another name or zone, or be good for longer.  What is not said stays as it was.  The wish may come from
    another machine in the file REQUEST: id owner request.

    \b
    Example:
      cyfs-gateway id sign owner --zone home.example -o owner.jwt
    """
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.identity.did import dev_did
    from cyfs_ns.identity.request import OwnerRequest

    with telling():
        id, default_zone = did_of(did) if did else None, zone_of(zone)
        if request is not None:
            if name or full_name or zone or did:
                raise click.UsageError("either REQUEST says what is to change, or the options do")
            wish = _wish(request, OwnerRequest)
            name, full_name, id, default_zone = wish.name, wish.full_name, wish.id, wish.zone
            click.echo(f"asked for by {dev_did(wish.key)}")
        path = desk.store.path / "owner.jwt"
        issuer, last = desk.issuer(path), desk.store.document()
        if last is None:
            if not name:
                raise ConfigFault(f"{path}: nothing is there to follow; say what the owner is called: --name")
            last = issuer.owner(name)
        elif last.key != issuer.key.public:
            raise ConfigFault(f"{path}: it is for the key {last.key}, and {desk.store.pem} is another owner's")
        document = replace(issuer, id=id or last.id).owner(
            name or last.name,
            last.full_name if full_name is None else full_name,
            default_zone or last.default_zone,
            last.extra,
        )
        shown = _owner_facts(document)
        for what, was in _owner_facts(last).items():
            if shown[what] != was:
                shown[what] = f"{shown[what]}  (was: {was})"
        facts(shown)
        if last.id != document.id:
            click.echo(f"What was signed as {last.id} names that owner still: sign devices, boot and zone again.")
        desk.sign(path, issuer.sign(document))


@sign.command()
@click.argument("request", type=click.Path(path_type=Path))
@zone_option
@_at_desk
def device(desk: _Desk, request: Path, zone: str) -> None:
    """Sign what a device asked for in the file REQUEST.

    The key that is shown must be the one the device shows: id show, on the device.

    \b
    Example:
      cyfs-gateway id sign device ood1.request -o ood1.jwt
    """
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.identity.did import dev_did
    from cyfs_ns.identity.documents import DeviceDoc
    from cyfs_ns.identity.request import DeviceRequest

    with telling():
        wish = _wish(request, DeviceRequest)
        wanted = zone_of(zone) or wish.zone
        if wish.zone is not None and wish.zone != wanted:
            raise ConfigFault(f"{request}: it asks for {wish.zone}, and --zone says {wanted}; one of them is wrong")
        path = desk.store.path / "devices" / f"{wish.name}.jwt"
        last = desk.store.last(path)
        issuer = desk.issuer(path)
        document = issuer.device(wish, wanted)
        facts(
            {
                "device": wish.name,
                "key": dev_did(wish.key),
                "zone": wanted or "none: it cannot stand in DNS",
                "addresses": ", ".join(wish.ips) or "none",
                "net": wish.net or "not said",
                "rtcp port": wish.rtcp_port or "the usual one",
                "owner": issuer.id,
                "valid until": day(issuer.exp),
            }
        )
        if isinstance(last, DeviceDoc) and last.key != wish.key:
            click.echo(f"It takes the place of {dev_did(last.key)}, signed on {day(last.iat)}.")
        desk.sign(path, issuer.sign(document), f"Is that {wish.name}, and shall it be yours?")


@sign.command()
@needed_zone_option
@_machines
@_relay
@_at_desk
def boot(desk: _Desk, zone: str, oods: tuple[str, ...], sn: str | None) -> None:
    """Sign how a zone is found: its machines, and the relay before it.

    \b
    Example:
      cyfs-gateway id sign boot --zone home.example --ood ood1:192.0.2.1
    """
    with telling():
        path = desk.store.path / "boot.jwt"
        issuer = desk.issuer(path, whose=did_of(zone))
        document = _boot(issuer, zone, oods, sn)
        _show_zone(document, issuer)
        desk.sign(path, issuer.sign(document))


@sign.command()
@needed_zone_option
@_machines
@_relay
@click.option(
    "--device",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A device's document to put inside; repeated. [default: all you signed for this zone]",
)
@_at_desk
def zone(desk: _Desk, zone: str, oods: tuple[str, ...], sn: str | None, files: tuple[Path, ...]) -> None:
    """Sign the whole of a zone.

    That is its machines with their documents, and its boot document.

    \b
    Example:
      cyfs-gateway id sign zone --zone home.example --ood ood1:192.0.2.1
    """
    with telling():
        path = desk.store.path / "zone.jwt"
        issuer = desk.issuer(path, whose=did_of(zone))
        start = _boot(issuer, zone, oods, sn)
        devices = _devices(desk.store, did_of(zone), files, issuer.key.public)
        document = issuer.zone(start, issuer.sign(start), devices)
        _show_zone(document, issuer)
        desk.sign(path, issuer.sign(document))


def _wish(path: Path, kind: type[R]) -> R:
    """The request in the file ``path``, which has to be of ``kind``."""
    from cyfs_ns.errors import BadWire, ConfigFault
    from cyfs_ns.identity.request import MOST_REQUEST, read_request
    from cyfs_ns.io.trusted.keystore import read_file

    try:
        wish = read_request(read_file(path, MOST_REQUEST), time.time())
    except BadWire as bad:
        raise ConfigFault(f"{path}: {bad}") from None
    if not isinstance(wish, kind):
        raise ConfigFault(f"{path}: {wish.kind}, and not {kind.kind}; say: id sign {wish.kind.partition('-')[0]}")
    return wish


def _owner_facts(document: OwnerDoc) -> dict[str, str]:
    return {
        "name": document.name,
        "full name": document.full_name or "none",
        "did": str(document.id),
        "key": document.key.x,
        "zone": str(document.default_zone or "none"),
        "valid until": day(document.exp),
    }


def _boot(issuer: Issuer, zone: str, oods: Sequence[str], sn: str | None) -> ZoneBoot:
    from cyfs_ns import names
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.identity.oods import read_ood

    machines = [read_ood(ood) for ood in oods]
    if twice := [one.name for at, one in enumerate(machines) if one.name in {other.name for other in machines[:at]}]:
        raise ConfigFault(f"--ood: {twice[0]} is named twice")
    return issuer.boot(did_of(zone), machines, None if sn is None else names.host(sn))


def _devices(store: OwnerStore, zone: Did, files: Sequence[Path], key: PublicKey) -> dict[str, DeviceDoc]:
    """The devices' documents for ``zone``, by name; those named by hand have to fit."""
    from cyfs_ns.errors import BadWire, ConfigFault
    from cyfs_ns.identity.documents import DeviceDoc
    from cyfs_ns.identity.proof import verify
    from cyfs_ns.io.trusted.keystore import read_token_file

    found: dict[str, DeviceDoc] = {}
    for path in files or sorted((store.path / "devices").glob("*.jwt")):
        token, document = read_token_file(path)
        if not isinstance(document, DeviceDoc) or document.zone != zone:
            if files:
                raise ConfigFault(f"{path}: no device of {zone}")
            continue
        try:
            verify(token, DeviceDoc.kind, key, time.time())
        except BadWire as bad:
            raise ConfigFault(f"{path}: {bad}") from None
        if found.setdefault(document.name, document) != document:
            raise ConfigFault(f"{path}: a second document of {document.name!r}")
    return found


def _show_zone(document: ZoneBoot | ZoneDoc, issuer: Issuer) -> None:
    from cyfs_ns.identity.documents import ZoneDoc

    shown = {
        "zone": document.id,
        "machines": ", ".join(map(str, document.oods)),
        "relay": document.sn or "none",
        "owner": issuer.id,
        "valid until": day(issuer.exp),
    }
    if isinstance(document, ZoneDoc):
        shown["documents of"] = ", ".join(document.devices) or "no device"
    facts(shown)
