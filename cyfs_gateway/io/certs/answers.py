"""What authorities are shown while an order is open: tables that doors and name servers look into.

Everything is withdrawn when the order is over, however it ends.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from cyfs_gateway.certs.source import PROOF_PATH
from cyfs_gateway.certs.upkeep import CertFault
from cyfs_gateway.certs.wanted import Challenge
from cyfs_gateway.host import PublisherFor, TxtPublisher
from cyfs_gateway.io.certs.acmeclient import Ask
from cyfs_gateway.io.certs.contexts import proof_context
from cyfs_ns.errors import CyfsError, PeerFault, Refused, Unreachable

_LAST_WORDS = 10.0

_log = logging.getLogger("cyfs.certs")


class Answers:
    """``publisher_for``: who speaks for a name in the DNS; None: nobody here."""

    def __init__(self, publisher_for: PublisherFor) -> None:
        self._publisher_for = publisher_for
        self._by_path: dict[tuple[str, str], bytes] = {}
        self._by_name: dict[str, ssl.SSLContext] = {}

    def over_http(self, host: str, path: str) -> bytes | None:
        return self._by_path.get((host, path))

    def over_tls(self, name: str) -> ssl.SSLContext | None:
        return self._by_name.get(name)

    @asynccontextmanager
    async def shown(self, challenge: Challenge, asks: Sequence[Ask]) -> AsyncIterator[None]:
        """Show what is asked for while the block runs."""
        if challenge == "dns-01":
            async with AsyncExitStack() as stack:
                await self._publish(asks, stack)
                yield
        elif challenge == "http-01":
            paths = {(ask.name, PROOF_PATH + ask.token): ask.key_authorization.encode() for ask in asks}
            self._by_path.update(paths)
            try:
                yield
            finally:
                for path in paths:
                    self._by_path.pop(path, None)
        else:
            contexts = {ask.name: proof_context(ask.name, ask.digest) for ask in asks}
            self._by_name.update(contexts)
            try:
                yield
            finally:
                for name in contexts:
                    self._by_name.pop(name, None)

    def check(self, challenge: Challenge, names: Iterable[str]) -> None:
        """Raises ``CertFault`` if it is clear beforehand that nothing could be shown."""
        if challenge == "dns-01":
            for name in names:
                self._publisher(name.removeprefix("*."))

    def _publisher(self, name: str) -> TxtPublisher:
        publisher = self._publisher_for(name)
        if publisher is None:
            raise CertFault("dns", f"{name}: nobody here speaks for it in the DNS, as dns-01 needs")
        return publisher

    async def _publish(self, asks: Iterable[Ask], stack: AsyncExitStack) -> None:
        for ask in asks:
            publisher = self._publisher(ask.name)
            stack.push_async_callback(_withdraw, publisher, ask)
            try:
                await publisher.publish(ask.name, ask.txt)
            except (PeerFault, Refused, Unreachable) as fault:
                raise CertFault("network", f"{ask.name}: the proof is not in the DNS: {fault}") from fault


async def _withdraw(publisher: TxtPublisher, ask: Ask) -> None:
    with trio.move_on_after(_LAST_WORDS, shield=True):
        try:
            await publisher.withdraw(ask.name, ask.txt)
        except CyfsError as fault:
            # It proves nothing to anybody any more, and whoever says it forgets it in time.
            _log.debug("the proof for %s is still in the DNS: %s", ask.name, fault)
