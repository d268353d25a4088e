"""Two machines of one owner, and a stranger: homes with keys, pins and documents, and the DNS that publishes them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.txt import character_strings, txt_record
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Pin
from cyfs_ns.trust.places import device_did
from tests.cyfs_gateway.io.inprocess import Living, living
from tests.cyfs_gateway.io.names_house import Behind, behind
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, MALLORY, NAS, PI, boot, device, mini

__all__ = [
    "ALICE",
    "DAY",
    "HOME",
    "LAPTOP",
    "MALLORY",
    "NAS",
    "NOW",
    "PHOTOS",
    "PI",
    "dev",
    "machine",
    "published",
    "settle",
]

NOW = int(time.time())
PHOTOS, LAPTOP = device_did("photos", HOME), device_did("laptop", HOME)
NAMES = {PHOTOS: ("photos", NAS), LAPTOP: ("laptop", PI)}


def records(port: int, owner: SecretKey = ALICE, *machines: str) -> list[str]:
    """The zone in DNS: ``photos`` listens at ``port`` of 127.0.0.1, ``laptop`` nowhere."""
    texts = [
        txt_record("PKX", owner.public.x),
        txt_record("BOOT", boot(owner, *(machines or ("photos",)), iat=NOW - 100, exp=NOW + DAY).text),
    ]
    for did, (name, key) in NAMES.items():
        at = port if did == PHOTOS else None
        texts.append(txt_record("DEV", mini(name, key, owner, iat=NOW - 100, exp=NOW + DAY, rtcp_port=at).text))
    lines = ["home.example. 60 TXT " + " ".join(f'"{part}"' for part in character_strings(text)) for text in texts]
    return [*lines, "photos.home.example. 60 A 127.0.0.1"]


@asynccontextmanager
async def published(port: int, owner: SecretKey = ALICE, *machines: str) -> AsyncIterator[Behind]:
    async with behind(*records(port, owner, *machines)) as server:
        yield server


def settle(home: Path, key: SecretKey, did: Did | None = None, *, pinned: bool = True) -> None:
    """``key`` lives at ``home``, by its name in the zone if it has one."""
    folder = home / "identity"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "device.pem").write_bytes(key.pem())
    (folder / "device.pem").chmod(0o600)
    if did is not None:
        name = NAMES[did][0]
        signed = device(name, key, ALICE, iat=NOW - 100, exp=NOW + DAY, zone=HOME)
        (folder / "device.jwt").write_text(signed.text)
    if pinned:
        TrustStore(home).pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW))


@asynccontextmanager
async def machine(
    home: Path,
    key: SecretKey,
    config: str,
    *,
    did: Did | None = None,
    dns: Behind | None = None,
    pinned: bool = True,
) -> AsyncIterator[Living]:
    """A gateway with this identity; it asks ``dns``, if there is one."""
    settle(home, key, did, pinned=pinned)
    server = f"127.0.0.1:{dns.port}" if dns is not None else "127.0.0.1:9"
    base = f"dns: {{enable: true, use-system-hosts: false, nameserver: ['{server}']}}\nipv6: true\n"
    async with living(home, config, base=base) as house:
        yield house


def dev(key: SecretKey) -> Did:
    return dev_did(key.public)
