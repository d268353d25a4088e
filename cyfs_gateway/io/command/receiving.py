"""The command that waits for files: it is told of each stream that a peer wants to send by, and takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import trio

from cyfs_gateway.io.chunks import ARRIVALS
from cyfs_gateway.io.command.attached import Controller
from cyfs_gateway.io.command.taking import Conversation, Taker
from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.identity.strictjson import read_object
from cyfs_ns.io.client import ApiFault
from tunnels.io.stream import EndpointStream
from tunnels.io.waiting import receive_some

_MOST_LINE = 65536
_MOST_AT_ONCE = 32


async def receive_all(
    controller: Controller, taker: Taker, allow: Sequence[str], *, once: bool, on_ready: Callable[[], None]
) -> None:
    """Take files of those who meet a condition of ``allow`` (of the same owner's devices when it is empty).

    ``on_ready`` is called when the first can be sent.  Until cancelled, or with ``once`` until somebody has sent all
    that he wanted.  Raises ``Unreachable`` without a gateway, and ``ApiFault`` when it says no or ends.
    """
    sock = await controller.upgraded(("cyfs", "receiver"), {"allow": list(allow)}, ARRIVALS)
    on_ready()
    room = trio.CapacityLimiter(_MOST_AT_ONCE)
    try:
        async with trio.open_nursery() as nursery:

            async def take(arrival: dict[str, Any]) -> None:
                async with room:
                    if await _take(controller, taker, arrival) and once:
                        nursery.cancel_scope.cancel()

            heard = b""
            while data := await receive_some(sock):
                heard += data
                while (end := heard.find(b"\n")) >= 0:
                    nursery.start_soon(take, read_object(heard[:end], "arrival"))
                    heard = heard[end + 1 :]
                if len(heard) > _MOST_LINE:
                    raise BadWire("a line that is too long: is this address a gateway's?")
            raise ApiFault(0, "the gateway ended")
    finally:
        sock.close()


async def _take(controller: Controller, taker: Taker, arrival: dict[str, Any]) -> bool:
    """Whether something was sent, and all of it is here."""
    peer = str(arrival.get("did") or "somebody")
    try:
        endpoint = await controller.stream("cyfs", "receiver", str(arrival.get("id")), body={})
    except (ApiFault, Unreachable, BadWire) as fault:
        taker.witness.failed(peer, "", str(fault))
        return False
    conversation = Conversation(taker, EndpointStream(endpoint), peer)
    return await conversation.run() and conversation.taken > 0
