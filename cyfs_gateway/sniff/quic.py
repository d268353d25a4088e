"""Host and protocols from the Initial packets of a QUIC flow (RFC 9000, RFC 9001; version 2: RFC 9369).

Initial packets are encrypted with keys that anybody can derive from the connection ID, which keeps out accidents and
not observers.  A ClientHello with post-quantum keys needs two datagrams, and browsers scatter it in shuffled CRYPTO
frames, so a ``QuicSniffer`` lives with a flow and gathers fragments until the message is whole.

Only the client's datagrams are to be fed.  Packet numbers are taken as they stand on the wire: before the first
acknowledgement a client must send enough of their bits to be read without context.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from cyfs_gateway.sniff.result import MORE, NOT_IT, Sniffed, SniffResult
from cyfs_gateway.sniff.tls import MAX_HELLO, read_client_hello

_MAX_DATAGRAMS = 16
_MAX_FRAGMENTS = 256
_MAX_KEYS = 4
_MAX_CID = 20
_TAG = 16


@dataclass(frozen=True, slots=True)
class _Version:
    salt: bytes
    prefix: bytes
    initial_type: int


_VERSIONS = {
    0x00000001: _Version(bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), b"quic ", 0),
    0x6B3343CF: _Version(bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), b"quicv2 ", 1),
}


class _Malformed(Exception):
    """These bytes are no packet of ours."""


class _ClientKeys:
    """What protects the client's Initial packets (RFC 9001 section 5)."""

    __slots__ = ("_aead", "_hp", "_iv")

    def __init__(self, version: _Version, dcid: bytes) -> None:
        initial = hmac.digest(version.salt, dcid, "sha256")
        secret = _expand_label(initial, b"client in", 32)
        self._aead = AESGCM(_expand_label(secret, version.prefix + b"key", 16))
        self._iv = int.from_bytes(_expand_label(secret, version.prefix + b"iv", 12), "big")
        # One block under a key that the packet itself gives away: ECB is what RFC 9001 section 5.4.3 asks for.
        self._hp = Cipher(AES(_expand_label(secret, version.prefix + b"hp", 16)), ECB()).encryptor()  # noqa: S305

    def open(self, packet: bytes, number_at: int) -> bytes | None:
        """The frames of one packet, whose packet number begins at ``number_at``; None when it is not under our keys."""
        mask = self._hp.update(packet[number_at + 4 : number_at + 20])
        first = packet[0] ^ (mask[0] & 0x0F)
        number_end = number_at + (first & 3) + 1
        number = bytes(a ^ b for a, b in zip(packet[number_at:number_end], mask[1:], strict=False))
        header = bytes((first,)) + packet[1:number_at] + number
        nonce = (self._iv ^ int.from_bytes(number, "big")).to_bytes(12, "big")
        try:
            return self._aead.decrypt(nonce, packet[number_end:], header)
        except InvalidTag:
            return None


