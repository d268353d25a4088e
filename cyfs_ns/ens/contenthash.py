"""Content hashes (ENSIP-7): which network holds a name's site and what it is called there, as bytes and as a URL.

The first number says which network; what follows is a CID for IPFS, IPNS and Swarm, and the network's own for Arweave,
Skynet and Onion.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.bases import from_base32, from_base58, from_base64url, to_base32, to_base64url

_IPFS, _SWARM, _IPNS = b"\xe3\x01", b"\xe4\x01", b"\xe5\x01"
_ONION, _ONION3 = b"\xbc\x03", b"\xbd\x03"
_SKYNET, _ARWEAVE = b"\x90\xb2\xc6\x05", b"\x90\xb2\xca\x05"

_DAG_PB, _RAW, _LIBP2P_KEY, _SWARM_MANIFEST = 0x70, 0x55, 0x72, 0xFA
_IDENTITY, _SHA256, _KECCAK256 = 0x00, 0x12, 0x1B
_MAX = 1024
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_HOST = re.compile(r"[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+\Z").match
_ONION_NAME = re.compile(r"(?:[a-z2-7]{16}|[a-z2-7]{56})\Z").match


@dataclass(frozen=True, slots=True)
class Content:
    """``scheme`` is ``ipfs``, ``ipns``, ``bzz``, ``ar``, ``sia``, ``onion`` or ``onion3``; ``name`` its name there."""

    scheme: str
    name: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}"

    @property
    def dnslink(self) -> str | None:
        """The value of a DNSLink record, for the networks that have one."""
        return f"dnslink=/{self.scheme}/{self.name}" if self.scheme in ("ipfs", "ipns") else None


def read_contenthash(untrusted: bytes) -> Content:
    """What the bytes of a content hash mean.  Raises ``BadWire``."""
    if len(untrusted) <= _MAX:
        for prefix, read in _READERS.items():
            if untrusted.startswith(prefix):
                return read(untrusted[len(prefix) :])
    raise BadWire(f"a content hash of a network we do not know: {untrusted[:16].hex()}")


def read_content(url: str) -> Content:
    """The same from ``scheme://name``.  Raises ``BadWire``."""
    return read_contenthash(write_contenthash(url))


def write_contenthash(url: str) -> bytes:
    """The bytes for ``scheme://name``.  Raises ``BadWire``."""
    scheme, found, name = url.partition("://")
    write = _WRITERS.get(scheme)
    if not found or write is None or not name.isascii() or len(name) > _MAX:
        raise BadWire(f"not a content URL: {url[:80]!a}; the networks are {', '.join(_WRITERS)}")
    written = write(name)
    if read_contenthash(written).scheme != scheme:
        raise BadWire(f"not a content URL: {url[:80]!a}")
    return written


def _cid(raw: bytes) -> tuple[int, int, bytes]:
    """Codec, hash function and digest of a CID, version 1 or (a bare SHA-256) 0."""
    if raw[:2] == b"\x12\x20" and len(raw) == 34:
        return _DAG_PB, _SHA256, raw[2:]
    version, at = _varint(raw, 0)
    codec, at = _varint(raw, at)
    function, at = _varint(raw, at)
    size, at = _varint(raw, at)
    if version != 1 or len(raw) != at + size or not size:
        raise BadWire("a content hash whose CID is malformed")
    return codec, function, raw[at:]


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(raw) and shift < 63:
        number |= (raw[at] & 0x7F) << shift
        at += 1
        if raw[at - 1] < 0x80:
            if raw[at - 1] == 0 and shift:
                break
            return number, at
        shift += 7
    raise BadWire("a content hash with a malformed number")


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _cid1(codec: int, function: int, digest: bytes) -> bytes:
    return b"\x01" + _number(codec) + _number(function) + _number(len(digest)) + digest


def _read_ipfs(raw: bytes) -> Content:
    return Content("ipfs", "b" + to_base32(_cid1(*_cid(raw))))


def _read_ipns(raw: bytes) -> Content:
    codec, function, digest = _cid(raw)
    if function == _IDENTITY and codec != _LIBP2P_KEY:
        # Not a key but a host name, whose DNSLink is meant.
        host = digest.decode("latin-1").lower()
        if _HOST(host) is None:
            raise BadWire("a content hash that names no key and no host")
        return Content("ipns", host)
    number, text = int.from_bytes(_cid1(_LIBP2P_KEY, function, digest), "big"), ""
    while number:
        number, digit = divmod(number, 36)
        text = _BASE36[digit] + text
    return Content("ipns", "k" + text)


def _read_swarm(raw: bytes) -> Content:
    codec, function, digest = _cid(raw)
    if codec != _SWARM_MANIFEST or function != _KECCAK256 or len(digest) != 32:
        raise BadWire("a content hash that is no Swarm manifest")
    return Content("bzz", digest.hex())


def _read_sized(scheme: str, size: int) -> Callable[[bytes], Content]:
    def read(raw: bytes) -> Content:
        if len(raw) != size:
            raise BadWire(f"a content hash for {scheme} of {len(raw)} octets")
        return Content(scheme, to_base64url(raw))

    return read


def _read_onion(scheme: str, size: int) -> Callable[[bytes], Content]:
    def read(raw: bytes) -> Content:
        name = raw.decode("latin-1")
        if len(name) != size or _ONION_NAME(name) is None:
            raise BadWire("a content hash that is no onion service")
        return Content(scheme, name)

    return read


def _write_ipfs(name: str) -> bytes:
    return _IPFS + _cid1(*_cid(_read_cid_text(name)))


def _write_ipns(name: str) -> bytes:
    if _HOST(name) is not None:
        return _IPNS + _cid1(_DAG_PB, _IDENTITY, name.encode())
    if name[:1] == "k":
        number = 0
        for digit in name[1:]:
            if digit not in _BASE36:
                raise BadWire(f"not base 36: {name[:80]!a}")
            number = number * 36 + _BASE36.index(digit)
        raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    else:
        raw = _read_cid_text(name)
    _, function, digest = _cid(raw)
    return _IPNS + _cid1(_LIBP2P_KEY, function, digest)


def _read_cid_text(name: str) -> bytes:
    if name.startswith("Qm") and len(name) == 46:
        return from_base58(name, "CID")
    if name[:1] == "b":
        return from_base32(name[1:], "CID")
    if name[:1] == "z":
        return from_base58(name[1:], "CID")
    raise BadWire(f"not a CID: {name[:80]!a}")


def _write_swarm(name: str) -> bytes:
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise BadWire(f"not a Swarm hash: {name[:80]!a}")
    return _SWARM + _cid1(_SWARM_MANIFEST, _KECCAK256, digest)


_READERS: dict[bytes, Callable[[bytes], Content]] = {
    _IPFS: _read_ipfs,
    _IPNS: _read_ipns,
    _SWARM: _read_swarm,
    _ARWEAVE: _read_sized("ar", 32),
    _SKYNET: _read_sized("sia", 34),
    _ONION: _read_onion("onion", 16),
    _ONION3: _read_onion("onion3", 56),
}
_WRITERS: dict[str, Callable[[str], bytes]] = {
    "ipfs": _write_ipfs,
    "ipns": _write_ipns,
    "bzz": _write_swarm,
    "ar": lambda name: _ARWEAVE + from_base64url(name, "Arweave"),
    "sia": lambda name: _SKYNET + from_base64url(name, "Skynet"),
    "onion": lambda name: _ONION + name.encode(),
    "onion3": lambda name: _ONION3 + name.encode(),
}
