"""The keys and documents that are this machine's own, below ``<home>/identity/``.

* ``device.pem``: the machine's key; ``device.json`` its name; ``device.jwt`` the document its owner signed for it;
* ``owner.pem`` and ``owner.jwt``: only where the owner lives; ``devices/<name>.jwt``, ``boot.jwt``, ``zone.jwt``: what
  the owner signed last, which tells when the next document has to be issued;
* ``old/``: keys that were replaced, with their date.

A secret is a file that nobody but its user can read; one that others can is refused, with the command that mends it,
since it is too late to guess who has.  Every file is written whole or not at all, a key never over another one, and a
kill between two files leaves a state that the next command goes on from.  All of it blocks on the disk.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.identity.bases import to_base32
from cyfs_ns.identity.did import dev_did, host_of_did
from cyfs_ns.identity.documents import DeviceDoc, Document, OwnerDoc
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.keys import Multikey, PublicKey, SecretKey, read_pem
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.strictjson import read_object, write_json
from cyfs_ns.identity.token import MOST_TOKEN, Token, read_token
from cyfs_ns.io.atomic import write_atomic

if TYPE_CHECKING:
    from cyfs_ns.trust.anchors import Anchors

_MOST_PEM = 4096
_MOST_JSON = 16_384


def _doubt(token: Token, document: DeviceDoc, anchors: Anchors, now: float) -> str:
    # Every gateway has a key, but few weigh documents: they do without what that needs.
    from cyfs_ns.trust.own import doubt_of_own

    doubt = doubt_of_own(token, document, anchors, now)
    return doubt and f"{doubt}; take the one that the owner signed since (id accept), or ask for one (id request)"


class KeyStore:
    """The directory ``<home>/identity``.  What cannot be read or written raises ``ConfigFault``, naming the file."""

    def __init__(self, home: Path) -> None:
        self.path = home / "identity"

    @property
    def device_pem(self) -> Path:
        return self.path / "device.pem"

    @property
    def device_jwt(self) -> Path:
        return self.path / "device.jwt"

    def device(self) -> SecretKey:
        """This machine's key."""
        return read_secret(self.device_pem, "make one with: id new")

    def device_name(self) -> str | None:
        """What this machine is called, as ``id new`` was told."""
        path = self.path / "device.json"
        if not path.exists():
            return None
        try:
            return Fields(read_object(read_file(path, _MOST_JSON)), "device.json").label("name")
        except BadWire as bad:
            raise ConfigFault(f"{path}: {bad}; remove it, the name can be given again") from None

    def make_device(self, name: str) -> SecretKey:
        """A new key for a machine that has none, and its name."""
        with _locked(self.path):
            if self.device_pem.exists():
                raise ConfigFault(f"{self.device_pem}: this machine has a key already; replace it with: id rotate")
            return self._make(name)

    def ensure_device(self, name: str) -> tuple[SecretKey, bool]:
        """This machine's key, made if there is none; whether it was."""
        with _locked(self.path):
            if self.device_pem.exists():
                return self.device(), False
            return self._make(name), True

    def rotate_device(self, now: float) -> Path:
        """Put a new key in the place of this machine's.  Returns the file where the old one is now."""
        with _locked(self.path):
            key = self.device()
            aside = self._aside(key, now)
            _write(aside, key.pem())
            self._fresh_key()
            with suppress(FileNotFoundError):
                self.device_jwt.replace(aside.with_suffix(".jwt"))
        return aside

    def device_document(self) -> tuple[Token, DeviceDoc] | None:
        """The document of this machine, as it was accepted, and not checked again; None where there is none."""
        found = read_token_file(self.device_jwt) if self.device_jwt.exists() else None
        if found is None:
            return None
        token, document = found
        if not isinstance(document, DeviceDoc):
            raise ConfigFault(
                f"{self.device_jwt}: a document of kind {document.kind!r}; accept the right one: id accept"
            )
        return token, document

    def view(self, now: float, anchors: Anchors | None = None) -> dict[str, Any]:
        """Who this machine is, as it is shown to people and programs.  ``document`` is None until there is one; its
        ``fault`` tells what is wrong with it, by the ``anchors`` of this machine, too."""
        key = self.device().public
        did = dev_did(key)
        return {
            "name": self.device_name(),
            "did": str(did),
            "did:key": f"did:key:{Multikey('Ed25519', key.raw)}",
            "host": host_of_did(did, case_safe=True),
            "short host": host_of_did(did),
            "document": self._document_view(key, now, anchors),
        }

    def _document_view(self, key: PublicKey, now: float, anchors: Anchors | None) -> dict[str, Any] | None:
        nothing = {"name": None, "owner": None, "zone": None, "iat": None, "exp": None}
        try:
            held = self.device_document()
        except ConfigFault as broken:
            return {**nothing, "fault": str(broken)}
        if held is None:
            return None
        token, document = held
        fault = ""
        if document.key != key:
            fault = "the document is for another key than this machine's: id request"
        elif document.exp <= now:
            fault = "the document has expired: id request"
        elif anchors is not None:
            fault = _doubt(token, document, anchors, now)
        return {
            "name": document.name,
            "owner": None if document.owner is None else str(document.owner),
            "zone": None if document.zone is None else str(document.zone),
            "iat": document.iat,
            "exp": document.exp,
            "fault": fault,
        }

    def accept(self, token: str) -> None:
        """Write ``device.jwt``, over an older one."""
        with _locked(self.path):
            write_document(self.device_jwt, token)

    def _make(self, name: str) -> SecretKey:
        _write(self.path / "device.json", write_json({"name": name}) + b"\n")
        return self._fresh_key()

    def _fresh_key(self) -> SecretKey:
        key = SecretKey(secrets.token_bytes(32))
        _write(self.device_pem, key.pem())
        return key

    def _aside(self, key: SecretKey, now: float) -> Path:
        folder = self.path / "old"
        _folder(folder)
        return folder / f"device-{datetime.fromtimestamp(now, UTC):%Y-%m-%d}-{to_base32(key.public.raw)[:8]}.pem"


