"""Streams to and from other devices, for the owner's commands: requests that turn their connection into something else.

``POST /cyfs/streams`` and ``POST /cyfs/receiver/{id}`` become a stream (``cyfs_gateway.io.chunks``) that the reactor
moves; what can go wrong until it is open is an ordinary answer.  ``POST /cyfs/receiver`` becomes a row of JSON lines,
one for each stream that a peer wants to send by, until the command hangs up.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

import trio

from cyfs_gateway.io.chunks import ARRIVALS, STREAM, Chunked
from cyfs_ns.errors import BadWire, ConfigFault, Refused, Unreachable
from cyfs_ns.io.control import conversation
from cyfs_ns.io.control.conversation import SWITCHED, Reply
from cyfs_ns.io.control.wire import HttpFault, json_bytes, no_descriptors
from tunnels.endpoint import Endpoint
from tunnels.io.stream import EndpointStream
from tunnels.io.waiting import TcpEndpoint

if TYPE_CHECKING:
    from cyfs_gateway.io.control.routes import Api

    Call: TypeAlias = conversation.Call[Api]

_SECONDS = 60.0
_MOST_CONDITIONS = 64


async def open_stream(call: Call) -> Reply:
    """A stream to a peer."""
    _check_upgrade(call, STREAM)
    body = call.json()
    peer, host, port, network = (body.get(key, usual) for key, usual in _USUAL)
    if not isinstance(peer, str) or not 0 < len(peer) <= 512 or not isinstance(host, str) or len(host) > 255:
        raise HttpFault(400, "peer, a DID or host name, and host, a name or address or nothing, are wanted")
    if not (peer + host).isprintable():
        raise HttpFault(400, "there are characters in peer or host that no name has")
    if type(port) is not int or not 0 < port < 65536 or network not in ("tcp", "udp"):
        raise HttpFault(400, "port (1 to 65535) and network (tcp or udp) are wanted")

    async def near() -> Endpoint:
        return Chunked(await _switched(call, STREAM))

    with reached(), trio.fail_after(_SECONDS):
        await call.app.gateway.call_peer(peer, host, port, near, network=network)
    return SWITCHED


_USUAL = (("peer", None), ("host", ""), ("port", None), ("network", "tcp"))


async def receive(call: Call) -> Reply:
    """Announce what peers want to send, until the command hangs up."""
    _check_upgrade(call, ARRIVALS)
    allow = call.json().get("allow", [])
    if not isinstance(allow, list) or len(allow) > _MOST_CONDITIONS or not all(isinstance(one, str) for one in allow):
        raise HttpFault(400, "allow, a list of DIDs or conditions, is wanted")
    with reached():
        async with (
            call.app.gateway.receive_from_peers(allow) as arrivals,
            EndpointStream(await _switched(call, ARRIVALS)) as stream,
            trio.open_nursery() as both,
        ):

            async def watch() -> None:
                with suppress(trio.BrokenResourceError):
                    await stream.receive_some(1)
                both.cancel_scope.cancel()

            both.start_soon(watch)
            with suppress(trio.BrokenResourceError):
                async for arrival in arrivals:
                    peer = arrival.peer
                    said = {"id": arrival.id, "did": peer.did, "host": peer.host, "owner": peer.owner}
                    said |= {"zone": peer.zone, "trust": peer.trust.label}
                    await stream.send_all(json_bytes(said) + b"\n")
            both.cancel_scope.cancel()
    return SWITCHED


async def claim(call: Call) -> Reply:
    """Take one of those."""
    _check_upgrade(call, STREAM)
    id, gateway = call.name("id"), call.app.gateway
    if not gateway.awaits(id):
        raise HttpFault(404, "nobody waits by that id")
    gateway.claim(id, Chunked(await _switched(call, STREAM)))
    return SWITCHED


@contextmanager
def reached() -> Iterator[None]:
    """What may go wrong on the way to a peer, as an answer."""
    try:
        yield
    except (BadWire, ConfigFault) as fault:
        raise HttpFault(400, str(fault)) from None
    except Refused as fault:
        raise HttpFault(403, str(fault)) from None
    except (Unreachable, trio.TooSlowError) as fault:
        if (lack := _lack(fault)) is not None:
            raise no_descriptors(lack) from None
        raise HttpFault(504, str(fault) or "no answer in time") from None


def _lack(fault: BaseException | None) -> OSError | None:
    """That there were no descriptors left, if it is the cause."""
    while fault is not None:
        if isinstance(fault, OSError) and fault.errno in (errno.EMFILE, errno.ENFILE):
            return fault
        fault = fault.__cause__
    return None


def _check_upgrade(call: Call, protocol: str) -> None:
    if protocol not in call.upgrade:
        headers = (("Upgrade", protocol), ("Connection", "Upgrade"))
        raise HttpFault(426, f"this is asked for with Upgrade: {protocol}", headers=headers)


async def _switched(call: Call, protocol: str) -> TcpEndpoint:
    sock = await call.switch(protocol)
    return TcpEndpoint(sock.family, sock.type, 0, sock.detach())
