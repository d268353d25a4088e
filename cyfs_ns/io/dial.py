"""How this floor gets its streams: by an injected function, so that the floors above can send names and downloads
through any outbound.  The plain one here connects straight, and is what the tests and ``cyfs-ns`` use."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from cyfs_ns.errors import Unreachable

Dial: TypeAlias = Callable[[str, int, str | None], Awaitable[trio.abc.Stream]]
"""``dial(host, port, via)``: an open stream to a name or address, through the outbound or interface ``via`` if given.
Raises ``Unreachable`` or ``Refused``."""

_PATIENCE = 5.0  # seconds for one address of several


def plain_dial(*, mark: int = 0, interface: str = "", source: tuple[str, int] = ("", 0)) -> Dial:
    """Connects with the kernel's routing, on packets marked ``mark`` (SO_MARK), bound to ``interface`` and coming from
    the address and port ``source`` if given.

    ``via`` can only be an interface here.
    """

    async def dial(host: str, port: int, via: str | None) -> trio.abc.Stream:
        if via and not is_interface(via):
            raise Unreachable(f"no outbound and no interface is called {via!r}", "pre_connect_route")
        try:
            # For a literal this is no question to anyone, and it reads the zone of fe80::1%eth0.
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as fault:
            raise Unreachable(f"{host}: {fault}", "pre_connect_dns") from fault
        last: Unreachable | None = None
        for family, _, _, _, address in found:
            try:
                with trio.fail_after(_PATIENCE):
                    return await _connect(family, address, mark, via or interface, source)
            except (OSError, trio.TooSlowError) as fault:
                last = _unreachable(f"{host} port {port}", fault)
        raise last or Unreachable(f"{host} has no address", "pre_connect_dns")

    return dial


def prepare(sock: trio.socket.SocketType | socket.socket, mark: int, interface: str) -> None:
    """Set routing mark and interface on a fresh socket.  Raises ``OSError`` (both may need privileges)."""
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    if interface:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())


def is_interface(name: str) -> bool:
    """Whether this machine has a network interface called so, now."""
    return interface_index(name) > 0


def interface_index(name: str) -> int:
    """The number of the network interface called so now, or 0; one made anew under its old name has another."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


async def _connect(
    family: int, address: object, mark: int, interface: str, source: tuple[str, int]
) -> trio.SocketStream:
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        prepare(sock, mark, interface)
        if source[0]:
            await sock.bind(source)
        await sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


def _unreachable(where: str, fault: OSError | trio.TooSlowError) -> Unreachable:
    if isinstance(fault, trio.TooSlowError):
        return Unreachable(f"{where}: no connection in {_PATIENCE:g} s", "connect_timeout")
    if isinstance(fault, ConnectionRefusedError):
        return Unreachable(f"{where}: connection refused", "connect_refused")
    no_way = fault.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
    return Unreachable(f"{where}: {fault}", "pre_connect_route" if no_way else "other")