def host_label() -> str:
    """What this machine is called when nobody says: the first label of its host name."""
    label = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().partition(".")[0].lower()).strip("-")[:63]
    return label.rstrip("-") or "device"


class OwnerStore:
    """Where an owner lives: the directory of ``pem``, with the documents the owner signed beside it."""

    def __init__(self, pem: Path) -> None:
        self.pem, self.path = pem, pem.parent

    def key(self) -> SecretKey:
        return read_secret(self.pem, "make one with: id owner new, or name another with --owner")

    def document(self) -> OwnerDoc | None:
        """What the owner says of themselves; None where nothing is written."""
        path = self.path / "owner.jwt"
        if not path.exists():
            return None
        _, document = read_token_file(path)
        if not isinstance(document, OwnerDoc):
            raise ConfigFault(f"{path}: a document of kind {document.kind!r}, not an owner's")
        return document

    def last(self, path: Path) -> Document | None:
        """The document that stands at ``path``, the next one's predecessor."""
        return read_token_file(path)[1] if path.exists() else None

    def put(self, path: Path, token: str) -> None:
        """Write a document below this directory, over an older one."""
        with _locked(self.path):
            _folder(path.parent)
            write_document(path, token)


def put_owner(folder: Path, key: SecretKey, token: str) -> None:
    """Write ``owner.pem``, unless the same key is there, and ``owner.jwt`` into ``folder``.

    The key first: a key without its document makes another one, a document without its key is worth nothing.
    """
    with _locked(folder):
        path = folder / "owner.pem"
        there = OwnerStore(path).document()
        if there is not None and there.key != key.public:
            raise ConfigFault(f"{folder}: {there.name}, another owner, lives there; choose another place with --out")
        if not path.exists():
            _write(path, key.pem())
        elif read_secret(path).seed != key.seed:
            raise ConfigFault(f"{path}: another owner's key is there; choose another place with --out")
        write_document(folder / "owner.jwt", token)


def write_document(path: Path, token: str) -> None:
    """Documents are no secrets."""
    _write(path, token.encode() + b"\n", 0o644)


def read_secret(path: Path, missing: str = "") -> SecretKey:
    """The key in ``path``, which others must not be able to read.  ``missing``: what to do if it is not there."""
    try:
        data, state = _read(path, _MOST_PEM)
    except FileNotFoundError:
        raise ConfigFault(f"{path}: there is no key{'; ' + missing if missing else ''}") from None
    except OSError as fault:
        raise ConfigFault(f"{path}: {fault.strerror}") from None
    except BadWire as bad:
        raise ConfigFault(f"{path}: {bad}") from None
    if state.st_mode & 0o077:
        raise ConfigFault(
            f"{path}: others may read this key (mode {stat.S_IMODE(state.st_mode):04o}), so it is not used;"
            f" if nobody did: chmod 600 {path}"
        )
    if state.st_uid not in (0, os.geteuid()) and not _is_of_the_house(path, state):
        raise ConfigFault(f"{path}: belongs to user {state.st_uid}, who can read it; if they may not: chown it")
    try:
        return read_pem(data)
    except BadWire as bad:
        raise ConfigFault(f"{path}: {bad}") from None


def _is_of_the_house(path: Path, state: os.stat_result) -> bool:
    """Whether root looks at the key of a service: who owns the directory could put another key there anyway."""
    return os.geteuid() == 0 and state.st_uid == path.parent.stat().st_uid


def read_file(path: Path, most: int) -> bytes:
    """What others wrote, at most ``most`` bytes of it."""
    try:
        return _read(path, most)[0]
    except OSError as fault:
        raise ConfigFault(f"{path}: {fault.strerror}") from None
    except BadWire as bad:
        raise ConfigFault(f"{path}: {bad}") from None


def read_token_file(path: Path) -> tuple[Token, Document]:
    """A document in its token, not verified."""
    data = read_file(path, MOST_TOKEN + 2)
    try:
        token = read_token(data.decode("ascii").strip(), "document")
        return token, read_document(token.claims)
    except UnicodeDecodeError:
        raise ConfigFault(f"{path}: not a signed document") from None
    except BadWire as bad:
        raise ConfigFault(f"{path}: {bad}") from None


def _read(path: Path, most: int) -> tuple[bytes, os.stat_result]:
    """A regular file; a pipe or a device must neither block us nor feed us for ever."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode):
            raise BadWire("not a file")
        data = file.read(most + 1)
    if len(data) > most:
        raise BadWire(f"larger than {most} bytes, which nothing of the kind is")
    return data, state


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time in ``folder``, which is made if it is not there."""
    _folder(folder)
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as fault:
        raise ConfigFault(f"{folder}: {fault.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for draft in folder.glob(".*.tmp"):  # of a writer that was killed: the lock is ours
            with suppress(OSError):
                draft.unlink()
        yield
    finally:
        os.close(lock)


def _folder(path: Path) -> None:
    """A directory that is ours alone, whatever the umask."""
    try:
        for missing in reversed([one for one in (path, *path.parents) if not one.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
            missing.chmod(0o700)
    except OSError as fault:
        raise ConfigFault(f"{path}: {fault.strerror}") from None


def _write(path: Path, data: bytes, mode: int = 0o600) -> None:
    try:
        write_atomic(path, data, mode)
    except OSError as fault:
        raise ConfigFault(f"{path}: {fault.strerror}; nothing was changed there") from None
