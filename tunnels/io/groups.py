"""A proxy group as an outbound: holds its members, asks a chooser, and passes the two verbs on.

Members may be replaced while flows run (providers update).  One that can never be opened is not chosen by itself,
unless all are so: being untested it would pass for alive.  A group that has none left uses ``COMPATIBLE``, as in
mihomo.  A relay group is no choice but a chain: it carries flows itself, each member over the one before.
"""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from typing import Final

import trio

from cyfs_ns.errors import Refused, Unreachable
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.group import Health, chooser_for
from tunnels.io.leaf import Leaf
from tunnels.outbound import FlowHint, Outbound
from tunnels.spec import GroupKind, GroupSpec

_KINDS: Final[dict[GroupKind, str]] = {
    "select": "Selector",
    "url-test": "URLTest",
    "fallback": "Fallback",
    "load-balance": "LoadBalance",
    "relay": "Relay",
}
_ANYTHING: Final = FlowHint()


class Group:
    """See the module's text.  ``compatible`` stands in when there are no members."""

    def __init__(self, spec: GroupSpec, health: Health, compatible: Outbound) -> None:
        self.spec = spec
        self.name = spec.name
        self.kind = _KINDS[spec.kind]
        self._chooser = chooser_for(spec, health)
        self._compatible = compatible
        self._members: dict[str, Outbound] = {}
        self._names: tuple[str, ...] = ()
        self._candidates: tuple[str, ...] = ()
        """The names that are chosen from without a person's hand."""
        self._used = False
        self._failures = 0
        self._failing_since = 0.0
        self.wants_check = trio.Event()
        """Set when the members should be checked out of turn; the checker replaces it."""
        self.set_members(())

    def set_members(self, members: Sequence[Outbound], hopeless: Container[str] = ()) -> None:
        """Replace all members; a choice made by hand stays remembered even while its member is away.

        ``hopeless`` names those that cannot be opened at all.
        """
        self._members = {member.name: member for member in members or (self._compatible,)}
        self._names = self._candidates = tuple(self._members)
        if self.spec.kind != "select":
            self._candidates = tuple(name for name in self._names if name not in hopeless) or self._names

    @property
    def members(self) -> list[Outbound]:
        return list(self._members.values())

    @property
    def all(self) -> list[str]:
        """The members' names, in order."""
        return list(self._names)

    @property
    def now(self) -> str:
        """The member in use; empty where every flow gets its own (load-balance) or all are used (relay)."""
        if self.spec.kind in ("load-balance", "relay"):
            return ""
        return self._chooser.choose(self._candidates, _ANYTHING, 0.0)

    @property
    def fixed(self) -> str:
        """The choice made by hand in url-test and fallback groups; empty when the group is free to choose."""
        return self._chooser.fixed if self.spec.kind in ("url-test", "fallback") else ""

    @property
    def udp(self) -> bool:
        if self.spec.disable_udp:
            return False
        if self.spec.kind == "load-balance":
            return any(member.udp for member in self._members.values())
        if self.spec.kind == "relay":
            return all(member.udp for member in self._members.values())
        return self._members[self.now].udp

    def select(self, name: str) -> None:
        """Choose by hand; an empty name lets url-test and fallback choose for themselves again.

        Raises ``Refused`` when this group is not chosen by hand, or has no such member.
        """
        if self.spec.kind in ("load-balance", "relay"):
            raise Refused(f"{self.name} is a {self.kind} group: nobody chooses its member by hand")
        if name not in self._members and (name or self.spec.kind == "select"):
            raise Refused(f"{self.name} has no member {name!r}")
        self._chooser.fixed = name

    def snapshot(self) -> str:
        """The choice made by hand, to be kept over restarts; empty when there is none."""
        return self._chooser.fixed

    def restore(self, choice: str) -> None:
        """Take back a ``snapshot``.  Its member may still be missing: providers load later."""
        self._chooser.fixed = choice

    def pick(self, hint: FlowHint) -> Outbound:
        self._used = True
        if self.spec.kind == "relay":
            return self
        return self._members[self._chooser.choose(self._candidates, hint, time.monotonic())]

    def used_since_asked(self) -> bool:
        """Whether any flow came by since the last call: lazy groups are only checked then."""
        used, self._used = self._used, False
        return used

    def dial_failed(self) -> None:
        """A flow that chose through this group found its leaf unreachable; too many of these call for a check."""
        now = time.monotonic()
        if now - self._failing_since > self.spec.timeout:
            self._failing_since = now
            self._failures = 0
        self._failures += 1
        if self._failures >= self.spec.max_failed_times:
            self._failures = 0
            self.wants_check.set()

    async def open_stream(self, target: Target) -> Endpoint:
        try:
            return await self._way(FlowHint(host=target.host)).open_stream(target)
        except Unreachable:
            self.dial_failed()
            raise

    async def open_packets(self, target: Target) -> PacketEndpoint:
        if self.spec.disable_udp:
            raise Unreachable(f"{self.name} has UDP switched off", "unsupported_scheme")
        try:
            return await self._way(FlowHint(host=target.host, udp=True)).open_packets(target)
        except Unreachable:
            self.dial_failed()
            raise

    def _way(self, hint: FlowHint) -> Outbound:
        if self.spec.kind != "relay":
            return self.pick(hint)
        self._used = True
        way: Outbound | None = None
        for member in self._members.values():
            leaf = leaf_of(member, hint)
            if way is None:
                way = leaf
            elif isinstance(leaf, Leaf):
                way = leaf.over(way)
            else:
                raise Unreachable(f"{self.name}: a relay group can only begin with another one", "unsupported_scheme")
        return way or self._compatible


def leaf_of(outbound: Outbound, hint: FlowHint) -> Outbound:
    """Walk down through groups to what carries the flow."""
    while (below := outbound.pick(hint)) is not outbound:
        outbound = below
    return outbound
