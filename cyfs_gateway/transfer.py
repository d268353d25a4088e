"""Files from one device to another: the conversation between who gives and who takes, over one stream.

Each side writes lines, JSON objects with one key, at most ``MOST_LINE`` bytes each.  For every file:

1. ``{"offer":{"v":1,"name":N,"size":S,"mtime":T}}`` from the giver; T in microseconds since 1970.
2. The taker answers one of:
   ``{"hold":{"offset":O,"sha256":H}}``: I hold the first O bytes, whose hash is H (O is 0 for a new file);
   ``{"have":true}``: a file of this name and size is here; is it yours?
   ``{"no":{"code":C,"text":T}}``: not this one.
3. After *hold* the giver says ``{"start":O}``, or ``{"start":0}`` if its own first O bytes are others; then come S - O
   bytes as they are, and ``{"end":H}`` with the hash of the whole.  After *have* it says ``{"end":H}`` at once.
4. The taker answers ``{"done":true}`` when the file is whole and stands under its name; ``hold`` if it was another one
   but may be replaced; or ``no``.

The taker may say ``no`` at any time; in the middle of a file that ends the conversation, else the next offer may
follow.  Either side says ``{"wait":true}`` while it is busy with its disk, so that nobody takes the silence for death.
The giver ends the stream after the last file; a stream that ends anywhere else was cut, and what the taker holds is the
beginning of the next attempt.

Hashes are SHA-256, in hexadecimal.  Neither machine knows files, time or sockets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, TypeAlias

from cyfs_gateway.filenames import check_name
from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.identity.strictjson import Json, read_object, write_json

MOST_LINE: Final = 2048
MOST_SIZE: Final = 1 << 52
"""More than any disk; what JSON can say without loss."""

_MOST_TEXT = 300
_HASH = re.compile(r"[0-9a-f]{64}\Z").match


class Code(Enum):
    """Why a file is not taken."""

    EXISTS = "exists"
    NAME = "name"
    FULL = "full"
    BUSY = "busy"
    HASH = "hash"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Offer:
    """A file; ``mtime`` in microseconds since 1970."""

    name: str
    size: int
    mtime: int


@dataclass(frozen=True, slots=True)
class Hold:
    """The taker holds the first ``offset`` bytes, with this hash."""

    offset: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Have:
    """The taker has a file of that name and size, and wants proof that it is the same."""


@dataclass(frozen=True, slots=True)
class Done:
    """The file is whole, and stands under its name."""


@dataclass(frozen=True, slots=True)
class No:
    """It is not taken."""

    code: Code
    text: str


@dataclass(frozen=True, slots=True)
class Start:
    """Bytes come from ``offset`` on."""

    offset: int


@dataclass(frozen=True, slots=True)
class Data:
    """The next bytes of the file."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """All bytes have come, or the proof; ``sha256`` is that of the whole file."""

    sha256: str


@dataclass(frozen=True, slots=True)
class Misnamed:
    """An offer of a file whose name cannot stand here."""

    why: str


Answer: TypeAlias = Hold | Have | Done | No
Told: TypeAlias = Offer | Misnamed | Start | Data | Ended

WAIT: Final = write_json({"wait": True}) + b"\n"
"""Either side's sign of life."""


class _State(Enum):
    IDLE = auto()
    OFFERED = auto()
    HELD = auto()
    MOVING = auto()
    MOVED = auto()
    PROVING = auto()
    ENDED = auto()
    OVER = auto()


