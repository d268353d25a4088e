"""Every way in: the top-level ports, ``tunnels`` and ``listeners``, as bound addresses that are safe by default.

A proxy that serves strangers is an open proxy.  So a listener is on loopback unless ``allow-lan`` or its own ``listen``
says otherwise, and on any other address it must ask for users, or serve named sources only; one that does neither is a
fault.  A prefix that holds the whole world names nobody.  Static tunnels lead to one place and transparent listeners
take only traffic that the kernel redirected, so these may stand open.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from cyfs_gateway.config.model import ListenerConfig, ListenerKind
from cyfs_gateway.config.outbounds import canonical_host
from cyfs_ns.config.source import Map, Scalar, Seq
from cyfs_ns.config.written import Network, Section, shown, split_host_port

_TOP_LEVEL: tuple[tuple[str, ListenerKind], ...] = (
    ("port", "http"),
    ("socks-port", "socks"),
    ("mixed-port", "mixed"),
    ("redir-port", "redir"),
    ("tproxy-port", "tproxy"),
)
_KINDS: tuple[ListenerKind, ...] = ("http", "socks", "mixed", "redir", "tproxy", "tunnel")
_NOT_CARRIED = frozenset(
    (
        *("tun", "shadowsocks", "vmess", "vless", "trojan", "hysteria2", "tuic", "anytls", "mieru", "snell"),
        *("sudoku", "trusttunnel"),
    )
)
_TLS_KEYS = ("certificate", "private-key", "reality-config", "client-auth-type", "client-auth-cert", "ech-key")
_MAX_PORTS = 1024
"""Ports one entry of ``listeners`` may ask for."""

_WILDCARD = {4: "0.0.0.0", 6: "::"}
_LOOPBACK = {4: "127.0.0.1", 6: "::1"}


@dataclass(frozen=True, slots=True)
class Shared:
    """What listeners inherit from the top of the file."""

    ipv6: bool
    allow_lan: bool
    bind_address: str
    users: Mapping[str, str] | None
    skip_auth_prefixes: tuple[Network, ...]
    allowed: tuple[Network, ...]
    disallowed: tuple[Network, ...]

    def usual_addresses(self) -> tuple[str, ...]:
        """Where a listener binds that does not say so itself."""
        return bind_addresses(self.bind_address if self.allow_lan else "localhost", self.ipv6) or ()


@dataclass(frozen=True, slots=True)
class Placed:
    """A listener and where it came from."""

    listener: ListenerConfig
    section: Section
    key: str


def read_shared(top: Section, ipv6: bool) -> Shared:
    """``allow-lan`` and its kin."""
    bind_address = top.text("bind-address", "*").strip() or "*"
    if bind_addresses(bind_address, ipv6) is None:
        top.error("bind-address", f"expected an address or '*', found {bind_address[:60]!r}")
        bind_address = "*"
    return Shared(
        ipv6=ipv6,
        allow_lan=top.flag("allow-lan"),
        bind_address=bind_address,
        users=_authentication(top),
        skip_auth_prefixes=top.prefixes("skip-auth-prefixes"),
        allowed=top.prefixes("lan-allowed-ips"),
        disallowed=top.prefixes("lan-disallowed-ips"),
    )


def read_listeners(top: Section, shared: Shared, beside: Sequence[Placed] = ()) -> list[Placed]:
    """All of them, already checked for openness and for clashes with one another; ``beside`` are from elsewhere."""
    found: list[Placed] = []
    for key, kind in _TOP_LEVEL:
        port = top.integer(key, 0, 0, 65535)
        if port:
            base = ListenerConfig(
                name="DEFAULT-" + kind.upper(),
                kind=kind,
                listen="",
                port=port,
                users=shared.users if kind in ("http", "socks", "mixed") else None,
                skip_auth_prefixes=shared.skip_auth_prefixes,
                allowed=shared.allowed,
                disallowed=shared.disallowed,
            )
            found += (Placed(one, top, key) for one in spread(base, shared.usual_addresses(), [port]))
    found += _tunnels(top, shared)
    names: set[str] = set()
    for entry in top.tables("listeners"):
        found += _listener(entry, shared, names)
    found += beside
    for placed in found:
        _check_not_open(placed)
    _check_clashes(found)
    return found


def bind_addresses(text: str, ipv6: bool) -> tuple[str, ...] | None:
    """What an address as written binds; None when it is no address.  ``::`` takes IPv4 with it, as in Clash."""
    word = text.strip()
    if word.startswith("[") and word.endswith("]"):
        word = word[1:-1]
    if word in ("", "*", "::"):
        return tuple(_WILDCARD.values()) if ipv6 or word == "::" else (_WILDCARD[4],)
    if word.lower() == "localhost":
        return tuple(_LOOPBACK.values()) if ipv6 else (_LOOPBACK[4],)
    try:
        address = ipaddress.ip_address(word)
        return (str(getattr(address, "ipv4_mapped", None) or address),)
    except ValueError:
        return None


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach ``address``, an IP literal."""
    return ipaddress.ip_address(address).is_loopback


