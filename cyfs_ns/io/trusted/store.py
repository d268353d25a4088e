"""What this machine holds about identities: pins, documents put here by hand, and the last known good ones.

Below ``<home>/names/``:

* ``pins/<did>.json``: one identity and its key each, made by ``id trust``;
* ``local/*.jwt``, ``local/*.json``: documents put here by hand; ``.json`` files are unsigned and count as this
  machine's own word;
* ``kept/<hash>.json``: documents that were believed at *host-snapshot* or better, for the days nobody can be asked,
  and as marks: nothing older is ever believed again.

Writing compares and sets under a lock on the directory, so that two processes cannot put an older document over a
newer.  Everything is re-read when its directory has changed.  All of it blocks on the disk: from trio, in a thread.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.identity.did import Did, parse_did
from cyfs_ns.identity.documents import Document, read_document, revision_of
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.revision import Change, Revision, judge
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from cyfs_ns.identity.token import MOST_TOKEN, Token, read_token
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.trust.anchors import Anchors, Pin
from cyfs_ns.trust.weigh import Accepted

_MOST_FILE = MOST_TOKEN + 4096
_MOST_FILES = 10_000


@dataclass(frozen=True, slots=True)
class Kept:
    """A document on this disk, verified when it was put there, and to be verified again."""

    about: Did
    kind: str
    token: Token
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


@dataclass(slots=True)
class _Folder:
    """What was read of one directory, and in which state it was then."""

    seen: tuple[int, int] = (0, -1)
    items: list[Pin | Kept | Local] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class TrustStore:
    """The directory ``<home>/names``; ``home`` need not exist before something is written."""

    def __init__(self, home: Path) -> None:
        self.path = home / "names"
        self._pins, self._kept, self._local = _Folder(), _Folder(), _Folder()

    def pins(self) -> tuple[Pin, ...]:
        """All pins.  One that cannot be read raises ``BadWire``: without it somebody else could be believed."""
        found = self._read(self._pins, "pins", "*.json", _read_pin)
        if self._pins.faults:
            raise BadWire(f"{self._pins.faults[0]}; mend or remove it, nothing is believed meanwhile")
        return tuple(pin for pin in found if isinstance(pin, Pin))

    def kept(self) -> tuple[Kept, ...]:
        """The documents kept; one that cannot be read any more is passed over."""
        return tuple(one for one in self._read(self._kept, "kept", "*.json", _read_kept) if isinstance(one, Kept))

    def local(self) -> tuple[Local, ...]:
        """The documents put here by hand."""
        return tuple(one for one in self._read(self._local, "local", "*.j*", _read_local) if isinstance(one, Local))

    def faults(self) -> tuple[str, ...]:
        """What of the last reading could not be read."""
        return (*self._pins.faults, *self._kept.faults, *self._local.faults)

    def anchors(self) -> Anchors:
        """Pins and marks, as the scale needs them."""
        return Anchors(self.pins(), ((one.about, one.kind, one.revision) for one in self.kept()))

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
            name = hashlib.sha256(f"{accepted.about.canonical} {accepted.document.kind}".encode()).hexdigest()[:40]
            path = folder / f"{name}.json"
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

    def _read(
        self, folder: _Folder, name: str, pattern: str, read: Callable[[Path], Pin | Kept | Local]
    ) -> list[Pin | Kept | Local]:
        path = self.path / name
        try:
            files = sorted(path.glob(pattern))
            newest = max((file.stat().st_mtime_ns for file in files), default=0)
            state = (max(path.stat().st_mtime_ns, newest), len(files))
        except FileNotFoundError:
            files, state = [], (0, 0)
        if state == folder.seen:
            return folder.items
        items: list[Pin | Kept | Local] = []
        faults = []
        for file in files[:_MOST_FILES]:
            try:
                items.append(read(file))
            except (BadWire, OSError) as fault:
                faults.append(f"{file}: {fault}")
        folder.seen, folder.items, folder.faults = state, items, faults
        return items


def _file_name(about: Did) -> str:
    """A file name that people recognise; what no file name may hold never is in a DID."""
    return str(about.canonical).replace(":", "_").replace("%", "~")


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
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
    text, about, kind, at = (claims.get(name) for name in ("token", "about", "kind", "at"))
    if not (isinstance(text, str) and isinstance(about, str) and isinstance(kind, str) and isinstance(at, int)):
        raise BadWire("not a document we kept")
    token = read_token(text, "kept document")
    document = read_document(token.claims, kind)
    return Kept(parse_did(about), kind, token, revision_of(document, token), at, str(path))


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
