"""The configuration as meant: decisions only, every default made; the rest of the house sees nothing else.

``load`` (``cyfs_gateway.config.load``) makes these from YAML and promises what types alone cannot say: names are
unique, everything named exists, no group or dialer chain runs in a circle, addresses and prefixes are well formed,
paths lie inside the home directory, and no listener is an open proxy by omission.  Durations are seconds.  Secrets
stay out of ``repr``.  Absent on purpose: anything that changes while the gateway runs (selected members, downloads,
counters).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cyfs_ns.config.dns import DnsConfig
from cyfs_ns.config.identity import IdentityConfig
from cyfs_ns.config.written import Fault, Network

if TYPE_CHECKING:
    from cyfs_gateway.config.load import Source
    from cyfs_gateway.rules.model import Rule
    from cyfs_gateway.sniff.policy import SniffProtocol
    from cyfs_ns.identity.did import Did
    from tunnels.endpoint import Target
    from tunnels.spec import GroupSpec, ProxySpec

Mode = Literal["rule", "global", "direct"]
Published = Literal["none", "own", "visitors"]
LogLevel = Literal["debug", "info", "warning", "error", "silent"]
FindProcess = Literal["off", "strict", "always"]
ListenerKind = Literal["http", "socks", "mixed", "redir", "tproxy", "tunnel", "rtcp"]
ProviderType = Literal["http", "file", "inline"]
RuleBehavior = Literal["domain", "ipcidr", "classical"]
RuleFormat = Literal["yaml", "text", "mrs"]
Requirement = Literal["authority_current", "trusted_snapshot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerConfig:
    """One bound address.  A listener on several ports or families becomes several of these, with one name."""

    name: str
    """What IN-NAME matches; the top-level ports are ``DEFAULT-HTTP``, ``DEFAULT-MIXED`` and so on, as in mihomo."""
    kind: ListenerKind
    listen: str
    """Address literal.  An IPv6 address is bound v6-only: ``::`` never takes IPv4."""
    port: int
    """0: any free port (only from the ``listeners`` list)."""
    optional: bool = False
    """The IPv6 twin of an IPv4 listener: a machine without IPv6 goes without it."""
    users: Mapping[str, str] | None = field(default=None, repr=False)
    """Name to password; ``None`` when nobody is asked."""
    skip_auth_prefixes: tuple[Network, ...] = ()
    """Sources that need no user."""
    allowed: tuple[Network, ...] = ()
    """Sources served; empty: every source."""
    disallowed: tuple[Network, ...] = ()
    """Sources refused, even when ``allowed``."""
    proxy: str = ""
    """Outbound that takes every flow, past the rules; empty: the rules decide."""
    rule: str = ""
    """Sub-rule list that decides instead of ``rules``."""
    udp: bool = True
    """socks, mixed, tproxy: whether UDP is served."""
    target: str = ""
    """tunnel: ``host:port`` that every flow goes to."""
    network: tuple[Literal["tcp", "udp"], ...] = ("tcp", "udp")
    """tunnel: what is forwarded."""
    fenced: bool = False
    """Whether clients are programs that are kept apart from this house, such as containers.  No file says so."""
    most: int = 0
    """Connections at a time; who comes then waits.  0: no limit of its own."""
    proxy_protocol_from: tuple[Network, ...] = ()
    """Sources from which PROXY v1/v2 is accepted, and required; from all others it is refused."""

    @property
    def auth_required(self) -> bool:
        return self.users is not None

    @property
    def key(self) -> tuple[str, str, int]:
        """A reload keeps the socket of a listener whose key stays."""
        return (self.kind, self.listen, self.port)


NOT_CARRIED: Mapping[str, str] = {
    "ss": "Shadowsocks",
    "ssr": "ShadowsocksR",
    "snell": "Snell",
    "vmess": "Vmess",
    "vless": "Vless",
    "trojan": "Trojan",
    "hysteria": "Hysteria",
    "hysteria2": "Hysteria2",
    "wireguard": "WireGuard",
    "tuic": "Tuic",
    "ssh": "Ssh",
    "mieru": "Mieru",
    "anytls": "AnyTLS",
    "masque": "Masque",
    "sudoku": "Sudoku",
    "trusttunnel": "TrustTunnel",
    "tailscale": "Tailscale",
    "openvpn": "OpenVPN",
    "rematch": "Rematch",
    "easytier": "EasyTier",
    "gost-relay": "GostRelay",
    "shadowquic": "ShadowQuic",
}
"""Clash proxy types that this build knows by name only, and what the control API calls them."""


@dataclass(frozen=True, slots=True)
class UnsupportedProxy:
    """A proxy of a Clash type that this build does not carry: known by name, never opened."""

    name: str
    type: str
    at: str
    """Where it stands, as ``/proxies/3``."""

    @property
    def kind(self) -> str:
        """The type's name in the control API."""
        return NOT_CARRIED[self.type]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheckConfig:
    """How members of a provider are probed."""

    enable: bool = False
    url: str = "https://www.gstatic.com/generate_204"
    interval: float = 300.0
    timeout: float = 5.0
    lazy: bool = True
    expected_status: str = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyOverride:
    """What a provider changes on the proxies it brings.  ``None`` leaves a field as it came."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """Clash key to plain value, laid over each entry (``udp``, ``dialer-proxy``, ``skip-cert-verify`` ...)."""
    additional_prefix: str = ""
    additional_suffix: str = ""
    proxy_name: tuple[tuple[str, str], ...] = ()
    """(pattern, target) pairs, RE2, applied in order before prefix and suffix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyProviderConfig:
    """Where proxies come from besides ``proxies``."""

    name: str
    type: ProviderType
    url: str = field(default="", repr=False)
    path: str = ""
    """Absolute, inside the home directory; empty for http: the shell picks a name in ``providers/``."""
    interval: float = 0.0
    """Seconds between downloads; 0: only at start and by request."""
    proxy: str = ""
    """Outbound to download through."""
    size_limit: int = 0
    """Bytes; 0: the built-in limit."""
    header: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    filter: str = ""
    exclude_filter: str = ""
    exclude_type: str = ""
    override: ProxyOverride = field(default_factory=ProxyOverride)
    health_check: HealthCheckConfig = field(default_factory=HealthCheckConfig)
    payload: tuple[ProxySpec, ...] = ()
    """inline: the proxies themselves, override and filters already applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleProviderConfig:
    """Where a rule set comes from."""

    name: str
    type: ProviderType
    behavior: RuleBehavior
    format: RuleFormat = "yaml"
    url: str = field(default="", repr=False)
    path: str = ""
    """Absolute, inside the home directory; empty for http: the shell picks a name in ``rules/``."""
    interval: float = 0.0
    proxy: str = ""
    size_limit: int = 0
    header: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    payload: tuple[str, ...] = ()
    """inline: the lines themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnifferConfig:
    """Mihomo's ``sniffer`` section; ``resolving.sniff_input`` compiles it."""

    enable: bool = False
    force_dns_mapping: bool = True
    parse_pure_ip: bool = True
    override_destination: bool = True
    sniff: Mapping[str, SniffProtocol] = field(default_factory=dict)
    """By protocol, ``http``, ``tls``, ``quic``: only those named are looked for."""
    force_domain: tuple[str, ...] = ()
    skip_domain: tuple[str, ...] = ()
    skip_src_address: tuple[str, ...] = ()
    """Prefixes."""
    skip_dst_address: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlConfig:
    """Where the control API listens and whom it believes."""

    unix: str
    """Path of the unix socket (``external-controller-unix``), absolute."""
    tcp: tuple[str, int] | None = None
    tls: tuple[str, int] | None = None
    certificate: str = ""
    """PEM text, or a path inside the home directory."""
    private_key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    """Empty: the shell makes one on first start and keeps it (``secret_wanted``)."""
    allow_origins: tuple[str, ...] = ()
    """Exact web origins allowed to call from a browser, besides our own."""
    allow_private_network: bool = False
    external_ui: str = ""
    """Absolute directory inside the home directory, or empty."""
    external_ui_name: str = ""

    @property
    def secret_wanted(self) -> bool:
        """TCP control never goes without a secret: true when the shell has to supply one."""
        return not self.secret and (self.tcp is not None or self.tls is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds: ``connect`` to an outbound, ``handshake`` of a client, silence that ends a TCP or a UDP flow."""

    connect: float = 10.0
    handshake: float = 10.0
    idle: float = 300.0
    udp: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAlive:
    """TCP keep-alive on our sockets; ``disable`` leaves it off."""

    idle: float = 15.0
    interval: float = 15.0
    disable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig:
    """What outlives a restart."""

    store_selected: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GeoConfig:
    """What Clash says of geo databases.  They are downloaded when they are missing and not updated by themselves: the
    URLs and ``dat_mode`` decide, the rest is shown by GET /configs."""

    geoip_url: str = ""
    geosite_url: str = ""
    mmdb_url: str = ""
    asn_url: str = ""
    dat_mode: bool = False
    """``geodata-mode``: GEOIP from geoip.dat rather than the mmdb."""
    loader: str = "memconservative"
    matcher: str = "succinct"
    auto_update: bool = False
    update_interval: float = 24 * 3600.0
    etag_support: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class IptablesConfig:
    """Whether the gateway itself lays the redirect rules (with nftables, whatever the name says)."""

    enable: bool = False
    inbound_interfaces: tuple[str, ...] = ("lo",)
    """Interfaces whose traffic is redirected."""
    bypass: tuple[Network, ...] = ()
    """Destinations left alone, besides the private and local ones."""
    dns_redirect: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """Something that peers may reach through their tunnels: asked for by ``port``, or by ``name`` as the host."""

    name: str
    port: int
    network: Literal["tcp", "udp"]
    target: Target
    """Where it really is, as seen from here."""
    allow: tuple[Rule, ...]
    """Conditions; who meets one of them is served."""
    hosts: tuple[str, ...] = ()
    """Names, or wildcards as in ``cyfs_ns/domains.py``, that it is asked for by at its port; then not by that alone."""
    public: bool = False
    """Whether an SN of ours may ask for it, and so for whoever comes to that."""
    proxy_protocol: bool = False
    """Whether it is told, in a PROXY header of version 2, where a stream came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTunnel:
    """A tunnel that is to stand, whether anybody uses it or not."""

    peer: Did
    port: int | None = None
    """Where the peer listens; None: as its documents say."""
    url: str = field(default="", repr=False)
    """The tunnel URL it was written as, if that says how to get there; its carrier may hold a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberConfig:
    """An SN that this machine belongs to: a tunnel to it is kept, it leads others here, and it tells them where."""

    sn: KeptTunnel
    at: tuple[str, int] | None = None
    """A host and port of it; None: as its documents or the DNS say."""
    name: str = ""
    """Our name there, a label below its domain; empty: the one that it tells."""
    addresses: Published = "none"
    """Whether our public addresses stand in its DNS: at this machine's own name, or also at the owner's, whose visitors
    are then led straight here."""
    expose: tuple[str, ...] = ()
    """What of the SN leads to this machine: host names, in full or a label below ours (``@``: ours), and ports as
    ``tcp:2222/SERVICE`` (without: the service ``tcp-2222``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RtcpConfig:
    """This machine as a device among devices.  Where it listens is among ``Config.listeners``."""

    identity: str = ""
    """Absolute directory of its key and document; empty: ``identity`` in the home directory."""
    require: Requirement = "authority_current"
    """How sure the key of a peer that goes by a name must be."""
    txt_bootstrap: bool = False
    """Whether a name about which nothing is pinned may be met by what the DNS says of it."""
    services: tuple[ServiceConfig, ...] = ()
    keep: tuple[KeptTunnel, ...] = ()
    sns: tuple[MemberConfig, ...] = ()
    """The best first."""
    versions: frozenset[int] = frozenset({5, 4})
    """Of rtcp: what may be spoken."""
    admission: tuple[Rule, ...] = ()
    """Rules for new tunnels, whose outbound is ACCEPT or REJECT; empty: those who are known are let in."""
    proxy_from: frozenset[Did] = frozenset()
    """Peers whose word is taken for where a stream of theirs came from."""
    speedtest: tuple[Rule, ...] | None = None
    """Conditions; who meets one of them may measure the way to here.  None: devices of the same owner may."""
    udp: bool = True
    """Whether tunnels may go by UDP, at the ports of the listeners, or any where there are none."""
    stun: tuple[tuple[str, int], ...] = ()
    """Servers, besides SNs, that are asked how others see us."""
    port_mapping: bool = False
    """Whether routers are asked for ports."""
    lan: bool = False
    """Whether peers are looked for on our links, and those who look for us are answered."""
    private_addresses: tuple[Rule, ...] | None = None
    """Conditions; who meets one of them is told our addresses inside.  None: devices of the same owner are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything the gateway was told."""

    home: str
    """State directory, absolute."""
    control: ControlConfig
    mode: Mode = "rule"
    log_level: LogLevel = "info"
    ipv6: bool = True
    allow_lan: bool = False
    bind_address: str = "*"
    listeners: tuple[ListenerConfig, ...] = ()
    users: Mapping[str, str] | None = field(default=None, repr=False)
    """``authentication``; ``None``: no users."""
    skip_auth_prefixes: tuple[Network, ...] = ()
    lan_allowed_ips: tuple[Network, ...] = ()
    """Empty: every source."""
    lan_disallowed_ips: tuple[Network, ...] = ()
    proxies: tuple[ProxySpec, ...] = ()
    unsupported: tuple[UnsupportedProxy, ...] = ()
    groups: tuple[GroupSpec, ...] = ()
    """Members named by ``include-all`` are already listed; ``GLOBAL`` is here only when the file defines it."""
    proxy_providers: tuple[ProxyProviderConfig, ...] = ()
    rule_providers: tuple[RuleProviderConfig, ...] = ()
    rules: tuple[Rule, ...] = ()
    sub_rules: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name or pattern (``*.x``, ``+.x``, ``.x``) to addresses, or to one name as an alias."""
    dns: DnsConfig = field(default_factory=DnsConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    rtcp: RtcpConfig | None = None
    """None: nothing is said of it, and nobody is waited for; tunnels of our own can still be dialled."""
    sniffer: SnifferConfig = field(default_factory=SnifferConfig)
    find_process_mode: FindProcess = "strict"
    tcp_concurrent: bool = False
    unified_delay: bool = False
    interface_name: str = ""
    routing_mark: int = 0
    keep_alive: KeepAlive = field(default_factory=KeepAlive)
    timeouts: Timeouts = field(default_factory=Timeouts)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    geo: GeoConfig = field(default_factory=GeoConfig)
    iptables: IptablesConfig = field(default_factory=IptablesConfig)
    global_ua: str = ""
    """User-Agent of downloads; empty: our own."""
    modules: Mapping[str, Any] = field(default_factory=dict)
    """Section name to plain data, for the modules; a module that is not named here stays off."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of a load: ``config`` is None exactly when some fault is an error."""

    config: Config | None
    faults: tuple[Fault, ...]
    source: Source | None = field(default=None, repr=False, compare=False)
    """What was written, for ``load.patched``; None when it was no YAML at all."""

    @property
    def errors(self) -> tuple[Fault, ...]:
        return tuple(f for f in self.faults if f.severity == "error")
