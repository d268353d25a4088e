"""Documents on the web host of a name: ``did:web`` (W3C CCG did:web §3.2), and the forerunner's places beside it.

    did:web:home.example               https://home.example/.well-known/did.json
    did:web:home.example%3A8443        https://home.example:8443/.well-known/did.json
    did:web:home.example:user:alice    https://home.example/user/alice/did.json

Unless a token stands there, the forerunner's places are looked at too: ``/.well-known/zone`` and ``owner`` (behind a
path ``/user/alice/owner.json``), and for a machine of a zone ``/.well-known/<machine>`` at the zone.  A plain document
is worth its line, that is, a certificate for the host; a token may be worth more, by who signed it.  A document that is
somebody else's is refused, and nothing that it points to is followed.  One about the key of a machine is the host's if
it names that machine of a zone that is pinned; whether the zone's owner has signed it is for ``weigh.py`` to say.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from urllib.parse import quote

import trio

from cyfs_ns import names
from cyfs_ns.errors import BadWire, CyfsError, Unreachable
from cyfs_ns.identity.did import Bridges, Did, host_of_did
from cyfs_ns.identity.documents import DeviceDoc, Document
from cyfs_ns.identity.reading import kind_of, read_document
from cyfs_ns.identity.token import Token
from cyfs_ns.io.http import Response
from cyfs_ns.io.trusted.safefetch import NoAddress, SafeFetch
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.didresult import DOCUMENT, TOKEN, read_body
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Found, Outcome
from cyfs_ns.trust.places import device_did
from cyfs_ns.trust.plan import Ask, Card, Cost, Privacy

_ACCEPT = (("accept", f"{TOKEN}, {DOCUMENT}, application/json;q=0.9, */*;q=0.5"),)
_KINDS = ("zone", "owner")
_USUAL_AGE = 3600
_LEAST_AGE, _MOST_AGE = 60, 86_400
_NONE_AGE = 300
_PATIENCE = 9.0
"""Seconds for all places of one name; what was found until then counts."""
_NO_WAY = frozenset({"pre_connect_dns", "pre_connect_route", "connect_refused"})
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=([0-9]{1,9})").search


@dataclass(frozen=True, slots=True)
class _Place:
    """Where something may stand, and under whose name it counts."""

    url: str
    about: Did
    canonical: bool = False
    """The standard's own place: what stands there has to name ``about``."""


@dataclass(slots=True)
class _Look:
    """What was found so far."""

    claims: list[Claim] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    missed: bool = False
    """Somewhere nobody could be asked."""
    signed: bool = False
    no_way: bool = False
    """Nobody could be reached at the host of the standard's place, so its other places need no asking."""
    nowhere: bool = False
    """DNS says that there is no such host, and that is worth no more than it."""


