"""A normal name as contracts know it: its node (ENSIP-1) and its labels in DNS wire form (ENSIP-10); and the DNS front
door, by which names of ENS come in as A-labels.

A question of DNS carries ``xn--`` labels.  They are decoded (RFC 3492), normalised, and encoded again; unless that
gives the question back, somebody asks for a spelling that no registered name has, which at best is a mistake.
"""

from __future__ import annotations

from cyfs_ns.ens.normalise import MAX_NAME, Normal, normalise
from cyfs_ns.errors import BadWire

_ROOT = bytes(32)
_MOST_LABEL = 255
"""Octets of a label in wire form; unlike in DNS the upper two bits are not taken."""


def keccak(data: bytes) -> bytes:
    """Keccak-256 as Ethereum has it, which is not SHA3-256."""
    # Chain names alone need it, and most machines never see one.
    from Crypto.Hash import keccak as _keccak

    return _keccak.new(digest_bits=256, data=data).digest()


def namehash(name: str) -> bytes:
    """The node of a normal name."""
    node = _ROOT
    for label in reversed(name.split(".") if name else []):
        node = keccak(node + keccak(label.encode()))
    return node


def dns_encoded(name: str) -> bytes:
    """A normal name as the resolvers of ENSIP-10 take it.  Raises ``BadWire`` for a label longer than 255 octets."""
    out = bytearray()
    for label in name.split(".") if name else []:
        raw = label.encode()
        if len(raw) > _MOST_LABEL:
            raise BadWire(f"a label of {len(raw)} octets: {label[:40]!a}...")
        out += bytes((len(raw),)) + raw
    return bytes(out) + b"\0"


def from_dns(host: str) -> Normal:
    """The name that a question of DNS asks for.  Raises ``BadWire`` if it is spelt as no normal name is."""
    asked = host.rstrip(".").lower()
    if not asked.isascii() or len(asked) > MAX_NAME:
        raise BadWire(f"not a name as DNS asks for it: {asked[:63]!a}")
    normal = normalise(".".join(map(_decoded, asked.split("."))))
    spelt = to_dns(normal.name)
    if spelt != asked:
        raise BadWire(f"{asked[:80]!a} is another spelling of {spelt[:80]!a}; ask for that if it is meant")
    return normal


def to_dns(name: str) -> str:
    """The A-labels of a normal name."""
    return ".".join(
        label if label.isascii() else "xn--" + label.encode("punycode").decode() for label in name.split(".")
    )


def _decoded(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        text = label[4:].encode().decode("punycode")
    except (UnicodeError, ValueError, OverflowError):
        raise BadWire(f"label {label[:63]!a} is no Punycode") from None
    if text.isascii():
        raise BadWire(f"label {label[:63]!a} writes ASCII as Punycode")
    return text
