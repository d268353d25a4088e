"""What a module of the gateway is, and the little it may touch.

A module is found by entry point (group ``cyfs_gateway.modules``), switched on by a section of the configuration that
carries its name, and runs in the gateway's nursery.  Where there is no such section, one of the group
``cyfs_gateway.unasked`` may say that it runs all the same; ``NAME: false`` is the last word.  It sees a :class:`Host`
and nothing else, which keeps floors above the gateway out of its imports and lets each be tested against a fake.  A
module that fails is switched off and reported; the gateway goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cyfs_gateway.flow import Identity
from cyfs_ns.errors import Refused
from cyfs_ns.metrics import Metric
from tunnels.endpoint import Endpoint

if TYPE_CHECKING:
    from cyfs_gateway.certs.source import CertificateSource
    from cyfs_ns.authority import Authority
    from cyfs_ns.identity.did import Did
    from cyfs_ns.identity.documents import DeviceDoc
    from cyfs_ns.identity.keys import PublicKey
    from rtcp.party import Address

ENTRY_POINTS = "cyfs_gateway.modules"
UNASKED = "cyfs_gateway.unasked"
"""Functions of the state directory: whether the module of that name runs though no section names it."""

Names = Callable[[str], Sequence[str]]
"""Addresses of a canonical host name, empty when it is none of the module's."""
ControlMethod = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
Status = Callable[[], Mapping[str, Any]]
Changed = Callable[[Iterable[bytes]], None]
"""Takes the wire names (lower case) at and below which an authority's answers are others from now on."""
Offer = Callable[[Identity, Endpoint], Awaitable[None]]
"""Serves one stream of a peer, which is closed when it returns.  What it raises costs that stream alone."""
Judge = Callable[[Identity], bool]
"""Whether a tunnel from somebody is wanted.  Asked again of those who have one whenever that may have changed."""
Bar = Callable[[Identity], str]
"""Why somebody is to have no tunnel, however well they are known; empty: nothing is against them.  Asked as ``Judge``
is, and of everybody."""
Metrics = Callable[[], Iterable[Metric]]
Ways = Callable[[int], Sequence[str]]
"""Tunnel URLs to what is at a port of a host just now, in the order in which they are to be tried.  Asked for each
flow."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a machine may be met.  Nobody is believed for it: who answers there proves its key."""

    addresses: tuple[Address, ...] = ()
    """Where it may take tunnels, the likeliest first."""
    relays: tuple[Did, ...] = ()
    """SNs that may lead to it."""


Search = Callable[["Did"], Whereabouts]


@dataclass(frozen=True, slots=True)
class Vouched:
    """Who somebody is: the newest ``document`` that its owner signed with the key ``signer``, as a module has verified
    it, and ``addresses`` that the owner says beside it."""

    document: DeviceDoc
    signer: PublicKey
    addresses: tuple[str, ...] = ()


Vouch = Callable[["Did"], Vouched | None]
"""What a module has verified of a name itself; None: nothing."""


class Barred(Refused):
    """Somebody whom a module knows is not wanted; the text is for them."""


class Begun(Protocol):
    """A stream that a peer is asked for."""

    @property
    def pipe(self) -> Endpoint:
        """What is said on it goes out behind the request; the peer goes by none of it before it says yes."""

    async def answered(self) -> None:
        """Until the peer says yes; to be awaited once.

        Raises ``Refused`` and ``Unreachable``; ``pipe`` is closed then, and when this is cancelled.
        """


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


class TxtPublisher(Protocol):
    """Puts TXT records into the public DNS at ``_acme-challenge.NAME``, as certificates need them (RFC 8555 section
    8.4).  Raises ``Unreachable``, ``Refused``, ``PeerFault``."""

    async def publish(self, name: str, txt: str) -> None:
        """Say this beside what is said there already; back when every server of the zone says so."""

    async def withdraw(self, name: str, txt: str) -> None:
        """Say it no longer; quiet where it is not said."""


