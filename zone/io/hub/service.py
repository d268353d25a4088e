"""The service ``verify-hub``: logging in, refreshing, ending; and the tasks that keep keys and sessions in order.

Any OOD may serve it, and all may at once: a call reads what it depends on, decides, and writes under the revisions that
it read.  What is patient with strangers (``Throttle``) is each OOD's own.

A session rests on something: a user on their type while they are active, a machine on its key and role in
the zone's document.  When that changes, whoever changed it and however, every hub that hears of it ends the session.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, TypeVar

import trio

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import host_of_did
from cyfs_ns.identity.documents import ZoneDoc
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from zone.boot.settle import BOOT, read_boot
from zone.config.faults import Code as ConfigCode
from zone.config.faults import ConfigError
from zone.config.keys import At, Below, Scope, check_key
from zone.config.model import Action, AtRevision, Delete, Entry, Set, SetPath, Transaction
from zone.hub.keyset import SEED, KeySet, is_due, new_keys, read_keys, rotated
from zone.hub.ledger import Ledger, Step, ended, opened, read_ledger, refreshed, upheld
from zone.hub.people import NOBODYS, SALT, Settings, check_password, new_lock, read_lock, read_settings
from zone.hub.subjects import may_manage, needs_item, type_of
from zone.hub.throttle import Throttle
from zone.hub.tokens import (
    LIFE,
    PEOPLE,
    SKEW,
    Bootstrap,
    Claims,
    Type,
    Use,
    device_of,
    issued,
    read_bootstrap,
    read_claims,
    refused,
)
from zone.io.config.store import ConfigStore
from zone.io.hub.trust import KEYS, REVOKED
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import CallContext
from zone.membership import Membership, ood_names
from zone.scheduler.snapshot import item_key

SECRET: Final = "security/verify-hub"
SECRET_KEYS: Final = f"{SECRET}/keys"
OWNER: Final = "owner"
"""What the zone's owner is called in tokens."""
_DEAD: Final = LIFE[Use.SESSION] + 2 * SKEW
"""Seconds after which no token of a session is good that ended before."""
_PATIENCE: Final = 10.0
"""Seconds for which a call competes with others for the same keys."""
_AT_ONCE: Final = 2
"""Passwords that are checked at the same time; each takes 32 MiB."""
_MOST_WAITING: Final = 32
_LOOK: Final = 3600.0
"""Seconds between looks whether the keys are due."""
_PAUSE: Final = 1.0

_log = logging.getLogger("cyfs.zone")

T = TypeVar("T")
Entries = Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class _Made:
    """What a decision writes, and what the caller is told then: ``told``, or ``fault``."""

    told: Json = None
    actions: tuple[Action, ...] = ()
    revoked: tuple[str, ...] = ()
    """Sessions that everybody is told of as ended."""
    once: str = ""
    """A key that says that something was used which is good once."""
    fault: KrpcFault | None = None


