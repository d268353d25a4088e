"""The store of a zone of several machines: etcd 3.4 or later, by the ``etcd3`` package.

Of the package only the channel and the generated messages are used: its calls know neither revisions nor guards by
revision, and its watcher reconnects to a dead server as fast as it can, in a thread that never ends.

Every call runs in a worker thread and has a deadline of its own, so the thread ends too.  Several members may be given,
the nearest first: a member that does not answer is passed over until others do not answer either.  A reading is
linearizable: a member asks the quorum.  Without one there is none; whoever takes old news gets those of a member, and
is told so.  A commit is sent once: if its answer is lost, nobody can tell whether it was made (``UNCERTAIN``).

Revisions are etcd's own, or go on from those of the file that was the store before (``begin_after``): so none that
somebody has of that file is ever one here, neither for a watch nor for a guard.

A watch ends where a cluster answers that is another than before: a restored one counts revisions of its own.

The members need ``--max-txn-ops=2048`` for the largest transactions, and forget by ``--auto-compaction-retention``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import groupby
from typing import Any, Final

import grpc
import trio

from zone.config.faults import Code, ConfigError
from zone.config.keys import Scope, interval
from zone.config.model import Change, Commit, Entry, Reading
from zone.io.etcd.wire import Channel, etcdrpc

_PATIENCE: Final = 5.0
"""Seconds for one request, all members together."""
_STALE_PATIENCE: Final = 1.0
"""Seconds for a member to say what it has itself."""
_PAUSE: Final = 0.1
"""Seconds between two attempts."""
_LOOK: Final = 5.0
"""Seconds from one look at whether a silent member is still there to the next; gRPC's own pings take a minute."""
_MOST_READ: Final = 64 * 1024 * 1024
"""Bytes of one answer."""
_AT_ONCE: Final = 100
"""Scopes of one request: etcd takes 128 as a matter of course."""
_LAST: Final = (1 << 63) - 1
_BEFORE: Final = b"/cyfs/revisions"
"""Followed by the namespace: the key that holds the last revision of the store before; absent: there was none."""

_FAULTS: Final = (
    ("required revision has been compacted", Code.COMPACTED),
    ("required revision is a future revision", Code.INVALID),
    ("database space exceeded", Code.FULL),
    ("request is too large", Code.TOO_LARGE),
    ("too many operations in txn request", Code.TOO_LARGE),
    ("too many requests", Code.UNAVAILABLE),
    ("requested lease not found", Code.MISSING),
    ("received message larger than max", Code.TOO_LARGE),
)
"""What etcd says before it has done anything; but the one commit that fills it is made, and told as too much."""


