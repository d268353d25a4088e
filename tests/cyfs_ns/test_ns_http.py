"""The HTTP client against the standard library's server, against nginx, and against bytes no server should send."""

from __future__ import annotations

import gzip
import shutil
import ssl
import subprocess
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.dial import plain_dial
from cyfs_ns.io.http import fetch
from tests.freeport import free_port
from tests.webserver import Quiet, WebServer

DIAL = plain_dial()
TEXT = b"proxies:\n" + b"  - {name: a, type: direct}\n" * 500


# --- a plain server --------------------------------------------------------------------------------------------------


class _Pages(Quiet):
    protocol_version = "HTTP/1.1"

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        page, _, argument = self.path[1:].partition("/")
        if page == "plain":
            self._send(200, TEXT)
        elif page == "gzip":
            self._send(200, gzip.compress(TEXT), Content_Encoding="gzip")
        elif page == "members":
            self._send(200, gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:]), Content_Encoding="gzip")
        elif page == "deflate":
            self._send(200, zlib.compress(TEXT), Content_Encoding="deflate")
        elif page == "bare":
            self._send(200, zlib.compress(TEXT)[2:-4], Content_Encoding="deflate")
        elif page == "bomb":
            self._send(200, gzip.compress(bytes(50 << 20), 9), Content_Encoding="gzip")
        elif page == "halfzip":
            self._send(200, gzip.compress(TEXT)[:-20], Content_Encoding="gzip")
        elif page == "notzip":
            self._send(200, TEXT, Content_Encoding="gzip")
        elif page == "brotli":
            self._send(200, TEXT, Content_Encoding="br")
        elif page == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(0, len(TEXT), 1000):
                piece = TEXT[at : at + 1000]
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        elif page == "loop":
            self._send(302, Location="/loop")
        elif page == "to":
            self._send(int(argument[:3]), Location=argument[4:])
        elif page == "etag":
            same = self.headers.get("If-None-Match") == '"v1"'
            self._send(304 if same else 200, b"" if same else TEXT, ETag='"v1"')
        elif page == "echo":
            length = int(self.headers.get("Content-Length", 0))
            head = f"{self.command} {self.path}\n" + "".join(f"{k.lower()}: {v}\n" for k, v in self.headers.items())
            self._send(200, head.encode() + b"\n" + self.rfile.read(length))
        else:
            self._send(404, b"none")

    do_POST = do_HEAD = do_GET


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = WebServer(_Pages)
    yield server.address
    server.close()


@pytest.mark.parametrize("page", ["plain", "gzip", "members", "deflate", "bare", "chunked"])
async def test_a_body_comes_whole_however_it_is_sent(site: str, page: str) -> None:
    response = await fetch(f"{site}/{page}", dial=DIAL)
    assert (response.status, response.body) == (200, TEXT)


@pytest.mark.parametrize("page", ["plain", "chunked", "gzip", "deflate", "bomb"])
async def test_no_body_grows_over_the_limit(site: str, page: str) -> None:
    assert (await fetch(f"{site}/plain", dial=DIAL, max_bytes=len(TEXT))).body == TEXT
    with pytest.raises(BadWire, match=f"more than {len(TEXT) - 1} bytes"):
        await fetch(f"{site}/{page}", dial=DIAL, max_bytes=len(TEXT) - 1)


@pytest.mark.parametrize("page", ["halfzip", "notzip", "brotli"])
async def test_a_body_that_cannot_be_decoded_is_an_error(site: str, page: str) -> None:
    with pytest.raises(BadWire):
        await fetch(f"{site}/{page}", dial=DIAL)


async def test_redirects_are_followed_and_counted(site: str) -> None:
    response = await fetch(f"{site}/to/302/{site}/to/301//plain", dial=DIAL)
    assert (response.body, response.url) == (TEXT, f"{site}/plain")
    with pytest.raises(BadWire, match="more than 3 redirects"):
        await fetch(f"{site}/loop", dial=DIAL, max_redirects=3)
    for target in (
        "file:///etc/passwd",
        "ftp://x/y",
        "javascript:alert(1)",
        "http://[::1",
        "http://x:99999/",
    ):
        with pytest.raises(BadWire, match="not an http"):
            await fetch(f"{site}/to/302/{target}", dial=DIAL)


async def test_a_post_is_repeated_or_becomes_a_get_as_the_status_says(site: str) -> None:
    kept = await fetch(f"{site}/to/307//echo", dial=DIAL, method="POST", body=b"data")
    turned = await fetch(f"{site}/to/303//echo", dial=DIAL, method="POST", body=b"data")
    assert kept.body.startswith(b"POST /echo") and kept.body.endswith(b"\n\ndata")
    assert turned.body.startswith(b"GET /echo") and turned.body.endswith(b"\n\n")


