"""One more carrier of a tunnel that stands: it is called, the peer proves itself, and hears what the carrier is for."""

from __future__ import annotations

import secrets

import trio

from cyfs_ns.errors import Refused, Unreachable
from rtcp.io.commons import Commons, Connect
from rtcp.io.pipe import Pipe, log
from rtcp.io.shaking import next_event
from rtcp.party import Peer
from rtcp.v5.calling import NATIVE_ENTROPY, Call, ResponderProven
from rtcp.v5.established import Established
from rtcp.v5.payloads import Introduction
from rtcp.v5.tunnel import Tunnel

_CALL_SECONDS = 10.0


async def call_carrier(
    machine: Tunnel, channel: int, peer: Peer, shared: Commons, connect: Connect
) -> tuple[Established, Pipe, bytes] | None:
    """A carrier for ``channel`` that is about to stand, over which pipe, and what is left to say there; None: there is
    no way, or it is not wanted any more."""
    try:
        with trio.move_on_after(_CALL_SECONDS):
            return await _call_by(await connect(), machine, channel, peer, shared)
    except (Unreachable, Refused) as fault:
        log.debug("no carrier to %s: %s", peer.did, fault)
    except Exception:
        log.exception("calling %s failed", peer.did)
    return None


async def _call_by(
    pipe: Pipe, machine: Tunnel, channel: int, peer: Peer, shared: Commons
) -> tuple[Established, Pipe, bytes] | None:
    key, clock = peer.device.key, shared.clock
    assert key is not None
    try:
        call = Call.native(shared.own, key, entropy=secrets.token_bytes(NATIVE_ENTROPY), now=clock())
        event = await next_event(call, pipe)
        if not isinstance(event, ResponderProven):
            raise Unreachable(f"the peer was not found again: {event}", "tunnel_open")
        claim = machine.claim(channel, clock())
        if claim is None:
            pipe.close()
            return None
        said = Introduction(
            key=shared.own.public,
            parameters=shared.parameters,
            boot=shared.boot,
            tunnel=machine.id,
            channel=claim.channel,
            move=claim.move,
            expect=claim.expect,
        )
        established = call.go_on(said)
        assert established is not None
        if not machine.attach(established.carrier, channel, clock()):
            pipe.close()
            return None
    except BaseException:
        pipe.close()
        raise
    return established, pipe, call.data_to_send()
