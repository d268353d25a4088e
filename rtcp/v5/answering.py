"""The called side of a handshake: a machine that meets a stranger and ends in a carrier, or in silence (§3.5, §10).

    KNOCKING --message 1, or a marked Hello--> PROVING --message 3--> DECIDING --accept()--> done: an ``Established``
    KNOCKING --an unmarked Hello--> done: ``OldHello``

Strangers learn nothing: up to the proof of the caller's key every failure is ``AnswerFailed`` without a byte.  After
it, a refusal is a sealed ``CLOSE``.  The checks stand in the order of the document, the cheap before the dear; nobody's
name is looked at before message 3 has opened, and the rules hear of nobody before ``CallerProven``.

In DECIDING the shell stops reading; what had come already is kept, unopened, and handed over with the carrier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NoReturn, TypeAlias

from cyfs_ns.errors import BadWire, Misuse
from rtcp.machine import Machine
from rtcp.v5.carrier import Kind
from rtcp.v5.closing import Close, CloseCode
from rtcp.v5.cookies import CookieJar
from rtcp.v5.established import Established, establish
from rtcp.v5.keys import DeviceKey, x25519_public
from rtcp.v5.messages import Message, Type, envelop, knows, mac1_key, noise_of, take_message, write_retry
from rtcp.v5.noise import Responder
from rtcp.v5.opening import FIRST_SIZE, First, native_prologue, read_first, read_offer
from rtcp.v5.payloads import Introduction, Parameters, read_introduction

ENTROPY = 32
KNOCK_WAIT = 5.0
PROOF_WAIT = 10.0
VERDICT_WAIT = 15.0

_BUSY_WAIT = 5
_MOST_WAITING = 1 << 18


@dataclass(frozen=True, slots=True)
class OldHello:
    """Somebody speaks version 4 alone: ``Link.respond()``, and begin with ``data``; or close, if we do not speak it."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Met:
    """Message 1 was good, so whoever sent it knows our key.  Nothing to do but to give it another place at the door."""


@dataclass(frozen=True, slots=True)
class CallerProven:
    """Who calls holds the key of ``introduction``.  Ask policy, or the tunnel it names; then ``accept()`` or
    ``refuse()``, and read nothing before."""

    introduction: Introduction


@dataclass(frozen=True, slots=True)
class AnswerFailed:
    """Nothing came of it: send what is left of ``data_to_send()``, and close the connection."""

    why: str


AnswerEvent: TypeAlias = OldHello | Met | CallerProven | AnswerFailed


@dataclass(frozen=True, slots=True)
class Guard:
    """Where a carrier claims to come from that does not prove it, and what is needed to make it (§3.8).

    ``host`` is an IP address; ``nonce``: 12 random bytes.  Only while the door is busy.
    """

    jar: CookieJar = field(repr=False)
    host: str
    port: int
    nonce: bytes = field(repr=False)


class _State(Enum):
    KNOCKING = "waiting for message 1"
    PROVING = "waiting for message 3"
    DECIDING = "waiting to be told whether the caller is let in"
    DONE = "over"


