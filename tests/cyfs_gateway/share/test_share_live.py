"""The door for browsers in a living gateway: real TLS, real curl, a real service behind it, the program's commands."""

from __future__ import annotations

import json
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trustme
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Request

from cyfs_gateway.io.certs.module import CertificatesModule
from cyfs_gateway.io.modules import Modules
from cyfs_gateway.io.share import book as booking
from cyfs_gateway.io.share.book import GrantBook
from cyfs_gateway.io.share.module import ShareModule
from cyfs_gateway.share.visits import LINK
from cyfs_ns.errors import ConfigFault
from cyfs_ns.identity.did import dev_did
from cyfs_ns.io.trusted.keystore import KeyStore
from tests.cyfs_gateway.io.inprocess import Living, curl, living, serve, socks5, until
from tests.freeport import free_port

HOST, FILES = "photos.me.example", "files.me.example"
PROGRAM = [sys.executable, "-c", "from cyfs_gateway.io.cli import main; main()"]


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"certificates": CertificatesModule, "share": ShareModule}
    monkeypatch.setattr(Modules, "discover", staticmethod(lambda: known))


class House:
    """A gateway that shares ``photos`` and ``files``, and what the service heard."""

    def __init__(self, home: Path, port: int, heard: list[bytes], ca: Path, living: Living) -> None:
        self.home, self.port, self.heard, self.ca, self.living = home, port, heard, ca, living

    async def command(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        with trio.fail_after(60):
            done: subprocess.CompletedProcess[bytes] = await trio.run_process(
                [*PROGRAM, "--home", str(self.home), *words], capture_stdout=True, capture_stderr=True, check=False
            )
        return done

    async def link(self, *words: str) -> dict[str, str]:
        done = await self.command("share", "photos", "--json", *words)
        return dict(json.loads(done.stdout))

    async def curl(self, *words: str, host: str = HOST) -> str:
        """What a browser gets; ``words`` end with a path."""
        *options, path = words
        _, said = await curl(
            "--cacert",
            str(self.ca),
            "--resolve",
            f"{host}:{self.port}:127.0.0.1",
            *options,
            f"https://{host}:{self.port}{path}",
        )
        return said

    async def tls(self, host: str = HOST) -> trio.SSLStream[trio.SocketStream]:
        context = ssl.create_default_context(cafile=str(self.ca))
        raw = await trio.open_tcp_stream("127.0.0.1", self.port)
        stream = trio.SSLStream(raw, context, server_hostname=host, https_compatible=True)
        await stream.do_handshake()
        return stream

    async def certified(self) -> None:
        """Wait until the door has certificates, which are another module's."""
        with trio.fail_after(60):
            while True:
                try:
                    stream = await self.tls()
                except trio.BrokenResourceError:
                    await trio.sleep(0.02)
                else:
                    await trio.aclose_forcefully(stream)
                    return

    async def jar(self) -> str:
        """A cookie that opens the service."""
        path = (await self.link())["url"].removeprefix(f"https://{HOST}")
        said = await self.curl("-i", path)
        (line,) = [line for line in said.splitlines() if line.lower().startswith("set-cookie:")]
        return line.partition(": ")[2].partition(";")[0]


@asynccontextmanager
async def sharing(home: Path, service: Callable[[House, trio.SocketStream], Awaitable[None]]) -> AsyncIterator[House]:
    ca, port, heard = trustme.CA(), free_port(), list[bytes]()
    ca.cert_pem.write_to_path(home / "ca.pem")
    ca.issue_cert(HOST, FILES).private_key_and_cert_chain_pem.write_to_path(home / "own.pem")
    async with trio.open_nursery() as nursery:

        async def backend(stream: trio.SocketStream) -> None:
            await service(house, stream)

        inner = await serve(nursery, backend)
        config = f"""
listeners: [{{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}}]
rules: ["MATCH,REJECT"]
certificates: {{files: [own.pem]}}
share:
  listen: ["127.0.0.1:{port}"]
  services:
    photos: {{host: {HOST}, to: "tcp://127.0.0.1:{inner}"}}
    files: {{host: {FILES}, to: "tcp://127.0.0.1:{inner}"}}
"""
        async with living(home, config) as gateway:
            house = House(home, port, heard, home / "ca.pem", gateway)
            with socket.socket() as sock:
                await until(lambda: sock.connect_ex(("127.0.0.1", port)) == 0)
            await house.certified()
            yield house
        nursery.cancel_scope.cancel()


async def echo(house: House, stream: trio.SocketStream) -> None:
    """Answers each request with its head and the length of its body."""
    seen = b""
    async for chunk in stream:
        seen += chunk
        head, found, body = seen.partition(b"\r\n\r\n")
        if not found:
            continue
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += await stream.receive_some(65536)
        house.heard.append(head + b"\r\n\r\n" + body)
        said = b"%d bytes for %b" % (len(body), head.split(b"\r\n")[0])
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))
        return


