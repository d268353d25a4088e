"""Calls to a UPnP router: what its description offers, SOAP requests, and replies (WANIPConnection:1 and :2).

A router describes itself in XML; among its services one holds the port mappings, and a call to it is an HTTP POST of a
little XML to the service's control URL.  ``conversation`` says which calls are made, and when.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin
from xml.sax.saxutils import escape

from cyfs_ns.errors import BadWire
from rtcp.nat.portmap.ssdp import own_url
from rtcp.nat.portmap.values import Transport
from rtcp.nat.portmap.xmltree import read_xml

INVALID_ACTION, NOT_AUTHORISED, CONFLICT = 401, 606, 718
SAME_PORTS_ONLY, PERMANENT_ONLY, CONFLICT_WITH_MECHANISM = 724, 725, 729
NO_SUCH_ENTRY = 714

_WORDS: Final = {
    401: "invalid action",
    402: "invalid arguments",
    501: "action failed",
    606: "not authorised",
    714: "no such mapping",
    715: "it wants to know who may come in",
    716: "it wants a port outside",
    718: "that port outside is somebody else's",
    724: "the ports outside and inside must be the same",
    725: "only mappings for ever",
    726: "it wants nobody named who may come in",
    727: "it wants no port outside",
    728: "no port is free",
    729: "that port outside serves something else",
    732: "no wildcard for the port inside",
}
_SERVICE = re.compile(r"urn:schemas-upnp-org:service:WAN(?:IP|PPP)Connection:([12])\Z")
_MAX_SERVICES = 4
_MAX_ARGUMENT = 256
_NUMBER = re.compile(r"[0-9]{1,9}\Z")
_XMLNS = "http://schemas.xmlsoap.org/soap/envelope/"
_ENCODING = "http://schemas.xmlsoap.org/soap/encoding/"


@dataclass(frozen=True, slots=True)
class Service:
    """What holds the port mappings of one connection of the router."""

    kind: str
    control: str
    """URL, of the router itself."""

    @property
    def second(self) -> bool:
        """It can choose a free port itself: version 2 of WANIPConnection."""
        return self.kind.endswith("WANIPConnection:2")


@dataclass(frozen=True, slots=True)
class Asked:
    """One HTTP request to the router: a GET without body, else a POST."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Replied:
    """The whole response to it; redirects are not followed."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """The router refuses a call."""

    code: int
    """0: it did not say."""

    @property
    def words(self) -> str:
        """The code."""
        return _WORDS.get(self.code, f"error {self.code}" if self.code else "an error it does not name")


def read_description(untrusted: bytes, location: str, gateway: str) -> tuple[Service, ...]:
    """The services that hold port mappings, those of version 2 first.

    ``location``: where the description came from.  Raises ``BadWire``: there are none, or they are not the router's.
    """
    root = read_xml(untrusted)
    base = root.get("URLBase") or location
    found: list[Service] = []
    for element in root.walk():
        kind, control = element.get("serviceType"), element.get("controlURL")
        if element.name == "service" and _SERVICE.match(kind) and control and len(found) < _MAX_SERVICES:
            try:
                url = urljoin(base, control)
            except ValueError:
                raise BadWire(f"UPnP: not a URL: {control[:100]!r}") from None
            found.append(Service(kind, own_url(url, gateway)))
    if not found:
        raise BadWire("UPnP: a router without port mappings")
    return tuple(sorted(found, key=lambda service: not service.second))


def call(service: Service, action: str, *arguments: tuple[str, str]) -> Asked:
    """One call; the arguments stand in the order of the service's description, which some routers insist on."""
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in arguments)
    body = (
        '<?xml version="1.0"?>\r\n'
        f'<s:Envelope xmlns:s="{_XMLNS}" s:encodingStyle="{_ENCODING}"><s:Body>'
        f'<u:{action} xmlns:u="{service.kind}">{inner}</u:{action}></s:Body></s:Envelope>\r\n'
    )
    headers = (("content-type", 'text/xml; charset="utf-8"'), ("soapaction", f'"{service.kind}#{action}"'))
    return Asked(service.control, headers, body.encode())


def mapping(
    transport: Transport, outside: int, inside: tuple[str, int], lease: int, description: str
) -> tuple[tuple[str, str], ...]:
    """The arguments of AddPortMapping and AddAnyPortMapping; ``lease``: seconds, 0 for ever."""
    return (
        *name_of(transport, outside),
        ("NewInternalPort", str(inside[1])),
        ("NewInternalClient", inside[0]),
        ("NewEnabled", "1"),
        ("NewPortMappingDescription", description),
        ("NewLeaseDuration", str(lease)),
    )


def name_of(transport: Transport, outside: int) -> tuple[tuple[str, str], ...]:
    """The arguments that name a mapping, and all of DeletePortMapping."""
    return ("NewRemoteHost", ""), ("NewExternalPort", str(outside)), ("NewProtocol", transport.name)


def read_reply(reply: Replied, action: str) -> dict[str, str] | Fault:
    """What a call returned, by the names of its arguments.  Raises ``BadWire``."""
    if reply.status not in (200, 500):
        raise BadWire(f"UPnP: status {reply.status}")
    for element in read_xml(reply.body).walk():
        if element.name == "Fault":
            codes = (below.get("errorCode") for below in element.walk())
            return Fault(next((int(code) for code in codes if _NUMBER.match(code)), 0))
        if element.name == f"{action}Response":
            return {child.name: child.text.strip()[:_MAX_ARGUMENT] for child in element.children}
    raise BadWire(f"UPnP: no reply to {action}")
