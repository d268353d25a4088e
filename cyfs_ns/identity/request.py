"""A machine asks an owner for a document: its own, or the owner's about themselves.

The request is a JSON file that may travel by mail or on a stick, since the owner's key need not be on any network::

    {"kind": "device-request", "claims": {"name": "ood1", "x": …, "zone": …, "iat": …, "exp": …, …}, "proof": …}

``proof`` is the machine's signature over the claims, so that nobody can have a stranger's key put under a name, nor a
word changed on the way.  It covers the claims as :func:`~cyfs_ns.identity.strictjson.write_json` writes them, behind a
prefix that no token starts with and that names the kind: spaces and line ends may change on the way, and the signature
can stand for nothing else.  A request is no secret and proves nothing about who sent it; the owner compares the key
with what the machine shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.bases import from_base64url, to_base64url
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.identity.proof import CLOCK_SKEW
from cyfs_ns.identity.strictjson import Json, read_object, write_json

LIFETIME = 3 * 86_400
"""Seconds for which a request may be signed."""

MOST_REQUEST = 8192
"""Bytes of the longest request we read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
    """What a device wants to have signed.  ``iat`` and ``exp`` are seconds since 1970, and the request's own."""

    kind: ClassVar[str] = "device-request"
    command: ClassVar[str] = "id request"
    name: str
    key: PublicKey
    zone: Did | None = None
    ips: tuple[str, ...] = ()
    net: str | None = None
    rtcp_port: int | None = None
    iat: int
    exp: int

    def claims(self) -> dict[str, Json]:
        return _told(
            name=self.name,
            x=self.key.x,
            zone=None if self.zone is None else str(self.zone),
            ips=list(self.ips) or None,
            net_id=self.net,
            rtcp_port=self.rtcp_port,
            iat=self.iat,
            exp=self.exp,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerRequest:
    """What a machine wants its owner to say of themselves; None is what stays as it was signed last.

    ``key`` is the machine's: the owner's own is for the owner to use, and nobody asks for another.
    """

    kind: ClassVar[str] = "owner-request"
    command: ClassVar[str] = "id owner request"
    key: PublicKey
    name: str | None = None
    full_name: str | None = None
    id: Did | None = None
    zone: Did | None = None
    iat: int
    exp: int

    def claims(self) -> dict[str, Json]:
        return _told(
            name=self.name,
            full_name=self.full_name,
            id=None if self.id is None else str(self.id),
            zone=None if self.zone is None else str(self.zone),
            x=self.key.x,
            iat=self.iat,
            exp=self.exp,
        )


Request = DeviceRequest | OwnerRequest


def write_request(request: Request, key: SecretKey) -> dict[str, Json]:
    """The file's content; ``key`` is the secret of ``request.key``."""
    claims = request.claims()
    return {"kind": request.kind, "claims": claims, "proof": to_base64url(key.sign(_covered(request.kind, claims)))}


def read_request(untrusted: bytes, now: float) -> Request:
    """The request in a file, proven by its key and in time at ``now``.  Raises ``BadWire``, which says what to do."""
    if len(untrusted) > MOST_REQUEST:
        raise BadWire(f"request: {len(untrusted)} bytes, at most {MOST_REQUEST} are read")
    whole = Fields(read_object(untrusted, "request"), "request")
    reader = _READERS.get(whole.text("kind"))
    if reader is None:
        raise whole.wrong("kind", f"is none of {', '.join(_READERS)}")
    claims, proof = whole.take("claims"), from_base64url(whole.text("proof"), "request: proof")
    if not isinstance(claims, dict):
        raise whole.wrong("claims", "is no JSON object")
    fields = Fields(dict(claims), "request")
    request = reader(fields)
    if unknown := [*whole.rest(), *fields.rest()]:
        raise BadWire(f"request: {unknown[0][:40]!r} is not known here, and nobody should sign what they cannot read")
    again = f"make it again on the machine that asks: {request.command}"
    if not request.key.verify(proof, _covered(request.kind, claims)):
        raise BadWire(f"request: not made by the machine whose key it names; {again}")
    if request.iat > now + CLOCK_SKEW:
        raise BadWire(f"request: made {int(request.iat - now)} s in the future; check the clocks")
    if request.exp <= now or request.exp - request.iat > LIFETIME:
        raise BadWire(f"request: too old to be signed; {again}")
    return request


def _covered(kind: str, claims: Mapping[str, Json]) -> bytes:
    """What the proof is a signature of."""
    return f"cyfs {kind}\n".encode() + write_json(claims)


def _told(**claims: Json) -> dict[str, Json]:
    return {name: value for name, value in claims.items() if value is not None}


def _read_device(fields: Fields) -> DeviceRequest:
    return DeviceRequest(
        name=fields.label("name"),
        key=fields.x("x"),
        zone=fields.did_or_none("zone"),
        ips=fields.ips("ips"),
        net=fields.text_or_none("net_id", most=32),
        rtcp_port=fields.port_or_none("rtcp_port"),
        iat=fields.number("iat"),
        exp=fields.number("exp"),
    )


def _read_owner(fields: Fields) -> OwnerRequest:
    return OwnerRequest(
        key=fields.x("x"),
        name=fields.text("name") if "name" in fields else None,
        full_name=fields.text_or_none("full_name"),
        id=fields.did_or_none("id"),
        zone=fields.did_or_none("zone"),
        iat=fields.number("iat"),
        exp=fields.number("exp"),
    )


_READERS: Mapping[str, Callable[[Fields], Request]] = {
    DeviceRequest.kind: _read_device,
    OwnerRequest.kind: _read_owner,
}