def holds_everybody(prefixes: Iterable[Network], version: int) -> bool:
    """Whether the prefixes of one family add up to all of it."""
    mine: list[Any] = [prefix for prefix in prefixes if prefix.version == version]
    return any(prefix.prefixlen == 0 for prefix in ipaddress.collapse_addresses(mine))


def spread(base: ListenerConfig, addresses: Sequence[str], ports: Sequence[int]) -> list[ListenerConfig]:
    """``base`` on each of the addresses and ports; of several addresses the IPv6 ones are optional."""
    paired = len(addresses) > 1
    return [
        replace(base, listen=address, port=port, optional=paired and ":" in address)
        for port in ports
        for address in addresses
    ]


def _authentication(top: Section) -> dict[str, str] | None:
    users: dict[str, str] = {}
    for at, node, text in top.items("authentication"):
        name, colon, password = text.partition(":")
        if not colon or not name:
            top.reader.error(at, node, "expected 'user:password'")
        else:
            users[name] = password
    return users or None


def _users(entry: Section, shared: Shared) -> dict[str, str] | Mapping[str, str] | None:
    """A listener's own ``users``; an empty list asks nobody, no list asks the users of ``authentication``."""
    if "users" not in entry.tree.items:
        entry.node("users")
        return shared.users
    users: dict[str, str] = {}
    for user in entry.tables("users"):
        name = user.needed("username")
        users[name] = user.text("password")
        user.finish()
    return users or None


def _tunnels(top: Section, shared: Shared) -> list[Placed]:
    node = top.node("tunnels")
    if node is None:
        return []
    if not isinstance(node, Seq):
        top.error("tunnels", f"expected a list, found {shown(node)}")
        return []
    found: list[Placed] = []
    for index, item in enumerate(node.items):
        at = f"{top.at('tunnels')}/{index}"
        if isinstance(item, Scalar):
            parts = [part.strip() for part in (top.reader.text(at, item) or "").split(",")]
            if len(parts) not in (3, 4):
                top.reader.error(at, item, "expected 'tcp/udp,listen address:port,target:port,proxy'")
                continue
            keys = dict(zip(("network", "address", "target", "proxy"), parts, strict=False))
            tree = Map({key: Scalar(value, False, "", item.line, item.column) for key, value in keys.items()}, 0, 0)
            tree.line, tree.column = item.line, item.column
            entry = Section(top.reader, tree, at)
        elif isinstance(item, Map):
            entry = Section(top.reader, item, at)
        else:
            top.reader.error(at, item, f"expected a tunnel, found {shown(item)}")
            continue
        found += _tunnel(entry, shared)
    return found


def _tunnel(entry: Section, shared: Shared) -> list[Placed]:
    network = _networks(entry)
    target = _target(entry)
    proxy = entry.text("proxy")
    written = entry.needed("address")
    entry.finish()
    where = split_host_port(written)
    addresses = bind_addresses(where[0], shared.ipv6) if where else None
    if where is None or addresses is None:
        if written:
            entry.error("address", f"expected an address and a port, found {written[:60]!r}")
        return []
    base = ListenerConfig(
        name=f"TUNNEL-{written}",
        kind="tunnel",
        listen="",
        port=where[1],
        network=network,
        target=target,
        proxy=proxy,
        allowed=shared.allowed,
        disallowed=shared.disallowed,
    )
    return [Placed(one, entry, "address") for one in spread(base, addresses, [where[1]])]


