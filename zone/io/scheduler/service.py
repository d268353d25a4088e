"""What the zone's scheduler tells: the service ``scheduler`` of every OOD, whichever of them leads.

An OOD that stands by asks the one that leads, for whoever may use this machine's control socket; an OOD is answered
from here or not at all, so a question goes one step.  While nobody leads, as just after a machine was lost, it waits a
moment.

| method | takes | gives |
|---|---|---|
| ``services`` | | ``revision``, ``services``: how each stands, and why |
| ``why`` | ``service``, ``after``: a revision, which is decided on before | ``revision``, and how it stands |
| ``nodes`` | | ``nodes``: the machines, and what they are to run |
| ``plan`` | ``page``, or nothing | what would be decided now, with that page |
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import trio

from cyfs_ns.identity.documents import ZoneDoc
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from cyfs_ns.trust.places import device_did
from zone.config.faults import ConfigError
from zone.config.keys import At
from zone.io.config.store import ConfigStore
from zone.io.krpc.resolve import Opener
from zone.io.krpc.server import OFFER
from zone.io.krpc.transport import HttpTransport, Transport, by_endpoint
from zone.io.scheduler.loop import Scheduler
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import CallContext
from zone.krpc.wire import Single
from zone.membership import ood_names
from zone.scheduler.observe import LEADER
from zone.scheduler.plan import Account, Plan
from zone.scheduler.service import ServiceSpec, load_service
from zone.scheduler.snapshot import Snapshot, spec_key

SERVICE: Final = "scheduler"
_PATIENCE: Final = 10.0
"""Seconds for somebody to lead: a lease has to end, an election to be held and a round to be decided."""
_LOOK: Final = 0.2

Reach = Callable[[str], AbstractAsyncContextManager[Transport]]
"""To the services of an OOD, as this machine."""


class SchedulerService:
    """Of the OOD ``name``, whose ``scheduler`` leads or stands by.  ``operator`` is whom its control socket lets in."""

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        store: ConfigStore,
        zone: Callable[[], ZoneDoc],
        reach: Reach,
        operator: Caller,
    ) -> None:
        self._name, self._scheduler, self._store = name, scheduler, store
        self._zone, self._reach, self._operator = zone, reach, operator
        self._methods = {"services": self._services, "why": self._why, "nodes": self._nodes, "plan": self._plan}

    async def __call__(self, caller: Caller, method: str, params: Mapping[str, Json], context: CallContext) -> Json:
        is_ood = caller.device in ood_names(self._zone()) and not caller.token_id
        if caller != self._operator and not is_ood:
            raise KrpcFault(Code.DENIED, "the scheduler answers the OODs of its zone")
        if method not in self._methods:
            raise KrpcFault(Code.UNKNOWN_METHOD, f"the scheduler has no method {method!r}")
        away = KrpcFault(Code.UNAVAILABLE, "no machine schedules for the zone just now", retryable=True)
        with trio.move_on_after(_PATIENCE):
            while self._scheduler.plan is None:
                if caller == self._operator and (leader := await self._leader()) not in ("", self._name):
                    away = KrpcFault(Code.UNAVAILABLE, f"{leader} schedules, and does not answer", retryable=True)
                    try:
                        async with self._reach(leader) as there:
                            return await there.ask(
                                SERVICE, Single(method, params), seconds=context.seconds, trace=context.trace
                            )
                    except KrpcFault as fault:
                        if fault.code != Code.UNAVAILABLE:
                            raise
                        away = KrpcFault(Code.UNAVAILABLE, f"{leader} schedules: {fault.message}", retryable=True)
                await trio.sleep(_LOOK)
        if self._scheduler.plan is None:
            raise away
        return await self._methods[method](params)

    async def _leader(self) -> str:
        """Who leads, as far as the store says; empty: nobody."""
        try:
            reading = await self._store.read([At(LEADER)])
        except ConfigError as error:
            raise KrpcFault.of_config(error) from error
        found = next(iter(reading.entries), None)
        node = None if found is None else read_object(found.value or "{}", LEADER).get("node")
        return node if isinstance(node, str) else ""

    def _last(self) -> tuple[Snapshot, Plan]:
        snapshot, plan = self._scheduler.snapshot, self._scheduler.plan
        if snapshot is None or plan is None:
            raise _gone()
        return snapshot, plan

    async def _services(self, params: Mapping[str, Json]) -> Json:
        snapshot, plan = self._last()
        told = {name: _standing(snapshot, name, account) for name, account in sorted(plan.accounts.items())}
        return {"revision": snapshot.revision, "services": told}

    async def _why(self, params: Mapping[str, Json]) -> Json:
        name, after = params.get("service"), params.get("after", 0)
        if not isinstance(name, str):
            raise KrpcFault(Code.INVALID, "'service' is a text, and is needed")
        if not isinstance(after, int):
            raise KrpcFault(Code.INVALID, "'after' is a revision")
        with trio.move_on_after(_PATIENCE):
            await self._scheduler.decided(after)
        snapshot, plan = self._last()
        if name not in plan.accounts and name not in snapshot.services:
            raise KrpcFault(Code.MISSING, name)
        return {"revision": snapshot.revision, **_standing(snapshot, name, plan.why(name))}

    async def _nodes(self, params: Mapping[str, Json]) -> Json:
        snapshot, _ = self._last()
        return {
            "nodes": {
                node.name: {
                    "silent": None if node.seen is None else max(0.0, snapshot.now - node.seen),
                    "cpu": node.cpu / 1000,
                    "memory": node.memory,
                    "labels": dict(node.labels),
                    "drain": node.drain,
                    "did": node.did,
                    "services": sorted(node.items),
                    "fault": node.fault,
                }
                for node in snapshot.nodes.values()
            }
        }

    async def _plan(self, params: Mapping[str, Json]) -> Json:
        changes: dict[str, str | None] = {}
        if "page" in params:
            spec = read_page(params["page"])
            changes[spec_key(spec.name)] = write_json(spec.as_page()).decode()
        try:
            plan = await self._scheduler.preview(changes)
        except ConfigError as error:
            raise KrpcFault.of_config(error) from error
        if plan is None:
            raise _gone()
        return {
            "decisions": [[one.action, one.service, one.node, one.why] for one in plan.decisions],
            "services": {name: account.as_plain() for name, account in sorted(plan.accounts.items())},
            "vetoes": list(plan.vetoes),
        }


def by_tunnels(opener: Opener, zone: Callable[[], ZoneDoc]) -> Reach:
    """To the OODs of ``zone``."""

    @asynccontextmanager
    async def reach(name: str) -> AsyncIterator[Transport]:
        did = device_did(name, zone().id)
        transport = HttpTransport(by_endpoint(lambda: opener.call_offer(did, OFFER)))
        try:
            yield transport
        finally:
            with trio.CancelScope(shield=True):
                await transport.aclose()

    return reach


def read_page(untrusted: Json) -> ServiceSpec:
    """A page that somebody sent.  Raises ``KrpcFault``."""
    if not isinstance(untrusted, str):
        raise KrpcFault(Code.INVALID, "'page' is a text, and is needed")
    loaded = load_service(untrusted.encode())
    if loaded.spec is None:
        raise KrpcFault(Code.INVALID, "; ".join(map(str, loaded.faults)))
    return loaded.spec


def _standing(snapshot: Snapshot, name: str, account: Account) -> dict[str, Json]:
    service = snapshot.services.get(name)
    items = {node.name: node.items[name] for node in snapshot.nodes.values() if name in node.items}
    version = "" if service is None or service.spec is None else service.spec.work.version
    failed = None if service is None else service.memory.failed
    return {
        **account.as_plain(),
        "service": name,
        "fault": "" if service is None else service.fault,
        "version": version,
        "failed": failed.why if failed is not None and failed.version == version else "",
        "versions": {node: item.work.version for node, item in items.items()},
        "ports": {node: dict(item.ports) for node, item in items.items()},
    }


def _gone() -> KrpcFault:
    return KrpcFault(Code.UNAVAILABLE, "this machine schedules for the zone no more", retryable=True)