def _expand_label(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label of RFC 8446 section 7.1 for outputs of one hash block and an empty context."""
    full = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes((len(full),)) + full + b"\0"
    return hmac.digest(secret, info + b"\x01", "sha256")[:length]


class QuicSniffer:
    """Reads the ClientHello of one UDP flow.  Once it has an answer other than ``MORE``, it keeps it."""

    __slots__ = ("_answer", "_datagrams", "_fragments", "_held", "_keys")

    def __init__(self) -> None:
        self._answer: SniffResult = MORE
        self._datagrams = 0
        self._fragments: dict[int, bytes] = {}
        self._held = 0
        self._keys: dict[tuple[int, bytes], _ClientKeys] = {}

    def feed(self, untrusted: bytes) -> SniffResult:
        """Take the next datagram the client sent."""
        if self._answer is MORE:
            self._answer = self._judge(untrusted)
            if self._answer is not MORE:
                self._fragments.clear()
                self._keys.clear()
        return self._answer

    def _judge(self, datagram: bytes) -> SniffResult:
        self._datagrams += 1
        try:
            opened = self._read_datagram(datagram)
        except _Malformed:
            return NOT_IT
        if not opened and not self._fragments:
            return NOT_IT
        message = self._assemble()
        if message[:1] not in (b"", b"\x01"):
            return NOT_IT
        if len(message) >= 4:
            size = 4 + int.from_bytes(message[1:4], "big")
            if size > MAX_HELLO:
                return NOT_IT
            if len(message) >= size:
                found = read_client_hello(message)
                return NOT_IT if found is None else Sniffed("quic", *found)
        return NOT_IT if self._datagrams >= _MAX_DATAGRAMS else MORE

    def _read_datagram(self, datagram: bytes) -> bool:
        """Gather the CRYPTO frames of all Initial packets in it; true when one of them could be opened."""
        opened = False
        at = 0
        while at < len(datagram) and datagram[at] & 0x80:
            reader = _Reader(datagram, at)
            first = reader.take(1)[0]
            number = int.from_bytes(reader.take(4), "big")
            version = _VERSIONS.get(number)
            if version is None or not first & 0x40:
                break
            dcid = reader.take_short()
            scid = reader.take_short()
            if len(dcid) > _MAX_CID or len(scid) > _MAX_CID:
                break
            kind = (first >> 4 & 3) - version.initial_type & 3
            if kind == 3:
                break
            if kind == 0:
                reader.take(reader.varint())
            length = reader.varint()
            number_at = reader.at
            reader.take(length)
            if kind == 0 and length >= 4 + _TAG:
                frames = self._open(number, version, dcid, datagram[at : reader.at], number_at - at)
                if frames is not None:
                    opened = True
                    self._read_frames(frames)
            at = reader.at
        return opened

    def _open(self, number: int, version: _Version, dcid: bytes, packet: bytes, number_at: int) -> bytes | None:
        # The server's first answer changes the connection ID but not the keys; a Retry changes both.
        for (keys_of, _), keys in self._keys.items():
            if keys_of == number and (frames := keys.open(packet, number_at)) is not None:
                return frames
        if (number, dcid) in self._keys or len(self._keys) >= _MAX_KEYS:
            return None
        keys = _ClientKeys(version, dcid)
        frames = keys.open(packet, number_at)
        if frames is not None:
            self._keys[number, dcid] = keys
        return frames

    def _read_frames(self, frames: bytes) -> None:
        """Walk the frames that RFC 9000 section 12.4 allows in an Initial packet, keeping CRYPTO."""
        reader = _Reader(frames, 0)
        while reader.at < len(frames):
            kind = frames[reader.at]
            if kind == 0:
                reader.skip_padding()
                continue
            reader.at += 1
            if kind == 6:
                offset = reader.varint()
                self._keep(offset, reader.take(reader.varint()))
            elif kind in (2, 3):
                reader.varint()
                reader.varint()
                ranges = reader.varint()
                reader.varint()
                for _ in range(2 * ranges + (3 if kind == 3 else 0)):
                    reader.varint()
            elif kind == 0x1C:
                reader.varint()
                reader.varint()
                reader.take(reader.varint())
            elif kind != 1:
                raise _Malformed

    def _keep(self, offset: int, data: bytes) -> None:
        held = self._fragments.get(offset, b"")
        if len(data) <= len(held):
            return
        self._held += len(data) - len(held)
        if offset + len(data) > MAX_HELLO or self._held > 2 * MAX_HELLO or len(self._fragments) >= _MAX_FRAGMENTS:
            raise _Malformed
        self._fragments[offset] = data

    def _assemble(self) -> bytes:
        """The handshake bytes from the beginning to the first gap."""
        message = bytearray()
        for offset in sorted(self._fragments):
            if offset > len(message):
                break
            message += self._fragments[offset][len(message) - offset :]
        return bytes(message)


class _Reader:
    """A cursor over bytes that raises ``_Malformed`` where they end too early."""

    __slots__ = ("_data", "at")

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise _Malformed
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def take_short(self) -> bytes:
        return self.take(self.take(1)[0])

    def varint(self) -> int:
        first = self.take(1)[0]
        rest = self.take((1 << (first >> 6)) - 1)
        return int.from_bytes(bytes((first & 0x3F,)) + rest, "big")

    def skip_padding(self) -> None:
        rest = self._data[self.at :]
        self.at += len(rest) - len(rest.lstrip(b"\0"))
