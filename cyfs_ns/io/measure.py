"""One server, asked one question after the other and timed: what ``resolve`` shows and ``bench`` counts.

Here nothing is remembered, merged or asked of somebody else, and replies come back as they were sent.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import trio

from cyfs_ns import edns
from cyfs_ns.asking import Asking
from cyfs_ns.edns import Ecs
from cyfs_ns.errors import BadWire, CyfsError, Unreachable
from cyfs_ns.histogram import Summary, summary
from cyfs_ns.io.datagram import Datagram
from cyfs_ns.io.dial import plain_dial
from cyfs_ns.io.exchange import RESEND, Server, Ways
from cyfs_ns.io.resolver import Resolver
from cyfs_ns.query import TC, build_upstream_query
from cyfs_ns.upstream import Upstream
from cyfs_ns.wire import HEADER, name_wire

_READ = 65536
_RD_BYTE = 0xFE
_CONTEXTS: dict[bool, ssl.SSLContext] = {}
"""Reading the system's roots takes longer than asking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A question as it is to be sent."""

    name: bytes
    """Wire name, in the case it shall be sent in."""
    rtype: int
    rclass: int = 1
    do: bool = False
    cd: bool = False
    rd: bool = True
    subnet: Ecs | None = None
    cookie: bytes = b""

    def query(self, ident: int, padding: int = 0) -> bytes:
        built = build_upstream_query(
            self.name, self.rtype, self.rclass, ident,
            do=self.do, cd=self.cd, ecs=self.subnet, cookie=self.cookie or None, padding=padding,
        )  # fmt: skip
        return built if self.rd else built[:2] + bytes([built[2] & _RD_BYTE]) + built[3:]


class Heard(NamedTuple):
    """A reply as it came."""

    data: bytes
    seconds: float
    """From the question to the reply, on a way that was already open."""
    set_up: float
    """What opening the way took before; 0.0 over UDP or when it was open already."""
    transport: str
    """``udp``, ``tcp``, ``tls``, ``https`` or ``http``."""


class Line:
    """The way to one server.  Use in an ``async with``; every fault is a ``CyfsError``."""

    def __init__(self, upstream: Upstream, *, again: bool = True) -> None:
        """``again``: send a datagram again when there is no reply, and ask over TCP when it is cut."""
        if upstream.why_not:
            raise Unreachable(upstream.why_not, "unsupported_scheme")
        if upstream.scheme == "rcode":
            raise Unreachable("there is no server behind rcode://", "unsupported_scheme")
        self.upstream, self._again = upstream, again
        self._ways = Ways(dial=plain_dial(), contexts=_CONTEXTS)
        self._server = Server(upstream, self._ways)
        self._address = upstream.address
        self._stream: trio.abc.Stream | None = None
        self._asking: Asking | None = None

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hang_up()

    async def hang_up(self) -> None:
        """Close the connection; the next question opens another."""
        stream, self._stream, self._asking = self._stream, None, None
        if stream is not None:
            await trio.aclose_forcefully(stream)

    async def find(self) -> None:
        """Find the server's address, if it is given by name, so that nothing timed has to wait for it."""
        if not self._address:
            self._address = (await Resolver().addresses(self.upstream.host))[0]

    async def connect(self) -> float:
        """Open the way unless it is open; seconds it took."""
        await self.find()
        if self._asking is not None and not self._asking.over:
            return 0.0
        await self.hang_up()
        if self.upstream.scheme == "udp":
            return 0.0
        begun = trio.current_time()
        self._stream, self._asking = await self._server.open(self._address)
        return trio.current_time() - begun

    async def ask(self, wish: Wish) -> Heard:
        """One question, one reply; the limit of time is the caller's."""
        set_up = await self.connect()
        if self.upstream.scheme != "udp":
            encrypted = self.upstream.scheme in ("tls", "https")
            begun = trio.current_time()
            data = await self._over_stream(wish.query(0, edns.QUERY_BLOCK if encrypted else 0))
            return Heard(data, trio.current_time() - begun, set_up, self.upstream.scheme)
        begun = trio.current_time()
        data = await self._over_udp(wish)
        heard = Heard(data, trio.current_time() - begun, 0.0, "udp")
        if self._again and HEADER.unpack_from(data)[1] & TC:
            async with Line(_over_tcp(self.upstream)) as other:
                return await other.ask(wish)
        return heard

    async def _over_udp(self, wish: Wish) -> bytes:
        upstream = self.upstream
        datagram = Datagram(
            self._address, upstream.port, wish.query(secrets.randbits(16)), wish.name,
            interface=upstream.via, source=upstream.source,
        )  # fmt: skip
        try:
            for patience in (*RESEND, float("inf")) if self._again else (float("inf"),):
                data = await datagram.receive(trio.current_time() + patience)
                if data is not None:
                    if len(data) < HEADER.size:
                        raise BadWire("a reply without a header")
                    return data
                datagram.send_again()
        finally:
            datagram.close()
        raise Unreachable("no answer", "connect_timeout")

    async def _over_stream(self, query: bytes) -> bytes:
        stream, asking = self._stream, self._asking
        assert stream is not None and asking is not None
        ticket: int | None = None
        try:
            while True:
                if ticket is None and asking.room:
                    ticket = asking.ask(query)
                while data := asking.data_to_send():
                    await stream.send_all(data)
                received = await stream.receive_some(_READ)
                if not received:
                    raise Unreachable("the server closed the connection", "other")
                for replied in asking.receive(bytes(received)):
                    if replied.ticket == ticket:
                        if isinstance(replied.reply, bytes):
                            return replied.reply
                        raise replied.reply
        except (trio.BrokenResourceError, trio.ClosedResourceError) as fault:
            await self.hang_up()
            raise Unreachable(f"connection lost: {fault.__cause__ or fault}", "other") from fault
        except BaseException:
            # What is on its way would be taken for the reply to the next question.
            with trio.CancelScope(shield=True):
                await self.hang_up()
            raise


