"""The name server inside the gateway: its life across configurations, and what flows learn from it.

It is the same server that runs alone as ``cyfs-ns serve``.  The gateway lends it its ways to name servers and its rule
sets, and takes back what a flow needs: which name stands behind a fake address (``fake-ip``), which name an address was
last the answer to (``redir-host``, and names that ``fake-ip`` spares), and the names of the house.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cyfs_gateway.config.model import Config
from cyfs_gateway.flow import Flow
from cyfs_gateway.host import Changed
from cyfs_gateway.io.world import World
from cyfs_ns.config.dns import DnsConfig
from cyfs_ns.errors import Refused
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.spec import DnsSpec

if TYPE_CHECKING:
    from cyfs_ns.authority import Authority
    from cyfs_ns.io.serving import Serving, StagedHouse
    from cyfs_ns.peer import Peer

_MAPPED_MOST = 16384
_DRAIN_MOST = 2.0
_US = "127.0.0.1"


class Desk:
    """Serves names as the gateway's configuration in force asks."""

    def __init__(self, home: Path, nursery: trio.Nursery) -> None:
        self._home, self._nursery = home, nursery
        self.serving: Serving | None = None
        """The name server, once there was a need for one; it may have been switched off since."""
        self.is_on = False
        self._made: Serving | None = None
        """The same from the first attempt on: it holds sockets that a failed one shall not leave behind."""
        self.authority: Authority | None = None
        """Who speaks for a domain of the public DNS; :meth:`speak_for` changes it."""
        self._mapped: OrderedDict[str, str] = OrderedDict()
        self._maps = False

    async def stage(self, config: Config, world: World) -> tuple[Serving, StagedHouse] | None:
        """Make ready what ``config`` asks for; None when it wants no name server.  Raises ``ConfigFault``."""
        dns = world.dns
        wanted = _is_wanted(config)
        if not wanted and self.serving is None:
            return None
        # Ten megabytes that a gateway without a name server does not need.
        from cyfs_ns.io.serving import Serving, Surroundings

        around = Surroundings(
            dial=world.dial_server,
            download=world.dial_by_rules,
            open_datagrams=world.open_server_datagrams,
            mark=world.mark,
            interface=config.interface_name,
            sets=world.name_set,
            geoip=world.is_in_country,
            names=world.registered,
            identity=config.identity,
            identity_home=Path(config.home),
        )
        serving = self._made = self._made or Serving(self._home, dns, around)
        return serving, await serving.stage(dns if wanted else _closed(dns), config.hosts, around)

    @staticmethod
    def abandon(staged: tuple[Serving, StagedHouse] | None) -> None:
        """Take back what was made ready."""
        if staged is not None:
            serving, house = staged
            serving.abandon(house)

    def commit(self, staged: tuple[Serving, StagedHouse] | None) -> None:
        """Serve by it; neither waits nor fails."""
        if staged is None:
            return
        serving, house = staged
        if self.serving is None:
            self.serving = serving
            serving.server.answered = self._remember
            serving.server.speak_for(self.authority)
            serving.begin(self._nursery, house)
        else:
            serving.commit(house)
        config = house.house.config
        self.is_on = config.enable
        self._maps = config.enable and config.enhanced_mode != "normal"
        if not self._maps:
            self._mapped.clear()

    def speak_for(self, authority: Authority | None) -> Changed:
        """Let this one answer for its domain, whenever there is a name server; None: nobody does any more."""
        self.authority = authority
        if self.serving is not None:
            self.serving.server.speak_for(authority)
        return self._authority_changed

    def _authority_changed(self, names: Iterable[bytes]) -> None:
        if self.serving is not None:
            self.serving.server.authority_changed(names)

    # What flows learn

    def call_by_name(self, flow: Flow) -> None:
        """Give a flow to an address that stands for a name that name; the address itself is kept if it is a real one.

        One to a fake address that nobody was told of, as far as is known, is marked as lost.
        """
        address = flow.dst_ip
        fake = None if self.serving is None else self.serving.name_behind(address)
        if fake is not None:
            flow.dns_mode, flow.host = "fake-ip", fake
            if fake:
                flow.dst_ip = ""
        elif (name := self._mapped.get(address)) is not None:
            self._mapped.move_to_end(address)
            flow.dns_mode, flow.host = "redir-host", name

    def is_fake(self, address: str) -> bool:
        """Whether an address is one that stands for a name."""
        return self.serving is not None and self.serving.is_fake(address)

    def addresses(self, host: str) -> Sequence[str]:
        """Addresses of a name of the house, empty for those of others."""
        return self.serving.server.local.addresses(host) if self.serving is not None and self.is_on else ()

    def vouches(self, host: str) -> bool:
        """Whether documents may say where ``host`` is."""
        return self.serving is not None and self.is_on and self.serving.vouches(host)

    async def vouched_addresses(self, host: str) -> Sequence[str] | None:
        """As :meth:`Serving.vouched_addresses`, of a host that :meth:`vouches` knows."""
        return await self.serving.vouched_addresses(host) if self.serving is not None else None

    # The outbound ``dns``

    async def open_stream(self, _: Target, source: str) -> Endpoint:
        """A stream that carries questions of ``source`` to the name server.  Raises ``Refused`` while there is none."""
        from cyfs_gateway.io.questions import open_stream

        return open_stream(self._nursery, self._answer, self._asker(source))

    async def open_packets(self, _: Target, source: str) -> PacketEndpoint:
        """Datagrams that are questions of ``source`` to the name server.  Raises ``Refused`` while there is none."""
        from cyfs_gateway.io.questions import DatagramQuestions

        return DatagramQuestions(self._nursery, self._answer, self._asker(source))

    async def serve_questions(self, door: socket.socket, datagrams: socket.socket) -> None:
        """Answer what comes to two sockets as if we asked; silent while there is no name server."""
        from cyfs_gateway.io.questions import serve_sockets

        await serve_sockets(door, datagrams, self._answer, _US)

    def _asker(self, source: str) -> str:
        """In whose name a client asks: whom the gateway lets in may ask, as ourselves if the doors are for others.

        Raises ``Refused``.
        """
        if not self.is_on or self.serving is None:
            raise Refused("there is no name server to answer: dns/enable is off")
        return source if source and self.serving.server.is_client(source) else _US

    async def _answer(self, question: bytes, peer: Peer) -> bytes | None:
        return await self.serving.server.serve(question, peer) if self.serving is not None and self.is_on else None

    def judge_anew(self) -> None:
        """Forget ready-made answers: what decides who answers has changed."""
        if self.serving is not None:
            self.serving.server.forget_ready_made()

    # What the owner wants

    def flush(self) -> int:
        """Forget what the upstreams said."""
        return 0 if self.serving is None else self.serving.server.flush()

    def flush_fake_ip(self) -> int:
        """Forget which fake addresses stand for which names."""
        return 0 if self.serving is None else self.serving.flush_fake()

    async def drain(self) -> None:
        """Before the end: tell nobody of fake addresses any more, until those told last have expired."""
        if self.serving is not None and self.serving.fake is not None:
            self.serving.fake.draining = True
            self.serving.server.hot.flush()
            await trio.sleep(min(_DRAIN_MOST, self.serving.config.fake_ip_ttl))

    def _remember(self, name: str, addresses: Iterable[str]) -> None:
        if not self._maps:
            return
        for address in addresses:
            self._mapped[address] = name
            self._mapped.move_to_end(address)
        while len(self._mapped) > _MAPPED_MOST:
            self._mapped.popitem(last=False)


def _is_wanted(config: Config) -> bool:
    """Whether anybody could ask: by a door, or by an outbound."""
    doors = config.dns.doors
    asked = doors.plain or doors.tls or doors.https or doors.http
    return config.dns.enable and bool(asked or any(isinstance(spec, DnsSpec) for spec in config.proxies))


def _closed(dns: DnsConfig) -> DnsConfig:
    """The same section switched off: what was open closes, what is known stays."""
    return replace(dns, enable=False, doors=replace(dns.doors, plain=(), tls=(), https=(), http=()))
