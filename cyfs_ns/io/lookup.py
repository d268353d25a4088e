"""What the cache knows of a question, or the upstreams: fresh if it can be had in time, else old.

Fresh entries answer at once; in the last tenth of its life a name that is asked for often is asked for again beside the
answer.  An entry whose time is over still serves when no fresh answer comes within ``stale-wait`` (RFC 8767): all who
ask meanwhile wait for the same question upstream, none of them longer than that after it went out.

An answer that holds for everybody (client subnet with scope 0, RFC 7871 section 7.3.1) is kept without a subnet, and
every look goes both ways.  Entries are kept apart by what the servers are, not by what their group is called, so a
change of servers never brings back what others said.

A change of configuration while somebody is being asked: if that fails, the new servers are asked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from math import inf
from typing import NamedTuple

import trio

from cyfs_ns.blockanswer import negative_soa
from cyfs_ns.edns import Ecs
from cyfs_ns.errors import CyfsError
from cyfs_ns.given import STEADY, Given, Tell, tell_nobody
from cyfs_ns.io.house import House
from cyfs_ns.io.light import in_task
from cyfs_ns.io.upstreams import Forwarder, NobodyAnswered
from cyfs_ns.message import rcode_text
from cyfs_ns.peer import Peer
from cyfs_ns.query import NOERROR, NXDOMAIN, REFUSED, SERVFAIL, Query
from cyfs_ns.reply import make_reply
from cyfs_ns.special import NEVER_ASKED
from cyfs_ns.store import STALE_TTL, AnswerCache, Found, Key, key_of
from cyfs_ns.upstream import Group

MADE_LIFE = 3600
"""Seconds an answer of our own is said again unasked; what it was made from flushes it when it changes."""

_STALE, _STALE_NXDOMAIN, _NOT_AUTHORITATIVE, _NO_AUTHORITY = 3, 19, 20, 22  # extended errors (RFC 8914)
_LOCAL_TTL = 60
_MOST_REFRESHING = 256
_PREFETCH_PART = 10
_MAX_TOLD = 120  # characters of a fault that a client hears

_log = logging.getLogger("cyfs.dns")


class _Wish(NamedTuple):
    """A question, and all that decides who is asked and where the answer is kept."""

    query: Query
    peer: Peer
    view_group: str
    group: Group
    subnet: Ecs | None
    everybody: bool
    """Whether every client would tell this subnet, or none."""
    do: bool
    cd: bool
    key: Key
    shared: Key
    """Of the answer for all, whatever their subnet; ``key`` itself where none is told."""


class _Refresh(NamedTuple):
    done: trio.Event
    begun: float


class Lookup:
    """``wear`` must be called before anything is asked, and what goes on beside answers needs :meth:`live`."""

    def __init__(
        self,
        cache: AnswerCache,
        *,
        mark_of: Callable[[Peer], int],
        exists: Callable[[bytes], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``mark_of``: the firewall mark for what is asked on behalf of a client; ``exists``: whether the house knows a
        wire name at all."""
        self.cache = cache
        self.house: House
        self.forwarder: Forwarder
        self._mark_of, self._exists, self._clock = mark_of, exists, clock
        self._refreshing: dict[Key, _Refresh] = {}
        self._heard: dict[str, float] = {}
        """When the servers of each group last had an answer."""
        self._silent: set[str] = set()
        """Groups whose servers have no answer for anybody."""
        self._nursery: trio.Nursery | None = None

    def wear(self, house: House, forwarder: Forwarder) -> None:
        """Ask the servers of this house from now on."""
        self.house, self.forwarder = house, forwarder

    async def live(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Refresh beside answers, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def find(self, query: Query, name: str, peer: Peer, view_group: str, tell: Tell) -> Given:
        """The answer to a question about ``name``, which is ``query.text``, for a client of that view."""
        house = self.house
        group = house.group(name, view_group)
        if not group.servers or (name.rpartition(".")[2] in NEVER_ASKED and house.servers.split.choose(name) is None):
            # To ask for it would only leak, unless the owner names servers for it.
            return self._nobody(query, group, tell)
        policy = house.config.house.subnet
        asked = query.edns.ecs if query.edns is not None else None
        subnet = None if policy.mode == "strip" else policy.told(asked, peer.ip)
        rtype, rclass, do, cd = query.rtype, query.rclass, query.do, query.cd
        shelf, now = house.shelf(group), self._clock()
        key = shared = key_of(query.name, rtype, rclass, do, cd, shelf)
        if subnet is None:
            wish = _Wish(query, peer, view_group, group, None, True, do, cd, key, shared)
            found = self.cache.get(key, now)
        else:
            key = key_of(query.name, rtype, rclass, do, cd, shelf, subnet.wire())
            everybody = asked is None and len(policy.fixed) == 1
            wish = _Wish(query, peer, view_group, group, subnet, everybody, do, cd, key, shared)
            key, found = self._recall(wish, now)
        if found is not None and not found.stale:
            tell("cache", f"known for {found.age} s, good for {found.until - now:.0f} s more")
            if found.refresh and query.rd and house.config.cache.prefetch:
                self._refresh(wish, now)
            return self._fresh(wish, key, found, now, "cache")
        if not query.rd:
            tell("cache", "not known, and the client wants nobody asked")
            return Given(
                reply=make_reply(query.question, rcode=REFUSED, ede=((_NOT_AUTHORITATIVE, ""),)), source="refused"
            )
        if found is None:
            return await self._forwarded(wish, tell)
        return await self._fresh_or_stale(wish, found, now, tell)

    def _recall(self, wish: _Wish, now: float, *, count: bool = True) -> tuple[Key, Found | None]:
        """What is known for this subnet, or else for all; and where."""
        key, shared = wish.key, wish.shared
        found = self.cache.get(key, now, count=count)
        if key is not shared and (found is None or found.stale):
            other = self.cache.get(shared, now, count=count)
            if other is not None and (found is None or not other.stale):
                return shared, other
        return key, found

    def _fresh(self, wish: _Wish, key: Key, found: Found, now: float, source: str) -> Given:
        until = found.until if wish.everybody or key is wish.shared else 0.0
        if until and self.house.config.cache.prefetch:
            # Shortly before its end a question must come this way, or nobody would ask again.
            until -= (found.until - now + found.age) / _PREFETCH_PART
        return Given(reply=found.reply, source=source, age=found.age, second=int(now), until=until, origin=found.origin)

    def _nobody(self, query: Query, group: Group, tell: Tell) -> Given:
        tell("upstreams", f"nobody is asked for this name ({group.name})")
        # The house may know it by another type.
        rcode = 0 if self._exists(query.name) else NXDOMAIN
        reply = make_reply(query.question, rcode=rcode, authority=[negative_soa(query.question, _LOCAL_TTL)])
        until = self._clock() + MADE_LIFE
        return Given(reply=reply, source="local", why="a local domain", fixed=STEADY, until=until)

    async def _fresh_or_stale(self, wish: _Wish, old: Found, now: float, tell: Tell) -> Given:
        """RFC 8767 section 5: wait a little for a fresh answer, then give the old one."""
        tell("cache", "only an old answer")
        code = _STALE_NXDOMAIN if old.reply.rcode == NXDOMAIN else _STALE
        stale = Given(
            reply=old.reply._replace(ede=(*old.reply.ede, (code, ""))),
            source="stale",
            age=0x7FFFFFFF,
            ttl_min=STALE_TTL,
        )
        if not old.refresh:
            tell("cache", "the upstreams failed a moment ago: the old answer serves")
            return stale
        asking = self._refresh(wish, now)
        if asking is None:
            return stale
        await in_task()
        with trio.move_on_after(max(0.0, asking.begun + self.house.config.cache.stale_wait - now)):
            await asking.done.wait()
        now = self._clock()
        key, fresh = self._recall(wish, now, count=False)
        if fresh is None or fresh.stale:
            tell("upstreams", "no fresh answer in time: the old one serves")
            return stale
        tell("upstreams", "a fresh answer came in time")
        return self._fresh(wish, key, fresh, now, "upstream")

    def _refresh(self, wish: _Wish, now: float) -> _Refresh | None:
        """Ask again beside the answer, if nobody does yet; None when too many are at it."""
        asking = self._refreshing.get(wish.key)
        if asking is not None or self._nursery is None or len(self._refreshing) >= _MOST_REFRESHING:
            return asking
        asking = self._refreshing[wish.key] = _Refresh(trio.Event(), now)
        self._nursery.start_soon(self._work, wish, asking)
        return asking

    async def _work(self, wish: _Wish, asking: _Refresh) -> None:
        try:
            await self._forwarded(wish, tell_nobody)
        except Exception:
            _log.exception("an answer could not be refreshed")
        finally:
            del self._refreshing[wish.key]
            asking.done.set()

    async def _forwarded(self, wish: _Wish, tell: Tell) -> Given:
        query, key = wish.query, wish.key
        forwarder, begun = self.forwarder, self._clock()
        servers, mark = self.house.servers, self._mark_of(wish.peer)
        try:
            if servers.fallback is not None and wish.group is servers.standard:
                told = await forwarder.ask_both(
                    query.name, query.rtype, query.rclass,
                    group=wish.group, fallback=servers.fallback, suspicion=servers.suspicion,
                    do=wish.do, cd=wish.cd, client_subnet=wish.subnet, mark=mark,
                )  # fmt: skip
            else:
                told = await forwarder.ask(
                    query.name, query.rtype, query.rclass,
                    group=wish.group, do=wish.do, cd=wish.cd, client_subnet=wish.subnet, mark=mark,
                )  # fmt: skip
        except CyfsError as fault:
            for attempt in fault.attempts if isinstance(fault, NobodyAnswered) else ():
                tell("upstreams", f"{attempt.server}: {attempt.outcome} after {attempt.took * 1000:.0f} ms")
            if forwarder is not self.forwarder:
                tell("upstreams", f"{fault}; but the configuration has changed meanwhile")
                return await self.find(query, query.text, wish.peer, wish.view_group, tell)
            tell("upstreams", f"nobody answered: {fault}")
            failure = make_reply(query.question, rcode=SERVFAIL, ede=((_NO_AUTHORITY, str(fault)[:_MAX_TOLD]),))
            self.cache.put(key, failure, self._clock())
            self._miss(wish.group.name, begun)
            return Given(reply=failure, source="failed", why=str(fault))
        if tell is not tell_nobody:
            for attempt in told.attempts:
                tell("upstreams", f"{attempt.server}: {attempt.outcome} after {attempt.took * 1000:.1f} ms")
            tell("upstreams", f"{told.server} answered {rcode_text(told.reply.rcode)} in {told.took * 1000:.1f} ms")
        if told.reply.ecs_scope == 0:
            key = wish.shared
        now = self._clock()
        if told.reply.rcode in (NOERROR, NXDOMAIN):
            self._heard[wish.group.name] = now
            if wish.group.name in self._silent:
                self._hear_again(wish.group.name, now)
        reply, until, origin = self.cache.put(key, told.reply, now)
        # What the cache keeps for less than its TTL must not live on among the ready-made answers.
        if key is not wish.shared and not wish.everybody:
            until = 0.0
        if until and self.house.config.cache.prefetch:
            until -= (until - now) / _PREFETCH_PART
        return Given(reply, "upstream", told.server, until=until, origin=origin, server=told.server, second=int(now))

    def _miss(self, group: str, begun: float) -> None:
        """Nobody answered a question of then: is it the question, or the servers?"""
        if self._heard.get(group, -inf) < begun and group not in self._silent:
            self._silent.add(group)
            _log.warning("no server answers (%s); old answers serve", group)

    def _hear_again(self, group: str, now: float) -> None:
        self._silent.discard(group)
        self.cache.forgive(now)
        _log.info("servers answer again (%s)", group)
