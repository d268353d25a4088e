"""What the owner wrote about ways out, as meant: one frozen value for each Clash proxy type this build carries.

Field names are Clash's (mihomo's) option names with underscores.  The configuration reader builds these and
``tunnels.io.registry`` turns them into outbounds; nothing here opens anything.  Secrets stay out of ``repr``.
Absent on purpose: types this build cannot carry have no spec, so nobody can half-support them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

IpVersion = Literal["dual", "ipv4", "ipv6", "ipv4-prefer", "ipv6-prefer"]
GroupKind = Literal["select", "url-test", "fallback", "load-balance", "relay"]
Strategy = Literal["consistent-hashing", "round-robin", "sticky-sessions"]

DEFAULT_TEST_URL = "https://www.gstatic.com/generate_204"
"""What mihomo asks for when a group names no ``url``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DialOptions:
    """How our own sockets are made.  Zero and empty mean: leave the kernel's default alone."""

    interface_name: str = ""
    """Bind to this interface (``SO_BINDTODEVICE``)."""
    routing_mark: int = 0
    """``SO_MARK``, so that policy routing can tell our traffic from that which we caught: this breaks loops."""
    ip_version: IpVersion = "dual"
    bind_address: str = ""
    """Local IP address to send from."""
    bind_port: int = 0
    keep_alive: bool = True
    keep_alive_idle: int = 15
    """Seconds of silence before the first probe (mihomo's default)."""
    keep_alive_interval: int = 15
    tfo: bool = False
    """TCP Fast Open on connect (RFC 7413): the first bytes travel in the SYN."""
    mptcp: bool = False
    connect_timeout: float = 5.0
    """Seconds for the whole connect, all addresses together (mihomo's default)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySpec:
    """What every proxy type shares.  ``type`` is Clash's word in YAML, ``kind`` the word of its API."""

    type: ClassVar[str] = ""
    kind: ClassVar[str] = ""

    name: str
    udp: bool = False
    ip_version: IpVersion = "dual"
    interface_name: str = ""
    """Empty: the global one."""
    routing_mark: int = 0
    """0: the global one."""
    tfo: bool = False
    mptcp: bool = False
    dialer_proxy: str = ""
    """Name of the proxy or group that carries this one's own connection; empty: direct."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """How a server's certificate is judged.  Default: the system's roots, and the name must match."""

    sni: str = ""
    """Name to send and to verify; empty: the server's own."""
    skip_cert_verify: bool = False
    fingerprint: str = ""
    """SHA-256 of the leaf certificate in hex (colons allowed).  When given, it alone decides."""
    certificate: str = ""
    """Path of a PEM file of roots to trust instead of the system's."""
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectSpec(ProxySpec):
    type: ClassVar[str] = "direct"
    kind: ClassVar[str] = "Direct"
    udp: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Socks5Spec(ProxySpec):
    type: ClassVar[str] = "socks5"
    kind: ClassVar[str] = "Socks5"
    server: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    tls_options: TlsOptions = TlsOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSpec(ProxySpec):
    """An HTTP proxy asked by CONNECT; streams only."""

    type: ClassVar[str] = "http"
    kind: ClassVar[str] = "Http"
    server: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Extra request headers; kept out of ``repr`` because they often carry tokens."""
    tls: bool = False
    tls_options: TlsOptions = TlsOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSpec(ProxySpec):
    """Ours: the destination itself is spoken to in TLS, as ``tls:///host:port`` does; streams only."""

    type: ClassVar[str] = "tls"
    kind: ClassVar[str] = "Tls"
    tls_options: TlsOptions = TlsOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectSpec(ProxySpec):
    type: ClassVar[str] = "reject"
    kind: ClassVar[str] = "Reject"
    udp: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectDropSpec(ProxySpec):
    type: ClassVar[str] = "reject-drop"
    kind: ClassVar[str] = "RejectDrop"
    udp: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PassSpec(ProxySpec):
    """Not a way at all: the rules go on with the next line."""

    type: ClassVar[str] = "pass"
    kind: ClassVar[str] = "Pass"
    udp: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsSpec(ProxySpec):
    """The gateway answers as a DNS server whatever the flow asks for."""

    type: ClassVar[str] = "dns"
    kind: ClassVar[str] = "Dns"
    udp: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelSpec(ProxySpec):
    """Ours: any tunnel URL without a target is a way, as ``socks://user:pass@host`` or one nested in another."""

    type: ClassVar[str] = "tunnel"
    kind: ClassVar[str] = "Tunnel"
    url: str = field(repr=False)
    """Checked: it parses and names no target of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RtcpSpec(ProxySpec):
    """Ours: through the tunnel of this device to another one."""

    type: ClassVar[str] = "rtcp"
    kind: ClassVar[str] = "Rtcp"
    udp: bool = True
    server: str = ""
    """The peer, a DID or its host name; empty: the name that a flow goes to is the peer's own."""
    port: int = 0
    """Where the peer listens; 0: as its documents say, else 2980."""
    via: str = field(default="", repr=False)
    """A tunnel URL by which the peer is reached, as it stands before the ``@``; empty: directly."""
    target: str = ""
    """What every flow reaches: ``host:port`` as the peer sees it, or its own ``:port``.  Empty: where the flow
    goes, which is the peer itself if that is its name."""
    proxy_protocol: bool = False
    """Tell the peer whose flows these are, by address and port."""
    fast_open: bool = True
    """Where a tunnel has to be made, tell clients that their way is open when the peer has proven itself, before it has
    said so."""


_SPECS: tuple[type[ProxySpec], ...] = (
    *(DirectSpec, Socks5Spec, HttpSpec, TlsSpec, TunnelSpec, RtcpSpec),
    *(RejectSpec, RejectDropSpec, PassSpec, DnsSpec),
)
SPECS: Mapping[str, type[ProxySpec]] = {spec.type: spec for spec in _SPECS}
"""Clash's ``type`` word to the spec this build carries for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """A proxy group as meant.  ``members`` are names of proxies and groups, as written.

    ``use`` are proxy providers, whose proxies join behind ``members`` and change at run time; ``filter`` and its
    siblings apply to provider proxies and to what ``include-all`` brought in, never to names written by hand.
    """

    name: str
    kind: GroupKind
    members: tuple[str, ...] = ()
    use: tuple[str, ...] = ()
    include_all_providers: bool = False
    filter: str = ""
    """Regular expressions split by a backtick; order of members follows the order of expressions."""
    exclude_filter: str = ""
    exclude_type: str = ""
    """API kinds split by ``|``, in any case: ``Http|Socks5``."""
    url: str = DEFAULT_TEST_URL
    interval: float = 0.0
    """Seconds between health checks; 0: none by itself."""
    timeout: float = 5.0
    """Seconds a health check may take."""
    lazy: bool = True
    """Check only when the group was used since the last round."""
    max_failed_times: int = 5
    """Failed connections within one ``timeout`` that start a check out of turn."""
    tolerance: float = 0.0
    """Milliseconds a url-test member must be faster by, to take over."""
    strategy: Strategy = "consistent-hashing"
    disable_udp: bool = False
    expected_status: str = "*"
    """HTTP statuses a health check accepts: ``200/204-299``, or ``*`` for any."""
    hidden: bool = False
    icon: str = ""
