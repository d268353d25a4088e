"""Calls over real sockets: by TCP, unix socket and a peer's stream, with curl, with everything that goes wrong."""

from __future__ import annotations

import json
import os
import re
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from krpcservices import House, Note, Notes, serving, until, user, verify

from cyfs_gateway.flow import Identity
from cyfs_ns.errors import ConfigFault, Misuse, Refused, Unreachable
from cyfs_ns.io.control.entrance import MOST_CONNECTIONS as MOST_ENTERING
from cyfs_ns.trust.level import Trust
from tunnels.io.waiting import TcpEndpoint
from zone.io.krpc.client import Client
from zone.io.krpc.dispatch import Dispatcher, Limits
from zone.io.krpc.server import MOST_STREAMS, KrpcServer
from zone.io.krpc.transport import (
    MOST_CONNECTIONS,
    MOST_IDLE,
    HttpTransport,
    LocalTransport,
    Way,
    by_endpoint,
    by_tcp,
    by_unix,
)
from zone.krpc.caller import NOBODY
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.wire import MOST_REQUEST


def token_of(name):
    async def token():
        return f"for.{name}.x" if name else ""

    return token


def place(url):
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return host, int(port)


class Peer:
    """Another device, whose streams reach the server as a tunnel hands them over."""

    def __init__(self, house, nursery, did="device-ann"):
        self.house, self.nursery = house, nursery
        self.identity = Identity(did=did, host="", trust=Trust.KEY_PROVEN)
        self.opened = 0

    async def open(self):
        self.opened += 1
        ours, theirs = socket.socketpair()
        ends = []
        for sock in (ours, theirs):
            sock.setblocking(False)
            ends.append(TcpEndpoint(sock.family, sock.type, sock.proto, sock.detach()))
        self.nursery.start_soon(self.serve, ends[1])
        return ends[0]

    async def serve(self, pipe):
        try:
            await self.house.server.serve_peer(self.identity, pipe)
        except Refused:
            pipe.close()


WAYS = ("local", "tcp", "unix", "peer")


@asynccontextmanager
async def reached(house, how, tmp_path, name="ann"):
    """A client of the notes in ``house``, as ``name``."""
    path = tmp_path / "k.sock"
    where = {"unix": path} if how == "unix" else {"tcp": ("127.0.0.1", 0)}
    async with serving(house, **where) as urls, trio.open_nursery() as nursery:
        if how == "local":
            yield LocalTransport(house.dispatcher, user(name) if name else NOBODY)
        else:
            way = {
                "tcp": lambda: by_tcp(*place(urls[0])),
                "unix": lambda: by_unix(path),
                "peer": lambda: by_endpoint(Peer(house, nursery).open),
            }[how]()
            transport = HttpTransport(way, token_of(name))
            yield transport
            await transport.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", WAYS)
async def test_a_service_is_the_same_by_every_way(how, tmp_path):
    house = House()
    async with reached(house, how, tmp_path) as transport:
        client = Client(transport, "notes", trace="tr")
        notes = client.of(Notes)
        assert await notes.whoami() == "ann"
        assert await notes.put("milk") == Note("milk")
        assert await notes.list() == house.kept["ann"] == [Note("milk")]
        assert (await client.call("describe", {}))["interface"] == "Notes"
        with pytest.raises(KrpcFault) as caught:
            await client.call("put", {"title": 5})
        assert caught.value.code == Code.INVALID
        with pytest.raises(KrpcFault) as caught:
            await Client(transport, "nothing").call("put", {})
        assert caught.value.code == Code.UNKNOWN_SERVICE
        async with client.batch(Notes) as calls:
            bread = calls.put("bread", year=1999)
            old = calls.list().filter(lambda note: note.year < 2000).map(lambda note: note.title).after(bread)
            eggs = calls.put(title=bread.title)
        assert await bread.title == await bread.title == "bread"
        assert await old == ["bread"]
        assert await eggs == Note("bread")


