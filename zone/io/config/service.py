"""The service ``system_config``: the zone's configuration for whoever may read and write it, over kRPC.

The forerunner's methods speak of texts, ours of JSON values (``zone/config/wire.py``).

| method | parameters | answer |
|---|---|---|
| ``sys_config_get`` | ``key`` | ``value``, ``version`` (the revision that wrote it) |
| ``sys_config_set``, ``sys_config_create`` | ``key``, ``value`` | ``version`` |
| ``sys_config_append`` | ``key``, ``append_value`` | ``version`` |
| ``sys_config_set_by_json_path`` | ``key``, ``json_path``, ``value`` (JSON; ``null`` removes) | ``version`` |
| ``sys_config_delete`` | ``key`` | ``version`` |
| ``sys_config_list`` | ``key`` | the names below |
| ``sys_config_exec_tx`` | ``actions``, ``main_key`` | ``version`` |
| ``dump_configs_for_scheduler`` | | every value by its key |
| ``sys_refresh_trust_keys`` | | nothing: whoever trusts follows the store |
| ``read`` | ``scopes``, ``revision``, ``stale_ok``, ``after_key`` | ``revision``, ``fresh``, ``entries``, ``next`` |
| ``transact`` | ``actions``, ``if`` | ``revision`` |
| ``history`` | ``key``, ``most`` | ``entries``, the newest first |
| ``watch`` | ``scope``, ``after``, ``seconds`` | ``revision`` to go on from, ``changes`` |
| ``grant`` | ``ttl`` | ``lease`` |
| ``keep_alive``, ``end_lease`` | ``lease`` | nothing |

``read``, ``history`` and ``watch`` give texts as the store has them with ``as_text``.

Each call is allowed by the rules for what it reads and writes, and a watch again when it tells something.  A lease
belongs to who took it, and is a text of digits.  Everybody has room and a number of calls of their own
(``zone/config/quota.py``, ``MOST_…``).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from operator import itemgetter
from typing import Final, TypeVar
from weakref import WeakValueDictionary

import trio

from cyfs_ns.identity.strictjson import Json, write_json
from zone.config.access import Rule, check_reading, check_transaction
from zone.config.baserules import POLICY, read_policy
from zone.config.faults import Code, ConfigError
from zone.config.keys import At, Below, Scope
from zone.config.model import Action, Append, Create, Delete, Entry, RemovePath, Set, SetPath, Transaction, read_value
from zone.config.quota import Room, charges, check_room
from zone.config.wire import (
    LARGE,
    integer,
    is_large,
    lease_of,
    path_action,
    plain,
    read_scope,
    read_scopes,
    read_transaction,
    stored,
    text_of,
    text_transaction,
    told,
)
from zone.io.config.feed import Feed
from zone.io.config.store import MOST_HISTORY, ConfigStore
from zone.krpc.caller import Caller
from zone.krpc.faults import Code as FaultCode
from zone.krpc.faults import KrpcFault
from zone.krpc.service import CallContext
from zone.scheduler.snapshot import MOST_REPORT, item_key

MOST_CALLS: Final = 32
"""Calls of one caller at once, without watches."""
MOST_WATCHES: Final = 32
"""Polls of one caller at once."""
MOST_WAIT: Final = 25.0
"""Seconds of a poll."""
MOST_LEASES: Final = 16
"""Of one caller."""
MOST_BEHIND: Final = 64
"""Leases of a user with all apps, or of a machine with all services."""
MOST_TOLD: Final = 2 * 1024 * 1024
"""Characters of values in one answer; of a reading, the rest comes with the next."""
LEASES: Final = "system/leases"
"""Below it is whose each lease is, under that lease.  Only this service writes there."""
_DUMPED: Final = ("boot", "devices", "users", "services", "system", "nodes")
_DUMPERS: Final = frozenset({"scheduler", "node-daemon"})
_HEAVY: Final = 4
"""Readings of subtrees at once."""
_MOST_PLOTS: Final = 4096
_MANY: Final = 64
"""Actions or scopes from which on asking the rules takes long enough to be done in a thread."""

T = TypeVar("T")


class ConfigService:
    """``store`` for callers.  Run :meth:`run` beside it.

    ``rules``: those that hold now.  ``stands``: whether the proof that made a caller still counts.
    """

    def __init__(
        self, store: ConfigStore, rules: Callable[[], Sequence[Rule]], stands: Callable[[Caller], bool]
    ) -> None:
        self._store = store
        self._rules = rules
        self._stands = stands
        self._feed = Feed(store)
        self._quotas = _Quotas(store)
        self._calls: Counter[str] = Counter()
        self._watches: Counter[str] = Counter()
        self._heavy = trio.CapacityLimiter(_HEAVY)
        self._granting: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the store, for ever; started when watches are answered."""
        await self._feed.run(task_status)

    async def __call__(self, caller: Caller, method: str, params: Mapping[str, Json], context: CallContext) -> Json:
        do = _METHODS.get(method)
        if do is None:
            raise KrpcFault(FaultCode.UNKNOWN_METHOD, f"system_config has no method {method[:80]!r}")
        if not caller.subjects:
            raise KrpcFault(FaultCode.UNAUTHENTICATED, "log in first")
        count, most = (self._watches, MOST_WATCHES) if method == "watch" else (self._calls, MOST_CALLS)
        with _counted(count, caller.name, most):
            try:
                return await do(self, caller, params)
            except ConfigError as error:
                raise KrpcFault.of_config(error) from None

    # -- texts

    async def _get(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        entry = await self._read_one(caller, text_of(params, "key"))
        return {"value": told(entry), "version": entry.revision}

    async def _set(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        return await self._did(caller, Set(text_of(params, "key"), stored(text_of(params, "value"))))

    async def _create(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        return await self._did(caller, Create(text_of(params, "key"), stored(text_of(params, "value"))))

    async def _append(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        value = write_json(text_of(params, "append_value")).decode()
        return await self._did(caller, Append(text_of(params, "key"), value))

    async def _set_by_path(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        value = read_value(text_of(params, "value"))
        return await self._did(caller, path_action(text_of(params, "key"), text_of(params, "json_path"), value))

    async def _delete(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        return await self._did(caller, Delete(text_of(params, "key")))

    async def _list(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        scope = Below(text_of(params, "key"))
        check_reading(self._rules(), caller.subjects, scope)
        async with self._heavy:
            return await self._store.children(scope)

    async def _exec_tx(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        transaction = await _aside(params, text_transaction)
        return {"version": await self._transacted(caller, transaction)}

    async def _dump(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        if caller.app not in _DUMPERS or not all("kernel" in subject.roles for subject in caller.subjects):
            raise KrpcFault(FaultCode.DENIED, "all of it at once is for the scheduler and the node daemon of an OOD")
        async with self._heavy:
            reading = await self._store.read([Below(prefix) for prefix in _DUMPED])
        if sum(len(entry.value or "") for entry in reading.entries) > MOST_TOLD:
            raise ConfigError(Code.TOO_LARGE, "the zone is too large for one answer: read it in parts")
        return {entry.key: told(entry) for entry in reading.entries if entry.fault is None}

    async def _refresh_trust_keys(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        """Whoever trusts keys or rules follows the store, so there is nothing to do."""
        return None

    # -- values

    async def _read(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        scopes = read_scopes(params)
        after_key = text_of(params, "after_key") if "after_key" in params else ""
        await self._check_reading_all(caller, scopes)
        revision = integer(params, "revision") if "revision" in params else None
        async with self._heavy:
            reading = await self._store.read(scopes, revision, stale_ok=params.get("stale_ok") is True)
        entries = [entry for entry in reading.entries if entry.key > after_key]
        page, more = _page(entries)
        answer: dict[str, Json] = {
            "revision": reading.revision,
            "fresh": reading.fresh,
            "entries": await _told(page, params),
        }
        return answer | ({"next": page[-1].key} if more else {})

    async def _transact(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        return {"revision": await self._transacted(caller, await _aside(params, read_transaction))}

    async def _history(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        key = text_of(params, "key")
        check_reading(self._rules(), caller.subjects, At(key))
        entries = await self._store.history(key, max(1, integer(params, "most", MOST_HISTORY)))
        page, _ = _page(entries)
        return {"entries": await _told(page, params)}

    async def _watch(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        scope = read_scope(params.get("scope"))
        seconds = params.get("seconds", MOST_WAIT)
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds <= MOST_WAIT:
            raise ConfigError(Code.INVALID, f"'seconds' are 0 to {MOST_WAIT:.0f}")
        check_reading(self._rules(), caller.subjects, scope)
        news = await self._feed.poll(scope, integer(params, "after"), float(seconds))
        # What was allowed when the wait began may not be any more.
        if not self._stands(caller):
            raise KrpcFault(FaultCode.UNAUTHENTICATED, "the session has ended; log in again")
        check_reading(self._rules(), caller.subjects, scope)
        told_changes: list[Json] = [
            {"revision": change.revision, "entries": await _told(change.entries, params)} for change in news.changes
        ]
        return {"revision": news.revision, "changes": told_changes}

    # -- leases

    async def _grant(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        place = _leases_of(caller)
        behind = place.rpartition("/")[0]
        # One after the other, so that each counts those before it.
        lock = self._granting.setdefault(behind, trio.Lock())
        async with lock:
            taken = [entry.key for entry in (await self._store.read([Below(behind)])).entries]
            if len(taken) >= MOST_BEHIND or sum(key.startswith(f"{place}/") for key in taken) >= MOST_LEASES:
                raise KrpcFault(
                    FaultCode.LIMITED,
                    f"a caller has at most {MOST_LEASES} leases, and {MOST_BEHIND} with all apps or services; end some",
                )
            lease = await self._store.grant(integer(params, "ttl"))
            try:
                await self._store.transact(Transaction((Create(f"{place}/{lease}", "true", lease),)))
            except BaseException:
                # Nobody would know of it, nor count it.
                with trio.CancelScope(shield=True), suppress(ConfigError):
                    await self._store.revoke(lease)
                raise
        return {"lease": str(lease)}

    async def _keep_alive(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        await self._store.keep_alive(await self._own_lease(caller, lease_of(params)))
        return {}

    async def _end_lease(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        await self._store.revoke(await self._own_lease(caller, lease_of(params)))
        return {}

    async def _own_lease(self, caller: Caller, lease: int) -> int:
        """``lease``, which is ``caller``'s.  Whose the others are is not told."""
        if not (await self._store.read([At(f"{_leases_of(caller)}/{lease}")])).entries:
            raise ConfigError(Code.MISSING, f"lease {lease} is over, or somebody else's")
        return lease

    # -- what these are made of

    async def _check_reading_all(self, caller: Caller, scopes: Sequence[Scope]) -> None:
        rules = self._rules()

        def check() -> None:
            for scope in scopes:
                check_reading(rules, caller.subjects, scope)

        await trio.to_thread.run_sync(check) if len(scopes) > _MANY else check()

    async def _read_one(self, caller: Caller, key: str) -> Entry:
        check_reading(self._rules(), caller.subjects, At(key))
        return await self._store.get(key)

    async def _did(self, caller: Caller, action: Action) -> Json:
        return {"version": await self._transacted(caller, Transaction((action,)))}

    async def _transacted(self, caller: Caller, transaction: Transaction) -> int:
        rules = self._rules()
        if len(transaction.actions) > _MANY:
            await trio.to_thread.run_sync(check_transaction, rules, caller.subjects, transaction)
        else:
            check_transaction(rules, caller.subjects, transaction)
        for action in transaction.actions:
            if action.key.startswith(f"{LEASES}/"):
                raise ConfigError(Code.DENIED, f"{action.key}: whose a lease is writes only who grants it")
            if action.key == POLICY:
                _check_policy(action)
        leases = {action.lease for action in transaction.actions if isinstance(action, Set | Create)}
        for lease in sorted(leases - {0}):
            await self._own_lease(caller, lease)
        if all(subject.roles & {"owner", "kernel"} for subject in caller.subjects):
            return await self._store.transact(transaction)
        await self._check_reports(transaction)
        async with self._quotas.taken(transaction):
            return await self._store.transact(transaction)

    async def _check_reports(self, transaction: Transaction) -> None:
        """A new report is about something that was ordered: otherwise names of services would be without end.

        It is written whole and is short, for all of them are read together.
        """
        wanted = {}
        for action in transaction.actions:
            segments = action.key.split("/")
            if len(segments) == 4 and segments[0] == "services" and segments[2] == "instances":
                wanted[action.key] = item_key(segments[3], segments[1])
                if not isinstance(action, Set | Create | Delete):
                    raise ConfigError(Code.INVALID, f"{action.key}: a report is written whole")
                if not isinstance(action, Delete) and len(action.value.encode()) > MOST_REPORT:
                    raise ConfigError(Code.TOO_LARGE, f"{action.key}: a report has at most {MOST_REPORT} bytes")
        if not wanted:
            return
        reading = await self._store.read([At(key) for key in sorted({*wanted, *wanted.values()})])
        there = {entry.key for entry in reading.entries}
        for report, item in wanted.items():
            if not there & {report, item}:
                raise ConfigError(Code.DENIED, f"{report}: there is no {item} to report on")


class _Quotas:
    """Keeps count of plots, each from a reading on; reads again when that says it is full.

    What is written elsewhere meanwhile is not seen, so a plot may hold up to its limit once for each OOD.
    """

    def __init__(self, store: ConfigStore) -> None:
        self._store = store
        self._counted: OrderedDict[str, Room] = OrderedDict()
        self._locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def taken(self, transaction: Transaction) -> AsyncGenerator[None]:
        """While ``transaction`` is made, its room is counted.  Raises ``ConfigError`` (``FULL``)."""
        async with AsyncExitStack() as held:
            for plot, charge in sorted(charges(transaction).items(), key=itemgetter(0)):
                counted = self._counted.get(plot)
                if counted is not None and (after := counted + charge.wanted).fits(charge.most):
                    self._put(plot, after)
                    continue
                # One after the other, so that each sees what those before it have written.
                lock = self._locks.setdefault(plot, trio.Lock())
                await held.enter_async_context(lock)
                reading = await self._store.read([Below(plot)])
                self._put(plot, check_room(plot, charge, reading.entries))
            yield

    def _put(self, plot: str, room: Room) -> None:
        self._counted[plot] = room
        self._counted.move_to_end(plot)
        if len(self._counted) > _MOST_PLOTS:
            self._counted.popitem(last=False)


_Method = Callable[[ConfigService, Caller, Mapping[str, Json]], Awaitable[Json]]

_METHODS: Final[Mapping[str, _Method]] = {
    "sys_config_get": ConfigService._get,
    "sys_config_set": ConfigService._set,
    "sys_config_create": ConfigService._create,
    "sys_config_append": ConfigService._append,
    "sys_config_set_by_json_path": ConfigService._set_by_path,
    "sys_config_delete": ConfigService._delete,
    "sys_config_list": ConfigService._list,
    "sys_config_exec_tx": ConfigService._exec_tx,
    "dump_configs_for_scheduler": ConfigService._dump,
    "sys_refresh_trust_keys": ConfigService._refresh_trust_keys,
    "read": ConfigService._read,
    "transact": ConfigService._transact,
    "history": ConfigService._history,
    "watch": ConfigService._watch,
    "grant": ConfigService._grant,
    "keep_alive": ConfigService._keep_alive,
    "end_lease": ConfigService._end_lease,
}


@contextmanager
def _counted(count: Counter[str], name: str, most: int) -> Generator[None]:
    if count[name] >= most:
        raise KrpcFault(FaultCode.LIMITED, f"a caller has at most {most} such calls at once")
    count[name] += 1
    try:
        yield
    finally:
        count[name] -= 1
        if not count[name]:
            del count[name]


def _check_policy(action: Action) -> None:
    """Rules that cannot be read would lock most people out."""
    if isinstance(action, Set | Create):
        read_policy(action.value)
    elif isinstance(action, Append | SetPath | RemovePath):
        raise ConfigError(Code.INVALID, f"{POLICY} is written as a whole")


def _leases_of(caller: Caller) -> str:
    kind, name = ("user", caller.user) if caller.user else ("device", caller.device)
    if not name:
        raise KrpcFault(FaultCode.UNAUTHENTICATED, "a lease belongs to a user or a device")
    # No app has the place of those that come without one.
    app = f"~{caller.app}" if caller.app.startswith("~") else caller.app or "~"
    return f"{LEASES}/{kind}/{name}/{app}"


def _page(entries: Sequence[Entry]) -> tuple[list[Entry], bool]:
    """As many as go into one answer, one at least, and whether there are more."""
    room = MOST_TOLD
    page: list[Entry] = []
    for entry in entries:
        room -= len(entry.key) + len(entry.value or "") + 64
        if page and room < 0:
            return page, True
        page.append(entry)
    return page, False


async def _told(entries: Sequence[Entry], params: Mapping[str, Json]) -> list[Json]:
    as_text = params.get("as_text") is True
    size = 0 if as_text else sum(len(entry.value or "") for entry in entries)

    def work() -> list[Json]:
        return [plain(entry, as_text=as_text) for entry in entries]

    return await trio.to_thread.run_sync(work) if size > LARGE else work()


async def _aside(params: Mapping[str, Json], read: Callable[[Mapping[str, Json]], T]) -> T:
    """``read`` of ``params``, in a thread where they are large."""
    return await trio.to_thread.run_sync(read, params) if is_large(params) else read(params)
