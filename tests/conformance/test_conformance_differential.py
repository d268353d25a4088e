"""Ten thousand questions to unbound and to us, both before the same resolver: where we differ, a rule says why we may.

Compared are the return code, every flag, the question as it came back, EDNS, and the answer and authority sections as
sets of records, down to the spelling of names in data; TTLs may only have become less.  ``RULES`` are the differences
that are meant.  Anything else fails the test and is shown with both answers.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from asking import LOOPBACK, StreamAsker, many_over_udp
from fixturezones import SIGNED, Internet, unbound, zones
from livehouse import live_house

COUNT, SOME = 10_000, 500
SEED = 20_260
TYPES = [
    "A", "AAAA", "CNAME", "MX", "TXT", "SRV", "CAA", "HTTPS", "SVCB", "PTR", "NS", "SOA", "ANY", "DS", "DNSKEY",
    "NAPTR", "SSHFP", "TLSA", "HINFO", "DNAME", "NSEC", "RRSIG", "TYPE65280", "TYPE65281",
]  # fmt: skip
LARGE = [
    ("big.alpha.example", "A"),
    ("middle.alpha.example", "AAAA"),
    ("longtext.alpha.example", "TXT"),
    ("text.alpha.example", "TXT"),
    (SIGNED, "DNSKEY"),
]
SPECIAL = [
    "localhost",
    "nowhere.test",
    "nowhere.invalid",
    "nowhere.onion",
    "home.arpa",
    "host.home.arpa",
    "1.0.0.127.in-addr.arpa",
    "1.1.168.192.in-addr.arpa",
    "1.0.0.10.in-addr.arpa",
    "1.2.0.192.in-addr.arpa",
]
"""Names that both answer themselves (RFC 6303, 6761, 7686, 8375)."""
SHOWN = 5

RR = tuple[str, int, int, bytes]


class Answer(NamedTuple):
    """What is compared."""

    wire: bytes
    rcode: int
    flags: int
    question: bytes
    answer: frozenset[RR]
    authority: frozenset[RR]
    ttls: dict[RR, int]
    edns: tuple[int, int, bool] | None
    """Version, and DO."""


def read(wire: bytes) -> Answer:
    told = dns.message.from_wire(wire)
    ttls: dict[RR, int] = {}
    parts = []
    for section in (told.answer, told.authority):
        records = set()
        for rrset in section:
            for data in rrset:
                record = (rrset.name.canonicalize().to_text(), rrset.rdtype, rrset.rdclass, spelt(data))
                records.add(record)
                ttls[record] = rrset.ttl
        parts.append(frozenset(records))
    edns = None if told.edns < 0 else (told.edns, 0, bool(told.ednsflags & dns.flags.DO))
    end = 12 + len(told.question[0].name.to_wire()) + 4 if told.question else 12
    return Answer(wire, told.rcode(), told.flags, wire[12:end], parts[0], parts[1], ttls, edns)


def spelt(data: dns.rdata.Rdata) -> bytes:
    return bytes(data.to_wire(origin=dns.name.root))


class Asked(NamedTuple):
    wire: bytes
    rtype: int
    name: str
    tcp: bool

    def __str__(self) -> str:
        return f"{self.name} {dns.rdatatype.to_text(dns.rdatatype.RdataType.make(self.rtype))} tcp={self.tcp}"


def questions(dice: random.Random) -> Iterator[Asked]:
    """Assorted, and the same ones now and then, since what comes from the cache is half of the matter."""
    known = [name.to_text().rstrip(".") for zone in zones().values() for name in zone.nodes]
    known = [name for name in known if "*" not in name]
    ends = ["alpha.example", "beta.example", SIGNED, "8.8.in-addr.arpa", "example"]
    signed = [SIGNED, f"www.{SIGNED}", f"alias.{SIGNED}", f"text.{SIGNED}"]
    asked: list[Asked] = []
    while True:
        if asked and dice.random() < 0.25:
            yield dice.choice(asked)
            continue
        wanted = dice.choice(TYPES) if dice.random() < 0.6 else dice.choice(("A", "AAAA", "TXT"))
        match dice.randrange(13):
            case 0 | 1 | 2 | 3 | 4:
                name = dice.choice(known)
            case 5:
                name = dice.choice(signed)
            case 6:
                name = f"x{dice.randrange(40)}.{dice.choice(ends)}"
            case 7:
                name = f"{dice.choice(('q', 'a.b', 'deep.er', 'HOST'))}{dice.randrange(9)}." + dice.choice(
                    ("wild.alpha.example", "walias.alpha.example", "sub.wild.alpha.example", "dname.alpha.example")
                )
            case 8:
                name = dice.choice(("terminal.alpha.example", "empty.terminal.alpha.example", "sub.wild.alpha.example"))
            case 9 | 10:
                name, wanted = dice.choice(LARGE)
            case 11:
                name = dice.choice(SPECIAL)
            case _:
                name = odd(dice) + "." + dice.choice(ends[:3])
        rtype = dns.rdatatype.from_text(wanted)
        spelt = "".join(dice.choice((letter, letter.upper())) for letter in name) if dice.random() < 0.3 else name
        flags = dns.flags.RD
        if dice.random() < 0.15:
            flags |= dns.flags.CD
        if dice.random() < 0.15:
            flags |= dns.flags.AD
        query = dns.message.make_query(dns.name.from_text(escaped(spelt)), rtype, flags=flags, id=0)
        if dice.random() < 0.6:
            options = [dns.edns.GenericOption(65001, b"odd")] if dice.random() < 0.1 else []
            query.use_edns(
                0,
                dns.flags.DO if dice.random() < 0.4 else 0,
                dice.choice((0, 512, 600, 1232, 1400, 4096)),
                options=options,
            )
        asked.append(Asked(query.to_wire(), rtype, name, dice.random() < 0.1))
        yield asked[-1]


def odd(dice: random.Random) -> str:
    return "".join(f"\\{dice.randrange(256):03}" for _ in range(dice.randint(1, 6)))


def escaped(name: str) -> str:
    return name + "."


# The rules: what we do otherwise than unbound, and why.

Rule = Callable[[Asked, Answer, Answer], bool]


def minimal_any(asked: Asked, theirs: Answer, ours: Answer) -> bool:
    """RFC 8482: ANY brings a HINFO of ours; unbound gives what its cache has."""
    return asked.rtype == dns.rdatatype.ANY and ours.rcode == 0 and len(ours.answer) == 1


def special_name(asked: Asked, theirs: Answer, ours: Answer) -> bool:
    """Both speak for these zones themselves, each with a SOA, NS records and TTLs of its own."""
    zone_data = asked.rtype in (dns.rdatatype.SOA, dns.rdatatype.NS)
    same = zone_data or (theirs.rcode == ours.rcode and theirs.answer == ours.answer)
    return asked.name in SPECIAL and same and theirs.question == ours.question and theirs.edns == ours.edns


def special_ds(asked: Asked, theirs: Answer, ours: Answer) -> bool:
    """DS belongs to the parent zone, whom unbound asks even for ``localhost``; we ask nobody about these names."""
    return asked.name in SPECIAL and asked.rtype == dns.rdatatype.DS and ours.rcode == 0 and not ours.answer


def spelling(asked: Asked, theirs: Answer, ours: Answer) -> bool:
    """Names are equal in any case (RFC 4343); unbound repeats how some client spelt them.  Ours are held below."""
    return plain(theirs) == plain(ours)


def plain(answer: Answer) -> Answer:
    return answer._replace(wire=b"", ttls={}, answer=folded(answer.answer), authority=folded(answer.authority))


def folded(records: frozenset[RR]) -> frozenset[RR]:
    return frozenset((owner, rtype, rclass, data.lower()) for owner, rtype, rclass, data in records)


RULES: dict[str, Rule] = {
    "spelling": spelling,
    "minimal ANY": minimal_any,
    "special names": special_name,
    "DS of special names": special_ds,
}


def differences(asked: Asked, theirs: Answer, ours: Answer) -> list[str]:
    found = []
    if theirs.rcode != ours.rcode:
        found.append(f"rcode {theirs.rcode} {ours.rcode}")
    if theirs.flags != ours.flags:
        found.append(f"flags {dns.flags.to_text(theirs.flags)} | {dns.flags.to_text(ours.flags)}")
    if theirs.question != ours.question or ours.question != asked.wire[12 : 12 + len(ours.question)]:
        found.append("question")
    if theirs.edns != ours.edns:
        found.append(f"edns {theirs.edns} {ours.edns}")
    if theirs.answer != ours.answer:
        found.append("answer")
    if theirs.authority != ours.authority:
        found.append("authority")
    for record, ttl in ours.ttls.items():
        if ttl > ORIGINAL.get((record[0], record[1]), 0xFFFFFFFF):
            found.append(f"ttl of {record[0]} has grown to {ttl}")
    return found


ORIGINAL = {
    (name.canonicalize().to_text(), rdataset.rdtype): rdataset.ttl
    for zone in zones().values()
    for name, rdataset in zone.iterate_rdatasets()
}


SPELT = {data.to_wire(origin=dns.name.root) for zone in zones().values() for _, _, data in zone.iterate_rdatas()}
NAMED = {dns.rdatatype.from_text(text) for text in ("CNAME", "MX", "NS", "PTR", "SRV", "SOA", "DNAME", "NAPTR")}


def shouted(ours: Answer) -> bool:
    """Whether the mixed case we ask upstreams in, which is nobody else's business, shows in the data of an answer.

    Left out: clients that mix themselves, zones that do, and DNAME, whose results have no spelling of their own.
    """
    if ours.question != ours.question.lower():
        return False
    named = [record[3] for record in ours.answer | ours.authority if record[1] in NAMED]
    mixed_zone = any(rtype == dns.rdatatype.DNAME or b"MiXeD" in data for _, rtype, _, data in ours.answer)
    return not mixed_zone and any(data != data.lower() and data.lower() in SPELT for data in named)


def answers(port: int, asked: list[Asked], host: str = LOOPBACK, *, sockets: int = 1) -> list[bytes | None]:
    by_udp = [each.wire for each in asked if not each.tcp]
    share = -(-len(by_udp) // sockets)
    datagrams = iter(
        [
            reply
            for at in range(0, len(by_udp), share)
            for reply in many_over_udp(port, by_udp[at : at + share], host=host)
        ]
    )
    found: list[bytes | None] = []
    with StreamAsker(port, host=host) as stream:
        for each in asked:
            found.append(stream.ask(each.wire) if each.tcp else next(datagrams))
    return found


def test_ten_thousand_questions(internet: Internet, tmp_path: Path) -> None:
    source = questions(random.Random(SEED))
    asked = [next(source) for _ in range(COUNT)]
    theirs = answers_of_unbound(internet, tmp_path, asked)
    with live_house(tmp_path / "house", settings(f"udp://127.0.0.1:{internet.port}")) as house:
        ours = answers(house.ports["plain"], asked)
        house.assert_well()
    assert set(excused(asked, theirs, ours)) == set(RULES), "a rule that excuses nothing"


@pytest.fixture(scope="module")
def some(internet: Internet, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Asked], list[bytes | None]]:
    """Some questions, and what unbound says."""
    source = questions(random.Random(SEED + 1))
    asked = [next(source) for _ in range(SOME)]
    return asked, answers_of_unbound(internet, tmp_path_factory.mktemp("theirs"), asked)


UPSTREAMS = {
    "UDP over IPv6": "udp://[::1]:{0.port}",
    "TCP": "tcp://127.0.0.1:{0.port}",
    "TCP over IPv6": "tcp://[::1]:{0.port}",
    "TLS": "tls://127.0.0.1:{0.tls}",
    "TLS over IPv6": "tls://[::1]:{0.tls}",
    "HTTPS": "https://127.0.0.1:{0.https}/dns-query",
    "HTTPS over IPv6": "https://[::1]:{0.https}/dns-query",
}


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_some_questions_by_every_way_to_the_upstream(
    internet: Internet, tmp_path: Path, some: tuple[list[Asked], list[bytes | None]], upstream: str
) -> None:
    """Certificates are verified."""
    asked, theirs = some
    wanted = settings(UPSTREAMS[upstream].format(internet))
    with live_house(tmp_path, wanted, trust=internet.roots) as house:
        ours = answers(house.ports["plain"], asked)
        house.assert_well()
    excused(asked, theirs, ours)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_some_questions_to_workers(
    internet: Internet, tmp_path: Path, some: tuple[list[Asked], list[bytes | None]], host: str
) -> None:
    """By many sockets, which the kernel spreads over the workers, and twice: first they ask, then they know."""
    asked, theirs = some
    with live_house(tmp_path, {**settings(f"udp://127.0.0.1:{internet.port}"), "workers": 2}) as house:
        for _ in range(2):
            excused(asked, theirs, answers(house.ports["plain"], asked, host, sockets=16))
        assert len(house.children()) == 2
        house.assert_well()


@pytest.mark.parametrize("scheme", ["tls", "https"])
def test_nothing_is_taken_from_a_server_nobody_vouches_for(internet: Internet, tmp_path: Path, scheme: str) -> None:
    port = internet.tls if scheme == "tls" else internet.https
    query = dns.message.make_query("alpha.example", "A").to_wire()
    with live_house(tmp_path, settings(f"{scheme}://127.0.0.1:{port}")) as house:
        reply = house.ask(query)
    assert reply is not None
    assert read(reply).rcode == dns.rcode.SERVFAIL


def settings(upstream: str) -> dict[str, object]:
    return {"nameserver": [upstream], "bogus-priv": False, "query-log": {"privacy": "none"}}


def answers_of_unbound(internet: Internet, place: Path, asked: list[Asked]) -> list[bytes | None]:
    """It forwards as we do."""
    forward = f'forward-zone:\n name: "."\n forward-addr: 127.0.0.1@{internet.port}'
    with unbound(place / "unbound", [forward]) as port:
        told = answers(port, asked)
        # On a busy machine it now and then asks without EDNS, and passes on that what it heard was cut short.
        cut = [at for at, reply in enumerate(told) if reply is not None and reply[2] & 2]
        for at, reply in zip(cut, answers(port, [asked[at] for at in cut]), strict=True):
            told[at] = reply
        return told


def excused(asked: list[Asked], theirs: list[bytes | None], ours: list[bytes | None]) -> Counter[str]:
    """How often each rule was needed; fails where none explains a difference."""
    used: Counter[str] = Counter()
    unexplained = []
    for question, their, our in zip(asked, theirs, ours, strict=True):
        assert their is not None, f"unbound says nothing of {question}"
        assert our is not None, f"nothing is said of {question}"
        one, other = read(their), read(our)
        assert not shouted(other), f"{question}: the spelling we ask upstreams in shows in {our!r}"
        found = differences(question, one, other)
        if not found:
            continue
        rule = next((name for name, holds in RULES.items() if holds(question, one, other)), None)
        if rule is None:
            unexplained.append((question, found, their, our))
        else:
            used[rule] += 1
    kinds = Counter(kind.split()[0] for _, found, _, _ in unexplained for kind in found)
    shown = "\n".join(
        f"--- {question}: {found}\n{dns.message.from_wire(their)}\n~~~\n{dns.message.from_wire(our)}"
        for question, found, their, our in unexplained[:SHOWN]
    )
    assert not unexplained, f"{len(unexplained)} differences {dict(kinds)}, excused {dict(used)}\n{shown}"
    return used
