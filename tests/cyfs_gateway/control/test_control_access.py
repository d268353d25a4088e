"""Who may: the decision as a table, the router, and the readers of strangers' bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from control_house import PaperGateway
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.config.model import ControlConfig
from cyfs_gateway.control.shapes import statuses_wanted
from cyfs_gateway.io.control.routes import Api, site_of
from cyfs_ns.control.access import Access, Asked, Door, host_names, judge, peer_allowed
from cyfs_ns.control.router import Found, NotFound, Route, Router
from cyfs_ns.io.control.conversation import converse
from cyfs_ns.printable import printable

PANEL = "https://panel.example"
TCP = Door(hosts=host_names("http", 9090, ("192.0.2.1",)), secret="s3cret", origins=frozenset({PANEL}))
CORS = (("Access-Control-Allow-Origin", PANEL), ("Vary", "Origin"))
GOOD = "Bearer s3cret"


def get(host: str | None = "127.0.0.1:9090", **more: object) -> Asked:
    return Asked(**{"method": "GET", "host": host, "authorization": GOOD, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "access"),
    [
        (get(), Access(0)),
        (get("LOCALHOST:9090"), Access(0)),
        (get("[::1]:9090"), Access(0)),
        (get("192.0.2.1:9090"), Access(0)),
        (get(authorization="bearer s3cret"), Access(0)),
        (get(None), Access(403)),
        (get("127.0.0.1"), Access(403)),
        (get("localhost:9091"), Access(403)),
        (get("localhost.:9090"), Access(403)),
        (get("localhost:9090.evil.example"), Access(403)),
        (get(authorization=None), Access(401)),
        (get(authorization="Bearer "), Access(401)),
        (get(authorization="Basic s3cret"), Access(401)),
        (get(authorization="Bearer s3cret "), Access(401)),
        (get(authorization=None, token="s3cret"), Access(401)),
        (get(authorization=None, token="s3cret", websocket=True), Access(0)),
        (get(authorization=GOOD, token="wrong", websocket=True), Access(401)),
        (get(authorization=None, public=True), Access(0)),
        (get(origin="http://127.0.0.1:9090"), Access(0)),
        (get(origin="https://127.0.0.1:9090"), Access(403)),
        (get(origin="http://localhost:9090"), Access(403)),
        (get(origin="null"), Access(403)),
        (get(origin=PANEL), Access(0, CORS)),
        (get(origin=PANEL + ".evil.example"), Access(403)),
        (get(origin=PANEL, authorization=None), Access(401, CORS)),
        (get(origin="https://evil.example", public=True), Access(403)),
    ],
)
def test_access_over_tcp(asked: Asked, access: Access) -> None:
    assert judge(TCP, asked) == access


def test_the_unix_socket_asks_for_nothing_but_refuses_web_pages() -> None:
    door = Door(origins=frozenset({PANEL}))
    assert judge(door, Asked(method="GET", host=None)) == Access(0)
    assert judge(door, Asked(method="GET", host="x", origin="http://x")) == Access(403)
    assert judge(door, Asked(method="GET", host="x", origin=PANEL)) == Access(0, CORS)


def test_only_our_user_and_root_pass_the_unix_socket() -> None:
    assert [peer_allowed(uid, 1000) for uid in (0, 1000, 1001)] == [True, True, False]


def test_the_usual_port_may_be_left_out() -> None:
    assert {"localhost", "localhost:80"} <= host_names("http", 80, ())
    assert "localhost" not in host_names("http", 443, ())


@given(st.text(max_size=20), st.text(min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_the_secret_and_nothing_else_opens(given_: str, secret: str) -> None:
    door = Door(hosts=frozenset({"h"}), secret=secret)
    asked = Asked(method="GET", host="h", token=given_, websocket=True)
    assert judge(door, asked) == Access(0 if given_ == secret else 401)


ROUTER = Router(
    [
        Route("GET", "/", "root"),
        Route("GET", "/a/{name}", "one"),
        Route("PUT", "/a/{name}", "put"),
        Route("GET", "/a/{name}/{other}", "two"),
        Route("GET", "/ui/{path...}", "rest"),
    ]
)


@pytest.mark.parametrize(
    ("path", "handler", "names", "rest"),
    [
        ("/", "root", {}, ()),
        ("/a/x", "one", {"name": "x"}, ()),
        ("/a/x%2Fy", "one", {"name": "x/y"}, ()),
        ("/a/%E7%BE%8E%20%F0%9F%87%BA", "one", {"name": "美 🇺"}, ()),
        ("/a/x/y", "two", {"name": "x", "other": "y"}, ()),
        ("/ui/", "rest", {}, ("",)),
        ("/ui/x/%2e%2e/y", "rest", {}, ("x", "..", "y")),
    ],
)
def test_paths_find_their_handler(path: str, handler: str, names: dict[str, str], rest: tuple[str, ...]) -> None:
    found = ROUTER.find("HEAD", path)
    assert isinstance(found, Found)
    assert (found.route.handler, found.names, found.rest) == (handler, names, rest)


def test_a_path_with_other_methods_names_them() -> None:
    assert ROUTER.find("DELETE", "/a/x") == NotFound(("GET", "PUT"))
    assert ROUTER.find("GET", "/a/") == NotFound(())
    assert ROUTER.find("GET", "/b") == NotFound(())


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_path_is_found_or_not(path: str) -> None:
    assert isinstance(ROUTER.find("GET", path), Found | NotFound)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("", True),
        ("*", True),
        ("200", True),
        ("200/204-299", True),
        ("204-200", False),
        ("99", False),
        ("2-3-4", False),
        ("²00", False),
        ("200/", False),
        ("9" * 9999, False),
    ],
)
def test_expected_statuses(text: str, good: bool) -> None:
    assert statuses_wanted(text) is good


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_printable_text_is_one_harmless_line(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0x202A <= ord(c) <= 0x202E for c in shown)
    assert len(shown.splitlines()) <= 1


HEADS = st.one_of(
    st.binary(max_size=300),
    st.lists(
        st.sampled_from([b"GET /version HTTP/1.1\r\n", b"PUT /storage/x HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n", b"\n"])
        | st.sampled_from(
            [b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"3\r\n{}\n\r\n0\r\n\r\n", b"abc"]
        )
        | st.sampled_from(
            [b"Upgrade: websocket\r\n", b"Connection: upgrade\r\n", b"GET /logs HTTP/1.0\r\n", b"\x16\x03"]
        )
        | st.binary(max_size=8),
        max_size=12,
    ).map(b"".join),
)


@given(HEADS)
@settings(max_examples=150, deadline=None)
def test_strangers_bytes_end_in_a_reply_or_in_silence_however_they_are_split(untrusted: bytes) -> None:
    whole = trio.run(_said, [untrusted])
    split = trio.run(_said, [untrusted[i : i + 1] for i in range(len(untrusted))])
    assert whole == split
    assert whole == b"" or whole.startswith(b"HTTP/1.1 ")


async def _said(pieces: list[bytes]) -> bytes:
    client, server = trio.testing.memory_stream_pair()
    home = Path("/nonexistent")
    gateway = PaperGateway(home, ControlConfig(unix=""))
    gateway.loglines = []
    heard = bytearray()

    async def listen() -> None:
        while data := await client.receive_some(65536):
            heard.extend(data)

    async def serve() -> None:
        async with server:
            await converse(server, Door(hosts=frozenset({"x"}), secret="s"), site_of(Api(gateway)))  # type: ignore[arg-type]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        nursery.start_soon(serve)
        try:
            for piece in pieces:
                await client.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            await client.send_eof()
        except trio.BrokenResourceError:
            pass
    return bytes(heard)
