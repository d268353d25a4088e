"""The one way the house asks name servers: a question to a group of them, one answer back.

The usual question is one datagram to one server and needs no task of its own; only when that server lets us wait, or
answers with anything but a plain reply, the race begins: the next server is asked too, each time one fails or stays
silent (:mod:`cyfs_ns.strategy` says who and when), and the first sound answer wins.  NXDOMAIN is sound; SERVFAIL and
REFUSED are that server's failure, and the answer only if nobody knows better.

Servers whose machines are there and refuse may just be starting, as whole houses do after a power cut.  So where nobody
had an answer and somebody refused, the race is run again, and again, as long as the client waits.  Once that has been
in vain, questions to that group fail at once until one of them is answered.

Who asks what is being asked already waits for that answer.  The questions on the wire are bounded, and so are those
in the queue: a crowd behind a dead server must not take all descriptors.
"""

from __future__ import annotations

import logging
import random
import secrets
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from cyfs_ns.edns import Ecs
from cyfs_ns.errors import CyfsError, Unreachable
from cyfs_ns.io.datagram import Datagram, Forged
from cyfs_ns.io.exchange import RESEND, Server, Wanted, Ways
from cyfs_ns.io.light import Word, in_task
from cyfs_ns.io.merging import Merged
from cyfs_ns.io.sources import Sources
from cyfs_ns.loops import PROBE_TYPE, probe_name, probe_number
from cyfs_ns.message import rcode_text, rtype_text
from cyfs_ns.reply import Reply, records
from cyfs_ns.strategy import Plan, Score, Scores
from cyfs_ns.upstream import Group, Upstream
from cyfs_ns.wire import name_text

if TYPE_CHECKING:
    from cyfs_ns.splitdns import Suspicion

_SOUND = (0, 3)  # NOERROR, NXDOMAIN
_ADDRESS_TYPES = (1, 28, 5)  # what the fallback has a say in: A, AAAA, CNAME
_LOOP_PATIENCE = 2.0
_PAUSES = (0.2, 0.4, 0.8, 1.0, 1.0, 1.0)  # seconds before servers that refused are asked once more

_log = logging.getLogger("cyfs.dns")


class Attempt(NamedTuple):
    """What one server did about a question."""

    server: str
    took: float
    """Seconds from asking to the outcome, or until somebody else's answer made it unnecessary."""
    outcome: str
    """``NOERROR``, ``SERVFAIL``, what went wrong, or ``overtaken``."""


class Told(NamedTuple):
    """An answer and where it comes from."""

    reply: Reply
    server: str
    """As the configuration spells it."""
    took: float
    """Seconds in all."""
    raced: tuple[Attempt, ...] = ()
    """What each did, where more was done than to ask one server that answered."""

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """What each did."""
        return self.raced or (Attempt(self.server, self.took, rcode_text(self.reply.rcode)),)


class NobodyAnswered(Unreachable):
    """No server had any answer; ``attempts`` says what each did."""

    def __init__(self, message: str, attempts: tuple[Attempt, ...] = ()) -> None:
        super().__init__(message, "pre_connect_dns")
        self.attempts = attempts


class ServerState(NamedTuple):
    """What is known of a server, for people."""

    server: str
    score: Score
    looping: bool
    strays: int
    connections: int


