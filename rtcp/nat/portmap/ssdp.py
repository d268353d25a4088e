"""Finding a UPnP router: a search to everybody on the link, and answers that say where a description is (SSDP).

Source: UPnP Device Architecture 2.0, section 1.3.  Anybody on the link can answer with any URL, so a URL is only used
if it leads to the router itself: else we would be made to call whatever server an attacker likes from where we stand.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from cyfs_ns.errors import BadWire

PORT: Final = 1900
GROUP: Final = "239.255.255.250"
HOPS: Final = 2
"""For which a search lives."""

_DEVICES = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
)
_MAX_ANSWER = 2048
_MAX_URL = 512
_WEB, _FREE = 80, 1024


def searches() -> tuple[bytes, ...]:
    """Datagrams that make routers answer, each within a second."""
    return tuple(
        (
            f'M-SEARCH * HTTP/1.1\r\nHOST: {GROUP}:{PORT}\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: {device}\r\n\r\n'
        ).encode()
        for device in _DEVICES
    )


def read_answer(untrusted: bytes, gateway: str) -> str:
    """The URL of a description of the router ``gateway``.  Raises ``BadWire``: it is none, or not of that router."""
    if len(untrusted) > _MAX_ANSWER:
        raise BadWire(f"SSDP: an answer of {len(untrusted)} octets")
    first, *lines = untrusted.decode("latin-1").split("\r\n")
    if first.split(" ")[:2] != ["HTTP/1.1", "200"]:
        raise BadWire("SSDP: no answer to a search")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    if ":internetgatewaydevice:" not in headers.get("st", "").lower():
        raise BadWire("SSDP: an answer of something that is no router")
    return own_url(headers.get("location", ""), gateway)


def own_url(untrusted: str, gateway: str) -> str:
    """The URL, if it is one of the router itself.  Raises ``BadWire``.

    That is: plain http, the address of the router and no name, no credentials, and the port of the web or a free one,
    so that a forged answer cannot make us talk to the router's other services.
    """
    shown = untrusted[:100]
    if len(untrusted) > _MAX_URL or not untrusted.isascii() or not untrusted.isprintable() or " " in untrusted:
        raise BadWire(f"UPnP: not a URL: {shown!r}")
    try:
        parts = urlsplit(untrusted)
        host, port = ipaddress.ip_address(parts.hostname or ""), parts.port or _WEB
    except ValueError:
        raise BadWire(f"UPnP: a URL without an address: {shown!r}") from None
    if parts.scheme != "http" or "@" in parts.netloc or host != ipaddress.ip_address(gateway):
        raise BadWire(f"UPnP: a URL that leads elsewhere: {shown!r}")
    if port != _WEB and port < _FREE:
        raise BadWire(f"UPnP: a URL of another service: {shown!r}")
    return untrusted
