"""Real clients without any of our software reach a real web server at home, through an SN that cannot read them."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Request, TextMessage

from cyfs_gateway.io.sn import ingress
from cyfs_gateway.io.sn.ingress import Ingress
from cyfs_gateway.io.sn.ingresstraffic import EVERY
from cyfs_gateway.sn.ingress import Alert, alert
from cyfs_ns.errors import ConfigFault
from cyfs_ns.identity.did import host_of_did
from tests.cyfs_gateway.io.inprocess import connect, exactly, living, serve, the_rest, until
from tests.cyfs_gateway.sn.ingressstage import (
    AWAY,
    NAS,
    PHOTOS,
    Nginx,
    S,
    Silent,
    Stage,
    nginx,
    ran,
    reset,
    settle,
    staged,
)
from tunnels.io.stream import EndpointStream

HOSTS = "hosts: [+.alice.sn.example, alice.example]"
MB = 1 << 20


def web(server: Nginx) -> tuple[str, str]:
    return (
        f"name: tls, port: 443, target: 'tcp://127.0.0.1:{server.tls}', {HOSTS}, proxy-protocol: true",
        f"name: plain, port: 80, target: 'tcp://127.0.0.1:{server.http}', {HOSTS}, proxy-protocol: true",
    )


async def curl(stage: Stage, url: str, *more: str, ca: Path | None = None, seconds: float = 60) -> tuple[int, str]:
    """curl, which finds every host at the SN."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    port = stage.tls if scheme == "https" else stage.http
    to = ["--connect-to", f"{host}:{443 if scheme == 'https' else 80}:127.0.0.1:{port}"]
    trust = ["--cacert", str(ca)] if ca else []
    return await ran("curl", "-q", "-sS", "--noproxy", "*", *to, *trust, *more, f"{scheme}://{host}{slash}{path}")


def client_tls(server: Nginx) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(server.root))
    context.set_alpn_protocols(["http/1.1"])
    return context


async def test_a_browser_is_led_home_and_home_knows_who_it_is(tmp_path: Path) -> None:
    async with nginx(tmp_path) as server, staged(tmp_path, *web(server)) as stage:
        for host in (PHOTOS, "PHOTOS.alice.SN.example", "alice.sn.example", "alice.example"):
            if host == "alice.sn.example":
                continue  # the wildcard of the certificate does not reach it
            told = await curl(stage, f"https://{host}/who", "--local-port", "33000-39000", ca=server.root)
            address, port, scheme, seen = told[1].split()
            assert (told[0], address, scheme, seen) == (0, "127.0.0.1", "https", host.lower())
            assert 33000 <= int(port) <= 39000
        assert {(host, port) for host, port, _ in stage.seat.opened} == {(PHOTOS, 443), ("alice.example", 443)}
        code, said = await curl(stage, f"http://{PHOTOS}/who")
        assert code == 0 and said.startswith("127.0.0.1 ") and said.endswith(f" http {PHOTOS}")
        await until(lambda: len(stage.ingress.traffic) == 0)
        assert stage.books.charged > 3000
        assert stage.ingress.status()["visitors"] == {"led": 4}


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
async def test_a_real_browser_shows_the_page(tmp_path: Path) -> None:
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    quiet += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
    async with nginx(tmp_path) as server, staged(tmp_path, *web(server)) as stage:
        told = [
            f"--host-resolver-rules=MAP {PHOTOS}:443 127.0.0.1:{stage.tls}",
            *("--ignore-certificate-errors", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"),
        ]
        code, said = await ran("chromium", *quiet, *told, f"https://{PHOTOS}/who", seconds=60)
        assert code == 0 and f"https {PHOTOS}" in said, said


async def test_the_sn_sees_no_word_of_it(tmp_path: Path) -> None:
    """The certificate that a visitor meets is the one at home; what passes the SN is not even HTTP."""
    async with nginx(tmp_path) as server, staged(tmp_path, *web(server)) as stage:
        _, said = await ran(
            *("openssl", "s_client", "-connect", f"127.0.0.1:{stage.tls}", "-servername", PHOTOS),
            *("-CAfile", str(server.root), "-verify_hostname", PHOTOS, "-verify_return_error", "-alpn", "acme-tls/1"),
        )
        assert "Verify return code: 0" in said or "Verification: OK" in said, said
        secret = (server.folder / "key.pem").read_bytes()
        assert all(secret not in path.read_bytes() for path in (tmp_path / "sn").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bob.sn.example", "unrecognized name"),
        ("sn.example", "unrecognized name"),
        ("alice.sn.example.evil.example", "unrecognized name"),
        ("gone.sn.example", "internal error"),
        ("desk.alice.sn.example", "internal error"),
    ],
)
async def test_who_comes_to_nobody_is_told_so_in_tls(tmp_path: Path, name: str, said: str) -> None:
    async with staged(tmp_path, f"name: tls, port: 443, target: 'tcp://127.0.0.1:9', {HOSTS}") as stage:
        _, output = await ran("openssl", "s_client", "-connect", f"127.0.0.1:{stage.tls}", "-servername", name)
        assert said in output
        assert not stage.seat.opened


