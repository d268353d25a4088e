"""``id txt``: the records that publish an owner, a zone and its devices in DNS."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyfs_ns.io.cli.common import identity_home_option
from cyfs_ns.io.cli.identifying import (
    bridges,
    out_option,
    owner_option,
    owner_store,
    public_key,
    put_out,
    telling,
    zone_of,
    zone_option,
)
from cyfs_ns.printable import printable

if TYPE_CHECKING:
    from cyfs_ns.identity.did import Did
    from cyfs_ns.identity.keys import PublicKey
    from cyfs_ns.identity.token import Token
    from cyfs_ns.io.trusted.keystore import OwnerStore


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(("zone", "records", "dnsmasq", "cyfs-ns")),
    default="zone",
    show_default=True,
    help="Lines of a zone file; name, type and value for web forms; lines for dnsmasq; YAML for cyfs-ns.",
)
@zone_option
@click.option("--key", default="", metavar="KEY", help="The owner's key. [default: of owner.jwt]")
@owner_option
@out_option
@identity_home_option
def txt(
    files: tuple[Path, ...], form: str, zone: str, key: str, pem: Path | None, out: Path | None, home: Path
) -> None:
    """Print the DNS records to publish: the owner's key, how the zone is found, and its devices.

    Without FILEs: everything the owner who lives here signed for the zone.  Only documents that hold are printed.

    \b
    Example:
      cyfs-gateway id txt --format cyfs-ns
    """
    from cyfs_ns.errors import BadWire
    from cyfs_ns.identity import publish

    with telling():
        store = owner_store(pem, home)
        wanted = zone_of(zone)
        tokens = _published(files) if files else _signed_here(store, wanted)
        whose = public_key(key) if key else _key_of(tokens, store)
        if whose is None:
            raise BadWire("whose key is to be published?  Name the owner's document too, or say --key")
        named = [(str(path), token) for path, token in tokens]
        published = publish.publication(named, whose, time.time(), wanted, bridges())
    written = {
        "zone": publish.as_zone,
        "records": publish.as_records,
        "dnsmasq": publish.as_dnsmasq,
        "cyfs-ns": publish.as_cyfs_ns,
    }[form](published)
    with telling():
        put_out(out, written)
    for note in published.notes:
        click.echo(printable(f"note: {note}"), err=True)


def _published(files: Sequence[Path]) -> list[tuple[Path, Token]]:
    from cyfs_ns.io.trusted.keystore import read_token_file

    return [(path, read_token_file(path)[0]) for path in files]


def _signed_here(store: OwnerStore, zone: Did | None) -> list[tuple[Path, Token]]:
    """The boot document and the devices' of one zone."""
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.identity.documents import DeviceDoc, ZoneBoot
    from cyfs_ns.io.trusted.keystore import read_token_file

    found = []
    for path in (store.path / "boot.jwt", *sorted((store.path / "devices").glob("*.jwt"))):
        if not path.exists():
            continue
        token, document = read_token_file(path)
        if isinstance(document, ZoneBoot):
            zone = zone or document.id
            if document.id == zone:
                found.append((path, token))
        elif isinstance(document, DeviceDoc) and document.mini_jwt and zone in (None, document.zone):
            found.append((path, token))
    if not found:
        raise ConfigFault(
            f"{store.path}: nothing is signed here to be published; start with: id sign boot, id sign device"
        )
    return found


def _key_of(tokens: Sequence[tuple[Path, Token]], store: OwnerStore) -> PublicKey | None:
    """The owner's key: from an owner's document among the files, an issuer that is a key, or who lives here."""
    from cyfs_ns.identity.documents import OwnerDoc
    from cyfs_ns.identity.reading import read_document

    documents = [read_document(token.claims) for _, token in tokens]
    for document in documents:
        if isinstance(document, OwnerDoc):
            return document.key
    for document in documents:
        if document.issuer is not None and (key := document.issuer.key) is not None:
            return key
    if (owner := store.document()) is not None:
        return owner.key
    return store.key().public if store.pem.exists() else None