async def test_a_link_opens_a_service_in_any_browser_until_it_is_taken_back(tmp_path: Path) -> None:
    async with sharing(tmp_path, echo) as house:
        assert "401" in await house.curl("-i", "/")
        given = await house.link("--until", "2h", "--note", "Ann")
        path = given["url"].removeprefix(f"https://{HOST}")
        jar = str(tmp_path / "jar")
        assert await house.curl("-L", "-b", jar, "-c", jar, path) == "0 bytes for GET / HTTP/1.1"
        assert "__Host-cyfs-share" in (tmp_path / "jar").read_text()
        assert await house.curl("-b", jar, "-d", "x" * 1000, "/up") == "1000 bytes for POST /up HTTP/1.1"
        assert all(b"__Host" not in each and LINK.encode() not in each for each in house.heard)
        cookie = await house.jar()
        assert "401" in await house.curl("-i", "-H", f"Cookie: {cookie}", "/", host=FILES), "of another service"
        listed = await house.command("share", "list")
        assert b"Ann" in listed.stdout and given["id"].encode() in listed.stdout and b"anybody" in listed.stdout
        done = await house.command("share", "revoke", given["id"])
        assert done.stdout == b"taken back: photos Ann\n"
        heard = len(house.heard)
        assert "withdrawn" in await house.curl("-b", jar, "/")
        assert "withdrawn" in await house.curl(path)
        assert len(house.heard) == heard
        assert (await house.command("share", "revoke", given["id"])).returncode == 1
        assert (await house.command("share", "nothing")).returncode == 1
        files = {each.name: stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "share").iterdir()}
        assert files == {"grants.json": 0o600, "key.pem": 0o600}


async def test_a_link_for_one_machine_is_opened_there_and_nowhere_else(tmp_path: Path) -> None:
    anns, eves = tmp_path / "ann", tmp_path / "eve"
    keys = [KeyStore(each).make_device(each.name).public for each in (anns, eves)]
    async with sharing(tmp_path, echo) as house:
        given = await house.link("--for", str(dev_did(keys[0])))
        assert given["whose"] == given["note"] == str(dev_did(keys[0]))
        path = given["url"].removeprefix(f"https://{HOST}")
        assert "share open" in await house.curl("-i", path)
        paths = []
        for home in (eves, anns):
            said = await house.command("--home", str(home), "share", "open", given["url"])
            assert said.returncode == 0, said.stderr
            paths.append(said.stdout.decode().strip().removeprefix(f"https://{HOST}"))
        assert "403" in await house.curl("-i", paths[0])
        jar = str(tmp_path / "jar")
        assert await house.curl("-L", "-b", jar, "-c", jar, paths[1]) == "0 bytes for GET / HTTP/1.1"
        assert "used" in await house.curl(paths[1])
        assert len(GrantBook(tmp_path / "share").spent(0)) == 1, "over a restart too"
        elsewhere = given["url"].replace(HOST, "evil.example")
        assert (await house.command("share", "open", elsewhere)).returncode == 2
        assert (await house.command("share", "photos", "--for", "ann")).returncode == 1


async def test_what_comes_through_the_gateway_and_in_plain_http_gets_there_too(tmp_path: Path) -> None:
    async with sharing(tmp_path, echo) as house:
        port = house.living.port()
        _, said = await curl("-i", "-x", f"socks5h://127.0.0.1:{port}", f"http://{HOST}/a?b")
        assert "308" in said and f"location: https://{HOST}/a?b" in said
        _, said = await curl("-i", "-x", f"socks5h://127.0.0.1:{port}", "--cacert", str(house.ca), f"https://{HOST}/")
        assert "401" in said
        stream, code = await socks5(port, "other.me.example", 443)
        assert code != 0
        await stream.aclose()


async def test_the_qr_code_is_drawn_when_asked_for(tmp_path: Path) -> None:
    async with sharing(tmp_path, echo) as house:
        done = await house.command("share", "link", "photos", "--qr")
        assert "▀" in done.stdout.decode() and done.stdout.startswith(b"https://photos.me.example/")
        assert b"revoke" in done.stderr


# --- attacks ----------------------------------------------------------------------------------------------------------


async def _answers(stream: trio.SSLStream[trio.SocketStream], count: int) -> bytes:
    """What is said until there are so many answers, or the end."""
    said = b""
    with trio.fail_after(60):
        while said.count(b"HTTP/1.1 ") < count and (piece := await stream.receive_some()):
            said += piece
    await trio.aclose_forcefully(stream)
    return said


