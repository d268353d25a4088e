"""What this machine holds about identities: pins, documents put here by hand, and the last known good ones.

Below ``<home>/names/``:

* ``pins/<did>.json``: one identity and its key each, made by ``id trust``; the name of the file alone says whose;
* ``local/*.jwt``, ``local/*.json``: documents put here by hand; ``.json`` files are unsigned and count as this
  machine's own word;
* ``kept/``, ``marks/``: what was believed, and how new it was (``keeping.py``).

Writing compares and sets under a lock on the directory, so that two processes cannot put an older document over a
newer.  A file is read again when anything about it has changed.  What keeps us from reading all pins and marks keeps us
from believing: fewer of them would mean more belief.  All of it blocks on the disk: from trio, in a thread.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, parse_did
from cyfs_ns.identity.documents import Document
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.revision import Change
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from cyfs_ns.identity.token import Token, read_token
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.trusted.folder import Folder, Seen, read_small
from cyfs_ns.io.trusted.keeping import Keeping, Kept
from cyfs_ns.io.trusted.lock import locked
from cyfs_ns.trust.anchors import Anchors, Pin
from cyfs_ns.trust.strongest import Accepted

_MOST_FILES = 10_000
_LONGEST_NAME = 150


@dataclass(frozen=True, slots=True)
class Local:
    """A file that an administrator put here: a ``token`` or, unsigned, a ``document``."""

    about: Did
    source: str
    at: float
    token: Token | None = None
    document: Document | None = None


class TrustStore:
    """The directory ``<home>/names``; ``home`` need not exist before something is written."""

    def __init__(self, home: Path) -> None:
        self.path = home / "names"
        self._pins = Folder(self.path / "pins", (".json",), _read_pin, _MOST_FILES)
        self._local = Folder(self.path / "local", (".json", ".jwt"), _read_local, _MOST_FILES)
        self._keeping = Keeping(self.path)
        # What was told last, and of what: a crowd asks, and many pins and marks take long to be put in order.
        self._told_pins: tuple[Seen[Pin], tuple[Pin, ...]] | None = None
        self._told_anchors: tuple[object, object, Anchors] | None = None

    def pins(self) -> tuple[Pin, ...]:
        """All pins.  One that cannot be read raises ``BadWire``: without it somebody else could be believed.

        ``OSError`` if that may pass by itself, as a lack of descriptors does.
        """
        seen, told = self._pins.look(), self._told_pins
        if told is not None and told[0] is seen:
            return told[1]
        pins = {pin.about.canonical: pin for pin in seen.items}
        faults = [one.why for one in seen.unread]
        if not faults and len(pins) < len(seen.items):
            twice = next(pin.about for pin in seen.items if pin not in pins.values())
            faults = [f"{self._pins.path}: two files pin {twice}"]
        if seen.unread and all(one.may_pass for one in seen.unread):
            raise OSError(faults[0])
        if faults:
            raise BadWire(f"{faults[0]}; mend or remove it, nothing is believed meanwhile")
        found = tuple(pins.values())
        self._told_pins = seen, found
        return found

    def pinned(self) -> tuple[Did, ...]:
        """Whom pins are about, also those that cannot be read: then the name of the file says so.

        Raises ``BadWire`` or ``OSError``, with what to do, where that cannot be told either.
        """
        seen = self._pins.look()
        named = (_named(self._pins.path / one.name) for one in seen.unread)
        return tuple(dict.fromkeys([*(pin.about for pin in seen.items), *named]))

    def kept(self) -> tuple[Kept, ...]:
        """The documents kept.  One that is damaged is passed over; its mark is not."""
        return self._keeping.documents()

    def local(self) -> tuple[Local, ...]:
        """The documents put here by hand."""
        return self._local.look().items

    def faults(self) -> tuple[str, ...]:
        """What of the last reading could not be read."""
        return (*(one.why for one in self._pins.seen.unread), *self.unread, *self._keeping.faults())

    @property
    def unread(self) -> tuple[str, ...]:
        """What of the documents put here by hand could not be read, and why."""
        return tuple(one.why for one in self._local.seen.unread)

    def anchors(self) -> Anchors:
        """Pins and marks, as the scale needs them."""
        pins, marks, told = self.pins(), self._keeping.marks(), self._told_anchors
        if told is not None and told[0] is pins and told[1] is marks:
            return told[2]
        anchors = Anchors(pins, *marks)
        self._told_anchors = pins, marks, anchors
        return anchors

    def pin(self, pin: Pin) -> Path:
        """Write ``pin`` down, over an older one for the same identity.  Returns the file."""
        path = self._pins.make() / f"{_file_name(pin.about)}.json"
        claims: dict[str, Json] = {
            "about": str(pin.about),
            "key": pin.key.x,
            "least_iat": pin.least_iat,
            "revoked": pin.revoked,
            "source": pin.source,
            "at": int(pin.at),
        }
        with locked(self.path):
            write_atomic(path, write_json(claims) + b"\n")
        return path

    def unpin(self, about: Did) -> bool:
        """Whether there was a pin to take away."""
        with locked(self.path):
            path = self.path / "pins" / f"{_file_name(about)}.json"
            there = path.exists()
            path.unlink(missing_ok=True)
        return there

    def keep(self, accepted: Accepted, now: float) -> Change:
        """Put ``accepted`` in the place of an older revision.  What is no progress changes nothing and is told.

        Raises as :meth:`Keeping.keep`.
        """
        return self._keeping.keep(accepted, now, self._pinned_keys)

    def _pinned_keys(self) -> set[PublicKey]:
        return {pin.key for pin in self.pins()}


def _file_name(about: Did) -> str:
    """A file name that people recognise and that no other identity has; ``=`` and ``~`` never are in a DID."""
    name = str(about.canonical).replace("_", "=").replace(":", "_").replace("%", "~")
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}~{hashlib.sha256(name.encode()).hexdigest()}"


def _named(path: Path) -> Did:
    """The identity whose pin the file ``path`` should be, by its name."""
    try:
        about = parse_did(path.stem.replace("_", ":").replace("=", "_").replace("~", "%"))
    except BadWire:
        about = None
    if about is None or _file_name(about) != path.stem:
        raise BadWire(f"{path}: cannot be read, and its name does not say whose pin it is; mend or remove it")
    return about


def _read_pin(path: Path) -> Pin:
    fields = Fields(read_object(read_small(path), "pin"), "pin")
    return Pin(
        about=fields.did("about"),
        key=fields.x("key"),
        least_iat=fields.number_or_none("least_iat") or 0,
        revoked=fields.flag("revoked", False),
        source=fields.text_or_none("source") or str(path),
        at=fields.number_or_none("at") or 0,
    )


def _read_local(path: Path) -> Local:
    data, at = read_small(path), path.stat().st_mtime
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
