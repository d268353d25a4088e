"""An authority that answers anything: rubbish, without end, too slowly, or with what makes no sense."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from certmaking import DAY, parts

from cyfs_gateway.certs.upkeep import CertFault
from cyfs_gateway.io.certs import acmeclient
from cyfs_gateway.io.certs.acmeclient import AcmeClient
from cyfs_gateway.io.certs.contexts import key_pem, new_key


class Bad:
    """A server whose replies are a table of path to status, headers and body."""

    def __init__(self) -> None:
        self.replies: dict[str, tuple[int, dict[str, str], Any]] = {}
        self.url = ""
        self.asked: list[str] = []


@pytest.fixture
def bad(tmp_path: Path) -> Iterator[Bad]:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "trust.pem")
    with _serving(Bad(), context) as bad:
        base = {
            "newNonce": f"{bad.url}/nonce",
            "newAccount": f"{bad.url}/account",
            "newOrder": f"{bad.url}/order",
            "renewalInfo": f"{bad.url}/ari",
        }
        bad.replies = {
            "/dir": (200, {}, base),
            "/nonce": (200, {"Replay-Nonce": "AAAA"}, b""),
            "/account": (200, {"Replay-Nonce": "AAAA", "Location": f"{bad.url}/acc/1"}, {"status": "valid"}),
        }
        yield bad


@contextmanager
def _serving(bad: Bad, context: ssl.SSLContext) -> Iterator[Bad]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            bad.asked.append(self.path)
            at = "/ari" if self.path.startswith("/ari/") else self.path
            status, headers, body = bad.replies.get(at, (404, {}, b"nothing"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for piece in body if isinstance(body, Iterator) else [_bytes(body)]:
                    self.wfile.write(piece)
            except OSError:
                return

        do_GET = do_POST = do_HEAD = _answer

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    bad.url = f"https://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield bad
    finally:
        server.shutdown()
        server.server_close()


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _client(bad: Bad, tmp_path: Path) -> AcmeClient:
    key = key_pem(new_key())
    return AcmeClient(f"{bad.url}/dir", lambda: key, trust=str(tmp_path / "trust.pem"))


def _endless() -> Iterator[bytes]:
    while True:
        yield b"x" * 65536


def _dripping() -> Iterator[bytes]:
    while True:
        yield b" "
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("path", "reply", "whose"),
    [
        ("/dir", (200, {}, b"<html>"), "authority"),
        ("/dir", (200, {}, []), "authority"),
        ("/dir", (200, {}, {"newNonce": 7}), "authority"),
        ("/dir", (200, {}, {}), "authority"),
        ("/dir", (500, {}, b"sorry"), "authority"),
        ("/dir", (503, {"Retry-After": "7200"}, {"type": "urn:ietf:params:acme:error:rateLimited"}), "limit"),
        ("/dir", (301, {"Location": "http://127.0.0.1:1/"}, b""), "network"),
        ("/nonce", (200, {}, b""), "authority"),
        ("/nonce", (200, {"Replay-Nonce": "not base64!"}, b""), "authority"),
        ("/account", (200, {}, {"status": ["valid"]}), "authority"),
        ("/account", (403, {}, {"type": "urn:ietf:params:acme:error:unauthorized", "detail": "\x1b[31m"}), "proof"),
        ("/account", (400, {"Replay-Nonce": "AA"}, {"type": "urn:ietf:params:acme:error:badNonce"}), "authority"),
        ("/order", (201, {"Replay-Nonce": "AAAA"}, {"authorizations": 5}), "authority"),
        ("/order", (201, {"Replay-Nonce": "AAAA"}, {"status": "pending", "identifiers": {}}), "authority"),
        ("/order", (200, {"Replay-Nonce": "AAAA"}, b"\xff\xfe"), "authority"),
    ],
)
async def test_every_reply_ends_in_a_fault_that_is_somebodys(
    bad: Bad, tmp_path: Path, path: str, reply: Any, whose: str
) -> None:
    from cyfs_gateway.io.certs.keeper import _request

    bad.replies[path] = reply
    with pytest.raises(CertFault) as fault:
        await _client(bad, tmp_path).order(["a.example"], _request(new_key(), ["a.example"]), "dns-01")
    assert fault.value.whose == whose
    assert "\x1b" not in str(fault.value)
    assert fault.value.wait == (7200 if "Retry-After" in reply[1] else 0)
    assert len(bad.asked) < 16


@pytest.mark.parametrize("body", [_endless, _dripping])
async def test_replies_without_end_are_cut(
    bad: Bad, tmp_path: Path, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acmeclient, "STEP", 1.0)
    bad.replies["/dir"] = (200, {}, body())
    with pytest.raises(CertFault) as fault:
        await _client(bad, tmp_path).renewal(parts("a.example")[0])
    assert fault.value.whose == "network"


async def test_the_authority_says_when_to_renew(bad: Bad, tmp_path: Path) -> None:
    now = time.time()
    window = {key: datetime.fromtimestamp(now + days * DAY, UTC).isoformat() for key, days in _WINDOW.items()}
    bad.replies["/ari"] = (200, {"Retry-After": "600"}, {"suggestedWindow": window})
    client = _client(bad, tmp_path)
    told, wait = await client.renewal(parts("a.example", until=now + 90 * DAY)[0])
    assert told is not None and now + 10 * DAY - 2 <= told <= now + 12 * DAY + 2
    assert 500 <= wait <= 600
    bad.replies["/ari"] = (200, {}, {"suggestedWindow": {"start": 1}})
    with pytest.raises(CertFault):
        await client.renewal(parts("a.example")[0])
    del bad.replies["/dir"][2]["renewalInfo"]
    assert (await client.renewal(parts("a.example")[0]))[0] is None


_WINDOW = {"start": 10, "end": 12}