_FRAMED_TWICE = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("second", "status"),
    [
        (f"GET /secret HTTP/1.1\r\nHost: {HOST}\r\n\r\n", 401),
        (f"GET /secret HTTP/1.1\r\nHost: {FILES}\r\nCookie: JAR\r\n\r\n", 421),
        (f"GET http://{FILES}/secret HTTP/1.1\r\nHost: {HOST}\r\nCookie: JAR\r\n\r\n", 400),
        (f"POST /secret HTTP/1.1\r\nHost: {HOST}\r\nCookie: JAR\r\n{_FRAMED_TWICE}", 400),
        (f"GET /secret HTTP/1.1\r\nHost: {HOST}\nCookie: JAR\r\n\r\n", 400),
    ],
)
async def test_a_second_request_on_a_connection_is_judged_like_the_first(
    tmp_path: Path, second: str, status: int
) -> None:
    async with sharing(tmp_path, echo) as house:
        jar = await house.jar()
        stream = await house.tls()
        first = f"POST /first HTTP/1.1\r\nHost: {HOST}\r\nCookie: {jar}\r\nContent-Length: 4\r\n\r\nbody"
        await stream.send_all((first + second.replace("JAR", jar)).encode())
        said = await _answers(stream, 2)
        assert b"4 bytes for POST /first" in said and f"HTTP/1.1 {status} ".encode() in said
        assert not any(b"secret" in each for each in house.heard)


async def test_a_body_cannot_become_a_request(tmp_path: Path) -> None:
    hidden = b"GET /secret HTTP/1.1\r\nHost: x\r\n\r\n"

    async def keeps_reading(house: House, stream: trio.SocketStream) -> None:
        async for chunk in stream:
            house.heard.append(bytes(chunk))

    async with sharing(tmp_path, keeps_reading) as house:
        jar = await house.jar()
        stream = await house.tls()
        head = f"POST /a HTTP/1.1\r\nHost: {HOST}\r\nCookie: {jar}\r\nContent-Length: 2\r\n\r\nok".encode()
        await stream.send_all(head + hidden)
        await until(lambda: b"".join(house.heard).endswith(b"\r\n\r\nok"))
        await trio.aclose_forcefully(stream)
        assert b"secret" not in b"".join(house.heard)


async def test_huge_heads_are_cut_off(tmp_path: Path) -> None:
    async with sharing(tmp_path, echo) as house:
        stream = await house.tls()

        async def flood() -> None:
            await stream.send_all(b"GET / HTTP/1.1\r\n")
            while True:
                await stream.send_all(b"X-A: " + b"a" * 1000 + b"\r\n")

        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
            await flood()
        await trio.aclose_forcefully(stream)
        assert house.heard == []


async def test_no_certificate_and_no_tls_end_politely(tmp_path: Path) -> None:
    async with sharing(tmp_path, echo) as house:
        with pytest.raises(trio.BrokenResourceError) as fault:
            await house.tls("other.example")
        assert "UNRECOGNIZED_NAME" in str(fault.value.__cause__)
        async with await trio.open_tcp_stream("127.0.0.1", house.port) as stream:
            await stream.send_all(b"\x00\xffrubbish\r\n\r\n")
            with trio.fail_after(10), suppress(trio.BrokenResourceError):  # a reset, if not all of it was read
                assert await stream.receive_some() == b""


# --- what services do -------------------------------------------------------------------------------------------------


