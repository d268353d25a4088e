"""Identities in a living gateway: asked through its name servers, its name server's zones and its rules."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from inprocess import living
from names_house import behind, named

from cyfs_ns.conversation import PageWanted
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.txt import character_strings, txt_record
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Found
from cyfs_ns.trust.plan import Ask
from tests.cyfs_ns.identity.identities import ALICE, DAY, NAS, mini, own_key

NOW = int(time.time())
OOD = Did("web", "ood1.home.example")
DEVICE = mini("ood1", NAS, ALICE, iat=NOW - 100, exp=NOW + DAY).text
PUBLISHED = tuple(
    "home.example. 60 TXT " + " ".join(f'"{part}"' for part in character_strings(record))
    for record in (txt_record("PKX", ALICE.public.x), txt_record("DEV", DEVICE))
)


def wanted(did: Did) -> PageWanted:
    return PageWanted(f"/1.0/identifiers/{did}", "", "application/did-resolution")


@pytest.mark.parametrize("served", [True, False])
async def test_asked_through_the_gateways_name_servers(tmp_path: Path, served: bool) -> None:
    async with behind(*PUBLISHED) as upstream:
        dns = f"dns: {{enable: true, use-system-hosts: false, nameserver: ['127.0.0.1:{upstream.port}']"
        listen = ", listen: '127.0.0.1:0'" if served else ""
        rest = "\nrules: ['MATCH,REJECT']\n"
        async with living(tmp_path, dns + listen + "}" + rest, base="ipv6: true\n") as house:
            assert (house.gateway.name_server is not None) is served
            found = await house.gateway.trusted.resolve(Ask(subject=OOD))
            assert isinstance(found, Found), found
            assert own_key(found) == NAS.public
            assert found.trust == Trust.PLAIN_DNS
            assert "home.example" in upstream.names("TXT")
            page = await house.gateway.show_identity(wanted(OOD))
            assert page is not None
            assert json.loads(page.body)["didDocumentMetadata"]["trust"] == "plain-dns"


async def test_its_own_zones_count(tmp_path: Path) -> None:
    lines = "\n".join(
        f"      - '{record.replace('home.example.', '@').replace(' 60 ', ' 60 IN ')}'" for record in PUBLISHED
    )
    async with named(tmp_path, f"  zones:\n    home.example:\n{lines}") as house:
        page = await house.house.gateway.show_identity(wanted(OOD))
        assert page is not None
        assert json.loads(page.body)["didDocumentMetadata"]["trust"] == "host-snapshot"
        assert "home.example" not in house.upstream.names("TXT")


async def test_a_change_of_the_section_is_part_of_the_reload(tmp_path: Path) -> None:
    async with named(tmp_path) as house:
        before = house.house.gateway.trusted
        assert house.house.gateway.trusted is before
        await house.reload(rest="identity: {resolvers: ['https://resolver.example/ids']}\n")
        plan = house.house.gateway.trusted.plan(Ask(subject=OOD))
        assert [name for step in plan.steps for name in step.providers][-1] == "resolver resolver.example/ids"


async def test_the_rules_decide_the_way_to_web_hosts(tmp_path: Path) -> None:
    async with behind("nas.example. 60 A 127.0.0.1") as upstream:
        config = f"""
dns: {{enable: true, use-system-hosts: false, nameserver: ['127.0.0.1:{upstream.port}']}}
identity: {{private: [nas.example]}}
rules: ['IP-CIDR,127.0.0.0/8,REJECT,no-resolve', 'MATCH,DIRECT']
"""
        async with living(tmp_path, config, base="ipv6: true\n") as house:
            outcome = await house.gateway.trusted.resolve(Ask(subject=Did("web", "nas.example")))
            assert outcome.faults
            assert "nas.example/.well-known/did.json" in outcome.faults[0]
            assert "IP-CIDR,127.0.0.0/8" in outcome.faults[0]
            shown = await house.gateway.show_identity(wanted(dev_did(NAS.public)))
            assert shown is not None
            assert shown.status == 200
