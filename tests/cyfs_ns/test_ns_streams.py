"""The stream doors, live on loopback: limits and manners, and the programs people really use."""

from __future__ import annotations

import base64
import random
import resource
import shutil
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from pathlib import Path

import pytest
import trio
from conversing import question, reply_to
from h2frames import CALM, GET, HEADERS, HELLO, RST, frame, goaway_code

from cyfs_ns.conversation import Serve
from cyfs_ns.io.https import ALPN, https_door
from cyfs_ns.io.selfsigned import ensure_certificate
from cyfs_ns.io.servertls import ServerTls
from cyfs_ns.io.streams import StreamDoor, StreamHall, StreamLimits, bind_tcp, serve_door, tcp_door, tls_door
from cyfs_ns.peer import Peer


class Kept:
    """Knows the replies to some queries, whatever their id; remembers who asked."""

    def __init__(self, *names: str) -> None:
        self._replies = {question(name)[2:]: reply_to(question(name))[2:] for name in names}
        self.asked: list[tuple[bytes, str]] = []

    def answer(self, client_ip: bytes, query: bytes, door: str) -> bytes | None:
        self.asked.append((client_ip, door))
        reply = self._replies.get(query[2:])
        return None if reply is None else query[:2] + reply


class Thinker:
    """The cold path: answers after ``leave`` is given, and counts how many wait for it."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.waiting = self.most = 0
        self.leave = trio.Event()

    async def __call__(self, query: bytes, peer: Peer) -> bytes | None:
        self.peers.append(peer)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self.leave.wait()
        finally:
            self.waiting -= 1
        return reply_to(query)


async def at_once(query: bytes, _peer: Peer) -> bytes | None:
    await trio.lowlevel.checkpoint()
    return reply_to(query)


class House:
    """A hall with doors that were opened, and the ports they are at."""

    def __init__(self, hall: StreamHall, tls_file: Path | None) -> None:
        self.hall, self.tls_file = hall, tls_file
        self.ports: dict[str, int] = {}

    def door(self, kind: str) -> StreamDoor:
        listener = bind_tcp("127.0.0.1", 0)
        self.ports[kind] = listener.getsockname()[1]
        limits, pem = self.hall.limits, self.tls_file
        if kind == "tcp":
            return tcp_door(listener, limits)
        if kind == "http":
            return https_door(listener, limits, None, proxies=[ip_network("127.0.0.0/8")])
        assert pem is not None
        if kind == "tls":
            return tls_door(listener, limits, ServerTls(pem, pem, ["dot"]))
        return https_door(listener, limits, ServerTls(pem, pem, ALPN))

    async def until(self, true: Callable[[], bool]) -> None:
        with trio.fail_after(60):
            while not true():  # noqa: ASYNC110 (what is waited for happens in the doors, which tell nobody)
                await trio.sleep(0.005)


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_certificate(tmp_path_factory.mktemp("tls") / "own.pem", ["dns.test", "127.0.0.1"])


@asynccontextmanager
async def house(
    *kinds: str, kept: Kept | None = None, serve: Serve = at_once, pem: Path | None = None, **limits: float
) -> AsyncIterator[House]:
    hall = StreamHall(kept or Kept(), serve, StreamLimits(**limits))  # type: ignore[arg-type]
    built = House(hall, pem)
    async with trio.open_nursery() as nursery:
        for kind in kinds:
            door = built.door(kind)
            door.open()
            await nursery.start(serve_door, hall, door)
        yield built
        nursery.cancel_scope.cancel()
    assert len(hall.crowd) == hall.in_work == 0


async def connect(house: House, kind: str) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", house.ports[kind])


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(message)) + message for message in messages)


async def read_frame(stream: trio.abc.Stream) -> bytes:
    async def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            some = await stream.receive_some(size - len(data))
            assert some, f"closed after {data!r}"
            data += some
        return data

    with trio.fail_after(60):
        return await exactly(int.from_bytes(await exactly(2), "big"))


async def rest(stream: trio.abc.Stream) -> bytes:
    data = b""
    with trio.fail_after(60), suppress(trio.BrokenResourceError):
        while some := await stream.receive_some(65536):
            data += some
    return data


def client_tls(*alpn: str, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_hits_and_misses_are_answered_as_they_are_ready() -> None:
    thinker = Thinker()
    async with house("tcp", kept=Kept("hit.test"), serve=thinker) as live, await connect(live, "tcp") as stream:
        miss, hit, late = question("miss.test", 1), question("hit.test", 2), question("late.test", 3)
        await stream.send_all(framed(miss, hit, late))
        assert await read_frame(stream) == reply_to(hit)
        await live.until(lambda: thinker.waiting == 2)
        thinker.leave.set()
        assert sorted([await read_frame(stream), await read_frame(stream)]) == [reply_to(miss), reply_to(late)]
        local = stream.socket.getsockname()
        assert thinker.peers[0] == Peer("127.0.0.1", local[1], "tcp", "127.0.0.1", "", stream.socket.getpeername()[1])


async def test_silence_of_either_path_is_kept() -> None:
    class Mute(Kept):
        def answer(self, client_ip: bytes, query: bytes, door: str) -> bytes | None:
            return b"" if b"mute" in query else None

    async def serve(query: bytes, _peer: Peer) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return {b"n": None, b"e": b""}.get(query[13:14], reply_to(query))

    async with house("tcp", kept=Mute(), serve=serve) as live, await connect(live, "tcp") as stream:
        await stream.send_all(framed(*(question(name) for name in ("mute", "none", "empty", "told"))))
        await stream.send_eof()
        assert await rest(stream) == framed(reply_to(question("told")))


async def test_half_closed_clients_still_get_their_answers() -> None:
    async with house("tcp") as live, await connect(live, "tcp") as stream:
        await stream.send_all(framed(question()))
        await stream.send_eof()
        assert await rest(stream) == framed(reply_to(question()))


async def test_what_the_cold_path_throws_stays_with_its_query() -> None:
    async def failing(query: bytes, _peer: Peer) -> bytes | None:
        await trio.lowlevel.checkpoint()
        if b"bad" in query:
            raise ZeroDivisionError
        return reply_to(query)

    async with house("tcp", serve=failing) as live, await connect(live, "tcp") as stream:
        await stream.send_all(framed(question("bad.test", 1), question("good.test", 2)))
        assert await read_frame(stream) == reply_to(question("good.test", 2))


async def test_back_pressure_holds_the_client_and_loses_nothing() -> None:
    thinker = Thinker()
    async with house("tcp", serve=thinker, width=3) as live, await connect(live, "tcp") as stream:
        queries = [question(f"n{at}.test", at) for at in range(500)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, framed(*queries))
            await live.until(lambda: thinker.waiting == 3)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            assert len(thinker.peers) == 3
            thinker.leave.set()
            replies = [await read_frame(stream) for _ in queries]
        assert sorted(replies) == sorted(reply_to(query) for query in queries)
        assert thinker.most == 3


async def test_all_connections_together_think_about_so_many_and_each_about_one() -> None:
    thinker = Thinker()
    async with (
        house("tcp", serve=thinker, queries=4) as live,
        await connect(live, "tcp") as one,
        await connect(live, "tcp") as two,
    ):
        await one.send_all(framed(*(question(f"n{at}.test", at) for at in range(6))))
        await live.until(lambda: thinker.waiting == 4)
        await two.send_all(framed(question("x.test", 7), question("y.test", 8)))
        await live.until(lambda: thinker.waiting == 5)
        thinker.leave.set()
        assert len([await read_frame(one) for _ in range(6)]) == 6
        assert len([await read_frame(two) for _ in range(2)]) == 2
        assert thinker.most == 5


async def test_a_client_that_does_not_read_holds_little_and_not_for_long() -> None:
    big = reply_to(question()) + bytes(60_000)

    async def verbose(_query: bytes, _peer: Peer) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return big

    async with house("tcp", serve=verbose, partial=0.3) as live, await connect(live, "tcp") as stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(framed(*(question(ident=at) for at in range(1000))))
        await live.until(lambda: live.hall.ended["does not read"] == 1)


async def test_a_client_that_is_cut_off_takes_its_queries_along() -> None:
    thinker = Thinker()
    async with house("tcp", serve=thinker) as live:
        stream = await connect(live, "tcp")
        await stream.send_all(framed(question("a.test"), question("b.test")))
        await live.until(lambda: thinker.waiting == 2)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        await live.until(lambda: thinker.waiting == 0)


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sent", "why"),
    [
        ("tcp", b"", "idle"),
        ("tcp", b"\0", "message too slow"),
        ("tcp", framed(question()) + b"\0\x20half", "message too slow"),
        ("http", HELLO + frame(HEADERS, 4, 1, GET), "message too slow"),
        ("http", b"GET /dns-query", "message too slow"),
        ("tls", b"", "handshake too slow"),
        ("tls", b"\x16\x03\x01", "handshake too slow"),
        ("tls", b"GET / HTTP/1.1\r\n\r\n", "handshake failed"),
        ("tcp", b"\0\1x", "broke the rules"),
    ],
)
async def test_time_is_limited(kind: str, sent: bytes, why: str, pem: Path) -> None:
    async with house(kind, pem=pem, idle=0.2, handshake=0.2, partial=0.2) as live:
        async with await connect(live, kind) as stream:
            if sent:
                await stream.send_all(sent)
            await rest(stream)
        assert live.hall.ended == {why: 1}


@pytest.mark.parametrize("kind", ["tcp", "tls", "http", "https"])
async def test_noise_harms_nobody_else(kind: str, pem: Path) -> None:
    noise = random.Random(kind)
    async with house(kind, "tcp", pem=pem) as live, await connect(live, "tcp") as steady:
        for _ in range(50):
            async with await connect(live, kind) as stream:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(noise.randbytes(noise.randrange(1, 3000)))
        await steady.send_all(framed(question()))
        assert await read_frame(steady) == reply_to(question())
        await live.until(lambda: live.hall.ended.total() == 50)
        assert not live.hall.ended["our fault"]


async def test_drops_of_a_message_do_not_buy_time() -> None:
    async with house("tcp", partial=0.4) as live, await connect(live, "tcp") as stream:
        with trio.fail_after(60), suppress(trio.BrokenResourceError):
            while not live.hall.ended:
                await stream.send_all(b"\1")
                await trio.sleep(0.05)
        assert live.hall.ended == {"message too slow": 1}


async def test_the_oldest_idle_one_makes_room_for_a_newcomer() -> None:
    async with (
        house("tcp", connections=2) as live,
        await connect(live, "tcp") as oldest,
        await connect(live, "tcp") as second,
    ):
        for stream in (oldest, second):
            await stream.send_all(framed(question()))
            await read_frame(stream)
        async with await connect(live, "tcp") as third:
            await third.send_all(framed(question()))
            await read_frame(third)
            assert await rest(oldest) == b""
            assert live.hall.ended == {"made room": 1}


async def test_one_client_has_its_share_and_busy_ones_stay() -> None:
    thinker = Thinker()
    async with house("tcp", serve=thinker, of_one_client=1) as live, await connect(live, "tcp") as busy:
        await busy.send_all(framed(question()))
        await live.until(lambda: thinker.waiting == 1)
        async with await connect(live, "tcp") as other:
            assert await rest(other) == b""
        assert live.hall.ended == {"turned away": 1}
        thinker.leave.set()
        assert await read_frame(busy) == reply_to(question())


async def test_a_reset_flood_is_calmed_and_leaves_nothing_behind() -> None:
    thinker = Thinker()
    flood = HELLO + b"".join(
        frame(HEADERS, 5, ident, GET) + frame(RST, 0, ident, bytes(4)) for ident in range(1, 20001, 2)
    )

    async with house("http", serve=thinker) as live:

        async def attack() -> bytes:
            async with await connect(live, "http") as stream:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(flood)
                return await rest(stream)

        assert goaway_code(await attack()) in (CALM, None)
        before = _resident()
        for _ in range(10):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(attack)
        await live.until(lambda: thinker.waiting == 0)
        assert thinker.most <= 4000 + 20
        assert _resident() - before < 48 << 20
        assert live.hall.ended["broke the rules"] > 0


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# --- TLS -------------------------------------------------------------------------------------------------------------


async def ask_tls(house: House, context: ssl.SSLContext, kind: str = "tls") -> trio.SSLStream[trio.SocketStream]:
    stream = trio.SSLStream(await connect(house, kind), context, server_hostname="dns.test")
    with trio.fail_after(60):
        await stream.do_handshake()
    await stream.send_all(framed(question()))
    assert await read_frame(stream) == reply_to(question())
    return stream


async def test_dot_with_and_without_its_protocol_name(pem: Path) -> None:
    async with house("tls", pem=pem) as live:
        for alpn, settled in ((("dot",), "dot"), ((), None), (("other",), None)):
            stream = await ask_tls(live, client_tls(*alpn))
            assert stream.selected_alpn_protocol() == settled
            await trio.aclose_forcefully(stream)


async def test_old_tls_is_not_spoken(pem: Path) -> None:
    with pytest.warns(DeprecationWarning):
        context = client_tls(version=ssl.TLSVersion.TLSv1_1)
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with house("tls", pem=pem) as live:
        with pytest.raises(trio.BrokenResourceError):
            await ask_tls(live, context)
        assert (await ask_tls(live, client_tls(version=ssl.TLSVersion.TLSv1_2))).version() == "TLSv1.2"


def _resumed(port: int) -> list[bool]:
    context = client_tls("dot", version=ssl.TLSVersion.TLSv1_2)
    session, resumed = None, []
    for _ in range(2):
        raw = socket.create_connection(("127.0.0.1", port), timeout=20)
        with context.wrap_socket(raw, server_hostname="dns.test", session=session) as stream:
            stream.sendall(framed(question()))
            assert stream.recv(1000)
            session = stream.session
            resumed.append(bool(stream.session_reused))
    return resumed


async def test_sessions_are_resumed(pem: Path) -> None:
    async with house("tls", pem=pem) as live:
        assert await trio.to_thread.run_sync(_resumed, live.ports["tls"]) == [False, True]


async def test_our_goodbye_is_heard_over_tls(pem: Path) -> None:
    async with house("tls", pem=pem, idle=0.2) as live:
        stream = await ask_tls(live, client_tls())
        with trio.fail_after(60):
            assert await stream.receive_some(100) == b""  # anything but a proper close would raise


# --- programs --------------------------------------------------------------------------------------------------------


async def run(program: str, *arguments: str) -> bytes:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"needs {program}")
    with trio.fail_after(60):
        done = await trio.run_process([path, *arguments], capture_stdout=True, capture_stderr=True)
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "option"), [("tcp", "+tcp"), ("tls", "+tls"), ("https", "+https"), ("https", "+https-get")]
)
@pytest.mark.parametrize("kept", [True, False])
async def test_kdig(kind: str, option: str, kept: bool, pem: Path) -> None:
    async with house(kind, kept=Kept("www.example.com") if kept else None, pem=pem) as live:
        where = ["@127.0.0.1", "-p", str(live.ports[kind])]
        assert await run("kdig", *where, option, "+noedns", "+short", "www.example.com", "A") == b"192.0.2.1\n"


GET_URL = "/dns-query?dns=" + base64.urlsafe_b64encode(question()).decode().rstrip("=")


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
async def test_curl(version: str, pem: Path, tmp_path: Path) -> None:
    body = tmp_path / "query"
    body.write_bytes(question())
    async with house("https", pem=pem) as live:
        base = f"https://127.0.0.1:{live.ports['https']}"
        trust = ["-s", version, "--cacert", str(pem)]
        kind = ["-H", "content-type: application/dns-message", "--data-binary", f"@{body}"]
        assert await run("curl", *trust, *kind, base + "/dns-query") == reply_to(question())
        assert await run("curl", *trust, base + GET_URL) == reply_to(question())
        head = (await run("curl", *trust, "-I", base + GET_URL)).decode().lower()
        assert " 200" in head.splitlines()[0]
        assert "cache-control: max-age=60" in head
        status = [*trust, "-o", "/dev/null", "-w", "%{http_code}"]
        assert await run("curl", *status, base + "/") == b"404"
        assert await run("curl", *status, "-X", "DELETE", base + GET_URL) == b"405"
        large = tmp_path / "large"
        large.write_bytes(bytes(2 << 20))
        assert await run("curl", *status, *kind[:3], f"@{large}", base + "/dns-query") == b"413"


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
async def test_a_proxy_speaks_for_its_clients(version: str) -> None:
    kept = Kept("www.example.com")
    async with house("http", kept=kept) as live:
        url = f"http://127.0.0.1:{live.ports['http']}{GET_URL}"
        for header in ("X-Forwarded-For: 198.51.100.9, 192.0.2.7", "X-Other: 192.0.2.8"):
            assert await run("curl", "-s", version, "-H", header, url) == reply_to(question())
    assert kept.asked == [(bytes((192, 0, 2, 7)), "https"), (bytes((127, 0, 0, 1)), "https")]


@pytest.mark.parametrize(("kind", "mode"), [("tcp", "tcp"), ("tls", "dot"), ("https", "doh")])
@pytest.mark.parametrize("kept", [True, False])
async def test_dnsperf_loses_nothing(kind: str, mode: str, kept: bool, pem: Path, tmp_path: Path) -> None:
    names = [f"n{at}.example.com" for at in range(50)]
    queries = tmp_path / "queries"
    queries.write_text("".join(f"{name} A\n" for name in names))
    async with house(kind, kept=Kept(*names) if kept else None, pem=pem) as live:
        load = ["-d", str(queries), "-c", "4", "-q", "40", "-n", "20"]
        output = await run("dnsperf", "-s", "127.0.0.1", "-p", str(live.ports[kind]), "-m", mode, *load)
    assert b"Queries completed:    1000 (100.00%)" in output


async def test_chromium_resolves_through_doh(pem: Path, tmp_path: Path) -> None:
    asked: set[str] = set()

    async def serve(query: bytes, peer: Peer) -> bytes | None:
        await trio.lowlevel.checkpoint()
        asked.add(peer.door)
        return reply_to(query) if query[12:].startswith(b"\x04page\x04test\0") else None

    async with house("https", serve=serve, pem=pem) as live:
        template = f"https://127.0.0.1:{live.ports['https']}/dns-query"
        profile = tmp_path / "profile"
        (profile / "Default").mkdir(parents=True)
        (profile / "Local State").write_text(
            '{"dns_over_https":{"mode":"secure","templates":"%s"}}' % template  # noqa: UP031
        )
        arguments = ["--headless", "--no-sandbox", "--ignore-certificate-errors", f"--user-data-dir={profile}"]
        await run("chromium", *arguments, "--disable-gpu", "--timeout=5000", "--dump-dom", "http://page.test/")
    assert asked == {"https"}