def _listener(entry: Section, shared: Shared, names: set[str]) -> list[Placed]:
    name = entry.needed("name")
    if name in names:
        entry.error("name", f"there is another listener {name[:60]!r}")
    names.add(name)
    written = entry.needed("type").strip().lower()
    if written in _NOT_CARRIED:
        entry.warn("type", f"this build carries no {written!r} listeners; {name!r} is not opened")
        return []
    kind = next((word for word in _KINDS if word == written), None)
    if kind is None:
        if written:
            entry.error(
                "type", f"unknown listener type {written[:60]!r}{entry.reader.near(written, [*_KINDS, *_NOT_CARRIED])}"
            )
        return []
    asks = kind in ("http", "socks", "mixed")
    own_users = "users" in entry.tree.items
    base = ListenerConfig(
        name=name,
        kind=kind,
        listen="",
        port=0,
        users=_users(entry, shared) if asks else None,
        skip_auth_prefixes=entry.prefixes("skip-auth-prefixes")
        if entry.has("skip-auth-prefixes") or own_users
        else shared.skip_auth_prefixes,
        allowed=entry.prefixes("allowed-ips") if entry.has("allowed-ips") else shared.allowed,
        disallowed=entry.prefixes("disallowed-ips") if entry.has("disallowed-ips") else shared.disallowed,
        proxy=entry.text("proxy"),
        rule=entry.text("rule"),
        udp=entry.flag("udp", True),
        target=_target(entry) if kind == "tunnel" else "",
        network=_networks(entry) if kind == "tunnel" else ("tcp", "udp"),
        proxy_protocol_from=entry.prefixes("proxy-protocol"),
    )
    addresses = shared.usual_addresses()
    if entry.has("listen"):
        listen = entry.text("listen")
        bound = bind_addresses(listen, shared.ipv6)
        if bound is None:
            entry.error("listen", f"expected an address, found {listen[:60]!r}")
        addresses = bound or ()
    ports = _ports(entry)
    encrypted = [key for key in _TLS_KEYS if entry.has(key)]
    entry.finish(_TLS_KEYS)
    if encrypted:
        entry.warn(encrypted[0], f"this build's listeners do not speak TLS; {name!r} is not opened")
        return []
    return [Placed(one, entry, "port") for one in spread(base, addresses, ports)]


def _ports(entry: Section) -> list[int]:
    """``7890``, ``7890-7893``, ``80,8080/9000-9003``."""
    text = entry.needed("port")
    if not text:
        return []
    ports: list[int] = []
    for part in text.replace("/", ",").split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        last = last if dash else first
        if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()) or len(first + last) > 10:
            entry.error("port", f"expected a port or ports such as 7890 or 7890-7893, found {text[:60]!r}")
            return []
        low, high = int(first), int(last)
        if not low <= high <= 65535:
            entry.error("port", f"{part.strip()[:60]} is out of range: 0 to 65535")
            return []
        ports += range(low, min(high, low + _MAX_PORTS) + 1)
        if len(ports) > _MAX_PORTS:
            entry.error("port", f"more than {_MAX_PORTS} ports")
            return []
    return list(dict.fromkeys(ports))


def _networks(entry: Section) -> tuple[Literal["tcp", "udp"], ...]:
    words = [word.strip().lower() for text in entry.texts("network") for word in text.split("/")]
    wrong = [word for word in words if word not in ("tcp", "udp")]
    if wrong:
        entry.error("network", f"expected tcp or udp, found {wrong[0][:60]!r}")
    chosen: list[Literal["tcp", "udp"]] = []
    if "tcp" in words or not words:
        chosen.append("tcp")
    if "udp" in words or not words:
        chosen.append("udp")
    return tuple(chosen)


def _target(entry: Section) -> str:
    written = entry.needed("target")
    if not written:
        return ""
    where = split_host_port(written)
    host = canonical_host(where[0]) if where else ""
    if where is None or not host or not where[1]:
        entry.error("target", f"expected host:port, found {written[:60]!r}")
        return ""
    return f"[{host}]:{where[1]}" if ":" in host else f"{host}:{where[1]}"


def _check_not_open(placed: Placed) -> None:
    one = placed.listener
    if one.kind not in ("http", "socks", "mixed") or is_loopback(one.listen):
        return
    version = 6 if ":" in one.listen else 4
    if one.allowed and not holds_everybody(one.allowed, version):
        return
    where = f"{one.name} on {one.listen}"
    if one.users is None:
        placed.section.error(
            placed.key,
            f"{where} would be an open proxy: give users ('authentication' or 'users'), "
            "or name the sources it serves ('lan-allowed-ips' or 'allowed-ips'), or bind it to loopback",
        )
    elif holds_everybody(one.skip_auth_prefixes, version):
        placed.section.error(placed.key, f"{where} would be an open proxy: 'skip-auth-prefixes' excuses everybody")


def carried_by(listener: ListenerConfig) -> frozenset[str]:
    """The transports whose port a listener takes."""
    if listener.kind in ("http", "redir", "rtcp"):
        return frozenset(("tcp",))
    if listener.kind == "tunnel":
        return frozenset(listener.network)
    return frozenset(("tcp", "udp") if listener.udp else ("tcp",))


def _check_clashes(placed: list[Placed]) -> None:
    taken: dict[tuple[str, int, int], list[Placed]] = {}
    for one in placed:
        mine = one.listener
        version = 6 if ":" in mine.listen else 4
        for transport in sorted(carried_by(mine)) if mine.port else ():
            others = taken.setdefault((transport, version, mine.port), [])
            for other in others:
                where = (mine.listen, other.listener.listen)
                if where[0] == where[1] or _WILDCARD[version] in where:
                    place = f"{other.listener.name} ({other.section.at(other.key)})"
                    message = f"{transport} port {mine.port} on {mine.listen} is already taken by {place}"
                    one.section.error(one.key, message)
                    break
            others.append(one)
