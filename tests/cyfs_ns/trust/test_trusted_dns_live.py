"""Records of identities from real servers, ours among them: the same records come to the same, whoever serves them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from cyfs_ns.errors import Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.txt import txt_record
from cyfs_ns.io.resolver import Resolver
from cyfs_ns.io.trusted.dns import DnsRecords
from cyfs_ns.io.trusted.providers import ThisMachine, WhatWasKept
from cyfs_ns.io.trusted.records import RecordSet, by_resolver, record_set
from cyfs_ns.io.trusted.resolver import TrustedNames
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.io.upstreams import Told
from cyfs_ns.message import TXT
from cyfs_ns.records import txt_data
from cyfs_ns.reply import make_reply
from cyfs_ns.trust.anchors import Pin
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Found, Outcome
from cyfs_ns.trust.plan import Ask
from cyfs_ns.upstream import parse_upstream
from cyfs_ns.wire import name_wire
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, NAS, NOW, PI, boot, mini, own_key
from tests.cyfs_ns.nsprogram import server
from tests.cyfs_ns.trust.dnshosts import knot, trust_in, validator, zone_lines
from tests.freeport import free_port

OOD = Did("web", "ood1.home.example")
BOOT = boot(ALICE, *(f"ood{number}:192.0.2.{number}@wan" for number in range(1, 9)))
RECORDS = [
    "v=spf1 -all",
    "google-site-verification=0123456789abcdef",
    txt_record("PKX", ALICE.public.x),
    txt_record("BOOT", BOOT.text),
    txt_record("DEV", mini("ood1", NAS, ALICE, rtcp_port=2980).text),
    txt_record("DEV", mini("ood2", PI, ALICE).text),
    "DEV=this.is.garbage;",
    "BOOT without the sign",
]
LINES = [*zone_lines(RECORDS), '@ 300 IN TXT "\\255\\254\\000" "noise"', "ood1 300 IN A 192.0.2.1"]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    with knot(tmp_path_factory.mktemp("knot"), LINES, signed=True) as running:
        yield running


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, ca: trustme.CA) -> Iterator[tuple[int, int]]:
    """Our own server with the same records; its plain and its TLS port."""
    folder = tmp_path_factory.mktemp("ours")
    plain, tls = free_port(), free_port()
    pem = folder / "dot.pem"
    pem.write_bytes(ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes())
    lines = "\n".join(f"      - '{line}'" for line in LINES)
    text = f"""
