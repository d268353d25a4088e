"""The vocabulary of all sniffers: a sniffer looks at the first bytes of a flow and answers in one of three ways.

``Sniffed``: this is the protocol, and this the host it names.  ``MORE``: it may still become that protocol, show more.
``NOT_IT``: it is not, and more bytes will not change that.  Sniffers never raise on strangers' bytes, since a flow that
cannot be read is not at fault: it is relayed as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from cyfs_ns import names
from cyfs_ns.errors import BadWire


@dataclass(frozen=True, slots=True)
class Sniffed:
    """What the first bytes of a flow say."""

    protocol: str
    """``tls``, ``http`` or ``quic``."""
    host: str
    """A validated name in lower case; empty when none was given, or an address or rubbish."""
    alpn: tuple[str, ...] = ()
    """Application protocols offered, in the client's order."""


class Unsettled(Enum):
    """The two answers that are no finding."""

    MORE = "more"
    NOT_IT = "not it"


MORE: Final = Unsettled.MORE
NOT_IT: Final = Unsettled.NOT_IT
SniffResult = Sniffed | Literal[Unsettled.MORE, Unsettled.NOT_IT]


def name_or_nothing(untrusted: bytes) -> str:
    """A DNS name in canonical form, or an empty text for addresses and for what cannot be a name."""
    if not untrusted.isascii():
        return ""
    try:
        host = names.host(untrusted.decode())
    except BadWire:
        return ""
    return "" if names.is_ip(host) else host
