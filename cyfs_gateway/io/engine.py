"""The engine: everything a flow needs on its way, in one place that lives as long as the process.

Policy comes and goes with each configuration (``adopt`` swaps it in one step, so a flow sees all of the old or all of
the new); sockets, tracker and reactor stay.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import trio

from cyfs_gateway.config.model import ListenerConfig, Timeouts
from cyfs_gateway.decide import Decision, Pending, Router
from cyfs_gateway.flow import PEER, Flow
from cyfs_gateway.io.offers import Offers
from cyfs_gateway.io.packets import ASSOCIATIONS_MOST, SocksAssociation
from cyfs_gateway.io.process import find_process
from cyfs_gateway.io.tracker import Tracker
from cyfs_gateway.io.transparent import is_own_address
from cyfs_gateway.sniff.policy import SniffPolicy
from cyfs_ns.errors import CyfsError, Refused
from tunnels.endpoint import Endpoint, Target
from tunnels.io.reactor import Reactor
from tunnels.io.waiting import TcpEndpoint
from tunnels.socks import SocksRequest

if TYPE_CHECKING:
    from cyfs_gateway.io.connection import Connection

HANDSHAKES_MOST: Final = 8192
EARLY_MOST: Final = 4096
"""Bytes each half-made connection may keep without being counted."""
EARLY_TOTAL_MOST: Final = 32 << 20
"""What all that keep more may keep together."""
_DESCRIPTORS_KEPT: Final = 256
_DIALS_KEPT: Final = 8192
_SET_BACK_MOST: Final = 4096
_SET_BACK_SECONDS: Final = 60.0
_SETTLED_MOST: Final = 4096
_DIAL_SECONDS: Final = 20.0

_log = logging.getLogger("cyfs.engine")
_Given = TypeVar("_Given")


class Holder(Protocol):
    """Who keeps a client's early bytes."""

    def close(self, why: str) -> None: ...


