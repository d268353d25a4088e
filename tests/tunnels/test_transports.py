"""Every transport sits the exam, against real proxies where they exist."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from cyfs_ns.errors import ConfigFault, Refused, Unreachable
from tests.tunnels import peers
from tests.tunnels.exam import check_endpoint, check_packets, check_tunnel
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.io.direct import Sockets
from tunnels.io.leaf import Dialer, Direct, Leaf, Tls
from tunnels.io.proxies import Http, Socks5, SocksPackets
from tunnels.io.reactor import Reactor
from tunnels.io.relay import Relay
from tunnels.io.stream import EndpointStream
from tunnels.io.tls import TlsClient, wrap_tls
from tunnels.io.waiting import Preloaded, TcpEndpoint, receive_some, send_all
from tunnels.outbound import FlowHint, Outbound
from tunnels.socks import pack_udp
from tunnels.spec import DialOptions, DirectSpec, HttpSpec, RejectSpec, Socks5Spec, TlsOptions, TlsSpec

OPTIONS = DialOptions(connect_timeout=0.5)


async def no_names(host: str) -> Sequence[str]:
    return {"localhost": ["127.0.0.1"]}.get(host, ())


def direct(options: DialOptions = OPTIONS) -> Direct:
    return Direct(DirectSpec(name="DIRECT"), Sockets(options, no_names))


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return path


@pytest.fixture(scope="module")
def sing_box(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.SingBox]:
    with peers.SingBox(tmp_path_factory.mktemp("sing-box"), ca).run() as box:
        yield box


def socks(box: peers.SingBox, dialer: Dialer | None = None) -> Socks5:
    spec = Socks5Spec(
        name="socks", server="127.0.0.1", port=box.socks, username=box.user, password=box.password, udp=True
    )
    return Socks5(spec, dialer or direct(), 0.7)


def http(box: peers.SingBox, dialer: Dialer | None = None) -> Http:
    spec = HttpSpec(name="http", server="127.0.0.1", port=box.http, username=box.user, password=box.password)
    return Http(spec, dialer or direct(), 0.7)


def https(box: peers.SingBox, ca_file: Path, dialer: Dialer | None = None) -> Http:
    spec = HttpSpec(
        name="https",
        server="localhost",
        port=box.https,
        username=box.user,
        password=box.password,
        tls=True,
        tls_options=TlsOptions(certificate=str(ca_file)),
    )
    return Http(spec, dialer or direct(), 0.7)


async def tcp_pair() -> tuple[Endpoint, trio.SocketStream]:
    sock = trio.socket.socket()
    await sock.bind(("127.0.0.1", 0))
    sock.listen(1)
    async with trio.SocketListener(sock) as listener:
        ours = await direct().open_stream(Target(*sock.getsockname()))
        return ours, await listener.accept()


async def tls_over(lower: Endpoint, far: trio.SocketStream, ca: trustme.CA) -> tuple[Endpoint, EndpointStream]:
    """TLS on both ends of an open pair, both by us: only so can both half-close."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("home.example").configure_cert(server)
    client = ssl.create_default_context()
    ca.configure_trust(client)
    ends: dict[str, Endpoint] = {}

    async def accept() -> None:
        raw = TcpEndpoint(fileno=far.socket.detach())
        raw.setblocking(False)
        ends["theirs"] = await wrap_tls(raw, server, None, server_side=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        ends["ours"] = await wrap_tls(lower, client, "home.example")
    return ends["ours"], EndpointStream(ends["theirs"])


async def test_the_fake_sits_the_exam() -> None:
    async def make_pair() -> tuple[Endpoint, EndpointStream]:
        ours, theirs = (TcpEndpoint(fileno=end.detach()) for end in socket.socketpair())
        ours.setblocking(False)
        theirs.setblocking(False)
        return ours, EndpointStream(theirs)

    await check_endpoint(make_pair)


async def test_direct_sits_the_exam() -> None:
    await check_tunnel(direct())
    await check_packets(direct())


async def test_tls_keeps_the_rules(ca: trustme.CA) -> None:
    async def make_pair() -> tuple[Endpoint, EndpointStream]:
        return await tls_over(*await tcp_pair(), ca)

    await check_endpoint(make_pair)


async def test_socks5_through_microsocks() -> None:
    with peers.microsocks("bob", "secret") as port:
        spec = Socks5Spec(name="m", server="127.0.0.1", port=port, username="bob", password="secret")
        await check_tunnel(Socks5(spec, direct(), 0.7), half_close=False)
        with pytest.raises(Unreachable, match="carries no UDP"):
            await Socks5(spec, direct(), 0.5).open_packets(Target("127.0.0.1", 1))


async def test_socks5_through_sing_box(sing_box: peers.SingBox) -> None:
    await check_tunnel(socks(sing_box))
    # sing-box makes a socket for the family of the first packet, and ends the association at the other one.
    await check_packets(socks(sing_box), mixed=False)


async def test_http_connect_through_sing_box(sing_box: peers.SingBox) -> None:
    await check_tunnel(http(sing_box), hasty=True)


async def test_http_connect_through_tinyproxy(tmp_path: Path) -> None:
    with peers.tinyproxy(tmp_path, "bob", "secret") as port:
        spec = HttpSpec(name="t", server="127.0.0.1", port=port, username="bob", password="secret")
        await check_tunnel(Http(spec, direct(), 0.7), half_close=False, refusal="tunnel_open")


async def test_https_proxy_through_sing_box(sing_box: peers.SingBox, ca_file: Path) -> None:
    await check_tunnel(https(sing_box, ca_file), hasty=True)


@pytest.fixture(scope="module")
def socat_tls(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a TLS echo server that is not ours: socat with OpenSSL."""
    binary = shutil.which("socat")
    if binary is None:
        pytest.skip("needs the real socat (Debian package socat)")
    pem = tmp_path_factory.mktemp("socat") / "server.pem"
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    port = peers.free_port()
    listen = f"OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,verify=0,cert={pem}"
    with peers.running([binary, listen, "EXEC:cat"], [port]):
        yield port


def tls(dialer: Dialer, **options: Any) -> Tls:
    return Tls(TlsSpec(name="tls", tls_options=TlsOptions(**options)), dialer)


async def echoes(outbound: Outbound, target: Target) -> None:
    ep = await outbound.open_stream(target)
    try:
        with trio.fail_after(60):
            await send_all(ep, b"hello " * 10_000)
            got = b""
            while len(got) < 60_000:
                got += await receive_some(ep)
            assert got == b"hello " * 10_000
    finally:
        ep.close()


async def test_chains_of_every_kind(sing_box: peers.SingBox, ca_file: Path, socat_tls: int) -> None:
    goal = Target("localhost", socat_tls)
    trusting = {"certificate": str(ca_file)}
    for way in (
        direct(),
        socks(sing_box),
        http(sing_box, socks(sing_box)),
        socks(sing_box, http(sing_box)),
        https(sing_box, ca_file, socks(sing_box)),
        socks(sing_box, https(sing_box, ca_file, https(sing_box, ca_file))),
    ):
        await echoes(tls(way, **trusting), goal)


async def test_udp_goes_over_a_chain(sing_box: peers.SingBox) -> None:
    with trio.fail_after(60):
        await check_packets(socks(sing_box, socks(sing_box)), mixed=False)


async def test_tls_in_tls_keeps_the_rules(ca: trustme.CA) -> None:
    async def make_pair() -> tuple[Endpoint, EndpointStream]:
        ours, theirs = await tcp_pair()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("home.example").configure_cert(server)
        client = ssl.create_default_context()
        ca.configure_trust(client)
        far: Endpoint = TcpEndpoint(fileno=theirs.socket.detach())
        far.setblocking(False)  # type: ignore[attr-defined]
        for _ in range(2):
            ends: list[Endpoint] = []

            async def accept(far: Endpoint = far, ends: list[Endpoint] = ends) -> None:
                ends.append(await wrap_tls(far, server, None, server_side=True))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                ours = await wrap_tls(ours, client, "home.example")
            far = ends[0]
        return ours, EndpointStream(far)

    await check_endpoint(make_pair)


async def test_certificates_are_judged_as_told(ca: trustme.CA, ca_file: Path, socat_tls: int) -> None:
    goal = Target("localhost", socat_tls)
    good = ssl.get_server_certificate(("127.0.0.1", socat_tls))
    pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(good)).hexdigest()
    for accepted in (
        {"certificate": str(ca_file)},
        {"skip_cert_verify": True},
        {"fingerprint": pin},
        {"fingerprint": ":".join(pin[i : i + 2] for i in range(0, 64, 2)).upper()},
        {"certificate": str(ca_file), "sni": "localhost"},
    ):
        await echoes(tls(direct(), **accepted), goal)
    for refused in (
        {},
        {"certificate": str(ca_file), "sni": "elsewhere.example"},
        {"fingerprint": "00" * 32},
        {"skip_cert_verify": True, "fingerprint": "00" * 32},
    ):
        with pytest.raises(Unreachable) as fault:
            await tls(direct(), **refused).open_stream(goal)
        assert fault.value.reason == "tls_handshake"
    with pytest.raises(ConfigFault):
        await tls(direct(), certificate="/nowhere/ca.pem").open_stream(goal)


async def test_a_tls_stream_that_is_cut_is_an_error(ca: trustme.CA) -> None:
    near, far = await tcp_pair()
    ours, theirs = await tls_over(near, far, ca)
    await theirs.send_all(b"the beginning")
    assert await receive_some(ours) == b"the beginning"
    await theirs.aclose()
    with pytest.raises(OSError, match="EOF"):
        await receive_some(ours)
    ours.close()


async def test_a_tls_server_that_is_none_is_unreachable() -> None:
    async def babble(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 smtp.example ready\r\n")

    async def mute(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    for manner in (babble, mute):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, manner, 0, host="127.0.0.1"))
            goal = Target(*listeners[0].socket.getsockname())
            way = Tls(TlsSpec(name="tls"), direct())
            way._tls = TlsClient(TlsOptions(), 0.2)
            with pytest.raises(Unreachable) as fault:
                await way.open_stream(goal)
            assert fault.value.reason in ("tls_handshake", "connect_timeout")
            nursery.cancel_scope.cancel()


class Scripted:
    """A proxy that answers by rote, all in one packet, whatever it is asked."""

    def __init__(self, words: bytes) -> None:
        self._words = words
        self._far: list[socket.socket] = []

    async def open_stream(self, target: Target) -> Endpoint:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = await direct().open_stream(Target(*listener.getsockname()))
            theirs, _ = listener.accept()
        theirs.send(self._words)
        theirs.shutdown(socket.SHUT_WR)
        self._far.append(theirs)
        return ours

    async def open_packets(self, target: Target) -> PacketEndpoint:
        raise Unreachable("only streams")

    def leave(self) -> None:
        for sock in self._far:
            sock.close()


class Wrapped(Scripted):
    """The same, but no raw socket."""

    async def open_stream(self, target: Target) -> Endpoint:
        return Preloaded(await super().open_stream(target), b"")


@pytest.mark.parametrize("kind", [Scripted, Wrapped])
async def test_a_target_that_speaks_first_is_heard(kind: type[Scripted]) -> None:
    proxy = kind(b"\x05\x00" + b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50" + b"220 welcome")
    ep = await Socks5(Socks5Spec(name="s", server="s.example", port=1), proxy).open_stream(Target("a.example", 25))
    got = b""
    while chunk := await receive_some(ep, 5):
        got += chunk
    assert got == b"220 welcome"
    assert not ep.pending()
    ep.close()
    proxy.leave()


@pytest.mark.parametrize(
    "words", [b"", b"\x05", b"\x05\xff", b"HTTP/1.1 400 no\r\n\r\n", b"\x05\x00\x05\x02\x00\x01" + bytes(6)]
)
async def test_proxies_that_talk_nonsense_are_unreachable(words: bytes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for proxy in (Scripted(words), Wrapped(words)):
        over_socks = Socks5(Socks5Spec(name="s", server="s.example", port=1, udp=True), proxy)
        over_http = Http(HttpSpec(name="h", server="s.example", port=1), proxy)
        for way in (over_socks, over_http):
            with pytest.raises(Unreachable):
                await way.open_stream(Target("a.example", 80))
        with pytest.raises(Unreachable):
            await over_socks.open_packets(Target("127.0.0.1", 53))
        proxy.leave()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_wrong_password_is_no_way(sing_box: peers.SingBox) -> None:
    spec = Socks5Spec(name="s", server="127.0.0.1", port=sing_box.socks, username="alice", password="wrong")
    with pytest.raises(Unreachable) as fault:
        await Socks5(spec, direct()).open_stream(Target("127.0.0.1", 80))
    assert fault.value.reason == "tunnel_open"
    assert "wrong" not in str(fault.value) and "wrong" not in repr(spec)


async def test_an_association_ends_with_its_control_connection(sing_box: peers.SingBox) -> None:
    packets = await socks(sing_box).open_packets(Target("127.0.0.1", 53))
    packets._control.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
    with trio.fail_after(10), pytest.raises(ConnectionResetError):
        while True:
            await trio.lowlevel.wait_readable(packets.fileno())
            with suppress(BlockingIOError):
                packets.recv()
    packets.close()


class Post:
    """A packet endpoint that gives what was put in."""

    def __init__(self, *letters: tuple[bytes, Target]) -> None:
        self._letters = list(letters)
        self._event = os.eventfd(0)

    def fileno(self) -> int:
        return self._event

    def recv(self) -> tuple[bytes, Target]:
        if not self._letters:
            raise BlockingIOError
        return self._letters.pop(0)

    def send(self, data: bytes | memoryview, to: Target) -> None: ...

    def close(self) -> None:
        os.close(self._event)


def test_only_the_relay_is_believed() -> None:
    relay, stranger, source = Target("192.0.2.1", 1080), Target("192.0.2.9", 1080), Target("198.51.100.7", 53)
    good = pack_udp(source, b"answer")
    post = Post((good, stranger), (b"\0\0\x01", relay), (b"junk", relay), (good, relay))
    near, far = (TcpEndpoint(fileno=end.detach()) for end in socket.socketpair())
    near.setblocking(False)
    packets = SocksPackets(near, post, relay)
    assert packets.recv() == (b"answer", source)
    with pytest.raises(BlockingIOError):
        packets.recv()
    packets.close()
    far.close()


async def test_reject_refuses() -> None:
    way = Leaf(RejectSpec(name="REJECT"))
    assert way.pick(FlowHint()) is way
    with pytest.raises(Refused):
        await way.open_stream(Target("a.example", 1))
    with pytest.raises(Refused):
        await way.open_packets(Target("a.example", 1))


async def test_a_relay_moves_tls_like_any_socket(ca: trustme.CA) -> None:
    """The reactor's view of an endpoint with buffers of its own: nothing stalls, halves close, ends are clean."""
    ended: list[str] = []
    payload = bytes(range(256)) * 20_000
    reactor = Reactor()
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        client, near = await tcp_pair()
        near_raw = TcpEndpoint(fileno=near.socket.detach())
        near_raw.setblocking(False)
        way, server = await tls_over(*await tcp_pair(), ca)
        Relay(reactor, near_raw, way, idle=60, on_close=lambda _, why: ended.append(why))
        stream = EndpointStream(client)
        got = {"up": b"", "down": b""}

        async def push(end: EndpointStream) -> None:
            await end.send_all(payload)
            await end.send_eof()

        async def pull(end: EndpointStream, name: str) -> None:
            while chunk := await end.receive_some():
                got[name] += chunk

        with trio.fail_after(60):
            async with trio.open_nursery() as talk:
                talk.start_soon(push, stream)
                talk.start_soon(pull, server, "up")
                # The answer starts late and goes on after the question's end.
                await trio.testing.wait_all_tasks_blocked(0.01)
                talk.start_soon(push, server)
                talk.start_soon(pull, stream, "down")
            while not ended:
                await trio.lowlevel.checkpoint()
        assert got["up"] == payload and got["down"] == payload
        assert ended == [""]
        await stream.aclose()
        await server.aclose()
        nursery.cancel_scope.cancel()
    reactor.close()


class Drip:
    """A lower endpoint in small pieces, saying EAGAIN every other time."""

    def __init__(self, inner: Endpoint) -> None:
        self._inner = inner
        self._calls = 0
        self.fileno, self.pending, self.unsent = inner.fileno, inner.pending, inner.unsent
        self.flush, self.shutdown_write, self.close = inner.flush, inner.shutdown_write, inner.close

    def _hiccup(self) -> None:
        self._calls += 1
        if self._calls % 2:
            raise BlockingIOError

    def recv_into(self, buffer: memoryview, /) -> int:
        self._hiccup()
        return self._inner.recv_into(buffer[:1777])

    def send(self, data: bytes | memoryview, /) -> int:
        self._hiccup()
        return self._inner.send(memoryview(data)[:7777])


async def test_tls_over_a_bad_line_keeps_the_rules(ca: trustme.CA) -> None:
    async def make_pair() -> tuple[Endpoint, EndpointStream]:
        ours, theirs = await tcp_pair()
        return await tls_over(Drip(ours), theirs, ca)

    await check_endpoint(make_pair)


async def test_what_was_received_before_a_cut_is_still_given(ca: trustme.CA) -> None:
    ours, theirs = await tls_over(*await tcp_pair(), ca)
    for words in (b"one", b"two", b"three"):
        await theirs.send_all(words)
    await theirs.aclose()
    await trio.lowlevel.wait_readable(ours.fileno())
    assert await receive_some(ours) == b"onetwothree"
    for _ in range(2):
        with pytest.raises(OSError, match="EOF"):
            await receive_some(ours)
    ours.close()


async def test_the_application_protocol_is_agreed_on(ca: trustme.CA, ca_file: Path) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(server)
    server.set_alpn_protocols(["http/1.1"])
    for offered, agreed in ((("h2", "http/1.1"), "http/1.1"), ((), None)):
        near, far = await tcp_pair()
        raw = TcpEndpoint(fileno=far.socket.detach())
        raw.setblocking(False)
        client = TlsClient(TlsOptions(certificate=str(ca_file), alpn=offered))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(wrap_tls, raw, server, None, server_side=True))
            ours = await client.wrap(near, "localhost")
        assert ours.alpn == agreed
        ours.close()
        raw.close()
