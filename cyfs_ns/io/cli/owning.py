"""``id owner``: the key that signs everything of a person's, and its 24 words on paper."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyfs_ns.io.cli.common import facts, identity_home_option
from cyfs_ns.io.cli.identifying import (
    days_option,
    owner_option,
    owner_store,
    sure,
    telling,
    yes_option,
    zone_of,
    zone_option,
)

if TYPE_CHECKING:
    from cyfs_ns.identity.keys import SecretKey

_place_option = click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Where the owner is to live. [default: HOME/identity]"
)
_name_option = click.option("--name", required=True, metavar="NAME", help="What the owner is called.")
_did_option = click.option("--did", default="", metavar="DID", help="Who the owner is. [default: the key itself]")


@click.group()
def owner() -> None:
    """Make an owner's key, and bring it back from its words."""


@owner.command()
@_name_option
@zone_option
@_did_option
@days_option
@_place_option
@click.option(
    "--words-to",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the 24 words there instead of showing them.",
)
@identity_home_option
def new(name: str, zone: str, did: str, days: int, out: Path | None, words_to: Path | None, home: Path) -> None:
    """Make an owner: a key, and a document signed with it.

    The machine need not be on any network.  The 24 words that are shown once bring the key back; they belong on paper.

    \b
    Example:
      cyfs-gateway id owner new --name alice --zone home.example
    """
    import secrets

    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.identity.keys import SecretKey
    from cyfs_ns.io.trusted.keystore import read_secret

    with telling():
        folder = out.absolute() if out else home / "identity"
        if (folder / "owner.jwt").exists():
            raise ConfigFault(f"{folder / 'owner.jwt'}: an owner lives here already; choose another place with --out")
        pem = folder / "owner.pem"
        key = read_secret(pem) if pem.exists() else SecretKey(secrets.token_bytes(32))
        if words_to is not None:
            _words_to(words_to, key)
        _settle(folder, key, name, zone, did, days)
        if words_to is None:
            _show_words(key)


@owner.command()
@_name_option
@zone_option
@_did_option
@days_option
@_place_option
@identity_home_option
def restore(name: str, zone: str, did: str, days: int, out: Path | None, home: Path) -> None:
    """Bring an owner's key back from its 24 words, read from the terminal or from standard input.

    The document is signed anew.

    \b
    Example:
      cyfs-gateway id owner restore --name alice --zone home.example
    """
    from cyfs_ns.identity.words import COUNT, key_of

    with telling():
        if sys.stdin.isatty():
            written = click.prompt(f"The {COUNT} words", hide_input=True, err=True)
        else:
            written = sys.stdin.read(8192)
        _settle(out.absolute() if out else home / "identity", key_of(written), name, zone, did, days)


@owner.command()
@owner_option
@yes_option
@identity_home_option
def words(pem: Path | None, yes: bool, home: Path) -> None:
    """Show the 24 words of the owner's key.

    \b
    Example:
      cyfs-gateway id owner words
    """
    with telling():
        key = owner_store(pem, home).key()
        sure("Show the words?  Whoever sees them is the owner.", yes)
        _show_words(key)


def _settle(folder: Path, key: SecretKey, name: str, zone: str, did: str, days: int) -> None:
    from cyfs_ns.identity.did import dev_did, parse_did
    from cyfs_ns.identity.issue import Issuer, next_iat
    from cyfs_ns.io.trusted.keystore import OwnerStore, put_owner

    last, now = OwnerStore(folder / "owner.pem").document(), time.time()
    iat = next_iat(None if last is None else last.iat, now)
    issuer = Issuer(key=key, id=parse_did(did) if did else dev_did(key.public), iat=iat, exp=iat + days * 86_400)
    document = issuer.owner(name, zone=zone_of(zone))
    put_owner(folder, key, issuer.sign(document))
    click.echo(f"{folder / 'owner.pem'} is the secret, {folder / 'owner.jwt'} is for everybody")
    facts({"name": name, "did": issuer.id, "key": key.public.x, "zone": zone or "none"})


def _words_to(path: Path, key: SecretKey) -> None:
    """Before the key itself is written: a full disk must not leave an owner without words."""
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.identity.words import words_of
    from cyfs_ns.io.atomic import write_atomic

    if path.exists():
        raise ConfigFault(f"{path} exists, and words are not written over anything")
    write_atomic(path, ("\n".join(_numbered(words_of(key))) + "\n").encode())
    click.echo(f"the words are in {path}: print it, then remove it", err=True)


def _show_words(key: SecretKey) -> None:
    from cyfs_ns.identity.words import words_of

    click.echo("\nWrite these words down on paper.  They are the key: whoever has them is the owner.\n")
    click.echo("\n".join(_numbered(words_of(key))))


def _numbered(words: Sequence[str]) -> list[str]:
    return [
        "  ".join(f"{at + 1:>2} {words[at]:<9}" for at in range(row, row + 4)).rstrip()
        for row in range(0, len(words), 4)
    ]