class WebDocuments:
    """Asks web hosts through ``fetch``.

    ``is_ours`` tells of a canonical host whether it may stand at a private address; so may those that are pinned in
    ``store``, and their machines.
    """

    def __init__(
        self,
        fetch: SafeFetch,
        store: TrustStore,
        *,
        bridges: Bridges | None = None,
        is_ours: Callable[[str], bool] = lambda host: False,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._fetch, self._store, self._is_ours, self._wall = fetch, store, is_ours, wall
        self._bridges = dict(bridges or {})
        self.card = Card(
            name="web",
            methods=frozenset({"web", *self._bridges}),
            best=Trust.OWNER_SIGNED,
            cost=Cost.FAR,
            privacy=Privacy.HOST,
        )

    async def ask(self, ask: Ask) -> Outcome:
        subject, look = ask.subject, _Look()
        host, port = _host_and_port(subject, self._bridges)
        pinned = await trio.to_thread.run_sync(self._pinned_hosts)

        async def one(place: _Place) -> None:
            await self._look_at(place, pinned, look)

        standard, *others = self._places(subject, host, port)
        seconds = min(_PATIENCE, 0.95 * max(0.0, trio.current_effective_deadline() - trio.current_time()))
        with trio.move_on_after(seconds) as patience:
            await one(standard)
            if not look.signed:
                async with trio.open_nursery() as nursery:
                    for place in others:
                        if place.about != subject or not look.no_way:
                            nursery.start_soon(one, place)
        if patience.cancelled_caught:
            look.missed = True
            look.faults.append(f"{host}: not everything was looked at in {seconds:.2g} s")
        if look.claims:
            return Found(subject=subject, claims=tuple(look.claims), faults=tuple(look.faults))
        if look.missed:
            raise Unreachable("; ".join(look.faults))
        fact = self._fact(f"{host} has no document of {subject}", host, _NONE_AGE)
        if look.nowhere:
            fact = replace(fact, trust=Trust.PLAIN_DNS, what=f"{host} has no address")
        return Absent(
            subject=subject,
            why=f"{subject}: {fact.what}",
            evidence=fact,
            until=fact.until,
            faults=tuple(look.faults),
        )

    def _places(self, subject: Did, host: str, port: str) -> list[_Place]:
        origin = f"https://{host}{port}"
        if subject.path:
            folder = "/".join((origin, *(quote(_decoded(part), safe="") for part in subject.path)))
            return [
                _Place(f"{folder}/did.json", subject, canonical=True),
                *(_Place(f"{folder}/{kind}.json", subject) for kind in _KINDS),
            ]
        places = [
            _Place(f"{origin}/.well-known/did.json", subject, canonical=True),
            *(_Place(f"{origin}/.well-known/{kind}", subject) for kind in _KINDS),
        ]
        name, _, above = subject.id.partition(".")
        if not port and "." in above:
            zone = Did(subject.method, above)
            places.append(_Place(f"https://{host_of_did(zone, self._bridges)}/.well-known/{name}", zone))
        return places

    async def _look_at(self, place: _Place, pinned: frozenset[str], look: _Look) -> None:
        host, _ = _host_and_port(place.about, self._bridges)
        ours = self._is_ours(host) or any(host == name or host.endswith("." + name) for name in pinned)
        try:
            response = await self._fetch.fetch(place.url, headers=_ACCEPT, private=ours)
        except NoAddress:
            look.nowhere |= place.canonical
            look.no_way |= place.canonical
            return
        except CyfsError as fault:
            look.no_way |= place.canonical and isinstance(fault, Unreachable) and fault.reason in _NO_WAY
            look.missed = True
            look.faults.append(f"{place.url}: {fault}")
            return
        if response.status in (404, 410):
            return
        if response.status != 200:
            look.missed = True
            look.faults.append(f"{place.url}: status {response.status}")
            return
        try:
            self._take(place, response, pinned, look)
        except BadWire as fault:
            # A web server that answers everything has pages everywhere; only the standard's place is sure to be meant.
            look.missed |= place.canonical
            look.faults.append(f"{place.url}: {fault}")

    def _take(self, place: _Place, response: Response, pinned: frozenset[str], look: _Look) -> None:
        said = read_body(response.body, "document")
        fact = self._fact(f"stands at {place.url}", place.url, _age(response.header("cache-control")))
        if isinstance(said, Token):
            told = said.claims.get("id")
            if place.canonical and told not in (None, str(place.about)) and not self._is_machine(said, place, pinned):
                raise BadWire(f"it says it is {str(told)[:80]!r}, not {place.about}; publish the right one")
            look.signed |= place.canonical
            look.claims.append(Claim(about=place.about, kind="token", value=said, evidence=fact))
            return
        look.claims.extend(unsigned_claims(place.about, said, fact, self._wall()))

    def _is_machine(self, said: Token, place: _Place, pinned: frozenset[str]) -> bool:
        """Whether a token about a key names the machine whose host the place is, of a zone that is pinned."""
        document = read_document(said.claims, kind_of(said.claims))
        if not isinstance(document, DeviceDoc) or document.id.key is None or document.zone is None:
            return False
        is_pinned = _host_and_port(document.zone, self._bridges)[0] in pinned
        return is_pinned and device_did(document.name, document.zone).canonical == place.about.canonical

    def _pinned_hosts(self) -> frozenset[str]:
        found = set()
        for pin in self._store.pins():
            with suppress(BadWire):  # one without a host
                found.add(_host_and_port(pin.about, self._bridges)[0])
        return frozenset(found)

    def _fact(self, what: str, source: str, age: float) -> Evidence:
        now = self._wall()
        return Evidence(trust=Trust.AUTH_CHANNEL, what=what, source=source, at=now, until=now + age)


def unsigned_claims(subject: Did, document: Document, fact: Evidence, now: float) -> list[Claim]:
    """What a document says that is worth no more than who gave it to us.  Raises ``BadWire`` if it is another's."""
    if document.subject is None or document.subject.canonical != subject.canonical:
        raise BadWire(f"it says it is {document.subject}'s, not {subject}'s; publish the right one")
    if document.exp <= now:
        raise BadWire(f"expired {int(now - document.exp)} s ago; its owner has to issue a new one")
    claims = [Claim(about=subject, kind="document", key=document.kind, value=document, evidence=fact)]
    if document.main_key is not None:
        claims.append(Claim(about=subject, kind="key", key="self", value=document.main_key, evidence=fact))
    return claims


def _host_and_port(did: Did, bridges: Bridges) -> tuple[str, str]:
    """The host, and ``:port`` where the DID names one.  Raises ``BadWire``."""
    if did.method != "web":
        return host_of_did(did, bridges), ""
    host, _, port = did.id.partition("%3A")
    return names.host(host), f":{port}" if port else ""


def _decoded(part: str) -> str:
    """A part of a path, if it stays one part of it.  Raises ``BadWire``."""
    text = re.sub("%([0-9A-Fa-f]{2})", lambda match: chr(int(match[1], 16)), part)
    if text in (".", "..") or "/" in text or not text.isprintable():
        raise BadWire(f"{part[:80]!r} is no part of a path")
    return text


def _age(cache_control: str) -> int:
    found = _MAX_AGE(cache_control.lower())
    return max(_LEAST_AGE, min(_MOST_AGE, int(found[1]))) if found else _USUAL_AGE