class Forwarder:
    """Asks groups of servers.  ``timeout``: seconds for one question in all, once it is its turn.

    ``is_own`` tells of a server that it is one of our own doors, as those of resolv.conf often are; it is never asked.
    """

    def __init__(
        self,
        ways: Ways,
        *,
        sources: Sources | None = None,
        timeout: float = 5.0,
        at_once: int = 512,
        waiting_most: int = 4096,
        chance: Callable[[], float] = random.random,
        is_own: Callable[[Upstream], bool] | None = None,
    ) -> None:
        self._ways, self._sources = ways, sources or Sources()
        self._timeout, self._waiting_most = timeout, waiting_most
        self._scores: Scores[Server] = Scores(chance)
        self._servers: dict[Upstream, Server] = {}
        self._lines: dict[Group, tuple[Server, ...] | None] = {}
        self._asking: Merged[tuple[Group, Wanted], Told] = Merged()
        self._is_own = is_own
        self._given_up: set[Group] = set()
        """Groups that went on refusing."""
        self._free = at_once
        """How many questions more may be on the wire."""
        self._queue: deque[Word[None]] = deque()
        """Those who wait for others' to be over."""
        self._probes: dict[int, Server] = {}

    def ask(
        self,
        name: bytes,
        rtype: int,
        rclass: int = 1,
        *,
        group: Group,
        do: bool = False,
        cd: bool = False,
        client_subnet: Ecs | None = None,
        mark: int = 0,
    ) -> Coroutine[Any, Any, Told]:
        """Ask the servers of ``group`` for the wire name ``name`` (lower case).

        An error of the servers (SERVFAIL ...) is an answer too, if none had a better one.  Raises ``NobodyAnswered``.
        """
        wanted = Wanted(name, rtype, rclass, do, cd, client_subnet, mark)
        return self._asking.run((group, wanted), self._in_turn, wanted, group)

    async def ask_both(
        self,
        name: bytes,
        rtype: int,
        rclass: int = 1,
        *,
        group: Group,
        fallback: Group,
        suspicion: Suspicion,
        do: bool = False,
        cd: bool = False,
        client_subnet: Ecs | None = None,
        mark: int = 0,
    ) -> Told:
        """Ask ``group``, and for addresses ``fallback`` too, whose answer counts if the other one is suspicious.

        Raises ``NobodyAnswered``.
        """

        async def one(servers: Group) -> Told:
            return await self.ask(
                name, rtype, rclass, group=servers, do=do, cd=cd, client_subnet=client_subnet, mark=mark
            )

        if rtype not in _ADDRESS_TYPES or rclass != 1:
            return await one(group)
        if suspicion.of_name(name_text(name)):
            return await one(fallback)
        outcome: list[Told | NobodyAnswered] = []

        async def other() -> None:
            try:
                outcome.append(await one(fallback))
            except NobodyAnswered as fault:
                outcome.append(fault)

        await in_task()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            try:
                told: Told | None = await one(group)
            except NobodyAnswered:
                told = None
            if told is not None and not suspicion.of_addresses(_addresses(told.reply)):
                nursery.cancel_scope.cancel()
                return told
        found = outcome[0]
        if isinstance(found, Unreachable):
            raise found
        return found

    def servers(self) -> tuple[ServerState, ...]:
        """Every server that was asked so far."""
        return tuple(
            ServerState(server.label, self._scores.of(server), server.looping, server.strays, server.connections)
            for server in self._servers.values()
        )

    def flush(self) -> None:
        """Forget what was learnt of servers, and close the connections to them."""
        self._scores.clear()
        self._given_up.clear()
        for server in self._servers.values():
            server.forget()
            server.looping = self._is_own is not None and self._is_own(server.upstream)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()

    # Loops

    async def look_for_loops(self, groups: Iterable[Group]) -> list[str]:
        """Send each server of ``groups`` a question only our own door knows; returns those it came back from.

        The door tells of it through :meth:`is_own_probe`.  A server found looping is not asked any more, until a
        later look finds it cured.
        """
        servers = dict.fromkeys(server for group in groups for server in self._line(group))
        async with trio.open_nursery() as nursery:
            for server in servers:
                nursery.start_soon(self._look_at, server)
        return [server.label for server in servers if server.looping]

    async def watch_for_loops(self, groups: Iterable[Group], every: float = 600.0) -> None:
        """Look now, and again and again, ``every`` so many seconds."""
        listed = tuple(groups)
        while True:
            await self.look_for_loops(listed)
            await trio.sleep(every)

    def is_own_probe(self, name: bytes) -> bool:
        """Whether a question that came in at our door (wire name in lower case) is one that we had sent out."""
        number = probe_number(name) if self._probes else None
        server = self._probes.get(number) if number is not None else None
        if server is None:
            return False
        if not server.looping:
            server.looping = True
            _log.warning("%s leads back to this server: it is not asked any more", server.label)
        return True

    async def _look_at(self, server: Server) -> None:
        number = secrets.randbits(64)
        self._probes[number] = server
        was, server.looping = server.looping, False
        try:
            with trio.move_on_after(_LOOP_PATIENCE) as patience:
                await server.ask(Wanted(probe_name(number), PROBE_TYPE))
            if patience.cancelled_caught:
                server.looping = server.looping or was
        except CyfsError:
            server.looping = server.looping or was
        finally:
            del self._probes[number]

    # One question

    def _line(self, group: Group) -> tuple[Server, ...]:
        line = self._lines.get(group)
        if line is None:
            instead = self._sources.instead_of
            line = tuple(self._server(real) for upstream in group.servers for real in instead(upstream))
            line = tuple(dict.fromkeys(line))
            if not any(upstream.scheme in ("system", "dhcp") for upstream in group.servers):
                self._lines[group] = line
        return line

    def _server(self, upstream: Upstream) -> Server:
        server = self._servers.get(upstream)
        if server is None:
            server = self._servers[upstream] = Server(upstream, self._ways)
            server.looping = self._is_own is not None and self._is_own(upstream)
        return server

    async def _in_turn(self, wanted: Wanted, group: Group) -> Told:
        if self._free > 0:
            self._free -= 1
        elif not await self._got_turn():
            raise _nobody_answered(wanted, (), "too many other questions are waiting")
        now = trio.current_time()
        try:
            plan = self._plan(wanted, group, now)
            begun: Datagram | None = None
            first = plan.order[0]
            if plan.at_once == 1 and first.quick:
                alone = RESEND[0]
                if len(plan.order) > 1:
                    alone = min(alone, self._scores.patience(first, group.strategy.kind))
                begun, reply = await _quickly(first, wanted, now, alone)
                if reply is not None:
                    took = trio.current_time() - now
                    self._scores.answered(first, took)
                    self._given_up.discard(group)
                    told = Told(reply, first.label, took)
                    return told if reply.ecs_scope is None else _for_all(wanted, told)
            await in_task()
            race = _Race(self._scores, wanted, group, plan, now, self._timeout)
            try:
                told = await race.run(begun, () if group in self._given_up else _PAUSES)
            except NobodyAnswered:
                if race.refused:
                    self._given_up.add(group)
                raise
            self._given_up.discard(group)
            return _for_all(wanted, told)
        finally:
            self._pass_on()

    async def _got_turn(self) -> bool:
        """Wait until somebody else's question is over and ours may go out; False: it would take too long."""
        if len(self._queue) >= self._waiting_most:
            return False
        turn: Word[None] = Word()
        self._queue.append(turn)
        got = False
        try:
            await in_task()
            with trio.move_on_after(self._timeout):
                await turn
                got = True
        finally:
            if not got:
                if turn in self._queue:
                    self._queue.remove(turn)
                else:  # it was given to us as we left
                    self._pass_on()
        return got

    def _pass_on(self) -> None:
        """A question is over: the turn is the next one's."""
        if self._queue:
            self._queue.popleft().say(None)
        else:
            self._free += 1

    def _plan(self, wanted: Wanted, group: Group, now: float) -> Plan[Server]:
        """Whom to ask; who was set back is probed besides.  Raises ``NobodyAnswered``."""
        line: Sequence[Server] = self._lines.get(group) or self._line(group)
        if not line:
            raise _nobody_answered(wanted, (), "there is no server for it")
        for server in line:
            if server.looping:
                line = [server for server in line if not server.looping]
                break
        if not line:
            raise _nobody_answered(wanted, (), "all servers lead back to us")
        plan = self._scores.plan(group.strategy, line, now)
        if plan.probe is not None:
            trio.lowlevel.spawn_system_task(self._probe, plan.probe, wanted, name="probe of a name server")
        return plan

    async def _probe(self, server: Server, wanted: Wanted) -> None:
        """Ask a server that was set back, for no client; a system task, so nothing may leave it."""
        begun = trio.current_time()
        why = "silent"
        try:
            with trio.move_on_after(self._timeout):
                reply = await server.ask(wanted)
                why = "" if reply.rcode in _SOUND else rcode_text(reply.rcode)
        except CyfsError as fault:
            why = str(fault)
        except Exception:
            _log.exception("probe of %s", server.label)
        if why:
            self._scores.failed(server, trio.current_time(), why)
        else:
            self._scores.answered(server, trio.current_time() - begun)
            _log.info("%s answers again", server.label)


