"""Tar archives as container tools write them: bytes in; entries, their contents and the end out.

Read are v7, ustar (POSIX.1-1988), pax (POSIX.1-2001 §pax) and GNU's long names and base-256 numbers.  Sparse files are
refused: no image tool writes them.  Every header must carry a right checksum, so a stream that is no tar ends at once;
what a header may make us hold is ``MOST_EXTENDED`` bytes, and contents are handed on in the pieces in which they came.

After one ``BadWire`` nobody knows where headers begin, so every later call fails too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from cyfs_ns.errors import BadWire

EntryKind = Literal["file", "directory", "symlink", "hardlink", "device", "fifo"]

MOST_EXTENDED: Final = 1 << 20
"""Bytes of one extended header: a pax block with attributes, or a long name."""
MOST_PATH: Final = 4096
"""Bytes of a path, as Linux takes them (``PATH_MAX``)."""

_BLOCK: Final = 512
_MOST_SIZE: Final = 1 << 53
_KINDS: Final[dict[bytes, EntryKind]] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "device",
    b"4": "device",
    b"5": "directory",
    b"6": "fifo",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The head of one entry.  Its ``size`` bytes follow as ``Content``."""

    path: str
    """As it stands there, undecodable bytes as surrogates (PEP 383): nothing is checked but its length."""
    kind: EntryKind
    size: int = 0
    mode: int = 0
    owner: tuple[int, int] = (0, 0)
    """User and group."""
    mtime: int = 0
    """Unix seconds."""
    target: str = ""
    """Of a link."""
    offset: int = 0
    """Where in the stream its contents begin."""


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the entry that was told last."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class End:
    """Two empty blocks: whatever follows is padding."""


Event = Entry | Content | End


