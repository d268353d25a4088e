"""Outcomes as DNS answers: what each says, how long it holds, and whom a name is about."""

from __future__ import annotations

from dataclasses import replace

import dns.message
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, dev_did, host_of_did, parse_did
from cyfs_ns.message import rtype_number
from cyfs_ns.query import NXDOMAIN, SERVFAIL, Query, read_query
from cyfs_ns.reply import Reply, records, render, shape_of, ttls
from cyfs_ns.trust.anchors import Anchors, Pin
from cyfs_ns.trust.dnsview import Documents, Known, Place, Shown, is_ours, is_published, read_place, show
from cyfs_ns.trust.evidence import Claim, Evidence, Refusal
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Conflicted, Found, Outcome, Refused, Revoked, TooWeak, Unreachable
from cyfs_ns.trust.places import device_did
from cyfs_ns.trust.weigh import weigh
from cyfs_ns.wire import name_wire
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, MALLORY, NAS, NOW, boot, mini

ETH = parse_did("did:ens:alice.eth")
KNOWN = Known(hosts={"home.example": HOME}, keys={NAS.public.x.lower(): dev_did(NAS.public)})
X = NAS.public.x
IN_BASE32 = host_of_did(dev_did(NAS.public), case_safe=True).removesuffix(".dev.did")


def fact(trust: Trust = Trust.QUORUM, until: float | None = NOW + 300) -> Evidence:
    return Evidence(trust=trust, what="a record of alice.eth", source="ENS", at=NOW, until=until)


def found(*claims: tuple[str, str, str], trust: Trust = Trust.QUORUM, until: float | None = NOW + 300) -> Found:
    made = tuple(
        Claim(about=ETH, kind=kind, key=key, value=value, evidence=fact(trust, until))  # type: ignore[arg-type]
        for kind, key, value in claims
    )
    return Found(subject=ETH, claims=made, until=until)


def asked(name: str, rtype: str = "A") -> bytes:
    return name_wire(name) + rtype_number(rtype).to_bytes(2) + b"\0\1"


def view(name: str, rtype: str, outcome: Outcome, **more: object) -> Shown | None:
    place = read_place(name, KNOWN)
    assert place is not None
    return show(place, asked(name, rtype), outcome, NOW, **more)  # type: ignore[arg-type]


def said(shown: Shown | None) -> tuple[int, list[tuple[int, int, bytes]], tuple[int, ...]]:
    """Code, records of the answer, and codes of extended errors."""
    assert shown is not None
    reply = shown.reply
    return reply.rcode, [record[1:] for record in records(reply, 0)], tuple(code for code, _ in reply.ede)


SITE = (("address", "", "192.0.2.9"), ("address", "", "2001:db8::9"), ("text", "url", "https://alice.example"))


@pytest.mark.parametrize(
    ("name", "rtype", "answer"),
    [
        ("alice.eth", "A", [(1, 300, bytes([192, 0, 2, 9]))]),
        ("alice.eth", "AAAA", [(28, 300, bytes.fromhex("20010db8000000000000000000000009"))]),
        ("_ens.alice.eth", "TXT", [(16, 300, b"\x19url=https://alice.example")]),
        ("alice.eth", "TXT", []),
        ("alice.eth", "MX", []),
        ("_did.alice.eth", "URI", []),
        ("_did.alice.eth", "A", []),
    ],
)
def test_what_is_found_is_told_with_its_level_and_what_is_not_there_is_no_data(
    name: str, rtype: str, answer: list[tuple[int, int, bytes]]
) -> None:
    shown = view(name, rtype, found(*SITE))
    assert said(shown) == (0, answer, (0,))
    assert shown is not None and shown.reply.ede[0][1].startswith("trust=quorum: a record of alice.eth")
    assert (shown.trust, shown.left) == (Trust.QUORUM, 300)
    assert answer or [record[1] for record in records(shown.reply, 1)] == [6]


@pytest.mark.parametrize(
    ("until", "left", "most"),
    [(NOW + 0.4, 1, 3600), (NOW - 5, 1, 3600), (NOW + 59.9, 59, 3600), (NOW + DAY, DAY, 3600), (None, 604800, 3600)],
)
def test_a_ttl_ends_with_the_evidence(until: float | None, left: int, most: int) -> None:
    shown = view("alice.eth", "A", found(*SITE, until=until))
    assert shown is not None and (ttls(shown.reply), shown.left, shown.most) == ([left], left, most)


