"""Datagrams in a byte stream: ``length:u32``, big-endian, and that many bytes, none of them more than UDP can carry."""

from __future__ import annotations

from cyfs_ns.errors import BadWire, Misuse

MOST_DATAGRAM = 65507
"""65,535 less the headers of IPv4 and UDP."""


def write_datagram(payload: bytes) -> bytes:
    """``payload``, which may be empty, as it travels in a stream.  Raises ``Misuse`` for one too large."""
    if len(payload) > MOST_DATAGRAM:
        raise Misuse(f"a datagram of {len(payload)} bytes, at most {MOST_DATAGRAM} can be sent")
    return len(payload).to_bytes(4, "big") + payload


class DatagramReader:
    """Bytes in, datagrams out.  After one ``BadWire`` every later call fails."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fault: str | None = None

    def receive_data(self, untrusted: bytes) -> None:
        self._buffer += untrusted

    def next_datagram(self) -> bytes | None:
        """The next datagram; None: not whole yet, bring more.  Raises ``BadWire``."""
        if self._fault is not None:
            raise BadWire(self._fault)
        if len(self._buffer) < 4:
            return None
        length = int.from_bytes(self._buffer[:4], "big")
        if length > MOST_DATAGRAM:
            self._fault = f"a datagram that claims {length} bytes"
            self._buffer.clear()
            raise BadWire(self._fault)
        if len(self._buffer) < 4 + length:
            return None
        payload = bytes(self._buffer[4 : 4 + length])
        del self._buffer[: 4 + length]
        return payload
