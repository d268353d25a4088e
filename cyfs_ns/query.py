"""A client's question: strangers' bytes come in by one door, ``read_query``, which never raises.

Either it is a question we can look up, or the error reply is finished here, or silence is the right answer (a reply is
never replied to, or two servers could be made to talk for ever).  What the replies must look like: RFC 1035, RFC 6891
section 7 (an OPT for an OPT, BADVERS, FORMERR for two), RFC 8906 section 8 (an unknown opcode brings NOTIMP with no
question; unknown flags, options and types are no errors).
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from cyfs_ns import edns
from cyfs_ns.edns import Ecs, Edns
from cyfs_ns.errors import BadWire
from cyfs_ns.wire import HEADER, name_text, walk

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
"""Bits of the header's second word."""
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16

UDP_SIZE = 1232
"""What we offer to take over UDP: fits one unfragmented packet on any usual path (DNS flag day 2020)."""

_OPCODE = 0x7800
_TWO_WORDS = Struct("!2H")
_OPT_FIXED = Struct("!HHIH")
_UNASKABLE = {edns.OPT: FORMERR, 128: FORMERR, 249: FORMERR, 250: FORMERR} | {
    251: REFUSED, 252: REFUSED, 253: NOTIMP, 254: NOTIMP
}  # fmt: skip
"""Types that exist only within messages (OPT, NXNAME, TKEY, TSIG), zone transfers, and the mail types of RFC 883."""


_BARE_OPTS = {do: edns.build_opt(UDP_SIZE, do=do) for do in (False, True)}


class Query(NamedTuple):
    """One question of a client."""

    ident: int
    flags: int
    """The header's second word."""
    question: bytes
    """Wire name in the client's case, type and class."""
    name: bytes
    """Wire name in lower case."""
    rtype: int
    rclass: int
    edns: Edns | None
    size: int
    """Octets of the query."""

    @property
    def text(self) -> str:
        """The name without last dot."""
        return name_text(self.name)

    @property
    def key(self) -> tuple[bytes, int, int]:
        return self.name, self.rtype, self.rclass

    @property
    def rd(self) -> bool:
        return bool(self.flags & RD)

    @property
    def cd(self) -> bool:
        return bool(self.flags & CD)

    @property
    def ad(self) -> bool:
        """Whether the client understands AD in the reply (RFC 6840 section 5.7)."""
        return bool(self.flags & AD)

    @property
    def do(self) -> bool:
        return self.edns is not None and self.edns.do


def read_query(untrusted: bytes) -> Query | bytes | None:
    """The question, or the finished error reply, or ``None`` for silence.  Never raises."""
    untrusted = bytes(untrusted)
    size = len(untrusted)
    if size < HEADER.size:
        return None
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(untrusted)
    if flags & QR:
        return None
    if flags & _OPCODE:
        return _refusal(ident, flags, NOTIMP)
    if questions != 1 or answers or authorities:
        return _refusal(ident, flags, FORMERR)
    try:
        at = 12
        while (length := untrusted[at]) != 0:
            if length > 63:
                return _refusal(ident, flags, FORMERR)
            at += 1 + length
        at += 1
        rtype, rclass = _TWO_WORDS.unpack_from(untrusted, at)
        if at - 12 > 255:
            return _refusal(ident, flags, FORMERR)
    except (IndexError, StructError):
        return _refusal(ident, flags, FORMERR)
    name = untrusted[12:at].lower()
    at += 4
    question = untrusted[12:at]
    opt: Edns | None = None
    if additionals or at != size:
        try:
            opt = _read_additional(untrusted, at, additionals)
        except BadWire:
            return _refusal(ident, flags, FORMERR, question)
        except _BadEdns:
            return _refusal(ident, flags, FORMERR, question, edns.build_opt(UDP_SIZE))
        if opt is not None and opt.version:
            # RFC 6891 section 6.1.3: nothing but the header and an OPT of the version we know.
            return _refusal(ident, flags, BADVERS, question, edns.build_opt(UDP_SIZE, do=opt.do, rcode=BADVERS))
    if rtype in _UNASKABLE:
        return _refusal(
            ident, flags, _UNASKABLE[rtype], question, b"" if opt is None else edns.build_opt(UDP_SIZE, do=opt.do)
        )
    return Query(ident, flags, question, name, rtype, rclass, opt, size)