async def test_what_is_no_tls_and_what_names_nobody(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        for wire, answer in (
            (b"GET / HTTP/1.1\r\nHost: photos.alice.sn.example\r\n\r\n", b""),
            (b"\x16\x03\x09\x00\x01", alert(Alert.DECODE_ERROR)),
            (b"\x16\x03\x01\x00\x04\x01\x00\xff\xff", alert(Alert.DECODE_ERROR)),
        ):
            stream = await connect(stage.tls)
            await stream.send_all(wire)
            assert await the_rest(stream) == answer
        _, output = await ran("openssl", "s_client", "-connect", f"127.0.0.1:{stage.tls}", "-noservername")
        assert "unrecognized name" in output


async def test_pages_for_people(tmp_path: Path) -> None:
    async with staged(tmp_path, f"name: tls, port: 443, target: 'tcp://127.0.0.1:9', {HOSTS}") as stage:
        for url, status, said in (
            ("http://bob.sn.example/", "404 Not Found", "Nobody here is called bob.sn.example."),
            ("http://gone.sn.example/", "502 Bad Gateway", "gone.sn.example is not connected at the moment."),
            (f"http://{PHOTOS}/a?b=c", "308 Permanent Redirect", f"Location: https://{PHOTOS}/a?b=c"),
            ("http://192.0.2.1/", "400 Bad Request", "is no name"),
        ):
            code, output = await curl(stage, url, "-i")
            assert code == 0 and output.startswith(f"HTTP/1.1 {status}\r\n") and said in output
        code, output = await curl(stage, f"http://{PHOTOS}/", "-i", "-T", "/bin/sh", "-H", "Expect:")
        assert "308" in output, "an answer arrives though nobody reads the upload"


async def test_home_decides_what_there_is(tmp_path: Path) -> None:
    one = "name: tls, port: 443, target: 'tcp://127.0.0.1:9', hosts: [wiki.alice.sn.example]"
    async with staged(tmp_path, one) as stage:
        _, output = await ran("openssl", "s_client", "-connect", f"127.0.0.1:{stage.tls}", "-servername", PHOTOS)
        assert "unrecognized name" in output
        assert stage.ingress.status()["visitors"] == {"not-served": 1}


async def test_a_connection_stays_with_its_host(tmp_path: Path) -> None:
    async with nginx(tmp_path) as server, staged(tmp_path, *web(server)) as stage:

        def ask(host: str) -> bytes:
            return f"GET /who HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

        stream = await connect(stage.http)
        for _ in range(3):
            await stream.send_all(ask(PHOTOS))
            assert b" http " + PHOTOS.encode() in await _response(stream)
        await stream.send_all(ask(PHOTOS) + ask("bob.sn.example") + ask(PHOTOS))
        rest = await the_rest(stream)
        assert rest.count(b"HTTP/1.1 200 OK") == 1
        assert b"bob" not in rest
        assert len(stage.seat.opened) == 1


async def _response(stream: trio.abc.ReceiveStream) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await exactly(stream, 1)
    (size,) = (int(line.split()[1]) for line in head.splitlines() if line.lower().startswith(b"content-length:"))
    return head + await exactly(stream, size)


@asynccontextmanager
async def websocket_server(nursery: trio.Nursery) -> AsyncIterator[int]:
    async def echo(stream: trio.SocketStream) -> None:
        ws = WSConnection(ConnectionType.SERVER)
        async for data in stream:
            ws.receive_data(data)
            for event in ws.events():
                if isinstance(event, Request):
                    await stream.send_all(ws.send(AcceptConnection()))
                elif isinstance(event, TextMessage):
                    await stream.send_all(ws.send(TextMessage(data=event.data[::-1])))
                elif isinstance(event, BytesMessage):
                    await stream.send_all(ws.send(BytesMessage(data=event.data)))
                elif isinstance(event, CloseConnection):
                    await stream.send_all(ws.send(event.response()))

    yield await serve(nursery, echo)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_websockets_live(tmp_path: Path, nursery: trio.Nursery, scheme: str) -> None:
    async with (
        websocket_server(nursery) as port,
        nginx(tmp_path, ws=port) as server,
        staged(tmp_path, *web(server)) as stage,
    ):
        tcp = await connect(stage.tls if scheme == "wss" else stage.http)
        stream: trio.abc.Stream = tcp
        if scheme == "wss":
            stream = trio.SSLStream(tcp, client_tls(server), server_hostname=PHOTOS, https_compatible=True)
        ws = WSConnection(ConnectionType.CLIENT)
        await stream.send_all(ws.send(Request(host=PHOTOS, target="/ws")))
        heard: list[object] = []

        async def hear(count: int) -> None:
            with trio.fail_after(60):
                while len(heard) < count:
                    ws.receive_data(await stream.receive_some(65536))
                    heard.extend(event for event in ws.events())

        await hear(1)
        assert isinstance(heard[0], AcceptConnection)
        for word in ("abc", "GET / HTTP/1.1\r\nHost: bob.sn.example\r\n\r\n"):
            heard.clear()
            await stream.send_all(ws.send(TextMessage(data=word)))
            await hear(1)
            assert isinstance(heard[0], TextMessage) and heard[0].data == word[::-1]
        heard.clear()
        await stream.send_all(ws.send(CloseConnection(code=1000)))
        await hear(1)
        await tcp.aclose()
        await until(lambda: len(stage.ingress.traffic) == 0)


@pytest.mark.parametrize(("scheme", "size"), [("https", 200 * MB), ("http", 64 * MB)])
async def test_what_is_large_goes_up_and_down(tmp_path: Path, scheme: str, size: int) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    with source.open("wb") as file:
        block = os.urandom(MB)
        for number in range(size // MB):
            file.write(number.to_bytes(8, "big") + block[8:])
    async with nginx(tmp_path) as server, staged(tmp_path, *web(server)) as stage:
        url = f"{scheme}://{PHOTOS}/files/one"
        code, said = await curl(stage, url, "-f", "-T", str(source), ca=server.root)
        assert code == 0, said
        code, said = await curl(stage, url, "-f", "-o", str(back), ca=server.root)
        assert code == 0, said
        digests = [hashlib.file_digest(path.open("rb"), "sha256").digest() for path in (source, back)]
        assert digests[0] == digests[1]
        await until(lambda: len(stage.ingress.traffic) == 0)
        assert 2 * size < stage.books.charged < 2.1 * size
    source.unlink()
    back.unlink()


async def test_two_thousand_slow_visitors_and_one_who_is_not(tmp_path: Path) -> None:
    async with nginx(tmp_path) as server, staged(tmp_path, *web(server), half_open=256, half_open_of=32) as stage:
        crowd = stage.ingress.half_open
        with ExitStack() as stack:
            for number in range(2000):
                sock = stack.enter_context(socket.socket())
                sock.bind((f"127.0.1.{number % 50 + 1}", 0))
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", stage.tls if number % 2 else stage.http))
                if number % 50 == 0:
                    await trio.lowlevel.checkpoint()
            await until(lambda: len(crowd) == 256)
            code, said = await curl(stage, f"https://{PHOTOS}/who", ca=server.root)
            assert code == 0, said
            assert len(crowd) <= 256
        await until(lambda: len(crowd) == 0)


async def test_one_source_has_few_half_open(tmp_path: Path) -> None:
    async with staged(tmp_path, half_open_of=4) as stage:
        streams = [await connect(stage.tls) for _ in range(6)]
        for first in streams[:2]:
            assert await the_rest(first) == b"", "the oldest made room"
        await until(lambda: len(stage.ingress.half_open) == 4)
        other = await connect(stage.tls, source="127.0.0.9")
        await until(lambda: len(stage.ingress.half_open) == 5)
        for stream in (*streams, other):
            await stream.aclose()


async def test_a_visitor_has_to_say_who_in_time(tmp_path: Path) -> None:
    async with staged(tmp_path, first=0.3) as stage:
        for port, said in ((stage.tls, b"\x16\x03\x01"), (stage.http, b"GET / HTTP/1.1\r\nHo")):
            stream = await connect(port)
            await stream.send_all(said)
            assert await the_rest(stream) == b""
        assert stage.ingress.status()["visitors"] == {"slow": 2}


async def _asking(stage: Stage) -> trio.SocketStream:
    stream = await connect(stage.http)
    await stream.send_all(f"GET /who HTTP/1.1\r\nHost: {PHOTOS}\r\nConnection: close\r\n\r\n".encode())
    return stream


async def test_nobody_waits_long_for_a_home_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path, opening=0.3) as stage:
        monkeypatch.setattr(stage.seat, "ask_peer", (silent := Silent()).ask)
        stream = await _asking(stage)
        assert b" 502 " in await the_rest(stream)
        assert (silent.given_up, stage.ingress.status()["visitors"]) == (1, {"away": 1})
        await until(lambda: not stage.ingress.half_open and not stage.ingress.opening)
        assert len(stage.ingress.traffic) == 0


async def test_who_leaves_while_home_is_asked_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(tmp_path) as stage:
        monkeypatch.setattr(stage.seat, "ask_peer", (silent := Silent()).ask)
        leaving, staying = await _asking(stage), await _asking(stage)
        await until(lambda: len(stage.ingress.opening) == 2)
        reset(leaving)
        await leaving.aclose()
        await until(lambda: silent.given_up == 1)
        assert len(stage.ingress.opening) == len(stage.ingress.traffic) == 1
    assert silent.given_up == 2, "the ingress is over"
    assert await the_rest(staying) == b""


async def test_who_waits_for_a_device_that_is_dropped_waits_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path) as stage:
        monkeypatch.setattr(stage.seat, "ask_peer", (silent := Silent()).ask)
        stream = await _asking(stage)
        await until(lambda: len(stage.ingress.opening) == 1)
        stage.ingress.drop_device(AWAY.did.canonical)
        assert not silent.given_up
        stage.ingress.drop_device(NAS.did.canonical)
        assert silent.given_up == 1
        assert await the_rest(stream) == b""
        assert len(stage.ingress.traffic) == 0


