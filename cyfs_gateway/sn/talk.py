"""What a device and an SN say to each other on a stream to ``sn.invalid``.

One JSON object a line, at most :data:`MOST_LINE` octets with its line feed; the SN answers each in the order asked.
Who asks is known by the tunnel, so nothing here proves it; what needs the word of somebody else is a signed token
inside.  An answer is ``{"ok": {…}}`` or ``{"no": CODE, "why": TEXT}``::

    {"ask": "submit", "request": TOKEN}             a signed request (requests.py)       {"why": …, "told": {…}}
    {"ask": "update", "update": TOKEN}              a zone update (zoneupdate.py)        {"why": …, "seq": N}
    {"ask": "where"}                                how the SN sees me, where it is      {"seen": IP, "did": …, …}
    {"ask": "relay", "peer": DID}                   a session of the UDP relay           {"id": HEX, "keys": […], …}
    {"ask": "lease", "kind": "tcp", "port": N, …}   a public port (tcp, udp)             {"kind": …, "port": …, …}
    {"ask": "lease", "kind": "name", "name": HOST}  visitors of a host name              {"kind": …, "name": …, …}
    {"ask": "unlease", "kind": …, …}                give either back                     {}
    {"ask": "connect", "device": DID}               a stream to that device's door       {}

After the yes to ``connect`` the stream *is* one to ``rtcp.invalid`` of that device, both ways.  What was sent behind
the line is for the device, so that asking costs no round trip; after a no the SN ends the stream.

Readers give a value or raise ``BadWire``, and that is for good: an answer that cannot be read belongs to a question
that nobody knows.  A field that is not known is passed over, so that either side may learn new ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from cyfs_gateway.sn.requests import MOST_REQUEST
from cyfs_gateway.sn.zoneupdate import MOST_UPDATE
from cyfs_ns import names
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from rtcp.nat.relaywire import ID_SIZE, KEY_SIZE

NAME = "sn"
"""As what an SN is offered to peers."""
MOST_LINE = 24 << 10
"""Octets of a line, its end included."""

MALFORMED, REFUSED, UNREACHABLE, DRAINING = "malformed", "refused", "unreachable", "draining"
"""Codes of a no, beside those of :class:`cyfs_gateway.sn.admission.Code`: the question makes no sense; no, and asking
again does not help; not now; the SN is about to end, and another one should be asked."""

PlaceKind: TypeAlias = Literal["tcp", "udp", "name"]

_MOST_TEXT = 512
_MOST_OF_EACH = 32
_MOST_ADDRESSES = 16
_MOST_SECONDS = 10 * 366 * 86_400
_CODE = re.compile(r"[a-z][a-z-]{0,31}\Z").match
_HEX = re.compile(r"(?:[0-9a-f]{2})+\Z").match


@dataclass(frozen=True, slots=True)
class Submit:
    """Have a signed request decided: a token of :mod:`cyfs_gateway.sn.requests`."""

    request: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Update:
    """Have a zone update taken: a token of :mod:`cyfs_gateway.sn.zoneupdate`."""

    update: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Where:
    """How does the SN see me, and where is what it offers?"""


@dataclass(frozen=True, slots=True)
class RelayWith:
    """A session of the UDP relay with ``peer``, who is told its side of it by us."""

    peer: Did


@dataclass(frozen=True, slots=True)
class Place:
    """Something public: a ``port`` of the SN's addresses (of ``tcp`` or ``udp``), or a host ``name``, canonical.

    Of a port, ``name`` is the service of the device that its visitors are led to; empty for ``tcp-PORT``.
    """

    kind: PlaceKind
    port: int = 0
    name: str = ""

    @property
    def service(self) -> str:
        """What the device is asked for when somebody comes to a port."""
        return self.name or f"{self.kind}-{self.port}"


@dataclass(frozen=True, slots=True)
class Lease:
    """Have visitors of ``place`` led to this device; port 0: of any that is free.  Who asks again renews it.

    ``proves``: the service at a port of UDP makes sure of its clients' addresses before it says much to them, so there
    is no need to limit its answers.
    """

    place: Place
    proves: bool = False


@dataclass(frozen=True, slots=True)
class Unlease:
    """Give it back."""

    place: Place


@dataclass(frozen=True, slots=True)
class Connect:
    """Lead me to the device ``device``."""

    device: Did


Ask: TypeAlias = Submit | Update | Where | RelayWith | Lease | Unlease | Connect


@dataclass(frozen=True, slots=True)
class No:
    """The SN says no.  ``code`` is for programs.  ``seq``: the last number of a zone update that it heard from this
    device, as the answer to one."""

    code: str
    why: str
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Submitted:
    """The request was obeyed.  ``told`` depends on what was asked."""

    why: str
    told: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Updated:
    """The zone says so now; ``seq`` is that of the update."""

    why: str
    seq: int


@dataclass(frozen=True, slots=True)
class Leased:
    """Visitors of ``place`` are led to the device, for ``seconds`` from now; 0: as long as the name is its owner's."""

    place: Place
    seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """How the SN sees the device, and where it is.

    ``seen`` is the address that the tunnel comes from, empty if that cannot be told.  ``addresses`` are the SN's, and
    ``udp`` is the port of STUN and of the relay (0: none); STUN is answered at the next one, too.  ``knows``: the
    device is somebody's here, whose labels below the domain are ``names``.  ``leases`` are the device's own; of both no
    more than fit.
    """

    domain: str
    did: Did
    seen: str = ""
    addresses: tuple[str, ...] = ()
    udp: int = 0
    knows: bool = False
    names: tuple[str, ...] = ()
    leases: tuple[Leased, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySession:
    """A session of the UDP relay: whoever asked is side 0, the peer side 1, each with its own key.

    It is at ``port`` of the ``addresses``, for ``seconds`` at most.
    """

    relay_id: bytes
    keys: tuple[bytes, bytes] = field(repr=False)
    addresses: tuple[str, ...]
    port: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Unleased:
    """It is nobody's."""


@dataclass(frozen=True, slots=True)
class Connected:
    """From here on the device speaks."""


Reply: TypeAlias = Submitted | Updated | Here | RelaySession | Leased | Unleased | Connected | No


class Lines:
    """Lines out of a stream, however it was cut.  After ``BadWire`` every later call raises it, too."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._broken = False

    def receive_data(self, untrusted: bytes) -> None:
        """To be called when :meth:`next_line` gave None, lest the buffer grows."""
        self._buffer += untrusted

    def next_line(self) -> bytes | None:
        """The next one without its end; None: bring more.  Raises ``BadWire`` for one that is too long."""
        end = self._buffer.find(b"\n", self._searched)
        if self._broken or (len(self._buffer) if end < 0 else end + 1) > MOST_LINE:
            self._broken = True
            raise BadWire(f"a line of more than {MOST_LINE} octets")
        if end < 0:
            self._searched = len(self._buffer)
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line

    def rest(self) -> bytes:
        """What came behind the last line: it is no line's any more."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        return rest


def write_ask(ask: Ask) -> bytes:
    """``ask`` as a line."""
    told: dict[str, Json]
    match ask:
        case Submit(request):
            told = {"ask": "submit", "request": request}
        case Update(update):
            told = {"ask": "update", "update": update}
        case Where():
            told = {"ask": "where"}
        case RelayWith(peer):
            told = {"ask": "relay", "peer": str(peer)}
        case Lease(place, proves):
            told = {"ask": "lease", **_place(place), "proves": proves}
        case Unlease(place):
            told = {"ask": "unlease", **_place(place)}
        case Connect(device):
            told = {"ask": "connect", "device": str(device)}
    return write_json(told) + b"\n"


def read_ask(untrusted: bytes) -> Ask:
    """What a line asks.  Raises ``BadWire``."""
    told = _fields(untrusted, "question")
    match word := told.text("ask"):
        case "submit":
            return Submit(_token(told, "request", MOST_REQUEST))
        case "update":
            return Update(_token(told, "update", MOST_UPDATE))
        case "where":
            return Where()
        case "relay":
            return RelayWith(_device(told, "peer"))
        case "lease":
            return Lease(_read_place(told), told.flag("proves", False))
        case "unlease":
            return Unlease(_read_place(told))
        case "connect":
            return Connect(_device(told, "device"))
    raise told.wrong("ask", f"{word[:40]!r} is not known here")


def write_reply(reply: Reply) -> bytes:
    """``reply`` as a line."""
    match reply:
        case No(code, why, seq):
            return write_json({"no": code, "why": why[:_MOST_TEXT], **({"seq": seq} if seq else {})}) + b"\n"
        case Submitted(why, about):
            told: dict[str, Json] = {"why": why[:_MOST_TEXT], "told": dict(about)}
        case Updated(why, seq):
            told = {"why": why[:_MOST_TEXT], "seq": seq}
        case Here():
            told = {
                "domain": reply.domain,
                "did": str(reply.did),
                "seen": reply.seen,
                "addresses": list(reply.addresses),
                "udp": reply.udp,
                "knows": reply.knows,
                "names": list(reply.names[:_MOST_OF_EACH]),
                "leases": [_leased(one) for one in reply.leases[:_MOST_OF_EACH]],
            }
        case RelaySession():
            told = {
                "id": reply.relay_id.hex(),
                "keys": [key.hex() for key in reply.keys],
                "addresses": list(reply.addresses),
                "port": reply.port,
                "seconds": reply.seconds,
            }
        case Leased():
            told = _leased(reply)
        case Unleased() | Connected():
            told = {}
    return write_json({"ok": told}) + b"\n"


def read_reply(untrusted: bytes, ask: Ask) -> Reply:
    """What a line answers to ``ask``.  Raises ``BadWire``."""
    line = _fields(untrusted, "answer")
    if "no" in line:
        code = line.text("no")
        if _CODE(code) is None:
            raise line.wrong("no", "is no code")
        return No(code, line.text_or_none("why", _MOST_TEXT) or "", line.number_or_none("seq") or 0)
    body = line.take("ok")
    if not isinstance(body, dict):
        raise line.wrong("ok", "is missing")
    told = Fields(body, "answer")
    match ask:
        case Submit():
            about = told.take("told")
            if not isinstance(about, dict):
                raise told.wrong("told", "is no object")
            return Submitted(told.text_or_none("why", _MOST_TEXT) or "", about)
        case Update():
            return Updated(told.text_or_none("why", _MOST_TEXT) or "", told.number("seq"))
        case Where():
            return _here(told)
        case RelayWith():
            return _session(told)
        case Lease():
            return _read_leased(told)
        case Unlease():
            return Unleased()
        case Connect():
            return Connected()


def _fields(untrusted: bytes, what: str) -> Fields:
    if len(untrusted) >= MOST_LINE:
        raise BadWire(f"{what}: more than {MOST_LINE} octets")
    return Fields(read_object(untrusted, what), what)


def _token(told: Fields, name: str, most: int) -> str:
    token = told.text_or_none(name, most)
    if not token:
        raise told.wrong(name, "is missing")
    return token


def _device(told: Fields, name: str) -> Did:
    """A DID that is a key: what may be asked for is a machine, and not whatever a name leads to."""
    did = told.did(name).canonical
    if did.key is None:
        raise told.wrong(name, "is not the DID of a key")
    return did


def _place(place: Place) -> dict[str, Json]:
    return {"kind": place.kind, "port": place.port, "name": place.name}


def _read_place(told: Fields) -> Place:
    kind = told.text("kind")
    if kind == "name":
        return Place("name", name=names.name(told.text("name")))
    if kind not in ("tcp", "udp"):
        raise told.wrong("kind", f"{kind[:40]!r} is nothing that is leased")
    service = told.label("name") if told.rest().get("name") else ""
    return Place("tcp" if kind == "tcp" else "udp", _number(told, "port", 65535), service)


def _leased(leased: Leased) -> dict[str, Json]:
    return {**_place(leased.place), "seconds": leased.seconds}


def _read_leased(told: Fields) -> Leased:
    return Leased(_read_place(told), _number(told, "seconds", _MOST_SECONDS))


def _here(told: Fields) -> Here:
    leases = told.take("leases")
    if not isinstance(leases, list) or len(leases) > _MOST_OF_EACH or not all(isinstance(one, dict) for one in leases):
        raise told.wrong("leases", "is no list of objects")
    return Here(
        domain=names.name(told.text("domain")),
        did=_device(told, "did"),
        seen=_seen(told),
        addresses=told.ips("addresses")[:_MOST_ADDRESSES],
        udp=_number(told, "udp", 65535),
        knows=told.flag("knows", False),
        names=tuple(names.name(one) for one in told.texts("names", _MOST_OF_EACH)),
        leases=tuple(_read_leased(Fields(dict(one), "lease")) for one in leases if isinstance(one, dict)),
    )


def _seen(told: Fields) -> str:
    seen = told.text_or_none("seen") or ""
    return names.ip(seen) if seen else ""


def _session(told: Fields) -> RelaySession:
    relay_id, keys = told.text_or_none("id"), told.texts("keys", 2)
    first, second = keys if len(keys) == 2 else ("", "")
    addresses = told.ips("addresses")[:_MOST_ADDRESSES]
    if not addresses:
        raise told.wrong("addresses", "are missing")
    return RelaySession(
        relay_id=_octets(told, "id", relay_id or "", ID_SIZE),
        keys=(_octets(told, "keys", first, KEY_SIZE), _octets(told, "keys", second, KEY_SIZE)),
        addresses=addresses,
        port=_number(told, "port", 65535, least=1),
        seconds=_number(told, "seconds", _MOST_SECONDS),
    )


def _octets(told: Fields, name: str, text: str, size: int) -> bytes:
    if len(text) != 2 * size or _HEX(text) is None:
        raise told.wrong(name, f"is no hexadecimal text of {size} octets")
    return bytes.fromhex(text)


def _number(told: Fields, name: str, most: int, least: int = 0) -> int:
    value = told.take(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise told.wrong(name, f"is no whole number from {least} to {most}")
    return value
