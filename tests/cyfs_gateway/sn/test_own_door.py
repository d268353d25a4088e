"""Devices that only HTTP lets through: WebSockets at the SN's own name, by a client of others; half-open ones."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from cryptography import x509
from websockets.sync.client import connect

from cyfs_gateway.certs.source import ACME_TLS, CertificateSource
from cyfs_gateway.io.certs.contexts import proof_context
from cyfs_gateway.io.sn import owndoor
from cyfs_gateway.io.sn.ingress import Ingress
from cyfs_gateway.io.sn.owndoor import HALF_OPEN_OF, OwnDoor
from cyfs_gateway.sn.ingress import Alert, IngressSettings, alert
from rtcp.party import Address
from tests.cyfs_gateway.certs.keeping import keeping
from tests.cyfs_gateway.certs.pebbleca import pebble, zone
from tests.cyfs_gateway.io.inprocess import until
from tunnels.endpoint import Endpoint
from tunnels.io.reactor import Reactor
from tunnels.io.waiting import TcpEndpoint, receive_some, send_all
from tunnels.io.websocket import PATH, SUBPROTOCOL

SN = "sn.example"


@dataclass
class Certificates:
    """Of the SN."""

    context: ssl.SSLContext | None
    proof: ssl.SSLContext | None = None

    def certificate_for(self, sni: str, alpn: Sequence[str] = (), *, speak: Sequence[str] = ("http/1.1",)) -> Any:
        if ACME_TLS in alpn:
            return self.proof if sni == SN else None
        return self.context if sni == SN else None

    def proof_for(self, host: str, path: str) -> bytes | None:
        return b"the proof" if (host, path) == (SN, "/.well-known/acme-challenge/token") else None


@dataclass
class House:
    """A host without devices."""

    reactor: Reactor
    home: Path

    def standing(self, device: object) -> bool:
        return False


@dataclass
class Stage:
    ingress: Ingress
    door: OwnDoor
    ca: trustme.CA
    taken: list[tuple[Endpoint, Address]] = field(default_factory=list)

    async def connected(self, *, tls: bool) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.ingress.places[0 if tls else 1])

    def trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context


@asynccontextmanager
async def staged(tmp_path: Path, *, certified: bool = True) -> AsyncIterator[Stage]:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(SN).configure_cert(context)
    async with standing(tmp_path, SN, Certificates(context if certified else None), ca) as stage:
        yield stage


@asynccontextmanager
async def standing(
    tmp_path: Path, name: str, source: CertificateSource, ca: trustme.CA, *, tls: int = 0, http: int = 0
) -> AsyncIterator[Stage]:
    """The SN ``name`` with certificates of ``source``, at ports."""
    reactor, taken = Reactor(), list[tuple[Endpoint, Address]]()
    door = OwnDoor(name, lambda: source, lambda stream, address: taken.append((stream, address)))
    settings = IngressSettings(domain=name, tls=(("127.0.0.1", tls),), http=(("127.0.0.1", http),))
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        ingress = Ingress(House(reactor, tmp_path), lambda _: None, settings, lambda *_: None, own=door.enter)  # type: ignore[arg-type]
        await nursery.start(door.run)
        await nursery.start(ingress.run)
        yield Stage(ingress, door, ca, taken)
        for stream, _ in taken:
            stream.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("tls", [True, False], ids=["wss", "ws"])
async def test_a_device_comes_as_a_websocket(tmp_path: Path, tls: bool) -> None:
    async with staged(tmp_path) as stage:
        plain = socket.create_connection(stage.ingress.places[0 if tls else 1])
        own = plain.getsockname()

        def device() -> bytes:
            told = {"ssl": stage.trusting()} if tls else {}
            uri = f"{'wss' if tls else 'ws'}://{SN}{PATH}"
            with connect(uri, sock=plain, subprotocols=[SUBPROTOCOL], close_timeout=0.1, **told) as client:  # type: ignore[arg-type]
                client.send(b"a first message")
                heard = client.recv()
                assert isinstance(heard, bytes)
                return heard

        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                await until(lambda: stage.taken)
                stream, address = stage.taken[0]
                assert address == own
                assert await receive_some(stream) == b"a first message"
                await send_all(stream, b"and its answer")

            nursery.start_soon(answer)
            assert await trio.to_thread.run_sync(device) == b"and its answer"
        assert len(stage.door.half_open) == 0


async def answered(stream: trio.abc.Stream, said: bytes) -> bytes:
    await stream.send_all(said)
    heard = b""
    while piece := await stream.receive_some():
        heard += bytes(piece)
    return heard


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: sn.example\r\n\r\n", b"404"),
        (b"GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost: sn.example\r\n\r\n", b"200"),
        (b"GET /rtcp HTTP/1.1\r\nHost: sn.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", b"400"),
    ],
    ids=["a page", "a proof", "half a WebSocket"],
)
async def test_others_hear_that_nothing_is_here(tmp_path: Path, said: bytes, status: bytes) -> None:
    async with staged(tmp_path) as stage, await stage.connected(tls=False) as stream:
        heard = await answered(stream, said)
        assert heard.startswith(b"HTTP/1.1 " + status)
        assert heard.endswith(b"the proof") is (status == b"200")
        assert not stage.taken


async def test_without_a_certificate_there_is_no_name(tmp_path: Path) -> None:
    async with staged(tmp_path, certified=False) as stage, await stage.connected(tls=True) as raw:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = stage.trusting().wrap_bio(incoming, outgoing, server_hostname=SN)
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        assert await answered(raw, outgoing.read()) == alert(Alert.UNRECOGNIZED_NAME)


async def test_half_open_ones_of_one_source_are_few_and_the_oldest_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owndoor, "SECONDS", 3600.0)  # it is for a newcomer that they go
    async with staged(tmp_path) as stage:
        begun = b"GET /rtcp HTTP/1.1\r\nHost: sn.example\r\n\r\n"[:-1]
        crowd = [await stage.connected(tls=False) for _ in range(3)]
        # The head has to be whole for the ingress, so what is begun here is TLS that never goes on.
        for stream in crowd:
            await stream.send_all(begun)
        assert len(stage.door.half_open) == 0, "the ingress itself holds those"
        hello = _hello(stage)
        visitors = []
        for number in range(HALF_OPEN_OF + 3):
            visitors.append(stream := await stage.connected(tls=True))
            await stream.send_all(hello)
            await until(lambda number=number: stage.ingress.traffic.outcomes["own"] == number + 1)  # type: ignore[misc]
        await until(lambda: len(stage.door.half_open) == HALF_OPEN_OF)
        for stream in visitors[:3]:
            with trio.fail_after(60):
                while await stream.receive_some():
                    pass
        assert len(stage.door.half_open) == HALF_OPEN_OF
        for stream in (*crowd, *visitors):
            await stream.aclose()
        await until(lambda: len(stage.door.half_open) == 0)


async def test_one_source_does_not_keep_the_sn_busy(monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> None:
    monkeypatch.setattr(owndoor, "RATE", 64)
    now = 0.0
    door = OwnDoor(SN, lambda: None, lambda stream, address: None, lambda: now)
    await nursery.start(door.run)
    visitors = []

    def come(address: str) -> int:
        before = len(door.half_open)
        for _ in range(20):
            far, near = socket.socketpair()
            visitors.append(far)
            sock = TcpEndpoint(near.family, near.type, 0, near.detach())
            sock.setblocking(False)
            door.enter(sock, (address, 1), False)
        return len(door.half_open) - before

    assert (come("192.0.2.1"), come("2001:db8::1"), come("2001:db8::2")) == (8, 8, 0)
    now = 1.0
    assert (come("192.0.2.1"), come("198.51.100.1")) == (2, 8)
    for visitor in visitors:
        visitor.close()
    await until(lambda: not door.half_open)
    nursery.cancel_scope.cancel()


async def test_who_does_not_go_on_is_gone_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owndoor, "SECONDS", 0.1)
    async with staged(tmp_path) as stage, await stage.connected(tls=True) as stream:
        await stream.send_all(_hello(stage))
        while await stream.receive_some():
            pass
        await until(lambda: len(stage.door.half_open) == 0)
        assert not stage.taken


def _hello(stage: Stage) -> bytes:
    outgoing = ssl.MemoryBIO()
    client = stage.trusting().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=SN)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


# Authorities come by the same door


async def test_an_authority_sees_the_proof_and_no_device_does(tmp_path: Path) -> None:
    proof = proof_context(SN, digest := hashlib.sha256(b"the key authorization").digest())
    source = Certificates(None, proof)
    async with standing(tmp_path, SN, source, trustme.CA()) as stage:
        authority = ssl.create_default_context()
        authority.check_hostname, authority.verify_mode = False, ssl.CERT_NONE
        authority.set_alpn_protocols(["acme-tls/1"])
        async with await stage.connected(tls=True) as raw:
            visit = trio.SSLStream(raw, authority, server_hostname="SN.example.", https_compatible=True)
            await visit.do_handshake()
            assert visit.selected_alpn_protocol() == "acme-tls/1"
            shown = x509.load_der_x509_certificate(visit.getpeercert(binary_form=True))
            names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.DNSName) == [SN]
            (told,) = [each for each in shown.extensions if each.oid.dotted_string == "1.3.6.1.5.5.7.1.31"]
            assert told.critical and told.value.public_bytes() == b"\x04\x20" + digest
            assert await visit.receive_some() == b"", "it is over (RFC 8737 section 3)"
        await until(lambda: len(stage.door.half_open) == 0)
        assert not stage.taken
        source.proof = None
        async with await stage.connected(tls=True) as raw:
            visit = trio.SSLStream(raw, authority, server_hostname=SN, https_compatible=True)
            with pytest.raises(trio.BrokenResourceError):
                await visit.do_handshake()


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
async def test_a_real_authority_certifies_the_sn_by_its_own_door(tmp_path: Path, challenge: str) -> None:
    name = "sn.home.test"
    (folder := tmp_path / "knot").mkdir()
    (there := tmp_path / "pebble").mkdir()
    with zone(folder) as dns, pebble(there, dns.port) as authority:
        wanted = {"names": [name], "challenge": challenge}
        async with (
            keeping(tmp_path, authority, wanted, doors=False) as kept,
            standing(tmp_path, name, kept.certificates, trustme.CA(), tls=authority.tls, http=authority.http) as stage,
        ):
            await kept.obtained(name)
            trusting = ssl.create_default_context(cadata=authority.roots())
            async with await stage.connected(tls=True) as raw:
                device = trio.SSLStream(raw, trusting, server_hostname=name, https_compatible=True)
                await device.do_handshake()
                assert (await answered(device, b"GET / HTTP/1.1\r\nHost: sn.home.test\r\n\r\n"))[9:12] == b"404"
            assert not stage.taken
