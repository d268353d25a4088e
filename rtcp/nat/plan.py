"""Which packets to send where and when, so that two NATs open for each other; decided whole before the first is sent.

A NAT lets in what looks like an answer.  So both sides must send, each to the place the other's packets come *from*,
and the place must be known: it is when the NAT keeps one port for every destination (EIM), and when it counts up in
even steps.  Where one side's port is not known, the other must let in strangers' ports (EIF, ADF).  Else the relay
stays; guessing among 64,000 ports is not done.

**Who sends first.**  The *opener* answers the other's offer and knows it first, so it sends at once, with a TTL that
gets its packets past its own NAT but not to the other's: some NATs that see a packet come in before one went out give
the next one going out another port.  The *striker* starts when the answer arrives: its packets find the opener's NAT
open, and the opener answers where they came from.  A relay's round trip later (the answer must be there by then), or
some more where the striker can reach us alone, the opener sends with a full TTL, too.  No clocks are compared.

**Two predictable NATs** take one step with each new destination, so which packet leaves from which port depends on all
that was sent before.  One side counts up while the other counts down: wherever they meet, one packet of each has the
other's address, however many steps (``s`` and ``t``) other traffic took meanwhile.  The k-th of the one goes to k, the
l-th of the other to 22 - l, and they meet where k = l + t and 22 - l = k + s: 2l = 22 - s - t.  That needs an even
s + t; a second wave, to 61 - l, needs an odd one.

Labels lie (a NAT under load, a second router, a STUN server that sees another path), so what should fail is tried as
well: a few packets to every candidate.

TCP is tried where UDP promises nothing: both sides connect from a bound port to each other at once (RFC 9293 §3.5), and
a NAT takes the SYN that comes for the answer.  No low TTL here: the ICMP error it causes ends the socket, and a NAT
that has seen its SYN lets no other socket's answer out.  A NAT that drops a SYN that comes too early (RFC 5382 REQ-4)
does no harm; with one that refuses it the SYNs must cross on the way, so both start at the same moment.  A port that a
router maps for TCP leads to the peer's door: that is simply called, and has no place here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rtcp.nat.budget import MOST_A_SECOND, MOST_PROBES
from rtcp.nat.candidates import (
    PREDICTED_PORTS,
    Candidate,
    Filtering,
    Kind,
    Nat,
    Offer,
    Transport,
    predicted,
    worth_probing,
)

OPENER_TTL = 4
DURATION = 3.0
"""Seconds from the first packet with a full TTL to giving up, where a direct way is expected."""
_DOUBTED = 1.2
"""The same, where it is not."""
_PATIENCE = 0.15
"""Seconds that the opener waits for a striker who is late, if nothing is lost by waiting."""
_GAP = 1 / MOST_A_SECOND
_ROUNDS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 1.8, 2.2, 2.6)
_WAVES = (0.0, 0.1, 0.3, 0.7, 1.2, 1.8, 2.4)
"""When each target is sent to again: the waves of predicted ports are large, so fewer."""

_Round = tuple[float, Sequence[Candidate], int | None]
"""When, to whom, with which TTL."""


@dataclass(frozen=True, slots=True)
class Shot:
    """Send a probe to ``target`` (or connect to it, for TCP) ``at`` seconds after the start."""

    at: float
    target: Candidate
    ttl: int | None = None
    """None: the usual one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All of one side.  ``shots`` in order of time, at most ``MOST_PROBES``; after ``until`` seconds all is lost."""

    shots: tuple[Shot, ...]
    until: float
    doubt: str
    """Why theory expects no direct way; empty when it expects one."""


def plan(
    ours: Offer, theirs: Offer, *, opens: bool, rtt: float, own: Collection[str] = (), private: bool = False
) -> Plan:
    """What to do to reach the peer.

    ``opens``: whether we answered the peer's offer, so start first; ``rtt``: seconds to the peer and back over the
    relay; ``own`` and ``private`` as for :func:`~rtcp.nat.candidates.worth_probing`.
    """
    targets = worth_probing(theirs, ours, own, private=private)
    udp = [c for c in targets if c.transport is Transport.UDP]
    tcp = [c for c in targets if c.transport is Transport.TCP and c.kind is not Kind.MAPPED]
    doubt = _doubt_udp(ours.nat, theirs.nat)
    guessed = _guesses(ours.nat, theirs.nat, udp, opens)
    simultaneous = bool(doubt and tcp and ours.nat.tcp and theirs.nat.tcp)
    strike = 0.0
    if opens:
        strike = rtt + (_PATIENCE if ours.nat.port_known and theirs.nat.filtering is not Filtering.EIF else 0.0)
    rounds: list[_Round] = [(strike + at, guessed, None) for at in _WAVES if guessed]
    rounds += [(strike + at, udp, None) for at in _ROUNDS]
    rounds.sort(key=lambda round_: round_[0])
    if opens:
        rounds.insert(0, (0.0, [*guessed, *(c for c in udp if not c.private)], OPENER_TTL))
    until = strike + rtt + (_DOUBTED if doubt and not simultaneous else DURATION)
    shots = [shot for shot in _paced(rounds) if shot.at < until][:MOST_PROBES]
    if simultaneous:
        shots = [Shot(rtt / 2 if opens else 0.0, c) for c in tcp] + shots
        doubt = ""
    return Plan(shots=tuple(sorted(shots, key=lambda shot: shot.at)), until=until, doubt=doubt)


def _paced(rounds: Sequence[_Round]) -> Iterator[Shot]:
    free = 0.0
    for at, targets, ttl in rounds:
        for target in targets:
            free = max(free, at)
            yield Shot(free, target, ttl)
            free += _GAP


def _guesses(ours: Nat, theirs: Nat, targets: Sequence[Candidate], opens: bool) -> list[Candidate]:
    """The ports a predictable peer will come from, in the order that suits our own NAT."""
    seen = next((c for c in targets if c.kind is Kind.OBSERVED), None)
    if seen is None or not theirs.predictable:
        return []
    if not ours.predictable:
        return predicted(seen, theirs.delta, range(1, PREDICTED_PORTS + 1))
    n = PREDICTED_PORTS
    if opens:
        return predicted(seen, theirs.delta, range(1, 2 * n + 1))
    first, second = range(n + 1, 1, -1), range(2 * n, n, -1)
    return predicted(seen, theirs.delta, [*first, *second])


def _doubt_udp(ours: Nat, theirs: Nat) -> str:
    """Why these two cannot meet by UDP over the internet; empty when they can."""
    if not (ours.udp and theirs.udp):
        where = "on both sides" if ours.udp == theirs.udp else "here" if theirs.udp else "on the far side"
        return f"UDP is blocked {where}"
    if ours.port_known and theirs.port_known:
        return ""
    for known, unknown in ((ours, theirs), (theirs, ours)):
        if known.port_known and known.filtering in (Filtering.EIF, Filtering.ADF):
            return ""
        if known.port_known:
            return f"{'the far NAT' if known is ours else 'our NAT'} is {unknown}"
    return f"our NAT is {ours} and the far one {theirs}"
