"""A router as a plain object, with every fault one may have, and a stage on which a lease meets it while time flies."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle

from rtcp.nat.portmap.igd import Asked, Replied
from rtcp.nat.portmap.lease import Call, Lease, Search, Send, Status
from rtcp.nat.portmap.values import Protocol, Transport, Wanted, Way

GATEWAY, SOURCE, OUTSIDE = "192.168.1.1", "192.168.1.20", "203.0.113.7"
LOCATION = f"http://{GATEWAY}:5000/rootDesc.xml"
NONCE = bytes(range(12))
WANTED = Wanted(Transport.UDP, 4000)
WAY = Way(GATEWAY, SOURCE)

FOUND = (
    "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
    f"USN: uuid:0\r\nLocation: {LOCATION}\r\n\r\n"
).encode()


def description(version: int = 1, control: str = "/ctl/IPConn", head: str = "", kind: str = "WANIPConnection") -> bytes:
    return (
        f'<?xml version="1.0"?>\n{head}<root xmlns="urn:schemas-upnp-org:device-1-0"><device><deviceList><device>'
        "<serviceList><service><serviceType>urn:schemas-upnp-org:service:WANCommonInterfaceConfig:1</serviceType>"
        "<controlURL>/ctl/CmnIfCfg</controlURL></service></serviceList><deviceList><device><serviceList><service>"
        f"<serviceType>urn:schemas-upnp-org:service:{kind}:{version}</serviceType>"
        f"<controlURL>{control}</controlURL></service></serviceList></device></deviceList></device></deviceList>"
        "</device></root>"
    ).encode()


def soap(action: str, **arguments: str) -> bytes:
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in arguments.items())
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
        f'<u:{action}Response xmlns:u="x">{inner}</u:{action}Response></s:Body></s:Envelope>'
    ).encode()


def fault(code: int) -> Replied:
    return Replied(
        500,
        (
            '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault>'
            "<faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>"
            f'<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{code}</errorCode>'
            "</UPnPError></detail></s:Fault></s:Body></s:Envelope>"
        ).encode(),
    )


@dataclass
class FakeRouter:
    """Speaks what is in ``speaks``; refuses with the codes given."""

    speaks: frozenset[Protocol] = frozenset(Protocol)
    ip: str = OUTSIDE
    grants: int = 7200
    pcp_error: int = 0
    pmp_error: int = 0
    upnp_version: int = 1
    upnp_faults: dict[tuple[str, int | None], int] = field(default_factory=dict)
    """By (action, port outside or None for any)."""
    permanent_only: bool = False
    restarted: float = -1000.0
    mappings: dict[Protocol, tuple[int, int]] = field(default_factory=dict)
    """Protocol to (port outside, lifetime)."""
    heard: list[str] = field(default_factory=list)

    def clock(self, now: float) -> int:
        return int(now - self.restarted)

    def forget(self, now: float) -> None:
        self.restarted = now
        self.mappings.clear()

    def datagram(self, data: bytes, now: float) -> bytes | None:
        if data[0] == 2:
            return self._pcp(data, now) if Protocol.PCP in self.speaks else None
        if Protocol.NAT_PMP not in self.speaks:
            return None
        return self._pmp(data, now)

    def _pcp(self, data: bytes, now: float) -> bytes:
        (lifetime,) = struct.unpack_from("!I", data, 4)
        nonce, protocol, internal, external = struct.unpack_from("!12sB3xHH", data, 24)
        self.heard.append(f"PCP {lifetime} {external}")
        granted = min(lifetime, self.grants)
        if self.pcp_error:
            granted = 600
        elif lifetime:
            self.mappings[Protocol.PCP] = external, granted
        else:
            self.mappings.pop(Protocol.PCP, None)
        head = struct.pack("!BBBBII12x", 2, 0x81, 0, self.pcp_error, granted, self.clock(now))
        return head + struct.pack("!12sB3xHH", nonce, protocol, internal, external) + _mapped(self.ip)

    def _pmp(self, data: bytes, now: float) -> bytes:
        operation = data[1]
        if operation == 0:
            self.heard.append("NAT-PMP address")
            return struct.pack("!BBHI", 0, 128, 0, self.clock(now)) + ipaddress.ip_address(self.ip).packed
        _, _, internal, external, lifetime = struct.unpack("!BBxxHHI", data)
        self.heard.append(f"NAT-PMP {lifetime} {external}")
        if self.pmp_error:
            return struct.pack("!BBHIHHI", 0, 128 + operation, self.pmp_error, self.clock(now), internal, 0, 0)
        if lifetime:
            self.mappings[Protocol.NAT_PMP] = external, min(lifetime, self.grants)
        else:
            self.mappings.pop(Protocol.NAT_PMP, None)
        granted = min(lifetime, self.grants)
        return struct.pack("!BBHIHHI", 0, 128 + operation, 0, self.clock(now), internal, external, granted)

    def http(self, asked: Asked) -> Replied:
        if not asked.body:
            self.heard.append("UPnP description")
            return Replied(200, description(self.upnp_version))
        action = dict(asked.headers)["soapaction"].strip('"').rpartition("#")[2]
        text = asked.body.decode()
        port = int(_between(text, "NewExternalPort") or 0)
        lease = int(_between(text, "NewLeaseDuration") or 0)
        self.heard.append(f"UPnP {action}" + (f" {lease} {port}" if port else ""))
        for key in ((action, port), (action, None)):
            if code := self.upnp_faults.get(key):
                return fault(code)
        if action == "GetExternalIPAddress":
            return Replied(200, soap(action, NewExternalIPAddress=self.ip))
        if action == "DeletePortMapping":
            self.mappings.pop(Protocol.UPNP, None)
            return Replied(200, soap(action))
        if self.permanent_only and lease:
            return fault(725)
        self.mappings[Protocol.UPNP] = port, lease
        return Replied(200, soap(action, NewReservedPort=str(port)) if "Any" in action else soap(action))


class Stage:
    """A lease, a router, and a clock that jumps to the next deadline.  What the router says arrives at once."""

    def __init__(
        self,
        router: FakeRouter,
        wanted: Wanted = WANTED,
        *,
        way: Way = WAY,
        refuse: Callable[[bytes], bool] = lambda data: False,
        **options: object,
    ) -> None:
        """``refuse``: datagrams that are answered by ICMP."""
        dice = cycle((0.0, 0.5, 0.99))
        self.router, self.refuse, self.now = router, refuse, 0.0
        self.lease = Lease(wanted, way, nonce=NONCE, die=lambda: next(dice), now=0.0, **options)  # type: ignore[arg-type]
        self.sent: list[bytes] = []
        self.play()

    @property
    def status(self) -> Status:
        return self.lease.status

    def play(self) -> None:
        """Do what the lease wants done now."""
        while (action := self.lease.next_action()) is not None:
            if isinstance(action, Send):
                self.sent.append(action.data)
                if self.refuse(action.data):
                    self.lease.closed(self.now)
                elif (answer := self.router.datagram(action.data, self.now)) is not None:
                    self.lease.receive(answer, self.now)
            elif isinstance(action, Search):
                if Protocol.UPNP in self.router.speaks:
                    self.lease.found(FOUND, self.now)
            elif isinstance(action, Call):
                self.lease.replied(action.ticket, self.router.http(action.asked), self.now)

    def until(self, agreed: Callable[[], bool], at_most: float = 1e9) -> None:
        """Let time pass until something is so."""
        while not agreed():
            deadline = self.lease.next_deadline()
            assert deadline <= at_most, f"at {self.now} nothing more happens: {self.status}"
            self.now = max(self.now, deadline)
            self.lease.handle_timeout(self.now)
            self.play()

    def wait(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        while self.lease.next_deadline() <= end:
            self.now = max(self.now, self.lease.next_deadline())
            self.lease.handle_timeout(self.now)
            self.play()
        self.now = end


def _mapped(ip: str) -> bytes:
    address = ipaddress.ip_address(ip)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def _between(text: str, name: str) -> str:
    return text.partition(f"<{name}>")[2].partition(f"</{name}>")[0]
