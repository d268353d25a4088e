"""Images on this machine, unpacked once and shared by all containers of a node.

``FOLDER/sha256-DIGEST/`` holds ``config.json`` and ``rootfs``; the digest is the configuration's, which names the
digest of every layer, so what is there under that name is what it says.  It is made under another name, brought to the
disk as a whole, and renamed: whatever has the name is complete, also after a power cut.

Nothing in it is trusted before its digest is right but for its size: a layer is unpacked while it is hashed, below a
folder that only we can enter, and thrown away if the digests are wrong.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import os
import platform
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, cast

import zstandard

from cyfs_ns.errors import BadWire
from node.image.layers import MOST_UNPACKED, MakeDirectory, MakeLink, MakeSymlink, Remove, Step, Tree, WriteFile
from node.image.oci import (
    MOST_DOCUMENT,
    ImageConfig,
    Layer,
    Manifest,
    read_config,
    read_index,
    read_layout,
    read_manifest,
    read_saved,
)
from node.image.tar import Content, Entry, TarReader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PIECE: Final = 256 * 1024
_MOST_STREAM: Final = MOST_UNPACKED + (1 << 30)
"""Bytes of a layer as a tar: its files, and the heads and padding between them."""
_MOST_MEMBERS: Final = 4096
"""Files of an archive that holds an image."""
_MOST_INDEXES: Final = 2
"""One within the other: the one of the layout, and the one of the platforms."""
_ZSTD_WINDOW: Final = 1 << 27
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Image:
    """An image that can be run."""

    name: str
    """Of its folder, ``sha256-…``; empty: a folder of the owner's, used as it is."""
    rootfs: Path
    config: ImageConfig


class Source(Protocol):
    """Where the files of an image come from."""

    def open(self, path: str) -> BinaryIO | None:
        """The file ``path``; None: there is none."""


class FolderSource:
    """A layout that is a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, path: str) -> BinaryIO | None:
        """See ``Source``; a link is not followed: only what lies in the folder is part of it."""
        found = self._folder
        for part in path.split("/"):
            found /= part
            if part in ("", ".", "..") or found.is_symlink():
                return None
        return found.open("rb") if found.is_file() else None


class ArchiveSource:
    """A layout, or what ``docker save`` wrote, that is one tar."""

    def __init__(self, archive: Path, is_wanted: Callable[[], bool]) -> None:
        """Read it once, to know where its files are.  Raises ``BadWire`` or ``OSError``."""
        self._archive = archive
        self._members: dict[str, tuple[int, int]] = {}
        links: dict[str, str] = {}
        reader = TarReader()
        with archive.open("rb") as file:
            for event in _events(reader, _while(is_wanted, _pieces(file))):
                if not isinstance(event, Entry):
                    continue
                path = _plain(event.path)
                if len(self._members) + len(links) >= _MOST_MEMBERS:
                    raise BadWire(f"more than {_MOST_MEMBERS} files in the archive of an image")
                if event.kind == "file":
                    self._members[path] = (event.offset, event.size)
                elif event.kind == "symlink":  # a layer that two images of one archive share
                    links[path] = _plain(f"{path.rpartition('/')[0]}/{event.target}")
        for path, target in links.items():
            if target in self._members:
                self._members[path] = self._members[target]

    def open(self, path: str) -> BinaryIO | None:
        """See ``Source``."""
        if path not in self._members:
            return None
        return io.BufferedReader(_Member(self._archive, *self._members[path]))


class _Member(io.RawIOBase):
    """A part of a file, for reading."""

    def __init__(self, archive: Path, offset: int, size: int) -> None:
        self._file = archive.open("rb", buffering=0)
        self._file.seek(offset)
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = self._file.readinto(memoryview(buffer)[: self._left])
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class ImageStore:
    """The images below ``folder``.  Everything here blocks on the disk, for minutes where an image is large.

    From trio, call it in a worker thread; ``is_wanted`` is asked between pieces, and a no ends the work with
    ``OSError`` (``ECANCELED``), leaving nothing that anybody takes for an image.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, source: Path, name: str = "", is_wanted: Callable[[], bool] = lambda: True) -> Image:
        """The image called ``name`` (empty: the only one) of ``source``, unpacked unless it is there.

        A layout or an archive of one is copied; any other folder is a root as it is, used where it lies.  Raises
        ``BadWire`` for an image that cannot be used, ``OSError`` for the disk.
        """
        if source.is_dir() and not any((source / each).exists() for each in ("oci-layout", "manifest.json")):
            return Image("", source, ImageConfig())
        files: Source = FolderSource(source) if source.is_dir() else ArchiveSource(source, is_wanted)
        manifest = _find_manifest(files, name)
        document = _document(files, manifest.config, "image configuration")
        config = read_config(document)
        _check_machine(config)
        if len(config.layers) != len(manifest.layers):
            raise BadWire(f"{len(manifest.layers)} layers, and digests of {len(config.layers)}")
        digest = hashlib.sha256(document).hexdigest()
        folder = self._folder / f"sha256-{digest}"
        if not folder.is_dir():
            self._make(folder, files, manifest, config, document, is_wanted)
        return Image(folder.name, folder / "rootfs", config)

    def find(self, name: str) -> Image | None:
        """The image in the folder ``name``; None: it is not here.  Raises ``OSError``."""
        folder = self._folder / name
        if not name.startswith("sha256-") or not folder.is_dir():
            return None
        return Image(name, folder / "rootfs", read_config((folder / "config.json").read_bytes()))

    def collect(self, used: set[str]) -> None:
        """Remove the images whose folders are not in ``used``, and what was never finished; never beside ``load``."""
        if self._folder.is_dir():
            for folder in sorted(self._folder.iterdir()):
                if folder.name not in used:
                    if folder.name.startswith("sha256-"):
                        # First it loses the name that says it is whole.
                        folder = folder.rename(self._folder / f".{folder.name}.old")
                    shutil.rmtree(folder)

    def _make(
        self,
        folder: Path,
        files: Source,
        manifest: Manifest,
        config: ImageConfig,
        document: bytes,
        is_wanted: Callable[[], bool],
    ) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=self._folder))
        try:
            (temporary / "config.json").write_bytes(document)
            rootfs = temporary / "rootfs"
            rootfs.mkdir()
            rootfs.chmod(0o755)
            tree = Tree()
            for layer, digest in zip(manifest.layers, config.layers, strict=True):
                tree.next_layer()
                _lay(files, layer, digest, tree, rootfs, is_wanted)
            bring_to_disk(temporary)
            temporary.rename(folder)
        except OSError as fault:
            if fault.errno not in (errno.EEXIST, errno.ENOTEMPTY) or not folder.is_dir():
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        bring_to_disk(self._folder)


