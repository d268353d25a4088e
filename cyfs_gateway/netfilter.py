"""What the kernel must be told so that other people's traffic comes to our listeners, as text; nothing here runs it.

Clash's ``iptables`` section, realised with nftables.  One ``inet`` table holds everything, so one transaction replaces
or removes it.  Its walk for a packet from an inbound interface:

* **ours**: what carries our own mark, or goes to the owner's ``bypass``, is none of our business; so are replies of
  flows that began on the other side (a forwarded port);
* **DNS**: port 53 goes to the DNS listener, if that is wanted, even when it was sent to this very machine;
* **spared**: addresses of this machine; private, local and multicast ranges, unless ``reach`` names them (fake-ip pools
  live there);
* **taken**: TCP is REDIRECTed to ``redir_port``, or TPROXYed when only ``tproxy_port`` is given; UDP is TPROXYed.

TPROXY only picks the socket; the packet must also be *routed* to this machine.  That is one ``ip rule`` and one local
default route for each family, which carry our protocol number and priority so that a later run knows them.  Mark and
route table follow from the instance (one per home directory), so two gateways never remove each other's.

Loops are cut twice.  Our own sockets carry ``own_mark`` and are spared.  And a client that connects straight to a
listener meant for the kernel is refused in ``guard``: its "original destination" would be that listener itself.

A UDP answer from a foreign address may outlive the client's conntrack entry and so begin a flow of its own.  The
client's next datagram then looks like a reply; ``socket transparent`` tells it from a true one.
"""

from __future__ import annotations

import ipaddress
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from cyfs_gateway.config.model import Config
from cyfs_ns.errors import ConfigFault, Misuse

__all__ = [
    "OWN_MARK",
    "Interception",
    "NetfilterPlan",
    "RouteRule",
    "interception",
    "plan",
    "route_rules",
    "table_name",
]

OWN_MARK = 0x2D0
"""Mark of the gateway's own sockets when ``routing-mark`` does not say otherwise."""

ROUTE_PROTOCOL = 210
"""Tag of our ip rules and routes: below 256, and nobody's in iproute2's ``rt_protos``."""

RULE_PRIORITY = 8720
"""Of our ip rules: before ``main`` (32766), after the kernel's own."""

TABLE_PREFIX = "cyfs_gateway_"

_MARK_BASE = 0x2D0000
"""TPROXY marks are this plus 16 bits of the instance, and so never equal to a small mark an owner writes by hand."""

_PRIVATE = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
    *("224.0.0.0/4", "240.0.0.0/4", "::/127", "fc00::/7", "fe80::/10", "ff00::/8"),
)
"""Never the internet's: RFC 6890 ranges that a router's clients use among themselves."""

_INSTANCE = re.compile(r"[a-z0-9]{1,16}")
_INTERFACE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interception:
    """What the owner wants brought to the listeners.  Ports are 0 when there is no such listener."""

    instance: str
    """Short lower-case hash of the home directory: names the table."""
    interfaces: tuple[str, ...] = ()
    """Only traffic arriving here is touched."""
    redir_port: int = 0
    tproxy_port: int = 0
    dns_port: int = 0
    """Where port 53 goes, UDP and TCP; 0 leaves DNS alone."""
    dns_ipv6: bool = True
    """Whether IPv6 is heard there, too."""
    bypass: tuple[str, ...] = ()
    """CIDRs that pass untouched, DNS to them included."""
    reach: tuple[str, ...] = ()
    """CIDRs taken although private: ``fake-ip-range``."""
    own_mark: int = OWN_MARK
    own_traffic: bool = False
    """Also take what this machine itself sends, except under ``own_mark``."""
    ipv6: bool = True


@dataclass(frozen=True, slots=True)
class RouteRule:
    """Marked packets of one family are delivered here: an ip rule and the local default route it looks up."""

    family: int
    """4 or 6."""
    mark: int
    table: int

    @property
    def rule(self) -> tuple[str, ...]:
        """The rule's exact words, for ``ip rule add`` and ``ip rule del``."""
        return (
            *("priority", str(RULE_PRIORITY), "fwmark", hex(self.mark)),
            *("lookup", str(self.table), "protocol", str(ROUTE_PROTOCOL)),
        )

    @property
    def route(self) -> tuple[str, ...]:
        """The route's exact words, for ``ip route replace`` and ``ip route del``."""
        return ("local", "default", "dev", "lo", "table", str(self.table), "proto", str(ROUTE_PROTOCOL))


@dataclass(frozen=True, slots=True)
class NetfilterPlan:
    """Everything to be in force, decided."""

    instance: str
    ruleset: str
    """One transaction for ``nft -f``: it replaces the table whole, whether it existed or not."""
    routes: tuple[RouteRule, ...]


