"""The long way of a question: what the hot tables do not know is decided, looked up and remembered here.

    question -> who asks -> names of the house -> policy -> fake address -> cache -> upstreams -> answer policy

Each stop either has the answer or passes the question on.  ``Given`` is an answer with its reasons, and ``Trail`` the
whole way with times, for ``explain``; the usual question keeps none.

The server outlives its configurations: :meth:`NameServer.wear` puts on another ``House`` in one step, keeps the cache,
and forgets the ready-made answers.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import trio

from cyfs_ns import edns
from cyfs_ns.blockanswer import Alias as Rewritten
from cyfs_ns.blockanswer import answer_of, negative_soa, with_alias
from cyfs_ns.edns import Ecs, cookie_holds, server_cookie
from cyfs_ns.errors import CyfsError
from cyfs_ns.filters import Fate, empty_reply, inspect, other_family, yielded
from cyfs_ns.hot import Admission, Hot, HotDoor
from cyfs_ns.io.house import House
from cyfs_ns.io.netlink import ConntrackMarks, SetFeeder
from cyfs_ns.io.upstreams import Forwarder, NobodyAnswered, Told
from cyfs_ns.judgement import PASS, Action, Judgement
from cyfs_ns.leases import Lease, lease_name, living
from cyfs_ns.lists import ListSet
from cyfs_ns.local import Alias, LocalNames
from cyfs_ns.message import rcode_text, rtype_text
from cyfs_ns.names import ip as canonical_ip
from cyfs_ns.peer import Peer
from cyfs_ns.policy import Client, Policy, View
from cyfs_ns.query import NOTIMP, NXDOMAIN, REFUSED, SERVFAIL, UDP_SIZE, Query, read_query
from cyfs_ns.ratelimit import RateLimit
from cyfs_ns.records import HINFO, data_text, data_wire
from cyfs_ns.reply import Reply, make_reply, records, render, shape_of
from cyfs_ns.special import address_data
from cyfs_ns.statistics import Heard, Statistics
from cyfs_ns.store import STALE_TTL, AnswerCache, Key
from cyfs_ns.upstream import Group
from cyfs_ns.wire import Record, name_text, name_wire

_A, _AAAA, _ANY, _SVCB, _HTTPS = 1, 28, 255, 64, 65
_IN, _CHAOS = 1, 3
_STALE, _PROHIBITED, _NO_AUTHORITY, _NETWORK_ERROR = 3, 18, 22, 23  # extended errors (RFC 8914)
_NOT_AUTHORITATIVE = 20
_MOST_REFRESHING = 256
_MAX_ALIASES = 8
_LOCAL_LIFE = 60  # seconds a ready-made local answer lives at most; a change of the house flushes it anyway
_PREFETCH_PART = 10
_REGISTERED_TTL = 10
_KEEPALIVE = 300  # tenths of a second

DOORS = ("udp", "tcp", "tls", "https")

_log = logging.getLogger("cyfs.dns")


class Step(NamedTuple):
    """One stop of a question's way."""

    stop: str
    said: str
    milliseconds: float
    """Since the question came in."""


