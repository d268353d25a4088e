"""An answer, independent of who asked; and how it is dressed for the one who did.

``read_reply`` takes an upstream's message and keeps what answers the question: the aliases that lead from the asked
name, the records of the asked type at their end, and for "there is none" the SOA that says for how long (RFC 2308).
Everything else could only mislead or bloat: records of other names, name servers and their addresses, and records of
DNSSEC nobody asked for (RFC 4035 section 3.2.1).  What is kept is written anew, so nothing of an upstream's way to
compress names, and none of its slack octets, reaches a client.

The body is laid out as in a message whose question begins at 12.  Pointers into the question make the client's own
spelling of the name come back, as clients that mix cases expect.

Aliases that go round, or more than 16 of them, are ``BadWire``: the next server may know better.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from cyfs_ns import edns
from cyfs_ns.edns import Ecs
from cyfs_ns.errors import BadWire
from cyfs_ns.query import AA, AD, CD, NXDOMAIN, QR, RA, RD, SERVFAIL, TC, UDP_SIZE, Query
from cyfs_ns.wire import HEADER, Record, Rr, Sections, compose, is_under, plain_data, walk

MAX_TTL = 604800
"""Seconds: nothing is believed for longer than a week."""

CNAME, SOA, DNAME, RRSIG, NSEC, NSEC3, ANY = 5, 6, 39, 46, 47, 50, 255

_OPCODE = 0x7800
_TTL = Struct("!I")
_WORD = Struct("!H")
_TWO_WORDS = Struct("!2H")
_FOUR_WORDS = Struct("!4H")
_PLAIN = Struct("!3HIH")
_TO_QUESTION = 0xC00C
_MAX_ALIASES = 16
_MAX_EDES = 4
_DNSSEC = frozenset({RRSIG, NSEC, NSEC3})
_IN = 1
_ADDRESSES = {1: 4, 28: 16}  # octets of A and AAAA
_MOST_PLAIN = 256
_OPT_HEAD = b"\0" + _WORD.pack(edns.OPT)
_META = frozenset({edns.OPT, *range(128, 256)})
"""Types that live in messages only, never in a zone (RFC 6895 section 3.1)."""


class Reply(NamedTuple):
    """What is known about a question."""

    question: bytes
    """Wire name in lower case, type and class."""
    body: bytes
    """All records, laid out as in a message whose question begins at 12; no OPT."""
    flags: int
    """AA, RA and AD only."""
    rcode: int
    """All twelve bits."""
    counts: tuple[int, int, int]
    """Answer, authority and additional records."""
    ttl_ats: tuple[int, ...]
    """Where in the message each TTL lies."""
    ttl: int
    """For how many seconds it may be kept; 0: not at all."""
    ede: tuple[tuple[int, str], ...] = ()
    """Extended errors (RFC 8914): code and text."""
    ecs_scope: int | None = None
    """For how many bits of the told client subnet it holds; ``None``: the server said nothing of it."""
    truncated: bool = False
    """The server had more to say: ask again over a stream.  Then there are no records."""


class Shape(NamedTuple):
    """What of a query and of its door decides the octets of a reply, beside the reply itself."""

    limit: int
    """Octets the whole message may have."""
    rd: bool = True
    cd: bool = False
    ad: bool = False
    """Whether AD means something to the client."""
    edns: bool = False
    do: bool = False
    cookie: bytes = b""
    """Client's and server's cookie, to be given back; empty: none."""
    pad: int = 0
    """Pad to a multiple of this; 0: not at all."""
    keepalive: int | None = None
    """How long an idle connection is kept, in tenths of a second (RFC 7828); streams only."""
    ecs: Ecs | None = None
    """The client's subnet, to be given back with the scope of the reply (RFC 7871 section 7.2.2); ``None``: it told
    none, or we do not go by it."""


def shape_of(
    query: Query,
    *,
    limit: int | None = None,
    cookie: bytes = b"",
    pad: bool = False,
    keepalive: int | None = None,
    ecs: bool = False,
) -> Shape:
    """The shape ``query`` asks for.

    ``limit`` is the largest datagram we send, ``None`` on streams.  ``pad`` on encrypted doors: done only for clients
    that pad, too (RFC 7830 section 4); ``keepalive`` likewise is told only to those that ask (RFC 7828 section 3.3.2),
    and with ``ecs``, client subnets to those that told theirs.
    """
    opt = query.edns
    if opt is None:
        flags = query.flags
        return Shape(512 if limit is not None else 0xFFFF, bool(flags & RD), bool(flags & CD), bool(flags & AD))
    return Shape(
        0xFFFF if limit is None else min(max(512, opt.size), limit),
        query.rd,
        query.cd,
        query.ad or opt.do,
        True,
        opt.do,
        cookie,
        edns.REPLY_BLOCK if pad and opt.option(edns.PADDING) is not None else 0,
        keepalive if opt.option(edns.KEEPALIVE) is not None else None,
        opt.ecs if ecs and opt.options else None,
    )


def read_reply(
    untrusted: bytes,
    query_name: bytes,
    rtype: int,
    rclass: int,
    ident: int,
    *,
    do: bool = False,
    exact_case: bytes | None = None,
) -> Reply:
    """The reply to a query for the wire name ``query_name`` (lower case), or ``BadWire``: broken, or not its reply.

    ``exact_case`` is the name as it was sent, when it must come back so.  Records of DNSSEC are kept if ``do``.
    """
    untrusted = bytes(untrusted)
    try:
        got, flags, questions, answers, authorities, additionals = HEADER.unpack_from(untrusted)
    except StructError:
        raise BadWire("DNS message ends too early") from None
    if got != ident or not flags & QR or flags & _OPCODE:
        raise BadWire("not a reply to this DNS query")
    question = query_name + _TWO_WORDS.pack(rtype, rclass)
    rcode = flags & 0xF
    kept_flags = RA | flags & AD
    if questions != 1:
        # A server that could not read ours may leave the question out.
        if questions or rcode == 0 or answers or authorities:
            raise BadWire(f"DNS reply repeats {questions} questions")
        return Reply(question=question, body=b"", flags=RA, rcode=rcode, counts=(0, 0, 0), ttl_ats=(), ttl=0)
    name_end = 12 + len(query_name)
    came_back = untrusted[12:name_end]
    if came_back.lower() != query_name or untrusted[name_end : name_end + 4] != question[-4:]:
        raise BadWire("DNS reply is to another question")
    if exact_case is not None and came_back != exact_case:
        raise BadWire("DNS reply spells the name in another case")
    if came_back != query_name:
        # Names that point into the question must not come out in the spelling that only guards against forgers.
        untrusted = untrusted[:12] + query_name + untrusted[name_end:]
    if flags & TC:
        # Servers cut where they please.
        return Reply(
            question=question, body=b"", flags=kept_flags, rcode=rcode, counts=(0, 0, 0), ttl_ats=(), ttl=0,
            truncated=True,
        )  # fmt: skip
    if not rcode and answers and not authorities and rclass == _IN:
        plain = _plain_addresses(untrusted, name_end + 4, rtype, answers, additionals)
        if plain is not None:
            end, ttl_ats, ttl = plain
            return Reply(
                question=question, body=untrusted[name_end + 4 : end], flags=kept_flags, rcode=0,
                counts=(answers, 0, 0), ttl_ats=ttl_ats, ttl=ttl,
            )  # fmt: skip
    sections = walk(untrusted)
    ede: tuple[tuple[int, str], ...] = ()
    scope = None
    if additionals:
        opts = [rr for rr in sections.additional if rr.rtype == edns.OPT]
        if len(opts) > 1:
            raise BadWire("DNS reply with two OPT records")
        for rr in opts:
            rcode |= rr.ttl >> 24 << 4
            if rr.end > rr.data_at:
                opt = edns.read_opt(rr.rclass, rr.ttl, untrusted[rr.data_at : rr.end])
                ede = tuple(edns.read_ede(data) for code, data in opt.options if code == edns.EDE)[:_MAX_EDES]
                scope = None if opt.ecs is None else opt.ecs.scope
    answer, authority, ttl = _kept(untrusted, sections, query_name, rtype, rclass, rcode, do)
    body, ttl_ats = compose(question, answer, authority)
    return Reply(
        question=question,
        body=body,
        flags=kept_flags,
        rcode=rcode,
        counts=(len(answer), len(authority), 0),
        ttl_ats=ttl_ats,
        ttl=ttl,
        ede=ede,
        ecs_scope=scope,
    )


def _plain_addresses(
    wire: bytes, at: int, rtype: int, count: int, additionals: int
) -> tuple[int, tuple[int, ...], int] | None:
    """The usual answer: ``count`` addresses of the very name, from ``at`` on, and at most an OPT that says nothing.

    Such records would be written anew as they are.  Where they end, where their TTLs lie, and the lowest of those;
    ``None``: it is something else.
    """
    size = _ADDRESSES.get(rtype)
    if size is None or at < 18 or count > _MOST_PLAIN:
        return None
    ttl_ats, lowest, seen = [], MAX_TTL, set()
    if at + count * (_PLAIN.size + size) > len(wire):
        return None
    for _ in range(count):
        pointer, kind, rclass, ttl, length = _PLAIN.unpack_from(wire, at)
        if pointer != _TO_QUESTION or kind != rtype or rclass != _IN or length != size or ttl > MAX_TTL:
            return None
        if ttl < lowest:
            lowest = ttl
        ttl_ats.append(at + 6)
        end = at + _PLAIN.size + size
        seen.add(wire[at + _PLAIN.size : end])
        at = end
    silent = wire[at : at + 3] == _OPT_HEAD and wire[at + 5 : at + 6] == b"\0" and wire[at + 9 : at + 11] == b"\0\0"
    if len(seen) < count or not (additionals == 0 or (additionals == 1 and silent)):
        return None
    return at, tuple(ttl_ats), lowest


def _kept(
    wire: bytes, sections: Sections, name: bytes, rtype: int, rclass: int, rcode: int, do: bool
) -> tuple[list[Record], list[Record], int]:
    """What of an upstream's records answers the question, and for how many seconds."""
    answers = [rr for rr in sections.answer if rclass in (rr.rclass, ANY) and rr.rtype not in _META]
    authorities = [rr for rr in sections.authority if rclass in (rr.rclass, ANY)]
    aliases: dict[bytes, bytes] = {}
    if rtype not in (CNAME, ANY):
        for rr in answers:
            if rr.rtype == CNAME:
                aliases.setdefault(rr.owner, plain_data(wire, rr).lower())
    chain = [name]
    while (target := aliases.get(chain[-1])) is not None:
        if target in chain or len(chain) > _MAX_ALIASES:
            raise BadWire("DNS aliases lead round")
        chain.append(target)
    end = chain[-1]
    # A dict, because some servers repeat records (RFC 2181 section 5).
    answer: dict[Record, None] = {}
    positive = False
    for rr in answers:
        kind, owner = rr.rtype, rr.owner
        if owner == end and rtype in (kind, ANY):
            positive = True
        elif kind == CNAME and owner in chain:
            if plain_data(wire, rr).lower() != aliases[owner]:
                continue
        elif kind == RRSIG:
            if not do or owner not in chain:
                continue
        elif kind != DNAME or not any(is_under(link, owner) and link != owner for link in chain):
            continue
        answer[_record(wire, rr)] = None
    ttl = min([record[2] for record in answer], default=MAX_TTL)
    authority: list[Record] = []
    told = 0
    for rr in authorities:
        if rr.rtype == SOA:
            if positive or not any(is_under(link, rr.owner) for link in chain):
                continue
            record = _record(wire, rr)
            told = min(record[2], _TTL.unpack_from(record[3], len(record[3]) - 4)[0])
        elif do and rr.rtype in _DNSSEC:
            record = _record(wire, rr)
        else:
            continue
        authority.append(record)
    if rcode not in (0, NXDOMAIN):
        return list(answer), authority, 0
    return list(answer), authority, ttl if positive and not rcode else min(ttl, told)