class TarReader:
    """One archive."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        """Where in the stream the buffer begins."""
        self._left = 0
        """Contents of the entry that are still to come."""
        self._padding = 0
        self._extended: dict[str, str] = {}
        """What extended headers say of the entry that follows them."""
        self._ended = False
        self._fault: str | None = None

    def receive_data(self, untrusted: bytes) -> None:
        """The next bytes.  Call ``next_event`` until it wants more."""
        if self._ended:
            return
        self._buffer += untrusted

    def next_event(self) -> Event | None:
        """What came; None: more bytes are needed.  Raises ``BadWire``."""
        if self._fault is not None:
            raise BadWire(self._fault)
        try:
            return self._next()
        except BadWire as bad:
            self._fault = str(bad)
            raise

    def finish(self) -> None:
        """No more bytes come.  Raises ``BadWire`` where that is in the middle of something.

        The padding of the last entry and the blocks that mark the end may be missing: umoci leaves them out.
        """
        if self._fault is not None:
            raise BadWire(self._fault)
        if not self._ended and (self._buffer or self._left or self._extended):
            raise BadWire("the archive is cut short")

    def _next(self) -> Event | None:
        while not self._ended:
            if self._left:
                if not self._buffer:
                    return None
                data = bytes(self._take(min(self._left, len(self._buffer))))
                self._left -= len(data)
                return Content(data)
            if self._padding:
                self._padding -= len(self._take(min(self._padding, len(self._buffer))))
                if self._padding:
                    return None
            if len(self._buffer) < _BLOCK:
                return None
            head = bytes(self._buffer[:_BLOCK])
            if not any(head):
                self._ended = True
                self._buffer.clear()
                return End()
            _check_sum(head)
            flag = head[156:157]
            if flag in b"xgLK":
                size = _number(head[124:136], "size")
                if size > MOST_EXTENDED:
                    raise BadWire(f"an extended header of {size} bytes; at most {MOST_EXTENDED} are read")
                if len(self._buffer) < _BLOCK + _padded(size):
                    return None
                self._take(_BLOCK)
                self._note(flag, bytes(self._take(_padded(size))[:size]))
                continue
            self._take(_BLOCK)
            return self._entry(head, flag)
        return None

    def _note(self, flag: bytes, data: bytes) -> None:
        if flag == b"L":
            self._extended["path"] = _text(data)
        elif flag == b"K":
            self._extended["linkpath"] = _text(data)
        elif flag == b"x":
            self._extended |= _pax(data)
        else:
            _pax(data)  # for the whole archive: a comment, as git writes one; no image tool says more there

    def _entry(self, head: bytes, flag: bytes) -> Entry:
        extended, self._extended = self._extended, {}
        kind = _KINDS.get(flag)
        if kind is None or any(name.startswith("GNU.sparse") for name in extended):
            raise BadWire(f"an entry of type {flag!r}, which no image has")
        path = extended.get("path") or _path(head)
        size = _decimal(extended["size"], "size") if "size" in extended else _number(head[124:136], "size")
        if kind == "file" and path.endswith("/"):
            kind = "directory"  # v7 has no other way to say it
        if kind != "file":
            if kind == "hardlink" or size == 0 or kind == "directory":
                size = 0  # some writers repeat the size of what is linked to; no contents follow
            else:
                raise BadWire(f"a {kind} with contents")
        target = (extended.get("linkpath") or _text(head[157:257])) if kind in ("symlink", "hardlink") else ""
        for text in (path, target):
            if len(text.encode("utf-8", "surrogateescape")) >= MOST_PATH:
                raise BadWire(f"a path of more than {MOST_PATH} bytes")
        self._left, self._padding = size, _padded(size) - size
        return Entry(
            path=path,
            kind=kind,
            size=size,
            mode=_number(head[100:108], "mode") & 0o7777,
            owner=(_owner(head[108:116], extended, "uid"), _owner(head[116:124], extended, "gid")),
            mtime=min(_number(head[136:148], "mtime"), 1 << 40),
            target=target,
            offset=self._at,
        )

    def _take(self, count: int) -> bytearray:
        taken = self._buffer[:count]
        del self._buffer[:count]
        self._at += len(taken)
        return taken


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _check_sum(head: bytes) -> None:
    blanked = head[:148] + b" " * 8 + head[156:]
    if _number(head[148:156], "checksum") != sum(blanked):
        raise BadWire("a header with a wrong checksum: this is no tar archive, or it is damaged")


def _number(untrusted: bytes, what: str) -> int:
    """Octal digits, or base 256 where the first bit is set (GNU); negative times are 0."""
    if untrusted[0] & 0x80:
        if untrusted[0] == 0xFF:
            return 0
        value = int.from_bytes(bytes([untrusted[0] & 0x7F]) + untrusted[1:], "big")
    else:
        digits = untrusted.partition(b"\0")[0].strip(b" ")
        if digits.strip(b"01234567"):
            raise BadWire(f"a header whose {what} is no number")
        value = int(digits or b"0", 8)
    if value > _MOST_SIZE:
        raise BadWire(f"a header whose {what} is too large")
    return value


def _owner(untrusted: bytes, extended: dict[str, str], name: str) -> int:
    return _decimal(extended[name], name) if name in extended else _number(untrusted, name)


def _decimal(text: str, what: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        raise BadWire(f"a header whose {what} is no number")
    return int(text)


def _text(untrusted: bytes) -> str:
    return untrusted.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _path(head: bytes) -> str:
    name = _text(head[:100])
    prefix = _text(head[345:500]) if head[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _pax(data: bytes) -> dict[str, str]:
    """The records of an extended header: ``LENGTH KEY=VALUE`` and a line feed, LENGTH counting all of it."""
    found = {}
    at = 0
    while at < len(data):
        digits, blank, _ = data[at : at + 9].partition(b" ")
        length = int(digits) if blank and digits.isdigit() else 0
        record = data[at + len(digits) + 1 : at + length]
        at += length
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or length != len(digits) + 1 + len(record):
            raise BadWire("an extended header that cannot be read")
        if b"\0" not in value:  # in attributes of files, which are not kept
            found[key.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
    return found
