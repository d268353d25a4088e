"""Public ports leased to devices, for what has no name in its first bytes: ssh, games, DNS, a VPN.

A lease is a port of the SN, of TCP or of UDP, that leads to one service of one device.  It is asked for by the name of
the service, so to ask again is to renew; which port it is follows from device and service where that is free, so it is
the same one after the SN lost its memory.  A port that was given back or ran out is kept for a while for whoever had
it: nobody picks up the visitors of another.

Time is Unix time in seconds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from cyfs_ns.errors import BadWire, Refused
from cyfs_ns.identity.did import Did, parse_did

REST: Final = 7 * 86400.0
"""Seconds for which a port that is not leased any more is nobody else's."""

_MOST_OCTETS = 64 << 20
_SERVICE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?").fullmatch

Network: TypeAlias = Literal["tcp", "udp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """``port`` of ``network`` leads to ``service`` of ``device``, whose ``owner`` is charged, before ``until``.

    ``proves``: the service makes sure of its clients' addresses before it says much to them, as QUIC, WireGuard and
    DTLS do, so there is no need to limit its answers.
    """

    network: Network
    port: int
    owner: Did
    device: Did
    service: str
    until: float
    proves: bool = False


class Leases:
    """What is leased of the ports ``first`` to ``last``: at most ``most`` of one device, for ``lifetime`` each."""

    def __init__(self, ports: tuple[int, int] | None, most: int, lifetime: float) -> None:
        self._ports, self._most, self._lifetime = ports, most, lifetime
        self._held: dict[tuple[Network, int], Lease] = {}
        self._spoilt: set[tuple[Network, int]] = set()

    def ask(
        self,
        owner: Did,
        device: Did,
        network: Network,
        service: str,
        now: float,
        *,
        port: int = 0,
        proves: bool = False,
    ) -> Lease:
        """Lease a port, or renew the lease; ``port`` is the one that is wanted, 0 for any.  Raises ``Refused``."""
        if self._ports is None:
            raise Refused("this SN leases no ports")
        if not _SERVICE(service):
            raise Refused(f"{service[:60]!r} is no name of a service")
        first, last = self._ports
        if port and not first <= port <= last:
            raise Refused(f"port {port} is none of those that are leased: {first}-{last}")
        mine = [lease for lease in self._held.values() if lease.device == device]
        same = [one for one in mine if (one.network, one.service) == (network, service) and port in (0, one.port)]
        standing = [lease for lease in mine if now < lease.until]
        if same:
            at = max(same, key=lambda lease: lease.until).port
        else:
            at = port or self._choose(network, device, service, now)
        held = self._held.get((network, at))
        if held is not None and held.device != device and now < held.until + REST:
            raise Refused(f"{network} port {at} is somebody else's")
        if held not in standing and len(standing) >= self._most:
            raise Refused(f"a device has {self._most} ports at most")
        lease = Lease(
            network=network,
            port=at,
            owner=owner,
            device=device,
            service=service,
            until=now + self._lifetime,
            proves=proves,
        )
        self._held[network, at] = lease
        return lease

    def _choose(self, network: Network, device: Did, service: str, now: float) -> int:
        assert self._ports is not None
        first, last = self._ports
        size = last - first + 1
        digest = hashlib.sha256(f"{device}\n{network}\n{service}".encode()).digest()
        start = int.from_bytes(digest[:8]) % size
        for step in range(size):
            port = first + (start + step) % size
            held = self._held.get((network, port))
            if (network, port) not in self._spoilt and (held is None or now >= held.until + REST):
                return port
        raise Refused(f"all {network} ports are leased")

    def spoil(self, network: Network, port: int) -> None:
        """Another program of this machine has ``port``: whoever was given it has nothing, nor is anybody to be."""
        self._spoilt.add((network, port))
        self._held.pop((network, port), None)

    def give_back(self, device: Did, network: Network, port: int, now: float) -> bool:
        """``device`` needs it no more; whether it had it."""
        lease = self._held.get((network, port))
        if lease is None or lease.device != device or now >= lease.until:
            return False
        self._held[network, port] = replace(lease, until=now)
        return True

    def standing(self, now: float) -> Iterator[Lease]:
        """All that hold at ``now``."""
        return (lease for lease in self._held.values() if now < lease.until)

    def of(self, device: Did, now: float) -> list[Lease]:
        """Those of ``device``."""
        return [lease for lease in self.standing(now) if lease.device == device]

    def tidy(self, now: float) -> None:
        """Forget what is nobody's any more."""
        for key in [key for key, lease in self._held.items() if now >= lease.until + REST]:
            del self._held[key]

    def restore(self, leases: Iterable[Lease]) -> None:
        """Take up what was written down; what is no port of ours by now is left out."""
        for lease in leases:
            if self._ports is not None and self._ports[0] <= lease.port <= self._ports[1]:
                self._held[lease.network, lease.port] = lease

    def written(self) -> bytes:
        """All of it, for :func:`read_leases`."""
        rows = [
            [one.network, one.port, str(one.owner), str(one.device), one.service, one.until, one.proves]
            for one in self._held.values()
        ]
        return json.dumps({"leases": rows}, indent=0).encode()


def read_leases(untrusted: bytes) -> list[Lease]:
    """What :meth:`Leases.written` wrote.  Raises ``BadWire``."""
    if len(untrusted) > _MOST_OCTETS:
        raise BadWire(f"leases of {len(untrusted)} octets")
    try:
        return [_lease(*row) for row in json.loads(untrusted)["leases"]]
    except BadWire:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as fault:
        raise BadWire(f"these are no leases: {fault}") from None


def _lease(
    network: object, port: object, owner: object, device: object, service: object, until: object, proves: object
) -> Lease:
    if network != "tcp" and network != "udp":
        raise BadWire(f"a lease of {network!r}")
    if type(port) is not int or not 0 < port < 65536 or not isinstance(until, int | float) or type(proves) is not bool:
        raise BadWire("a lease of no port, or for no time")
    if not isinstance(owner, str) or not isinstance(device, str) or not isinstance(service, str):
        raise BadWire("a lease of nobody")
    if not _SERVICE(service) or not abs(until) < 1 << 53:
        raise BadWire("a lease of nothing, or for ever")
    return Lease(
        network="tcp" if network == "tcp" else "udp",
        port=port,
        owner=parse_did(owner).canonical,
        device=parse_did(device).canonical,
        service=service,
        until=float(until),
        proves=proves,
    )
