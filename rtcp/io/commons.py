"""What all tunnels of version 5 of one device have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from rtcp.io.alarms import Alarms
from rtcp.io.pipe import Pipe, Reactor
from rtcp.io.tunnel import Serve
from rtcp.v5.keys import DeviceKey
from rtcp.v5.ledger import Ledger, Share
from rtcp.v5.payloads import Parameters

Connect = Callable[[], Awaitable[Pipe]]
"""Opens one more connection to the peer.  Raises ``Unreachable`` or ``Refused``."""


class Holder(Protocol):
    """A tunnel, to the ledger."""

    def make_room(self) -> None:
        """All together hold too much, and this one the most."""


@dataclass(slots=True, kw_only=True)
class Commons:
    """``clock`` is trio's, without the way there; ``boot`` is random for each start of the device.  ``holders`` are the
    tunnels by their shares in the ``ledger``.
    """

    nursery: trio.Nursery
    reactor: Reactor
    alarms: Alarms
    clock: Callable[[], float]
    own: DeviceKey
    parameters: Parameters
    boot: bytes
    serve: Serve
    ledger: Ledger
    holders: dict[Share, Holder] = field(default_factory=dict)

    def make_room(self) -> None:
        """Together they may hold too much: whoever holds most gives way."""
        while debtors := self.ledger.debtors():
            for share in debtors:
                self.holders[share].make_room()
