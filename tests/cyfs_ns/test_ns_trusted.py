"""Names of identities asked of the name server: by whom they are answered, what is kept, and what nobody else hears."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import dns.message
import pytest
import trio
import trio.testing
from dnsfakes import zone
from nameserving import CLIENT, Lab, edes, name_server, query_wire, rcode, shown
from nsprogram import Running, server, upstream

from cyfs_ns.errors import ConfigFault
from cyfs_ns.errors import Unreachable as CannotAsk
from cyfs_ns.given import Given, Stand
from cyfs_ns.identity.did import dev_did, host_of_did
from cyfs_ns.identity.documents import ZoneDoc
from cyfs_ns.identity.issue import Issuer
from cyfs_ns.identity.oods import read_ood
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.request import DeviceRequest
from cyfs_ns.identity.token import Token, read_token, sign_token
from cyfs_ns.identity.txt import read_published
from cyfs_ns.io.explain import explain, question_of
from cyfs_ns.io.nameserver import NameServer
from cyfs_ns.io.trusted.answers import TrustedAnswers
from cyfs_ns.io.trusted.providers import TheName, ThisMachine, WhatWasKept
from cyfs_ns.io.trusted.resolver import TrustedNames
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.io.trustgate import TrustGate
from cyfs_ns.message import TXT, A
from cyfs_ns.query import SERVFAIL, Query, read_query
from cyfs_ns.reply import make_reply
from cyfs_ns.trust.anchors import Pin
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Found, Outcome, Revoked
from cyfs_ns.trust.plan import Ask, Card, Cost, Privacy
from tests.cyfs_ns.identity.identities import ALICE, HOME, MALLORY, NAS, SecretKey, boot, mini
from tests.freeport import free_port

MIXED = "AlIcE.eTh"
WEB, PORTS = ("HTTPS", "SVCB"), ("", ":8443")
X = NAS.public.x
IN_BASE32 = host_of_did(dev_did(NAS.public), case_safe=True)


@dataclass
class Chain:
    """An ENS of a dictionary: name to what it holds, in pairs of kind and key, and value."""

    clock: Lab | None = None
    wall: float = 0.0
    holds: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    trust: Trust = Trust.QUORUM
    life: float = 100.0
    down: bool = False
    asked: list[str] = field(default_factory=list)

    card = Card(name="ENS", methods=frozenset({"ens"}), best=Trust.QUORUM, cost=Cost.CHAIN, privacy=Privacy.SERVICE)

    async def ask(self, ask: Ask) -> Outcome:
        await trio.lowlevel.checkpoint()
        self.asked.append(ask.subject.id)
        if self.down:
            raise CannotAsk("every node is down")
        now = self.server.wall()
        fact = Evidence(trust=self.trust, what="its record", source="ENS", at=now, until=now + self.life)
        if ask.subject.id not in self.holds:
            return Absent(subject=ask.subject, why="not in ENS", evidence=fact, until=fact.until)
        return Found(
            subject=ask.subject,
            claims=tuple(
                Claim(about=ask.subject, kind=kind, key=key, value=value, evidence=fact)  # type: ignore[arg-type]
                for kind, key, value in self.holds[ask.subject.id]
            ),
        )

    server: NameServer = field(init=False)


@dataclass
class Zone:
    """DNS as a provider: tokens that stand below HOME."""

    tokens: list[Token] = field(default_factory=list)
    silent: bool = False
    server: NameServer = field(init=False)

    card = Card(
        name="DNS", methods=frozenset({"web"}), best=Trust.OWNER_SIGNED, cost=Cost.NEAR, privacy=Privacy.RESOLVER
    )

    async def ask(self, ask: Ask) -> Outcome:
        await trio.lowlevel.checkpoint()
        if self.silent:
            await trio.sleep_forever()
        now = self.server.wall()
        fact = Evidence(trust=Trust.PLAIN_DNS, what="published", source="dns", at=now, until=now + 600)
        claims = tuple(Claim(about=HOME, kind="token", value=token, evidence=fact) for token in self.tokens)
        return Found(subject=ask.subject, claims=claims)


@asynccontextmanager
async def house(
    home: Path,
    config: dict[str, object] | None = None,
    says: dict[tuple[str, str], object] | None = None,
    chain: Chain | None = None,
    pinned: SecretKey | None = None,
    zone: Zone | None = None,
) -> AsyncIterator[Lab]:
    """A name server with trusted names over ``chain`` and ``zone``; ``pinned`` is the key of the owner of HOME."""
    store = TrustStore(home)
    if pinned is not None:
        store.pin(Pin(about=HOME, key=pinned.public, source="test", at=0))

    def prepare(server: NameServer) -> None:
        providers = [TheName(server.wall), ThisMachine(store), WhatWasKept(store, server.wall)]
        for one in (chain, zone):
            if one is not None:
                one.server = server
                providers.append(one)  # type: ignore[arg-type]
        trusted = TrustedNames(providers, store, wall=server.wall, clock=server.clock)
        answers = TrustedAnswers(trusted, home, clock=server.clock, wall=server.wall)
        answers.look()
        server.trusted = answers

    async with name_server(config, says, prepare=prepare) as lab:
        yield lab


def published(lab_now: float, *oods: str, owner: SecretKey = ALICE) -> Zone:
    now = int(lab_now)
    times = {"iat": now - 100, "exp": now + 7200}
    return Zone([boot(owner, *oods, **times), mini("ood1", NAS, owner, **times)])


def signed_zone(owner: SecretKey, **more: Any) -> Token:
    said = ZoneDoc(id=HOME, key=owner.public, owner=dev_did(owner.public), oods=(), **more)
    return read_token(sign_token(said.claims(), owner))


async def texts_of(lab: Lab, name: str) -> list[str]:
    """Over TCP, since documents are long."""
    answer = await lab.raw(query_wire(name, "TXT"), door="tcp")
    assert answer is not None
    return [line.split(" TXT ")[1] for line in shown(dns.message.from_wire(answer))]


NOW = 1_800_001_000.25  # of the lab's clock


def site() -> Chain:
    return Chain(holds={"alice.eth": [("address", "", "192.0.2.9"), ("text", "url", "https://alice.example")]})


async def test_a_chain_name_is_answered_with_its_level_to_those_who_can_hear_it(tmp_path: Path) -> None:
    chain = site()
    async with house(tmp_path, chain=chain) as lab:
        told = await lab.ask("alice.eth", edns=True)
        assert shown(told) == ["alice.eth 99 A 192.0.2.9"] or shown(told) == ["alice.eth 100 A 192.0.2.9"]
        (ede,) = told.options
        assert (ede.code, ede.text) == (0, "trust=quorum: its record, says ENS")
        plain = await lab.ask("alice.eth")
        assert not plain.options and plain.edns == -1 and len(shown(plain)) == 1
        nothing = await lab.ask("alice.eth", "MX", edns=True)
        assert rcode(nothing) == "NOERROR" and not nothing.answer and len(nothing.authority) == 1
        nobody = await lab.ask("bob.eth", edns=True)
        assert rcode(nobody) == "NXDOMAIN" and nobody.authority[0].ttl in (99, 100) and edes(nobody) == [0]
        assert chain.asked == ["alice.eth", "bob.eth"] and not lab.upstreams.asked
        assert [given.source for given in lab.notes] == ["trusted"] * 4


async def test_a_warm_answer_comes_from_the_hot_table_and_is_the_same_octet_for_octet(tmp_path: Path) -> None:
    chain = site()
    async with house(tmp_path, chain=chain) as lab:
        wire = query_wire("alice.eth", edns=True)
        first = await lab.raw(wire)
        assert lab.hits == 0
        for seconds in (0, 1.5, 40, 0.6):
            lab.pass_time(seconds)
            before = lab.hits
            hot = await lab.raw(wire)
            assert lab.hits == before + 1
            lab.server.hot.flush()
            cold = await lab.raw(wire)
            assert lab.hits == before + 1 and hot == cold
        assert first is not None and first != cold and chain.asked == ["alice.eth"]
        mixed = await lab.raw(query_wire(MIXED, edns=True))
        assert lab.hits == 5 and mixed is not None and b"\5AlIcE\3eTh\0" in mixed
        lab.pass_time(100)
        await lab.ask("alice.eth")
        assert chain.asked == ["alice.eth"] * 2


async def test_a_long_evidence_is_told_an_hour_at_a_time(tmp_path: Path) -> None:
    chain = site()
    chain.life = 4000
    async with house(tmp_path, chain=chain) as lab:
        seen = []
        for seconds in (0, 100, 299, 500, 2000):
            lab.pass_time(seconds)
            hot = (await lab.ask("alice.eth")).answer[0].ttl
            lab.server.hot.flush()
            assert (await lab.ask("alice.eth")).answer[0].ttl == hot
            seen.append(hot)
        assert seen[:2] == [3600, 3600] and seen[3] in (3100, 3101) and seen[4] in (1100, 1101)


async def test_nothing_leaks_whatever_is_asked_and_however_it_ends(tmp_path: Path) -> None:
    chain = site()
    names = [MIXED, "bob.eth", "eth", "did", "x.did", f"{X}.dev.did", "alice.bns.did", "x.alt", "alt", "_x.alice.eth"]
    async with house(tmp_path, {"family": "prefer-ipv4", "special-zones": False}, chain=chain) as lab:
        for down in (False, True):
            chain.down = down
            for name in names:
                for rtype in ("A", "AAAA", "TXT", "NS", "DS", "SOA", "ANY", "TYPE65280"):
                    answer = await lab.ask(name, rtype)
                    assert rcode(answer) in ("NOERROR", "NXDOMAIN", "SERVFAIL")
        assert not lab.upstreams.asked
    async with name_server({"special-zones": False}) as bare:
        for name in ("alice.eth", "x.did", "x.alt"):
            assert rcode(await bare.ask(name)) == "NXDOMAIN"
        assert not bare.upstreams.asked


async def test_without_nodes_an_eth_name_says_how_to_switch_them_on(tmp_path: Path) -> None:
    async with house(tmp_path) as lab:
        answer = await lab.ask("alice.eth", edns=True)
        assert rcode(answer) == "NXDOMAIN" and "identity/ens/rpc" in answer.options[0].text


async def test_what_is_not_sure_enough_or_cannot_be_asked_is_refused_and_not_kept(tmp_path: Path) -> None:
    chain = site()
    chain.trust = Trust.AUTH_CHANNEL
    async with house(tmp_path, chain=chain) as lab:
        weak = await lab.ask("alice.eth", edns=True)
        assert rcode(weak) == "SERVFAIL" and "by auth-channel only, quorum was asked for" in weak.options[0].text
        chain.down = True
        down = await lab.ask("carol.eth", edns=True)
        assert rcode(down) == "SERVFAIL" and edes(down) == [22, 23]
        chain.down, chain.trust = False, Trust.QUORUM
        lab.pass_time(31)
        assert shown(await lab.ask("alice.eth")) and lab.hits == 0


async def test_an_old_answer_serves_marked_while_nobody_can_be_asked(tmp_path: Path) -> None:
    chain = site()
    async with house(tmp_path, chain=chain) as lab:
        await lab.ask("alice.eth")
        lab.pass_time(200)
        chain.down = True
        stale = await lab.ask("alice.eth", edns=True)
        assert shown(stale) == ["alice.eth 30 A 192.0.2.9"] and edes(stale) == [0, 3]
        chain.down = False
        fresh = await lab.ask("alice.eth", edns=True)
        assert edes(fresh) == [0] and lab.hits == 0


async def test_an_alias_of_a_chain_name_leads_into_the_dns(tmp_path: Path) -> None:
    chain = Chain(holds={"site.eth": [("text", "alias", "www.example")], "loop.eth": [("text", "alias", "loop.eth")]})
    async with house(tmp_path, says={("www.example", "A"): ["60 A 192.0.2.8"]}, chain=chain) as lab:
        told = await lab.ask("site.eth", edns=True)
        assert [line.split(None, 2)[2] for line in shown(told)] == ["CNAME www.example.", "A 192.0.2.8"]
        assert edes(told) == [0] and [asked.name for asked in lab.upstreams.asked] == ["www.example"]
        assert not (await lab.ask("loop.eth")).answer


async def test_policy_and_the_rules_for_answers_hold_here_too(tmp_path: Path) -> None:
    chain = Chain(holds={"ads.eth": [("address", "", "192.0.2.9")], "lan.eth": [("address", "", "192.168.1.1")]})
    async with house(tmp_path, {"rebind-protection": True, "block": ["+.ads.eth"]}, chain=chain) as lab:
        assert rcode(await lab.ask("ads.eth", edns=True)) == "NOERROR" and chain.asked == []
        assert lab.notes[-1].source == "blocked"
        rebound = await lab.ask("lan.eth", edns=True)
        assert not rebound.answer and lab.notes[-1].source == "blocked" and chain.asked == ["lan.eth"]


async def test_the_preferred_family_is_asked_of_the_same_identity(tmp_path: Path) -> None:
    chain = Chain(holds={"alice.eth": [("address", "", "192.0.2.9"), ("address", "", "2001:db8::9")]})
    async with house(tmp_path, {"family": "prefer-ipv4"}, chain=chain) as lab:
        assert not (await lab.ask("alice.eth", "AAAA")).answer
        assert (await lab.ask("alice.eth", "A")).answer
        assert not lab.upstreams.asked


async def test_a_pinned_zone_speaks_for_its_machines_and_the_dns_for_the_rest(tmp_path: Path) -> None:
    says = {
        ("home.example", "A"): ["60 A 203.0.113.66"],
        ("www.home.example", "A"): ["60 A 192.0.2.80"],
        ("home.example", "MX"): ["60 MX 5 mx.example."],
        ("home.example", "TXT"): ['60 TXT "v=spf1 -all"', '60 TXT "PKX=forged;"'],
    }
    zone = published(NOW, "ood1:192.168.1.2@wan")
    async with house(tmp_path, {"rebind-protection": True}, says, pinned=ALICE, zone=zone) as lab:
        for name in ("home.example", "OOD1.home.example"):
            told = await lab.ask(name, edns=True)
            assert shown(told)[0].endswith("A 192.168.1.2"), told
            assert told.options[0].text.startswith("trust=owner-signed: boot document of did:web:home.example")
        assert not lab.upstreams.asked
        assert shown(await lab.ask("www.home.example")) == ["www.home.example 60 A 192.0.2.80"]
        assert shown(await lab.ask("home.example", "MX")) == ["home.example 60 MX 5 mx.example."]
        texts = await texts_of(lab, "home.example")
        assert [text[:6] for text in texts] == ['"BOOT=', '"PKX=i', '"DEV=e', '"v=spf']
        joined = texts[0].replace('" "', "")
        assert joined == f'"BOOT={zone.tokens[0].text};"' and ALICE.public.x in texts[1]
        assert texts[2].replace('" "', "") == f'"DEV={zone.tokens[1].text};"'


async def test_web_servers_stand_where_the_owner_says_and_what_the_dns_says_of_them_does_not_count(
    tmp_path: Path,
) -> None:
    hosts = ("home.example", "_8443._https.home.example", "ood1.home.example", "_443._https.ood1.home.example")
    says = {
        **{
            (name, kind): [f"60 {kind} 1 evil.example. alpn=h3 ipv4hint=203.0.113.66"] for name in hosts for kind in WEB
        },
        ("www.home.example", "HTTPS"): ["60 HTTPS 1 . alpn=h2"],
        ("_8443._https.home.example", "A"): ["60 A 203.0.113.66"],
    }
    zone = published(NOW, "ood1:192.0.2.1@wan")
    async with house(tmp_path, None, says, pinned=ALICE, zone=zone) as lab:
        for name in hosts:
            for kind in WEB:
                told = await lab.ask(name, kind, edns=True)
                assert (rcode(told), told.answer) == ("NOERROR", []), told
                assert told.options[0].text.startswith("trust=owner-signed: boot document of did:web:home.example")
        assert not lab.upstreams.asked
        assert shown(await lab.ask("www.home.example", "HTTPS")) == ['www.home.example 60 HTTPS 1 . alpn="h2"']
        assert shown(await lab.ask("_8443._https.home.example"))  # no address of the host

    service = [
        {"id": "#web", "type": "LinkedDomains", "serviceEndpoint": f"https://home.example{port}/"} for port in PORTS
    ]
    times = {"iat": int(NOW) - 50, "exp": int(NOW) + 7200}
    zone.tokens.append(signed_zone(ALICE, extra={"service": service}, **times))
    async with house(tmp_path / "more", None, says, pinned=ALICE, zone=zone) as lab:
        host, port, *others = [shown(await lab.ask(name, "HTTPS")) for name in hosts]
        assert host == ['home.example 600 HTTPS 1 . ipv4hint="192.0.2.1"'] == shown(await lab.ask(hosts[0], "HTTPS"))
        assert port == ['_8443._https.home.example 600 HTTPS 1 home.example. ipv4hint="192.0.2.1"']
        assert others == [[], []]
        assert not lab.upstreams.asked


async def test_a_zone_whose_owner_lives_here_is_published_from_the_owners_files(tmp_path: Path) -> None:
    folder = tmp_path / "identity"
    (folder / "devices").mkdir(parents=True)
    times = {"iat": int(NOW) - 100, "exp": int(NOW) + 7200}
    issuer = Issuer(key=ALICE, id=dev_did(ALICE.public), **times)
    machine = DeviceRequest(name="ood1", key=NAS.public, **times)
    (folder / "owner.jwt").write_text(issuer.sign(issuer.owner("alice", zone=HOME)))
    (folder / "boot.jwt").write_text(issuer.sign(issuer.boot(HOME, [read_ood("ood1:192.0.2.7@wan")], None)))
    (folder / "devices" / "ood1.jwt").write_text(issuer.sign(issuer.device(machine, HOME)))
    async with house(tmp_path) as lab:
        texts = [text.replace('" "', "") for text in await texts_of(lab, "home.example")]
        assert [text[:6] for text in texts] == ['"BOOT=', '"PKX=i', '"DEV=e']
        believed = read_published(text.strip('"').encode() for text in texts)
        assert believed.key == ALICE.public and not believed.faults
        assert [read_document(token.claims).main_key for token in believed.devices] == [NAS.public]


async def test_a_forged_document_does_not_move_a_pinned_zone_and_a_revoked_one_is_gone(tmp_path: Path) -> None:
    says = {("home.example", "A"): ["60 A 192.0.2.80"]}
    zone = published(NOW, "ood1:203.0.113.66@wan", owner=MALLORY)
    async with house(tmp_path, says=says, pinned=ALICE, zone=zone) as lab:
        forged = await lab.ask("home.example", edns=True)
        assert rcode(forged) == "SERVFAIL" and not shown(forged) and edes(forged) == [24]
        assert "boot document: not signed by" in forged.options[0].text and not lab.upstreams.asked
        (explained,) = await texts_of(lab, "_trust.home.example")
        assert "not signed by" in explained
        store = TrustStore(tmp_path)
        zone.tokens = published(NOW, "ood1:192.0.2.7@wan").tokens
        store.pin(Pin(about=HOME, key=ALICE.public, least_iat=int(NOW), source="test", at=0))
        lab.server.trusted.trusted.flush()  # type: ignore[union-attr]
        lab.server.hot.flush()
        gone = await lab.ask("ood1.home.example", edns=True)
        assert rcode(gone) == "NXDOMAIN" and "ended it" in gone.options[0].text


@pytest.mark.parametrize(
    ("name", "below", "forgotten"),
    [
        ("", False, True),
        ("ood1.home.example", False, True),
        ("home.example", True, True),
        ("home.example", False, False),
    ],
)
async def test_a_flush_forgets_trusted_answers_too(tmp_path: Path, name: str, below: bool, forgotten: bool) -> None:
    zone = published(NOW, "ood1:192.0.2.7@wan")
    async with house(tmp_path, pinned=ALICE, zone=zone) as lab:
        assert shown(await lab.ask("ood1.home.example")) == ["ood1.home.example 600 A 192.0.2.7"]
        zone.tokens = [boot(ALICE, "ood1:192.0.2.8@wan", iat=int(NOW) - 50, exp=int(NOW) + 7200)]
        assert lab.server.flush(name, below=below) == forgotten
        address = "192.0.2.8" if forgotten else "192.0.2.7"
        assert [line.split()[-1] for line in shown(await lab.ask("ood1.home.example"))] == [address]


async def test_what_was_kept_is_told_marked_and_for_minutes(tmp_path: Path) -> None:
    zone = published(NOW, "ood1:192.0.2.7@wan")
    async with house(tmp_path, pinned=ALICE, zone=zone) as lab:
        now = await lab.ask("home.example", "TXT", edns=True)
        assert now.options[0].text.startswith("trust=owner-signed: ") and now.answer[0].ttl == 600
        lab.server.flush()
        zone.tokens = []
        kept = await lab.ask("home.example", "TXT", edns=True)
        assert kept.options[0].text.startswith("trust=host-snapshot: ") and kept.answer[0].ttl == 300
        # One of them is not current: then who hears them all is not to take them for that.
        lab.server.flush()
        zone.tokens = published(NOW, "ood1:192.0.2.7@wan").tokens[:1]
        some = await lab.ask("home.example", "TXT", edns=True)
        assert some.options[0].text.startswith("trust=host-snapshot: ") and len(some.answer[0]) == 3


@pytest.mark.parametrize("kept", [True, False])
async def test_off_line_a_client_hears_something_before_it_gives_up(
    tmp_path: Path, mock_clock: trio.testing.MockClock, kept: bool
) -> None:
    mock_clock.autojump_threshold = 0.3  # long enough for a look at the disk in a thread
    zone = published(NOW, "ood1:192.0.2.7@wan")
    async with house(tmp_path, pinned=ALICE, zone=zone) as lab:
        if kept:
            await lab.ask("home.example", "TXT")
            lab.server.flush()
        zone.silent = True
        names = ("ood1.home.example", "nobody.home.example", "other.home.example")
        lab.upstreams.slow = {(name, A) for name in names} | {("home.example", TXT)}
        took, rcodes = [], []
        for name in names:
            begun = trio.current_time()
            rcodes.append(rcode(await lab.ask(name)))
            took.append(trio.current_time() - begun)
        assert rcodes == ["NOERROR" if kept else "SERVFAIL", "SERVFAIL", "SERVFAIL"]
        # Documents, and the DNS behind them; those who were silent a moment ago are not waited for.
        assert took == pytest.approx([2, 1.5, 1.5] if kept else [3.5, 1.5, 1.5], abs=0.1)
        if kept:
            begun = trio.current_time()
            assert [text[:5] for text in await texts_of(lab, "home.example")] == ['"BOOT', '"PKX=', '"DEV=']
            assert trio.current_time() - begun == pytest.approx(0.25, abs=0.1)


async def test_what_is_not_believed_any_more_is_not_published_either(tmp_path: Path) -> None:
    zone = published(NOW, "ood1")
    async with house(tmp_path, pinned=ALICE, zone=zone) as lab:
        store, trusted = TrustStore(tmp_path), lab.server.trusted.trusted  # type: ignore[union-attr]
        assert [text[:5] for text in await texts_of(lab, "home.example")] == ['"BOOT', '"PKX=', '"DEV=']
        zone.tokens = []
        for changed in (
            Pin(about=HOME, key=ALICE.public, least_iat=int(NOW), source="test", at=0),
            Pin(about=HOME, key=MALLORY.public, source="test", at=0),
        ):
            store.pin(changed)
            trusted.flush()
            lab.server.hot.flush()
            assert not await texts_of(lab, "home.example")


async def test_a_pinned_name_that_is_left_to_the_dns_gets_its_fake_address_marked(tmp_path: Path) -> None:
    class Fakes:
        def answer(self, name: str, question: bytes, rtype: int) -> Stand | None:
            record = (question[:-4].lower(), 1, 1, bytes((198, 18, 0, 1)))
            return Stand(make_reply(question, answer=[record]), 300.0) if rtype == A else None

    async with house(tmp_path, pinned=ALICE, zone=Zone()) as lab:
        lab.server.fake = Fakes()
        for _ in range(2):
            told = await lab.ask("ood1.home.example", edns=True)
            assert shown(told) == ["ood1.home.example 1 A 198.18.0.1"] and edes(told) == [0]
            assert told.options[0].text == "trust=plain-dns: no document of did:web:ood1.home.example is heard"
        assert not lab.upstreams.asked


async def test_a_device_is_found_by_its_key_in_any_spelling_that_leaves_no_doubt(tmp_path: Path) -> None:
    async with house(tmp_path, pinned=ALICE, zone=published(NOW, "ood1")) as lab:
        await lab.ask("home.example", "TXT")  # what was believed is kept, and so the device's key known
        lab.server.trusted.look()  # type: ignore[union-attr]
        for name in (f"{X}.dev.did", f"{X.upper()}.dev.did", f"{X.swapcase()}.DEV.did", IN_BASE32, IN_BASE32.upper()):
            told = await lab.ask(f"_did.{name}", "URI")
            assert shown(told)[0].endswith(f'URI 10 1 "did:dev:{X}"'), name
        stranger = MALLORY.public.x
        told = await lab.ask(f"_did.{stranger}.dev.did", "URI")
        assert stranger in shown(told)[0]
        before = lab.hits
        lost = await lab.ask(f"_did.{stranger.lower()}.dev.did", "URI", edns=True)
        assert rcode(lost) == "NXDOMAIN" and "lost the case" in lost.options[0].text and lab.hits == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to become somebody else")
async def test_pins_that_only_root_may_read_let_no_server_begin_and_end_none(tmp_path: Path) -> None:
    store = TrustStore(tmp_path)
    store.pin(Pin(about=HOME, key=ALICE.public, source="test", at=0))
    blind, running = (
        TrustGate(lambda: TrustedAnswers(TrustedNames([ThisMachine(store)], store), tmp_path)) for _ in range(2)
    )
    await running.look(tmp_path)
    os.seteuid(65534)
    try:
        for gate in (blind, running):
            with pytest.raises(ConfigFault, match="Permission denied; the pins of this machine cannot be read"):
                await gate.look(tmp_path)
        running.renew()
        for name in ("home.example", "ood1.home.example"):
            assert running.knows(name) and not blind.knows(name)
            query = read_query(query_wire(name))
            assert isinstance(query, Query)
            shown = await running.answer(query, nobody_asks)
            assert shown is not None and shown.reply.rcode == SERVFAIL and "the pins cannot be read" in shown.why
    finally:
        os.seteuid(0)
    await blind.look(tmp_path)
    assert blind.knows("home.example")


async def nobody_asks() -> Given:
    raise AssertionError("the DNS was asked instead")


async def test_explain_tells_the_level(tmp_path: Path) -> None:
    async with house(tmp_path, chain=site()) as lab:
        told = await explain(lab.server, question_of("alice.eth", "A"), CLIENT)
        assert told.source == "trusted" and told.why == "trust=quorum: its record, says ENS"
        assert ("trusted names", told.why) in [(step.stop, step.said) for step in told.steps]


async def test_the_gate_opens_for_the_first_name_that_needs_it_and_follows_the_pins(tmp_path: Path) -> None:
    made: list[TrustedAnswers] = []
    changes: list[int] = []
    told = trio.Event()

    def make() -> TrustedAnswers:
        store = TrustStore(tmp_path)
        made.append(TrustedAnswers(TrustedNames([TheName(), ThisMachine(store)], store), tmp_path))
        return made[-1]

    def changed() -> None:
        changes.append(len(made))
        told.set()

    gate = TrustGate(make)
    async with (
        name_server(prepare=lambda server: setattr(server, "trusted", gate)) as lab,
        trio.open_nursery() as tasks,
    ):
        tasks.start_soon(gate.live, tmp_path, changed)
        assert rcode(await lab.ask("www.example")) == "NXDOMAIN" and not made
        assert rcode(await lab.ask(f"{IN_BASE32}")) == "NOERROR" and len(made) == 1
        assert not gate.knows("ood1.home.example")
        (tmp_path / "names" / "pins").mkdir(parents=True)
        with trio.fail_after(60):
            while not gate.knows("ood1.home.example"):
                TrustStore(tmp_path).pin(Pin(about=HOME, key=ALICE.public, source="test", at=0))
                await told.wait()
                told = trio.Event()
        gate.renew()
        assert rcode(await lab.ask("x.did")) == "NXDOMAIN" and len(made) == 2
        tasks.cancel_scope.cancel()


async def test_a_pin_that_is_revoked_before_anybody_follows_the_files_is_revoked(tmp_path: Path) -> None:
    store = TrustStore(tmp_path)
    names = TrustedNames([TheName(), ThisMachine(store)], store)
    pin, ask = Pin(about=HOME, key=ALICE.public, source="test", at=0), Ask(subject=HOME)
    store.pin(pin)
    gate = TrustGate(lambda: TrustedAnswers(names, tmp_path))
    await gate.look(tmp_path)
    assert isinstance(await names.resolve(ask), Found)
    store.pin(replace(pin, revoked=True))
    told = trio.Event()
    async with trio.open_nursery() as tasks:
        tasks.start_soon(gate.live, tmp_path, told.set)
        with trio.fail_after(60):
            await told.wait()
        tasks.cancel_scope.cancel()
    assert isinstance(await names.resolve(ask), Revoked)


async def test_what_was_learnt_before_anybody_follows_the_files_is_not_forgotten_for_it(tmp_path: Path) -> None:
    looks, looked = trio.open_memory_channel[None](8)

    class Answers(TrustedAnswers):
        def look(self) -> None:
            super().look()
            trio.from_thread.run_sync(looks.send_nowait, None)

    store = TrustStore(tmp_path)
    names = TrustedNames([TheName(), ThisMachine(store)], store)
    store.pin(Pin(about=HOME, key=ALICE.public, source="test", at=0))
    gate = TrustGate(lambda: Answers(names, tmp_path))
    await gate.look(tmp_path)
    while looked.statistics().current_buffer_used:
        await looked.receive()
    ask = Ask(subject=HOME)
    learnt = await names.resolve(ask)
    kept = tmp_path / "names" / "kept"
    kept.mkdir()
    changes: list[None] = []
    async with trio.open_nursery() as tasks:
        tasks.start_soon(gate.live, tmp_path, partial(changes.append, None))
        with trio.fail_after(60):
            for number in range(2):  # who looks again is done with what was seen before
                (kept / str(number)).touch()
                await looked.receive()
        tasks.cancel_scope.cancel()
    assert not changes and names.peek(ask) is learnt


# A real server, asked by others' programs

CONFIG = """
dns:
  listen: 127.0.0.1:{port}
  nameserver: [udp://127.0.0.1:{upstream}]
  use-system-hosts: false
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder, port = tmp_path_factory.mktemp("trusted"), free_port()
    asked: list[str] = []
    answer = zone(
        "www.home.example. 60 IN A 192.0.2.80",
        "home.example. 60 IN A 203.0.113.66",
        "home.example. 60 IN HTTPS 1 evil.example. alpn=h3",
    )

    def upstream_says(query: bytes) -> bytes | None:
        asked.append(dns.message.from_wire(query).question[0].name.to_text().lower())
        return answer(query)

    now = int(time.time())
    store = TrustStore(folder / "home")
    store.pin(Pin(about=HOME, key=ALICE.public, source="test", at=now))
    local = folder / "home" / "names" / "local"
    local.mkdir(parents=True)
    token = boot(ALICE, "ood1:192.0.2.7@wan", iat=now - 100, exp=now + 7200)
    (local / "boot.jwt").write_text(token.text)
    service = [{"id": "#web", "type": "LinkedDomains", "serviceEndpoint": "https://home.example/"}]
    (local / "zone.jwt").write_text(signed_zone(ALICE, extra={"service": service}, iat=now - 100, exp=now + 7200).text)
    with upstream(upstream_says) as behind, server(folder, CONFIG.format(port=port, upstream=behind), port) as program:
        yield program, asked


def tool(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def dig(program: Running, *words: str) -> str:
    return tool("dig", "@127.0.0.1", "-p", str(program.port), "+tries=1", *words)


def test_dig_and_kdig_read_levels_and_documents(running: tuple[Running, list[str]]) -> None:
    program, asked = running
    told = dig(program, "OoD1.hOmE.eXaMpLe", "A")
    assert "status: NOERROR" in told and "192.0.2.7" in told and "OoD1.hOmE.eXaMpLe." in told
    assert "EDE: 0 (Other): (trust=host-snapshot: boot document of did:web:home.example" in told
    assert "EDE" not in dig(program, "+noedns", "ood1.home.example", "A")
    texts = tool("kdig", "@127.0.0.1", "-p", str(program.port), "+short", "home.example", "TXT").splitlines()
    assert [text[:6] for text in texts] == ['"BOOT=', '"PKX=i']
    evidence = dig(program, "+tcp", "+short", "_trust.home.example", "TXT")
    assert "did:web:home.example is known: host-snapshot" in evidence and "`- " in evidence
    assert dig(program, "+short", "www.home.example", "A") == "192.0.2.80\n"
    assert "203.0.113.66" not in dig(program, "+short", "home.example", "A")
    assert "www.home.example." in asked
    web = tool("kdig", "@127.0.0.1", "-p", str(program.port), "+short", "home.example", "HTTPS")
    assert web == "1 . ipv4hint=192.0.2.7\n"
    assert tool("kdig", "@127.0.0.1", "-p", str(program.port), "+short", "ood1.home.example", "HTTPS") == ""


def test_names_of_identities_never_reach_the_upstream(running: tuple[Running, list[str]]) -> None:
    program, asked = running
    for name in ("alice.eth", "x.did", f"{X}.dev.did", IN_BASE32, "alice.bns.did", "x.alt"):
        for rtype in ("A", "TXT", "HTTPS", "TYPE999"):
            assert "status: NOERROR" in (told := dig(program, name, rtype)) or "status: NXDOMAIN" in told
    assert "identity/ens/rpc" in dig(program, "alice.eth", "A")
    delved = subprocess.run(
        ["delv", "@127.0.0.1", "-p", str(program.port), "-i", IN_BASE32, "A"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "ncache nxrrset" in delved.stdout + delved.stderr
    assert not [name for name in asked if name.rstrip(".").endswith((".eth", ".did", ".alt"))]


def test_a_pin_that_is_revoked_counts_at_once_and_explain_says_so(running: tuple[Running, list[str]]) -> None:
    program, _ = running
    explained = program.run("explain", "ood1.home.example")
    assert "trust=host-snapshot" in explained.stdout, explained.stderr
    store = TrustStore(program.home)
    store.pin(Pin(about=HOME, key=ALICE.public, revoked=True, source="test", at=time.time()))
    until = time.monotonic() + 20
    while "status: NXDOMAIN" not in (told := dig(program, "home.example", "A")):
        assert time.monotonic() < until, told
    assert "revoked on this machine" in told
    while "192.0.2.7" in (told := dig(program, "ood1.home.example", "A")):  # it was remembered
        assert time.monotonic() < until, told
