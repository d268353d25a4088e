"""Who of those that reach this machine through tunnels is one of its zone, by the newest document that was believed.

A tunnel proves a key.  Whose key that is in the zone, the zone's document says, and no other: also while the document
only waits to be in force, and whatever other documents the machine at the other end still holds.
"""

from __future__ import annotations

from cyfs_gateway.flow import Identity
from cyfs_gateway.host import Vouched
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, parse_did
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.trust.places import device_did, is_within
from zone.boot.known import Known
from zone.membership import name_of, stranger


def machine_of(known: Known, identity: Identity) -> str | None:
    """What the device behind ``identity`` is called in the zone; None: it is none of it."""
    key = _proven(identity)
    return None if key is None else name_of(known.newest.document, key)


def barred(known: Known, identity: Identity) -> str:
    """Why somebody must have no tunnel; empty: nothing is against them.

    Whoever goes by the name of one of the zone's machines and is not that machine was one once, or never.
    """
    zone, name = known.newest.document, _read(identity.did)
    if name is None or name.key is not None or not is_within(name, zone.id) or name.canonical == zone.id.canonical:
        return ""
    label, key = name.id.removesuffix(f".{zone.id.id}"), _proven(identity)
    return f"{name} has not proven its key" if key is None else stranger(zone, label, key)


def vouched(known: Known, owner: PublicKey, did: Did) -> Vouched | None:
    """What the zone's document, which ``owner`` signed, says of the machine ``did``; None: it is none of the zone."""
    zone = known.newest.document
    name = did.id.removesuffix(f".{zone.id.id}")
    device = zone.devices.get(name)
    if device is None or device_did(name, zone.id).canonical != did.canonical:
        return None
    return Vouched(device, owner, tuple(ood.ip for ood in zone.oods if ood.name == name and ood.ip is not None))


def _proven(identity: Identity) -> PublicKey | None:
    device = _read(identity.device or identity.did)
    return None if device is None else device.key


def _read(did: str) -> Did | None:
    try:
        return parse_did(did)
    except BadWire:
        return None
