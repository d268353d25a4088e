"""A box at home that nobody can dial, reached by its name: it keeps a tunnel to a public machine of the same owner.

``visitor`` dials the box end to end through ``relay``, which carries a tunnel that it cannot read; both are judged by
their own identities.  The programs at both ends (curl, nginx, a server that speaks first) know nothing of it.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trio
from netnslab import HOME, Host, Lab, need
from netnslab.nameserver import dnsmasq
from netnslab.process import CommandFailed, until
from netnslab.traffic import tcp_server

ZONE, PHOTOS, RELAY = "home.example", "photos.home.example", "relay.home.example"
BANNER = b"SSH-2.0-photos\r\n"
SOCKS = 7890
_PROGRAM = str(Path(sys.prefix) / "bin" / "cyfs-gateway")


class World:
    """``photos`` at home behind a NAT; ``relay``, ``names``, ``visitor`` and ``stranger`` on the internet."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        internet = lab.network("198.51.100.0/24", name="internet")
        self.relay, self.names, self.visitor, self.stranger = (
            lab.host(internet, name=name) for name in ("relay", "names", "visitor", "stranger")
        )
        home = lab.network("192.168.1.0/24", uplink=internet, nat=HOME, name="home")
        assert home.router is not None
        self.router: Host = home.router
        self.photos = lab.host(home, name="photos")

    def home(self, name: str) -> Path:
        return self.lab.directory / f"{name}.home"

    async def id(self, whose: str, *words: str) -> str:
        """``cyfs-gateway id`` of a machine, or of the owner."""
        return (await self.names.run(_PROGRAM, "id", *words, "--home", str(self.home(whose)))).out

    async def settle(self) -> None:
        """The owner has two machines; the visitor is a friend, and the stranger is not."""
        mail = self.lab.directory
        await self.id("owner", "owner", "new", "--name", "alice", "--zone", ZONE, "--words-to", str(mail / "words"))
        for name in ("relay", "photos"):
            await self.id(name, "new", "--name", name)
            port = ("--rtcp-port", "2980") if name == "relay" else ()
            await self.id(name, "request", "--zone", ZONE, *port, "-o", str(mail / f"{name}.request"))
            await self.id("owner", "sign", "device", str(mail / f"{name}.request"), "--yes")
            shutil.copy(self.home("owner") / "identity/devices" / f"{name}.jwt", mail / f"{name}.jwt")
            await self.id(name, "accept", str(mail / f"{name}.jwt"), "--yes")
        await self.id("owner", "sign", "boot", "--zone", ZONE, "--ood", f"relay:{self.relay.ip}", "--yes")
        for name in ("visitor", "stranger"):
            await self.id(name, "new", "--name", name)
        for name in ("relay", "photos", "visitor", "stranger"):
            await self.id(name, "trust", str(self.home("owner") / "identity/owner.jwt"), "--yes")
        self.friend = (await self.id("visitor", "export", "--did")).strip()

    async def publish(self) -> None:
        """The zone in the DNS, with no address of ``photos``: it has none."""
        said = await self.id("owner", "txt", "--format", "dnsmasq")
        records = [f"--{line}" for line in said.splitlines() if line.startswith("txt-record=")]
        dnsmasq(self.names, "--cache-size=0", f"--local=/{ZONE}/", f"--address=/{RELAY}/{self.relay.ip}", *records)
        await self.names.wait_for_port(53)

    def config(self, **more: object) -> dict[str, object]:
        dns = {"enable": True, "use-system-hosts": False, "nameserver": [self.names.ip]}
        return {"dns": dns, "rules": ["MATCH,DIRECT"], **more}

    def at_relay(self) -> dict[str, object]:
        """Who may pass: only the friend, only to the door of ``photos``."""
        rule = f"AND,((DID,{self.friend}),(DOMAIN,{PHOTOS}),(DST-PORT,2980)),DIRECT"
        return self.config(rtcp={"listen": 2980}, rules=[rule, "MATCH,DIRECT"])

    def at_home(self) -> dict[str, object]:
        services = [
            {"name": "web", "target": "tcp://127.0.0.1:80", "allow": [self.friend]},
            {"name": "ssh", "target": "tcp://127.0.0.1:22", "allow": [self.friend]},
        ]
        return self.config(rtcp={"listen": 2980, "keep-tunnel": [RELAY], "services": services})

    def outside(self) -> dict[str, object]:
        way = f"rtcp://{RELAY}/{quote(f'rtcp://{PHOTOS}/:2980', safe='')}"
        photos = {"name": "photos", "type": "rtcp", "server": PHOTOS, "via": way}
        rules = [f"DOMAIN,{PHOTOS},photos", "MATCH,REJECT"]
        return self.config(**{"mixed-port": SOCKS, "proxies": [photos], "rules": rules})

    @contextlib.asynccontextmanager
    async def lived_in(self) -> AsyncIterator[None]:
        async with self.lab.up(), trio.open_nursery() as nursery:
            await self.settle()
            await self.publish()
            await self.start_nginx()
            await nursery.start(tcp_server, self.photos, "127.0.0.1", 22, _speak_first)
            async with (
                self.relay.gateway(self.at_relay(), home=self.home("relay")),
                self.photos.gateway(self.at_home(), home=self.home("photos")) as photos,
                self.visitor.gateway(self.outside(), home=self.home("visitor")),
            ):
                await photos.process.says(f"a tunnel to did:web:{RELAY} stands")
                yield
            nursery.cancel_scope.cancel()

    async def start_nginx(self) -> None:
        root = self.lab.directory / "www"
        root.mkdir()
        (root / "index.html").write_text("holidays")
        # Its workers are somebody else, and the directory is ours alone.
        text = f"""daemon off; master_process off; user root; pid {root}/pid; error_log {root}/error.log;
events {{}}
http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  server {{ listen 127.0.0.1:80; root {root}; }} }}"""
        (root / "nginx.conf").write_text(text)
        self.photos.start("nginx", "-c", str(root / "nginx.conf"), "-e", str(root / "error.log"))
        await self.photos.wait_for_port(80)

    async def fetch(self, host: Host, *, seconds: int = 8) -> str:
        """What curl gets from ``photos``, by SOCKS; what it says instead if that is nothing."""
        words = ("curl", "-sS", "-m", str(seconds), "--socks5-hostname", f"127.0.0.1:{SOCKS}", f"http://{PHOTOS}/")
        done = await host.run(*words, check=False)
        return done.out or done.err

    async def reboot_router(self) -> None:
        """It forgets all connections."""
        await self.router.unplug("wan")
        await self.router.run("nft", "flush", "ruleset")
        await self.router.renew("wan")
        wan, lan = self.router.ports
        await self.router.run("nft", "-f", "-", stdin=HOME.ruleset(wan.addresses[0], lan.addresses[0]))


