"""The one error of system_config: what is wrong, and by its code what whoever asked does next."""

from __future__ import annotations

from enum import StrEnum

from cyfs_ns.errors import CyfsError


class Code(StrEnum):
    """What went wrong, for programs."""

    INVALID = "invalid"
    TOO_LARGE = "too-large"
    DENIED = "denied"
    MISSING = "missing"
    EXISTS = "exists"
    CONFLICT = "conflict"
    COMPACTED = "compacted"
    UNAVAILABLE = "unavailable"
    UNCERTAIN = "uncertain"
    FULL = "full"
    DAMAGED = "damaged"


NEXT = {
    Code.INVALID: "correct the request",
    Code.TOO_LARGE: "ask for less, or split it",
    Code.DENIED: "ask the zone's owner for the right",
    Code.MISSING: "create it first",
    Code.EXISTS: "read what is there",
    Code.CONFLICT: "read again, decide again, then try again",
    Code.COMPACTED: "read the present state, and go on from its revision",
    Code.UNAVAILABLE: "try again later; nothing was changed",
    Code.UNCERTAIN: "read before trying again: the change may have been made, or may yet be",
    Code.FULL: "compact the history or make room, and read before trying again",
    Code.DAMAGED: "put a backup in its place",
}
"""What to do about it, in a few words for people."""

RETRYABLE = frozenset({Code.CONFLICT, Code.UNAVAILABLE})
"""After these the same request may be sent again as it is, and may succeed."""


class ConfigError(CyfsError):
    """A request of system_config that was not fulfilled.

    Nothing was changed, except perhaps with ``UNCERTAIN`` and ``FULL``: then all of it was, or nothing.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{message}; {NEXT[code]}")
        self.code = code
        self.message = message
        """What is wrong, without what to do about it."""
