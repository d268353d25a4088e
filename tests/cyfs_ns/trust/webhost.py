"""A real HTTPS server: nginx with certificates of a private authority, serving a folder for each host."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trustme

from cyfs_ns.io.dial import plain_dial
from cyfs_ns.io.trusted.safefetch import Limits, SafeFetch
from tests.freeport import free_port

HOSTS = ("home.example", "nas.home.example", "big.example", "alice.web3.example")
WRONG = "wrong.example"
"""Served with the certificate of another host."""
PUBLIC = "8.8.8.8"

_SERVER = """
  server {{
    listen 127.0.0.1:{port} ssl; server_name {host};
    ssl_certificate {pem}; ssl_certificate_key {pem};
    root {root}/{host}; default_type application/octet-stream;
    location = /moved/did.json {{ return 302 https://127.0.0.1/secret; }}
    location = /near/did.json {{ return 301 /.well-known/did.json; }}
    location = /gone/did.json {{ return 410; }}
    location = /broken/did.json {{ return 500; }}
    location = /ids/did:web:ended.example {{ return 410; }}
    location = /ids/did:web:broken.example {{ return 503; }}
    location = /ids/did:web:away.example {{ return 302 https://127.0.0.1/; }}
    location = /short/did.json {{ add_header Cache-Control "public, max-age=120"; }}
  }}"""
_CONFIG = """
daemon off; pid {root}/pid; error_log {root}/error.log; worker_processes 1; {user}
events {{ worker_connections 64; }}
http {{
  access_log {root}/access.log;
  client_body_temp_path {root}/t; proxy_temp_path {root}/t; fastcgi_temp_path {root}/t; uwsgi_temp_path {root}/t;
  scgi_temp_path {root}/t;
  {servers}
}}"""


class WebHost:
    """Where the server is, its folder, and what trusts it."""

    def __init__(self, folder: Path, port: int, authority: trustme.CA) -> None:
        self.folder, self.port = folder, port
        self.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.trust = ssl.create_default_context(cafile=str(self.ca_file))

    def put(self, place: str, content: bytes | str) -> None:
        """A file of a host: ``home.example/.well-known/did.json``."""
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def take(self, place: str) -> None:
        (self.folder / place).unlink(missing_ok=True)

    def asked(self) -> list[str]:
        """The requests so far.

        nginx writes its log after it has answered; once its one worker answers another request it has.
        """
        with socket.create_connection(("127.0.0.1", self.port), 30) as asking:
            asking.sendall(b"GET /asked HTTP/1.0\r\n\r\n")
            while asking.recv(4096):
                pass
        lines = [line.split('"')[1] for line in (self.folder / "access.log").read_text().splitlines()]
        return [line for line in lines if line != "GET /asked HTTP/1.0"]

    def fetch(
        self, addresses: Sequence[Sequence[str]] = ((PUBLIC,),), dialled: list[str] | None = None, **limits: float
    ) -> SafeFetch:
        """Hosts are at each of ``addresses`` in turn, and whatever is dialled reaches this server."""
        left, straight = list(addresses), plain_dial()

        async def resolve(host: str) -> Sequence[str]:
            return left.pop(0) if len(left) > 1 else left[0]

        async def dial(host: str, port: int, via: str | None) -> trio.abc.Stream:
            if dialled is not None:
                dialled.append(host)
            return await straight("127.0.0.1", self.port, via)

        return SafeFetch(resolve, Limits(**limits), dial=dial, tls=self.trust)  # type: ignore[arg-type]


@contextmanager
def web_host(folder: Path) -> Iterator[WebHost]:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/bin")
    if nginx is None:
        pytest.skip("needs nginx")
    folder.chmod(0o755)
    authority, port = trustme.CA(), free_port()
    servers = []
    for host in (*HOSTS, WRONG):
        pem = folder / f"{host}.pem"
        issued = authority.issue_cert("stranger.example" if host == WRONG else host)
        pem.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
        servers.append(_SERVER.format(port=port, host=host, pem=pem, root=folder))
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(root=folder, servers="".join(servers), user="user root;"))
    child = subprocess.Popen([nginx, "-c", str(config), "-e", str(folder / "error.log")], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, child, folder)
        yield WebHost(folder, port, authority)
    finally:
        child.terminate()
        child.wait(10)


def _wait_for(port: int, child: subprocess.Popen[bytes], folder: Path) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until and child.poll() is None:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError((folder / "error.log").read_text())
