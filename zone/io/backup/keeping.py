"""An OOD makes the zone's backups: when they are due, and when it is told to.

What is saved is the zone's configuration as one revision has it (``zone/backup/state.py``).  A backup is looked at
whole when it was written, with what of it was there before; chunks that went bad are written anew.  Then the old ones
go.

Whoever is to make one follows from the target (``zone/backup/setting.py``).  How it went last is in the store, for all
OODs: times there are by the clock of who made it, so where clocks differ, or jump, a backup comes earlier or later.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import trio

from cyfs_ns.errors import BadWire, ConfigFault, CyfsError, Refused, Unreachable
from cyfs_ns.identity.bases import from_base64url, to_base64url
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.strictjson import Json, read_json, read_object, write_json
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.dial import Dial
from cyfs_ns.io.trusted.keystore import KeyStore, read_file
from zone.backup.chunks import SECRET
from zone.backup.manifest import Manifest
from zone.backup.setting import ACCESS, MOST_TARGETS, SECRET_KEY, TARGETS, Setting, check_name, read_setting
from zone.backup.state import STATE
from zone.config.faults import Code, ConfigError
from zone.config.keys import At, Below
from zone.config.model import Action, Create, Delete, Set, Transaction
from zone.io.backup.backups import (
    Made,
    Maker,
    back_up,
    begin,
    discard,
    forget,
    listed,
    load,
    read_label,
    survey,
    sweep,
    verify,
)
from zone.io.backup.places import open_target
from zone.io.backup.sources import Configuration
from zone.io.backup.target import Target
from zone.io.boot.memory import Memory
from zone.io.config.store import ConfigStore
from zone.io.operator import Method, in_words
from zone.membership import Membership

FOLDER: Final = "backup"
"""Below the memory of the zone: what this machine knows of its last backups, and of where they are."""
_KNOWN: Final = "targets.json"
_LOOK: Final = 30.0
"""Seconds between looks whether one is due."""
_AGAIN: Final = 600
"""Seconds until one that failed is tried again."""
_MOST_JOBS: Final = 16
_MOST_WARNINGS: Final = 8
_MOST_KNOWN: Final = 64 * 1024
_MOST_ACCESS: Final = 1024
_MOST_LISTED: Final = 500

_log = logging.getLogger("cyfs.zone.backup")


@dataclass(slots=True)
class Job:
    """A backup, or a look at one."""

    number: int
    target: str
    what: str
    done: int = 0
    size: int = 0
    """Bytes, or chunks; 0: not known yet."""
    ended: bool = False
    fault: str = ""
    told: Mapping[str, Any] = field(default_factory=dict)
    """What came of it."""

    def as_plain(self) -> dict[str, Any]:
        return {
            "job": self.number,
            "target": self.target,
            "what": self.what,
            "done": self.done,
            "size": self.size,
            "ended": self.ended,
            "fault": self.fault,
            **self.told,
        }


@dataclass(frozen=True, slots=True)
class _Held:
    """What there is while the zone is up on this OOD."""

    store: ConfigStore
    membership: Membership
    key: SecretKey = field(repr=False)
    leads: Callable[[], bool]
    folder: Path
    nursery: trio.Nursery

    @property
    def zone(self) -> str:
        return str(self.membership.zone.id.canonical)


class Backups:
    """Of the machine whose home is ``home``.  ``wall``: seconds since 1970."""

    def __init__(self, home: Path, dial: Dial, wall: Callable[[], float]) -> None:
        self._home, self._dial, self._wall = home, dial, wall
        self._held: _Held | None = None
        self._jobs: dict[int, Job] = {}
        self._numbers = count(1)
        self._turn = trio.Lock()
        """This machine does one thing at a time."""
        methods: dict[str, Callable[[_Held, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]] = {
            "backup-add": self._add,
            "backup-drop": self._drop,
            "backup-targets": self._told,
            "backup-now": self._now,
            "backup-list": self._list,
            "backup-verify": self._verify,
            "backup-job": self._job,
            "backup-forget": self._forget,
        }
        self.methods: Mapping[str, Method] = {name: partial(self._asked, method) for name, method in methods.items()}

    async def run(self, store: ConfigStore, membership: Membership, leads: Callable[[], bool]) -> None:
        """Make the zone's backups, until cancelled.  ``leads``: whether this OOD makes those that are anybody's."""
        folder = Memory(self._home, membership).path / FOLDER
        key = await trio.to_thread.run_sync(KeyStore(self._home).device)
        async with trio.open_nursery() as nursery:
            held = self._held = _Held(store, membership, key, leads, folder, nursery)
            try:
                while True:
                    try:
                        await self._look(held)
                    except (ConfigError, CyfsError, OSError) as fault:
                        _log.warning("backups are looked at again: %s", fault)
                    await trio.sleep(_LOOK)
            finally:
                self._held = None

    async def _asked(
        self, method: Callable[[_Held, Mapping[str, Any]], Awaitable[Mapping[str, Any]]], body: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        held = self._held
        if held is None:
            raise Unreachable("the zone is not up here, or this machine is no OOD: cyfs-gateway zone status")
        try:
            return await in_words(partial(method, held), body)
        except ConfigFault as fault:
            raise BadWire(str(fault)) from None
        except OSError as fault:
            raise Unreachable(f"{fault.filename or ''}: {fault.strerror or fault}".removeprefix(": ")) from None

    # -- when they are due

    async def _look(self, held: _Held) -> None:
        await self._remember(held)
        for name, (setting, _, last) in (await self._settings(held)).items():
            if self._is_ours(held, setting) and _is_due(setting, last, self._wall()):
                job = self._begin(name, "backup")
                await self._work(job, partial(self._back_up, held, name, job))

    async def _remember(self, held: _Held) -> None:
        """Where backups are, for when the store is lost."""
        targets = {name: found[:2] for name, found in (await self._settings(held)).items()}
        await trio.to_thread.run_sync(_keep, held.folder, targets)

    def _is_ours(self, held: _Held, setting: Setting) -> bool:
        return setting.on == held.membership.name if setting.on else held.leads()

    async def _settings(self, held: _Held) -> dict[str, tuple[Setting, str, dict[str, Json]]]:
        """The targets, what each wants to hear, and how the last backup there went."""
        reading = await held.store.read([Below(TARGETS), Below(ACCESS), Below(STATE)])
        entries = {entry.key: entry for entry in reading.entries}
        found: dict[str, tuple[Setting, str, dict[str, Json]]] = {}
        for name in sorted(key.removeprefix(f"{TARGETS}/") for key in entries if key.startswith(f"{TARGETS}/")):
            try:
                access, state = entries.get(f"{ACCESS}/{name}"), entries.get(f"{STATE}/{name}")
                setting = read_setting(entries[f"{TARGETS}/{check_name(name)}"].text() or "")
                said = "" if access is None else read_json(access.text() or '""', ACCESS)
                last = {} if state is None else read_object(state.text() or "{}", STATE)
            except (BadWire, ConfigError) as bad:
                _log.warning("backup target %s: %s", name, bad)
                continue
            found[name] = (setting, said if isinstance(said, str) else "", last)
            if len(found) == MOST_TARGETS:
                break
        return found

    # -- what is done

    def _begin(self, target: str, what: str) -> Job:
        job = Job(next(self._numbers), target, what)
        self._jobs[job.number] = job
        for number in [number for number, one in self._jobs.items() if one.ended][:-_MOST_JOBS]:
            del self._jobs[number]
        return job

    async def _work(self, job: Job, work: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        """Have it done, and never fail."""
        try:
            async with self._turn:
                job.told = await work()
        except (ConfigError, CyfsError, OSError) as fault:
            job.fault = str(fault) or type(fault).__name__
            _log.warning("%s at %s: %s", job.what, job.target, job.fault)
        finally:
            job.ended = True

    async def _back_up(self, held: _Held, name: str, job: Job) -> Mapping[str, Any]:
        """One backup, and what is said of it in the store, whatever becomes of it."""
        told: dict[str, Any] = {"at": int(self._wall()), "by": held.membership.name, "fault": ""}
        try:
            told |= await self._through(held, name, job, told["at"])
        except (ConfigError, CyfsError, OSError) as fault:
            await self._say(held, name, told | {"fault": str(fault) or type(fault).__name__})
            raise
        await self._say(held, name, told)
        return told

    async def _through(self, held: _Held, name: str, job: Job, began: int) -> Mapping[str, Any]:
        setting, target = await self._target(held, name)
        made = await self._made(held, name, target, job, began)
        manifest, bad = await self._looked_at(held, target, made)
        warnings = [*made.warnings]
        if bad:
            # Their bytes are in the store still, but for those that only the past needs.
            warnings.append(f"{bad} chunks had gone bad, and were written anew")
            made = await self._made(held, name, target, job, began)
            manifest, bad = await self._looked_at(held, target, made)
            if bad:
                raise BadWire(f"{target}: {bad} chunks went bad while they were written; is the disk all right?")
        try:
            await sweep(target, await self._maker(held, name), setting.keep)
        except (BadWire, Unreachable) as fault:
            warnings.append(f"old backups stay: {fault}")
        return {
            "number": made.number,
            "size": made.size,
            "written": made.written,
            "chunks": len(manifest.chunks),
            "warnings": warnings[:_MOST_WARNINGS],
        }

    async def _made(self, held: _Held, name: str, target: Target, job: Job, began: int) -> Made:
        source = Configuration(await held.store.read([Below()]))
        job.size = await trio.to_thread.run_sync(lambda: sum(map(len, source.pieces(lambda _: None))))

        def progress(_: str, done: int) -> None:
            job.done = done

        return await back_up(target, await self._maker(held, name), [source], made=began, progress=progress)

    async def _looked_at(self, held: _Held, target: Target, made: Made) -> tuple[Manifest, int]:
        """The backup as the target has it, and how many of its chunks are not there as they were; those are gone."""
        manifest = await load(target, held.membership.owner.key, made.machine, made.number)
        verdict = await verify(target, manifest)
        await discard(target, verdict)
        return manifest, len(verdict.damaged) + len(verdict.lost)

    async def _maker(self, held: _Held, name: str) -> Maker:
        return Maker(held.membership, held.key, await self._secret(held), held.folder / f"{name}.last")

    async def _secret(self, held: _Held) -> bytes:
        """The zone's, made by whoever needs it first."""
        made = write_json(to_base64url(secrets.token_bytes(SECRET))).decode()
        try:
            await held.store.transact(Transaction((Create(SECRET_KEY, made),)))
        except ConfigError as fault:
            if fault.code is not Code.EXISTS:
                raise
        said = read_json((await held.store.get(SECRET_KEY)).text() or "", SECRET_KEY)
        secret = from_base64url(said, SECRET_KEY) if isinstance(said, str) else b""
        if len(secret) != SECRET:
            raise BadWire(f"{SECRET_KEY} is not {SECRET} bytes; remove it, and all is written anew")
        return secret

    async def _target(self, held: _Held, name: str) -> tuple[Setting, Target]:
        found = (await self._settings(held)).get(name)
        if found is None:
            raise KeyError(name)
        return found[0], open_target(found[0].to, found[1], self._dial)

    async def _say(self, held: _Held, name: str, told: Mapping[str, Json]) -> None:
        with suppress(ConfigError):
            text = write_json(dict(told)).decode()
            await held.store.get(f"{TARGETS}/{name}")
            await held.store.transact(Transaction((Set(f"{STATE}/{name}", text),)))

    # -- what the control API does

    async def _add(self, held: _Held, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``name``, ``target`` (as in the configuration), ``access``: have backups made there."""
        name, access, said = check_name(_text(body, "name")), body.get("access", ""), body.get("target")
        if not isinstance(said, dict) or not isinstance(access, str) or len(access) > _MOST_ACCESS:
            raise BadWire("'target' is an object, and 'access' a text")
        setting = read_setting(write_json(said).decode())
        known = await self._settings(held)
        if name not in known and len(known) == MOST_TARGETS:
            raise Refused(f"a zone has {MOST_TARGETS} targets at most")
        if setting.on and setting.on not in held.membership.zone.devices:
            raise BadWire(f"the zone has no machine {setting.on!r}")
        _here(held, setting)
        await begin(open_target(setting.to, access, self._dial), held.zone)
        actions: list[Action] = [Set(f"{TARGETS}/{name}", setting.text())]
        if access:
            actions.append(Set(f"{ACCESS}/{name}", write_json(access).decode()))
        revision = await held.store.transact(Transaction(tuple(actions)))
        await self._remember(held)
        return {"revision": revision}

    async def _drop(self, held: _Held, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``name``: have no more backups made there; those that are there stay."""
        name = check_name(_text(body, "name"))
        keys = [f"{TARGETS}/{name}", f"{ACCESS}/{name}", f"{STATE}/{name}"]
        there = (await held.store.read([At(key) for key in keys])).entries
        if not there:
            raise KeyError(name)
        revision = await held.store.transact(Transaction(tuple(Delete(entry.key) for entry in there)))
        await self._remember(held)
        return {"revision": revision}

    async def _told(self, held: _Held, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The targets, and how the last backup on each went."""
        found = await self._settings(held)
        return {
            "targets": {
                name: {
                    **read_object(setting.text()),
                    "last": last,
                    "job": next((job.number for job in self._jobs.values() if job.target == name and not job.ended), 0),
                }
                for name, (setting, _, last) in found.items()
            }
        }

    async def _now(self, held: _Held, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``name``: begin a backup there; gives the job."""
        name = _text(body, "name")
        setting, _ = await self._target(held, name)
        _here(held, setting)
        job = self._begin(name, "backup")
        held.nursery.start_soon(self._work, job, partial(self._back_up, held, name, job))
        return job.as_plain()

    async def _list(self, held: _Held, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``name``: what is there, the newest first of each machine, and what seems wrong."""
        _, target = await self._target(held, _text(body, "name"))
        rows: list[dict[str, Any]] = []
        _, faults = await survey(target, held.membership.owner.key, held.zone)
        for machine, numbers in (await listed(target)).items():
            for number in reversed(numbers[-_MOST_LISTED:]):
                try:
                    one = await load(target, held.membership.owner.key, machine, number)
                except BadWire as bad:
                    faults = list(dict.fromkeys([*faults, str(bad)]))
                else:
                    rows.append({"backup": one.label, "made": one.made, "chunks": len(one.chunks)})
        return {"backups": rows, "faults": faults}

    async def _verify(self, held: _Held, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``name``, ``backup`` (as ``ood1/7``; else the newest of each machine): look at all of it; gives the job."""
        name, one = _text(body, "name"), body.get("backup", "")
        await self._target(held, name)
        wanted = None if one == "" else read_label(_text(body, "backup"))
        job = self._begin(name, "verify")
        held.nursery.start_soon(self._work, job, partial(self._look_at, held, name, wanted, job))
        return job.as_plain()

    async def _look_at(self, held: _Held, name: str, wanted: tuple[str, int] | None, job: Job) -> Mapping[str, Any]:
        _, target = await self._target(held, name)
        owner = held.membership.owner.key
        if wanted is None:
            newest, faults = await survey(target, owner, held.zone)
            manifests = list(newest.values())
        else:
            manifests, faults = [await load(target, owner, *wanted)], []
        job.size, before, rows = sum(len(one.chunks) for one in manifests), 0, []
        for manifest in manifests:

            def progress(done: int, _: int, before: int = before) -> None:
                job.done = before + done

            verdict = await verify(target, manifest, progress)
            before += len(manifest.chunks)
            rows.append(
                {
                    "backup": manifest.label,
                    "made": manifest.made,
                    "chunks": verdict.checked,
                    "lost": len(verdict.lost),
                    "damaged": len(verdict.damaged),
                }
            )
        job.done = job.size
        return {"backups": rows, "faults": faults}

    async def _job(self, held: _Held, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``job``: how it goes."""
        number = body.get("job")
        if not isinstance(number, int) or number not in self._jobs:
            raise KeyError(number)
        return self._jobs[number].as_plain()

    async def _forget(self, held: _Held, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``name``, ``machine``: that machine, which is no more, is at work there no more."""
        _, target = await self._target(held, _text(body, "name"))
        machine = _text(body, "machine")
        if machine not in await listed(target):
            raise KeyError(machine)
        await forget(target, machine)
        return {}


def remembered(folder: Path) -> dict[str, tuple[str, str]]:
    """Where this machine knew backups of its zone to be, and what those places want to hear.  Raises ``OSError``."""
    path = folder / _KNOWN
    if not path.exists():
        return {}
    found: dict[str, tuple[str, str]] = {}
    # It is a help and nothing else; the owner knows where they are.
    with suppress(BadWire, ConfigFault):
        for name, one in read_object(read_file(path, _MOST_KNOWN), str(path)).items():
            if isinstance(one, Mapping) and isinstance(to := one.get("to"), str):
                access = one.get("access")
                found[name] = to, access if isinstance(access, str) else ""
    return found


def _keep(folder: Path, targets: Mapping[str, tuple[Setting, str]]) -> None:
    text = write_json({name: {"to": one.to, "access": access} for name, (one, access) in targets.items()})
    path = folder / _KNOWN
    if not path.exists() or path.read_bytes() != text:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, text)


def _is_due(setting: Setting, last: Mapping[str, Json], now: float) -> bool:
    at = last.get("at")
    wait = min(_AGAIN, setting.every) if last.get("fault") else setting.every
    return not isinstance(at, int) or not 0 <= now - at < wait


def _here(held: _Held, setting: Setting) -> None:
    if setting.on not in ("", held.membership.name):
        raise Refused(f"{setting.to} is on {setting.on}; say it there")


def _text(body: Mapping[str, Any], key: str) -> str:
    text = body.get(key)
    if not isinstance(text, str):
        raise BadWire(f"{key!r} is a text, and is needed")
    return text