def interception(config: Config, instance: str) -> Interception | None:
    """What a configuration asks for; None when ``iptables`` is not enabled.

    Raises ``ConfigFault`` when the listeners are out of the kernel's reach: it delivers other machines' traffic to this
    machine's outer addresses, never to loopback.
    """
    wanted = config.iptables
    if not wanted.enable:
        return None
    ports, families = {}, set()
    for kind in ("redir", "tproxy"):
        bound = [one for one in config.listeners if one.kind == kind]
        open_ones = [one for one in bound if not ipaddress.ip_address(one.listen).is_loopback]
        if bound and not open_ones:
            raise ConfigFault(f"{kind}-port: iptables brings it other machines' traffic: set 'allow-lan: true'")
        ports[kind] = open_ones[0].port if open_ones else 0
        families |= {":" in one.listen for one in open_ones if one.port == ports[kind]}
    dns_port, dns_ipv6 = _dns_door(config) if wanted.dns_redirect else (0, False)
    fake_ip = config.dns.enable and config.dns.enhanced_mode == "fake-ip"
    return Interception(
        instance=instance,
        interfaces=wanted.inbound_interfaces,
        redir_port=ports["redir"],
        tproxy_port=ports["tproxy"],
        dns_port=dns_port,
        dns_ipv6=dns_ipv6,
        bypass=tuple(str(network) for network in wanted.bypass),
        reach=tuple(filter(None, (config.dns.fake_ip_range, config.dns.fake_ip_range6))) if fake_ip else (),
        own_mark=config.routing_mark or OWN_MARK,
        ipv6=config.ipv6 and True in families,
    )


def _dns_door(config: Config) -> tuple[int, bool]:
    """The port where the gateway answers questions of other machines (0: nowhere), and whether IPv6 is heard there."""
    doors = config.dns.doors.plain if config.dns.enable else ()
    outer = [(host, port) for host, port in doors if not host or not ipaddress.ip_address(host).is_loopback]
    if doors and not outer:
        raise ConfigFault(
            "dns/listen: iptables brings it other machines' questions: leave the address away (':53'), or set "
            "'dns-redirect: false'"
        )
    port = outer[0][1] if outer else 0
    return port, any(not host or ":" in host for host, other in outer if other == port)


def table_name(instance: str) -> str:
    """The nftables table (family ``inet``) of one home directory."""
    if not _INSTANCE.fullmatch(instance):
        raise Misuse(f"a netfilter instance is 1 to 16 of a-z0-9, not {instance!r}")
    return TABLE_PREFIX + instance


def route_rules(instance: str) -> tuple[RouteRule, ...]:
    """Both families' routing for this instance: what TPROXY needs, and what a clean-up looks for."""
    number = _MARK_BASE | zlib.crc32(table_name(instance).encode()) & 0xFFFF
    return RouteRule(4, number, number), RouteRule(6, number, number)


def plan(wanted: Interception) -> NetfilterPlan:
    """Decide the ruleset and the routing.  Raises ``ConfigFault`` for what cannot be meant."""
    _check(wanted)
    routes = route_rules(wanted.instance)
    mark = routes[0].mark
    if mark == wanted.own_mark:
        raise ConfigFault(f"routing-mark {wanted.own_mark:#x} is what interception itself uses here; choose another")
    chains = [_guard(wanted), _ours(wanted), _spare(wanted)]
    if wanted.redir_port or wanted.dns_port:
        chains.append(_redirect_in(wanted))
        if wanted.own_traffic:
            chains.append(_redirect_out(wanted))
    if wanted.tproxy_port:
        chains += [_REPLIES, _take(wanted, mark), _tproxy_in(wanted, mark)]
        if wanted.own_traffic:
            chains.append(_tproxy_out(wanted, mark))
    table = f"inet {table_name(wanted.instance)}"
    body = "\n".join(_chain(name, lines) for name, lines in chains)
    return NetfilterPlan(
        instance=wanted.instance,
        ruleset=f"add table {table}\ndelete table {table}\ntable {table} {{\n{body}\n}}\n",
        routes=() if not wanted.tproxy_port else routes if wanted.ipv6 else routes[:1],
    )


def _check(wanted: Interception) -> None:
    if not wanted.interfaces and not wanted.own_traffic:
        raise ConfigFault("iptables/inbound-interface: name the interfaces whose traffic is to be taken")
    for name in wanted.interfaces:
        if not _INTERFACE.fullmatch(name):
            raise ConfigFault(f"iptables/inbound-interface: {name!r} is not an interface name")
    if not (wanted.redir_port or wanted.tproxy_port):
        raise ConfigFault("iptables: needs redir-port or tproxy-port: there is no listener to bring traffic to")
    for key, port in (("redir-port", wanted.redir_port), ("tproxy-port", wanted.tproxy_port), ("dns", wanted.dns_port)):
        if not 0 <= port <= 65535:
            raise ConfigFault(f"{key}: {port} is not a port")
    if not 0 < wanted.own_mark <= 0xFFFFFFFF:
        raise ConfigFault(f"routing-mark: {wanted.own_mark} must be 1 to 4294967295 while iptables is enabled")


_Chain = tuple[str, list[str]]

_DNS = "meta l4proto { tcp, udp } th dport 53"