def _over_tcp(upstream: Upstream) -> Upstream:
    return replace(upstream, scheme="tcp")


# Many questions


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What each server is asked."""

    names: tuple[str, ...]
    count: int = 50
    """Questions of each kind."""
    rate: float = 20.0
    """Questions a second to one server, at most."""
    timeout: float = 2.0
    """Seconds after which a question counts as lost."""
    set_ups: int = 5
    """How many connections are opened, where there are such."""


@dataclass(slots=True)
class Measured:
    """What one server did.  Times in seconds."""

    server: str
    cached: list[float] = field(default_factory=list)
    """Names asked before."""
    uncached: list[float] = field(default_factory=list)
    """Names nobody asked before: the server has to ask around."""
    set_up: list[float] = field(default_factory=list)
    """Opening a connection, handshakes included."""
    lost: dict[str, int] = field(default_factory=lambda: {"cached": 0, "uncached": 0, "set-up": 0})
    fault: str = ""
    """The last thing that went wrong."""

    def summaries(self) -> Mapping[str, Summary]:
        """By kind of question."""
        return {
            "cached": summary(self.cached, self.lost["cached"]),
            "uncached": summary(self.uncached, self.lost["uncached"]),
            "set-up": summary(self.set_up, self.lost["set-up"]),
        }


def steps_of(course: Course) -> int:
    """How many steps :func:`measure` tells of for one server."""
    return min(course.count, len(course.names)) + 2 * course.count


async def measure(
    upstreams: Sequence[Upstream], course: Course, step: Callable[[], None] = lambda: None
) -> list[Measured]:
    """Put all servers through the course at the same time, so that what disturbs one disturbs all.

    Names are asked once unmeasured; then known names and made-up ones below them take turns.  ``step`` is called
    after every question.
    """
    found = [Measured(str(upstream)) for upstream in upstreams]
    async with trio.open_nursery() as nursery:
        for place, (upstream, measured) in enumerate(zip(upstreams, found, strict=True)):
            head_start = place / len(upstreams) / course.rate
            nursery.start_soon(_run, upstream, course, measured, head_start, step)
    return found


async def _run(
    upstream: Upstream, course: Course, measured: Measured, head_start: float, step: Callable[[], None]
) -> None:
    try:
        line = Line(upstream, again=False)
        with trio.fail_after(course.timeout * 2):
            await line.find()
    except (CyfsError, trio.TooSlowError) as fault:
        measured.fault = str(fault) or "its address was not found in time"
        for kind in ("cached", "uncached"):
            measured.lost[kind] = course.count
        for _ in range(steps_of(course)):
            step()
        return
    due = trio.current_time() + head_start
    every = max(1, course.count // max(1, course.set_ups))
    async with line:

        async def asked(name: str, kind: str) -> None:
            nonlocal due
            await trio.sleep_until(due)
            # A slow server is not made to catch up.
            due = max(due, trio.current_time() - 1 / course.rate) + 1 / course.rate
            await _asked(line, name, kind, measured, course.timeout)
            step()

        for name in course.names[: course.count]:
            await asked(name, "")
        for turn in range(course.count):
            if turn % every == 0:
                await line.hang_up()
            name = course.names[turn % len(course.names)]
            await asked(f"{secrets.token_hex(6)}.{name}", "uncached")
            await asked(name, "cached")


async def _asked(line: Line, name: str, kind: str, measured: Measured, timeout: float) -> None:
    wish = Wish(name=name_wire(name), rtype=1)
    part = "set-up"
    try:
        with trio.fail_after(timeout):
            set_up = await line.connect()
            if set_up:
                measured.set_up.append(set_up)
            part = kind
            heard = await line.ask(wish)
    except (CyfsError, trio.TooSlowError) as fault:
        measured.fault = str(fault) or f"no answer in {timeout:g} s"
        if part == "set-up":
            measured.lost["set-up"] += 1
        if kind:
            measured.lost[kind] += 1
        return
    if kind:
        (measured.cached if kind == "cached" else measured.uncached).append(heard.seconds)
