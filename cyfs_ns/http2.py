"""HTTP/2 for a DNS server (RFC 9113): a machine that answers small requests with small responses, and is hard to tire.

Only what DoH needs exists: no push, no priorities, no tunnels.  What is sent is never compressed against a table, so a
response head depends on its content alone and is made once; a request head whose bytes leave the decoder's table as it
was means the same each time, so its meaning is kept beside its bytes until the table changes.

Memory is bounded by the protocol's own means.  A body is at most a DNS message, which is the default window of a
stream; and bytes of unfinished bodies are given back to the window of the connection only when their stream is done,
so that window bounds all bodies together.  Replies that the peer gives no leave to send are bounded in bytes.

Work is bounded by *credit*.  Each frame that brings no query nearer to its answer costs some; time and answered queries
earn it back.  Who runs out is told ENHANCE_YOUR_CALM.  That covers floods of resets (CVE-2023-44487: and a reset does
not free the place of a query that is being worked on; the shell counts those), PING, SETTINGS, CONTINUATION,
DATA in crumbs, and whatever else repeats without purpose.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar, Final, NamedTuple, cast

import hpack
from hpack.table import HeaderTable

from cyfs_ns import doh
from cyfs_ns.conversation import HEADER_SIZE, MAX_MESSAGE, Asked, Page, PageWanted, Token
from cyfs_ns.doh import Refusal
from cyfs_ns.errors import BadWire

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS = 0, 1, 2, 3, 4
_PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 5, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITISED = 0x01, 0x01, 0x04, 0x08, 0x20

_NO_ERROR, _PROTOCOL_ERROR, _FLOW_CONTROL_ERROR, _STREAM_CLOSED, _FRAME_SIZE_ERROR = 0, 1, 3, 5, 6
_REFUSED_STREAM, _COMPRESSION_ERROR, _ENHANCE_YOUR_CALM = 7, 9, 11

_SET_ENABLE_PUSH, _SET_MAX_STREAMS, _SET_INITIAL_WINDOW, _SET_MAX_FRAME, _SET_MAX_HEADERS = 2, 3, 4, 5, 6

_WINDOW = 65535
_MAX_WINDOW = 2**31 - 1
_MAX_FRAME = 16384
_MAX_HEAD = 16384
"""Bytes of a header block as sent, and of its fields as HPACK counts them."""
_MAX_HELD = 256 * 1024
"""Bytes of replies that wait for the peer's windows."""

_CREDIT = 1000.0
_EARNED_EACH_SECOND = 20.0
_EARNED_BY_ANSWER = 4.0
_IDLE_FRAME, _VAIN_REQUEST, _CONTINUED = 1.0, 10.0, 50.0

_MEMO = 64
_MEMO_BLOCK = 512

_HEAD = struct.Struct("!HBBBL")
_SETTING = struct.Struct("!HL")


