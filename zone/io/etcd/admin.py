"""What is asked of a member itself: who belongs to its cluster, how it is, its file.

As in the store, every call runs in a worker thread under a deadline of its own.  Raises ``Unreachable`` where nobody
answers in time, ``Refused`` where etcd says no.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import trio

from cyfs_ns.errors import BadWire, Refused, Unreachable
from cyfs_ns.io.atomic import AtomicFile
from zone.etcd.membership import Member
from zone.io.etcd.wire import Channel, bytes_in_use, etcdrpc, is_learner, learns

_PATIENCE: Final = 5.0
_LONG: Final = 120.0
"""Seconds for what works on a whole file."""
_MOST_READ: Final = 16 * 1024 * 1024
_DOCUMENT: Final = b"/cyfs/membership/document"
"""The key that holds the ``iat`` of the zone document that the membership follows."""
_HASH: Final = 32
"""Bytes of SHA-256 at the end of a snapshot, over all before them."""
_NOT_NOW: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A member as it is now."""

    id: int
    cluster: int
    leader: int
    """Id of the member that leads; 0: none."""
    revision: int
    learns: bool
    """It has no vote, and answers little."""
    size: int
    used: int
    """Bytes of its file, and of those that are needed."""

    @property
    def leads(self) -> bool:
        return self.id == self.leader


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A file with all that a member knew at one moment."""

    path: Path
    size: int
    sha256: str


class Admin:
    """Of the member at ``target`` (as of gRPC)."""

    def __init__(self, target: str, patience: float = _PATIENCE) -> None:
        self._channel = Channel(target, _MOST_READ)
        self._patience = patience
        self._threads = trio.CapacityLimiter(math.inf)

    async def state(self) -> State:
        told = await self._ask(self._channel.maintenance.Status, etcdrpc.StatusRequest())
        head = told.header
        return State(
            id=head.member_id,
            cluster=head.cluster_id,
            leader=told.leader,
            revision=head.revision,
            learns=learns(told),
            size=told.dbSize,
            used=bytes_in_use(told),
        )

    async def members(self) -> tuple[Member, ...]:
        """As this member knows them."""
        told = await self._ask(self._channel.cluster.MemberList, etcdrpc.MemberListRequest())
        return tuple(
            Member(id=one.ID, url=one.peerURLs[0] if one.peerURLs else "", is_learner=is_learner(one))
            for one in told.members
        )

    async def add_learner(self, url: str) -> None:
        await self._ask(self._channel.add_learner, etcdrpc.MemberAddRequest(peerURLs=[url]))

    async def promote(self, member: int) -> None:
        """Give a learner its vote.  Raises ``Refused`` as long as it has not caught up."""
        await self._ask(self._channel.promote, etcdrpc.MemberRemoveRequest(ID=member))

    async def remove(self, member: int) -> None:
        await self._ask(self._channel.cluster.MemberRemove, etcdrpc.MemberRemoveRequest(ID=member))

    async def hand_over(self, to: int) -> None:
        """Let another member lead; this one must."""
        await self._ask(self._channel.maintenance.MoveLeader, etcdrpc.MoveLeaderRequest(targetID=to))

    async def document(self) -> int:
        """The document that the membership follows, 0: none yet.  Who answers has a majority behind it."""
        told = await self._ask(self._channel.kv.Range, etcdrpc.RangeRequest(key=_DOCUMENT))
        return int(told.kvs[0].value) if told.kvs else 0

    async def follow(self, document: int) -> None:
        """Have the membership follow that one.  Raises ``Refused`` if it follows that or a newer one already."""
        before = await self._ask(self._channel.kv.Range, etcdrpc.RangeRequest(key=_DOCUMENT))
        if before.kvs and int(before.kvs[0].value) >= document:
            raise Refused("the members follow a newer document")
        revision = before.kvs[0].mod_revision if before.kvs else 0
        compare = etcdrpc.Compare(
            result=etcdrpc.Compare.EQUAL, target=etcdrpc.Compare.MOD, key=_DOCUMENT, mod_revision=revision
        )
        put = etcdrpc.RequestOp(request_put=etcdrpc.PutRequest(key=_DOCUMENT, value=str(document).encode()))
        told = await self._ask(self._channel.kv.Txn, etcdrpc.TxnRequest(compare=[compare], success=[put]))
        if not told.succeeded:
            raise Refused("the members follow another document meanwhile")

    async def has_no_room(self, member: int) -> bool:
        """Whether ``member`` has raised its alarm: then the cluster takes no writes."""
        told = await self._alarm(etcdrpc.AlarmRequest.GET, member)
        return any(one.memberID == member and one.alarm == etcdrpc.NOSPACE for one in told.alarms)

    async def disarm(self, member: int) -> None:
        await self._alarm(etcdrpc.AlarmRequest.DEACTIVATE, member)

    async def _alarm(self, action: int, member: int) -> Any:
        request = etcdrpc.AlarmRequest(action=action, memberID=member, alarm=etcdrpc.NOSPACE)
        return await self._ask(self._channel.maintenance.Alarm, request)

    async def compact(self, revision: int) -> None:
        """Forget what was before ``revision``, and wait until it is gone from the file."""
        request = etcdrpc.CompactionRequest(revision=revision, physical=True)
        await self._ask(self._channel.kv.Compact, request, _LONG)

    async def defragment(self) -> None:
        """Give empty room in the file back to the disk; the member answers nobody meanwhile."""
        await self._ask(self._channel.maintenance.Defragment, etcdrpc.DefragmentRequest(), _LONG)

    async def snapshot(self, path: Path) -> Snapshot:
        """Write all that the member knows to ``path``, whole and checked or not at all.

        Raises ``BadWire`` and ``OSError`` too.
        """

        def fetch() -> None:
            with AtomicFile(path) as file:
                for part in self._channel.maintenance.Snapshot(etcdrpc.SnapshotRequest(), timeout=_LONG):
                    file.write(part.blob)
                file.commit()

        await self._run(fetch)
        try:
            return await check_snapshot(path)
        except BadWire:
            await trio.Path(path).unlink()
            raise

    async def _ask(self, call: Callable[..., Any], request: Any, patience: float | None = None) -> Any:
        return await self._run(lambda: call(request, timeout=patience or self._patience))

    async def _run(self, work: Callable[[], Any]) -> Any:
        try:
            return await trio.to_thread.run_sync(work, limiter=self._threads, abandon_on_cancel=True)
        except grpc.RpcError as fault:
            said = f"etcd: {(fault.details() or '')[:200]}"
            if fault.code() in _NOT_NOW:
                raise Unreachable(said) from fault
            raise Refused(said) from fault
        except ValueError as fault:
            # gRPC's word for a channel that is closed.
            raise Unreachable(f"etcd: {fault}") from fault

    def close(self) -> None:
        self._channel.close()


async def check_snapshot(path: Path) -> Snapshot:
    """The snapshot in ``path``, if it is whole.  Raises ``BadWire``, ``OSError``."""
    return await trio.to_thread.run_sync(_checked, path)


def _checked(path: Path) -> Snapshot:
    size = path.stat().st_size
    if size <= _HASH:
        raise BadWire(f"{path}: {size} bytes are no snapshot")
    hashed, rest = hashlib.sha256(), size - _HASH
    with path.open("rb") as file:
        while rest and (part := file.read(min(rest, 1 << 20))):
            hashed.update(part)
            rest -= len(part)
        if rest or file.read() != hashed.digest():
            raise BadWire(f"{path}: not a whole snapshot: its hash is another")
    return Snapshot(path, size, hashed.hexdigest())
