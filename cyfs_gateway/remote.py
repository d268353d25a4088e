"""How people write what they want to reach at another device, and where they want it here.

``PEER:PORT`` is a port of that device, ``PEER/HOST:PORT`` one of a host that it reaches for us.  A peer is a DID or the
host name that stands for it; who that is, and whether there is one, is found out when it is called.
"""

from __future__ import annotations

from dataclasses import dataclass

from cyfs_ns.errors import BadWire
from tunnels.authority import parse_authority

_MOST = 1024
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Remote:
    """``port`` of ``host`` as ``peer`` sees it; an empty host is the peer itself."""

    peer: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.peer}/{host}:{self.port}" if host else f"{self.peer}:{self.port}"


def parse_remote(text: str, behind: str = "") -> Remote:
    """``PEER:PORT``, ``PEER/HOST:PORT``, or ``PEER`` with ``behind`` being ``HOST:PORT``.  Raises ``BadWire``."""
    if len(text) > _MOST:
        raise BadWire("that is too long for a peer and a port")
    _check_characters(text + behind)
    peer, slash, path = text.partition("/")
    if slash and behind:
        raise BadWire(f"{text}: a host was given twice")
    if slash or behind:
        where = parse_authority((path or behind).encode())
        host, port = where.host, where.port
        if not port:
            raise BadWire(f"{path or behind}: port 0 is no port")
    else:
        peer, _, digits = text.rpartition(":")
        host, port = "", _port(digits, f"{text}: a peer and a port are wanted, as in photos.home.example:22")
    if not peer:
        raise BadWire(f"{text}: the peer is missing")
    return Remote(peer, host, port)


def parse_local(text: str) -> tuple[str, int]:
    """``PORT`` on loopback, or ``ADDRESS:PORT``; port 0 means any.  Raises ``BadWire``."""
    _check_characters(text)
    host, _, digits = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise BadWire(f"{text}: an IPv6 address stands in brackets, as in [::1]:8080")
    return host or _LOOPBACK, _port(digits, f"{text}: a port, or an address and a port, is wanted", least=0)


def _check_characters(text: str) -> None:
    if not text.isprintable():  # nor could half of a surrogate pair be encoded
        raise BadWire("there are characters in it that no name has")


def _port(digits: str, fault: str, least: int = 1) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and least <= int(digits) <= 65535):
        raise BadWire(fault)
    return int(digits)