class _Broken(Exception):
    """The connection cannot go on: RFC 9113 section 5.4.1."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class _Request(NamedTuple):
    """What a head asks for; the same for every stream that sends these bytes."""

    query: bytes | PageWanted | Refusal | None
    """``None``: the body will be the query."""
    bare: bool
    """HEAD: the response has no body."""
    length: int | None
    forwarded: str


class _Stream:
    __slots__ = ("body", "ended", "gone", "held", "ident", "pending", "request", "window")

    def __init__(self, ident: int, window: int, request: _Request) -> None:
        self.ident, self.window, self.request = ident, window, request
        self.body = b""
        self.held = 0
        """Bytes not yet given back to the window of the connection."""
        self.pending = b""
        self.ended = self.gone = False


class _Table(HeaderTable):
    """The dynamic table, telling when an entry comes in."""

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__()
        self._changed = changed

    def add(self, name: bytes, value: bytes) -> None:
        self._changed()
        super().add(name, value)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def _literal(index: int, value: str) -> bytes:
    """A field of the static table with another value, kept out of any table (RFC 7541 section 6.2.2); ASCII < 127."""
    name = bytes((index,)) if index < 15 else bytes((15, index - 15))
    return name + bytes((len(value),)) + value.encode()


_STATUS, _ALLOW, _CACHE_CONTROL, _CONTENT_LENGTH, _CONTENT_TYPE, _VARY = 8, 22, 24, 28, 31, 59
_OK = b"\x88"


@lru_cache(maxsize=4096)
def _response_head(length: int, age: int) -> bytes:
    return (
        _OK
        + _literal(_CONTENT_TYPE, doh.DNS_MESSAGE)
        + _literal(_CONTENT_LENGTH, str(length))
        + _literal(_CACHE_CONTROL, f"max-age={age}")
    )


def _refusal_head(refusal: Refusal, length: int) -> bytes:
    head = _literal(_STATUS, str(refusal.status)) + _literal(_CONTENT_TYPE, "text/plain")
    if refusal.status == 405:
        head += _literal(_ALLOW, doh.ALLOWED)
    return head + _literal(_CONTENT_LENGTH, str(length)) + _literal(_CACHE_CONTROL, "no-store")


def _page_head(page: Page) -> bytes:
    return (
        _literal(_STATUS, str(page.status))
        + _literal(_CONTENT_TYPE, page.content_type)
        + _literal(_CONTENT_LENGTH, str(len(page.body)))
        + _literal(_CACHE_CONTROL, f"max-age={page.max_age}" if page.max_age else "no-store")
        + _literal(_VARY, "accept")
    )


class Http2:
    """A :class:`~cyfs_ns.conversation.Conversation` with one client."""

    def __init__(self, width: int = 100, path: bytes = doh.PATH) -> None:
        self.width = width
        self._path = path
        self._in = bytearray()
        settings = _SETTING.pack(_SET_MAX_STREAMS, width) + _SETTING.pack(_SET_MAX_HEADERS, _MAX_HEAD)
        self._out: list[bytes] = [_frame(_SETTINGS, 0, 0, settings)]
        self._greeted = self._settled = False
        self._fault = ""
        self._credit, self._then = _CREDIT, 0.0
        self._asked: list[Asked] = []

        self._streams: dict[int, _Stream] = {}
        self._last = 0
        self._unfinished = 0
        """Streams whose request is not whole."""
        self._leaving = False
        """Either side has said GOAWAY."""

        self._window_in = self._window_out = _WINDOW
        self._to_return = 0
        self._first_window = _WINDOW
        self._held = 0

        self._block: bytearray | None = None
        self._block_of, self._block_ends = 0, False
        self._decoder = hpack.Decoder(_MAX_HEAD)
        self._decoder.header_table = _Table(self._table_changed)
        self._stable = True
        self._memo: dict[bytes, _Request] = {}

    # The conversation

    @property
    def partial(self) -> bool:
        return bool(self._in or self._unfinished or self._held or self._block is not None)

    @property
    def finished(self) -> bool:
        return bool(self._fault) or (self._leaving and not self._streams)

    def feed(self, untrusted: bytes, now: float) -> None:
        self._in += untrusted
        if now > self._then:
            self._credit = min(_CREDIT, self._credit + (now - self._then) * _EARNED_EACH_SECOND)
            self._then = now

    def take(self, most: int) -> list[Asked]:
        asked = self._asked = []
        if not self._fault:
            try:
                self._read(most)
            except _Broken as broken:
                self._fault = str(broken)
                self._in.clear()
                self._out.append(_goaway(self._last, broken.code, self._fault))
        if self._fault and not asked:
            raise BadWire(self._fault)
        return asked

    def answer(self, token: Token, reply: bytes | None) -> None:
        stream: _Stream = token
        if stream.gone or self._fault:
            return
        if reply is None:
            self._refuse(stream, doh.SILENCE)
            return
        self._credit = min(_CREDIT, self._credit + _EARNED_BY_ANSWER)
        size = len(reply)
        head = _response_head(size, doh.max_age(reply))
        if stream.request.bare:
            self._out.append(_frame(_HEADERS, _END_HEADERS | _END_STREAM, stream.ident, head))
            self._drop(stream)
        elif size <= stream.window and size <= self._window_out and size <= _MAX_FRAME:
            ident = stream.ident
            self._window_out -= size
            self._out.append(
                _HEAD.pack(0, len(head), _HEADERS, _END_HEADERS, ident)
                + head
                + _HEAD.pack(size >> 8, size & 0xFF, _DATA, _END_STREAM, ident)
                + reply
            )
            self._drop(stream)
        else:
            self._out.append(_frame(_HEADERS, _END_HEADERS, stream.ident, head))
            self._hold(stream, reply)

    def show(self, token: Token, page: Page | None) -> None:
        stream: _Stream = token
        if stream.gone or self._fault:
            return
        if page is None:
            self._refuse(stream, doh.NO_PAGE)
            return
        body = b"" if stream.request.bare else page.body
        self._out.append(_frame(_HEADERS, _END_HEADERS | (0 if body else _END_STREAM), stream.ident, _page_head(page)))
        if body:
            self._hold(stream, body)
        else:
            self._drop(stream)

    def leave(self) -> None:
        if not self._fault and not self._leaving:
            self._leaving = True
            self._out.append(_goaway(self._last, _NO_ERROR, ""))

    def pieces_to_send(self) -> list[bytes]:
        pieces, self._out = self._out, []
        return pieces

    # Frames in

    def _read(self, most: int) -> None:
        buffer = self._in
        if not self._greeted:
            if not PREFACE.startswith(buffer[: len(PREFACE)]):
                raise _Broken(_PROTOCOL_ERROR, "no HTTP/2 preface")
            if len(buffer) < len(PREFACE):
                return
            del buffer[: len(PREFACE)]
            self._greeted = True
        at, size = 0, len(buffer)
        try:
            while size - at >= 9 and len(self._asked) < most and not self._fault:
                high, low, kind, flags, stream = _HEAD.unpack_from(buffer, at)
                length = high << 8 | low
                if length > _MAX_FRAME:
                    raise _Broken(_FRAME_SIZE_ERROR, f"a frame of {length} bytes")
                begins = at + 9
                if size - begins < length:
                    return
                at = begins + length
                self._frame_came(kind, flags, stream & 0x7FFFFFFF, bytes(buffer[begins:at]))
        finally:
            del buffer[:at]

    def _frame_came(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and (kind != _CONTINUATION or stream != self._block_of):
            raise _Broken(_PROTOCOL_ERROR, "a header block is interrupted")
        if not self._settled:
            if kind != _SETTINGS or flags & _ACK:
                raise _Broken(_PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._settled = True
        if kind == _HEADERS:
            self._headers(flags, stream, payload)
        elif kind == _DATA:
            self._data(flags, stream, payload)
        else:
            self._spend(_IDLE_FRAME)
            handle = self._others.get(kind)
            if handle is not None:  # unknown kinds are passed over (section 4.1)
                handle(self, flags, stream, payload)

    def _spend(self, cost: float) -> None:
        self._credit -= cost
        if self._credit < 0:
            raise _Broken(_ENHANCE_YOUR_CALM, "too much work for too few queries")

    def _headers(self, flags: int, ident: int, payload: bytes) -> None:
        if not ident & 1:
            raise _Broken(_PROTOCOL_ERROR, f"HEADERS on stream {ident}")
        if flags & _PADDED:
            payload = _unpadded(payload)
        if flags & _PRIORITISED:
            if len(payload) < 5:
                raise _Broken(_FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            payload = payload[5:]
        if flags & _END_HEADERS:
            self._head_came(ident, bool(flags & _END_STREAM), payload)
        else:
            self._spend(_CONTINUED)
            self._block = bytearray(payload)
            self._block_of, self._block_ends = ident, bool(flags & _END_STREAM)

    def _continuation(self, flags: int, ident: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise _Broken(_PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._spend(_CONTINUED)
        block += payload
        if len(block) > _MAX_HEAD:
            raise _Broken(_ENHANCE_YOUR_CALM, "a header block too long")
        if flags & _END_HEADERS:
            self._block = None
            self._head_came(ident, self._block_ends, bytes(block))

    def _head_came(self, ident: int, ends: bool, block: bytes) -> None:
        # Whatever becomes of the stream, its block must go through the decoder, whose table all others share.
        request = self._memo.get(block)
        if request is None:
            fields = self._decode(block)
            if ident <= self._last:
                self._trailers(ident, proper=ends and not any(name.startswith(b":") for name, _ in fields))
                return
            request = _read_head(fields, self._path)
            if request is not None and self._stable and len(block) <= _MEMO_BLOCK:
                if len(self._memo) >= _MEMO:
                    self._memo.clear()
                self._memo[block] = request
        elif ident <= self._last:
            self._trailers(ident, proper=False)
            return
        self._last = ident
        if request is None:
            self._spend(_VAIN_REQUEST)
            self._reset(ident, _PROTOCOL_ERROR)
        elif self._leaving or len(self._streams) >= self.width:
            self._spend(_IDLE_FRAME)
            self._reset(ident, _REFUSED_STREAM)
        else:
            stream = self._streams[ident] = _Stream(ident, self._first_window, request)
            self._unfinished += 1
            if isinstance(request.query, Refusal):
                stream.ended = ends
                self._unfinished -= ends
                self._refuse(stream, request.query)
            elif ends:
                self._finish(stream)

    def _decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        self._stable = True
        if block[:1] and block[0] & 0xE0 == 0x20:  # an update of the table's size, always first (RFC 7541 section 4.2)
            self._table_changed()
        self._spend(len(block) / 512)
        try:
            return cast(list[tuple[bytes, bytes]], self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError:
            raise _Broken(_ENHANCE_YOUR_CALM, "a header list too long") from None
        except (hpack.HPACKError, ValueError, IndexError) as fault:
            raise _Broken(_COMPRESSION_ERROR, f"HPACK: {fault}"[:100]) from None

    def _table_changed(self) -> None:
        self._stable = False
        self._memo.clear()

    def _trailers(self, ident: int, *, proper: bool) -> None:
        self._spend(_IDLE_FRAME)
        stream = self._streams.get(ident)
        if stream is None:
            return  # of a stream that is over, perhaps not yet for the peer
        if stream.ended:
            raise _Broken(_STREAM_CLOSED, f"HEADERS on the ended stream {ident}")
        if proper:
            self._finish(stream)
        else:
            self._malformed(stream)

    def _data(self, flags: int, ident: int, payload: bytes) -> None:
        size = len(payload)
        self._window_in -= size
        if self._window_in < 0:
            raise _Broken(_FLOW_CONTROL_ERROR, "more DATA than the window allows")
        if flags & _PADDED:
            payload = _unpadded(payload)
        if not flags & _END_STREAM:
            self._spend(_IDLE_FRAME)
        stream = self._streams.get(ident)
        if stream is None:
            if not ident & 1 or ident > self._last:
                raise _Broken(_PROTOCOL_ERROR, f"DATA on stream {ident}")
            self._spend(_IDLE_FRAME)
            self._give_back(size)
            return
        if stream.ended:
            raise _Broken(_STREAM_CLOSED, f"DATA on the ended stream {ident}")
        stream.held += size
        stream.body = stream.body + payload if stream.body else payload
        if flags & _END_STREAM:
            self._finish(stream)

    def _priority(self, flags: int, ident: int, payload: bytes) -> None:
        if not ident:
            raise _Broken(_PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise _Broken(_FRAME_SIZE_ERROR, "PRIORITY")

    def _rst_stream(self, flags: int, ident: int, payload: bytes) -> None:
        if not ident & 1 or ident > self._last:
            raise _Broken(_PROTOCOL_ERROR, f"RST_STREAM on stream {ident}")
        if len(payload) != 4:
            raise _Broken(_FRAME_SIZE_ERROR, "RST_STREAM")
        stream = self._streams.get(ident)
        if stream is not None:
            self._drop(stream)
            self._spend(_VAIN_REQUEST)

    def _settings(self, flags: int, ident: int, payload: bytes) -> None:
        if ident:
            raise _Broken(_PROTOCOL_ERROR, f"SETTINGS on stream {ident}")
        if len(payload) % 6 or (flags & _ACK and payload):
            raise _Broken(_FRAME_SIZE_ERROR, "SETTINGS")
        if flags & _ACK:
            return
        self._spend(len(payload) / 60)
        for key, value in _SETTING.iter_unpack(payload):
            if key == _SET_ENABLE_PUSH and value > 1:
                raise _Broken(_PROTOCOL_ERROR, f"ENABLE_PUSH of {value}")
            if key == _SET_MAX_FRAME and not _MAX_FRAME <= value < 1 << 24:
                raise _Broken(_PROTOCOL_ERROR, f"MAX_FRAME_SIZE of {value}")
            if key == _SET_INITIAL_WINDOW:
                if value > _MAX_WINDOW:
                    raise _Broken(_FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE of {value}")
                self._move_windows(value - self._first_window)
                self._first_window = value
        # Only after this may new windows be used: until then the peer counts by the old ones.
        self._out.append(_frame(_SETTINGS, _ACK, 0, b""))
        self._send_held()

    def _push_promise(self, flags: int, ident: int, payload: bytes) -> None:
        raise _Broken(_PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _ping(self, flags: int, ident: int, payload: bytes) -> None:
        if ident:
            raise _Broken(_PROTOCOL_ERROR, f"PING on stream {ident}")
        if len(payload) != 8:
            raise _Broken(_FRAME_SIZE_ERROR, "PING")
        if not flags & _ACK:
            self._out.append(_frame(_PING, _ACK, 0, payload))

    def _goaway_came(self, flags: int, ident: int, payload: bytes) -> None:
        if ident:
            raise _Broken(_PROTOCOL_ERROR, f"GOAWAY on stream {ident}")
        if len(payload) < 8:
            raise _Broken(_FRAME_SIZE_ERROR, "GOAWAY")
        self._leaving = True

    def _window_update(self, flags: int, ident: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _Broken(_FRAME_SIZE_ERROR, "WINDOW_UPDATE")
        more = int.from_bytes(payload, "big") & _MAX_WINDOW
        if not ident:
            self._window_out += more
            if not more:
                raise _Broken(_PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            if self._window_out > _MAX_WINDOW:
                raise _Broken(_FLOW_CONTROL_ERROR, "a window too wide")
        elif not ident & 1 or ident > self._last:
            raise _Broken(_PROTOCOL_ERROR, f"WINDOW_UPDATE on stream {ident}")
        elif (stream := self._streams.get(ident)) is not None:
            stream.window += more
            if not more:
                self._malformed(stream)
            elif stream.window > _MAX_WINDOW:
                self._reset(ident, _FLOW_CONTROL_ERROR)
                self._drop(stream)
        self._send_held()

    _others: ClassVar[dict[int, Callable[[Http2, int, int, bytes], None]]] = {
        _PRIORITY: _priority,
        _RST_STREAM: _rst_stream,
        _SETTINGS: _settings,
        _PUSH_PROMISE: _push_promise,
        _PING: _ping,
        _GOAWAY: _goaway_came,
        _WINDOW_UPDATE: _window_update,
        _CONTINUATION: _continuation,
    }

    # Streams

    def _finish(self, stream: _Stream) -> None:
        """The request is whole."""
        stream.ended = True
        self._unfinished -= 1
        request = stream.request
        query = request.query
        if query is None:
            query = stream.body
            stream.body = b""
            if request.length is not None and request.length != len(query):
                self._malformed(stream)
                return
            self._give_back(stream.held)
            stream.held = 0
            if not HEADER_SIZE <= len(query) <= MAX_MESSAGE:
                self._refuse(stream, doh.SILENCE)
                return
        assert not isinstance(query, Refusal)
        self._asked.append(Asked(stream, query, request.forwarded))

    def _malformed(self, stream: _Stream) -> None:
        """RFC 9113 section 8.1.1."""
        self._spend(_VAIN_REQUEST)
        self._reset(stream.ident, _PROTOCOL_ERROR)
        self._drop(stream)

    def _refuse(self, stream: _Stream, refusal: Refusal) -> None:
        text = b"" if stream.request.bare else f"{refusal.reason}\n".encode()
        head = _refusal_head(refusal, len(text))
        self._out.append(_frame(_HEADERS, _END_HEADERS | (0 if text else _END_STREAM), stream.ident, head))
        if not stream.ended:
            stream.ended = True
            self._unfinished -= 1
            self._hold(stream, text)
            # The rest of the body is not wanted (section 8.1): only then may the response be cut in halves by a window.
            self._reset(stream.ident, _NO_ERROR)
            self._drop(stream)
        elif text:
            self._hold(stream, text)
        else:
            self._drop(stream)

    def _hold(self, stream: _Stream, body: bytes) -> None:
        stream.pending = body
        self._held += len(body)
        self._send_some(stream)
        if self._held > _MAX_HELD and not self._fault:
            self._fault = "replies are asked for, but no window opens for them"
            self._out.append(_goaway(self._last, _ENHANCE_YOUR_CALM, self._fault))

    def _send_held(self) -> None:
        if self._held:
            for stream in list(self._streams.values()):
                if stream.pending and self._window_out > 0:
                    self._send_some(stream)

    def _send_some(self, stream: _Stream) -> None:
        while stream.pending and (size := min(len(stream.pending), stream.window, self._window_out, _MAX_FRAME)) > 0:
            piece, stream.pending = stream.pending[:size], stream.pending[size:]
            stream.window -= size
            self._window_out -= size
            self._held -= size
            self._out.append(_frame(_DATA, 0 if stream.pending else _END_STREAM, stream.ident, piece))
            if not stream.pending:
                self._drop(stream)

    def _move_windows(self, by: int) -> None:
        for stream in self._streams.values():
            stream.window += by
            if stream.window > _MAX_WINDOW:
                raise _Broken(_FLOW_CONTROL_ERROR, "a window too wide")

    def _give_back(self, size: int) -> None:
        self._to_return += size
        if self._to_return > _WINDOW // 2:
            self._window_in += self._to_return
            self._out.append(_frame(_WINDOW_UPDATE, 0, 0, self._to_return.to_bytes(4, "big")))
            self._to_return = 0

    def _reset(self, ident: int, code: int) -> None:
        self._out.append(_frame(_RST_STREAM, 0, ident, code.to_bytes(4, "big")))

    def _drop(self, stream: _Stream) -> None:
        """Forget a stream; what is still on its way to it is passed over."""
        if stream.gone:
            return
        stream.gone = True
        del self._streams[stream.ident]
        if not stream.ended:
            self._unfinished -= 1
        if stream.held:
            self._give_back(stream.held)
        self._held -= len(stream.pending)
        stream.pending = stream.body = b""


def _goaway(last: int, code: int, why: str) -> bytes:
    return _frame(_GOAWAY, 0, 0, struct.pack("!LL", last, code) + why.encode())


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise _Broken(_PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


_FORBIDDEN = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))


def _read_head(fields: list[tuple[bytes, bytes]], path: bytes) -> _Request | None:
    """What a request's fields ask for, or ``None`` when they are malformed (RFC 9113 section 8)."""
    pseudo: dict[bytes, bytes] = {}
    content_type = host = accept = b""
    length: int | None = None
    forwarded: list[str] = []
    regular = False
    for name, value in fields:
        if name.startswith(b":"):
            if regular or name in pseudo or name not in _PSEUDO:
                return None
            pseudo[name] = value
            continue
        regular = True
        if not name or name != name.lower() or name in _FORBIDDEN or (name == b"te" and value != b"trailers"):
            return None
        if name == b"content-type":
            content_type = value
        elif name == b"content-length":
            if not value.isdigit() or len(value) > 10 or length not in (None, int(value)):
                return None
            length = int(value)
        elif name == b"host":
            host = value
        elif name == b"accept":
            accept = value
        elif name == b"x-forwarded-for":
            forwarded.append(value.decode("latin-1"))
    method, target = pseudo.get(b":method"), pseudo.get(b":path")
    if not method or (method != b"CONNECT" and not (target and pseudo.get(b":scheme"))):
        return None
    host = pseudo.get(b":authority", host)
    query = doh.read_request(method, target or b"", content_type, length, path, host=host, accept=accept)
    return _Request(query, method == b"HEAD", length, ",".join(forwarded))
