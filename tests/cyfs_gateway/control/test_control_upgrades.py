"""Control connections that become streams: who may, what is answered until then, and who hears of the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from control_house import SECRET, House

from cyfs_gateway.io.chunks import ARRIVALS, STREAM
from cyfs_gateway.io.command.attached import Controller
from cyfs_ns.errors import Unreachable
from cyfs_ns.io.client import ApiFault
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
    with trio.fail_after(10):
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
