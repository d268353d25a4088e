"""Zones that are pinned, whose documents are forged, damaged, old or not there, or whose pins are damaged: what a real
server tells clients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dnslib
import pytest

from cyfs_ns.identity.did import Did
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.revision import revision_of
from cyfs_ns.identity.token import Token
from cyfs_ns.identity.txt import character_strings, txt_record
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Pin
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.strongest import Accepted
from tests.cyfs_ns.identity.identities import ALICE, MALLORY, NAS, SecretKey, boot, mini
from tests.cyfs_ns.nsprogram import Running, cyfs_ns, server, upstream
from tests.freeport import free_port

NOW = int(time.time())
REAL, ELSEWHERE = "192.0.2.7", "203.0.113.66"
INVALID = 24
CONFIG = """
dns:
  listen: 127.0.0.1:{port}
  nameserver: [udp://127.0.0.1:{upstream}]
  use-system-hosts: false
"""


def web(host: str) -> Did:
    return Did("web", host)


def zone(host: str, owner: SecretKey, iat: int = NOW - 100, exp: int = NOW + 7200) -> list[str]:
    """The TXT records of a zone with one machine."""
    tokens = {
        "BOOT": boot(owner, f"ood1:{REAL}@wan", zone=web(host), iat=iat, exp=exp),
        "DEV": mini("ood1", NAS, owner, zone=web(host), iat=iat, exp=exp),
    }
    return [txt_record(mark, token.text) for mark, token in tokens.items()]


def flipped(record: str, at: int) -> str:
    return record[:at] + ("A" if record[at] != "A" else "B") + record[at + 1 :]


_FLIPPED, _ROLLED = (zone(host, ALICE, iat=NOW - 500) for host in ("flipped.example", "rolled.example"))
PUBLISHED: dict[str, list[str]] = {
    "good.example": zone("good.example", ALICE),
    "forged.example": zone("forged.example", MALLORY),
    "flipped.example": [flipped(record, len(record) - 20) for record in _FLIPPED],
    "cut.example": [record[:-9] for record in zone("cut.example", ALICE)],
    "key.example": [txt_record("PKX", MALLORY.public.x)],
    "expired.example": zone("expired.example", ALICE, exp=NOW - 60),
    "rolled.example": _ROLLED[:1],
    "machine.example": [*zone("machine.example", ALICE)[:1], *zone("machine.example", MALLORY)[1:]],
    "twice.example": [*zone("twice.example", ALICE), *zone("twice.example", MALLORY)[:1]],
    "headless.example": [*zone("headless.example", MALLORY)[:1], *zone("headless.example", ALICE)[1:]],
    "stray.example": [*zone("stray.example", ALICE)[:1], "DEV=nonsense;"],
    "silent.example": [],
    "mute.example": [],
}
"""What each zone publishes; all are pinned with ALICE's key."""


def answer(query: bytes) -> bytes:
    """An upstream with these records, an address for every name, and every answer validated, as it says."""
    asked = dnslib.DNSRecord.parse(query)
    reply = asked.reply()
    reply.header.ad = 1
    name = str(asked.q.qname).rstrip(".").lower()
    if asked.q.qtype == dnslib.QTYPE.TXT:
        if name.endswith("mute.example"):
            reply.header.rcode = dnslib.RCODE.SERVFAIL
        for record in PUBLISHED.get(name, []):
            data = dnslib.TXT([piece.encode() for piece in character_strings(record)])
            reply.add_answer(dnslib.RR(asked.q.qname, dnslib.QTYPE.TXT, ttl=60, rdata=data))
    elif asked.q.qtype == dnslib.QTYPE.A:
        reply.add_answer(dnslib.RR(asked.q.qname, dnslib.QTYPE.A, ttl=60, rdata=dnslib.A(ELSEWHERE)))
    return bytes(reply.pack())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, port = tmp_path_factory.mktemp("failclosed"), free_port()
    store = TrustStore(folder / "home")
    for host in PUBLISHED:
        store.pin(Pin(about=web(host), key=ALICE.public, source="test", at=NOW))
    # A document that has ended since, and leaves its mark.
    token = boot(ALICE, "ood1", zone=web("rolled.example"), iat=NOW - 100, exp=NOW - 50)
    store.keep(believed(token, web("rolled.example")), NOW - 90)
    with upstream(answer) as behind, server(folder, CONFIG.format(port=port, upstream=behind), port) as program:
        yield program


def believed(token: Token, about: Did) -> Accepted:
    document = read_document(token.claims)
    revision = revision_of(document, token)
    return Accepted(about, document, token, revision, Trust.OWNER_SIGNED, ALICE.public, pinned=True)


def asked(program: Running, name: str, rtype: str = "A") -> tuple[str, list[str], list[tuple[int, str]], bool]:
    """Code, addresses, extended errors, and AD."""
    query = dns.message.make_query(name, rtype, use_edns=0, want_dnssec=False)
    query.flags |= dns.flags.AD
    reply = dns.query.udp(query, "127.0.0.1", port=program.port, timeout=15)
    told = [item.to_text() for rrset in reply.answer for item in rrset if rrset.rdtype == dns.rdatatype.A]
    errors = [(int(option.code), option.text or "") for option in reply.extended_errors()]
    return dns.rcode.to_text(reply.rcode()), told, errors, bool(reply.flags & dns.flags.AD)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("forged.example", "boot document: not signed by"),
        ("flipped.example", "boot document: not signed by"),
        ("cut.example", "does not end with its one semicolon"),
        ("key.example", "says the key of did:web:key.example is"),
        ("expired.example", "boot document: expired"),
        ("rolled.example", "older than one we have believed"),
        ("twice.example", "2 different ones"),
        ("headless.example", "boot document: not signed by"),
    ],
)
@pytest.mark.parametrize("form", ["{}", "ood1.{}", "www.{}", "{}.web.did"])
def test_what_its_pin_refuses_is_no_answer_under_any_name(running: Running, host: str, why: str, form: str) -> None:
    for rtype in ("A", "AAAA", "MX"):
        rcode, addresses, errors, ad = asked(running, form.format(host), rtype)
        assert (rcode, addresses, ad) == ("SERVFAIL", [], False), (rtype, errors)
        assert {code for code, _ in errors} == {INVALID} and any(why in text for _, text in errors), errors
        # Now from what is remembered.
        assert asked(running, form.format(host), rtype)[0] == "SERVFAIL"