@pytest.mark.parametrize("how", WAYS)
async def test_who_calls_is_what_was_proven(how, tmp_path):
    house = House()
    async with reached(house, how, tmp_path, name="") as transport:
        client = Client(transport, "notes")
        await Client(transport, "odd").call("echo", {})
        assert house.odd.contexts[-1].source == {"peer": "device-ann", "tcp": f"uid:{os.geteuid()}"}.get(how, "")
        assert await client.of(Notes).whoami() == ("device-ann" if how == "peer" else "")
        async with client.batch(Notes) as calls:
            who = calls.whoami()
            put = calls.put("milk")
        assert await who == ("device-ann" if how == "peer" else "")
        if how != "peer":
            with pytest.raises(KrpcFault) as caught:
                await put
            assert caught.value.code == Code.UNAUTHENTICATED
            assert not house.kept


async def test_a_token_that_is_no_good_is_no_weaker_proof(tmp_path):
    house = House()
    async with reached(house, "peer", tmp_path, name="ann") as transport:
        assert await Client(transport, "notes").of(Notes).whoami() == "ann"
        transport._tokens = lambda: token_of_nobody()
        with pytest.raises(KrpcFault) as caught:
            await Client(transport, "notes").of(Notes).whoami()
        assert caught.value.code == Code.UNAUTHENTICATED


async def token_of_nobody():
    return "not.of.here"


# -- faults, deadlines, limits


@pytest.mark.parametrize("how", WAYS)
async def test_a_fault_of_the_service_says_nothing_of_its_inside(how, tmp_path, caplog):
    house = House()
    async with reached(house, how, tmp_path) as transport:
        with pytest.raises(KrpcFault) as caught:
            await Client(transport, "odd").call("fail", {})
        assert caught.value.code == Code.INTERNAL
        assert "secret detail" not in str(caught.value)
    assert "secret detail" in caplog.text


@pytest.mark.parametrize("how", WAYS)
async def test_a_call_that_hangs_is_cancelled_on_both_sides(how, tmp_path):
    house = House()
    async with reached(house, how, tmp_path) as transport:
        with pytest.raises(KrpcFault) as caught:
            await Client(transport, "odd", seconds=1.0).call("hang", {})
        assert caught.value.code == Code.DEADLINE
        await until(lambda: not house.odd.running)
        assert 0 < house.odd.contexts[0].seconds <= 1.0
        async with Client(transport, "odd").batch() as calls:
            good = calls.echo(x=1)
        assert await good == {"x": 1}


@pytest.mark.parametrize("how", WAYS)
async def test_what_cannot_be_sent_is_the_services_fault(how, tmp_path):
    house = House()
    async with reached(house, how, tmp_path) as transport:
        if how != "local":
            for method, code in (("big", Code.TOO_LARGE), ("unsendable", Code.INTERNAL)):
                with pytest.raises(KrpcFault) as caught:
                    await Client(transport, "odd").call(method, {})
                assert caught.value.code == code
        async with Client(transport, "odd").batch() as calls:
            big, echo = calls.big(), calls.echo(x=1)
        assert await echo == {"x": 1}
        with pytest.raises(KrpcFault) as caught:
            await big
        assert caught.value.code == Code.TOO_LARGE


async def test_only_what_is_idempotent_is_tried_again(tmp_path):
    house = House()
    async with reached(house, "tcp", tmp_path) as transport:
        client = Client(transport, "odd")
        with pytest.raises(KrpcFault):
            await client.call("flaky", {})
        assert await client.call("flaky", {"x": 1}, idempotent=True) == {"x": 1}
        assert house.odd.calls == ["flaky"] * 3


async def test_one_caller_cannot_take_all():
    house = House(Limits(caller=2, all=3))
    async with trio.open_nursery() as nursery:
        ann, bob = (Client(LocalTransport(house.dispatcher, user(name)), "odd") for name in ("ann", "bob"))
        for _ in range(2):
            nursery.start_soon(ann.call, "wait", {})
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(KrpcFault) as caught:
            await ann.call("echo", {})
        assert caught.value.code == Code.LIMITED
        assert await bob.call("echo", {}) == {}
        nursery.start_soon(bob.call, "wait", {})
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(KrpcFault):
            await Client(LocalTransport(house.dispatcher, NOBODY), "odd").call("echo", {})
        house.odd.release.set()
    assert await ann.call("echo", {}) == {}


