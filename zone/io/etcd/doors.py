"""How members reach each other: sockets in the directory of the member here, and streams through tunnels between OODs.

Each OOD offers its peers a way to the socket where its member listens, to devices that the zone document names as OODs
and to nobody else.  For the member of each other OOD there is a socket here with that member's name; whoever connects
to it (the member here) is joined with a stream to what that OOD offers.  So an OOD needs no address: that it has a
tunnel, made by either side, is enough.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import trio

from cyfs_gateway.flow import Identity
from cyfs_gateway.host import Offer
from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import Did
from rtcp.io.pipe import TcpPipe
from tunnels.endpoint import Endpoint
from tunnels.io.reactor import Reactor
from tunnels.io.relay import Relay
from zone.etcd.seats import Seat, owner_of, socket_name

_IDLE: Final = 15.0
"""Seconds of silence after which a way is dead: members say something at least every two, or have nothing to say."""
_PATIENCE: Final = 10.0
"""Seconds for another OOD to take a stream."""
_COOL: Final = 0.5
"""Seconds for which nobody is asked again who could not be reached; etcd asks as fast as it can."""
_MOST: Final = 64
"""Connections of one member at once."""
_BACKLOG: Final = 64

_log = logging.getLogger("cyfs.etcd")


class DoorHost(Protocol):
    """What this needs of the gateway (``cyfs_gateway/host.py``)."""

    @property
    def reactor(self) -> Reactor: ...
    def register_offer(self, name: str, serve: Offer) -> None: ...
    async def call_offer(self, peer: Did, name: str) -> Endpoint: ...


def judged(who: Identity, seats: Iterable[Seat]) -> Seat:
    """The seat of whoever asks.  Raises ``Refused``."""
    for seat in seats:
        if who.device == str(seat.device):
            return seat
    raise Refused(f"{who.did} is no OOD of this zone")


class Doors:
    """Those of the member in ``folder``.  ``seats`` gives the OODs of the zone, as they are now.  Needs :meth:`run`."""

    def __init__(self, host: DoorHost, zone: str, folder: Path, seats: Callable[[], tuple[Seat, ...]]) -> None:
        self._host, self._folder, self._seats = host, folder, seats
        self._name = f"etcd-peer.{zone}"
        self._doors: dict[str, trio.CancelScope] = {}
        self._cold: dict[str, float] = {}
        self._nursery: trio.Nursery | None = None
        self.own = ""
        """The URL of the member here; empty: there is none."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._host.register_offer(self._name, self._serve)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def want(self, urls: Iterable[str]) -> None:
        """Have a door for each of ``urls``, and no other.  Raises ``OSError``."""
        wanted = {url for url in urls if url != self.own}
        for url in self._doors.keys() - wanted:
            self._doors.pop(url).cancel()
            self._cold.pop(url, None)
        for url in wanted - self._doors.keys():
            if self._nursery is not None:
                listener = self._listener(url)
                self._doors[url] = scope = trio.CancelScope()
                self._nursery.start_soon(self._stand, url, listener, scope)

    def _listener(self, url: str) -> socket.socket:
        path = self._folder / socket_name(url)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with _Reachable(path) as short:
                listener.bind(short)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    async def _stand(self, url: str, listener: socket.socket, scope: trio.CancelScope) -> None:
        """One door, until it is closed; those who came by it leave with it."""
        path = self._folder / socket_name(url)
        with listener, scope:
            async with trio.open_nursery() as nursery:
                while True:
                    await trio.lowlevel.wait_readable(listener)
                    try:
                        sock, _ = listener.accept()
                    except BlockingIOError:
                        continue
                    sock.setblocking(False)
                    near = TcpPipe(sock.family, sock.type, sock.proto, sock.detach())
                    if len(nursery.child_tasks) >= _MOST or self._cold.get(url, 0.0) > trio.current_time():
                        near.close()
                        continue
                    nursery.start_soon(self._lead, url, near)
        # The directory may be gone with everything else.
        with suppress(OSError):
            if url not in self._doors:
                path.unlink()

    async def _lead(self, url: str, near: TcpPipe) -> None:
        """Join ``near`` with a stream to the member at ``url``."""
        try:
            seat = owner_of(url, self._seats())
            if seat is None:
                raise Refused(f"{url} is of no OOD of this zone")
            with trio.fail_after(_PATIENCE):
                far = await self._host.call_offer(seat.did, self._name)
        except (Refused, Unreachable, OSError, trio.TooSlowError) as fault:
            self._cold[url] = trio.current_time() + _COOL
            near.close()
            _log.debug("no way to %s: %s", url, fault)
            return
        except BaseException:
            near.close()
            raise
        await self._carry(near, far)

    async def _serve(self, who: Identity, pipe: Endpoint) -> None:
        """A stream of another OOD, for the member here."""
        judged(who, self._seats())
        if not self.own:
            raise Unreachable("no member runs here")
        near = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with _Reachable(self._folder / socket_name(self.own)) as short:
                near.connect(short)
        except OSError as fault:
            near.close()
            raise Unreachable(f"the member here takes nobody: {fault}", "connect_refused") from fault
        await self._carry(TcpPipe(near.family, near.type, near.proto, near.detach()), pipe)

    async def _carry(self, near: TcpPipe, far: Endpoint) -> None:
        """Join both until either ends.  Takes them over."""
        over = trio.Event()
        self._host.reactor.freshen()
        relay = Relay(self._host.reactor, near, far, idle=_IDLE, on_close=lambda *_: over.set())
        try:
            await over.wait()
        finally:
            relay.close("the door is closed")


class _Reachable:
    """A path by which a socket can be bound or reached however deep its directory is (``unix(7)``: 107 octets)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._directory}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._directory)
