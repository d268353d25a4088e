"""What a name server did, counted: totals by the hour, and who and what stood out, in bounded memory.

*Top lists* use the space-saving sketch (Metwally, Agrawal, El Abbadi 2005): a fixed number of counters, the smallest of
which is taken over by a newcomer together with its count.  What is really frequent is never missed, and a count is too
high by no more than its ``error``.

Counts arrive in lumps, because the hot path only counts and is asked now and then.  Time is handed in, in seconds of
the wall clock; the last ``HOURS`` hours are kept apart, so that a day slides.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from cyfs_ns.config.house import Privacy
from cyfs_ns.errors import BadWire
from cyfs_ns.querylog import shown_client
from cyfs_ns.wire import name_text, name_wire

K = TypeVar("K")

HOURS = 24
"""How far back the totals by the hour go."""

_MOST_SERVERS = 1000
_TOP_ROOM = 1024  # counters of one top list: names beyond a few hundred are noise on any page


class TopList(Generic[K]):
    """The most frequent keys of a stream, each with a count that is never too low."""

    __slots__ = ("_counts", "_errors", "_floor", "_least", "_room")

    def __init__(self, room: int = _TOP_ROOM) -> None:
        self._room = room
        self._counts: dict[K, int] = {}
        self._errors: dict[K, int] = {}
        self._floor = 0
        """The smallest count when the counters were last looked through; none is below it."""
        self._least: list[K] = []
        """Those that had it then."""

    def add(self, key: K, times: int = 1) -> None:
        """Count ``key`` ``times`` more."""
        counts = self._counts
        count = counts.get(key)
        if count is not None:
            counts[key] = count + times
        elif len(counts) < self._room:
            counts[key] = times
        else:
            self._take_over(key, times)

    def top(self, many: int) -> list[tuple[K, int]]:
        """The ``many`` most frequent, the most frequent first."""
        return heapq.nlargest(many, self._counts.items(), key=lambda item: item[1])

    def error(self, key: K) -> int:
        """By how much the count of ``key`` may be too high."""
        return self._errors.get(key, 0)

    def clear(self) -> None:
        self._counts.clear()
        self._errors.clear()
        self._least.clear()

    def dump(self) -> list[tuple[K, int, int]]:
        """Everything: key, count and error."""
        return [(key, count, self.error(key)) for key, count in self._counts.items()]

    def load(self, rows: Iterable[tuple[K, int, int]]) -> None:
        """Go on from a dump."""
        for key, count, error in rows:
            if len(self._counts) < self._room and key not in self._counts:
                self.add(key, count)
                if error:
                    self._errors[key] = error

    def _take_over(self, key: K, times: int) -> None:
        # Each look through all counters finds a larger floor, and for that as many must have been counted as there are
        # counters: a newcomer costs the same however many there are.
        counts, least = self._counts, self._least
        while True:
            if not least:
                self._floor = min(counts.values())
                least += [each for each, count in counts.items() if count == self._floor]
            gone = least.pop()
            if counts[gone] == self._floor:
                break
        del counts[gone]
        counts[key] = self._floor + times
        self._errors[key] = self._floor
        self._errors.pop(gone, None)


class TopNames:
    """The same of names: taken as they are on the wire, told as text, since many come for each that is shown."""

    def __init__(self) -> None:
        self._wired: TopList[bytes] = TopList()
        self.add = self._wired.add
        """As :meth:`TopList.add`, of wire names in lower case."""
        self.clear = self._wired.clear

    def top(self, many: int) -> list[tuple[str, int]]:
        """As :meth:`TopList.top`."""
        return [(name_text(name), count) for name, count in self._wired.top(many)]

    def dump(self) -> list[tuple[str, int, int]]:
        """As :meth:`TopList.dump`."""
        return [(name_text(name), count, error) for name, count, error in self._wired.dump()]

    def load(self, rows: Iterable[tuple[str, int, int]]) -> None:
        """As :meth:`TopList.load`.  Raises ``BadWire`` for what is no name."""
        self._wired.load((name_wire(name), count, error) for name, count, error in rows)


class Heard(NamedTuple):
    """One question and what became of it."""

    client: str
    name: bytes
    """Wire name in lower case."""
    rtype: int
    source: str
    """``hot``, ``cache``, ``stale``, ``upstream``, ``local``, ``blocked``, ``rewritten``, ``fake-ip``, ``refused``,
    ``failed``."""
    seconds: float = 0.0
    """How long the answer took, for those that were waited for."""
    server: str = ""


Hits: TypeAlias = tuple[bytes, int, str, int]
"""Wire name in lower case, type, source and how many times."""


class Statistics:
    """Counts of one server.  ``level`` says how much the top lists may know (:mod:`cyfs_ns.querylog`)."""

    def __init__(self) -> None:
        self.level: Privacy = "full"
        self.since = 0.0
        """When counting began, by the wall clock; 0: nothing was counted yet."""
        self.total: Counter[str] = Counter()
        """Answers by source."""
        self.names = TopNames()
        self.blocked = TopNames()
        self.clients: TopList[str] = TopList()
        self.servers: Counter[str] = Counter()
        """Answers by upstream."""
        self.rtypes: Counter[int] = Counter()
        self._server_micros: Counter[str] = Counter()
        self._hours: deque[tuple[int, Counter[str]]] = deque(maxlen=HOURS)

    def obey(self, level: Privacy) -> None:
        """Keep as much as ``level`` allows, and forget what it does not."""
        self.level = level
        if level == "none":
            self.names.clear()
            self.blocked.clear()
        known = self.clients.dump()
        self.clients.clear()
        for client, count, _ in known:
            self.hear_client(client, count)

    def clear(self) -> None:
        """Begin anew."""
        for counts in (self.total, self.servers, self.rtypes, self._server_micros):
            counts.clear()
        for top in (self.names, self.blocked, self.clients):
            top.clear()
        self._hours.clear()
        self.since = 0.0

    def hear(self, lot: Sequence[Heard], now: float) -> None:
        """Count these answers."""
        if not lot:
            return
        self.since = self.since or now
        sources = [heard.source for heard in lot]
        self.total.update(sources)
        self._hour(now).update(sources)
        self.rtypes.update([heard.rtype for heard in lot])
        for client, times in Counter([heard.client for heard in lot]).items():
            self.hear_client(client, times)
        servers, named = self.servers, self.level != "none"
        for _, name, _, source, seconds, server in lot:
            if named:
                self._hear_name(name, source, 1)
            if server and (server in servers or len(servers) < _MOST_SERVERS):
                servers[server] += 1
                self._server_micros[server] += round(seconds * 1e6)

    def hear_hits(self, lot: Sequence[Hits], now: float) -> None:
        """Count lumps of equal answers, whose clients are counted elsewhere (:meth:`hear_client`)."""
        if not lot:
            return
        self.since = self.since or now
        hour, named = self._hour(now), self.level != "none"
        for name, rtype, source, times in lot:
            self.total[source] += times
            hour[source] += times
            self.rtypes[rtype] += times
            if named:
                self._hear_name(name, source, times)

    def _hear_name(self, name: bytes, source: str, times: int) -> None:
        self.names.add(name, times)
        if source == "blocked":
            self.blocked.add(name, times)

    def hear_client(self, client: str, times: int) -> None:
        """Count that many questions of a client."""
        shown = shown_client(client, self.level)
        if shown:
            self.clients.add(shown, times)

    def by_hour(self) -> list[tuple[int, dict[str, int]]]:
        """(hour since the epoch, answers by source), the oldest first."""
        return [(hour, dict(counts)) for hour, counts in self._hours]

    def mean_seconds(self, server: str) -> float:
        """How long an upstream took on average."""
        return self._server_micros[server] / 1e6 / max(1, self.servers[server])

    def dump(self) -> bytes:
        """Everything, to go on from in another life."""
        shape = {
            "since": self.since,
            **{key: dict(getattr(self, key)) for key in _COUNTERS},
            **{key: getattr(self, key).dump() for key in _TOPS},
            "hours": self.by_hour(),
        }
        return json.dumps(shape, separators=(",", ":")).encode()

    def load(self, untrusted: bytes) -> None:
        """Go on from a dump.  Raises ``BadWire`` for anything else, and then has changed nothing."""
        try:
            shape = json.loads(untrusted)
            fresh = Statistics()
            fresh.since = float(shape["since"])
            for key in _COUNTERS:
                kind = int if key == "rtypes" else str
                getattr(fresh, key).update({kind(each): int(count) for each, count in shape[key].items()})
            for key in _TOPS:
                getattr(fresh, key).load([(str(each), int(count), int(error)) for each, count, error in shape[key]])
            for hour, counts in shape["hours"]:
                fresh._hours.append((int(hour), Counter({str(source): int(count) for source, count in counts.items()})))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            raise BadWire("not the statistics of a name server") from None
        for key in (*_COUNTERS, *_TOPS, "since", "_hours"):
            setattr(self, key, getattr(fresh, key))
        self.obey(self.level)

    def _hour(self, now: float) -> Counter[str]:
        hour = int(now // 3600)
        if not self._hours or self._hours[-1][0] != hour:
            self._hours.append((hour, Counter()))
        return self._hours[-1][1]


_COUNTERS = ("total", "servers", "rtypes", "_server_micros")
_TOPS = ("names", "blocked", "clients")
