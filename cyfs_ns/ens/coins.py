"""Coins by number (SLIP-44, ENSIP-9, ENSIP-11) and their addresses as text, where this house has a use for it.

Ether and the chains like it are written in hexadecimal with the capitals of ERC-55, which are a checksum.  Of any other
coin the bytes are shown as they stand, in hexadecimal: nothing here pays anybody.
"""

from __future__ import annotations

from cyfs_ns.ens.namehash import keccak
from cyfs_ns.errors import BadWire

ETH = 60
DEFAULT_EVM = 0x8000_0000
"""Stands for all chains like Ethereum that have no address of their own (ENSIP-19)."""


def is_evm(coin: int) -> bool:
    return coin == ETH or DEFAULT_EVM <= coin <= 0xFFFF_FFFF


def address_text(coin: int, raw: bytes) -> str:
    """The address as people write it.  Raises ``BadWire`` for one of the wrong size."""
    if not is_evm(coin):
        return "0x" + raw.hex()
    if len(raw) != 20:
        raise BadWire(f"an address of {len(raw)} octets for coin {coin}")
    plain = raw.hex()
    digest = keccak(plain.encode()).hex()
    return "0x" + "".join(c.upper() if int(d, 16) > 7 else c for c, d in zip(plain, digest, strict=False))


def reverse_host(coin: int, raw: bytes) -> str:
    """The name under which the name of an address stands (ENSIP-3, ENSIP-19)."""
    space = "addr" if coin == ETH else "default" if coin == DEFAULT_EVM else f"{coin:x}"
    return f"{raw.hex()}.{space}.reverse"


def read_reverse_host(name: str) -> tuple[int, bytes] | None:
    """The coin and address of such a name, or ``None``: it is another."""
    match name.split("."):
        case [address, space, "reverse"]:
            try:
                coin = {"addr": ETH, "default": DEFAULT_EVM}.get(space)
                coin = int(space, 16) if coin is None else coin
                raw = bytes.fromhex(address)
            except ValueError:
                return None
            return (coin, raw) if reverse_host(coin, raw) == name else None
    return None
