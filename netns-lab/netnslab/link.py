"""A slow, lossy cable: two TAP devices, each in its own namespace, joined by this process.

It exists because not every kernel has netem.  A frame read at one end waits on a timeline (a heap over both directions)
until its moment and is written at the other end.  Frames of one direction never overtake each other, as on a cable, so
jitter moves them without reordering.  The die is seeded: the n-th frame of a run has the same fate in every run, as far
as the frames themselves come in the same order.

Run as a program it takes the two ends and the link's values as JSON in its only argument, and says ``ready``.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time
from dataclasses import asdict, dataclass

__all__ = ["Link", "enter_namespace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What a cable does to each direction.  With nothing given it does no harm but is still slower than veth."""

    delay: float = 0.0
    """Seconds one way."""
    jitter: float = 0.0
    """Seconds; the delay moves evenly between minus and plus this."""
    loss: float = 0.0
    """Chance, 0 to 1, that a frame vanishes."""
    rate: float = 0.0
    """Bits a second; 0: no limit."""
    queue: int = 1000
    """Frames that may wait in one direction; more are dropped."""
    seed: int = 1

    def arguments(self, ends: tuple[tuple[str, str], tuple[str, str]]) -> str:
        """The program's argument: ``ends`` are (namespace, device) twice."""
        return json.dumps({"ends": ends, "link": asdict(self)})


def enter_namespace(name: str) -> None:
    """Move the calling thread into a network namespace made by ``ip netns add``.  ``OSError`` when that fails."""
    fd = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) != 0:  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), f"cannot enter namespace {name}")
    finally:
        os.close(fd)


def _tap(device: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", device.encode(), 0x2 | 0x1000))  # TUNSETIFF: IFF_TAP | IFF_NO_PI
    return fd


class _Direction:
    def __init__(self, link: Link, out: int, die: random.Random) -> None:
        self._link, self.out, self._die = link, out, die
        self.waiting = 0
        self._wire_free = 0.0
        self._last = 0.0

    def release(self, size: int, now: float) -> float | None:
        """When a frame that arrives now leaves at the other end; None when it is lost."""
        link = self._link
        lost, shift = self._die.random() < link.loss, self._die.uniform(-link.jitter, link.jitter)
        if lost or self.waiting >= link.queue:
            return None
        sent = max(now, self._wire_free) + (size * 8 / link.rate if link.rate else 0.0)
        self._wire_free = sent
        self._last = max(self._last, sent + max(0.0, link.delay + shift))
        self.waiting += 1
        return self._last


def _carry(link: Link, first: int, second: int) -> None:
    directions = {
        first: _Direction(link, second, random.Random(f"{link.seed}>")),
        second: _Direction(link, first, random.Random(f"{link.seed}<")),
    }
    poll = select.poll()
    for fd in directions:
        poll.register(fd, select.POLLIN)
    timeline: list[tuple[float, int, _Direction, bytes]] = []
    count = 0
    while True:
        wait = max(0.0, timeline[0][0] - time.monotonic()) * 1000 if timeline else None
        for fd, _ in poll.poll(wait):
            direction = directions[fd]
            for _ in range(64):
                try:
                    frame = os.read(fd, 65536)
                except BlockingIOError:
                    break
                if (due := direction.release(len(frame), time.monotonic())) is not None:
                    count += 1
                    heapq.heappush(timeline, (due, count, direction, frame))
        now = time.monotonic()
        while timeline and timeline[0][0] <= now:
            _, _, direction, frame = heapq.heappop(timeline)
            direction.waiting -= 1
            try:
                os.write(direction.out, frame)
            except OSError:  # the far device is down or full: a cable loses it
                continue


def _main() -> None:
    wanted = json.loads(sys.argv[1])
    fds = []
    for namespace, device in wanted["ends"]:
        enter_namespace(namespace)
        fds.append(_tap(device))
    print("ready", flush=True)
    _carry(Link(**wanted["link"]), *fds)


if __name__ == "__main__":
    _main()