async def test_credentials_stay_with_their_origin(site: str) -> None:
    secret = [("Authorization", "Bearer s3cret"), ("Cookie", "a=b")]
    same = await fetch(f"{site}/to/302//echo", dial=DIAL, headers=secret)
    assert b"s3cret" in same.body and b"a=b" in same.body
    abroad = site.replace("127.0.0.1", "localhost")
    other = await fetch(f"{site}/to/302/{abroad}/echo", dial=DIAL, headers=secret)
    assert b"s3cret" not in other.body and b"a=b" not in other.body

    in_url = site.replace("//", "//user:p%40ss@")
    for page in ("echo", "to/302//echo"):
        assert b"authorization: Basic dXNlcjpwQHNz" in (await fetch(f"{in_url}/{page}", dial=DIAL)).body
    assert b"authorization" not in (await fetch(f"{in_url}/to/302/{abroad}/echo", dial=DIAL)).body


async def test_what_a_request_says(site: str) -> None:
    response = await fetch(
        f"{site}/echo/ü x?a=b c#frag", dial=DIAL, user_agent="clash.meta", headers=[("Accept", "text/yaml")]
    )
    lines = response.body.decode().splitlines()
    assert lines[0] == "GET /echo/%C3%BC%20x?a=b%20c"
    assert f"host: {site[7:]}" in lines and "user-agent: clash.meta" in lines and "accept: text/yaml" in lines
    assert "connection: close" in lines and not any(line.startswith("content-length") for line in lines)


async def test_conditional_requests_and_head(site: str) -> None:
    first = await fetch(f"{site}/etag", dial=DIAL)
    assert first.header("etag") == '"v1"'
    again = await fetch(f"{site}/etag", dial=DIAL, headers=[("If-None-Match", first.header("etag"))])
    assert (again.status, again.body) == (304, b"")
    head = await fetch(f"{site}/gzip", dial=DIAL, method="HEAD")
    assert (head.status, head.body, head.header("content-encoding")) == (200, b"", "gzip")
    assert (await fetch(f"{site}/nothing", dial=DIAL)).status == 404


@pytest.mark.parametrize("url", ["", "plain", "file:///etc/passwd", "http:///x", "http://a b/", "http://127.1/"])
async def test_a_url_that_cannot_be_fetched_is_refused(url: str) -> None:
    with pytest.raises(BadWire):
        await fetch(url, dial=DIAL)


async def test_header_injection_is_refused(site: str) -> None:
    with pytest.raises(BadWire):
        await fetch(f"{site}/plain", dial=DIAL, headers=[("x", "a\r\nhost: evil")])


async def test_nobody_home_and_no_such_way(site: str) -> None:
    with pytest.raises(Unreachable) as caught:
        await fetch(f"http://127.0.0.1:{free_port()}/", dial=DIAL)
    assert caught.value.reason == "connect_refused"
    with pytest.raises(Unreachable):
        await fetch(f"{site}/plain", dial=DIAL, via="NOWHERE")


# --- bytes no server should send -------------------------------------------------------------------------------------


@asynccontextmanager
async def canned(*pieces: bytes, hang: bool = False) -> AsyncIterator[str]:
    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some()
            for piece in pieces:
                await stream.send_all(piece)
            if hang:
                await trio.sleep_forever()
            await stream.send_eof()
            await stream.receive_some()  # until the client has gone: a reset must not overtake what was sent

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        nursery.cancel_scope.cancel()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 200 O",
        OK + b"content-length: 5\r\n\r\nhalf",
        OK + b"transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        OK + b"content-length: 4\r\ncontent-length: 5\r\n\r\nhalf",
        OK + b"content-length: -1\r\n\r\n",
        OK + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + OK + b"content-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"SSH-2.0-OpenSSH_9\r\n",
        OK + b"content-encoding: gzip\r\n\r\n" + gzip.compress(TEXT)[:-1],
        OK + b"content-encoding: gzip, gzip\r\n\r\n" + gzip.compress(gzip.compress(TEXT)),
    ],
)
async def test_a_broken_response_is_never_a_short_success(response: bytes) -> None:
    async with canned(response) as url:
        with pytest.raises(BadWire):
            await fetch(url, dial=DIAL)


async def test_an_http_1_0_body_ends_with_the_connection() -> None:
    async with canned(b"HTTP/1.0 200 OK\r\n\r\n", TEXT) as url:
        assert (await fetch(url, dial=DIAL)).body == TEXT


async def test_early_hints_are_passed_over() -> None:
    async with canned(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + b"content-length: 2\r\n\r\nok") as url:
        assert (await fetch(url, dial=DIAL)).body == b"ok"


async def test_a_silent_server_is_left_in_time() -> None:
    async with canned(OK, hang=True) as url:
        with pytest.raises(Unreachable, match=r"no response in 0\.1 s"):
            await fetch(url, dial=DIAL, timeout=0.1)


async def test_errors_do_not_tell_the_secrets_of_a_url() -> None:
    async with canned(b"") as url:
        with pytest.raises(BadWire) as caught:
            await fetch(f"{url.replace('//', '//user:pa55@')}sub/t0ken?key=t0ken", dial=DIAL)
    assert "pa55" not in str(caught.value) and "t0ken" not in str(caught.value)


