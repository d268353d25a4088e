"""``id verify``: what a file is worth."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyfs_ns.io.cli.common import facts, identity_home_option, json_option, print_json
from cyfs_ns.io.cli.identifying import bridges, bridges_option, day, public_key
from cyfs_ns.printable import printable

if TYPE_CHECKING:
    from cyfs_ns.trust.checkup import Checkup

_BROKEN = "It does not hold, and nothing in it should be believed."


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--key", default="", metavar="KEY", help="The key it has to be signed with. [default: what is pinned here]"
)
@click.option("--owner", "owner_file", default="", metavar="FILE", help="The owner's document, for the key in it.")
@bridges_option
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
    now, advice = time.time(), ""
    shown: dict[str, Any]
    try:
        data = read_file(file, MOST_TOKEN + 2)
        given = public_key(key or owner_file) if key or owner_file else None
        anchors = TrustStore(home).anchors()
        if b"PRIVATE KEY" in data[:200]:
            raise ConfigFault("a secret key, and no document; it should be read by nobody")
        advice = f"{_BROKEN}  Get it again from whoever issued it."
        if data.lstrip()[:1] == b"{":
            wish = read_request(data[: MOST_REQUEST + 1], now)
            shown = {
                "kind": wish.kind,
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
            found = check_up(token, str(file), anchors, now, given, bridges())
            if not as_json:
                _show_checkup(file, found, now)
                raise SystemExit(0 if found.holds else 1)
            shown = _checkup_json(found)
    except (CyfsError, OSError) as fault:
        shown = {"kind": None, "holds": False, "faults": [str(fault)]}
    if as_json:
        print_json({"file": str(file), **shown})
    elif shown["holds"]:
        click.echo(f"{file}: {shown['kind']}, made by the machine whose key it names, not signed by any owner yet")
        facts(
            {
                name: ", ".join(map(str, value)) if isinstance(value, list) else value
                for name, value in shown["claims"].items()
            }
        )
    else:
        for said in shown["faults"]:
            click.echo(printable(f"{file}: {said.removeprefix(f'{file}: ')}"))
        if advice:
            click.echo(advice)
    raise SystemExit(0 if shown["holds"] else 1)


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
