"""One more carrier of a tunnel that stands: it is called, the peer proves itself, and hears what the carrier is for."""

from __future__ import annotations

import secrets
from dataclasses import replace

import trio

from cyfs_ns.errors import Refused, Unreachable
from rtcp.io.commons import Commons, Connect
from rtcp.io.pipe import Pipe, TcpPipe, log
from rtcp.io.shaking import next_event
from rtcp.io.udp.pipe import UdpPipe
from rtcp.party import Peer
from rtcp.v5.calling import NATIVE_ENTROPY, Call, ResponderProven
from rtcp.v5.established import Established
from rtcp.v5.payloads import Feature, Introduction
from rtcp.v5.tunnel import Tunnel

_CALL_SECONDS = 10.0


Called = tuple[Established, Pipe, bytes]
"""A carrier that is about to stand, over which pipe, and what is left to say there."""


async def call_carrier(machine: Tunnel, channel: int, peer: Peer, shared: Commons, connect: Connect) -> Called | None:
    """The carrier for ``channel`` that ``machine`` wants; None: there is no way, or it is not wanted any more."""
    try:
        return await _call_in_time(machine, channel, peer, shared, connect, unasked=False)
    except (Unreachable, Refused) as fault:
        log.debug("no carrier to %s: %s", peer.did, fault)
    except Exception:
        log.exception("calling %s failed", peer.did)
    return None


async def call_unasked(machine: Tunnel, channel: int, peer: Peer, shared: Commons, connect: Connect) -> Called:
    """A carrier for ``channel``, which may have one.  Raises ``Unreachable`` and ``Refused``."""
    called = await _call_in_time(machine, channel, peer, shared, connect, unasked=True)
    if called is None:
        raise Unreachable("another carrier is being called, or none can be", "tunnel_open")
    return called


async def _call_in_time(
    machine: Tunnel, channel: int, peer: Peer, shared: Commons, connect: Connect, *, unasked: bool
) -> Called | None:
    with trio.move_on_after(_CALL_SECONDS):
        return await _call_by(await connect(), machine, channel, peer, shared, unasked=unasked)
    raise Unreachable(f"no carrier within {_CALL_SECONDS:g} s", "connect_timeout")


async def greet(pipe: Pipe, peer: Peer, shared: Commons) -> Call:
    """A handshake on ``pipe``, until ``peer`` has proven itself, and knows nothing of us.  Raises ``Unreachable``."""
    key = peer.device.key
    assert key is not None
    call = Call.native(shared.own, key, entropy=secrets.token_bytes(NATIVE_ENTROPY), now=shared.clock())
    event = await next_event(call, pipe)
    if not isinstance(event, ResponderProven):
        raise Unreachable(f"the peer was not found again: {event}", "tunnel_open")
    return call


async def _call_by(
    pipe: Pipe, machine: Tunnel, channel: int, peer: Peer, shared: Commons, *, unasked: bool
) -> Called | None:
    clock = shared.clock
    try:
        call = (pipe.greeted if isinstance(pipe, UdpPipe) else None) or await greet(pipe, peer, shared)
        claim = machine.claim(channel, clock(), unasked=unasked)
        if claim is None:
            pipe.close()
            return None
        parameters = shared.parameters
        is_bare = isinstance(pipe, TcpPipe) and machine.may_bare(channel)
        if is_bare:
            parameters = replace(parameters, features=parameters.features | Feature.BARE)
        said = Introduction(
            key=shared.own.public,
            parameters=parameters,
            boot=shared.boot,
            tunnel=machine.id,
            channel=claim.channel,
            move=claim.move,
            expect=claim.expect,
        )
        established = call.go_on(said)
        assert established is not None
        if not machine.attach(established.carrier, channel, clock(), bare=is_bare):
            pipe.close()
            return None
    except BaseException:
        pipe.close()
        raise
    return established, pipe, call.data_to_send()
