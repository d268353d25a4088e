"""The zone's configuration comes back into an empty store: the step ``restore`` of a machine's boot.

What is to be restored the owner says (an *order*: where the backups are, and which), and, since the machine has not
their key, opens (a *permit*, ``zone/backup/permit.py``).  Both lie in one file beside the zone's memory until the
zone is there again, so a machine that is killed goes on by itself.

``boot/config`` says that a zone is there, so it is written last, where none is yet.  Until then nobody uses the store,
and what an earlier try left of another backup is removed.  Two OODs never restore at once: who does has a key under a
lease, and writes only as long as it is there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import trio

from cyfs_ns.errors import BadWire, ConfigFault, CyfsError, Refused, Unreachable
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.strictjson import read_object, write_json
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.dial import Dial
from cyfs_ns.io.trusted.keystore import KeyStore, read_file
from rtcp.v5.keys import device_key
from zone.backup.manifest import Manifest
from zone.backup.permit import MOST_TEXT, ask_for, open_permitted
from zone.backup.state import MOST_STATE, PART, read_state
from zone.boot.settle import BOOT
from zone.config.faults import Code, ConfigError
from zone.config.keys import At, Below
from zone.config.model import Action, AtRevision, Create, Delete, Set, Transaction
from zone.io.backup.backups import load, read_label, survey
from zone.io.backup.keeping import FOLDER, remembered
from zone.io.backup.places import open_target
from zone.io.backup.restoring import read_part
from zone.io.boot.memory import Memory
from zone.io.config.store import ConfigStore
from zone.io.operator import Method, in_words
from zone.membership import Membership

RESTORING: Final = "boot/restoring"
"""The key of who restores just now."""
_TTL: Final = 30
_ORDER: Final = "restore.json"
_MOST_ORDER: Final = MOST_TEXT + 8192
_MOST_KEYS: Final = 512
_MOST_BYTES: Final = 512 * 1024
"""Of one transaction, unless a single value is larger."""

_log = logging.getLogger("cyfs.zone.backup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the owner said."""

    to: str
    access: str = field(repr=False)
    machine: str
    number: int
    permit: str = ""
    """Empty: not opened yet."""


