"""What we know about whether tunnel URLs can be opened: a bounded memory of probes and of real connects.

An answer has a state and says where it comes from; it is believed for a time that depends on the state and is *unknown*
after that, while its round-trip times stay as history.  Real connects feed the same table, so choosing the fastest way
needs no separate health checks.

Keys are normalised URLs.  Times are Unix seconds and passed in, because the table outlives the process (``dump``,
``load``).  What is dumped never holds credentials; an entry that had some is shown but cannot be loaded again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Final, Literal

from cyfs_ns.errors import REASONS, BadWire, ConfigFault
from tunnels.url import TunnelUrl, parse

SortPolicy = Literal["none", "reachable_first", "rtt_ascending", "caller_priority_then_rtt"]

_RTTS_KEPT: Final = 8
_NEVER: Final = float("inf")


class State(StrEnum):
    """Whether a URL can be opened."""

    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"
    PROBING = "probing"
    """Nothing is known yet, and a probe is under way."""
    UNSUPPORTED = "unsupported"
    """It cannot be probed (UDP has no answer to a knock)."""


class Source(StrEnum):
    """Where an answer comes from."""

    EXISTING_TUNNEL = "existing_tunnel"
    KEEP_ALIVE = "keep_alive"
    CACHED_PROBE = "cached_probe"
    FRESH_PROBE = "fresh_probe"
    BUSINESS_CONNECT = "business_connect"
    BUILDER_VALIDATION = "builder_validation"
    UNSUPPORTED = "unsupported"


TTL: Mapping[State, float] = {
    State.REACHABLE: 30.0,
    State.UNREACHABLE: 5.0,
    State.UNKNOWN: 10.0,
    State.PROBING: 0.0,
    State.UNSUPPORTED: 60.0,
}
"""Seconds an answer is believed."""

_RANK: Final = {
    State.REACHABLE: 0,
    State.PROBING: 1,
    State.UNKNOWN: 1,
    State.UNREACHABLE: 2,
    State.UNSUPPORTED: 3,
}


@dataclass(frozen=True, slots=True)
class UrlStatus:
    """One answer."""

    state: State
    source: Source | None
    """``None`` when nothing was ever learnt."""
    reason: str
    """One of ``cyfs_ns.errors.REASONS`` when unreachable or unsupported, else empty."""
    learnt_at: float
    """Unix seconds; 0 when nothing was ever learnt."""
    rtts: tuple[float, ...]
    """The last eight round-trip times in milliseconds, oldest first."""

    @property
    def rtt(self) -> float | None:
        """Milliseconds: the median, so that one hiccup does not reorder ways."""
        return median(self.rtts) if self.rtts else None


_NOTHING: Final = UrlStatus(State.UNKNOWN, None, "", 0.0, ())


class StatusTable:
    """See the module's text.  The least recently used entries go first when it is full; pinned ones stay."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[str, tuple[TunnelUrl, UrlStatus]] = OrderedDict()
        self._pinned: set[str] = set()
        self._probing: set[str] = set()
        self.version = 0
        """Grows with everything learnt, so that whoever saves knows when to."""

    def __len__(self) -> int:
        return len(self._entries)

    def learn(
        self,
        url: TunnelUrl,
        state: State,
        source: Source,
        now: float,
        *,
        reason: str = "",
        rtt: float | None = None,
    ) -> None:
        """Remember how an attempt ended; ``rtt`` is in milliseconds."""
        key = url.normalised
        rtts = self._entries[key][1].rtts if key in self._entries else ()
        if rtt is not None:
            rtts = (*rtts, rtt)[-_RTTS_KEPT:]
        self._put(key, url, UrlStatus(state, source, reason if reason in REASONS else "", now, rtts))

    def _put(self, key: str, url: TunnelUrl, status: UrlStatus) -> None:
        self.version += 1
        self._entries[key] = (url, status)
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            oldest = next((k for k in self._entries if k not in self._pinned and k != key), None)
            if oldest is not None:
                del self._entries[oldest]

    def ask(self, url: TunnelUrl, now: float, *, fresh: bool = False) -> UrlStatus:
        """What is believed at ``now``.  ``fresh`` says that the asker made the probe, so it is not called cached."""
        key = url.normalised
        if key not in self._entries:
            return UrlStatus(State.PROBING, None, "", 0.0, ()) if key in self._probing else _NOTHING
        self._entries.move_to_end(key)
        status = self._entries[key][1]
        if self._believed(status, now):
            if status.source is Source.FRESH_PROBE and not fresh:
                return UrlStatus(status.state, Source.CACHED_PROBE, status.reason, status.learnt_at, status.rtts)
            return status
        state = State.PROBING if key in self._probing else State.UNKNOWN
        return UrlStatus(state, status.source, "", status.learnt_at, status.rtts)

    @staticmethod
    def _believed(status: UrlStatus, now: float) -> bool:
        # A clock set back must not make an old answer immortal.
        return 0.0 <= now - status.learnt_at < TTL[status.state]

    def urls(self) -> list[TunnelUrl]:
        """Every URL something was learnt of, least recently used first."""
        return [url for url, _ in self._entries.values()]

    def wants_probe(self, url: TunnelUrl, now: float) -> bool:
        """Whether nothing believable is known and nobody is probing already."""
        key = url.normalised
        known = self._entries.get(key)
        return key not in self._probing and (known is None or not self._believed(known[1], now))

    def probe_started(self, url: TunnelUrl) -> None:
        """A probe is under way; ``probe_ended`` must follow, however it ends."""
        self._probing.add(url.normalised)

    def probe_ended(self, url: TunnelUrl) -> None:
        """The probe is over; what it found was given to ``learn``."""
        self._probing.discard(url.normalised)

    def pin(self, url: TunnelUrl) -> None:
        """Never push this URL out."""
        self._pinned.add(url.normalised)

    def unpin(self, url: TunnelUrl) -> None:
        """Let this URL go like any other."""
        self._pinned.discard(url.normalised)

    def sort(
        self,
        urls: Sequence[TunnelUrl],
        policy: SortPolicy,
        now: float,
        priorities: Sequence[int] = (),
    ) -> list[TunnelUrl]:
        """Best first; equals keep their order.  ``priorities``, one for each URL and smaller first, count only for
        ``caller_priority_then_rtt``, where a way known to be down still stands behind all others."""
        if policy == "none":
            return list(urls)
        known = [self.ask(url, now) for url in urls]

        def key(i: int) -> tuple[float, ...]:
            rank = _RANK[known[i].state]
            rtt = known[i].rtt
            speed = _NEVER if rtt is None else rtt
            if policy == "reachable_first":
                return (rank,)
            if policy == "rtt_ascending":
                return (rank, speed)
            priority = priorities[i] if i < len(priorities) else _NEVER
            return (rank >= _RANK[State.UNREACHABLE], priority, rank, speed)

        return [urls[i] for i in sorted(range(len(urls)), key=key)]

    def dump(self) -> list[dict[str, object]]:
        """All entries as JSON values, least recently used first, credentials hidden."""
        return [
            {
                "url": url.redacted,
                "state": status.state.value,
                "source": status.source.value if status.source is not None else None,
                "reason": status.reason,
                "learnt_at": status.learnt_at,
                "rtts": list(status.rtts),
            }
            for url, status in self._entries.values()
        ]

    def load(self, saved: object) -> None:
        """Take in what ``dump`` gave.  Raises ``BadWire``, and then nothing was taken in."""
        if not isinstance(saved, list):
            raise BadWire("saved URL statuses must be a list")
        entries = [entry for item in saved[-self._capacity :] if (entry := _read(item)) is not None]
        for url, status in entries:
            self._put(url.normalised, url, status)


def _read(item: object) -> tuple[TunnelUrl, UrlStatus] | None:
    if not isinstance(item, dict):
        raise BadWire("a saved URL status must be an object")
    url, reason, rtts, when = (item.get(key) for key in ("url", "reason", "rtts", "learnt_at"))
    if not (isinstance(url, str) and isinstance(reason, str) and isinstance(rtts, list) and _is_number(when)):
        raise BadWire("a saved URL status lacks a field")
    if len(rtts) > _RTTS_KEPT or not all(_is_number(rtt) for rtt in rtts):
        raise BadWire("a saved URL status has round-trip times that are none")
    if reason and reason not in REASONS:
        raise BadWire("a saved URL status has an unknown reason")
    try:
        parsed = parse(url)
        status = UrlStatus(State(item.get("state")), Source(item.get("source")), reason, float(when), tuple(rtts))  # type: ignore[arg-type]
    except (ConfigFault, ValueError) as fault:
        raise BadWire("a saved URL status has an unknown URL, state or source") from fault
    return None if parsed.secretive else (parsed, status)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _NEVER
