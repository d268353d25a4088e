"""A device in a process of its own: whatever its peers ask for, it reaches directly.  It ends with its input.

``python -m tests.tunnels.rtcppeer SEED`` (64 hex digits) says on which port of 127.0.0.1 it listens.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import trio

from cyfs_ns.errors import Unreachable
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.keys import SecretKey
from rtcp.door import DoorLimits
from rtcp.io.device import House, open_device
from rtcp.io.leg import Datagrams
from rtcp.io.pipe import listen
from rtcp.io.tunnel import Serve, StreamRequest
from rtcp.limits import Limits
from rtcp.packet import Purpose
from rtcp.party import Found, Local
from tunnels.endpoint import Target
from tunnels.io.direct import Sockets
from tunnels.io.reactor import Reactor
from tunnels.io.relay import Relay
from tunnels.spec import DialOptions


async def no_names(host: str) -> Sequence[str]:
    return {"localhost": ["127.0.0.1"]}.get(host, ())


async def finds_nobody(did: Did, port: int | None) -> Found:
    raise Unreachable(f"nobody knows {did}", "pre_connect_dns")


def directly(reactor: Reactor) -> Serve:
    """Serves everything by connecting to it."""
    sockets = Sockets(DialOptions(connect_timeout=0.5), no_names)

    async def serve(request: StreamRequest) -> None:
        target = Target(request.host or "127.0.0.1", request.port)
        if request.purpose is Purpose.DATAGRAM:
            await _datagrams(request, target, sockets)
            return
        far = await sockets.connect(target)
        try:
            leg = await request.accept()
        except BaseException:
            far.close()
            raise
        Relay(reactor, leg, far, idle=60, on_close=lambda relay, why: None)

    return serve


async def _datagrams(request: StreamRequest, target: Target, sockets: Sockets) -> None:
    far = sockets.packets()
    try:
        near = Datagrams(await request.accept())
    except BaseException:
        far.close()
        raise

    async def out() -> None:
        while True:
            try:
                far.send(near.recv(), target)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(near.fileno())

    async def back() -> None:
        while True:
            try:
                near.send(far.recv()[0])
            except BlockingIOError:
                await trio.lowlevel.wait_readable(far.fileno())

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(out)
            nursery.start_soon(back)
    except* OSError:
        pass
    finally:
        near.close()
        far.close()


async def main() -> None:
    key = SecretKey(bytes.fromhex(sys.argv[1]))
    listeners = listen(0, ("127.0.0.1",))
    port = listeners[0].getsockname()[1]
    reactor = Reactor()
    sockets = Sockets(DialOptions(), no_names)
    local = Local(key=key, did=dev_did(key.public), listen_port=port)
    house = House(find=finds_nobody, dial=lambda h, p: sockets.connect(Target(h, p)), serve=directly(reactor))
    limits = Limits(per_second=1e6, burst=10**6)
    door = DoorLimits(per_second=1e6, burst=10**6, door_per_second=1e6)
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        async with open_device(local, house, listeners, limits=limits, door=door):
            print(port, flush=True)
            stdin = trio.lowlevel.FdStream(0)
            while await stdin.receive_some():
                pass
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