class Answer(Machine[AnswerEvent]):
    """``keys``: those of this device; ``parameters``: what we tell; ``entropy``: ``ENTROPY`` random bytes; ``now``:
    when the connection was accepted."""

    def __init__(
        self,
        keys: Sequence[DeviceKey],
        parameters: Parameters,
        *,
        entropy: bytes,
        now: float,
        guard: Guard | None = None,
    ) -> None:
        if len(entropy) != ENTROPY:
            raise Misuse(f"an answer takes {ENTROPY} random bytes")
        super().__init__()
        self._keys, self._parameters, self._entropy, self._guard = keys, parameters, entropy, guard
        self._noise: Responder | None = None
        self._established: Established | None = None
        self._was_sent_back = False
        self._buffer = bytearray()
        self._state = _State.KNOCKING
        self._began = now
        self._deadline = now + KNOCK_WAIT

    def __reduce__(self) -> NoReturn:
        raise Misuse("a copy of an answer would use its ephemeral key twice")

    def receive_data(self, untrusted: bytes, now: float) -> None:
        """Bytes came.  Whatever they are, they raise nothing."""
        if self._state is _State.DONE or not untrusted:
            return
        try:
            self._check_turn(self._out)
            self._buffer += untrusted
            if self._state is _State.KNOCKING:
                self._take_knock()
                self._check_turn(self._out and self._buffer)
            elif self._state is _State.PROVING:
                self._take_proof(now)
            elif len(self._buffer) > _MOST_WAITING:
                raise BadWire("too much came before the verdict")
        except BadWire as bad:
            self._fail(str(bad))

    def receive_eof(self) -> None:
        """The peer has finished sending, or the connection broke."""
        self._fail("the connection ended in the handshake")

    def next_deadline(self) -> float | None:
        """When to call ``handle_timeout``; None: never again."""
        return None if self._state is _State.DONE else self._deadline

    def handle_timeout(self, now: float) -> None:
        """It is ``now``: whatever was due happens.  Calling early does nothing."""
        if self._state is _State.DONE or now < self._deadline:
            return
        if self._state is _State.DECIDING:
            self.refuse(Close(CloseCode.BUSY, _BUSY_WAIT, "no verdict in time"), now)
        else:
            self._fail(f"too late: {self._state.value}")

    @property
    def established(self) -> Established:
        """What the caller of ``CallerProven`` and we have in common, for the tunnel that is to judge it.

        Nothing may be said on it before :meth:`accept`.  Raises ``Misuse`` before ``CallerProven``.
        """
        if self._established is None:
            raise Misuse(f"nothing to decide: {self._state.value}")
        return self._established

    def accept(self) -> tuple[Established, bytes] | None:
        """The caller may come in: the carrier, which has to say ``WELCOME`` first, and what came on it meanwhile.

        None: too late.  Raises ``Misuse`` before ``CallerProven``.
        """
        if self._state is _State.DONE:
            return None
        established, waiting = self.established, bytes(self._buffer)
        self._end()
        return established, waiting

    def refuse(self, close: Close, now: float) -> None:
        """The caller may not come in, and is told why.  Raises ``Misuse`` before ``CallerProven``."""
        if self._state is _State.DONE:
            return
        self._out += self.established.carrier.seal(Kind.LOOSE, (close.frame(),), now)
        self._fail(close.reason)

    def _check_turn(self, early: bytearray) -> None:
        """Whoever has not heard our answer yet has nothing to say; so it is the same however the bytes were cut."""
        if early:
            raise BadWire("the peer spoke on before it was answered")

    def _take_knock(self) -> None:
        match read_first(self._buffer):
            case First.HELLO:
                self._take_hello()
            case First.MESSAGE:
                self._take_first()
            case First.LEG:
                raise BadWire("the leg of a stream is not answered here")
            case None:
                pass

    def _take_hello(self) -> None:
        length = int.from_bytes(self._buffer[:2], "big")
        if length <= FIRST_SIZE:
            raise BadWire(f"a Hello of {length} bytes")
        if len(self._buffer) < length:
            return
        offer = read_offer(bytes(self._buffer[:length]))
        if offer is None:
            self._events.append(OldHello(bytes(self._buffer)))
            self._end()
            return
        del self._buffer[:length]
        own = next((key for key in self._keys if key.public == offer.responder), None)
        if own is None:
            raise BadWire("a Hello for another device than this one")
        noise = Responder(offer.prologue, own.secret, own.x25519)
        noise.first_unsealed(offer.ephemeral)
        self._meet(noise)

    def _take_first(self) -> None:
        first = take_message(self._buffer, Type.FIRST)
        if first is None:
            return
        own = next((key for key in self._keys if knows(first, mac1_key(key.public))), None)
        if own is None:
            raise BadWire("whoever calls does not know whom")
        if self._must_come_again(first, own):
            return
        noise = Responder(native_prologue(own.public), own.secret, own.x25519)
        noise.first(noise_of(first))
        self._meet(noise)

    def _must_come_again(self, first: Message, own: DeviceKey) -> bool:
        """Whether the caller was asked to prove where it is."""
        if self._guard is None or self._guard.jar.proves(first, self._guard.host, self._guard.port):
            return False
        guard = self._guard
        if self._was_sent_back:
            raise BadWire("the peer does not prove where it is")
        self._was_sent_back = True
        self._out += write_retry(first, own.public, guard.jar.cookie(guard.host, guard.port), guard.nonce)
        return True

    def _meet(self, noise: Responder) -> None:
        second = noise.second(self._parameters.write(), self._entropy)
        self._entropy = b""
        self._noise = noise
        self._out += envelop(Type.SECOND, second)
        self._state = _State.PROVING
        self._deadline = self._began + PROOF_WAIT
        self._events.append(Met())

    def _take_proof(self, now: float) -> None:
        third = take_message(self._buffer, Type.THIRD)
        if third is None:
            return
        assert self._noise is not None
        static, payload, split = self._noise.third(third.body)
        introduction = read_introduction(payload)
        if x25519_public(introduction.key) != static:
            raise BadWire("the caller names another key than it proved")
        self._noise = None
        self._established = establish(split, introduction, self._parameters, introduction.key, called=True)
        self._state = _State.DECIDING
        self._deadline = now + VERDICT_WAIT
        if introduction.key in {key.public for key in self._keys}:
            self.refuse(Close(CloseCode.SELF, 0, "you called yourself"), now)
        elif introduction.opens_tunnel and (introduction.channel or introduction.move or introduction.expect):
            self.refuse(Close(CloseCode.FAULT, 60, "a new tunnel begins with nothing"), now)
        else:
            self._events.append(CallerProven(introduction))

    def _fail(self, why: str) -> None:
        if self._state is not _State.DONE:
            if self._state is not _State.DECIDING:
                self._out.clear()
            self._events.append(AnswerFailed(why))
            self._end()

    def _end(self) -> None:
        self._state = _State.DONE
        self._noise = self._established = None
        self._entropy = b""
        self._buffer.clear()
