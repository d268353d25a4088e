"""Whom a name leads to: a zone is no device, so its name leads to the machines that take in what comes for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from cyfs_gateway.io.acquaintance import Acquaintance
from cyfs_gateway.peers import gateways_of, level_needed
from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.trust import outcome
from rtcp.io.device import Carrier, Device
from rtcp.io.roll import AnyTunnel

LOOKED_UP_AGAIN: Final = 300.0
"""Seconds for which a name of a zone leads to the same machines."""
_MOST_NAMES: Final = 4096

_log = logging.getLogger("cyfs.peers")


class Leads:
    """``acquaintance`` knows what zones say; ``tunnels`` are those that stand."""

    def __init__(self, acquaintance: Acquaintance, tunnels: Callable[[], Sequence[AnyTunnel]]) -> None:
        self._acquaintance, self._tunnels = acquaintance, tunnels
        self._found: dict[Did, tuple[float, tuple[Did, ...]]] = {}

    def doubt(self) -> None:
        """They are to be asked for anew; but where they led is where streams still go."""
        self._found = {name: (0.0, devices) for name, (_, devices) in self._found.items()}

    def led_to(self, did: Did) -> tuple[Did, ...]:
        """Where ``did`` led when somebody asked last; empty: nobody did."""
        return self._found.get(did.canonical, (0.0, ()))[1]

    async def ask(self, did: Did) -> tuple[Did, ...]:
        """The devices to dial for ``did``: itself, or of a zone the machines that take in what comes for it.

        Who they are is as sure as any peer has to be; that it is them is proven when they are dialled.
        """
        name = did.canonical
        if name.key is not None:
            return (did,)
        held = self._found.get(name)
        if held is not None and held[0] > trio.current_time():
            return held[1]
        found: tuple[Did, ...] = (did,)
        if not any(tunnel.peer.did == name for tunnel in self._tunnels()):
            try:
                said = await self._acquaintance.ask(did)
            except (Refused, Unreachable):
                return found  # as whoever dials it will find out
            if not isinstance(said, outcome.Found):
                return found
            found = gateways_of(name, said.claims, level_needed(did, self._acquaintance.rtcp.require)) or found
            if found != (did,):
                _log.info("%s leads to %s, as its documents say: %s", did, ", ".join(map(str, found)), said.why)
        if len(self._found) >= _MOST_NAMES:
            self._found.clear()
        self._found[name] = trio.current_time() + LOOKED_UP_AGAIN, found
        return found

    async def choose(self, device: Device, did: Did, *, via: Carrier | None = None, at: int | None = None) -> Did:
        """Of those that ``did`` leads to, the first that ``device`` reaches; else the last."""
        *first, last = await self.ask(did)
        for peer in first:
            with suppress(Refused, Unreachable):
                await device.tunnel(peer, via=via, at=at)
                return peer
        return last
