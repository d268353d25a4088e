"""The doors of a name server: which sockets a configuration asks for, and how they come and go.

A change binds what is missing beside what stands.  Our own sockets may then be several at one port: the new door before
the old one has left, one for each worker, ``127.0.0.1:53`` beside ``:53``.  The kernel allows that by ``SO_REUSEPORT``,
which would as well let in a second server that somebody started by mistake, and give it half of the questions.  So the
first socket at a port is bound alone, and the option is set on ours only while others of ours are bound.  Workers keep
it, since the kernel spreads the clients among them by it.

Clients are let in when everything is bound, and not before: many take a port that opens for a sign that the server is
there, and what they ask by UDP next must not be refused.

A door that leaves loses nothing: a datagram socket is connected to itself, whereupon the kernel passes it over for new
questions, and what it holds is answered; a listener lets in who waits in its queue, and its connections end when they
have been quiet for a second.  After ``_LEAVE_SECONDS`` the rest is cut.

An interface or an address that is not there yet keeps nobody waiting.  A socket of an interface is bound when there is
one of that name.  A socket of an address is bound at once (``IP_FREEBIND``), so that it answers as soon as the address
has come; until then it may well be a slip of the pen, and log and status say so.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

import trio

from cyfs_ns.config.dns import DoorsConfig
from cyfs_ns.errors import ConfigFault
from cyfs_ns.hot import Hot
from cyfs_ns.io.datagrams import open_udp
from cyfs_ns.io.dial import interface_index
from cyfs_ns.io.https import ALPN, https_door
from cyfs_ns.io.selfsigned import ensure_certificate, memory_certificate
from cyfs_ns.io.servertls import ServerTls
from cyfs_ns.io.sources import is_local
from cyfs_ns.io.streams import StreamDoor, StreamHall, bind_tcp, serve_door, tcp_door, tls_door
from cyfs_ns.io.udp import Serve, serve_udp
from cyfs_ns.io.workers import Crew, WorkerSocket
from cyfs_ns.links import AddressAppeared, AddressGone, Change

_AGAIN_SECONDS = 1.0
_LEAVE_SECONDS = 5.0
_WILDCARDS = ("", "0.0.0.0", "::")

_log = logging.getLogger("cyfs.dns")


class DoorKey(NamedTuple):
    """One socket that questions come in by; what is equal stays open over a change of configuration."""

    kind: str
    """``udp``, ``tcp``, ``tls``, ``https``, ``http``, or ``crew``: the UDP sockets of all worker processes."""
    host: str
    port: int
    interface: str
    secured: str
    """What it needs beside a place: files of the certificate, trusted proxies."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}://{host}:{self.port}" + (f"%{self.interface}" if self.interface else "")


Made: TypeAlias = "socket.socket | StreamDoor | list[list[WorkerSocket]]"
"""What a :class:`DoorKey` becomes; the last is the sockets of each worker process."""
Fresh: TypeAlias = "dict[DoorKey, Made]"
"""Doors that were missing, bound."""


def wanted_doors(config: DoorsConfig) -> tuple[DoorKey, ...]:
    """The sockets a configuration asks for."""
    found: list[DoorKey] = []
    crowd = _crowd(config)
    for interface in config.interfaces or ("",):
        found += [DoorKey("tcp", host or "::", port, interface, "") for host, port in config.plain]
        secured = repr((config.certificate, config.key, config.names, config.trusted_proxies))
        for kind, places in (("tls", config.tls), ("https", config.https), ("http", config.http)):
            found += [DoorKey(kind, host or "::", port, interface, secured) for host, port in places]
    if config.workers and crowd:
        found.append(DoorKey("crew", "", 0, "", repr((config.workers, crowd))))
    else:
        found += crowd
    return tuple(dict.fromkeys(found))


def _crowd(config: DoorsConfig) -> list[DoorKey]:
    """The places of datagrams."""
    return [
        DoorKey("udp", each, port, interface, "")
        for interface in config.interfaces or ("",)
        for host, port in config.plain
        for each in (("0.0.0.0", "::") if host in ("", "::") else (host,))
    ]


