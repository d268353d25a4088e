"""The caller's side of a handshake: a machine that ends in a carrier, in version 4, or in nothing (§2.2, §3.5, §10).

    SENT --message 2--> CHECKED --go_on()--> done: an ``Established``, and message 3 to send
    SENT --HelloAck to a marked Hello--> done: ``SpeaksVersion4``

Bytes and the time go in; events, bytes and the next deadline come out, as everywhere.  Whatever else comes, an end, or
a deadline leads to ``CallFailed``, which is told once.  In CHECKED the responder is proven and the caller unknown to
it: several calls may be raced so far, and all but one closed.  What comes after message 3 belongs to the carrier; the
responder's verdict has to come within ``VERDICT_WAIT``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NoReturn, TypeAlias

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.keys import PublicKey, SecretKey
from rtcp.events import LinkClosed
from rtcp.limits import Limits
from rtcp.link import Link
from rtcp.machine import Machine
from rtcp.offer import RANDOM_SIZE
from rtcp.party import Local, Remote
from rtcp.v5.established import Established, establish
from rtcp.v5.keys import DeviceKey, x25519_public
from rtcp.v5.messages import VERSION, Message, Type, envelop, mac1_key, open_retry, take_message, write_first
from rtcp.v5.noise import Initiator
from rtcp.v5.opening import marked_prologue, native_prologue
from rtcp.v5.payloads import Introduction, Parameters, read_parameters

NATIVE_ENTROPY = 32
MARKED_ENTROPY = NATIVE_ENTROPY + RANDOM_SIZE
MASKED_ENTROPY = MARKED_ENTROPY + 32
ANSWER_WAIT = 5.0
VERDICT_WAIT = 20.0

_DEFAULTS = Limits()
_TOO_SOON = "the peer spoke before it was its turn"


@dataclass(frozen=True, slots=True)
class ResponderProven:
    """The right device is at the other end.  ``Call.go_on()`` shows it who calls; ``round_trip`` in seconds."""

    parameters: Parameters
    round_trip: float


@dataclass(frozen=True, slots=True)
class SpeaksVersion4:
    """The right device answered a marked Hello in version 4.  Go on with ``link`` as it is; None: the Hello was masked,
    so close this, and open anew."""

    link: Link | None


@dataclass(frozen=True, slots=True)
class CallFailed:
    """Nothing came of it: close the connection."""

    why: str


CallEvent: TypeAlias = ResponderProven | SpeaksVersion4 | CallFailed


class _State(Enum):
    SENT = "waiting for an answer"
    CHECKED = "waiting to be told to go on"
    DONE = "over"


class Call(Machine[CallEvent]):
    """Made by :meth:`native`, :meth:`marked` or :meth:`masked`."""

    @classmethod
    def native(cls, own: DeviceKey, peer: PublicKey, *, entropy: bytes, now: float, retries: bool = False) -> Call:
        """Message 1 to ``peer``.  ``entropy``: ``NATIVE_ENTROPY`` random bytes; ``retries``: whether the carrier does
        not prove where it comes from, so that we may be asked to.  Raises ``BadWire`` for a key nobody can have."""
        if len(entropy) != NATIVE_ENTROPY:
            raise Misuse(f"a call takes {NATIVE_ENTROPY} random bytes")
        call = cls(own, peer, now)
        call._retries = retries
        call._noise = Initiator(native_prologue(peer), own.secret, entropy, x25519_public(peer))
        call._first_noise = call._noise.first(b"")
        call._send_first(now)
        return call

    @classmethod
    def marked(
        cls,
        own: DeviceKey,
        local: Local,
        remote: Remote,
        *,
        entropy: bytes,
        now: float,
        wall: float,
        limits: Limits = _DEFAULTS,
    ) -> Call:
        """A Hello of version 4 that offers version 5, under our own name.

        ``entropy``: ``MARKED_ENTROPY`` random bytes; ``wall``: seconds since 1970; ``limits``: version 4's, if it comes
        to that.  Raises ``BadWire`` as ``Link.dial``, and for a key nobody can have.
        """
        if len(entropy) != MARKED_ENTROPY:
            raise Misuse(f"a marked call takes {MARKED_ENTROPY} random bytes")
        call = cls(own, remote.key, now)
        padding = bytes(64 - MARKED_ENTROPY)  # what is not used: the mark, and the responder's challenge
        call._link = Link.dial(local, remote, entropy=entropy + padding, now=now, wall=wall, limits=limits, offers=True)
        hello = call._link.data_to_send()
        call._noise = Initiator(
            marked_prologue(remote.key, hello), own.secret, entropy[:NATIVE_ENTROPY], x25519_public(remote.key)
        )
        call._noise.first(b"")  # its tag is not sent: the Hello carries the ephemeral key
        call._send(hello, now)
        return call

    @classmethod
    def masked(
        cls,
        own: DeviceKey,
        local: Local,
        remote: Remote,
        *,
        entropy: bytes,
        now: float,
        wall: float,
        limits: Limits = _DEFAULTS,
    ) -> Call:
        """As :meth:`marked`, but from a device that nobody knows.  ``entropy``: ``MASKED_ENTROPY`` random bytes."""
        if len(entropy) != MASKED_ENTROPY:
            raise Misuse(f"a masked call takes {MASKED_ENTROPY} random bytes")
        nobody = SecretKey(entropy[MARKED_ENTROPY:])
        mask = Local(key=nobody, did=dev_did(nobody.public), bridges=local.bridges, listen_port=0)
        call = cls.marked(own, mask, remote, entropy=entropy[:MARKED_ENTROPY], now=now, wall=wall, limits=limits)
        call._is_masked = True
        return call

    def __init__(self, own: DeviceKey, peer: PublicKey, now: float) -> None:
        super().__init__()
        self._own, self._peer = own, peer
        self._noise: Initiator | None = None
        self._link: Link | None = None
        self._is_masked = False
        self._retries = False
        self._first_noise = b""
        self._theirs: Parameters | None = None
        self._buffer = bytearray()
        self._read = 0
        self._state = _State.SENT
        self._sent = now

    def __reduce__(self) -> NoReturn:
        raise Misuse("a copy of a call would use its ephemeral key twice")

    def receive_data(self, untrusted: bytes, now: float) -> None:
        """Bytes came.  Whatever they are, they raise nothing."""
        if self._state is _State.DONE or not untrusted:
            return
        try:
            if self._state is _State.CHECKED or self._out:
                raise BadWire(_TOO_SOON)
            self._buffer += untrusted
            # The third byte tells the version, of all packets and messages alike.
            if self._link is not None and len(self._buffer) > 2 and self._buffer[2] != VERSION:
                self._take_version_4(self._link, now)
            else:
                self._take_answer(now)
        except BadWire as bad:
            self._fail(str(bad))

    def receive_eof(self) -> None:
        """The peer has finished sending, or the connection broke."""
        self._fail("the connection ended in the handshake")

    def next_deadline(self) -> float | None:
        """When to call ``handle_timeout``; None: never again.  In CHECKED it is the shell's race that decides."""
        if self._state is not _State.SENT:
            return None
        # Version 4 may look names up before it answers, so a marked Hello waits as long as any Hello.
        return self._sent + ANSWER_WAIT if self._link is None else self._link.next_deadline()

    def handle_timeout(self, now: float) -> None:
        """It is ``now``: whatever was due happens.  Calling early does nothing."""
        if (due := self.next_deadline()) is not None and now >= due:
            self._fail("no answer in time")

    def go_on(self, introduction: Introduction) -> Established | None:
        """Show the responder who calls.  The first record to come is its verdict; on a new tunnel ours may follow at
        once.  None: the call failed meanwhile.  Raises ``Misuse`` before ``ResponderProven``."""
        if self._state is _State.DONE:
            return None
        noise, theirs = self._noise, self._theirs
        if self._state is not _State.CHECKED or noise is None or theirs is None:
            raise Misuse("the responder is not proven yet")
        if introduction.key != self._own.public:
            raise Misuse("an introduction of somebody else")
        third, split = noise.third(introduction.write())
        self._out += envelop(Type.THIRD, third)
        self._end()
        return establish(split, introduction, theirs, self._peer, called=False)

    def _take_answer(self, now: float) -> None:
        expected = (Type.SECOND, Type.RETRY) if self._retries else (Type.SECOND,)
        message = take_message(self._buffer, *expected)
        if message is None:
            return
        if message.type is Type.RETRY:
            self._try_again(message, now)
        else:
            assert self._noise is not None
            self._theirs = read_parameters(self._noise.second(message.body))
            self._state = _State.CHECKED
            self._events.append(ResponderProven(self._theirs, now - self._sent))
        if self._buffer:
            raise BadWire(_TOO_SOON)

    def _try_again(self, retry: Message, now: float) -> None:
        key = mac1_key(self._peer)
        sent = Message(Type.FIRST, write_first(self._first_noise, key))
        cookie = open_retry(retry, sent, self._peer)
        self._retries = False
        self._send(write_first(self._first_noise, key, cookie), now)

    def _take_version_4(self, link: Link, now: float) -> None:
        link.receive_data(bytes(self._buffer[self._read :]), now)
        self._read = len(self._buffer)
        if link.is_closed:
            event = link.next_event()
            raise BadWire(event.why if isinstance(event, LinkClosed) else "version 4 failed")
        if link.is_answered:
            self._events.append(SpeaksVersion4(None if self._is_masked else link))
            self._end()

    def _send_first(self, now: float) -> None:
        self._send(write_first(self._first_noise, mac1_key(self._peer)), now)

    def _send(self, data: bytes, now: float) -> None:
        self._out += data
        self._sent = now

    def _fail(self, why: str) -> None:
        if self._state is not _State.DONE:
            self._out.clear()
            self._events.append(CallFailed(why))
            self._end()

    def _end(self) -> None:
        self._state = _State.DONE
        self._noise = self._link = None
        self._buffer.clear()