class _OnePiece(trio.abc.Stream):
    """Sends into nothing, receives the given bytes in the given pieces."""

    def __init__(self, data: bytes, size: int) -> None:
        self._pieces = [data[at : at + size] for at in range(0, len(data), size)]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
    async def wait_send_all_might_not_block(self) -> None: ...
    async def aclose(self) -> None: ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def _outcome(data: bytes, size: int) -> object:
    async def dial(host: str, port: int, via: str | None) -> trio.abc.Stream:
        return _OnePiece(data, size)

    async def run() -> object:
        try:
            response = await fetch("http://x.example/", dial=dial, max_bytes=1000, max_redirects=0)
        except BadWire:
            return BadWire
        return response

    return trio.run(run)


_HELLO = gzip.compress(b"hello", mtime=0)
_WHOLE = (
    OK + b"content-length: 5\r\n\r\nhello",
    OK + b"transfer-encoding: chunked\r\ncontent-encoding: gzip\r\n\r\n19\r\n" + _HELLO + b"\r\n0\r\n\r\n",
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(_WHOLE), st.lists(st.tuples(st.integers(0, 120), st.binary(max_size=3)), max_size=3))
def test_any_bytes_are_a_response_or_bad_wire_however_they_are_split(
    data: bytes, changes: list[tuple[int, bytes]]
) -> None:
    for at, octets in changes:
        data = data[:at] + octets + data[at + len(octets) :]
    assert _outcome(data, len(data) + 1) == _outcome(data, 1)


def test_the_unspoilt_ones_are_responses() -> None:
    assert [_outcome(data, 1).body for data in _WHOLE] == [b"hello", b"hello"]  # type: ignore[attr-defined]


# --- nginx and TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ssl.SSLContext]]:
    """An https site of nginx with gzip, and the trust to visit it."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        pytest.skip("needs nginx")
    home = tmp_path_factory.mktemp("nginx")
    home.chmod(0o755)
    (home / "sub.yaml").write_bytes(TEXT)
    authority, port = trustme.CA(), free_port()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(home / "cert.pem"))
    (home / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {home}/pid; error_log {home}/error.log; worker_processes 1;\n"
        f"events {{}}\nhttp {{ access_log off; gzip on; gzip_types *; gzip_min_length 1; types {{ text/yaml yaml; }}\n"
        f"client_body_temp_path {home}; proxy_temp_path {home}; fastcgi_temp_path {home}; uwsgi_temp_path {home};\n"
        f"scgi_temp_path {home}; server {{ listen 127.0.0.1:{port} ssl; root {home};\n"
        f"ssl_certificate {home}/cert.pem; ssl_certificate_key {home}/cert.pem; }} }}\n"
    )
    child = subprocess.Popen([program, "-p", str(home), "-c", str(home / "nginx.conf")], stderr=subprocess.DEVNULL)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    try:
        trio.run(_until_served, f"https://127.0.0.1:{port}/sub.yaml", trust, child)
        yield f"https://127.0.0.1:{port}", trust
    finally:
        child.kill()
        child.wait()


async def _until_served(url: str, trust: ssl.SSLContext, child: subprocess.Popen[bytes]) -> None:
    while child.poll() is None:
        with suppress(Unreachable):
            await fetch(url, dial=DIAL, tls=trust)
            return
        await trio.sleep(0.02)
    raise AssertionError("nginx ended")


async def test_nginx_gzips_over_tls_and_knows_its_etag(nginx: tuple[str, ssl.SSLContext]) -> None:
    site, trust = nginx
    first = await fetch(f"{site}/sub.yaml", dial=DIAL, tls=trust)
    assert (first.status, first.body, first.header("content-encoding")) == (200, TEXT, "gzip")
    again = await fetch(f"{site}/sub.yaml", dial=DIAL, tls=trust, headers=[("if-none-match", first.header("etag"))])
    assert (again.status, again.body) == (304, b"")


async def test_an_untrusted_certificate_is_a_tls_failure(nginx: tuple[str, ssl.SSLContext]) -> None:
    with pytest.raises(Unreachable, match=r"(?i)certificate") as caught:
        await fetch(f"{nginx[0]}/sub.yaml", dial=DIAL)
    assert caught.value.reason == "tls_handshake"


async def test_a_tls_connection_cut_without_goodbye_is_an_error() -> None:
    authority = trustme.CA()
    server, trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(trust)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\n" + TEXT)
        await stream.transport_stream.send_eof()
        await stream.transport_stream.receive_some()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_ssl_over_tcp, serve, 0, server)
        port = listeners[0].transport_listener.socket.getsockname()[1]
        with pytest.raises(Unreachable, match="connection lost"):
            await fetch(f"https://127.0.0.1:{port}/", dial=DIAL, tls=trust)
        nursery.cancel_scope.cancel()
