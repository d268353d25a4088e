"""What the DNS says of identities: which questions are about one, and how what is known of it reads as records.

Names below ``.eth`` and ``.did`` always are; such names are no part of the public DNS and never asked there.  A name of
a zone that is pinned on this machine, or of one of its devices, is one too, and what its documents leave open is left
to the DNS.  Of a zone none of whose documents is heard the DNS alone speaks, and its answers are marked; once something
is heard of it that its pin refuses, nobody does.  Before any of them may stand ``_did``, ``_dnslink`` and ``_ens``
(``cyfs_ns/ens/records.py``), and ``_trust`` for the evidence in words.

Every answer says by an extended error (RFC 8914) how sure it is, and a refusal why:

====================  ========  =================================================
there is a record     NOERROR   0 *trust=LEVEL: …*; when stale 3 too
there is none         NOERROR   0 *trust=LEVEL: …*, and an SOA
no such name          NXDOMAIN  0
its owner ended it    NXDOMAIN  0
nobody to ask         NXDOMAIN  0, with what to write into the configuration
nobody could be asked SERVFAIL  22, and 23 with what went wrong
refused by a pin      SERVFAIL  24 (invalid data): which document, which rule
not sure enough       SERVFAIL  0
two truths            SERVFAIL  0
left to the DNS       as there  0 *trust=plain-dns: …* if no document was heard; no AD
====================  ========  =================================================

A TTL lasts no longer than the first of the facts below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cyfs_ns.blockanswer import negative_soa
from cyfs_ns.clock import is_unset, why_unset
from cyfs_ns.ens.records import (
    DnsRecord,
    Holdings,
    did_records,
    dns_records,
    dnslink_records,
    ens_records,
    holdings,
)
from cyfs_ns.errors import BadWire, CyfsError
from cyfs_ns.identity.did import Bridges, Did, did_of_host
from cyfs_ns.identity.txt import txt_record
from cyfs_ns.message import AAAA, CNAME, TXT, A
from cyfs_ns.printable import printable
from cyfs_ns.query import NOERROR, NXDOMAIN, SERVFAIL
from cyfs_ns.records import HTTPS, SVCB, txt_data
from cyfs_ns.reply import MAX_TTL, Reply, make_reply
from cyfs_ns.special import IDENTITY_DOMAINS
from cyfs_ns.trust.evidence import IDENTITY, Claim, Kind, Refusal
from cyfs_ns.trust.level import Purpose, Trust
from cyfs_ns.trust.outcome import Absent, Conflicted, Found, Outcome, Refused, Revoked, TooWeak
from cyfs_ns.trust.plan import Ask, Privacy
from cyfs_ns.trust.printed import outcome_lines
from cyfs_ns.trust.webservice import https_data, split_port

MOST_TTL = 3600
"""Seconds: the highest TTL told."""

_OTHER, _STALE, _NO_AUTHORITY, _NETWORK, _INVALID = 0, 3, 22, 23, 24  # extended errors
_STALE_TTL = 30
_NEGATIVE_TTL = 60
_REFUSED_TTL = 30
_MOST_TOLD = 118  # characters of an extended error
_MOST_LINES = 24
_MOST_REFUSED = 3
_PATIENCE = 2.0
"""Seconds; whoever asks a name server waits for five, and the DNS may have to be asked behind it."""
_SIDES = {"_trust": "trust", "_did": "did", "_dnslink": "dnslink", "_ens": "ens"}
_WEB = "https"
"""The side of a name that is a port's: ``_8443._https``."""
_BESIDE_ADDRESSES = {"": (A, AAAA, HTTPS, SVCB), _WEB: (HTTPS, SVCB)}
"""Of each side: whoever says where the host is, says these too."""
_EVERYTHING: frozenset[Kind] = IDENTITY | {"address", "record"}
_PLAIN = str.maketrans({"├": "|", "└": "`", "─": "-", "│": "|", "↑": "^", "…": "~"})
"""The lines of a tree, in characters that tools for DNS show as they are."""
_MARKS = (b"BOOT=", b"PKX=", b"DEV=", b"DID=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Whom this machine knows: ``hosts`` are the names of pinned zones and devices, lower case; ``keys`` maps the form
    of a key in a host name, in lower case, to its identity."""

    hosts: Mapping[str, Did] = field(default_factory=dict)
    keys: Mapping[str, Did] = field(default_factory=dict)
    bridges: Bridges = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Whom a name is about, and what of them stands there: ``side`` is empty, or what ``_trust`` and its like ask."""

    subject: Did
    host: str
    """The name without its side, lower case."""
    side: str = ""
    port: int | None = None
    pinned: bool = False
    """A name of the public DNS; what is not said of it here is said there."""
    spelled: bool = False
    """Whether another spelling of the name would be somebody else."""

    def ask(self, reach: Trust) -> Ask:
        """The question to be resolved; ``reach`` is the best level at which anybody can be asked."""
        if self.pinned:
            least = Trust.NONE if self.side == "trust" else Trust.KEY_PROVEN
            return Ask(
                subject=self.subject,
                kinds=IDENTITY | {"address"},
                least=least,
                enough=Trust.OWNER_SIGNED,
                stale=True,
                # Most names of a zone are nobody's: their hosts are not called for each, and not waited for.
                privacy=Privacy.RESOLVER,
                patience=_PATIENCE,
            )
        # Whoever names fewer nodes than make a quorum has decided to believe them.
        least = min(Purpose.CHAIN.least, reach) if self.subject.method == "ens" else Purpose.DIAL.least
        return Ask(
            subject=self.subject,
            kinds=_EVERYTHING,
            least=Trust.NONE if self.side == "trust" else least,
            enough=Trust.OWNER_SIGNED,
            stale=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """What a zone publishes of itself in TXT records: the owner's ``key`` (x) and tokens, in force up to ``until``
    (seconds since 1970); an empty text is none.  ``trust`` is that of the weakest: *owner-signed* ones are current."""

    key: str = ""
    boot: str = ""
    devices: tuple[str, ...] = ()
    until: float
    trust: Trust = Trust.HOST_SNAPSHOT

    @property
    def data(self) -> tuple[bytes, ...]:
        """As TXT data, in the forerunner's form."""
        said = [("BOOT", self.boot), ("PKX", self.key), *(("DEV", token) for token in self.devices)]
        return tuple(txt_data(txt_record(mark, value).encode()) for mark, value in said if value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An answer.  The TTLs in ``reply`` are all that is left of the facts; no more than ``most`` may be told."""

    reply: Reply
    why: str
    trust: Trust
    left: int = 0
    """Seconds for which the same may be said again; 0: not at all."""
    most: int = MOST_TTL
    alias: bytes | None = None
    """The wire name where the way leads on, behind the one CNAME in ``reply``."""
    beside: bool = False
    """Whether TXT records that the DNS has of the name stand beside ours."""
    by_dns: bool = False
    """Whether what the DNS says is told instead of ``reply``, with its extended errors, and without AD."""


def is_ours(name: str) -> bool:
    """Whether a canonical name can only be answered here."""
    return name.rpartition(".")[2] in IDENTITY_DOMAINS


def read_place(written: str, known: Known) -> Place | None:
    """Whom the name ``written``, in the client's spelling, is about; None: nobody in particular.

    Raises ``BadWire`` for a name of ours that stands for nobody.
    """
    side, port, bare = split_side(written)
    host = bare.lower()
    if is_ours(host):
        key = _known_key(host, known)
        subject = did_of_host(bare, known.bridges) if key is None else key
        if subject.method == "web" and is_ours(subject.id):
            raise BadWire(f"{host}: the DNS, where did:web stands, has no such names")
        spelled = key is None and host.endswith(".dev.did") and len(host) == 43 + len(".dev.did")
        return Place(subject=subject, host=host, side=side, port=port, spelled=spelled)
    subject_or_none = known.hosts.get(host)
    if subject_or_none is None:
        label, _, above = host.partition(".")
        zone = known.hosts.get(above)
        if zone is None or label.startswith("_"):
            return None
        subject_or_none = Did(zone.method, f"{label}.{zone.id}")
    return Place(subject=subject_or_none, host=host, side=side, port=port, pinned=True)


def split_side(name: str) -> tuple[str, int | None, str]:
    """What is asked of a name, the port if it is asked of one, and the name itself."""
    first, _, rest = name.partition(".")
    if side := _SIDES.get(first.lower()):
        return side, None, rest
    port, host = split_port(name)
    return ("" if port is None else _WEB), port, host


def show(
    place: Place,
    question: bytes,
    outcome: Outcome,
    now: float,
    *,
    documents: Documents | None = None,
    reach: Trust = Trust.OWNER_SIGNED,
) -> Shown | None:
    """The answer to ``question`` (wire name, type, class) by ``outcome``, at ``now`` in seconds since 1970.

    ``documents`` are to be published at the place; ``reach`` is as for :meth:`Place.ask`.  None: nothing is known that
    the DNS could not say as well.
    """
    rtype = int.from_bytes(question[-4:-2])
    if place.side == "trust":
        return _told(question, rtype, outcome, now)
    if isinstance(outcome, Conflicted):
        return _refused(question, SERVFAIL, outcome.why, outcome.sides[0].trust)
    if isinstance(outcome, Revoked):
        return _refused(question, NXDOMAIN, outcome.why, outcome.evidence.trust)
    if documents is not None and rtype == TXT and not place.side:
        return _published(question, documents, outcome, now)
    if isinstance(outcome, Refused):
        return _invalid(question, outcome.why, outcome.refused)
    if isinstance(outcome, Found):
        return _found(place, question, rtype, outcome, now)
    if place.pinned:
        return None if outcome.heard else _left_to_dns(question, place.subject, now)
    if isinstance(outcome, TooWeak):
        return _refused(question, SERVFAIL, outcome.why, max(claim.trust for claim in outcome.found))
    if isinstance(outcome, Absent):
        left = _left(outcome.until, now, _NEGATIVE_TTL)
        trust = outcome.evidence.trust
        return _empty(question, NXDOMAIN, left, trust, f"trust={trust}: {outcome.why}")
    if reach == Trust.NONE:
        return _refused(question, NXDOMAIN, _how_to(place.subject), Trust.NONE)
    ede = ((_NO_AUTHORITY, _cut(outcome.why)), *((_NETWORK, _cut(fault)) for fault in outcome.faults[:1]))
    return Shown(reply=make_reply(question, rcode=SERVFAIL, ede=ede), why=outcome.why, trust=Trust.NONE)


def nobodys(question: bytes, fault: CyfsError) -> Shown:
    """The answer about a name of ours that stands for nobody, or that nobody can be asked about, by ``fault``."""
    return _refused(question, NXDOMAIN, str(fault), Trust.NONE)


def is_published(data: bytes) -> bool:
    """Whether TXT data is of the kind that :class:`Documents` has."""
    return data[1:].startswith(_MARKS)


def strongest(claims: Iterable[Claim]) -> list[Claim]:
    """Those of the highest level: an address somebody signed is not to stand beside one that somebody said."""
    found = list(claims)
    best = max((claim.trust for claim in found), default=Trust.NONE)
    return [claim for claim in found if claim.trust == best]


def _known_key(host: str, known: Known) -> Did | None:
    label, _, rest = host.partition(".")
    return known.keys.get(label) if rest == "dev.did" else None


def _published(question: bytes, documents: Documents, outcome: Outcome, now: float) -> Shown:
    told = list(outcome.of("document")) if isinstance(outcome, Found) else []
    # Whoever hears them from us must not take them for the owner's word of this moment when they are not.
    trust = documents.trust
    mark = f"trust={trust}: {told[0].evidence.what if told else 'published from the documents of this machine'}"
    left = _left(documents.until, now, MAX_TTL)
    answer = [(question[:-4].lower(), TXT, left, data) for data in documents.data]
    reply = make_reply(question, answer=answer, ede=((_OTHER, _cut(mark)),))
    return Shown(reply=reply, why=mark, trust=trust, left=left, beside=True)


def _found(place: Place, question: bytes, rtype: int, found: Found, now: float) -> Shown | None:
    left = _STALE_TTL if found.stale else _left(found.until, now, MAX_TTL)
    addresses = strongest(found.of("address"))
    beside = addresses and rtype in _BESIDE_ADDRESSES.get(place.side, ())
    used = addresses if beside else [*found.of("content"), *found.of("text")]
    used = used or [claim for claim in found.claims if claim.about == found.subject]
    trust = min((claim.trust for claim in used), default=found.trust)
    try:
        held = replace(holdings(found), addresses=tuple(dict.fromkeys(str(claim.value) for claim in addresses)))
        records = _records(place, rtype, held, left) or _web_record(place, rtype, found, held, left)
        aliases = () if records or place.side else dns_records(place.host, CNAME, held, ttl=left)
    except BadWire as bad:
        return _refused(question, SERVFAIL, f"{found.subject} holds what cannot be read: {bad}", trust)
    owner = question[:-4].lower()
    said = [(record.rtype, record.data) for record in (records or aliases)]
    mark = f"trust={trust}: {_by(used, found)}"
    ede = ((_OTHER, _cut(mark)), *(((_STALE, ""),) if found.stale else ()))
    if not said:
        if found.refused:
            return _invalid(question, f"{found.subject}: {found.refused[0].why}", found.refused)
        if place.pinned and not found.heard:
            return _left_to_dns(question, place.subject, now)
        if place.pinned and not beside:
            return None
        return _empty(question, NOERROR, left, trust, mark, ede)
    # A record that a name holds with a lifetime of its own keeps it.
    most = min([MOST_TTL, *(record.ttl for record in records if rtype in held.wire)])
    return Shown(
        reply=make_reply(question, answer=[(owner, kind, left, data) for kind, data in said], ede=ede),
        why=mark,
        trust=trust,
        left=0 if found.stale else left,
        most=most,
        alias=aliases[0].data.lower() if aliases and rtype != CNAME else None,
    )


def _records(place: Place, rtype: int, held: Holdings, ttl: int) -> tuple[DnsRecord, ...]:
    owner = f"_{place.side}.{place.host}"
    if place.side == _WEB:
        return ()
    if place.side == "did":
        named = held.did or ("" if place.subject.method == "ens" else str(place.subject))
        records = did_records(owner, replace(held, did=named), ttl=ttl)
    elif place.side == "dnslink":
        records = dnslink_records(owner, held, ttl=ttl)
    elif place.side == "ens":
        records = ens_records(owner, held, ttl=ttl)
    else:
        records = dns_records(place.host, rtype, held, ttl=ttl)
    return tuple(record for record in records if record.rtype == rtype)


def _web_record(place: Place, rtype: int, found: Found, held: Holdings, ttl: int) -> tuple[DnsRecord, ...]:
    if rtype != HTTPS or place.side not in ("", _WEB):
        return ()
    data = https_data(place.host, place.port, found, held.addresses)
    return () if data is None else (DnsRecord(place.host, HTTPS, ttl, data),)


def _told(question: bytes, rtype: int, outcome: Outcome, now: float) -> Shown:
    """The evidence in words: one record, whose strings are its lines in order."""
    lines = [line.translate(_PLAIN) for line in outcome_lines(outcome, now)]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES - 1 :] = [f"and {len(lines) - _MOST_LINES + 1} lines more"]
    trust = outcome.trust if isinstance(outcome, Found) else Trust.NONE
    if rtype != TXT:
        return _empty(question, NOERROR, _REFUSED_TTL, trust, outcome.why, ())
    data = b"".join(bytes((len(octets),)) + octets for line in lines for octets in (_octets(line),))
    answer = [(question[:-4].lower(), TXT, _REFUSED_TTL, data)]
    return Shown(reply=make_reply(question, answer=answer), why=outcome.why, trust=trust)


def _octets(line: str) -> bytes:
    octets = line.encode()
    return octets if len(octets) < 256 else octets[:254].decode(errors="ignore").encode() + b"~"


def _empty(
    question: bytes, rcode: int, left: int, trust: Trust, why: str, ede: tuple[tuple[int, str], ...] | None = None
) -> Shown:
    ede = ((_OTHER, _cut(why)),) if ede is None else ede
    soa = negative_soa(question, min(left, MOST_TTL))
    reply = make_reply(question, rcode=rcode, authority=[(*soa[:2], left, soa[3])], ede=ede)
    return Shown(reply=reply, why=why, trust=trust, left=left)


def _refused(question: bytes, rcode: int, why: str, trust: Trust) -> Shown:
    soa = [negative_soa(question, _REFUSED_TTL)] if rcode == NXDOMAIN else []
    return Shown(
        reply=make_reply(question, rcode=rcode, authority=soa, ede=((_OTHER, _cut(why)),)), why=why, trust=trust
    )


def _invalid(question: bytes, why: str, refused: Sequence[Refusal]) -> Shown:
    """What was heard goes against a pin.  The DNS would say it as well, so it is not asked instead."""
    told = [_cut(said.why) for said in refused[:_MOST_REFUSED]] or [_cut(why)]
    reply = make_reply(question, rcode=SERVFAIL, ede=tuple((_INVALID, text) for text in told))
    return Shown(reply=reply, why=why, trust=Trust.NONE)


def _left_to_dns(question: bytes, subject: Did, now: float) -> Shown:
    trust = Trust.PLAIN_DNS
    why = f"trust={trust}: {why_unset(now) if is_unset(now) else f'no document of {subject} is heard'}"
    return Shown(reply=make_reply(question, ede=((_OTHER, _cut(why)),)), why=why, trust=trust, by_dns=True)


def _how_to(subject: Did) -> str:
    if subject.method == "ens":
        return "no Ethereum node is configured: identity/ens/rpc switches .eth names on"
    return (
        f"nobody here knows did:{subject.method}: identity/bridges or identity/resolvers says where it can be asked for"
    )


def _by(used: Sequence[Claim], found: Found) -> str:
    """On what the answer stands, in a sentence: the document that says it, or who else did."""
    if not used:
        return found.why
    fact = used[0].evidence
    told = [claim.evidence for claim in found.claims if claim.kind == "document"]
    return next((below.what for below in fact.walk() if below in told), f"{fact.what}, says {fact.source}")


def _left(until: float | None, now: float, without: int) -> int:
    return without if until is None else max(1, min(int(until - now), MAX_TTL))


def _cut(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _MOST_TOLD else text[: _MOST_TOLD - 1] + "…"
