"""What the gateway answers to peers itself: services with names of their own, beside those of the configuration.

A peer asks for one by its name as the host of a stream.  The names end in ``.invalid`` (RFC 6761 section 6.4), so
whoever does not know them finds nothing, and no service of a configuration or host in the world is hidden by them.

Each has a guard, which is asked before anything is opened.  By default it lets in the devices of the owner of this one,
as far as a pin says who that is; strangers never.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final

from cyfs_gateway.decide import Decision
from cyfs_gateway.flow import ANSWERED, Flow, Identity
from cyfs_gateway.rules.model import Verdict
from cyfs_gateway.rules.table import RuleTable
from cyfs_ns.errors import Refused, Unreachable
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.outbound import FlowHint, Outbound

RECEIVE: Final = f"receive{ANSWERED}"
SPEEDTEST: Final = f"speedtest{ANSWERED}"
PORT: Final = 1
"""What is asked for by name has no port; something has to stand there."""

Open = Callable[[Identity], Awaitable[Endpoint]]
"""Opens the near end for a peer.  Raises ``Refused`` and ``Unreachable``, which the peer hears of."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Who is let in: whoever meets one of the conditions; devices of the same owner when there are none (None)."""

    conditions: Callable[[], RuleTable | None]
    owner: Callable[[], Awaitable[str]]
    """The owner of this device; empty when nobody is known."""

    async def judge(self, flow: Flow, name: str) -> str:
        """Why ``flow`` may come in.  Raises ``Refused``."""
        identity, conditions = flow.identity, self.conditions()
        if conditions is None:
            owner = await self.owner()
            if owner and identity is not None and identity.owner == owner:
                return f"a device of {owner}"
        else:
            verdict = conditions.match(flow, 0, True, True)
            if isinstance(verdict, Verdict) and verdict.index >= 0:
                return verdict.why
        raise Refused(f"{name.removesuffix(ANSWERED)} is not for {identity.did if identity else 'whoever this is'}")


class Offers:
    """What there is at the moment, by name."""

    def __init__(self) -> None:
        self._offered: dict[str, tuple[Guard, Open]] = {}
        self.named: Collection[str] = ()
        """DIDs that the owner named in a command: a tunnel from one of them is not a stranger's."""

    def add(self, name: str, guard: Guard, open_: Open) -> None:
        """Answer to ``name`` from now on.  Raises ``Refused`` when somebody does already."""
        if name in self._offered:
            raise Refused(f"somebody answers to {name.removesuffix(ANSWERED)} already")
        self._offered[name] = guard, open_

    def remove(self, name: str) -> None:
        """Nobody answers to ``name`` any more."""
        del self._offered[name]

    async def find(self, flow: Flow) -> Decision | None:
        """What ``flow`` asks for; None: nothing of ours.  Raises ``Refused``."""
        name = flow.host
        if not name.endswith(ANSWERED):
            return None
        offered = self._offered.get(name)
        if offered is None or flow.network != "tcp" or flow.identity is None:
            raise Refused(f"nobody answers to {name.removesuffix(ANSWERED)} here")
        guard, open_ = offered
        why = await guard.judge(flow, name)
        verdict = Verdict(-1, "Service", name.removesuffix(ANSWERED), name, f"{name.removesuffix(ANSWERED)}, {why}")
        return Decision(verdict, _Given(verdict.payload, open_, flow.identity), (verdict.payload,), None)


class _Given:
    """The way to one of them, for one peer."""

    kind = "Inner"
    udp = False

    def __init__(self, name: str, open_: Open, identity: Identity) -> None:
        self.name = name
        self._open, self._identity = open_, identity

    def pick(self, hint: FlowHint) -> Outbound:
        return self

    async def open_stream(self, target: Target) -> Endpoint:
        return await self._open(self._identity)

    async def open_packets(self, target: Target) -> PacketEndpoint:
        raise Unreachable(f"{self.name} carries no UDP", "unsupported_scheme")
