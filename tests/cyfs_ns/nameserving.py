"""A name server without sockets: scripted upstreams, a clock that only jumps, and a door that is a method call."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import trio

from cyfs_ns.config.load import load_dns
from cyfs_ns.edns import Ecs
from cyfs_ns.errors import CyfsError, Unreachable
from cyfs_ns.given import Given
from cyfs_ns.hot import SILENCE
from cyfs_ns.io.house import House, build_house
from cyfs_ns.io.nameserver import NameServer
from cyfs_ns.io.upstreams import Told
from cyfs_ns.listcompile import ListSource, compile_entries, compile_lists
from cyfs_ns.listlines import read_own
from cyfs_ns.lists import ListSet
from cyfs_ns.message import rtype_number
from cyfs_ns.peer import Peer
from cyfs_ns.query import Query
from cyfs_ns.records import data_wire
from cyfs_ns.reply import Reply, make_reply
from cyfs_ns.store import AnswerCache
from cyfs_ns.upstream import Group
from cyfs_ns.wire import Record, name_text, name_wire

EPOCH = 1_800_000_000.0
CLIENT = "192.168.1.7"
SOA = "ns.example. host.example. 1 3600 600 86400 120"


class Clock:
    """Monotonic seconds, and the wall clock beside it."""

    def __init__(self) -> None:
        self.now = 1000.25
        self.wall_ahead = EPOCH

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.wall_ahead


@dataclass
class Asked:
    """What a server was asked."""

    name: str
    rtype: int
    group: Group
    options: dict[str, Any]


@dataclass
class Upstreams:
    """Stands for the forwarder.  ``says`` maps (name, type) to lines of records, or to a fault; else there is none."""

    says: dict[tuple[str, str], Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    gate: trio.Event | None = None
    """While set, nobody answers before it comes."""
    slow: set[tuple[str, int]] = field(default_factory=set)
    """What nobody ever answers."""
    down: bool = False
    scope: int | None = None

    def is_own_probe(self, name: bytes) -> bool:
        return name.startswith(b"\5probe")

    async def ask(
        self,
        name: bytes,
        rtype: int,
        rclass: int = 1,
        *,
        group: Group,
        client_subnet: Ecs | None = None,
        **options: Any,
    ) -> Told:
        self.asked.append(Asked(name_text(name), rtype, group, {**options, "subnet": client_subnet}))
        if (name_text(name), rtype) in self.slow:
            await trio.sleep_forever()
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise Unreachable("all are down", "pre_connect_dns")
        for (text, kind), said in self.says.items():
            if (text, rtype_number(kind)) == (name_text(name), rtype):
                if isinstance(said, CyfsError):
                    raise said
                reply = said if isinstance(said, Reply) else reply_of(name, rtype, said)
                return Told(reply._replace(ecs_scope=self.scope), "udp://192.0.2.53:53", 0.01, ())
        return Told(none_there(name, rtype)._replace(ecs_scope=self.scope), "udp://192.0.2.53:53", 0.01, ())

    async def ask_both(self, name: bytes, rtype: int, rclass: int = 1, *, group: Group, **options: Any) -> Told:
        options.pop("suspicion")
        return await self.ask(name, rtype, rclass, group=options.pop("fallback"), **options)


def reply_of(name: bytes, rtype: int, lines: Iterable[str], *, rcode: int = 0) -> Reply:
    """Records as ``TTL TYPE DATA``, or ``OWNER TTL TYPE DATA``."""
    answer: list[Record] = []
    owner = name
    for line in lines:
        words = line.split(None, 3)
        if not words[0].isdigit():
            owner, words = name_wire(words[0]), words[1:]
            words = [words[0], words[1], " ".join(words[2:])]
        else:
            words = [words[0], words[1], " ".join(words[2:])]
        kind = rtype_number(words[1])
        answer.append((owner, kind, int(words[0]), data_wire(kind, words[2])))
    return make_reply(name + rtype.to_bytes(2) + b"\0\1", rcode=rcode, answer=answer)


def none_there(name: bytes, rtype: int, rcode: int = 3) -> Reply:
    soa = (name_wire("example"), 6, 120, data_wire(6, SOA))
    return make_reply(name + rtype.to_bytes(2) + b"\0\1", rcode=rcode, authority=[soa])


@dataclass
class Lab:
    """A server that is asked by :meth:`ask`, as its UDP door would."""

    server: NameServer
    upstreams: Upstreams
    clock: Clock
    notes: list[Given]
    hits: int = 0

    async def raw(self, wire: bytes, client: str = CLIENT, door: str = "udp") -> bytes | None:
        packed = ipaddress.ip_address(client).packed
        answer = self.server.hot.answer(packed, wire, door, int(self.clock()))
        if answer is None:
            return await self.server.serve(wire, Peer(client, 5353, door, "192.168.1.1", ""))
        self.hits += 1
        return None if answer == SILENCE else answer

    async def ask(self, name: str, rtype: str = "A", client: str = CLIENT, **more: Any) -> dns.message.Message:
        wire = query_wire(name, rtype, **more)
        answer = await self.raw(wire, client)
        assert answer is not None
        told = dns.message.from_wire(answer)
        assert told.id == int.from_bytes(wire[:2])
        return told

    def wear(self, config: dict[str, Any], hosts: dict[str, tuple[str, ...]] | None = None) -> House:
        house = house_of(config, hosts)
        self.server.wear(house, self.upstreams, lists())  # type: ignore[arg-type]
        return house

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds


def query_wire(
    name: str, rtype: str = "A", *, edns: bool = False, flags: str = "RD", options: Any = (), **more: Any
) -> bytes:
    query = dns.message.make_query(name, rtype, more.pop("rdclass", "IN"), flags=dns.flags.from_text(flags))
    if edns or options or more.get("do"):
        query.use_edns(0, dns.flags.DO if more.get("do") else 0, 1232, options=list(options))
    return bytes(query.to_wire())


def house_of(config: dict[str, Any], hosts: dict[str, tuple[str, ...]] | None = None) -> House:
    usual = {"listen": "127.0.0.1:53", "use-system-hosts": False, "nameserver": ["192.0.2.53"]}
    loaded = load_dns(json.dumps({"dns": {**usual, **config}}).encode())
    assert loaded.dns is not None, loaded.faults
    return build_house(loaded.dns, hosts or {})


def lists(*blocked: str, name: str = "ads") -> ListSet:
    if not blocked:
        return ListSet(compile_lists(()))
    entries = [entry for pattern in blocked for entry in read_own(pattern)]
    return ListSet(compile_entries([(ListSource(name=name), entries)]))


@asynccontextmanager
async def name_server(
    config: dict[str, Any] | None = None,
    says: dict[tuple[str, str], Any] | None = None,
    hosts: dict[str, tuple[str, ...]] | None = None,
    prepare: Callable[[NameServer], None] = lambda server: None,
) -> AsyncIterator[Lab]:
    """A living server with these keys of ``dns`` over these upstreams."""
    clock, upstreams, notes = Clock(), Upstreams(says or {}), list[Given]()
    house = house_of(config or {}, hosts)
    cache = house.config.cache

    def note(query: Query, peer: Peer, given: Given, took: float) -> None:
        notes.append(given)

    server = NameServer(
        AnswerCache(
            cache.max_bytes,
            min_ttl=cache.min_ttl,
            max_ttl=cache.max_ttl,
            max_negative=cache.max_negative,
            max_stale=cache.max_stale,
            failure_ttl=cache.failure_ttl,
            max_failure_ttl=cache.max_failure_ttl,
        ),
        note=note,
        clock=clock,
        wall=clock.wall,
    )
    lab = Lab(server, upstreams, clock, notes)
    server.wear(house, upstreams, lists())  # type: ignore[arg-type]
    prepare(server)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.live)
        yield lab
        nursery.cancel_scope.cancel()


def shown(message: dns.message.Message) -> list[str]:
    """``owner ttl type data`` of the answer."""
    return [
        f"{rrset.name.to_text(omit_final_dot=True)} {rrset.ttl} {dns.rdatatype.to_text(rrset.rdtype)} {rdata.to_text()}"
        for rrset in message.answer
        for rdata in rrset
    ]


def rcode(message: dns.message.Message) -> str:
    return dns.rcode.to_text(message.rcode())


def edes(message: dns.message.Message) -> list[int]:
    return [int(option.code) for option in message.options if option.otype == 15]
