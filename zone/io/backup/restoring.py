"""A backup becomes files again, in a folder that has nothing else.

A part is written beside its place, hashed whole, and takes its name when it is what was saved; so what has a name is
right, and a restore that was cut off goes on where it was.  Nothing that is there is ever written over: a folder with
anything in it that is not this restore's is refused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import trio

from cyfs_ns.errors import BadWire, Refused
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.io.atomic import write_atomic
from zone.backup.chunks import PIECE, unseal
from zone.backup.manifest import Kind, Manifest, Part, Ref, open_manifest
from zone.io.backup.backups import Chunks
from zone.io.backup.target import Target

_MARK: Final = ".restoring"
_DRAFT: Final = ".part"
_UNPACKED: Final = ".unpacked"


async def restore(
    target: Target,
    manifest: Manifest,
    owner: SecretKey,
    into: Path,
    *,
    only: Collection[str] | None = None,
    progress: Callable[[str, int, int], object] = lambda part, done, size: None,
) -> tuple[Part, ...]:
    """Have the parts of a backup in ``into``, each under its name, and return them.

    ``only``: the names of those that are wanted.  ``progress`` hears how many bytes of a part are done, and how many
    there are.  Raises ``BadWire`` if the backup is not what was saved, ``Refused`` if the key is another or ``into`` is
    not empty, ``Unreachable``, ``OSError``.  After any of them it may be run again, and goes on.
    """
    parts = await trio.to_thread.run_sync(open_manifest, manifest, owner)
    if only is not None:
        if unknown := sorted(set(only) - {part.name for part in parts}):
            raise Refused(f"backup {manifest.label} has no part {unknown[0]!r}: {', '.join(p.name for p in parts)}")
        parts = tuple(part for part in parts if part.name in only)
    await trio.to_thread.run_sync(_begin, into, manifest)
    chunks = Chunks(target)
    for part in parts:
        if not (into / part.name).exists():
            await _restore(chunks, part, into, progress)
    await trio.to_thread.run_sync((into / _MARK).unlink)
    return parts


def _begin(into: Path, manifest: Manifest) -> None:
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    mark = into / _MARK
    if mark.exists():
        if mark.read_text() != manifest.digest:
            raise Refused(f"{into}: another backup is being restored there; take another folder, or remove it")
    elif any(into.iterdir()):
        raise Refused(f"{into}: there is something already, which may be newer; restore to an empty folder")
    else:
        write_atomic(mark, manifest.digest.encode())


async def _restore(chunks: Chunks, part: Part, into: Path, progress: Callable[[str, int, int], object]) -> None:
    draft = into / f"{part.name}{_DRAFT}"
    hashed = hashlib.sha256()
    done, first = await trio.to_thread.run_sync(_resume, draft, part, hashed.update)
    with draft.open("ab") as file:
        for ref in part.pieces[first:]:
            piece = await _piece(chunks, part, ref)
            hashed.update(piece)
            await trio.to_thread.run_sync(file.write, piece)
            done += len(piece)
            progress(part.name, done, part.size)
        await trio.to_thread.run_sync(_flush, file.fileno(), file.flush)
    if hashed.digest() != part.sha256:
        draft.unlink()
        raise _other(part)
    await trio.to_thread.run_sync(_place, draft, part, into)


async def read_part(
    target: Target, part: Part, most: int, progress: Callable[[int, int], object] = lambda done, size: None
) -> bytes:
    """The bytes of ``part``, ``most`` at most, and none of them on a disk.  Raises as :func:`restore`."""
    if part.size > most:
        raise Refused(f"part {part.name}: {part.size} bytes, at most {most} are read")
    chunks, whole = Chunks(target), bytearray()
    for ref in part.pieces:
        whole += await _piece(chunks, part, ref)
        progress(len(whole), part.size)
    if hashlib.sha256(whole).digest() != part.sha256:
        raise _other(part)
    return bytes(whole)


async def _piece(chunks: Chunks, part: Part, ref: Ref) -> bytes:
    stored = await chunks.fetch(ref.chunk)
    if stored is None:
        raise BadWire(f"part {part.name}: chunk {ref.chunk.hex()} is not there; try another backup")
    return await trio.to_thread.run_sync(unseal, stored, ref.key, ref.size)


def _other(part: Part) -> BadWire:
    return BadWire(f"part {part.name}: it is not what was saved; run it again, or try another backup")


def _flush(handle: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(handle)


def _resume(draft: Path, part: Part, update: Callable[[bytes], None]) -> tuple[int, int]:
    """Keep of what an earlier run wrote what is whole pieces: how many bytes, and how many pieces."""
    size = draft.stat().st_size if draft.exists() else 0
    done = number = 0
    for number, ref in enumerate(part.pieces):  # noqa: B007 # it is what is returned
        if done + ref.size > size:
            break
        done += ref.size
    else:
        number = len(part.pieces)
    if size:
        os.truncate(draft, done)
        with draft.open("rb") as file:
            while piece := file.read(PIECE):
                update(piece)
    return done, number


def _member(member: tarfile.TarInfo, into: str) -> tarfile.TarInfo:
    """As it was, but for set-user-ID; a machine that was somebody else's must reach nothing outside of ``into``."""
    return tarfile.tar_filter(member, into).replace(mode=member.mode & 0o1777, deep=False)


def _place(draft: Path, part: Part, into: Path) -> None:
    place = into / part.name
    if part.kind is Kind.FILE:
        draft.chmod(0o600)
        draft.rename(place)
    else:
        unpacked = into / f"{part.name}{_UNPACKED}"
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.mkdir(mode=0o700)
        try:
            with tarfile.open(draft, "r:") as archive:
                archive.extractall(unpacked, filter=_member)
        except tarfile.TarError as bad:
            raise BadWire(f"part {part.name}: {bad}") from None
        os.sync()
        unpacked.rename(place)
        draft.unlink()
    handle = os.open(into, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