def _find_manifest(files: Source, name: str) -> Manifest:
    if (layout := files.open("oci-layout")) is not None:
        with layout:
            read_layout(_whole(layout, "oci-layout"))
        document, called = _named(files, "index.json"), name
        for _ in range(_MOST_INDEXES):
            blob = read_index(document, called, _architecture())
            document = _document(files, Layer(blob.path, "", blob.digest, blob.size), "manifest")
            if not blob.is_index:
                return read_manifest(document)
            called = ""
        raise BadWire("an index within an index within an index")
    return read_saved(_named(files, "manifest.json"), name)


def _named(files: Source, path: str) -> bytes:
    file = files.open(path)
    if file is None:
        raise BadWire(f"no image: {path[:80]!r} is missing")
    with file:
        return _whole(file, path)


def _document(files: Source, place: Layer, what: str) -> bytes:
    data = _named(files, place.path)
    if place.digest and f"sha256:{hashlib.sha256(data).hexdigest()}" != place.digest:
        raise BadWire(f"{what}: its digest is another than the image says")
    return data


def _whole(file: BinaryIO, what: str) -> bytes:
    data = file.read(MOST_DOCUMENT + 1)
    if len(data) > MOST_DOCUMENT:
        raise BadWire(f"{what[:80]}: more than {MOST_DOCUMENT} bytes")
    return data


def _check_machine(config: ImageConfig) -> None:
    if config.architecture and config.architecture != _architecture():
        raise BadWire(f"the image is for {config.architecture[:40]}; this machine is {_architecture()}")


