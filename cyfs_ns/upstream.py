"""Where to ask: name servers as Clash writes them, and as resolv.conf(5) does.

``1.1.1.1``, ``udp://host:53``, ``tcp://host``, ``tls://host:853``, ``https://host/dns-query``, ``http://...``,
``system``, ``rcode://refused`` (answer so, ask nobody), ``dhcp://eth0`` and ``quic://host``.  A fragment says how to
get there: ``#PROXY-or-interface&skip-cert-verify=true``.  The last two schemes are understood but not carried by this
build; ``why_not`` says so, that a check can warn and a failure can explain itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from cyfs_ns import names
from cyfs_ns.errors import BadWire, ConfigFault

RCODE_WORDS = {
    "success": 0,
    "format_error": 1,
    "server_failure": 2,
    "name_error": 3,
    "not_implemented": 4,
    "refused": 5,
}
"""The words of ``rcode://``, with the response codes of RFC 1035 they stand for."""

_PORTS = {"udp": 53, "tcp": 53, "tls": 853, "https": 443, "http": 80, "quic": 853}
_NOT_CARRIED = {"quic": "DNS over QUIC", "dhcp": "asking DHCP for servers"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One name server."""

    scheme: str
    """``udp tcp tls https http system rcode dhcp quic``."""
    host: str = ""
    """Canonical name or address, IPv6 perhaps with ``%zone``; the interface of ``dhcp``, the word of ``rcode``."""
    port: int = 0
    path: str = ""
    """Path and query of ``https`` and ``http``."""
    via: str = ""
    """Outbound or interface to go through; empty: straight."""
    skip_cert_verify: bool = False
    ignored: tuple[str, ...] = ()
    """Fragment parameters that were read and have no effect in this build."""

    @property
    def why_not(self) -> str:
        """Why this build cannot ask it, or empty."""
        return f"{_NOT_CARRIED[self.scheme]} is not carried by this build" if self.scheme in _NOT_CARRIED else ""

    @property
    def address(self) -> str:
        """The literal address to connect to, or empty when ``host`` is a name that must be resolved first."""
        return self.host if names.is_ip(self.host.partition("%")[0]) else ""

    def __str__(self) -> str:
        where = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        via = f"#{self.via}" if self.via else ""
        return f"{self.scheme}://{where}{port}{self.path}{via}"


SYSTEM = Upstream(scheme="system")
"""Whatever the machine's resolv.conf says at the time of asking."""


def parse_upstream(text: str) -> Upstream:
    """One entry of ``nameserver:``.  Raises ``ConfigFault``."""
    try:
        return _parse(text.strip())
    except (ValueError, BadWire) as fault:
        raise ConfigFault(f"not a name server: {text!r}: {fault}") from None


def resolv_conf(text: str) -> tuple[Upstream, ...]:
    """The ``nameserver`` lines of a resolv.conf(5): the first three, or this machine when there are none."""
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[0] == "nameserver":
            address, percent, zone = fields[1].partition("%")
            if names.is_ip(address):
                found.append(Upstream(scheme="udp", host=names.ip(address) + percent + zone, port=53))
    return tuple(found[:3]) or (Upstream(scheme="udp", host="127.0.0.1", port=53),)


def _parse(text: str) -> Upstream:
    where, _, fragment = text.partition("#")
    via, skip, ignored = _fragment(fragment)
    if where in ("system", "system:", "system://"):
        return Upstream(scheme="system", via=via, ignored=ignored)
    if "://" not in where:
        where = f"udp://[{where}]" if where.count(":") > 1 and where[0] != "[" else f"udp://{where}"
    parts = urlsplit(where)
    if parts.scheme == "rcode":
        if parts.netloc not in RCODE_WORDS:
            raise ValueError(f"rcode is one of {', '.join(RCODE_WORDS)}")
        return Upstream(scheme="rcode", host=parts.netloc, ignored=ignored)
    if parts.scheme == "dhcp":
        return Upstream(scheme="dhcp", host=parts.netloc, ignored=ignored)
    if parts.scheme not in _PORTS:
        raise ValueError(f"unknown scheme {parts.scheme!r}")
    if not parts.hostname:
        raise ValueError("no host")
    address, percent, zone = parts.hostname.partition("%")
    is_http = parts.scheme in ("https", "http")
    if not is_http and (parts.path not in ("", "/") or parts.query):
        raise ValueError(f"{parts.scheme} takes no path")
    if parts.username is not None:
        raise ValueError("user names are not carried")
    return Upstream(
        scheme=parts.scheme,
        host=names.ip(address) + percent + zone if names.is_ip(address) else names.name(parts.hostname),
        port=parts.port if parts.port is not None else _PORTS[parts.scheme],
        path=((parts.path or "/dns-query") + (f"?{parts.query}" if parts.query else "")) if is_http else "",
        via=via,
        skip_cert_verify=skip,
        ignored=ignored,
    )


def _fragment(fragment: str) -> tuple[str, bool, tuple[str, ...]]:
    via, skip, ignored = "", False, []
    for item in filter(None, fragment.split("&")):
        key, equals, value = item.partition("=")
        if not equals:
            via = unquote(item)
        elif key == "skip-cert-verify":
            skip = value.lower() == "true"
        else:
            ignored.append(key)
    return via, skip, tuple(ignored)
