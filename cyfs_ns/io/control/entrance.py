"""Entrances of a control API: listeners, and the connections that come in by them.

Unix socket: mode 0600 from its first moment (the mode is set on the socket before it is bound), in a directory made
0700, and the peer's user id is asked of the kernel.  A socket file nobody listens on is what ``kill -9`` leaves: it
is replaced.  Each entrance serves a bounded number of connections, so whoever floods one cannot lock the owner out of
another.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import stat
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic

import trio

from cyfs_ns.control.access import Door, host_names, peer_allowed
from cyfs_ns.errors import ConfigFault
from cyfs_ns.io.control.conversation import A, Site, converse
from cyfs_ns.io.control.wire import HEAD_SECONDS

log = logging.getLogger("cyfs.control")

MOST_CONNECTIONS = 128
"""On each entrance; one more is closed at once."""
_BACKLOG = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """One listener and who may come in by it."""

    listener: trio.SocketListener
    door: Door
    url: str
    path: Path | None = None
    context: ssl.SSLContext | None = None


async def serve_entrances(
    site: Site[A], entrances: Iterable[Entrance], meet: Callable[[A, trio.SocketStream], A] | None = None
) -> None:
    """Serve by all of them until cancelled; ``meet`` says what the handlers of one connection are given."""
    async with trio.open_nursery() as nursery:
        for entrance in entrances:
            nursery.start_soon(
                trio.serve_listeners, partial(_Visitors(site, entrance, meet).serve), [entrance.listener]
            )


def close_entrances(entrances: Iterable[Entrance]) -> None:
    """Close the listeners, and remove the socket files."""
    for entrance in entrances:
        entrance.listener.socket.close()
        if entrance.path is not None:
            entrance.path.unlink(missing_ok=True)


async def open_tcp(
    address: tuple[str, int], door: Door, context: ssl.SSLContext | None = None, what: str = "control API"
) -> list[Entrance]:
    """The entrances at a host and port; a host without name or ``*`` is all of them.  Raises ``ConfigFault``, which
    names ``what`` is served there."""
    host, port = address
    try:
        listeners = await trio.open_tcp_listeners(port, host=host if host not in ("", "*") else None, backlog=_BACKLOG)
    except OSError as fault:
        raise ConfigFault(f"{what}: cannot listen on {host or '*'}:{port}: {fault.strerror}") from fault
    found = []
    for listener in listeners:
        bound, number = listener.socket.getsockname()[:2]
        shown = f"[{bound}]" if ":" in bound else bound
        named = replace(door, hosts=host_names(door.scheme, number, (host, bound)))
        found.append(Entrance(listener=listener, door=named, url=f"{door.scheme}://{shown}:{number}", context=context))
    return found


class _Visitors(Generic[A]):
    """The connections of one entrance."""

    def __init__(
        self, site: Site[A], entrance: Entrance, meet: Callable[[A, trio.SocketStream], A] | None = None
    ) -> None:
        self._site, self._entrance, self._meet = site, entrance, meet
        self._open = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, from accept to close.  Whatever goes wrong, the listener stays."""
        if self._open >= MOST_CONNECTIONS or not _peer_passes(stream):
            await trio.aclose_forcefully(stream)
            return
        self._open += 1
        try:
            async with stream:
                door = _with_own_address(self._entrance.door, stream)
                site = self._site if self._meet is None else replace(self._site, app=self._meet(self._site.app, stream))
                if self._entrance.context is None:
                    await converse(stream, door, site)
                    return
                secured = trio.SSLStream(stream, self._entrance.context, server_side=True, https_compatible=True)
                with trio.move_on_after(HEAD_SECONDS) as patience:
                    await secured.do_handshake()
                if not patience.cancelled_caught:
                    await converse(secured, door, site)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("control connection broke")
        except Exception:
            log.exception("control connection failed")
        finally:
            self._open -= 1


def open_unix(path: Path) -> trio.SocketListener:
    """A listening socket at ``path``.  Raises ``OSError``, also when somebody else listens there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(str(path))
        sock.listen(_BACKLOG)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except BaseException:
        sock.close()
        raise


def _clear(path: Path) -> None:
    """Remove a socket file that nobody listens on; anything else in its place is somebody's."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "is in the way and no socket", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, "another server listens there", str(path))


def _peer_passes(stream: trio.SocketStream) -> bool:
    if stream.socket.family != socket.AF_UNIX:
        return True
    _, uid, _ = struct.unpack("3i", stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return peer_allowed(uid, os.geteuid())


def _with_own_address(door: Door, stream: trio.SocketStream) -> Door:
    """A listener on every address may also be called by the very address the connection came in on.

    That is an address and no name, so rebinding a name cannot produce it.
    """
    if not door.hosts:
        return door
    address, port = stream.socket.getsockname()[:2]
    return replace(door, hosts=door.hosts | host_names(door.scheme, port, (address.partition("%")[0],)))
