"""Names to addresses for the gateway itself: hosts, then what is remembered, then the name servers.

*Servers* are raced with a head start: the first is asked, and each time one fails or stays silent for ``_HEAD_START``
the next is asked too; the first sound answer wins.  NXDOMAIN is sound; SERVFAIL and REFUSED are that server's failure.
Who stayed silent or was overtaken goes to the end of the queue for a while, so a dead server costs one head start now
and then, and no lookup fails while one server lives.

*Families*: A and AAAA are asked at once (RFC 8305 section 3); once A has addresses, AAAA gets ``ipv6_timeout`` more.

*Bootstrap*: a server known by name is looked up by servers known by address, never by itself.

Who asks what is being asked already waits for that answer.  When the asker in front is cancelled, the next in line
asks anew.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

import trio

from cyfs_ns import message, names
from cyfs_ns.cache import AddressCache
from cyfs_ns.errors import BadWire, ConfigFault, Refused, Unreachable
from cyfs_ns.hosts import Hosts
from cyfs_ns.io.dial import Dial, plain_dial
from cyfs_ns.io.exchange import Exchange
from cyfs_ns.message import Answer, Question
from cyfs_ns.upstream import SYSTEM, Upstream, resolv_conf

K = TypeVar("K")
T = TypeVar("T")

_HEAD_START = 0.15  # seconds: longer than a healthy server needs, too short for people to notice
_SET_BACK = 30.0  # seconds a silent server is asked last
_HALF_KNOWN = 60.0  # seconds to remember addresses of one family when the other stayed unanswered
_AT_ONCE = 512
_WAITING_MOST = 4096
"""Questions on the wire, and in the queue for it: a crowd behind a dead server must not take all descriptors."""
_SOUND = (message.NOERROR, message.NXDOMAIN)


class Resolver:
    """Resolves through ``upstreams``, or the system's servers when there are none.

    ``policy`` may name other upstreams for a name (``DomainMap(...).get`` is one such function).  ``bootstrap`` finds
    the addresses of upstreams given by name; by default the system does.  ``dial`` opens streams (plain sockets by
    default); ``mark`` and ``interface`` go on our own sockets.  ``timeout``: seconds for one server to answer.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream] = (),
        *,
        bootstrap: Sequence[Upstream] = (),
        hosts: Hosts | None = None,
        ipv6: bool = True,
        policy: Callable[[str], Sequence[Upstream] | None] | None = None,
        dial: Dial | None = None,
        mark: int = 0,
        interface: str = "",
        tls: ssl.SSLContext | None = None,
        cache: AddressCache | None = None,
        timeout: float = 5.0,
        ipv6_timeout: float = 0.1,
        resolv_conf_path: str | Path = "/etc/resolv.conf",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        named = [str(upstream) for upstream in bootstrap if upstream.host and not upstream.address]
        if named:
            raise ConfigFault(f"servers that find other servers must be given by address: {', '.join(named)}")
        self._upstreams, self._bootstrap = tuple(upstreams), tuple(bootstrap)
        self._hosts = hosts or Hosts({})
        self._families = (message.A, message.AAAA) if ipv6 else (message.A,)
        self._policy = policy or (lambda name: None)
        self._exchange = Exchange(
            dial or plain_dial(mark=mark, interface=interface), mark=mark, interface=interface, tls=tls
        )
        self._cache = AddressCache() if cache is None else cache
        self._timeout, self._ipv6_timeout, self._clock = timeout, ipv6_timeout, clock
        self._system = _SystemServers(Path(resolv_conf_path))
        self._finder: Resolver | None = None  # finds servers given by name; made when first needed
        self._last_until: dict[Upstream, float] = {}
        self._resolving: _Merged[str, tuple[str, ...]] = _Merged()
        self._asking: _Merged[Question, tuple[Answer | None, list[str]]] = _Merged()
        self._turns = trio.Semaphore(_AT_ONCE)

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

    async def addresses(self, host: str) -> Sequence[str]:
        """At least one address, IPv4 first, each family in the server's order; a dialer interleaves them.

        Raises ``Unreachable`` with reason ``pre_connect_dns``, which tells who was asked and what came of it.
        """
        try:
            host = names.host(host)
        except BadWire as fault:
            raise Unreachable(str(fault), "pre_connect_dns") from fault
        known = self.peek(host)
        if known is None:
            alias = self._hosts.lookup(host)
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
        answer, failures = await self._ask(question)
        if answer is None:
            raise _nobody_answered(question, failures)
        return answer

    def flush(self) -> None:
        """Forget what was learnt: addresses, and which servers were slow."""
        self._cache.clear()
        self._last_until.clear()
        if self._finder is not None:
            self._finder.flush()

    async def _resolve(self, name: str) -> tuple[str, ...]:
        """Ask for all families, remember what came, and return it; empty when there surely are no addresses."""
        found: dict[int, tuple[tuple[str, ...], int]] = {}
        failures: dict[str, None] = {}

        async def family(rtype: int) -> None:
            answer, failed = await self._ask(Question(name, rtype))
            if answer is None or answer.rcode not in _SOUND:
                failures.update(dict.fromkeys(failed))
                return
            addresses, _ = found[rtype] = answer.addresses()
            if answer.rcode == message.NXDOMAIN:  # holds for every type (RFC 8020)
                nursery.cancel_scope.cancel()
            elif addresses and rtype == message.A:
                nursery.cancel_scope.deadline = trio.current_time() + self._ipv6_timeout

        async with trio.open_nursery() as nursery:
            for rtype in self._families:
                nursery.start_soon(family, rtype)

        both = tuple(address for rtype in self._families for address in found.get(rtype, ((), 0))[0])
        if not both and failures:
            raise _nobody_answered(Question(name, message.A), list(failures))
        ttl: float = min((seconds for addresses, seconds in found.values() if addresses or not both), default=0)
        if both and len(found) < len(self._families):
            ttl = min(ttl, _HALF_KNOWN)
        self._cache.put(name, both, ttl, self._clock())
        return both

    async def _ask(self, question: Question) -> tuple[Answer | None, list[str]]:
        return await self._asking.run(question, lambda: self._race_in_turn(question))

    async def _race_in_turn(self, question: Question) -> tuple[Answer | None, list[str]]:
        crowded = self._turns.statistics().tasks_waiting >= _WAITING_MOST
        if not crowded:
            with trio.move_on_after(self._timeout) as patience:
                await self._turns.acquire()
            crowded = patience.cancelled_caught
        if crowded:
            return None, ["too many other questions are waiting"]
        try:
            return await self._race(question)
        finally:
            self._turns.release()

    async def _race(self, question: Question) -> tuple[Answer | None, list[str]]:
        """The first sound answer, else an unsound one, else ``None``; and what went wrong, a line for each server."""
        failures: list[str] = []
        best: Answer | None = None
        unanswered: list[Upstream] = []

        async def attempt(upstream: Upstream, over: trio.Event) -> None:
            nonlocal best
            unanswered.append(upstream)
            try:
                with trio.fail_after(self._timeout):
                    answer = await self._exchange.ask(upstream, await self._find(upstream), question)
            except trio.TooSlowError:
                failures.append(f"{upstream}: no answer in {self._timeout:g} s")
            except (Unreachable, Refused, BadWire) as fault:
                failures.append(f"{upstream}: {fault}")
            else:
                best = replace(answer, server=str(upstream))
                unanswered.remove(upstream)
                if answer.rcode in _SOUND:
                    self._last_until.pop(upstream, None)
                    nursery.cancel_scope.cancel()
                else:
                    failures.append(f"{upstream}: {message.rcode_text(answer.rcode)}")
            over.set()

        async with trio.open_nursery() as nursery:
            for upstream in self._in_order(question.name):
                over = trio.Event()
                nursery.start_soon(attempt, upstream, over)
                with trio.move_on_after(_HEAD_START):
                    await over.wait()
        if best is not None:  # else it may be our own link that is down, which says nothing about servers
            self._last_until.update(dict.fromkeys(unanswered, self._clock() + _SET_BACK))
        return best, failures

    def _in_order(self, name: str) -> list[Upstream]:
        chosen = self._policy(name) or self._upstreams or (SYSTEM,)
        servers = [server for upstream in chosen for server in self._system.instead_of(upstream)]
        now = self._clock()
        return sorted(dict.fromkeys(servers), key=lambda server: self._last_until.get(server, 0) > now)

    async def _find(self, upstream: Upstream) -> Sequence[str]:
        if upstream.why_not or upstream.scheme == "rcode":
            return ()
        if upstream.address:
            return (upstream.address,)
        if self._finder is None:
            self._finder = Resolver(
                self._bootstrap,
                hosts=self._hosts,
                ipv6=len(self._families) > 1,
                dial=self._exchange.dial,
                mark=self._exchange.mark,
                interface=self._exchange.interface,
                timeout=self._timeout,
                resolv_conf_path=self._system.path,
                clock=self._clock,
            )
        return await self._finder.addresses(upstream.host)


