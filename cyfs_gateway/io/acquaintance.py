"""Who a peer is: what names, pins and documents say of it, as surely as the configuration requires.

Strangers shall not choose whom we ask: about a name that nothing here could prove nobody is asked for their sake.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from cyfs_gateway.config.model import RtcpConfig
from cyfs_gateway.flow import Identity
from cyfs_gateway.host import Vouched
from cyfs_gateway.peers import (
    Known,
    brought_along,
    joined,
    known_as,
    known_by,
    known_of,
    known_still,
    level_needed,
    may_bootstrap,
    nobody_but,
    own_owner,
)
from cyfs_ns.errors import BadWire, ConfigFault, Refused, Unreachable
from cyfs_ns.identity.did import Bridges, Did, subject
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.token import Token
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust import outcome
from cyfs_ns.trust.anchors import Anchors
from cyfs_ns.trust.places import lineage
from cyfs_ns.trust.plan import Ask, Privacy
from rtcp.admission import Proven
from rtcp.io.roll import AnyTunnel
from rtcp.party import Local, Peer

if TYPE_CHECKING:
    from cyfs_gateway.io.world import World
    from cyfs_ns.io.trusted.resolver import TrustedNames

_FINDING: Final = 8.0
"""Seconds for finding out who somebody is, who waits at the door meanwhile."""
_VOUCHED: Final = 2.0
"""Seconds in which others may say more of somebody whom a module knows."""
_MOST_BROUGHT: Final = 8192
_MOST_NOBODIES: Final = 1024


class Acquaintance:
    """What is known of peers.  ``trusted`` knows who is who, ``world`` is that of now, ``tunnels`` those that stand;
    ``vouched`` tells what modules have verified of somebody, which decides whose key is whose."""

    def __init__(
        self,
        trusted: Callable[[], TrustedNames],
        world: Callable[[], World],
        tunnels: Callable[[], Sequence[AnyTunnel]],
        vouched: Callable[[Did], Vouched | None],
    ) -> None:
        self._trusted, self._world, self._tunnels, self._vouched = trusted, world, tunnels, vouched
        self._changes = 0
        self._held: tuple[int, float, Anchors] | None = None
        self._owner: tuple[int, float, str] | None = None
        self._brought: dict[Did, Token] = {}
        """By device, the documents that nobody but their bearers could show us."""
        self._nobodies: dict[Did, Identity] = {}
        """Those who are their key and nothing else, since each of their streams asks."""

    @property
    def bridges(self) -> Bridges:
        return self._world().config.identity.bridges

    @property
    def rtcp(self) -> RtcpConfig:
        """The section of the configuration of now."""
        return self._world().config.rtcp or RtcpConfig()

    def change(self) -> None:
        """What it rests on may be another."""
        self._changes += 1
        self._nobodies.clear()

    # By name

    async def know(self, did: Did, *, quietly: bool = False) -> Known:
        """Who somebody is, as surely as is required.  ``quietly``: nobody else is asked about whom no pin can prove.

        Raises ``Refused`` and ``Unreachable``, which say what lacks.
        """
        said = await self.ask(did, quietly=quietly, patience=_VOUCHED if self._vouched(did) else None)
        rtcp = self.rtcp
        known = known_of(did, said, rtcp, await self.anchors_of_now(), self.bridges)
        known = joined(known, await self._known_as(did))
        if known is not None:
            return known
        if isinstance(said, outcome.Found):
            raise Refused(f"{did} is known, but not which key it has (rtcp/require: {rtcp.require})")
        raise _why_not(said, rtcp)

    async def recall(self, did: Did) -> Known | None:
        """Who somebody was when it was asked last, as surely as is required now; nobody is asked.

        Raises as ``anchors``.
        """
        rtcp = self.rtcp
        with suppress(ConfigFault):
            said = self._trusted().recall(Ask(subject=did, least=level_needed(did, rtcp.require)))
            if said is not None:
                known = known_of(did, said, rtcp, await self.anchors_of_now(), self.bridges)
                return joined(known, await self._known_as(did))
        return None

    async def _known_as(self, did: Did) -> Known | None:
        """What a module has verified of somebody; None: nothing that counts here.  Raises as ``anchors``."""
        vouched = self._vouched(did)
        return None if vouched is None else known_as(did, vouched, await self.anchors_of_now(), self.bridges)

    async def ask(self, did: Did, *, quietly: bool = False, patience: float | None = None) -> outcome.Outcome:
        """What is said of somebody.  ``patience``: as of ``Ask``.

        Raises ``Refused`` and ``Unreachable`` when it cannot be told.
        """
        try:
            trusted = self._trusted()
        except ConfigFault as fault:
            raise Unreachable(str(fault), "pre_connect_dns") from fault
        privacy, rtcp = Privacy.SERVICE, self.rtcp
        if quietly and not rtcp.txt_bootstrap and may_bootstrap(did, await self.anchors_of_now()):
            if not await trio.to_thread.run_sync(_is_written_down, trusted.store, did):
                # Names that strangers make up shall not push out of the memory what others need of it.
                raise Refused(f"{did}: nothing here could prove who that is")
            privacy = Privacy.NOBODY
        least = level_needed(did, rtcp.require)
        return await trusted.resolve(Ask(subject=did, least=least, privacy=privacy, patience=patience))

    # By what they bring

    async def know_bearer(self, proven: Proven) -> Known:
        """Who somebody is that knocks, by a name that it brought a document for.  Raises as ``know``."""
        did = proven.named.canonical
        fault = Unreachable(f"{did}: nobody answered in time", "pre_connect_dns")
        with trio.move_on_after(_FINDING):
            try:
                return await self.know(did, quietly=True)
            except Unreachable as nobody_knows:
                fault = nobody_knows
        brought = await self._by_document(proven.document, did)
        if brought is None:
            raise fault
        self._hold(proven)
        return brought

    async def expect(self, host: str) -> None:
        """Somebody who will go by the name ``host`` is at the door: have what is known of it at hand by then."""
        with trio.move_on_after(_FINDING), suppress(BadWire, Refused, Unreachable):
            await self.know(subject(host, self.bridges).canonical, quietly=True)

    async def _by_document(self, document: Token | None, did: Did) -> Known | None:
        """What its own document proves, where a snapshot will do and nobody could be asked."""
        require = self.rtcp.require
        if require != "trusted_snapshot" or document is None:
            return None
        anchors = await self.anchors_of_now()
        claims = brought_along(document, did, anchors, time.time())
        return known_by(did, claims, level_needed(did, require), anchors, self.bridges)

    def _hold(self, proven: Proven) -> None:
        """Keep what somebody brought for as long as there is a tunnel."""
        if len(self._brought) >= _MOST_BROUGHT:
            standing = {tunnel.peer.device for tunnel in self._tunnels()}
            self._brought = {device: token for device, token in self._brought.items() if device in standing}
        if proven.document is not None and len(self._brought) < _MOST_BROUGHT:
            self._brought[proven.device] = proven.document

    # Those who are known

    def identity(self, peer: Peer) -> Identity:
        """Who ``peer`` was when it was judged last."""
        if isinstance(peer.about, Identity):
            return peer.about
        known = self._nobodies.get(peer.device)
        if known is None:
            if len(self._nobodies) >= _MOST_NOBODIES:
                self._nobodies.clear()
            known = self._nobodies[peer.device] = nobody_but(peer.device, self.bridges)
        return known

    async def who_now(self, peer: Peer) -> Identity:
        """Who a peer with a name is by now.  Raises ``Refused`` and ``Unreachable``."""
        before = self.identity(peer)
        vouched = await self._known_as(peer.did)
        if vouched is not None and vouched.key != key_of(peer):
            raise Refused(f"{peer.did} has another key now")
        said = await self.ask(peer.did, quietly=not peer.dialled, patience=_VOUCHED if vouched else None)
        if vouched is not None:
            known = joined(known_of(peer.did, said, self.rtcp, await self.anchors_of_now(), self.bridges), vouched)
            assert known is not None
            return known.identity
        if isinstance(said, outcome.Absent | outcome.Unreachable):
            brought = await self._by_document(self._brought.get(peer.device), peer.did)
            if brought is not None and brought.key == key_of(peer):
                return brought.identity
        anchors = await self.anchors_of_now()
        now = known_still(peer.did, key_of(peer), before.trust, said, self.rtcp, anchors, self.bridges)
        return now or before

    # Pins

    async def anchors(self) -> Anchors:
        """Raises ``Unreachable`` when the pins cannot be read just now, and ``Refused`` when they are broken."""
        try:
            return await trio.to_thread.run_sync(self._trusted().store.anchors)
        except OSError as fault:  # it may pass, as a lack of descriptors does
            raise Unreachable(f"the pins of this machine cannot be read now: {fault}", "other") from fault
        except (BadWire, ConfigFault) as fault:
            raise Refused(f"the pins of this machine cannot be read: {fault}") from fault

    async def anchors_of_now(self) -> Anchors:
        """The same for all who are judged in one round."""
        held, now, changes = self._held, trio.current_time(), self._changes
        if held is None or held[0] != changes or now - held[1] > 1:
            self._held = held = changes, now, await self.anchors()
        return held[2]

    async def owner(self, local: Local) -> str:
        """Whose this device is; empty when nobody is known.  Peers ask for it often, so it is kept as the pins are."""
        held, now, changes = self._owner, trio.current_time(), self._changes
        if held is None or held[0] != changes or now - held[1] > 1:
            try:
                anchors = await self.anchors_of_now()
            except (Refused, Unreachable):
                return ""
            self._owner = held = changes, now, own_owner(local, anchors, time.time())
        return held[2]


def key_of(peer: Peer) -> PublicKey:
    """The key that ``peer`` has proven."""
    key = peer.device.key
    assert key is not None
    return key


def _is_written_down(store: TrustStore, did: Did) -> bool:
    """Whether a file that was put here by hand is about ``did``, or a name above it."""
    names = lineage(did)
    return any(one.about.canonical in names for one in store.local())


def _why_not(said: outcome.Outcome, config: RtcpConfig) -> Refused | Unreachable:
    """Nobody is met by less than is required: what was reached, and what would be enough."""
    match said:
        case outcome.TooWeak():
            return Refused(f"{said.why}, by rtcp/require: {config.require}")
        case outcome.Absent() | outcome.Unreachable():
            return Unreachable(said.why, "pre_connect_dns")
    return Refused(said.why)
