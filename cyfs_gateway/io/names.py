"""The name server inside the gateway: its life across configurations, and what flows learn from it.

It is the same server that runs alone as ``cyfs-ns serve``.  The gateway lends it its ways to name servers and its rule
sets, and takes back what a flow needs: which name stands behind a fake address (``fake-ip``), or which name an address
was last the answer to (``redir-host``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cyfs_gateway.config.model import Config
from cyfs_gateway.io.world import World
from cyfs_ns.config.dns import DnsConfig

if TYPE_CHECKING:
    from cyfs_ns.io.serving import Serving, StagedHouse

_MAPPED_MOST = 16384
_DRAIN_MOST = 2.0


class Desk:
    """Serves names as the gateway's configuration in force asks."""

    def __init__(self, home: Path, nursery: trio.Nursery) -> None:
        self._home, self._nursery = home, nursery
        self.serving: Serving | None = None
        self._mapped: OrderedDict[str, str] = OrderedDict()
        self._maps = False

    async def stage(self, config: Config, world: World) -> tuple[Serving, StagedHouse] | None:
        """Make ready what ``config`` asks for; None when it wants no name server.  Raises ``ConfigFault``."""
        dns = config.dns
        doors = dns.doors
        wanted = dns.enable and (doors.plain or doors.tls or doors.https or doors.http)
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
        )
        serving = self.serving
        if serving is None:
            serving = Serving(self._home, dns, around)
        return serving, await serving.stage(dns if wanted else _closed(config), config.hosts, around)

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
            serving.begin(self._nursery, house)
        else:
            serving.commit(house)
        self._maps = house.house.config.enhanced_mode == "redir-host"
        if not self._maps:
            self._mapped.clear()

    def name_behind(self, address: str) -> str | None:
        """The name that stands behind an address: of a fake one, or of one it was lately the answer to.

        Empty: a fake address that nobody was told of, as far as is known.  None: an address like any other.
        """
        if self.serving is not None and self.serving.fake is not None and self.serving.fake.is_fake(address):
            return self.serving.fake.name(address)
        if not self._maps:
            return None
        return self._mapped.get(address)

    def flush(self) -> int:
        """Forget what the upstreams said."""
        return 0 if self.serving is None else self.serving.server.flush()

    def flush_fake_ip(self) -> int:
        """Forget which fake addresses stand for which names."""
        if self.serving is None or self.serving.fake is None:
            return 0
        self.serving.server.hot.flush()
        return self.serving.fake.flush()

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


def _closed(config: Config) -> DnsConfig:
    """The same section without doors: what was open closes, what is known stays."""
    return replace(config.dns, doors=replace(config.dns.doors, plain=(), tls=(), https=(), http=()))
