"""From what a token proves to what the rules of access ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cyfs_ns.identity.documents import ZoneDoc
from cyfs_ns.identity.keys import PublicKey
from zone.config.access import Subject
from zone.hub.tokens import PEOPLE, Claims, Type, Use
from zone.krpc.caller import Caller
from zone.membership import name_of

KERNEL: Final = frozenset({"scheduler", "node-daemon", "system_config", "verify-hub", "cyfs-gateway"})
"""Parts of this program.  On an OOD they carry the zone; on any other machine they are that machine and no more."""
SYSTEM: Final = frozenset({"control-panel", "task-manager", "kmsg"})
"""Services that keep the zone in order, when they run on an OOD."""

_ROLES: Final[Mapping[Type, frozenset[str]]] = {
    Type.OWNER: frozenset({"owner"}),
    Type.ROOT: frozenset({"user", "admin"}),
    Type.ADMIN: frozenset({"user", "admin"}),
    Type.USER: frozenset({"user"}),
    Type.LIMITED: frozenset({"limited"}),
    Type.GUEST: frozenset({"guest"}),
    Type.KERNEL: frozenset({"kernel"}),
    Type.SYSTEM: frozenset({"system"}),
    Type.FRAME: frozenset({"frame"}),
    Type.DEVICE: frozenset({"device"}),
}
_SUDO: Final[Mapping[Type, frozenset[str]]] = {
    Type.ROOT: frozenset({"owner"}),
    Type.ADMIN: frozenset({"user", "admin", "su_admin"}),
}
"""What a password that was given just now adds."""


def type_of(app: str, *, is_ood: bool) -> Type:
    """What the service ``app`` is on a machine, or the machine itself where it is empty."""
    if not app or app in KERNEL:
        return Type.KERNEL if app and is_ood else Type.DEVICE
    return Type.SYSTEM if app in SYSTEM and is_ood else Type.FRAME


def needs_item(app: str) -> bool:
    """Whether ``app`` runs on a machine only where the scheduler has put it there."""
    return bool(app) and app not in KERNEL


def subjects(claims: Claims) -> tuple[Subject, ...]:
    """Each of them has to be allowed what is asked for."""
    roles = _ROLES[claims.type]
    if claims.use is Use.SUDO:
        roles = _SUDO.get(claims.type, roles)
    if claims.type in PEOPLE:
        user = Subject(roles, {"user": claims.sub})
        if not claims.app:
            return (user,)
        return Subject(frozenset({"app"}), {"user": claims.sub, "app": claims.app}), user
    if claims.type is Type.DEVICE:
        return (Subject(roles, {"device": claims.sub}),)
    return (Subject(roles, {"service": claims.app}),)


def caller(claims: Claims) -> Caller:
    """Who calls with a token that proved ``claims``."""
    is_person = claims.type in PEOPLE
    kind = "user" if is_person else "device"
    return Caller(
        name=f"{kind}:{claims.sub}" + (f"/{claims.app}" if claims.app else ""),
        subjects=subjects(claims),
        token_id=claims.jti,
        app=claims.app,
        user=claims.sub if is_person else "",
        device="" if is_person else claims.sub,
        expires=float(claims.exp),
    )


def machine(zone: ZoneDoc, key: PublicKey) -> Caller | None:
    """Who calls by a tunnel whose other end has proven ``key``: a machine of ``zone`` itself, or nobody of it."""
    name = name_of(zone, key)
    if name is None:
        return None
    return Caller(
        name=f"device:{name}",
        subjects=(Subject(_ROLES[Type.DEVICE], {"device": name}),),
        device=name,
        key=key,
    )


def may_manage(who: Caller, *types: Type) -> bool:
    """Whether ``who`` may say what becomes of somebody who is of ``types``, or is to be."""
    if not who.subjects:
        return False
    if all(subject.roles & {"owner", "kernel"} for subject in who.subjects):
        return True
    managed = {Type.USER, Type.LIMITED, Type.GUEST}
    return set(types) <= managed and all("su_admin" in subject.roles for subject in who.subjects)