class _Lines:
    """Bytes in, lines out.  After one ``BadWire`` every later call fails."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fault = ""

    def add(self, untrusted: bytes) -> None:
        if self._fault:
            raise BadWire(self._fault)
        self._buffer += untrusted

    @property
    def empty(self) -> bool:
        return not self._buffer and not self._fault

    def next(self) -> tuple[str, Json] | None:
        """Key and value of the next line; None: not whole yet."""
        end = self._buffer.find(b"\n", 0, MOST_LINE)
        if end < 0:
            if len(self._buffer) >= MOST_LINE:
                raise BadWire("a line that is too long")
            return None
        said = read_object(bytes(self._buffer[:end]), "line")
        del self._buffer[: end + 1]
        if len(said) != 1:
            raise BadWire("a line with other than one thing to say")
        return next(iter(said.items()))

    def raw(self, most: int) -> bytes:
        """What has come, at most ``most`` bytes."""
        data = bytes(self._buffer[:most])
        del self._buffer[:most]
        return data

    def fail(self, fault: str) -> None:
        self._fault = fault
        self._buffer.clear()


class Taking:
    """The taker's side: what the giver says comes in, what is to be said goes out as bytes."""

    def __init__(self) -> None:
        self._lines = _Lines()
        self._state = _State.IDLE
        self._size = self._offset = self._left = 0

    @property
    def between(self) -> bool:
        """Whether no file is under way, so that the stream may end."""
        return self._state is _State.IDLE

    def receive_data(self, untrusted: bytes) -> list[Told]:
        """What follows from these bytes.  Raises ``BadWire``, now and ever after."""
        told: list[Told] = []
        if self._state is _State.MOVING and untrusted and self._lines.empty:
            # Most of what ever comes: it need not pass through a buffer.
            data, untrusted = untrusted[: self._left], untrusted[self._left :]
            told.append(self._moved(data))
        self._lines.add(untrusted)
        try:
            while (event := self._next()) is not None:
                told.append(event)
        except BadWire as bad:
            self._lines.fail(str(bad))
            if not told:
                raise
        return told

    def _next(self) -> Told | None:
        if self._state is _State.MOVING:
            data = self._lines.raw(self._left)
            if data or not self._left:
                moved = self._moved(data)
                return moved if data else self._next()
            return None
        while (line := self._lines.next()) is not None:
            key, value = line
            if key != "wait":
                return self._told(key, value)
        return None

    def _moved(self, data: bytes) -> Data:
        self._left -= len(data)
        if not self._left:
            self._state = _State.MOVED
        return Data(data)

    def _told(self, key: str, value: Json) -> Told:
        match self._state, key:
            case _State.IDLE, "offer":
                offer = _offer(value)
                self._size, self._state = offer.size, _State.OFFERED
                try:
                    check_name(offer.name)
                except BadWire as bad:
                    return Misnamed(str(bad))
                return offer
            case _State.HELD, "start":
                offset = _count(value, self._offset)
                if offset not in (0, self._offset):
                    raise BadWire("it starts where nobody is")
                self._left, self._state = self._size - offset, _State.MOVING
                return Start(offset)
            case _State.MOVED | _State.PROVING, "end":
                self._state = _State.ENDED
                return Ended(_hash(value))
        raise BadWire(f"{key[:20]!r} at the wrong time")

    def hold(self, offset: int, sha256: str) -> bytes:
        """I hold so much of it."""
        self._check(_State.OFFERED, _State.ENDED)
        if not 0 <= offset <= self._size:
            raise Misuse("nobody holds more than there is")
        self._offset, self._state = offset, _State.HELD
        return _line("hold", {"offset": offset, "sha256": sha256})

    def have(self) -> bytes:
        """There is a file of that name and size."""
        self._check(_State.OFFERED)
        self._state = _State.PROVING
        return _line("have", True)

    def done(self) -> bytes:
        """It is whole."""
        self._check(_State.ENDED)
        self._state = _State.IDLE
        return _line("done", True)

    def no(self, code: Code, text: str) -> bytes:
        """It is not taken.  In the middle of a file nothing can follow."""
        answered = self._state in (_State.OFFERED, _State.ENDED)
        self._state = _State.IDLE if answered else _State.OVER
        return _line("no", {"code": code.value, "text": text[:_MOST_TEXT]})

    def _check(self, *wanted: _State) -> None:
        if self._state not in wanted:
            raise Misuse(f"that is no answer to make when {self._state.name.lower()}")


