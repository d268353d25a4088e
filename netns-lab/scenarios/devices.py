"""The picture of the scenarios of tunnels: a box at home that nobody can dial, and somebody far away who wants to.

``photos`` is at home behind a NAT (and a router that lets nobody in by IPv6), and keeps a tunnel to ``relay``, which
is public.  ``laptop`` is away, behind the router ``box`` of another house, and dials ``photos`` end to end through
``relay``, which carries what it cannot read.  These four have one owner.  ``friend`` and ``stranger`` are keys without
a name, and the ``thief`` has the zone's name, signed by himself.  The programs at both ends know nothing of tunnels.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trio
from netnslab import HOME, Gateway, Host, Lab, Nat, Process, need
from netnslab.nameserver import dnsmasq
from netnslab.process import Done, until

__all__ = [
    "BY_SOCKS",
    "DOOR",
    "LOCAL",
    "MARK",
    "PHOTOS",
    "PROGRAM",
    "RELAY",
    "SOCKS",
    "ZONE",
    "Capture",
    "People",
    "World",
    "make_people",
    "memory_of",
    "needed",
]

ZONE, PHOTOS, RELAY = "home.example", "photos.home.example", "relay.home.example"
SOCKS, LOCAL, DOOR = 7890, 8081, 2980
BY_SOCKS = ("--socks5-hostname", f"127.0.0.1:{SOCKS}")
MARK = "holidays at the sea"
"""What stands on the page that only whom it is meant for may read."""
FAKE4, FAKE6 = "198.18.0.0/16", "fdfe:dcba:9876::/64"
_SHUT = """table ip6 filter {
    chain forward { type filter hook forward priority filter; policy accept;
        iifname "wan" ct state established,related accept; iifname "wan" meta l4proto { tcp, udp } drop;
    }
}
"""
PROGRAM = str(Path(sys.prefix) / "bin" / "cyfs-gateway")
_FILM, _SLOW = 16 << 20, 8 << 20
"""Bytes, and bytes a second of those who watch it slowly."""
_OWNED = ("relay", "photos", "laptop", "box")
_KEYS = ("friend", "stranger")


def needed() -> None:
    """Skip the test where a program of the picture is missing."""
    need("curl", "dnsmasq", "nginx", "sshd", "ssh", "ssh-keygen", "socat", "conntrack")


@dataclass(frozen=True, slots=True)
class People:
    """Homes of everybody, made once: who they are has nothing to do with where they are."""

    directory: Path
    dids: dict[str, str]
    """Each one's key as a DID."""
    records: tuple[str, ...]
    """What the owner, who is ``alice``, publishes; as dnsmasq's options."""
    forged: tuple[str, ...]
    """What the thief's ``mallory`` signed instead."""


class Capture:
    """All that passes a host, every byte of it."""

    def __init__(self, world: World, host: Host) -> None:
        self._world, self._host = world, host
        self._file = world.lab.directory / f"{host.name}.everything"

    async def begin(self) -> None:
        words = ("-i", "any", "-s", "0", "-B", "16384", "--immediate-mode", "-U", "-Z", "root", "-w", str(self._file))
        self._process = self._host.start("tcpdump", *words)
        await self._process.says("listening on")

    async def end(self) -> bytes:
        """What was seen."""
        await self._process.stop()
        return self._file.read_bytes()

    async def count(self, expression: str) -> int:
        """How many packets of what was seen are such."""
        done = await self._host.run("tcpdump", "-n", "-r", str(self._file), *expression.split())
        return len(done.out.splitlines())

    def traces_of(self, name: str, seen: bytes) -> list[str]:
        """In which forms ``name`` stands there: as a name, or as a key in text or in binary."""
        key = self._world.people.dids[name].rpartition(":")[2]
        forms = {
            "name": f"{name}.{ZONE}".encode(),
            "DID": key.encode(),
            "key": base64.urlsafe_b64decode(key + "=="),
        }
        return [form for form, needle in forms.items() if needle in seen]


def memory_of(process: Process, needle: bytes) -> bool:
    """Whether ``needle`` stands anywhere in what the process may write to."""
    with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            where, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            begin, end = (int(part, 16) for part in where.split("-"))
            with contextlib.suppress(OSError):  # it may be gone by now
                if needle in os.pread(memory.fileno(), end - begin, begin):
                    return True
    return False


