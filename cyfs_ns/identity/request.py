"""A device asks its owner for a document.

The request is a JSON file that may travel by mail or on a stick, since the owner's key need not be on any network::

    {"kind": "device-request", "claims": {"name": "ood1", "x": …, "zone": …, "iat": …, "exp": …, …}, "proof": …}

``proof`` is the device's signature over the claims, so that nobody can have a stranger's key put under a name.  It
covers the claims as :func:`~cyfs_ns.identity.strictjson.write_json` writes them, behind a prefix that no token starts
with: spaces and line ends may change on the way, and the signature can stand for nothing else.  A request is no secret
and proves nothing about who sent it; the owner compares the key with what the device shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.bases import from_base64url, to_base64url
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import CLOCK_SKEW
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.identity.strictjson import Json, read_object, write_json

KIND = "device-request"

LIFETIME = 3 * 86_400
"""Seconds for which a request may be signed."""

MOST_REQUEST = 8192
"""Bytes of the longest request we read."""

_PREFIX = b"cyfs device-request\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
    """What a device wants to have signed.  ``iat`` and ``exp`` are seconds since 1970, and the request's own."""

    name: str
    key: PublicKey
    zone: Did | None = None
    ips: tuple[str, ...] = ()
    net: str | None = None
    rtcp_port: int | None = None
    iat: int
    exp: int

    def claims(self) -> dict[str, Json]:
        told: dict[str, Json] = {
            "name": self.name,
            "x": self.key.x,
            "zone": None if self.zone is None else str(self.zone),
            "ips": list(self.ips) or None,
            "net_id": self.net,
            "rtcp_port": self.rtcp_port,
            "iat": self.iat,
            "exp": self.exp,
        }
        return {name: value for name, value in told.items() if value is not None}


def write_request(request: DeviceRequest, key: SecretKey) -> dict[str, Json]:
    """The file's content; ``key`` is the secret of ``request.key``."""
    claims = request.claims()
    return {"kind": KIND, "claims": claims, "proof": to_base64url(key.sign(_PREFIX + write_json(claims)))}


def read_request(untrusted: bytes, now: float) -> DeviceRequest:
    """The request in a file, proven by its key and in time at ``now``.  Raises ``BadWire``, which says what to do."""
    if len(untrusted) > MOST_REQUEST:
        raise BadWire(f"request: {len(untrusted)} bytes, at most {MOST_REQUEST} are read")
    whole = Fields(read_object(untrusted, "request"), "request")
    if whole.take("kind") != KIND:
        raise whole.wrong("kind", f"is not {KIND!r}")
    claims, proof = whole.take("claims"), from_base64url(whole.text("proof"), "request: proof")
    if not isinstance(claims, dict):
        raise whole.wrong("claims", "is no JSON object")
    fields = Fields(dict(claims), "request")
    request = DeviceRequest(
        name=fields.label("name"),
        key=fields.x("x"),
        zone=fields.did_or_none("zone"),
        ips=fields.ips("ips"),
        net=fields.text_or_none("net_id", most=32),
        rtcp_port=fields.port_or_none("rtcp_port"),
        iat=fields.number("iat"),
        exp=fields.number("exp"),
    )
    if unknown := [*whole.rest(), *fields.rest()]:
        raise BadWire(f"request: {unknown[0][:40]!r} is not known here, and nobody should sign what they cannot read")
    if not request.key.verify(proof, _PREFIX + write_json(claims)):
        raise BadWire("request: not made by the device whose key it names; make it again on the device: id request")
    if request.iat > now + CLOCK_SKEW:
        raise BadWire(f"request: made {int(request.iat - now)} s in the future; check the clocks")
    if request.exp <= now or request.exp - request.iat > LIFETIME:
        raise BadWire("request: too old to be signed; make a new one on the device: id request")
    return request
