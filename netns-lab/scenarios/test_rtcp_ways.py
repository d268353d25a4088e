"""Devices behind NATs, and somebody who relays for both: their tunnel finds the direct way, leaves it and comes back.

The devices run here, on sockets of their hosts; what relays is an ordinary device that passes streams on.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import trio
from netnslab import HOME, NO_UDP, PORT_RESTRICTED, SYMMETRIC, Host, Lab, Link, Nat
from netnslab.traffic import tcp_server
from punching import PUBLIC, TCP_PORT, observe_tcp, reflect_tcp, says

from cyfs_ns.errors import Unreachable
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.keys import SecretKey
from rtcp.io.device import Carrier, Device, House, open_device
from rtcp.io.fifth import Version5
from rtcp.io.mux import MuxedTunnel
from rtcp.io.nat.share import Part
from rtcp.io.nat.stun import Observer
from rtcp.io.pipe import Pipe, TcpPipe, listen, receive_some, send_all
from rtcp.io.tunnel import StreamRequest
from rtcp.io.udp.pipe import UdpPipe
from rtcp.io.udp.sockets import TrainSocket
from rtcp.nat.candidates import Candidate, Kind, Offer, Transport, worth_offering
from rtcp.nat.candidates import Nat as Says
from rtcp.nat.stun import HostPort, Place, respond
from rtcp.party import Address, Found, Local
from tunnels.io.reactor import Reactor
from tunnels.io.relay import Relay

TCP, UDP, STUN = 2980, 2980, 3479
FILM = 81
"""What comes from there comes at the speed of a film, and not as fast as can be."""
CUT = "table inet cut { chain way { type filter hook forward priority -400; meta l4proto udp drop; }; }"
BLOCK = secrets.token_bytes(1 << 16)


@dataclass
class Body:
    """A device that runs on a host."""

    host: Host
    key: SecretKey
    device: Device | None = None
    where: tuple[Address, ...] = ()
    seen: tuple[Candidate, ...] = ()
    """What was found out about itself."""

    @property
    def did(self) -> Did:
        return dev_did(self.key.public)

    @property
    def live(self) -> Device:
        assert self.device is not None
        return self.device

    def tunnel(self, to: Body) -> MuxedTunnel:
        (found,) = [each for each in self.live.tunnels() if each.peer.device == to.did]
        assert isinstance(found, MuxedTunnel)
        return found

    def explained(self, to: Body) -> str:
        report = self.live.explain(to.did)
        assert report is not None
        return f"{report.current.name if report.current else None}: {report.why}"


@dataclass
class World:
    server: Body
    one: Body
    other: Body


async def until(true: Callable[[], object], seconds: float = 20) -> None:
    with trio.fail_after(seconds):
        while not true():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def pour(request: StreamRequest) -> None:
    """What is asked for comes without an end."""
    pipe = await request.accept()
    try:
        while True:
            await send_all(pipe, BLOCK)
            if request.port == FILM:
                await trio.sleep(0.02)
    except OSError:
        pipe.close()


async def reflect(host: Host) -> None:
    """STUN."""
    here = HostPort(host.ip, STUN)
    with await host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(here)
        while True:
            data, source = await sock.recvfrom(2048)
            if (reply := respond(data, HostPort(*source), Place(here=here))) is not None:
                await sock.sendto(reply.data, reply.to)


@asynccontextmanager
async def world(one: tuple[Host, Says], other: tuple[Host, Says], server: Host) -> AsyncIterator[World]:
    """``other`` has a tunnel to the server and serves; ``one`` knows that it may be reached through it, too."""
    made = World(*(Body(host, SecretKey(secrets.token_bytes(32))) for host in (server, one[0], other[0])))
    by_did = {body.did: body for body in (made.server, made.one, made.other)}
    reactor = Reactor()
    relays: list[Relay] = []

    async def find(did: Did, port: int | None) -> Found:
        body = by_did[did.canonical]
        return Found(body.key.public, body.where)

    def house(body: Body, nat: Says, serve) -> House:
        async def dial(host: str, port: int) -> Pipe:
            sock = await body.host.call(lambda: TcpPipe(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.connect_ex((host, port))
                await trio.lowlevel.wait_writable(sock)
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise Unreachable("refused", "connect_refused")
            except BaseException:
                sock.close()
                raise
            return sock

        async def relay(did: Did, found: Found) -> list[Carrier]:
            if did == made.server.did:
                return []
            return [Carrier("sn", lambda *_: body.live.open_stream(made.server.did, "other", 1), leads=True)]

        async def gather(part: Part, private: bool) -> Offer:
            if body.seen and not nat.tcp:
                return Offer(nonce=secrets.token_bytes(16), nat=nat, candidates=body.seen)
            place = part.addresses[0]
            observer = Observer(part)
            with trio.move_on_after(1):
                await observer.ask([HostPort(server.ip, STUN)])
            found = [Candidate(address=place[0], port=place[1], kind=Kind.HOST)]
            found += [Candidate(address=host, port=port, kind=Kind.OBSERVED) for host, port in observer.seen.values()]
            if nat.tcp:
                tcp = (body.host.ip, secrets.randbelow(20000) + 10000)
                seen = await observe_tcp(body.host, tcp, server.ip)
                for kind, (host, port) in ((Kind.HOST, tcp), (Kind.OBSERVED, seen)):
                    found.append(Candidate(address=host, port=port, kind=kind, transport=Transport.TCP))
            body.seen = worth_offering(dict.fromkeys(found), private=private)
            return Offer(nonce=secrets.token_bytes(16), nat=nat, candidates=body.seen)

        return House(
            find=find,
            dial=dial,
            serve=serve,
            relays=relay,
            gather=gather,
            trusts=lambda peer: nat.tcp,
            open_socket=lambda family, kind: body.host.call(lambda: socket.socket(family, kind)),
        )

    async def pass_on(request: StreamRequest) -> None:
        far = await made.server.live.open_stream(made.other.did, "rtcp.invalid", 1)
        relays.append(Relay(reactor, await request.accept(), far, idle=600, on_close=lambda *_: None))

    async def serve(request: StreamRequest) -> None:
        if request.host == "rtcp.invalid":
            made.other.live.accepted(await request.accept(), (server.ip, 1))
        else:
            await pour(request)

    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(reactor.close)
        await nursery.start(reactor.run)
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(reflect, server)
        await nursery.start(tcp_server, server, server.ip, TCP_PORT, reflect_tcp)
        for body, nat, served in (
            (made.server, PUBLIC, pass_on),
            (made.one, one[1], pour),
            (made.other, other[1], serve),
        ):
            host = body.host
            public = body is made.server or nat is PUBLIC
            doors = await host.call(lambda host=host: listen(TCP, (host.ip,))) if public else []
            body.where = ((host.ip, TCP),) if public else ()
            sockets = [] if body is made.server else [await host.call(lambda host=host: TrainSocket(host.ip, UDP))]
            fifth = Version5(reactor=reactor, versions=frozenset({5}), udp=sockets)
            local = Local(key=body.key, did=body.did, listen_port=TCP if public else 0)
            body.device = await stack.enter_async_context(
                open_device(local, house(body, nat, served), doors, version_5=fifth)
            )
        await made.other.live.tunnel(made.server.did)
        yield made


def homes(
    lab: Lab, one: Nat, other: Nat, delay: float = 0.01, *, tcp: bool = False
) -> tuple[tuple[Host, Says], tuple[Host, Says], Host]:
    core = lab.network("198.51.100.0/24", name="core")
    server = lab.host(core, name="server")
    ends = []
    for name, nat in (("one", one), ("other", other)):
        net = lab.network(f"192.168.{len(ends)}.0/24", uplink=core, nat=nat, name=f"home-{name}")
        ends.append((lab.host(net, name=name, link=Link(delay=delay)), says(nat, udp=nat is not NO_UDP, tcp=tcp)))
    return ends[0], ends[1], server


class Download:
    """Of ``body`` from ``far``; ``stalled`` is the longest time without a byte since it was set to 0."""

    def __init__(self) -> None:
        self.got = 0
        self.first = 0.0
        self.stalled = 0.0

    async def run(self, body: Body, far: Body, port: int = 80, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        began = trio.current_time()
        pipe = await body.live.open_stream(far.did, None, port)
        task_status.started()
        last = None
        try:
            while True:
                self.got += len(await receive_some(pipe, 1 << 16))
                now = trio.current_time()
                if last is None:
                    self.first = now - began
                else:
                    self.stalled = max(self.stalled, now - last)
                last = now
        finally:
            pipe.close()


def has_moved(tunnel: MuxedTunnel) -> bool:
    """Whether all of it is direct: a stream that has a carrier of its own comes a moment later."""
    return all(isinstance(line.pipe, UdpPipe) for line in tunnel._lines.values())


async def test_between_cones_a_download_goes_direct_and_back_to_the_relay_and_direct(lab, capsys):
    one, other, server = homes(lab, HOME, PORT_RESTRICTED)
    async with lab.up(), world(one, other, server) as here, trio.open_nursery() as nursery:
        router = one[0].ports[0].network.router
        await here.one.live.tunnel(here.server.did)
        download = Download()
        began = trio.current_time()
        await nursery.start(download.run, here.one, here.other)
        tunnel = here.one.tunnel(here.other)
        await until(lambda: isinstance(tunnel.pipe, UdpPipe))
        direct = trio.current_time() - began
        assert here.one.explained(here.other).endswith(": direct")
        told = [f"first byte {download.first * 1e3:.0f} ms, direct {direct * 1e3:.0f} ms"]
        await until(lambda: download.got > 8 << 20 and has_moved(tunnel))
        for _ in range(2):
            got, download.stalled = download.got, 0.0
            await router.run("nft", "-f", "-", stdin=CUT)
            await until(lambda: not isinstance(tunnel.pipe, UdpPipe))
            assert here.one.explained(here.other).endswith("stopped answering")
            await until(lambda got=got: download.got > got + (4 << 20))
            told.append(f"cut: {download.stalled * 1e3:.0f} ms without a byte")
            download.stalled = 0.0
            await router.run("nft", "delete", "table", "inet", "cut")
            await until(lambda: has_moved(tunnel))
            got = download.got
            await until(lambda got=got: download.got > got + (4 << 20))
            told.append(f"back: {download.stalled * 1e3:.0f} ms without a byte")
        assert here.one.tunnel(here.other) is tunnel
        with capsys.disabled():
            print("\n" + "\n".join(told))
        nursery.cancel_scope.cancel()


async def test_where_the_nats_do_not_allow_it_stays_relayed_and_says_why(lab):
    one, other, server = homes(lab, HOME, SYMMETRIC)
    async with lab.up(), world(one, other, server) as here, trio.open_nursery() as nursery:
        await nursery.start(Download().run, here.one, here.other)
        await until(lambda: "random-symmetric" in here.one.explained(here.other))
        assert here.one.explained(here.other) == "sn: relayed because the far NAT is random-symmetric"
        nursery.cancel_scope.cancel()


async def test_where_udp_is_blocked_connections_cross_and_the_tunnel_moves_there(lab):
    one, other, server = homes(lab, NO_UDP, HOME, tcp=True)
    async with lab.up(), world(one, other, server) as here, trio.open_nursery() as nursery:
        download = Download()
        await nursery.start(download.run, here.one, here.other)
        tunnel = here.one.tunnel(here.other)
        await until(lambda: isinstance(tunnel.pipe, TcpPipe))
        assert here.one.explained(here.other).startswith("tcp ")
        got = download.got
        await until(lambda: download.got > got + (1 << 20))
        nursery.cancel_scope.cancel()


async def test_a_running_stream_over_many_cuts_and_reboots_of_a_nat(lab, capsys):
    """A cut ends when the download goes on; the next begins when all of the tunnel is direct again."""
    one, other, server = homes(lab, HOME, PORT_RESTRICTED)
    async with lab.up(timeout=280), world(one, other, server) as here, trio.open_nursery() as nursery:
        router = one[0].ports[0].network.router
        await here.one.live.tunnel(here.server.did)
        download = Download()
        await nursery.start(download.run, here.one, here.other, FILM)
        tunnel = here.one.tunnel(here.other)
        stalls, backs = [], []

        async def goes_on() -> None:
            got = download.got
            await until(lambda: download.got > got + (1 << 18))

        async def direct() -> None:
            await until(lambda: has_moved(tunnel))
            await goes_on()

        await direct()
        for _ in range(20):
            download.stalled = 0.0
            await router.run("nft", "-f", "-", stdin=CUT)
            await until(lambda: not isinstance(tunnel.pipe, UdpPipe))
            await goes_on()
            stalls.append(download.stalled)
            await router.run("nft", "delete", "table", "inet", "cut")
            await direct()
        wan, lan = (port.addresses[0].partition("/")[0] for port in router.ports)
        for _ in range(5):
            await router.run("nft", "flush", "ruleset")
            await router.run("conntrack", "-F")
            await trio.sleep(2)
            await router.run("nft", "-f", "-", stdin=HOME.ruleset(wan, lan))
            began = trio.current_time()
            await goes_on()
            await direct()
            backs.append(trio.current_time() - began)
        assert here.one.tunnel(here.other) is tunnel
        with capsys.disabled():
            stalls.sort()
            told = ", ".join(f"{stall * 1e3:.0f}" for stall in stalls)
            print(f"\nms without a byte at {len(stalls)} cuts: {told}; p95 {stalls[-1 - len(stalls) // 20] * 1e3:.0f}")
            print("s from the NAT's return to the direct way: " + ", ".join(f"{back:.1f}" for back in sorted(backs)))
        nursery.cancel_scope.cancel()
