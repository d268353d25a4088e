"""Being asked who somebody is, over HTTP: ``/1.0/identifiers/<did>`` and the well-known places of web hosts.

Strangers hear what is meant for them: documents of this machine and of those that are pinned here (with the machines
of their zones), and what a key proves by itself.  Nobody else is asked for that, so a stranger's question costs a look
into files and tells nobody of it; whether we know of others is not told.  ``identity: {serve: open}`` makes this a
resolver for everybody, which asks on their behalf, so many at once and no more; ``off`` shows nothing.  The owner, who
comes by the control API, is answered as by an open one.

A document is told with its signature where we hold it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote

import trio

from cyfs_ns.config.identity import Serve
from cyfs_ns.conversation import Page, PageWanted
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.identity.did import Bridges, Did, did_of_host, parse_did
from cyfs_ns.identity.documents import DeviceDoc, DeviceMini, Document, OwnerDoc, ZoneBoot, ZoneDoc
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.token import Token
from cyfs_ns.io.trusted.keeping import Kept
from cyfs_ns.io.trusted.keystore import read_token_file
from cyfs_ns.io.trusted.resolver import TrustedNames
from cyfs_ns.io.trusted.store import Local
from cyfs_ns.trust.didresult import RANK, documents_of, fault_page, page_of
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Found, Outcome
from cyfs_ns.trust.places import device_did
from cyfs_ns.trust.plan import Ask, Privacy

IDENTIFIERS = "/1.0/identifiers/"
WELL_KNOWN = "/.well-known/"

_AT_ONCE = 16
_WAITING_MOST = 256
_SECONDS = 15.0
_MOST_OWN = 300
_KINDS = {kind: kind for kind in (ZoneDoc.kind, OwnerDoc.kind, ZoneBoot.kind, DeviceDoc.kind, "info")}
_FORERUNNERS = {"device_mini_doc": DeviceMini.kind, "did.json": "", "": ""}


@dataclass(frozen=True, slots=True)
class _Own:
    """A document of this machine."""

    about: Did
    token: Token
    document: Document
    source: str
    at: float


class DidService:
    """Answers for the identity home ``home``; ``names`` resolves."""

    def __init__(
        self,
        names: TrustedNames,
        home: Path,
        *,
        serve: Serve = "own",
        bridges: Bridges | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._names, self._folder, self._serve = names, home / "identity", serve
        self._bridges, self._wall = dict(bridges or {}), wall
        self._room = trio.CapacityLimiter(_AT_ONCE)
        self._seen: list[tuple[Path, int, int, int]] = []
        self._read: list[_Own] = []

    async def page(self, wanted: PageWanted, *, owner: bool = False) -> Page | None:
        """What a client sees; None: there is no such page.  ``owner``: it is this machine's owner who asks."""
        if self._serve == "off" and not owner:
            return None
        path, _, query = wanted.target.partition("?")
        if path.startswith(IDENTIFIERS):
            return await self._identifier(path[len(IDENTIFIERS) :], query, wanted.accept, owner)
        if path.startswith(WELL_KNOWN):
            return await self._well_known(unquote(path[len(WELL_KNOWN) :]), wanted)
        return None

    async def _identifier(self, text: str, query: str, accept: str, owner: bool) -> Page:
        try:
            subject = parse_did(unquote(text, errors="strict"))
            kind = parse_qs(query, max_num_fields=8).get("type", [""])[0]
            subject, kinds = _meant(subject, kind)
        except (BadWire, ValueError) as bad:
            return fault_page(400, "invalidDid", str(bad))
        return await self._show(subject, kinds, accept, ask_others=owner or self._serve == "open")

    async def _well_known(self, kind: str, wanted: PageWanted) -> Page | None:
        """The document of the host that was asked for; of a host that is none of ours there is none."""
        try:
            host = wanted.host.rpartition(":")[0] if wanted.host.rpartition(":")[2].isdigit() else wanted.host
            subject, kinds = _meant(did_of_host(host, self._bridges), kind)
        except BadWire:
            return None
        page = await self._show(subject, kinds, wanted.accept, ask_others=False)
        return page if page.status in (200, 410) else None

    async def _show(self, subject: Did, kinds: Sequence[str], accept: str, *, ask_others: bool) -> Page:
        if self._room.statistics().tasks_waiting >= _WAITING_MOST:
            return fault_page(503, "internalError", "too many ask; come again later")
        async with self._room:
            with trio.move_on_after(_SECONDS):
                own = await trio.to_thread.run_sync(self._own, subject, tuple(kinds))
                now = self._wall()
                if own is not None:
                    return page_of(_told(subject, own), now, accept=accept, token=own.token, kinds=kinds)
                try:
                    is_known = ask_others or await trio.to_thread.run_sync(self._is_known, subject)
                except (BadWire, OSError):
                    return fault_page(500, "internalError", "whom this machine knows cannot be read; its log says more")
                if not is_known:
                    return fault_page(404, "notFound", f"{subject} is not known here")
                outcome, token = await self._resolved(subject, kinds, ask_others)
                return page_of(outcome, now, accept=accept, token=token, kinds=kinds)
        return fault_page(504, "internalError", f"{subject}: nobody answered in time")

    async def _resolved(self, subject: Did, kinds: Sequence[str], ask_others: bool) -> tuple[Outcome, Token | None]:
        privacy = Privacy.SERVICE if ask_others else Privacy.NOBODY
        outcome = await self._names.resolve(Ask(subject=subject, privacy=privacy))
        if not isinstance(outcome, Found):
            return outcome, None
        believed = [claim.value for claim in documents_of(outcome, kinds) if claim.key in RANK]
        held = await trio.to_thread.run_sync(lambda: list(self._held(subject)))
        fitting = (token for one in believed for token, document in held if document == one)
        return outcome, next(fitting, None)

    def _held(self, subject: Did) -> Iterator[tuple[Token, Document]]:
        """Tokens on this disk that may be what was believed."""
        store = self._names.store
        held: list[Kept | Local] = [*store.kept(), *store.local()]
        for one in held:
            if one.token is not None and one.about.canonical == subject.canonical:
                yield one.token, read_document(one.token.claims)

    def _is_known(self, subject: Did) -> bool:
        """Whether strangers may hear of ``subject``: it proves itself, or it or its zone is pinned here."""
        if subject.key is not None:
            return True
        pinned = {about.canonical for about in self._names.store.pinned()}
        above = Did(subject.method, subject.id.partition(".")[2])
        return subject.canonical in pinned or above in pinned

    def _own(self, subject: Did, kinds: tuple[str, ...]) -> _Own | None:
        """The document of ours that answers for ``subject``, in force."""
        now = self._wall()
        fitting = [
            own
            for own in self._own_documents()
            if own.about.canonical == subject.canonical
            and own.document.exp > now
            and (own.document.kind in kinds if kinds else own.document.kind != ZoneBoot.kind)
        ]
        return min(fitting, key=lambda own: RANK.index(own.document.kind), default=None)

    def _own_documents(self) -> Sequence[_Own]:
        """Read again when a file has come, gone or changed."""
        paths = [*sorted(self._folder.glob("*.jwt")), *sorted(self._folder.glob("devices/*.jwt"))][:_MOST_OWN]
        state = []
        for path in paths:
            with suppress(OSError):
                found = path.stat()
                state.append((path, found.st_mtime_ns, found.st_size, found.st_ino))
        if state != self._seen:
            self._read, self._seen = (
                [own for path, at, *_ in state for own in _owns(path, at / 1e9, self._bridges)],
                state,
            )
        return self._read


