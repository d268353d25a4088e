"""A network that passes nothing but what looks like the web: its devices reach their SN as a WebSocket over TLS, and by
its own port when the network lets them."""

from __future__ import annotations

import json
from typing import Any

import trustme
from devices import PROGRAM
from netnslab import HOME, WEB_ONLY, need
from netnslab.process import until
from test_reach_sn import BOX, DID, LAPTOP, QUIET, SN, home_of

from cyfs_ns.identity.did import dev_did
from tests.cyfs_gateway.membership.membership_houses import owned
from tests.cyfs_ns.identity.identities import ALICE

_DOMAIN = "sn.example"
_INSPECTS = """table inet inspects { chain way {
  type filter hook forward priority -300;
  tcp dport 80 drop
  tcp dport 443 ct mark 1 accept
  tcp dport 443 @ih,0,8 0x16 ct mark set 1 accept
  tcp dport 443 @ih,0,8 != 0x16 drop
}; }"""
"""On its way to port 443 a connection has to begin as TLS does; plain HTTP does not get through at all."""


async def test_a_device_reaches_its_sn_as_a_websocket_until_the_network_gets_better(lab):
    need("nft")
    internet = lab.network("198.51.100.0/24", name="internet")
    sn = lab.host(internet, name="sn")
    office = lab.network("192.168.7.0/24", uplink=internet, nat=WEB_ONLY, name="office")
    laptop = lab.host(office, name="laptop")
    box = lab.host(lab.network("192.168.1.0/24", uplink=internet, nat=HOME, name="home"), name="box")
    assert office.router is not None
    issued = trustme.CA().issue_cert(_DOMAIN)
    at_sn = {
        "rtcp": {"listen": 2980, "lan": False, "port-mapping": False},
        "sn": {
            "domain": _DOMAIN,
            "listen": f"{sn.ip}:3478",
            "addresses": [sn.ip],
            "private-addresses": True,
            "owners": [str(dev_did(ALICE.public))],
            "ingress": True,
        },
    }
    member = {
        "sn": [{"peer": str(DID["sn"]), "at": f"{_DOMAIN}:2980"}],
        "private-addresses": [str(DID["box"]), str(DID["laptop"])],
    }
    service = {"name": "web", "port": 80, "target": "tcp://127.0.0.1:80", "allow": [str(DID["laptop"])]}
    known = {**QUIET, "hosts": {_DOMAIN: sn.ip}}
    async with lab.up(timeout=240):
        pem = lab.directory / "sn.pem"
        pem.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
        pem.chmod(0o600)
        await office.router.run("nft", "-f", "-", stdin=_INSPECTS)
        async with (
            sn.gateway({**QUIET, **at_sn, "certificates": {"files": [str(pem)]}}, home=home_of(lab, "sn", SN)) as there,
            box.gateway({**known, "rtcp": {**member, "services": [service]}}, home=home_of(lab, "box", BOX)) as at_box,
        ):
            owned(lab.directory / "box")
            home = ("--home", str(lab.directory / "box"))

            async def reached() -> bool:
                said = await at_box.api("/cyfs/status")
                return all(one["tunnel"] == "stands" for one in said["memberships"])

            await until("the SN is reached", reached, timeout=30)
            joined = await box.run(PROGRAM, "sn", "join", str(DID["sn"]), "--name", "alice", "--yes", *home)
            assert joined.code == 0, joined.err
            async with laptop.gateway({**known, "rtcp": member}, home=home_of(lab, "laptop", LAPTOP)) as at_laptop:
                await at_laptop.api("/cyfs/memberships", method="POST")
                seen: list[Any] = []

                async def content() -> bool:
                    both = [await each.api("/cyfs/status") for each in (at_box, at_laptop)]
                    seen[:] = [one for said in both for one in said["memberships"]]
                    return all(one["tunnel"] == "stands" and one["why"] == "" for one in seen)

                try:
                    await until("both belong to the SN", content, timeout=60)
                except Exception as late:
                    logs = at_laptop.process.text()[-4000:], there.process.text()[-2000:]
                    raise AssertionError(f"{seen}\n{logs[0]}\n---\n{logs[1]}") from late
                words = ("ping", str(DID["sn"]), "--json", "--home", str(lab.directory / "laptop"))
                told = json.loads((await laptop.run(PROGRAM, *words, timeout=40)).out)
                assert told["way"] == f"wss {_DOMAIN}", told
                words = ("ping", str(DID["box"]), "--json", "--home", str(lab.directory / "laptop"))
                told = json.loads((await laptop.run(PROGRAM, *words, timeout=40)).out)
                assert told["way"].startswith("SN "), told

                wan, lan = (port.addresses[0].partition("/")[0] for port in office.router.ports)
                await office.router.run("nft", "flush", "ruleset")
                await office.router.run("nft", "-f", "-", stdin=HOME.ruleset(wan, lan))

                async def better() -> bool:
                    await at_laptop.api(
                        "/cyfs/memberships", method="POST"
                    )  # a better way is for who has something to say
                    peers = (await at_laptop.api("/cyfs/peers"))["peers"]
                    seen[:] = [one for one in peers if one["device"] == str(DID["sn"])]
                    # Whether it was met by its name or by an address of it is the race's to say.
                    own = {f"{kind} {at}:2980" for kind in ("tcp", "udp") for at in (sn.ip, _DOMAIN)}
                    return len(seen) == 1 and seen[0]["way"] in own

                try:
                    await until("the SN is reached by its own port", better, timeout=120)
                except Exception as late:
                    raise AssertionError(f"{seen}\n{at_laptop.process.text()[-4000:]}") from late
