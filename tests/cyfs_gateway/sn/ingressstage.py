"""An SN with an ingress and a box at home, whole gateways, and a tunnel between them; at home a real web server."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trustme

from cyfs_gateway.io.sn.ingress import Ingress
from cyfs_gateway.sn.accounts import Device
from cyfs_gateway.sn.ingress import IngressSettings
from cyfs_gateway.sn.quota import Denied, Later
from cyfs_gateway.sn.registry import Host, NameEntry
from cyfs_ns.identity.did import Did, host_of_did
from cyfs_ns.identity.revision import Revision
from rtcp.io.pipe import Answered, DatagramPipe, GiveUp
from rtcp.party import Address
from rtcp.v5.legs import Leg
from tests.cyfs_gateway.io.inprocess import Living, living, until
from tests.cyfs_gateway.sn.sn_people import SN, Person, person
from tests.freeport import free_port
from tunnels.endpoint import Endpoint
from tunnels.io.reactor import Reactor
from tunnels.io.waiting import TcpEndpoint

ALICE, NAS, S = person(1), person(2), person(3)
PHOTOS = "photos.alice.sn.example"
AWAY = person(9)


def settle(home: Path, who: Person) -> None:
    """``who`` lives at ``home``."""
    folder = home / "identity"
    folder.mkdir(parents=True)
    (folder / "device.pem").write_bytes(who.key.pem())
    (folder / "device.pem").chmod(0o600)


class Seat:
    """The gateway as its ingress sees it."""

    def __init__(self, house: Living) -> None:
        self._gateway = house.gateway
        self.opened: list[tuple[str | None, int, Address | None]] = []

    @property
    def reactor(self) -> Reactor:
        return self._gateway.reactor

    @property
    def home(self) -> Path:
        return self._gateway.home

    def standing(self, device: Did) -> bool:
        return self._gateway.peer_desk.standing(device) is not None

    async def open_to_peer(
        self, device: Did, host: str | None, port: int, *, source: Address | None = None
    ) -> Endpoint:
        self.opened.append((host, port, source))
        return await self._gateway.peer_desk.open_standing(device, host, port, source=source)

    def ask_peer(
        self,
        device: Did,
        host: str | None,
        port: int,
        then: Answered,
        *,
        source: Address | None = None,
        first: bytes = b"",
    ) -> GiveUp | None:
        self.opened.append((host, port, source))
        return self._gateway.peer_desk.ask_standing(device, host, port, then, source=source, first=first)

    async def open_datagrams_to_peer(
        self, device: Did, host: str | None, port: int, *, source: Address | None = None
    ) -> DatagramPipe:
        return await self._gateway.peer_desk.open_standing_datagrams(device, host, port, source=source)

    def take_peer(self, sock: TcpEndpoint, source: Address) -> None:
        self._gateway.take_peer(sock, *source)


class Silent:
    """A home that is asked and says nothing, until ``then`` is told what it says."""

    def __init__(self) -> None:
        self.asked: list[Answered] = []
        self.given_up = 0

    def ask(
        self, device: Did, host: str | None, port: int, then: Answered, *, source: Address | None, first: bytes
    ) -> GiveUp:
        self.asked.append(then)
        return self._give_up

    def _give_up(self) -> None:
        self.given_up += 1


def entry(name: str, *machines: tuple[str, Did]) -> NameEntry:
    """``name`` is Alice's, and these are her machines."""
    hosts = {
        label: Host(
            Device(did=did, owner=ALICE.did, name=label, since=0, mark=Revision(0, ""), expires=1 << 40),
            None,
        )
        for label, did in machines
    }
    return NameEntry(
        name=name,
        owner=ALICE.did.canonical,
        hosts=hosts,
        devices={label: did.key for label, did in machines if did.key is not None},
        chosen=machines[0][0],
        texts=(),
        issuers=(),
    )


@dataclass
class Books:
    """Whose names are whose, and what was charged."""

    names: dict[str, NameEntry] = field(default_factory=dict)
    charged: int = 0
    limit: int = 1 << 60
    rest: float = 0.0
    """Until when all streams are to wait."""

    def find(self, host: str) -> NameEntry | None:
        labels = host.split(".")
        for at in range(len(labels)):
            if (found := self.names.get(".".join(labels[at:]))) is not None:
                return found
        return None

    def meter(self, owner: Did, octets: int) -> Later | Denied | None:
        assert owner == ALICE.did.canonical
        self.charged += octets
        if self.rest:
            return Later(self.rest, "over the pace")
        return Denied("the month is used up") if self.charged > self.limit else None


@dataclass
class Stage:
    sn: Living
    home: Living
    ingress: Ingress
    seat: Seat
    books: Books

    @property
    def tls(self) -> int:
        return self.ingress.places[0][1]

    @property
    def http(self) -> int:
        return self.ingress.places[1][1]

    @property
    def bare_legs(self) -> int:
        """Streams whose octets the SN carries as they are."""
        return sum(leg.bare for leg in self._legs.values())

    @property
    def legs(self) -> int:
        """Streams that have a connection of their own between the SN and home."""
        return sum(leg.rose for leg in self._legs.values())

    @property
    def _legs(self) -> dict[int, Leg]:
        tunnel: Any = self.seat._gateway.peer_desk.standing(NAS.did)
        legs: dict[int, Leg] = tunnel._machine._legs
        return legs


