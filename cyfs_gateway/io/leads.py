"""Whom a name leads to: a zone is no device, so its name leads to the machines that take in what comes for it.

So do the names below it that are nobody else's, as ``www`` may be: what a zone has none of a machine for is its
gateway's.  A name of which anything is known that is not sure enough, or goes against a pin, is left to whoever dials
it to fail.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from cyfs_gateway.io.acquaintance import Acquaintance
from cyfs_gateway.peers import gateways_for, level_needed
from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.trust import outcome
from cyfs_ns.trust.places import lineage
from rtcp.io.device import Carrier, Device
from rtcp.io.roll import AnyTunnel

LOOKED_UP_AGAIN: Final = 300.0
"""Seconds for which a name of a zone leads to the same machines."""
_MOST_NAMES: Final = 4096
_MOST_ABOVE: Final = 4
"""Names above one that are looked at for a zone."""
_PATIENCE: Final = 4.0
"""Seconds for those who are asked; at the hosts of most names below a zone nobody answers."""

_log = logging.getLogger("cyfs.peers")


class Leads:
    """``acquaintance`` knows what zones say; ``tunnels`` are those that stand."""

    def __init__(self, acquaintance: Acquaintance, tunnels: Callable[[], Sequence[AnyTunnel]]) -> None:
        self._acquaintance, self._tunnels = acquaintance, tunnels
        self._found: OrderedDict[Did, tuple[float, tuple[Did, ...]]] = OrderedDict()
        """Until when it need not be asked again, and where it leads; the name that nobody asked for longest first."""
        self._doubts = 0

    def doubt(self) -> None:
        """They are to be asked for anew; but where they led is where streams still go."""
        self._doubts += 1
        self._found = OrderedDict((name, (0.0, devices)) for name, (_, devices) in self._found.items())

    def led_to(self, did: Did) -> tuple[Did, ...]:
        """Where ``did`` led when somebody asked last; empty: nobody did."""
        return self._found.get(did.canonical, (0.0, ()))[1]

    async def ask(self, did: Did) -> tuple[Did, ...]:
        """The devices to dial for ``did``: itself, or of a zone the machines that take in what comes for it.

        Who they are is as sure as any peer has to be; that it is them is proven when they are dialled.
        """
        if known := self.known(did):
            return known
        doubts = self._doubts
        found = await self._look(did)
        if not found:
            return (did,)  # as whoever dials it will find out
        # What was heard before a doubt is asked for anew, too.
        return self._keep(did.canonical, found, trio.current_time() + LOOKED_UP_AGAIN if doubts == self._doubts else 0)

    def _keep(self, name: Did, found: tuple[Did, ...], until: float) -> tuple[Did, ...]:
        self._found[name] = until, found
        self._found.move_to_end(name)
        if len(self._found) > _MOST_NAMES:
            self._found.popitem(last=False)
        return found

    def known(self, did: Did) -> tuple[Did, ...]:
        """As ``ask``, as far as nobody need be asked; else empty."""
        name = did.canonical
        if name.method == "dev":  # it is its key
            return (did,)
        held, now = self._found.get(name), trio.current_time()
        if held is not None:
            self._found.move_to_end(name)
            if held[0] > now:
                return held[1]
        if any(tunnel.peer.did == name for tunnel in self._tunnels()):
            return self._keep(name, (did,), now + LOOKED_UP_AGAIN)
        return ()

    async def _look(self, did: Did) -> tuple[Did, ...]:
        """As ``ask``; empty: nothing certain is heard."""
        name = did.canonical
        above = () if name.path or "%" in name.id else lineage(name)[1 : 1 + _MOST_ABOVE]
        for zone in (did, *above):
            try:
                said = await self._acquaintance.ask(zone, patience=_PATIENCE)
            except (Refused, Unreachable):
                return ()
            if isinstance(said, outcome.Found):
                least = level_needed(zone, self._acquaintance.rtcp.require)
                found = gateways_for(name, zone, said.claims, least) or (did,)
                if found != (did,):
                    _log.info("%s leads to %s, as documents say: %s", did, ", ".join(map(str, found)), said.why)
                return found
            if not _is_nobody(said):
                return ()
        return ()

    async def choose(self, device: Device, did: Did, *, via: Carrier | None = None, at: int | None = None) -> Did:
        """Of those that ``did`` leads to, the first that ``device`` reaches; else the last."""
        *first, last = await self.ask(did)
        for peer in first:
            with suppress(Refused, Unreachable):
                await device.tunnel(peer, via=via, at=at)
                return peer
        return last


def _is_nobody(said: outcome.Outcome) -> bool:
    """Whether nothing is said of a name: it is not there; or its host does not answer, and its zone has spoken."""
    return isinstance(said, outcome.Absent) or (isinstance(said, outcome.Unreachable) and said.heard)
