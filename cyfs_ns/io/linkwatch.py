"""Watching the links: who lives behind which address, which addresses are ours, and whether there is a way out.

One task hears what the kernel tells of links, addresses, routes and neighbours.  Neighbours are learned at once.  For
the rest a notice only says *look*: after ``settle`` seconds, in which a redial makes dozens of them, a new picture is
taken and compared with the last.  Notices may get lost when there are too many; then everything is asked anew.

Pictures are taken in a worker thread, since questions to the kernel wait for whoever changes links at the time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

import trio

from cyfs_ns.errors import BadWire
from cyfs_ns.io.netlink import NetlinkSocket, notices, watching_socket
from cyfs_ns.links import (
    WATCHED_GROUPS,
    Change,
    Link,
    LocalAddress,
    Neighbour,
    NeighbourLearned,
    Neighbours,
    Picture,
    Route,
    changes,
    dump_addresses,
    dump_links,
    dump_neighbours,
    matters,
    picture,
    read_news,
    way_query,
)
from cyfs_ns.netlink import Message

_ROUTE: Final = 0  # protocol of AF_NETLINK
_PATIENCE = 5  # seconds for one answer of the kernel
_AGAIN = 5.0  # seconds after which a picture that could not be taken is tried again

_log = logging.getLogger("cyfs.ns.links")


class LinkWatch:
    """The links of the network namespace it is made in.  Raises ``OSError`` without netlink."""

    def __init__(self, *, settle: float = 0.3, mark: int = 0, capacity: int = 4096) -> None:
        """``settle``: seconds from the first notice to the next look.

        ``mark``: routing mark of the packets whose way out is watched.  ``capacity``: of :attr:`neighbours`.
        """
        self.neighbours = Neighbours(capacity)
        """Kept while :meth:`run` runs."""
        self.picture = Picture()
        """The last one."""
        self._looked = False
        self._early: list[Message] | None = []
        """Heard before :meth:`run` could hear it; None: some got lost."""
        self._waiting = trio.CancelScope()
        self._settle = settle
        self._mark = mark
        self._watched = watching_socket(_ROUTE, WATCHED_GROUPS)
        try:
            self._socket = NetlinkSocket(_ROUTE, _PATIENCE)
        except OSError:
            self._watched.close()
            raise

    def mac(self, ip: str) -> str | None:
        """The MAC address behind a canonical IP address.

        The kernel tells of a neighbour before it hands over the neighbour's first packet; so where one is unknown, what
        it has told by now is heard at once, and not when :meth:`run` has its turn.
        """
        known = self.neighbours.mac(ip)
        if known is not None or not self._looked or ip.startswith("127.") or ip == "::1":
            return known  # this machine is nobody's neighbour, nor its own
        try:
            heard = notices(self._watched)
        except OSError:
            return None  # run() meets the same fault, and tells it
        if heard is None or self._early is None:
            self._early = None
        else:
            self._early += heard
        if heard != []:
            self._waiting.cancel()
        return next((one.mac for one in reversed(_neighbours(self._early or ())) if one.ip == ip), None)

    async def run(
        self,
        tell: Callable[[tuple[Change, ...]], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Tell every change until cancelled; started when the first picture is taken.

        Raises ``OSError`` and ``BadWire`` if that fails.  Afterwards the sockets are closed.
        """
        try:
            look_at = math.inf
            if self._looked:
                look_at = await self._compare(tell)
            else:
                await self.look()
            task_status.started()
            while True:
                heard: list[Message] | None = []
                with trio.move_on_at(look_at) as self._waiting:
                    if self._early == []:
                        await trio.lowlevel.wait_readable(self._watched)
                    heard = notices(self._watched)
                early, self._early = self._early, []
                heard = None if heard is None or early is None else early + heard
                if learned := self._learn(_neighbours(heard or ())):
                    tell(learned)
                if heard is None or any(matters(notice) for notice in heard):
                    look_at = min(look_at, trio.current_time() + self._settle)
                if trio.current_time() >= look_at:
                    look_at = await self._compare(tell)
        finally:
            self._watched.close()
            self._socket.close()

    async def look(self) -> None:
        """Take the first picture, for who needs one before :meth:`run`, which tells what happened since.

        Raises as that does.
        """
        self.picture, neighbours = await self._look()
        self._looked = True
        self._learn(neighbours)

    async def _compare(self, tell: Callable[[tuple[Change, ...]], None]) -> float:
        """Take a new picture and tell what is new in it; when to look again without being asked to."""
        try:
            after, neighbours = await self._look()
        except (OSError, BadWire) as fault:
            _log.warning("links: the kernel does not tell: %s", fault)
            return trio.current_time() + _AGAIN
        before, self.picture = self.picture, after
        if happened := (*changes(before, after), *self._learn(neighbours)):
            tell(happened)
        return math.inf

    async def _look(self) -> tuple[Picture, list[Neighbour]]:
        return await trio.to_thread.run_sync(self._ask)

    def _ask(self) -> tuple[Picture, list[Neighbour]]:
        # The order counts: an address of a link that is newer than the list of links is left for the notice it causes.
        links = [news for news in self._news(dump_links) if isinstance(news, Link)]
        addresses = [news for news in self._news(dump_addresses) if isinstance(news, LocalAddress)]
        ways = [self._way(version) for version in (4, 6)]
        return picture(links, addresses, (ways[0], ways[1])), _neighbours(self._answers(dump_neighbours))

    def _way(self, version: int) -> Route | None:
        for answer in self._answers(lambda seq: way_query(version, self._mark, seq)):
            if isinstance(route := read_news(answer), Route):
                return route
        return None

    def _news(self, question: Callable[[int], bytes]) -> Iterator[Link | LocalAddress | Route | Neighbour | None]:
        return map(read_news, self._answers(question))

    def _answers(self, question: Callable[[int], bytes]) -> list[Message]:
        (seq,) = self._socket.numbers(1)
        return [answer for answer in self._socket.ask(question(seq), seq) if answer.seq == seq]

    def _learn(self, neighbours: Iterable[Neighbour]) -> tuple[NeighbourLearned, ...]:
        return tuple(NeighbourLearned(*one) for one in neighbours if self.neighbours.learn(one))


def _neighbours(heard: Iterable[Message]) -> list[Neighbour]:
    found = []
    for notice in heard:
        with suppress(BadWire):
            if isinstance(news := read_news(notice), Neighbour):
                found.append(news)
    return found