def _record(wire: bytes, rr: Rr) -> Record:
    # RFC 2181 section 8: a TTL with the top bit set means nought.
    return rr.owner, rr.rtype, min(rr.ttl, MAX_TTL) if rr.ttl < 1 << 31 else 0, plain_data(wire, rr)


def make_reply(
    query_question: bytes,
    *,
    rcode: int = 0,
    aa: bool = False,
    ra: bool = True,
    answer: Iterable[Record] = (),
    authority: Iterable[Record] = (),
    additional: Iterable[Record] = (),
    ede: tuple[tuple[int, str], ...] = (),
) -> Reply:
    """An answer of our own to a question (wire name in any case, type, class)."""
    question = query_question[:-4].lower() + query_question[-4:]
    reply = Reply(
        question=question, body=b"", flags=(AA if aa else 0) | (RA if ra else 0), rcode=rcode, counts=(0, 0, 0),
        ttl_ats=(), ttl=0, ede=ede,
    )  # fmt: skip
    return rewritten(reply, answer=answer, authority=authority, additional=additional)


def rewritten(
    reply: Reply,
    *,
    answer: Iterable[Record] | None = None,
    authority: Iterable[Record] | None = None,
    additional: Iterable[Record] | None = None,
) -> Reply:
    """The same reply with other records in the sections given; ``ttl`` follows."""
    parts = [
        [*(records(reply, section) if new is None else new)]
        for section, new in enumerate((answer, authority, additional))
    ]
    body, ttl_ats = compose(reply.question, *parts)
    return reply._replace(
        body=body,
        ttl_ats=ttl_ats,
        counts=(len(parts[0]), len(parts[1]), len(parts[2])),
        ttl=_ttl(reply, parts[0], parts[1]),
    )