async def test_a_batch_runs_a_few_calls_at_once():
    house = House()
    async with trio.open_nursery() as nursery:

        async def run():
            async with Client(LocalTransport(house.dispatcher, user("ann")), "odd").batch() as calls:
                for _ in range(20):
                    calls.wait()

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        assert house.odd.running == 8
        house.odd.release.set()
    assert house.odd.most_running == 8
    assert len(house.odd.calls) == 20


async def test_a_name_is_given_once():
    dispatcher = Dispatcher()

    async def service(caller, method, params, context):
        return method

    end = dispatcher.register("echo", service)
    with pytest.raises(ConfigFault):
        dispatcher.register("echo", service)
    end()
    assert "echo" not in dispatcher
    dispatcher.register("echo", service)
    end()
    assert "echo" in dispatcher or dispatcher.register("echo", service)
    with pytest.raises(Misuse):
        dispatcher.register("No Name", service)


# -- connections


async def test_connections_are_used_again_and_a_dead_one_is_not(tmp_path):
    house = House()
    async with trio.open_nursery() as nursery:
        peer = Peer(house, nursery)
        transport = HttpTransport(by_endpoint(peer.open))
        client = Client(transport, "notes").of(Notes)
        for _ in range(5):
            await client.list()
        assert peer.opened == 1
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        peer.nursery = nursery
        await client.list()
        assert peer.opened == 2
        await transport.aclose()
        await client.list()
        assert peer.opened == 3
        assert not transport._idle
        nursery.cancel_scope.cancel()


async def test_no_more_connections_are_kept_than_some(tmp_path):
    house = House()
    async with trio.open_nursery() as nursery:
        peer = Peer(house, nursery)
        transport = HttpTransport(by_endpoint(peer.open))
        async with trio.open_nursery() as many:
            for _ in range(10):
                many.start_soon(Client(transport, "odd").call, "wait", {})
            await until(lambda: house.odd.running == 10)
            house.odd.release.set()
        assert len(transport._idle) == MOST_IDLE
        await transport.aclose()
        nursery.cancel_scope.cancel()


async def test_a_client_has_a_few_connections_and_the_others_wait(tmp_path):
    house = House()
    async with trio.open_nursery() as nursery:
        peer = Peer(house, nursery)
        transport = HttpTransport(by_endpoint(peer.open))
        async with trio.open_nursery() as many:
            for _ in range(MOST_CONNECTIONS + 5):
                many.start_soon(Client(transport, "odd").call, "wait", {})
            await until(lambda: house.odd.running == MOST_CONNECTIONS)
            house.odd.release.set()
        assert (house.odd.most_running, len(house.odd.calls)) == (MOST_CONNECTIONS, MOST_CONNECTIONS + 5)
        await transport.aclose()
        nursery.cancel_scope.cancel()


async def test_a_peer_has_a_few_streams(tmp_path):
    house = House()
    async with trio.open_nursery() as nursery:
        peer = Peer(house, nursery)
        transports = [HttpTransport(by_endpoint(peer.open)) for _ in range(MOST_STREAMS + 3)]
        found: list[str] = []

        async def ask(transport):
            try:
                await Client(transport, "odd").call("wait", {})
            except KrpcFault as fault:
                found.append(fault.code)

        async with trio.open_nursery() as many:
            for transport in transports:
                many.start_soon(ask, transport)
            await until(lambda: len(found) == 3 and house.odd.running == MOST_STREAMS)
            house.odd.release.set()
        assert found == [Code.UNCERTAIN] * 3
        for transport in transports:
            await transport.aclose()
        nursery.cancel_scope.cancel()


async def test_a_device_that_leaves_is_nobody_on_a_stream_that_it_has():
    house = House()
    devices = {"device-ann"}
    house.server = KrpcServer(
        house.dispatcher, verify, lambda identity: user(identity.did) if identity.did in devices else None
    )
    async with trio.open_nursery() as nursery:
        peer = Peer(house, nursery)
        transport = HttpTransport(by_endpoint(peer.open))
        notes = Client(transport, "notes").of(Notes)
        assert await notes.whoami() == "device-ann"
        devices.clear()
        assert await notes.whoami() == ""
        assert peer.opened == 1
        await transport.aclose()
        nursery.cancel_scope.cancel()