def _architecture() -> str:
    """This machine, as Go names it (GOARCH)."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def _lay(files: Source, layer: Layer, digest: str, tree: Tree, rootfs: Path, is_wanted: Callable[[], bool]) -> None:
    """One layer over those before; raises ``BadWire`` when it is not the one that the image names."""
    file = files.open(layer.path)
    if file is None:
        raise BadWire(f"a layer is missing: {layer.path[:80]}")
    packed, plain = hashlib.sha256(), hashlib.sha256()
    with file:
        pieces = _hashed(_unpacked(_hashed(_pieces(file), packed), layer.packing), plain)
        _carry_out(tree.steps, rootfs, _while(is_wanted, pieces), _give)
    if layer.digest and layer.digest != f"sha256:{packed.hexdigest()}":
        raise BadWire(f"a layer is not what its digest says: {layer.path[:80]}")
    if digest != f"sha256:{plain.hexdigest()}":
        raise BadWire(f"a layer is another than the configuration says: {layer.path[:80]}")


_Give = Callable[[Path | int, tuple[int, int]], None]
"""Have a new file belong to its owner in the image."""


def _carry_out(steps: Callable[[Entry], list[Step]], rootfs: Path, pieces: Iterator[bytes], give: _Give) -> None:
    with ExitStack() as last:
        output = -1
        for event in _events(TarReader(), pieces):
            if isinstance(event, Content):
                if output >= 0:
                    _write(output, event.data)
                continue
            last.close()
            output = -1
            for step in steps(event):
                if isinstance(step, WriteFile):
                    output = last.enter_context(_new_file(rootfs / step.path, step, give))
                else:
                    _take(rootfs, step, give)


@contextmanager
def _new_file(path: Path, step: WriteFile, give: _Give) -> Iterator[int]:
    """The time of a file says to Python whether its compiled form is of it."""
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield output
        give(output, step.owner)
        os.fchmod(output, step.mode)
        os.utime(output, (step.mtime, step.mtime))
    finally:
        os.close(output)


def _take(rootfs: Path, step: MakeDirectory | MakeSymlink | MakeLink | Remove, give: _Give) -> None:
    """Do one step.

    No step follows a link that is on the disk: ``Tree`` names plain directories, and each of these calls would fail at
    a last name that is a link.
    """
    path = rootfs / step.path
    match step:
        case MakeDirectory():
            if step.is_new:
                path.mkdir()
            give(path, step.owner)
            path.chmod(step.mode)
        case MakeSymlink():
            path.symlink_to(step.target)
            give(path, step.owner)
        case MakeLink():
            os.link(rootfs / step.existing, path, follow_symlinks=False)
        case Remove():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _give(file: Path | int, owner: tuple[int, int]) -> None:
    """To an owner of the image; only root can, and for others there are no containers."""
    if os.geteuid() == 0:
        os.chown(file, *owner, follow_symlinks=isinstance(file, int))


def _write(output: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(output, view) :]


def _events(reader: TarReader, pieces: Iterator[bytes]) -> Iterator[Content | Entry]:
    for piece in pieces:
        reader.receive_data(piece)
        while (event := reader.next_event()) is not None:
            if isinstance(event, Content | Entry):
                yield event
    reader.finish()


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def _while(is_wanted: Callable[[], bool], pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if not is_wanted():
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        yield piece


def _hashed(pieces: Iterator[bytes], into: hashlib._Hash) -> Iterator[bytes]:
    for piece in pieces:
        into.update(piece)
        yield piece


def _unpacked(pieces: Iterator[bytes], packing: str) -> Iterator[bytes]:
    """Raises ``BadWire`` for what is not packed so, or comes to more than any image needs."""
    total = 0
    match packing:
        case "gzip":
            pieces = _gunzipped(pieces)
        case "zstd":
            pieces = _unzstd(pieces)
    for piece in pieces:
        total += len(piece)
        if total > _MOST_STREAM:
            raise BadWire(f"a layer of more than {_MOST_STREAM >> 30} GiB")
        yield piece


def _gunzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Members may follow each other (RFC 1952 §2.2)."""
    machine = zlib.decompressobj(wbits=31)
    try:
        for piece in pieces:
            while piece:
                if machine.eof:
                    machine = zlib.decompressobj(wbits=31)
                yield machine.decompress(piece, _PIECE)
                piece = machine.unused_data if machine.eof else machine.unconsumed_tail
        while not machine.eof and (rest := machine.decompress(b"", _PIECE)):
            yield rest
    except zlib.error as fault:
        raise BadWire(f"a layer that is no gzip: {str(fault)[:80]}") from None
    if not machine.eof:
        raise BadWire("a layer whose gzip is cut short")


def _unzstd(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Frames may follow each other (RFC 8878 §3)."""
    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(
        cast(BinaryIO, _Stream(pieces)), read_across_frames=True
    )
    try:
        while piece := reader.read(_PIECE):
            yield piece
    except (zstandard.ZstdError, MemoryError) as fault:
        raise BadWire(f"a layer that is no zstd: {str(fault)[:80]}") from None


class _Stream(io.RawIOBase):
    """Pieces, as a file that is read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        room = memoryview(buffer)
        data = self._rest or next(self._pieces, b"")
        taken, self._rest = data[: len(room)], data[len(room) :]
        room[: len(taken)] = taken
        return len(taken)


def _plain(path: str) -> str:
    """``path`` of a member of an archive in its one form; what leads out of it becomes a name that no file has."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if not parts:
                return "/"
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def unpack(archive: Path, packing: str, folder: Path, is_wanted: Callable[[], bool] = lambda: True) -> None:
    """A tar that is no image's layer, into ``folder``, which is empty; ``packing`` is empty, ``gzip`` or ``zstd``.

    The rules and bounds are a layer's, but all of it is ours, to be read by all and written by nobody else: of modes
    only who may execute is kept.  Raises ``BadWire`` and ``OSError``; what is there then is the caller's.
    """
    tree = Tree()

    def steps(entry: Entry) -> list[Step]:
        is_open = entry.kind == "directory" or entry.mode & 0o100
        return tree.steps(replace(entry, mode=0o755 if is_open else 0o644))

    with archive.open("rb") as file:
        _carry_out(steps, folder, _while(is_wanted, _unpacked(_pieces(file), packing)), lambda *_: None)


def bring_to_disk(folder: Path) -> None:
    """Bring the file system of ``folder`` to the disk: once, not once for each of ten thousand files."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(descriptor)
