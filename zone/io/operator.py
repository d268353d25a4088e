"""What the control API does in the zone: for whoever may use it, who is the administrator of this machine.

They have the disk that the zone's state is on, so they call as the zone itself (``kernel``); what they write is checked
as anybody's.  Each method takes an object of JSON and gives one.

| method | takes | gives |
|---|---|---|
| ``call`` | ``service``, ``method``, ``params`` | ``result``: of any service that this machine answers |
| ``logs`` | as ``query`` of ``klog`` | ``lines`` of all OODs, and ways on (``zone/io/klog/asking.py``) |
| ``services``, ``why``, ``nodes``, ``plan`` | see ``zone/io/scheduler/service.py`` | |
| ``deploy`` | ``page``: YAML | ``service``, ``version``, ``revision`` that has it |
| ``remove`` | ``service`` | ``revision`` |
| ``scale`` | ``service``, ``replicas`` | ``revision`` |
| ``drain`` | ``node``, ``on`` | ``revision`` |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from cyfs_ns.errors import BadWire, Refused, Unreachable
from cyfs_ns.identity.strictjson import write_json
from zone.config.access import Subject
from zone.config.faults import Code as ConfigCode
from zone.config.faults import ConfigError
from zone.config.model import Action, Delete, Set, SetPath, Transaction
from zone.io.here import store_as
from zone.io.klog.asking import Ask, find
from zone.io.krpc.client import Client
from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.transport import LocalTransport
from zone.io.scheduler.service import SERVICE as SCHEDULER
from zone.io.scheduler.service import read_page
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault
from zone.scheduler.service import MAX_REPLICAS, NAME
from zone.scheduler.snapshot import spec_key

OPERATOR: Final = Caller(name="operator", subjects=(Subject(frozenset({"kernel"}), {}),))
"""Whom the control API has let in."""
_SECONDS: Final = 40.0
"""Of a call, by which changes may be waited for."""
_AWAY: Final = frozenset({Code.UNAVAILABLE, Code.UNCERTAIN, Code.DEADLINE, Code.LIMITED, Code.INTERNAL})

Method = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class Operator:
    """``services``: those that this machine answers; ``step``: where its boot is, for when there are none.

    ``logs``: those of all OODs, by their names.
    """

    def __init__(
        self, services: Dispatcher, step: Callable[[], Mapping[str, Any]], logs: Callable[[], Mapping[str, Ask]]
    ) -> None:
        self._services, self._step, self._all_logs = services, step, logs
        self._transport, self._store = LocalTransport(services, OPERATOR), store_as(OPERATOR, services)
        methods: dict[str, Method] = {
            "call": self._call,
            "logs": self._logs,
            **{method: partial(self._ask, SCHEDULER, method) for method in ("services", "why", "nodes", "plan")},
            "deploy": self._deploy,
            "remove": self._remove,
            "scale": self._scale,
            "drain": self._drain,
        }
        self.methods: Mapping[str, Method] = {name: self._in_words(method) for name, method in methods.items()}

    def _in_words(self, method: Method) -> Method:
        """``method``, whose faults are those that the control API knows."""

        async def told(body: Mapping[str, Any]) -> Mapping[str, Any]:
            if SCHEDULER not in self._services:
                step = self._step()
                if step["step"] == "booted":
                    raise Unreachable("this machine carries no part of the zone; ask an OOD")
                why = f": {step['why']}" if step["why"] else ""
                raise Unreachable(f"the zone is not up here: step {step['step']}, waits for {step['waits_for']}{why}")
            return await in_words(method, body)

        return told

    async def _call(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        params = body.get("params", {})
        if not isinstance(params, dict):
            raise BadWire("'params' is an object")
        return {"result": await self._ask(_text(body, "service"), _text(body, "method"), params)}

    async def _ask(self, service: str, method: str, params: Mapping[str, Any]) -> Any:
        return await Client(self._transport, service, seconds=_SECONDS).call(method, params)

    async def _logs(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return await find(self._all_logs(), body)

    # -- what is to be

    async def _deploy(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        spec = read_page(body.get("page"))
        revision = await self._write(Set(spec_key(spec.name), _json(spec.as_page())))
        return {"service": spec.name, "version": spec.work.version, "revision": revision}

    async def _remove(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"revision": await self._write(Delete(spec_key(_name(_text(body, "service")))))}

    async def _scale(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        replicas = body.get("replicas")
        if not isinstance(replicas, int) or isinstance(replicas, bool) or not 0 <= replicas <= MAX_REPLICAS:
            raise BadWire(f"'replicas' is a number, 0 to {MAX_REPLICAS}")
        key = spec_key(_name(_text(body, "service")))
        return {"revision": await self._write(SetPath(key, "/replicas", str(replicas)))}

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
