"""Doors of kRPC: HTTP at ``/kapi/<service>``, by a unix socket, a TCP port, and the tunnels of other devices.

They are doors of the house's one HTTP server: a bounded head and body, each in its time, no page of a browser, and only
the names of the listener as ``Host``.  Who calls is what the token in a request proves, or, where there is none, the
device whose key holds the tunnel that it came by.  Neither a local port nor the unix socket proves anything.

What this process does not answer, its local doors pass on to where it is answered, with the caller's token; so a
program of this machine calls every service of the zone at one place.  What comes by a tunnel goes no further.  A call
that was passed on comes by an offer of its own: it proves no device, since it is not that device which calls.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import trio

from cyfs_gateway.flow import Identity
from cyfs_ns.control.access import Door
from cyfs_ns.control.router import Route, Router
from cyfs_ns.errors import ConfigFault, Refused
from cyfs_ns.identity.strictjson import Json
from cyfs_ns.io.control.conversation import Call, Handler, Reply, Site, converse
from cyfs_ns.io.control.entrance import Entrance, close_entrances, open_tcp, open_unix, serve_entrances
from tunnels.endpoint import Endpoint
from tunnels.io.stream import EndpointStream
from zone.hub.throttle import Throttle
from zone.io.krpc.dispatch import Dispatcher, Limits, Rooms
from zone.io.krpc.whence import whence
from zone.krpc.batch import Batch, Outcome, Plain
from zone.krpc.caller import NOBODY, Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import SECONDS, CallContext
from zone.krpc.wire import MOST_REQUEST, Single, read_request, write_reply

PORT: Final = 3180
"""Where services of a node are called, by TCP on loopback."""
OFFER: Final = "kapi"
"""What peers ask for through their tunnels (``kapi.invalid``)."""
PASSED_ON: Final = "kapi-passed-on"
"""What gateways ask for that pass on calls of others."""
MOST_STREAMS: Final = 32
"""Streams of one peer; our own clients have half as many."""

MOST_OF_VISITORS: Final = 512 * 1024
"""Bytes of one's request: it is held before anybody knows who it is."""

_HEADERS: Final = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))

_VISITOR: Final = Caller(name="visitor", subjects=())
"""Whoever comes from outside without a token: all of them together take no room from programs of this machine."""
_FROM_OUTSIDE: Final = Limits(caller=6, behind=12, all=12)
"""Calls of visitors that are passed on: fewer than there are connections to one place, so that programs get there."""

Verify = Callable[[str], Caller]
"""Who holds a token.  Raises ``KrpcFault`` (``UNAUTHENTICATED``, ``EXPIRED``, ``UNAVAILABLE``)."""
Known = Callable[[Identity], Caller | None]
"""Who a device is in its zone; None: nobody who may call at all."""


class Elsewhere(Protocol):
    """Passes calls on."""

    def takes(self, service: str) -> bool:
        """Whether calls of ``service`` are for others to answer."""

    async def ask(self, service: str, asked: Single | Batch, token: str, context: CallContext) -> Json:
        """What they answer whoever holds ``token``, or nobody.  Raises ``KrpcFault``."""


class _ForVisitors:
    """``elsewhere`` for whoever comes from outside.  Who holds a token may not be known here, so places are counted.

    To whom a call is passed on, it comes from this machine: whoever tries to log in again and again would use up the
    patience with all others here.
    """

    def __init__(self, elsewhere: Elsewhere) -> None:
        self._elsewhere, self._rooms = elsewhere, Rooms(_FROM_OUTSIDE)
        self._tries = Throttle(burst=20, seconds=5)
        self.takes = elsewhere.takes

    async def ask(self, service: str, asked: Single | Batch, token: str, context: CallContext) -> Json:
        if not token and (wait := self._tries.take(context.source, trio.current_time())):
            raise KrpcFault(Code.LIMITED, f"too many calls without a token; wait {wait:.0f} s")
        with self._rooms.admitted(_VISITOR, context.source):
            return await self._elsewhere.ask(service, asked, token, context)


@dataclass(frozen=True, slots=True)
class _Visit:
    """What came by one door."""

    dispatcher: Dispatcher
    verify: Verify
    proven: Callable[[], Caller]
    """Who it is without a token: as of now, since a stream may outlast that."""
    source: str = ""
    """The device at the far end, a visitor's address, or who has connected to a local door (``whence.py``)."""
    elsewhere: Elsewhere | None = None