dns:
  listen: 127.0.0.1:{plain}
  listen-tls: 127.0.0.1:{tls}
  tls-cert: {pem}
  tls-key: {pem}
  nameserver: ['rcode://refused']
  zones:
    home.example:
{lines}
"""
    with server(folder, text, plain):
        yield plain, tls


def names(home: Path, servers: str, ca: trustme.CA | None = None, validators: tuple[str, ...] = ()) -> TrustedNames:
    resolver = Resolver([parse_upstream(servers)], tls=None if ca is None else trust_in(ca))
    store = TrustStore(home)
    dns = DnsRecords(by_resolver(resolver, validators), wall=lambda: NOW)
    return TrustedNames([ThisMachine(store), WhatWasKept(store, lambda: NOW), dns], store, wall=lambda: NOW)


def told(outcome: Outcome) -> set[tuple[object, ...]]:
    assert isinstance(outcome, Found), outcome
    return {(str(c.about), c.kind, c.key, str(c.value), c.trust) for c in outcome.claims}


@pytest.mark.parametrize("pinned", [False, True])
async def test_our_server_and_another_tell_the_same(
    tmp_path: Path, authority: tuple[int, str], ours: tuple[int, int], pinned: bool
) -> None:
    assert len(RECORDS[3]) > 255
    found = []
    for place, port in (("theirs", authority[0]), ("ours", ours[0])):
        asking = names(tmp_path / place, f"udp://127.0.0.1:{port}")
        if pinned:
            asking.store.pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW - DAY))
        outcome = await asking.resolve(Ask(subject=OOD, kinds=frozenset({"key", "address"})))
        found.append(told(outcome))
        assert isinstance(outcome, Found)
        assert own_key(outcome) == NAS.public
        assert outcome.trust == (Trust.OWNER_SIGNED if pinned else Trust.PLAIN_DNS)
        assert any("TXT DEV" in fault for fault in outcome.faults)
    assert found[0] == found[1]


async def test_a_checked_line_is_worth_more(tmp_path: Path, ours: tuple[int, int], ca: trustme.CA) -> None:
    outcome = await names(tmp_path, f"tls://127.0.0.1:{ours[1]}", ca).resolve(Ask(subject=OOD))
    assert isinstance(outcome, Found)
    assert outcome.trust == Trust.AUTH_CHANNEL
    unchecked = f"tls://127.0.0.1:{ours[1]}#skip-cert-verify=true"
    outcome = await names(tmp_path, unchecked).resolve(Ask(subject=OOD))
    assert isinstance(outcome, Found)
    assert outcome.trust == Trust.PLAIN_DNS


async def test_a_validator_that_we_chose_is_believed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, authority: tuple[int, str], ca: trustme.CA
) -> None:
    with validator(tmp_path_factory.mktemp("unbound"), *authority, ca) as port:
        server = str(parse_upstream(f"tls://127.0.0.1:{port}"))
        chosen = await names(tmp_path, server, ca, (server,)).resolve(Ask(subject=OOD))
        assert isinstance(chosen, Found), chosen
        assert chosen.trust == Trust.DNSSEC
        assert own_key(chosen) == NAS.public
        other = await names(tmp_path, server, ca).resolve(Ask(subject=OOD))
        assert isinstance(other, Found)
        assert other.trust == Trust.AUTH_CHANNEL


async def test_a_validator_with_another_anchor_has_no_answer(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, authority: tuple[int, str], ca: trustme.CA
) -> None:
    port, anchor = authority
    wrong = anchor[:-4] + ("0000" if anchor[-4:] != "0000" else "1111")
    with validator(tmp_path_factory.mktemp("wrong"), port, wrong, ca) as tls:
        server = str(parse_upstream(f"tls://127.0.0.1:{tls}"))
        outcome = await names(tmp_path, server, ca, (server,)).resolve(Ask(subject=OOD))
        assert not isinstance(outcome, Found)
        assert any("answered with error 2" in fault for fault in outcome.faults), outcome.faults


async def test_what_another_server_kept_is_a_snapshot_here_too(tmp_path: Path) -> None:
    store = TrustStore(tmp_path)
    store.pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW))
    for mark, trust in (("trust=host-snapshot: boot", Trust.HOST_SNAPSHOT), ("trust=owner-signed", Trust.OWNER_SIGNED)):
        answer = [(name_wire("home.example"), TXT, 300, txt_data(txt_record("BOOT", BOOT.text).encode()))]
        question = name_wire("home.example") + bytes((0, TXT, 0, 1))
        told = Told(make_reply(question, answer=answer, ede=((0, mark),)), "udp://192.0.2.53", 0.1, ())

        async def records(name: str, rtype: int, told: Told = told) -> RecordSet:
            return record_set(told, name_wire(name), rtype, Trust.PLAIN_DNS)

        dns = DnsRecords(records, wall=lambda: NOW)
        names = TrustedNames([ThisMachine(store), dns], store, wall=lambda: NOW)
        found = await names.resolve(Ask(subject=HOME))
        assert isinstance(found, Found) and next(found.of("document", "boot")).trust == trust


async def test_what_was_heard_in_time_counts_and_the_rest_is_told(autojump_clock: trio.testing.MockClock) -> None:
    token = boot(ALICE, "ood1")

    async def records(name: str, rtype: int) -> RecordSet:
        if (name, rtype) != ("home.example", TXT):
            await trio.sleep_forever()
        text = f"BOOT={token.text};".encode()
        data = b"".join(
            bytes((len(part),)) + part for at in range(0, len(text), 255) for part in (text[at : at + 255],)
        )
        return RecordSet(exists=True, data=(data,), ttl=60, server="dns", channel=Trust.PLAIN_DNS)

    with trio.fail_after(2):
        found = await DnsRecords(records).ask(Ask(subject=HOME, kinds=frozenset({"document", "address"})))
    assert isinstance(found, Found) and [claim.value for claim in found.claims] == [token]
    assert found.faults == tuple(
        f"DNS: home.example. {kind}: no name server answered in time" for kind in ("A", "AAAA")
    )
    with (
        trio.fail_after(2),
        pytest.raises(Unreachable, match=r"^home\.example\.org\. TXT: no name server answered in time;"),
    ):
        await DnsRecords(records).ask(Ask(subject=Did("web", "home.example.org")))
