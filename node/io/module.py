"""The node as a module of the gateway: this machine runs what its zone says, with or without the rest of the zone.

It begins with what ran before and the orders that were kept, so services are looked after before the zone is up, and
when it cannot be.  Orders and reports go by the services of this process, as the machine and with no other rights.

A machine that left its zone, or was replaced in it, looks after nothing any more; what it ran goes on, for its owner to
end.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import trio

from cyfs_gateway.host import Host
from cyfs_ns.errors import ConfigFault
from cyfs_ns.identity.did import host_of_did
from cyfs_ns.io.trusted.keystore import KeyStore
from node.io.loop.daemon import NodeLoop
from node.io.loop.lines import ServiceLines
from node.io.run.cgroups import ControlGroups
from node.io.run.containers import Containers
from node.io.run.exits import Outside
from node.io.run.kinds import Processes, Scripts
from node.io.run.packages import Packages
from node.io.run.runs import Runs
from node.io.run.tokens import keep_renewed
from node.io.run.users import Users
from node.run.runner import Kind
from zone.boot.known import replaced
from zone.hub.subjects import machine
from zone.hub.tokens import bootstrap
from zone.io.boot.memory import Memory
from zone.io.here import client_as, services_of, store_as
from zone.io.klog.service import NAME as LOG
from zone.io.klog.service import sender
from zone.io.membership import MembershipStore
from zone.io.module import SOCKET
from zone.membership import Membership

_LOOK: Final = 5.0
"""Seconds between looks at what this machine is in its zone."""

_log = logging.getLogger("cyfs.node")


@dataclass(frozen=True, slots=True)
class Settings:
    """The section as meant."""

    home: Path | None = None
    """Where services run; None: beside the state directory, which their users have no way through."""


def read_settings(untrusted: Any) -> Settings:
    """Raises ``ConfigFault``."""
    if untrusted is None or untrusted is True:
        return Settings()
    if not isinstance(untrusted, dict) or untrusted.keys() - {"home"}:
        raise ConfigFault("node: expected a mapping with the key 'home' only, or false")
    home = untrusted.get("home")
    if home is not None and (not isinstance(home, str) or not home.startswith("/")):
        raise ConfigFault("node/home: expected an absolute path")
    return Settings(None if home is None else Path(home))


class NodeModule:
    """See the module's text."""

    section: ClassVar[str] = "node"

    @classmethod
    def check(cls, settings: Any) -> None:
        read_settings(settings)

    async def run(self, host: Host, settings: Any) -> None:
        state: Path = host.home.absolute()
        home = str(read_settings(settings).home or state.with_name(f"{state.name}-node"))
        limits = ControlGroups(home)
        lines = ServiceLines(Path(home))
        told: dict[str, Any] = {"home": home, "unlimited": {str(what): why for what, why in limits.lacking.items()}}
        host.register_status(lambda: {**told, "journal": lines.status()})
        try:
            while True:
                membership, why = await _look(state)
                told |= {"name": membership.name if membership else "", "waits_for": why}
                if membership is None:
                    await trio.sleep(_LOOK)
                else:
                    await _live(host, membership, home, limits, lines)
        finally:
            limits.close()


async def _live(host: Host, membership: Membership, home: str, limits: ControlGroups, lines: ServiceLines) -> None:
    """Be that machine of the zone, for as long as it is."""
    state: Path = host.home.absolute()
    me = machine(membership.zone, membership.device.key)
    assert me is not None  # A membership says so.
    store = store_as(me, services_of(state))
    did, net = str(membership.device.id), membership.device.net or ""
    async with trio.open_nursery() as nursery:
        kinds = _kinds(host, state, home, membership, limits, nursery)
        nursery.start_soon(NodeLoop(membership.name, store, home, kinds, did, net).run)
        send = sender(client_as(me, services_of(state), LOG))
        nursery.start_soon(lines.run, Memory(state, membership).path, send)
        while (await _look(state))[0] == membership:  # noqa: ASYNC110 -- files tell nobody that they have changed
            await trio.sleep(_LOOK)
        _log.info("this machine is not what it was in its zone")
        nursery.cancel_scope.cancel()


async def _look(state: Path) -> tuple[Membership | None, str]:
    """What this machine is in its zone; if nothing, why."""

    def read() -> Membership:
        membership = MembershipStore(state).own(time.time())
        known, _ = Memory(state, membership).read()
        if known is not None and (why := replaced(known, membership.device)):
            raise ConfigFault(why)
        return membership

    try:
        return await trio.to_thread.run_sync(read), ""
    except (ConfigFault, OSError) as fault:
        return None, str(fault)


def _kinds(
    host: Host, state: Path, home: str, membership: Membership, limits: ControlGroups, nursery: trio.Nursery
) -> Mapping[str, Kind]:
    """What this machine can run."""
    name, zone = membership.name, host_of_did(membership.zone.id)
    key = KeyStore(state).device()

    async def token(service: str) -> str:
        return bootstrap(zone, name, service, key, secrets.token_urlsafe(12), time.time())

    nursery.start_soon(keep_renewed, home, token)
    packages, users = Packages(home), Users(home)
    outside = Outside(host, host.home / SOCKET)
    return {
        "process": Processes(name, packages, users, limits, token),
        "script": Scripts(name, packages, users, limits, Runs(home), token),
        "container": Containers(name, home, limits, host.reactor, nursery, token, outside=outside),
    }
