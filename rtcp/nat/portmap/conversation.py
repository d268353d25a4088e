"""Which calls a mapping by UPnP takes, and what is made of a router's answers.

Each method is a conversation: a generator that yields what is to be asked, is sent what was replied, and returns the
result.  It raises ``Refused`` where the router will not, and ``BadWire`` where it talks nonsense.

Routers differ in what they cannot do: lend for a time (725), use another port outside than inside (724), let two hosts
share one (718), choose one themselves (version 2 can).  All of that is asked for first and then done without.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Final, TypeAlias

from cyfs_ns.errors import BadWire, Refused
from rtcp.nat.portmap import igd
from rtcp.nat.portmap.igd import Asked, Fault, Replied, Service
from rtcp.nat.portmap.values import Grant, Wanted, Way, not_public

Talk: TypeAlias = Generator[Asked, Replied, Grant]

_DESCRIPTION = "cyfs-gateway"
_TRIES = 6
_FREE_PORTS: Final = range(20000, 60000)
_PORT = re.compile(r"[1-9][0-9]{0,4}\Z")
_NOWHERE = "0.0.0.0"
_UNCONNECTED = "it has no public address outside"


class Igd:
    """The router, as far as one mapping needs it."""

    def __init__(self, location: str, wanted: Wanted, way: Way, die: Callable[[], float]) -> None:
        """``location``: URL of the router's description; ``die``: gives numbers in [0, 1)."""
        self._location, self._wanted, self._way, self._die = location, wanted, way, die
        self._service: Service | None = None
        self._asked = 0
        """The port outside that may be mapped to us by now."""

    def acquire(self, preferred: int, lifetime: int) -> Talk:
        """A mapping, at ``preferred`` or another port, for ``lifetime`` seconds or for ever."""
        described = yield Asked(self._location)
        if described.status != 200:
            raise BadWire(f"UPnP: a description with status {described.status}")
        services = igd.read_description(described.body, self._location, self._way.gateway)
        for self._service in services:
            ip = yield from self._address(self._service)
            if ip != _NOWHERE:
                return (yield from self._add(self._service, ip, preferred, lifetime))
        raise Refused(_UNCONNECTED)

    def renew(self, port: int, lifetime: int) -> Talk:
        """The same mapping again, or another in its place if the router forgot it and gave its port away."""
        if self._service is None:
            raise BadWire("UPnP: nothing is there to be renewed")
        ip = yield from self._address(self._service)
        if ip == _NOWHERE:
            raise Refused(_UNCONNECTED)
        return (yield from self._add(self._service, ip, port, lifetime))

    @property
    def owes(self) -> bool:
        """Whether the router may hold a mapping of ours."""
        return bool(self._asked and self._service)

    def release(self) -> Asked:
        """Deletes what was mapped; only while it ``owes`` something.  The reply does not matter."""
        if self._service is None:
            raise BadWire("UPnP: nothing is there to be released")
        asked, self._asked = self._asked, 0
        return igd.call(self._service, "DeletePortMapping", *igd.name_of(self._wanted.transport, asked))

    def _address(self, service: Service) -> Generator[Asked, Replied, str]:
        action = "GetExternalIPAddress"
        reply = igd.read_reply((yield igd.call(service, action)), action)
        ip = _NOWHERE if isinstance(reply, Fault) else reply.get("NewExternalIPAddress", "") or _NOWHERE
        not_public(ip)  # an address at all
        return ip

    def _add(self, service: Service, ip: str, preferred: int, lifetime: int) -> Talk:
        wanted, inside = self._wanted, (self._way.source, self._wanted.port)
        port, any_port, fault = preferred, service.second and preferred != self._asked, Fault(0)
        for _ in range(_TRIES):
            before, self._asked = self._asked, port
            action = "AddAnyPortMapping" if any_port else "AddPortMapping"
            arguments = igd.mapping(wanted.transport, port, inside, lifetime, _DESCRIPTION)
            reply = igd.read_reply((yield igd.call(service, action, *arguments)), action)
            if not isinstance(reply, Fault):
                self._asked = port = _reserved(reply) if any_port else port
                return Grant(ip, port, lifetime)
            fault, strange = reply, reply.code in (igd.CONFLICT, igd.CONFLICT_WITH_MECHANISM)
            # What is not ours must never be deleted.
            self._asked = 0 if strange and before == port else before
            if fault.code == igd.PERMANENT_ONLY and lifetime:
                lifetime = 0
            elif fault.code == igd.SAME_PORTS_ONLY and port != wanted.port:
                port = wanted.port
            elif strange:
                port = _FREE_PORTS[int(self._die() * len(_FREE_PORTS))]
            elif any_port and fault.code != igd.NOT_AUTHORISED:
                any_port = False
            else:
                break
        raise Refused(fault.words)


def _reserved(reply: dict[str, str]) -> int:
    text = reply.get("NewReservedPort", "")
    if not _PORT.match(text) or int(text) > 65535:
        raise BadWire(f"UPnP: mapped to port {text!r}")
    return int(text)