class Engine:
    """See the module's text.  One per process, made inside trio."""

    def __init__(self, reactor: Reactor, nursery: trio.Nursery) -> None:
        self.reactor = reactor
        self.tracker = Tracker()
        self.offers = Offers()
        """What the gateway answers to peers itself."""
        self.timeouts = Timeouts()
        self.halves: dict[Connection, None] = {}
        """Connections in their handshake, oldest first."""
        self.early: dict[Holder, int] = {}
        """Who keeps many bytes that came before a way was open, oldest first."""
        self._early_total = 0
        self.associations: OrderedDict[SocksAssociation, None] = OrderedDict()
        """UDP sides of SOCKS clients, the one that wrote nothing for the longest time first."""
        self.mark = 0
        """Firewall mark of our own sockets."""
        self.drops = 0
        """Connections held in silence by REJECT-DROP."""
        self.call_by_name: Callable[[Flow], None] = _as_it_is
        """Gives a flow to an address that stands for a name that name."""
        self.is_fake: Callable[[str], bool] = _never
        """Whether an address is one that stands for a name, and means nothing to anybody else."""
        self.take_peer: Callable[[Endpoint, str, int], None] = _not_taken
        """Takes a connection to a door for tunnels, and the address it is from."""
        self._descriptors_most = _descriptors_for_flows()
        self._nursery = nursery
        self._own_ports: frozenset[tuple[str, int]] = frozenset()
        self._set_back: dict[tuple[str, int], float] = {}
        self._settled: dict[tuple[str, str], tuple[str, float]] = {}
        self._intercepts = False
        self._dials: dict[tuple[str, int, str, int], float] = {}

    def adopt(
        self,
        *,
        router: Router,
        peek: Callable[[str], Sequence[str] | None],
        resolve: Callable[[str], Awaitable[Sequence[str]]],
        sniffer: SniffPolicy | None,
        timeouts: Timeouts,
        own_ports: frozenset[tuple[str, int]],
        intercepts: bool,
        mark: int,
        on_unreachable: Callable[[Sequence[str]], None],
    ) -> None:
        """Decide by this policy from now on.

        ``own_ports`` are (network, port) of our listeners; ``intercepts`` says that some are transparent.
        """
        self.router = router
        self.peek = peek
        self.resolve = resolve
        self.sniffer = sniffer
        self.timeouts = timeouts
        self._own_ports = own_ports
        self._intercepts = intercepts
        self.mark = mark
        self.on_unreachable = on_unreachable

    def check_descriptor(self, fd: int, *, datagrams: bool = False) -> None:
        """Raise ``OSError`` when a flow just took one of the last descriptors.

        The kernel gives the lowest number that is free.  The last are for the control API, name servers, files and
        programs, so that whoever floods the listeners cannot lock the owner out.  Datagrams leave a quarter to TCP,
        since their senders can be forged.
        """
        if fd >= (self._descriptors_most * 3 // 4 if datagrams else self._descriptors_most):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    # Half-made connections

    def halfway(self, connection: Connection) -> None:
        """A connection begins its handshake; in a crowd the oldest one makes room."""
        halves = self.halves
        halves[connection] = None
        if len(halves) > HANDSHAKES_MOST:
            next(iter(halves)).close("too many unfinished handshakes")

    def keeps(self, holder: Holder, count: int) -> None:
        """A client has made us keep ``count`` bytes; when all keep too much, who began first makes room."""
        if count <= EARLY_MOST:
            self.keeps_nothing(holder)
            return
        self._early_total += count - self.early.get(holder, 0)
        self.early[holder] = count
        while self._early_total > EARLY_TOTAL_MOST:
            oldest = next(iter(self.early))
            self.keeps_nothing(oldest)
            oldest.close("too many early bytes are kept")

    def keeps_nothing(self, holder: Holder) -> None:
        """What it kept is gone.  Harmless when it kept nothing."""
        self._early_total -= self.early.pop(holder, 0)

    def unschedule(self, connection: Connection) -> None:
        """The connection has no deadline of its own any more."""
        self.halves.pop(connection, None)
        self.reactor.unschedule(connection)

    def spawn(self, connection: Connection, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run ``work`` for a connection in a task; what it raises ends that connection only."""
        self._nursery.start_soon(self._guarded, connection, work, args)

    def start(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run ``work`` in a task of the engine; what it raises is logged and ends nothing else."""
        self._nursery.start_soon(self._logged, work, args)

    @staticmethod
    async def _logged(work: Callable[..., Awaitable[None]], args: tuple[object, ...]) -> None:
        try:
            await work(*args)
        except (CyfsError, OSError) as fault:
            _log.info("%s", fault)
        except Exception:
            _log.exception("a task failed in a way nobody foresaw")

    def associate(self, config: ListenerConfig, request: SocksRequest, here: str, client: str) -> SocksAssociation:
        """Open the UDP side of a SOCKS client.  Raises ``OSError``."""
        if len(self.associations) >= ASSOCIATIONS_MOST:
            next(iter(self.associations)).close()
        association = SocksAssociation(self, config, request, here, client)
        self.associations[association] = None
        return association

    @staticmethod
    async def _guarded(connection: Connection, work: Callable[..., Awaitable[None]], args: tuple[object, ...]) -> None:
        try:
            await work(*args)
        except Exception as fault:
            _end(connection, fault)

    @staticmethod
    def guard(connection: Connection, work: Callable[[_Given], None], given: _Given) -> None:
        """``spawn`` for what takes no task."""
        try:
            work(given)
        except Exception as fault:
            _end(connection, fault)

    # Deciding

    def count(self, decision: Decision, flow: Flow) -> None:
        """``flow`` goes by this decision."""
        if _log.isEnabledFor(logging.INFO):
            verdict = decision.verdict
            _log.info(
                "[%s] %s:%s --> %s match %s using %s",
                flow.network.upper(),
                flow.src_ip,
                flow.src_port,
                Target(flow.rule_host or flow.dst_ip, flow.dst_port),
                f"{verdict.type}({verdict.payload})" if verdict.type else verdict.why,
                " < ".join(decision.chain),
            )
        table = decision.table
        if table is not None:
            now = time.time()
            table.count(decision.verdict, now)
            for passed in decision.passed:
                table.count(passed.verdict, now, passed_over=True)

    async def decide(
        self,
        flow: Flow,
        pending: Pending | None,
        *,
        proxy: str = "",
        rule: str = "",
        notes: list[str] | None = None,
    ) -> Decision:
        """Decide a flow, waiting for what the rules ask for; ``pending`` is where a first try stopped.

        When the configuration has changed since that try, it begins again by the new one.
        ``notes`` collects what was found out on the way, for those who explain.
        """
        resolved = False
        process_known = flow.kind in ("Inner", PEER)  # the gateway's own, and those from afar, have none to look for
        router = self.router
        if pending is not None and pending.router is not router:
            pending = None
        while True:
            if pending is not None:
                if pending.need.what == "address":
                    resolved = True
                    await self._find_address(flow, notes)
                else:
                    process_known = True
                    await find_process(flow)
            found = router.route(
                flow, proxy=proxy, rule=rule, after=pending, resolved=resolved, process_known=process_known
            )
            if isinstance(found, Decision):
                return found
            pending = found

    async def _find_address(self, flow: Flow, notes: list[str] | None) -> None:
        """What rules on addresses see of a name.  A name that does not resolve is not an address, and not a fault."""
        try:
            addresses = await self.resolve(flow.rule_host)
        except CyfsError as fault:
            if notes is not None:
                notes.append(str(fault))
            return
        flow.dst_ip = next((ip for ip in addresses if "." in ip), addresses[0])
        if notes is not None:
            notes.append(f"{flow.rule_host} is {', '.join(addresses)}")

    async def open_stream(self, decision: Decision, flow: Flow) -> Endpoint:
        """Open the decided way in the calling task.  Raises ``Unreachable``, ``Refused``, ``OSError``."""
        leaf = decision.leaf
        if leaf.kind in ("Reject", "RejectDrop"):
            raise Refused(f"{decision.verdict.why}: {leaf.name}")
        return await leaf.open_stream(Target(flow.goal_by(leaf.kind), flow.dst_port))

    # Addresses

    def in_favour(self, addresses: Sequence[str], port: int) -> Sequence[str]:
        """The same addresses, those that lately failed at this port last (RFC 8305 section 4 lets history decide)."""
        if not self._set_back:
            return addresses
        now = self.reactor.now
        return sorted(addresses, key=lambda ip: self._set_back.get((ip, port), 0.0) > now)

    def set_back(self, ip: str, port: int) -> None:
        """This address failed, or was slow, while its name has others: ask it last for a while."""
        if len(self._set_back) >= _SET_BACK_MOST:
            del self._set_back[next(iter(self._set_back))]
        self._set_back[ip, port] = self.reactor.now + _SET_BACK_SECONDS

    def settle(self, client: str, host: str, addresses: Sequence[str]) -> str:
        """The address datagrams of a client for a name go to: one for all its ports, as long as they are in use.

        Nobody tells us when nothing arrives, so it is an IPv4 address where there is one.
        """
        now, key = self.reactor.now, (client, host)
        known = self._settled.pop(key, None)
        fresh = known is not None and (known[0] in addresses or now - known[1] < self.timeouts.udp)
        address = known[0] if known and fresh else next((each for each in addresses if "." in each), addresses[0])
        if len(self._settled) >= _SETTLED_MOST:
            del self._settled[next(iter(self._settled))]
        self._settled[key] = address, now
        return address

    # Loops

    def refuse_dial(self, ip: str, port: int, *, udp: bool = False) -> None:
        """Raise ``Refused`` when a dial to this address would come straight back to us, or lead nowhere."""
        if self.is_fake(ip):
            raise Refused(f"{ip} is a fake address: a name server asked for the real one must not be this gateway")
        self.refuse_own_listener(ip, port, udp=udp)

    def refuse_own_listener(self, ip: str, port: int, *, udp: bool = False) -> None:
        """Raise ``Refused`` for an address of a listener of ours."""
        if ("udp" if udp else "tcp", port) in self._own_ports and is_own_address(ip):
            raise Refused(f"{Target(ip, port)} is this gateway itself")

    def remember_dial(self, sock: TcpEndpoint, ip: str, port: int) -> None:
        """One of our own connections is on its way; it needs remembering while somebody's redirection may catch it.

        Raises ``OSError`` when it took one of the last descriptors.
        """
        self.check_descriptor(sock.fileno())
        if self._intercepts:
            dials = self._dials
            if len(dials) >= _DIALS_KEPT:
                del dials[next(iter(dials))]
            host, source_port = sock.getsockname()[:2]
            dials[host, source_port, ip, port] = self.reactor.now

    def refuse_own_traffic(self, source: str, source_port: int, ip: str, port: int) -> None:
        """Raise ``Refused`` when an intercepted connection is one that we made ourselves."""
        made = self._dials.pop((source, source_port, ip, port), None)
        if made is not None and self.reactor.now - made < _DIAL_SECONDS:
            raise Refused(f"our own connection to {Target(ip, port)} was redirected back to us; exempt its mark")
        self.refuse_own_listener(ip, port)


def _end(connection: Connection, fault: Exception) -> None:
    if not isinstance(fault, CyfsError | OSError):
        _log.error("a connection failed in a way nobody foresaw", exc_info=fault)
    connection.close(str(fault))


def _as_it_is(flow: Flow) -> None:
    """Without a name server an address stands for itself."""


def _never(ip: str) -> bool:
    return False


def _not_taken(sock: Endpoint, host: str, port: int) -> None:
    """Without a device there is nobody to talk to."""
    sock.close()


def _descriptors_for_flows() -> int:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most - min(_DESCRIPTORS_KEPT, most // 8) if most > 0 else 1 << 30