async def test_a_stranger_by_a_tunnel_is_nobody_here():
    house = House()
    async with trio.open_nursery() as nursery:
        transport = HttpTransport(by_endpoint(Peer(house, nursery, did="").open), token_of("ann"))
        with pytest.raises(KrpcFault) as caught:
            await Client(transport, "notes").call("list", {})
        assert caught.value.code == Code.UNCERTAIN
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Unreachable("no way"), Code.UNAVAILABLE),
        (Refused("no"), Code.DENIED),
        (ConnectionRefusedError(), Code.UNAVAILABLE),
    ],
)
async def test_no_way_to_the_service(fault, code):
    async def open_():
        raise fault

    with pytest.raises(KrpcFault) as caught:
        await Client(HttpTransport(Way(open_)), "notes").call("list", {})
    assert caught.value.code == code


async def test_a_way_that_takes_too_long(autojump_clock):
    transport = HttpTransport(Way(trio.sleep_forever))
    with pytest.raises(KrpcFault) as caught:
        await Client(transport, "notes", seconds=0.05).call("list", {})
    assert (caught.value.code, caught.value.retryable) == (Code.UNAVAILABLE, True)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"100000\r\n" + b"x" * 0x100000 + b"\r\n",
    ],
)
async def test_a_server_that_answers_anything(answer):
    async def serve(stream):
        async with stream:
            await stream.receive_some(65536)
            with trio.move_on_after(5):
                await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        transport = HttpTransport(by_tcp("127.0.0.1", listener.socket.getsockname()[1]))
        with pytest.raises(KrpcFault) as caught:
            await Client(transport, "notes").call("list", {})
        assert caught.value.code == Code.UNCERTAIN
        nursery.cancel_scope.cancel()


# -- whoever comes to do harm


async def answers(url, *pieces, pause=0.0):
    """What comes back until the server has enough of whoever sends ``pieces`` with a pause behind each."""
    stream = await trio.open_tcp_stream(*place(url))
    found = b""
    async with stream, trio.open_nursery() as nursery:

        async def send():
            with suppress(trio.BrokenResourceError):
                for piece in pieces:
                    await stream.send_all(piece)
                    await trio.sleep(pause)

        nursery.start_soon(send)
        with suppress(trio.BrokenResourceError):
            while data := await stream.receive_some(65536):
                found += data
        nursery.cancel_scope.cancel()
    return found


async def test_who_sends_slowly_or_too_much_is_left(autojump_clock):
    house = House()
    async with serving(house, tcp=("127.0.0.1", 0)) as (url,):
        host = url.removeprefix("http://")
        head = f"POST /kapi/notes HTTP/1.1\r\nHost: {host}\r\n".encode()
        began = trio.current_time()
        assert await answers(url, *[b"P"] * 100, pause=1) == b""
        trickle = (head + b"Content-Length: 1000\r\n\r\n", *[b" "] * 1000)
        assert b" 408 " in await answers(url, *trickle, pause=1)
        assert b" 431 " in await answers(url, head, b"X: " + b"y" * 100_000)
        chunks = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        assert b" 413 " in await answers(url, head + b"Transfer-Encoding: chunked\r\n\r\n", chunks, chunks, b"1\r\nx")
        assert b" 400 " in await answers(url, b"\x16\x03\x01 hello\r\n\r\n")
        assert trio.current_time() - began < 120
        client = Client(HttpTransport(by_tcp(*place(url))), "notes")
        assert await client.call("list", {}) == []