class Bringing:
    """Of the machine whose home is ``home``.  ``held``: its membership while it waits for a backup, else None."""

    def __init__(self, home: Path, dial: Dial, held: Callable[[], Membership | None]) -> None:
        self._home, self._dial, self._held = home, dial, held
        self._progress: dict[str, Any] = {}
        self._failed = 0
        methods: dict[str, Method] = {"restore": self._order, "restore-permit": self._permit}
        self.methods: Mapping[str, Method] = {name: _told(method) for name, method in methods.items()}

    def status(self) -> Mapping[str, Any]:
        """How often it ``failed``, and, while it goes on, ``backup``, and ``done`` and ``size`` in bytes."""
        return {"failed": self._failed, **self._progress}

    # -- what the owner says

    def _membership(self) -> Membership:
        membership = self._held()
        if membership is None:
            raise Refused("a zone is restored where its store is empty, in the step 'restore' of its boot: zone status")
        return membership

    async def _order(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``target`` (a place, or the name of one that this machine remembers), ``access``, ``backup``: restore that.

        Gives what the owner has to open.
        """
        membership = self._membership()
        memory = Memory(self._home, membership).path
        to, access, label = body.get("target"), body.get("access", ""), body.get("backup", "")
        if not isinstance(to, str) or not isinstance(access, str) or not isinstance(label, str):
            raise BadWire("'target' is a text, and so are 'access' and 'backup'")
        if known := (await trio.to_thread.run_sync(remembered, memory / FOLDER)).get(to):
            to, access = known[0], access or known[1]
        target = open_target(to, access, self._dial)
        faults: list[str] = []
        if label:
            manifest = await load(target, membership.owner.key, *read_label(label))
        else:
            zone = str(membership.zone.id.canonical)
            newest, faults = await survey(target, membership.owner.key, zone)
            if not newest:
                raise Unreachable(f"{target}: no backup of {zone} is there{': ' + faults[0] if faults else ''}")
            manifest = max(newest.values(), key=lambda one: one.made)
        _fits(manifest, membership)
        order = Order(to=to, access=access, machine=manifest.machine, number=manifest.number)
        await trio.to_thread.run_sync(_write, memory / _ORDER, order)
        request = ask_for(manifest, membership.device).text().decode()
        return {"backup": manifest.label, "made": manifest.made, "request": request, "faults": faults}

    async def _permit(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``permit``: what the owner gave for the last order."""
        membership = self._membership()
        path = Memory(self._home, membership).path / _ORDER
        order = await trio.to_thread.run_sync(_read, path)
        permit = body.get("permit")
        if order is None:
            raise Refused("say first what is to be restored: cyfs-gateway zone restore TARGET")
        if not isinstance(permit, str) or len(permit) > MOST_TEXT:
            raise BadWire("'permit' is a text, the one that the owner gave")
        manifest = await self._manifest(order, membership)
        await self._opened(manifest, permit)
        await trio.to_thread.run_sync(_write, path, replace(order, permit=permit))
        return {"backup": manifest.label}

    # -- what is done

    async def bring(self, membership: Membership, store: ConfigStore) -> None:
        """Have the zone's configuration in ``store``.  Raises ``CyfsError``, ``OSError``; it is called again then."""
        memory = Memory(self._home, membership).path
        order = await trio.to_thread.run_sync(_read, memory / _ORDER)
        if order is None:
            known = await trio.to_thread.run_sync(remembered, memory / FOLDER)
            places = f" (known here: {', '.join(sorted(known))})" if known else ""
            raise Unreachable(f"say which: cyfs-gateway zone restore TARGET{places}")
        label = f"{order.machine}/{order.number} of {order.to}"
        if not order.permit:
            raise Unreachable(f"the owner has to open backup {label}: cyfs-gateway zone restore --permit FILE")
        try:
            self._progress = {"backup": label, "done": 0, "size": 0}
            manifest = await self._manifest(order, membership)
            part = next((part for part in await self._opened(manifest, order.permit) if part.name == PART), None)
            if part is None:
                raise Refused(f"backup {label} has no configuration in it; take another one")

            def progress(done: int, size: int) -> None:
                self._progress |= {"done": done, "size": size}

            target = open_target(order.to, order.access, self._dial)
            data = await read_part(target, part, MOST_STATE, progress)
            await put_back(store, await trio.to_thread.run_sync(read_state, data), membership.name)
        except (CyfsError, ConfigError, OSError):
            self._failed += 1
            raise
        finally:
            self._progress = {}
        _log.warning("the zone's configuration was restored from backup %s", label)
        await self.over(membership)

    async def over(self, membership: Membership) -> None:
        """The zone is up: what was said once is not to be done when its store is lost again."""
        path = Memory(self._home, membership).path / _ORDER
        try:
            await trio.Path(path).unlink(missing_ok=True)
        except OSError as fault:
            _log.error("%s: %s; remove it", path, fault.strerror)

    async def _manifest(self, order: Order, membership: Membership) -> Manifest:
        target = open_target(order.to, order.access, self._dial)
        manifest = await load(target, membership.owner.key, order.machine, order.number)
        _fits(manifest, membership)
        return manifest

    async def _opened(self, manifest: Manifest, permit: str) -> Any:
        key = device_key(await trio.to_thread.run_sync(KeyStore(self._home).device))
        return await trio.to_thread.run_sync(open_permitted, manifest, permit.encode(), key)


async def put_back(store: ConfigStore, state: Iterable[Set], name: str) -> None:
    """Have ``state`` and nothing else in ``store``, if no zone is there, as the machine ``name``.

    Raises ``ConfigError``; ``Unreachable`` while another machine does it, ``BadWire`` if it is no zone's state.
    """
    wanted = {action.key: action for action in state}
    if (boot := wanted.pop(BOOT, None)) is None:
        raise BadWire(f"{BOOT} is not in it: it is the state of no zone")
    lease, own = await store.grant(_TTL), write_json(name).decode()
    try:
        found = (await store.read([At(RESTORING)])).entries
        # Our own is of a run that was killed.
        if found and found[0].value == own:
            taken = Transaction((Set(RESTORING, own, lease),), (AtRevision(RESTORING, found[0].revision),))
        else:
            taken = Transaction((Create(RESTORING, own, lease),))
        mine = await store.transact(taken)
        guards = (AtRevision(RESTORING, mine), AtRevision(BOOT, 0))
        there = {entry.key: entry for entry in (await store.read([Below()])).entries if not entry.lease}
        actions: list[Action] = [Delete(key) for key in there.keys() - wanted.keys()]
        actions += [one for key, one in wanted.items() if key not in there or there[key].value != one.value]
        for some in _parts(actions):
            await store.keep_alive(lease)
            await store.transact(Transaction(tuple(some), guards))
        await store.transact(Transaction((Create(BOOT, boot.value),), guards[:1]))
    except ConfigError as fault:
        if fault.code is Code.EXISTS:
            raise Unreachable("another machine restores the zone just now") from None
        raise
    finally:
        with trio.move_on_after(_TTL, shield=True), suppress(ConfigError):
            await store.revoke(lease)


def _parts(actions: Iterable[Action]) -> Iterator[list[Action]]:
    part: list[Action] = []
    size = 0
    for action in actions:
        more = len(action.key) + len(getattr(action, "value", "").encode())
        if part and (len(part) == _MOST_KEYS or size + more > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(action)
        size += more
    if part:
        yield part


def _fits(manifest: Manifest, membership: Membership) -> None:
    zone = str(membership.zone.id.canonical)
    if manifest.zone != zone:
        raise Refused(f"backup {manifest.label} is one of {manifest.zone}, and this machine is of {zone}")


def _told(method: Method) -> Method:
    async def told(body: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return await in_words(method, body)
        except ConfigFault as fault:
            raise BadWire(str(fault)) from None
        except OSError as fault:
            raise Unreachable(str(fault)) from None

    return told


def _write(path: Path, order: Order) -> None:
    write_atomic(path, write_json(asdict(order)))


def _read(path: Path) -> Order | None:
    """Raises ``ConfigFault``, ``OSError``."""
    if not path.exists():
        return None
    try:
        said = Fields(read_object(read_file(path, _MOST_ORDER), str(path)), str(path))
        return Order(
            to=said.text_or_none("to", 1024) or "",
            access=said.text_or_none("access", 1024) or "",
            machine=said.text("machine"),
            number=said.number("number"),
            permit=said.text_or_none("permit", MOST_TEXT) or "",
        )
    except BadWire as bad:
        raise ConfigFault(f"{bad}; remove it, and say again what is to be restored") from None
