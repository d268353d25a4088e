"""``id owner``: the key that signs everything of a person's, and its 24 words on paper."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyfs_ns.io.cli.common import facts, identity_home_option
from cyfs_ns.io.cli.identifying import (
    days_option,
    did_of,
    out_option,
    owner_option,
    owner_store,
    put_request,
    sure,
    telling,
    yes_option,
    zone_of,
    zone_option,
)

if TYPE_CHECKING:
    from cyfs_ns.identity.keys import SecretKey


@dataclass(frozen=True, slots=True)
class _Newcomer:
    """Who an owner is to be, for how many days, and the directory they are to live in."""

    name: str
    zone: str
    did: str
    days: int
    folder: Path

    def settle(self, key: SecretKey, first: Callable[[], None] = lambda: None) -> None:
        """Write the key and a document signed with it, and say where; ``first`` comes when only that is left."""
        from cyfs_ns.identity.did import dev_did, parse_did
        from cyfs_ns.identity.issue import Issuer, next_iat
        from cyfs_ns.io.trusted.keystore import OwnerStore, put_owner

        pem = self.folder / "owner.pem"
        last, now = OwnerStore(pem).document(), time.time()
        iat = next_iat(None if last is None else last.iat, now)
        id = parse_did(self.did) if self.did else dev_did(key.public)
        issuer = Issuer(key=key, id=id, iat=iat, exp=iat + self.days * 86_400)
        document = issuer.owner(self.name, zone=zone_of(self.zone))
        signed = issuer.sign(document)
        first()
        put_owner(self.folder, key, signed)
        click.echo(f"{pem} is the secret, {self.folder / 'owner.jwt'} is for everybody")
        facts({"name": self.name, "did": issuer.id, "key": key.public.x, "zone": self.zone or "none"})


def _of_newcomer(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say who an owner is, handed over as a ``_Newcomer``."""

    @functools.wraps(command)
    def named(name: str, zone: str, did: str, days: int, out: Path | None, home: Path, **more: Any) -> None:
        command(_Newcomer(name, zone, did, days, out.absolute() if out else home / "identity"), **more)

    options = (
        click.option("--name", required=True, metavar="NAME", help="What the owner is called."),
        zone_option,
        click.option("--did", default="", metavar="DID", help="Who the owner is. [default: the key itself]"),
        days_option,
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Where the owner is to live. [default: HOME/identity]",
        ),
        identity_home_option,
    )
    return functools.reduce(lambda told, option: option(told), reversed(options), named)


@click.group()
def owner() -> None:
    """Make an owner's key, and bring it back from its words.

    \b
    Example:
      cyfs-gateway id owner new --name alice --zone home.example
    """


@owner.command()
@_of_newcomer
@click.option(
    "--words-to",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the 24 words there instead of showing them.",
)
def new(newcomer: _Newcomer, words_to: Path | None) -> None:
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
        if (there := newcomer.folder / "owner.jwt").exists():
            raise ConfigFault(f"{there}: an owner lives here already; choose another place with --out")
        pem = newcomer.folder / "owner.pem"
        key = read_secret(pem) if pem.exists() else SecretKey(secrets.token_bytes(32))
        # Before the key is written: a full disk, or nobody who reads, must not leave an owner without words.
        newcomer.settle(key, lambda: _show_words(key) if words_to is None else _words_to(words_to, key))


@owner.command()
@_of_newcomer
def restore(newcomer: _Newcomer) -> None:
    """Bring an owner's key back from its 24 words.

    They are read from the terminal or from standard input.  The document is signed anew.

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
        newcomer.settle(key_of(written))


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


@owner.command()
@click.option("--name", metavar="NAME", help="What the owner is to be called.")
@click.option("--full-name", metavar="TEXT", help="What the owner is called in full.")
@zone_option
@click.option("--did", default="", metavar="DID", help="Who the owner is to be.")
@out_option
@identity_home_option
def request(name: str | None, full_name: str | None, zone: str, did: str, out: Path | None, home: Path) -> None:
    """Ask the owner to sign their own document anew.

    This is for an owner whose key is elsewhere.  What is not said stays as it was signed last.  The file holds no
    secret, and is good for three days.

    \b
    Example:
      cyfs-gateway id owner request --zone home.example -o alice.request
    """
    from cyfs_ns.identity.request import LIFETIME, OwnerRequest
    from cyfs_ns.io.trusted.keystore import KeyStore

    with telling():
        key = KeyStore(home).device()
        now = int(time.time())
        wish = OwnerRequest(
            key=key.public,
            name=name or None,
            full_name=full_name,
            id=did_of(did) if did else None,
            zone=zone_of(zone),
            iat=now,
            exp=now + LIFETIME,
        )
        put_request(wish, key, out)


def _words_to(path: Path, key: SecretKey) -> None:
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
    click.echo("\n".join(_numbered(words_of(key))) + "\n")


def _numbered(words: Sequence[str]) -> list[str]:
    return [
        "  ".join(f"{at + 1:>2} {words[at]:<9}" for at in range(row, row + 4)).rstrip()
        for row in range(0, len(words), 4)
    ]
