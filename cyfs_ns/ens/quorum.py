"""What several Ethereum nodes said, weighed: the value that enough of them agree on, and by name who said otherwise.

A node can lie, lag or be on another fork, and one alone can do all of it unseen.  So several are asked the same at the
same block.  The block is one they all have: the lowest head of those that are near each other, less a margin, because
heads move and are sometimes taken back.  A node that is far behind the others is left out and named, or it could hold
everybody in the past.

A voice is a host: whoever runs it can make all its ports and URLs say the same.  Whether two hosts are two people's
nobody here can tell.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from cyfs_ns.trust.level import Trust

MARGIN = 2
"""Blocks below the common head."""
LAG = 25
"""Blocks (five minutes) that a node may be behind most others and still be asked."""

_THIS_MACHINE = "127.0.0.1"
_LOOPBACK_6 = ipaddress.ip_address("::1")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A node, as far as weighing needs to know it.  ``name`` is fit for logs."""

    name: str
    authentic: bool
    """Whether nobody on the way can speak in its place: TLS, or this machine."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A node that gave no answer, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class Agreed(Generic[_T]):
    """``backers`` all said ``value``, and no other value was said by as many."""

    value: _T
    backers: tuple[Endpoint, ...]
    dissenters: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Disagreed:
    """No value has enough voices.  ``sides`` are those who agree with each other."""

    sides: tuple[tuple[Endpoint, ...], ...]

    @property
    def why(self) -> str:
        said = " against ".join(" and ".join(end.name for end in side) for side in self.sides)
        return f"the Ethereum nodes contradict each other: {said}"


@dataclass(frozen=True, slots=True)
class TooFew:
    """Not enough nodes answered at all."""

    faults: tuple[str, ...]
    needed: int

    @property
    def why(self) -> str:
        return f"fewer than {self.needed} Ethereum nodes answer: {'; '.join(self.faults) or 'none is set'}"


Verdict: TypeAlias = "Agreed[_T] | Disagreed | TooFew"


def voice(host: str) -> str:
    """Whose voice that of ``host`` (a name or an address, without its port) is: all names of this machine are one."""
    host = host.lower().removesuffix(".")
    if host.endswith("localhost"):
        return _THIS_MACHINE if host == "localhost" or host.endswith(".localhost") else host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = address if mapped is None else mapped
    return _THIS_MACHINE if address.is_unspecified or address == _LOOPBACK_6 else str(address)


def judge(answers: Mapping[Endpoint, _T | Fault], needed: int) -> Agreed[_T] | Disagreed | TooFew:
    """The verdict.  Values are compared as they are; ``needed`` voices make one, if no other has as many."""
    sides: dict[_T, list[Endpoint]] = {}
    faults = []
    for endpoint, answer in answers.items():
        if isinstance(answer, Fault):
            faults.append(f"{endpoint.name}: {answer.why}")
        else:
            sides.setdefault(answer, []).append(endpoint)
    ranked = sorted(sides.items(), key=lambda side: -len(side[1]))
    if sum(map(len, sides.values())) < needed:
        return TooFew(tuple(faults), needed)
    value, backers = ranked[0]
    if len(backers) < needed or (len(ranked) > 1 and len(ranked[1][1]) == len(backers)):
        return Disagreed(tuple(tuple(side) for _, side in ranked))
    return Agreed(value, tuple(backers), tuple(end for _, side in ranked[1:] for end in side))


def level(backers: tuple[Endpoint, ...], asked: int) -> Trust:
    """What it is worth that these agree, of the ``asked`` that are configured.

    A quorum is most of them, and takes two that nobody on the way can speak for.
    """
    authentic = sum(end.authentic for end in backers)
    if authentic >= 2 and 2 * authentic > asked:
        return Trust.QUORUM
    return Trust.AUTH_CHANNEL if authentic else Trust.PLAIN_DNS if backers else Trust.NONE


def common_block(heads: Mapping[Endpoint, int]) -> tuple[int, tuple[Endpoint, ...]]:
    """The block to ask everybody at, and who is too far behind to be asked.  ``heads`` must not be empty.

    Near is measured from the middle head, the higher of two: a single node can neither hold the others back nor lead
    them to a block they do not have.
    """
    ordered = sorted(heads.values())
    middle = ordered[len(ordered) // 2]
    near = [head for head in ordered if head >= middle - LAG]
    behind = tuple(end for end, head in heads.items() if head < middle - LAG)
    return max(near[0] - MARGIN, 0), behind
