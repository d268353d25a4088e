"""``id sign``, ``verify``, ``txt``: what an owner signs, what it is worth, and how it is published."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyfs_ns.io.cli.common import facts, identity_home_option, json_option, print_json
from cyfs_ns.io.cli.identifying import (
    day,
    days_option,
    did_of,
    out_option,
    public_key,
    sure,
    telling,
    yes_option,
    zone_of,
    zone_option,
)
from cyfs_ns.printable import printable

if TYPE_CHECKING:
    from cyfs_ns.identity.did import Did
    from cyfs_ns.identity.documents import DeviceDoc, ZoneBoot, ZoneDoc
    from cyfs_ns.identity.issue import Issuer
    from cyfs_ns.identity.keys import PublicKey
    from cyfs_ns.identity.token import Token
    from cyfs_ns.io.trusted.keystore import OwnerStore
    from cyfs_ns.trust.checkup import Checkup

_BROKEN = "It does not hold, and nothing in it should be believed.  Get it again from whoever issued it."

_owner_option = click.option(
    "--owner",
    "pem",
    type=click.Path(path_type=Path),
    metavar="PEM",
    help="The owner's key; what it signs is kept beside it. [default: HOME/identity/owner.pem]",
)
_boot_options = (
    click.option("--zone", required=True, metavar="HOST", help="The zone, as home.example."),
    click.option(
        "--ood", "oods", multiple=True, required=True, metavar="[#|$]NAME[:IP][@NET]", help="A machine of it; repeated."
    ),
    click.option("--sn", default=None, metavar="HOST", help="The relay it is reached by."),
)


@click.group()
def sign() -> None:
    """Sign documents with the owner's key, which may live on a machine without a network."""


@sign.command()
@click.argument("request", type=click.Path(path_type=Path))
@_owner_option
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
        store = _owner(pem, home)
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
@_boot_options[0]
@_boot_options[1]
@_boot_options[2]
@_owner_option
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
        store = _owner(pem, home)
        path = store.path / "boot.jwt"
        issuer = _issuer(store, path, days, whose=did_of(zone))
        document = _boot(issuer, zone, oods, sn)
        _show_zone(document, issuer)
        sure("Sign it?", yes)
        _put(store, path, issuer.sign(document), out)


@sign.command()
@_boot_options[0]
@_boot_options[1]
@_boot_options[2]
@click.option(
    "--device",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A device's document to put inside; repeated. [default: all you signed for this zone]",
)
@_owner_option
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
        store = _owner(pem, home)
        path = store.path / "zone.jwt"
        issuer = _issuer(store, path, days, whose=did_of(zone))
        start = _boot(issuer, zone, oods, sn)
        document = issuer.zone(start, issuer.sign(start), _devices(store, did_of(zone), files, issuer.key.public))
        _show_zone(document, issuer)
        sure("Sign it?", yes)
        _put(store, path, issuer.sign(document), out)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--key", default="", metavar="KEY", help="The key it has to be signed with. [default: what is pinned here]"
)
@click.option("--owner", "owner_file", default="", metavar="FILE", help="The owner's document, for the key in it.")
@json_option
@identity_home_option
def verify(file: Path, key: str, owner_file: str, as_json: bool, home: Path) -> None:
    """Say what the document in FILE is, who signed it, how sure that is, and what is wrong with it.

    Without --key or --owner the pins of this machine are asked (id trust).  Exits with 1 when it does not hold.

    \b
    Example:
      cyfs-gateway id verify ood1.jwt --owner owner.jwt
    """
    from cyfs_ns.errors import BadWire, ConfigFault, CyfsError
    from cyfs_ns.identity.request import MOST_REQUEST, read_request
    from cyfs_ns.identity.token import MOST_TOKEN, read_token
    from cyfs_ns.io.trusted.keystore import read_file
    from cyfs_ns.io.trusted.store import TrustStore
    from cyfs_ns.trust.checkup import check_up

    if key and owner_file:
        raise click.UsageError("one of --key and --owner is enough")
    now = time.time()
    shown: dict[str, Any]
    try:
        data = read_file(file, MOST_TOKEN + 2)
        given = public_key(key or owner_file) if key or owner_file else None
        if b"PRIVATE KEY" in data[:200]:
            raise ConfigFault("a secret key, and no document; it should be read by nobody")
        if data.lstrip()[:1] == b"{":
            wish = read_request(data[: MOST_REQUEST + 1], now)
            shown = {
                "kind": "device-request",
                "holds": True,
                "claims": wish.claims(),
                "signer": wish.key.x,
                "faults": [],
            }
        else:
            try:
                token = read_token(data.decode("ascii").strip(), "document")
            except UnicodeDecodeError:
                raise BadWire("document: not ASCII, as every token is; get it again from whoever issued it") from None
            found = check_up(token, str(file), TrustStore(home).anchors(), now, given)
            if not as_json:
                _show_checkup(file, found, now)
                raise SystemExit(0 if found.holds else 1)
            shown = _checkup_json(found)
    except (CyfsError, OSError) as fault:
        shown = {"kind": None, "holds": False, "faults": [str(fault)]}
    if as_json:
        print_json({"file": str(file), **shown})
    elif shown["holds"]:
        click.echo(f"{file}: the request of a device, made by the key it names, not signed by any owner yet")
        facts(
            {
                name: ", ".join(map(str, value)) if isinstance(value, list) else value
                for name, value in shown["claims"].items()
            }
        )
    else:
        for said in shown["faults"]:
            click.echo(printable(f"{file}: {said.removeprefix(f'{file}: ')}"))
        click.echo(_BROKEN)
    raise SystemExit(0 if shown["holds"] else 1)


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
@_owner_option
@identity_home_option
def txt(files: tuple[Path, ...], form: str, zone: str, key: str, pem: Path | None, home: Path) -> None:
    """Print the DNS records to publish: the owner's key, how the zone is found, and its devices.

    Without FILEs: everything the owner who lives here signed for the zone.  Only documents that hold are printed.

    \b
    Example:
      cyfs-gateway id txt --format cyfs-ns
    """
    from cyfs_ns.errors import BadWire
    from cyfs_ns.identity import publish

    with telling():
        store = _owner(pem, home)
        wanted = zone_of(zone)
        tokens = _published(files) if files else _signed_here(store, wanted)
        whose = public_key(key) if key else _key_of(tokens, store)
        if whose is None:
            raise BadWire("whose key is to be published?  Name the owner's document too, or say --key")
        published = publish.publication([(str(path), token) for path, token in tokens], whose, time.time(), wanted)
    written = {
        "zone": publish.as_zone,
        "records": publish.as_records,
        "dnsmasq": publish.as_dnsmasq,
        "cyfs-ns": publish.as_cyfs_ns,
    }[form](published)
    click.echo(written, nl=False)
    for note in published.notes:
        click.echo(printable(f"note: {note}"), err=True)


