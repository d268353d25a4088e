"""What the modules of one gateway share of its zone: the services that this process answers.

The zone's module answers for ``system_config`` and the others; whoever else lives in this process calls them in place,
each as who they are.  So nobody gets a right by living here: the node calls as its machine, and the rules are asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import trio

from cyfs_ns.identity.strictjson import Json
from zone.io.config.remote import SERVICE, RemoteBackend
from zone.io.config.store import ConfigStore
from zone.io.krpc.client import Client
from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.transport import LocalTransport
from zone.krpc.batch import Batch
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.wire import Single

_SECONDS: Final = 40.0
"""Of a call to the store: a poll for changes takes less."""

_dispatchers: WeakValueDictionary[Path, Dispatcher] = WeakValueDictionary()


def services_of(home: Path) -> Dispatcher:
    """The services of the gateway whose state is in ``home``: the same for all who hold on to it."""
    return _dispatchers.setdefault(home.absolute(), Dispatcher())


def store_as(caller: Caller, services: Dispatcher) -> ConfigStore:
    """The zone's store as ``caller`` may use it.

    What is asked while the zone is not up here waits for it, for a while; then it is ``UNAVAILABLE``.
    """
    return ConfigStore(RemoteBackend(client_as(caller, services, SERVICE)))


def client_as(caller: Caller, services: Dispatcher, service: str) -> Client:
    """``service`` as ``caller`` may use it, which is waited for in the same way."""
    return Client(_Waiting(services, caller), service, seconds=_SECONDS)


class _Waiting:
    """A ``Transport`` to services of this process, also to those that are not there yet."""

    def __init__(self, services: Dispatcher, caller: Caller) -> None:
        self._services, self._local = services, LocalTransport(services, caller)

    async def ask(self, service: str, asked: Single | Batch, *, seconds: float, trace: str = "") -> Json:
        """As ``Transport.ask``."""
        until = trio.current_time() + seconds
        with trio.move_on_at(until):
            await self._services.present(service)
        if service not in self._services:
            raise KrpcFault(Code.UNAVAILABLE, "the zone is not up on this machine")
        return await self._local.ask(service, asked, seconds=max(0.0, until - trio.current_time()), trace=trace)