def _ttl(reply: Reply, answer: list[Record], authority: list[Record]) -> int:
    if reply.rcode not in (0, NXDOMAIN):
        return 0
    rtype = int.from_bytes(reply.question[-4:-2])
    ttl = min((record[2] for record in answer), default=MAX_TTL)
    if not reply.rcode and any(record[1] == rtype or rtype == ANY for record in answer):
        return ttl
    soas = [record for record in authority if record[1] == SOA]
    return min([ttl, *(min(soa[2], _TTL.unpack_from(soa[3], len(soa[3]) - 4)[0]) for soa in soas)]) if soas else 0


def records(reply: Reply, section: int) -> Iterator[Record]:
    """The records of the answer (0), authority (1) or additional (2) section, data with names written out."""
    message = _bare(reply)
    for rr in walk(message, most=sum(reply.counts))[1:][section]:
        yield rr.owner, rr.rtype, rr.ttl, plain_data(message, rr)


def ttls(reply: Reply) -> list[int]:
    """The TTL of every record, in their order."""
    start = HEADER.size + len(reply.question)
    return [_TTL.unpack_from(reply.body, at - start)[0] for at in reply.ttl_ats]


def with_ttls(reply: Reply, low: int, high: int) -> Reply:
    """The same reply with every TTL, and the time it may be kept if it may be, brought between ``low`` and ``high``."""
    start = HEADER.size + len(reply.question)
    body = bytearray(reply.body)
    for at in reply.ttl_ats:
        _TTL.pack_into(body, at - start, min(max(_TTL.unpack_from(body, at - start)[0], low), high))
    return reply._replace(body=bytes(body), ttl=min(max(reply.ttl, low), high) if reply.ttl else 0)


