"""DNS messages (RFC 1035) as values: a question out, an answer in.

``cyfs_ns.wire`` reads the frame and the names, within its bounds.  The usual types are printed here; the data of the
remaining ones, names in it written out, by dnslib, loaded when such a type first comes by.

A truncated reply (TC) is read no further than its question: servers cut where they please, and the caller asks again
over TCP.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError
from typing import Any

from cyfs_ns import names
from cyfs_ns.errors import BadWire
from cyfs_ns.query import AD, CD, NOERROR, QR, RA, RD, TC, UDP_SIZE
from cyfs_ns.wire import HEADER, Rr, escaped, name_text, plain_data, read_name, walk

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, OPT = 1, 2, 5, 6, 12, 15, 16, 28, 33, 41
IN = 1

_RTYPES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 17: "RP", 18: "AFSDB",
    24: "SIG", 25: "KEY", 28: "AAAA", 29: "LOC", 33: "SRV", 35: "NAPTR", 36: "KX", 37: "CERT", 39: "DNAME", 41: "OPT",
    42: "APL", 43: "DS", 44: "SSHFP", 45: "IPSECKEY", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 49: "DHCID", 50: "NSEC3",
    51: "NSEC3PARAM", 52: "TLSA", 53: "SMIMEA", 55: "HIP", 59: "CDS", 60: "CDNSKEY", 61: "OPENPGPKEY", 62: "CSYNC",
    63: "ZONEMD", 64: "SVCB", 65: "HTTPS", 99: "SPF", 108: "EUI48", 109: "EUI64", 249: "TKEY", 250: "TSIG",
    251: "IXFR", 252: "AXFR", 255: "ANY", 256: "URI", 257: "CAA",
}  # fmt: skip
_RTYPE_NUMBERS = {text: number for number, text in _RTYPES.items()}
_RCODES = {
    0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 6: "YXDOMAIN", 7: "YXRRSET",
    8: "NXRRSET", 9: "NOTAUTH", 10: "NOTZONE", 16: "BADVERS", 23: "BADCOOKIE",
}  # fmt: skip

_TWO_WORDS = Struct("!2H")
_RR = Struct("!HHIH")
_SOA_NUMBERS = Struct("!5I")
_SRV_NUMBERS = Struct("!3H")
_MX_NUMBER = Struct("!H")
_MAX_ALIASES = 16
_QUOTED = b'"\\'  # means something to a zone file, within quotes


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, always of class IN."""

    name: str
    """Without trailing dot; empty for the root."""
    rtype: int

    def __str__(self) -> str:
        return f"{self.name}. {rtype_text(self.rtype)}"


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record of class IN."""

    name: str
    """Owner as sent, without trailing dot, odd octets escaped as in zone files."""
    rtype: int
    ttl: int
    """Seconds."""
    data: str
    """As a zone file writes it; names in it end with a dot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One reply."""

    question: Question
    rcode: int
    """With the upper bits of EDNS, where sent."""
    flags: int
    answer: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    server: str = ""
    """Who answered, as the configuration spells it; empty when read from bare bytes."""

    @property
    def truncated(self) -> bool:
        """Whether the server cut the answer (TC): ask again over TCP."""
        return bool(self.flags & TC)

    def addresses(self) -> tuple[tuple[str, ...], int]:
        """The addresses the question's name leads to through aliases (in the order sent), and for how many seconds.

        With no addresses the seconds are those for which that may be remembered (RFC 2308 section 5): 0 without SOA.
        """
        owner, ttl = self.question.name.lower(), 0x7FFFFFFF
        aliases = {record.name.lower(): record for record in self.answer if record.rtype == CNAME}
        for _ in range(_MAX_ALIASES):
            found = [r for r in self.answer if r.rtype == self.question.rtype and r.name.lower() == owner]
            if found:
                return tuple(dict.fromkeys(names.ip(r.data) for r in found)), min(ttl, *(r.ttl for r in found))
            alias = aliases.get(owner)
            if alias is None:
                break
            owner, ttl = alias.data[:-1].lower(), min(ttl, alias.ttl)
        return (), min((min(ttl, r.ttl, int(r.data.split()[-1])) for r in self.authority if r.rtype == SOA), default=0)


def rtype_text(number: int) -> str:
    """``28`` as ``"AAAA"``; the unknown as RFC 3597 writes it, ``"TYPE65280"``."""
    return _RTYPES.get(number) or f"TYPE{number}"


def rtype_number(text: str) -> int:
    """``"AAAA"``, ``"type65"`` or ``"28"`` as a number.  Raises ``BadWire``."""
    word = text.upper()
    if word in _RTYPE_NUMBERS:
        return _RTYPE_NUMBERS[word]
    digits = word.removeprefix("TYPE")
    if digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) <= 0xFFFF:
        return int(digits)
    raise BadWire(f"not a record type: {text[:80]!r}")


def rcode_text(number: int) -> str:
    """``3`` as ``"NXDOMAIN"``; the unknown as ``"RCODE23"``."""
    return _RCODES.get(number) or f"RCODE{number}"


def reverse_name(ip: str) -> str:
    """The name whose PTR record names a canonical IP address (RFC 1035 section 3.5, RFC 3596 section 2.5)."""
    if ":" in ip:
        return ".".join(reversed(socket.inet_pton(socket.AF_INET6, ip).hex())) + ".ip6.arpa"
    return ".".join(reversed(ip.split("."))) + ".in-addr.arpa"


def build_query(question: Question, ident: int, *, edns: bool = True) -> bytes:
    """A recursive query with id ``ident``.  The name must fit (``BadWire``); any case may be in it."""
    labels = [label.encode("ascii", "replace") for label in question.name.split(".")] if question.name else []
    wire = b"".join(bytes((len(label),)) + label for label in labels if 1 <= len(label) <= 63)
    if len(wire) != sum(1 + len(label) for label in labels) or len(wire) > 254 or b"" in labels:
        raise BadWire(f"not a DNS name: {question.name[:80]!r}")
    opt = b"\0" + _RR.pack(OPT, UDP_SIZE, 0, 0) if edns else b""
    return HEADER.pack(ident, RD, 1, 0, 0, 1 if edns else 0) + wire + b"\0" + _TWO_WORDS.pack(question.rtype, IN) + opt


def read_reply(untrusted: bytes, question: Question, ident: int) -> Answer:
    """The reply to ``build_query(question, ident)``, or ``BadWire``: broken, or not the reply to this query.

    The question must come back; case is not compared (RFC 4343).  A server that could not read ours may leave it out.
    """
    try:
        return _read_reply(untrusted, question, ident)
    except (StructError, IndexError):
        raise BadWire("DNS message ends too early") from None


def _read_reply(wire: bytes, question: Question, ident: int) -> Answer:
    got, flags, questions, *counts = HEADER.unpack_from(wire)
    if got != ident or not flags & QR or flags & 0x7800:
        raise BadWire("not a reply to this DNS query")
    rcode = flags & 0x0F
    if questions == 0 and rcode != NOERROR and not any(counts[:2]):
        return Answer(question=question, rcode=rcode, flags=flags)
    if questions != 1:
        raise BadWire(f"DNS reply repeats {questions} questions")
    name, at = read_name(wire, HEADER.size)
    if (name_text(name).lower(), *_TWO_WORDS.unpack_from(wire, at)) != (question.name.lower(), question.rtype, IN):
        raise BadWire("DNS reply is to another question")
    if flags & TC:
        return Answer(question=question, rcode=rcode, flags=flags)
    sections = walk(wire)
    for rr in (*sections.answer, *sections.authority, *sections.additional):
        if rr.rtype == OPT:
            rcode |= rr.ttl >> 24 << 4
    return Answer(
        question=question,
        rcode=rcode,
        flags=flags,
        answer=_records(wire, sections.answer),
        authority=_records(wire, sections.authority),
        additional=_records(wire, sections.additional),
    )


def _records(wire: bytes, section: tuple[Rr, ...]) -> tuple[Record, ...]:
    # RFC 2181 section 8: a TTL with the top bit set means nought.
    return tuple(
        Record(
            name_text(read_name(wire, rr.at)[0]),
            rr.rtype,
            rr.ttl if rr.ttl < 1 << 31 else 0,
            _data(rr.rtype, plain_data(wire, rr)),
        )
        for rr in section
        if rr.rclass == IN and rr.rtype != OPT
    )


def _data(rtype: int, rdata: bytes) -> str:
    """The data of one record as a zone file writes it; what its type cannot explain is printed by RFC 3597."""
    if rtype == A:
        return socket.inet_ntop(socket.AF_INET, rdata)
    if rtype == AAAA:
        return socket.inet_ntop(socket.AF_INET6, rdata)
    if rtype in (NS, CNAME, PTR, MX, SRV, SOA):
        return _named_data(rtype, rdata)
    if rtype == TXT:
        return " ".join(_strings(rdata))
    return _printed_by_dnslib(rtype, rdata) or f"\\# {len(rdata)} {rdata.hex()}".rstrip()


def _named_data(rtype: int, rdata: bytes) -> str:
    numbers = {MX: _MX_NUMBER, SRV: _SRV_NUMBERS}.get(rtype)
    before, at = "", 0
    if numbers is not None:
        before = "".join(f"{number} " for number in numbers.unpack_from(rdata))
        at = numbers.size
    name, at = read_name(rdata, at)
    if rtype != SOA:
        return f"{before}{name_text(name)}."
    mailbox, at = read_name(rdata, at)
    return f"{name_text(name)}. {name_text(mailbox)}. {' '.join(map(str, _SOA_NUMBERS.unpack_from(rdata, at)))}"


def _strings(rdata: bytes) -> Iterator[str]:
    at = 0
    while at < len(rdata):
        string = rdata[at + 1 : at + 1 + rdata[at]]
        if len(string) < rdata[at]:
            raise BadWire("TXT string runs over its record")
        yield f'"{escaped(string, _QUOTED, 0x20)}"'
        at += 1 + len(string)


def _printed_by_dnslib(rtype: int, rdata: bytes) -> str:
    from dnslib import RDMAP
    from dnslib.label import DNSBuffer

    kind: Any = RDMAP.get(rtype_text(rtype))
    if kind is None:
        return ""
    buffer = DNSBuffer(rdata)
    try:
        text = str(kind.parse(buffer, len(rdata)).toZone())
    except Exception:  # whatever dnslib trips over, the generic form can say
        return ""
    return text if buffer.offset == len(rdata) and text.isprintable() else ""


def to_clash_json(answer: Answer) -> dict[str, object]:
    """The reply of Clash's ``GET /dns/query``; empty sections are left out, as there."""

    def dotted(name: str) -> str:
        return name + "."

    shape: dict[str, object] = {
        "Status": answer.rcode,
        "Question": [{"Name": dotted(answer.question.name), "Qtype": answer.question.rtype, "Qclass": IN}],
        "TC": answer.truncated,
        "RD": bool(answer.flags & RD),
        "RA": bool(answer.flags & RA),
        "AD": bool(answer.flags & AD),
        "CD": bool(answer.flags & CD),
    }
    sections = {"Answer": answer.answer, "Authority": answer.authority, "Additional": answer.additional}
    for key, records in sections.items():
        if records:
            shape[key] = [{"name": dotted(r.name), "type": r.rtype, "TTL": r.ttl, "data": r.data} for r in records]
    return shape
