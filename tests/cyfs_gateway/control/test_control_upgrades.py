"""Control connections that become streams: who may, what is answered until then, and who hears of the end."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h11
import pytest
import trio
from control_house import SECRET, House

from cyfs_gateway.io.chunks import ARRIVALS, STREAM
from cyfs_gateway.io.command.attached import Controller
from cyfs_gateway.io.control.streams import reached
from cyfs_ns.errors import Unreachable
from cyfs_ns.io.client import ApiFault
from cyfs_ns.io.control.wire import HttpFault, Wire
from tunnels.io.stream import EndpointStream
from tunnels.io.waiting import receive_some

GOOD = {"peer": "did:web:photos.home.example", "port": 22}
UPGRADE = ("-H", "Connection: Upgrade", "-H", f"Upgrade: {STREAM}")


async def post(house: House, path: str, body: object, *options: str, tcp: bool = False) -> tuple[int, str]:
    ask = house.tcp if tcp else house.unix
    done = await ask(path, "-X", "POST", "--data", json.dumps(body), *options)
    return done.status, done.json.get("message", "") if done.body else ""


@pytest.mark.parametrize("path", ["/cyfs/streams", "/cyfs/receiver", "/cyfs/receiver/x"])
async def test_a_page_of_a_browser_gets_no_stream(house: House, path: str) -> None:
    origin = ("-H", "Origin: https://evil.example")
    for tcp in (False, True):
        assert (await post(house, path, GOOD, *UPGRADE, *origin, tcp=tcp))[0] == 403
    assert (await post(house, path, GOOD, *UPGRADE, "-H", "Host: evil.example:80", tcp=True))[0] == 403
    assert (await house.tcp(path, "-X", "POST", *UPGRADE, secret="")).status == 401
    assert (await house.tcp(f"{path}?token={quote(SECRET)}", "-X", "POST", *UPGRADE, secret="")).status == 401
    assert house.gateway.told == []


async def test_who_does_not_ask_for_an_upgrade_is_told_to(house: House) -> None:
    for path, protocol in (("/cyfs/streams", STREAM), ("/cyfs/receiver", ARRIVALS), ("/cyfs/receiver/x", STREAM)):
        done = await house.unix(path, "-X", "POST", "--data", json.dumps(GOOD))
        assert (done.status, done.headers["upgrade"]) == (426, protocol)
        assert (await post(house, path, GOOD, "-H", "Connection: Upgrade", "-H", "Upgrade: other"))[0] == 426


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"peer": "", "port": 1}, 400),
        ({"peer": 1, "port": 1}, 400),
        ({"peer": "x" * 600, "port": 1}, 400),
        ({"peer": "a", "port": 0}, 400),
        ({"peer": "a", "port": True}, 400),
        ({"peer": "a", "port": 1, "host": None}, 400),
        ({"peer": "a", "port": 1, "network": "icmp"}, 400),
        ({"peer": "nobody", "port": 1}, 400),
        ({"peer": "stranger", "port": 1}, 403),
        ({"peer": "away", "port": 1}, 504),
        ([], 400),
    ],
)
async def test_until_it_is_open_a_stream_is_an_ordinary_answer(house: House, body: object, status: int) -> None:
    assert (await post(house, "/cyfs/streams", body, *UPGRADE))[0] == status


async def test_an_upgrade_that_nobody_asked_for_leaves_nothing_open() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
            wire = Wire(stream)
            theirs.sendall(b"POST /cyfs/streams HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await wire.next_request() is not None and await wire.body(100) == b""
            before = set(os.listdir("/proc/self/fd"))
            with pytest.raises(h11.LocalProtocolError):
                await wire.switch(STREAM)
            assert set(os.listdir("/proc/self/fd")) <= before and not wire.switched


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open nothing."""
    before, taken = resource.getrlimit(resource.RLIMIT_NOFILE), []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in taken:
            os.close(fd)


@pytest.mark.parametrize(
    ("path", "protocol"), [("streams", STREAM), ("receiver", ARRIVALS), ("receiver/arrival", STREAM)]
)
async def test_without_descriptors_nothing_is_promised(
    house: House, caplog: pytest.LogCaptureFixture, path: str, protocol: str
) -> None:
    body = json.dumps(GOOD).encode()
    head = f"POST /cyfs/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n"
    async with await trio.open_unix_socket(house.socket) as stream:
        await stream.send_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")  # it was accepted
        with no_descriptors():
            await stream.send_all(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            heard = b""
            while b"}" not in heard:
                heard += await stream.receive_some()
    assert heard.startswith(b"HTTP/1.1 503 "), heard
    assert b"there are no descriptors left here (Too many open files)" in heard
    assert [record.levelno for record in caplog.records if record.levelno > logging.INFO] in ([], [logging.WARNING])


async def test_a_lack_on_the_way_is_no_fault_of_the_peer() -> None:
    lack = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    for cause, status in ((lack, 503), (ConnectionRefusedError(), 504), (None, 504)):
        with pytest.raises(HttpFault) as answer, reached():
            raise Unreachable("it cannot be dialled", "tunnel_open") from cause
        assert answer.value.status == status


@pytest.mark.parametrize("name", ["\ud800", "x\udfff", "a\nb", "\x1b[31m", "\x00"])
async def test_what_is_no_text_is_no_name(house: House, name: str) -> None:
    for body in ({"peer": "a", "host": name, "port": 1}, {"peer": name, "port": 1}):
        status, said = await post(house, "/cyfs/streams", body, *UPGRADE)
        assert (status, "characters" in said or "half a character" in said) == (400, True), said
    assert house.gateway.told == []


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/cyfs/ping", "POST", {"peer": "\ud800"}),
        ("/cyfs/probe", "POST", {"url": "socks://\ud800/x:1"}),
        ("/proxies/pick", "PUT", {"name": "\ud800"}),
        ("/configs", "PUT", {"payload": "rules: ['DOMAIN,\ud800,DIRECT']"}),
        ("/cyfs/modules/health/ping", "POST", {"\ud800": [{"a": "\udfff"}]}),
    ],
)
async def test_half_a_character_in_any_body_is_a_fault_of_the_asker(
    house: House, path: str, method: str, body: object
) -> None:
    done = await house.unix(path, "-X", method, "--data", json.dumps(body))
    assert (done.status, "half a character" in done.json["message"]) == (400, True)


