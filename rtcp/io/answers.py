"""What the codes of ANSWER and RESET mean as errors, and errors as codes (§8.1 and §8.2 of docs/rtcp-v5.md).

Codes of ANSWER below 16 are the results of version 4.
"""

from __future__ import annotations

from cyfs_ns.errors import CyfsError, Refused, Unreachable
from rtcp.v5.frames import Code, Stop

_CODES = {
    "connect_timeout": Code.TIMEOUT,
    "connect_refused": Code.CONNECT_REFUSED,
    "pre_connect_dns": Code.NAME_UNKNOWN,
}
_REASONS = {code: reason for reason, code in _CODES.items()}
_FAULTS = {
    Code.TIMEOUT: "the peer says that its target did not answer",
    Code.CONNECT_REFUSED: "the peer says that its target refused the connection",
    Code.NAME_UNKNOWN: "the peer does not know its target's name",
    Code.UNREACHABLE: "the peer says that there is no way to its target",
    Code.UNSUPPORTED: "the peer does not carry such streams",
}
_WHY = {
    Stop.CANCELLED: "the peer wants it no more",
    Stop.TARGET_RESET: "the peer's target broke it off",
    Stop.TIMEOUT: "it took too long",
    Stop.LOST: "the way to the peer was lost",
    Stop.STALLED: "it was not read while others had to wait",
}


class TunnelOver(Unreachable):
    """The tunnel ended before the peer answered, so the same may be asked of another one."""


class TooSoon(Unreachable):
    """The peer takes no more requests at the moment."""


def why_reset(code: int) -> str:
    """Why a conversation was reset, for people."""
    return next((why for known, why in _WHY.items() if known == code), f"the peer ended it (code {code})")


def code_of(fault: Unreachable) -> Code:
    """What tells the peer that its target cannot be reached."""
    return _CODES.get(fault.reason, Code.UNREACHABLE)


def fault_of(code: int) -> CyfsError:
    """What an answer other than yes means to whoever asked."""
    match code:
        case Code.NOT_AUTHORIZED:
            return Refused("the peer refuses to open this stream")
        case Code.QUOTA | Code.RATE_LIMITED:
            return TooSoon("the peer takes no more streams at the moment", "tunnel_open")
        case Code.DRAINING:
            return TunnelOver("the peer takes no new streams", "tunnel_open")
    known = next((one for one in _FAULTS if one == code), None)
    said = _FAULTS[known] if known is not None else f"the peer cannot open this stream (code {code})"
    return Unreachable(said, _REASONS.get(known, "tunnel_open") if known is not None else "tunnel_open")