async def test_a_request_that_has_to_be_made_again_is_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with nginx(tmp_path) as server, staged(tmp_path, *web(server)) as stage:
        monkeypatch.setattr(stage.seat, "ask_peer", (silent := Silent()).ask)
        stream = await _asking(stage)
        await until(lambda: bool(silent.asked))
        silent.asked[0](None)
        assert b" 200 " in await the_rest(stream)
        assert stage.ingress.status()["visitors"] == {"led": 1}


async def test_a_fault_of_ours_costs_the_visitor_that_has_it_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("nobody foresaw it")

    async with nginx(tmp_path) as server, staged(tmp_path, *web(server)) as stage:
        with monkeypatch.context() as patched:
            patched.setattr(stage.seat, "ask_peer", lambda *_, **__: None)
            patched.setattr(ingress, "PinnedClient", fail)
            assert await the_rest(await _asking(stage)) == b""
        assert "nobody foresaw" in caplog.text and len(stage.ingress.traffic) == 0
        assert not stage.ingress.half_open and not stage.ingress.opening
        assert b" 200 " in await the_rest(await _asking(stage))


def client_hello(host: str) -> bytes:
    out = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


async def test_what_goes_before_the_answer_arrives_once_and_is_charged(tmp_path: Path, nursery: trio.Nursery) -> None:
    heard = bytearray()

    async def listen(stream: trio.SocketStream) -> None:
        async for piece in stream:
            heard.extend(piece)

    target = await serve(nursery, listen)
    line = f"name: tls, port: 443, target: 'tcp://127.0.0.1:{target}', {HOSTS}"
    async with staged(tmp_path, line) as stage:
        stream = await connect(stage.tls)
        hello = client_hello(PHOTOS)
        await stream.send_all(hello)
        await until(lambda: stage.ingress.status()["visitors"] == {"led": 1})
        await stream.send_all(b"and more")
        await until(lambda: len(heard) == len(hello) + 8)
        await stream.aclose()
        await until(lambda: len(stage.ingress.traffic) == 0)
    assert heard == hello + b"and more"
    assert stage.books.charged == len(heard)