def test_a_machine_with_a_document_that_holds_is_answered_beside_one_that_does_not(running: Running) -> None:
    assert asked(running, "ood1.good.example")[:2] == ("NOERROR", [REAL])
    assert asked(running, "machine.example")[:2] == ("NOERROR", [REAL])
    # The boot document says where it is; nothing that holds says more of it.
    assert asked(running, "ood1.machine.example")[:2] == ("NOERROR", [REAL])
    assert asked(running, "ood1.machine.example", "MX")[0] == "SERVFAIL"
    assert asked(running, "ood1.stray.example", "MX")[0] == "SERVFAIL"


@pytest.mark.parametrize("host", ["good.example", "machine.example", "stray.example"])
def test_names_that_the_documents_leave_open_are_the_dns_as_ever(running: Running, host: str) -> None:
    for _ in range(2):
        assert asked(running, f"www.{host}") == ("NOERROR", [ELSEWHERE], [], True)


@pytest.mark.parametrize("host", ["silent.example", "mute.example"])
def test_without_any_document_the_dns_speaks_and_is_marked(running: Running, host: str) -> None:
    for name in (host, f"ood1.{host}"):
        for _ in range(3):  # asked, remembered, ready-made
            rcode, addresses, errors, ad = asked(running, name)
            assert (rcode, addresses, ad) == ("NOERROR", [ELSEWHERE], False)
            assert errors == [(0, f"trust=plain-dns: no document of did:web:{name} is heard")]