def _owner(pem: Path | None, home: Path) -> OwnerStore:
    from cyfs_ns.io.trusted.keystore import OwnerStore

    return OwnerStore(pem.absolute() if pem else home / "identity" / "owner.pem")


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
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.identity.documents import DeviceDoc, verify
    from cyfs_ns.io.trusted.keystore import read_token_file

    found: dict[str, DeviceDoc] = {}
    for path in files or sorted((store.path / "devices").glob("*.jwt")):
        token, document = read_token_file(path)
        if not isinstance(document, DeviceDoc) or document.zone != zone:
            if files:
                raise ConfigFault(f"{path}: no device of {zone}")
            continue
        verify(token, DeviceDoc.kind, key, time.time())
        if found.setdefault(document.name, document) != document:
            raise ConfigFault(f"{path}: a second document of {document.name!r}")
    return found


def _put(store: OwnerStore, path: Path, token: str, out: Path | None) -> None:
    """Beside the key, where the next document finds its predecessor, and where the person wants it."""
    from cyfs_ns.io.trusted.keystore import write_document

    store.put(path, token)
    if out is not None:
        write_document(out, token)
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
    from cyfs_ns.identity.documents import OwnerDoc, read_document

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


def _show_checkup(file: Path, found: Checkup, now: float) -> None:
    for line in _checkup_lines(file, found, now):
        click.echo(line)


def _checkup_lines(file: Path, found: Checkup, now: float) -> Iterator[str]:
    from cyfs_ns.trust.outcome import Found
    from cyfs_ns.trust.printed import outcome_lines

    document = found.document
    about = "somebody it does not name" if document.subject is None else document.subject
    yield printable(f"{file}: {document.kind} document of {about}")
    yield printable(f"  says it is signed by: {document.issuer or 'the owner of its zone'}")
    yield f"  issued {day(document.iat)}, valid until {day(document.exp)}"
    if found.claim is not None:
        seen = Found(subject=found.claim.about, claims=(found.claim,))
        for line in list(outcome_lines(seen, now))[1:]:
            yield f"  {line}"
    for fault in found.faults:
        yield printable(f"! {fault}")
    yield "It holds." if found.holds else _BROKEN


def _checkup_json(found: Checkup) -> dict[str, Any]:
    document = found.document
    return {
        "kind": document.kind,
        "holds": found.holds,
        "about": None if document.subject is None else str(document.subject),
        "issuer": None if document.issuer is None else str(document.issuer),
        "signer": None if found.signer is None else found.signer.x,
        "trust": None if found.claim is None else found.claim.trust.label,
        "iat": document.iat,
        "exp": document.exp,
        "claims": document.claims(),
        "faults": list(found.faults),
    }
