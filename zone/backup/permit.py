"""How a machine without the owner's key reads a backup: the owner, where that key is, opens one backup for it.

What travels between the two is text.  The machine asks with its own document, the backup's name and hash, and the key
of its index as the backup has it, sealed to the owner.  The owner sees which machine of which zone asks and gives that
key sealed to that machine's; the zone's document, as the owner signed it last, says whether it is one of its OODs.

The permit is good for that backup and that machine.  What the machine can read then it will have anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cyfs_ns.errors import BadWire, Refused
from cyfs_ns.identity.documents import DeviceDoc, ZoneDoc
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.keys import PublicKey, SecretKey, read_x
from cyfs_ns.identity.strictjson import read_object, write_json
from rtcp.v5.keys import DeviceKey, device_key
from zone.backup.manifest import Manifest, Part, open_index, place_of
from zone.config import sealed
from zone.config.faults import Code, ConfigError
from zone.membership import Role, role_of, stranger

MOST_TEXT: Final = 32 * 1024
"""Bytes of a request or a permit."""
_REQUEST, _PERMIT = "restore-request", "restore-permit"


@dataclass(frozen=True, slots=True)
class Request:
    """A machine wants to restore a backup."""

    zone: str
    asks: str
    """The machine, by its name in the zone."""
    its_key: PublicKey
    machine: str
    number: int
    """Which backup: who made it, and its number."""
    made: int
    digest: str
    key: str = field(repr=False)
    """Its index's, sealed to the owner."""

    def text(self) -> bytes:
        """As it travels."""
        return (
            write_json(
                {
                    "kind": _REQUEST,
                    "zone": self.zone,
                    "asks": self.asks,
                    "its-key": self.its_key.x,
                    "machine": self.machine,
                    "number": self.number,
                    "made": self.made,
                    "digest": self.digest,
                    "key": self.key,
                }
            )
            + b"\n"
        )


def ask_for(manifest: Manifest, device: DeviceDoc) -> Request:
    """What ``device`` asks the owner."""
    return Request(
        zone=manifest.zone,
        asks=device.name,
        its_key=device.key,
        machine=manifest.machine,
        number=manifest.number,
        made=manifest.made,
        digest=manifest.digest,
        key=manifest.key,
    )


def read_request(untrusted: bytes) -> Request:
    """Raises ``BadWire``."""
    fields = _fields(untrusted, _REQUEST)
    return Request(
        zone=fields.text("zone"),
        asks=fields.text("asks"),
        its_key=read_x(fields.text("its-key")),
        machine=fields.text("machine"),
        number=fields.number("number"),
        made=fields.number("made"),
        digest=fields.text("digest"),
        key=fields.text_or_none("key", 4096) or "",
    )


def permit(request: Request, owner: SecretKey, zone: ZoneDoc, dice: bytes) -> bytes:
    """What opens that backup for the machine that asks.  ``zone``: its document, as ``owner`` signed it last.

    ``dice``: ``sealed.DICE`` random bytes.  Raises ``Refused`` if the machine is none that may have it or the backup
    another owner's, ``BadWire`` if it is not what was sealed.
    """
    if str(zone.id.canonical) != request.zone:
        raise Refused(f"that is a backup of {request.zone}, and the zone that was signed here is {zone.id}")
    if why := stranger(zone, request.asks, request.its_key):
        raise Refused(f"{why}; nothing is opened for it")
    if role_of(zone.oods, request.asks) is not Role.OOD:
        raise Refused(f"{request.asks} is no OOD of {zone.id}, and those alone restore it")
    place = place_of(request.zone, request.machine, request.number)
    try:
        index_key = sealed.unseal(place, request.key, device_key(owner))
    except ConfigError as fault:
        label = f"backup {request.machine}/{request.number}"
        if fault.code is Code.DENIED:
            raise Refused(f"{label} is sealed to another owner's key than {owner.public.x}; take that one") from None
        raise BadWire(f"{label}: {fault.message}") from None
    told = sealed.seal(_place(request.digest), index_key, [request.its_key], dice)
    return write_json({"kind": _PERMIT, "digest": request.digest, "key": told}) + b"\n"


def open_permitted(manifest: Manifest, untrusted: bytes, own: DeviceKey) -> tuple[Part, ...]:
    """What was saved, for the machine that ``untrusted``, a permit, is for.  Raises ``BadWire``, ``Refused``."""
    fields = _fields(untrusted, _PERMIT)
    if fields.text("digest") != manifest.digest:
        raise Refused(f"the permit is for another backup than {manifest.label}; ask the owner again")
    try:
        key = sealed.unseal(_place(manifest.digest), fields.text_or_none("key", 4096) or "", own)
    except ConfigError as fault:
        raise Refused(f"the permit does not open backup {manifest.label} here: {fault.message}") from None
    return open_index(manifest, key)


def _fields(untrusted: bytes, kind: str) -> Fields:
    if len(untrusted) > MOST_TEXT:
        raise BadWire(f"{kind}: {len(untrusted)} bytes, at most {MOST_TEXT} are read")
    fields = Fields(read_object(untrusted, kind), kind)
    if fields.text("kind") != kind:
        raise fields.wrong("kind", f"is not {kind!r}; the file is another one")
    return fields


def _place(digest: str) -> str:
    """What the key is sealed to, so that it opens nothing else."""
    return f"restore/{digest}"