@dataclass(eq=False, slots=True)
class _Door:
    """A door that is wanted, open or not, or one that leaves."""

    key: DoorKey
    made: Made | None
    places: tuple[DoorKey, ...]
    devices: dict[str, int]
    """The numbers its interfaces had when it was bound; 0: there was none of that name."""
    absent: set[str]
    """Addresses that are nobody's on this machine."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    coming: trio.CancelScope = field(default_factory=trio.CancelScope)
    """Around what takes in new questions and clients."""

    def why_not(self, place: DoorKey) -> str:
        """Why nobody can come in at one of its places; empty: all is well."""
        if place.interface and not self.devices[place.interface]:
            return f"waits for the interface {place.interface}"
        if place.host in self.absent:
            return f"waits for the address {place.host}"
        return "" if self.made is not None else "failed"


class Doors:
    """The doors of one server.  ``open_in`` once, then :meth:`stage` and :meth:`commit` for each configuration."""

    def __init__(self, home: Path, hall: StreamHall, hot: Hot, serve: Serve) -> None:
        self._home, self._hall, self._hot, self._serve = home, hall, hot, serve
        self._config = DoorsConfig()
        self._open: dict[DoorKey, _Door] = {}
        self._leaving: set[_Door] = set()
        self._binding = trio.Lock()
        """One at a time: who binds must know all of ours that stand at its ports."""
        self._nursery: trio.Nursery | None = None
        self._unkept: Path | None = None
        """A certificate of ours in memory, where the disk took none: doors need not wait for room."""

    def open_in(self, nursery: trio.Nursery) -> None:
        """Serve in tasks of ``nursery`` from now on."""
        self._nursery = nursery

    @property
    def keys(self) -> tuple[DoorKey, ...]:
        """The doors somebody can come in by, in whole or in part."""
        return tuple(key for key, door in self._open.items() if door.made is not None)

    def states(self) -> list[tuple[str, str]]:
        """Every place that is wanted, and what it waits for."""
        self._look_for_addresses()
        found = []
        for door in self._open.values():
            by = f" by {self._config.workers} workers" if door.key.kind == "crew" else ""
            found += [(f"{place}{by}", door.why_not(place)) for place in door.places]
        return found

    async def stage(self, config: DoorsConfig) -> Fresh:
        """Bind what is missing for ``config``; for :meth:`commit` or :meth:`abandon`.  Raises ``ConfigFault``."""
        missing = [key for key in wanted_doors(config) if key not in self._open]
        async with self._binding:
            return await trio.to_thread.run_sync(self._bind, config, missing)

    def abandon(self, fresh: Fresh) -> None:
        """Let go of what was bound; what has come in by it meanwhile is answered."""
        for key, made in fresh.items():
            if self._nursery is None:
                _close(made)
            else:
                self._leave(self._served(key, made))

    def commit(self, config: DoorsConfig, fresh: Fresh) -> None:
        """Serve at these doors and no others; neither waits nor fails."""
        self._config = config
        wanted = wanted_doors(config)
        dropped = [self._open.pop(key) for key in [*self._open] if key not in wanted]
        for key in wanted:
            if key not in self._open:
                self._open[key] = self._served(key, fresh.pop(key, None))
        for door in dropped:
            self._leave(door)
        self.abandon(fresh)

    def heed(self, changes: Iterable[Change]) -> None:
        """Addresses or interfaces of this machine have come or gone."""
        appeared = [change for change in changes if isinstance(change, AddressAppeared)]
        if appeared or any(isinstance(change, AddressGone) for change in changes):
            self._look_for_addresses()
        back = {change.interface for change in appeared}
        for door in [*self._open.values()]:
            if any(name in back and index != interface_index(name) for name, index in door.devices.items()):
                self._start(self._open_again, door)

    def _look_for_addresses(self) -> None:
        for door in self._open.values():
            before, door.absent = door.absent, _absent(door.places, door.absent)
            for address in sorted(before - door.absent):
                _log.info("the address %s has come: %s is open", address, door.key)
            for address in sorted(door.absent - before):
                _log.warning("the address %s is gone: nobody comes in by %s", address, door.key)

    # Binding

    def _bind(self, config: DoorsConfig, keys: Iterable[DoorKey]) -> Fresh:
        made: Fresh = {}
        together = _Together([each for door in (*self._open.values(), *self._leaving) for each in _sockets(door.made)])
        try:
            for key in keys:
                bound = self._bound(config, key, together)
                if bound is not None:
                    made[key] = bound
            for key in made:
                if isinstance(door := made[key], StreamDoor):
                    door.open()
        except (OSError, ValueError) as fault:
            for door in made.values():
                _close(door)
            place = f"[{key.host}]:{key.port}" if ":" in key.host else f"{key.host}:{key.port}"
            on = f" on {key.interface}" if key.interface else ""
            why = fault.strerror if isinstance(fault, OSError) and fault.strerror else str(fault)
            if isinstance(fault, OSError) and fault.filename:
                why = f"{fault.filename}: {why}"
            if key.kind == "crew":
                raise ConfigFault(f"the workers cannot listen: {why}") from fault
            raise ConfigFault(f"cannot listen at {key.kind} {place}{on}: {why}") from fault
        finally:
            together.end()
        return made

    def _bound(self, config: DoorsConfig, key: DoorKey, together: _Together) -> Made | None:
        places = []
        for place in _places(config, key):
            if place.interface and not interface_index(place.interface):
                _log.warning("%s opens when there is an interface %s", place, place.interface)
            else:
                places.append(place)
        absent = _absent(places)
        for address in sorted(absent):
            _log.warning("no address %s; is it right? Questions to it are answered when it has come", address)
        if not places:
            return None
        if key.kind == "crew":
            return _crew_sockets(config.workers, places, together)
        early = bool(absent)
        if key.kind == "udp":
            return together.bind(
                socket.SOCK_DGRAM,
                key.port,
                lambda shared: open_udp(key.host, key.port, interface=key.interface, reuse_port=shared, early=early),
            )
        limits = self._hall.limits
        tls = self._tls(config, key.kind) if key.kind in ("tls", "https") else None
        listener = together.bind(
            socket.SOCK_STREAM,
            key.port,
            lambda shared: bind_tcp(key.host, key.port, interface=key.interface, shared=shared, early=early),
        )
        if key.kind == "tcp":
            return tcp_door(listener, limits, key.interface)
        if key.kind == "tls" and tls is not None:
            return tls_door(listener, limits, tls, key.interface)
        return https_door(listener, limits, tls, interface=key.interface, proxies=config.trusted_proxies)

    def _tls(self, config: DoorsConfig, kind: str) -> ServerTls:
        alpn = ALPN if kind == "https" else ("dot",)
        if config.certificate:
            return ServerTls(Path(config.certificate), Path(config.key or config.certificate), alpn)
        names = [
            *config.names,
            *(host for host, _ in (*config.tls, *config.https) if host),
            "localhost",
            "127.0.0.1",
            "::1",
        ]
        path = self._home / "doors.pem"
        try:
            try:
                return ServerTls(ensure_certificate(path, names), path, alpn)
            except ValueError as fault:
                _log.warning("%s; it was made by this server, which makes another", fault)
                path.unlink()
                return ServerTls(ensure_certificate(path, names), path, alpn)
        except OSError as fault:
            if self._unkept is None:
                _log.warning("a certificate was made that ends with this run, since it cannot be kept: %s", fault)
                self._unkept = memory_certificate(names)
            return ServerTls(self._unkept, self._unkept, alpn)

    # Serving

    def _served(self, key: DoorKey, made: Made | None) -> _Door:
        places = _places(self._config, key)
        index = interface_index if made is not None else lambda name: 0
        devices = {place.interface: index(place.interface) for place in places if place.interface}
        door = _Door(key, made, places, devices, _absent(places))
        if made is not None:
            self._start(self._attend, door)
        return door

    def _start(self, task: Callable[[_Door], Awaitable[None]], door: _Door) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(task, door)

    async def _attend(self, door: _Door) -> None:
        key, made = door.key, door.made
        try:
            with door.scope:
                if isinstance(made, list):
                    await Crew(self._hot, self._serve).run(made)
                elif isinstance(made, socket.socket):
                    await serve_udp(made, self._hot, self._serve, interface=key.interface, coming=door.coming)
                elif made is not None:
                    await serve_door(self._hall, made, coming=door.coming)
        except Exception:
            # A fault of ours must not take the house down with one of its doors.
            _log.exception("the door %s failed in a way nobody foresaw; it opens again", key)
            door.made = None
            self._start(self._open_again, door)
        finally:
            self._leaving.discard(door)

    def _leave(self, door: _Door) -> None:
        """Take in nobody new, and end when those who have come are served."""
        if door.made is None:
            return
        self._leaving.add(door)
        for sock in _sockets(door.made):
            if sock.type == socket.SOCK_DGRAM:
                _turn_away(sock)
        door.coming.cancel()
        door.scope.deadline = trio.current_time() + _LEAVE_SECONDS

    async def _open_again(self, before: _Door) -> None:
        """Bind anew: an interface is new or another one under its old name, or the door had failed."""
        key, told = before.key, False
        while True:
            try:
                async with self._binding:
                    if self._open.get(key) is not before:
                        return
                    fresh = await trio.to_thread.run_sync(self._bind, self._config, [key])
                    if self._open.get(key) is before:
                        self._open[key] = self._served(key, fresh.pop(key, None))
                        self._leave(before)
                    self.abandon(fresh)
                    return
            except ConfigFault as fault:
                if not told:
                    _log.warning("%s; tried again until it works", fault)
                told = True
            await trio.sleep(_AGAIN_SECONDS)


class _Together:
    """Our own sockets, let stand at one port while others of ours are bound there; see the module's text."""

    def __init__(self, ours: Sequence[socket.socket]) -> None:
        self._ours = list(ours)
        self._lent: list[socket.socket] = []

    def bind(
        self, kind: socket.SocketKind, port: int, open_: Callable[[bool], socket.socket], *, for_good: bool = False
    ) -> socket.socket:
        """``open_`` is told whether to share; raises as it does.  ``for_good``: others go on sharing with it."""
        there = [sock for sock in self._ours if _stands(sock, kind, port)]
        for sock in there:
            self._lend(sock)
        made = open_(bool(there))
        self._ours.append(made)
        if for_good:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        elif there:
            self._lent.append(made)
        return made

    def _lend(self, sock: socket.socket) -> None:
        with suppress(OSError):  # closed meanwhile
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                self._lent.append(sock)

    def end(self) -> None:
        """From now on the port is taken for everybody else."""
        for sock in self._lent:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _stands(sock: socket.socket, kind: socket.SocketKind, port: int) -> bool:
    try:
        return sock.type == kind and sock.getsockname()[1] == port
    except OSError:
        return False


