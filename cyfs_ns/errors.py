"""The errors of the house, split by what the catcher does next, not by where they were raised.

``Misuse`` is our own bug and is left to crash.  ``PeerFault`` is the other side's: close that link, keep the rest.
``Unreachable`` is nobody's fault: try the next way; ``__cause__`` tells why.  ``Refused`` is policy: answer politely,
do not retry.  ``ConfigFault`` is the owner's to mend and always names the place.
"""

from __future__ import annotations


class CyfsError(Exception):
    """Raised on purpose by us; never raised bare."""


class Misuse(CyfsError):
    """We asked for what the protocol or the interface forbids: our bug, let it crash."""


class PeerFault(CyfsError):
    """The other side broke the rules: close this link, keep the house."""


class BadWire(PeerFault):
    """Bytes that cannot be what they claim."""


class Unreachable(CyfsError):
    """Nobody's fault: try the next route.

    ``reason`` is one of the machine-readable prefixes of :data:`REASONS`, for status tables and SOCKS reply codes.
    """

    def __init__(self, message: str, reason: str = "other") -> None:
        super().__init__(message)
        self.reason = reason if reason in REASONS else "other"


class Refused(CyfsError):
    """A rule or a policy said no: answer politely, do not retry."""


class ConfigFault(CyfsError):
    """The configuration cannot be used as written; the message names path and line."""


REASONS = frozenset(
    {
        "pre_connect_dns",
        "pre_connect_route",
        "connect_refused",
        "connect_timeout",
        "tls_handshake",
        "tunnel_open",
        "unsupported_scheme",
        "other",
    }
)
"""Why a way could not be taken, as the status table of tunnels names it."""
