"""Names to addresses for the gateway itself: hosts, then what is remembered, then the name servers.

*Servers* are asked as everybody's are (:mod:`cyfs_ns.io.upstreams`): staggered, learning who is slow.

*Families*: A and AAAA are asked at once (RFC 8305 section 3); once A has addresses, AAAA gets ``ipv6_timeout`` more.
Addresses of one count whatever is said of the other: many a server answers NXDOMAIN where it should say NODATA
(RFC 4074 section 4.2).

*Bootstrap*: a server known by name is looked up by servers known by address, never by itself.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cyfs_ns import message, names
from cyfs_ns.cache import AddressCache
from cyfs_ns.errors import BadWire, ConfigFault, Unreachable
from cyfs_ns.hosts import Hosts
from cyfs_ns.io.datagram import OpenDatagrams
from cyfs_ns.io.dial import Dial, plain_dial
from cyfs_ns.io.exchange import Ways
from cyfs_ns.io.merging import Merged
from cyfs_ns.io.sources import Sources
from cyfs_ns.io.upstreams import Forwarder, NobodyAnswered, Told
from cyfs_ns.message import Answer, Question
from cyfs_ns.query import NOERROR, NXDOMAIN, QR, RD
from cyfs_ns.reply import Reply
from cyfs_ns.upstream import SYSTEM, Group, Upstream
from cyfs_ns.wire import HEADER, name_wire

if TYPE_CHECKING:
    from cyfs_ns.splitdns import Suspicion

_HALF_KNOWN = 60.0  # seconds to remember addresses of one family when the other stayed unanswered
_DOUBT = 2.0  # seconds in which the other family may show that an NXDOMAIN was not meant so
_AT_ONCE = 512
_WAITING_MOST = 4096
_SOUND = (NOERROR, NXDOMAIN)


class Resolver:
    """Resolves through ``upstreams``, or the system's servers when there are none.

    ``policy`` may name other upstreams for a name (``DomainMap(...).get`` and ``SplitDns.choose`` are such functions).
    Answers of ``upstreams`` that are ``suspicion``'s give way to those of ``fallback``.  ``bootstrap`` finds the
    addresses of upstreams given by name; by default the system does.  ``dial`` opens streams (plain sockets by
    default) and ``open_datagrams`` datagrams through outbounds; ``mark`` and ``interface`` go on our own sockets.
    ``timeout``: seconds for one question in all.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream] | Group = (),
        *,
        bootstrap: Sequence[Upstream] = (),
        hosts: Hosts | None = None,
        ipv6: bool = True,
        policy: Callable[[str], Sequence[Upstream] | Group | None] | None = None,
        fallback: Group | None = None,
        suspicion: Suspicion | None = None,
        dial: Dial | None = None,
        open_datagrams: OpenDatagrams | None = None,
        mark: int = 0,
        interface: str = "",
        tls: ssl.SSLContext | None = None,
        cache: AddressCache | None = None,
        timeout: float = 5.0,
        ipv6_timeout: float = 0.1,
        resolv_conf_path: str | Path = "/etc/resolv.conf",
        is_own: Callable[[Upstream], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        named = [str(upstream) for upstream in bootstrap if upstream.host and not upstream.address]
        if named:
            raise ConfigFault(f"servers that find other servers must be given by address: {', '.join(named)}")
        servers = upstreams.servers if isinstance(upstreams, Group) else tuple(upstreams)
        self._standard = (
            upstreams if isinstance(upstreams, Group) and servers else Group("standard", servers or (SYSTEM,))
        )
        self._fallback, self._suspicion = fallback, suspicion
        self._groups: dict[tuple[Upstream, ...], Group] = {}
        self._bootstrap = Group("bootstrap", tuple(bootstrap) or (SYSTEM,))
        self._hosts = hosts or Hosts({})
        self._families = (message.A, message.AAAA) if ipv6 else (message.A,)
        self._policy = policy or (lambda name: None)
        self._cache = AddressCache() if cache is None else cache
        self._ipv6_timeout, self._clock, self._is_own = ipv6_timeout, clock, is_own
        self._finder: Resolver | None = None  # finds servers given by name; made when first needed
        self._ways = Ways(
            dial=dial or plain_dial(mark=mark, interface=interface),
            find=self._find,
            open_datagrams=open_datagrams,
            mark=mark,
            interface=interface,
            tls=tls,
        )
        self._timeout, self._sources = timeout, Sources(Path(resolv_conf_path))
        self.forwarder = Forwarder(
            self._ways,
            sources=self._sources,
            timeout=timeout,
            at_once=_AT_ONCE,
            waiting_most=_WAITING_MOST,
            is_own=is_own,
        )
        """What asks the servers, for those who want more than addresses."""
        self._resolving: Merged[str, tuple[str, ...]] = Merged()

    def peek(self, host: str) -> tuple[str, ...] | None:
        """The addresses of a canonical host as far as known here and now.

        ``()``: known to have none.  ``None``: ask :meth:`addresses`.
        """
        known = self._cache.get(host, self._clock())  # names in hosts never enter the cache, so this may come first
        if known is not None:
            return known
        written = self._hosts.lookup(host)
        if isinstance(written, str):
            return self._cache.get(written, self._clock())
        if written is None and names.is_ip(host):
            return (host,)
        return written

    async def addresses(self, host: str, *, fresh: bool = False) -> Sequence[str]:
        """At least one address, IPv4 first, each family in the server's order; a dialer interleaves them.

        ``fresh``: not from memory.  Raises ``Unreachable`` with reason ``pre_connect_dns``, which tells who was asked
        and what came of it.
        """
        try:
            host = names.host(host)
        except BadWire as fault:
            raise Unreachable(str(fault), "pre_connect_dns") from fault
        alias = self._hosts.lookup(host)
        known = None if fresh and (alias is None or isinstance(alias, str)) else self.peek(host)
        if known is None:
            name = alias if isinstance(alias, str) else host
            known = await self._resolving.run(name, lambda: self._resolve(name))
        if not known:
            raise Unreachable(f"{host}: no such name, or it has no address", "pre_connect_dns")
        return known

    async def query(self, name: str, rtype: int | str) -> Answer:
        """Any record type, from the servers alone: neither hosts nor cache have a say.

        An error of the server (SERVFAIL ...) is an answer too, if no server had a better one.  Raises ``Unreachable``,
        or ``BadWire`` for a name or type that cannot be asked.
        """
        number = rtype if isinstance(rtype, int) else message.rtype_number(rtype)
        question = Question(names.name(name) if name.strip(".") else "", number)
        told = await self._ask(question)
        return replace(_answer(told.reply, question), server=told.server)

    async def tell(self, name: str, rtype: int) -> tuple[Told, Upstream | None]:
        """The answer as it came, and the server it came from, for those who weigh who said it.  As :meth:`query`."""
        told = await self._ask(Question(name, rtype))
        group = self._group(name) or self._standard
        servers = (*group.servers, *(self._fallback.servers if self._fallback else ()))
        return told, next((server for server in servers if str(server) == told.server), None)

    def flush(self) -> None:
        """Forget what was learnt: addresses, and which servers were slow."""
        self._cache.clear()
        self.forwarder.flush()
        if self._finder is not None:
            self._finder.flush()

    def close(self) -> None:
        """Close the connections that are kept to servers; they come again when needed."""
        self.forwarder.close()
        if self._finder is not None:
            self._finder.close()

    async def _resolve(self, name: str) -> tuple[str, ...]:
        """Ask for all families, remember what came, and return it; empty when there surely are no addresses."""
        found: dict[int, tuple[tuple[str, ...], int]] = {}
        failures: dict[str, None] = {}
        gone = False

        async def family(rtype: int) -> None:
            question = Question(name, rtype)
            try:
                told = await self._ask(question)
            except NobodyAnswered as fault:
                failures[str(fault)] = None
                return
            if told.reply.rcode not in _SOUND:
                heard = "; ".join(f"{attempt.server}: {attempt.outcome}" for attempt in told.attempts)
                failures[f"{question}: no name server answered ({heard})"] = None
                return
            addresses, _ = found[rtype] = _answer(told.reply, question).addresses()
            nonlocal gone
            if told.reply.rcode == NXDOMAIN:
                gone = True
                nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, trio.current_time() + _DOUBT)
            elif addresses and rtype == message.A:
                nursery.cancel_scope.deadline = trio.current_time() + self._ipv6_timeout

        async with trio.open_nursery() as nursery:
            for rtype in self._families:
                nursery.start_soon(family, rtype)

        both = tuple(address for rtype in self._families for address in found.get(rtype, ((), 0))[0])
        if not both and failures and not gone:
            raise Unreachable(next(iter(failures)), "pre_connect_dns")
        ttl: float = min((seconds for addresses, seconds in found.values() if addresses or not both), default=0)
        if both and len(found) < len(self._families):
            ttl = min(ttl, _HALF_KNOWN)
        self._cache.put(name, both, ttl, self._clock())
        return both

    async def _ask(self, question: Question) -> Told:
        name, group = name_wire(question.name), self._group(question.name)
        if group is None and self._fallback is not None and self._suspicion is not None:
            return await self.forwarder.ask_both(
                name, question.rtype, group=self._standard, fallback=self._fallback, suspicion=self._suspicion
            )
        return await self.forwarder.ask(name, question.rtype, group=group or self._standard)

    def _group(self, name: str) -> Group | None:
        """The servers that this name has to itself."""
        chosen = self._policy(name)
        if isinstance(chosen, Group):
            return chosen
        if not chosen:
            return None
        servers = tuple(chosen)
        group = self._groups.get(servers)
        if group is None:
            group = self._groups[servers] = Group(" ".join(map(str, servers)), servers)
        return group

    async def _find(self, host: str, *, fresh: bool) -> tuple[str, ...]:
        if self._finder is None:
            self._finder = Resolver(
                self._bootstrap.servers,
                hosts=self._hosts,
                ipv6=len(self._families) > 1,
                dial=self._ways.dial,
                open_datagrams=self._ways.open_datagrams,
                mark=self._ways.mark,
                interface=self._ways.interface,
                timeout=self._timeout,
                resolv_conf_path=self._sources.resolv_conf,
                is_own=self._is_own,
                clock=self._clock,
            )
        return tuple(await self._finder.addresses(host, fresh=fresh))


def _answer(reply: Reply, question: Question) -> Answer:
    """A reply read record by record, for those who want text."""
    flags = QR | RD | reply.flags | reply.rcode & 0xF
    wire = HEADER.pack(0, flags, 1, *reply.counts) + reply.question + reply.body
    return replace(message.read_reply(wire, question, 0), rcode=reply.rcode)