class KrpcServer:
    """The doors to the services of ``dispatcher``, and to others by ``elsewhere``."""

    def __init__(
        self, dispatcher: Dispatcher, verify: Verify, known: Known, elsewhere: Elsewhere | None = None
    ) -> None:
        self._dispatcher, self._verify, self._known, self._elsewhere = dispatcher, verify, known, elsewhere
        self._for_visitors = None if elsewhere is None else _ForVisitors(elsewhere)
        self._peers: Counter[str] = Counter()

    async def serve(
        self,
        *,
        unix: Path | None = None,
        tcp: tuple[str, int] | None = None,
        task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer until cancelled; ``started`` gets the URLs (``unix:/path``, ``http://127.0.0.1:3180``).

        Raises ``ConfigFault`` where an address cannot be had.
        """
        entrances: list[Entrance] = []
        try:
            if unix is not None:
                entrances.append(_unix_entrance(unix))
            if tcp is not None:
                entrances += await open_tcp(tcp, Door(), what="kRPC")
            async with trio.open_nursery() as nursery:
                site = self._site(lambda: NOBODY, elsewhere=self._elsewhere)
                nursery.start_soon(serve_entrances, site, entrances, _met)
                task_status.started(tuple(entrance.url for entrance in entrances))
        finally:
            close_entrances(entrances)

    async def serve_peer(self, identity: Identity, pipe: Endpoint) -> None:
        """Answer the calls on a stream of a peer; an ``Offer``.  Raises ``Refused``."""
        await self._serve_peer(identity, pipe, lambda: self._known(identity) or NOBODY)

    async def serve_passed_on(self, identity: Identity, pipe: Endpoint) -> None:
        """As :meth:`serve_peer`, for calls that a peer passes on: only tokens say who calls."""
        await self._serve_peer(identity, pipe, lambda: NOBODY)

    async def serve_visitor(self, host: str, stream: trio.abc.Stream, source: str, port: int) -> None:
        """Answer calls to ``https://HOST:PORT/kapi/…`` from ``source``, an address or the network that it is counted
        by; ``stream`` is inside of TLS.  Only tokens say who calls."""
        door = Door(scheme="https", hosts=frozenset((host, f"{host}:{port}")))
        visit = _Visit(self._dispatcher, self._verify, lambda: _VISITOR, source, self._for_visitors)
        await converse(stream, door, Site(visit, _FOR_VISITORS, changes=False))

    async def _serve_peer(self, identity: Identity, pipe: Endpoint, proven: Callable[[], Caller]) -> None:
        device = identity.device or identity.did
        if self._known(identity) is None:
            raise Refused(f"{device} is no device of this zone")
        if self._peers[device] >= MOST_STREAMS:
            raise Refused(f"{device} has {MOST_STREAMS} streams of calls already")
        self._peers[device] += 1
        try:
            async with EndpointStream(pipe) as stream:
                await converse(stream, Door(), self._site(proven, device))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer has gone
        finally:
            self._peers[device] -= 1
            if not self._peers[device]:
                del self._peers[device]

    def _site(self, proven: Callable[[], Caller], source: str = "", elsewhere: Elsewhere | None = None) -> Site[_Visit]:
        return Site(_Visit(self._dispatcher, self._verify, proven, source, elsewhere), _ROUTER, changes=False)


def _met(visit: _Visit, stream: trio.SocketStream) -> _Visit:
    return replace(visit, source=whence(stream))


def _unix_entrance(path: Path) -> Entrance:
    try:
        listener = open_unix(path)
    except OSError as fault:
        raise ConfigFault(f"kRPC: cannot listen on {path}: {fault.strerror}") from fault
    return Entrance(listener=listener, door=Door(), url=f"unix:{path}", path=path)


async def _call(call: Call[_Visit]) -> Reply:
    seq, trace = 0, ""
    outcome: Outcome
    try:
        request = read_request(call.body)
        seq, trace = request.seq, request.trace
        context = CallContext(
            seconds=request.seconds or SECONDS, trace=trace or secrets.token_hex(8), source=call.app.source
        )
        service, elsewhere = call.name("service"), call.app.elsewhere
        if elsewhere is not None and elsewhere.takes(service):
            outcome = Plain(await elsewhere.ask(service, request.asked, request.token, context))
        else:
            caller = call.app.verify(request.token) if request.token else call.app.proven()
            outcome = Plain(await call.app.dispatcher.answer(caller, service, request.asked, context))
    except KrpcFault as fault:
        outcome = fault
    status, body = write_reply(seq, trace, outcome)
    return Reply(status, body, _HEADERS)


def _router(most_request: int) -> Router[Handler[_Visit]]:
    return Router((Route("POST", "/kapi/{service}", _call, most_request),))


_ROUTER: Final = _router(MOST_REQUEST)
_FOR_VISITORS: Final = _router(MOST_OF_VISITORS)
