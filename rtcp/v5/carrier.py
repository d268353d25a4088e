"""Records: both directions of one carrier, sealed and opened, with keys that step by themselves (§5 of the document).

A record is ``kind:u8 | phase:u8 | size-1:u16`` and the sealed ``size + 16`` bytes; the four bytes in front are its
associated data, and its nonce is a count that is not sent.  So a record that is dropped, doubled, moved, changed or
taken from the other direction does not open, and neither does any after it.

Whatever does not open was not said by our peer, but by the way between: ``CarrierBroken``, and the tunnel takes another
carrier.  ``BadWire`` is the peer's own fault: the tunnel ends.  After either, every later call fails alike.

A sender steps to the next phase before a record that would be too much under one key, and when the key is an hour old;
the receiver follows when it sees the next phase's byte.  Neither keeps a key it has left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from struct import Struct
from typing import NamedTuple, NoReturn, Protocol, TypeAlias

from cryptography.exceptions import InvalidTag

from cyfs_ns.errors import BadWire, Misuse, PeerFault
from rtcp.v5.schedule import AEADS, Aead, Cipher, Secrets, derived, next_secret

HEAD_SIZE = 4
TAG_SIZE = 16
MOST_PLAIN = 65536
OVERHEAD = HEAD_SIZE + TAG_SIZE

Bytes: TypeAlias = bytes | bytearray | memoryview

_HEAD = Struct(">BBH")
_NO_HEAD, _NO_TAG = bytes(HEAD_SIZE), bytes(TAG_SIZE)
_STEP_OCTETS, _STEP_RECORDS, _STEP_AGE = 1 << 31, 1 << 23, 3600.0
_MOST_OCTETS, _MOST_RECORDS = 1 << 32, 1 << 24
_MOST_STEPS, _STEPS_WINDOW = 1024, 60.0


class CarrierBroken(PeerFault):
    """These bytes are not our peer's: treat the carrier as cut, say nothing, and let the tunnel stand."""


class Kind(IntEnum):
    """What a record holds: frames that its channel counts, frames it does not, or bytes of a leg's one stream."""

    NUMBERED = 0
    LOOSE = 1
    RAW = 2


_KINDS = tuple(Kind)


class Record(NamedTuple):
    """One record that opened.  ``plain`` has 1 to ``MOST_PLAIN`` bytes and stays as it is for as long as it is held."""

    kind: Kind
    plain: memoryview


class RecordLayer(Protocol):
    """What a channel needs of the carrier it travels on.  ``now`` is in seconds, of a clock that never goes back."""

    def seal(self, kind: Kind, parts: Sequence[Bytes], now: float) -> bytearray:
        """``parts``, one behind the other, as one record.  Raises ``Misuse`` for none or more than ``MOST_PLAIN``."""

    def receive(self, untrusted: Bytes, now: float) -> Iterable[Record]:
        """The records that ``untrusted`` completes, opened as they are asked for.

        Take all of them, or none of any later call; ``untrusted`` must not change meanwhile.  Raises
        ``CarrierBroken``, or ``BadWire`` for what breaks the rules though it is the peer's.
        """