def test_explain_says_why(running: Running) -> None:
    told = running.run("explain", "forged.example")
    assert "not signed by" in told.stdout, told.stdout + told.stderr
    assert "no document of did:web:silent.example is heard" in running.run("explain", "silent.example").stdout


# Damaged pins


@pytest.fixture
def house(tmp_path: Path) -> Iterator[tuple[Running, Path]]:
    """A server of two pinned zones, one of whose pins is damaged; and that file."""
    port = free_port()
    store = TrustStore(tmp_path / "home")
    damaged = store.pin(Pin(about=web("good.example"), key=ALICE.public, source="test", at=NOW))
    store.pin(Pin(about=web("silent.example"), key=ALICE.public, source="test", at=NOW))
    damaged.write_bytes(damaged.read_bytes()[:40])
    with upstream(answer) as behind, server(tmp_path, CONFIG.format(port=port, upstream=behind), port) as program:
        yield program, damaged


def test_a_damaged_pin_is_a_name_without_an_answer_and_never_one_without_a_pin(house: tuple[Running, Path]) -> None:
    program, damaged = house
    for name in ("good.example", "ood1.good.example", "www.good.example", "good.example.web.did"):
        rcode, addresses, errors, _ = asked(program, name)
        assert (rcode, addresses) == ("SERVFAIL", []) and [code for code, _ in errors] == [INVALID], name
        assert "the pins cannot be read" in errors[0][1]
    assert str(damaged) in program.run("explain", "good.example").stdout
    assert asked(program, "other.example") == ("NOERROR", [ELSEWHERE], [], True)
    assert str(damaged) in program.log.read_text()
    TrustStore(program.home).pin(Pin(about=web("good.example"), key=ALICE.public, source="test", at=NOW))
    until = time.monotonic() + 20
    while (told := asked(program, "ood1.good.example"))[1] != [REAL]:
        assert time.monotonic() < until, told
        time.sleep(0.05)


def test_a_server_that_cannot_tell_who_is_pinned_does_not_begin(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.format(port=free_port(), upstream=9))
    pins = tmp_path / "home" / "names" / "pins"
    pins.parent.mkdir(parents=True)
    for what in ("a folder that is elsewhere", "a file that is nobody's"):
        if what == "a folder that is elsewhere":
            pins.symlink_to(tmp_path / "a disk that is not there")
        else:
            pins.unlink()
            pins.mkdir()
            (pins / "x.json").write_bytes(b"\0" * 100)
        ended = cyfs_ns("serve", "-c", tmp_path / "config.yaml", "--home", tmp_path / "home")
        assert ended.returncode != 0 and str(pins) in ended.stderr and "mend" in ended.stderr, ended


def test_a_server_that_runs_keeps_who_it_knew_and_refuses_to_change(house: tuple[Running, Path]) -> None:
    program, damaged = house
    pins = damaged.parent
    aside = pins.with_name("aside")
    assert asked(program, "silent.example")[0] == "SERVFAIL", "of two pins one is damaged: nobody is believed"
    damaged.unlink()
    until_it_says(program, "NOERROR", [ELSEWHERE])
    pins.rename(aside)
    pins.symlink_to(program.home / "nowhere")
    until_it_says(program, "SERVFAIL", [])
    refused = program.run("reload")
    assert refused.returncode != 0 and str(pins) in refused.stdout + refused.stderr
    assert asked(program, "other.example")[0] == "NOERROR"
    pins.unlink()
    aside.rename(pins)
    until_it_says(program, "NOERROR", [ELSEWHERE])
    assert program.run("reload").returncode == 0


def until_it_says(program: Running, rcode: str, addresses: list[str]) -> None:
    until = time.monotonic() + 20
    while (told := asked(program, "silent.example"))[:2] != (rcode, addresses):
        assert time.monotonic() < until, told
        time.sleep(0.05)
