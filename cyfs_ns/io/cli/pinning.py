"""``id trust``, ``untrust``: whose key this machine knows, by its user's word."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyfs_ns.io.cli.common import identity_home_option, json_option, print_json, table
from cyfs_ns.io.cli.identifying import (
    bridges_option,
    day,
    did_of,
    public_key,
    seconds_of,
    sure,
    telling,
    writing,
    yes_option,
)
from cyfs_ns.printable import printable

if TYPE_CHECKING:
    from cyfs_ns.io.trusted.store import TrustStore
    from cyfs_ns.trust.anchors import Pin


@click.command()
@click.argument("who", default="", metavar="DID|HOST|FILE")
@click.option("--key", default="", metavar="KEY", help="The key it signs with; not needed for one that is a key.")
@click.option(
    "--least-iat", default="", metavar="TIME", help="Refuse what was issued before: now, 2026-11-21, seconds."
)
@click.option("--revoke", is_flag=True, help="Refuse everything it signs.")
@click.option("--list", "listed", is_flag=True, help="Show all pins.")
@bridges_option
@json_option
@yes_option
@identity_home_option
def trust(who: str, key: str, least_iat: str, revoke: bool, listed: bool, as_json: bool, yes: bool, home: Path) -> None:
    """Pin the key of an owner or a zone: what it signs is then owner-signed here, and nobody else can speak for it.

    FILE is an owner's document; the owner is pinned, and the zone that it names.  Compare the key with its owner first,
    by telephone if need be.  A pin that is there already may be changed by --least-iat and --revoke alone.

    \b
    Example:
      cyfs-gateway id trust owner.jwt
      cyfs-gateway id trust home.example --least-iat 2026-11-21
      cyfs-gateway id trust --list
    """
    from cyfs_ns.io.trusted.store import TrustStore

    with telling():
        store = TrustStore(home)
        if listed:
            _show(store.pins(), as_json)
            return
        if not who:
            raise click.UsageError("whom?  id trust DID|HOST --key KEY, or id trust FILE")
        writing(home)
        least = seconds_of(least_iat) if least_iat else None
        pins = [
            replace(pin, least_iat=pin.least_iat if least is None else least, revoked=pin.revoked or revoke)
            for pin in _wanted(store, who, key)
        ]
        held = {pin.about.canonical: pin for pin in store.pins()}
        for pin in pins:
            for line in _told(pin, held.get(pin.about.canonical)):
                click.echo(printable(line))
        sure("Pin it?", yes)
        for pin in pins:
            click.echo(f"pinned: {store.pin(pin)}")


@click.command()
@click.argument("who", metavar="DID|HOST")
@bridges_option
@identity_home_option
def untrust(who: str, home: Path) -> None:
    """Take a pin away.

    \b
    Example:
      cyfs-gateway id untrust home.example
    """
    from cyfs_ns.io.trusted.store import TrustStore

    with telling():
        writing(home)
        about = did_of(who)
        if not TrustStore(home).unpin(about):
            raise click.ClickException(f"{about} is not pinned here")
    click.echo(f"{about} is not pinned any more")


def _wanted(store: TrustStore, who: str, key: str) -> list[Pin]:
    """The pins that the words of the command line mean."""
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.identity.documents import OwnerDoc
    from cyfs_ns.io.trusted.keystore import read_token_file
    from cyfs_ns.trust.anchors import Pin

    now = time.time()
    pins = {pin.about.canonical: pin for pin in store.pins()}
    path = Path(who)
    if not key and not who.startswith("did:") and path.is_file():
        token, document = read_token_file(path)
        if not isinstance(document, OwnerDoc) or not token.verify(document.key):
            raise ConfigFault(f"{path}: not an owner's document, signed by the key in it; name the zone and say --key")
        if document.exp <= now:
            raise ConfigFault(f"{path}: expired on {day(document.exp)}; ask {document.name} for a new one")
        whom = [document.id] if document.default_zone is None else [document.id, document.default_zone]
        new = [Pin(about=about, key=document.key, source=f"{path.absolute()}", at=now) for about in whom]
        return [_no_milder(pin, pins.get(pin.about.canonical)) for pin in new]
    about = did_of(who)
    held = pins.get(about.canonical)
    if not key and held is not None:
        return [replace(held, at=now)]
    known = public_key(key) if key else about.key
    if known is None:
        raise ConfigFault(f"{about} is a name: which key does it have?  Say --key, or give its owner's document")
    if about.key not in (None, known):
        raise ConfigFault(f"{about} is the key {about.key}, and can have no other")
    return [_no_milder(Pin(about=about, key=known, source="id trust", at=now), held)]


def _no_milder(pin: Pin, held: Pin | None) -> Pin:
    """``pin`` in the place of ``held``: to name a key once more takes nothing back that was said of it."""
    from cyfs_ns.errors import ConfigFault

    if held is None or held.key != pin.key:
        return pin
    if held.revoked:
        raise ConfigFault(
            f"{pin.about}: the key {pin.key} is revoked on this machine; if that was a mistake: id untrust {pin.about}"
        )
    return replace(pin, least_iat=held.least_iat)


def _told(pin: Pin, held: Pin | None) -> list[str]:
    """What the pin will mean."""
    said = [f"{pin.about}"]
    if held is not None and held.key != pin.key:
        said.append(f"  had the key {held.key}, pinned on {day(int(held.at))}: only that until now")
    said.append(f"  signs with {pin.key}")
    if pin.revoked:
        return [*said, "  everything it signs, and signed, is refused on this machine"]
    said.append("  what it signs is owner-signed on this machine, and what others sign for it is refused")
    if pin.least_iat:
        said.append(f"  what it issued before {day(pin.least_iat)} is refused")
    return said


def _show(pins: tuple[Pin, ...], as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "about": str(pin.about),
                    "key": pin.key.x,
                    "least_iat": pin.least_iat,
                    "revoked": pin.revoked,
                    "source": pin.source,
                    "at": pin.at,
                }
                for pin in pins
            ]
        )
        return
    rows = [
        (pin.about, pin.key.x, "revoked" if pin.revoked else day(pin.least_iat) if pin.least_iat else "", pin.source)
        for pin in pins
    ]
    table(("WHO", "KEY", "NOT BEFORE", "FROM"), rows)
