"""What the control API and the modules may see of a running gateway, as one narrow interface.

The engine implements it, a test's fake implements it, and the control API is written against it alone.  Everything that
comes back is a frozen value made for the occasion: nobody outside can hold on to the engine's insides.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from cyfs_gateway.config.model import Config
from cyfs_gateway.flow import Flow, Identity
from cyfs_gateway.rules.table import RuleTable
from cyfs_ns.config.written import Fault
from cyfs_ns.conversation import Page, PageWanted
from cyfs_ns.logline import LogLine
from cyfs_ns.message import Answer
from cyfs_ns.metrics import Metric
from tunnels.endpoint import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionView:
    """One live flow, as GET /connections shows it."""

    id: str
    """UUID text, stable for the life of the flow."""
    flow: Flow
    up: int
    down: int
    """Bytes so far."""
    start: float
    """Unix time, seconds."""
    chains: tuple[str, ...]
    """Outbound names, leaf first."""
    provider_chains: tuple[str, ...]
    rule: str
    """Rule type as in GET /rules, empty when no rule matched."""
    rule_payload: str
    remote: str
    """Address the way was opened to, empty until known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyView:
    """One outbound or group, as GET /proxies shows it; ``extra`` holds the keys that only some kinds have."""

    name: str
    kind: str
    udp: bool
    alive: bool
    history: tuple[Mapping[str, Any], ...]
    up: int
    down: int
    """Bytes since start."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """now, all, testUrl, expectedStatus, fixed, hidden, icon, provider-name, interface, dialer-proxy ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderView:
    """One proxy or rule provider, already with the API's own key names in ``body``."""

    name: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What would happen to a flow, and why; nothing was sent to the destination."""

    flow: Flow
    rule: str
    """The rule's text, or what stands for one ("no rule matched", "mode is global")."""
    index: int
    """Rule index, -1 when none."""
    why: str
    resolution: str
    """"not needed", or the addresses and where they came from, or why there are none."""
    addresses: tuple[str, ...]
    chain: tuple[str, ...]
    """Names from the rule's choice down to the leaf."""
    way: str
    """The leaf in words: "direct to 192.0.2.1:443", "socks5 proxy 10.0.0.1:1080", "rejected"."""
    passed: tuple[str, ...] = ()
    """Rules that matched but were passed over (PASS, no UDP), each with its reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelView:
    """What is known of a tunnel URL."""

    url: str
    """Credentials hidden."""
    state: str
    source: str
    reason: str
    """Why it is unreachable, one of ``cyfs_ns.errors.REASONS``."""
    rtt: float | None
    """Milliseconds, median of the last few."""
    learnt_at: float
    """Unix time, 0: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WayView:
    """One way to a peer: through an SN, or straight."""

    name: str
    """As ``udp 198.51.100.7:4242``."""
    kind: str
    """How it was come by: lan, host, ipv6, mapped, observed, predicted, relay."""
    state: str
    """In a word: in use, tried, ready, silent, never answered, broken."""
    rtt: float | None
    """Milliseconds; None: it never answered."""
    loss: float
    """0 to 1."""
    heard: float | None
    """Seconds since the peer was heard there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """A tunnel that stands, and who is at its other end."""

    peer: str
    """The DID it goes by."""
    device: str
    """The DID that is its key."""
    owner: str
    zone: str
    trust: str
    version: int
    """Of rtcp: 5 or 4."""
    dialled: bool
    """Whether we dialled it."""
    way: str
    """The way it goes now, who carries it, or the address it came from; empty for plain connections of ours."""
    silent: float
    """Seconds since its last sign of life."""
    rtt: float | None = None
    """Milliseconds, if it was pinged."""
    why: str = ""
    """Why it goes that way; empty: there was no choice."""
    ways: tuple[WayView, ...] = ()
    """All that are known, where there is a choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A stream of a peer that waits to be claimed."""

    id: str
    peer: Identity


class Gateway(Protocol):
    """A running gateway.  Unknown names raise ``KeyError``, a no by policy raises ``Refused``."""

    @property
    def config(self) -> Config: ...
    @property
    def config_path(self) -> str:
        """The file in force, empty when there is none."""

    @property
    def rules(self) -> RuleTable: ...
    @property
    def started(self) -> float:
        """Unix time."""

    def connections(self) -> Sequence[ConnectionView]: ...
    def totals(self) -> tuple[int, int]:
        """(up, down) bytes since start, closed flows included."""

    def memory(self) -> int:
        """Resident bytes of the process."""

    def close_connection(self, id: str) -> bool:
        """False when there is no such connection."""

    def close_connections(self) -> int:
        """How many were open."""

    def proxies(self) -> Mapping[str, ProxyView]:
        """Every outbound, group and built-in, GLOBAL included, but not what only a provider holds."""

    def select(self, group: str, member: str) -> None:
        """KeyError: no such group or member; Refused: the group chooses by itself and cannot be fixed."""

    def unfix(self, group: str) -> None:
        """Let a url-test or fallback group choose for itself again; any other stays as it is."""

    async def delay(self, name: str, url: str, timeout: float, expected: str) -> int:
        """Milliseconds.  TimeoutError, or Unreachable when it failed."""

    async def group_delay(self, name: str, url: str, timeout: float, expected: str) -> Mapping[str, int]:
        """Milliseconds of each member that answered; those that did not are left out."""

    def proxy_providers(self) -> Mapping[str, ProviderView]: ...
    def rule_providers(self) -> Mapping[str, ProviderView]: ...
    def provider_proxy(self, provider: str, name: str) -> ProxyView: ...
    async def update_proxy_provider(self, name: str) -> None: ...
    async def update_rule_provider(self, name: str) -> None: ...
    async def check_provider(self, name: str) -> None:
        """Measure every member of a proxy provider."""

    async def reload(self, *, path: str = "", payload: str = "") -> Sequence[Fault]:
        """All of the new or all of the old; returns the warnings.

        Raises ConfigFault (old one still runs), Misuse for a fault of ours that nobody foresaw.
        """

    async def patch(self, changes: Mapping[str, Any]) -> Sequence[Fault]:
        """Lay keys over the written file until the next reload; as ``reload`` otherwise."""

    async def explain(
        self, host: str, port: int, *, network: str = "tcp", source: str = "127.0.0.1", process: str = ""
    ) -> Explanation: ...
    async def probe(self, url: str) -> TunnelView:
        """Try a tunnel URL unless something fresh is known.  Raises ConfigFault for one that makes no sense."""

    def tunnel_statuses(self) -> Sequence[TunnelView]:
        """Every tunnel URL something was learnt of."""

    def peers(self) -> Sequence[PeerView]:
        """The tunnels to other devices that stand."""

    async def ping(self, peer: str) -> PeerView:
        """Ask a DID or host name for a sign of life, through a tunnel that is made if none stands.

        Raises BadWire for a name that is nobody's, Refused, Unreachable.
        """

    async def call_peer(
        self, peer: str, host: str, port: int, near: Callable[[], Awaitable[Endpoint]], *, network: str = "tcp"
    ) -> None:
        """Open a stream to ``host`` (empty: the peer itself) at ``port``, and join it with what ``near`` then gives.

        ``network`` is tcp, or udp for datagrams.  Raises BadWire for a name that is nobody's, Refused, Unreachable.
        """

    def receive_from_peers(self, allow: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[Arrival]]:
        """Let peers send, within the context: those who meet a condition of ``allow``, or the same owner's if empty.

        Raises ConfigFault for a condition that is none, Refused when somebody receives already or, without conditions,
        when this machine does not know whose it is.
        """

    def awaits(self, id: str) -> bool:
        """Whether a stream with this id waits to be claimed."""

    def claim(self, id: str, near: Endpoint) -> None:
        """Join that stream with ``near``, which is taken over."""

    async def forget_peer(self, peer: str) -> int:
        """Close the tunnels to a DID or host name, and forget what is remembered of it; how many there were.

        Raises BadWire for a name that is nobody's.
        """

    @property
    def name_server(self) -> Any:
        """The ``cyfs_ns.io.serving.Serving`` whose API is carried here; None while the configuration wants none."""

    async def show_identity(self, wanted: PageWanted) -> Page | None:
        """What is known of an identity, as a page for the owner; None: there is no such page."""

    async def dns_query(self, name: str, rtype: str) -> Answer:
        """Any record type, from the name servers alone."""

    def flush_dns(self) -> None:
        """Forget what was resolved."""

    def flush_fake_ip(self) -> None:
        """Forget which name a made-up address stands for."""

    def logs(self, level: str) -> AsyncIterator[LogLine]:
        """Records from now on, at ``level`` and above; a reader that lags loses the oldest and is told how many."""

    def stop(self) -> None:
        """Begin to end; returns at once."""

    def status(self) -> Mapping[str, Any]:
        """What ``cyfs-gateway status`` shows beyond the above: listeners with their addresses, modules with theirs."""

    def look_at_sns(self) -> None:
        """Ask the SNs that this machine belongs to what they know of it by now; returns at once."""

    def module_metrics(self) -> tuple[Metric, ...]:
        """What modules put on the metrics page."""

    async def control(self, module: str, method: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Call a control method that a module registered."""
