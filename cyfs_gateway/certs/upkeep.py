"""When a certificate is asked for, and when again after that went wrong.

A certificate is renewed in the last third of its life (RFC 8555 leaves it to us; authorities advise it), each at its
own moment of the first tenth of that third: a thousand homes that began on one day do not all return on one day.
Where the authority says when (RFC 9773, renewal information), that holds, even if it is *now* because it is about to
revoke.

What goes wrong is tried again, later each time, and how much later goes by what went wrong: a network comes back in
minutes, an authority that was asked too often wants to be left alone for hours, a record that is missing in the DNS
waits for a person.  That is kept on disk, or a gateway that restarts every minute would use up a week's allowance.

Clocks jump.  One that goes back must not leave an attempt waiting for years, so a wait is never longer than the
longest there is.  One that is ahead makes every certificate look old at once: what is fresh from the authority and old
all the same is not ordered again and again, but blamed on the clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from cyfs_gateway.certs.bundle import Bundle
from cyfs_ns.errors import CyfsError

Whose: TypeAlias = Literal["network", "dns", "authority", "limit", "proof", "settings", "disk", "clock"]
"""What went wrong, by who can mend it."""
State: TypeAlias = Literal["good", "due", "expired", "missing", "not yet"]

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0
_WAITS: Final[Mapping[str, tuple[float, float]]] = {
    "network": (_MINUTE, _HOUR),
    "dns": (15.0, _HOUR),  # after a start, the SN has not been reached yet
    "disk": (_MINUTE, _HOUR),
    "authority": (5 * _MINUTE, 2 * _HOUR),
    "clock": (_HOUR, 6 * _HOUR),
    "proof": (15 * _MINUTE, _DAY),
    "settings": (_HOUR, _DAY),
    "limit": (_HOUR, _DAY),
}
_LONGEST: Final = 7 * _DAY
_ADVICE: Final[Mapping[str, str]] = {
    "network": "nobody's fault here; it is tried again",
    "dns": "be a member of the SN that gives the name, or let serve-dns answer for it; it is tried again",
    "authority": "the authority's fault; it is tried again",
    "limit": "the authority was asked too often; wait, or want fewer certificates",
    "proof": "the authority could not see the proof: is the name's DNS or port what the challenge needs?",
    "settings": "mend the section certificates: of the configuration",
    "disk": "make room, or let the gateway write to its home",
    "clock": "set this machine's clock",
}
_MOST_SAID: Final = 600


class CertFault(CyfsError):
    """A certificate could not be had.  ``wait`` is how many seconds the authority wants to be left alone."""

    def __init__(self, whose: Whose, said: str, wait: float = 0.0) -> None:
        super().__init__(said[:_MOST_SAID])
        self.whose: Whose = whose
        self.wait = wait

    @property
    def advice(self) -> str:
        """Whose fault, and what to do."""
        return _ADVICE[self.whose]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What went wrong with one certificate, as it is remembered.  Times are seconds since 1970."""

    failures: int
    since: float
    next_try: float
    whose: Whose
    said: str

    @property
    def advice(self) -> str:
        return _ADVICE[self.whose]


def after(fault: CertFault, before: Trouble | None, now: float, die: float) -> Trouble:
    """What to remember of a failure; ``die``, 0 to 1 by chance, spreads the next attempts of many."""
    failures = before.failures + 1 if before is not None else 1
    first, most = _WAITS[fault.whose]
    wait = min(most, first * 2.0 ** min(failures - 1, 20)) * (0.75 + die / 2)
    return Trouble(
        failures=failures,
        since=before.since if before is not None else now,
        next_try=now + max(wait, min(fault.wait, _LONGEST)),
        whose=fault.whose,
        said=str(fault),
    )


def renewal_time(bundle: Bundle, told: float | None = None) -> float:
    """When to renew, seconds since 1970; ``told`` is what the authority said, if it did."""
    life = bundle.not_after - bundle.not_before
    usual = bundle.not_after - life / 3 + bundle.spread * life / 30
    return usual if told is None else min(told, bundle.not_after - life / 20)


def state_of(bundle: Bundle | None, now: float, told: float | None = None) -> State:
    """How a certificate is."""
    if bundle is None:
        return "missing"
    if now < bundle.not_before:
        return "not yet"
    if now >= bundle.not_after:
        return "expired"
    return "due" if now >= renewal_time(bundle, told) else "good"


def next_attempt(bundle: Bundle | None, trouble: Trouble | None, now: float, told: float | None = None) -> float:
    """When to order, seconds since 1970: ``now`` or earlier means at once."""
    due = now if bundle is None else renewal_time(bundle, told)
    if trouble is None:
        return due
    return max(due, min(trouble.next_try, now + _LONGEST))


def too_old_when_new(bundle: Bundle, now: float) -> CertFault | None:
    """What is wrong with the clock if a certificate that was just given looks old by it."""
    if now >= renewal_time(bundle):
        return CertFault("clock", "the authority gave a certificate that is old by this machine's clock")
    return None


def trouble_of(untrusted: Any) -> Trouble | None:
    """A trouble as it was written to disk; None: it makes no sense, and is forgotten."""
    if not isinstance(untrusted, Mapping):
        return None
    failures, since, next_try = (untrusted.get(key) for key in ("failures", "since", "next_try"))
    said, whose = untrusted.get("said"), untrusted.get("whose")
    if type(failures) is not int or not 0 < failures < 1 << 30 or not isinstance(said, str) or whose not in _WAITS:
        return None
    if not all(isinstance(each, int | float) and 0 <= each < 1e11 for each in (since, next_try)):
        return None
    return Trouble(failures=failures, since=since, next_try=next_try, whose=whose, said=said[:_MOST_SAID])  # type: ignore[arg-type]