def make_people(directory: Path) -> People:
    """With the installed program, as people do it."""

    def identity(whose: str, *words: str) -> str:
        command = [PROGRAM, "id", *words, "--home", str(directory / whose)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def owns(owner: str, *devices: str) -> None:
        words = ("--words-to", str(directory / f"{owner}.words"))
        said = identity(owner, "owner", "new", "--name", owner, "--zone", ZONE, *words)
        dids[owner] = next(line.split()[1] for line in said.splitlines() if line.startswith("did:"))
        signed = directory / owner / "identity"
        for device in devices:
            request, name = str(directory / f"{device}.request"), "relay" if device == "thief" else device
            identity(device, "new", "--name", name)
            port = ("--rtcp-port", str(DOOR)) if name == "relay" else ()
            identity(device, "request", "--zone", ZONE, *port, "-o", request)
            identity(owner, "sign", "device", request, "--yes")
            identity(device, "accept", str(signed / "devices" / f"{name}.jwt"), "--yes")
            identity(device, "trust", str(signed / "owner.jwt"), "--yes")
        identity(owner, "sign", "boot", "--zone", ZONE, "--ood", "relay", "--yes")

    dids: dict[str, str] = {}
    owns("alice", *_OWNED)
    owns("mallory", "thief")
    for name in _KEYS:
        identity(name, "new", "--name", name)
        identity(name, "trust", str(directory / "alice/identity/owner.jwt"), "--yes")
    dids |= {name: identity(name, "export", "--did").strip() for name in (*_OWNED, *_KEYS, "thief")}

    def records(owner: str) -> tuple[str, ...]:
        said = identity(owner, "txt", "--format", "dnsmasq")
        return tuple(f"--{line}" for line in said.splitlines() if line.startswith("txt-record="))

    return People(directory, dids, records("alice"), records("mallory"))


class World:
    """See the text above.  ``family``: of the tunnels; ``names`` knows what is in the DNS."""

    def __init__(self, lab: Lab, people: People, *, nat: Nat = HOME, family: int = 4) -> None:
        self.lab, self.people, self.nat, self.family = lab, people, nat, family
        internet = lab.network("198.51.100.0/24", "2001:db8:1::/64", name="internet")
        self.relay, self.names, self.friend, self.stranger, self.thief = (
            lab.host(internet, name=name) for name in ("relay", "names", "friend", "stranger", "thief")
        )
        home = lab.network("192.168.1.0/24", "2001:db8:a::/64", uplink=internet, nat=nat, name="home")
        away = lab.network("192.168.7.0/24", "2001:db8:b::/64", uplink=internet, nat=HOME, name="away")
        assert home.router is not None
        assert away.router is not None
        self.router, self.box = home.router, away.router
        self.photos = lab.host(home, name="photos")
        self.laptop = lab.host(away, name="laptop")
        self._dns: Process | None = None

    # Configurations

    def address(self, host: Host) -> str:
        """Of the family that is tested."""
        return host.ip if self.family == 4 else host.ip6

    def config(self, **more: Any) -> dict[str, Any]:
        dns = {"enable": True, "ipv6": True, "use-system-hosts": False, "nameserver": [self.address(self.names)]}
        return {"log-level": "debug", "ipv6": True, "dns": dns, "rules": ["MATCH,DIRECT"], **more}

    def at_relay(self, **more: Any) -> dict[str, Any]:
        """Who may pass: the owner's devices and the friend, only to the door of ``photos``."""
        who = f"(OR,((ZONE,{ZONE}),(DID,{self.people.dids['friend']})))"
        rule = f"AND,({who},(DOMAIN,{PHOTOS}),(DST-PORT,{DOOR})),DIRECT"
        return self.config(**{"rtcp": {"listen": DOOR}, "rules": [rule, "MATCH,DIRECT"], **more})

    def at_home(self, **more: Any) -> dict[str, Any]:
        allow = [f"ZONE,{ZONE}"]
        services = [
            {"name": "web", "target": "tcp://127.0.0.1:80", "allow": allow},
            {"name": "ssh", "target": "tcp://127.0.0.1:22", "allow": allow},
        ]
        rtcp = {"listen": DOOR, "keep-tunnel": [RELAY], "services": services, **more}
        return self.config(rtcp=rtcp)

    def outside(self, *, is_honest: bool = False, **more: Any) -> dict[str, Any]:
        """By SOCKS to ``photos``, end to end, and nowhere else.  ``is_honest``: the first who asks hears codes, too."""
        way = f"rtcp://{RELAY}/{quote(f'rtcp://{PHOTOS}/:{DOOR}', safe='')}"
        photos = {"name": "photos", "type": "rtcp", "server": PHOTOS, "via": way, "fast-open": not is_honest}
        rules = [f"DOMAIN,{PHOTOS},photos", "MATCH,REJECT"]
        local = [f"tcp,127.0.0.1:{LOCAL},{PHOTOS}:80,photos"]
        return self.config(**{"mixed-port": SOCKS, "tunnels": local, "proxies": [photos], "rules": rules, **more})

    def at_box(self) -> dict[str, Any]:
        """The way out of a house: names are told by it, and what goes to them passes it."""
        outside = self.outside()
        fake = {"enhanced-mode": "fake-ip", "fake-ip-range": FAKE4, "fake-ip-range6": FAKE6, "listen": ":53"}
        return {
            **outside,
            "allow-lan": True,
            "bind-address": "*",
            "lan-allowed-ips": ["192.168.7.0/24", "2001:db8:b::/64", "127.0.0.0/8", "::1/128"],
            "tproxy-port": 7893,
            "iptables": {"enable": True, "inbound-interface": ["lan"], "dns-redirect": False},
            "dns": {**outside["dns"], **fake},
            "rules": [f"DOMAIN,{PHOTOS},photos", "MATCH,DIRECT"],
        }

    # Its life

    def home(self, name: str) -> Path:
        return self.lab.directory / f"{name}.home"

    def gateway(
        self, name: str, config: dict[str, Any], **more: Any
    ) -> contextlib.AbstractAsyncContextManager[Gateway]:
        """The gateway of one of them, who are who they are before it starts."""
        home = self.home(name)
        if not home.exists():
            shutil.copytree(self.people.directory / name, home)
        host: Host = getattr(self, name)
        return host.gateway(config, home=home, **more)

    async def publish(self, *, stolen: str = "") -> None:
        """The zone in the DNS, with no address of ``photos``: it has none.  What is ``stolen`` is the thief's."""
        if self._dns is not None:
            await self._dns.stop()
        at = self.address(self.thief if stolen else self.relay)
        records = self.people.forged if stolen == "documents" else self.people.records
        options = ("--cache-size=0", f"--local=/{ZONE}/", f"--host-record={RELAY},{at}")
        self._dns = dnsmasq(self.names, *options, *records)
        await self.names.wait_for_port(53)

    @contextlib.asynccontextmanager
    async def lived_in(self) -> AsyncIterator[None]:
        """All but the gateways."""
        async with self.lab.up():
            await self.publish()
            await self._shut_the_door()
            await self._start_nginx()
            await self._start_sshd()
            yield

    @contextlib.asynccontextmanager
    async def at_work(
        self, *, relay: dict[str, Any] | None = None, home: dict[str, Any] | None = None
    ) -> AsyncIterator[tuple[Gateway, Gateway]]:
        """Gateways of ``relay`` and ``photos``, with the tunnel between them."""
        async with (
            self.lived_in(),
            self.gateway("relay", relay or self.at_relay()) as at_relay,
            self.gateway("photos", home or self.at_home()) as at_home,
        ):
            await self.stands(at_home, RELAY)
            yield at_relay, at_home
            async with trio.open_nursery() as nursery:
                for each in (at_home, at_relay):
                    nursery.start_soon(each.stop)

    async def stands(self, gateway: Gateway, peer: str, *, timeout: float = 15) -> None:
        """Wait until it has a tunnel to ``peer``."""

        async def has() -> bool:
            return any(each["peer"] == f"did:web:{peer}" for each in await self.tunnels(gateway))

        await until(f"a tunnel to {peer} stands", has, timeout=timeout)

    async def tunnels(self, gateway: Gateway) -> list[dict[str, Any]]:
        """What ``cyfs-gateway tunnels`` lists."""
        found = (await gateway.api("/cyfs/peers"))["peers"]
        assert isinstance(found, list)
        return found

    async def _shut_the_door(self) -> None:
        """The router at home has no NAT for IPv6, and lets nobody in."""
        await self.router.run("nft", "-f", "-", stdin=_SHUT)

    async def version(self, gateway: Gateway, peer: str) -> int:
        """Which version of the protocol its tunnel to ``peer`` speaks."""
        (found,) = [each for each in await self.tunnels(gateway) if each["peer"] == f"did:web:{peer}"]
        return int(found.get("version", 4))

    async def reboot_router(self) -> None:
        """It forgets all connections.  Begin and end of the time that it was away are those of this call."""
        await self.router.unplug("wan")
        await self.router.run("nft", "flush", "ruleset")
        await self.router.run("conntrack", "-F")
        await self.router.renew("wan")
        wan, lan = self.router.ports
        rules = self.nat.ruleset(wan.addresses[0].partition("/")[0], lan.addresses[0].partition("/")[0])
        await self.router.run("nft", "-f", "-", stdin=f"{rules}\n{_SHUT}")

    # What is at home

    @property
    def www(self) -> Path:
        return self.lab.directory / "www"

    async def _start_nginx(self) -> None:
        """A page, and a film that takes a while."""
        root = self.www
        root.mkdir()
        (root / "index.html").write_text(MARK)
        film = random.Random(5).randbytes(_FILM)
        (root / "film").write_bytes(film)
        (root / "marks").write_text(MARK * (_FILM // len(MARK)))
        self.film = hashlib.sha256(film).hexdigest()
        # Its workers are somebody else, and the directory is ours alone.
        text = f"""daemon off; master_process off; user root; pid {root}/pid; error_log {root}/error.log;
events {{}}
http {{ access_log {root}/access.log; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  server {{ listen 127.0.0.1:80; root {root}; location /slow/ {{ alias {root}/; limit_rate {_SLOW}; }} }} }}"""
        (root / "nginx.conf").write_text(text)
        self.photos.start("nginx", "-c", str(root / "nginx.conf"), "-e", str(root / "error.log"))
        await self.photos.wait_for_port(80)

    async def _start_sshd(self) -> None:
        keys = self.lab.directory / "ssh"
        keys.mkdir(mode=0o700)
        for name in ("host", "user"):
            await self.photos.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name))
        (keys / "known").write_text(f"{PHOTOS} {(keys / 'host.pub').read_text()}")
        (keys / "config").write_text(
            f"ListenAddress 127.0.0.1\nHostKey {keys}/host\nAuthorizedKeysFile {keys}/user.pub\nPidFile none\n"
            "StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPrintMotd no\n"
        )
        insists = 'mkdir -p /run/sshd && exec /usr/sbin/sshd -D -e -f "$0"'
        self.photos.start("sh", "-c", insists, str(keys / "config"), name="sshd")
        await self.photos.wait_for_port(22)

    # Ordinary programs

    async def page(self, host: Host, *options: str, seconds: int = 8, url: str = f"http://{PHOTOS}/") -> str:
        """What curl gets; what it says instead if that is nothing."""
        done = await host.run("curl", "-sS", "-m", str(seconds), *options, url, check=False, timeout=seconds + 10)
        return done.out or done.err

    async def watch(self, host: Host, *options: str, url: str = f"http://{PHOTOS}/film") -> str:
        """The sum of the film as it came."""
        file = self.lab.directory / f"{host.name}.film"
        await host.run("curl", "-sS", "-m", "60", *options, "-o", str(file), url, timeout=70)
        return hashlib.sha256(file.read_bytes()).hexdigest()

    async def ssh(self, host: Host, proxy: str, *words: str, check: bool = True) -> Done:
        """A command on ``photos``; ``proxy`` is the ProxyCommand, or empty."""
        keys = self.lab.directory / "ssh"
        way = ("-o", f"ProxyCommand={proxy}") if proxy else ()
        known = ("-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={keys}/known", "-o", "ConnectTimeout=8")
        options = ("-F", "none", "-i", str(keys / "user"), *known, *way)
        return await host.run("ssh", *options, f"root@{PHOTOS}", *words, check=check)
