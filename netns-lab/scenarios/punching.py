"""Devices that punch, for scenarios: real sockets, the real machines, and a rendezvous that is a function call.

What a relay would do, carrying one offer each way, takes ``RELAY_RTT`` here.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio
from netnslab import Host, Nat

from rtcp.io.nat.punch import Outcome, UdpSockets, carry_out
from rtcp.nat.budget import Budget
from rtcp.nat.candidates import (
    Candidate,
    Filtering,
    Kind,
    Mapping,
    Offer,
    Transport,
    priority,
    read_offer,
    worth_offering,
)
from rtcp.nat.candidates import Nat as Says
from rtcp.nat.probe import attempt_of
from rtcp.nat.punch import Punch

RELAY_RTT = 0.02
UDP_PORT = TCP_PORT = 3478
_WORDS = {"EIM": Mapping.EIM, "ADM": Mapping.ADM, "APDM": Mapping.APDM}
_FILTERS = {"EIF": Filtering.EIF, "ADF": Filtering.ADF, "APDF": Filtering.APDF}
PUBLIC = Says(mapping=Mapping.NONE, filtering=Filtering.EIF, tcp=True)


def says(nat: Nat, *, udp: bool = True, tcp: bool = True, delta: int = 0) -> Says:
    """What a device behind ``nat`` tells its peer."""
    return Says(mapping=_WORDS[nat.mapping], filtering=_FILTERS[nat.filtering], udp=udp, tcp=tcp, delta=delta)


@dataclass
class Device:
    """A host, and what it says of its NAT."""

    host: Host
    says: Says
    six: bool = False


@dataclass
class Met:
    """How two devices met: both outcomes, seconds from the first offer until both had a way, the most probes."""

    outcomes: tuple[Outcome, Outcome]
    seconds: float | None
    probes: int

    @property
    def how(self) -> str:
        one, other = (outcome.verdict.direct for outcome in self.outcomes)
        if one != other:
            return "half"
        return self.outcomes[0].verdict.ways[0].target[0].name.lower() if one else "relay"

    @property
    def why(self) -> str:
        return self.outcomes[0].verdict.why


@dataclass
class _Ready:
    device: Device
    sockets: list[trio.socket.SocketType]
    udp: UdpSockets
    tcp: tuple[str, int]
    offer: Offer
    first_met: list[float] = field(default_factory=list)


async def meet(one: Device, other: Device, server: str, *, private: bool = False) -> Met:
    """``one`` offers, ``other`` answers; then data goes over what they found, or this fails."""
    async with trio.open_nursery() as nursery:
        ends = [await _prepare(device, server, nursery, private=private) for device in (one, other)]
        began = trio.current_time()
        secret = secrets.token_bytes(32)
        outcomes: dict[int, Outcome] = {}

        async def attempt(index: int, told: trio.Event, tells: trio.Event) -> None:
            await told.wait()
            await trio.sleep(RELAY_RTT / 2)
            tells.set()  # an answer cannot arrive before it was sent, however busy the machine
            end, far = ends[index], ends[1 - index]
            machine = Punch(
                end.offer,
                far.offer,
                opens=index == 1,
                secret=secret,
                start=trio.current_time(),
                rtt=RELAY_RTT,
                budget=Budget(),
                own=frozenset(end.device.host.addresses),
                private=private,
            )
            outcomes[index] = await carry_out(
                machine,
                end.udp,
                tcp=[end.tcp],
                on_met=lambda met: end.first_met.append(trio.current_time()),
                open_socket=lambda family, kind: end.device.host.call(lambda: socket.socket(family, kind)),
            )

        async with trio.open_nursery() as attempts:
            offered, answered, begun = trio.Event(), trio.Event(), trio.Event()
            attempts.start_soon(attempt, 1, offered, answered)
            attempts.start_soon(attempt, 0, answered, begun)
            offered.set()
        both = (outcomes[0], outcomes[1])
        if all(outcome.verdict.direct for outcome in both):
            with trio.fail_after(60):
                await _talk(ends, both)
        for outcome in both:
            for stream in outcome.streams.values():
                await stream.aclose()
        nursery.cancel_scope.cancel()
    for end in ends:
        for sock in end.sockets:
            sock.close()
    times = [end.first_met[0] for end in ends if end.first_met]
    seconds = max(times) - began if len(times) == 2 else None
    return Met(both, seconds, max(outcome.verdict.probes for outcome in both))


async def reflect_tcp(stream: trio.SocketStream) -> None:
    """Tell a connection whence it comes: what STUN is to UDP."""
    host, port = stream.socket.getpeername()[:2]
    await stream.send_all(f"{host} {port}\n".encode())


async def _prepare(device: Device, server: str, nursery: trio.Nursery, *, private: bool) -> _Ready:
    host, found = device.host, []
    tcp = (host.ip, secrets.randbelow(20000) + 10000)
    if device.says.tcp:
        seen = await observe_tcp(host, tcp, server)
        found.append(Candidate(address=host.ip, port=tcp[1], kind=Kind.HOST, transport=Transport.TCP))
        if seen[0] != host.ip:
            found.append(Candidate(address=seen[0], port=seen[1], kind=Kind.OBSERVED, transport=Transport.TCP))
    udp, outside = await _udp_socket(host, server if device.says.udp else None)
    sockets = [udp]
    found.append(Candidate(address=host.ip, port=udp.getsockname()[1], kind=Kind.HOST))
    if device.six:
        sockets.append(await host.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        await sockets[1].bind((host.ip6, 0))
        found.append(Candidate(address=host.ip6, port=sockets[1].getsockname()[1], kind=Kind.IPV6))
    if outside is not None and outside[0] != host.ip:
        rank = priority(Kind.OBSERVED)
        found.append(Candidate(address=outside[0], port=outside[1], kind=Kind.OBSERVED, priority=rank))
    offer = Offer(nonce=secrets.token_bytes(16), nat=device.says, candidates=worth_offering(found, private=private))
    both = UdpSockets(*sockets)
    nursery.start_soon(both.run)
    return _Ready(device, sockets, both, tcp, read_offer(offer.write()))


async def _udp_socket(host: Host, server: str | None) -> tuple[trio.socket.SocketType, tuple[str, int] | None]:
    """A socket, and how the server sees it."""
    with trio.fail_after(15):
        while True:
            # A router with a thousand ports may mean one for two sockets, and then drops what the second says.
            sock = await host.socket(socket.AF_INET, socket.SOCK_DGRAM)
            await sock.bind((host.ip, 0))
            if server is None:
                return sock, None
            await sock.sendto(b"who?", (server, UDP_PORT))
            with trio.move_on_after(0.5):
                address, port = (await sock.recv(100)).decode().split()
                return sock, (address, int(port))
            sock.close()


async def observe_tcp(host: Host, local: tuple[str, int], server: str) -> tuple[str, int]:
    sock = await host.socket(socket.AF_INET, socket.SOCK_STREAM)
    with sock, trio.fail_after(60):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        await sock.bind(local)
        await sock.connect((server, TCP_PORT))
        line = b""
        while not line.endswith(b"\n"):
            line += await sock.recv(100)
    address, port = line.decode().split()
    return address, int(port)


async def _talk(ends: list[_Ready], outcomes: tuple[Outcome, Outcome]) -> None:
    """Each end says something over its best way, and hears the other."""

    async def say_and_hear(index: int) -> None:
        best = outcomes[index].verdict.ways[0].target
        if best[0] is Transport.TCP:
            stream = outcomes[index].streams[best]
            await stream.send_all(b"hello")
            heard = b""
            while len(heard) < 5:
                more = await stream.receive_some(5 - len(heard))
                assert more
                heard += more
        else:
            await ends[index].udp.send(b"hello", best[1:], None)
            heard = b""
            while heard != b"hello":
                heard, _ = await ends[index].udp.receive()
                assert heard == b"hello" or attempt_of(heard) is not None
        assert heard == b"hello"

    async def repeat() -> None:
        """Cables may lose what is said; over TCP nothing is repeated here."""
        while True:
            await trio.sleep(0.1)
            for end, outcome in zip(ends, outcomes, strict=True):
                best = outcome.verdict.ways[0].target
                if best[0] is Transport.UDP:
                    await end.udp.send(b"hello", best[1:], None)

    async with trio.open_nursery() as repeating:
        repeating.start_soon(repeat)
        await _both(say_and_hear)
        repeating.cancel_scope.cancel()


async def _both(say_and_hear: Callable[[int], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say_and_hear, 0)
        nursery.start_soon(say_and_hear, 1)
