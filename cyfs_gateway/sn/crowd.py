"""Strangers who are here at a time: bounded, and fair among themselves.

Keys cost nothing, addresses do, so an eighth of all places is the most that strangers from one network have.  Where
its share is full, or every place is taken, somebody new has the place of whoever has been silent longest, in that
network or of all, but of nobody who was heard in the last :data:`QUIET` seconds.  So whoever does what strangers are
let in for is never sent away by another who comes; and to keep others out takes a word for each place, again and again,
and holds them up in one network alone.

Members are not counted here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

QUIET: Final = 30.0
"""Seconds without a word after which a place may go to somebody new: as long as an answer may take to be found."""
_SHARE, _LEAST_SHARE = 8, 4
"""One network has the how-manieth part of all places, and at least so many."""

_Who = TypeVar("_Who", bound=Hashable)


class Crowd(Generic[_Who]):
    """No place until ``most`` is set.  Time is monotonic seconds."""

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self._heard: dict[_Who, float] = {}  # who has been silent longest comes first, here and below
        self._network: dict[_Who, str] = {}
        self._of: dict[str, dict[_Who, None]] = {}

    def __len__(self) -> int:
        return len(self._heard)

    def __contains__(self, who: _Who) -> bool:
        return who in self._heard

    def __iter__(self) -> Iterator[_Who]:
        return iter(self._heard)

    def is_full(self, network: str) -> bool:
        """Whether one more from ``network`` has a place only if another leaves."""
        return len(self) >= self.most or self._fills_its_share(network)

    def silent(self, network: str, now: float) -> _Who | None:
        """Who has to leave for one more from ``network`` if that is full; None: nobody may be asked to."""
        if len(self) > self.most:
            return None  # there is less room than there was
        among = self._of[network] if self._fills_its_share(network) else self._heard
        longest = next(iter(among), None)
        return longest if longest is not None and self._heard[longest] + QUIET <= now else None

    def enter(self, who: _Who, network: str, now: float) -> None:
        """``who`` is no member, and is here from now on."""
        self._network[who] = network
        self._heard[who] = now
        self._of.setdefault(network, {})[who] = None

    def hear(self, who: _Who, now: float) -> None:
        """``who`` says something, or is answered; nothing happens if they are not here."""
        if who in self._heard:
            network = self._network[who]
            self.leave(who)
            self.enter(who, network, now)

    def leave(self, who: _Who) -> None:
        """They are gone; nothing happens if they were not here."""
        if self._heard.pop(who, None) is not None:
            network = self._network.pop(who)
            del self._of[network][who]
            if not self._of[network]:
                del self._of[network]

    def _fills_its_share(self, network: str) -> bool:
        return len(self._of.get(network, ())) >= max(_LEAST_SHARE, self.most // _SHARE)
