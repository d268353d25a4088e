"""Replies of a real resolver with octets changed, through a server with every rule for answers at work.

The id, the flags and the question stay, or a reply would be passed over; what is behind them is noise.  Nothing may be
raised past the door, every client gets a well-formed answer, and an answer that is remembered is one that can be given
again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
from asking import UdpAsker, many_over_udp
from badserver import Act, bad_server
from fixturezones import SIGNED, Internet
from livehouse import live_house

SEED, COUNT = 8767, 3000
NAMES = [
    "alpha.example A", "alpha.example MX", "alpha.example HTTPS", "alpha.example TXT", "alpha.example CAA",
    "www.alpha.example A", "chain1.alpha.example AAAA", "chain1.alpha.example A", "svc.alpha.example SVCB",
    "_sip._tcp.alpha.example SRV", "naptr.alpha.example NAPTR", "a.dname.alpha.example A", "middle.alpha.example AAAA",
    "nowhere.alpha.example A", "alpha.example SRV", "8.8.8.8.in-addr.arpa PTR", "alpha.example SOA",
    "alpha.example NS", "alias-https.alpha.example HTTPS", "tlsa.alpha.example TLSA",
    f"www.{SIGNED} A", f"nowhere.{SIGNED} A",
]  # fmt: skip
RULES: dict[str, object] = {
    "rebind-protection": True,
    "svcb-ech": False,
    "family": "prefer-ipv6",
    "filter-types": ["DNSKEY"],
    "alias": ["198.18.1.2,198.18.9.9"],
    "bogus-nxdomain": ["198.18.4.1"],
    "ignore-address": ["198.18.4.3"],
    "block": ["+.target.beta.example", "b.example"],
    "rewrites": {"mail.beta.example": ["198.18.9.1"]},
    "query-log": {"privacy": "full"},
    "client-subnet": "pass",
}


def test_noise_behind_the_question(internet: Internet, tmp_path: Path) -> None:
    dice = random.Random(SEED)
    true: dict[tuple[str, int, bool], bytes] = {}
    with UdpAsker(internet.port) as resolver:

        def reply_to(query: bytes, way: str) -> Iterable[Act]:
            """Each number before the name is a name of its own, and a mutation of its own."""
            asked = dns.message.from_wire(query)
            question = asked.question[0]
            if len(question.name.labels) < 3 or not question.name.labels[0].isdigit():
                return []
            real = question.name.split(len(question.name.labels) - 1)[1]
            key = (real.to_text().lower(), question.rdtype, bool(asked.ednsflags))
            wire = true[key]
            end = query.index(b"\0", 12) + 5
            began = wire.index(b"\0", 12) + 5
            head = bytearray(wire[2:12])
            body = bytearray(shifted(wire[began:], end - began))
            if int(question.name.labels[0]) % 10:
                for _ in range(dice.randint(1, 5)):
                    mutate(dice, head, body)
            return [query[:2] + bytes(head[:2]) + query[4:6] + bytes(head[4:]) + query[12:end] + bytes(body)]

        queries = []
        for number in range(COUNT):
            name, rtype = dice.choice(NAMES).split()
            want = number % 3 == 0
            plain = dns.message.make_query(name, rtype, want_dnssec=want, use_edns=0, id=number)
            for kind in (plain.question[0].rdtype, dns.rdatatype.AAAA):  # the other family is asked for as well
                plain.question[0].rdtype = kind
                key = (plain.question[0].name.to_text().lower(), kind, want)
                if key not in true:
                    true[key] = resolver.ask(plain.to_wire()) or b""
            queries.append(dns.message.make_query(f"{number}.{name}", rtype, want_dnssec=want, use_edns=0).to_wire())
    settings = {**RULES, "cache": {"stale-wait": "100ms"}}
    with (
        bad_server(reply_to) as port,
        live_house(tmp_path, {**settings, "nameserver": [f"udp://127.0.0.1:{port}"]}) as house,
    ):
        first = many_over_udp(house.ports["plain"], queries, at_once=200, patience=7.0)
        again = many_over_udp(house.ports["plain"], queries[:1000], at_once=200, patience=7.0)
        house.assert_well()
    found: Counter[str] = Counter()
    for query, reply in zip([*queries, *queries[:1000]], [*first, *again], strict=True):
        assert reply is not None, dns.message.from_wire(query).to_text()
        try:
            told = dns.message.from_wire(reply)
        except dns.exception.FormError:
            # Data that are opaque to a resolver may be noise; the frame of the message may not.
            told = dns.message.from_wire(reply, continue_on_error=True)
            assert all("TrailingJunk" not in repr(error.exception) for error in told.errors)  # type: ignore[attr-defined]
        found[dns.rcode.to_text(told.rcode()) + (" with records" if told.answer else "")] += 1
    assert found["NOERROR with records"] > COUNT // 20
    assert found["SERVFAIL"] > COUNT // 20


def shifted(body: bytes, shift: int) -> bytes:
    """Records whose question became longer by ``shift``: pointers follow where they can be told from data."""
    out = bytearray(body)
    for at in range(len(out) - 1):
        pointer = (out[at] & 0x3F) << 8 | out[at + 1]
        # What points to the whole name asked for still does: such are the owners.
        if out[at] >= 0xC0 and 12 < pointer < 600:
            out[at : at + 2] = (0xC000 | pointer + shift).to_bytes(2)
    return bytes(out)


def mutate(dice: random.Random, head: bytearray, body: bytearray) -> None:
    at = dice.randrange(len(body)) if body else 0
    match dice.randrange(8):
        case 0 | 1 | 2:
            body[at : at + 1] = dice.randbytes(1)
        case 3:
            del body[at:]
        case 4:
            body[at:at] = dice.randbytes(dice.randint(1, 8))
        case 5:
            body[at : at + 2] = (0xC000 | dice.randrange(80)).to_bytes(2)
        case 6:
            head[dice.randrange(5, 10)] = dice.choice((0, 1, 2, 3, 9))
        case _:
            body[at:at] = body[: dice.randint(0, 40)]
