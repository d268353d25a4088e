"""DNS records as evidence: what was said, by which server, and over what kind of line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from cyfs_ns.clock import NOT_SET
from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.resolver import Resolver
from cyfs_ns.io.upstreams import Told
from cyfs_ns.query import AD, NOERROR, NXDOMAIN, QR, RD
from cyfs_ns.trust.level import Trust
from cyfs_ns.upstream import Upstream
from cyfs_ns.wire import HEADER, name_text, name_wire, plain_data, walk

_CNAME, _SOA = 5, 6
_OTHER = 0  # extended error (RFC 8914)
_MOST_ALIASES = 8
_ENCRYPTED = frozenset({"tls", "https"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSet:
    """The records of one name and type, aliases followed.

    ``data`` is the rdata of each, in the order sent; empty with ``exists``: the name is there and has none of this
    type.  ``ttl`` in seconds, ``server`` as the configuration spells it, ``channel`` what the line to it is worth.
    """

    exists: bool
    data: tuple[bytes, ...]
    ttl: int
    server: str
    channel: Trust
    kept: bool = False
    """Whether the server says that it has not heard this just now, but kept it."""


AskRecords = Callable[[str, int], Awaitable[RecordSet]]
"""Ask for a canonical name and a type.  Raises ``Unreachable`` when no server had an answer."""


def by_resolver(resolver: Resolver, validators: Collection[str] = ()) -> AskRecords:
    """Ask the servers of ``resolver``.  ``validators`` are those whose AD bit the owner of this machine believes."""

    async def ask(name: str, rtype: int) -> RecordSet:
        told, upstream = await resolver.tell(name, rtype)
        if told.reply.rcode not in (NOERROR, NXDOMAIN):
            raise Unreachable(f"{name}: {told.server} answered with error {told.reply.rcode}", "pre_connect_dns")
        return record_set(told, name_wire(name), rtype, channel(upstream, told, validators))

    return ask


def channel(upstream: Upstream | None, told: Told, validators: Collection[str] = ()) -> Trust:
    """What it is worth that ``upstream`` said so: nothing of its own, a checked certificate, or a validation too."""
    if upstream is None or upstream.scheme not in _ENCRYPTED or upstream.skip_cert_verify:
        return Trust.PLAIN_DNS
    if any(said.startswith(NOT_SET) for _, said in told.reply.ede):
        return Trust.PLAIN_DNS  # a certificate that may be over
    validated = told.server in validators and told.reply.flags & AD
    return Trust.DNSSEC if validated else Trust.AUTH_CHANNEL


def record_set(told: Told, name: bytes, rtype: int, trust: Trust) -> RecordSet:
    """The records of ``name`` in ``told``."""
    reply = told.reply
    wire = HEADER.pack(0, QR | RD | reply.flags | reply.rcode & 0xF, 1, *reply.counts) + reply.question + reply.body
    sections = walk(wire)
    ttls = []
    for _ in range(_MOST_ALIASES):
        found = [rr for rr in sections.answer if rr.owner == name and rr.rtype == rtype]
        alias = next((rr for rr in sections.answer if rr.owner == name and rr.rtype == _CNAME), None)
        if found or alias is None:
            break
        ttls.append(alias.ttl)
        name = plain_data(wire, alias).lower()
    else:
        raise BadWire(f"{name_text(name)}: aliases without end")
    ttls += [rr.ttl for rr in found]
    if not found:
        ttls += [rr.ttl for rr in sections.authority if rr.rtype == _SOA]
    return RecordSet(
        exists=reply.rcode == NOERROR,
        data=tuple(plain_data(wire, rr) for rr in found),
        ttl=min(ttls, default=0),
        server=told.server,
        channel=trust,
        kept=any(code == _OTHER and said.startswith(f"trust={Trust.HOST_SNAPSHOT}:") for code, said in reply.ede),
    )
