"""From the section ``identity`` to somebody who answers: which providers there are, and what each is lent.

A name server asks for itself as it asks for others: first its own zones, whose word is this machine's, then its
servers, straight and not by way of its cache, which forgets who said what.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from cyfs_ns.config.identity import EnsSection, IdentityConfig
from cyfs_ns.errors import Unreachable
from cyfs_ns.io.dial import Dial
from cyfs_ns.io.resolver import Resolver
from cyfs_ns.io.trusted.dns import DnsRecords
from cyfs_ns.io.trusted.providers import Provider, TheName, ThisMachine, WhatWasKept
from cyfs_ns.io.trusted.records import AskRecords, RecordSet, by_resolver
from cyfs_ns.io.trusted.resolver import TrustedNames
from cyfs_ns.io.trusted.safefetch import Resolve, SafeFetch
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.io.trusted.universal import UniversalResolver
from cyfs_ns.io.trusted.web import WebDocuments
from cyfs_ns.local import Alias, LocalNames
from cyfs_ns.message import TXT
from cyfs_ns.query import NOERROR
from cyfs_ns.reply import Reply
from cyfs_ns.reply import records as records_of
from cyfs_ns.trust.level import Trust
from cyfs_ns.wire import name_text, name_wire

_MOST_ALIASES = 8


def build_trusted(
    config: IdentityConfig,
    home: Path,
    *,
    records: AskRecords,
    addresses: Resolve,
    dial: Dial | None = None,
    tls: ssl.SSLContext | None = None,
    wall: Callable[[], float] = time.time,
    timeout: float = 10.0,
    writes_behind: bool = False,
) -> TrustedNames:
    """Trusted names as ``config`` wants them, with the pins and documents of the identity home ``home``.

    ``records`` asks DNS and ``addresses`` finds hosts, both through what the caller resolves with; ``dial`` opens
    streams to addresses.  ``tls`` replaces the system's trust in certificates; ``timeout`` and ``writes_behind`` are as
    for :class:`TrustedNames`.  Nothing is asked or written yet.
    Raises ``ConfigFault`` for Ethereum nodes that cannot make a quorum.
    """
    store = TrustStore(home)
    fetch = SafeFetch(addresses, dial=dial, tls=tls)
    providers: list[Provider] = [
        TheName(wall),
        ThisMachine(store),
        WhatWasKept(store, wall),
        DnsRecords(records, bridges=config.bridges, wall=wall),
        WebDocuments(fetch, store, bridges=config.bridges, is_ours=config.may_be_private, wall=wall),
    ]
    providers += [UniversalResolver(base, fetch, bridges=config.bridges, wall=wall) for base in config.resolvers]
    if config.ens is not None:
        providers.append(_ens(config, config.ens, addresses, dial, tls, wall))
    return TrustedNames(providers, store, wall=wall, timeout=timeout, writes_behind=writes_behind)


def _ens(
    config: IdentityConfig,
    section: EnsSection,
    addresses: Resolve,
    dial: Dial | None,
    tls: ssl.SSLContext | None,
    wall: Callable[[], float],
) -> Provider:
    # Its tables are megabytes that nobody needs who has no Ethereum nodes.
    from cyfs_ns.io.trusted.ccipgate import CcipGate
    from cyfs_ns.io.trusted.chain import ChainConfig
    from cyfs_ns.io.trusted.enslookups import MAINNET_REGISTRY, MAINNET_UNIVERSAL, EnsConfig
    from cyfs_ns.io.trusted.ensprovider import EnsProvider

    nodes = ChainConfig(endpoints=section.rpc, chain=section.chain, quorum=section.quorum, tls_ca=section.ca)
    universal = section.universal or ("" if section.registry else MAINNET_UNIVERSAL)
    ens = EnsConfig(nodes=nodes, registry=section.registry or MAINNET_REGISTRY, universal=universal)
    # Not to hosts of the house: whoever owns a name on the chain chooses what is asked of whom.
    gate = CcipGate(addresses, dial=dial, tls=tls)
    return EnsProvider(ens, gate, wall=wall)


def local_first(
    local: Callable[[], LocalNames], resolver: Callable[[], Resolver], validators: Collection[str] = ()
) -> AskRecords:
    """Asks the names of the house, then the servers, those that are in force at that moment."""

    async def ask(name: str, rtype: int) -> RecordSet:
        for _ in range(_MOST_ALIASES):
            found = local().lookup(name_wire(name), rtype)
            if found is None:
                return await by_resolver(resolver(), validators)(name, rtype)
            if isinstance(found, Reply):
                return _of_the_house(found, rtype)
            assert isinstance(found, Alias)
            name = name_text(found.target)
        raise Unreachable(f"{name}: aliases without end", "pre_connect_dns")

    return ask


def _of_the_house(reply: Reply, rtype: int) -> RecordSet:
    """TXT records come from the configuration alone; addresses also from leases, which say what a client said."""
    found = [(ttl, data) for _, kind, ttl, data in records_of(reply, 0) if kind == rtype]
    return RecordSet(
        exists=reply.rcode == NOERROR,
        data=tuple(data for _, data in found),
        ttl=min((ttl for ttl, _ in found), default=0),
        server="the names of this house",
        channel=Trust.HOST_SNAPSHOT if rtype == TXT else Trust.PLAIN_DNS,
    )


def _nothing(host: str) -> Sequence[str]:
    return ()


def addresses_by(resolver: Callable[[], Resolver], local: Callable[[str], Sequence[str]] = _nothing) -> Resolve:
    """The addresses of a host: those that ``local`` knows, else the resolver's; none when there surely are none."""

    async def find(host: str) -> Sequence[str]:
        if known := local(host):
            return known
        asked = resolver()
        try:
            return await asked.addresses(host)
        except Unreachable:
            if asked.peek(host) == ():
                return ()
            raise

    return find
