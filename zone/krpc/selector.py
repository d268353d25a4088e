"""Which instance of a service is called: from what the scheduler tells in ``services/<s>/info``.

``{"selector_type": "random", "node_list": {node: {"node_did", "node_net_id", "state", "weight", "service_port"}}}``;
only instances that are ``Started`` are called.  Among the ports of one, that called ``kapi`` answers calls, or the only
one; an instance without a port answers at the door of its node.

The order is a pure function of that, of who is asked from, of what went wrong lately, and of random numbers: this node
first, then the others at random by their weights, and those that could not be had lately at the end, since they may be
the only ones left.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, parse_did
from cyfs_ns.identity.strictjson import Json, read_object

PORT_NAME: Final = "kapi"
MOST_INSTANCES: Final = 4096
_MOST_WEIGHT: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A service on one node."""

    node: str
    did: Did | None
    """Of the node; None: only this node itself can call it."""
    weight: int = 1
    port: int | None = None
    """None: the door of the node."""


def read_selector(untrusted: str, port_name: str = PORT_NAME) -> tuple[Instance, ...]:
    """The instances that can be called, at ``port_name``, by the names of their nodes.  Raises ``BadWire`` for what is
    no selector; reads past instances that make no sense."""
    nodes = read_object(untrusted, "services/*/info").get("node_list")
    if not isinstance(nodes, Mapping) or len(nodes) > MOST_INSTANCES:
        raise BadWire("services/*/info: 'node_list' has to be an object of nodes")
    found = (_instance(node, told, port_name) for node, told in sorted(nodes.items()))
    return tuple(instance for instance in found if instance is not None)


def _instance(node: str, told: Json, port_name: str) -> Instance | None:
    if not isinstance(told, Mapping) or told.get("state") != "Started":
        return None
    weight, ports = told.get("weight", 1), told.get("service_port")
    if type(weight) is not int or not 0 < weight <= _MOST_WEIGHT:
        return None
    port: Json = None
    if isinstance(ports, Mapping) and ports:
        port = ports.get(port_name) or (next(iter(ports.values())) if len(ports) == 1 else 0)
        if type(port) is not int or not 0 < port < 65536:
            return None
    return Instance(
        node=node, did=_did(told.get("node_did")), weight=weight, port=port if isinstance(port, int) else None
    )


def _did(untrusted: Json) -> Did | None:
    try:
        return parse_did(untrusted).canonical if isinstance(untrusted, str) else None
    except BadWire:
        return None


def order(
    instances: Iterable[Instance], here: str, doubted: Collection[str], draws: Iterable[float]
) -> tuple[Instance, ...]:
    """Whom to ask, the first first, from the node ``here``; ``draws`` are random, from 0 to 1."""

    def place(instance: Instance, draw: float) -> tuple[bool, bool, float]:
        # The larger the weight, the sooner such a key is (Efraimidis and Spirakis, 2006).
        key = -math.log(max(draw, 1e-300)) / instance.weight
        return instance.node in doubted, instance.node != here, key

    reachable = [one for one in instances if one.node == here or one.did is not None]
    keyed = sorted((place(one, draw), one.node, one) for one, draw in zip(reachable, draws, strict=False))
    return tuple(one for _, _, one in keyed)
