"""Logs: the standard library's loggers in, one line a record out, and a bus for those who watch over the control API.

Everybody writes with ``logging.getLogger("cyfs.…")`` and gives facts as ``extra={...}``; the formatters here print
them, readable on a terminal and as JSON otherwise.  Rules:

* a record is one line: whatever a stranger put into a name or an error text is escaped, so no record can be forged;
* the root logger's level is the lowest that anybody wants (the configuration, or a watcher), so a level that is off
  costs its caller one comparison;
* a watcher that lags loses the oldest records and is told how many; nobody who logs ever waits.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TextIO

import trio

from cyfs_ns.logline import LogLine
from cyfs_ns.printable import printable
from cyfs_ns.seldom import Seldom

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "silent": logging.CRITICAL + 10,
}
"""Clash's level names; ``silent`` is above every record."""

_QUEUE = 512
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}


class SeldomLine:
    """``line`` of ``log``, at most ``most`` times a minute by the same; the others are for ``debug``."""

    def __init__(self, log: logging.Logger, line: str, most: int = 1) -> None:
        self._log, self._line, self._seldom = log, line, Seldom(most)

    def tell(self, *what: object, by: object = None) -> None:
        """``what`` the line says of whoever ``by`` is."""
        more = self._seldom.ask(trio.current_time(), by)
        if more is None:
            self._log.debug(self._line, *what)
        else:
            self._log.info(self._line + more, *what)


class _SeldomWarning(logging.Filter):
    """One warning a minute, without a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = Seldom()

    def filter(self, record: logging.LogRecord) -> bool:
        more = self._seldom.ask(time.monotonic())
        if more is None:
            return False
        record.msg = f"{record.msg}{more}"
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.exc_info = record.exc_text = None
        return True


descriptors_log = logging.getLogger("cyfs.descriptors")
"""Whoever lacks a descriptor says so here: it is heard seldom, since such a lack shows everywhere and many times a
second, in logs that may lie on the very disk in need."""
for _name in ("cyfs.descriptors", "trio.serve_listeners"):
    logging.getLogger(_name).addFilter(_SeldomWarning())


class LogBus(logging.Handler):
    """The one handler of the root logger: writes each record to ``stream`` and hands it to the watchers.

    Safe from any thread.  A stream that fails (closed pipe, full disk) is ignored: logging never stops the house.
    """

    def __init__(self, stream: TextIO | None, *, json_lines: bool, colour: bool = False) -> None:
        super().__init__()
        self._stream = stream
        self._json, self._colour = json_lines, colour
        self._written = LEVELS["info"]
        self._watchers: set[Watcher] = set()

    def set_level(self, level: str) -> None:
        """What is written to the stream: a name of ``LEVELS``.  Watchers choose for themselves."""
        self._written = LEVELS[level]
        self._apply()

    def emit(self, record: logging.LogRecord) -> None:
        line = _line_of(record)
        if record.levelno >= self._written and self._stream is not None:
            text = json_line(line) if self._json else terminal_line(line, colour=self._colour)
            with suppress(OSError, ValueError):
                self._stream.write(text + "\n")
                self._stream.flush()
        for watcher in tuple(self._watchers):
            if record.levelno >= watcher.level:
                watcher.put(line)

    def subscribe(self, level: str) -> Watcher:
        """Records from now on, at ``level`` and above, for a trio task; ``aclose`` it to leave."""
        watcher = Watcher(LEVELS[level], self._forget)
        self._watchers.add(watcher)
        self._apply()
        return watcher

    def _forget(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)
        self._apply()

    def _apply(self) -> None:
        logging.getLogger().setLevel(min([self._written, *(w.level for w in self._watchers)]))


class Watcher:
    """An iterator over records: a bounded queue that any thread may fill and one trio task empties."""

    def __init__(self, level: int, forget: Callable[[Watcher], None]) -> None:
        self.level = level
        self._forget = forget
        self._queue: deque[LogLine] = deque(maxlen=_QUEUE)
        self._lost = 0
        self._wake = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def put(self, line: LogLine) -> None:
        """From any thread.  When the reader lags, the oldest record makes room."""
        if len(self._queue) == _QUEUE:
            self._lost += 1
        self._queue.append(line)
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._rouse, idempotent=True)

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> LogLine:
        await trio.lowlevel.checkpoint()
        while not self._queue:
            await self._wake.wait()
            self._wake = trio.Event()
        if lost := self._lost:
            self._lost = 0
            return LogLine(time.time(), "warning", f"{lost} log lines lost: this reader is too slow")
        return self._queue.popleft()

    async def aclose(self) -> None:
        self._forget(self)

    def _rouse(self) -> None:
        self._wake.set()


_bus: LogBus | None = None


def setup_logs(level: str, stream: TextIO | None, *, json: bool) -> LogBus:
    """Send every record of the process to ``stream`` (``None``: watchers only); colours when it is a terminal."""
    global _bus
    root = logging.getLogger()
    if _bus is not None:
        root.removeHandler(_bus)
    _bus = LogBus(stream, json_lines=json, colour=not json and stream is not None and stream.isatty())
    root.addHandler(_bus)
    _bus.set_level(level)
    return _bus


def log_bus() -> LogBus:
    """The bus in force; one without a stream when ``setup_logs`` was never called."""
    return _bus or setup_logs("info", None, json=False)


def set_level(level: str) -> None:
    """Change what is written, as a reload or PATCH /configs wants it."""
    log_bus().set_level(level)


def terminal_line(line: LogLine, *, colour: bool = False) -> str:
    """A record for people.  A traceback follows on its own lines, each marked, so that it cannot pass for a record."""
    clock = time.strftime("%H:%M:%S", time.localtime(line.time))
    paint, reset = (_COLOURS.get(line.level, ""), "\x1b[0m") if colour else ("", "")
    fields = dict(line.fields)
    traceback = str(fields.pop("exception", ""))
    facts = "".join(f" {printable(str(key))}={_value(value)}" for key, value in fields.items())
    text = f"{clock} {paint}{line.level:<7}{reset} {printable(line.message)}{facts}"
    return text + "".join(f"\n  | {printable(row)}" for row in traceback.split("\n") if row)


def json_line(line: LogLine) -> str:
    """A record for programs; ASCII, one line."""
    head = {"time": round(line.time, 6), "level": line.level, "message": line.message}
    return json.dumps({**head, **line.fields, **head}, default=str)


def _value(value: object) -> str:
    text = printable(str(value))
    return f'"{text}"' if " " in text or not text else text


def _line_of(record: logging.LogRecord) -> LogLine:
    fields: dict[str, Any] = {"logger": record.name}
    fields.update((key, value) for key, value in record.__dict__.items() if key not in _STANDARD)
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    try:
        message = record.getMessage()
    except (TypeError, ValueError):
        message = f"{record.msg} {record.args}"
    return LogLine(record.created, _name_of(record.levelno), message, fields)


def _name_of(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    return "info" if number >= logging.INFO else "debug"
