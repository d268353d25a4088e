"""Datagrams between a pipe and one target, moved by the reactor: a relay for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cyfs_ns.names import is_ip
from rtcp.io.pipe import DatagramPipe
from tunnels.endpoint import PacketEndpoint, Target
from tunnels.io.reactor import READABLE

if TYPE_CHECKING:
    from cyfs_gateway.io.engine import Engine

_BATCH: Final = 64


class PacketRelay:
    """Both ways, until nothing moves any more.  ``on_close(relay, why)`` is called once."""

    def __init__(
        self,
        engine: Engine,
        near: DatagramPipe,
        far: PacketEndpoint,
        target: Target,
        on_close: Callable[[object, str], None],
    ) -> None:
        self.up = self.down = 0
        self.slot = 0
        self._engine, self._near, self._far, self._target, self._on_close = engine, near, far, target, on_close
        self._closed = False
        self._fds = near.fileno(), far.fileno()
        self.deadline = 0.0
        self._touch()
        engine.reactor.schedule(self)
        engine.reactor.watch(self._fds[0], READABLE, self._on_near)
        engine.reactor.watch(self._fds[1], READABLE, self._on_far)

    def _touch(self) -> None:
        self.deadline = self._engine.reactor.now + self._engine.timeouts.udp

    def _on_near(self, _events: int) -> None:
        self._touch()
        try:
            for _ in range(_BATCH):
                data = self._near.recv()
                self._far.send(data, self._target)
                self.up += len(data)
        except BlockingIOError:
            return
        except OSError as fault:
            self.close(str(fault))

    def _on_far(self, _events: int) -> None:
        self._touch()
        try:
            for _ in range(_BATCH):
                data, source = self._far.recv()
                if is_ip(self._target.host) and source != self._target:
                    continue  # a stranger who found the port
                self._near.send(data)
                self.down += len(data)
        except BlockingIOError:
            return
        except OSError as fault:
            self.close(str(fault))

    def remote(self) -> str:
        return self._target.host

    def expire(self) -> None:
        self.close("")

    def close(self, why: str) -> None:
        """End it.  Harmless when it has ended."""
        if self._closed:
            return
        self._closed = True
        reactor = self._engine.reactor
        reactor.unschedule(self)
        for fd in self._fds:
            reactor.forget(fd)
        self._near.close()
        self._far.close()
        self._on_close(self, why)
