"""The one error of a service call: its code says what whoever called does next, its text is for people.

A fault crosses the wire as ``{"error": {"code", "message", "retryable", "data"}}`` and is the same on both sides.
Services may have codes of their own; whoever does not know one goes by ``retryable``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from cyfs_ns.errors import CyfsError, Misuse
from cyfs_ns.identity.strictjson import Json
from zone.config.faults import RETRYABLE as CONFIG_RETRYABLE
from zone.config.faults import ConfigError

MOST_MESSAGE: Final = 1024
"""Characters of a message."""


class Code(StrEnum):
    """What went wrong, for programs.  Those that are ``ConfigError``'s as well mean the same."""

    INVALID = "invalid"
    """The request makes no sense as it is."""
    TOO_LARGE = "too-large"
    UNAUTHENTICATED = "unauthenticated"
    """Who calls has to be proven, and was not."""
    EXPIRED = "expired"
    """The token was good once: refresh it, then call again."""
    DENIED = "denied"
    UNKNOWN_SERVICE = "unknown-service"
    UNKNOWN_METHOD = "unknown-method"
    MISSING = "missing"
    """What the call speaks of is not there."""
    EXISTS = "exists"
    CONFLICT = "conflict"
    COMPACTED = "compacted"
    LIMITED = "limited"
    """Too much at once, or too often; nothing was done."""
    NEEDED = "needed"
    """Of a batch: a call that this one needs has failed."""
    UNAVAILABLE = "unavailable"
    """The service could not be had; nothing was done."""
    UNCERTAIN = "uncertain"
    """It may have been done, or may yet be: the answer is missing."""
    DEADLINE = "deadline"
    """As ``UNCERTAIN``, because the time was up."""
    FULL = "full"
    DAMAGED = "damaged"
    INTERNAL = "internal"
    """The service failed, by a fault of its own."""
    UNSPECIFIED = "unspecified"
    """An error of which nothing but a text is known."""


RETRYABLE: Final = frozenset({Code.CONFLICT, Code.LIMITED, Code.UNAVAILABLE})
"""After these nothing was done, and the same call may succeed later."""

STATUS: Final[Mapping[str, int]] = {
    Code.INVALID: 400,
    Code.TOO_LARGE: 413,
    Code.UNAUTHENTICATED: 401,
    Code.EXPIRED: 401,
    Code.DENIED: 403,
    Code.UNKNOWN_SERVICE: 404,
    Code.UNKNOWN_METHOD: 404,
    Code.MISSING: 404,
    Code.EXISTS: 409,
    Code.CONFLICT: 409,
    Code.COMPACTED: 410,
    Code.LIMITED: 429,
    Code.NEEDED: 424,
    Code.UNAVAILABLE: 503,
    Code.UNCERTAIN: 502,
    Code.DEADLINE: 504,
    Code.FULL: 507,
    Code.DAMAGED: 500,
    Code.INTERNAL: 500,
    Code.UNSPECIFIED: 500,
}
"""Of HTTP, for whoever looks no further."""
_OWN_STATUS: Final = 422

_CODE: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")


def is_code(untrusted: str) -> bool:
    """Whether it may be the code of a fault."""
    return _CODE.fullmatch(untrusted) is not None


class KrpcFault(CyfsError):
    """A call that was not answered with a result.

    ``data`` is what programs need beside the code.  ``retryable``: nothing was done, and the same call may succeed
    later; where it is None, the code says it.
    """

    def __init__(self, code: str, message: str, *, retryable: bool | None = None, data: Json = None) -> None:
        if not is_code(code):
            raise Misuse(f"{code!r} is no code of a fault")
        super().__init__(message)
        self.code: Final = str(code)
        self.message: Final = message[:MOST_MESSAGE].encode("utf-8", "replace").decode()
        self.retryable: Final = code in RETRYABLE if retryable is None else retryable
        self.data: Final = data

    @property
    def status(self) -> int:
        """The HTTP status that it is sent with."""
        return STATUS.get(self.code, _OWN_STATUS)

    @classmethod
    def of_config(cls, error: ConfigError) -> KrpcFault:
        """What a caller is told of an error of system_config."""
        return cls(error.code, str(error), retryable=error.code in CONFIG_RETRYABLE)
