"""Trusted names as a stop of the name server: from a question to an answer that says how sure it is.

Who is pinned here, and which keys this machine knows, is held in memory; who sees the files change calls ``look``.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import trio

from cyfs_ns.errors import BadWire, ConfigFault, CyfsError, Unreachable
from cyfs_ns.given import Given
from cyfs_ns.identity.did import Bridges, Did, dev_did, host_of_did
from cyfs_ns.identity.documents import DeviceDoc, DeviceMini, Document, OwnerDoc, ZoneBoot
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.token import Token, read_token
from cyfs_ns.io.light import in_task
from cyfs_ns.io.trusted.keystore import read_token_file
from cyfs_ns.io.trusted.resolver import TrustedNames
from cyfs_ns.message import TXT
from cyfs_ns.query import Query
from cyfs_ns.reply import make_reply, records
from cyfs_ns.trust.dnsview import (
    Documents,
    Known,
    Place,
    Shown,
    is_ours,
    is_published,
    nobodys,
    read_place,
    show,
    split_side,
    strongest,
)
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Conflicted, Found, Outcome, Refused, Revoked
from cyfs_ns.trust.places import device_did
from cyfs_ns.wire import name_text

_MOST_DEVICES = 32
_KEPT_FOR = 300
"""Seconds for which others may repeat what was kept here."""
_SILENT_PATIENCE = 0.25
"""Seconds for other TXT records, where the servers did not answer a moment ago."""

_log = logging.getLogger("cyfs.dns")


async def addresses_of(trusted: TrustedNames, host: str, known: Known) -> Sequence[str] | None:
    """The addresses of ``host``, lower case; None: the DNS knows as much.

    Raises ``Unreachable``, which says why there are none, or why none are believed.
    """
    try:
        place = read_place(host, known)
    except BadWire as bad:
        raise Unreachable(str(bad), "pre_connect_dns") from None
    if place is None:
        return None
    outcome = await trusted.resolve(place.ask(trusted.reach(place.subject)))
    is_open, why = place.pinned and not isinstance(outcome, Refused | Revoked | Conflicted), outcome.why
    if isinstance(outcome, Found):
        if found := strongest(outcome.of("address")):
            return tuple(dict.fromkeys(str(claim.value) for claim in found))
        is_open &= not outcome.refused
        why = outcome.refused[0].why if outcome.refused else f"{why}, but not where it is"
    if is_open:
        return None
    raise Unreachable(f"{host}: {why}", "pre_connect_dns")


class TrustedAnswers:
    """Answers by what ``trusted`` knows, and publishes what the identity home ``home`` holds.

    ``bridges`` say where names of other methods stand in DNS.  ``clock`` is monotonic, ``wall`` Unix time.
    :meth:`look` must have been called before anything is asked.
    """

    def __init__(
        self,
        trusted: TrustedNames,
        home: Path,
        *,
        bridges: Bridges | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.trusted = trusted
        self._own, self._bridges = home / "identity", dict(bridges or {})
        self._clock, self._wall = clock, wall
        self._known = Known(bridges=self._bridges)

    def knows(self, name: str) -> bool:
        """Whether a question about a canonical name may be for us."""
        if is_ours(name):
            return True
        hosts = self._known.hosts
        if not hosts:
            return False
        host = split_side(name)[2]
        return host in hosts or host.partition(".")[2] in hosts

    async def answer(self, query: Query, beside: Callable[[], Awaitable[Given]]) -> Shown | None:
        """The answer, or None: the DNS knows as much.  ``beside`` asks the DNS the same question."""
        try:
            place = read_place(name_text(query.question[:-4]), self._known)
        except BadWire as bad:
            return nobodys(query.question, bad)
        if place is None:
            return None
        reach = self.trusted.reach(place.subject)
        ask = place.ask(reach)
        outcome = self.trusted.peek(ask)
        if outcome is None:
            await in_task()
            outcome = await self.trusted.resolve(ask)
        documents = None
        if query.rtype == TXT and place.pinned and not place.side:
            await in_task()
            with suppress(BadWire, OSError):  # then the outcome says so too
                documents = await trio.to_thread.run_sync(self._documents, place, outcome)
        # As of a whole second of the clock by which answers age.
        now = int(self._clock()) + (self._wall() - self._clock())
        shown = show(place, query.question, outcome, now, documents=documents, reach=reach)
        if shown is None or not shown.beside:
            return shown if shown is None or not place.spelled else replace(shown, left=0)
        given = None
        await in_task()
        with trio.move_on_after(_SILENT_PATIENCE if self.trusted.is_silent(place.subject) else math.inf):
            given = await beside()
        return replace(shown, left=0) if given is None else _joined(shown, given)

    async def addresses(self, host: str) -> Sequence[str] | None:
        """As :func:`addresses_of`, by whom this machine knows."""
        return await addresses_of(self.trusted, host, self._known)

    def is_silent(self, name: str) -> bool:
        """Whether those who were asked about a canonical name, or its zone, let us wait a moment ago."""
        try:
            place = read_place(name, self._known)
        except BadWire:
            return False
        return place is not None and self.trusted.is_silent(place.subject)

    def flush(self, name: str = "", *, below: bool = False) -> int:
        """Forget what is remembered of a canonical name, and below it if ``below``; of everybody without a name.

        What this machine keeps on disk stays.
        """
        host = split_side(name)[2]

        def stands_there(subject: Did) -> bool:
            try:
                at = host_of_did(subject, self._bridges).lower()
            except BadWire:
                return not host
            return not host or at == host or (below and at.endswith(f".{host}"))

        return self.trusted.flush(stands_there)

    def follow(self, former: TrustedAnswers) -> None:
        """Know whom ``former`` knew, until the next look."""
        self._known = replace(former._known, bridges=self._bridges)

    def look(self) -> None:
        """Read who is pinned.  Blocks on the disk.

        A pin that cannot be read makes its name one that is not answered.  Raises ``ConfigFault`` where it cannot even
        be told whose names those are; who was known before is then known still.
        """
        store = self.trusted.store
        hosts: dict[str, Did] = {}
        try:
            for about in store.pinned():
                self._stand(hosts, about)
        except OSError as fault:
            what = f"{fault.filename}: {fault.strerror}" if fault.filename else str(fault)
            raise ConfigFault(f"{what}; the pins of this machine cannot be read: mend that, as its owner") from None
        except BadWire as bad:
            raise ConfigFault(str(bad)) from None
        try:
            pins, kept, local = store.pins(), store.kept(), store.local()
        except (BadWire, OSError) as fault:
            _log.error("%s", fault)
            self._known = replace(self._known, hosts={**self._known.hosts, **hosts})
            return
        keys = {pin.key.x.lower(): dev_did(pin.key) for pin in pins}
        own = [document for _, document in self._own_documents()]
        for document in own:
            if isinstance(document, ZoneBoot) and document.id is not None:
                self._stand(hosts, document.id)
        tokens = [one.token for one in kept] + [one.token for one in local if one.token is not None]
        for document in (*own, *(read_document(token.claims) for token in tokens)):
            if document.main_key is not None:
                keys[document.main_key.x.lower()] = dev_did(document.main_key)
        self._known = Known(hosts=hosts, keys=keys, bridges=self._bridges)

    def _stand(self, hosts: dict[str, Did], about: Did) -> None:
        if about.method in ("dev", "key") or about.path:
            return
        try:
            host = host_of_did(about, self._bridges).lower()
        except BadWire:
            return  # one with a port: it has no name of its own
        if not is_ours(host):
            hosts[host] = about

    def _documents(self, place: Place, outcome: Outcome) -> Documents | None:
        """What stands at a place in TXT records; ``outcome`` is what was heard of it just now.  Blocks on the disk."""
        zone, now = place.subject.canonical, self._wall()
        pin = next((pin for pin in self.trusted.store.pins() if pin.about.canonical == zone), None)
        if pin is not None and pin.revoked:
            return None
        found = [
            (one.token, read_document(one.token.claims, one.kind), one.about)
            for one in self.trusted.store.kept()
            if pin is not None and one.key == pin.key and one.revision.iat >= pin.least_iat
        ]
        key = "" if pin is None else pin.key.x
        boot, devices, until = "", dict[str, str](), float("inf")
        told: dict[str, Document] = {}
        own = list(self._own_documents())
        is_mine = any(isinstance(document, ZoneBoot) and document.id == place.subject for _, document in own)
        for token, document in own if is_mine else ():
            if isinstance(document, OwnerDoc):
                key = document.key.x
            elif isinstance(document, ZoneBoot):
                found.append((token, document, zone))
            elif isinstance(document, DeviceMini):
                found.append((token, document, device_did(document.name, zone)))
        # Of two the newer counts, which then stands last.
        for token, document, about in sorted(found, key=lambda one: one[1].iat):
            if document.exp <= now:
                continue
            if isinstance(document, ZoneBoot) and about.canonical == zone:
                boot, told[""] = token.text, document
            elif isinstance(document, DeviceMini) and about == device_did(document.name, zone):
                devices[document.name], told[document.name] = token.text, document
            else:
                continue
            until = min(until, document.exp)
        if not boot and not devices:
            return None
        heard = outcome.claims if isinstance(outcome, Found) and not outcome.stale else ()
        current = [claim.value for claim in heard if claim.kind == "document" and claim.trust == Trust.OWNER_SIGNED]
        current += [document for _, document in own if is_mine]
        trust = Trust.OWNER_SIGNED if all(each in current for each in told.values()) else Trust.HOST_SNAPSHOT
        if not is_mine:
            # What was heard may have been said anew since; what was kept, all the more.
            ends = outcome.until if isinstance(outcome, Found) and heard else None
            until = min(until, now + _KEPT_FOR if ends is None else ends)
        return Documents(key=key, boot=boot, devices=tuple(devices.values())[:_MOST_DEVICES], until=until, trust=trust)

    def _own_documents(self) -> list[tuple[Token, Document]]:
        """The documents of a zone whose owner lives here; those of devices are inside longer ones."""
        found: list[tuple[Token, Document]] = []
        for path in (
            self._own / "owner.jwt",
            self._own / "boot.jwt",
            *sorted((self._own / "devices").glob("*.jwt")),
        ):
            try:
                if not path.exists():
                    continue
                token, document = read_token_file(path)
                if isinstance(document, DeviceDoc) and document.mini_jwt is not None:
                    token = read_token(document.mini_jwt, f"device-mini document in {path.name}")
                    document = read_document(token.claims, DeviceMini.kind)
                found.append((token, document))
            except (OSError, CyfsError) as fault:
                _log.warning("not published: %s", fault)
        return found


def _joined(shown: Shown, told: Given) -> Shown:
    """Our TXT records, and what else the DNS has at the name; where that is something, two decide how long it holds."""
    owner = shown.reply.question[:-4]
    others = [
        (owner, TXT, max(told.ttl_min or 0, ttl - told.age), data)
        for _, rtype, ttl, data in records(told.reply, 0)
        if rtype == TXT and not told.reply.rcode and not is_published(data)
    ]
    if not others:
        return shown
    reply = make_reply(shown.reply.question, answer=[*records(shown.reply, 0), *others], ede=shown.reply.ede)
    return replace(shown, reply=reply, left=0)
