"""Two gateways behind NATs that know nothing but their SN: they meet on the best way there is, and say why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from devices import PROGRAM
from netnslab import HOME, NO_UDP, PORT_RESTRICTED, PREDICTABLE, SYMMETRIC, Gateway, Host, Lab, Nat, need
from netnslab.process import until

from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.keys import SecretKey
from tests.cyfs_gateway.membership.membership_houses import owned, settle
from tests.cyfs_ns.identity.identities import ALICE

SN, BOX, LAPTOP = (SecretKey(bytes([number]) * 32) for number in (61, 62, 63))
DID = {"sn": dev_did(SN.public), "box": dev_did(BOX.public), "laptop": dev_did(LAPTOP.public)}
QUIET = {"log-level": "debug", "dns": {"enable": False}, "rules": ["MATCH,DIRECT"]}


@dataclass
class Houses:
    """The SN and its two devices, all running."""

    lab: Lab
    laptop: Host
    box: Host
    there: Gateway

    async def explained(self) -> dict[str, Any]:
        words = ("ping", str(DID["box"]), "--explain", "--json", "--home", str(self.lab.directory / "laptop"))
        done = await self.laptop.run(PROGRAM, *words, check=False, timeout=60)
        return json.loads(done.out) if done.code == 0 else {"way": "", "why": done.err, "ways": []}

    async def goes(self, way: str, why: str) -> dict[str, Any]:
        """Until the tunnel goes by such a way for such a reason."""
        seen: dict[str, Any] = {}

        async def does() -> bool:
            seen.update(await self.explained())
            return seen["way"].startswith(way) and why in seen["why"]

        try:
            await until(f"it goes by {way}", does, timeout=60)
        except Exception as late:
            raise AssertionError(f"{seen}\n{self.there.process.text()[-3000:]}") from late
        return seen


def home_of(lab: Lab, name: str, key: SecretKey) -> Path:
    home = lab.directory / name
    settle(home, key, name)
    return home


@pytest.mark.parametrize(
    ("here", "there", "way", "why"),
    [
        (HOME, HOME, "udp 198.51.100.", ""),
        (PORT_RESTRICTED, PREDICTABLE, "udp 198.51.100.", ""),
        (HOME, SYMMETRIC, "relay udp 198.51.100.", "the far NAT is random-symmetric"),
        (NO_UDP, HOME, "tcp 198.51.100.", ""),
    ],
    ids=lambda value: value.name if isinstance(value, Nat) else "",
)
async def test_they_meet(lab, here, there, way, why):
    need("nft")
    internet = lab.network("198.51.100.0/24", name="internet")
    sn = lab.host(internet, name="sn")
    laptop = lab.host(lab.network("192.168.7.0/24", uplink=internet, nat=here, name="away"), name="laptop")
    box = lab.host(lab.network("192.168.1.0/24", uplink=internet, nat=there, name="home"), name="box")
    at_sn = {
        "rtcp": {"listen": 2980, "lan": False, "port-mapping": False},
        "sn": {
            "domain": "sn.example",
            "listen": f"{sn.ip}:3478",
            "addresses": [sn.ip],
            "private-addresses": True,
            "owners": [str(dev_did(ALICE.public))],
        },
    }
    member = {
        "sn": [{"peer": str(DID["sn"]), "at": f"{sn.ip}:2980"}],
        "private-addresses": [str(DID["box"]), str(DID["laptop"])],
    }
    service = {"name": "web", "port": 80, "target": "tcp://127.0.0.1:80", "allow": [str(DID["laptop"])]}
    async with (
        lab.up(),
        sn.gateway({**QUIET, **at_sn}, home=home_of(lab, "sn", SN)),
        box.gateway({**QUIET, "rtcp": {**member, "services": [service]}}, home=home_of(lab, "box", BOX)) as at_box,
        laptop.gateway({**QUIET, "rtcp": member}, home=home_of(lab, "laptop", LAPTOP)) as at_laptop,
    ):
        owned(lab.directory / "box")
        home = ("--home", str(lab.directory / "box"))

        async def reached() -> bool:
            said = await at_box.api("/cyfs/status")
            return all(one["tunnel"] == "stands" for one in said["memberships"])

        await until("the SN is reached", reached, timeout=60)
        joined = await box.run(PROGRAM, "sn", "join", str(DID["sn"]), "--name", "alice", "--yes", *home)
        assert joined.code == 0, joined.err
        await at_laptop.api("/cyfs/memberships", method="POST")

        async def content() -> bool:
            both = [await each.api("/cyfs/status") for each in (at_box, at_laptop)]
            return all(one["why"] == "" for said in both for one in said["memberships"])

        await until("both belong to the SN", content, timeout=60)
        seen = await Houses(lab, laptop, box, at_laptop).goes(way, why)
        assert {one["state"] for one in seen["ways"]} >= {"in use", "ready"}, seen