class EtcdBackend:
    """A zone's keys in etcd, below ``namespace``.

    ``members``: their client interfaces, ``HOST:PORT`` or ``unix:PATH``, the nearest first.
    """

    def __init__(self, members: Sequence[str], namespace: str, patience: float = _PATIENCE) -> None:
        self._clients = [Channel(member, _MOST_READ) for member in members]
        # A watcher that was away is told a thousand revisions in one message.
        self._listeners = [Channel(member, -1) for member in members]
        self._is_open = True
        self._has_quorum = True
        self._member = 0
        self._cluster = 0
        """The id of that which gave the last answer."""
        self._namespace = namespace.encode()
        self._before: int | None = None
        """The last revision of the store before this one, 0: none; None: not read yet."""
        self._patience = patience
        self._threads = trio.CapacityLimiter(math.inf)

    async def read(self, scopes: Sequence[Scope], revision: int | None = None, *, stale_ok: bool = False) -> Reading:
        if revision is not None and not 0 < revision <= _LAST:
            raise ConfigError(Code.COMPACTED if revision < 1 else Code.INVALID, f"there is no revision {revision}")
        # Who takes old news does not wait long again and again for what was not there last time.
        patience = self._patience if self._has_quorum or not stale_ok else min(self._patience, _STALE_PATIENCE)
        try:
            reading = await self._read(scopes, revision, patience, stale=False)
        except ConfigError as fault:
            self._has_quorum = fault.code is not Code.UNAVAILABLE
            if not stale_ok or self._has_quorum or not self._is_open:
                raise
        else:
            self._has_quorum = True
            return reading
        return await self._read(scopes, revision, _STALE_PATIENCE * len(self._clients), stale=True)

    async def begin_after(self, revision: int) -> None:
        """Have all revisions here be later than ``revision``; done once, before anybody takes this for the store."""
        key = _BEFORE + self._namespace
        request = etcdrpc.TxnRequest(
            compare=[
                etcdrpc.Compare(result=etcdrpc.Compare.EQUAL, target=etcdrpc.Compare.MOD, key=key, mod_revision=0)
            ],
            success=[etcdrpc.RequestOp(request_put=etcdrpc.PutRequest(key=key, value=str(revision).encode()))],
        )
        await self._call(self._member, _transact, request, self._patience, Code.UNCERTAIN)
        self._before = None

    async def _offset(self) -> int:
        """What is added to etcd's own revisions."""
        if self._before is None:
            await self._read((), None, self._patience, stale=False)
        assert self._before is not None
        return self._before

    async def _read(self, scopes: Sequence[Scope], revision: int | None, patience: float, *, stale: bool) -> Reading:
        # A transaction without a range would not ask the quorum.
        ranges = [self._range(*interval(scope)) for scope in scopes] or [{"key": self._namespace}]
        deadline = trio.current_time() + patience
        if revision is not None:
            if revision <= (before := await self._offset()):
                raise ConfigError(Code.COMPACTED, f"revision {revision} is of the store before, up to {before}")
            revision -= before
        found: dict[str, Entry] = {}
        offset = etcdrpc.RequestOp(
            request_range=etcdrpc.RangeRequest(key=_BEFORE + self._namespace, serializable=stale)
        )
        for start in range(0, len(ranges), _AT_ONCE):
            request = etcdrpc.TxnRequest(
                success=[
                    etcdrpc.RequestOp(
                        request_range=etcdrpc.RangeRequest(**one, revision=revision or 0, serializable=stale)
                    )
                    for one in ranges[start : start + _AT_ONCE]
                ]
                + [offset]
            )
            try:
                answer = await self._ask(_transact, request, deadline)
            except ConfigError as fault:
                if stale and start and fault.code is Code.INVALID:
                    # Another member answers than before, and it is not there yet.
                    raise ConfigError(Code.UNAVAILABLE, "etcd: the members are at different revisions") from fault
                raise
            self._cluster = answer.header.cluster_id
            self._before = int(next((kv.value for kv in answer.responses[-1].response_range.kvs), 0))
            if revision is None:
                revision = answer.header.revision
            # There is a range more than scopes where there are none.
            for scope, response in zip(scopes[start:], answer.responses, strict=False):
                entries = map(self._entry, response.response_range.kvs)
                found |= {entry.key: entry for entry in entries if entry.key in scope}
        assert revision is not None
        assert self._before is not None
        return Reading(revision + self._before, tuple(found[key] for key in sorted(found)), fresh=not stale)

    async def _ask(self, stub: Callable[[Any], Any], request: Any, deadline: float) -> Any:
        """The answer of the first member that gives one.  Raises ``ConfigError``."""
        share = (deadline - trio.current_time()) / len(self._clients)
        while True:
            patience = min(share, deadline - trio.current_time())
            try:
                return await self._call(self._member, stub, request, patience, Code.UNAVAILABLE)
            except ConfigError as fault:
                late = trio.current_time() + _PAUSE > deadline
                if fault.code is not Code.UNAVAILABLE or late or not self._is_open:
                    raise
            await trio.sleep(_PAUSE)

    async def commit(self, commit: Commit) -> int | None:
        before = await self._offset()
        if any(0 < revision <= before for revision in commit.guards.values()):
            return None
        request = etcdrpc.TxnRequest(
            compare=[
                etcdrpc.Compare(
                    result=etcdrpc.Compare.EQUAL,
                    target=etcdrpc.Compare.MOD,
                    key=self._namespace + key.encode(),
                    mod_revision=revision and revision - before,
                )
                for key, revision in commit.guards.items()
            ],
            success=[self._write(key, value, commit.leases.get(key, 0)) for key, value in commit.writes.items()],
        )
        answer = await self._call(self._member, _transact, request, self._patience, Code.UNCERTAIN)
        return int(answer.header.revision) + before if answer.succeeded else None

    def _write(self, key: str, value: str | None, lease: int) -> Any:
        where = self._namespace + key.encode()
        if value is None:
            return etcdrpc.RequestOp(request_delete_range=etcdrpc.DeleteRangeRequest(key=where))
        return etcdrpc.RequestOp(request_put=etcdrpc.PutRequest(key=where, value=value.encode(), lease=lease))

    @asynccontextmanager
    async def watch(self, scope: Scope, after: int) -> AsyncGenerator[AsyncIterator[Change]]:
        async with aclosing(self._changes(scope, after)) as changes:
            yield changes

    async def _changes(self, scope: Scope, after: int) -> AsyncGenerator[Change]:
        # ``after`` was most likely read from this one.
        cluster = self._cluster
        while True:
            await self._wait_for(after)
            member = self._member
            if not self._is_open:
                raise ConfigError(Code.UNAVAILABLE, "etcd: the store is closed")
            own = after - await self._offset()
            watch = _Watch(self._listeners[member].watches, self._range(*interval(scope)), own)
            try:
                while (told := await self._next(watch, member)) is not None:
                    if cluster not in (0, told.header.cluster_id):
                        raise ConfigError(
                            Code.INVALID, f"etcd: the store was put back, and revision {after} is of the one before"
                        )
                    cluster = told.header.cluster_id
                    if told.compact_revision:
                        raise ConfigError(
                            Code.COMPACTED,
                            f"revision {after} is forgotten: the first is {told.compact_revision + after - own}",
                        )
                    for change in self._grouped(told.events):
                        if change.revision > after:
                            after = change.revision
                            if entries := tuple(entry for entry in change.entries if entry.key in scope):
                                yield Change(after, entries)
            finally:
                watch.close()
            self._pass_over(member)
            await trio.sleep(_PAUSE)

    async def _wait_for(self, revision: int) -> None:
        """Until a quorum can be asked.  Raises ``ConfigError`` if ``revision`` is not there."""
        while True:
            try:
                # Also says so where it is gone, or not there yet.
                await self.read([], revision)
            except ConfigError as fault:
                if fault.code is not Code.UNAVAILABLE or not self._is_open:
                    raise
            else:
                return

    async def _next(self, watch: _Watch, member: int) -> Any:
        """What ``watch`` tells next; None if it is over."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_with, watch, member)
            told = await trio.to_thread.run_sync(watch.next, limiter=self._threads, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()
        return told

    async def _end_with(self, watch: _Watch, member: int) -> None:
        """End ``watch`` when its member does not answer for the quorum any more."""
        request = etcdrpc.RangeRequest(key=self._namespace, count_only=True)
        try:
            while True:
                await trio.sleep(_LOOK)
                await self._call(member, lambda client: client.kv.Range, request, _LOOK, Code.UNAVAILABLE)
        except ConfigError:
            watch.close()

    def _grouped(self, events: Sequence[Any]) -> Iterator[Change]:
        before = self._before or 0
        # etcd never tells one revision in two parts, unless asked to.
        for revision, group in groupby(events, lambda event: event.kv.mod_revision):
            entries = [self._entry(event.kv, deleted=event.type == event.DELETE) for event in group]
            yield Change(revision + before, tuple(sorted(entries, key=lambda entry: entry.key)))

    async def grant(self, ttl: int) -> int:
        # One whose number is lost expires by itself, so it may be asked for again.
        deadline = trio.current_time() + self._patience
        request = etcdrpc.LeaseGrantRequest(TTL=ttl)
        return int((await self._ask(lambda client: client.leases.LeaseGrant, request, deadline)).ID)

    async def keep_alive(self, lease: int) -> None:
        deadline = trio.current_time() + self._patience
        answer = await self._ask(_one_sign_of_life, etcdrpc.LeaseKeepAliveRequest(ID=lease), deadline)
        if answer is None or answer.TTL <= 0:
            raise ConfigError(Code.MISSING, f"there is no lease {lease}")

    async def revoke(self, lease: int) -> None:
        request = etcdrpc.LeaseRevokeRequest(ID=lease)
        await self._call(
            self._member, lambda client: client.leases.LeaseRevoke, request, self._patience, Code.UNCERTAIN
        )

    async def compact(self, revision: int) -> None:
        if revision <= (before := await self._offset()):
            return
        request = etcdrpc.CompactionRequest(revision=revision - before)
        try:
            await self._call(self._member, lambda client: client.kv.Compact, request, self._patience, Code.UNAVAILABLE)
        except ConfigError as fault:
            if fault.code is not Code.COMPACTED:
                raise

    async def aclose(self) -> None:
        self._is_open = False
        for client in (*self._clients, *self._listeners):
            client.close()

    async def _call(self, member: int, stub: Callable[[Any], Any], request: Any, patience: float, lost: Code) -> Any:
        """The answer of ``member``.  Raises ``ConfigError``, ``lost`` where there is none."""
        try:
            call = stub(self._clients[member])
            return await trio.to_thread.run_sync(
                lambda: call(request, timeout=patience), limiter=self._threads, abandon_on_cancel=True
            )
        except ValueError as fault:
            # gRPC's word for a channel that is closed.
            if self._is_open:
                raise
            raise ConfigError(Code.UNAVAILABLE, "etcd: the store is closed") from fault
        except grpc.RpcError as fault:
            said = fault.details() or ""
            code = next((code for words, code in _FAULTS if words in said.lower()), lost)
            if code is lost:
                self._pass_over(member)
            raise ConfigError(code, f"etcd: {fault.code().name.lower()}: {said[:200]}") from fault

    def _pass_over(self, member: int) -> None:
        if member == self._member:
            self._member = (member + 1) % len(self._clients)

    def _range(self, first: str, beyond: str) -> dict[str, bytes]:
        return {"key": self._namespace + first.encode(), "range_end": self._namespace + beyond.encode()}

    def _entry(self, kv: Any, *, deleted: bool = False) -> Entry:
        try:
            value, fault = None if deleted else kv.value.decode(), None
        except UnicodeDecodeError:
            value, fault = None, Code.DAMAGED
        try:
            key = kv.key[len(self._namespace) :].decode()
        except UnicodeDecodeError as bad:
            raise ConfigError(Code.DAMAGED, f"etcd: {kv.key[:200]!r} was written by another program: {bad}") from bad
        before = self._before or 0
        created = kv.create_revision and kv.create_revision + before
        return Entry(key, value, kv.mod_revision + before, created, kv.version, kv.lease, fault)


def _transact(client: Any) -> Any:
    return client.kv.Txn


def _one_sign_of_life(client: Any) -> Any:
    def call(request: Any, timeout: float) -> Any:
        return next(client.leases.LeaseKeepAlive(iter([request]), timeout=timeout), None)

    return call


class _Watch:
    """One stream of changes from one member.  It is over when the member has no leader, or is gone."""

    def __init__(self, stub: Any, keys: dict[str, bytes], after: int) -> None:
        self._over = threading.Event()
        # From ``after``, not from the one behind it, so that etcd tells if anything behind it is compacted.
        request = etcdrpc.WatchCreateRequest(**keys, start_revision=after)
        self._stream = stub.Watch(self._requests(request), metadata=(("hasleader", "true"),))

    def _requests(self, request: Any) -> Iterator[Any]:
        yield etcdrpc.WatchRequest(create_request=request)
        # The stream ends with its requests.
        self._over.wait()

    def next(self) -> Any:
        """Blocks for the next message; None if there is none any more."""
        try:
            told = next(self._stream, None)
        except grpc.RpcError:
            return None
        return None if told is None or (told.canceled and not told.compact_revision) else told

    def close(self) -> None:
        self._stream.cancel()
        self._over.set()
