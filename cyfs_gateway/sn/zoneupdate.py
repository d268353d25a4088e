"""What a device says of itself in the zone of an SN, signed with its key.

An update says *everything* the device has to say, and stands in the place of what it said before.  So there is nothing
to add or to take away, an update that was lost is made good by the next one, and what an SN keeps of a device is one
token, which proves itself whenever it is read again.

It travels as a token (:mod:`cyfs_ns.identity.token`) with these claims and no others::

    {"kind": "zone-update", "aud": "sn.example", "name": "alice", "device": "ood1", "x": KEY, "seq": 7,
     "iat": …, "exp": …, "ips": [ADDRESS…], "expose": true, "acme": {"": [VALUE…], "photos": [VALUE…]}}

``aud`` is the SN's domain, so that no other SN can pass it on as its own.  ``seq`` grows with every update of the
device; milliseconds since 1970 do, as long as the last one is remembered.  ``acme`` has the values of TXT records for
certificates (RFC 8555 section 8.4) by the host they are for, relative to the name; the empty host is the name itself,
and stands for wildcards of it, too.

Reading it proves nothing: :mod:`cyfs_gateway.sn.zone` holds it against who is registered, and when.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cyfs_ns import names
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.identity.strictjson import Json
from cyfs_ns.identity.token import Token, read_token, sign_token

KIND = "zone-update"
LIFETIME = 600
"""Seconds for which an update may be delivered, at most."""
MOST_UPDATE = 8192
"""Characters of the longest update we read."""
MOST_ADDRESSES = 8
MOST_VALUES = 16
"""Of TXT values in one update."""

_MOST_HOST = 128  # characters
_MOST_DEEP = 4
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z").match
_VALUE = re.compile(r"[A-Za-z0-9_-]{43}\Z").match
_CLAIMS = ("kind", "aud", "name", "device", "x", "seq", "iat", "exp", "ips", "expose", "acme")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneUpdate:
    """See the module's text.  ``audience`` and ``addresses`` are canonical, ``name`` and ``device`` lower-case labels.

    ``exposed``: where the device answers for the name itself, visitors are led straight to its addresses, too; else
    they stand at the device's own name alone.  ``challenges`` are values by host.  ``iat`` and ``exp`` are seconds
    since 1970.
    """

    audience: str
    name: str
    device: str
    key: PublicKey
    seq: int
    iat: int
    exp: int
    addresses: tuple[str, ...] = ()
    exposed: bool = False
    challenges: Mapping[str, tuple[str, ...]]

    def claims(self) -> dict[str, Json]:
        """In the order they are documented in; signing brings them into its own."""
        said = (
            KIND,
            self.audience,
            self.name,
            self.device,
            self.key.x,
            self.seq,
            self.iat,
            self.exp,
            list(self.addresses),
            self.exposed,
            {host: list(values) for host, values in self.challenges.items()},
        )
        return dict(zip(_CLAIMS, said, strict=True))


def write_update(update: ZoneUpdate, key: SecretKey) -> str:
    """The update as a token; ``key`` is the secret of ``update.key``."""
    return sign_token(update.claims(), key)


def read_update(untrusted: str) -> tuple[ZoneUpdate, Token]:
    """What a token says, well formed and not yet verified.  Raises ``BadWire``."""
    token = read_token(untrusted, "zone update", MOST_UPDATE)
    if missing := [name for name in _CLAIMS if name not in token.claims]:
        raise BadWire(f"zone update: {missing[0]} is missing")
    fields = Fields(dict(token.claims), "zone update")
    if fields.text("kind") != KIND:
        raise fields.wrong("kind", f"is not {KIND}")
    update = ZoneUpdate(
        audience=names.name(fields.text("aud")),
        name=_label(fields, "name"),
        device=_label(fields, "device"),
        key=fields.x("x"),
        seq=fields.number("seq"),
        iat=fields.number("iat"),
        exp=fields.number("exp"),
        addresses=_addresses(fields),
        exposed=fields.flag("expose", False),
        challenges=_challenges(fields),
    )
    if unknown := sorted(fields.rest()):
        raise BadWire(f"zone update: {unknown[0][:40]!r} is nothing a device may say here")
    return update, token


def is_label(text: str) -> bool:
    """Whether ``text`` is one label of a host name (RFC 1123 section 2.1), in lower case."""
    return _LABEL(text) is not None


def _label(fields: Fields, name: str) -> str:
    label = fields.label(name)
    if not is_label(label):
        raise fields.wrong(name, f"{label[:80]!r} is no label of a host name")
    return label


def _addresses(fields: Fields) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(fields.ips("ips")))
    if len(found) > MOST_ADDRESSES:
        raise fields.wrong("ips", f"are {len(found)}, at most {MOST_ADDRESSES} are taken")
    return found


def _challenges(fields: Fields) -> dict[str, tuple[str, ...]]:
    told = fields.take("acme")
    if not isinstance(told, dict):
        raise fields.wrong("acme", "is no object of hosts with their values")
    found: dict[str, tuple[str, ...]] = {}
    for host, values in told.items():
        labels = host.split(".") if host else []
        if len(host) > _MOST_HOST or len(labels) > _MOST_DEEP or not all(map(is_label, labels)):
            raise fields.wrong("acme", f"{host[:80]!r} is no host below the name")
        if not isinstance(values, list) or not values or len(values) > MOST_VALUES:
            raise fields.wrong("acme", f"{host[:80]!r} has no list of 1 to {MOST_VALUES} values")
        texts = tuple(dict.fromkeys(value for value in values if isinstance(value, str) and _VALUE(value)))
        if len(texts) < len(values):
            raise fields.wrong("acme", f"{host[:80]!r} has a value twice, or one no certificate authority asks for")
        found[host] = texts
    if sum(map(len, found.values())) > MOST_VALUES:
        raise fields.wrong("acme", f"has more than {MOST_VALUES} values")
    return found
