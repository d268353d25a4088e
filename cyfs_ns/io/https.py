"""The DoH door (RFC 8484): HTTP/2 by ALPN, HTTP/1.1 for the rest, both over the shell of the stream doors.

Without TLS it serves a reverse proxy on this machine or near it, which ends TLS itself; such a door exists only where
the owner has written ``http://``.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from cyfs_ns import doh
from cyfs_ns.io.servertls import ServerTls
from cyfs_ns.io.streams import StreamDoor, StreamLimits
from cyfs_ns.web import by_alpn

ALPN = ("h2", "http/1.1")
"""What the :class:`~cyfs_ns.io.servertls.ServerTls` of this door should offer."""

_IDLE = 120.0
"""Browsers come back within a minute or two, and a new TLS connection costs both sides more than a quiet one."""


def https_door(
    listener: socket.socket,
    limits: StreamLimits,
    tls: ServerTls | None,
    *,
    path: bytes = doh.PATH,
    interface: str = "",
    proxies: Sequence[IPv4Network | IPv6Network] = (),
) -> StreamDoor:
    """DNS over HTTPS at ``path``, or over plain HTTP when ``tls`` is ``None``.

    ``proxies``: peers whose ``X-Forwarded-For`` tells the client's address.
    """
    return StreamDoor(
        listener=listener,
        name="https",
        converse=lambda alpn: by_alpn(alpn, limits.width, path),
        tls=tls,
        interface=interface,
        idle=max(_IDLE, limits.idle),
        proxies=proxies,
    )