class _BadEdns(Exception):
    """An OPT is there, but not as it should be: the reply has one too (RFC 6891 section 6.1.1)."""


def _read_additional(wire: bytes, at: int, count: int) -> Edns | None:
    # The usual query ends with one bare OPT.
    if count == 1 and wire[at : at + 3] == b"\0\0\x29" and at + 11 <= len(wire):
        _, size, ttl, length = _OPT_FIXED.unpack_from(wire, at + 1)
        if at + 11 + length == len(wire):
            return _read_opt(size, ttl, wire[at + 11 :])
    additional = walk(wire).additional
    if (additional[-1].end if additional else at) != len(wire):
        raise BadWire("octets after the last record of a query")
    opts = [rr for rr in additional if rr.rtype == edns.OPT]
    if len(opts) > 1 or any(rr.owner != b"\0" for rr in opts):
        raise _BadEdns
    for rr in opts:
        return _read_opt(rr.rclass, rr.ttl, wire[rr.data_at : rr.end])
    return None


def _read_opt(size: int, ttl: int, data: bytes) -> Edns:
    if ttl >> 16 & 0xFF:
        # What the options of another version look like is not ours to judge.
        return edns.read_opt(size, ttl, b"")
    try:
        opt = edns.read_opt(size, ttl, data)
    except BadWire:
        raise _BadEdns from None
    if data and (ecs := opt.ecs) is not None and ecs.scope:
        raise _BadEdns  # RFC 7871 section 6: only a reply has a scope
    return opt


def _refusal(ident: int, flags: int, rcode: int, question: bytes = b"", opt: bytes = b"") -> bytes:
    kept = flags & (_OPCODE | RD | CD if question else _OPCODE | RD)
    counts = (1 if question else 0, 0, 0, 1 if opt else 0)
    return HEADER.pack(ident, QR | kept | rcode & 0xF, *counts) + question + opt


def build_upstream_query(
    name: bytes,
    rtype: int,
    rclass: int,
    ident: int,
    *,
    do: bool = False,
    cd: bool = False,
    ecs: Ecs | None = None,
    cookie: bytes | None = None,
    padding: int = 0,
    mixed_case: bytes | None = None,
) -> bytes:
    """A recursive query for the wire name ``name``.

    ``mixed_case`` is the same name as it shall be spelt (:func:`mix_case`); ``cookie`` the client's part, with the
    server's where known; ``padding`` the block of :data:`edns.QUERY_BLOCK`, 0 for none.  AD is always set: it asks
    for AD in the reply, and whether a client hears of it is decided when it is answered (RFC 6840 section 5.7).
    """
    head = HEADER.pack(ident, RD | AD | (CD if cd else 0), 1, 0, 0, 1) + (mixed_case or name)
    head += _TWO_WORDS.pack(rtype, rclass)
    if ecs is None and cookie is None and not padding:
        return head + _BARE_OPTS[do]
    options: list[tuple[int, bytes]] = []
    if ecs is not None:
        options.append((edns.ECS, ecs.wire()))
    if cookie is not None:
        options.append((edns.COOKIE, cookie))
    opt = edns.build_opt(UDP_SIZE, tuple(options), do=do)
    if padding:
        options.append(edns.padding(len(head) + len(opt), padding))
        opt = edns.build_opt(UDP_SIZE, tuple(options), do=do)
    return head + opt


def mix_case(name: bytes, dice: bytes) -> bytes:
    """``name`` with letters in upper case where ``dice``, as many random octets, says so (0x20)."""
    spelt = int.from_bytes(name)
    letters = spelt ^ int.from_bytes(name.upper())
    return (spelt ^ letters & int.from_bytes(dice)).to_bytes(len(name))
