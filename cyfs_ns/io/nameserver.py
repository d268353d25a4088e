"""The long way of a question: what the hot tables do not know is decided here, and remembered for them.

    question -> who asks -> our domain of the public DNS -> names of the house -> policy -> trusted names
             -> fake address -> cache, upstreams -> answer policy -> sets

Each stop either has the answer or passes the question on.  An alias of ours, a local one or a rewrite, leads on to what
the same client would be told of its target, from the first stop on.

What was decided is right until something it was decided by changes; then the ready-made answers are forgotten, and so
is what questions that are on their way at that moment would have added.  Answers of our own are told with their full
TTL each time, those of others with what is left of it, whether they are ready-made or not.

Strangers, who may not ask here, are answered all the same about the domain that ``authority`` speaks for, if there is
one, and about nothing else: it is why they were sent to us.  They have ready-made answers of their own, and a limit.

The server outlives its configurations: :meth:`NameServer.wear` puts on another ``House`` in one step and keeps the
cache.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import trio

from cyfs_ns import edns
from cyfs_ns.address import parse_address
from cyfs_ns.authority import Authority, Statement
from cyfs_ns.blockanswer import Alias as Rewritten
from cyfs_ns.blockanswer import answer_of, negative_soa
from cyfs_ns.clock import is_unset
from cyfs_ns.cookies import Cookies
from cyfs_ns.errors import Misuse
from cyfs_ns.filters import REBIND, AnswerRules, Fate, empty_reply, inspect, other_family, yielded
from cyfs_ns.given import STEADY, Given, Stand, Tell, Trail, tell_nobody, told_at_most
from cyfs_ns.hot import Admission, Hot, HotDoor
from cyfs_ns.io.house import House
from cyfs_ns.io.light import afterwards, in_task
from cyfs_ns.io.lookup import MADE_LIFE, Lookup
from cyfs_ns.io.netlink import ConntrackMarks, SetFeeder
from cyfs_ns.io.upstreams import Forwarder
from cyfs_ns.judgement import PASS, Action, Judgement
from cyfs_ns.leases import Lease, lease_name, living
from cyfs_ns.links import Home
from cyfs_ns.lists import ListSet
from cyfs_ns.local import Alias, LocalBuilder, Network
from cyfs_ns.message import rtype_text
from cyfs_ns.names import ip as canonical_ip
from cyfs_ns.peer import Peer
from cyfs_ns.policy import Client, Policy, View
from cyfs_ns.purposes import Special, special
from cyfs_ns.query import AD, NOERROR, NOTIMP, NXDOMAIN, RA, REFUSED, SERVFAIL, UDP_SIZE, Query, read_query
from cyfs_ns.ratelimit import RateLimit
from cyfs_ns.records import HINFO, data_text, data_wire
from cyfs_ns.reply import CNAME, Reply, make_reply, records, render, shape_of, with_ttls
from cyfs_ns.sets import CidrSet
from cyfs_ns.special import address_data
from cyfs_ns.statistics import Heard, Statistics
from cyfs_ns.store import AnswerCache
from cyfs_ns.trust.level import Trust
from cyfs_ns.wire import Record, name_text, name_wire

if TYPE_CHECKING:
    from cyfs_ns.trust.dnsview import Shown

_A, _AAAA, _ANY = 1, 28, 255
_IN, _CHAOS = 1, 3
_PROHIBITED, _NO_AUTHORITY = 18, 22  # extended errors (RFC 8914)
_MAX_ALIASES = 8
_EMPTIED_TTL = 60
_REGISTERED_TTL = 10
_KEEPALIVE = 300  # tenths of a second
_REMIND = 300.0  # seconds after which whoever hears of addresses hears again of those that are still told
_SILENT_PATIENCE = 1.5  # seconds for the DNS about a name whose documents could not be asked for a moment ago
_TWIN_PATIENCE = 1.0  # seconds an answer waits to hear of the preferred family
_JUMP = 2.0  # seconds by which the wall clock may drift off within one
_REAL = frozenset({"upstream", "cache", "stale", "local", "rewritten", "trusted"})
_OWN_WORD = Trust.HOST_SNAPSHOT
_NO_RECORD = data_wire(HINFO, 'RFC8482 ""')
_STRANGERS = "strangers"
"""Whose ready-made answers: no view of ours is called so, since theirs are tuples."""
_INSIDE = frozenset(
    {
        *(Special.PRIVATE, Special.UNIQUE_LOCAL, Special.SITE, Special.LINK, Special.LOOPBACK),
        *(Special.CARRIER, Special.TRANSLATOR, Special.BENCHMARK),
    }
)
"""Nobody routes these from outside; others are special too, but lead to servers all over the world, or through
translators to anybody who has IPv4."""

DOORS = ("udp", "tcp", "tls", "https")


class FakeNames(Protocol):
    """Hands out addresses that stand for names."""

    def answer(self, name: str, question: bytes, rtype: int) -> Stand | None:
        """The answer with fake addresses, already written down, or SERVFAIL where that cannot be done; None: this name
        and type get a real answer."""


class Answered(Protocol):
    """Hears of the real addresses an answer leads to, at least every few minutes while it is told."""

    def __call__(self, name: str, addresses: Iterable[str]) -> None: ...


class TrustedView(Protocol):
    """Answers about identities by what is known of them, with how sure that is."""

    def knows(self, name: str) -> bool:
        """Whether a question about a canonical name may be one of these."""

    async def answer(self, query: Query, beside: Callable[[], Awaitable[Given]]) -> Shown | None:
        """None: the DNS knows as much.  ``beside`` asks it the same question."""

    def is_silent(self, name: str) -> bool:
        """Whether those who were asked about a canonical name, or its zone, let us wait a moment ago."""

    def flush(self, name: str = "", *, below: bool = False) -> int:
        """Forget what is known of a canonical name, and below it if ``below``; of everything without a name."""


class _Standing(NamedTuple):
    """How a client is served."""

    view: View
    may_ask: bool


_Twin: TypeAlias = Callable[[Query], Awaitable[Given | None]]
Note = Callable[[Query, Peer, Given, float], None]
"""Takes what went the long way, and the seconds it took."""


class NameServer:
    """See the module's text.  ``wear`` must be called before anything is asked."""

    def __init__(
        self,
        cache: AnswerCache,
        *,
        statistics: Statistics | None = None,
        feeder: SetFeeder | None = None,
        marks: ConntrackMarks | None = None,
        note: Note | None = None,
        note_hits: Callable[[], Iterator[None]] = lambda: iter(()),
        mac_of: Callable[[str], str | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``feeder`` and ``marks`` reach the kernel's sets and connections; ``note`` hears of every answer that went
        the long way; ``note_hits`` begins to note all the others, a piece at a turn; ``mac_of`` knows the MAC addresses
        of neighbours.  ``clock`` is monotonic, ``wall`` Unix time.
        """
        self.cache = cache
        self._statistics = statistics or Statistics()
        self._heard: list[Heard] = []
        """What is not counted yet: one by one would cost thrice as much."""
        self.fake: FakeNames | None = None
        self.trusted: TrustedView | None = None
        self.registered: Callable[[str], Sequence[str]] | None = None
        """Addresses of names that services of the house have registered."""
        self._authority: Authority | None = None
        self._by_name = (0, 0)
        """Names of the authority that were forgotten one by one in a second of the clock."""
        self.answered: Answered | None = None
        self._near = CidrSet(())
        self._standings: dict[str, _Standing] = {}
        """Of clients whose addresses alone decide it, at any time."""
        self._homes: frozenset[Home] = frozenset()
        self._subnets: dict[str, Network] = {}
        """IPv4 addresses of ours with their networks."""
        self.hot = Hot({kind: HotDoor(self.admit) for kind in DOORS})
        self.house: House
        self.local = LocalBuilder().build()
        self.policy: Policy
        self.forwarder: Forwarder
        self.clock, self.wall = clock, wall
        self._feeder, self._marks, self._note, self._mac_of = feeder, marks, note, mac_of or _nobody
        self._note_hits = note_hits
        self._lookup = Lookup(cache, mark_of=self._mark_of, exists=self._exists, clock=clock)
        self._told_leases: tuple[Lease, ...] = ()
        self._leases: dict[str, Lease] = {}  # those of them that hold
        self._cookies = Cookies(secrets.token_bytes(16))
        self.hot.cookies = self._cookies
        self.hot.doors["udp"].vouch = lambda address, query: self._cookies.vouch(address, query, int(wall()))
        self._epoch = 0
        self._lets_be = False
        self._change: float | None = None

    # What is worn

    def wear(self, house: House, forwarder: Forwarder, lists: ListSet) -> None:
        """Serve by this house from now on.  Raises ``ConfigFault`` before anything changed."""
        policy = Policy(house.config.house.policy.views, lists)
        self.house, self.policy, self.forwarder = house, policy, forwarder
        self._lets_be = house.answers.idle and house.sets.idle and not house.config.cache.max_client_ttl
        self._lookup.wear(house, forwarder)
        self.local = house.local.with_leases(self._leases.values(), self.wall()).with_homes(self._homes)
        doors = house.config.doors
        # Only datagrams can bear a forged sender.
        limit = RateLimit(doors.rate_limit) if doors.rate_limit else None
        self.hot.obey(limit, refuse=doors.refuse == "refused")
        self.forget_ready_made()

    def take_lists(self, lists: ListSet) -> None:
        """Judge by these lists from now on."""
        self.policy = Policy(self.house.config.house.policy.views, lists)
        self.forget_ready_made()

    def take_leases(self, leases: Iterable[Lease]) -> None:
        """Know these devices from now on."""
        now = self.wall()
        self._told_leases = tuple(leases)
        before, self._leases = self._leases, living(self._told_leases, now)
        if {_device(lease) for lease in before.values()} == {_device(lease) for lease in self._leases.values()}:
            return  # only renewed
        self.local = self.local.with_leases(self._leases.values(), now)
        self.forget_ready_made()

    def take_homes(self, homes: frozenset[Home]) -> None:
        """Know these addresses of ours from now on."""
        if homes == self._homes:
            return
        self._homes = homes
        self._subnets = {
            home.ip: ipaddress.ip_network(f"{home.ip}/{home.bits}", strict=False)
            for home in homes
            if ":" not in home.ip
        }
        self.local = self.local.with_homes(homes)
        self._epoch += 1
        self.hot.flush()

    def forget_ready_made(self) -> None:
        """Something that answers are decided by has changed: judge everybody and everything anew."""
        self._epoch += 1
        self._standings.clear()
        self._change = self.policy.next_change(self.wall())
        self.hot.flush()
        self.hot.forget_clients()

    def flush(self, name: str = "", *, below: bool = False) -> int:
        """Forget what others said of a canonical name, and below it if ``below``; of everything without a name."""
        self._epoch += 1
        self.hot.flush()  # all: aliases of other names may lead there
        trusted = 0 if self.trusted is None else self.trusted.flush(name, below=below)
        return trusted + self.cache.flush(name_wire(name) if name else None, below=below)

    def speak_for(self, authority: Authority | None) -> None:
        """Let this one answer for its domain from now on, strangers too; None: nobody does any more."""
        self._authority = authority
        self._epoch += 1
        self.hot.flush()
        self.hot.forget_clients()

    def authority_changed(self, names: Iterable[bytes]) -> None:
        """The answers at and below these wire names (lower case) of the authority's domain are others now."""
        self._epoch += 1
        changed, second = tuple(names), int(self.clock())
        before, many = self._by_name
        many = len(changed) + (many if before == second else 0)
        self._by_name = second, many
        if many > _MOST_BY_NAME:
            self.hot.flush()
            return
        for name in changed:
            self.hot.flush(name, below=True)

    def settle(self) -> None:
        """Count the hits since the last time, now."""
        for _ in self._settling():
            pass

    def _settling(self) -> Iterator[None]:
        """Count the hits since the last time, some microseconds' worth at a turn."""
        now = self.wall()
        self._count()
        for door in self.hot.doors.values():
            for address, times in door.harvest_clients().items():
                self._statistics.hear_client(spell(address), times)
            for _, table in list(door.tables()):
                harvest = table.harvest()
                while lot := list(islice(harvest, _AT_A_TURN)):
                    self._statistics.hear_hits([(*entry.about, str(entry.label), times) for entry, times in lot], now)
                    for entry, times in lot:
                        if entry.origin is not None:
                            self.cache.credit(entry.origin, times)
                    yield

    @property
    def statistics(self) -> Statistics:
        """What was answered up to now, counted."""
        self._count()
        return self._statistics

    def _count(self) -> None:
        heard, self._heard = self._heard, []
        self._statistics.hear(heard, self.wall())

    # Who asks

    @property
    def near(self) -> CidrSet:
        """What is on our links; who changes it makes ``hot`` forget its clients."""
        return self._near

    @near.setter
    def near(self, near: CidrSet) -> None:
        self._near = near
        self._standings.clear()

    def _standing(self, ip: str) -> _Standing:
        """How the client at a canonical address is served now."""
        standing = self._standings.get(ip)
        if standing is None:
            standing = _Standing(self.view_of(ip), self.house.may_ask(ip, self.near))
            if self.policy.by_address and self._change is None:
                if len(self._standings) >= _MOST_STANDINGS:
                    self._standings.clear()
                self._standings[ip] = standing
        return standing

    def admit(self, address: bytes) -> Admission | None:
        """How a client is served; ``None``: not at all."""
        ip = spell(address)
        if not self.house.may_ask(ip, self.near):
            return Admission(_STRANGERS, limited=True) if self._is_stranger(ip) else None
        view = self.view_of(ip)
        if view.spec.refuse:
            return None
        return Admission(view.shelf, limited=not self._is_near(ip))

    def _is_stranger(self, ip: str) -> bool:
        """Whether a client at a canonical address may ask about the domain we speak for, and about nothing else."""
        if self._authority is None or self.house.is_denied(ip):
            return False
        return not self.house.may_ask(ip, self.near)

    def _is_near(self, ip: str) -> bool:
        """Whether nobody outside can ask in the name of a canonical address.

        An IPv6 network at home is as public as any, and all its devices would share one limit.
        """
        place = parse_address(ip)
        purpose = special(ipaddress.ip_address(ip.partition("%")[0]))
        return purpose in _INSIDE or (place is not None and self.near.has(place))

    def is_client(self, ip: str) -> bool:
        """Whether the one at a canonical address may ask at the doors, or may not by name."""
        return self.house.may_ask(ip, self.near) or self.house.is_denied(ip)

    def client(self, ip: str) -> Client:
        """What is known of the client at a canonical address."""
        bare = ip.partition("%")[0]
        lease = self._leases.get(bare)
        mac = self._mac_of(bare) or (lease.mac if lease is not None else "")
        said = lease_name(lease.name, "") if lease is not None else ""
        return Client(bare, mac, (said,) if said else ())

    def view_of(self, ip: str) -> View:
        """The rules that hold for a client now."""
        return self.policy.view_of(self.client(ip), self.wall())

    # The way

    async def serve(self, untrusted: bytes, peer: Peer) -> bytes | None:
        """From a stranger's octets to the finished reply, or None for silence."""
        query = read_query(untrusted)
        if not isinstance(query, Query):
            return query
        begun, epoch = self.clock(), self._epoch
        view, may_ask = self._standing(peer.ip)
        name = name_text(query.name)
        given = await self._answer(query, name, peer, view, may_ask, tell_nobody)
        if given.source == "refused" and self.house.config.doors.refuse == "silent" and self._is_stranger(peer.ip):
            return None
        answer = self._dressed(query, peer, given)
        took = self.clock() - begun
        afterwards(partial(self._remember, query, untrusted, peer, view, given, answer, took, epoch))
        return bytes(answer)

    def _remember(
        self,
        query: Query,
        untrusted: bytes,
        peer: Peer,
        view: View,
        given: Given,
        answer: bytearray,
        took: float,
        epoch: int,
    ) -> None:
        """What an answer leaves behind, and need not wait for; ``epoch`` is that in which it was decided."""
        if given.until and epoch == self._epoch and peer.door in self.hot.doors:
            self._keep(query, untrusted, peer, view, given, answer)
        self._heard.append(Heard(peer.ip, query.name, query.rtype, given.source, took, given.server))
        if len(self._heard) >= _COUNTED_TOGETHER:
            self._count()
        if self._note is not None:
            self._note(query, peer, given, took)

    async def answer(self, query: Query, peer: Peer, view: View, trail: Trail | None = None) -> Given:
        """The answer to a question, whoever asks and however it came."""
        may_ask, tell = self.house.may_ask(peer.ip, self.near), tell_nobody if trail is None else trail.tell
        return await self._answer(query, query.text, peer, view, may_ask, tell)

    async def _answer(self, query: Query, name: str, peer: Peer, view: View, may_ask: bool, tell: Tell) -> Given:
        if tell is not tell_nobody:
            tell("client", f"{peer.ip}, view {view.spec.name}")
        if view.spec.refuse or not may_ask:
            given = self._ruled(query, tell) if query.rclass == _IN and self._is_stranger(peer.ip) else None
            if given is not None and not view.spec.refuse:
                # Nobody else is asked on their behalf.
                return given._replace(reply=given.reply._replace(flags=given.reply.flags & ~RA))
            tell("client", "may not ask here")
            refusal = make_reply(query.question, rcode=REFUSED, ede=((_PROHIBITED, ""),))
            return Given(reply=refusal, source="refused", why="not allowed")
        if query.rclass != _IN:
            return self._of_another_class(query)
        if self.forwarder.is_own_probe(query.name):
            reply = make_reply(query.question, rcode=NXDOMAIN)
            return Given(reply=reply, source="local", why="a question of ours came back")
        given = await self._found(query, name, peer, view, tell, ())
        if self.answered is not None and query.rtype in (_A, _AAAA) and given.source in _REAL:
            self.answered(name, _addresses(given.reply))
            remind = self.clock() + _REMIND
            given = given if given.until <= remind else given._replace(until=remind)
        return given

    def _of_another_class(self, query: Query) -> Given:
        known = self.local.chaos(query.name, query.rtype) if query.rclass == _CHAOS else None
        if known is not None:
            return Given(reply=known, source="local", why="about this server")
        rcode = REFUSED if query.rclass == _CHAOS else NOTIMP
        return Given(reply=make_reply(query.question, rcode=rcode), source="refused", why="class")

    async def _found(
        self, query: Query, name: str, peer: Peer, view: View, tell: Tell, passed: tuple[bytes, ...]
    ) -> Given:
        """The answer of the stops; ``passed`` are the names whose aliases led here."""
        rtype = query.rtype
        ruled = self._ruled(query, tell) if self._authority is not None else None
        if ruled is not None:
            # When that changes, it is forgotten by its name alone, not by those of aliases.
            return ruled._replace(until=0.0) if passed else ruled
        local = self.local.lookup(query.name, rtype)
        if isinstance(local, Reply):
            why = self.local.why(query.name, rtype)
            tell("names of the house", why)
            made = self._made(local, "local", why)
            return self._localised(made, peer) if self.house.config.house.local.settings.localise else made
        if isinstance(local, Alias):
            tell("names of the house", f"an alias of {name_text(local.target)}")
            return await self._led_on(query, peer, view, local.answer, local.target, "local", tell, passed)
        registered = self.registered(name) if self.registered is not None else ()
        if registered:
            tell("names of the house", f"registered: {', '.join(registered)}")
            return Given(reply=_of_addresses(query, registered), source="local", why="registered by a service")
        judgement = PASS if view.silent else self.policy.judge(view, name, rtype)
        if judgement.action in _DECIDED and not (judgement.action is Action.REWRITE and _to_itself(judgement, name)):
            tell("policy", _spoken(judgement))
            return await self._judged(query, peer, view, judgement, tell, passed)
        if tell is not tell_nobody:
            tell("policy", _spoken(judgement))
        if not self._lets_be and self.house.answers.refuses(rtype):
            tell("policy", f"{rtype_text(rtype)} is not answered here")
            return self._made(empty_reply(query.question), "blocked", f"type {rtype_text(rtype)}")
        if rtype == _ANY:
            return self._made(_minimal_any(query.question), "local", "RFC 8482")
        if self.trusted is not None and self.trusted.knows(name):
            given = await self._vouched(query, name, peer, view, judgement, tell, passed)
            if given is not None:
                return given
            return await self._left(query, name, peer, view, judgement, tell)
        if self.fake is not None:
            return await self._unvouched(query, name, peer, view, judgement, tell)
        return await self._asked(query, name, peer, view, judgement, tell)

    def _ruled(self, query: Query, tell: Tell) -> Given | None:
        """The answer about a name of the domain we speak for; None: it is of another."""
        said: Statement | None = None
        if self._authority is not None:
            said = self._authority.lookup(query.name, query.rtype)
        if said is None:
            return None
        tell("our domain", said.why)
        until = self.clock() + said.life if said.life else 0.0
        return Given(reply=said.reply, source="local", why=said.why, fixed=STEADY, until=until)

    async def _left(self, query: Query, name: str, peer: Peer, view: View, judgement: Judgement, tell: Tell) -> Given:
        """What trusted names leave to the DNS; the client does not wait twice for servers that are silent."""
        if self.trusted is None or not self.trusted.is_silent(name):
            return await self._unvouched(query, name, peer, view, judgement, tell)
        await in_task()
        with trio.move_on_after(_SILENT_PATIENCE):
            return await self._unvouched(query, name, peer, view, judgement, tell)
        why = "the servers do not answer"
        tell("upstreams", why)
        failure = make_reply(query.question, rcode=SERVFAIL, ede=((_NO_AUTHORITY, why),))
        return Given(reply=failure, source="failed", why=why)

    async def _unvouched(
        self, query: Query, name: str, peer: Peer, view: View, judgement: Judgement, tell: Tell
    ) -> Given:
        """The answer about a name like any other: a fake address, or what the servers say."""
        if self.fake is not None:
            stand = self.fake.answer(name, query.question, query.rtype)
            if stand is not None:
                tell("fake address", ", ".join(_shown(stand.reply)))
                if stand.reply.rcode:
                    return Given(reply=stand.reply, source="failed", why="fake-ip: cannot be written down")
                if stand.freed:
                    self.hot.flush(name_wire(stand.freed))
                return Given(reply=stand.reply, source="fake-ip", fixed=STEADY, until=self.clock() + stand.life)
        return await self._asked(query, name, peer, view, judgement, tell)

    async def _judged(
        self, query: Query, peer: Peer, view: View, judgement: Judgement, tell: Tell, passed: tuple[bytes, ...]
    ) -> Given:
        why = f"{judgement.list}: {judgement.rule}"
        answer = answer_of(judgement, query.question, view.spec.answer)
        source = "rewritten" if judgement.action is Action.REWRITE else "blocked"
        if isinstance(answer, Rewritten):
            target = name_wire(answer.target)
            alias = ((query.name, CNAME, view.spec.answer.ttl, target),)
            return await self._led_on(query, peer, view, alias, target, source, tell, passed, why)
        return self._made(answer, source, why)

    async def _led_on(
        self,
        query: Query,
        peer: Peer,
        view: View,
        before: Sequence[Record],
        target: bytes,
        source: str,
        tell: Tell,
        passed: tuple[bytes, ...],
        why: str = "",
    ) -> Given:
        """What there is about ``target``, behind the aliases that lead there."""
        if query.rtype == CNAME:
            return self._made(make_reply(query.question, answer=before), source, why)
        passed = (*passed, query.name)
        if target in passed or len(passed) > _MAX_ALIASES:
            tell("aliases", "they lead round")
            return Given(reply=make_reply(query.question, rcode=SERVFAIL), source="failed", why="aliases lead round")
        wanted = query._replace(name=target, question=target + query.question[-4:])
        given = await self._found(wanted, wanted.text, peer, view, tell, passed)
        # The aliases' own TTLs are told in full; what is rendered loses the age of the rest.
        aged = 0 if given.ttl_min else given.age
        answer = [*((owner, kind, ttl + aged, data) for owner, kind, ttl, data in before), *records(given.reply, 0)]
        reply = make_reply(
            query.question,
            rcode=given.reply.rcode,
            answer=answer,
            authority=records(given.reply, 1),
            ede=given.reply.ede,
        )
        # Who loses a fake address is flushed by its name alone, not by those of aliases.
        until = 0.0 if given.source == "fake-ip" else given.until
        source = given.source if given.source in ("blocked", "failed") else source
        fixed = given.fixed + len(before)
        reply = reply._replace(ecs_scope=given.reply.ecs_scope)
        return given._replace(reply=reply, source=source, why=why or given.why, fixed=fixed, until=until)

    async def _asked(self, query: Query, name: str, peer: Peer, view: View, judgement: Judgement, tell: Tell) -> Given:
        """The answer of the cache or the upstreams, held against the rules for answers."""
        given = await self._lookup.find(query, name, peer, view.spec.group, tell)
        if given.reply.rcode == NXDOMAIN and not given.reply.counts[0] and self._exists(query.name):
            # Said to who has just heard its address from us, it would deny that as well (RFC 8020).
            tell("names of the house", "the name is known here by another type")
            given = given._replace(reply=given.reply._replace(rcode=NOERROR, flags=given.reply.flags & ~AD))
        if _ALIAS in given.reply.body and query.rtype not in (CNAME, _ANY):
            given = await self._chased(query, name, peer, view, given, tell, _MAX_ALIASES)
        if self._lets_be and view.silent:
            return given

        def twin(wanted: Query) -> Awaitable[Given]:
            return self._lookup.find(wanted, name, peer, view.spec.group, tell_nobody)

        return await self._held(query, name, view, judgement, given, tell, self.house.answers, twin)

    async def _vouched(
        self,
        query: Query,
        name: str,
        peer: Peer,
        view: View,
        judgement: Judgement,
        tell: Tell,
        passed: tuple[bytes, ...],
    ) -> Given | None:
        """The answer of trusted names, held against the same rules; None: ask on."""
        trusted = self.trusted
        assert trusted is not None
        shown = await trusted.answer(query, lambda: self._asked(query, name, peer, view, judgement, tell_nobody))
        if shown is None:
            tell("trusted names", "nothing that the DNS could not say as well")
            return None
        tell("trusted names", shown.why)
        if shown.by_dns:
            given = await self._left(query, name, peer, view, judgement, tell)
            marked = given.reply._replace(flags=given.reply.flags & ~AD, ede=(*shown.reply.ede, *given.reply.ede))
            return given._replace(reply=marked, until=0.0)  # a document may be heard the next moment
        given = self._of_shown(shown)
        if shown.alias is not None:
            alias = tuple(records(with_ttls(shown.reply, 0, shown.most), 0))
            led = await self._led_on(query, peer, view, alias, shown.alias, "trusted", tell, passed, shown.why)
            told = led.reply._replace(ede=(*shown.reply.ede, *led.reply.ede))
            return led._replace(reply=told, until=min(given.until, led.until))
        rules = self.house.answers
        if shown.trust >= _OWN_WORD:
            # Who is pinned here may say that their machine stands in our network.
            rules = replace(rules, rebind=False)

        async def twin(wanted: Query) -> Given | None:
            other = await trusted.answer(wanted, lambda: self._asked(wanted, name, peer, view, judgement, tell_nobody))
            return None if other is None or other.by_dns else self._of_shown(other)

        return await self._held(query, name, view, judgement, given, tell, rules, twin)

    def _of_shown(self, shown: Shown) -> Given:
        second = int(self.clock())
        until = second + min(shown.left, shown.most) if shown.left else 0.0
        given = Given(reply=shown.reply, source="trusted", why=shown.why, until=until, second=second)
        return told_at_most(given, shown.most, second)

    async def _held(
        self,
        query: Query,
        name: str,
        view: View,
        judgement: Judgement,
        given: Given,
        tell: Tell,
        rules: AnswerRules,
        twin: _Twin,
    ) -> Given:
        """An answer of others after the rules for answers; ``twin`` finds the same name's other addresses."""
        idle = view.silent and self.house.answers.idle
        if given.reply.counts[0] and not given.reply.rcode and not idle:
            spared = judgement.action is Action.ALLOW
            judge = None if spared else lambda name, rtype: self.policy.judge(view, name, rtype)
            seen = inspect(given.reply, name, rules, judge)
            if seen.fate is Fate.BLOCKED:
                tell("answer", _spoken(seen.judgement))
                how = view.spec.answer
                if seen.judgement.list == REBIND:
                    how = replace(how, mode="nodata")
                blocked = answer_of(seen.judgement, query.question, how)
                if not isinstance(blocked, Reply):
                    raise Misuse("a block is no alias")
                why = f"{seen.judgement.list}: {seen.judgement.rule}"
                return _instead(given, blocked, "blocked", why)
            if seen.fate is Fate.IGNORED:
                tell("answer", "an address that is to be ignored")
                return Given(reply=make_reply(query.question, rcode=SERVFAIL), source="failed", why="ignore-address")
            if seen.fate is Fate.CHANGED:
                tell("answer", "changed by the rules for answers")
                given = _changed(given, seen.reply)
            other = other_family(query.rtype, rules.family)
            if other is not None:
                given = await self._yielded(query, other, given, tell, twin)
        return self._capped(await self._fed(query, given, tell))

    async def _chased(
        self, query: Query, name: str, peer: Peer, view: View, given: Given, tell: Tell, depth: int
    ) -> Given:
        """Aliases of others that lead to a name of the house, or end at one that other servers know: what is there.

        Servers asked for a whole chain know its end, unless that lies in a domain of somebody else's.
        """
        told = records(given.reply, 0)
        aliases = {owner.lower(): (owner, kind, ttl, data) for owner, kind, ttl, data in told if kind == CNAME}
        group, at = self.house.group(name, view.spec.group), query.name
        passed: list[Record] = []
        while at in aliases and depth > len(passed):
            owner, kind, ttl, data = aliases.pop(at)
            passed.append((owner, kind, max(given.ttl_min or 0, ttl - given.age), data))
            at = data.lower()
            wanted = query._replace(name=at, question=at + query.question[-4:])
            local = self.local.lookup(at, query.rtype)
            if isinstance(local, Reply):
                tell("names of the house", f"{wanted.text}, where an alias leads")
                return _behind(query, passed, Given(reply=local, source=given.source), given)
            other = self.house.servers.split.choose(wanted.text)
            if at not in aliases and other not in (None, group) and not _has_asked(given.reply):
                tell("upstreams", f"an alias leads to {wanted.text}, which others know")
                rest = await self._lookup.find(wanted, wanted.text, peer, view.spec.group, tell)
                if _ALIAS in rest.reply.body:
                    rest = await self._chased(wanted, wanted.text, peer, view, rest, tell, depth - len(passed))
                return _behind(query, passed, rest, given)
        return given

    async def _yielded(self, query: Query, other: int, given: Given, tell: Tell, find: _Twin) -> Given:
        wanted = query._replace(rtype=other, question=query.question[:-4] + other.to_bytes(2) + query.question[-2:])
        await in_task()
        with trio.move_on_after(_TWIN_PATIENCE) as patience:
            twin = await find(wanted)
        if patience.cancelled_caught:
            tell("answer", f"nobody knows in time whether there is {rtype_text(other)}")
            return given._replace(until=0.0)
        if twin is None:
            return given
        reply = yielded(given.reply, twin.reply)
        if reply is given.reply:
            return given
        tell("answer", f"gives way to {rtype_text(other)}")
        return _instead(given, reply, given.source)._replace(until=min(given.until, twin.until))

    async def _fed(self, query: Query, given: Given, tell: Tell) -> Given:
        """See the addresses into the sets of the firewall before anybody hears of them."""
        if self._feeder is None or not self.house.sets.subject(query.name):
            return given
        additions = self.house.sets.additions(given.reply, given.age)
        if additions:
            tell("sets", ", ".join(dict.fromkeys(str(each.target) for each in additions)))
            await in_task()
            await self._feeder.add(additions)
        return given._replace(until=0.0)

    def _made(self, reply: Reply, source: str, why: str) -> Given:
        return Given(reply=reply, source=source, why=why, fixed=STEADY, until=self.clock() + MADE_LIFE)

    def _localised(self, given: Given, peer: Peer) -> Given:
        """Of several addresses those of the network in which we were asked.

        Ready-made answers do not know where that was, so there are none.
        """
        if given.reply.counts[0] < 2:
            return given
        asked = self._subnets.get(peer.local)
        if asked is None and not peer.local:
            client = ipaddress.ip_address(peer.ip.partition("%")[0])
            asked = next((network for network in self._subnets.values() if client in network), None)
        reply = given.reply if asked is None else self.local.localised(given.reply, asked)
        return given._replace(reply=reply, until=0.0)

    def _capped(self, given: Given) -> Given:
        most = self.house.config.cache.max_client_ttl
        # What is told in full each time is our own.
        return given if not most or given.fixed else told_at_most(given, most, given.second or int(self.clock()))

    def _exists(self, name: bytes) -> bool:
        return self.local.lookup(name, _ANY) is not None

    def _mark_of(self, peer: Peer) -> int:
        if self._marks is None or not self.house.config.house.sets.connmark or not peer.local_port:
            return 0
        protocol = socket.IPPROTO_UDP if peer.door == "udp" else socket.IPPROTO_TCP
        return self._marks.mark(protocol, (peer.ip, peer.port), (peer.local, peer.local_port))

    # The answer

    def _dressed(self, query: Query, peer: Peer, given: Given) -> bytearray:
        if query.edns is None:
            shape = shape_of(query, limit=UDP_SIZE if peer.door == "udp" else None)
            return render(given.reply, query, shape, given.age, ttl_min=given.ttl_min)
        told = query.edns.option(edns.COOKIE) if query.edns.options else None
        shape = shape_of(
            query,
            limit=UDP_SIZE if peer.door == "udp" else None,
            cookie=self._cookies.answer(told, _address_bytes(peer.ip), int(self.wall())) if told is not None else b"",
            pad=peer.door in ("tls", "https"),
            keepalive=_KEEPALIVE if peer.door in ("tcp", "tls") else None,
            ecs=self.house.config.house.subnet.mode != "strip",
        )
        return render(given.reply, query, shape, given.age, ttl_min=given.ttl_min)

    def _keep(self, query: Query, untrusted: bytes, peer: Peer, view: View, given: Given, answer: bytearray) -> None:
        second = given.second or int(self.clock())
        if given.until > second + 1:
            stranger = self._authority is not None and self._is_stranger(peer.ip)
            self.hot.doors[peer.door].table(_STRANGERS if stranger else view.shelf).put(
                query,
                untrusted,
                answer,
                given.reply,
                second,
                int(given.until),
                given.source if given.source in _MADE_HERE else "hot",
                origin=given.origin,
                fixed=given.fixed,
            )

    # Living

    async def live(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry what goes on beside answers: refreshing, counting, schedules that change views.  Until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._lookup.live)
            nursery.start_soon(self._tick)
            task_status.started()

    async def _tick(self) -> None:
        lag = self.wall() - self.clock()
        while True:
            await trio.sleep(1)
            # What the door had no time for in the last second.
            for _ in self.hot.chores:
                await trio.lowlevel.checkpoint()
            self.hot.chores = chain(self._settling(), self._note_hits())
            now = self.wall()
            drifted = now - self.clock() - lag
            lag += drifted
            jumped = abs(drifted) > _JUMP
            if is_unset(now - drifted) and not is_unset(now):
                self.flush()  # what servers said whose certificates may be over
            if jumped or (self._change is not None and now >= self._change):
                self.forget_ready_made()
            # A clock that is set right brings leases back, too.
            if jumped or any(lease.expires <= now for lease in self._leases.values()):
                self.take_leases(self._told_leases)


_COUNTED_TOGETHER = 16
_MOST_STANDINGS = 4096
_MOST_BY_NAME = 16
"""Names in a second that are forgotten one by one, each looked for among all ready-made answers; for more of them it
is cheaper to begin anew."""
_AT_A_TURN = 4
"""Answers whose hits are counted before questions get their turn again."""
_ALIAS = CNAME.to_bytes(2) + _IN.to_bytes(2)
"""What is in every answer with an alias, and hardly in another."""
_MADE_HERE = frozenset({"blocked", "rewritten", "local", "fake-ip", "trusted"})
_DECIDED = (Action.BLOCK, Action.REFUSE, Action.REWRITE)


def _behind(query: Query, aliases: Sequence[Record], rest: Given, given: Given) -> Given:
    """The rest of a chain behind the aliases that lead there; two decide how long it holds: it is made each time."""
    answer, authority = (
        [(owner, kind, max(rest.ttl_min or 0, ttl - rest.age), data) for owner, kind, ttl, data in told]
        for told in (records(rest.reply, 0), records(rest.reply, 1))
    )
    reply = make_reply(
        query.question, rcode=rest.reply.rcode, answer=[*aliases, *answer], authority=authority, ede=rest.reply.ede
    )
    return Given(reply=reply, source=given.source, why=given.why, server=given.server)


def _instead(given: Given, reply: Reply, source: str, why: str = "") -> Given:
    """An answer of our own for as long as that of others would have been told."""
    reply = reply._replace(ecs_scope=given.reply.ecs_scope)
    return Given(
        reply=reply, source=source, why=why or given.why, fixed=STEADY, until=given.until,
        origin=given.origin, server=given.server,
    )  # fmt: skip


def _changed(given: Given, reply: Reply) -> Given:
    if reply.rcode or not _has_asked(reply):
        # What was emptied is told as our own: the SOA in it is.
        return _instead(given, with_ttls(reply, 0, _EMPTIED_TTL), given.source)
    return given._replace(reply=reply)


def _has_asked(reply: Reply) -> bool:
    rtype = int.from_bytes(reply.question[-4:-2])
    return any(record[1] == rtype for record in records(reply, 0))


def _to_itself(judgement: Judgement, name: str) -> bool:
    """A rewrite to the name it is about is an exception from other rewrites."""
    return judgement.rewrites[0].cname == name


def _device(lease: Lease) -> tuple[str, str, str, str]:
    return lease.ip, lease.mac, lease.device, lease.name


def _of_addresses(query: Query, addresses: Iterable[str]) -> Reply:
    owner = query.name
    found = [(owner, *address_data(address, _REGISTERED_TTL)) for address in addresses]
    answer = [record for record in found if record[1] == query.rtype]
    authority = [] if answer else [negative_soa(query.question, _REGISTERED_TTL)]
    return make_reply(query.question, aa=True, answer=answer, authority=authority)


def _minimal_any(question: bytes) -> Reply:
    return make_reply(question, answer=[(question[:-4].lower(), HINFO, 3600, _NO_RECORD)])


def _spoken(judgement: Judgement) -> str:
    return f"{judgement.action}: {judgement.list}: {judgement.rule}" if judgement.list else str(judgement.action)


def _shown(reply: Reply) -> list[str]:
    return [data_text(rtype, data) for _, rtype, _, data in records(reply, 0)] or ["no record"]


def _addresses(reply: Reply) -> list[str]:
    return [spell(data) for _, rtype, _, data in records(reply, 0) if rtype in (_A, _AAAA)]


def _nobody(ip: str) -> str | None:
    return None


def spell(address: bytes) -> str:
    """Canonical text of an address of 4 or 16 octets."""
    return canonical_ip(socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address))


def _address_bytes(ip: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip.partition("%")[0])