class Hub:
    """``membership``: that of the OOD which serves it.  Run :meth:`run` beside it."""

    def __init__(self, store: ConfigStore, membership: Membership, clock: Callable[[], float] = time.time) -> None:
        self.zone = host_of_did(membership.zone.id)
        """What the zone is called in tokens."""
        self._membership = membership
        self._read_zone = lru_cache(maxsize=2)(self._zone_document)
        self._store = store
        self._clock = clock
        self._by_source = Throttle(burst=60, seconds=1)
        self._by_both = Throttle(burst=10, seconds=6)
        self._by_name = Throttle(burst=60, seconds=2)
        self._checking = trio.CapacityLimiter(_AT_ONCE)

    async def __call__(self, caller: Caller, method: str, params: Mapping[str, Json], context: CallContext) -> Json:
        do = _METHODS.get(method)
        if do is None:
            raise KrpcFault(Code.UNKNOWN_METHOD, f"verify-hub has no method {method[:80]!r}")
        try:
            return await do(self, caller, params, context)
        except ConfigError as error:
            raise KrpcFault.of_config(error) from None

    # -- logging in

    async def _login_by_password(self, caller: Caller, params: Mapping[str, Json], context: CallContext) -> Json:
        user, app = _text(params, "username"), _name(_text(params, "appid", ""), "appid")
        lock = await self._opened_lock(user, _text(params, "password"), context)

        def decide(entries: Entries) -> _Made:
            _same(entries, lock)
            settings = _active(entries.get(_settings(user)))
            return self._begin(entries, _ledger(user, people=True), settings.type, user, app, settings.type)

        return await self._decided([_settings(user), lock.key, _ledger(user, people=True)], decide)

    async def _login_by_jwt(self, caller: Caller, params: Mapping[str, Json], context: CallContext) -> Json:
        token = _text(params, "jwt")
        device = device_of(token)
        self._take([(self._by_source, context.source)])
        if not device:
            said = read_bootstrap(token, self.zone, "", self._membership.owner.key, self._clock())
            self._take(self._tries_of("owner", context))
            return await self._decided([_OWNERS, _used(said)], lambda entries: self._owner(entries, said))
        boot = (await self._store.read([At(BOOT)])).entries
        key = self._key_of(device, boot[0] if boot else None)
        said = read_bootstrap(token, self.zone, device, key, self._clock())
        self._take(self._tries_of(f"device:{device}", context))
        keys = [BOOT, _ledger(device, people=False), _item(device, said.app), _used(said)]
        return await self._decided([key for key in keys if key], lambda entries: self._device(entries, said, key))

    def _device(self, entries: Entries, said: Bootstrap, key: PublicKey) -> _Made:
        by = self._machine_by(entries, said.device, said.app)
        if self._key_of(said.device, entries.get(BOOT)) != key:
            raise refused("it is signed with a key that its signer had until just now")
        kind = type_of(said.app, is_ood=self._is_ood(said.device, entries.get(BOOT)))
        made = self._begin(entries, _ledger(said.device, people=False), kind, said.device, said.app, by)
        return _once(entries, said, made)

    def _owner(self, entries: Entries, said: Bootstrap) -> _Made:
        """The owner's key is as good as a password given just now; it is shown again for every session."""
        made = self._begin(entries, _OWNERS, Type.OWNER, OWNER, "", self._membership.owner.key.x, Use.SUDO)
        return _once(entries, said, made)

    async def _refresh(self, caller: Caller, params: Mapping[str, Json], context: CallContext) -> Json:
        token = _text(params, "refresh_token")
        keys = _keys_in((await self._store.read([At(SECRET_KEYS)])).entries, self.zone)
        claims = read_claims(token, keys.published, self._clock())
        if claims.use is not Use.REFRESH:
            raise refused(f"it is for {claims.use}")
        is_person = claims.type in PEOPLE
        place = _ledger(claims.sub, people=is_person)
        rest = [_settings(claims.sub)] if is_person else [BOOT, _item(claims.sub, claims.app)]

        def decide(entries: Entries) -> _Made:
            now = self._clock()
            if is_person:
                by: str = _active(entries.get(_settings(claims.sub))).type
            else:
                by = self._machine_by(entries, claims.sub, claims.app)
            ledger = _ledger_in(entries, place)
            standing = ledger.sessions.get(claims.session)
            step = refreshed(ledger, claims.session, _generation(claims), now)
            if standing is not None and standing.by != by:
                step = ended(ledger, [claims.session])
            if claims.session not in step.ledger.sessions:
                why = "it was used before, so its session was ended" if step.revoked else "its session has ended"
                return _kept(entries, place, step, fault=refused(f"{why}; log in again"))
            generation = step.ledger.sessions[claims.session].generation
            told = self._pair(entries, claims.type, claims.sub, claims.app, claims.session, generation)
            return _kept(entries, place, step, told)

        return await self._decided([place, *filter(None, rest)], decide)

    async def _sudo(self, caller: Caller, params: Mapping[str, Json], context: CallContext) -> Json:
        session = _session(caller)
        if not caller.user or caller.user == OWNER:
            raise KrpcFault(Code.UNAUTHENTICATED, "sudo is for users: log in first")
        lock = await self._opened_lock(caller.user, _text(params, "password"), context)
        place = _ledger(caller.user, people=True)

        def decide(entries: Entries) -> _Made:
            _same(entries, lock)
            settings = _active(entries.get(_settings(caller.user)))
            standing = _ledger_in(entries, place).sessions.get(session)
            if standing is None or standing.by != settings.type or standing.app != caller.app:
                raise refused("its session has ended; log in again")
            return _Made(self._sudo_token(entries, settings.type, caller.user, caller.app, session))

        return await self._decided([_settings(caller.user), lock.key, place], decide)

    async def _verify(self, caller: Caller, params: Mapping[str, Json], context: CallContext) -> Json:
        token = _text(params, "session_token")
        keys = _keys_in((await self._store.read([At(SECRET_KEYS)])).entries, self.zone)
        claims = read_claims(token, keys.published, self._clock())
        if claims.use not in (Use.SESSION, Use.SUDO):
            raise refused(f"it is for {claims.use}")
        if (await self._store.read([At(f"{REVOKED}/{_name(claims.session, 'session')}")])).entries:
            raise refused("its session was ended; log in again")
        return {
            "sub": claims.sub,
            "appid": claims.app,
            "type": claims.type,
            "sudo": claims.use is Use.SUDO,
            "session": claims.session,
            "exp": claims.exp,
        }

    # -- ending

    async def _logout(self, caller: Caller, params: Mapping[str, Json], context: CallContext) -> Json:
        session = _session(caller)
        place = _place_of(caller)
        return await self._decided(
            [place], lambda entries: _kept(entries, place, ended(_ledger_in(entries, place), [session]), {})
        )

    async def _revoke(self, caller: Caller, params: Mapping[str, Json], context: CallContext) -> Json:
        user, device = _text(params, "user", ""), _text(params, "device", "")
        if bool(user) == bool(device):
            raise KrpcFault(Code.INVALID, "revoke whom: a user or a device")
        place = _OWNERS if user == OWNER else _ledger(_name(user or device, "name"), people=bool(user))
        is_self = bool(user) and user == caller.user and not caller.app
        settings = _settings(user) if user else ""

        def decide(entries: Entries) -> _Made:
            kind = _settings_in(entries.get(settings))
            if not is_self and not may_manage(caller, kind.type if kind else Type.ROOT):
                raise KrpcFault(Code.DENIED, "whose sessions others end say the owner and those with sudo")
            ledger = _ledger_in(entries, place)
            step = ended(ledger, ledger.sessions)
            return _kept(entries, place, step, {"ended": len(step.revoked)})

        return await self._decided([place, *([settings] if settings else [])], decide)

    # -- users

    async def _set_user(self, caller: Caller, params: Mapping[str, Json], context: CallContext) -> Json:
        user = _name(_text(params, "username"), "username")
        try:
            wanted = read_settings(
                write_json({"type": params.get("type"), "state": params.get("state", "active")}).decode()
            )
            password = check_password(_text(params, "password")) if "password" in params else None
        except BadWire as bad:
            raise KrpcFault(Code.INVALID, str(bad)) from None
        if not may_manage(caller, wanted.type) or user == OWNER:
            raise KrpcFault(Code.DENIED, "who is a user, and of which type, say the owner and those with sudo")
        lock = (await self._new_lock(password)) if password is not None else None
        place = _ledger(user, people=True)

        def decide(entries: Entries) -> _Made:
            before = entries.get(_settings(user))
            known = _settings_in(before)
            if before is not None and not may_manage(caller, known.type if known else Type.ROOT):
                raise KrpcFault(Code.DENIED, f"{user} is not for you to change")
            plain = write_json({"type": wanted.type, "state": wanted.state}).decode()
            actions: list[Action] = [Set(_settings(user), plain)]
            if known is not None:
                kind, state = write_json(wanted.type).decode(), write_json(wanted.state).decode()
                actions = [SetPath(_settings(user), "/type", kind), SetPath(_settings(user), "/state", state)]
            by = wanted.type if wanted.state == "active" and lock is None else ""
            if lock is not None:
                actions.append(Set(_lock(user), lock))
            elif before is None and _lock(user) in entries:
                actions.append(Delete(_lock(user)))  # of who had the name before
            return _and(_kept(entries, place, upheld(_ledger_in(entries, place), by), {}), *actions)

        return await self._decided([_settings(user), _lock(user), place], decide)

    async def _change_password(self, caller: Caller, params: Mapping[str, Json], context: CallContext) -> Json:
        session = _session(caller)
        if not caller.user or caller.user == OWNER or caller.app:
            raise KrpcFault(Code.DENIED, "a password is changed by the user, and by no app for them")
        try:
            password = check_password(_text(params, "new"))
        except BadWire as bad:
            raise KrpcFault(Code.INVALID, str(bad)) from None
        opened_lock = await self._opened_lock(caller.user, _text(params, "old"), context)
        fresh = await self._new_lock(password)
        place = _ledger(caller.user, people=True)

        def decide(entries: Entries) -> _Made:
            _same(entries, opened_lock)
            _active(entries.get(_settings(caller.user)))
            ledger = _ledger_in(entries, place)
            if session not in ledger.sessions:
                raise refused("its session has ended; log in again")
            others = ended(ledger, ledger.sessions.keys() - {session})
            return _and(_kept(entries, place, others, {}), Set(opened_lock.key, fresh))

        return await self._decided([_settings(caller.user), opened_lock.key, place], decide)

    async def _replace_keys(self, caller: Caller, params: Mapping[str, Json], context: CallContext) -> Json:
        """After a theft: no token there is, this caller's among them, is good any more."""
        if not may_manage(caller, Type.OWNER):
            raise KrpcFault(Code.DENIED, "the keys are replaced by the owner")
        keys = new_keys(self.zone, secrets.token_bytes(2 * SEED), self._clock())
        return await self._decided([SECRET_KEYS, KEYS], lambda entries: _publishing(keys))

    # -- tasks

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep keys and sessions in order, for ever; started when there are keys."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._look_after_keys)
            nursery.start_soon(self._follow, "user", Below("users"), _whose_settings)
            nursery.start_soon(self._follow, "device", At(BOOT), None)
            task_status.started()

    async def _look_after_keys(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        is_started = False
        while True:
            try:
                await self._decided([SECRET_KEYS, KEYS], self._due)
            except (ConfigError, KrpcFault) as fault:
                _log.warning("the keys of verify-hub: %s", fault)
                await trio.sleep(_PAUSE)
                continue
            if not is_started:
                is_started = True
                task_status.started()
            await trio.sleep(_LOOK)

    def _due(self, entries: Entries) -> _Made:
        """The first keys, or those that follow, if it is time."""
        now = self._clock()
        if not {SECRET_KEYS, KEYS} & entries.keys():
            return _publishing(new_keys(self.zone, secrets.token_bytes(2 * SEED), now))
        if KEYS not in entries or SECRET_KEYS not in entries:
            raise KrpcFault(Code.DAMAGED, "half of the keys is gone; put it back, or replace them")
        keys = _keys_in(list(entries.values()), self.zone)
        return _publishing(rotated(keys, secrets.token_bytes(SEED), now)) if is_due(keys, now) else _Made()

    async def _follow(self, kind: str, scope: Scope, whose: Callable[[str], str] | None) -> None:
        """End sessions that rest no more on what is in ``scope``; look at all where no key says whose they are."""
        while True:
            try:
                reading = await self._store.read([Below(f"{SECRET}/sessions/{kind}")])
                for entry in reading.entries:
                    await self._uphold(kind, entry.key.rpartition("/")[2])
                async with self._store.watch(scope, reading.revision) as changes:
                    async for change in changes:
                        if whose is None:
                            break
                        for name in filter(None, (whose(entry.key) for entry in change.entries)):
                            await self._uphold(kind, name)
                continue
            except (ConfigError, KrpcFault) as fault:
                _log.warning("whose sessions stand is looked at again: %s", fault)
            await trio.sleep(_PAUSE)

    async def _uphold(self, kind: str, name: str) -> None:
        is_person = kind == "user"
        place, rest = _ledger(name, people=is_person), _settings(name) if is_person else BOOT

        def decide(entries: Entries) -> _Made:
            if is_person:
                settings = _settings_in(entries.get(rest))
                by = settings.type if settings is not None and settings.state == "active" else ""
            else:
                by = self._rests_on(name, entries.get(rest))
            return _kept(entries, place, upheld(_ledger_in(entries, place), by))

        try:
            await self._decided([rest, place], decide)
        except (ConfigError, KrpcFault) as fault:
            if fault.code not in (Code.DAMAGED, Code.DENIED):
                raise
            # It stays so, and the sessions of others are not to wait for it.
            _log.error("whether the sessions of %s stand cannot be told: %s", name, fault)

    # -- what these are made of

    async def _decided(self, keys: Sequence[str], decide: Callable[[Entries], _Made]) -> Json:
        """What ``decide`` tells, once what it writes is written under the revisions of ``keys`` that it saw."""
        deadline = trio.current_time() + _PATIENCE
        lease = 0
        while True:
            reading = await self._store.read([At(key) for key in dict.fromkeys((*keys, SECRET_KEYS))])
            entries = {entry.key: entry for entry in reading.entries}
            made = decide(entries)
            if made.actions or made.once:
                if (made.once or made.revoked) and not lease:
                    lease = await self._store.grant(_DEAD)
                actions = [*made.actions, *(Set(f"{REVOKED}/{name}", "true", lease) for name in made.revoked)]
                if made.once:
                    actions.append(Set(made.once, "true", lease))
                seen = [AtRevision(key, entries[key].revision if key in entries else 0) for key in keys]
                try:
                    await self._store.transact(Transaction(tuple(actions), tuple(seen)))
                except ConfigError as fault:
                    if fault.code is ConfigCode.CONFLICT and trio.current_time() < deadline:
                        continue
                    raise
            if made.fault is not None:
                raise made.fault
            return made.told

    def _begin(
        self, entries: Entries, place: str, kind: Type, sub: str, app: str, by: str, use: Use = Use.SESSION
    ) -> _Made:
        session = secrets.token_hex(16)
        step = opened(_ledger_in(entries, place), session, app, by, self._clock())
        if use is Use.SUDO:
            return _kept(entries, place, step, self._sudo_token(entries, kind, sub, app, session))
        return _kept(entries, place, step, self._pair(entries, kind, sub, app, session, 0))

    def _pair(self, entries: Entries, kind: Type, sub: str, app: str, session: str, generation: int) -> Json:
        return {
            "user_name": sub,
            "user_type": kind,
            "appid": app,
            "expires_in": LIFE[Use.SESSION],
            "session_token": self._issued(entries, Use.SESSION, kind, sub, app, f"{session}.{secrets.token_hex(8)}"),
            "refresh_token": self._issued(entries, Use.REFRESH, kind, sub, app, f"{session}.{generation}"),
        }

    def _sudo_token(self, entries: Entries, kind: Type, sub: str, app: str, session: str) -> Json:
        token = self._issued(entries, Use.SUDO, kind, sub, app, f"{session}.{secrets.token_hex(8)}")
        return {"sudo_token": token, "expires_in": LIFE[Use.SUDO]}

    def _issued(self, entries: Entries, use: Use, kind: Type, sub: str, app: str, jti: str) -> str:
        now = int(self._clock())
        claims = Claims(use=use, type=kind, sub=sub, app=app, jti=jti, iat=now, exp=now + LIFE[use])
        return issued(_keys_in(list(entries.values()), self.zone), claims)

    def _machine_by(self, entries: Entries, device: str, app: str) -> str:
        """What the sessions of ``device`` rest on, which is of this zone and where ``app`` runs, if that is placed."""
        by = self._rests_on(device, entries.get(BOOT))
        if not by:
            raise _no_machine(device)
        if (item := _item(device, app)) and not _is_running(entries.get(item)):
            raise KrpcFault(Code.DENIED, f"{app} is not placed on {device}; the scheduler says what runs where")
        return by

    def _rests_on(self, device: str, boot: Entry | None) -> str:
        """The key of ``device``, and whether it is an OOD; empty: it is no machine of the zone."""
        if device not in self._zone_in(boot).devices:
            return ""
        return f"{self._key_of(device, boot)} {'ood' if self._is_ood(device, boot) else 'node'}"

    def _key_of(self, device: str, boot: Entry | None) -> PublicKey:
        """The key of ``device`` by the zone's document; whatever else the store has of it proves nothing."""
        found = self._zone_in(boot).devices.get(device)
        if found is None:
            raise _no_machine(device)
        return found.key

    def _is_ood(self, device: str, boot: Entry | None) -> bool:
        return device in ood_names(self._zone_in(boot))

    def _zone_in(self, boot: Entry | None) -> ZoneDoc:
        text = boot.text() if boot is not None else None
        if text is None:
            raise KrpcFault(Code.UNAVAILABLE, "the zone has no document yet; try again")
        return self._read_zone(text)

    def _zone_document(self, text: str) -> ZoneDoc:
        try:
            return read_boot(text, self._membership).document
        except BadWire as bad:
            raise KrpcFault(Code.DAMAGED, f"{BOOT}: {bad}") from None

    async def _opened_lock(self, user: str, password: str, context: CallContext) -> Entry:
        """The entry with the lock of ``user``, which ``password`` opens.  Raises ``KrpcFault``."""
        self._take([(self._by_source, context.source), *self._tries_of(f"user:{user[:128]}", context)])
        try:
            entries = (await self._store.read([At(_lock(user))])).entries if user != OWNER else ()
        except ConfigError as fault:
            if fault.code is not ConfigCode.INVALID:
                raise
            entries = ()
        lock = NOBODYS
        if entries:
            try:
                lock = read_lock(entries[0].text() or "")
            except BadWire as bad:
                _log.error("%s cannot log in: %s", user, bad)
        does_open = await self._in_thread(lock.opens, password)
        if not does_open or lock is NOBODYS:
            raise KrpcFault(Code.UNAUTHENTICATED, "user and password do not go together")
        return entries[0]

    async def _new_lock(self, password: str) -> str:
        return (await self._in_thread(new_lock, password, secrets.token_bytes(SALT))).text()

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        if self._checking.statistics().tasks_waiting >= _MOST_WAITING:
            raise KrpcFault(Code.LIMITED, "too many passwords are being checked; try again")
        return await trio.to_thread.run_sync(work, *args, limiter=self._checking)

    def _tries_of(self, name: str, context: CallContext) -> list[tuple[Throttle, str]]:
        """What a try of somebody takes, beside what any from there does.

        A name that strangers try from elsewhere has more room than each of them, so that they do not shut it out.
        """
        return [(self._by_both, f"{name} {context.source}"), (self._by_name, name)]

    def _take(self, tries: Sequence[tuple[Throttle, str]]) -> None:
        """Count a try in all of these or in none: who may not takes nothing, so a client that asks again and again gets
        in as soon as there is room."""
        now = trio.current_time()
        wait = max(throttle.wait(key, now) for throttle, key in tries)
        if wait:
            raise KrpcFault(Code.LIMITED, f"too many tries; wait {wait:.0f} s", data={"seconds": round(wait, 1)})
        for throttle, key in tries:
            throttle.take(key, now)


_Method = Callable[[Hub, Caller, Mapping[str, Json], CallContext], Awaitable[Json]]

_METHODS: Final[Mapping[str, _Method]] = {
    "login_by_password": Hub._login_by_password,
    "login_by_jwt": Hub._login_by_jwt,
    "refresh_token": Hub._refresh,
    "verify_token": Hub._verify,
    "sudo_by_password": Hub._sudo,
    "logout": Hub._logout,
    "revoke": Hub._revoke,
    "set_user": Hub._set_user,
    "change_password": Hub._change_password,
    "replace_keys": Hub._replace_keys,
}


# -- keys of the store


def _settings(user: str) -> str:
    return f"users/{user}/settings"


def _lock(user: str) -> str:
    return f"{SECRET}/passwords/{user}"


def _whose_settings(key: str) -> str:
    """Empty: they are nobody's."""
    match key.split("/"):
        case ["users", name, "settings"]:
            return name
    return ""


def _item(device: str, app: str) -> str:
    """Empty: ``app`` is a part of this program."""
    return item_key(device, app) if needs_item(app) else ""


def _ledger(name: str, *, people: bool) -> str:
    return f"{SECRET}/sessions/{'user' if people else 'device'}/{name}"


def _used(said: Bootstrap) -> str:
    return f"{SECRET}/used/{f'device/{said.device}' if said.device else 'owner'}/{said.jti}"


_OWNERS: Final = f"{SECRET}/sessions/owner/{OWNER}"


def _place_of(caller: Caller) -> str:
    if caller.user == OWNER:
        return _OWNERS
    return _ledger(caller.user or caller.device, people=bool(caller.user))


# -- what is in their values


def _keys_in(entries: Sequence[Entry], zone: str) -> KeySet:
    """Raises ``KrpcFault``: there is no key to fall back to."""
    text = next((entry.text() for entry in entries if entry.key == SECRET_KEYS), None)
    if text is None:
        raise KrpcFault(Code.UNAVAILABLE, "the zone has no keys yet; try again")
    try:
        keys = read_keys(text)
    except BadWire as bad:
        raise KrpcFault(Code.DAMAGED, str(bad)) from None
    if keys.zone != zone:
        raise KrpcFault(Code.DAMAGED, f"the keys in the store are those of the zone {keys.zone!r}; put its own back")
    return keys


def _ledger_in(entries: Entries, place: str) -> Ledger:
    entry = entries.get(place)
    try:
        return read_ledger(entry.text() or "{}") if entry is not None else Ledger()
    except BadWire as bad:
        raise KrpcFault(Code.DAMAGED, f"{place}: {bad}") from None


def _settings_in(entry: Entry | None) -> Settings | None:
    try:
        return read_settings(entry.text() or "") if entry is not None else None
    except BadWire as bad:
        _log.info("%s: %s", entry.key if entry else "", bad)
        return None


def _active(entry: Entry | None) -> Settings:
    """Told only to who gave the password, or holds a token."""
    settings = _settings_in(entry)
    if settings is None:
        raise KrpcFault(Code.UNAUTHENTICATED, "user and password do not go together")
    if settings.state != "active":
        raise KrpcFault(Code.DENIED, f"the user is not active, but {settings.state[:200]}")
    return settings


def _is_running(item: Entry | None) -> bool:
    try:
        return item is not None and read_object(item.text() or "").get("target") == "running"
    except BadWire:
        return False


def _same(entries: Entries, lock: Entry) -> None:
    if lock.key not in entries or entries[lock.key].revision != lock.revision:
        raise KrpcFault(Code.CONFLICT, "the password was changed just now")


def _kept(entries: Entries, place: str, step: Step, told: Json = None, fault: KrpcFault | None = None) -> _Made:
    """``step`` of the ledger in ``place``, written if it is one."""
    is_other = step.ledger != _ledger_in(entries, place)
    return _Made(told, (Set(place, step.ledger.text()),) if is_other else (), step.revoked, fault=fault)


def _once(entries: Entries, said: Bootstrap, made: _Made) -> _Made:
    """``made``, unless what was said for it was used before."""
    if (used := _used(said)) in entries:
        raise refused("it is good once, and was used before")
    return replace(made, once=used)


def _no_machine(device: str) -> KrpcFault:
    return refused(f"{device!r} is no machine of this zone")


def _publishing(keys: KeySet) -> _Made:
    return _Made({}, (Set(SECRET_KEYS, keys.text()), Set(KEYS, keys.published.text())))


def _and(made: _Made, *more: Action) -> _Made:
    return replace(made, actions=(*made.actions, *more))


# -- what callers say


def _text(params: Mapping[str, Json], name: str, default: str | None = None) -> str:
    found = params.get(name, default)
    if not isinstance(found, str):
        raise KrpcFault(Code.INVALID, f"{name!r} is a text, and is needed")
    return found


def _name(untrusted: str, what: str) -> str:
    """One segment of a key, or nothing."""
    if untrusted and "/" in check_key(untrusted):
        raise KrpcFault(Code.INVALID, f"{what}: {untrusted[:80]!r} is no name")
    return untrusted


def _session(caller: Caller) -> str:
    session = caller.token_id.partition(".")[0]
    if not session or not (caller.user or caller.device):
        raise KrpcFault(Code.UNAUTHENTICATED, "log in first")
    return session


def _generation(claims: Claims) -> int:
    digits = claims.jti.partition(".")[2]
    if not digits.isascii() or not digits.isdigit() or len(digits) > 6:
        raise refused("it contradicts itself")
    return int(digits)