class Carrier:
    """The :class:`RecordLayer` that a handshake left.  ``called``: whether we are the side that was called; ``leg``:
    whether raw records may come.

    It cannot be copied: two copies would seal with the same nonces.
    """

    __slots__ = ("_fault", "_last_kind", "_part", "_receiving", "_sending", "_steps", "_steps_since")

    def __init__(self, secrets: Secrets, cipher: Cipher, *, called: bool, leg: bool = False) -> None:
        ours, theirs = (secrets.called, secrets.caller) if called else (secrets.caller, secrets.called)
        self._sending, self._receiving = _Direction(cipher, ours), _Direction(cipher, theirs)
        self._last_kind = Kind.RAW if leg else Kind.LOOSE
        self._part = bytearray()
        self._steps, self._steps_since = 0, 0.0
        self._fault: PeerFault | None = None

    def __reduce__(self) -> NoReturn:
        raise Misuse("a copy of a carrier would use its nonces twice")

    def seal(self, kind: Kind, parts: Sequence[Bytes], now: float) -> bytearray:
        record = bytearray().join((_NO_HEAD, *parts, _NO_TAG))
        size = len(record) - OVERHEAD
        if not 1 <= size <= MOST_PLAIN:
            raise Misuse(f"a record of {size} bytes")
        keys = self._sending
        count = keys.count
        if count >= _STEP_RECORDS or keys.octets + size > _STEP_OCTETS or (count and now - keys.since >= _STEP_AGE):
            keys.step()
        record[:HEAD_SIZE] = head = _HEAD.pack(kind, keys.phase & 0xFF, size - 1)
        nonce = keys.take(size, now)
        whole = memoryview(record)
        keys.aead.encrypt_into(nonce, whole[HEAD_SIZE:-TAG_SIZE], head, whole[HEAD_SIZE:])
        return record

    def receive(self, untrusted: Bytes, now: float) -> Iterable[Record]:
        if self._fault is not None:
            raise self._fault
        view = memoryview(untrusted)
        try:
            # One record and nothing else, as small talk comes.
            if not self._part and len(view) > HEAD_SIZE and self._size(view) == len(view):
                return (self._open(view, now),)
        except PeerFault as fault:
            self._break(fault)
            raise
        return self._receive_all(view, now)

    def _break(self, fault: PeerFault) -> None:
        self._fault = fault
        self._part.clear()

    def _receive_all(self, view: memoryview, now: float) -> Iterator[Record]:
        try:
            yield from self._receive(view, now)
        except PeerFault as fault:
            self._break(fault)
            raise

    def _receive(self, view: memoryview, now: float) -> Iterator[Record]:
        part = self._part
        while view:
            if not part and len(view) >= HEAD_SIZE and (size := self._size(view)) <= len(view):
                yield self._open(view[:size], now)
                view = view[size:]
                continue
            # In parts; each is judged as soon as it is there, so that the verdict is the same however they were cut.
            take = self._size(part or view) - len(part)
            part += view[:take]
            view = view[take:]
            if self._size(part) == len(part) > HEAD_SIZE:
                record = self._open(memoryview(bytes(part)), now)
                part.clear()
                yield record

    def _size(self, begun: bytearray | memoryview) -> int:
        """How many bytes are needed to go on with a record that begins so: its head, or all of it."""
        if begun[0] > self._last_kind:
            raise CarrierBroken(f"a record of kind {begun[0]}")
        if len(begun) > 1 and (begun[1] - self._receiving.phase) & 0xFF > 1:
            raise CarrierBroken("a record under keys that are not due")
        if len(begun) < HEAD_SIZE:
            return HEAD_SIZE
        return OVERHEAD + 1 + (begun[2] << 8 | begun[3])

    def _open(self, record: memoryview, now: float) -> Record:
        keys = self._receiving
        stepped = record[1] != keys.phase & 0xFF
        if stepped:
            keys.step()
        nonce = keys.take(len(record) - OVERHEAD, now)
        try:
            plain = keys.aead.decrypt(nonce, record[HEAD_SIZE:], record[:HEAD_SIZE])
        except InvalidTag:
            raise CarrierBroken("a record that does not open") from None
        # It opened, so what is wrong from here on is the peer's doing.
        if keys.octets > _MOST_OCTETS or keys.count > _MOST_RECORDS:
            raise BadWire("more was sent under one key than may be")
        if stepped:
            self._count_step(now)
        return Record(_KINDS[record[0]], memoryview(plain))

    def _count_step(self, now: float) -> None:
        if now - self._steps_since >= _STEPS_WINDOW:
            self._steps, self._steps_since = 0, now
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise BadWire(f"more than {_MOST_STEPS} steps of keys in {_STEPS_WINDOW:.0f} s")


class _Direction:
    """The keys of one direction in their present phase, and how much they have done."""

    __slots__ = ("_cipher", "_secret", "aead", "count", "iv", "octets", "phase", "since")

    def __init__(self, cipher: Cipher, secret: bytes) -> None:
        self._cipher = cipher
        self.phase = 0
        self._begin(secret)

    def step(self) -> None:
        self.phase += 1
        self._begin(next_secret(self._secret))

    def take(self, size: int, now: float) -> bytes:
        """The nonce of the next record, of ``size`` bytes."""
        if not self.count:
            self.since = now
        nonce = (self.iv ^ self.count).to_bytes(12, "big")
        self.count += 1
        self.octets += size
        return nonce

    def _begin(self, secret: bytes) -> None:
        self._secret = secret
        key, iv = derived(secret)
        self.aead: Aead = AEADS[self._cipher](key)
        self.iv = int.from_bytes(iv, "big")
        self.count = self.octets = 0
        self.since = 0.0
