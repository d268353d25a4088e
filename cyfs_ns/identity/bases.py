"""Three spellings of bytes, each read in its one canonical form: what decodes must encode to the very same text."""

from __future__ import annotations

import base64
import binascii

from cyfs_ns.errors import BadWire

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGIT58 = {digit: value for value, digit in enumerate(_BASE58)}
_MAX_BASE58 = 256


def to_base64url(data: bytes) -> str:
    """RFC 4648 §5 without padding, as JOSE writes it (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(untrusted: str, what: str = "base64url") -> bytes:
    """The bytes; padding, other alphabets and stray bits at the end are ``BadWire``."""
    try:
        data = base64.b64decode(untrusted.encode("ascii") + b"=" * (-len(untrusted) % 4), b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise BadWire(f"{what}: not base64url") from None
    if to_base64url(data) != untrusted:
        raise BadWire(f"{what}: base64url in a form nobody writes")
    return data


def to_base32(data: bytes) -> str:
    """RFC 4648 §6 in lower case without padding: safe in a DNS label, whatever happens to its case."""
    return base64.b32encode(data).rstrip(b"=").decode().lower()


def from_base32(untrusted: str, what: str = "base32") -> bytes:
    """The bytes, whatever the case of the letters.  Raises ``BadWire``."""
    try:
        data = base64.b32decode(untrusted.upper().encode("ascii") + b"=" * (-len(untrusted) % 8))
    except (ValueError, binascii.Error):
        raise BadWire(f"{what}: not base32") from None
    if to_base32(data) != untrusted.lower():
        raise BadWire(f"{what}: base32 in a form nobody writes")
    return data


def to_base58(data: bytes) -> str:
    """Bitcoin's base 58, the ``z`` of multibase."""
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits


def from_base58(untrusted: str, what: str = "base58") -> bytes:
    """The bytes.  Raises ``BadWire``."""
    if len(untrusted) > _MAX_BASE58:
        raise BadWire(f"{what}: too long")
    number = 0
    for letter in untrusted:
        digit = _DIGIT58.get(letter)
        if digit is None:
            raise BadWire(f"{what}: {letter!r} is no digit of base58")
        number = number * 58 + digit
    zeros = len(untrusted) - len(untrusted.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
