"""Backups are made, looked at, and let go.

**Several work on one target**, and no clock or lock is common to them.  Who makes a backup first writes a claim and
then looks whether somebody sweeps; who sweeps first writes a claim and then looks whether somebody makes one; whoever
finds the other goes away.  So no chunk is removed that a backup just found there.  A claim that a crash left is taken
over by the next run of the same machine; that of a machine that never comes back is removed by :func:`forget`.

**What is cut off goes on**: chunks that are there are not written again, and a backup is there when its manifest is,
which comes last.  Then all its chunks are looked for, and some of the new ones are read back.

**A target that goes back** is told by the number and the hash of the last backup, which the machine keeps.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from cyfs_ns.errors import BadWire, ConfigFault, CyfsError, Refused, Unreachable
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.identity.strictjson import read_object, write_json
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.trusted.keystore import read_file
from zone.backup.chunks import MOST_STORED, Chunk, name_of, seal
from zone.backup.manifest import (
    DICE,
    MOST_MACHINES,
    MOST_MANIFEST,
    Manifest,
    Part,
    Ref,
    is_part,
    missing,
    read_manifest,
    write_manifest,
)
from zone.backup.retention import Retention, kept
from zone.io.backup.sources import Source
from zone.io.backup.target import Target
from zone.membership import Membership

_MARK: Final = "target"
_BACKUPS: Final = "backups"
_MAKING, _SWEEPING = "making-", "sweeping-"
_LEAVING: Final = 5.0
"""Seconds to take a claim back."""
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,14}\Z")
_MACHINE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Maker:
    """The machine that makes backups."""

    membership: Membership
    key: SecretKey = field(repr=False)
    """The machine's."""
    secret: bytes = field(repr=False)
    """The zone's secret for backups, ``SECRET`` bytes: the same on all machines that share a target."""
    memory: Path
    """The file of what the machine knows of its last backup on this target."""


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that stands."""

    machine: str
    number: int
    size: int
    """Bytes that were saved."""
    written: int
    """Bytes that the target did not have."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found wrong with a backup; ``checked`` is of its chunks."""

    manifest: Manifest
    checked: int
    lost: tuple[bytes, ...]
    damaged: tuple[bytes, ...]


async def begin(target: Target, zone: str) -> None:
    """Make an empty target one of ``zone``; one that is stays as it is.  Raises ``Refused`` if it is another zone's."""
    if (found := await target.read(_MARK, 4096)) is None:
        await target.write(_MARK, write_json({"backups-of": zone}) + b"\n")
    elif read_object(found, "target").get("backups-of") != zone:
        raise Refused(f"{target}: the backups of another zone lie there; take another folder")


async def _check(target: Target, zone: str) -> None:
    if await target.read(_MARK, 4096) is None:
        raise Unreachable(f"{target}: no backups lie there; is it mounted, or was it never begun?")
    await begin(target, zone)


async def forget(target: Target, machine: str) -> None:
    """Remove the claims of a machine that will not come back."""
    for kind in (_MAKING, _SWEEPING):
        await target.remove(f"claims/{kind}{machine}")


@asynccontextmanager
async def _claim(target: Target, mine: str, others: str, machine: str) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
    """Work as ``machine`` while nobody does what ``others`` stands for; yields how to make sure that it is still so."""
    path, token = f"claims/{mine}{machine}", os.urandom(16).hex().encode()
    await target.write(path, token)
    try:
        # Our own of the other kind is of a run that is over: this machine does one thing at a time.
        await target.remove(f"claims/{others}{machine}")
        busy = sorted(name.removeprefix(others) for name in await target.list("claims") if _is_claim(name, others))
        if busy:
            raise Unreachable(
                f"{target}: {busy[0]} is at work there; try again later, or forget that machine if it is no more"
            )

        async def still() -> None:
            if await target.read(path, 64) != token:
                raise Unreachable(f"{target}: somebody took our claim away; run it again")

        yield still
    finally:
        with trio.move_on_after(_LEAVING, shield=True), suppress(CyfsError):
            await target.remove(path)


def _is_claim(name: str, kind: str) -> bool:
    return name.startswith(kind) and _MACHINE.match(name.removeprefix(kind)) is not None