def _nobody_answered(question: Question, failures: Sequence[str]) -> Unreachable:
    return Unreachable(f"{question}: no name server answered ({'; '.join(failures)})", "pre_connect_dns")


class _SystemServers:
    """The servers of resolv.conf, read again when the file has changed (DHCP and VPN clients rewrite it)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._servers: tuple[Upstream, ...] = ()
        self._stamp: tuple[int, ...] | None = None

    def instead_of(self, upstream: Upstream) -> tuple[Upstream, ...]:
        """The servers to ask for ``upstream``: itself, or the system's, by the way it names."""
        if upstream.scheme != "system":
            return (upstream,)
        try:
            status = self.path.stat()
            stamp: tuple[int, ...] = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp != self._stamp:
                self._servers = resolv_conf(self.path.read_text("utf-8", "replace"))
        except OSError:
            stamp, self._servers = (), resolv_conf("")
        self._stamp = stamp
        return tuple(replace(server, via=upstream.via) for server in self._servers)


class _Merged(Generic[K, T]):
    """Runs one piece of work for all who want it at the same time.  Without tasks of its own: the first asker works."""

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[T]] = {}

    async def run(self, key: K, work: Callable[[], Awaitable[T]]) -> T:
        while (flight := self._flights.get(key)) is not None:
            await flight.landed.wait()
            if flight.fault is not None:
                raise Unreachable(str(flight.fault), flight.fault.reason) from flight.fault
            if flight.results:
                return flight.results[0]
        flight = self._flights[key] = _Flight()
        try:
            result = await work()
            flight.results.append(result)
        except Unreachable as fault:
            flight.fault = fault
            raise
        finally:
            del self._flights[key]
            flight.landed.set()
        return result


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.landed = trio.Event()
        self.results: list[T] = []
        self.fault: Unreachable | None = None
