"""Which member of a group carries a flow: pure choice, by what is known of delays.

A *chooser* is asked for every flow, so it remembers its answer until the health table or the members change.  Delays
are whole milliseconds and 0 means "failed", as in Clash's API; an untested member counts as alive and infinitely slow.
Times are passed in: Unix seconds for histories, any steady seconds for sticky sessions.

A choice made by hand (``fixed``) binds ``url-test`` and ``fallback`` as long as that member is alive.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from cyfs_ns.errors import ConfigFault
from tunnels.authority import packed_of_host
from tunnels.namefilter import NameFilter
from tunnels.outbound import FlowHint
from tunnels.spec import GroupSpec as GroupSpec

SLOWEST: Final = 65535
"""Milliseconds of a member that is dead or untested."""

_HISTORY: Final = 10
_STICKY_SECONDS: Final = 600.0
_STICKY_MOST: Final = 1000


# What is known


@dataclass(frozen=True, slots=True)
class Delay:
    """One health check: when (Unix seconds) it ended, and after how many milliseconds; 0 when it failed."""

    time: float
    ms: int

    def as_json(self) -> dict[str, object]:
        """As Clash's API prints it."""
        return {"time": datetime.fromtimestamp(self.time, UTC).isoformat(), "delay": self.ms}


class Health:
    """The last ten checks of every member, for every test URL."""

    def __init__(self) -> None:
        self._checks: dict[tuple[str, str], deque[Delay]] = {}
        self.version = 0
        """Grows with every check, so that remembered choices know when they are old."""

    def record(self, name: str, url: str, check: Delay) -> None:
        """Remember a check; the oldest of ``_HISTORY`` goes."""
        self._checks.setdefault((name, url), deque(maxlen=_HISTORY)).append(check)
        self.version += 1

    def history(self, name: str, url: str) -> list[Delay]:
        """Oldest first."""
        return list(self._checks.get((name, url), ()))

    def urls(self, name: str) -> list[str]:
        """The test URLs that ``name`` was checked with."""
        return [url for member, url in self._checks if member == name]

    def alive(self, name: str, url: str) -> bool:
        """Whether the last check went well; the unchecked is taken for alive."""
        checks = self._checks.get((name, url))
        return not checks or checks[-1].ms > 0

    def delay(self, name: str, url: str) -> int:
        """Milliseconds of the last check, ``SLOWEST`` when it failed or there was none."""
        checks = self._checks.get((name, url))
        return (checks[-1].ms if checks else 0) or SLOWEST

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget members that are gone."""
        kept = set(names)
        self._checks = {key: checks for key, checks in self._checks.items() if key[0] in kept}
        self.version += 1


class StatusRanges:
    """HTTP statuses a check accepts: ``200/204-299``; ``*`` or nothing for all."""

    def __init__(self, text: str = "*") -> None:
        self._ranges: list[tuple[int, int]] = []
        for part in text.split("/") if text.strip() not in ("", "*") else ():
            low, dash, high = part.strip().partition("-")
            try:
                first = int(low)
                last = int(high) if dash else first
            except ValueError:
                raise ConfigFault(f"expected-status: {part!r} is no status and no range") from None
            if not 100 <= first <= last <= 599:
                raise ConfigFault(f"expected-status: {part!r} lies outside 100-599")
            self._ranges.append((first, last))

    def __contains__(self, status: int) -> bool:
        return not self._ranges or any(low <= status <= high for low, high in self._ranges)


# Who belongs


def choose_members(spec: GroupSpec, written: Mapping[str, str], offered: Mapping[str, str]) -> list[str]:
    """The members' names, in order.  Both mappings give each name its API kind.

    ``written`` are the members named by hand, ``offered`` what providers and ``include-all`` bring.  As in mihomo,
    ``filter`` sorts and sifts only what is offered; the excludes sift everything.  Raises ``ConfigFault`` for a regular
    expression that cannot be used.
    """
    names = list(written)
    if spec.filter:
        for wanted in _filters(spec.filter):
            names += [name for name in offered if wanted.matches(name)]
    else:
        names += offered
    unwanted = _filters(spec.exclude_filter)
    kinds = {kind.strip().lower() for kind in spec.exclude_type.split("|") if kind.strip()}
    return [
        name
        for name in dict.fromkeys(names)
        if (written.get(name) or offered.get(name, "")).lower() not in kinds
        and not any(pattern.matches(name) for pattern in unwanted)
    ]


def _filters(text: str) -> list[NameFilter]:
    return [NameFilter(part) for part in text.split("`") if part]


# Who is chosen


class Chooser(Protocol):
    """Picks one of ``names``, which is never empty, for a flow.  ``fixed`` is the choice made by hand, or empty."""

    fixed: str

    def choose(self, names: Sequence[str], hint: FlowHint, now: float) -> str:
        """The one that carries this flow; ``now`` in steady seconds."""


def chooser_for(spec: GroupSpec, health: Health) -> Chooser:
    """The chooser of a group; a relay group has none to make and gets a selector."""
    if spec.kind == "url-test":
        return _Remembered(_Fastest(spec, health), health)
    if spec.kind == "fallback":
        return _Remembered(_FirstAlive(spec, health), health)
    if spec.kind == "load-balance":
        if spec.strategy == "round-robin":
            return _RoundRobin(spec, health)
        if spec.strategy == "sticky-sessions":
            return _Sticky(spec, health)
        return _Hashed(spec, health)
    return _Selector()


class _Selector:
    """``select``: what was chosen by hand, else the first."""

    def __init__(self) -> None:
        self.fixed = ""

    def choose(self, names: Sequence[str], hint: FlowHint, now: float) -> str:
        return self.fixed if self.fixed in names else names[0]


class _Ranking(Protocol):
    def best(self, names: Sequence[str], fixed: str) -> str: ...


class _Remembered:
    """Asks a ranking again only when members, health or the fixed choice have changed."""

    def __init__(self, ranking: _Ranking, health: Health) -> None:
        self._ranking = ranking
        self._health = health
        self._known: tuple[Sequence[str], int, str] | None = None
        self._best = ""
        self.fixed = ""

    def choose(self, names: Sequence[str], hint: FlowHint, now: float) -> str:
        known = self._known
        if known is None or known[0] is not names or known[1] != self._health.version or known[2] != self.fixed:
            self._best = self._ranking.best(names, self.fixed)
            self._known = (names, self._health.version, self.fixed)
        return self._best


class _Fastest:
    """``url-test``: the fastest, but whoever leads keeps the lead until beaten by more than ``tolerance``."""

    def __init__(self, spec: GroupSpec, health: Health) -> None:
        self._spec = spec
        self._health = health
        self._leader = ""

    def best(self, names: Sequence[str], fixed: str) -> str:
        alive, delay, url = self._health.alive, self._health.delay, self._spec.url
        if fixed in names and alive(fixed, url):
            return fixed
        fastest = min(names, key=lambda name: (not alive(name, url), delay(name, url)))
        leader = self._leader
        if (
            leader not in names
            or not alive(leader, url)
            or delay(leader, url) > delay(fastest, url) + self._spec.tolerance
        ):
            self._leader = fastest
        return self._leader


class _FirstAlive:
    """``fallback``: the first in the list that is alive; the very first when none is."""

    def __init__(self, spec: GroupSpec, health: Health) -> None:
        self._spec = spec
        self._health = health

    def best(self, names: Sequence[str], fixed: str) -> str:
        if fixed in names and self._health.alive(fixed, self._spec.url):
            return fixed
        return next((name for name in names if self._health.alive(name, self._spec.url)), names[0])


class _Balance:
    """What the strategies of ``load-balance`` share.  A choice by hand means nothing here."""

    def __init__(self, spec: GroupSpec, health: Health) -> None:
        self._url = spec.url
        self._health = health
        self.fixed = ""

    def _alive_from(self, names: Sequence[str], start: int) -> int:
        """The first living member at or after ``start``, going round; ``start`` itself when all are dead."""
        count = len(names)
        for step in range(count):
            i = (start + step) % count
            if self._health.alive(names[i], self._url):
                return i
        return start

    def _hashed(self, names: Sequence[str], key: str) -> str:
        """The same member for the same key; when a member dies, only its keys move."""
        digest = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
        i = _jump(digest, len(names))
        for salt in range(1, 6):
            if self._health.alive(names[i], self._url):
                return names[i]
            i = _jump(digest + salt, len(names))
        return names[self._alive_from(names, i)]


class _RoundRobin(_Balance):
    def __init__(self, spec: GroupSpec, health: Health) -> None:
        super().__init__(spec, health)
        self._next = 0

    def choose(self, names: Sequence[str], hint: FlowHint, now: float) -> str:
        i = self._alive_from(names, self._next % len(names))
        self._next = i + 1
        return names[i]


class _Hashed(_Balance):
    """``consistent-hashing``: a site always goes the same way, whoever asks."""

    def choose(self, names: Sequence[str], hint: FlowHint, now: float) -> str:
        return self._hashed(names, site_of(hint.host))


class _Sticky(_Balance):
    """``sticky-sessions``: a client stays with its member for a site until it has been silent for ten minutes."""

    def __init__(self, spec: GroupSpec, health: Health) -> None:
        super().__init__(spec, health)
        self._sessions: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()

    def choose(self, names: Sequence[str], hint: FlowHint, now: float) -> str:
        key = (hint.source, site_of(hint.host))
        name, until = self._sessions.pop(key, ("", 0.0))
        if now >= until or name not in names or not self._health.alive(name, self._url):
            name = self._hashed(names, f"{hint.source} {key[1]}")
        self._sessions[key] = (name, now + _STICKY_SECONDS)
        if len(self._sessions) > _STICKY_MOST:
            self._sessions.popitem(last=False)
        return name


def site_of(host: str) -> str:
    """What belongs together when load is balanced: an address as it is, of a name its last two labels."""
    return host if packed_of_host(host) is not None else ".".join(host.rsplit(".", 2)[-2:])


def _jump(key: int, buckets: int) -> int:
    """Jump consistent hash (Lamping and Veach, 2014): growing ``buckets`` moves the fewest keys."""
    chosen, candidate = 0, 0
    while candidate < buckets:
        chosen = candidate
        key = (key * 2862933555777941757 + 1) & 0xFFFFFFFFFFFFFFFF
        candidate = int((chosen + 1) * (1 << 31) / ((key >> 33) + 1))
    return chosen
