"""``id new``, ``show``, ``export``, ``rotate``, ``request``, ``accept``: the machine's own identity."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyfs_ns.io.cli.common import facts, identity_home_option, json_option, print_json
from cyfs_ns.io.cli.identifying import (
    day,
    out_option,
    put_request,
    sure,
    telling,
    writing,
    yes_option,
    zone_of,
    zone_option,
)

if TYPE_CHECKING:
    from cyfs_ns.identity.documents import DeviceDoc
    from cyfs_ns.identity.keys import PublicKey
    from cyfs_ns.trust.anchors import Anchors


@click.command()
@click.option("--name", default="", metavar="NAME", help="What the machine is called. [default: its host name]")
@identity_home_option
def new(name: str, home: Path) -> None:
    """Make the key of this machine, which is its identity.

    A machine that has one keeps it: see rotate.

    \b
    Example:
      cyfs-gateway id new --name ood1
    """
    from cyfs_ns.io.trusted.keystore import KeyStore, host_label

    with telling():
        writing(home)
        store = KeyStore(home)
        name = _label(name) if name else host_label()
        store.make_device(name)
        shown = store.view(time.time())
    del shown["document"]
    click.echo(f"made {store.device_pem}")
    facts(shown)


@click.command()
@json_option
@identity_home_option
def show(as_json: bool, home: Path) -> None:
    """Show who this machine is: its key, its names, what its owner signed.

    \b
    Example:
      cyfs-gateway id show --json
    """
    from cyfs_ns.io.trusted.keystore import KeyStore, OwnerStore
    from cyfs_ns.io.trusted.store import TrustStore

    with telling():
        store = KeyStore(home)
        shown = store.view(time.time(), TrustStore(home).anchors())
        owner = OwnerStore(store.path / "owner.pem").document()
        shown["owner"] = None if owner is None else {"did": str(owner.id), "name": owner.name, "key": owner.key.x}
    if as_json:
        print_json({**shown, "home": str(home)})
        return
    document = shown.pop("document")
    owner = shown.pop("owner")
    if document is None:
        shown["document"] = "none yet; ask the owner: id request"
    else:
        if document["exp"] is not None:
            shown |= {"owned by": document["owner"], "zone": document["zone"], "valid until": day(document["exp"])}
        if document["fault"]:
            shown["fault"] = document["fault"]
    if owner is not None:
        shown["lives here"] = f"the owner {owner['name']}, {owner['did']}"
    facts({**shown, "home": home})


@click.command()
@click.option("--did", "form", flag_value="did", default=True, help="did:dev:… [default]")
@click.option("--jwk", "form", flag_value="jwk", help="JSON Web Key, public.")
@click.option("--did-key", "form", flag_value="did-key", help="did:key:z6Mk…")
@click.option("--host", "form", flag_value="host", help="The host name that stands for it, safe in DNS.")
@click.option("--pem", "form", flag_value="pem", help="The secret key itself, PKCS#8 PEM.")
@yes_option
@identity_home_option
def export(form: str, yes: bool, home: Path) -> None:
    """Print this machine's key in the form others want.

    Everything is public but --pem: whoever has that is this machine.

    \b
    Example:
      cyfs-gateway id export --host
    """
    from cyfs_ns.identity.strictjson import write_json
    from cyfs_ns.io.trusted.keystore import KeyStore

    with telling():
        store = KeyStore(home)
        key = store.device()
        if form == "pem":
            sure("Print the secret key of this machine?", yes)
            click.echo(key.pem().decode(), nl=False)
            return
        shown = {name: text for name, text in store.view(time.time()).items() if isinstance(text, str)}
        jwk = write_json(key.public.jwk()).decode()
        click.echo({"jwk": jwk, "did-key": shown["did:key"], "host": shown["host"]}.get(form, shown["did"]))


@click.command()
@yes_option
@identity_home_option
def rotate(yes: bool, home: Path) -> None:
    """Replace the key of this machine.  The old one is kept aside with its date.

    \b
    Example:
      cyfs-gateway id rotate
    """
    from cyfs_ns.io.trusted.keystore import KeyStore

    with telling():
        writing(home)
        store = KeyStore(home)
        store.device()
        sure("Give this machine a new key?  The document its owner signed ends with the old one.", yes)
        aside = store.rotate_device(time.time())
        shown = store.view(time.time())
    del shown["document"]
    click.echo(f"the old key is {aside}; remove it when nothing needs it")
    facts(shown)
    click.echo(
        "Now its owner has to sign it again, and to publish that:\n"
        "  here:                 id request -o FILE\n"
        "  where the owner is:   id sign device FILE, then id txt, and put the records in DNS\n"
        "  here:                 id accept DOCUMENT\n"
        "If the old key may be in wrong hands, the others have to refuse what was signed for it:\n"
        "  id trust ZONE --least-iat now, and sign the zone's other documents again"
    )


@click.command()
@zone_option
@click.option("--name", default="", metavar="NAME", help="What the machine is to be called. [default: as id new said]")
@click.option("--ip", "ips", multiple=True, metavar="IP", help="An address it has; may be repeated.")
@click.option("--net", default="", metavar="NET", help="How it is reached: wan, wan_dyn, portmap, nat, lan1 …")
@click.option("--rtcp-port", type=click.IntRange(1, 65535), metavar="PORT", help="Where it takes tunnels.")
@out_option
@identity_home_option
def request(
    zone: str, name: str, ips: tuple[str, ...], net: str, rtcp_port: int | None, out: Path | None, home: Path
) -> None:
    """Ask the owner for a document, as a file that may travel by mail or on a stick.

    It holds no secret, and is good for three days.  What the owner is shown must be the key that stands here.

    \b
    Example:
      cyfs-gateway id request --zone home.example --ip 192.0.2.1 -o ood1.request
    """
    from cyfs_ns import names
    from cyfs_ns.identity.oods import read_ood
    from cyfs_ns.identity.request import LIFETIME, DeviceRequest
    from cyfs_ns.io.trusted.keystore import KeyStore, host_label

    with telling():
        store = KeyStore(home)
        key = store.device()
        now = int(time.time())
        name = _label(name) if name else store.device_name() or host_label()
        if net:
            read_ood(f"{name}@{net}")
        wish = DeviceRequest(
            name=name,
            key=key.public,
            zone=zone_of(zone),
            ips=tuple(names.ip(ip) for ip in ips),
            net=net or None,
            rtcp_port=rtcp_port,
            iat=now,
            exp=now + LIFETIME,
        )
        put_request(wish, key, out)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--key", default="", metavar="KEY", help="The owner's key, when it is neither pinned nor the owner's name."
)
@yes_option
@identity_home_option
def accept(file: Path, key: str, yes: bool, home: Path) -> None:
    """Take the document that the owner signed for this machine.

    It has to be for the key that is here, and newer than what was accepted before.

    \b
    Example:
      cyfs-gateway id accept ood1.jwt
    """
    from cyfs_ns.errors import BadWire, ConfigFault
    from cyfs_ns.identity.documents import DeviceDoc
    from cyfs_ns.identity.revision import judge, revision_of
    from cyfs_ns.io.cli.identifying import public_key
    from cyfs_ns.io.trusted.keystore import KeyStore, read_token_file
    from cyfs_ns.io.trusted.store import TrustStore
    from cyfs_ns.trust.checkup import check_up

    with telling():
        writing(home)
        store = KeyStore(home)
        token, document = read_token_file(file)
        if not isinstance(document, DeviceDoc):
            raise BadWire(f"{file}: a document of kind {document.kind!r}; a device's is needed")
        if document.key != store.device().public:
            raise BadWire(
                f"{file}: it is for the key {document.key}, another machine's or an old one; ask again: id request"
            )
        anchors = TrustStore(home).anchors()
        given = public_key(key) if key else _by_name(document, anchors)
        found = check_up(token, str(file), anchors, time.time(), given)
        if not found.holds:
            raise BadWire(f"{file}: {'; '.join(found.faults)}")
        above = None if document.zone is None else anchors.pin(document.zone)
        if above is not None and above.key != found.signer:
            raise BadWire(
                f"{file}: not signed by {above.key}, which is pinned for {document.zone}; ask its owner for one"
            )
        held = store.device_document()
        if held is not None and held[1].key == document.key:
            if held[1].owner != document.owner:
                raise ConfigFault(
                    f"{file}: it is {document.owner}'s, and this machine is {held[1].owner}'s;"
                    f" to change hands, remove {store.device_jwt} first"
                )
            change = judge(revision_of(held[1], held[0]), revision_of(document, token))
            if not change.acceptable:
                raise BadWire(f"{file}: {change.value}; {store.device_jwt} stays")
        zone = "no zone" if document.zone is None else document.zone
        click.echo(f"{document.name} of {zone}, owned by {document.owner}, valid until {day(document.exp)}")
        sure("Is that your owner?", yes)
        store.accept(token.text)
    click.echo(f"accepted as {store.device_jwt}")
    if document.owner is not None and anchors.pin(document.owner) is None:
        click.echo(f"to believe what your owner signs for others: id trust {document.owner}")


def _label(name: str) -> str:
    from cyfs_ns.identity.fields import Fields

    return Fields({"name": name}, "machine").label("name")


def _by_name(document: DeviceDoc, anchors: Anchors) -> PublicKey | None:
    """The key that an owner who is a key signs with.  Nothing has to prove more: the person is asked who it is."""
    if document.owner is None or anchors.pin(document.owner) is not None:
        return None
    return document.owner.key
