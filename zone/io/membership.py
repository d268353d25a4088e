"""The file that makes this machine one of a zone: ``identity/membership.json`` below its home, beside its key.

What stands in it was accepted by a person.  Whoever reads it looks at the signatures again, and whether it is for the
key that is here; a machine whose key was exchanged is none of the zone until its owner signs the new one.
"""

from __future__ import annotations

from pathlib import Path

from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.io.trusted.keystore import KeyStore, read_file
from zone.membership import MOST_MEMBERSHIP, Membership, read_membership


def membership_path(home: Path) -> Path:
    """Where it stands."""
    return KeyStore(home).path / "membership.json"


def held_membership(home: Path) -> Membership | None:
    """What was accepted here, whether or not it still counts; None: nothing.  Blocks.  Raises ``ConfigFault``."""
    path = membership_path(home)
    if not path.exists():
        return None
    try:
        return read_membership(read_file(path, MOST_MEMBERSHIP))
    except BadWire as bad:
        raise ConfigFault(f"{path}: {bad}") from None


def own_membership(home: Path, now: float) -> Membership:
    """What counts at ``now``, in seconds since 1970.  Blocks.  Raises ``ConfigFault``.

    It is no earlier than when the documents were issued: a machine without a clock comes up all the same.
    """
    held = held_membership(home)
    if held is None:
        raise ConfigFault("this machine is in no zone; say: cyfs-gateway node activate")
    latest = max(held.owner.iat, held.zone.iat, held.device.iat)
    try:
        membership = read_membership(held.text(), max(now, latest))
    except BadWire as bad:
        raise ConfigFault(f"{membership_path(home)}: {bad}") from None
    if membership.device.key != KeyStore(home).device().public:
        raise ConfigFault("this machine has another key since it was activated; say: cyfs-gateway node activate")
    return membership
