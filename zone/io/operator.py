"""What the control API does in the zone: for whoever may use it, who is the administrator of this machine.

They have the disk that the zone's state is on, so they call as the zone itself (``kernel``); what they write is checked
as anybody's.  Each method takes an object of JSON and gives one.

| method | takes | gives |
|---|---|---|
| ``call`` | ``service``, ``method``, ``params`` | ``result``: of any service that this machine answers |
| ``services`` | | ``revision``, ``services``: how each stands, and why |
| ``why`` | ``service``, ``after``: a revision, which is decided on before | ``revision``, and how it stands |
| ``nodes`` | | ``nodes``: the machines, and what they are to run |
| ``plan`` | ``page``, or nothing | what would be decided now, with that page |
| ``deploy`` | ``page``: YAML | ``service``, ``version``, ``revision`` that has it |
| ``remove`` | ``service`` | ``revision`` |
| ``scale`` | ``service``, ``replicas`` | ``revision`` |
| ``drain`` | ``node``, ``on`` | ``revision`` |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import trio

from cyfs_ns.errors import BadWire, Refused, Unreachable
from cyfs_ns.identity.strictjson import write_json
from zone.config.access import Subject
from zone.config.faults import Code as ConfigCode
from zone.config.faults import ConfigError
from zone.config.model import Action, Delete, Set, SetPath, Transaction
from zone.io.here import store_as
from zone.io.krpc.client import Client
from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.transport import LocalTransport
from zone.io.scheduler.loop import Scheduler
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault
from zone.scheduler.plan import Account, Plan
from zone.scheduler.service import MAX_REPLICAS, NAME, ServiceSpec, load_service

OPERATOR: Final = Caller(name="operator", subjects=(Subject(frozenset({"kernel"}), {}),))
"""Whom the control API has let in."""
_SECONDS: Final = 40.0
"""Of a call, by which changes may be waited for."""
_AWAY: Final = frozenset({Code.UNAVAILABLE, Code.UNCERTAIN, Code.DEADLINE, Code.LIMITED, Code.INTERNAL})

Method = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class Operator:
    """``services``: those that this machine answers; ``step``: where its boot is, for when there are none."""

    def __init__(self, services: Dispatcher, step: Callable[[], Mapping[str, Any]]) -> None:
        self._services, self._step = services, step
        self._transport, self._store = LocalTransport(services, OPERATOR), store_as(OPERATOR, services)
        self._scheduler: Scheduler | None = None
        methods = {
            "call": self._call,
            "services": self._told,
            "why": self._why,
            "nodes": self._nodes,
            "plan": self._plan,
            "deploy": self._deploy,
            "remove": self._remove,
            "scale": self._scale,
            "drain": self._drain,
        }
        self.methods: Mapping[str, Method] = {name: self._in_words(method) for name, method in methods.items()}

    @contextmanager
    def led_by(self, scheduler: Scheduler) -> Iterator[None]:
        """Whose decisions are told."""
        self._scheduler = scheduler
        try:
            yield
        finally:
            self._scheduler = None

    def _in_words(self, method: Method) -> Method:
        """``method``, whose faults are those that the control API knows."""

        async def told(body: Mapping[str, Any]) -> Mapping[str, Any]:
            if self._scheduler is None:
                step = self._step()
                why = f": {step['why']}" if step["why"] else ""
                raise Unreachable(f"the zone is not up here: step {step['step']}, waits for {step['waits_for']}{why}")
            return await in_words(method, body)

        return told

    async def _call(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        params = body.get("params", {})
        if not isinstance(params, dict):
            raise BadWire("'params' is an object")
        client = Client(self._transport, _text(body, "service"), seconds=_SECONDS)
        return {"result": await client.call(_text(body, "method"), params)}

    # -- what is

    def _last(self) -> tuple[Scheduler, Plan]:
        scheduler = self._scheduler
        if scheduler is None or scheduler.plan is None:
            raise Unreachable("this machine does not schedule for the zone just now; ask the one that does")
        return scheduler, scheduler.plan

    async def _told(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        scheduler, plan = self._last()
        assert scheduler.snapshot is not None
        told = {name: self._standing(scheduler, name, account) for name, account in sorted(plan.accounts.items())}
        return {"revision": scheduler.snapshot.revision, "services": told}

    async def _why(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        name, after = _text(body, "service"), body.get("after", 0)
        if not isinstance(after, int):
            raise BadWire("'after' is a revision")
        scheduler, _ = self._last()
        with trio.move_on_after(_SECONDS):
            await scheduler.decided(after)
        scheduler, plan = self._last()
        assert scheduler.snapshot is not None
        if name not in plan.accounts and name not in scheduler.snapshot.services:
            raise KeyError(name)
        return {"revision": scheduler.snapshot.revision, **self._standing(scheduler, name, plan.why(name))}

    def _standing(self, scheduler: Scheduler, name: str, account: Account) -> dict[str, Any]:
        snapshot = scheduler.snapshot
        assert snapshot is not None
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

    async def _nodes(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        scheduler, _ = self._last()
        assert scheduler.snapshot is not None
        nodes = scheduler.snapshot.nodes.values()
        return {
            "nodes": {
                node.name: {
                    "silent": None if node.seen is None else max(0.0, scheduler.snapshot.now - node.seen),
                    "cpu": node.cpu / 1000,
                    "memory": node.memory,
                    "labels": dict(node.labels),
                    "drain": node.drain,
                    "did": node.did,
                    "services": sorted(node.items),
                    "fault": node.fault,
                }
                for node in nodes
            }
        }

    async def _plan(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        scheduler, _ = self._last()
        changes: dict[str, str | None] = {}
        if "page" in body:
            spec = _page(body)
            changes[_spec(spec.name)] = _json(spec.as_page())
        plan = await scheduler.preview(changes)
        if plan is None:
            raise Unreachable("this machine schedules no more for the zone; ask the one that does")
        return {
            "decisions": [[one.action, one.service, one.node, one.why] for one in plan.decisions],
            "services": {name: account.as_plain() for name, account in sorted(plan.accounts.items())},
            "vetoes": list(plan.vetoes),
        }

    # -- what is to be

    async def _deploy(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        spec = _page(body)
        revision = await self._write(Set(_spec(spec.name), _json(spec.as_page())))
        return {"service": spec.name, "version": spec.work.version, "revision": revision}

    async def _remove(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"revision": await self._write(Delete(_spec(_text(body, "service"))))}

    async def _scale(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        replicas = body.get("replicas")
        if not isinstance(replicas, int) or isinstance(replicas, bool) or not 0 <= replicas <= MAX_REPLICAS:
            raise BadWire(f"'replicas' is a number, 0 to {MAX_REPLICAS}")
        return {"revision": await self._write(SetPath(_spec(_text(body, "service")), "/replicas", str(replicas)))}

    async def _drain(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        on = body.get("on", True)
        if not isinstance(on, bool):
            raise BadWire("'on' is true or false")
        key = f"nodes/{_name(_text(body, 'node'))}/intent"
        return {"revision": await self._write(SetPath(key, "/drain", _json(on)))}

    async def _write(self, action: Action) -> int:
        """Raises ``KeyError`` for what is not there."""
        try:
            return await self._store.transact(Transaction((action,)))
        except ConfigError as error:
            if error.code is ConfigCode.MISSING:
                raise KeyError(action.key) from None
            raise


async def in_words(method: Method, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What ``method`` gives; its faults are those that the control API knows."""
    try:
        return await method(body)
    except ConfigError as error:
        raise _meant(KrpcFault.of_config(error)) from error
    except KrpcFault as fault:
        raise _meant(fault) from fault


def _meant(fault: KrpcFault) -> Exception:
    if fault.code in _AWAY or fault.retryable:
        return Unreachable(fault.message)
    if fault.code == Code.MISSING:
        return KeyError(fault.message)
    return (Refused if fault.code == Code.DENIED else BadWire)(fault.message)


def _page(body: Mapping[str, Any]) -> ServiceSpec:
    loaded = load_service(_text(body, "page").encode())
    if loaded.spec is None:
        raise BadWire("; ".join(map(str, loaded.faults)))
    return loaded.spec


def _spec(service: str) -> str:
    return f"services/{_name(service)}/spec"


def _name(untrusted: str) -> str:
    if not NAME.fullmatch(untrusted):
        raise BadWire(f"{untrusted[:64]!r} is no name")
    return untrusted


def _text(body: Mapping[str, Any], key: str) -> str:
    text = body.get(key)
    if not isinstance(text, str):
        raise BadWire(f"{key!r} is a text, and is needed")
    return text


def _json(value: Any) -> str:
    return write_json(value).decode()
