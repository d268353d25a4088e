"""DNS messages (RFC 1035) as values: a question out, an answer in.

The frame of a message, its names and the types whose data hold compressed names are read here, because dnslib follows
pointers recursively and without a length limit, which a hostile server can turn into seconds of work.  The data of
the remaining types is closed in itself and printed by dnslib, loaded when such a type first comes by.

Bounds: a name has 255 octets and its pointers only lead backwards; a message has 512 records at most.  A truncated
reply (TC) is read no further than its question: servers cut where they please, and the caller asks again over TCP.
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

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, OPT = 1, 2, 5, 6, 12, 15, 16, 28, 33, 41
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
IN = 1

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
"""Bits of ``Answer.flags``, the second word of the header."""

UDP_SIZE = 1232
"""What we offer to take over UDP: fits one unfragmented packet on any usual path (DNS flag day 2020)."""

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

_HEADER = Struct("!6H")
_TWO_WORDS = Struct("!2H")
_RR = Struct("!HHIH")
_SOA_NUMBERS = Struct("!5I")
_SRV_NUMBERS = Struct("!3H")
_MX_NUMBER = Struct("!H")
_MAX_RECORDS = 512
_MAX_ALIASES = 16
_UNSAFE = b'."\\;()@$'  # means something to a zone file, outside quotes
_QUOTED = b'"\\'  # and within


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
    return _HEADER.pack(ident, RD, 1, 0, 0, 1 if edns else 0) + wire + b"\0" + _TWO_WORDS.pack(question.rtype, IN) + opt


def read_reply(untrusted: bytes, question: Question, ident: int) -> Answer:
    """The reply to ``build_query(question, ident)``, or ``BadWire``: broken, or not the reply to this query.

    The question must come back; case is not compared (RFC 4343).  A server that could not read ours may leave it out.
    """
    try:
        return _read_reply(untrusted, question, ident)
    except (StructError, IndexError):
        raise BadWire("DNS message ends too early") from None


def _read_reply(wire: bytes, question: Question, ident: int) -> Answer:
    got, flags, questions, *counts = _HEADER.unpack_from(wire)
    if got != ident or not flags & QR or flags & 0x7800:
        raise BadWire("not a reply to this DNS query")
    rcode, at = flags & 0x0F, _HEADER.size
    if questions == 0 and rcode != NOERROR and not any(counts[:2]):
        return Answer(question=question, rcode=rcode, flags=flags)
    if questions != 1:
        raise BadWire(f"DNS reply repeats {questions} questions")
    name, at = _name(wire, at)
    if (name.lower(), *_TWO_WORDS.unpack_from(wire, at)) != (question.name.lower(), question.rtype, IN):
        raise BadWire("DNS reply is to another question")
    if flags & TC:
        return Answer(question=question, rcode=rcode, flags=flags)
    if sum(counts) > _MAX_RECORDS:
        raise BadWire(f"DNS reply claims {sum(counts)} records")
    at += _TWO_WORDS.size
    sections: list[tuple[Record, ...]] = []
    for count in counts:
        records = []
        for _ in range(count):
            owner, at = _name(wire, at)
            rtype, rclass, ttl, length = _RR.unpack_from(wire, at)
            at += _RR.size
            if at + length > len(wire):
                raise BadWire("DNS record runs over the end of its message")
            if rtype == OPT:
                rcode |= ttl >> 24 << 4
            elif rclass == IN:
                # RFC 2181 section 8: a TTL with the top bit set means nought.
                records.append(Record(owner, rtype, ttl if ttl < 1 << 31 else 0, _data(wire, rtype, at, length)))
            at += length
        sections.append(tuple(records))
    answer, authority, additional = sections
    return Answer(
        question=question, rcode=rcode, flags=flags, answer=answer, authority=authority, additional=additional
    )


def _name(wire: bytes, at: int) -> tuple[str, int]:
    """The name at ``at`` and where the message goes on after it."""
    labels: list[str] = []
    after, floor, size = -1, at, 1
    while (length := wire[at]) != 0:
        if length < 64:
            label = wire[at + 1 : at + 1 + length]
            size += 1 + length
            if len(label) < length or size > 255:
                raise BadWire("DNS name is too long")
            labels.append(_text(label))
            at += 1 + length
        elif length >= 192:
            if after < 0:
                after = at + 2
            at = (length & 0x3F) << 8 | wire[at + 1]
            # Each jump goes below all that was read before it, so there is no way to go round.
            if at >= floor:
                raise BadWire("DNS name points forward")
            floor = at
        else:
            raise BadWire("DNS label of an unknown kind")
    return ".".join(labels), after if after >= 0 else at + 1


def _text(label: bytes) -> str:
    # bytes.isalnum knows ASCII only: the usual label, quickly.
    return label.decode("ascii") if label.isalnum() else _escaped(label, _UNSAFE, 0x21)


def _escaped(octets: bytes, special: bytes, lowest: int) -> str:
    return "".join(
        "\\" + chr(octet) if octet in special else chr(octet) if lowest <= octet < 0x7F else f"\\{octet:03d}"
        for octet in octets
    )


def _data(wire: bytes, rtype: int, at: int, length: int) -> str:
    """The data of one record as a zone file writes it; what its type cannot explain is printed by RFC 3597."""
    rdata = wire[at : at + length]
    if rtype == A and length == 4:
        return socket.inet_ntop(socket.AF_INET, rdata)
    if rtype == AAAA and length == 16:
        return socket.inet_ntop(socket.AF_INET6, rdata)
    if rtype in (A, AAAA):
        raise BadWire(f"an address of {length} octets")
    if rtype in (NS, CNAME, PTR, MX, SRV, SOA):
        text, end = _named_data(wire, rtype, at)
        if end != at + length:
            raise BadWire(f"{rtype_text(rtype)} record of a wrong length")
        return text
    if rtype == TXT:
        return " ".join(_strings(rdata))
    return _printed_by_dnslib(rtype, rdata) or f"\\# {length} {rdata.hex()}".rstrip()


def _named_data(wire: bytes, rtype: int, at: int) -> tuple[str, int]:
    numbers = {MX: _MX_NUMBER, SRV: _SRV_NUMBERS}.get(rtype)
    before = ""
    if numbers is not None:
        before = "".join(f"{number} " for number in numbers.unpack_from(wire, at))
        at += numbers.size
    name, at = _name(wire, at)
    if rtype != SOA:
        return f"{before}{name}.", at
    mailbox, at = _name(wire, at)
    numbers_text = " ".join(map(str, _SOA_NUMBERS.unpack_from(wire, at)))
    return f"{name}. {mailbox}. {numbers_text}", at + _SOA_NUMBERS.size


def _strings(rdata: bytes) -> Iterator[str]:
    at = 0
    while at < len(rdata):
        string = rdata[at + 1 : at + 1 + rdata[at]]
        if len(string) < rdata[at]:
            raise BadWire("TXT string runs over its record")
        yield f'"{_escaped(string, _QUOTED, 0x20)}"'
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
