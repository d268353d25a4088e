"""The listeners of the control API: a unix socket always, TCP and TLS when asked for.

Unix socket: mode 0600 from its first moment (the mode is set on the socket before it is bound), in a directory made
0700, and the peer's user id is asked of the kernel.  A socket file nobody listens on is what ``kill -9`` leaves: it
is replaced. TCP and TLS: the secret is required.  Each listener serves a bounded number of connections, so whoever
floods the TCP port cannot lock the owner out of the unix socket.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import stat
import struct
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cyfs_gateway.control.access import Door, host_names, peer_allowed
from cyfs_gateway.io.control.conversation import converse
from cyfs_gateway.io.control.routes import Api
from cyfs_gateway.io.control.wire import HEAD_SECONDS
from cyfs_ns.errors import ConfigFault, Misuse

if TYPE_CHECKING:
    from cyfs_gateway.config.model import ControlConfig
    from cyfs_gateway.facade import Gateway

log = logging.getLogger("cyfs.control")

MOST_CONNECTIONS = 128
"""On each listener; one more is closed at once."""
_BACKLOG = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entrance:
    listener: trio.SocketListener
    door: Door
    url: str
    path: Path | None = None
    context: ssl.SSLContext | None = None


async def serve_control(
    gateway: Gateway,
    control: ControlConfig,
    *,
    secret: str,
    task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the API until cancelled; ``started`` gets the URLs it is served on (``unix:/path``, ``http://host:port``).

    :raises ConfigFault: an address cannot be had, a certificate cannot be read, another gateway holds the socket.
    :raises Misuse: TCP without a secret.
    """
    if (control.tcp or control.tls) and not secret:
        raise Misuse("control over TCP goes nowhere without a secret")
    ui = Path(control.external_ui, control.external_ui_name) if control.external_ui else None
    api = Api(gateway, ui)
    entrances: list[_Entrance] = []
    try:
        try:
            await _open(gateway, control, secret, entrances)
        except (OSError, ValueError) as fault:
            raise ConfigFault(f"control API: {fault}") from fault
        async with trio.open_nursery() as nursery:
            for entrance in entrances:
                nursery.start_soon(trio.serve_listeners, partial(_Visitors(api, entrance).serve), [entrance.listener])
            task_status.started(tuple(entrance.url for entrance in entrances))
    finally:
        for entrance in entrances:
            entrance.listener.socket.close()
            if entrance.path is not None:
                entrance.path.unlink(missing_ok=True)


class _Visitors:
    """The connections of one listener."""

    def __init__(self, api: Api, entrance: _Entrance) -> None:
        self._api, self._entrance = api, entrance
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
                if self._entrance.context is None:
                    await converse(stream, door, self._api)
                    return
                secured = trio.SSLStream(stream, self._entrance.context, server_side=True, https_compatible=True)
                with trio.move_on_after(HEAD_SECONDS) as patience:
                    await secured.do_handshake()
                if not patience.cancelled_caught:
                    await converse(secured, door, self._api)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("control connection broke")
        except Exception:
            log.exception("control connection failed")
        finally:
            self._open -= 1


async def _open(gateway: Gateway, control: ControlConfig, secret: str, entrances: list[_Entrance]) -> None:
    """Bind everything into ``entrances``; when one address fails, those before it are in the list to be closed."""
    door = Door(secret=secret, origins=frozenset(control.allow_origins), private_network=control.allow_private_network)
    if control.unix:
        path = Path(control.unix)
        listener = _open_unix(path)
        entrances.append(_Entrance(listener=listener, door=replace(door, secret=""), url=f"unix:{path}", path=path))
    for scheme, address in (("http", control.tcp), ("https", control.tls)):
        if address is not None:
            context = _tls_context(control, gateway) if scheme == "https" else None
            await _open_tcp(address, replace(door, scheme="https" if context else "http"), context, entrances)


async def _open_tcp(
    address: tuple[str, int], door: Door, context: ssl.SSLContext | None, entrances: list[_Entrance]
) -> None:
    host, port = address
    try:
        listeners = await trio.open_tcp_listeners(port, host=host if host not in ("", "*") else None, backlog=_BACKLOG)
    except OSError as fault:
        raise ConfigFault(f"control API: cannot listen on {host or '*'}:{port}: {fault.strerror}") from fault
    for listener in listeners:
        bound, number = listener.socket.getsockname()[:2]
        shown = f"[{bound}]" if ":" in bound else bound
        named = replace(door, hosts=host_names(door.scheme, number, (host, bound)))
        entrances.append(
            _Entrance(listener=listener, door=named, url=f"{door.scheme}://{shown}:{number}", context=context)
        )


def _open_unix(path: Path) -> trio.SocketListener:
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
    raise OSError(errno.EADDRINUSE, "another gateway listens there", str(path))


def _tls_context(control: ControlConfig, gateway: Gateway) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    with _PemFile(control.certificate, gateway) as certificate, _PemFile(control.private_key, gateway) as key:
        context.load_cert_chain(certificate, key)
    return context


class _PemFile:
    """A path that OpenSSL can read, for PEM text or for a path at home; text never touches a disk."""

    def __init__(self, text_or_path: str, gateway: Gateway) -> None:
        self._text = text_or_path if "-----BEGIN" in text_or_path else ""
        self._path = "" if self._text else text_or_path
        if self._path and not self._path.startswith("/"):
            self._path = str(Path(gateway.config.home, self._path))
        self._fd = -1

    def __enter__(self) -> str:
        if not self._text:
            return self._path
        self._fd = os.memfd_create("pem", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(self._fd), "wb") as file:
            file.write(self._text.encode())
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


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
