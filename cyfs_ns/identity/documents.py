"""The documents of the house: who an owner is, what a zone consists of, which key a device has.

All are JSON objects, all but the plain one travel as tokens (``token.py``).  Here they are values, and the one form we
write: the forerunner's current one, a DID document (``id``, ``verificationMethod`` with ``#main_key``) with its names
for the fields (``assertion_method`` is spelt so there).  What others wrote becomes a value in ``reading.py``; what we
did not know of it is kept in ``extra`` and written back, so that a document survives a machine that is older than it.

A value claims and proves nothing: ``proof.py`` is the door to belief.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Bridges, Did, dev_did, subject
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.oods import Ood
from cyfs_ns.identity.strictjson import Json

CORE_CONTEXT = "https://www.w3.org/ns/did/v1"
"""What the ``@context`` of a DID document starts with (W3C DID Core §4)."""

MAIN_KEY = "#main_key"
"""What the key that an identity signs with is called inside its document."""

_CONTEXT = "https://buckyos.org/ns/{}/v1"


class Document(Protocol):
    """What all documents have.  ``subject`` is whom it is about, ``issuer`` who has to sign it (None: not said)."""

    kind: ClassVar[str]

    @property
    def subject(self) -> Did | None: ...
    @property
    def issuer(self) -> Did | None: ...
    @property
    def main_key(self) -> PublicKey | None: ...
    @property
    def iat(self) -> int: ...
    @property
    def exp(self) -> int: ...
    def claims(self) -> dict[str, Json]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerDoc:
    """A person: the root that signs everything of theirs.  Signed by the key it names."""

    kind: ClassVar[str] = "owner"
    id: Did
    key: PublicKey
    name: str
    full_name: str = ""
    default_zone: Did | None = None
    iat: int
    exp: int
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def subject(self) -> Did:
        return self.id

    @property
    def issuer(self) -> Did:
        return self.id

    @property
    def main_key(self) -> PublicKey:
        return self.key

    def claims(self) -> dict[str, Json]:
        zone: dict[str, Json] = {} if self.default_zone is None else {"default_zone_did": str(self.default_zone)}
        return {**_envelope(self), "name": self.name, "full_name": self.full_name, **zone}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDoc:
    """A machine of an owner: its key, and how it may be reached.  Signed by the owner."""

    kind: ClassVar[str] = "device"
    id: Did
    key: PublicKey
    name: str
    owner: Did | None
    zone: Did | None = None
    device_type: str = "ood"
    rtcp_port: int | None = None
    ips: tuple[str, ...] = ()
    net: str | None = None
    ddns_sn_url: str | None = None
    support_container: bool = True
    mini_jwt: str | None = field(default=None, repr=False)
    iat: int
    exp: int
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def subject(self) -> Did:
        return self.id

    @property
    def issuer(self) -> Did | None:
        return self.owner

    @property
    def main_key(self) -> PublicKey:
        return self.key

    def claims(self) -> dict[str, Json]:
        told: dict[str, Json] = {
            "name": self.name,
            "owner": "did:undefined:undefined" if self.owner is None else str(self.owner),
            "device_type": self.device_type,
            "zone_did": None if self.zone is None else str(self.zone),
            "rtcp_port": self.rtcp_port,
            "ips": list(self.ips) or None,
            "net_id": self.net,
            "ddns_sn_url": self.ddns_sn_url,
            "support_container": None if self.support_container else False,
            "device_mini_config_jwt": self.mini_jwt,
        }
        return {**_envelope(self), **{name: value for name, value in told.items() if value is not None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMini:
    """A device in the fewest characters, for a TXT record.  Signed by the owner of the zone it stands under."""

    kind: ClassVar[str] = "device-mini"
    name: str
    key: PublicKey
    rtcp_port: int | None = None
    iat: int
    exp: int
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def subject(self) -> Did:
        return dev_did(self.key)

    @property
    def issuer(self) -> None:
        return None

    @property
    def main_key(self) -> PublicKey:
        return self.key

    def zone(self, bridges: Bridges | None = None) -> Did | None:
        """The zone it says it is for; the forerunner's do not say.  Raises ``BadWire``."""
        told = self.extra.get("z")
        if told is None:
            return None
        if not isinstance(told, str):
            raise BadWire(f"{self.kind} document: its zone is {str(told)[:80]!r}, which is no name")
        return subject(told, bridges)

    def claims(self) -> dict[str, Json]:
        port: dict[str, Json] = {} if self.rtcp_port is None else {"p": self.rtcp_port}
        return {**self.extra, "n": self.name, "x": self.key.x, **port, **_times(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneBoot:
    """The least that lets a machine find its zone, for a TXT record.  Signed by the owner; the key stands beside it."""

    kind: ClassVar[str] = "boot"
    id: Did | None
    oods: tuple[Ood, ...]
    sn: str | None = None
    owner: Did | None = None
    iat: int
    exp: int
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def subject(self) -> Did | None:
        return self.id

    @property
    def issuer(self) -> Did | None:
        return self.owner

    @property
    def main_key(self) -> None:
        return None

    def claims(self) -> dict[str, Json]:
        told: dict[str, Json] = {
            "id": None if self.id is None else str(self.id),
            "oods": [str(ood) for ood in self.oods],
            "sn": self.sn,
            "owner": None if self.owner is None else str(self.owner),
        }
        return {**self.extra, **{name: value for name, value in told.items() if value is not None}, **_times(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneDoc:
    """A zone: its owner, its machines, and the device documents among them.  Signed by the owner."""

    kind: ClassVar[str] = "zone"
    id: Did
    key: PublicKey | None
    owner: Did | None
    oods: tuple[Ood, ...]
    hostname: str | None = None
    sn: str | None = None
    boot_jwt: str = field(default="", repr=False)
    devices: Mapping[str, DeviceDoc] = field(default_factory=dict)
    hub_key: PublicKey | None = None
    iat: int
    exp: int
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def subject(self) -> Did:
        return self.id

    @property
    def issuer(self) -> Did | None:
        return self.owner

    @property
    def main_key(self) -> PublicKey | None:
        return self.key

    def claims(self) -> dict[str, Json]:
        told: dict[str, Json] = {
            "hostname": self.hostname,
            "owner": "did:undefined:undefined" if self.owner is None else str(self.owner),
            "oods": [str(ood) for ood in self.oods],
            "sn": self.sn,
            "boot_jwt": self.boot_jwt,
            "devices": {name: device.claims() for name, device in self.devices.items()},
            "verify_hub_info": None if self.hub_key is None else {"public_key": self.hub_key.jwk()},
        }
        return {**_envelope(self), **{name: value for name, value in told.items() if value is not None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """A device as it is just now: its document and what it reports of itself.  Signed by the device."""

    kind: ClassVar[str] = "info"
    device: DeviceDoc
    arch: str
    os: str
    update_time: int
    all_ips: tuple[str, ...] = ()

    @property
    def subject(self) -> Did:
        return self.device.id

    @property
    def issuer(self) -> Did:
        return dev_did(self.device.key)

    @property
    def main_key(self) -> PublicKey:
        return self.device.key

    @property
    def iat(self) -> int:
        return self.update_time

    @property
    def exp(self) -> int:
        return self.device.exp

    def claims(self) -> dict[str, Json]:
        ips: dict[str, Json] = {"all_ip": list(self.all_ips)} if self.all_ips else {}
        return {**self.device.claims(), "arch": self.arch, "os": self.os, "update_time": self.update_time, **ips}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainDoc:
    """A DID document of somebody who is none of ours (W3C DID Core §5); ``key`` if it has one we can use."""

    kind: ClassVar[str] = "did"
    id: Did
    key: PublicKey | None
    iat: int = 0
    exp: int
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def subject(self) -> Did:
        return self.id

    @property
    def issuer(self) -> Did:
        return self.id

    @property
    def main_key(self) -> PublicKey | None:
        return self.key

    def claims(self) -> dict[str, Json]:
        return {**self.extra, "id": str(self.id)}


def _envelope(document: OwnerDoc | DeviceDoc | ZoneDoc) -> dict[str, Json]:
    method: list[Json] = []
    if document.key is not None:
        method.append(
            {
                "type": "Ed25519VerificationKey2020",
                "id": MAIN_KEY,
                "controller": str(document.id),
                "publicKeyJwk": document.key.jwk(),
            }
        )
    return {
        "@context": [CORE_CONTEXT, _CONTEXT.format(document.kind)],
        **document.extra,
        "id": str(document.id),
        "verificationMethod": method,
        "authentication": [MAIN_KEY],
        "assertion_method": [MAIN_KEY],
        **_times(document),
    }


def _times(document: Document) -> dict[str, Json]:
    return {"iat": document.iat, "exp": document.exp}