async def _speak_first(stream: trio.SocketStream) -> None:
    await stream.send_all(BANNER)
    await stream.receive_some(100)


@pytest.fixture
def world(lab):
    need("curl", "dnsmasq", "nginx")
    return World(lab)


async def test_a_box_behind_a_nat_is_reached_by_its_name(world):
    async with world.lived_in():
        assert await world.fetch(world.visitor) == "holidays"
        assert await banner(world.visitor, 22) == BANNER

        async with world.stranger.gateway(world.outside(), home=world.home("stranger")):
            assert "(2)" in await world.fetch(world.stranger), "not allowed, says SOCKS"
        assert await banner(world.visitor, 25) == b"", "a friend gets what he was promised, and nothing else"

        for _ in range(3):
            await world.reboot_router()

            async def works() -> bool:
                return await world.fetch(world.visitor, seconds=5) == "holidays"

            await until("requests work again", works, timeout=30)
            assert await banner(world.visitor, 22) == BANNER


async def banner(host: Host, port: int) -> bytes:
    """What the server on ``photos`` says first; empty when there is no way."""
    name = PHOTOS.encode()
    sock = await host.socket(2, 1)
    async with trio.SocketStream(sock) as stream:
        await sock.connect(("127.0.0.1", SOCKS))
        await stream.send_all(b"\x05\x01\x00\x05\x01\x00\x03%c" % len(name) + name + port.to_bytes(2, "big"))
        got = b""
        with contextlib.suppress(CommandFailed), trio.move_on_after(8):
            while len(got) < 12 + len(BANNER) and (more := await stream.receive_some(100)):
                got += more
        return got[12:] if got[:4] == b"\x05\x00\x05\x00" else b""
