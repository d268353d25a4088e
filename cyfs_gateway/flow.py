"""A flow as the five stops see it: what a listener learnt, what the sniffer added, what resolution remembered.

One is made for each connection on the hot path, so it is a plain slotted object and not frozen.  Ownership keeps it
honest instead: the listener fills it, the sniffer tells it what it found (``find``), and only the decision loop writes
``dst_ip``, ``process``, ``process_path`` and ``uid``.  Rules read and never write.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cyfs_ns.trust.level import Trust

PEER: Final = "Rtcp"
"""The kind of a flow that a peer asked for through its tunnel: only rules that speak of peers let it go anywhere."""
ANSWERED: Final = ".invalid"
"""Below it are the names that gateways answer to themselves.  Only the owner's commands and the gateway itself ask for
them: who may use a way through a tunnel is not for that reason this device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who sent a flow: the device at the far end of the tunnel that brought it.

    DIDs are the text of canonical ones, empty when unknown.
    """

    did: str
    host: str
    """The host name that stands for ``did``, in its case-safe form and lower case; empty when there is none."""
    owner: str = ""
    zone: str = ""
    trust: Trust
    """How sure all of this is."""
    device: str = field(default="", compare=False)
    """The DID that is the key it has proven, whatever other name it goes by."""
    source: str = field(default="", compare=False)
    """The address that its tunnel comes from, where that is told along; empty when we dialled it."""


@dataclass(slots=True)
class Flow:
    """One TCP connection or one UDP (client, destination) pair, with Clash's metadata."""

    network: str
    """``"tcp"`` or ``"udp"``."""
    kind: str
    """Clash's metadata type: HTTP HTTPS Socks4 Socks5 Redir TProxy Tunnel Inner; ours: Rtcp (``PEER``)."""
    src_ip: str
    """Client address as text, IPv4-mapped forms already unmapped."""
    src_port: int
    host: str
    """Destination name: lower case, no trailing dot, A-labels; empty when only an address is known."""
    dst_ip: str
    """Destination address as text; empty until known.  After a resolution it is the address rules saw."""
    dst_port: int
    in_name: str = ""
    in_ip: str = ""
    in_port: int = 0
    in_user: str = ""
    sniff_host: str = ""
    """Name found by the sniffer; rules match on ``rule_host``, never on this alone."""
    dscp: int = 0
    process: str = ""
    process_path: str = ""
    uid: int = -1
    """-1: unknown."""
    identity: Identity | None = None
    """Who sent it; None unless a tunnel that proves identities brought it."""
    rematch: str = ""
    """Name given by a ``rematch`` outbound that sent the flow through the rules again (REMATCH-NAME)."""
    fenced: bool = False
    """Whether it comes from a program that is kept apart from this house (``ListenerConfig.fenced``)."""
    dns_mode: str = "normal"
    """Clash's: ``fake-ip`` when the client called a fake address, which ``host`` then replaces (it is empty when nobody
    knows that address any more); ``redir-host`` when ``host`` is what ``dst_ip`` was lately an answer to."""

    @property
    def rule_host(self) -> str:
        """The name rules match: the sniffed one when there is one (mihomo's RuleHost)."""
        return self.sniff_host or self.host

    @property
    def goal(self) -> str:
        """The name or address the way leads to.  A guessed name serves the rules only: the client has an address."""
        return self.dst_ip if self.dns_mode == "redir-host" else self.host or self.dst_ip

    def goal_by(self, kind: str) -> str:
        """The goal as an outbound of this kind is told it: a peer is found by its name, however that was learnt."""
        return self.rule_host or self.dst_ip if kind == PEER else self.goal

    @property
    def lost(self) -> bool:
        """Whether it goes to a fake address that stands for no known name, and so nowhere."""
        return self.dns_mode == "fake-ip" and not self.host

    def find(self, host: str, *, override: bool) -> None:
        """The sniffer found a name in what the client sent."""
        self.sniff_host = host
        if self.lost:
            self.host, self.dst_ip = host, ""
        elif override:
            self.host = host
            if self.dns_mode == "redir-host":
                self.dns_mode = "normal"
