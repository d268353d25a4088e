"""What an owner signs: for a person, a device, the boot record of a zone, a zone.

Each document is issued after the one it takes the place of, even within one second: two of the same second would be two
truths, and nobody would believe either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, dev_did, short_form
from cyfs_ns.identity.documents import DeviceDoc, DeviceMini, OwnerDoc, ZoneBoot, ZoneDoc
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.oods import Ood
from cyfs_ns.identity.proof import CLOCK_SKEW
from cyfs_ns.identity.request import DeviceRequest
from cyfs_ns.identity.strictjson import Json
from cyfs_ns.identity.token import sign_token

_NOTHING: Mapping[str, Json] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """Who signs, and from when to when: ``key`` is the owner's, ``id`` the owner; seconds since 1970."""

    key: SecretKey
    id: Did
    iat: int
    exp: int

    def owner(
        self, name: str, full_name: str = "", zone: Did | None = None, extra: Mapping[str, Json] = _NOTHING
    ) -> OwnerDoc:
        """What the owner says of themselves; ``extra`` is what an earlier document said that is not known here.

        Raises ``BadWire`` for an owner who is a key, and another one than signs.
        """
        if self.id.key not in (None, self.key.public):
            raise BadWire(f"owner document: {self.id} is a key, and {self.key.public} signs; let its holder sign")
        return OwnerDoc(
            id=self.id,
            key=self.key.public,
            name=name,
            full_name=full_name,
            default_zone=zone,
            iat=self.iat,
            exp=self.exp,
            extra=extra,
        )

    def device(self, request: DeviceRequest, zone: Did | None) -> DeviceDoc:
        """The document ``request`` asks for, for ``zone``; with a zone its short form for DNS is inside."""
        mini = None
        if zone is not None:
            short = DeviceMini(
                name=request.name,
                key=request.key,
                rtcp_port=request.rtcp_port,
                iat=self.iat,
                exp=self.exp,
                extra={"z": short_form(zone)},
            )
            mini = sign_token(short.claims(), self.key)
        return DeviceDoc(
            id=dev_did(request.key),
            key=request.key,
            name=request.name,
            owner=self.id,
            zone=zone,
            rtcp_port=request.rtcp_port,
            ips=request.ips,
            net=request.net,
            mini_jwt=mini,
            iat=self.iat,
            exp=self.exp,
        )

    def boot(self, zone: Did, oods: Sequence[Ood], sn: str | None) -> ZoneBoot:
        return ZoneBoot(id=zone, oods=tuple(oods), sn=sn, owner=self.id, iat=self.iat, exp=self.exp)

    def zone(self, boot: ZoneBoot, boot_jwt: str, devices: Mapping[str, DeviceDoc]) -> ZoneDoc:
        """The document of the zone that ``boot`` starts, with the documents of its machines."""
        assert boot.id is not None
        return ZoneDoc(
            id=boot.id,
            key=self.key.public,
            owner=self.id,
            oods=boot.oods,
            hostname=boot.id.id,
            sn=boot.sn,
            boot_jwt=boot_jwt,
            devices=devices,
            iat=self.iat,
            exp=self.exp,
        )

    def sign(self, document: OwnerDoc | DeviceDoc | ZoneBoot | ZoneDoc) -> str:
        return sign_token(document.claims(), self.key)


def next_iat(last: int | None, now: float) -> int:
    """The ``iat`` of the document after the one of ``last``.  Raises ``BadWire`` if the clock went back."""
    if last is None or last < int(now):
        return int(now)
    if last >= now + CLOCK_SKEW:
        raise BadWire(
            f"the document before this one was issued {int(last - now)} s from now, so this clock is wrong or was;"
            " mend it, since an older document is refused everywhere"
        )
    return last + 1
