"""The table of the UDP relay: which two devices are joined, where each was last proven to be, and who may stay.

The relay forwards for a session and for nobody else.  A session is made by the SN for two devices that are
authenticated by their tunnels; each is given the session's id and a key (``rtcp/nat/relaywire.py`` has the messages).
What comes from the address where one side is bound, with the id in front, goes to the address where the other side is
bound, unchanged.  The table of ways holds exactly these pairs, so whatever a stranger sends finds no way: neither a
guessed id nor a spoofed address is enough alone, and an address gets into the table only after its owner sent back a
cookie that was sent there.  Who can do all that for a side has its key, or stands on its path, where it could drop
everything anyway; what the peers say to each other is encrypted between them and means nothing to either.

A session costs no task, no timer and no socket: it is one object with two sides, looked at when a packet comes or when
its time may be over.

Absent on purpose: any way to name a destination, and any reply that is larger than what it replies to.

Time is monotonic seconds.  Addresses are raw ``sockaddr`` octets, which is what the hot path has in its hands.
"""

from __future__ import annotations

import heapq
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cyfs_gateway.sn.relaylease import Lease, Renewed
from cyfs_ns.errors import BadWire, Refused
from rtcp.nat.relaywire import (
    COOKIE_SIZE,
    DATA,
    HEADER_SIZE,
    ID_SIZE,
    KEY_SIZE,
    LOST_SIZE,
    Control,
    Kind,
    data_header,
    is_authentic,
    read_control,
    write_control,
    write_lost,
)

SECRET_LIFETIME = 120.0
"""Seconds after which cookies come from a new secret; those from the one before still count."""
RANDOM_SIZE = ID_SIZE + 2 * KEY_SIZE
"""Random octets that a new session needs."""

_HINTS_A_SECOND, _CHECKS_A_SECOND = 4, 64
_STALE = 1024
_ENDED_AT_ONCE = 512

