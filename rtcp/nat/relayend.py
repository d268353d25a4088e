"""A device's end of a session on the UDP relay of an SN: with it, a path over the relay is one more UDP path.

The device sends from whatever socket it likes; :meth:`RelayEnd.bind` makes that socket's address the one the relay
forwards to, and is called again after every change of network.  Data that is wrapped before BOUND came is thrown away
by the relay, which costs no more than any datagram that is lost.

Nobody who is not in use keeps anything alive: only while ``in_use`` is set is something sent every 25 s, under the 30 s
after which common NATs forget, and only if nothing else was sent.

Time is monotonic seconds, passed in.  Whoever has much to send puts ``header`` before each datagram itself.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from ipaddress import IPv6Address

from cyfs_ns.errors import BadWire
from rtcp.nat.relaywire import (
    HEADER_SIZE,
    Control,
    Kind,
    data_header,
    is_authentic,
    read_control,
    write_control,
)

KEEP_ALIVE = 25.0

_WAITS = (0.2, 0.3, 0.5, 1.0, 1.0, 2.0, 2.0, 3.0)
"""Seconds until something is said again; then the relay is given up, after 10 s of silence."""
_HINT_EVERY = 1.0


_PREFIX = b"\1" + bytes(8)


def session_address(relay_id: bytes) -> tuple[str, int]:
    """What stands for the peer's end of a session where an address is wanted: one that is nobody's (RFC 6666)."""
    return str(IPv6Address(_PREFIX + relay_id)), 1


def stands_for_session(host: str) -> bool:
    """Whether ``host`` is of ``session_address``."""
    return host.startswith("100::") and IPv6Address(host).packed.startswith(_PREFIX)


class RelayState(Enum):
    """How a session stands, seen from one device."""

    NEW = "nothing was said yet"
    ASKING = "the relay was told that we are here"
    PROVING = "the relay's cookie was sent back"
    BOUND = "the relay forwards to us"
    FAILED = "the relay does not answer, or knows this session no more"


class RelayEnd:
    """One side (0 or 1) of the session ``relay_id``; ``key`` is what the SN gave to this side alone."""

    def __init__(self, relay_id: bytes, side: int, key: bytes) -> None:
        self.header = data_header(relay_id)
        self.state = RelayState.NEW
        self.in_use = False
        """Whether somebody wants the path kept open; to be set by whoever uses it."""
        self._relay_id, self._side, self._key = relay_id, side, key
        self._counter = self._tries = 0
        self._said = b""
        self._due: float | None = None
        self._sent_at = float("-inf")
        self._hinted_at = float("-inf")
        self._outbox: deque[bytes] = deque()

    def bind(self, now: float) -> None:
        """Have the relay forward to the address that what we send comes from; again when that may have changed."""
        self._ask(now)
        self.state = RelayState.ASKING

    def wrap(self, payload: bytes, now: float) -> bytes:
        """``payload`` for the peer, as it is to be sent to the relay."""
        self._sent_at = now
        return self.header + payload

    def sent(self, now: float) -> None:
        """Something was sent to the peer with ``header`` before it."""
        self._sent_at = now

    def receive(self, untrusted: bytes, now: float) -> bytes | None:
        """A datagram from the relay: what the peer says, or None if the relay spoke itself.

        Raises ``BadWire`` for what is neither; such a datagram is to be forgotten, the session goes on.
        """
        if untrusted.startswith(self.header):
            return untrusted[HEADER_SIZE:]
        message = read_control(untrusted)
        if message.relay_id != self._relay_id:
            raise BadWire("a message for another session")
        if message.kind is Kind.LOST:
            if self.state is RelayState.BOUND and now - self._hinted_at >= _HINT_EVERY:
                self._hinted_at = now
                self.bind(now)
            return None
        if message.side != self._side or not is_authentic(untrusted, self._key):
            raise BadWire("a message that is not from our relay")
        if message.counter == self._counter and self._due is not None:
            self._answered(message, now)
        return None

    def data_to_send(self) -> bytes | None:
        """The next datagram for the relay, or None; to be asked after every call that takes the time."""
        return self._outbox.popleft() if self._outbox else None

    def next_deadline(self) -> float | None:
        """When to call :meth:`handle_timeout`; it changes with ``in_use`` and with what is sent."""
        if self._due is not None:
            return self._due
        return self._sent_at + KEEP_ALIVE if self.in_use and self.state is RelayState.BOUND else None

    def handle_timeout(self, now: float) -> None:
        """Say again what was not answered, or that we are still here."""
        due = self.next_deadline()
        if due is None or now < due:
            return
        if self._due is None:
            self._ask(now)  # the state stays BOUND: the relay goes on forwarding meanwhile
        elif self._tries == len(_WAITS):
            self._due = None
            self.state = RelayState.FAILED
        else:
            self._say(now)

    def _ask(self, now: float) -> None:
        self._counter += 1
        self._begin(Kind.HELLO, bytes(16), now)

    def _answered(self, message: Control, now: float) -> None:
        if message.kind is Kind.BOUND:
            self.state, self._due = RelayState.BOUND, None
        elif message.kind is Kind.CHALLENGE and self._said[HEADER_SIZE] == Kind.HELLO:
            self.state = RelayState.PROVING
            self._begin(Kind.BIND, message.cookie, now)

    def _begin(self, kind: Kind, cookie: bytes, now: float) -> None:
        message = Control(kind=kind, relay_id=self._relay_id, side=self._side, counter=self._counter, cookie=cookie)
        self._said, self._tries = write_control(message, self._key), 0
        self._outbox.clear()
        self._say(now)

    def _say(self, now: float) -> None:
        self._outbox.append(self._said)
        self._sent_at, self._due = now, now + _WAITS[self._tries]
        self._tries += 1