def _turn_away(sock: socket.socket) -> None:
    own: tuple[str, int] = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(own[0], own[0])
    with suppress(OSError):  # without a route the socket just closes a little less gently
        sock.connect((host, own[1]))


def _places(config: DoorsConfig, key: DoorKey) -> tuple[DoorKey, ...]:
    return tuple(_crowd(config)) if key.kind == "crew" else (key,)


def _absent(places: Iterable[DoorKey], before: Collection[str] = ()) -> set[str]:
    """The addresses among those of ``places`` that are not of this machine; as ``before`` where nobody can be asked."""
    known = {place.host: is_local(place.host) for place in places if place.host not in _WILDCARDS}
    return {host for host, ours in known.items() if (host in before if ours is None else not ours)}


def _sockets(made: Made | None) -> Iterator[socket.socket]:
    if isinstance(made, list):
        yield from (each.sock for own in made for each in own)
    elif made is not None:
        yield made if isinstance(made, socket.socket) else made.listener


def _close(made: Made) -> None:
    for sock in _sockets(made):
        sock.close()


def _crew_sockets(workers: int, places: Sequence[DoorKey], together: _Together) -> list[list[WorkerSocket]]:
    """The sockets of every worker.  Raises ``OSError``."""
    made: list[list[WorkerSocket]] = []
    try:
        for _ in range(workers):
            made.append([])
            for place in places:
                sock = together.bind(socket.SOCK_DGRAM, place.port, _opener(place), for_good=True)
                made[-1].append(WorkerSocket(sock, place.interface))
    except BaseException:
        _close(made)
        raise
    return made


def _opener(place: DoorKey) -> Callable[[bool], socket.socket]:
    early = bool(_absent((place,)))
    return lambda shared: open_udp(place.host, place.port, interface=place.interface, reuse_port=shared, early=early)
