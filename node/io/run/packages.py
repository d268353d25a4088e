"""Packages of processes and scripts: put down by the owner, copied once, and run from the copy.

The package of the image ``notes:1.4`` is ``<home>/packages/notes/1.4``, a folder, or beside it one archive
``1.4.tar``, ``1.4.tar.gz`` or ``1.4.tar.zst``; without a version it is ``latest``.  The copy is
``<home>/unpacked/sha256-DIGEST``, made under another name and renamed when it is whole: what changes in the source
while a service runs changes nothing for it.

A service has two links: ``prepared``, what its next run is of, and ``running``.  Copies that no link names go when
another is made, but for the two newest, which make the way back to the last version short.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from cyfs_ns.errors import BadWire
from node.io.image.store import bring_to_disk, unpack
from node.run.runner import Place, RunFault

_IMAGE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,127})(?::([A-Za-z0-9][A-Za-z0-9._-]{0,127}))?")
_PACKINGS: Final = {".tar": "", ".tar.gz": "gzip", ".tar.zst": "zstd"}
_MOST_ENTRIES: Final = 200_000
_SPARE: Final = 2
_PIECE: Final = 1 << 20


def source_of(packages: Path, image: str) -> Path:
    """Where in the folder ``packages`` an image is, but for the ending of an archive; raises ``RunFault``."""
    match = _IMAGE.fullmatch(image)
    if match is None:
        raise RunFault(f"{image[:80]!r} is no package: expected NAME or NAME:VERSION", lasting=True)
    return packages / match[1] / (match[2] or "latest")


class Packages:
    """The packages below ``home``.  Everything here blocks on the disk; from trio, call it in a worker thread."""

    def __init__(self, home: str) -> None:
        self._sources, self._copies = Path(home, "packages"), Path(home, "unpacked")
        self._items = Path(home, "items")
        self._making = threading.Lock()

    def prepare(self, image: str, place: Place, is_wanted: Callable[[], bool]) -> None:
        """Have a copy of ``image``, linked as ``prepared``, while ``is_wanted``.  Raises ``RunFault``."""
        source = source_of(self._sources, image)
        try:
            with self._making:
                self._link(place, "prepared", self._copy(source, is_wanted))
                self._collect()
        except BadWire as bad:
            raise RunFault(f"the package {image}: {bad}", lasting=True) from bad
        except OSError as bad:
            raise RunFault(f"the package {image}: {bad}") from bad

    def use(self, place: Place) -> Path:
        """The copy that is ``prepared``, which is ``running`` from now on; raises ``RunFault``."""
        copy = self.linked(place, "prepared")
        try:
            self._link(place, "running", copy)
        except OSError as bad:
            raise RunFault(f"the package: {bad}") from bad
        return copy

    def linked(self, place: Place, name: Literal["prepared", "running"]) -> Path:
        """The copy that the link names; raises ``RunFault``."""
        try:
            copy = Path(place.state, name).readlink()
        except OSError as bad:
            raise RunFault(f"the package: {bad}") from bad
        if not copy.is_dir():
            raise RunFault("the package was taken away")
        return copy

    def forget(self, place: Place) -> None:
        """Have no links for a service any more."""
        for name in ("prepared", "running"):
            Path(place.state, name).unlink(missing_ok=True)
        with suppress(OSError):  # of containers, something stays
            Path(place.state).rmdir()

    def _link(self, place: Place, name: str, copy: Path) -> None:
        state = Path(place.state)
        state.mkdir(parents=True, exist_ok=True)
        temporary = state / f".{name}.{secrets.token_hex(4)}"
        temporary.symlink_to(copy)
        temporary.replace(state / name)

    def _copy(self, source: Path, is_wanted: Callable[[], bool]) -> Path:
        archives = {packing: Path(f"{source}{end}") for end, packing in _PACKINGS.items()}
        found = {packing: archive for packing, archive in archives.items() if archive.is_file()}
        if not source.is_dir() and not found:
            raise RunFault(f"there is no package {source}, nor {source}.tar, .tar.gz or .tar.zst")
        self._copies.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._copies.chmod(0o711)
        if source.is_dir():
            return self._made(_digest_of(source), lambda into: _copy_folder(source, into))
        packing, archive = next(iter(found.items()))
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return self._made(digest, lambda into: unpack(archive, packing, into, is_wanted))

    def _made(self, digest: str, fill: Callable[[Path], None]) -> Path:
        copy = self._copies / f"sha256-{digest}"
        if copy.is_dir():
            os.utime(copy)
            return copy
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=self._copies))
        try:
            fill(temporary)
            temporary.chmod(0o755)
            bring_to_disk(temporary)
            temporary.rename(copy)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return copy

    def _collect(self) -> None:
        linked = {os.readlink(link) for name in ("prepared", "running") for link in self._items.glob(f"*/{name}")}
        spare = [copy for copy in self._copies.iterdir() if str(copy) not in linked]
        whole = sorted((copy for copy in spare if copy.name[0] != "."), key=lambda copy: copy.stat().st_mtime_ns)
        for copy in [*(copy for copy in spare if copy.name[0] == "."), *whole[: max(0, len(whole) - _SPARE)]]:
            shutil.rmtree(copy, ignore_errors=True)


def _walk(folder: Path) -> Iterator[Path]:
    """All that is below, sorted; links are told and not followed.  Raises ``BadWire``."""
    found = 0
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted((*folders, *files)):
            found += 1
            if found > _MOST_ENTRIES:
                raise BadWire(f"more than {_MOST_ENTRIES} files")
            yield Path(parent, name)


def _digest_of(folder: Path) -> str:
    """Names, kinds and contents, and who may execute; nothing else of a folder is copied."""
    digest = hashlib.sha256()
    for path in _walk(folder):
        name = str(path.relative_to(folder)).encode("utf-8", "surrogateescape")
        if path.is_symlink():
            digest.update(b"l\0%s\0%s\0" % (name, os.fsencode(path.readlink())))
        elif path.is_dir():
            digest.update(b"d\0%s\0" % name)
        elif path.is_file():
            status = path.stat()
            digest.update(b"f\0%s\0%d\0%d\0" % (name, bool(status.st_mode & 0o100), status.st_size))
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
        else:
            raise BadWire(f"{path.name!r} is neither a file, a folder nor a link")
    return digest.hexdigest()


def _copy_folder(source: Path, into: Path) -> None:
    for path in _walk(source):
        copy = into / path.relative_to(source)
        if path.is_symlink():
            copy.symlink_to(path.readlink())
        elif path.is_dir():
            copy.mkdir()
            copy.chmod(0o755)
        else:
            shutil.copyfile(path, copy)
            copy.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    if _digest_of(into) != _digest_of(source):
        raise OSError("it changed while it was copied")
