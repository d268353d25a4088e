"""What every outbound is to those who use it: a name, a Clash type, and two verbs.

An ``Outbound`` that is a group answers ``pick`` with a member; a leaf answers with itself.  Rules choose a name,
``pick`` walks down to the leaf, and the names passed on the way are the flow's *chain*, leaf first as Clash prints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tunnels.endpoint import Endpoint, PacketEndpoint, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowHint:
    """The little that outbounds may know of a flow: some strategies choose by it, and some ways tell its source."""

    source: str = ""
    """Client IP address, or empty for the gateway's own traffic."""
    source_port: int = 0
    host: str = ""
    """Destination name or address."""
    udp: bool = False


@runtime_checkable
class Pinged(Protocol):
    """An outbound that can tell how far its other end is, which may let nobody out to a web server."""

    async def ping(self) -> float:
        """Seconds there and back.  Raises ``Unreachable`` and ``Refused``."""


class Outbound(Protocol):
    """A way out.  Open calls raise ``Unreachable`` or ``Refused``; cancelling them leaks nothing."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str:
        """Clash's type string: Direct, Reject, RejectDrop, Pass, Dns, Socks5, Http, Selector, URLTest ..."""

    @property
    def udp(self) -> bool:
        """Whether ``open_packets`` can work at all."""

    def pick(self, hint: FlowHint) -> Outbound:
        """The next hop down: a group's chosen member now, or ``self`` for a leaf.  Never blocks.

        A leaf that wants to know whose flow it carries gives itself made out to that client, under the same name; one
        that is made out to nobody never answers with itself, as that would be remembered.
        """

    async def open_stream(self, target: Target) -> Endpoint: ...
    async def open_packets(self, target: Target) -> PacketEndpoint:
        """A packet way; ``target`` is the first destination, a hint: the endpoint reaches any."""
