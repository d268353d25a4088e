"""The kinds of record a resolver can be asked for, each with its call and how its result reads.

A resolver that lacks a kind, or has nothing under it, comes out the same: ``None``.  Results are strangers' bytes; what
cannot be read raises ``BadWire``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cyfs_ns.ens.abi import decode, encode
from cyfs_ns.ens.coins import ETH, address_text, is_evm
from cyfs_ns.ens.namehash import keccak
from cyfs_ns.errors import BadWire

Value = str | bytes


@dataclass(frozen=True, slots=True)
class RecordAsk:
    """One question about a name.  ``kind`` and ``key`` say which, as evidence and claims call it."""

    kind: str
    key: str
    selector: bytes
    arguments: bytes
    """What follows the node; offsets in it count from the node."""
    read: Callable[[bytes], Value | None]

    def data(self, node: bytes) -> bytes:
        return self.selector + node + self.arguments


def coin_address(coin: int = ETH) -> RecordAsk:
    """The address for a coin (ENSIP-1, 9, 11), as text.  Ether has a call of its own, which every resolver knows."""
    if coin == ETH:
        return RecordAsk("addr", str(coin), bytes.fromhex("3b3b57de"), b"", _read_ether)

    def read(data: bytes) -> str | None:
        raw = _bytes(data)
        if is_evm(coin) and raw is not None and not any(raw):
            return None
        return None if raw is None else address_text(coin, raw)

    return RecordAsk("addr", str(coin), bytes.fromhex("f1cb7e06"), encode(("uint256",), (coin,)), read)


def text(key: str) -> RecordAsk:
    """A text under a key (ENSIP-5): ``url``, ``avatar``, ``com.github``."""
    return RecordAsk("text", key, bytes.fromhex("59d1d43c"), _keyed(key), _string)


def blob(key: str) -> RecordAsk:
    """Bytes under a key (ENSIP-24)."""
    return RecordAsk("data", key, bytes.fromhex("ecbfada3"), _keyed(key), _bytes)


def contenthash() -> RecordAsk:
    """Where the name's web site is (ENSIP-7), as it stands there."""
    return RecordAsk("contenthash", "", bytes.fromhex("bc1c58d1"), b"", _bytes)


def pubkey() -> RecordAsk:
    """A point of secp256k1, x and y (ENSIP-1's time; few set it)."""

    def read(data: bytes) -> bytes | None:
        return data[:64] if len(data) >= 64 and any(data[:64]) else None

    return RecordAsk("pubkey", "", bytes.fromhex("c8690233"), b"", read)


def reverse_name() -> RecordAsk:
    """The name of a reverse record (ENSIP-3)."""
    return RecordAsk("name", "", bytes.fromhex("691f3431"), b"", _string)


def dns_record(owner: bytes, rtype: int) -> RecordAsk:
    """The DNS records of one name (``owner``: wire form, lower case) and type as they travel (ENSIP-6, as deployed)."""
    arguments = keccak(owner) + encode(("uint256",), (rtype,))
    return RecordAsk("dns", str(rtype), bytes.fromhex("a8fa5682"), arguments, _bytes)


def has_dns_records(owner: bytes) -> RecordAsk:
    """Whether there are DNS records of any type under ``owner``: ``b"\\x01"`` or nothing."""

    def read(data: bytes) -> bytes | None:
        return b"\x01" if len(data) >= 32 and any(data[:32]) else None

    return RecordAsk("has-dns", "", bytes.fromhex("4cbf6ba4"), keccak(owner), read)


def _keyed(key: str) -> bytes:
    # The node stands before the offset, which counts from there.
    return encode(("bytes32", "string"), (bytes(32), key))[32:]


def _read_ether(data: bytes) -> str | None:
    if not data:
        return None
    (address,) = decode(("address",), data)
    raw = bytes.fromhex(address[2:])
    return address_text(ETH, raw) if any(raw) else None


def _bytes(data: bytes) -> bytes | None:
    return decode(("bytes",), data)[0] or None if data else None


def _string(data: bytes) -> str | None:
    if not data:
        return None
    value: str = decode(("string",), data)[0]
    if "\0" in value:
        raise BadWire("a text with NUL in it")
    return value or None
