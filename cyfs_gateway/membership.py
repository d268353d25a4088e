"""What a device tells an SN that it belongs to, and when.  Pure: the shell asks for the next step, takes it, and says
what came of it.

First it *looks*: the SN says what its domain is, how it sees us, and what of it is ours.  It *shows* the document that
our owner signed, by which it knows whose we are.  Then it *tells* what is to stand in the DNS, all of it in one word
that takes the place of the word before (:mod:`cyfs_gateway.sn.zoneupdate`), and *claims* the names and ports whose
visitors are to be led here.

Addresses travel in that word alone, and ``Report`` is not used: an SN needs our addresses for its DNS and nothing else,
the word is all that its zone goes by, and two words that each say where we are could differ.  Where we come from it
sees by the tunnel itself.  A word that says something is told again twice a day, since it ends after one; a word that
says nothing is told once, so that what an earlier life of ours said is gone.

Nothing that an SN answers makes us sign anything for another one: the domain that it named first is its own for as long
as we remember it, and no two have the same.

The numbers of words grow by themselves where the clock does not, and are written down before they are used.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf

from cyfs_gateway.sn.talk import Here, Leased, Place
from cyfs_gateway.sn.zoneupdate import LIFETIME, MOST_ADDRESSES, ZoneUpdate, write_update
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.purposes import is_public

AGAIN = 43_200.0
"""Seconds after which a word that says something is told again; the SN forgets it after a day."""
LOOK_AGAIN = 900.0
"""Seconds after which we ask how we are seen, though nothing seems to have changed."""
_MOST_SEQ = 1 << 52
_PAUSES = (5.0, 15.0, 60.0, 300.0, 900.0)
"""Seconds until something that was refused is tried again."""


class Step(Enum):
    """What to do next; the value is how people call it."""

    LOOK = "asking how it sees us"
    SHOW = "showing our document"
    TELL = "telling what stands in its DNS"
    CLAIM = "claiming what leads here"


@dataclass(frozen=True, slots=True)
class Word:
    """What is to stand in the DNS of an SN about this machine.  ``challenges`` as in ``ZoneUpdate``."""

    addresses: tuple[str, ...] = ()
    exposed: bool = False
    challenges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.addresses or self.challenges)


class Course:
    """How things stand with one SN.  Times are seconds of a clock that runs while the machine sleeps, and is never set.

    ``name`` is the one that the owner says we have, empty for the first that the SN tells.  ``expose`` is what
    ``MemberConfig`` has.  ``document``: whether there is one to show.
    """

    def __init__(self, name: str, expose: Iterable[str] = (), *, document: bool) -> None:
        self._wanted, self._expose, self.document = name, tuple(expose), document
        self.word = Word()
        self.here: Here | None = None
        """How the SN saw us last."""
        self.faults: dict[Step, str] = {}
        """Why something is not done."""
        self._leased: list[Place] = []
        self._done: set[Step] = set()
        """What was done, and need not be done but to keep it so."""
        self._due = dict.fromkeys(Step, -inf)
        self._failed = dict.fromkeys(Step, 0)

    @property
    def name(self) -> str:
        """Our name there, one label; empty while it is not known."""
        told = (name for name in (self.here.names if self.here is not None else ()) if "." not in name)
        return self._wanted or next(told, "")

    @property
    def why(self) -> str:
        """Why not all of it is done; empty when it is."""
        for step in Step:
            if step in self.faults:
                return f"{step.value}: {self.faults[step]}"
        if self.here is None:
            return "not reached yet"
        if not self.document:
            return "we have no document of an owner to show (id request)"
        for step in self._steps()[1:]:
            if step not in self._done:
                return f"{step.value}: not done yet"
        return "" if self.name else "no name there is ours; the owner can ask for one (sn join)"

    def next_step(self, now: float) -> Step | None:
        """What is due; None: nothing is, until :meth:`next_deadline`."""
        return next((step for step in self._steps() if self._due[step] <= now), None)

    def next_deadline(self) -> float:
        """When to ask again, unless something happens before."""
        return min(self._due[step] for step in self._steps())

    def _steps(self) -> list[Step]:
        """What there is to do at all, now or later."""
        steps = [Step.LOOK]
        if self.here is None or not self.document or Step.LOOK in self.faults:
            return steps
        if Step.SHOW not in self._done:
            return [*steps, Step.SHOW]
        if self.name and (self.word or Step.TELL not in self._done):
            steps.append(Step.TELL)
        if self.places:
            steps.append(Step.CLAIM)
        return steps

    @property
    def is_told(self) -> bool:
        """Whether the SN has taken :attr:`word`."""
        return Step.TELL in self._done

    @property
    def places(self) -> list[Place]:
        """What is to lead to us."""
        return [] if self.here is None else _places(self._expose, self.name, self.here.domain)

    @property
    def leads(self) -> list[Place]:
        """What leads to us, as it was said last."""
        ports = [lease.place for lease in self.here.leases] if self.here is not None else []
        return list(dict.fromkeys((*self._leased, *ports)))

    # What came of it

    def looked(self, here: Here, now: float) -> None:
        """The SN said how it sees us."""
        if self.here is not None and (self.here.seen, self.here.names) != (here.seen, here.names):
            self._done -= {Step.TELL, Step.CLAIM}
            self._due[Step.TELL] = self._due[Step.CLAIM] = -inf
        self.here = here
        self._fine(Step.LOOK, now + LOOK_AGAIN)
        if Step.SHOW in self._done and not here.knows:
            self._done.discard(Step.SHOW)
            self._due[Step.SHOW] = now + _PAUSES[0]

    def shown(self) -> None:
        """It knows us now."""
        self._fine(Step.SHOW, -inf)
        if self.here is not None and not self.here.knows:
            self._due[Step.LOOK] = -inf

    def told(self, word: Word, now: float) -> None:
        """It has taken ``word``."""
        self._fine(Step.TELL, now + AGAIN)
        if word != self.word:  # there is another by now
            self._done.discard(Step.TELL)
            self._hurry(Step.TELL)

    def claimed(self, leased: Sequence[Leased], now: float) -> None:
        """It leads all of ``places`` to us, ``leased`` for as long."""
        self._leased = [each.place for each in leased]
        self._fine(Step.CLAIM, now + min((each.seconds / 2 for each in leased if each.seconds), default=AGAIN))

    def refused(self, step: Step, why: str, now: float) -> None:
        """It said no, or nothing: the next try waits longer each time."""
        self._due[step] = now + _PAUSES[min(self._failed[step], len(_PAUSES) - 1)]
        self._failed[step] += 1
        self.faults[step] = why

    def unknown(self) -> None:
        """It says that it does not know us, whatever it said before."""
        self._done.discard(Step.SHOW)

    def say(self, word: Word) -> None:
        """``word`` is what is to be told from now on."""
        if word != self.word:
            self.word = word
            self._done.discard(Step.TELL)
            self.faults.pop(Step.TELL, None)
            self._hurry(Step.TELL)

    def anew(self) -> None:
        """The tunnel is another, or the network is: so may be what the SN sees of us, and what it leads here."""
        self._leased.clear()
        self._done.discard(Step.CLAIM)
        for step in (Step.LOOK, Step.SHOW, Step.CLAIM):
            self._hurry(step)

    def renewed(self, *, document: bool) -> None:
        """Our document may be another."""
        self.document = document
        self._done.clear()
        for step in Step:
            self._hurry(step)

    def _hurry(self, step: Step) -> None:
        self._due[step] = -inf
        self._failed[step] = 0

    def _fine(self, step: Step, due: float) -> None:
        self._due[step] = due
        self._failed[step] = 0
        self._done.add(step)
        self.faults.pop(step, None)


def _places(expose: Iterable[str], name: str, domain: str) -> list[Place]:
    found = []
    for text in expose:
        kind, colon, rest = text.partition(":")
        if colon:
            port, _, service = rest.partition("/")
            found.append(Place("udp" if kind == "udp" else "tcp", int(port), service))
        elif "." in text:
            found.append(Place("name", name=text))
        elif name:
            host = f"{name}.{domain}"
            found.append(Place("name", name=host if text == "@" else f"{text}.{host}"))
    return found


def check_domain(told: str, before: str, host: str, others: Collection[str]) -> None:
    """Raises ``BadWire`` if ``told`` is not the domain of the SN that says so.

    ``before`` is what it said once, empty if it never did; ``host`` the host name it is configured by, empty for a key;
    ``others`` are the domains of our other SNs.
    """
    if before and told != before:
        raise BadWire(
            f"it says that its domain is {told}, and it was {before} before; if that is right, remove memberships.json"
        )
    if told in others:
        raise BadWire(f"it says that its domain is {told}, which is another SN's")
    if host and told != host and not host.endswith(f".{told}") and not told.endswith(f".{host}"):
        raise BadWire(f"it says that its domain is {told}, and it is called {host}")


def is_sane(seq: int) -> bool:
    """Whether it can be the number of a word: an SN could else talk us out of all that are left."""
    return seq < _MOST_SEQ


def next_seq(last: int, wall: float) -> int:
    """The number of the word after ``last``, at ``wall`` seconds since 1970."""
    return max(last + 1, int(wall * 1000))


def sign_word(word: Word, *, domain: str, name: str, device: str, key: SecretKey, seq: int, wall: float) -> str:
    """``word`` for the SN of ``domain``, signed by this machine, which is called ``device`` there."""
    update = ZoneUpdate(
        audience=domain,
        name=name,
        device=device,
        key=key.public,
        seq=seq,
        iat=int(wall),
        exp=int(wall) + LIFETIME,
        addresses=word.addresses,
        exposed=word.exposed,
        challenges=word.challenges,
    )
    return write_update(update, key)


def public_addresses(own: Iterable[str]) -> tuple[str, ...]:
    """Those of our addresses that mean the same to everybody, in an order that does not change by itself."""
    found = {ipaddress.ip_address(each) for each in own}
    usable = sorted(filter(is_public, found), key=lambda each: (each.version, int(each)))
    return tuple(map(str, usable))[:MOST_ADDRESSES]


def is_below(host: str, domain: str) -> bool:
    """Whether ``host`` is a name below ``domain``, both canonical."""
    return host.endswith(f".{domain}")
