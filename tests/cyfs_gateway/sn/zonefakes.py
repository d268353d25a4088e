"""A zone of three people, without a registry: who has which name, and what their devices say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cyfs_gateway.sn.zone import Zone
from cyfs_gateway.sn.zonerecords import ZoneSettings
from cyfs_gateway.sn.zoneupdate import ZoneUpdate, write_update
from cyfs_ns.authority import Statement
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.message import rtype_number, rtype_text
from cyfs_ns.records import data_text
from cyfs_ns.reply import records
from cyfs_ns.wire import name_text, name_wire

NOW = 1_790_000_000.0
ORIGIN = "sn.example"
V4, V6 = "203.0.113.10", "2001:db8::10"
HOME4, HOME6 = "198.51.100.7", "2001:db8:7::7"


def secret(number: int) -> SecretKey:
    return SecretKey(bytes([number]) * 32)


OOD, LAPTOP, BOB, MALLORY = (secret(number) for number in (11, 12, 13, 14))


@dataclass(frozen=True)
class Owner:
    devices: Mapping[str, PublicKey]
    chosen: str = ""
    texts: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()


@dataclass
class Someone:
    """A registry of a dictionary."""

    owners: dict[str, Owner] = field(default_factory=dict)

    def find_name(self, name: str) -> Owner | None:
        return self.owners.get(name)

    def names(self) -> Iterable[str]:
        return list(self.owners)


def people() -> Someone:
    return Someone(
        {
            "alice": Owner(
                {"ood1": OOD.public, "laptop": LAPTOP.public},
                "ood1",
                (f"PKX={OOD.public.x};",),
                ("letsencrypt.org; validationmethods=dns-01",),
            ),
            "bob": Owner({"nas": BOB.public}, "nas"),
            "carol": Owner({}),
        }
    )


def settings(**more: Any) -> ZoneSettings:
    usual: dict[str, Any] = {
        "origin": ORIGIN,
        "nameservers": {"ns1.sn.example": (V4, V6), "ns2.sn.example": ("203.0.113.11",), "ns.other.example": ()},
        "ingress": (V4, V6),
        "hosts": {"www": (V4,)},
        "reserved": frozenset({"admin"}),
        "texts": ("v=spf1 -all",),
        "issuers": ("letsencrypt.org", "pki.goog"),
        "private": True,
    }
    return ZoneSettings(**{**usual, **more})


def zone(who: Someone | None = None, **more: Any) -> Zone:
    return Zone(settings(**more), people() if who is None else who, now=NOW)


def value(number: int) -> str:
    return f"{number:043d}"


def said(key: SecretKey = OOD, *, seq: int = 1, now: float = NOW, signer: SecretKey | None = None, **more: Any) -> str:
    """An update of Alice's box at home, or of whom else ``more`` says."""
    usual: dict[str, Any] = {
        "audience": ORIGIN,
        "name": "alice",
        "device": "ood1",
        "key": key.public,
        "seq": seq,
        "iat": int(now),
        "exp": int(now) + 300,
        "challenges": {},
    }
    return write_update(ZoneUpdate(**{**usual, **more}), signer or key)


def asked(zone: Zone, name: str, rtype: str, now: float = NOW) -> Statement:
    statement = zone.lookup(name_wire(name), rtype_number(rtype), now)
    assert statement is not None
    return statement


def told(zone: Zone, name: str, rtype: str, now: float = NOW) -> tuple[int, list[str]]:
    """Response code, and the answer as text."""
    reply = asked(zone, name, rtype, now).reply
    return reply.rcode, sorted(data_text(kind, data) for _, kind, _, data in records(reply, 0))


def printed(statement: Statement, section: int) -> list[str]:
    return [
        f"{name_text(owner)} {ttl} {rtype_text(kind)} {data_text(kind, data)}"
        for owner, kind, ttl, data in records(statement.reply, section)
    ]
