"""The whole way of one answer, for whoever asks why.

The question is really asked: the cache and the upstreams have their say, and a name may get its fake address.  It
comes in by no door, so neither the statistics nor the query log hear of it, and no client is answered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from cyfs_ns import message, names
from cyfs_ns.config.dns import DnsConfig, DoorsConfig
from cyfs_ns.config.house import LogConfig, SetsConfig
from cyfs_ns.config.load import LoadedDns
from cyfs_ns.errors import ConfigFault
from cyfs_ns.given import Step, Trail
from cyfs_ns.io.nameserver import NameServer
from cyfs_ns.io.serving import Serving
from cyfs_ns.message import Question, rcode_text, rtype_text
from cyfs_ns.peer import Peer
from cyfs_ns.query import Query, read_query
from cyfs_ns.records import data_text
from cyfs_ns.reply import records
from cyfs_ns.wire import name_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """An answer and how it came about."""

    name: str
    rtype: str
    client: str
    view: str
    """The rules that hold for the client."""
    steps: tuple[Step, ...]
    source: str
    """As in :class:`cyfs_ns.statistics.Heard`."""
    why: str
    rcode: str
    answer: tuple[tuple[str, str, int, str], ...]
    """Name, type, TTL and data of the records."""
    ede: tuple[tuple[int, str], ...]
    milliseconds: float


def question_of(name: str, rtype: str) -> Question:
    """What is meant by words: an address asks for its name, and no type for an address.  Raises ``BadWire``."""
    if names.is_ip(name):
        return Question(message.reverse_name(names.ip(name)), message.rtype_number(rtype or "PTR"))
    return Question(names.name(name) if name.strip(".") else "", message.rtype_number(rtype or "A"))


async def explain(server: NameServer, question: Question, client: str) -> Explained:
    """Ask as the client at a canonical address would."""
    query = read_query(message.build_query(question, 0))
    assert isinstance(query, Query)
    view = server.view_of(client)
    trail = Trail(server.clock)
    given = await server.answer(query, Peer(client, 0, "inner", "", ""), view, trail)
    took = (server.clock() - trail.begun) * 1000
    least = given.ttl_min or 0
    return Explained(
        name=question.name,
        rtype=rtype_text(question.rtype),
        client=client,
        view=view.spec.name,
        steps=tuple(trail.steps),
        source=given.source,
        why=given.why,
        rcode=rcode_text(given.reply.rcode),
        answer=tuple(
            (name_text(owner) + ".", rtype_text(rtype), max(ttl - given.age, least), data_text(rtype, data))
            for owner, rtype, ttl, data in records(given.reply, 0)
        ),
        ede=given.reply.ede,
        milliseconds=took,
    )


async def explain_alone(loaded: LoadedDns, question: Question, client: str) -> Explained:
    """As a server with this configuration would answer if it started now: nothing cached, lists fetched afresh.

    It opens no door and touches neither sets nor connections of the kernel.  Raises ``ConfigFault``.
    """
    if loaded.dns is None:
        raise ConfigFault("the configuration has errors")
    config = _without_effects(loaded.dns)
    with TemporaryDirectory(prefix="cyfs-ns-") as folder:
        serving = Serving(Path(folder), config)
        staged = await serving.stage(config, loaded.hosts, serving.around)
        async with trio.open_nursery() as nursery:
            serving.begin(nursery, staged)
            await serving.refresh_lists()
            try:
                return await explain(serving.server, question, client)
            finally:
                nursery.cancel_scope.cancel()


def _without_effects(config: DnsConfig) -> DnsConfig:
    doors = replace(DoorsConfig(), allow_from=config.doors.allow_from, deny_from=config.doors.deny_from)
    house = replace(config.house, sets=SetsConfig(), log=LogConfig())
    return replace(config, doors=doors, house=house, cache=replace(config.cache, persist=False))
