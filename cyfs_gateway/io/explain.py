"""What would happen to a flow, and why: the same decision as for a real one, without sending it a byte."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trio

from cyfs_gateway.facade import Explanation
from cyfs_gateway.flow import Flow
from cyfs_gateway.io.configfile import read_config
from cyfs_gateway.io.engine import Engine
from cyfs_gateway.io.modules import Modules
from cyfs_gateway.io.world import Around, World, build_world
from cyfs_ns.errors import ConfigFault, CyfsError, Refused
from cyfs_ns.names import host as canonical_host
from cyfs_ns.names import is_ip
from tunnels.endpoint import Target
from tunnels.group import Health
from tunnels.io.reactor import Reactor
from tunnels.outbound import Outbound


async def explain(
    engine: Engine,
    world: World,
    host: str,
    port: int,
    *,
    network: str,
    source: str,
    process: str,
) -> Explanation:
    """Follow a flow through the rules without opening anything.  Raises ``BadWire`` for a host that is none."""
    host = canonical_host(host)
    literal = is_ip(host)
    flow = Flow(network, "Inner", source, 0, "" if literal else host, host if literal else "", port)
    if literal:
        engine.call_by_name(flow)
    if process:
        flow.process, flow.process_path = process.rpartition("/")[2], process
    notes: list[str] = []
    if flow.dns_mode != "normal" and flow.host:
        notes.append(f"{host} stands for {flow.host} ({flow.dns_mode})")
    host = flow.goal
    literal = is_ip(host)
    decision = await engine.decide(flow, None, notes=notes)
    leaf = decision.leaf
    addresses: tuple[str, ...] = (host,) if literal else tuple(world.peek(host) or ())
    if addresses and not literal and not notes:
        notes.append(f"{host} is {', '.join(addresses)}, which is known already")
    if leaf.kind == "Direct" and not addresses:
        try:
            addresses = tuple(await world.resolve(host))
            notes.append(f"{host} is {', '.join(addresses)}, asked for by the direct way")
        except CyfsError as fault:
            notes.append(str(fault))
    verdict = decision.verdict
    return Explanation(
        flow=flow,
        rule=(verdict.type and f"{verdict.type},{verdict.payload},{verdict.outbound}") or "no rule matched",
        index=verdict.index,
        why=verdict.why,
        resolution="; ".join(notes) or "not needed",
        addresses=() if literal else addresses,
        chain=tuple(reversed(decision.chain)),
        way=_way(leaf, addresses, Target(host, port)),
        passed=tuple(f"{one.verdict.why}: {one.why}" for one in decision.passed),
    )


def _way(leaf: Outbound, addresses: Sequence[str], target: Target) -> str:
    if leaf.kind == "Direct":
        if not addresses:
            return f"direct, but {target.host} has no known address"
        return "direct to " + ", ".join(str(Target(address, target.port)) for address in addresses)
    if leaf.kind == "Reject":
        return "rejected"
    if leaf.kind == "RejectDrop":
        return "dropped in silence"
    spec = getattr(leaf, "spec", None)
    server, port = getattr(spec, "server", ""), getattr(spec, "port", 0)
    through = f" at {Target(server, port) if port else server}" if server else ""
    return f"{target} through {leaf.name} ({leaf.kind}{through})"


async def explain_offline(
    config_path: str | None, home: Path, host: str, port: int, *, network: str, source: str, process: str
) -> Explanation:
    """``explain`` by a file, without a running gateway.  ``ConfigFault``; ``BadWire`` for no host."""
    sections = frozenset(Modules.discover())
    loaded = await trio.to_thread.run_sync(read_config, config_path, home, sections)
    config = loaded.config
    if config is None:
        raise ConfigFault("\n".join(str(fault) for fault in loaded.errors))

    async def choose_inner(flow: Flow) -> Outbound:
        raise Refused("nothing is downloaded while explaining")

    host = canonical_host(host)
    world = await build_world(config, health=Health(), choose_inner=choose_inner, around=Around(), offline=True)
    reactor = Reactor()
    try:
        async with trio.open_nursery() as nursery:
            engine = Engine(reactor, nursery)
            world.hand_to(engine, own_ports=frozenset())
            return await explain(engine, world, host, port, network=network, source=source, process=process)
    finally:
        reactor.close()
        world.close()