def services(*lines: str) -> str:
    return "".join(f"    - {{{line}, allow: ['{S.did}']}}\n" for line in lines)


@asynccontextmanager
async def staged(
    tmp_path: Path, *lines: str, versions: str = "[5]", at_home: str = "", **settings: Any
) -> AsyncIterator[Stage]:
    """``lines``: services of the home, without who may use them; ``at_home``: more of its configuration."""
    port = free_port()
    settle(tmp_path / "sn", S)
    settle(tmp_path / "home", NAS)
    to_sn = f"rtcp://tcp%3A%2F%2F%2F127.0.0.1%3A{port}@{host_of_did(S.did, case_safe=True).lower()}"
    home_config = f"""
rtcp:
  versions: {versions}
  keep-tunnel: ['{to_sn}']
  proxy-from: ['{S.did}']
  services:
{services(*lines)}
{at_home}
rules: ['MATCH,REJECT']
"""
    sn_config = f"rtcp: {{listen: '127.0.0.1:{port}', admission: ['MATCH,ACCEPT']}}\nrules: ['MATCH,REJECT']\n"
    own = IngressSettings(domain=SN, tls=(("127.0.0.1", 0),), http=(("127.0.0.1", 0),))
    nas = ("nas", NAS.did.canonical)
    books = Books(
        {
            "alice.sn.example": entry("alice", nas, ("desk", AWAY.did.canonical)),
            "alice.example": entry("alice.example", nas),
            "gone.sn.example": entry("gone", ("desk", AWAY.did.canonical)),
        }
    )
    async with living(tmp_path / "sn", sn_config) as sn, living(tmp_path / "home", home_config) as home:
        seat = Seat(sn)
        ingress = Ingress(seat, books.find, replace(own, **settings), books.meter)
        await until(lambda: seat.standing(NAS.did.canonical))
        async with trio.open_nursery() as nursery:
            await nursery.start(ingress.run)
            yield Stage(sn, home, ingress, seat, books)
            nursery.cancel_scope.cancel()


# A web server at home


_NGINX = """
daemon off;
user root;
pid {folder}/pid;
error_log {folder}/log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  map $http_upgrade $is {{ default upgrade; '' close; }}
  server {{
    listen 127.0.0.1:{tls} ssl proxy_protocol;
    listen 127.0.0.1:{http} proxy_protocol;
    server_name _;
    ssl_certificate {folder}/chain.pem;
    ssl_certificate_key {folder}/key.pem;
    client_max_body_size 0;
    root {folder}/www;
    location = /who {{ return 200 "$proxy_protocol_addr $proxy_protocol_port $scheme $host"; }}
    location /files/ {{ dav_methods PUT; }}
    location /ws {{
      proxy_pass http://127.0.0.1:{ws};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $is;
    }}
  }}
}}
"""


class Nginx:
    """Serves ``tls`` and ``http`` behind PROXY headers; ``/who`` tells who asks, ``/files/`` takes uploads, ``/ws``
    leads to port ``ws``."""

    def __init__(self, folder: Path, names: list[str], ws: int = 9) -> None:
        folder.mkdir()
        (folder / "www" / "files").mkdir(parents=True)
        self.folder, self.tls, self.http = folder, free_port(), free_port()
        self.ca = trustme.CA()
        issued = self.ca.issue_cert(*names)
        (folder / "chain.pem").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(folder / "key.pem")
        self.root = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.root)
        (folder / "conf").write_text(_NGINX.format(folder=folder, tls=self.tls, http=self.http, ws=ws))
        program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
        assert program is not None
        self._child = subprocess.Popen([program, "-c", folder / "conf", "-e", folder / "log"])

    async def ready(self) -> None:
        for port in (self.tls, self.http):
            await until(partial(_accepts, port))

    def close(self) -> None:
        self._child.terminate()
        self._child.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def nginx(tmp_path: Path, *names: str, ws: int = 9) -> AsyncIterator[Nginx]:
    with ExitStack() as stack:
        server = Nginx(tmp_path / "nginx", list(names or ("*.alice.sn.example", "alice.example")), ws)
        stack.callback(server.close)
        await server.ready()
        yield server


def reset(stream: trio.SocketStream) -> None:
    """Let it end without a farewell."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def ran(*command: str, words: bytes = b"", seconds: float = 60) -> tuple[int, str]:
    """Exit status and output of a program."""
    with trio.fail_after(seconds):
        done: subprocess.CompletedProcess[bytes] = await trio.run_process(
            list(command), stdin=words, capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
    return done.returncode, done.stdout.decode(errors="replace")
