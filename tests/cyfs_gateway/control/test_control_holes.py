"""Holes that others had in this class of program, one test or more each, named after the advisory."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from control_house import SECRET, House, PaperGateway, WebSocket, curl

from cyfs_gateway.config.model import ControlConfig
from cyfs_gateway.io.control import serve_control
from cyfs_gateway.io.control.routes import Api, site_of
from cyfs_ns.control.access import Door
from cyfs_ns.errors import ConfigFault, Misuse
from cyfs_ns.io.control import entrance
from cyfs_ns.io.control.conversation import converse
from cyfs_ns.io.control.entrance import MOST_CONNECTIONS
from cyfs_ns.io.control.wire import BODY_SECONDS, HEAD_SECONDS

EVIL = "https://evil.example"


# --- QVD-2025-20937: one web page wrote files through an open controller ---------------------------------------------


async def test_qvd_2025_20937_tcp_control_without_a_secret_does_not_start(tmp_path: Path) -> None:
    control = ControlConfig(unix="", tcp=("127.0.0.1", 0))
    with pytest.raises(Misuse):
        await serve_control(PaperGateway(tmp_path, control), control, secret="")  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/version", "/ui/", "/nowhere"])
async def test_qvd_2025_20937_another_page_gets_no_cors(house: House, path: str) -> None:
    answer = await house.tcp(path, "-H", f"Origin: {EVIL}")
    assert answer.status == 403
    assert not any(name.startswith("access-control") for name in answer.headers)


async def test_qvd_2025_20937_without_an_origin_no_cors_is_offered_either(house: House) -> None:
    assert not any(name.startswith("access-control") for name in (await house.tcp("/version")).headers)


async def test_qvd_2025_20937_a_listed_panel_gets_cors_on_replies_and_faults(house: House) -> None:
    for path, status in (("/version", 200), ("/nowhere", 404), ("/proxies/ghost", 404)):
        answer = await house.tcp(path, "-H", "Origin: https://panel.example")
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, "https://panel.example")


@pytest.mark.parametrize(
    "path",
    [
        "/ui/../identity.key",
        "/ui/..%2fidentity.key",
        "/ui/%2e%2e/identity.key",
        "/ui/%2e%2e%2fidentity.key",
        "/ui/..%5cidentity.key",
        "/ui/assets/../../identity.key",
        "/ui//etc/passwd",
        "/ui/%2fetc/passwd",
        "/ui/index.html%00.js",
        "/ui/link",
        "/ui/linkdir/identity.key",
        "/ui/pipe",
        "/ui/assets",
        "/ui/" + "x" * 5000,
    ],
)
async def test_qvd_2025_20937_the_dashboard_directory_cannot_be_left(house: House, ui: Path, path: str) -> None:
    (ui / "link").symlink_to("../identity.key")
    (ui / "linkdir").symlink_to("..")
    os.mkfifo(ui / "pipe")
    answer = await house.tcp(path, secret="")
    assert answer.status == 404
    assert b"PRIVATE" not in answer.body


async def test_qvd_2025_20937_a_configuration_is_only_read_at_home(house: House, tmp_path: Path) -> None:
    (tmp_path / "outside.yaml").write_text("mode: direct")
    (house.home / "link.yaml").symlink_to(tmp_path / "outside.yaml")
    for path in (tmp_path / "outside.yaml", house.home / "link.yaml", house.home / ".." / "outside.yaml"):
        assert (await house.tcp("/configs", "-X", "PUT", "-d", json.dumps({"path": str(path)}))).status == 400
    assert house.gateway.told == []


async def test_the_dashboard_is_served_with_its_types_and_only_to_readers(house: House) -> None:
    page, script = await house.tcp("/ui/", secret=""), await house.tcp("/ui/assets/app.js", secret="")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert (script.body, script.headers["content-type"]) == (b"app()", "text/javascript; charset=utf-8")
    assert (await house.tcp("/ui", secret="")).headers["location"] == "/ui/"
    assert (await house.tcp("/", "-H", "Accept: text/html", secret="")).headers["location"] == "/ui/"
    assert (await house.tcp("/ui/", "-X", "PUT", secret="")).status == 401
    assert (await house.tcp("/ui/", "-X", "PUT")).status == 405


# --- CVE-2025-50505: a local helper that any process could command ---------------------------------------------------


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can enter, as ``tmp_path`` cannot be."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user")
async def test_cve_2025_50505_another_user_is_refused_even_with_the_socket_in_reach(
    open_directory: Path, nursery: trio.Nursery
) -> None:
    control = ControlConfig(unix=str(open_directory / "control.sock"))
    await nursery.start(lambda task_status: _serve(open_directory, control, task_status))
    os.chmod(control.unix, 0o777)  # noqa: PTH101, S103
    ask = ["curl", "-sS", "--max-time", "10", "--unix-socket", control.unix, "http://localhost/version"]
    done = await trio.run_process(ask, user=65534, group=65534, capture_stdout=True, capture_stderr=True, check=False)
    assert (done.returncode != 0, done.stdout) == (True, b"")
    assert (await trio.run_process(ask, capture_stdout=True)).returncode == 0
    nursery.cancel_scope.cancel()


async def test_cve_2025_50505_the_socket_is_ours_alone_whatever_the_umask(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    control = ControlConfig(unix=str(tmp_path / "new" / "control.sock"))
    before = os.umask(0)
    try:
        await nursery.start(lambda task_status: _serve(tmp_path, control, task_status))
        assert stat.S_IMODE(os.stat(control.unix).st_mode) == 0o600  # noqa: PTH116
        assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == 0o700  # noqa: PTH116
    finally:
        os.umask(before)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("path", ["/upgrade", "/upgrade/ui", "/upgrade/geo", "/configs/geo", "/restart"])
async def test_cve_2025_50505_no_caller_makes_us_fetch_or_run_code(house: House, path: str) -> None:
    answer = await house.tcp(path, "-d", '{"path":"/bin/sh","payload":"-c id"}')
    assert (answer.status, house.gateway.told) == (501, [])


# --- clash-verge-rev#3408: a web page finds out that a proxy runs here ----------------------------------------------


async def test_clash_verge_rev_3408_a_refusal_carries_no_banner(house: House) -> None:
    answer = await house.tcp("/version", secret="")
    assert (answer.status, answer.json) == (401, {"message": "Unauthorized"})
    assert set(answer.headers) == {"content-type", "content-length", "connection"}


@pytest.mark.parametrize("origin", [EVIL, "https://panel.example", "null"])
async def test_clash_verge_rev_3408_private_network_preflights_are_refused(house: House, origin: str) -> None:
    ask = ("-X", "OPTIONS", "-H", f"Origin: {origin}", "-H", "Access-Control-Request-Method: GET")
    answer = await house.tcp("/version", *ask, "-H", "Access-Control-Request-Private-Network: true", secret="")
    assert (answer.status, set(answer.headers)) == (403, {"content-length", "connection"})


async def test_a_preflight_of_a_listed_panel_passes(house: House) -> None:
    ask = ("-X", "OPTIONS", "-H", "Origin: https://panel.example", "-H", "Access-Control-Request-Method: PATCH")
    answer = await house.tcp("/configs", *ask, secret="")
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "https://panel.example"
    assert "PATCH" in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-private-network" not in answer.headers


# --- CVE-2022-41924 and CVE-2022-41925: DNS rebinding to a local API ------------------------------------------------

HOSTS = ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "localhost.:{port}", "127.0.0.1:1", ""]


@pytest.mark.parametrize("host", HOSTS)
async def test_cve_2022_41924_a_rebound_name_cannot_command(house: House, host: str) -> None:
    named = host.format(port=house.port)
    answer = await house.tcp(
        "/configs", "-X", "PUT", "-d", '{"payload":"x"}', "-H", f"Host: {named}" if named else "Host;"
    )
    assert (answer.status, house.gateway.told) == (403, [])


@pytest.mark.parametrize("host", HOSTS)
async def test_cve_2022_41925_a_rebound_name_cannot_read(house: House, host: str) -> None:
    named = host.format(port=house.port)
    answer = await house.tcp("/ui/", "-H", f"Host: {named}" if named else "Host;", secret="")
    assert (answer.status, answer.body) == (403, b"")


async def test_cve_2022_41924_on_every_address_the_one_that_was_called_is_a_good_host(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    control = ControlConfig(unix="", tcp=("0.0.0.0", 0))
    [url] = await nursery.start(lambda task_status: _serve(tmp_path, control, task_status))
    port = url.rpartition(":")[2]
    key = ("-H", f"Authorization: Bearer {SECRET}")
    assert (await curl(f"http://127.0.0.2:{port}/version", *key)).status == 200
    for host in ("127.0.0.3", "router.lan", "0.0.0.0.evil.example"):
        assert (await curl(f"http://127.0.0.2:{port}/version", *key, "-H", f"Host: {host}:{port}")).status == 403
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("origin", [EVIL, "null", "http://localhost.evil.example"])
async def test_cve_2022_41924_a_websocket_of_another_page_is_refused(house: House, origin: str) -> None:
    target = f"/logs?token={SECRET.replace(' ', '+')}"
    host = f"127.0.0.1:{house.port}"
    refused = await WebSocket.open(await house.connect(), target, host=host, headers={"Origin": origin})
    assert refused == 403
    own = await WebSocket.open(await house.connect(), target, host=host, headers={"Origin": f"http://{host}"})
    assert isinstance(own, WebSocket)


# --- CVE-2025-43859 and CVE-2025-55315: loose chunk parsing ----------------------------------------------------------


@pytest.mark.parametrize(
    "chunks",
    [
        b"2\r\n{}XX0\r\n\r\n",
        b"2\r\n{}\n\n0\r\n\r\n",
        b"2;a\n\r\n{}\r\n0\r\n\r\n",
        b"2\n{}\r\n0\r\n\r\n",
        b"0x2\r\n{}\r\n0\r\n\r\n",
    ],
)
async def test_cve_2025_43859_and_55315_chunks_are_read_strictly(house: House, chunks: bytes) -> None:
    head = f"PUT /configs HTTP/1.1\r\nHost: 127.0.0.1:{house.port}\r\nAuthorization: Bearer {SECRET}\r\n"
    heard = await house.raw(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert heard.startswith(b"HTTP/1.1 400 ")
    assert heard.count(b"HTTP/1.1") == 1
    assert house.gateway.told == []


async def test_a_body_behind_a_refusal_is_never_taken_for_a_request(house: House) -> None:
    hidden = f"DELETE /connections HTTP/1.1\r\nHost: 127.0.0.1:{house.port}\r\nAuthorization: Bearer {SECRET}\r\n\r\n"
    head = f"PUT /configs HTTP/1.1\r\nHost: 127.0.0.1:{house.port}\r\nContent-Length: {len(hidden)}\r\n\r\n"
    heard = await house.raw((head + hidden).encode())
    assert heard.count(b"HTTP/1.1 401") == heard.count(b"HTTP/1.1") == 1
    assert house.gateway.told == []


# --- tailscale 3908: a flood of connections; kitsune2#524: clients that stall in the handshake -----------------------


async def test_tailscale_3908_a_flood_is_cut_off_and_the_owner_still_gets_in(house: House) -> None:
    flood = [await house.connect() for _ in range(MOST_CONNECTIONS)]
    while True:
        one_more = await house.connect()
        with trio.move_on_after(5) as patience:
            with suppress(trio.BrokenResourceError):
                assert await one_more.receive_some(1) == b""
        if not patience.cancelled_caught:
            break
        flood.append(one_more)
    assert (await house.unix("/version")).status == 200
    for stream in flood:
        await stream.aclose()
    with trio.fail_after(30):
        while not (await house.raw(f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{house.port}\r\n\r\n".encode())):
            pass


@pytest.mark.parametrize("start", [b"", b"G", b"GET /version HTTP/1.1\r\nHost: x\r\n"])
async def test_kitsune2_524_a_slow_head_is_left(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, start: bytes
) -> None:
    assert await _stalled(tmp_path, start, b"X-Slow: 1\r\n") == b""
    assert trio.current_time() <= HEAD_SECONDS + 1


async def test_kitsune2_524_a_slow_body_is_left(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    start = b"PUT /storage/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    assert (await _stalled(tmp_path, start, b" ")).startswith(b"HTTP/1.1 408 ")
    assert trio.current_time() <= BODY_SECONDS + 1


async def test_kitsune2_524_a_stalled_tls_handshake_is_left(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "HEAD_SECONDS", 0.05)
    async with await trio.open_tcp_stream("127.0.0.1", house.tls_port) as stream:
        await stream.send_all(b"\x16\x03\x01\x02\x00")
        with trio.fail_after(30):
            assert await stream.receive_some(1) == b""


async def test_what_is_too_big_is_refused_before_it_is_held(house: House) -> None:
    key = f"Host: 127.0.0.1:{house.port}\r\nAuthorization: Bearer {SECRET}\r\n"
    head = f"GET /version HTTP/1.1\r\n{key}X: {'a' * 20_000}\r\n\r\n"
    assert (await house.raw(head.encode())).startswith(b"HTTP/1.1 431 ")
    for path, size in (("/storage/big", 1 << 20), ("/configs", 4 << 20)):
        (house.home / "big").write_bytes(b'"' + b"a" * size + b'"')
        assert (await house.tcp(path, "-X", "PUT", "-d", f"@{house.home}/big")).status == 413


# --- secrets and names of strangers in logs --------------------------------------------------------------------------


async def test_a_token_in_a_url_stays_out_of_the_logs(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    target = f"/logs?token={SECRET.replace(' ', '+')}"
    await WebSocket.open(await house.connect(), target, host=f"127.0.0.1:{house.port}")
    await house.tcp(f"/proxies/ghost?token={SECRET.replace(' ', '+')}")
    assert "GET /proxies/{name}: 404" in caplog.text
    assert SECRET not in caplog.text
    assert "correct" not in caplog.text
    assert SECRET not in repr(Door(secret=SECRET))


# --- the socket file -----------------------------------------------------------------------------------------------


async def test_a_socket_left_by_a_killed_gateway_is_replaced(tmp_path: Path, nursery: trio.Nursery) -> None:
    control = ControlConfig(unix=str(tmp_path / "control.sock"))
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(control.unix)
    dead.close()
    await nursery.start(lambda task_status: _serve(tmp_path, control, task_status))
    with pytest.raises(ConfigFault, match="another server"):
        await _serve(tmp_path, control)
    async with await trio.open_unix_socket(control.unix):
        nursery.cancel_scope.cancel()


async def test_the_socket_file_goes_with_the_gateway(house: House) -> None:
    house.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert not await trio.Path(house.socket).exists()


async def test_a_file_in_the_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    notes = trio.Path(tmp_path / "notes.txt")
    await notes.write_text("mine")
    with pytest.raises(ConfigFault):
        await _serve(tmp_path, ControlConfig(unix=str(notes)))
    assert await notes.read_text() == "mine"


async def test_an_address_in_use_closes_what_was_opened_before(tmp_path: Path, house: House) -> None:
    control = ControlConfig(unix=str(tmp_path / "second.sock"), tcp=("127.0.0.1", house.port))
    with pytest.raises(ConfigFault):
        await _serve(tmp_path, control)
    assert not await trio.Path(control.unix).exists()


async def test_a_bug_in_a_handler_is_one_answer_of_500(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house.gateway, "memory", lambda: 1 // 0)
    assert (await house.unix("/connections")).json == {"message": "internal error"}
    assert (await house.unix("/version")).status == 200


async def _serve(
    home: Path, control: ControlConfig, task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED
) -> None:
    gateway = PaperGateway(home, control)
    await serve_control(gateway, replace(control), secret=SECRET, task_status=task_status)  # type: ignore[arg-type]


async def _stalled(home: Path, start: bytes, drop: bytes) -> bytes:
    """What the server says to a client that sends ``start`` and then ``drop`` once a second until it is left."""
    client, peer = trio.testing.memory_stream_pair()
    api = Api(PaperGateway(home, ControlConfig(unix="")))  # type: ignore[arg-type]

    async def drip() -> None:
        try:
            if start:
                await client.send_all(start)
            while start:
                await trio.sleep(1)
                await client.send_all(drop)
        except trio.BrokenResourceError:
            pass

    async def serve() -> None:
        async with peer:
            await converse(peer, Door(), site_of(api))

    heard = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        nursery.start_soon(serve)
        while data := await client.receive_some(65536):
            heard += data
        nursery.cancel_scope.cancel()
    return heard
