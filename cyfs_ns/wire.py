"""DNS messages as bytes (RFC 1035 section 4): names, records, and messages put together.

A name travels here as *wire name*: uncompressed, each label behind its length, the final zero included.  Lengths are
at most 63 and so never look like letters: ``bytes.lower()`` folds the case of a whole wire name (RFC 4343).

Bounds: a name has 255 octets; its pointers lead only backwards, never into the header, and are followed 127 times at
most; a message has 512 records at most.  The one error is ``BadWire``.

What is written uses compression only where RFC 3597 section 4 allows it; what is read may use it in every type that
ever had it.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from struct import error as StructError
from typing import NamedTuple, TypeAlias

from cyfs_ns.errors import BadWire

HEADER = Struct("!6H")
"""Id, flags, and how many questions, answers, authority and additional records follow."""

Record: TypeAlias = tuple[bytes, int, int, bytes]
"""Owner (wire name), type, TTL in seconds, data with every name in it written out."""

_FIXED = Struct("!HHIH")
_RECORD_HEAD = Struct("!HHI")
_TWO_WORDS = Struct("!2H")
_WORD = Struct("!H")
_MAX_RECORDS = 512
_MAX_JUMPS = 127
_MAX_NAME = 255
_MAX_POINTER = 0x3FFF
_ANY_CLASS, _IN = 255, 1

_REST = -1
_NAPTR = 35
_LAYOUTS = {
    2: (0, 1, 0), 3: (0, 1, 0), 4: (0, 1, 0), 5: (0, 1, 0), 6: (0, 2, 20), 7: (0, 1, 0), 8: (0, 1, 0), 9: (0, 1, 0),
    12: (0, 1, 0), 14: (0, 2, 0), 15: (2, 1, 0), 17: (0, 2, 0), 18: (2, 1, 0), 21: (2, 1, 0), 24: (18, 1, _REST),
    26: (2, 2, 0), 30: (0, 1, _REST), 33: (6, 1, 0), 35: (4, 1, 0), 36: (2, 1, 0), 39: (0, 1, 0),
}  # fmt: skip
"""Types whose data may hold compressed names: octets before the names, how many names, octets after them."""
_COMPRESSED = frozenset({2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15})
_SIZES = {1: 4, 28: 16}

_DOT = 0x2E
_USUAL_OR_DOT = b"-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
_UNSAFE = b'."\\;()@$'  # means something to a zone file, outside quotes


class Rr(NamedTuple):
    """Where one record lies in its message."""

    owner: bytes
    """Wire name, lower case."""
    rtype: int
    rclass: int
    ttl: int
    """As sent."""
    ttl_at: int
    data_at: int
    end: int
    at: int


class Sections(NamedTuple):
    """The records of one message; ``additional`` includes OPT."""

    question_end: int
    answer: tuple[Rr, ...]
    authority: tuple[Rr, ...]
    additional: tuple[Rr, ...]


class Composed(NamedTuple):
    """The records of a message to be sent."""

    body: bytes
    """All that follows the question."""
    ttl_ats: tuple[int, ...]
    """Where in the message (its question begins at 12) each TTL lies."""


def read_name(wire: bytes, at: int) -> tuple[bytes, int]:
    """The wire name at ``at``, its case as sent, and where the message goes on after it.  Raises ``BadWire``."""
    name = b""
    start = floor = at
    after = -1
    jumps = 0
    try:
        while (length := wire[at]) != 0:
            if length < 64:
                at += 1 + length
                if at - start > _MAX_NAME:
                    raise BadWire("DNS name is too long")
            elif length >= 192:
                if after < 0:
                    after = at + 2
                name += wire[start:at]
                start = at = (length & 0x3F) << 8 | wire[at + 1]
                jumps += 1
                # Each jump goes below all that was read before it, so there is no way to go round.
                if not HEADER.size <= at < floor or jumps > _MAX_JUMPS:
                    raise BadWire("DNS name points forward, into the header or too often")
                floor = at
            else:
                raise BadWire("DNS label of an unknown kind")
    except IndexError:
        raise BadWire("DNS message ends within a name") from None
    at += 1
    name += wire[start:at]
    if len(name) > _MAX_NAME:
        raise BadWire("DNS name is too long")
    return name, after if after >= 0 else at


def walk(untrusted: bytes, *, most: int = _MAX_RECORDS) -> Sections:
    """Where the records, not more than ``most``, of a message with at most one question lie.

    Their data are not looked at, and octets after the last record not either.  Raises ``BadWire``.
    """
    untrusted = bytes(untrusted)
    try:
        _, _, questions, *counts = HEADER.unpack_from(untrusted)
        at = HEADER.size
        if questions == 1:
            at = read_name(untrusted, at)[1] + 4
        elif questions:
            raise BadWire(f"DNS message with {questions} questions")
        if sum(counts) > most:
            raise BadWire(f"DNS message claims {sum(counts)} records")
        question_end = at
        if at > len(untrusted):
            raise BadWire("DNS message ends too early")
        pointed: dict[bytes, bytes] = {}
        sections = []
        for count in counts:
            records = []
            for _ in range(count):
                begin = at
                # A record set repeats one pointer as its owner.
                pointer = untrusted[at : at + 2]
                if pointer in pointed:
                    owner, at = pointed[pointer], at + 2
                else:
                    name, at = read_name(untrusted, at)
                    owner = name.lower()
                    if pointer >= b"\xc0":
                        pointed[pointer] = owner
                rtype, rclass, ttl, length = _FIXED.unpack_from(untrusted, at)
                data_at = at + 10
                end = data_at + length
                if end > len(untrusted):
                    raise BadWire("DNS record runs over the end of its message")
                records.append(Rr(owner, rtype, rclass, ttl, at + 4, data_at, end, begin))
                at = end
            sections.append(tuple(records))
    except StructError:
        raise BadWire("DNS message ends too early") from None
    return Sections(question_end, sections[0], sections[1], sections[2])


def plain_data(wire: bytes, rr: Rr) -> bytes:
    """The data of a record of ``wire`` with every name in it written out, case as sent.

    Raises ``BadWire`` where the data cannot be what a type of fixed shape demands.
    """
    layout = _LAYOUTS.get(rr.rtype)
    if layout is None:
        if rr.end - rr.data_at != _SIZES.get(rr.rtype, rr.end - rr.data_at):
            raise BadWire("an address of a wrong length")
        return bytes(wire[rr.data_at : rr.end])
    before, names, after = layout
    at = rr.data_at + before
    if rr.rtype == _NAPTR:
        for _ in range(3):
            at += 1 + wire[at] if at < rr.end else 1
    if at >= rr.end:
        raise BadWire("DNS record of a wrong length")
    parts = [wire[rr.data_at : at]]
    for _ in range(names):
        name, at = read_name(wire, at)
        parts.append(name)
    if at > rr.end or (after != _REST and rr.end - at != after):
        raise BadWire("DNS record of a wrong length")
    parts.append(wire[at : rr.end])
    return b"".join(parts)


def name_wire(text: str) -> bytes:
    r"""The wire name, in lower case, of a zone file's name: ``\.`` and ``\DDD`` are understood, a last dot is free.

    ``""`` and ``"."`` are the root.  Raises ``BadWire``.
    """
    if text in ("", "."):
        return b"\0"
    try:
        octets = text.encode("ascii")
    except UnicodeEncodeError:
        raise BadWire(f"not a DNS name: {text[:80]!r}") from None
    labels = _unescaped(octets, text) if b"\\" in octets else octets.split(b".")
    if not labels[-1]:
        labels.pop()
    wire = b"".join([bytes((len(label),)) + label for label in labels if 0 < len(label) < 64]) + b"\0"
    if len(wire) != sum(map(len, labels)) + len(labels) + 1 or len(wire) > _MAX_NAME or b"" in labels:
        raise BadWire(f"not a DNS name: {text[:80]!r}")
    return wire.lower()


def _unescaped(octets: bytes, text: str) -> list[bytes]:
    labels = [bytearray()]
    at = 0
    while at < len(octets):
        octet = octets[at]
        at += 1
        if octet == 0x2E:
            labels.append(bytearray())
            continue
        if octet == 0x5C:
            digits = octets[at : at + 3]
            if digits[:1].isdigit():
                if len(digits) < 3 or not digits.isdigit() or int(digits) > 255:
                    raise BadWire(f"not a DNS name: {text[:80]!r}")
                octet, at = int(digits), at + 3
            elif digits:
                octet, at = digits[0], at + 1
            else:
                raise BadWire(f"not a DNS name: {text[:80]!r}")
        labels[-1].append(octet)
    return [bytes(label) for label in labels]


def name_text(wire_name: bytes) -> str:
    """A wire name as zone files write it: no last dot, ``""`` for the root, odd octets escaped."""
    dotted, at, count = bytearray(wire_name), 0, 0
    while (length := dotted[at]) != 0:
        dotted[at] = _DOT
        at += 1 + length
        count += 1
    # Nothing is left of the usual name, and that is told quickly.
    if not dotted[:at].translate(None, _USUAL_OR_DOT) and dotted.count(_DOT) == count:
        return dotted[1:at].decode("ascii")
    labels = []
    at = 0
    while (length := wire_name[at]) != 0:
        labels.append(escaped(wire_name[at + 1 : at + 1 + length], _UNSAFE, 0x21))
        at += 1 + length
    return ".".join(labels)


def escaped(octets: bytes, special: bytes, lowest: int) -> str:
    """``octets`` as zone-file text: those in ``special`` behind a backslash, those below ``lowest`` by number."""
    return "".join(
        "\\" + chr(octet) if octet in special else chr(octet) if lowest <= octet < 0x7F else f"\\{octet:03d}"
        for octet in octets
    )


def is_under(name: bytes, ancestor: bytes) -> bool:
    """Whether the wire name ``name`` is ``ancestor`` or below it; both in one case."""
    if not name.endswith(ancestor):
        return False
    at, start = 0, len(name) - len(ancestor)
    while at < start:
        at += 1 + name[at]
    return at == start


def compose(
    question: bytes, answer: Iterable[Record], authority: Iterable[Record] = (), additional: Iterable[Record] = ()
) -> Composed:
    """The records of a message that repeats ``question`` (wire name, type, class), names compressed.

    The records take the question's class (IN where it asks for any).  Names are compared with their case, so that
    data come back as they went in.
    """
    out = bytearray(HEADER.size) + question
    rclass = _WORD.unpack_from(question, len(question) - 2)[0]
    if rclass == _ANY_CLASS:
        rclass = _IN
    seen: dict[bytes, int] = {}
    _remember(seen, question[:-4], HEADER.size)
    ttl_ats = []
    for section in (answer, authority, additional):
        for owner, rtype, ttl, rdata in section:
            _put_name(out, owner, seen)
            ttl_ats.append(len(out) + 4)
            out += _RECORD_HEAD.pack(rtype, rclass, ttl)
            if rtype not in _COMPRESSED:
                out += _WORD.pack(len(rdata))
                out += rdata
                continue
            length_at = len(out)
            out += b"\0\0"
            before, names, _ = _LAYOUTS[rtype]
            at = before
            out += rdata[:at]
            for _ in range(names):
                end = read_name(rdata, at)[1]
                _put_name(out, rdata[at:end], seen)
                at = end
            out += rdata[at:]
            _WORD.pack_into(out, length_at, len(out) - length_at - 2)
    return Composed(bytes(memoryview(out)[HEADER.size + len(question) :]), tuple(ttl_ats))


def _put_name(out: bytearray, name: bytes, seen: dict[bytes, int]) -> None:
    pointer = seen.get(name)
    at = 0
    while pointer is None and name[at]:
        at += 1 + name[at]
        pointer = seen.get(name[at:])
    here = len(out)
    if pointer is None:
        out += name
        _remember(seen, name, here)
    else:
        out += name[:at]
        out += _WORD.pack(0xC000 | pointer)
        _remember(seen, name, here, at)


def _remember(seen: dict[bytes, int], name: bytes, here: int, stop: int = _MAX_NAME) -> None:
    """Every suffix of ``name``, written at ``here``, that begins before ``stop``; the root is not worth a pointer."""
    at = 0
    while at < stop and name[at] and here + at <= _MAX_POINTER:
        seen.setdefault(name[at:], here + at)
        at += 1 + name[at]