Door = TypeVar("Door")
"""What the shell needs, beside the address, to send something back the way it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayBounds:
    """Seconds and numbers.  ``bind``: until both sides must be bound; ``idle``: how long nothing may come from either;
    ``lifetime``: the longest a session may be asked for.  ``rate``: octets a second of one session, both ways together.
    """

    sessions: int = 65536
    of_account: int = 256
    bind: float = 30.0
    idle: float = 300.0
    lifetime: float = 24 * 3600.0
    rate: int = 125_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What the two devices are told: both the id, each its own key; the relay is theirs until ``until`` at most."""

    relay_id: bytes
    keys: tuple[bytes, bytes] = field(repr=False)
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a session was, for the ledger and the log.  ``unused``: octets granted that are given back."""

    account: str
    relay_id: bytes
    why: str
    seconds: float
    octets: int
    datagrams: int
    unused: int


@dataclass(slots=True)
class RelayCounters:
    """Datagrams since the start, by what became of them; a burst that the kernel joined counts as all it holds."""

    forwarded: int = 0
    octets: int = 0
    """Taken in to be forwarded, headers of the relay included: what is metered."""
    waiting: int = 0
    """The other side is not bound."""
    slowed: int = 0
    refused: int = 0
    unsent: int = 0
    """The socket was full, there was no way to the address, or the datagram was too large for it."""
    unknown: int = 0
    """No session has that id, or nobody knows what it is."""
    unproven: int = 0
    """The id was right, the address was not."""
    forged: int = 0
    """Control messages that nobody with the key can have made for this address and time, or too many of them."""
    bound: int = 0
    """Times that a side was bound to another address than before."""
    opened: int = 0


class Side(Generic[Door]):
    """One of the two.  ``address``: where it is bound, or empty; ``door``: how things get there.

    ``lease`` is that of the session, at hand for the hot path.  ``joined``: whether bursts may be sent to it as one;
    the shell's to clear, when the kernel refused one.
    """

    __slots__ = ("address", "counter", "door", "joined", "key", "lease", "session")

    def __init__(self, session: Session[Door], key: bytes) -> None:
        self.session, self.key, self.lease = session, key, session.lease
        self.address = b""
        self.door: Door | None = None
        self.counter = 0
        self.joined = True


class Session(Generic[Door]):
    """Two sides.  ``used``: when something last came from either."""

    __slots__ = (
        "_checks",
        "_hints",
        "_second",
        "account",
        "datagrams",
        "header",
        "lease",
        "octets",
        "opened",
        "sides",
        "stood",
        "until",
        "used",
    )

    def __init__(self, account: str, header: bytes, keys: tuple[bytes, bytes], rate: int, now: float) -> None:
        self.account, self.header = account, header
        self.lease = Lease(rate, now)
        self.opened = self.used = now
        self.until = 0.0
        self.stood = False
        """Both sides were bound at one time."""
        self.octets = self.datagrams = 0
        self.sides: tuple[Side[Door], Side[Door]] = (Side(self, keys[0]), Side(self, keys[1]))
        self._second = self._hints = self._checks = 0

    @property
    def relay_id(self) -> bytes:
        return self.header[1:]

    def may_hint(self, now: float) -> bool:
        """Whether one more LOST may be sent this second: data comes fast, and from addresses that may be forged."""
        self._count_from(int(now))
        self._hints += 1
        return self._hints <= _HINTS_A_SECOND

    def may_check(self, now: float) -> bool:
        """Whether one more control message may be looked at this second: a MAC costs more than a packet forwarded.

        Only the two devices and who stands on their way know the session's id, and all of them can spoil it anyway.
        """
        self._count_from(int(now))
        self._checks += 1
        return self._checks <= _CHECKS_A_SECOND

    def _count_from(self, second: int) -> None:
        if second != self._second:
            self._second, self._hints, self._checks = second, 0, 0


class Relay(Generic[Door]):
    """All sessions.  ``take(session, octets)`` grants octets to a session's account or says no, at once; ``ended``
    hears of each session that is over.  ``secret``: 32 random octets.
    """

    def __init__(
        self,
        bounds: RelayBounds,
        take: Callable[[Session[Door], int], bool],
        ended: Callable[[Ended], None],
        secret: bytes,
        now: float,
    ) -> None:
        self.counters = RelayCounters()
        self.ways: dict[bytes, Side[Door]] = {}
        """Where what came goes: by the address it came from followed by its header, the side it is for."""
        self._bounds, self._take, self._ended = bounds, take, ended
        self._sessions: dict[bytes, Session[Door]] = {}
        self._of_account: dict[str, int] = {}
        self._due: list[tuple[float, bytes]] = []
        self._secrets = [secret]
        self._secret_due = now + SECRET_LIFETIME

    def __len__(self) -> int:
        return len(self._sessions)

    # Sessions

    def allocate(
        self, account: str, random: bytes, now: float, *, lifetime: float | None = None, rate: int | None = None
    ) -> Allocation:
        """A new session that ``account`` pays for.  ``random``: ``RANDOM_SIZE`` octets.  Raises ``Refused``."""
        bounds = self._bounds
        if len(self._sessions) >= bounds.sessions:
            raise Refused("this relay holds as many sessions as it can")
        if self._of_account.get(account, 0) >= bounds.of_account:
            raise Refused("this account has as many sessions on the relay as it may")
        relay_id = random[:ID_SIZE]
        if relay_id in self._sessions:
            raise Refused("this id of a session is taken")  # once in millions of years
        keys = random[ID_SIZE : ID_SIZE + KEY_SIZE], random[ID_SIZE + KEY_SIZE : RANDOM_SIZE]
        session = Session[Door](account, data_header(relay_id), keys, min(rate or bounds.rate, bounds.rate), now)
        session.until = now + min(lifetime or bounds.lifetime, bounds.lifetime)
        self._sessions[relay_id] = session
        self._of_account[account] = self._of_account.get(account, 0) + 1
        self._expect(session)
        self.counters.opened += 1
        return Allocation(relay_id=relay_id, keys=keys, until=session.until)

    def end(self, relay_id: bytes, why: str) -> None:
        """Forget a session.  Harmless when there is none of that id."""
        session = self._sessions.pop(relay_id, None)
        if session is None:
            return
        for side in session.sides:
            self._unbind(side)
        others = self._of_account[session.account] - 1
        if others:
            self._of_account[session.account] = others
        else:
            del self._of_account[session.account]
        self._ended(
            Ended(
                account=session.account,
                relay_id=relay_id,
                why=why,
                seconds=session.used - session.opened,
                octets=session.octets,
                datagrams=session.datagrams,
                unused=session.lease.unused,
            )
        )

    def end_account(self, account: str, why: str) -> None:
        """Forget all sessions of an account."""
        for relay_id in [each for each, session in self._sessions.items() if session.account == account]:
            self.end(relay_id, why)

    def slow(self, account: str, rate: int) -> None:
        """Let each session of an account move ``rate`` octets a second from now on."""
        for session in self._sessions.values():
            if session.account == account:
                session.lease.rate = max(1, min(rate, self._bounds.rate))

    # Time

    def next_deadline(self) -> float:
        """When to call :meth:`handle_timeout`."""
        return min(self._secret_due, self._due[0][0]) if self._due else self._secret_due

    def handle_timeout(self, random: bytes, now: float) -> None:
        """End what is over, so much at once that it takes a moment only: the next deadline may have passed.

        ``random``: 32 octets.
        """
        if now >= self._secret_due:
            self._secrets = [random, self._secrets[0]]
            self._secret_due = now + SECRET_LIFETIME
        for _ in range(_ENDED_AT_ONCE):
            if not self._due or self._due[0][0] > now:
                break
            _, relay_id = heapq.heappop(self._due)
            session = self._sessions.get(relay_id)
            if session is None:
                continue
            deadline = self._deadline(session)
            if deadline > now:
                heapq.heappush(self._due, (deadline, relay_id))
            elif now >= session.until:
                self.end(relay_id, "its time was over")
            else:
                self.end(relay_id, "idle" if session.stood else "never bound")

    def _deadline(self, session: Session[Door]) -> float:
        """When ``session`` is over, unless it is used meanwhile; what is due then looks again."""
        quiet = session.used + self._bounds.idle if session.stood else session.opened + self._bounds.bind
        return min(session.until, quiet)

    def _expect(self, session: Session[Door]) -> None:
        if len(self._due) > 2 * len(self._sessions) + _STALE:
            # Sessions that were ended early leave their entries behind, and somebody may end as fast as they begin.
            self._due = [(self._deadline(each), relay_id) for relay_id, each in self._sessions.items()]
            heapq.heapify(self._due)
        else:
            heapq.heappush(self._due, (self._deadline(session), session.relay_id))

    # What comes

    def renew(self, session: Session[Door], octets: int, datagrams: int, now: float) -> bool:
        """Whether so much may pass, for which the session's lease has not enough left."""
        renewed = session.lease.renew(octets, now, lambda grant: self._take(session, grant))
        if renewed is Renewed.SLOWED:
            self.counters.slowed += datagrams
        elif renewed is Renewed.REFUSED:
            self.counters.refused += datagrams
        return renewed is Renewed.GIVEN

    def knows(self, untrusted: bytes) -> bool:
        """Whether a datagram that begins as one of the relay's has the id of a session."""
        return untrusted[1:HEADER_SIZE] in self._sessions

    def hear(self, untrusted: bytes, source: bytes, door: Door, now: float) -> bytes | None:
        """A datagram that begins as one of the relay's and has no way; what to reply, never more than came."""
        session = self._sessions.get(untrusted[1:HEADER_SIZE])
        if session is None:
            return None
        if untrusted[0] == DATA:
            self.counters.unproven += 1
            return write_lost(session.relay_id) if len(untrusted) >= LOST_SIZE and session.may_hint(now) else None
        if not session.may_check(now):
            self.counters.forged += 1
            return None
        try:
            message = read_control(untrusted)
            side = session.sides[message.side]
            if message.kind not in (Kind.HELLO, Kind.BIND) or not is_authentic(untrusted, side.key):
                raise BadWire("not from one of the two")
        except BadWire:
            self.counters.forged += 1
            return None
        answer = self._answer(message, side, source, door, now)
        if answer is None:
            self.counters.forged += 1
        return answer

    def _answer(self, message: Control, side: Side[Door], source: bytes, door: Door, now: float) -> bytes | None:
        if source == side.address and message.counter >= side.counter:
            side.counter = message.counter
            side.session.used = now
            return _reply(Kind.BOUND, message, side)
        if message.counter <= side.counter:
            return None
        if message.kind is Kind.HELLO:
            return _reply(Kind.CHALLENGE, message, side, _cookie(self._secrets[0], message, source))
        if not any(hmac.compare_digest(message.cookie, _cookie(each, message, source)) for each in self._secrets):
            return None
        self._bind(message, side, source, door, now)
        return _reply(Kind.BOUND, message, side)

    def _bind(self, message: Control, side: Side[Door], source: bytes, door: Door, now: float) -> None:
        session = side.session
        other = session.sides[1 - message.side]
        self._unbind(side)
        if other.address == source:
            self._unbind(other)  # its NAT gave the port to this one: the younger proof counts
        side.address, side.door, side.counter, side.joined = source, door, message.counter, True
        self.ways[source + session.header] = other
        session.used = now
        self.counters.bound += 1
        session.stood = session.stood or bool(other.address)

    def _unbind(self, side: Side[Door]) -> None:
        if side.address:
            del self.ways[side.address + side.session.header]
            side.address, side.door = b"", None


def _reply(kind: Kind, to: Control, side: Side[Door], cookie: bytes = bytes(COOKIE_SIZE)) -> bytes:
    reply = Control(kind=kind, relay_id=to.relay_id, side=to.side, counter=to.counter, cookie=cookie)
    return write_control(reply, side.key)


def _cookie(secret: bytes, message: Control, source: bytes) -> bytes:
    what = message.relay_id + bytes((message.side,)) + message.counter.to_bytes(8, "big") + source
    return hmac.digest(secret, what, "sha256")[:COOKIE_SIZE]
