"""Who speaks for a domain of the public DNS that others were told to ask us about.

The zones of :mod:`cyfs_ns.local` are written by the owner for their house, and are read once.  What an authority says
changes while it is served, and holds for everybody: strangers may ask for it, and for nothing else.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from cyfs_ns.reply import Reply


class Statement(NamedTuple):
    """An answer, for how many seconds the same may be said again unasked (0: not at all), and where it comes from."""

    reply: Reply
    life: float
    why: str


class Authority(Protocol):
    """Answers at once, for names of its domain."""

    def lookup(self, name: bytes, rtype: int) -> Statement | None:
        """The answer about a wire name in lower case; None: not of its domain."""