async def test_who_keeps_all_connections_keeps_nobody_from_the_other_door(tmp_path):
    house = House()
    async with serving(house, tcp=("127.0.0.1", 0), unix=tmp_path / "k.sock") as urls, AsyncExitStack() as kept:
        url = next(url for url in urls if url.startswith("http"))
        for _ in range(MOST_ENTERING):
            await kept.enter_async_context(await trio.open_tcp_stream(*place(url)))
        assert await answers(url, b"") == b""
        client = Client(HttpTransport(by_unix(tmp_path / "k.sock")), "notes")
        assert await client.call("list", {}) == []


# -- a foreign client


async def curl(url, body=None, *more):
    command = ["curl", "-sS", "-w", "\n%{http_code}", "--max-time", "100", *more, url]
    if body is not None:
        command += ["--data-binary", "@-"]
    ran = await trio.run_process(
        command, stdin=json.dumps(body).encode() if body is not None else b"", capture_stdout=True
    )
    text, _, status = ran.stdout.decode().rpartition("\n")
    return int(status), text


async def test_curl_calls_a_service(tmp_path):
    house = House()
    async with serving(house, tcp=("127.0.0.1", 0), unix=tmp_path / "k.sock") as urls:
        url = next(url for url in urls if url.startswith("http")) + "/kapi/notes"
        call = {"method": "put", "params": {"title": "milk"}, "sys": [7, "for.ann.x", "tr"]}
        status, text = await curl(url, call)
        assert (status, json.loads(text)) == (200, {"result": {"title": "milk", "year": 2026}, "sys": [7, "tr"]})
        status, text = await curl("http://localhost/kapi/notes", call, "--unix-socket", str(tmp_path / "k.sock"))
        assert status == 200
        assert len(house.kept["ann"]) == 2

        status, text = await curl(url, call | {"sys": [8, "bad.token.x"]})
        assert (status, json.loads(text)["error"]["code"]) == (401, "unauthenticated")
        status, text = await curl(url, call | {"method": "burn"})
        assert (status, json.loads(text)["error"]["code"]) == (404, "unknown-method")
        status, text = await curl(url, ["nonsense"])
        assert (status, json.loads(text)["error"]["code"]) == (400, "invalid")

        batch = {"calls": [{"method": "step", "params": {"number": 1}}], "sys": [9]}
        batch["calls"].append({"method": "step", "params": {"number": {"$ref": [0]}}})
        status, text = await curl(url, batch)
        assert (status, json.loads(text)["result"]) == (200, [{"result": 2}, {"result": 3}])

        big = {"method": "put", "params": {"title": "x" * MOST_REQUEST}, "sys": [1]}
        assert (await curl(url, big))[0] == 413
        assert (await curl(url))[0] == 405
        # A page of a browser, of this very machine or of one that has turned its name to it, gets nowhere.
        for more in (("-H", "Origin: http://evil.example"), ("-H", "Host: evil.example"), ("-H", "Origin: null")):
            assert (await curl(url, call, *more))[0] == 403
        preflight = ("-X", "OPTIONS", "-H", "Origin: http://evil.example", "-H", "Access-Control-Request-Method: POST")
        assert (await curl(url, None, *preflight))[0] == 403
        assert len(house.kept["ann"]) == 2


async def test_the_page_for_people_says_what_is_so():
    page = (Path(__file__).parents[3] / "docs" / "zone.md").read_text()
    batch = re.search(r"```json\n(.*?)```", page, re.DOTALL)[1].replace("TOKEN", "for.ann.x")
    house = House()
    house.kept["ann"] = [Note("milk", 2026), Note("bread", 1999)]
    async with serving(house, tcp=("127.0.0.1", 0)) as (url,):
        status, text = await curl(f"{url}/kapi/notes", json.loads(batch))
    copy = {"title": "bread", "year": 2026}
    assert (status, json.loads(text)["result"]) == (200, [{"result": ["bread"]}, {"result": copy}])


async def test_an_address_that_is_taken(tmp_path):
    house = House()
    async with serving(house, tcp=("127.0.0.1", 0), unix=tmp_path / "k.sock") as urls:
        with pytest.raises(ConfigFault, match="kRPC"):
            await house.server.serve(tcp=place(urls[-1]))
        with pytest.raises(ConfigFault, match="kRPC"):
            await house.server.serve(unix=tmp_path / "k.sock")
