"""What a provider is, and the three that ask nobody: the name itself, this machine's files, and what was kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import trio

from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.keys import read_multikey
from cyfs_ns.io.trusted.keeping import Kept
from cyfs_ns.io.trusted.store import Local, TrustStore
from cyfs_ns.trust.anchors import Pin
from cyfs_ns.trust.evidence import Claim, Evidence, Refusal
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Found, Outcome
from cyfs_ns.trust.places import lineage
from cyfs_ns.trust.plan import Ask, Card, Cost, Privacy
from cyfs_ns.trust.weigh import KEPT

_KEPT_FOR = 300.0  # seconds


class Provider(Protocol):
    """Somebody to ask.  A chain of the future is one class like this."""

    @property
    def card(self) -> Card: ...

    async def ask(self, ask: Ask) -> Outcome:
        """What it knows of ``ask.subject``.

        Claims carry the evidence of the channel alone; tokens are not verified here.  Raises ``Unreachable`` or
        ``BadWire`` when it cannot be asked or talks nonsense; a deadline stands over it.
        """


class TheName:
    """``did:dev`` and ``did:key`` prove their key by being it."""

    card = Card(
        name="the name itself",
        methods=frozenset({"dev", "key"}),
        best=Trust.KEY_PROVEN,
        cost=Cost.NOTHING,
        privacy=Privacy.NOBODY,
    )

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall

    async def ask(self, ask: Ask) -> Outcome:
        await trio.lowlevel.checkpoint()
        subject = ask.subject
        fact = Evidence(
            trust=Trust.KEY_PROVEN, what=f"{subject} is its own key", source=self.card.name, at=self._wall()
        )
        key = subject.key
        if key is None:
            raw = read_multikey(subject.id)
            return Found(
                subject=subject,
                claims=(Claim(about=subject, kind="key", key=raw.kind, value=raw.raw, evidence=fact),),
            )
        claims = [Claim(about=subject, kind="key", key="self", value=key, evidence=fact)]
        if subject.method == "key":
            claims.append(Claim(about=subject, kind="did", value=str(dev_did(key)), evidence=fact))
        return Found(subject=subject, claims=tuple(claims))


class ThisMachine:
    """Pins, and documents that were put here by hand."""

    card = Card(
        name="this machine",
        methods=frozenset(),
        best=Trust.OWNER_SIGNED,
        cost=Cost.NOTHING,
        privacy=Privacy.NOBODY,
    )

    def __init__(self, store: TrustStore) -> None:
        self._store = store

    async def ask(self, ask: Ask) -> Outcome:
        whom = frozenset(lineage(ask.subject))
        pins, local = await trio.to_thread.run_sync(lambda: (self._store.pins(), self._store.local()))
        claims = [_pinned(pin, ask.subject) for pin in pins if pin.about.canonical in whom]
        for file in local:
            if file.about.canonical in whom:
                claims.append(_from_file(file))
        # What cannot be read may be about any of those who are pinned.
        unread = [Refusal(pin.about, why) for pin in pins if pin.about.canonical in whom for why in self._store.unread]
        return Found(subject=ask.subject, claims=tuple(claims), faults=self._store.faults(), refused=tuple(unread))


class WhatWasKept:
    """The last known good documents, while their pins last: a snapshot of this machine, not what is current.

    It holds for minutes, then those who know what is current are asked again.
    """

    card = Card(
        name="kept from earlier",
        methods=frozenset(),
        best=Trust.HOST_SNAPSHOT,
        cost=Cost.NOTHING,
        privacy=Privacy.NOBODY,
    )

    def __init__(self, store: TrustStore, wall: Callable[[], float] = time.time) -> None:
        self._store, self._wall = store, wall

    async def ask(self, ask: Ask) -> Outcome:
        whom = frozenset(lineage(ask.subject))
        pins, kept = await trio.to_thread.run_sync(lambda: (self._store.pins(), self._store.kept()))
        keys = {pin.key for pin in pins}
        held = (one for one in kept if one.about.canonical in whom and one.key in keys)
        until = self._wall() + _KEPT_FOR
        return Found(subject=ask.subject, claims=tuple(_again(one, until) for one in held))


def _pinned(pin: Pin, subject: Did) -> Claim:
    role = "self" if pin.about.canonical == subject.canonical else "owner"
    return Claim(about=pin.about, kind="key", key=role, value=pin.key, evidence=pin.evidence)


def _from_file(file: Local) -> Claim:
    fact = Evidence(trust=Trust.HOST_SNAPSHOT, what="put on this machine by hand", source=file.source, at=file.at)
    if file.token is not None:
        return Claim(about=file.about, kind="token", value=file.token, evidence=fact)
    assert file.document is not None
    return Claim(about=file.about, kind="document", key=file.document.kind, value=file.document, evidence=fact)


def _again(one: Kept, until: float) -> Claim:
    fact = Evidence(
        trust=Trust.HOST_SNAPSHOT, what="verified earlier and kept here", source=one.source, at=one.at, until=until
    )
    whom = _found_under(one.about, one.kind)
    return Claim(about=whom, kind="token", key=KEPT, value=one.token, evidence=fact)


def _found_under(about: Did, kind: str) -> Did:
    """Where a document of ``kind`` stands: a device's mini document under its zone."""
    return Did(about.method, about.id.partition(".")[2]) if kind == "device-mini" else about
