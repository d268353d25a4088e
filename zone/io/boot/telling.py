"""What machines of a zone tell each other: that they are there, and the newest document that they know.

Every machine has a conversation with each OOD, through a tunnel that either side made.  Line by line each says the
token of its newest document, or nothing where the other has heard it already, and so often that silence tells.  So a
document that one machine has is with all others as soon as they meet, whoever the owner gave it to; a signature is as
good from one as from another, and each judges by itself what it hears.

Who may join in is whom the newest document names, with the key that it has there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import trio

from cyfs_gateway.flow import Identity
from cyfs_gateway.host import Offer
from cyfs_ns.errors import BadWire, Refused, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.token import MOST_TOKEN
from cyfs_ns.trust.places import device_did
from rtcp.io.pipe import send_all
from tunnels.endpoint import Endpoint
from zone.boot.known import Known, replaced
from zone.boot.peers import machine_of
from zone.io.lines import receive_line
from zone.membership import Membership, ood_names

OFFER: Final = "zone"
"""What peers ask for (``zone.invalid``)."""
_PACE: Final = 2.0
"""Seconds from one line to the next."""
_PATIENCE: Final = 5.0
"""Seconds for a line's answer."""
_SILENCE: Final = 10.0
"""Seconds without a line after which a conversation is over."""
_AGAIN: Final = 1.0
"""Seconds until somebody who could not be reached is tried again."""
_MOST_TALKS: Final = 4
"""Conversations that one machine has begun; one is enough, and one that broke off may not have ended here."""

Hear = Callable[[str, str], Awaitable[None]]
"""Takes a document and who said it.  Raises ``BadWire``, ``Unreachable``."""

_log = logging.getLogger("cyfs.zone")


class Meeting(Protocol):
    """What this needs of the gateway (``cyfs_gateway/host.py``)."""

    def register_offer(self, name: str, serve: Offer) -> None: ...
    async def call_offer(self, peer: Did, name: str) -> Endpoint: ...


class Telling:
    """Of one machine.  ``hear`` takes what others say; ``changed`` is called when others can be reached than before."""

    def __init__(self, host: Meeting, hear: Hear, changed: Callable[[], None]) -> None:
        self._host, self._hear, self._changed = host, hear, changed
        self._known: Known | None = None
        self._wanted: dict[str, Did] = {}
        self._talks: dict[str, trio.CancelScope] = {}
        self._begun: Counter[str] = Counter()
        self._news = trio.Event()
        self.reached: frozenset[str] = frozenset()
        """The OODs that answer."""
        self.faults: dict[str, str] = {}
        """What those said last who do not, or why they could not be asked."""

    def believe(self, membership: Membership, known: Known) -> None:
        """Say this from now on, to the OODs that it names."""
        names = (*ood_names(known.newest.document), *ood_names(known.zone.document))
        here = not replaced(known, membership.device)
        self._known = known
        self._wanted = {
            name: device_did(name, membership.zone.id) for name in names if here and name != membership.name
        }
        self._news.set()
        self._news = trio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        self._host.register_offer(OFFER, self._answer)
        async with trio.open_nursery() as nursery:
            while True:
                news = self._news
                for name in self._talks.keys() - self._wanted.keys():
                    self._talks.pop(name).cancel()
                for name in self._wanted.keys() - self._talks.keys():
                    self._talks[name] = scope = trio.CancelScope()
                    nursery.start_soon(self._talk, name, self._wanted[name], scope)
                await news.wait()

    async def _talk(self, name: str, did: Did, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    await self._converse(name, did)
                except (Unreachable, Refused, BadWire, OSError, trio.TooSlowError) as fault:
                    self.faults[name] = str(fault)
                    _log.debug("%s does not answer: %s", name, fault)
                finally:
                    self._reach(self.reached - {name})
                await trio.sleep(_AGAIN)

    async def _converse(self, name: str, did: Did) -> None:
        with trio.fail_after(_PATIENCE):
            pipe = await self._host.call_offer(did, OFFER)
        said = ""
        try:
            while True:
                news = self._news
                with trio.fail_after(_PATIENCE):
                    said = await self._say(pipe, said)
                    heard = await receive_line(pipe, MOST_TOKEN + 1)
                if heard is None:
                    return
                self.faults.pop(name, None)
                self._reach(self.reached | {name})
                await self._take(heard, name)
                with trio.move_on_after(_PACE):
                    await news.wait()
        finally:
            pipe.close()

    async def _answer(self, who: Identity, pipe: Endpoint) -> None:
        """A machine of the zone begins to talk."""
        name, said = self._judged(who), ""
        if self._begun[name] >= _MOST_TALKS:
            raise Refused(f"{name} has {_MOST_TALKS} conversations already")
        self._begun[name] += 1
        try:
            while True:
                with trio.move_on_after(_SILENCE) as waiting:
                    heard = await receive_line(pipe, MOST_TOKEN + 1)
                if waiting.cancelled_caught or heard is None:
                    return
                await self._take(heard, self._judged(who))
                with trio.fail_after(_PATIENCE):
                    said = await self._say(pipe, said)
        except trio.TooSlowError as late:
            raise Unreachable(f"{name} takes no answer") from late
        finally:
            self._begun[name] -= 1
            if not self._begun[name]:
                del self._begun[name]

    def _judged(self, who: Identity) -> str:
        """What the machine is called.  Raises ``Refused``."""
        name = None if self._known is None else machine_of(self._known, who)
        if name is None:
            raise Refused(f"{who.did} is no machine of this zone")
        return name

    async def _say(self, pipe: Endpoint, said: str) -> str:
        """Say the newest document, unless it was ``said``; return it."""
        assert self._known is not None
        token = self._known.newest.token.text
        await send_all(pipe, b"\n" if token == said else f"{token}\n".encode())
        return token

    async def _take(self, heard: bytes, name: str) -> None:
        if heard == b"\n":
            return
        try:
            await self._hear(heard[:-1].decode("ascii"), name)
        except (BadWire, UnicodeDecodeError, Unreachable) as bad:
            # That it is there, and who it is, does not hang on it: its clock may go wrong, or ours.
            _log.info("what %s says of the zone is not believed: %s", name, bad)

    def _reach(self, reached: frozenset[str]) -> None:
        if reached != self.reached:
            self.reached = reached
            self._changed()
