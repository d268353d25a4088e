"""A reply as it came, for people: every section, EDNS and extended errors, in dig's manner or as JSON.

Unlike :func:`cyfs_ns.reply.read_reply` nothing is left out that a server sent: who looks at a reply wants to see it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from cyfs_ns import edns
from cyfs_ns.edns import Edns, read_ede, read_opt
from cyfs_ns.errors import BadWire
from cyfs_ns.message import Answer, Question, Record, rcode_text, rtype_text, to_clash_json
from cyfs_ns.printable import printable
from cyfs_ns.query import AA, AD, CD, QR, RA, RD, TC
from cyfs_ns.records import data_text
from cyfs_ns.wire import HEADER, Rr, name_text, plain_data, read_name, walk

_FLAGS = {"qr": QR, "aa": AA, "tc": TC, "rd": RD, "ra": RA, "ad": AD, "cd": CD}
_CLASSES = {1: "IN", 3: "CH", 4: "HS", 254: "NONE", 255: "ANY"}
_IN = 1
_EDES = (
    "other error", "unsupported DNSKEY algorithm", "unsupported DS digest type", "stale answer", "forged answer",
    "DNSSEC indeterminate", "DNSSEC bogus", "signature expired", "signature not yet valid", "DNSKEY missing",
    "RRSIGs missing", "no zone key bit set", "NSEC missing", "cached error", "not ready", "blocked", "censored",
    "filtered", "prohibited", "stale NXDOMAIN answer", "not authoritative", "not supported",
    "no reachable authority", "network error", "invalid data",
)  # fmt: skip
"""RFC 8914 section 4, by code."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One record, its data as a zone file writes it."""

    name: str
    """With its last dot."""
    rtype: int
    rclass: int
    ttl: int
    data: str

    def __str__(self) -> str:
        return f"{self.name}\t{self.ttl}\t{class_text(self.rclass)}\t{rtype_text(self.rtype)}\t{self.data}"


@dataclass(frozen=True, slots=True)
class Transcript:
    """A whole reply."""

    flags: int
    rcode: int
    """All twelve bits."""
    question: tuple[str, int, int] | None
    """Name, type and class as they came back, if they did."""
    answer: tuple[Shown, ...]
    authority: tuple[Shown, ...]
    additional: tuple[Shown, ...]
    opt: Edns | None
    size: int
    """Octets."""

    @property
    def truncated(self) -> bool:
        return bool(self.flags & TC)

    @property
    def errors(self) -> tuple[tuple[int, str], ...]:
        """Extended errors: code and text."""
        options = self.opt.options if self.opt is not None else ()
        return tuple(_ede(data) for code, data in options if code == edns.EDE)


def read_transcript(untrusted: bytes) -> Transcript:
    """Read a reply, whatever it was asked.  Raises ``BadWire``."""
    sections = walk(untrusted)
    _, flags, questions, *_ = HEADER.unpack_from(untrusted)
    if not flags & QR:
        raise BadWire("a question, not a reply")
    question = None
    if questions:
        name, at = read_name(untrusted, HEADER.size)
        words = untrusted[at : at + 4]
        question = (name_text(name) + ".", int.from_bytes(words[:2]), int.from_bytes(words[2:]))
    opt = None
    for rr in sections.additional:
        if rr.rtype == edns.OPT:
            opt = read_opt(rr.rclass, rr.ttl, untrusted[rr.data_at : rr.end])
    rcode = flags & 0xF | (opt.rcode_high << 4 if opt is not None else 0)
    kept = tuple(rr for rr in sections.additional if rr.rtype != edns.OPT)
    parts = [tuple(_shown(untrusted, rr) for rr in part) for part in (sections.answer, sections.authority, kept)]
    return Transcript(flags, rcode, question, parts[0], parts[1], parts[2], opt, len(untrusted))


def class_text(number: int) -> str:
    """``1`` as ``IN``; the unknown as RFC 3597 writes it."""
    return _CLASSES.get(number, f"CLASS{number}")


def transcript_lines(said: Transcript) -> Iterator[str]:
    """In dig's manner: comments with ``;;``, records as lines of a zone file."""
    flags = " ".join(word for word, bit in _FLAGS.items() if said.flags & bit)
    yield f";; {rcode_text(said.rcode)}; flags: {flags}"
    for code, text in said.errors:
        yield f";; EDE {code} ({ede_text(code)})" + (f": {printable(text)}" if text else "")
    if said.opt is not None:
        yield f";; EDNS: {'; '.join(_opt_words(said.opt))}"
    if said.question is not None:
        name, rtype, rclass = said.question
        yield ";; QUESTION"
        yield f";{name}\t{class_text(rclass)}\t{rtype_text(rtype)}"
    sections = {"ANSWER": said.answer, "AUTHORITY": said.authority, "ADDITIONAL": said.additional}
    for title, records in sections.items():
        if records:
            yield f";; {title}"
        yield from map(str, records)


def transcript_json(said: Transcript) -> dict[str, object]:
    """The shape of Clash's ``GET /dns/query``, and what came with EDNS."""
    name, rtype, _ = said.question or ("", 0, 0)
    sections = [
        tuple(Record(each.name[:-1], each.rtype, each.ttl, each.data) for each in part)
        for part in (said.answer, said.authority, said.additional)
    ]
    shape = to_clash_json(
        Answer(
            question=Question(name[:-1], rtype),
            rcode=said.rcode,
            flags=said.flags,
            answer=sections[0],
            authority=sections[1],
            additional=sections[2],
        )
    )
    if said.opt is not None:
        shape["Edns"] = {"Version": said.opt.version, "Size": said.opt.size, "DO": said.opt.do}
        ecs = said.opt.ecs
        if ecs is not None:
            shape["Edns"] |= {"ClientSubnet": _subnet(ecs)}  # type: ignore[operator]
    if said.errors:
        shape["Errors"] = [{"Code": code, "Meaning": ede_text(code), "Text": text} for code, text in said.errors]
    return shape


def ede_text(code: int) -> str:
    """What an extended error is about."""
    return _EDES[code] if code < len(_EDES) else "unknown"


def _shown(wire: bytes, rr: Rr) -> Shown:
    name, _ = read_name(wire, rr.at)
    return Shown(name_text(name) + ".", rr.rtype, rr.rclass, rr.ttl, data_text(rr.rtype, plain_data(wire, rr)))


def _ede(data: bytes) -> tuple[int, str]:
    try:
        return read_ede(data)
    except BadWire:
        return 0, data.hex()


def _opt_words(opt: Edns) -> Iterator[str]:
    yield f"version {opt.version}, {opt.size} octets" + (", do" if opt.do else "")
    for code, data in opt.options:
        if code == edns.ECS and opt.ecs is not None:
            yield f"client subnet {_subnet(opt.ecs)}"
        elif code == edns.COOKIE:
            yield f"cookie {data.hex()}"
        elif code == edns.PADDING:
            yield f"{len(data)} octets of padding"
        elif code == edns.NSID:
            yield f"server {printable(data.decode('utf-8', 'replace'))}"
        elif code == edns.KEEPALIVE and len(data) == 2:
            yield f"keeps connections for {int.from_bytes(data) / 10:g} s"
        elif code != edns.EDE:
            yield f"option {code}: {data[:64].hex()}"


def _subnet(ecs: edns.Ecs) -> str:
    size = {1: 4, 2: 16}.get(ecs.family, 0)
    address = str(ipaddress.ip_address(ecs.prefix.ljust(size, b"\0"))) if size else "untold"
    return f"{address}/{ecs.source}/{ecs.scope}"
