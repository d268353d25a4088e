"""The node as a module of the gateway: this machine runs what its zone says, with or without the rest of the zone.

It begins with what ran before and the orders that were kept, so services are looked after before the zone is up, and
when it cannot be.  Orders and reports go by the services of this process, as the machine and with no other rights.
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
from node.io.run.cgroups import ControlGroups
from node.io.run.containers import Containers
from node.io.run.kinds import Processes, Scripts
from node.io.run.packages import Packages
from node.io.run.runs import Runs
from node.io.run.users import Users
from node.run.runner import Kind
from zone.hub.subjects import machine
from zone.hub.tokens import bootstrap
from zone.io.here import services_of, store_as
from zone.io.membership import MembershipStore
from zone.membership import Membership

_AGAIN: Final = 5.0
"""Seconds until it is looked again whether this machine is in a zone."""

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
        told: dict[str, Any] = {"home": home, "name": "", "waits_for": "this machine's files"}
        host.register_status(lambda: told)
        while True:
            try:
                membership = await trio.to_thread.run_sync(lambda: MembershipStore(state).own(time.time()))
                break
            except (ConfigFault, OSError) as fault:
                told["waits_for"] = str(fault)
                await trio.sleep(_AGAIN)
        told |= {"name": membership.name, "waits_for": ""}
        me = machine(membership.zone, membership.device.key)
        assert me is not None  # Membership says so.
        store = store_as(me, services_of(state))
        did, net = str(membership.device.id), membership.device.net or ""
        async with trio.open_nursery() as nursery:
            limits = ControlGroups(home)
            told["unlimited"] = {str(what): why for what, why in limits.lacking.items()}
            kinds = _kinds(host, state, home, membership, limits, nursery)
            try:
                await NodeLoop(membership.name, store, home, kinds, did, net).run()
            finally:
                limits.close()


def _kinds(
    host: Host, state: Path, home: str, membership: Membership, limits: ControlGroups, nursery: trio.Nursery
) -> Mapping[str, Kind]:
    """What this machine can run."""
    name, zone = membership.name, host_of_did(membership.zone.id)
    key = KeyStore(state).device()

    async def token(service: str) -> str:
        return bootstrap(zone, name, service, key, secrets.token_urlsafe(12), time.time())

    packages, users = Packages(home), Users(home)
    return {
        "process": Processes(name, packages, users, limits, token),
        "script": Scripts(name, packages, users, limits, Runs(home), token),
        "container": Containers(name, home, limits, host.reactor, nursery, token),
    }