PublisherFor = Callable[[str], TxtPublisher | None]
"""Who speaks for a canonical host name in the public DNS; None: nobody."""


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

    def register_ways(self, host: str, ways: Ways) -> Callable[[], None]:
        """Carry every flow to ``host`` by the first of its ways that can be had, before any rule; no longer, from the
        call of what comes back on, which is for once.

        Raises ``ConfigFault`` where somebody carries them already.
        """

    def register_control(self, method: str, handler: ControlMethod) -> None:
        """Offer ``POST /cyfs/modules/NAME/METHOD`` on the control API."""

    def register_status(self, status: Status) -> None:
        """Contribute to ``cyfs-gateway status``."""

    def register_metrics(self, metrics: Metrics) -> None:
        """Contribute to the metrics page.  Names begin with ``cyfs_`` and the module's own."""

    def register_offer(self, name: str, serve: Offer) -> None:
        """Answer peers who open a stream to ``NAME.invalid`` through their tunnel to this device.

        Whoever has a tunnel gets there: ``serve`` judges.  Raises ``ConfigFault`` where somebody answers already.
        """

    def register_welcome(self, judge: Judge, bar: Bar | None = None) -> Callable[[], None]:
        """Let in tunnels from strangers that ``judge`` wants, beside those whom the rules let in; what comes back is to
        be called when it would judge otherwise than before.

        Whom ``bar`` speaks against has to go, a pin and a rule that lets them in notwithstanding, unless another module
        wants them.  That holds while this module has failed, or is begun anew, until it speaks again; a gateway that
        starts knows nothing of it before.

        Who goes by a name of which nothing is known here is then met by its key alone.
        """

    def register_port(self, port: int, judge: Judge) -> Callable[[], None]:
        """Let peers that ``judge`` wants reach what listens at ``port`` of this machine's loopback, by TCP; no longer,
        from the call of what comes back on, which is for once.  The configuration's own service at that port comes
        first.

        Raises ``ConfigFault`` where a module lets peers reach it already.
        """

    def register_vouch(self, vouches: Vouch) -> None:
        """Have the module decide which key those have whom ``vouches`` tells of, whatever ``rtcp/require`` and the DNS
        say: it hears of newer documents by itself, and never goes back.  It counts while
        a pin here says the same owner; what else is pinned or revoked here counts more."""

    def register_search(self, search: Search) -> Callable[[], None]:
        """Say where machines may be met, beside what documents and the DNS say; asked whenever one is dialled, until
        the call of what comes back, which is for once."""

    @property
    def reactor(self) -> Any:
        """What moves bytes (``tunnels.io.reactor.Reactor``), for those who carry streams themselves."""

    @property
    def home(self) -> Any:
        """The state directory (``pathlib.Path``)."""

    async def own_did(self) -> Did:
        """The DID that is this device's key.  Raises ``Unreachable`` when it has none."""

    async def owner(self) -> str:
        """The DID of the owner of this device, as far as a pin says who that is; else empty."""

    async def key_of(self, did: Did) -> PublicKey | None:
        """Which key ``did`` has, as surely as ``rtcp/require`` wants it; None: nobody can say so just now."""

    async def txt_records(self, name: str) -> Sequence[bytes]:
        """The TXT records at ``name``, each as one run of bytes, from the name servers and no cache of ours; none where
        nobody answers, too."""

    def take_peer(self, sock: Endpoint, source: Address) -> None:
        """Take over a connection (an ``Endpoint``) from ``source`` that speaks rtcp, and came by a door of the
        module's."""

    def standing(self, device: Did) -> bool:
        """Whether there is a tunnel to ``device``, which is a key."""

    async def open_to_peer(
        self, device: Did, host: str | None, port: int, *, source: Address | None = None
    ) -> Endpoint:
        """A stream to ``host`` (None: that machine itself) at ``port``, through a tunnel to ``device`` that stands; no
        tunnel is made.  ``source``: whence what is carried came.  Raises ``Refused``, ``Unreachable``."""

    def ask_peer(
        self,
        device: Did,
        host: str | None,
        port: int,
        then: Callable[[Any], None],
        *,
        source: Address | None = None,
        first: bytes = b"",
    ) -> Callable[[], None] | None:
        """As :meth:`open_to_peer`, for whoever is no task (``rtcp.io.pipe.Answered``, ``GiveUp``); ``first`` is said
        behind the request, before the peer has agreed.  None: it takes a task, nothing was said, and ``then`` hears
        nothing."""

    async def begin_to_peer(self, device: Did, host: str | None, port: int, *, source: Address | None = None) -> Begun:
        """As :meth:`open_to_peer`, that waits for no answer."""

    async def open_datagrams_to_peer(
        self, device: Did, host: str | None, port: int, *, source: Address | None = None
    ) -> Any:
        """As :meth:`open_to_peer`, for datagrams (``rtcp.io.pipe.DatagramPipe``)."""

    async def call_offer(self, peer: Did, name: str) -> Endpoint:
        """A stream to what ``peer`` offers as ``NAME.invalid``; a tunnel is made if none stands.

        Raises ``Refused``, ``Unreachable``.
        """

    def register_publisher(self, publisher_for: PublisherFor) -> None:
        """Speak for names in the public DNS."""

    def publisher(self, name: str) -> TxtPublisher | None:
        """Who speaks for a canonical name: of all modules that run now, else an SN that this machine belongs to."""

    def register_certificates(self, source: CertificateSource) -> None:
        """Give certificates to whoever ends TLS in this gateway.  Raises ``ConfigFault`` where another module does."""

    @property
    def certificates(self) -> CertificateSource | None:
        """Who gives certificates now."""

    async def serve_fenced(self, name: str, door: Any) -> None:
        """Be the SOCKS and HTTP proxy of programs that are kept apart from this house, until cancelled.

        They come to ``door``, a socket that listens, and are known to rules by ``name`` (IN-NAME).  Ways out of the
        house are open to them; those that lead into it only by rules that name them.
        """

    async def serve_questions(self, door: Any, datagrams: Any) -> None:
        """Answer DNS at a TCP socket that listens, and at a UDP socket, as the house's name server, until cancelled."""

    async def open_url(self, url: str) -> Endpoint:
        """Open any tunnel URL.  Raises ``Unreachable``, ``Refused``, ``ConfigFault``."""

    def gateway_status(self) -> Mapping[str, Any]:
        """What the gateway says of itself: uptime, connections, bytes, listeners, memory."""


class Module(Protocol):
    """One module.  ``section`` is the configuration key; the constructor takes its plain content.

    ``check`` raises ``ConfigFault`` for a section that cannot be used, before anything changes.  One with an attribute
    ``welcomes`` that is true registers a welcome; who comes before it did is asked to come again in a moment.
    """

    section: str

    @classmethod
    def check(cls, settings: Any) -> None: ...

    async def run(self, host: Host, settings: Any) -> None:
        """Register, then work until cancelled."""
