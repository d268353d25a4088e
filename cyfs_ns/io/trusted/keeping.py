"""The last known good documents, and the marks behind which nothing goes back.

* ``kept/<id>.json``: a document that was believed by a pin, for the days nobody can be asked.
* ``marks/<id>.json``: how new the newest one was that was ever believed; small, with a checksum.

A mark is in both: when a disk or a power cut has damaged one of them the other still counts, and the next time the
document is heard the damaged one is made anew.  A document proves itself by its signature.  Where both are damaged
nobody can tell whether something goes back, and nothing is believed in their place.

The document is written first: a kill between the two leaves a document that is newer than its mark, which counts.  What
cannot be written, since the disk is full or somebody holds the lock, is a mark in memory until it can be: in that of
the process, since a change of the configuration exchanges whoever keeps.

Of one key so many marks are kept and no more, so nobody can crowd out others.  No mark ever makes room for another;
documents do: of the key that has most, the oldest.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cyfs_ns.errors import BadWire, Refused, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.revision import Change, Revision, judge, revision_of
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from cyfs_ns.identity.token import Token, read_token
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.trusted.folder import Folder, Unread, read_small
from cyfs_ns.io.trusted.lock import locked
from cyfs_ns.trust.anchors import Mark
from cyfs_ns.trust.strongest import Accepted

MOST_OF_ONE = 1000
"""Marks of one key."""
MOST_DOCUMENTS = 10_000
MOST_MARKS = 50_000
_LOCK_AGAIN = 30.0  # seconds before a lock that could not be had is tried again


@dataclass(frozen=True, slots=True)
class Kept:
    """A document on this disk, verified when it was read; whether its key still counts others decide."""

    about: Did
    kind: str
    token: Token
    key: PublicKey
    """Who has signed it."""
    revision: Revision
    at: float
    source: str

    @property
    def mark(self) -> Mark:
        return Mark(self.about, self.kind, self.key, self.revision)


class _Unwritten:
    """The marks of one directory that could not be written, by their id, and whose turn it is with them."""

    def __init__(self) -> None:
        self.marks: dict[str, Mark] = {}
        self.turn = threading.RLock()


_unwritten: dict[Path, _Unwritten] = {}
"""Of this process, by directory."""


class Keeping:
    """What is kept below ``home``, the directory ``names``.  All of it blocks on the disk.

    ``clock`` is monotonic, in seconds.
    """

    def __init__(self, home: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._home, self._clock = home, clock
        # Twice as many: what others put there is to be seen, not to end everything.
        self._documents = Folder(home / "kept", (".json",), _read_kept, 2 * MOST_DOCUMENTS)
        self._marks = Folder(home / "marks", (".json",), _read_mark, 2 * MOST_MARKS)
        self._unwritten = _unwritten.setdefault(Path(os.path.realpath(home)), _Unwritten())
        self._locked_until = -_LOCK_AGAIN
        self._told: tuple[tuple[object, ...], tuple[tuple[Mark, ...], dict[str, str]]] | None = None
        """What :meth:`marks` told last, and of what."""

    def documents(self) -> tuple[Kept, ...]:
        """Those that are whole.  Raises ``OSError``."""
        return self._documents.look().items

    def faults(self) -> tuple[str, ...]:
        """What could not be read in the last look."""
        return tuple(one.why for folder in (self._documents, self._marks) for one in folder.seen.unread)

    def marks(self) -> tuple[tuple[Mark, ...], dict[str, str]]:
        """All marks; and by the id of those that are lost, what to do.  Raises ``OSError``.

        As long as nothing changes it is the same object: in a crowd everybody asks.
        """
        unwritten = self._in_memory()  # first: what is written meanwhile is then found on the disk
        documents, marks = self._documents.look(), self._marks.look()
        told = self._told
        if told is not None and told[0][0] is documents and told[0][1] is marks and told[0][2] == unwritten:
            return told[1]
        best: dict[tuple[Did, str, PublicKey], Mark] = {}
        for mark in (*(one.mark for one in documents.items), *marks.items, *unwritten):
            whose = mark.about.canonical, mark.kind, mark.key
            held = best.get(whose)
            if held is None or held.revision < mark.revision:
                best[whose] = mark
        lost = {one.name.removesuffix(".json"): one for one in (*documents.unread, *marks.unread)}
        known = {mark.id for mark in best.values()} if lost else ()
        found = tuple(best.values()), {each: self._mend(each, one) for each, one in lost.items() if each not in known}
        self._told = (documents, marks, unwritten), found
        return found

    def keep(self, accepted: Accepted, now: float, pinned: Callable[[], Collection[PublicKey]]) -> Change:
        """Put ``accepted`` in the place of an older revision.  What is no progress changes nothing and is told.

        ``pinned`` tells whose marks still count.  What cannot be read or written for now raises ``OSError`` or
        ``Unreachable``, and is a mark in memory then; ``BadWire`` where the mark is lost, ``Refused`` where there is no
        room for another.
        """
        mark = Mark(accepted.about.canonical, accepted.document.kind, accepted.key, accepted.revision)
        try:
            with self._writing():
                change = self._put(accepted, mark, now, pinned)
        except (OSError, Unreachable):
            if (change := self._remember(mark)).acceptable:
                raise
            return change
        with self._unwritten.turn:
            held = self._unwritten.marks.get(mark.id)
            if held is not None and held.revision <= mark.revision:
                del self._unwritten.marks[mark.id]
        return change

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._clock() < self._locked_until:
            raise Unreachable(f"{self._home / 'lock'}: could not be had a moment ago")
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self._home))
            except Unreachable:
                self._locked_until = self._clock() + _LOCK_AGAIN
                raise
            yield

    def _remember(self, mark: Mark) -> Change:
        """Keep ``mark`` in memory, if it is one."""
        with self._unwritten.turn:
            try:
                marks = self.marks()[0]
            except OSError:
                marks = self._in_memory()
            change = judge(next((held.revision for held in marks if held.id == mark.id), None), mark.revision)
            crowd = sum(held.key == mark.key for held in self._unwritten.marks.values())
            if change.acceptable and (mark.id in self._unwritten.marks or crowd < MOST_OF_ONE):
                self._unwritten.marks[mark.id] = mark
            return change

    def _in_memory(self) -> tuple[Mark, ...]:
        with self._unwritten.turn:
            return tuple(self._unwritten.marks.values())

    def _put(self, accepted: Accepted, mark: Mark, now: float, pinned: Callable[[], Collection[PublicKey]]) -> Change:
        """As :meth:`keep`, under the lock."""
        path, beside = self._documents.make() / f"{mark.id}.json", self._marks.make() / f"{mark.id}.json"
        document, written = self._documents.read_one(path.name), self._marks.read_one(beside.name)
        unread = [one for one in (document, written) if isinstance(one, Unread)]
        for one in unread:
            if one.may_pass:
                raise Unreachable(self._mend(mark.id, one))
        revisions = [one.revision for one in (document, written) if isinstance(one, Kept | Mark)]
        revisions += [held.revision for held in self._in_memory() if held.id == mark.id]
        if unread and not revisions:
            raise BadWire(self._mend(mark.id, unread[0]))
        change = judge(max(revisions, default=None), mark.revision)
        if not change.acceptable:
            return change
        if change is Change.FIRST:
            self._make_room(mark, pinned)
        is_there = isinstance(document, Kept) and document.revision == mark.revision
        if not is_there and (document is not None or self._has_room(mark, change)):
            write_atomic(path, write_json(_claims_of(accepted, now)) + b"\n")
        if not isinstance(written, Mark) or written.revision != mark.revision:
            write_atomic(beside, _written(mark))
        return change

    def _make_room(self, mark: Mark, pinned: Callable[[], Collection[PublicKey]]) -> None:
        """Room for one more mark.  Raises ``Refused`` if there is none."""
        if self._is_room_plain(mark):
            return
        marks = self._marks.look().items
        if sum(held.key == mark.key for held in marks) >= MOST_OF_ONE:
            raise Refused(f"{self._marks.path}: {MOST_OF_ONE} documents of one key are kept already")
        if len(marks) < MOST_MARKS:
            return
        keys = pinned()
        strangers = [held for held in marks if held.key not in keys]
        if not strangers:
            raise Refused(f"{self._marks.path}: {MOST_MARKS} documents are kept already")
        for held in strangers:
            for folder in (self._documents, self._marks):
                (folder.path / f"{held.id}.json").unlink(missing_ok=True)

    def _is_room_plain(self, mark: Mark) -> bool:
        """Whether names alone tell that there is room for one more mark: to look at every file, for every new one of a
        thousand, would take many seconds."""
        there, seen = self._marks.names(), self._marks.seen
        if len(there) < MOST_OF_ONE:
            return len(there) < MOST_MARKS
        unseen = sum(name not in seen.files for name in there)
        return len(there) < MOST_MARKS and unseen + sum(held.key == mark.key for held in seen.items) < MOST_OF_ONE

    def _has_room(self, mark: Mark, change: Change) -> bool:
        """Whether one more document may be written; if need be the oldest of the key that has most goes."""
        if len(self._documents.names()) < MOST_DOCUMENTS:
            return True
        seen = self._documents.look()
        if len(seen.files) < MOST_DOCUMENTS:
            return True
        if change is Change.SAME:
            return False  # it went once, for the same reason
        crowds = Counter(one.key for one in seen.items)
        crowds[mark.key] += 1
        crowded = max(crowds, key=lambda key: (crowds[key], key == mark.key))
        oldest = min((one for one in seen.items if one.key == crowded), key=lambda one: one.at, default=None)
        if oldest is None:
            return False
        Path(oldest.source).unlink(missing_ok=True)
        return True

    def _mend(self, number: str, one: Unread) -> str:
        if one.may_pass:
            return f"{one.why}; how new it was cannot be told until that is over"
        files = " and ".join(str(folder.path / f"{number}.json") for folder in (self._documents, self._marks))
        return f"{one.why}; how new it was is lost: restore {files}, or remove both to believe what comes next"


def _claims_of(accepted: Accepted, now: float) -> dict[str, Json]:
    return {
        "about": str(accepted.about),
        "kind": accepted.document.kind,
        "token": accepted.token.text,
        "key": accepted.key.x,
        "trust": accepted.trust.label,
        "at": int(now),
    }


def _read_kept(path: Path) -> Kept:
    claims = read_object(read_small(path), "kept document")
    text = claims.get("token")
    if not isinstance(text, str):
        raise BadWire("not a document we kept")
    fields = Fields(claims, "kept document")
    about, kind, key, at = fields.did("about"), fields.text("kind"), fields.x("key"), fields.number("at")
    token = read_token(text, "kept document")
    document = read_document(token.claims, kind)
    kept = Kept(about, kind, token, key, revision_of(document, token), at, str(path))
    # Damage may leave something that reads well.
    if kept.mark.id != path.stem or not token.verify(key):
        raise BadWire("damaged: not what we kept")
    return kept


def _written(mark: Mark) -> bytes:
    claims: dict[str, Json] = {
        "about": str(mark.about),
        "kind": mark.kind,
        "key": mark.key.x,
        "iat": mark.revision.iat,
        "digest": mark.revision.digest,
    }
    return write_json({**claims, "sum": _sum(claims)}) + b"\n"


def _read_mark(path: Path) -> Mark:
    claims = read_object(read_small(path), "mark")
    fields = Fields(dict(claims), "mark")
    about, kind, key = fields.did("about"), fields.text("kind"), fields.x("key")
    mark = Mark(about, kind, key, Revision(fields.number("iat"), fields.text("digest")))
    if claims.pop("sum", None) != _sum(claims) or mark.id != path.stem:
        raise BadWire("damaged: not what we wrote")
    return mark


def _sum(claims: dict[str, Json]) -> str:
    return hashlib.sha256(write_json(claims)).hexdigest()
