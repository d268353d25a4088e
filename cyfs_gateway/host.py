"""What a module of the gateway is, and the little it may touch.

A module is found by entry point (group ``cyfs_gateway.modules``), switched on by a section of the configuration that
carries its name, and runs in the gateway's nursery.  It sees a :class:`Host` and nothing else, which keeps floors above
the gateway out of its imports and lets each be tested against a fake.  A module that fails is switched off and
reported; the gateway goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tunnels.endpoint import Endpoint

if TYPE_CHECKING:
    from cyfs_ns.authority import Authority

ENTRY_POINTS = "cyfs_gateway.modules"

Names = Callable[[str], Sequence[str]]
"""Addresses of a canonical host name, empty when it is none of the module's."""
ControlMethod = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
Status = Callable[[], Mapping[str, Any]]
Changed = Callable[[Iterable[bytes]], None]
"""Takes the wire names (lower case) at and below which an authority's answers are others from now on."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What a module's service answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpQuery:
    """A request to a module's service, head only."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    """The client's address."""


Service = Callable[[HttpQuery], Awaitable[HttpReply]]


class Host(Protocol):
    """The gateway, as a module sees it.  Registrations end with the module."""

    def register_names(self, names: Names) -> None:
        """Answer for host names before DNS is asked."""

    def register_authority(self, authority: Authority) -> Changed:
        """Let the gateway's name server answer for a domain of the public DNS, strangers too; tell it of changes by
        what comes back.

        Raises ``ConfigFault`` where another module speaks for one already.
        """

    def register_service(self, host: str, service: Service) -> None:
        """Serve plain HTTP under a host name that clients reach through the gateway's own listeners."""

    def register_route(self, host: str, url: str) -> None:
        """Carry every flow to ``host`` (``.name``: to all below that name) by a tunnel URL, before any rule.

        Raises ``ConfigFault`` for a URL that makes no sense.
        """

    def register_control(self, method: str, handler: ControlMethod) -> None:
        """Offer ``POST /cyfs/modules/NAME/METHOD`` on the control API."""

    def register_status(self, status: Status) -> None:
        """Contribute to ``cyfs-gateway status``."""

    async def open_url(self, url: str) -> Endpoint:
        """Open any tunnel URL.  Raises ``Unreachable``, ``Refused``, ``ConfigFault``."""

    def gateway_status(self) -> Mapping[str, Any]:
        """What the gateway says of itself: uptime, connections, bytes, listeners, memory."""


class Module(Protocol):
    """One module.  ``section`` is the configuration key; the constructor takes its plain content.

    ``check`` raises ``ConfigFault`` for a section that cannot be used, before anything changes.
    """

    section: str

    @classmethod
    def check(cls, settings: Any) -> None: ...

    async def run(self, host: Host, settings: Any) -> None:
        """Register, then work until cancelled."""
