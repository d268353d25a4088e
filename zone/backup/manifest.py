"""What a backup holds: for everybody who made it and which chunks it needs, for the owner how to read them.

    8 octets      ``cyfsbak1``
    64            the machine's signature (Ed25519) over a label and the SHA-256 of all that follows
    4             length of the head (big-endian)
    head          JSON: zone, machine and its documents, number, time, chunks, and the index's key, sealed to the owner
    32 × chunks   their names
    rest          the index, compressed and encrypted: what was saved, as parts, and where and how each is found

Machines count their backups.  A manifest names the one before it by its hash, and the newest number that it saw of each
other machine, so that a target that holds back what is newer is told from one that has no more (:func:`missing`).
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cyfs_ns.errors import BadWire, Refused
from cyfs_ns.identity.bases import from_base64url, to_base64url
from cyfs_ns.identity.documents import DeviceDoc
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.identity.proof import verify
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from cyfs_ns.identity.token import Token, read_token
from rtcp.v5.keys import device_key
from zone.backup.chunks import PIECE, pack, unpack
from zone.config import sealed
from zone.config.faults import ConfigError
from zone.membership import Membership, read_owner

MOST_CHUNKS: Final = 1 << 20
"""Chunks of a backup: 1 TiB."""
MOST_MANIFEST: Final = 128 << 20
MOST_PARTS: Final = 1024
MOST_MACHINES: Final = 256
LATEST: Final = 253_402_300_799
"""The last second of the year 9999."""
DICE: Final = 32 + sealed.DICE
"""Random bytes that a manifest takes."""

_MAGIC: Final = b"cyfsbak1"
_LABEL: Final = b"cyfs-backup-manifest-1|"
_SIGNED: Final = len(_MAGIC) + 64
_MOST_HEAD: Final = 64 * 1024
_MOST_TOKEN: Final = 16_384
_NAME: Final = 32
_REF: Final = struct.Struct(">II32s")
_NONCE: Final = bytes(12)
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}(?:\.[A-Za-z0-9_-]{1,62}){0,8}\Z")


class Kind(StrEnum):
    """What a part becomes."""

    FILE = "file"
    FOLDER = "folder"
    """The bytes are a tar archive of what is in it."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A piece of a part."""

    chunk: bytes
    size: int
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is saved and restored by itself."""

    name: str
    kind: Kind
    revision: int
    """Of the zone's configuration, where it is that; else 0."""
    size: int
    sha256: bytes
    pieces: tuple[Ref, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What anybody may know of a backup."""

    zone: str
    machine: str
    number: int
    """From 1, one more for each backup of this machine."""
    made: int
    """Seconds since 1970, by the machine's clock.  For people, and for how long it is kept; nothing else goes by it."""
    previous: str
    """The digest of the manifest before it; empty: there was none."""
    seen: Mapping[str, int]
    """The newest of each other machine that was there."""
    owner: PublicKey
    digest: str
    """SHA-256 of the whole, in hexadecimal digits."""
    chunks: tuple[bytes, ...] = field(repr=False)
    key: str = field(repr=False)
    """The index's, sealed to the owner."""
    index: bytes = field(repr=False)

    @property
    def label(self) -> str:
        """As people call it."""
        return f"{self.machine}/{self.number}"


def is_part(name: str) -> bool:
    """Whether a part may be called so: what it becomes is a file of that name."""
    return _PART.match(name) is not None


def write_manifest(
    membership: Membership,
    key: SecretKey,
    number: int,
    made: int,
    previous: str,
    seen: Mapping[str, int],
    parts: Sequence[Part],
    dice: bytes,
) -> bytes:
    """The manifest of ``parts``, made by the machine of ``membership``, whose key this is.

    ``dice``: ``DICE`` random bytes.  Raises ``Refused`` for more than a manifest holds.
    """
    names = list(dict.fromkeys(ref.chunk for part in parts for ref in part.pieces))
    if len(names) > MOST_CHUNKS or len(parts) > MOST_PARTS:
        raise Refused(
            f"{len(names)} chunks and {len(parts)} parts: a backup has {MOST_CHUNKS} and {MOST_PARTS} at most"
        )
    if not 0 <= made <= LATEST:
        raise Refused(f"the clock says {made}; set it right")
    zone, owner = str(membership.zone.id.canonical), membership.owner.key
    own = dice[:32]
    head: dict[str, Json] = {
        "zone": zone,
        "machine": membership.name,
        "number": number,
        "made": made,
        "previous": previous,
        "seen": dict(seen),
        "owner": membership.owner_token.text,
        "device": membership.device_token.text,
        "chunks": len(names),
        "index": sealed.seal(place_of(zone, membership.name, number), to_base64url(own), [owner], dice[32:]),
    }
    text = write_json(head)
    index = ChaCha20Poly1305(own).encrypt(_NONCE, pack(_write_index(parts, names)), None)
    body = b"".join((len(text).to_bytes(4, "big"), text, *names, index))
    if len(body) > MOST_MANIFEST - _SIGNED:
        raise Refused("too much for one backup; save fewer parts at once")
    return _MAGIC + key.sign(_LABEL + hashlib.sha256(body).digest()) + body


def read_manifest(untrusted: bytes, owner: PublicKey, machine: str, number: int) -> Manifest:
    """The manifest that a target has in the place of backup ``number`` of ``machine``, a machine of ``owner``.

    The machine's document need not be in force any more.  Raises ``BadWire``.
    """
    try:
        return _read(untrusted, owner, machine, number)
    except BadWire as bad:
        raise BadWire(f"backup {machine}/{number}: {bad}") from None


def _read(untrusted: bytes, owner: PublicKey, machine: str, number: int) -> Manifest:
    if len(untrusted) > MOST_MANIFEST:
        raise BadWire(f"{len(untrusted)} bytes, at most {MOST_MANIFEST} are read")
    if untrusted[: len(_MAGIC)] != _MAGIC or len(untrusted) < _SIGNED + 4:
        raise BadWire("this is no manifest")
    body = memoryview(untrusted)[_SIGNED:]
    length = int.from_bytes(body[:4], "big")
    if length > min(_MOST_HEAD, len(body) - 4):
        raise BadWire(f"its head has {length} bytes")
    fields = Fields(read_object(bytes(body[4 : 4 + length]), "manifest"), "manifest")
    by = _maker(fields, owner)
    if not by.key.verify(untrusted[len(_MAGIC) : _SIGNED], _LABEL + hashlib.sha256(body).digest()):
        raise BadWire(f"it is not what {by.name} signed")
    zone = str(by.zone.canonical) if by.zone is not None else ""
    if (count := fields.number("chunks")) > MOST_CHUNKS:
        raise fields.wrong("chunks", f"is more than {MOST_CHUNKS}")
    if (made := fields.number("made")) > LATEST:
        raise fields.wrong("made", "is past the year 9999")
    found = Manifest(
        zone=fields.text("zone"),
        machine=fields.text("machine"),
        number=fields.number("number"),
        made=made,
        previous=fields.text_or_none("previous") or "",
        seen=_seen(fields),
        owner=owner,
        digest=hashlib.sha256(untrusted).hexdigest(),
        chunks=tuple(bytes(body[at : at + _NAME]) for at in range(4 + length, 4 + length + count * _NAME, _NAME)),
        key=fields.text_or_none("index", 4096) or "",
        index=bytes(body[4 + length + count * _NAME :]),
    )
    if unknown := [*fields.rest()]:
        raise BadWire(f"{unknown[0][:40]!r} does not belong there")
    if len(body) < 4 + length + count * _NAME:
        raise BadWire("it ends within the names of its chunks")
    if (found.zone, found.machine) != (zone, by.name):
        raise BadWire(f"signed by {by.name} of {zone} for {found.label} of {found.zone}")
    if (found.machine, found.number) != (machine, number):
        raise BadWire(f"in its place is {found.label}: somebody exchanged them")
    return found


def _maker(fields: Fields, owner: PublicKey) -> DeviceDoc:
    """Whose manifest it says it is, if that is a machine of ``owner``: by documents that held when they were signed."""
    owner_token = _token(fields, "owner")
    device_token = _token(fields, "device")
    document = read_owner(owner_token, _issued(owner_token))
    if document.key != owner:
        raise BadWire(f"its owner's key is {document.key.x}, not {owner.x}")
    device = verify(device_token, DeviceDoc.kind, owner, _issued(device_token), issuer=document.id)
    assert isinstance(device, DeviceDoc)  # ``verify`` was told the kind
    return device


def _token(fields: Fields, name: str) -> Token:
    return read_token(fields.text_or_none(name, _MOST_TOKEN) or "", f"{name} document", _MOST_TOKEN)


def _issued(token: Token) -> int:
    found = token.claims.get("iat")
    return found if isinstance(found, int) else 0


def _seen(fields: Fields) -> dict[str, int]:
    found = fields.take("seen")
    if not isinstance(found, Mapping) or len(found) > MOST_MACHINES:
        raise fields.wrong("seen", "is no table of machines")
    told: dict[str, int] = {}
    for name, number in found.items():
        if not isinstance(number, int) or number < 1:
            raise fields.wrong("seen", "has no number of a backup")
        told[name] = number
    return told


def open_manifest(manifest: Manifest, owner: SecretKey) -> tuple[Part, ...]:
    """What was saved, for ``owner``.  Raises ``BadWire``; ``Refused`` if it is sealed to another key."""
    if manifest.owner != owner.public:
        raise Refused(f"backup {manifest.label} is for {manifest.owner.x}; this key is {owner.public.x}")
    place = place_of(manifest.zone, manifest.machine, manifest.number)
    try:
        key = sealed.unseal(place, manifest.key, device_key(owner))
    except ConfigError as bad:
        raise BadWire(f"backup {manifest.label}: {bad.message}") from None
    return open_index(manifest, key)


def open_index(manifest: Manifest, key: str) -> tuple[Part, ...]:
    """What was saved, with the index's key as it is sealed to the owner.  Raises ``BadWire``."""
    try:
        own = from_base64url(key)
        index = unpack(ChaCha20Poly1305(own).decrypt(_NONCE, manifest.index, None), MOST_MANIFEST)
        return _read_index(index, manifest.chunks)
    except (InvalidTag, ValueError, BadWire) as bad:
        raise BadWire(f"backup {manifest.label}: {str(bad) or 'its index is not what was stored'}") from None


def missing(newest: Iterable[Manifest]) -> list[str]:
    """What is held back, given the newest manifest of each machine on a target: one line for each."""
    found = {manifest.machine: manifest for manifest in newest}
    lines = []
    for machine in sorted({name for manifest in found.values() for name in manifest.seen} | found.keys()):
        has = found[machine].number if machine in found else 0
        number, by = max((manifest.seen.get(machine, 0), manifest.label) for manifest in found.values())
        if number > has:
            lines.append(
                f"backup {machine}/{number}, which {by} saw, is not there: the target was put back, or lost it"
            )
    return lines


def place_of(zone: str, machine: str, number: int) -> str:
    """What the index's key is sealed to, so that it opens no other manifest."""
    return f"backup/{zone}/{machine}/{number}"


def _write_index(parts: Iterable[Part], names: Iterable[bytes]) -> bytes:
    at = {name: number for number, name in enumerate(names)}
    return write_json(
        [
            {
                "name": part.name,
                "kind": part.kind.value,
                "revision": part.revision,
                "size": part.size,
                "sha256": part.sha256.hex(),
                "pieces": to_base64url(b"".join(_REF.pack(at[ref.chunk], ref.size, ref.key) for ref in part.pieces)),
            }
            for part in parts
        ]
    )


def _read_index(text: bytes, names: Sequence[bytes]) -> tuple[Part, ...]:
    said = read_object(b'{"parts":' + text + b"}", "index")["parts"]
    if not isinstance(said, list) or len(said) > MOST_PARTS:
        raise BadWire("its index is no list of parts")
    parts = []
    for one in said:
        if not isinstance(one, Mapping):
            raise BadWire("its index has something that is no part")
        fields = Fields(dict(one), "part")
        packed = from_base64url(fields.text_or_none("pieces", MOST_MANIFEST) or "", "pieces")
        if len(packed) % _REF.size:
            raise fields.wrong("pieces", "end within one")
        pieces = []
        for at, size, key in _REF.iter_unpack(packed):
            if at >= len(names) or not 0 < size <= PIECE:
                raise fields.wrong("pieces", "has one that is not there")
            pieces.append(Ref(names[at], size, key))
        part = Part(
            fields.text("name"),
            Kind(fields.text("kind")),
            fields.number("revision"),
            fields.number("size"),
            bytes.fromhex(fields.text("sha256")),
            tuple(pieces),
        )
        if not is_part(part.name) or part.size != sum(ref.size for ref in pieces):
            raise BadWire(f"its index does not hold together at {part.name[:40]!r}")
        parts.append(part)
    if len({part.name for part in parts}) != len(parts):
        raise BadWire("its index names a part twice")
    return tuple(parts)
