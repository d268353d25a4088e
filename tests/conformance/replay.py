"""Plays a script (``rpl.py``) against our name server, with scripted upstreams and a clock that only jumps.

The server is the real one from the hot tables to the sockets of the upstreams; only its door is the player, and its
time is trio's mock clock.  Upstreams are sockets on the loopback addresses the script names, all at one port, over UDP
and TCP.  So a day passes in a moment, and whatever the server does in between, it does when it would.

``TIME_PASSES`` goes from deadline to deadline.  A query that comes to an upstream is answered from the RANGE of the
current step, unless the next step is a CHECK_OUT_QUERY or REPLY that fits it: then it waits for that.  Sent again, it
is the same query.  What we are asked is ``config`` in unbound's words; those understood are in ``_SETTINGS``.

Other than in testbound, the name in a scripted reply is spelt as it was asked: we mix cases to keep forgers out.
At the end every answer must have been checked and every query answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import dns.edns
import dns.flags
import dns.message
import dns.rrset
import trio
import trio.testing
from rpl import Entry, Script, Step

from cyfs_ns.config.load import load_dns
from cyfs_ns.io.dial import plain_dial
from cyfs_ns.io.exchange import Ways
from cyfs_ns.io.house import build_house
from cyfs_ns.io.nameserver import NameServer
from cyfs_ns.io.upstreams import Forwarder
from cyfs_ns.listcompile import compile_lists
from cyfs_ns.lists import ListSet
from cyfs_ns.peer import Peer
from cyfs_ns.store import AnswerCache

_EPOCH = 1_800_000_000.0
_CUSHION = 0.003
"""Real seconds without a runnable task or a readable socket, after which traffic has stopped."""
_MOST_JUMPS = 60
_SETTINGS = {
    "serve-expired-ttl": "max-stale",
    "cache-min-ttl": "min-ttl",
    "cache-max-ttl": "max-ttl",
    "cache-max-negative-ttl": "max-negative-ttl",
    "prefetch": "prefetch",
}


@dataclass
class OutQuery:
    """A question that reached an upstream."""

    message: dns.message.Message
    wire: bytes
    address: str
    transport: str
    answered: trio.Event = field(default_factory=trio.Event)
    reply: bytes | None = None

    @property
    def same(self) -> tuple[object, ...]:
        return self.wire, self.address, self.transport


class Mismatch(AssertionError):
    """What came is not what the script says; with the step."""


class Player:
    def __init__(self, script: Script, clock: trio.testing.MockClock) -> None:
        self.script, self.clock = script, clock
        self.answers: list[bytes] = []
        self.pending: list[OutQuery] = []
        self.seen: dict[tuple[object, ...], OutQuery] = {}
        self.position = 0

    async def play(self) -> None:
        """Raises ``Mismatch``."""
        self.clock.jump(1000.0)
        async with trio.open_nursery() as nursery:
            port = await self._open_upstreams(nursery)
            server = _server(self.script, port)
            await nursery.start(server.live)
            for self.position, step in enumerate(self.script.steps):  # noqa: B020
                await self._take(step, server, nursery)
            await self._flow()
            self._must(not self.answers, "an answer that nobody checked", self.script.steps[-1])
            self._must(not self.pending, f"nobody answered {self._told()}", self.script.steps[-1])
            nursery.cancel_scope.cancel()

    # Steps

    async def _take(self, step: Step, server: NameServer, nursery: trio.Nursery) -> None:
        match step.kind:
            case "QUERY":
                assert step.entry is not None
                nursery.start_soon(self._ask, server, _query(step.entry), _client(step))
                await trio.testing.wait_all_tasks_blocked()
            case "CHECK_ANSWER":
                await self._flow()
                self._must(bool(self.answers), "there is no answer", step)
                if step.entry is not None:
                    self._check(step, step.entry, self.answers.pop(0))
            case "CHECK_OUT_QUERY":
                await self._flow()
                self._must(bool(self._fitting(step)), f"that is not being asked, but {self._told()}", step)
            case "REPLY":
                await self._flow()
                fitting = self._fitting(step)
                self._must(bool(fitting), f"nobody waits for that, but for {self._told()}", step)
                assert step.entry is not None
                self._reply(fitting[0], step.entry)
                await self._flow()
            case "TIMEOUT":
                await self._flow()
                self._must(bool(self.pending), "nothing is being asked", step)
                self.pending.pop(0)
            case "TIME_PASSES":
                await self._flow()
                await self._pass(float(step.words[1]))
            case "NOTHING" | "TRAFFIC":
                await self._flow()
            case "NO_ANSWER":
                await self._flow()
                self._must(not self.answers, "there is an answer", step)
            case "NO_OUT_QUERY":
                await self._flow()
                self._must(not self.pending, f"{self._told()} is being asked", step)
            case "FLUSH_MESSAGE":
                server.flush(step.words[0].rstrip(".").lower())
            case _:
                raise Mismatch(f"line {step.line}: no such step as {step.kind}")

    async def _ask(self, server: NameServer, wire: bytes, client: str) -> None:
        """As a door does: what is ready-made first, then the long way."""
        address = bytes(map(int, client.split(".")))
        answer = server.hot.answer(address, wire, "udp", int(trio.current_time()))
        if answer is None:
            answer = await server.serve(wire, Peer(client, 5353, "udp", "127.0.0.1", ""))
        if answer:
            self.answers.append(answer)

    async def _flow(self) -> None:
        await trio.testing.wait_all_tasks_blocked(_CUSHION)

    async def _pass(self, seconds: float) -> None:
        until = trio.current_time() + seconds
        least = seconds / _MOST_JUMPS
        while (left := until - trio.current_time()) > 0:
            due = trio.lowlevel.current_statistics().seconds_to_next_deadline
            self.clock.jump(min(left, max(due, least, 1e-6)))
            await self._flow()

    # Upstreams

    async def _open_upstreams(self, nursery: trio.Nursery) -> int:
        named = [
            value.partition("@")[0] for _, key, value in self.script.config if key in ("forward-addr", "stub-addr")
        ]
        port = 0
        for address in dict.fromkeys(named):
            udp = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
            await udp.bind((address, port))
            port = udp.getsockname()[1]
            tcp = await trio.open_tcp_listeners(port, host=address)
            nursery.start_soon(self._datagrams, udp, address)
            for listener in tcp:
                nursery.start_soon(self._streams, listener, address)
        return port

    async def _datagrams(self, sock: trio.socket.SocketType, address: str) -> None:
        async with trio.open_nursery() as nursery:
            with sock:
                while True:
                    wire, client = await sock.recvfrom(4096)
                    nursery.start_soon(self._over_udp, sock, wire, client, address)

    async def _over_udp(self, sock: trio.socket.SocketType, wire: bytes, client: object, address: str) -> None:
        reply = await self._answer(wire, address, "UDP")
        if reply is not None:
            await sock.sendto(reply, client)

    async def _streams(self, listener: trio.SocketListener, address: str) -> None:
        async def serve(stream: trio.SocketStream) -> None:
            with stream.socket:
                data = b""
                while some := await stream.receive_some():
                    data += some
                    while len(data) >= 2 and len(data) >= (size := 2 + int.from_bytes(data[:2])):
                        reply = await self._answer(data[2:size], address, "TCP")
                        data = data[size:]
                        if reply is not None:
                            await stream.send_all(len(reply).to_bytes(2) + reply)

        await trio.serve_listeners(serve, [listener])

    async def _answer(self, wire: bytes, address: str, transport: str) -> bytes | None:
        query = OutQuery(dns.message.from_wire(wire), wire, address, transport)
        known = self.seen.get(query.same)
        if known is not None:
            return known.reply  # sent again
        self.seen[query.same] = query
        ahead = self.script.steps[self.position + 1 : self.position + 2]
        here = self.script.steps[self.position]
        expected = [
            step for step in (here, *ahead) if step.kind in ("CHECK_OUT_QUERY", "REPLY") and step.entry is not None
        ]
        if not any(_fits(step.entry, query) for step in expected if step.entry is not None):
            for scripted in self.script.ranges:
                if scripted.first <= here.at <= scripted.last and address in (scripted.addresses or (address,)):
                    for entry in scripted.entries:
                        if _fits(entry, query):
                            self._reply(query, entry)
                            return query.reply
        self.pending.append(query)
        await query.answered.wait()
        return query.reply

    def _reply(self, query: OutQuery, entry: Entry) -> None:
        query.reply = _message(entry, query)
        query.answered.set()
        if query in self.pending:
            self.pending.remove(query)

    def _fitting(self, step: Step) -> list[OutQuery]:
        return [query for query in self.pending if step.entry is None or _fits(step.entry, query)]

    def _told(self) -> str:
        return ", ".join(f"{query.message.question[0]} of {query.address}" for query in self.pending) or "nothing"

    # Comparing

    def _must(self, holds: bool, why: str, step: Step) -> None:
        if not holds:
            raise Mismatch(f"{self.script.title}: step {step.at}, line {step.line}: {why}")

    def _check(self, step: Step, wanted: Entry, wire: bytes) -> None:
        told = dns.message.from_wire(wire)
        faults = list(_differences(wanted, told))
        self._must(not faults, f"{'; '.join(faults)} in\n{told}", step)


def _differences(wanted: Entry, told: dns.message.Message) -> list[str]:
    match, found = set(wanted.match), []
    everything = "all" in match or "all_noedns" in match
    if (everything or "rcode" in match) and told.rcode() != wanted.rcode:
        found.append(f"return code {told.rcode()}, not {wanted.rcode}")
    flags = told.flags & 0x87B0
    if (everything or "flags" in match) and flags != wanted.flags:
        found.append(f"flags {dns.flags.to_text(flags)}, not {dns.flags.to_text(wanted.flags)}")
    if "all" in match and bool(told.ednsflags & dns.flags.DO) != wanted.do:
        found.append("DO")
    ttls = "ttl" in match
    parts = {
        "QUESTION": told.question,
        "ANSWER": told.answer,
        "AUTHORITY": told.authority,
        "ADDITIONAL": told.additional,
    }
    for name, section in parts.items():
        if (everything or name.lower() in match) and _records(section, ttls) != _records(wanted.sections[name], ttls):
            found.append(f"the {name.lower()} section")
    codes = {int(option.code) for option in told.options if isinstance(option, dns.edns.EDEOption)}
    for word in match:
        key, _, value = word.partition("=")
        if key == "ede" and not (codes if value == "any" else int(value) in codes):
            found.append(f"extended errors {sorted(codes)}, not {value}")
    return found


def _records(section: list[dns.rrset.RRset], ttls: bool) -> set[object]:
    return {
        (rrset.name, rrset.rdtype, rrset.rdclass, rrset.ttl if ttls else 0, data)
        for rrset in section
        for data in (rrset or [None])
    }


def _fits(entry: Entry, query: OutQuery) -> bool:
    message, question = query.message, entry.question
    asked = message.question[0]
    for word in entry.match:
        match word:
            case "opcode":
                fit = message.opcode() == entry.opcode
            case "qtype":
                fit = question is None or asked.rdtype == question.rdtype
            case "qname":
                fit = question is None or asked.name == question.name
            case "subdomain":
                fit = question is None or asked.name.is_subdomain(question.name)
            case "UDP" | "TCP":
                fit = query.transport == word
            case "noedns":
                fit = message.edns < 0
            case "DO":
                fit = bool(message.ednsflags & dns.flags.DO)
            case "question":
                fit = question is None or (asked.name, asked.rdtype) == (question.name, question.rdtype)
            case _:
                raise Mismatch(f"a query cannot be matched by {word!r}")
        if not fit:
            return False
    return True


def _query(entry: Entry) -> bytes:
    assert entry.question is not None
    query = dns.message.make_query(entry.question.name, entry.question.rdtype, flags=entry.flags)
    if entry.do:
        query.use_edns(0, dns.flags.DO)
    elif "edns" in entry.adjust:
        query.use_edns(0)
    return bytes(query.to_wire())


def _message(entry: Entry, query: OutQuery) -> bytes:
    if entry.raw is not None:
        return query.wire[:2] + entry.raw[2:]
    reply = dns.message.Message(query.message.id)
    reply.flags = entry.flags | dns.flags.QR
    reply.question = query.message.question
    for name, section in (("ANSWER", reply.answer), ("AUTHORITY", reply.authority), ("ADDITIONAL", reply.additional)):
        section += entry.sections[name]
    if query.message.edns >= 0 and entry.rcode != 1:
        reply.use_edns(0, dns.flags.DO if entry.do else 0)
    reply.set_rcode(entry.rcode)
    return bytes(reply.to_wire())


def _client(step: Step) -> str:
    return step.words[1] if step.words[:1] == ("ADDRESS",) else "127.0.0.1"


def _server(script: Script, port: int) -> NameServer:
    config = load_dns(json.dumps({"dns": _settings(script, port)}).encode())
    assert config.dns is not None, config.faults
    cache = config.dns.cache
    server = NameServer(
        AnswerCache(
            cache.max_bytes,
            min_ttl=cache.min_ttl,
            max_ttl=cache.max_ttl,
            max_negative=cache.max_negative,
            max_stale=cache.max_stale,
        ),
        clock=trio.current_time,
        wall=lambda: _EPOCH + trio.current_time(),
    )
    server.wear(build_house(config.dns, {}), Forwarder(Ways(dial=plain_dial())), ListSet(compile_lists(())))
    return server


def _settings(script: Script, port: int) -> Mapping[str, object]:
    cache: dict[str, object] = {"persist": False, "prefetch": False, "max-stale": 0}
    zones: list[tuple[str, list[str]]] = []
    for section, key, value in script.config:
        if section == "server":
            if key in _SETTINGS:
                cache[_SETTINGS[key]] = {"yes": True, "no": False}.get(
                    value, value if not value.isdigit() else int(value)
                )
            elif key == "serve-expired-client-timeout":
                cache["stale-wait"] = f"{value}ms"
            else:
                raise Mismatch(f"{key} is not understood")
        elif key == "name":
            zones.append((value.rstrip("."), []))
        elif key == "forward-addr":
            zones[-1][1].append(f"udp://{value}:{port}")
        else:
            raise Mismatch(f"{section}/{key} is not understood")
    return {
        "listen": "127.0.0.1:1053",
        "use-system-hosts": False,
        "strategy": "strict",
        "nameserver": next((servers for name, servers in zones if not name), ["rcode://refused"]),
        "nameserver-policy": {f"+.{name}": servers for name, servers in zones if name},
        "cache": cache,
    }
