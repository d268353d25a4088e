"""Doors of kRPC: HTTP at ``/kapi/<service>``, by a unix socket, a TCP port, and the tunnels of other devices.

They are doors of the house's one HTTP server: a bounded head and body, each in its time, no page of a browser, and only
the names of the listener as ``Host``.  Who calls is what the token in a request proves, or, where there is none, the
device whose key holds the tunnel that it came by.  Neither a local port nor the unix socket proves anything.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from cyfs_gateway.flow import Identity
from cyfs_ns.control.access import Door
from cyfs_ns.control.router import Route, Router
from cyfs_ns.errors import ConfigFault, Refused
from cyfs_ns.io.control.conversation import Call, Handler, Reply, Site, converse
from cyfs_ns.io.control.entrance import Entrance, close_entrances, open_tcp, open_unix, serve_entrances
from tunnels.endpoint import Endpoint
from tunnels.io.stream import EndpointStream
from zone.io.krpc.dispatch import Dispatcher
from zone.krpc.batch import Outcome, Plain
from zone.krpc.caller import NOBODY, Caller
from zone.krpc.faults import KrpcFault
from zone.krpc.service import SECONDS, CallContext
from zone.krpc.wire import MOST_REQUEST, read_request, write_reply

PORT: Final = 3180
"""Where services of a node are called, by TCP on loopback."""
OFFER: Final = "kapi"
"""What peers ask for through their tunnels (``kapi.invalid``)."""
MOST_STREAMS: Final = 32
"""Streams of one peer; our own clients have half as many."""

_HEADERS: Final = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))

Verify = Callable[[str], Caller]
"""Who holds a token.  Raises ``KrpcFault`` (``UNAUTHENTICATED``, ``EXPIRED``, ``UNAVAILABLE``)."""
Known = Callable[[Identity], Caller | None]
"""Who a device is in its zone; None: nobody who may call at all."""


@dataclass(frozen=True, slots=True)
class _Visit:
    """What came by one door."""

    dispatcher: Dispatcher
    verify: Verify
    proven: Callable[[], Caller]
    """Who it is without a token: as of now, since a stream may outlast that."""
    source: str = ""
    """The device at the far end; by a door of this machine, it is not known."""


class KrpcServer:
    """The doors to the services of ``dispatcher``."""

    def __init__(self, dispatcher: Dispatcher, verify: Verify, known: Known) -> None:
        self._dispatcher, self._verify, self._known = dispatcher, verify, known
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
                nursery.start_soon(serve_entrances, self._site(lambda: NOBODY), entrances)
                task_status.started(tuple(entrance.url for entrance in entrances))
        finally:
            close_entrances(entrances)

    async def serve_peer(self, identity: Identity, pipe: Endpoint) -> None:
        """Answer the calls on a stream of a peer; an ``Offer``.  Raises ``Refused``."""
        device = identity.device or identity.did
        if self._known(identity) is None:
            raise Refused(f"{device} is no device of this zone")
        if self._peers[device] >= MOST_STREAMS:
            raise Refused(f"{device} has {MOST_STREAMS} streams of calls already")
        self._peers[device] += 1
        try:
            async with EndpointStream(pipe) as stream:
                await converse(stream, Door(), self._site(lambda: self._known(identity) or NOBODY, device))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer has gone
        finally:
            self._peers[device] -= 1
            if not self._peers[device]:
                del self._peers[device]

    def _site(self, proven: Callable[[], Caller], source: str = "") -> Site[_Visit]:
        return Site(_Visit(self._dispatcher, self._verify, proven, source), _ROUTER, changes=False)


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
        caller = call.app.verify(request.token) if request.token else call.app.proven()
        context = CallContext(
            seconds=request.seconds or SECONDS, trace=trace or secrets.token_hex(8), source=call.app.source
        )
        outcome = Plain(await call.app.dispatcher.answer(caller, call.name("service"), request.asked, context))
    except KrpcFault as fault:
        outcome = fault
    status, body = write_reply(seq, trace, outcome)
    return Reply(status, body, _HEADERS)


_ROUTES: Final[Iterable[Route[Handler[_Visit]]]] = (Route("POST", "/kapi/{service}", _call, MOST_REQUEST),)
_ROUTER: Final = Router(_ROUTES)
