"""The sessions that stand, of one user or one device with its services: a value in the store, and what becomes of it.

Whatever has a token that is good stands here.  What leaves before its time is told to everybody as revoked.  So a user
is shut out by ending what stands here, and no clock of the hubs has to be compared with another.

A refresh token is good once.  Its generation is counted here; one that comes again was stolen, or its successor was,
and nobody can tell which: the session ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import read_object, write_json
from zone.hub.tokens import LIFE, SKEW, Use

MOST_SESSIONS: Final = 128
"""Of one user or device; beyond that, the one that was used longest ago ends."""
LONGEST: Final = 30 * 24 * 3600
"""Seconds after which a session ends, however often it is refreshed."""


@dataclass(frozen=True, slots=True)
class Session:
    """One that stands."""

    app: str
    by: str
    """What it rests on: the user's type, or the device's key and role.  It ends when that is another."""
    began: int
    until: int
    """Unix seconds of its end, unless it is refreshed before."""
    generation: int = 0
    """Of the refresh token that is good."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """All sessions of somebody, by their names."""

    sessions: Mapping[str, Session] = field(default_factory=dict)

    def text(self) -> str:
        return write_json({name: asdict(session) for name, session in self.sessions.items()}).decode()


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of a ledger, and which sessions are to be told as revoked."""

    ledger: Ledger
    revoked: tuple[str, ...] = ()


def read_ledger(text: str) -> Ledger:
    """What ``Ledger.text`` wrote.  Raises ``BadWire``."""
    found = {}
    for name, said in read_object(text, "sessions").items():
        if not isinstance(said, dict):
            raise BadWire("sessions: not what was written")
        app, by, began = said.get("app"), said.get("by"), said.get("began")
        until, generation = said.get("until"), said.get("generation")
        if not isinstance(app, str) or not isinstance(by, str):
            raise BadWire("sessions: not what was written")
        if type(began) is not int or type(until) is not int or type(generation) is not int:
            raise BadWire("sessions: not what was written")
        found[name] = Session(app, by, began, until, generation)
    return Ledger(found)


def opened(ledger: Ledger, name: str, app: str, by: str, now: float) -> Step:
    """A new session, called ``name``."""
    standing = _standing(ledger, now)
    standing[name] = Session(app, by, int(now), int(now) + LIFE[Use.REFRESH])
    oldest = sorted(standing, key=lambda each: (each == name, standing[each].until))
    return ended(Ledger(standing), oldest[: max(0, len(standing) - MOST_SESSIONS)])


def refreshed(ledger: Ledger, name: str, generation: int, now: float) -> Step:
    """The refresh token ``generation`` is shown.  If it is good, ``name`` stands in what comes of it, one further."""
    session = ledger.sessions.get(name)
    if session is None:
        return Step(ledger)
    if generation != session.generation or now >= session.began + LONGEST:
        return ended(ledger, [name])
    until = min(int(now) + LIFE[Use.REFRESH], session.began + LONGEST)
    standing = _standing(ledger, now)
    standing[name] = replace(session, until=until, generation=generation + 1)
    return Step(Ledger(standing))


def ended(ledger: Ledger, names: Iterable[str]) -> Step:
    """Those of ``names`` that stand end now."""
    gone = tuple(sorted(set(names) & ledger.sessions.keys()))
    return Step(Ledger({name: kept for name, kept in ledger.sessions.items() if name not in gone}), gone)


def upheld(ledger: Ledger, by: str) -> Step:
    """Those that rest on anything else than ``by`` end now; empty: all of them."""
    return ended(ledger, [name for name, session in ledger.sessions.items() if session.by != by or not by])


def _standing(ledger: Ledger, now: float) -> dict[str, Session]:
    """Those of which some token may still be good."""
    least = now - SKEW - LIFE[Use.SESSION]
    return {name: session for name, session in ledger.sessions.items() if session.until > least}
