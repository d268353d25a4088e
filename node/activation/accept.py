"""On the machine: whether a membership is for it, and follows what it had."""

from __future__ import annotations

from cyfs_ns.errors import Refused
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.revision import Change, judge, revision_of
from zone.membership import Membership


def check_acceptable(new: Membership, held: Membership | None, key: PublicKey, name: str | None = None) -> Change:
    """What ``new`` is to the machine of ``key`` that holds ``held``.  ``name``: what it asked to be called.

    Raises ``Refused``, with what to do.
    """
    if new.device.key != key:
        raise Refused(f"this is for the key {new.device.key}, another machine's or an old one; ask its owner again")
    if name is not None and new.name != name:
        raise Refused(f"this is for {new.name!r}, and {name!r} was asked for; ask again with the right --name")
    if held is None:
        return Change.FIRST
    if (held.owner.id.canonical, held.owner.key) != (new.owner.id.canonical, new.owner.key):
        raise Refused(f"this machine is {held.owner.id}'s; to give it to another owner: node leave")
    if held.zone.id.canonical != new.zone.id.canonical:
        raise Refused(f"this machine is in {held.zone.id}; to have it in another zone: node leave")
    if held.name != new.name:
        raise Refused(f"this machine is {held.name!r} of {held.zone.id}; to call it {new.name!r}: node leave")
    zones = judge(held.revision, new.revision)
    devices = judge(revision_of(held.device, held.device_token), revision_of(new.device, new.device_token))
    for what, change in (("zone", zones), ("device", devices)):
        if not change.acceptable:
            raise Refused(f"the {what} document is {change.value}; take the newest that the owner signed")
    return zones if zones is not Change.SAME else devices