class Chunks:
    """The chunks of a target: what is known to be there, folder by folder."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._folders: dict[str, set[str]] = {}
        self.written: dict[bytes, int] = {}

    @staticmethod
    def path(name: bytes) -> str:
        text = name.hex()
        return f"chunks/{text[:2]}/{text}"

    async def has(self, name: bytes) -> bool:
        text = name.hex()
        if text[:2] not in self._folders:
            self._folders[text[:2]] = await self._target.list(f"chunks/{text[:2]}")
        return text in self._folders[text[:2]]

    async def put(self, chunk: Chunk) -> None:
        if not await self.has(chunk.name):
            await self._target.write(self.path(chunk.name), chunk.stored)
            self._folders[chunk.name.hex()[:2]].add(chunk.name.hex())
            self.written[chunk.name] = len(chunk.stored)

    async def fetch(self, name: bytes) -> bytes | None:
        """The chunk; None: it is not there.  Raises ``BadWire`` if it is not what its name says."""
        stored = await self._target.read(self.path(name), MOST_STORED)
        if stored is not None and name_of(stored) != name:
            raise BadWire(f"chunk {name.hex()}: its bytes are others")
        return stored


async def back_up(
    target: Target,
    maker: Maker,
    sources: Sequence[Source],
    *,
    made: int,
    sample: float = 0.05,
    progress: Callable[[str, int], object] = lambda part, done: None,
) -> Made:
    """Save ``sources`` as one backup, at ``made`` (seconds since 1970).  Cut off anywhere, it is simply run again.

    ``sample``: which share of the new chunks is read back.  ``progress`` hears how many bytes of a part are done.
    Raises ``CyfsError``, which says what to do, and ``OSError`` for a source that cannot be read; no backup then.
    """
    zone, machine = str(maker.membership.zone.id.canonical), maker.membership.name
    names = [source.name for source in sources]
    if len(set(names)) != len(names) or not all(map(is_part, names)):
        raise ConfigFault(f"parts of a backup have different names of letters, digits, '.', '-' and '_': {names}")
    await _check(target, zone)
    async with _claim(target, _MAKING, _SWEEPING, machine) as still:
        newest, warnings = await survey(target, maker.membership.owner.key, zone)
        last = await trio.to_thread.run_sync(_remembered, maker.memory)
        number, previous = _next(newest.get(machine), last, warnings)
        chunks, parts = Chunks(target), []
        for source in sources:
            parts.append(await _save(source, maker.secret, chunks, warnings.append, progress))
        seen = {name: one.number for name, one in newest.items() if name != machine}
        text = await trio.to_thread.run_sync(
            lambda: write_manifest(maker.membership, maker.key, number, made, previous, seen, parts, os.urandom(DICE))
        )
        await still()
        path = f"{_BACKUPS}/{machine}/{number}"
        await target.write(path, text)
        await _confirm(target, path, text, chunks.written, parts, sample)
        digest = hashlib.sha256(text).hexdigest()
        await trio.to_thread.run_sync(_remember, maker.memory, number, digest)
    return Made(machine, number, sum(part.size for part in parts), sum(chunks.written.values()), tuple(warnings))


def _next(newest: Manifest | None, last: tuple[int, str], warnings: list[str]) -> tuple[int, str]:
    """The number of the next backup, and the digest of the one before it."""
    number, digest = last
    if newest is None:
        if number:
            warnings.append(f"the target has no backup of this machine any more; number {number} was there")
    elif newest.number < number:
        warnings.append(f"the target went back: number {number} was there, the newest is {newest.number}")
    elif newest.number == number and newest.digest != digest:
        warnings.append(f"number {number} on the target is not the one that was made here")
    if newest is not None and newest.number >= number:
        return newest.number + 1, newest.digest
    return number + 1, digest


def _remembered(memory: Path) -> tuple[int, str]:
    if not memory.exists():
        return 0, ""
    try:
        said = read_object(read_file(memory, 4096), str(memory))
    except BadWire as bad:
        raise ConfigFault(f"{bad}; remove it, and what the target holds is believed") from None
    number, digest = said.get("number"), said.get("digest")
    if not isinstance(number, int) or not isinstance(digest, str):
        raise ConfigFault(f"{memory}: not what was kept; remove it, and what the target holds is believed")
    return number, digest


def _remember(memory: Path, number: int, digest: str) -> None:
    write_atomic(memory, write_json({"number": number, "digest": digest}) + b"\n")


async def _save(
    source: Source,
    secret: bytes,
    chunks: Chunks,
    tell: Callable[[str], None],
    progress: Callable[[str, int], object],
) -> Part:
    hashed, size, refs = hashlib.sha256(), 0, []
    pieces = source.pieces(tell)

    def sealed(pieces: Iterator[bytes]) -> tuple[int, Chunk] | None:
        if (piece := next(pieces, None)) is None:
            return None
        hashed.update(piece)
        return len(piece), seal(piece, secret)

    while (found := await trio.to_thread.run_sync(sealed, pieces)) is not None:
        length, chunk = found
        await chunks.put(chunk)
        refs.append(Ref(chunk.name, length, chunk.key))
        size += length
        progress(source.name, size)
    return Part(source.name, source.kind, source.revision, size, hashed.digest(), tuple(refs))


async def _confirm(
    target: Target, path: str, text: bytes, written: dict[bytes, int], parts: Sequence[Part], sample: float
) -> None:
    """Whether what was written is there.  Raises ``BadWire``; the manifest is gone then."""
    again = Chunks(target)
    try:
        if await target.read(path, MOST_MANIFEST) != text:
            raise BadWire(f"{target}: the manifest is not what was written")
        for name in dict.fromkeys(ref.chunk for part in parts for ref in part.pieces):
            if not await again.has(name):
                raise BadWire(f"{target}: chunk {name.hex()} was written and is not there")
        for name in random.sample(sorted(written), min(len(written), round(len(written) * sample + 0.5))):
            if await again.fetch(name) is None:
                raise BadWire(f"{target}: chunk {name.hex()} was written and is not there")
    except BadWire:
        await target.remove(path)
        raise


async def survey(target: Target, owner: PublicKey, zone: str) -> tuple[dict[str, Manifest], list[str]]:
    """The newest backup of each machine of ``zone`` that can be read; and what seems wrong, a line for each."""
    newest: dict[str, Manifest] = {}
    faults: list[str] = []
    for machine in await _machines(target):
        for number in sorted(await _numbers(target, machine), reverse=True):
            try:
                found = await load(target, owner, machine, number)
            except BadWire as bad:
                faults.append(str(bad))
                continue
            if found.zone != zone:
                faults.append(f"backup {found.label} is one of {found.zone}")
                continue
            newest[machine] = found
            break
    return newest, faults + missing(newest.values())


def read_label(untrusted: str) -> tuple[str, int]:
    """The machine and the number of a backup, as people call it.  Raises ``BadWire``."""
    machine, _, number = untrusted.partition("/")
    if not _MACHINE.match(machine) or not _NUMBER.match(number):
        raise BadWire(f"{untrusted[:80]!r}: a backup is called MACHINE/NUMBER, as ood1/7")
    return machine, int(number)


async def load(target: Target, owner: PublicKey, machine: str, number: int) -> Manifest:
    """That manifest.  Raises ``BadWire``, also if it is not there."""
    text = await target.read(f"{_BACKUPS}/{machine}/{number}", MOST_MANIFEST)
    if text is None:
        raise BadWire(f"backup {machine}/{number} is not there")
    return await trio.to_thread.run_sync(read_manifest, text, owner, machine, number)


async def listed(target: Target) -> dict[str, list[int]]:
    """The numbers of the backups there, the oldest first, by machine; what they hold is not looked at."""
    return {machine: sorted(await _numbers(target, machine)) for machine in await _machines(target)}


async def _machines(target: Target) -> list[str]:
    found = sorted(name for name in await target.list(_BACKUPS) if _MACHINE.match(name))
    if len(found) > MOST_MACHINES:
        raise Refused(f"{target}: backups of {len(found)} machines, at most {MOST_MACHINES} share a target")
    return found


async def _numbers(target: Target, machine: str) -> list[int]:
    return [int(name) for name in await target.list(f"{_BACKUPS}/{machine}") if _NUMBER.match(name)]


async def verify(
    target: Target, manifest: Manifest, progress: Callable[[int, int], object] = lambda done, all: None
) -> Verdict:
    """Whether all that a backup needs is there, and is what it was; no secret is needed for that.

    ``progress`` hears how many chunks were looked at, of how many.
    """
    chunks, lost, damaged = Chunks(target), [], []
    for done, name in enumerate(manifest.chunks):
        progress(done, len(manifest.chunks))
        try:
            if await chunks.fetch(name) is None:
                lost.append(name)
        except BadWire:
            damaged.append(name)
    return Verdict(manifest, len(manifest.chunks), tuple(lost), tuple(damaged))


async def discard(target: Target, verdict: Verdict) -> None:
    """Remove the chunks that were found damaged, so that the next backup of the same bytes writes them anew."""
    for name in verdict.damaged:
        await target.remove(Chunks.path(name))


async def sweep(target: Target, maker: Maker, rule: Retention) -> tuple[int, int]:
    """Let this machine's backups go that ``rule`` does not keep, then all chunks that no backup of anybody needs.

    Returns how many of each.  Raises ``BadWire``, and removes nothing, as long as there is a manifest that cannot be
    read; ``Unreachable`` while another machine makes a backup.  Cut off anywhere, it is simply run again.
    """
    zone, own = str(maker.membership.zone.id.canonical), maker.membership.name
    await _check(target, zone)
    async with _claim(target, _SWEEPING, _MAKING, own) as still:
        needed: dict[tuple[str, int], tuple[bytes, ...]] = {}
        made: dict[int, int] = {}
        for machine in await _machines(target):
            for number in await _numbers(target, machine):
                manifest = await load(target, maker.membership.owner.key, machine, number)
                needed[machine, number] = manifest.chunks
                if machine == own:
                    made[number] = manifest.made
        gone = sorted(made.keys() - kept(made, rule))
        for number in gone:
            await target.remove(f"{_BACKUPS}/{own}/{number}")
            del needed[own, number]
        names = {name.hex() for chunks in needed.values() for name in chunks}
        removed = 0
        for byte in range(256):
            folder = f"chunks/{byte:02x}"
            if dead := await target.list(folder) - names:
                await still()
            for name in sorted(dead):
                await target.remove(f"{folder}/{name}")
                removed += 1
    return len(gone), removed