def _owns(path: Path, at: float, bridges: Bridges) -> Iterator[_Own]:
    """What a file of ours stands for; what cannot be read stands for nothing."""
    try:
        token, document = read_token_file(path)
    except ConfigFault:
        return
    if document.kind in RANK:
        for about in _subjects(document, bridges):
            yield _Own(about, token, document, str(path), at)


def _meant(subject: Did, kind: str) -> tuple[Did, tuple[str, ...]]:
    """Whom and which kinds of document the forerunner's ``type`` means: a machine's name is a child of its zone."""
    if kind in _FORERUNNERS:
        found = _FORERUNNERS[kind]
        return subject, (found,) if found else ()
    if kind in _KINDS:
        return subject, (kind,)
    child = device_did(kind, subject)
    return parse_did(str(child)), (DeviceDoc.kind, DeviceMini.kind)


def _subjects(document: Document, bridges: Bridges) -> Iterator[Did]:
    """Everybody whom a document of ours is about."""
    if document.subject is not None:
        yield document.subject
    if isinstance(document, DeviceDoc) and document.zone is not None:
        yield device_did(document.name, document.zone)
    if isinstance(document, DeviceMini):
        with suppress(BadWire):
            if (zone := document.zone(bridges)) is not None:
                yield device_did(document.name, zone)


def _told(subject: Did, own: _Own) -> Found:
    fact = Evidence(
        trust=Trust.HOST_SNAPSHOT,
        what=f"{own.document.kind} document of this machine",
        source=own.source,
        at=own.at,
        until=own.document.exp,
    )
    claims = [Claim(about=subject, kind="document", key=own.document.kind, value=own.document, evidence=fact)]
    if own.document.main_key is not None:
        claims.append(Claim(about=subject, kind="key", key="self", value=own.document.main_key, evidence=fact))
    return Found(subject=subject, claims=tuple(claims), until=own.document.exp)
