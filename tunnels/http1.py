"""HTTP/1.1 as an intermediary must read it: message heads and the ends of bodies, strictly (RFC 9112).

Two parsers that disagree about where a message ends let a stranger smuggle one message inside another.  A forwarder
therefore repeats nothing it has not understood: only CRLF ends a line, a field name touches its colon, lines are not
folded, there is one framing, and it is spelled the one plain way.  Whatever is odd is refused, though RFC 9112 would
let a lenient reader mend some of it.

Nothing here decodes a body.  ``Body`` follows it to its end and hands on, unchanged, the bytes it has checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from cyfs_ns.errors import BadWire

MAX_HEAD = 64 * 1024
"""Bytes of request or status line and fields together."""

_MAX_FIELDS = 256
_MAX_CHUNK_LINE = 1024
_MAX_TRAILERS = 16 * 1024

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELD = re.compile(rb"(" + _TOKEN + rb"):([^\x00-\x08\x0a-\x1f\x7f]*)")
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")

Fields = list[tuple[bytes, bytes]]
"""Field lines in order: name as it was spelled, value without the white space around it."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request line and its fields."""

    method: bytes
    target: bytes
    minor: int
    """0 or 1, of HTTP/1.x."""
    fields: Fields


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A status line and its fields."""

    status: int
    phrase: bytes
    minor: int
    fields: Fields


def cut_head(data: bytes | bytearray) -> tuple[bytes, int] | None:
    """The head at the start of ``data`` without its empty line, and where the body begins; None while it is incomplete.

    Raises ``BadWire`` when it is too long.
    """
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD + 4)
    if end >= 0:
        return bytes(data[:end]), end + 4
    if len(data) >= MAX_HEAD + 4:
        raise BadWire(f"HTTP head of more than {MAX_HEAD} bytes")
    return None


def parse_request(head: bytes) -> RequestHead:
    """Read what :func:`cut_head` cut.  Raises ``BadWire``."""
    lines = head.split(b"\r\n")
    found = _REQUEST_LINE.fullmatch(lines[0])
    if found is None:
        raise BadWire(f"{lines[0][:80]!r} is not a request line")
    return RequestHead(found[1], found[2], found[3] == b"1", parse_fields(lines[1:]))


def parse_response(head: bytes) -> ResponseHead:
    """Read what :func:`cut_head` cut.  Raises ``BadWire``."""
    lines = head.split(b"\r\n")
    found = _STATUS_LINE.fullmatch(lines[0])
    if found is None:
        raise BadWire(f"{lines[0][:80]!r} is not a status line")
    return ResponseHead(int(found[2]), found[3] or b"", found[1] == b"1", parse_fields(lines[1:]))


def parse_fields(lines: list[bytes]) -> Fields:
    """Read field lines.  Raises ``BadWire`` on folding, control characters, bare CR or LF, and malformed names."""
    if len(lines) > _MAX_FIELDS:
        raise BadWire(f"more than {_MAX_FIELDS} header fields")
    fields = []
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise BadWire(f"{line[:80]!r} is not a header field")
        fields.append((found[1], found[2].strip(b" \t")))
    return fields


def values_of(fields: Fields, name: bytes) -> list[bytes]:
    """All values of one field, ``name`` in lower case."""
    return [value for key, value in fields if key.lower() == name]


def tokens_of(fields: Fields, name: bytes) -> set[bytes]:
    """The members of a comma-separated field such as Connection, in lower case."""
    return {part.strip().lower() for value in values_of(fields, name) for part in value.split(b",")} - {b""}


class _Framing(Enum):
    NONE = 0
    LENGTH = 1
    CHUNKED = 2
    UNTIL_CLOSE = 3


class _Chunk(Enum):
    SIZE = 0
    DATA = 1
    DATA_END = 2
    TRAILER = 3


class Body:
    """Follows one body to its end.

    Feed what comes; the answer is what may be passed on.  Once ``done``, ``rest`` holds what came after the body.  A
    body that lasts until the connection closes (``until_close``) is never done by itself.
    """

    __slots__ = ("_buffer", "_framing", "_left", "_step", "_trailer_bytes", "done", "rest")

    def __init__(self, framing: _Framing, length: int = 0) -> None:
        self._framing = framing
        self._left = length
        self._step = _Chunk.SIZE
        self._buffer = b""
        self._trailer_bytes = 0
        self.done = framing is _Framing.NONE or (framing is _Framing.LENGTH and not length)
        self.rest = b""

    @property
    def until_close(self) -> bool:
        """Whether only the end of the connection ends this body."""
        return self._framing is _Framing.UNTIL_CLOSE

    def feed(self, untrusted: bytes) -> bytes:
        """Take bytes, return those that are checked and may be passed on.  Raises ``BadWire``."""
        if self.done:
            self.rest += untrusted
            return b""
        if self._framing is _Framing.CHUNKED:
            return self._feed_chunked(untrusted)
        if self._framing is _Framing.UNTIL_CLOSE:
            return untrusted
        if len(untrusted) < self._left:
            self._left -= len(untrusted)
            return untrusted
        mine, self.rest = untrusted[: self._left], untrusted[self._left :]
        self._left = 0
        self.done = True
        return mine

    def _feed_chunked(self, untrusted: bytes) -> bytes:
        data = self._buffer + untrusted if self._buffer else untrusted
        at = 0
        while not self.done:
            if self._step is _Chunk.DATA:
                took = min(self._left, len(data) - at)
                self._left -= took
                at += took
                if self._left:
                    break
                self._step = _Chunk.DATA_END
            elif self._step is _Chunk.DATA_END:
                if data[at : at + 2] != b"\r\n":
                    if b"\r\n".startswith(data[at : at + 2]):
                        break
                    raise BadWire("chunk is longer than its size says")
                at += 2
                self._step = _Chunk.SIZE
            else:
                end = data.find(b"\r\n", at, at + _MAX_CHUNK_LINE + 2)
                if end < 0:
                    if len(data) - at >= _MAX_CHUNK_LINE + 2 or b"\n" in data[at:]:
                        raise BadWire("chunk line is too long or ends in a bare LF")
                    break
                self._read_line(data[at:end])
                at = end + 2
        if self.done:
            self.rest, self._buffer = data[at:], b""
        else:
            self._buffer = data[at:]
        return data[:at]

    def _read_line(self, line: bytes) -> None:
        if self._step is _Chunk.SIZE:
            found = _CHUNK_LINE.fullmatch(line)
            if found is None:
                raise BadWire(f"{line[:80]!r} is not a chunk size")
            self._left = int(found[1], 16)
            self._step = _Chunk.DATA if self._left else _Chunk.TRAILER
        elif not line:
            self.done = True
        else:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > _MAX_TRAILERS:
                raise BadWire("HTTP trailers are too long")
            parse_fields([line])


def request_body(head: RequestHead) -> Body:
    """How the body of this request ends (RFC 9112 section 6).  Raises ``BadWire`` on any doubt."""
    return _framed(head.fields, head.minor) or Body(_Framing.NONE)


def response_body(head: ResponseHead, method: bytes) -> Body:
    """How the body of the response to ``method`` ends.  Raises ``BadWire`` on any doubt."""
    framed = _framed(head.fields, head.minor)
    if method == b"HEAD" or head.status < 200 or head.status in (204, 304):
        return Body(_Framing.NONE)
    return framed or Body(_Framing.UNTIL_CLOSE)


def _framed(fields: Fields, minor: int) -> Body | None:
    codings = values_of(fields, b"transfer-encoding")
    lengths = values_of(fields, b"content-length")
    if len(codings) + len(lengths) > 1:
        raise BadWire("more than one Content-Length or Transfer-Encoding")
    if codings:
        if codings[0].lower() != b"chunked" or not minor:
            raise BadWire(f"Transfer-Encoding {codings[0][:40]!r} is not served")
        return Body(_Framing.CHUNKED)
    if lengths:
        if _LENGTH.fullmatch(lengths[0]) is None:
            raise BadWire(f"Content-Length {lengths[0][:40]!r}")
        return Body(_Framing.LENGTH, int(lengths[0]))
    return None
