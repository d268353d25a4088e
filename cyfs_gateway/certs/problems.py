"""What an authority's refusal means (RFC 8555 section 6.7): who has to do something, and when it makes sense to ask
again."""

from __future__ import annotations

from typing import Final

from cyfs_gateway.certs.upkeep import CertFault, Whose
from cyfs_ns.printable import printable

_PREFIX: Final = "urn:ietf:params:acme:error:"
_WHOSE: Final[dict[str, Whose]] = {
    "rateLimited": "limit",
    "caa": "proof",
    "connection": "proof",
    "dns": "proof",
    "dnssec": "proof",
    "incorrectResponse": "proof",
    "tls": "proof",
    "unauthorized": "proof",
    "accountDoesNotExist": "settings",
    "externalAccountRequired": "settings",
    "invalidContact": "settings",
    "rejectedIdentifier": "settings",
    "unsupportedContact": "settings",
    "unsupportedIdentifier": "settings",
    "userActionRequired": "settings",
}
_HINTS: Final[dict[str, str]] = {
    "externalAccountRequired": "it wants eab: with the kid and hmac it gave you",
    "caa": "the CAA records of the name forbid this authority",
    "userActionRequired": "its terms have changed; see its page",
    "rejectedIdentifier": "it does not certify this name",
}


def judged(problem: str, detail: str, *, name: str = "", wait: float = 0.0) -> CertFault:
    """The fault for a problem document's ``type`` and ``detail``, which are strangers' words; ``name``: of which host;
    ``wait``: its Retry-After in seconds."""
    kind = problem.removeprefix(_PREFIX)
    said = printable(" ".join(filter(None, (f"{name}:" if name else "", detail or kind or "it gave no reason"))))
    if kind in _HINTS:
        said += f" ({_HINTS[kind]})"
    return CertFault(_WHOSE.get(kind, "authority"), said, wait)
