"""The domain of an SN: what it answers, and what its people's devices may change in it.

The zone is not one table.  Its top is small; of each name below it, a *part* is made when it is asked for, from who is
registered (:class:`People`, who know it anyway) and what their devices said last (:mod:`cyfs_gateway.sn.zoneupdate`).
A part is a :class:`~cyfs_ns.local.LocalNames`, so wildcards, empty non-terminals, NODATA and NXDOMAIN are those of
every other zone of the house.  Its records are in :mod:`cyfs_gateway.sn.zonerecords`.

Rules for updates, the first that is broken refuses the whole:

1. it is for this zone, by a device that is registered under the name it speaks of, with the key it names;
2. it is of these minutes, later than the last one of that device, and signed;
3. not too often: what is over the budget has to wait, so that nobody's certificates wear out everybody's disk;
4. addresses are public ones; challenges fit beside those of the name's other devices, which they never replace: two
   orders at a time must not take each other's values away.

Challenges end :data:`CHALLENGE_LIFE` seconds after they were said, addresses after :data:`ADDRESS_LIFE`: who is alive
says them again.  What ends by itself, ends without a word, so an answer is good for no longer than that.

The serial follows the clock where it can, and goes on by one where it cannot: never back (RFC 1982), whatever the
clock does.  It is part of what the shell keeps.  Negative answers that are repeated may have an older serial for a
while; the SOA itself never.

Absent on purpose: zone transfers, DNAME, signatures (DNSSEC), and records of a person's free choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from math import inf
from typing import NamedTuple, Protocol

from cyfs_gateway.sn.zonerecords import (
    Holder,
    Spoken,
    ZoneSettings,
    challenge_name,
    is_published,
    name_records,
    own_labels,
    own_records,
    soa_record,
)
from cyfs_gateway.sn.zoneupdate import LIFETIME, ZoneUpdate, is_label, read_update
from cyfs_ns.authority import Statement
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.proof import CLOCK_SKEW
from cyfs_ns.identity.token import Token
from cyfs_ns.local import LocalBuilder, LocalNames, LocalSettings
from cyfs_ns.message import SOA, rtype_text
from cyfs_ns.purposes import is_public
from cyfs_ns.records import data_text
from cyfs_ns.reply import Reply, rewritten
from cyfs_ns.wire import Record, is_under, name_text, name_wire
from cyfs_ns.zonefile import Written

CHALLENGE_LIFE = 3600
ADDRESS_LIFE = 86_400
MOST_VALUES = 32
"""TXT values of challenges of one name."""
BURST, INTERVAL = 12, 5.0
"""Updates of one device: so many at once, and one more every so many seconds."""

_MOST_LIFE = 3600.0
_MOST_PARTS = 2048  # of ten kilobytes each


class People(Protocol):
    """Who has which name.  Asked for each question, so it answers from memory."""

    def find_name(self, name: str) -> Holder | None:
        """Who has the label ``name``, lower case; None: nobody."""

    def names(self) -> Iterable[str]:
        """All labels that somebody has."""


class Verdict(NamedTuple):
    """What became of an update."""

    accepted: bool
    why: str
    seq: int = 0
    """The last of that device that was accepted, if it is known here: the next one has to be higher."""
    changed: tuple[bytes, ...] = ()
    """Wire names at and below which answers are others now."""
    kept: Kept | None = None
    """To be written down in the place of what was kept of that device."""


class Kept(NamedTuple):
    """The last word of a device, as it survives us: ``key`` and ``name`` are whose, ``heard`` is Unix time."""

    name: str
    key: str
    token: str
    heard: float


@dataclass(frozen=True, slots=True)
class _Said:
    update: ZoneUpdate
    heard: float


@dataclass(frozen=True, slots=True)
class _Part:
    """One name and all below it; right while ``holder`` is the same, from ``since`` until ``until``."""

    names: LocalNames
    holder: Holder
    since: float
    until: float


class Zone:
    """See the module's text.  Times are Unix time, ``now`` among them."""

    def __init__(self, settings: ZoneSettings, people: People, *, now: float) -> None:
        self.settings = settings
        self.serial = int(now) % (1 << 32)
        self._people = people
        self._apex = settings.apex
        self._taken = settings.reserved | own_labels(settings)
        self._said: dict[str, dict[str, _Said]] = {}
        """By name and key."""
        self._ends: dict[str, float] = {}
        """When something that was said of a name ends next."""
        self._spent: dict[tuple[str, str], float] = {}
        """Until when the budget of a device is in use."""
        self._parts: dict[str, _Part] = {}
        self._own = self._made(own_records(settings))
        self._soa = soa_record(settings, self.serial)

    # Answers

    def lookup(self, name: bytes, rtype: int, now: float) -> Statement | None:
        """The answer about a wire name in lower case; None: it is not in this zone."""
        if not is_under(name, self._apex):
            return None
        names, until, why = self._own, inf, f"zone {self.settings.origin}"
        negative = self.settings.negative_ttl
        label = self._label(name)
        if label and (part := self._part(label, now)) is not None:
            names, until, why = part.names, part.until, f"{label} of {why}"
            if not is_published(part.holder):
                negative = self.settings.unpublished_ttl
        found = names.lookup(name, rtype)
        if not isinstance(found, Reply):
            return None  # its parent's to say, as DS of home.arpa is
        if rtype == SOA and name == self._apex:
            return Statement(rewritten(found, answer=[self._soa]), 0.0, why)
        life = max(0.0, min(until - now, _MOST_LIFE))
        if found.counts[1]:
            found = rewritten(found, authority=[self._negative(negative)])
            life = min(life, negative)
        return Statement(found, life, why)

    def records(self, now: float) -> Iterator[Record]:
        """All there is in the zone."""
        yield self._soa
        yield from own_records(self.settings)
        for label in sorted(self._people.names()):
            holder = self._holder(label)
            if holder is not None:
                yield from name_records(self.settings, label, holder, self._spoken(label, holder, now))

    def lines(self, now: float) -> Iterator[str]:
        """The zone as a zone file (RFC 1035 section 5.1)."""
        for owner, rtype, ttl, data in self.records(now):
            yield f"{name_text(owner)}. {ttl} IN {rtype_text(rtype)} {data_text(rtype, data)}"

    # Changes

    def update(self, untrusted: str, now: float) -> Verdict:
        """Take what a device says, or say why not.  Never raises for what is in it."""
        try:
            update, token = read_update(untrusted)
        except BadWire as bad:
            return Verdict(False, str(bad))
        holder = self._holder(update.name)
        last = self._said.get(update.name, {}).get(update.key.x)
        seq = 0 if last is None else last.update.seq
        if fault := self._fault(update, token, holder, seq, now):
            return Verdict(False, fault, seq)
        assert holder is not None
        kept = Kept(update.name, update.key.x, untrusted, now)
        if not self._heard(update, holder, now):
            return Verdict(True, "nothing of it is new", update.seq, (), kept)
        self._move(now)
        return Verdict(True, "done", update.seq, (self._wire(update.name),), kept)

    def restore(self, kept: Iterable[Kept], now: float, serial: int | None = None) -> tuple[Kept, ...]:
        """Know again what was kept, and the last serial; gives back what is nobody's word any more, to be forgotten."""
        lost = []
        for each in kept:
            try:
                update, token = read_update(each.token)
            except BadWire:
                lost.append(each)
                continue
            holder = self._holder(update.name)
            own = (update.name, update.key.x) == (each.name, each.key) and update.audience == self.settings.origin
            if own and holder is not None and _is_its(update, holder) and token.verify(update.key):
                if self._inner(update):
                    # What was allowed then is not told any more; that it was heard stays.
                    update = replace(update, addresses=())
                self._said.setdefault(update.name, {})[update.key.x] = _Said(update, each.heard)
                self._renew(update.name, holder, now)
            else:
                lost.append(each)
        self.serial = self.serial if serial is None else serial
        self._move(now)
        return tuple(lost)

    def changed(self, name: str, now: float) -> tuple[bytes, ...]:
        """Who has ``name``, their devices or documents are others now: the wire names whose answers may be, too."""
        holder = self._holder(name)
        said = self._said.get(name, {})
        kept = {x: each for x, each in said.items() if holder is not None and _is_its(each.update, holder)}
        if kept:
            self._said[name] = kept
        else:
            self._said.pop(name, None)
        self._parts.pop(name, None)
        if holder is not None:
            self._renew(name, holder, now)
        self._move(now)
        return (self._wire(name),)

    def sweep(self, now: float) -> tuple[bytes, ...]:
        """Forget what has ended; the wire names whose answers are others for it."""
        due = [name for name, end in self._ends.items() if end <= now]
        for name in due:
            holder = self._holder(name)
            self._parts.pop(name, None)
            if holder is None:
                del self._ends[name]
            else:
                self._renew(name, holder, now)
        self._spent = {whose: until for whose, until in self._spent.items() if until > now}
        if due:
            self._move(now)
        return tuple(map(self._wire, due))

    # How updates are judged

    def _fault(self, update: ZoneUpdate, token: Token, holder: Holder | None, seq: int, now: float) -> str:
        """Why an update is refused; empty if it is not."""
        if update.audience != self.settings.origin:
            return f"it is for {update.audience}, this is {self.settings.origin}"
        if holder is None:
            return f"{update.name!r} is nobody's name here"
        if not _is_its(update, holder):
            return f"no device {update.device!r} with this key is registered under {update.name!r}"
        if update.iat > now + CLOCK_SKEW:
            return f"made {int(update.iat - now)} s in the future; check the clocks"
        if update.exp <= now:
            return "out of date; make a new one"
        if update.exp - update.iat > LIFETIME:
            return f"good for more than {LIFETIME} s"
        if update.seq <= seq:
            return f"number {update.seq}, and {seq} was heard already"
        if not token.verify(update.key):
            return "not signed with the key it names"
        if not self._affords(update, now):
            return f"too many updates; one every {INTERVAL:.0f} s is taken"
        if inner := self._inner(update):
            return f"{inner} is no public address"
        try:
            for host in update.challenges:
                challenge_name(self.settings, update.name, host)
        except BadWire as bad:
            return str(bad)
        others = [each for each in self._spoken(update.name, holder, now) if each.update.key != update.key]
        values = sum(len(told) for each in others for told in each.challenges.values())
        if values + sum(map(len, update.challenges.values())) > MOST_VALUES:
            return f"more than {MOST_VALUES} challenges at a time for {update.name!r}"
        return ""

    def _inner(self, update: ZoneUpdate) -> str:
        """An address in it that this zone does not tell; empty: there is none."""
        told = () if self.settings.private else update.addresses
        return next((address for address in told if not is_public(ip_address(address))), "")

    def _affords(self, update: ZoneUpdate, now: float) -> bool:
        """Whether the device's budget has room for one more."""
        whose = update.name, update.key.x
        most = BURST * INTERVAL
        # A clock that was set back must not bar anybody for longer than the whole budget.
        ahead = min(max(self._spent.get(whose, now) - now, 0.0), most)
        room = ahead + INTERVAL <= most
        self._spent[whose] = now + ahead + (INTERVAL if room else 0.0)
        return room

    def _heard(self, update: ZoneUpdate, holder: Holder, now: float) -> bool:
        """Whether anything in the zone is different by it."""
        before = self._records(update.name, holder, now)
        self._said.setdefault(update.name, {})[update.key.x] = _Said(update, now)
        self._parts.pop(update.name, None)
        self._renew(update.name, holder, now)
        return before != self._records(update.name, holder, now)

    def _move(self, now: float) -> None:
        step = (int(now) - self.serial) % (1 << 32)
        self.serial = (self.serial + (step if 0 < step < 1 << 31 else 1)) % (1 << 32)
        self._soa = soa_record(self.settings, self.serial)

    # What is known

    def _label(self, name: bytes) -> str:
        """The label below the top that a wire name leads through; empty where there is none that could be anybody's."""
        rest = name[: len(name) - len(self._apex)]
        if not rest:
            return ""
        at = 0
        while at + 1 + rest[at] < len(rest):
            at += 1 + rest[at]
        text = rest[at + 1 :].decode("latin-1")
        return text if is_label(text) else ""

    def _holder(self, label: str) -> Holder | None:
        return None if label in self._taken else self._people.find_name(label)

    def _part(self, label: str, now: float) -> _Part | None:
        holder = self._holder(label)
        if holder is None:
            return None
        part = self._parts.get(label)
        if part is None or not part.since <= now < part.until or part.holder != holder:
            if len(self._parts) >= _MOST_PARTS:
                self._parts.clear()
            made = self._made(self._records(label, holder, now))
            part = self._parts[label] = _Part(made, holder, now, self._end(label, now))
        return part

    def _records(self, label: str, holder: Holder, now: float) -> list[Record]:
        return list(name_records(self.settings, label, holder, self._spoken(label, holder, now)))

    def _spoken(self, label: str, holder: Holder, now: float) -> Sequence[Spoken]:
        found = []
        for said in self._said.get(label, {}).values():
            update = said.update
            if _is_its(update, holder):
                challenges = update.challenges if _holds(said.heard, CHALLENGE_LIFE, now) else {}
                addresses = update.addresses if now < said.heard + ADDRESS_LIFE else ()
                found.append(Spoken(update, addresses, challenges))
        return found

    def _renew(self, label: str, holder: Holder, now: float) -> None:
        """Note when something of a name ends next."""
        end = self._end(label, now)
        if end < inf:
            self._ends[label] = end
        else:
            self._ends.pop(label, None)

    def _end(self, label: str, now: float) -> float:
        ends: list[float] = []
        for said in self._said.get(label, {}).values():
            if said.update.challenges:
                # They also begin, once more, where a clock was set back.
                ends += said.heard - CLOCK_SKEW, said.heard + CHALLENGE_LIFE
            if said.update.addresses:
                ends.append(said.heard + ADDRESS_LIFE)
        return min((end for end in ends if end > now), default=inf)

    def _made(self, records: Iterable[Record]) -> LocalNames:
        settings = self.settings
        builder = LocalBuilder(LocalSettings(ttl=settings.ttl, special=False, canary=False))
        written = [Written(owner, rtype, ttl, data, 0) for owner, rtype, ttl, data in records]
        soa = Written(*soa_record(settings, self.serial), 0)
        builder.zone(settings.origin, [soa, *written])
        return builder.build()

    def _negative(self, least: int) -> Record:
        """The SOA as it stands in negative answers: its TTL, where that is less than its MINIMUM, is for how long they
        are remembered (RFC 2308 section 5)."""
        apex, rtype, ttl, data = self._soa
        return apex, rtype, min(ttl, least), data

    def _wire(self, label: str) -> bytes:
        return name_wire(f"{label}.{self.settings.origin}")


def _is_its(update: ZoneUpdate, holder: Holder) -> bool:
    """Whether the device that speaks is one of the holder's."""
    return holder.devices.get(update.device) == update.key


def _holds(heard: float, life: float, now: float) -> bool:
    """Whether what was heard then holds now: a clock that was set back ends it early rather than late."""
    return heard - CLOCK_SKEW <= now < heard + life
