"""One attempt of two ends of a tunnel to meet without whoever relays between them.

Who dialled the tunnel asks, over a stream of it; the other answers, and both punch from the ports they have already.
Keys of the probes come from both sides' random bytes, which only the two see.  What was opened is kept open, and asked
along, by pings until the next attempt.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import trio

from cyfs_ns.errors import Unreachable
from rtcp.io.nat.ground import Ground
from rtcp.io.nat.punch import Outcome, carry_out
from rtcp.io.pipe import TcpPipe
from rtcp.nat.candidates import Candidate, Kind, Offer, Transport, worth_probing
from rtcp.nat.pings import Pings
from rtcp.nat.punch import Met, Punch
from rtcp.nat.signals import SECRET
from rtcp.party import Address, Peer


def new_secret() -> bytes:
    """One side's part of the key."""
    return secrets.token_bytes(SECRET)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """``asker`` and ``answerer`` are the two secrets; ``opens``: whether we are the one who answers; ``trip``: seconds
    to the peer and back by the way there is."""

    ours: Offer
    theirs: Offer
    asker: bytes
    answerer: bytes
    opens: bool
    trip: float
    private: bool

    @property
    def secret(self) -> bytes:
        return hmac.digest(self.asker, self.answerer, "sha256")


async def gather(ground: Ground, peer: Peer) -> Offer:
    """What ``peer`` is told of us.  Raises ``Unreachable`` where nobody finds out."""
    if ground.gather is None:
        raise Unreachable("this device does not punch", "unsupported_scheme")
    with ground.share.part() as part:
        return await ground.gather(part, ground.trusts(peer))


def begin(ground: Ground, terms: Terms) -> Punch:
    """The attempt that was agreed on, which begins now."""
    return Punch(
        terms.ours,
        terms.theirs,
        opens=terms.opens,
        secret=terms.secret,
        start=trio.current_time(),
        rtt=terms.trip,
        budget=ground.budget,
        own=frozenset(c.address for c in _own(terms)),
        private=terms.private,
    )


def foreseen(attempt: Punch) -> list[Address]:
    """Where a pipe to the peer would lead if all goes as theory has it, the best first; empty where it doubts."""
    shots = [] if attempt.plan.doubt else attempt.plan.shots
    targets = [shot.target for shot in shots if shot.target.kind is not Kind.PREDICTED]
    return list(dict.fromkeys((c.address, c.port) for c in targets if c.transport is Transport.UDP))


def doors(terms: Terms) -> list[Address]:
    """Where the peer's router lets connections in to its doors."""
    own = frozenset(c.address for c in _own(terms))
    worth = worth_probing(terms.theirs, terms.ours, own, private=terms.private)
    return [(c.address, c.port) for c in worth if c.transport is Transport.TCP and c.kind is Kind.MAPPED]


async def punch(
    ground: Ground, attempt: Punch, terms: Terms, on_met: Callable[[Met], None] = lambda met: None
) -> Outcome:
    """Carry ``attempt`` out; ``on_met`` hears of each way as soon as it works."""
    tcp = [(c.address, c.port) for c in _own(terms) if c.transport is Transport.TCP]
    with ground.share.part(attempt.attempt) as part:
        return await carry_out(attempt, part, tcp=tcp, on_met=on_met, open_socket=ground.open_socket)


def _own(terms: Terms) -> list[Candidate]:
    return [c for c in terms.ours.candidates if c.kind in (Kind.LAN, Kind.HOST, Kind.IPV6)]


def pipes_of(outcome: Outcome) -> dict[Address, TcpPipe]:
    """Its connections, by where they lead."""
    pipes: dict[Address, TcpPipe] = {}
    for (_, host, port), stream in outcome.streams.items():
        sock = stream.socket
        pipes[host, port] = TcpPipe(sock.family, sock.type, sock.proto, sock.detach())
    return pipes


class Asking:
    """Pings along ways that carry nothing, and answers to the peer's; ``on_pong`` hears from where, after how long."""

    def __init__(self, ground: Ground, on_pong: Callable[[Address, float], None] = lambda source, trip: None) -> None:
        self._ground, self._on_pong = ground, on_pong
        self._pings: Pings | None = None
        self._open = ExitStack()

    def begin(self, terms: Terms) -> None:
        """By the keys of this attempt from now on."""
        self._open.close()
        pings = self._pings = Pings(
            terms.secret, opens=terms.opens, our_nonce=terms.ours.nonce, their_nonce=terms.theirs.nonce
        )
        self._open.enter_context(self._ground.share.probes(pings.attempt, self._take))

    def ping(self, to: Address) -> None:
        """Ask whether the peer is there."""
        if self._pings is not None:
            self._ground.share.send(self._pings.ping(to, trio.current_time()), to)

    def close(self) -> None:
        """May be called twice."""
        self._open.close()
        self._pings = None

    def _take(self, datagram: bytes, source: Address) -> None:
        assert self._pings is not None
        said = self._pings.receive(datagram, source, trio.current_time())
        if isinstance(said, bytes):
            self._ground.share.send(said, source)
        elif said is not None:
            self._on_pong(source, said)