class Giving:
    """The giver's side."""

    def __init__(self) -> None:
        self._lines = _Lines()
        self._state = _State.IDLE
        self._size = self._held = 0
        self._proved = False

    def receive_data(self, untrusted: bytes) -> list[Answer]:
        """What the taker answers.  Raises ``BadWire``, now and ever after."""
        self._lines.add(untrusted)
        answers: list[Answer] = []
        try:
            while (line := self._lines.next()) is not None:
                if line[0] != "wait":
                    answers.append(self._answer(*line))
        except BadWire as bad:
            self._lines.fail(str(bad))
            if not answers:
                raise
        return answers

    def _answer(self, key: str, value: Json) -> Answer:
        state = self._state
        match state, key:
            case _State.OFFERED, "hold":
                return self._hold(value)
            case _State.ENDED, "hold" if self._proved:
                return self._hold(value)
            case _State.OFFERED, "have":
                self._state = _State.PROVING
                return Have()
            case _State.ENDED, "done":
                self._state = _State.IDLE
                return Done()
            case _State.OFFERED | _State.ENDED | _State.HELD | _State.PROVING | _State.MOVING, "no":
                self._state = _State.IDLE if state in (_State.OFFERED, _State.ENDED) else _State.OVER
                return _no(value)
        raise BadWire(f"{key[:20]!r} at the wrong time")

    def _hold(self, value: Json) -> Hold:
        fields = _fields(value)
        offset = _count(fields.get("offset"), self._size)
        self._held, self._state = offset, _State.HELD
        return Hold(offset, _hash(fields.get("sha256")))

    @property
    def may_offer(self) -> bool:
        """Whether another file may follow."""
        return self._state is _State.IDLE

    def offer(self, offer: Offer) -> bytes:
        """Here is a file."""
        self._check(_State.IDLE)
        self._size, self._proved, self._state = offer.size, False, _State.OFFERED
        return _line("offer", {"v": 1, "name": offer.name, "size": offer.size, "mtime": offer.mtime})

    def start(self, offset: int) -> bytes:
        """Its bytes come now, from ``offset`` on; so many have to follow as there are, before ``end``."""
        self._check(_State.HELD)
        if offset not in (0, self._held):
            raise Misuse("it begins where it begins, or where the taker stands")
        self._state = _State.MOVING
        return _line("start", offset)

    def end(self, sha256: str) -> bytes:
        """That was all; or the proof."""
        self._check(_State.MOVING, _State.PROVING)
        self._proved, self._state = self._state is _State.PROVING, _State.ENDED
        return _line("end", sha256)

    def _check(self, *wanted: _State) -> None:
        if self._state not in wanted:
            raise Misuse(f"that is nothing to say when {self._state.name.lower()}")


def _line(key: str, value: Json) -> bytes:
    return write_json({key: value}) + b"\n"


def _fields(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, dict):
        raise BadWire("a line that says nothing")
    return value


def _count(value: Json, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise BadWire("a number that cannot be")
    return value


def _hash(value: Json) -> str:
    if not isinstance(value, str) or _HASH(value) is None:
        raise BadWire("a hash that is none")
    return value


def _offer(value: Json) -> Offer:
    fields = _fields(value)
    if fields.get("v") != 1:
        raise BadWire("an offer of a kind that is unknown here")
    name, mtime = fields.get("name"), fields.get("mtime")
    if not isinstance(name, str) or type(mtime) is not int:
        raise BadWire("an offer without name and time")
    return Offer(name, _count(fields.get("size"), MOST_SIZE), mtime)


def _no(value: Json) -> No:
    fields = _fields(value)
    code, text = fields.get("code"), fields.get("text")
    if not isinstance(code, str) or not isinstance(text, str):
        raise BadWire("a no without a reason")
    known = {one.value: one for one in Code}
    return No(known.get(code, Code.FAILED), text[:_MOST_TEXT])