@dataclass(slots=True)
class Trail:
    """The way of one question, told as it goes."""

    begun: float
    steps: list[Step] = field(default_factory=list)

    def tell(self, stop: str, said: str) -> None:
        self.steps.append(Step(stop, said, (time.monotonic() - self.begun) * 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An answer and its reasons."""

    reply: Reply
    source: str
    """As in :class:`cyfs_ns.statistics.Heard`."""
    why: str = ""
    age: int = 0
    """Seconds its TTLs have lost."""
    ttl_min: int | None = None
    until: float = 0.0
    """Until when, on the monotonic clock, the same may be said again without asking anybody; 0: not at all."""
    key: Key | None = None
    """The entry of the cache it comes from, if that decides how long it is good."""
    server: str = ""
    took: float = 0.0
    second: int = 0
    """The whole second of the monotonic clock at which ``age`` held; 0: now."""


class Label(NamedTuple):
    """What a ready-made answer is counted as."""

    name: str
    rtype: int
    source: str
    key: Key | None
    """The entry of the cache it was made from."""


class FakeNames(Protocol):
    """Hands out addresses that stand for names."""

    def answer(self, name: str, question: bytes, rtype: int) -> Reply | None:
        """The answer with fake addresses, already written down; None: this name and type get a real answer."""


class Answered(Protocol):
    """Hears of every real address an answer leads to."""

    def __call__(self, name: str, addresses: Iterable[str]) -> None: ...


class NameServer:
    """See the module's text.  ``wear`` must be called before anything is asked."""

    def __init__(
        self,
        cache: AnswerCache,
        *,
        statistics: Statistics | None = None,
        feeder: SetFeeder | None = None,
        marks: ConntrackMarks | None = None,
        note: Callable[[Query, Peer, Given], None] | None = None,
        mac_of: Callable[[str], str | None] | None = None,
    ) -> None:
        """``feeder`` and ``marks`` reach the kernel's sets and connections; ``note`` hears of every answer that went
        the long way; ``mac_of`` knows the MAC addresses of neighbours."""
        self.cache = cache
        self.statistics = statistics or Statistics()
        self.fake: FakeNames | None = None
        self.registered: Callable[[str], Sequence[str]] | None = None
        """Addresses of names that services of the house have registered."""
        self.answered: Answered | None = None
        self.hot = Hot({kind: HotDoor(self.admit) for kind in DOORS})
        self.house: House
        self.local: LocalNames
        self.policy: Policy
        self.forwarder: Forwarder
        self._feeder, self._marks, self._note, self._mac_of = feeder, marks, note, mac_of or _nobody
        self._leases: dict[str, Lease] = {}
        self._secret = secrets.token_bytes(16)
        self._refreshing: set[Key] = set()
        self._nursery: trio.Nursery | None = None

    # What is worn

    def wear(self, house: House, forwarder: Forwarder, lists: ListSet) -> None:
        """Serve by this house from now on.  Raises ``ConfigFault`` before anything changed."""
        policy = Policy(house.config.house.policy.views, lists)
        self.house, self.policy, self.forwarder = house, policy, forwarder
        self.local = house.local.with_leases(self._leases.values(), time.time())
        doors = house.config.doors
        # Only datagrams can bear a forged sender.
        limit = RateLimit(doors.rate_limit) if doors.rate_limit else None
        self.hot.obey(limit, refuse=doors.refuse == "refused")
        self.hot.flush()

    def take_lists(self, lists: ListSet) -> None:
        """Judge by these lists from now on."""
        self.policy = Policy(self.house.config.house.policy.views, lists)
        self.forget_ready_made()

    def take_leases(self, leases: Iterable[Lease]) -> None:
        """Know these devices from now on."""
        now = time.time()
        self._leases = living(leases, now)
        self.local = self.house.local.with_leases(self._leases.values(), now)
        self.forget_ready_made()

    def forget_ready_made(self) -> None:
        """Views, names or neighbours have changed: judge everybody and everything anew."""
        self.hot.flush()
        self.hot.forget_clients()

    def flush(self, name: str = "", *, below: bool = False) -> int:
        """Forget what upstreams said of a canonical name, and below it if ``below``; of everything without a name."""
        wire = name_wire(name) if name else None
        self.hot.flush(wire, below=below)
        return self.cache.flush(wire, below=below)

    def settle(self) -> None:
        """Count the hits since the last time."""
        now = time.time()
        for door in self.hot.doors.values():
            for address, times in door.harvest_clients().items():
                self.statistics.hear_client(spell(address), times)
            for _, table in door.tables():
                for label, times in table.harvest():
                    if isinstance(label, Label):
                        self.statistics.hear_hits(label.name, label.rtype, label.source, times, now)
                        if label.key is not None:
                            self.cache.credit(label.key, times)

    # Who asks

    def admit(self, address: bytes) -> Admission | None:
        """How a client is served; ``None``: not at all."""
        ip = spell(address)
        if not self.house.may_ask(ip):
            return None
        view = self.view_of(ip)
        if view.spec.refuse:
            return None
        return Admission(_view_name(view), limited=not _is_home(ip))

    def client(self, ip: str) -> Client:
        """What is known of the client at a canonical address."""
        bare = ip.partition("%")[0]
        lease = self._leases.get(bare)
        mac = self._mac_of(bare) or (lease.mac if lease is not None else "")
        said = lease_name(lease.name, "") if lease is not None else ""
        return Client(bare, mac, (said,) if said else ())

    def view_of(self, ip: str) -> View:
        """The rules that hold for a client now."""
        return self.policy.view_of(self.client(ip), time.time())

    # The way

    async def serve(self, untrusted: bytes, peer: Peer) -> bytes | None:
        """From a stranger's octets to the finished reply, or None for silence."""
        query = read_query(untrusted)
        if not isinstance(query, Query):
            return query
        begun = time.monotonic()
        view = self.view_of(peer.ip)
        given = await self.answer(query, peer, view)
        given = replace(given, took=time.monotonic() - begun)
        answer = self._dress(query, untrusted, peer, view, given)
        self._count(query, peer, given)
        return answer

    async def answer(self, query: Query, peer: Peer, view: View, trail: Trail | None = None) -> Given:
        """The answer to a question, whoever asks and however it came."""
        tell = _tell_nobody if trail is None else trail.tell
        tell("client", f"{peer.ip}, view {view.spec.name}")
        if not self.house.may_ask(peer.ip.partition("%")[0]) or view.spec.refuse:
            tell("client", "may not ask here")
            return _made(make_reply(query.question, rcode=REFUSED, ede=((_PROHIBITED, ""),)), "refused", "not allowed")
        if query.rclass != _IN:
            chaos = self.local.chaos(query.name, query.rtype) if query.rclass == _CHAOS else None
            return _made(
                chaos or make_reply(query.question, rcode=REFUSED if query.rclass == _CHAOS else NOTIMP), "local"
            )
        if self.forwarder.is_own_probe(query.name):
            return _made(make_reply(query.question, rcode=NXDOMAIN), "local", "a question of ours came back")
        return await self._answer_for(query, peer, view, tell)

    async def _answer_for(self, query: Query, peer: Peer, view: View, tell: Callable[[str, str], None]) -> Given:
        name, rtype = query.text, query.rtype
        local = self.local.lookup(query.name, rtype)
        if isinstance(local, Reply):
            why = self.local.why(query.name, rtype)
            tell("names of the house", why)
            return self._lasting(local, "local", why)
        if isinstance(local, Alias):
            tell("names of the house", f"an alias of {name_text(local.target)}")
            return await self._led_on(query, peer, view, list(local.answer), local.target, "local", tell)
        registered = self.registered(name) if self.registered is not None else ()
        if registered:
            tell("names of the house", f"registered: {', '.join(registered)}")
            return _made(_of_addresses(query, registered), "local", "registered by a service")
        judgement = self.policy.judge(view, name, rtype)
        if judgement.action in (Action.BLOCK, Action.REFUSE, Action.REWRITE):
            return await self._judged(query, peer, view, judgement, tell)
        tell("policy", _spoken(judgement))
        rules = self.house.answers
        if rules.refuses(rtype):
            tell("policy", f"{rtype_text(rtype)} is not answered here")
            return self._lasting(empty_reply(query.question), "blocked", f"type {rtype_text(rtype)}")
        if rtype == _ANY:
            return self._lasting(_minimal_any(query.question), "local", "RFC 8482")
        if self.fake is not None:
            fake = self.fake.answer(name, query.question, rtype)
            if fake is not None:
                tell("fake address", ", ".join(_shown(fake)))
                return _made(fake, "fake-ip", until=time.monotonic() + fake.ttl)
        return await self._asked(query, peer, view, judgement, tell)

    async def _judged(
        self, query: Query, peer: Peer, view: View, judgement: Judgement, tell: Callable[[str, str], None]
    ) -> Given:
        tell("policy", _spoken(judgement))
        why = f"{judgement.list}: {judgement.rule}"
        answer = answer_of(judgement, query.question, view.spec.answer)
        source = "rewritten" if judgement.action is Action.REWRITE else "blocked"
        if isinstance(answer, Rewritten):
            return await self._led_on(query, peer, view, [], name_wire(answer.target), source, tell, why)
        return self._lasting(answer, source, why)

    async def _led_on(
        self,
        query: Query,
        peer: Peer,
        view: View,
        before: list[Record],
        target: bytes,
        source: str,
        tell: Callable[[str, str], None],
        why: str = "",
    ) -> Given:
        """Follow an alias of ours: the records of ``target``, behind what leads there."""
        for _ in range(_MAX_ALIASES):
            led = self.local.lookup(target, query.rtype)
            if not isinstance(led, Alias):
                break
            before, target = before + list(led.answer), led.target
        wanted = replace(query, name=target, question=target + query.question[-4:])
        if isinstance(led, Reply):
            given = _made(led, source, why)
        else:
            given = await self._asked(wanted, peer, view, PASS, tell)
        if before:
            answer = [*before, *records(given.reply, 0)]
            authority = records(given.reply, 1)
            reply = make_reply(query.question, rcode=given.reply.rcode, answer=answer, authority=authority)
        else:
            reply = with_alias(query.question, target, given.reply, view.spec.answer.ttl)
        return replace(given, reply=reply, source=source, why=why or given.why, until=0.0)

    async def _asked(
        self, query: Query, peer: Peer, view: View, judgement: Judgement, tell: Callable[[str, str], None]
    ) -> Given:
        """The answer of the cache or the upstreams, held against the rules for answers."""
        rules = self.house.answers
        given = await self._known(query, peer, view, tell)
        if given.reply.counts[0] and not given.reply.rcode:
            spared = judgement.action is Action.ALLOW
            seen = inspect(
                given.reply,
                query.text,
                rules,
                None if spared else lambda name, rtype: self.policy.judge(view, name, rtype),
            )
            if seen.fate is Fate.BLOCKED:
                tell("answer", _spoken(seen.judgement))
                blocked = answer_of(seen.judgement, query.question, view.spec.answer)
                if isinstance(blocked, Reply):
                    return self._lasting(blocked, "blocked", f"{seen.judgement.list}: {seen.judgement.rule}")
            if seen.fate is Fate.IGNORED:
                tell("answer", "an address that is to be ignored")
                return _made(make_reply(query.question, rcode=SERVFAIL), "failed", "ignore-address")
            if seen.fate is Fate.CHANGED:
                tell("answer", "changed by the rules for answers")
                given = replace(given, reply=seen.reply)
            other = other_family(query.rtype, rules.family)
            if other is not None:
                given = await self._yielded(query, peer, view, other, given, tell)
        if self.answered is not None and query.rtype in (_A, _AAAA):
            self.answered(query.text, _addresses(given.reply))
        return await self._fed(query, given, tell)

    async def _yielded(
        self, query: Query, peer: Peer, view: View, other: int, given: Given, tell: Callable[[str, str], None]
    ) -> Given:
        wanted = replace(query, rtype=other, question=query.question[:-4] + other.to_bytes(2) + query.question[-2:])
        twin = await self._known(wanted, peer, view, _tell_nobody)
        reply = yielded(given.reply, twin.reply)
        if reply is not given.reply:
            tell("answer", f"gives way to {rtype_text(other)}")
        return replace(given, reply=reply)

    async def _fed(self, query: Query, given: Given, tell: Callable[[str, str], None]) -> Given:
        """See the addresses into the sets of the firewall before anybody hears of them."""
        if self._feeder is None or not self.house.sets.subject(query.name):
            return given
        additions = self.house.sets.additions(given.reply, given.age)
        if additions:
            tell("sets", ", ".join(dict.fromkeys(str(each.target) for each in additions)))
            await self._feeder.add(additions)
        return replace(given, until=0.0)

    async def _known(self, query: Query, peer: Peer, view: View, tell: Callable[[str, str], None]) -> Given:
        """What the cache or the upstreams say."""
        subnet = self.house.config.house.subnet.told(query.edns.ecs if query.edns else None, peer.ip)
        group = self.house.group(query.text, view.spec.group)
        key = (query.name, query.rtype, query.rclass, query.do, query.cd, group.name, _packed(subnet))
        now = time.monotonic()
        found = self.cache.get(key, now)
        if found is None and subnet is not None:
            found = self.cache.get((*key[:6], b""), now)
        if found is not None and not found.stale:
            tell("cache", f"known for {found.age} s, good for {found.until - now:.0f} s more")
            if found.refresh and self._may_refresh():
                self._refresh(key, query, peer, group, subnet)
            until = found.until if subnet is None else 0.0
            if self.house.config.cache.prefetch:
                until -= (found.until - now + found.age) / _PREFETCH_PART
            return Given(reply=found.reply, source="cache", age=found.age, second=int(now), until=until, key=key)
        if not query.rd:
            tell("cache", "not known, and the client wants nobody asked")
            return _made(make_reply(query.question, rcode=REFUSED, ede=((_NOT_AUTHORITATIVE, ""),)), "refused")
        if not group.servers:
            tell("upstreams", f"nobody is asked for this name ({group.name})")
            soa = negative_soa(query.question, _LOCAL_LIFE)
            return self._lasting(make_reply(query.question, rcode=NXDOMAIN, authority=[soa]), "local", "a local domain")
        if found is None:
            return await self._forwarded(key, query, peer, group, subnet, tell)
        return await self._fresh_or_stale(key, query, peer, group, subnet, found.reply, found.refresh, tell)

    async def _fresh_or_stale(
        self,
        key: Key,
        query: Query,
        peer: Peer,
        group: Group,
        subnet: Ecs | None,
        old: Reply,
        due: bool,
        tell: Callable[[str, str], None],
    ) -> Given:
        """RFC 8767 section 5: wait a little for a fresh answer, then give the old one."""
        tell("cache", "only an old answer")
        stale = Given(
            reply=replace(old, ede=(*old.ede, (_STALE, ""))),
            source="stale",
            age=0x7FFFFFFF,
            ttl_min=STALE_TTL,
        )
        if not due:
            tell("cache", "the upstreams failed a moment ago: the old answer serves")
            return stale
        if key in self._refreshing or not self._may_refresh():
            return stale
        done = self._refresh(key, query, peer, group, subnet)
        with trio.move_on_after(self.house.config.cache.stale_wait):
            await done.wait()
        fresh = self.cache.get(key, time.monotonic(), count=False)
        if fresh is None or fresh.stale:
            tell("upstreams", "no fresh answer in time: the old one serves")
            return stale
        tell("upstreams", "a fresh answer came in time")
        return Given(reply=fresh.reply, source="upstream", age=fresh.age, until=fresh.until, key=key)

    def _may_refresh(self) -> bool:
        return self._nursery is not None and len(self._refreshing) < _MOST_REFRESHING

    def _refresh(self, key: Key, query: Query, peer: Peer, group: Group, subnet: Ecs | None) -> trio.Event:
        """Ask again beside the answer; the event comes when it is over."""
        done = trio.Event()
        if key in self._refreshing or self._nursery is None:
            done.set()
            return done
        self._refreshing.add(key)

        async def work() -> None:
            try:
                await self._forwarded(key, query, peer, group, subnet, _tell_nobody)
            finally:
                self._refreshing.discard(key)
                done.set()

        self._nursery.start_soon(work)
        return done

    async def _forwarded(
        self,
        key: Key,
        query: Query,
        peer: Peer,
        group: Group,
        subnet: Ecs | None,
        tell: Callable[[str, str], None],
    ) -> Given:
        servers = self.house.servers
        options = {"do": query.do, "cd": query.cd, "client_subnet": subnet, "mark": self._mark_of(peer)}
        try:
            if servers.fallback is not None and group is servers.standard:
                told = await self.forwarder.ask_both(
                    query.name, query.rtype, query.rclass,
                    group=group, fallback=servers.fallback, suspicion=servers.suspicion, **options,  # type: ignore[arg-type]
                )  # fmt: skip
            else:
                told = await self.forwarder.ask(query.name, query.rtype, query.rclass, group=group, **options)  # type: ignore[arg-type]
        except CyfsError as fault:
            for attempt in fault.attempts if isinstance(fault, NobodyAnswered) else ():
                tell("upstreams", f"{attempt.server}: {attempt.outcome} after {attempt.took * 1000:.0f} ms")
            tell("upstreams", f"nobody answered: {fault}")
            failure = make_reply(query.question, rcode=SERVFAIL, ede=((_NO_AUTHORITY, str(fault)[:120]),))
            self.cache.put(key, failure, time.monotonic())
            return _made(failure, "failed", str(fault))
        self._told(told, tell)
        if told.reply.ecs_scope == 0:
            key = (*key[:6], b"")
        now = time.monotonic()
        reply = self.cache.put(key, told.reply, now)
        # What the cache keeps for less than its TTL must not live on among the ready-made answers.
        until = self.cache.fresh_until(key) if subnet is None else 0.0
        if self.house.config.cache.prefetch:
            until -= (until - now) / _PREFETCH_PART
        return Given(reply=reply, source="upstream", why=told.server, until=until, key=key, server=told.server)

    def _told(self, told: Told, tell: Callable[[str, str], None]) -> None:
        if tell is _tell_nobody:
            return
        for attempt in told.attempts:
            tell("upstreams", f"{attempt.server}: {attempt.outcome} after {attempt.took * 1000:.1f} ms")
        tell("upstreams", f"{told.server} answered {rcode_text(told.reply.rcode)} in {told.took * 1000:.1f} ms")

    def _mark_of(self, peer: Peer) -> int:
        if self._marks is None or not self.house.config.house.sets.connmark or peer.door == "inner":
            return 0
        protocol = 17 if peer.door == "udp" else 6
        port = {"udp": self.house.config.doors.plain, "tcp": self.house.config.doors.plain}.get(
            peer.door, self.house.config.doors.tls
        )
        return self._marks.mark(protocol, (peer.ip, peer.port), (peer.local, port[0][1] if port else 53))

    # The answer

    def _lasting(self, reply: Reply, source: str, why: str = "") -> Given:
        return _made(reply, source, why, until=time.monotonic() + min(reply.ttl, _LOCAL_LIFE))

    def _dress(self, query: Query, untrusted: bytes, peer: Peer, view: View, given: Given) -> bytes:
        cookie = self._cookie(query, peer)
        shape = shape_of(
            query,
            limit=UDP_SIZE if peer.door == "udp" else None,
            cookie=cookie,
            pad=peer.door in ("tls", "https"),
            keepalive=_KEEPALIVE if peer.door in ("tcp", "tls") else None,
        )
        answer = render(given.reply, query, shape, given.age, ttl_min=given.ttl_min)
        second = given.second or int(time.monotonic())
        if given.until > second + 1 and peer.door in self.hot.doors:
            self.hot.put(
                peer.door,
                _view_name(view),
                query,
                untrusted,
                answer,
                given.reply,
                second=second,
                until=int(given.until),
                label=Label(query.text, query.rtype, given.source if given.source in _MADE_HERE else "hot", given.key),
            )
        return bytes(answer)

    def _cookie(self, query: Query, peer: Peer) -> bytes:
        told = query.edns.option(edns.COOKIE) if query.edns is not None else None
        if told is None:
            return b""
        address, now = _address_bytes(peer.ip), int(time.time())
        if len(told) > 8 and cookie_holds(self._secret, told, address, now):
            return told
        return told[:8] + server_cookie(self._secret, told[:8], address, now)

    def _count(self, query: Query, peer: Peer, given: Given) -> None:
        heard = Heard(
            client=peer.ip,
            name=query.text,
            rtype=query.rtype,
            source=given.source,
            seconds=given.took,
            server=given.server,
        )
        self.statistics.hear(heard, time.time())
        if self._note is not None:
            self._note(query, peer, given)

    # Living

    async def live(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry what goes on beside answers: refreshing, counting, schedules that change views.  Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                nursery.start_soon(self._tick)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def _tick(self) -> None:
        change = self.policy.next_change(time.time())
        while True:
            await trio.sleep(1)
            self.settle()
            now = time.time()
            if change is not None and now >= change:
                self.forget_ready_made()
            change = self.policy.next_change(now)
            if self._leases and any(lease.expires <= now for lease in self._leases.values()):
                self.take_leases(self._leases.values())


_MADE_HERE = frozenset({"blocked", "rewritten", "local", "fake-ip"})


def _made(reply: Reply, source: str, why: str = "", until: float = 0.0) -> Given:
    return Given(reply=reply, source=source, why=why, until=until)


def _of_addresses(query: Query, addresses: Iterable[str]) -> Reply:
    owner = query.name
    found = [(owner, *address_data(address, _REGISTERED_TTL)) for address in addresses]
    answer = [record for record in found if record[1] == query.rtype]
    authority = [] if answer else [negative_soa(query.question, _REGISTERED_TTL)]
    return make_reply(query.question, aa=True, answer=answer, authority=authority)


def _minimal_any(question: bytes) -> Reply:
    return make_reply(question, answer=[(question[:-4].lower(), HINFO, 3600, data_wire(HINFO, 'RFC8482 ""'))])


def _tell_nobody(stop: str, said: str) -> None:
    """The trail of a question nobody wants explained."""


def _spoken(judgement: Judgement) -> str:
    return f"{judgement.action}: {judgement.list}: {judgement.rule}" if judgement.list else str(judgement.action)


def _shown(reply: Reply) -> list[str]:
    return [data_text(rtype, data) for _, rtype, _, data in records(reply, 0)] or ["no record"]


def _addresses(reply: Reply) -> list[str]:
    return [spell(data) for _, rtype, _, data in records(reply, 0) if rtype in (_A, _AAAA)]


def _nobody(ip: str) -> str | None:
    return None


def _view_name(view: View) -> str:
    return repr(view.key)


def _packed(subnet: Ecs | None) -> bytes:
    return b"" if subnet is None else subnet.wire()


def spell(address: bytes) -> str:
    """Canonical text of an address of 4 or 16 octets."""
    return canonical_ip(socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address))


def _address_bytes(ip: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip.partition("%")[0])


def _is_home(ip: str) -> bool:
    return not ipaddress.ip_address(ip.partition("%")[0]).is_global