@pytest.mark.parametrize("versions", ["[4]", "[5]"])
async def test_home_is_reached_by_a_tunnel_of_either_version(tmp_path: Path, versions: str) -> None:
    async with nginx(tmp_path) as server, staged(tmp_path, *web(server), versions=versions) as stage:
        code, said = await curl(stage, f"https://{PHOTOS}/who", ca=server.root)
        assert code == 0, said


async def test_a_device_has_so_many_visitors(tmp_path: Path, nursery: trio.Nursery) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await the_rest(stream)

    target = await serve(nursery, silent)
    line = f"name: plain, port: 80, target: 'tcp://127.0.0.1:{target}', {HOSTS}"
    async with staged(tmp_path, line, of_device=2) as stage:
        streams = []
        for _ in range(2):
            streams.append(await connect(stage.http))
            await streams[-1].send_all(f"GET / HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n".encode())
        await until(lambda: len(stage.ingress.traffic) == 2)
        assert (await curl(stage, f"http://{PHOTOS}/", "-i"))[1].startswith("HTTP/1.1 503 ")
        await streams[0].aclose()
        await until(lambda: len(stage.ingress.traffic) == 1)
        await streams[1].aclose()
        await until(lambda: len(stage.ingress.traffic) == 0)


async def test_a_source_that_storms_is_told_to_wait_and_others_are_led(tmp_path: Path, nursery: trio.Nursery) -> None:
    async def page(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    target = await serve(nursery, page)
    line = f"name: plain, port: 80, target: 'tcp://127.0.0.1:{target}', {HOSTS}"
    async with staged(tmp_path, line, rate=32) as stage:
        storm: list[bytes] = []

        async def visit(source: str) -> bytes:
            stream = await connect(stage.http, source=source)
            await stream.send_all(f"GET / HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n".encode())
            return (await the_rest(stream))[9:12]

        async def come() -> None:
            storm.append(await visit("127.0.0.1"))

        begun = time.monotonic()
        async with trio.open_nursery() as visitors:
            for _ in range(40):
                visitors.start_soon(come)
        led = storm.count(b"200")
        assert 4 <= led <= 5 + time.monotonic() - begun, "four at once, and one a second"
        assert await visit("127.0.0.9") == b"200"
        assert stage.ingress.status()["visitors"] == {"led": led + 1, "too-many": 40 - led}


async def test_a_drained_sn_receives_nobody_until_it_is_open_again(tmp_path: Path) -> None:
    async with nginx(tmp_path) as server, staged(tmp_path, *web(server)) as stage:
        stream = await connect(stage.http)
        await stream.send_all(f"GET /who HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n".encode())
        assert b" 200 " in await stream.receive_some()
        stage.ingress.traffic.draining = True
        await stream.send_all(f"GET /who HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n".encode())
        assert b" 200 " in await stream.receive_some(), "what flows goes on"
        assert (await curl(stage, f"http://{PHOTOS}/who", "-i"))[1].startswith("HTTP/1.1 503 ")
        stage.ingress.traffic.draining = False
        assert (await curl(stage, f"http://{PHOTOS}/who"))[0] == 0
        await stream.aclose()


async def test_who_has_used_up_their_month_is_cut_off(tmp_path: Path) -> None:
    async with nginx(tmp_path) as server, staged(tmp_path, *web(server)) as stage:
        with (server.folder / "www" / "endless").open("wb") as file:
            file.truncate(1 << 40)
        stage.books.limit = 8 * MB
        code, _ = await curl(stage, f"https://{PHOTOS}/endless", "-o", "/dev/null", ca=server.root)
        assert code != 0, "cut short, and it shows"
        code, said = await curl(stage, f"http://{PHOTOS}/who", "-i")
        assert said.startswith("HTTP/1.1 503 ")
        assert stage.ingress.traffic.outcomes["too-many"] == 1


async def test_who_is_over_the_pace_waits(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with nginx(tmp_path) as server, staged(tmp_path, *web(server)) as stage:
        with (server.folder / "www" / "endless").open("wb") as file:
            file.truncate(1 << 40)
        nursery.start_soon(partial(curl, stage, f"https://{PHOTOS}/endless", "-o", "/dev/null", ca=server.root))
        await until(lambda: stage.bare_legs)
        stage.books.rest = time.monotonic() + 3600
        (ticket,) = stage.ingress.traffic._tickets
        await until(lambda: ticket.held)
        assert ticket.moving is not None
        before = ticket.moving.down
        with trio.move_on_after(3 * EVERY):
            await until(lambda: ticket.moving.down != before)
        assert ticket.moving.down == before, "nothing moves"
        stage.books.rest, ticket.held = 0.0, 0.1  # an hour later
        await until(lambda: ticket.moving.down > before + MB)
        stage.ingress.traffic.close()


async def test_plain_http_stays_sealed_between_the_sn_and_home(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with nginx(tmp_path) as server, staged(tmp_path, *web(server)) as stage:
        with (server.folder / "www" / "endless").open("wb") as file:
            file.truncate(1 << 40)
        nursery.start_soon(partial(curl, stage, f"http://{PHOTOS}/endless", "-o", "/dev/null", ca=server.root))
        await until(lambda: stage.legs)
        charged = stage.books.charged
        await until(lambda: stage.books.charged > charged + 20 * MB)
        assert stage.legs == 1 and not stage.bare_legs
        stage.ingress.traffic.close()


@pytest.mark.parametrize("place", [0, 1])
async def test_a_device_comes_by_a_port_of_the_browsers(tmp_path: Path, place: int) -> None:
    async with staged(tmp_path) as stage:
        settle(tmp_path / "desk", AWAY)
        way = f"tcp%3A%2F%2F%2F127.0.0.1%3A{stage.ingress.places[place][1]}"
        url = f"rtcp://{way}@{host_of_did(S.did, case_safe=True).lower()}"
        desk = f"rtcp: {{versions: [5], keep-tunnel: ['{url}']}}\nrules: ['MATCH,REJECT']\n"
        assert not stage.seat.standing(AWAY.did.canonical)
        async with living(tmp_path / "desk", desk):
            await until(lambda: stage.seat.standing(AWAY.did.canonical))
            assert stage.ingress.status()["visitors"] == {"device": 1}


async def test_who_is_dropped_has_no_visitors_any_more(tmp_path: Path, nursery: trio.Nursery) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await the_rest(stream)

    target = await serve(nursery, silent)
    async with staged(tmp_path, f"name: plain, port: 80, target: 'tcp://127.0.0.1:{target}', {HOSTS}") as stage:
        stream = await connect(stage.http)
        await stream.send_all(f"GET / HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n".encode())
        await until(lambda: stage.ingress.status()["streams"] == 1 and stage.ingress.status()["visitors"] == {"led": 1})
        stage.ingress.drop_device(NAS.did.canonical)
        assert await the_rest(stream) == b""
        assert stage.ingress.status()["streams"] == 0


async def test_both_families_come_by_one_door(tmp_path: Path) -> None:
    async with staged(tmp_path, tls=(("", 0),), http=(), of_source=1) as stage:
        assert len(stage.ingress.places) == 1
        for host in ("127.0.0.1", "::1"):
            stream = await connect(stage.tls, host)
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            assert await the_rest(stream) == b""
        assert stage.ingress.status()["visitors"] == {"unreadable": 2}


async def test_a_port_that_is_taken_is_the_owners_to_mend(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        settings = replace(stage.ingress.settings, http=(), tls=(("127.0.0.1", 0), ("127.0.0.1", stage.tls)))
        other = Ingress(stage.seat, stage.books.find, settings, stage.books.meter)
        with pytest.raises(ConfigFault, match=f"cannot listen on 127.0.0.1:{stage.tls}: Address already in use"):
            await other.run()
        assert not other.places, "what was bound is given back"


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        (("198.51.100.7", 40000), "198.51.100.7 40000"),
        (("2001:db8::7", 40000), "2001:db8::7 40000"),
        (("::ffff:198.51.100.7", 1), "198.51.100.7 1"),
        (None, " "),
    ],
)
async def test_nginx_at_home_hears_who_comes(tmp_path: Path, source: tuple[str, int] | None, seen: str) -> None:
    async with nginx(tmp_path) as server, staged(tmp_path, *web(server)) as stage:
        far = await stage.seat.open_to_peer(NAS.did.canonical, PHOTOS, 80, source=source)
        stream = EndpointStream(far)
        await stream.send_all(f"GET /who HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n".encode())
        assert (await _response(stream)).partition(b"\r\n\r\n")[2].decode() == f"{seen} http {PHOTOS}"
        await stream.aclose()


async def test_a_stream_that_is_cut_shows_it_and_who_comes_later_is_told(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with nginx(tmp_path) as server, staged(tmp_path, *web(server)) as stage:
        with (server.folder / "www" / "endless").open("wb") as file:
            file.truncate(1 << 40)
        ended: list[int] = []

        async def download() -> None:
            code, _ = await curl(stage, f"https://{PHOTOS}/endless", "-o", "/dev/null", ca=server.root)
            ended.append(code)

        nursery.start_soon(download)
        await until(lambda: stage.ingress.traffic.octets > MB)
        await stage.sn.reload("rtcp: {admission: ['MATCH,REJECT']}\nrules: ['MATCH,REJECT']\n")
        await until(lambda: ended)
        assert ended[0] != 0
        assert (await curl(stage, f"http://{PHOTOS}/who", "-i"))[1].startswith("HTTP/1.1 502 ")
