"""``id sign``: what an owner puts their name to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyfs_ns.io.cli.common import facts, identity_home_option
from cyfs_ns.io.cli.identifying import (
    day,
    days_option,
    did_of,
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
    from cyfs_ns.identity.documents import DeviceDoc, ZoneBoot, ZoneDoc
    from cyfs_ns.identity.issue import Issuer
    from cyfs_ns.identity.keys import PublicKey
    from cyfs_ns.io.trusted.keystore import OwnerStore

_of_zone = click.option("--zone", required=True, metavar="HOST", help="The zone, as home.example.")
_machines = click.option(
    "--ood", "oods", multiple=True, required=True, metavar="[#|$]NAME[:IP][@NET]", help="A machine of it; repeated."
)
_relay = click.option("--sn", default=None, metavar="HOST", help="The relay it is reached by.")


@click.group()
def sign() -> None:
    """Sign documents with the owner's key, which may live on a machine without a network."""


@sign.command()
@click.argument("request", type=click.Path(path_type=Path))
@owner_option
@zone_option
@days_option
@out_option
@yes_option
@identity_home_option
def device(request: Path, pem: Path | None, zone: str, days: int, out: Path | None, yes: bool, home: Path) -> None:
    """Sign what a device asked for in the file REQUEST.

    The key that is shown must be the one the device shows: id show, on the device.

    \b
    Example:
      cyfs-gateway id sign device ood1.request -o ood1.jwt
    """
    from cyfs_ns.errors import BadWire, ConfigFault
    from cyfs_ns.identity.did import dev_did
    from cyfs_ns.identity.documents import DeviceDoc
    from cyfs_ns.identity.request import MOST_REQUEST, read_request
    from cyfs_ns.io.trusted.keystore import read_file

    with telling():
        try:
            wish = read_request(read_file(request, MOST_REQUEST), time.time())
        except BadWire as bad:
            raise ConfigFault(f"{request}: {bad}") from None
        wanted = zone_of(zone) or wish.zone
        if wish.zone is not None and wish.zone != wanted:
            raise ConfigFault(f"{request}: it asks for {wish.zone}, and --zone says {wanted}; one of them is wrong")
        store = owner_store(pem, home)
        path = store.path / "devices" / f"{wish.name}.jwt"
        last = store.last(path)
        issuer = _issuer(store, path, days)
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
        sure(f"Is that {wish.name}, and shall it be yours?", yes)
        _put(store, path, issuer.sign(document), out)


@sign.command()
@_of_zone
@_machines
@_relay
@owner_option
@days_option
@out_option
@yes_option
@identity_home_option
def boot(
    zone: str,
    oods: tuple[str, ...],
    sn: str | None,
    pem: Path | None,
    days: int,
    out: Path | None,
    yes: bool,
    home: Path,
) -> None:
    """Sign how a zone is found: its machines, and the relay before it.

    \b
    Example:
      cyfs-gateway id sign boot --zone home.example --ood ood1:192.0.2.1
    """
    with telling():
        store = owner_store(pem, home)
        path = store.path / "boot.jwt"
        issuer = _issuer(store, path, days, whose=did_of(zone))
        document = _boot(issuer, zone, oods, sn)
        _show_zone(document, issuer)
        sure("Sign it?", yes)
        _put(store, path, issuer.sign(document), out)


@sign.command()
@_of_zone
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
@owner_option
@days_option
@out_option
@yes_option
@identity_home_option
def zone(
    zone: str,
    oods: tuple[str, ...],
    sn: str | None,
    files: tuple[Path, ...],
    pem: Path | None,
    days: int,
    out: Path | None,
    yes: bool,
    home: Path,
) -> None:
    """Sign the whole of a zone: its machines with their documents, and its boot document.

    \b
    Example:
      cyfs-gateway id sign zone --zone home.example --ood ood1:192.0.2.1
    """
    with telling():
        store = owner_store(pem, home)
        path = store.path / "zone.jwt"
        issuer = _issuer(store, path, days, whose=did_of(zone))
        start = _boot(issuer, zone, oods, sn)
        document = issuer.zone(start, issuer.sign(start), _devices(store, did_of(zone), files, issuer.key.public))
        _show_zone(document, issuer)
        sure("Sign it?", yes)
        _put(store, path, issuer.sign(document), out)


def _issuer(store: OwnerStore, path: Path, days: int, whose: Did | None = None) -> Issuer:
    """The owner, signing the successor of what is at ``path``, which has to be ``whose``."""
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.identity.did import dev_did
    from cyfs_ns.identity.issue import Issuer, next_iat

    key, owner, last = store.key(), store.document(), store.last(path)
    if last is not None and whose is not None and last.subject != whose:
        raise ConfigFault(
            f"{path}: {last.subject}'s is kept there; an owner of two zones keeps each with its own --owner"
        )
    iat = next_iat(None if last is None else last.iat, time.time())
    id = owner.id if owner is not None and owner.key == key.public else dev_did(key.public)
    return Issuer(key=key, id=id, iat=iat, exp=iat + days * 86_400)


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
    from cyfs_ns.identity.documents import DeviceDoc, verify
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


def _put(store: OwnerStore, path: Path, token: str, out: Path | None) -> None:
    """Beside the key, where the next document finds its predecessor, and where the person wants it."""
    store.put(path, token)
    if out is not None:
        put_out(out, token + "\n")
    click.echo(f"signed: {out or path}")


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
