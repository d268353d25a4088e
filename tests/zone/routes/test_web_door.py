"""Visitors who know nothing of the zone get to its services by their names, and nowhere else."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trustme

from cyfs_gateway.io.certs.endtls import UNRECOGNIZED_NAME
from cyfs_ns.errors import ConfigFault, Refused, Unreachable
from tests.cyfs_gateway.io.inprocess import curl
from tests.zone.krpc.krpcservices import House
from tunnels.endpoint import Endpoint
from tunnels.io.waiting import TcpEndpoint
from zone.io.module import read_settings
from zone.io.routes import door
from zone.io.routes.door import WebDoor

WEB, NOTES, SYS = (f"{name}.home.example" for name in ("web", "notes", "sys"))


class Zone:
    """Services are at ports of this machine; ``certificates`` are as ``CertificateSource`` has them."""

    def __init__(self) -> None:
        self.ports: dict[str, list[int]] = {}
        self.certificates: Any = None
        self.opened: list[str] = []

    def ways(self, host: str) -> Sequence[str] | None:
        ports = self.ports.get(host)
        return None if ports is None else [f"tcp:///127.0.0.1:{port}" for port in ports]

    async def open_url(self, url: str) -> Endpoint:
        self.opened.append(url)
        sock = trio.socket.socket()
        try:
            await sock.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        except OSError as fault:
            sock.close()
            raise Unreachable(str(fault)) from fault
        return TcpEndpoint(sock.family, sock.type, sock.proto, sock.detach())


class Own:
    """Certificates for one name."""

    def __init__(self, host: str, context: ssl.SSLContext) -> None:
        self._host, self._context = host, context

    def certificate_for(self, sni: str, alpn: Sequence[str] = (), *, speak: Sequence[str] = ("http/1.1",)) -> Any:
        return self._context if sni == self._host else None


async def listening(nursery: trio.Nursery, answer: Any) -> int:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer, [listener])
    return int(listener.socket.getsockname()[1])


async def says(word: str, stream: trio.abc.Stream) -> None:
    """A server of HTTP that answers each request by ``word`` and its first line."""
    async with stream:
        said = b""
        while piece := await stream.receive_some(65536):
            said += piece
            while b"\r\n\r\n" in said:
                head, _, said = said.partition(b"\r\n\r\n")
                body = f"{word} {head.split(b' ')[1].decode()}".encode()
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


@pytest.fixture
async def place(nursery: trio.Nursery) -> AsyncIterator[tuple[Zone, int]]:
    zone = Zone()
    for word, host in (("web", WEB), ("notes", NOTES)):
        zone.ports[host] = [await listening(nursery, partial(says, word))]
    yield zone, await listening(nursery, WebDoor(zone, zone.ways).visit)


def url(host: str, port: int, scheme: str = "http") -> tuple[str, ...]:
    return "--resolve", f"{host}:{port}:127.0.0.1", f"{scheme}://{host}:{port}/x"


async def test_a_service_is_met_by_its_name(place: tuple[Zone, int]):
    zone, port = place
    assert await curl(*url(WEB, port)) == (0, "web /x")
    assert await curl(*url(NOTES.upper(), port)) == (0, "notes /x")
    assert len(zone.opened) == 2
    # Both on one connection.
    assert (await curl(*url(WEB, port), f"http://{WEB}:{port}/y"))[1] == "web /xweb /y"
    assert len(zone.opened) == 3


async def test_other_names_lead_nowhere(place: tuple[Zone, int]):
    zone, port = place
    for host in ("home.example", "other.home.example", "example.com", f"x.{WEB}"):
        assert "no service is here" in (await curl(*url(host, port)))[1]
    for line in (b"GET http://example.com/ HTTP/1.1\r\n", b"CONNECT example.com:443 HTTP/1.1\r\n", b"SSH-2.0-x"):
        async with await trio.open_tcp_stream("127.0.0.1", port) as visitor:
            await visitor.send_all(line + b"\r\n")
            await visitor.send_eof()
            assert (await heard(visitor)).startswith(b"HTTP/1.1 404 ")
    assert not zone.opened


async def heard(stream: trio.abc.Stream) -> bytes:
    said = b""
    with trio.fail_after(30):
        try:
            while piece := await stream.receive_some(65536):
                said += piece
        except trio.BrokenResourceError:
            pass
    return said


async def test_a_name_may_come_in_pieces(place: tuple[Zone, int]):
    _, port = place
    request = f"GET /x HTTP/1.1\r\nA: b\r\nHost: {WEB}\r\n\r\n".encode()
    async with await trio.open_tcp_stream("127.0.0.1", port) as visitor:
        for at in range(len(request)):
            await visitor.send_all(request[at : at + 1])
        await visitor.send_eof()
        assert (await heard(visitor)).endswith(b"web /x")


async def test_what_cannot_be_had_is_passed_over(place: tuple[Zone, int]):
    zone, port = place
    (there,) = zone.ports[WEB]
    zone.ports[WEB] = [1, there]
    assert await curl(*url(WEB, port)) == (0, "web /x")
    zone.ports[WEB] = [1]
    assert (await curl(*url(WEB, port)))[1] == "the service does not answer\n"
    zone.ports[WEB] = []
    assert (await curl(*url(WEB, port)))[1] == "the service is nowhere just now\n"
    del zone.ports[WEB]
    assert "no service is here" in (await curl(*url(WEB, port)))[1]


async def test_what_could_not_be_had_is_tried_last_for_a_while(place: tuple[Zone, int]):
    zone, port = place
    zone.ports[WEB] = [1, *zone.ports[WEB]]
    for _ in range(3):
        assert await curl(*url(WEB, port)) == (0, "web /x")
    assert [way.rpartition(":")[2] for way in zone.opened].count("1") == 1


async def test_who_refuses_is_passed_over(place: tuple[Zone, int], monkeypatch: pytest.MonkeyPatch):
    zone, port = place
    zone.ports[WEB] = [1, *zone.ports[WEB]]
    open_url = zone.open_url

    async def moved_from_1(url: str) -> Endpoint:
        if url.endswith(":1"):
            raise Refused("nobody may get to that port")
        return await open_url(url)

    monkeypatch.setattr(zone, "open_url", moved_from_1)
    assert await curl(*url(WEB, port)) == (0, "web /x")


async def test_tls_ends_where_the_certificate_is(place: tuple[Zone, int], nursery: trio.Nursery, tmp_path: Path):
    zone, port = place
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trusting = ("--cacert", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(WEB, NOTES).configure_cert(context)

    async def sealed(stream: trio.SocketStream) -> None:
        await says("sealed", trio.SSLStream(stream, context, server_side=True, https_compatible=True))

    # Nobody here has a certificate: the service ends it.
    plain = zone.ports[WEB]
    zone.ports[WEB] = [await listening(nursery, sealed)]
    assert await curl(*trusting, *url(WEB, port, "https")) == (0, "sealed /x")
    # The gateway has one for this name, and none for the other.
    zone.ports[WEB] = plain
    zone.certificates = Own(WEB, context)
    assert await curl(*trusting, *url(WEB, port, "https")) == (0, "web /x")
    zone.ports[NOTES] = [await listening(nursery, sealed)]
    assert await curl(*trusting, *url(NOTES, port, "https")) == (0, "sealed /x")
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="example.com").do_handshake()
    async with await trio.open_tcp_stream("127.0.0.1", port) as visitor:
        await visitor.send_all(hello.read())
        assert await heard(visitor) == UNRECOGNIZED_NAME


async def test_an_answer_that_ends_with_the_connection_is_whole(place: tuple[Zone, int], nursery: trio.Nursery):
    zone, port = place
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(WEB).configure_cert(context)
    zone.certificates = Own(WEB, context)

    async def no_length(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(65536)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it")

    zone.ports[WEB] = [await listening(nursery, no_length)]
    visitor = trio.SSLStream(await trio.open_tcp_stream("127.0.0.1", port), trusting, server_hostname=WEB)
    async with visitor:
        await visitor.send_all(f"GET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n".encode())
        said = b""
        with trio.fail_after(30):
            # One that was cut off raises ``BrokenResourceError``.
            while piece := await visitor.receive_some(65536):
                said += piece
    assert said.endswith(b"all of it")


async def test_services_are_called_inside_of_tls_with_a_token(nursery: trio.Nursery, tmp_path: Path):
    zone, house = Zone(), House()
    own = {SYS: partial(house.server.serve_visitor, SYS)}
    port = await listening(nursery, WebDoor(zone, zone.ways, own.get).visit)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(SYS).configure_cert(context)
    there = ("--resolve", f"{SYS}:{port}:127.0.0.1", "--cacert", str(tmp_path / "ca.pem"))

    async def call(method: str, *more: str, scheme: str = "https", token: str = "", **params: str) -> Any:
        body = json.dumps({"method": method, "params": params, "sys": [1, token]})
        words = (*there, "-w", "\n%{http_code}", *more, "-d", body, f"{scheme}://{SYS}:{port}/kapi/notes")
        _, output = await curl(*words)
        said, _, status = output.rpartition("\n")
        return int(status), said

    # Nobody has a certificate yet.
    assert (await call("whoami"))[0] == 0
    zone.certificates = Own(SYS, context)
    status, said = await call("whoami", token="for.ann.x")
    assert (status, json.loads(said)["result"]) == (200, "ann")
    status, said = await call("put", title="milk")
    assert (status, json.loads(said)["error"]["code"]) == (401, "unauthenticated")
    assert not house.kept
    # No page of a browser but its own gets there, no other name, and nothing without TLS.
    assert (await call("whoami", "-H", "Origin: https://web.home.example", token="for.ann.x"))[0] == 403
    assert (await call("whoami", "-H", f"Origin: https://{SYS}:{port}", token="for.ann.x"))[0] == 200
    assert (await call("whoami", "-H", "Host: web.home.example", token="for.ann.x"))[0] == 403
    assert (await call("whoami", scheme="http", token="for.ann.x"))[0] == 404


async def test_a_fault_costs_one_visitor(place: tuple[Zone, int], monkeypatch: pytest.MonkeyPatch):
    zone, port = place

    async def fails(_url: str) -> Endpoint:
        raise RuntimeError("our own")

    with monkeypatch.context() as broken:
        broken.setattr(zone, "open_url", fails)
        assert (await curl(*url(WEB, port)))[0] != 0
    assert await curl(*url(WEB, port)) == (0, "web /x")


async def test_so_many_visitors_and_no_more(place: tuple[Zone, int], monkeypatch: pytest.MonkeyPatch):
    _, port = place
    monkeypatch.setattr(door, "MOST_VISITORS", 1)
    async with await trio.open_tcp_stream("127.0.0.1", port) as first:
        await first.send_all(f"GET /x HTTP/1.1\r\nHost: {WEB}\r\n\r\n".encode())
        assert await first.receive_some(1)
        async with await trio.open_tcp_stream("127.0.0.1", port) as second:
            assert await heard(second) == b""


async def test_so_many_visitors_of_one_address_and_no_more(place: tuple[Zone, int], monkeypatch: pytest.MonkeyPatch):
    _, port = place
    monkeypatch.setattr(door, "MOST_OF_ONE", 1)
    at = {"127.0.0.1": "203.0.113.1", "127.0.0.2": "203.0.113.2"}
    monkeypatch.setattr(door, "_source", lambda stream: at[stream.socket.getpeername()[0]])
    request = f"GET /x HTTP/1.1\r\nHost: {WEB}\r\n\r\n".encode()
    async with await trio.open_tcp_stream("127.0.0.1", port) as first:
        await first.send_all(request)
        assert await first.receive_some(1)
        async with await trio.open_tcp_stream("127.0.0.1", port) as second:
            assert await heard(second) == b""
        async with await trio.open_tcp_stream("127.0.0.1", port, local_address="127.0.0.2") as other:
            await other.send_all(request)
            assert await other.receive_some(1)


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1:2", "2001:db8::"),
        ("fe80::1%eth0", "fe80::"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
    ],
)
def test_by_what_visitors_are_counted(address: str, source: str):
    stream: Any = SimpleNamespace(socket=SimpleNamespace(getpeername=lambda: (address, 1)))
    assert door._source(stream) == source


@pytest.mark.parametrize(
    ("web", "meant"),
    [
        ([], ()),
        (["192.168.1.2:80", "[fd00::1]:443"], (("192.168.1.2", 80), ("fd00::1", 443))),
        (["0.0.0.0:8080"], (("0.0.0.0", 8080),)),
    ],
)
def test_where_doors_are(web: list[str], meant: tuple[tuple[str, int], ...]):
    assert read_settings({"web": web}).web == meant


@pytest.mark.parametrize(
    "web", ["192.168.1.2:80", [80], [":80"], ["box:80"], ["1.2.3.4"], ["1.2.3.4:x"], ["1.2.3.4:1"] * 17, None]
)
def test_no_doors(web: Any):
    with pytest.raises(ConfigFault, match="zone/web"):
        read_settings(json.loads(json.dumps({"web": web})))