async def test_large_bodies_pass_both_ways_at_once(tmp_path: Path) -> None:
    size = 8 << 20

    async def mirror(house: House, stream: trio.SocketStream) -> None:
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += await stream.receive_some(65536)
        body = seen.partition(b"\r\n\r\n")[2]
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        got = 0
        while got < size:
            if body:
                await stream.send_all(b"%x\r\n%b\r\n" % (len(body), body))
                got += len(body)
            if got < size:
                body = bytes(await stream.receive_some(65536))
        await stream.send_all(b"0\r\n\r\n")

    (tmp_path / "big").write_bytes(bytes(range(256)) * (size // 256))
    async with sharing(tmp_path, mirror) as house:
        jar = await house.jar()
        back = str(tmp_path / "back")
        await house.curl("-H", f"Cookie: {jar}", "-H", "Expect:", "-T", str(tmp_path / "big"), "-o", back, "/up")
        assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()


async def test_websockets_live(tmp_path: Path) -> None:
    async def chat(house: House, stream: trio.SocketStream) -> None:
        ws = WSConnection(ConnectionType.SERVER)
        async for chunk in stream:
            ws.receive_data(bytes(chunk))
            for event in ws.events():
                if isinstance(event, Request):
                    await stream.send_all(ws.send(AcceptConnection()))
                elif isinstance(event, BytesMessage):
                    await stream.send_all(ws.send(BytesMessage(data=bytes(event.data)[::-1])))

    async with sharing(tmp_path, chat) as house:
        jar = await house.jar()
        stream = await house.tls()
        ws = WSConnection(ConnectionType.CLIENT)
        await stream.send_all(ws.send(Request(host=HOST, target="/", extra_headers=[(b"cookie", jar.encode())])))
        got: list[bytes] = []
        with trio.fail_after(60):
            while len(got) < 3:
                ws.receive_data(bytes(await stream.receive_some()))
                for event in ws.events():
                    if isinstance(event, AcceptConnection):
                        for word in (b"abc", b"def", b"ghi"):
                            await stream.send_all(ws.send(BytesMessage(data=word)))
                    elif isinstance(event, BytesMessage):
                        got.append(bytes(event.data))
        assert got == [b"cba", b"fed", b"ihg"]
        await trio.aclose_forcefully(stream)


async def test_an_answer_that_ends_with_the_connection_is_not_cut_off(tmp_path: Path) -> None:
    async def no_length(house: House, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(65536)
            await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\nall of it")

    async with sharing(tmp_path, no_length) as house:
        jar = await house.jar()
        raw = await trio.open_tcp_stream("127.0.0.1", house.port)
        context = ssl.create_default_context(cafile=str(house.ca))
        async with trio.SSLStream(raw, context, server_hostname=HOST) as visitor:
            await visitor.send_all(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nCookie: {jar}\r\n\r\n".encode())
            said = b""
            with trio.fail_after(30):
                # It raises where nobody says goodbye.
                while piece := await visitor.receive_some(65536):
                    said += piece
    assert said.endswith(b"all of it")


async def test_a_service_that_is_away_or_talks_rubbish_is_told(tmp_path: Path) -> None:
    async def rubbish(house: House, stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")

    async with sharing(tmp_path, rubbish) as house:
        jar = await house.jar()
        code, _ = await curl(
            "--cacert",
            str(house.ca),
            "--resolve",
            f"{HOST}:{house.port}:127.0.0.1",
            "-H",
            f"Cookie: {jar}",
            f"https://{HOST}:{house.port}/",
        )
        assert code in (52, 56), "an empty reply"


# --- the book ---------------------------------------------------------------------------------------------------------


def test_a_book_that_cannot_be_read_admits_nobody_and_is_not_written_over(tmp_path: Path) -> None:
    book = GrantBook(tmp_path)
    grant = book.give("photos", HOST, until=2_000_000_000, note="", now=1_800_000_000)
    assert GrantBook(tmp_path).book.grants == {grant.id: grant}
    (tmp_path / "grants.json").write_text("{")
    with pytest.raises(ConfigFault):
        GrantBook(tmp_path)
    assert (tmp_path / "grants.json").read_text() == "{"


def test_a_proof_that_has_counted_counts_after_a_restart_as_one(tmp_path: Path) -> None:
    book = GrantBook(tmp_path)
    book.spend("first", 1_800_000_100)
    book.spend("second", 1_800_000_200)
    book.write_spent()
    again = GrantBook(tmp_path)
    assert again.spent(1_800_000_000) == {"first": 1_800_000_100, "second": 1_800_000_200}
    assert again.spent(1_800_000_150) == {"second": 1_800_000_200}
    for nonsense in ("{", "[]", '{"first": "never"}'):
        (tmp_path / "spent.json").write_text(nonsense)
        with pytest.raises(ConfigFault):
            GrantBook(tmp_path)


async def test_a_link_for_one_machine_is_not_opened_where_that_cannot_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(booking.GrantBook, "write_spent", no_space)
    anns = tmp_path / "ann"
    key = KeyStore(anns).make_device("ann").public
    async with sharing(tmp_path, echo) as house:
        given = await house.link("--for", str(dev_did(key)))
        said = await house.command("--home", str(anns), "share", "open", given["url"])
        path = said.stdout.decode().strip().removeprefix(f"https://{HOST}")
        answer = await house.curl("-i", path)
        assert "503" in answer and "set-cookie" not in answer.lower()
        assert "used" in await house.curl(path)


def no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_what_is_not_on_disk_was_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = GrantBook(tmp_path)
    grant = book.give("photos", HOST, until=2_000_000_000, note="", now=1_800_000_000)

    monkeypatch.setattr(booking, "write_atomic", no_space)
    with pytest.raises(OSError, match="No space"):
        book.give("photos", HOST, until=2_000_000_000, note="", now=1_800_000_000)
    with pytest.raises(OSError, match="No space"):
        book.revoke(grant.id)
    assert book.book.grants == {grant.id: grant}
