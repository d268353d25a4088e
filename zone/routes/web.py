"""Where the web page of a service is: ``SERVICE.ZONE`` leads to the instances that clients are told of."""

from __future__ import annotations

from collections.abc import Iterable

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import host_of_did
from zone.krpc.selector import Instance, order, read_selector

WEB_PORT = "http"
"""What the port is called at which a service answers visitors; or it has only one."""


def web_instances(untrusted: str) -> tuple[Instance, ...]:
    """Those of ``services/<s>/info`` that visitors can be led to; none, where it makes no sense."""
    try:
        return tuple(instance for instance in read_selector(untrusted, WEB_PORT) if instance.port is not None)
    except BadWire:
        return ()


def web_ways(instances: Iterable[Instance], here: str, draws: Iterable[float]) -> tuple[str, ...]:
    """Tunnel URLs to them from the node ``here``: its own first, then by weight, as ``draws`` have it."""
    found = []
    for instance in order(instances, here, (), draws):
        if instance.node == here:
            found.append(f"tcp:///127.0.0.1:{instance.port}")
        elif instance.did is not None:
            found.append(f"rtcp://{host_of_did(instance.did, case_safe=True)}/:{instance.port}")
    return tuple(found)
