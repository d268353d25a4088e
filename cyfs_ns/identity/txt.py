"""The TXT records that publish an owner, a zone and its devices in DNS.

``BOOT=<token>;`` is the zone's boot document, ``PKX=<x>;`` the owner's key (older: ``PKX=0:<x>;``; with the owner's
name behind it: ``PKX=<x>:bns:alice;``), ``DEV=<token>;`` a device, and the first forerunner's ``DID=<token>;`` a whole
zone document.  The semicolon belongs to the format.  A token is longer than 255 bytes, so a record is several character
strings that are joined without anything between them.

A name has other TXT records too (SPF, verifications of strangers): they are not ours and are passed over.  What bears
one of our marks and cannot be read is a fault that is told; two keys or two boot documents at one name are told too,
since nobody can say which is meant.  ``DEV`` records carry the owner's signature; they and ``BOOT`` are worth what the
key is worth that they are checked with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, parse_did
from cyfs_ns.identity.keys import PublicKey, read_x
from cyfs_ns.identity.token import Token, read_token

MOST_TXT = 4096
"""Bytes of the longest record of ours."""

_MOST_DEVICES = 32
_MARKS = ("BOOT=", "PKX=", "DEV=", "DID=")


@dataclass(frozen=True, slots=True)
class Published:
    """What the TXT records of one name say; nothing of it is verified.  ``faults`` are for people."""

    key: PublicKey | None = None
    owner: Did | None = None
    boot: Token | None = None
    zone: Token | None = None
    devices: tuple[Token, ...] = ()
    faults: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.key is not None or self.boot is not None or self.zone is not None or bool(self.devices)


def read_published(untrusted: Iterable[bytes]) -> Published:
    """What the records say, each given as one run of bytes.  Never raises: what cannot be read is a fault."""
    keys: dict[tuple[PublicKey, Did | None], None] = {}
    tokens: dict[str, dict[str, Token]] = {"BOOT": {}, "DEV": {}, "DID": {}}
    faults = []
    for record in untrusted:
        mark = next((mark for mark in _MARKS if record.startswith(mark.encode())), None)
        if mark is None:
            continue
        try:
            text = _value(record, mark)
            if mark == "PKX=":
                keys[_read_pkx(text)] = None
            else:
                token = read_token(text, f"TXT {mark[:-1]}", MOST_TXT)
                tokens[mark[:-1]].setdefault(token.text, token)
        except BadWire as bad:
            faults.append(str(bad))
    for mark, found in (("PKX", list(keys)), ("BOOT", list(tokens["BOOT"])), ("DID", list(tokens["DID"]))):
        if len(found) > 1:
            faults.append(f"TXT {mark}: {len(found)} different ones; none is believed, remove all but one")
    if len(tokens["DEV"]) > _MOST_DEVICES:
        faults.append(f"TXT DEV: {len(tokens['DEV'])} records, the first {_MOST_DEVICES} are read")
    key, owner = next(iter(keys)) if len(keys) == 1 else (None, None)
    return Published(
        key=key,
        owner=owner,
        boot=_only(tokens["BOOT"]),
        zone=_only(tokens["DID"]),
        devices=tuple(tokens["DEV"].values())[:_MOST_DEVICES],
        faults=tuple(faults),
    )


def txt_record(mark: str, value: str) -> str:
    """The text of one record: ``txt_record("PKX", key.x)``."""
    return f"{mark}={value};"


def character_strings(text: str, most: int = 255) -> tuple[str, ...]:
    """``text`` in the pieces that a TXT record consists of (RFC 1035 §3.3.14)."""
    return tuple(text[at : at + most] for at in range(0, len(text), most)) or ("",)


def joined_txt(data: bytes) -> bytes:
    """The character strings of TXT data as one run of bytes."""
    at, parts = 0, []
    while at < len(data):
        parts.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return b"".join(parts)


def _value(record: bytes, mark: str) -> str:
    if len(record) > MOST_TXT:
        raise BadWire(f"TXT {mark[:-1]}: {len(record)} bytes, at most {MOST_TXT} are read")
    try:
        text = record.decode("ascii").strip()[len(mark) :]
    except UnicodeDecodeError:
        raise BadWire(f"TXT {mark[:-1]}: not ASCII") from None
    value, semicolon, behind = text.partition(";")
    if not semicolon or behind.strip():
        raise BadWire(f"TXT {mark[:-1]}: does not end with its one semicolon: cut off, or glued to another")
    return value.strip()


def _read_pkx(text: str) -> tuple[PublicKey, Did | None]:
    parts = text.split(":")
    if len(parts) == 2 and parts[0] == "0":
        return read_x(parts[1]), None
    if len(parts) == 2:
        raise BadWire("TXT PKX: a key, or a key with method and name behind it")
    return read_x(parts[0]), (parse_did(f"did:{parts[1]}:{parts[2]}") if len(parts) > 2 else None)


def _only(found: dict[str, Token]) -> Token | None:
    return next(iter(found.values())) if len(found) == 1 else None
