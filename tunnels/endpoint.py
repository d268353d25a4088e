"""What a way looks like once it is open: an *endpoint*, which is a pipe (``rtcp/pipe.py`` has its rules); and the same
for datagrams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from rtcp.pipe import Pipe


@dataclass(frozen=True, slots=True)
class Target:
    """Where a flow wants to go: a lower-case name without trailing dot or a bare IP literal, and a port 0-65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Endpoint: TypeAlias = Pipe
"""One open byte stream, non-blocking."""


class PacketEndpoint(Protocol):
    """Datagrams to and from many peers, non-blocking, one descriptor to wait on.

    ``recv`` returns one datagram with its source, or raises ``BlockingIOError``.  ``send`` either sends, or drops
    (UDP's right), or raises ``OSError`` when the way is gone for good.
    """

    def fileno(self) -> int: ...
    def recv(self) -> tuple[bytes, Target]: ...
    def send(self, data: bytes | memoryview, to: Target) -> None: ...
    def close(self) -> None: ...