def _dns(wanted: Interception) -> str:
    return _DNS if wanted.dns_ipv6 else f"meta nfproto ipv4 {_DNS}"


_REPLIES: _Chain = ("replies", ["socket transparent 1 return", "accept"])


def _chain(name: str, lines: Iterable[str]) -> str:
    return f"\tchain {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines if line) + "\t}"


def _guard(wanted: Interception) -> _Chain:
    lines = ["type filter hook input priority filter; policy accept;"]
    if wanted.redir_port:
        lines.append(f"tcp dport {wanted.redir_port} ct status & dnat == 0 reject with tcp reset")
    if wanted.tproxy_port:
        lines.append(f"fib daddr type local tcp dport {wanted.tproxy_port} reject with tcp reset")
        lines.append(f"fib daddr type local udp dport {wanted.tproxy_port} reject")
    return "guard", lines


# In the next two ``accept`` ends the base chain that jumped here: the packet goes on as if this table did not exist.


def _ours(wanted: Interception) -> _Chain:
    lines = [f"meta mark {wanted.own_mark:#x} accept", "" if wanted.ipv6 else "meta nfproto ipv6 accept"]
    return "ours", lines + _to(_networks("iptables/bypass", wanted.bypass), "accept")


def _spare(wanted: Interception) -> _Chain:
    reach = _to(_networks("fake-ip-range", wanted.reach), "return")
    lines = ["fib daddr type { local, broadcast, multicast, anycast } accept"]
    return "spare", lines + reach + _to(_networks("", _PRIVATE), "accept")


def _redirect_in(wanted: Interception) -> _Chain:
    return "redirect_in", [
        "type nat hook prerouting priority dstnat; policy accept;",
        _from_outside(wanted),
        "jump ours",
        f"{_dns(wanted)} redirect to :{wanted.dns_port}" if wanted.dns_port else "",
        *_redirect_tcp(wanted),
    ]


def _redirect_out(wanted: Interception) -> _Chain:
    return "redirect_out", [
        "type nat hook output priority -100; policy accept;",
        "jump ours",
        "fib daddr type local accept",
        f"{_dns(wanted)} redirect to :{wanted.dns_port}" if wanted.dns_port else "",
        *_redirect_tcp(wanted),
    ]


def _redirect_tcp(wanted: Interception) -> list[str]:
    return ["jump spare", f"meta l4proto tcp redirect to :{wanted.redir_port}"] if wanted.redir_port else []


def _tproxy_in(wanted: Interception, mark: int) -> _Chain:
    return "tproxy_in", [
        "type filter hook prerouting priority mangle; policy accept;",
        f'iifname "lo" meta mark {mark:#x} goto take' if wanted.own_traffic else "",
        _from_outside(wanted),
        "jump ours",
        "ct direction reply jump replies",
        f"{_dns(wanted)} accept" if wanted.dns_port else "",
        "jump spare",
        "goto take",
    ]


def _take(wanted: Interception, mark: int) -> _Chain:
    return "take", [f"{_tproxied(wanted)} meta mark set {mark:#x} tproxy to :{wanted.tproxy_port} accept"]


def _tproxy_out(wanted: Interception, mark: int) -> _Chain:
    """What this machine sends is marked, hence routed again, hence comes in by ``lo``, where TPROXY works."""
    return "tproxy_out", [
        "type route hook output priority mangle; policy accept;",
        "jump ours",
        "ct direction reply accept",
        f"{_dns(wanted)} accept" if wanted.dns_port else "",
        "jump spare",
        f"{_tproxied(wanted)} meta mark set {mark:#x}",
    ]


def _tproxied(wanted: Interception) -> str:
    return "meta l4proto udp" if wanted.redir_port else "meta l4proto { tcp, udp }"


def _from_outside(wanted: Interception) -> str:
    names = ", ".join(f'"{name}"' for name in dict.fromkeys(wanted.interfaces))
    return f"iifname != {{ {names} }} accept" if names else "accept"


def _to(networks: tuple[list[str], list[str]], verdict: str) -> list[str]:
    """One rule for each family that has any of these destinations."""
    words = ("ip", "ip6")
    return [f"{ip} daddr {{ {', '.join(nets)} }} {verdict}" for ip, nets in zip(words, networks, strict=True) if nets]


def _networks(key: str, cidrs: Iterable[str]) -> tuple[list[str], list[str]]:
    """CIDRs of both families apart, merged where they overlap (nft refuses overlaps in one set)."""
    v4: list[ipaddress.IPv4Network] = []
    v6: list[ipaddress.IPv6Network] = []
    for cidr in cidrs:
        try:
            net = ipaddress.ip_network(cidr, strict=False)
        except ValueError:
            raise ConfigFault(f"{key}: {cidr!r} is not an address or CIDR") from None
        if isinstance(net, ipaddress.IPv4Network):
            v4.append(net)
        else:
            v6.append(net)
    return [str(n) for n in ipaddress.collapse_addresses(v4)], [str(n) for n in ipaddress.collapse_addresses(v6)]