def render(reply: Reply, query: Query, shape: Shape, age: int = 0, *, ttl_min: int | None = None) -> bytearray:
    """The whole message for one client: its id and spelling, RD and CD copied, TTLs less ``age`` seconds, OPT last.

    No TTL falls below ``ttl_min`` (30 for stale answers, RFC 8767 section 4).  Over ``shape.limit`` the additional
    section goes first; then TC is set and nothing but the question and OPT is left (RFC 2181 section 9).
    """
    an, ns, ar = reply.counts
    rcode = reply.rcode
    flags = reply.flags | QR
    if shape.rd:
        flags |= RD
    if shape.cd:
        flags |= CD
    if not shape.ad:
        flags &= ~AD
    if rcode > 15 and not shape.edns:
        rcode = SERVFAIL
    opt = _opt(reply, shape, rcode) if shape.edns else b""
    out = bytearray(HEADER.pack(query.ident, flags | rcode & 0xF, 1, an, ns, ar + 1 if opt else ar))
    out += query.question
    out += reply.body
    if len(out) + len(opt) > shape.limit:
        opt = _shorten(out, opt, reply, shape, rcode)
    if age or ttl_min:
        floor = ttl_min or 0
        for at in reply.ttl_ats:
            if at >= len(out):
                break
            ttl = _TTL.unpack_from(out, at)[0] - age
            _TTL.pack_into(out, at, ttl if ttl > floor else floor)
    if shape.pad and len(out) + len(opt) + 4 <= shape.limit:
        pad = edns.padding(len(out) + len(opt), shape.pad, shape.limit)
        opt = _opt(reply, shape, rcode, pad)
    out += opt
    return out


def _opt(reply: Reply, shape: Shape, rcode: int, *more: tuple[int, bytes]) -> bytes:
    ecs = shape.ecs
    if not (reply.ede or more or shape.cookie or shape.keepalive is not None or ecs is not None):
        return edns.build_opt(UDP_SIZE, (), do=shape.do, rcode=rcode)
    options = [edns.build_ede(*error) for error in reply.ede]
    if ecs is not None:
        # Who tells nothing of itself hears an answer for everybody (RFC 7871 section 7.1.2).
        scope = reply.ecs_scope or 0 if ecs.source else 0
        options.append((edns.ECS, Ecs(ecs.family, ecs.source, scope, ecs.prefix).wire()))
    if shape.cookie:
        options.append((edns.COOKIE, shape.cookie))
    if shape.keepalive is not None:
        options.append((edns.KEEPALIVE, shape.keepalive.to_bytes(2)))
    return edns.build_opt(UDP_SIZE, (*options, *more), do=shape.do, rcode=rcode)


def _shorten(out: bytearray, opt: bytes, reply: Reply, shape: Shape, rcode: int) -> bytes:
    """Bring a message without its OPT to the size that fits beside one, and return that OPT."""
    after_opt = 1 if opt else 0
    if reply.counts[2]:
        begin = walk(_bare(reply), most=sum(reply.counts)).additional[0].at
        if begin + len(opt) <= shape.limit:
            del out[begin:]
            _WORD.pack_into(out, 10, after_opt)
            return opt
    del out[HEADER.size + len(reply.question) :]
    out[2] |= TC >> 8
    out[4:12] = _FOUR_WORDS.pack(1, 0, 0, after_opt)
    # Explanations give way before the question does.
    return _opt(reply._replace(ede=()), shape, rcode) if len(out) + len(opt) > shape.limit else opt


def _bare(reply: Reply) -> bytes:
    return HEADER.pack(0, 0, 1, *reply.counts) + reply.question + reply.body
