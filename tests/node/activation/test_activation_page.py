"""The page of a machine that waits for its owner: over real connections, as its owner and as strangers."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import segno
import trio
from owners import ALICE, BOX, HOME, NAS, NOW, Owner, secret

from cyfs_ns.errors import ConfigFault
from cyfs_ns.identity.request import DeviceRequest, read_request
from cyfs_ns.io.trusted.keystore import KeyStore
from node.activation.code import WRONG_AT_ONCE
from node.io.activation.desk import Desk, Page
from zone.io.membership import MembershipStore
from zone.membership import MOST_MEMBERSHIP

CODE = "ABCDE-FGHJK"


@dataclass
class Door:
    """A page that is served."""

    home: Path
    url: str = ""
    over: trio.Event = field(default_factory=trio.Event)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        return await trio.to_thread.run_sync(partial(self._ask, method, path, body, headers))

    def _ask(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        place = urlsplit(self.url)
        link = http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)
        try:
            sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            link.request(method, path, sent, headers)
            reply = link.getresponse()
            data, kind = reply.read(), reply.headers.get("content-type", "")
            told = {name.lower(): value for name, value in reply.headers.items()}
            return reply.status, json.loads(data) if kind == "application/json" else data, told
        finally:
            link.close()

    async def offer(self, membership: bytes | str, code: str = CODE, owner: str | None = None) -> tuple[int, Any]:
        text = membership if isinstance(membership, str) else membership.decode()
        said = {"code": code, "membership": text, "owner": owner}
        return (await self.ask("POST", "/activation", said))[:2]


@asynccontextmanager
async def served(home: Path, name: str = "box") -> AsyncGenerator[Door]:
    store = KeyStore(home)
    if not store.device_pem.exists():
        store.make_device(name)
        store.device_pem.write_bytes(BOX.pem())
    request = DeviceRequest(name=name, key=BOX.public, zone=HOME, iat=NOW, exp=NOW + 60)
    page = Page(Desk(home=home, key=BOX, name=name, clock=lambda: NOW + 10), request, CODE)
    door = Door(home)

    async def serve(task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        await page.serve("127.0.0.1", 0, lambda urls: task_status.started(urls[0]))
        door.over.set()

    async with trio.open_nursery() as nursery:
        door.url = await nursery.start(serve)
        yield door
        nursery.cancel_scope.cancel()


async def test_an_owner_is_looked_at_and_then_accepted(tmp_path: Path) -> None:
    async with served(tmp_path) as door:
        status, told, _ = await door.ask("GET", "/request")
        wish = read_request(told["request"].encode(), NOW)
        assert (status, wish.key, told["name"]) == (200, BOX.public, "box")
        signed = Owner().sign("box", BOX)
        status, seen = await door.offer(signed)
        assert status == 200
        assert seen == {
            "zone": "did:web:home.example",
            "name": "box",
            "role": "ood",
            "owner": "alice",
            "key": ALICE.public.x,
            "done": False,
        }
        assert MembershipStore(tmp_path).held() is None
        status, seen = await door.offer(signed, owner=ALICE.public.x)
        assert (status, seen["done"]) == (200, True)
        assert (await door.offer(signed, owner=ALICE.public.x))[0] == 409
        await door.over.wait()
    assert MembershipStore(tmp_path).own(NOW + 10).name == "box"
    with pytest.raises(OSError):
        await door.ask("GET", "/")


async def test_the_picture_is_drawn_once_whoever_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def make_qr(text: str, **how: Any) -> Any:
        drawn.append(text)
        return make(text, **how)

    make = segno.make_qr
    monkeypatch.setattr(segno, "make_qr", make_qr)
    async with served(tmp_path) as door:
        seen = [(await door.ask("GET", "/request.svg"))[1] for _ in range(3)]
        assert seen[0].startswith(b"<svg") and seen[1:] == seen[:1] * 2
        assert drawn == [(await door.ask("GET", "/request"))[1]["request"]]


async def test_nobody_gets_in_without_the_code(tmp_path: Path) -> None:
    signed = Owner().sign("box", BOX)
    async with served(tmp_path) as door:
        for n in range(WRONG_AT_ONCE):
            status, told = await door.offer(signed, f"AAAAA-{n:05}", ALICE.public.x)
            assert (status, "code" in told["message"]) == (403, True)
        status, told = await door.offer(signed, CODE, ALICE.public.x)
        assert (status, "--bundle" in told["message"]) == (429, True)
    assert MembershipStore(tmp_path).held() is None


REFUSED = {
    "another owner than was looked at": (Owner().sign("box", BOX), secret(9).public.x, 200),
    "another machine's": (Owner().sign("box", NAS), ALICE.public.x, 409),
    "another name": (Owner().sign("nas", BOX), ALICE.public.x, 409),
    "no membership": (b"{}", ALICE.public.x, 400),
    "no JSON": (b"\x00", ALICE.public.x, 400),
    "nothing": (b"", ALICE.public.x, 400),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_not_accepted_changes_nothing(tmp_path: Path, what: str) -> None:
    membership, owner, status = REFUSED[what]
    async with served(tmp_path) as door:
        found, told = await door.offer(membership, owner=owner)
        assert (found, told.get("done", False)) == (status, False)
        assert MembershipStore(tmp_path).held() is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"code": 1}',
        json.dumps({"code": CODE, "membership": 7}).encode(),
        json.dumps({"code": CODE, "membership": "", "owner": []}).encode(),
        b'{"code": "\\ud800", "membership": ""}',
        b" " * (MOST_MEMBERSHIP + 5000),
    ],
)
async def test_bodies_that_are_none_are_refused(tmp_path: Path, body: bytes) -> None:
    async with served(tmp_path) as door:
        assert (await door.ask("POST", "/activation", body))[0] in (400, 413)
        assert (await door.ask("GET", "/request"))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "evil.example:3182"}, {"Origin": "http://evil.example"}, {"Origin": "null"}],
)
async def test_no_other_page_and_no_other_name_gets_through(tmp_path: Path, headers: dict[str, str]) -> None:
    async with served(tmp_path) as door:
        for method, path in (("GET", "/"), ("GET", "/request"), ("POST", "/activation")):
            status, body, _ = await door.ask(method, path, b"{}" if method == "POST" else None, **headers)
            assert (status, body) == (403, b"")


async def test_the_page_is_whole_in_itself(tmp_path: Path) -> None:
    async with served(tmp_path) as door:
        status, page, headers = await door.ask("GET", "/")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert re.findall(rb"(?:https?:)?//[a-z]", page) == []
        status, picture, headers = await door.ask("GET", "/request.svg")
        assert (status, headers["content-type"], picture[:4]) == (200, "image/svg+xml", b"<svg")
        assert (await door.ask("GET", "/nothing"))[0] == 404


async def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    async with served(tmp_path) as door:
        page = Page(Desk(home=tmp_path, key=BOX), DeviceRequest(name="box", key=BOX.public, iat=0, exp=1), CODE)
        with pytest.raises(ConfigFault, match="cannot listen"):
            await page.serve("127.0.0.1", urlsplit(door.url).port or 0, print)