def test_what_is_stale_says_so_and_is_not_kept() -> None:
    old = Found(subject=ETH, claims=found(*SITE).claims, until=NOW - 1, stale=True)
    shown = view("alice.eth", "A", old)
    assert said(shown) == (0, [(1, 30, bytes([192, 0, 2, 9]))], (0, 3))
    assert shown is not None and shown.left == 0


@pytest.mark.parametrize(
    ("outcome", "rcode", "codes", "words"),
    [
        (Absent(subject=ETH, why="alice.eth is not in ENS", evidence=fact(), until=NOW + 90), NXDOMAIN, (0,), "quorum"),
        (Revoked(subject=ETH, why="its owner ended it", evidence=fact()), NXDOMAIN, (0,), "ended it"),
        (Unreachable(subject=ETH, why="nobody answers"), SERVFAIL, (22,), "nobody answers"),
        (Unreachable(subject=ETH, why="nobody", faults=("node a: refused",)), SERVFAIL, (22, 23), "nobody"),
        (
            TooWeak(subject=ETH, asked=Trust.QUORUM, found=found(*SITE, trust=Trust.AUTH_CHANNEL).claims),
            SERVFAIL,
            (0,),
            "known by auth-channel only, quorum was asked for",
        ),
        (Conflicted(subject=ETH, sides=found(*SITE[:2]).claims), SERVFAIL, (0,), "two different truths"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_not_knowing_has_several_forms_and_each_says_why(
    outcome: Outcome, rcode: int, codes: tuple[int, ...], words: str
) -> None:
    shown = view("alice.eth", "A", outcome)
    assert said(shown) == (rcode, [], codes)
    assert shown is not None and words in shown.reply.ede[0][1]
    assert [record[1] for record in records(shown.reply, 1)] == ([6] if rcode == NXDOMAIN else [])


def test_without_anybody_to_ask_the_answer_says_what_to_configure() -> None:
    nobody = Unreachable(subject=ETH, why="nobody knows")
    shown = view("alice.eth", "A", nobody, reach=Trust.NONE)
    assert said(shown) == (NXDOMAIN, [], (0,))
    assert shown is not None and "identity/ens/rpc" in shown.why
    other = view("alice.bns.did", "A", Unreachable(subject=Did("bns", "alice"), why=""), reach=Trust.NONE)
    assert other is not None and "identity/bridges" in other.why


def test_an_alias_leads_on() -> None:
    named = found(("text", "alias", "Site.Example"))
    shown = view("alice.eth", "A", named)
    assert shown is not None and shown.alias == name_wire("site.example")
    assert said(shown)[1] == [(5, 300, name_wire("site.example"))]
    itself = view("alice.eth", "CNAME", named)
    assert itself is not None and itself.alias is None and said(itself)[1] == [(5, 300, name_wire("site.example"))]


def test_a_record_with_a_lifetime_of_its_own_keeps_it() -> None:
    wire = name_wire("alice.eth") + bytes.fromhex("0001 0001 0000003c 0004 c0000209")
    claim = Claim(about=ETH, kind="record", key="A", value=wire, evidence=fact())
    shown = view("alice.eth", "A", Found(subject=ETH, claims=(claim,), until=NOW + 300))
    assert shown is not None and (shown.most, shown.left, len(said(shown)[1])) == (60, 300, 1)
    broken = Claim(about=ETH, kind="record", key="A", value=wire[:-1], evidence=fact())
    assert said(view("alice.eth", "A", Found(subject=ETH, claims=(broken,)))) == (SERVFAIL, [], (0,))


def home(*oods: str, trust: Trust = Trust.PLAIN_DNS) -> Found:
    """What a pinned zone with these machines says of itself, heard over DNS."""
    tokens = [boot(ALICE, *oods), mini("ood1", NAS, ALICE)]
    heard = Evidence(trust=trust, what="published", source="udp://192.0.2.53", at=NOW, until=NOW + DAY)
    anchors = Anchors([Pin(about=HOME, key=ALICE.public, source="test", at=NOW)])
    weighed = weigh((Claim(about=HOME, kind="token", value=token, evidence=heard) for token in tokens), anchors, NOW)
    assert not weighed.faults
    return Found(subject=HOME, claims=weighed.claims, until=NOW + DAY)


def test_a_pinned_zone_answers_from_its_documents_and_leaves_the_rest_to_the_dns() -> None:
    zone = home("ood1:192.0.2.7@wan")
    shown = view("home.example", "A", zone)
    assert said(shown) == (0, [(1, DAY, bytes([192, 0, 2, 7]))], (0,))
    assert shown is not None and shown.trust == Trust.OWNER_SIGNED
    assert shown.reply.ede[0][1].startswith("trust=owner-signed: boot document of did:web:home.example, issued")
    assert said(view("home.example", "AAAA", zone)) == said(view("home.example", "HTTPS", zone)) == (0, [], (0,))
    assert view("home.example", "MX", zone) is None and view("home.example", "TXT", zone) is None
    assert view("home.example", "A", home("ood1@nat")) is None
    pin = Claim(about=HOME, kind="key", key="self", value=ALICE.public, evidence=fact(Trust.HOST_SNAPSHOT))
    machine = Found(subject=device_did("ood1", HOME), claims=zone.claims, until=NOW + DAY)
    assert said(view("ood1.home.example", "A", machine))[1] == [(1, DAY, bytes([192, 0, 2, 7]))]
    for unknown in (
        Absent(subject=HOME, why="", evidence=fact()),
        Unreachable(subject=HOME, why=""),
        TooWeak(subject=HOME, asked=Trust.KEY_PROVEN, found=zone.claims),
    ):
        assert view("home.example", "A", replace(unknown, heard=True)) is None
    for unheard in (
        Absent(subject=HOME, why="", evidence=fact()),
        Unreachable(subject=HOME, why=""),
        TooWeak(subject=HOME, asked=Trust.KEY_PROVEN, found=zone.claims),
        Found(subject=HOME, claims=(pin,)),
    ):
        left = view("home.example", "A", unheard)
        assert left is not None and left.by_dns
        assert left.reply.ede == ((0, "trust=plain-dns: no document of did:web:home.example is heard"),)
    why = Refusal(HOME, "boot document: not signed by " + "x" * 200)
    for refused in (
        Refused(subject=HOME, why="refused", refused=(why,)),
        Refused(subject=HOME, why="the pins cannot be read"),
        Found(subject=HOME, claims=(pin,), refused=(why,)),
    ):
        for rtype in ("A", "MX", "TXT", "TYPE65280"):
            assert said(view("home.example", rtype, refused)) == (SERVFAIL, [], (24,))
    told = view("home.example", "A", Refused(subject=HOME, why="refused", refused=(why,) * 9))
    assert said(told)[2] == (24, 24, 24) and told is not None and len(told.reply.ede[0][1]) <= 118
    assert said(view("home.example", "A", Revoked(subject=HOME, why="over", evidence=fact())))[0] == NXDOMAIN


def test_documents_are_published_in_the_forerunners_form() -> None:
    token = "e" * 700
    documents = Documents(key=X, boot=token, devices=("d1", "d2"), until=NOW + 60.5, trust=Trust.OWNER_SIGNED)
    shown = view("home.example", "TXT", home("ood1"), documents=documents)
    assert shown is not None and shown.beside and shown.left == 60 and shown.trust == Trust.OWNER_SIGNED
    told = [data for _, _, data in said(shown)[1]]
    assert told[0] == b"\xffBOOT=" + b"e" * 250 + b"\xff" + b"e" * 255 + b"\xc4" + b"e" * 195 + b";"
    assert told[1:] == [b"\x30PKX=" + X.encode() + b";", b"\x07DEV=d1;", b"\x07DEV=d2;"]
    assert all(map(is_published, told)) and not is_published(b"\x06v=spf1")
    older = replace(documents, trust=Trust.HOST_SNAPSHOT)
    kept = view("home.example", "TXT", Unreachable(subject=HOME, why=""), documents=older)
    assert kept is not None and kept.trust == Trust.HOST_SNAPSHOT
    revoked = view("home.example", "TXT", Revoked(subject=HOME, why="", evidence=fact()), documents=documents)
    assert said(revoked)[:2] == (NXDOMAIN, [])


def test_the_evidence_can_be_read_by_people_in_plain_characters() -> None:
    for outcome in (found(*SITE), Unreachable(subject=ETH, why="nobody", faults=tuple(map(str, range(90))))):
        shown = view("_trust.alice.eth", "TXT", outcome)
        assert shown is not None and shown.left == 0
        ((_, _, data),) = said(shown)[1]
        lines, at = [], 0
        while at < len(data):
            lines.append(data[at + 1 : at + 1 + data[at]].decode("ascii"))
            at += 1 + data[at]
        assert lines[0] == outcome.why and len(lines) <= 24
    assert lines[-1] == "and 68 lines more"
    long = Unreachable(subject=ETH, why="ä" * 300)
    ((_, _, data),) = said(view("_trust.alice.eth", "TXT", long))[1]
    assert data == bytes([255]) + "ä".encode() * 127 + b"~"


@pytest.mark.parametrize(
    ("written", "subject", "side", "spelled"),
    [
        ("Alice.ETH", ETH, "", False),
        ("_Trust.alice.eth", ETH, "trust", False),
        (f"{X}.dev.did", dev_did(NAS.public), "", False),
        (f"{X.swapcase()}.DEV.did", dev_did(NAS.public), "", False),
        (f"{IN_BASE32}.dev.did", dev_did(NAS.public), "", False),
        (f"{IN_BASE32.upper()}.Dev.Did", dev_did(NAS.public), "", False),
        (f"{MALLORY.public.x}.dev.did", dev_did(MALLORY.public), "", True),
        ("_did.home.example.web.did", HOME, "did", False),
        ("home.example", HOME, "", False),
        ("OOD1.home.example", device_did("ood1", HOME), "", False),
    ],
)
def test_whom_a_name_is_about(written: str, subject: Did, side: str, spelled: bool) -> None:
    place = read_place(written, KNOWN)
    assert place is not None and (place.subject, place.side, place.spelled) == (subject, side, spelled)
    assert place.pinned == (not is_ours(place.host))


@pytest.mark.parametrize("written", ["example", "www.ood1.home.example", "_dmarc.home.example", "xhome.example", "com"])
def test_other_names_are_nobody_in_particular(written: str) -> None:
    assert read_place(written, KNOWN) is None


@pytest.mark.parametrize(
    "written",
    ["eth", "did", "_did.eth", "x.did", f"{MALLORY.public.x.lower()}.dev.did", "alice.eth.web.did", "a b.eth", "..eth"],
)
def test_names_of_ours_that_stand_for_nobody(written: str) -> None:
    with pytest.raises(BadWire):
        read_place(written, KNOWN)


NAMES = st.one_of(
    st.text(max_size=80),
    st.tuples(st.text(max_size=50), st.sampled_from([".eth", ".dev.did", ".web.did", ".home.example", ".did"])).map(
        "".join
    ),
)


@settings(max_examples=200, deadline=None)
@given(NAMES)
def test_any_name_is_somebody_or_nobody_or_refused(written: str) -> None:
    try:
        place = read_place(written, KNOWN)
    except BadWire:
        return
    assert place is None or isinstance(place, Place)


VALUES = st.one_of(st.text(max_size=300), st.sampled_from(["192.0.2.1", "2001:db8::1", "a.example", "did:web:a.b"]))
CLAIMS = st.builds(
    lambda kind, key, value, trust, until: Claim(
        about=ETH,
        kind=kind,
        key=key,
        value=value,
        evidence=Evidence(trust=trust, what="said", source="test", at=NOW, until=until),
    ),
    st.sampled_from(["text", "did", "name"]),
    st.sampled_from(["url", "alias", "a.60", "did", ""]),
    VALUES,
    st.sampled_from(Trust),
    st.one_of(st.none(), st.floats(NOW - 1e6, NOW + 1e9)),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(CLAIMS, max_size=5),
    st.sampled_from(["", "_did.", "_ens.", "_trust.", "_dnslink."]),
    st.sampled_from(["A", "AAAA", "TXT", "URI", "CNAME", "HTTPS", "TYPE65280"]),
    st.one_of(st.none(), st.floats(NOW - 1e6, NOW + 1e12)),
)
def test_whatever_strangers_say_of_themselves_becomes_a_message_that_others_read(
    claims: list[Claim], side: str, rtype: str, until: float | None
) -> None:
    name = f"{side}alice.eth"
    shown = view(name, rtype, Found(subject=ETH, claims=tuple(claims), until=until))
    assert shown is not None and 1 <= shown.most <= 3600
    query = read_query(dns.message.make_query(name, rtype, use_edns=0).to_wire())
    assert isinstance(query, Query)
    reply: Reply = shown.reply
    read = dns.message.from_wire(bytes(render(reply, query, shape_of(query), 0)))
    assert read.rcode() == reply.rcode and all(1 <= ttl <= 604800 for ttl in ttls(reply))