async def _quickly(server: Server, wanted: Wanted, now: float, patience: float) -> tuple[Datagram | None, Reply | None]:
    """One datagram out and a plain sound reply back in time; or the datagram whose reply is still to come."""
    try:
        begun = server.begin(wanted, now)
    except CyfsError:
        return None, None
    kept = False
    try:
        data = await begun.expect(now + patience)
        if data is not None:
            reply = server.taken(wanted, begun, data)
            if reply is not None and reply.rcode in _SOUND:
                return None, reply
            begun.hold(data)
        kept = True
    except Forged as fault:
        begun.hold(fault)  # asked again from the start, the guesser would have as many guesses again
        kept = True
    except CyfsError:
        return None, None
    finally:
        if not kept:
            server.strays += begun.strays
            begun.close()
    return begun, None


class _Race:
    """One question while it is asked of several."""

    def __init__(
        self, scores: Scores[Server], wanted: Wanted, group: Group, plan: Plan[Server], now: float, timeout: float
    ) -> None:
        self._scores, self._wanted, self._plan, self._timeout = scores, wanted, plan, timeout
        self._kind = group.strategy.kind
        self._begun_at = now
        self._running: dict[Server, float] = {}
        self._attempts: list[Attempt] = []
        self._faults: list[tuple[Server, str]] = []
        self._unsound: list[tuple[Server, str]] = []
        self._best: tuple[Reply, Server] | None = None
        self._won = False
        self._failed = trio.Event()
        self.refused = False
        """Somebody is there and takes no questions."""

    async def run(self, begun: Datagram | None, pauses: Sequence[float]) -> Told:
        """``pauses``: seconds after which to try again, each time nobody had an answer and somebody refused."""
        with trio.CancelScope(deadline=self._begun_at + self._timeout):
            await self._round(begun)
            for pause in pauses:
                if self._best is not None or not self.refused:
                    break
                await trio.sleep(pause)
                self._attempts.clear()
                self._faults.clear()
                self.refused = False
                await self._round()
        now = trio.current_time()
        self._judge(now)
        if self._best is None:
            raise _nobody_answered(self._wanted, tuple(self._attempts))
        reply, server = self._best
        return Told(reply, server.label, now - self._begun_at, tuple(self._attempts))

    async def _round(self, begun: Datagram | None = None) -> None:
        order, at_once = self._plan.order, self._plan.at_once
        since = trio.current_time() if begun is None else self._begun_at
        async with trio.open_nursery() as nursery:
            for at, server in enumerate(order, 1):
                nursery.start_soon(self._attempt, server, begun, nursery.cancel_scope)
                begun = None
                if at_once <= at < len(order):
                    await self._pause(server, since if at == 1 else trio.current_time())

    async def _pause(self, server: Server, since: float) -> None:
        """Until ``server`` has had its time, or one of those asked has failed."""
        with trio.move_on_at(since + self._scores.patience(server, self._kind)):
            await self._failed.wait()
        self._failed = trio.Event()

    async def _attempt(self, server: Server, begun: Datagram | None, scope: trio.CancelScope) -> None:
        since = self._running[server] = self._begun_at if begun is not None else trio.current_time()
        try:
            reply = await server.ask(self._wanted, begun)
        except CyfsError as fault:
            outcome = str(fault)
            self._faults.append((server, outcome))
            self.refused |= isinstance(fault, Unreachable) and fault.reason == "connect_refused"
        else:
            outcome = rcode_text(reply.rcode)
            if reply.rcode not in _SOUND:
                self._unsound.append((server, outcome))
                self._best = self._best or (reply, server)
            elif not self._won:
                self._won, self._best = True, (reply, server)
                self._scores.answered(server, trio.current_time() - since)
                scope.cancel()
        del self._running[server]
        self._attempts.append(Attempt(server.label, trio.current_time() - since, outcome))
        self._failed.set()

    def _judge(self, now: float) -> None:
        """Learn from how it ended; when nobody answered, our own link may be down, which says nothing of servers."""
        scores, won = self._scores, self._won
        for server, since in self._running.items():
            outcome = "overtaken" if won else f"no answer in {self._timeout:g} s"
            self._attempts.append(Attempt(server.label, now - since, outcome))
            if self._best is not None:
                scores.overtaken(server, now - since, now, self._kind)
            else:
                scores.only_noted(server, outcome)
        for server, why in self._faults:
            if self._best is not None:
                scores.failed(server, now, why)
            else:
                scores.only_noted(server, why)
        for server, why in self._unsound:
            if won:
                scores.unsound(server, now, why)
            else:
                scores.only_noted(server, why)


def _for_all(wanted: Wanted, told: Told) -> Told:
    """RFC 7871 section 7.3: where no client's subnet was told, the answer is for everybody."""
    if wanted.subnet is not None or told.reply.ecs_scope is None:
        return told
    return told._replace(reply=told.reply._replace(ecs_scope=None))


def _addresses(reply: Reply) -> list[str]:
    """The addresses in an answer, as text."""
    families = {1: socket.AF_INET, 28: socket.AF_INET6}
    return [
        socket.inet_ntop(families[rtype], data)
        for _, rtype, _, data in records(reply, 0)
        if rtype in families and len(data) == (4 if rtype == 1 else 16)
    ]


def _nobody_answered(wanted: Wanted, attempts: tuple[Attempt, ...], why: str = "") -> NobodyAnswered:
    told = why or "; ".join(f"{attempt.server}: {attempt.outcome}" for attempt in attempts)
    question = f"{name_text(wanted.name)}. {rtype_text(wanted.rtype)}"
    return NobodyAnswered(f"{question}: no name server answered ({told})", attempts)