async def test_a_character_that_is_written_in_two_halves_is_whole(house: House) -> None:
    body = json.dumps({"greeting": "🚀"})
    done = await house.unix("/cyfs/modules/health/ping", "-X", "POST", "--data", body)
    assert ("\\ud83d\\ude80" in body, done.status, done.json) == (True, 200, {"pong": {"greeting": "🚀"}})


@pytest.fixture(params=["unix", "tcp"])
def controller(request: Any, house: House) -> Controller:
    if request.param == "unix":
        return Controller(Path(house.socket))
    return Controller(f"http://127.0.0.1:{house.port}", SECRET)


async def test_the_connection_becomes_the_stream_and_nothing_is_lost(house: House, controller: Controller) -> None:
    stream = EndpointStream(await controller.stream("cyfs", "streams", body=GOOD))
    async with stream:
        heard = b""
        while not heard.endswith(b"\n"):
            heard += await stream.receive_some()
        assert heard == b"220 welcome\n", "the server speaks at once"
        await stream.send_all(b"x" * 300_000)
        await stream.send_eof()
        heard = b""
        while data := await stream.receive_some():
            heard += data
        assert heard == b"x" * 300_000
    assert house.gateway.told == [("call", GOOD["peer"], "", 22, "tcp")]


async def test_a_controller_says_what_is_wrong(house: House, tmp_path: Path) -> None:
    with pytest.raises(ApiFault, match="stranger"):
        await Controller(Path(house.socket)).stream("cyfs", "streams", body={"peer": "stranger", "port": 1})
    with pytest.raises(ApiFault) as denied:
        await Controller(f"http://127.0.0.1:{house.port}", "wrong").stream("cyfs", "streams", body=GOOD)
    assert denied.value.status == 401
    for place in (tmp_path / "none.sock", "http://127.0.0.1:1", f"https://127.0.0.1:{house.tls_port}"):
        with pytest.raises(Unreachable):
            await Controller(place).stream("cyfs", "streams", body=GOOD)


async def test_nothing_is_kept_of_streams_that_have_been_handed_over(house: House) -> None:
    """More of them than an entrance has places."""
    controller = Controller(Path(house.socket))
    streams = [await controller.stream("cyfs", "streams", body=GOOD) for _ in range(140)]
    assert (await house.unix("/version")).status == 200
    for stream in streams:
        stream.close()


async def test_peers_who_want_to_send_are_announced_and_claimed(house: House, controller: Controller) -> None:
    sock = await controller.upgraded(("cyfs", "receiver"), {"allow": ["did:dev:x"]}, ARRIVALS)
    said = json.loads(await receive_some(sock))
    assert said == {
        "id": "arrival",
        "did": "did:web:laptop.home.example",
        "host": "laptop.home.example",
        "owner": "did:dev:y",
        "zone": "did:web:home.example",
        "trust": "owner-signed",
    }
    with pytest.raises(ApiFault) as unknown:
        await controller.stream("cyfs", "receiver", "other", body={})
    assert unknown.value.status == 404
    async with EndpointStream(await controller.stream("cyfs", "receiver", "arrival", body={})) as stream:
        assert await stream.receive_some() == b"220 welcome\n"
    sock.close()
    with trio.fail_after(60):
        while ("received", ["did:dev:x"]) not in house.gateway.told:  # noqa: ASYNC110 - it has no event to give
            await trio.sleep(0.005)


@pytest.mark.parametrize("allow", [7, ["x"] * 65, [1], ["nonsense"]])
async def test_whom_to_receive_from_is_said_rightly_or_not_at_all(house: House, allow: object) -> None:
    upgrade = ("-H", "Connection: Upgrade", "-H", f"Upgrade: {ARRIVALS}")
    assert (await post(house, "/cyfs/receiver", {"allow": allow}, *upgrade))[0] == 400


async def test_a_peer_is_forgotten(house: House) -> None:
    done = await house.unix("/cyfs/peers/did%3Aweb%3Aa.example", "-X", "DELETE")
    assert (done.status, done.json) == (200, {"closed": 1})
    assert (await house.unix("/cyfs/peers/nobody", "-X", "DELETE")).status == 400
    assert ("forget", "did:web:a.example") in house.gateway.told
