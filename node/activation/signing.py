"""Where the owner lives: what the zone is with one machine more, or less, or another one in the place of one.

The last document of the zone is what the next one follows: whoever is in it stays as they are.  All that is signed at
once is issued at the same second, which is later than everything before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from cyfs_ns.errors import Refused
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import DeviceDoc, ZoneDoc
from cyfs_ns.identity.issue import Issuer
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.oods import Ood
from cyfs_ns.identity.request import DeviceRequest
from cyfs_ns.identity.strictjson import Json
from cyfs_ns.identity.token import MOST_TOKEN
from zone.boot.known import FOUNDS, REPLACES
from zone.membership import Role, ood_names, role_of, write_membership

FOUND_WITHIN: Final = 86_400
"""Seconds in which the first machine of a zone has to come up, be it together with the next ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A machine that is to be in the zone."""

    request: DeviceRequest
    zone: Did
    role: Role | None = None
    """None: what the name has already; else an OOD where it is the first machine, and a node where it is not."""
    replaces: bool = False
    """It takes the place of the machine that has the name now."""
    sn: str | None = None
    """The relay of the zone; None: as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the zone is to be."""

    zone: Did
    oods: tuple[Ood, ...]
    others: Mapping[str, DeviceDoc]
    """The machines that stay as they are."""
    sn: str | None
    role: Role = Role.NODE
    old_key: PublicKey | None = None
    """The one that is refused from then on."""
    founds: Json = None
    """Until when the machine may found the zone's cluster, as it was told before; None: it was not."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What the owner signed, as tokens.  ``membership`` is for the machine, None where one left."""

    boot: str
    zone: str
    device: str | None = None
    membership: bytes | None = None


def plan_entry(last: ZoneDoc | None, wish: Wish) -> Plan:
    """The zone with the machine of ``wish``.  ``last``: its document so far, None: it is new.  Raises ``Refused``."""
    request, name = wish.request, wish.request.name
    if request.zone is not None and request.zone.canonical != wish.zone.canonical:
        raise Refused(f"{name} asks for {request.zone}, and this is {wish.zone}; one of them is wrong")
    devices: Mapping[str, DeviceDoc] = {} if last is None else last.devices
    there = devices.get(name)
    taken = next((other for other, device in devices.items() if device.key == request.key and other != name), None)
    if taken is not None:
        raise Refused(f"this machine is {taken!r} of {wish.zone} already; remove that first: node remove {taken}")
    is_other = there is not None and there.key != request.key
    if is_other and not wish.replaces:
        raise Refused(f"{wish.zone} has another {name!r}; if this one takes its place: --replace; else another --name")
    if wish.replaces and not is_other:
        raise Refused(f"{wish.zone} has no other {name!r} whose place this one could take")
    role = wish.role or (Role.OOD if last is None else role_of(last.oods, name))
    oods = () if last is None else last.oods
    entry = _entry(request, role)
    if entry is None:
        oods = tuple(ood for ood in oods if ood.name != name)
    elif any(ood.name == name for ood in oods):
        oods = tuple(entry if ood.name == name else ood for ood in oods)
    else:
        oods = (*oods, entry)
    if not any(ood.is_ood for ood in oods):
        raise Refused(f"nobody would carry {wish.zone}: its first machine is an OOD")
    return Plan(
        zone=wish.zone,
        oods=oods,
        others={other: device for other, device in devices.items() if other != name},
        sn=wish.sn or (None if last is None else last.sn),
        role=role,
        old_key=there.key if there is not None and is_other else None,
        founds=there.extra.get(FOUNDS) if there is not None and not is_other else None,
    )


def plan_removal(last: ZoneDoc, name: str) -> Plan:
    """The zone without the machine ``name``.  Raises ``Refused``."""
    if name not in last.devices:
        raise Refused(f"{last.id} has no machine {name!r}")
    if ood_names(last) == (name,):
        raise Refused(f"{name!r} alone carries {last.id}; have another OOD first, or its place taken: --replace")
    return Plan(
        zone=last.id,
        oods=tuple(ood for ood in last.oods if ood.name != name),
        others={other: device for other, device in last.devices.items() if other != name},
        sn=last.sn,
        old_key=last.devices[name].key,
    )


def sign_entry(issuer: Issuer, owner: str, plan: Plan, request: DeviceRequest) -> Signed:
    """``plan`` signed, with the membership of the machine that asked.  ``owner``: the token of the owner's document.

    Raises ``Refused`` for a zone that has become too large for a document.
    """
    extra: dict[str, Json] = {} if plan.old_key is None else {REPLACES: plan.old_key.x}
    if not plan.others and plan.old_key is None:
        extra[FOUNDS] = issuer.iat + FOUND_WITHIN
    elif plan.founds is not None:
        extra[FOUNDS] = plan.founds
    kind = "ood" if plan.role is Role.OOD else "server"
    device = replace(issuer.device(request, plan.zone), device_type=kind, extra=extra)
    signed = _sign(issuer, plan, {**plan.others, request.name: device})
    token = issuer.sign(device)
    return replace(signed, device=token, membership=write_membership(owner, signed.zone, token))


def sign_removal(issuer: Issuer, plan: Plan) -> Signed:
    """``plan`` signed."""
    return _sign(issuer, plan, plan.others)


def _sign(issuer: Issuer, plan: Plan, devices: Mapping[str, DeviceDoc]) -> Signed:
    boot = issuer.boot(plan.zone, plan.oods, plan.sn)
    boot_token = issuer.sign(boot)
    zone = issuer.sign(issuer.zone(boot, boot_token, devices))
    if len(zone) > MOST_TOKEN:
        raise Refused(f"{plan.zone} of {len(devices)} machines does not fit into one document; remove some")
    return Signed(boot_token, zone)


def _entry(request: DeviceRequest, role: Role) -> Ood | None:
    """How the zone's document lists the machine; None: it does not."""
    if role is Role.NODE:
        return None
    ip = request.ips[0] if request.ips else None
    net = request.net or (None if ip is None else "wan")
    return Ood(name=request.name, is_ood=role is Role.OOD, is_gateway=True, ip=ip, net=net)
