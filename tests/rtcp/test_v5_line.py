"""How a carrier's connection is given up: with last words, and a moment for the peer to hear them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from rtcp.io.line import Line
from rtcp.io.shaking import part


@dataclass
class Flood:
    """A pipe whose peer never stops talking; each read takes a tenth of a second."""

    clock: trio.testing.MockClock
    said: bytearray = field(default_factory=bytearray)
    reads: int = 0
    is_closed: bool = False

    def fileno(self):
        return -1

    def recv_into(self, buffer):
        self.reads += 1
        assert self.reads < 1000, "it reads for ever"
        self.clock.jump(0.1)
        return len(buffer)

    def send(self, data):
        self.said += data
        return len(data)

    def pending(self):
        return False

    def unsent(self):
        return False

    def flush(self): ...
    def shutdown_write(self): ...
    def close(self):
        self.is_closed = True


class Still:
    """A reactor that calls nobody."""

    def watch(self, fd, events, handler): ...
    def rewatch(self, fd, events): ...
    def forget(self, fd): ...


class LastWords:
    def data_to_send(self):
        return b"good night"


@pytest.mark.parametrize("whose", ["a carrier", "a handshake"])
async def test_who_never_stops_talking_is_not_listened_to_for_ever(mock_clock, whose):
    pipe = Flood(mock_clock)
    async with trio.open_nursery() as nursery:
        if whose == "a carrier":
            line = Line(None, pipe, Still(), lambda line, data: None, lambda: None, leg=False)
            line.close(b"good night", nursery)
        else:
            nursery.start_soon(part, LastWords(), pipe)
    assert pipe.said == b"good night" and pipe.is_closed and 10 < pipe.reads < 100
