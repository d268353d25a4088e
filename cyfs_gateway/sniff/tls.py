"""Host and protocols from a TLS ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3, RFC 7301).

A ClientHello may be spread over several TCP segments and over several records, so bytes are only ever judged by what is
certain so far.  With Encrypted ClientHello the name found is the outer one, which is all that a middle box may know.
"""

from __future__ import annotations

from cyfs_gateway.sniff.result import MORE, NOT_IT, Sniffed, SniffResult, name_or_nothing

MAX_HELLO = 32 * 1024
"""Bytes of one ClientHello; post-quantum ones take about 2 KiB, and more would be somebody holding our memory."""

_MAX_RECORD = 16 * 1024
_MAX_RECORDS = 64
_MAX_ALPN = 32
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_ALPN = 16


def sniff_tls(untrusted: bytes) -> SniffResult:
    """Look at all bytes the client sent so far."""
    size = len(untrusted)
    at = 0
    parts: list[bytes] = []
    gathered = 0
    needed = 4
    while gathered < needed:
        if len(parts) == _MAX_RECORDS:
            return NOT_IT
        header = untrusted[at : at + 5]
        if (
            (header and header[0] != _HANDSHAKE)
            or (len(header) > 1 and header[1] != 3)
            or (len(header) > 2 and header[2] > 4)
        ):
            return NOT_IT
        if len(header) < 5:
            return MORE
        length = header[3] << 8 | header[4]
        if not 0 < length <= _MAX_RECORD:
            return NOT_IT
        part = untrusted[at + 5 : at + 5 + length]
        at += 5 + length
        parts.append(part)
        gathered += len(part)
        if needed == 4:
            start = b"".join(parts)[:4]
            if start and start[0] != _CLIENT_HELLO:
                return NOT_IT
            if len(start) == 4:
                needed = 4 + int.from_bytes(start[1:], "big")
                if needed > MAX_HELLO:
                    return NOT_IT
        if at > size and gathered < needed:
            return MORE
    found = read_client_hello(parts[0] if len(parts) == 1 else b"".join(parts))
    return NOT_IT if found is None else Sniffed("tls", *found)


def read_client_hello(message: bytes) -> tuple[str, tuple[str, ...]] | None:
    """Host and ALPN of a whole handshake message (its four-byte header included), or None when it is malformed.

    ``message`` may be longer than the ClientHello at its start.
    """
    end = 4 + int.from_bytes(message[1:4], "big")
    try:
        at = 4 + 2 + 32
        at += 1 + message[at]
        at += 2 + (message[at] << 8 | message[at + 1])
        at += 1 + message[at]
        if at == end:
            return "", ()
        at, last = at + 2, at + 2 + (message[at] << 8 | message[at + 1])
        if last != end or last > len(message):
            return None
        host = ""
        alpn: tuple[str, ...] = ()
        while at < last:
            kind = message[at] << 8 | message[at + 1]
            start = at + 4
            at = start + (message[at + 2] << 8 | message[at + 3])
            if at > last:
                return None
            if kind == _SERVER_NAME:
                host = _read_server_name(message[start:at])
            elif kind == _ALPN:
                alpn = _read_alpn(message[start:at])
    except IndexError:
        return None
    return host, alpn


def _read_server_name(extension: bytes) -> str:
    at = 2
    while at + 3 <= len(extension):
        end = at + 3 + (extension[at + 1] << 8 | extension[at + 2])
        if extension[at] == 0:
            return name_or_nothing(extension[at + 3 : end]) if end <= len(extension) else ""
        at = end
    return ""


def _read_alpn(extension: bytes) -> tuple[str, ...]:
    found: list[str] = []
    at = 2
    while at < len(extension) and len(found) < _MAX_ALPN:
        end = at + 1 + extension[at]
        found.append(extension[at + 1 : end].decode("latin-1"))
        at = end
    return tuple(found)
