"""The record layer: AES-256-GCM over a byte stream, each direction for itself.

A record is ``length:u16`` and that many bytes of ciphertext with its tag of 16.  The nonce is the direction's base with
the number of the record in its low 8 bytes (XOR); the number is not sent, so a record that is dropped, doubled, moved
or taken from the other direction fails to open.  There is no authenticated end: a stream cut on the edge of a record
looks finished.  There is no change of keys either, so each direction has a *budget*; it ends well before GCM's own
limits.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cyfs_ns.errors import BadWire, CyfsError
from rtcp.schedule import Keys

TAG_SIZE = 16
MOST_PLAIN = 16384
_MOST_SEALED = MOST_PLAIN + TAG_SIZE


class Spent(CyfsError):
    """The keys have done all they may: close this, and open anew."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much one direction may carry under one key: records, bytes of plaintext, seconds."""

    records: int
    octets: int
    seconds: float


CONTROL_BUDGET = Budget(1 << 24, 4 << 30, 86400)
STREAM_BUDGET = Budget(1 << 20, 1 << 30, 86400)


class RecordSealer:
    """Plaintext in, records out."""

    def __init__(self, keys: Keys, dialler: bool, budget: Budget) -> None:
        self._aead = AESGCM(keys.key)
        self._base = int.from_bytes(keys.nonce_base(dialler), "big")
        self._budget = budget
        self._seq = 0
        self._octets = 0

    def seal(self, plain: bytes | memoryview) -> bytes:
        """``plain`` in as many records as it takes.  Raises ``Spent``, and then has sealed nothing of it."""
        if not plain:
            return b""
        count = -(-len(plain) // MOST_PLAIN)
        if self._seq + count > self._budget.records or self._octets + len(plain) > self._budget.octets:
            raise Spent(f"{self._octets} bytes in {self._seq} records were sent under one key; no more may follow")
        return self._seal(plain)

    def finish(self) -> bytes:
        """What has to travel before the end: an end before the first record is a fault, so then a record of nothing."""
        return b"" if self._seq else self._seal(b"")

    def _seal(self, plain: bytes | memoryview) -> bytes:
        self._octets += len(plain)
        view = memoryview(plain)
        parts: list[bytes] = []
        for at in range(0, len(plain) or 1, MOST_PLAIN):
            sealed = self._aead.encrypt(_nonce(self._base, self._seq), view[at : at + MOST_PLAIN], None)
            self._seq += 1
            parts += (len(sealed).to_bytes(2, "big"), sealed)
        return b"".join(parts)


class RecordOpener:
    """Records in, plaintext out.  After one ``BadWire`` nobody knows where records begin, so every later call fails."""

    def __init__(self, keys: Keys, dialler: bool, budget: Budget) -> None:
        self._aead = AESGCM(keys.key)
        self._base = int.from_bytes(keys.nonce_base(dialler), "big")
        self._budget = budget
        self._buffer = bytearray()
        self._seq = 0
        self._octets = 0
        self._fault: str | None = None

    def receive_data(self, untrusted: bytes | memoryview) -> None:
        self._buffer += untrusted

    def receive_eof(self) -> None:
        """The connection has ended.  Raises ``BadWire`` if that was inside a record, or before the first one."""
        if self._fault is not None:
            raise BadWire(self._fault)
        if self._buffer:
            raise self._broken("the connection ended inside a record")
        if self._seq == 0:
            raise self._broken("the connection ended before its first record")

    def next_record(self) -> bytes | None:
        """The plaintext of the next record, perhaps empty; None: not whole yet, bring more.  Raises ``BadWire``."""
        if self._fault is not None:
            raise BadWire(self._fault)
        if len(self._buffer) < 2:
            return None
        length = int.from_bytes(self._buffer[:2], "big")
        if not TAG_SIZE <= length <= _MOST_SEALED:
            raise self._broken(f"record {self._seq} claims {length} bytes")
        if len(self._buffer) < 2 + length:
            return None
        self._octets += length - TAG_SIZE
        if self._seq >= self._budget.records or self._octets > self._budget.octets:
            raise self._broken("more was sent under one key than may be")
        try:
            with memoryview(self._buffer) as whole, whole[2 : 2 + length] as sealed:
                plain = self._aead.decrypt(_nonce(self._base, self._seq), sealed, None)
        except InvalidTag:
            raise self._broken(f"record {self._seq} is not from our peer") from None
        del self._buffer[: 2 + length]
        self._seq += 1
        return plain

    def _broken(self, fault: str) -> BadWire:
        self._fault = fault
        self._buffer.clear()
        return BadWire(fault)


def _nonce(base: int, seq: int) -> bytes:
    return (base ^ seq).to_bytes(12, "big")
