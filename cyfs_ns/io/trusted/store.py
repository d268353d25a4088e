"""What this machine holds about identities: pins, documents put here by hand, and the last known good ones.

Below ``<home>/names/``:

* ``pins/<did>.json``: one identity and its key each, made by ``id trust``;
* ``local/*.jwt``, ``local/*.json``: documents put here by hand; ``.json`` files are unsigned and count as this
  machine's own word;
* ``kept/<hash>.json``: documents that were believed at *host-snapshot* or better, for the days nobody can be asked,
  and as marks: nothing older is ever believed again.

Writing compares and sets under a lock on the directory, so that two processes cannot put an older document over a
newer.  A file is read again when anything about it has changed.  What keeps us from reading all pins and marks keeps us
from believing: fewer of them would mean more belief.  All of it blocks on the disk: from trio, in a thread.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import Document, read_document, revision_of
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.revision import Change, Revision, judge
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from cyfs_ns.identity.token import MOST_TOKEN, Token, read_token
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.trust.anchors import Anchors, Pin
from cyfs_ns.trust.weigh import Accepted

_MOST_FILE = MOST_TOKEN + 4096
_MOST_FILES = 10_000
_LONGEST_NAME = 150


@dataclass(frozen=True, slots=True)
class Kept:
    """A document on this disk, verified when it was put there, and to be verified again."""

    about: Did
    kind: str
    token: Token
    key: PublicKey
    """Who has signed it, as was believed then."""
    revision: Revision
    at: float
    source: str


@dataclass(frozen=True, slots=True)
class Local:
    """A file that an administrator put here: a ``token`` or, unsigned, a ``document``."""

    about: Did
    source: str
    at: float
    token: Token | None = None
    document: Document | None = None


_Item: TypeAlias = Pin | Kept | Local
_Sign: TypeAlias = tuple[int, int, int, int, int]
"""Device, number, size and both times of a file: together they change with it, whatever the clock does."""


@dataclass(frozen=True, slots=True)
class _Folder:
    """What was read of one directory: each file as it was then, with what it says or what is wrong with it."""

    files: Mapping[str, tuple[_Sign, _Item | str]] = field(default_factory=dict)
    items: tuple[_Item, ...] = ()
    faults: tuple[str, ...] = ()


class TrustStore:
    """The directory ``<home>/names``; ``home`` need not exist before something is written."""

    def __init__(self, home: Path) -> None:
        self.path = home / "names"
        self._read_ones = {"pins": _Folder(), "kept": _Folder(), "local": _Folder()}
        self._reading = threading.Lock()

    def pins(self) -> tuple[Pin, ...]:
        """All pins.  One that cannot be read raises ``BadWire``: without it somebody else could be believed."""
        found = self._read("pins", (".json",), _read_pin)
        pins = {pin.about.canonical: pin for pin in found.items if isinstance(pin, Pin)}
        faults = found.faults
        if not faults and len(pins) < len(found.items):
            twice = next(pin.about for pin in found.items if isinstance(pin, Pin) and pin not in pins.values())
            faults = (f"{self.path / 'pins'}: two files pin {twice}",)
        if faults:
            raise BadWire(f"{faults[0]}; mend or remove it, nothing is believed meanwhile")
        return tuple(pins.values())

    def kept(self) -> tuple[Kept, ...]:
        """The documents kept; one that cannot be read any more is passed over, and its mark with it."""
        return tuple(one for one in self._read("kept", (".json",), _read_kept).items if isinstance(one, Kept))

    def local(self) -> tuple[Local, ...]:
        """The documents put here by hand."""
        found = self._read("local", (".json", ".jwt"), _read_local)
        return tuple(one for one in found.items if isinstance(one, Local))

    def faults(self) -> tuple[str, ...]:
        """What of the last reading could not be read."""
        return tuple(fault for folder in self._read_ones.values() for fault in folder.faults)

    def anchors(self) -> Anchors:
        """Pins and marks, as the scale needs them."""
        return Anchors(self.pins(), ((one.about, one.kind, one.key, one.revision) for one in self.kept()))

    def pin(self, pin: Pin) -> Path:
        """Write ``pin`` down, over an older one for the same identity.  Returns the file."""
        path = self._folder("pins") / f"{_file_name(pin.about)}.json"
        claims: dict[str, Json] = {
            "about": str(pin.about),
            "key": pin.key.x,
            "least_iat": pin.least_iat,
            "revoked": pin.revoked,
            "source": pin.source,
            "at": int(pin.at),
        }
        with self._locked():
            write_atomic(path, write_json(claims) + b"\n")
        return path

    def unpin(self, about: Did) -> bool:
        """Whether there was a pin to take away."""
        with self._locked():
            path = self.path / "pins" / f"{_file_name(about)}.json"
            there = path.exists()
            path.unlink(missing_ok=True)
        return there

    def keep(self, accepted: Accepted, now: float) -> Change:
        """Put ``accepted`` in the place of an older revision.  What is no progress changes nothing and is told."""
        with self._locked():
            folder = self._folder("kept")
            whose = f"{accepted.about.canonical} {accepted.document.kind} {accepted.key.x}"
            path = folder / f"{hashlib.sha256(whose.encode()).hexdigest()[:40]}.json"
            try:
                mark = _read_kept(path).revision
            except (FileNotFoundError, BadWire):
                mark = None
            change = judge(mark, accepted.revision)
            if change not in (Change.FIRST, Change.NEWER):
                return change
            if mark is None and len(os.listdir(folder)) >= _MOST_FILES:
                raise Unreachable(f"{folder}: {_MOST_FILES} documents are kept already; remove what is not needed")
            claims: dict[str, Json] = {
                "about": str(accepted.about),
                "kind": accepted.document.kind,
                "token": accepted.token.text,
                "key": accepted.key.x,
                "trust": accepted.trust.label,
                "at": int(now),
            }
            write_atomic(path, write_json(claims) + b"\n")
        return change

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _read(self, name: str, suffixes: tuple[str, ...], read: Callable[[Path], _Item]) -> _Folder:
        """What the directory ``name`` holds.  Raises ``OSError`` if that cannot be told."""
        path = self.path / name
        with self._reading:
            before = self._read_ones[name]
            files: dict[str, tuple[_Sign, _Item | str]] = {}
            for file in _listed(path, suffixes):
                try:
                    sign = _sign(path / file)
                    held = before.files.get(file)
                    files[file] = held if held is not None and held[0] == sign else (sign, _read_one(path / file, read))
                except FileNotFoundError as gone:
                    if os.path.lexists(path / file):
                        files[file] = ((0, 0, 0, 0, 0), f"{path / file}: {gone.strerror}")
            said = [one for _, one in files.values()]
            if files != before.files:
                before = _Folder(
                    files,
                    tuple(one for one in said if not isinstance(one, str)),
                    tuple(one for one in said if isinstance(one, str)),
                )
            self._read_ones[name] = before
            return before


def _listed(path: Path, suffixes: tuple[str, ...]) -> list[str]:
    try:
        found = sorted(name for name in os.listdir(path) if name.endswith(suffixes) and name[0] != ".")
    except FileNotFoundError:
        for one in (path, *path.parents):
            if one.is_symlink() and not one.exists():  # of a disk that is not there now
                raise OSError(f"{path}: {one} leads nowhere") from None
        return []
    if path.stat().st_mode & stat.S_IWOTH:
        raise PermissionError(f"{path}: anybody may write there; chmod o-w it")
    if len(found) > _MOST_FILES:
        raise OSError(f"{path}: {len(found)} files, at most {_MOST_FILES} are read; remove what is not needed")
    return found


def _sign(path: Path) -> _Sign:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read_one(path: Path, read: Callable[[Path], _Item]) -> _Item | str:
    try:
        return read(path)
    except FileNotFoundError:
        raise
    except (BadWire, OSError) as fault:
        return f"{path}: {fault}"


def _file_name(about: Did) -> str:
    """A file name that people recognise and that no other identity has; ``=`` and ``~`` never are in a DID."""
    name = str(about.canonical).replace("_", "=").replace(":", "_").replace("%", "~")
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}~{hashlib.sha256(name.encode()).hexdigest()}"


def _bytes(path: Path) -> bytes:
    # Not to wait for somebody to write into a pipe.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise BadWire("not a file")
        if mode & stat.S_IWOTH:
            raise BadWire("anybody may write this file; chmod o-w it")
        data = file.read(_MOST_FILE + 1)
    if len(data) > _MOST_FILE:
        raise BadWire(f"larger than {_MOST_FILE} bytes")
    return data


def _read_pin(path: Path) -> Pin:
    fields = Fields(read_object(_bytes(path), "pin"), "pin")
    return Pin(
        about=fields.did("about"),
        key=fields.x("key"),
        least_iat=fields.number_or_none("least_iat") or 0,
        revoked=fields.flag("revoked", False),
        source=fields.text_or_none("source") or str(path),
        at=fields.number_or_none("at") or 0,
    )


def _read_kept(path: Path) -> Kept:
    claims = read_object(_bytes(path), "kept document")
    text = claims.get("token")
    if not isinstance(text, str):
        raise BadWire("not a document we kept")
    fields = Fields(claims, "kept document")
    about, kind, key, at = fields.did("about"), fields.text("kind"), fields.x("key"), fields.number("at")
    token = read_token(text, "kept document")
    document = read_document(token.claims, kind)
    return Kept(about, kind, token, key, revision_of(document, token), at, str(path))


def _read_local(path: Path) -> Local:
    data, at = _bytes(path), path.stat().st_mtime
    if path.suffix == ".jwt":
        try:
            token = read_token(data.decode("ascii").strip(), "local document")
        except UnicodeDecodeError:
            raise BadWire("not a token") from None
        return Local(_whom(read_document(token.claims)), str(path), at, token=token)
    document = read_document(read_object(data, "local document"))
    return Local(_whom(document), str(path), at, document=document)


def _whom(document: Document) -> Did:
    if document.subject is None:
        raise BadWire(f"a {document.kind} document that does not say whom it is about")
    return document.subject
