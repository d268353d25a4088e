"""An endpoint as a trio stream, for code that speaks trio: HTTP clients, ``trio.SSLStream``, tests."""

from __future__ import annotations

import trio

from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.io import waiting


class EndpointStream(trio.abc.HalfCloseableStream):
    """Takes ``endpoint`` over and closes it.  Faults of the wire become ``trio.BrokenResourceError``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._closed = False

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._check()
        try:
            await waiting.send_all(self._endpoint, memoryview(data))
        except OSError as fault:
            self._check()
            raise trio.BrokenResourceError(str(fault)) from fault

    async def wait_send_all_might_not_block(self) -> None:
        self._check()
        await trio.lowlevel.wait_writable(self._endpoint.fileno())

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self._check()
        try:
            return await waiting.receive_some(self._endpoint, max_bytes or 65536)
        except OSError as fault:
            self._check()
            raise trio.BrokenResourceError(str(fault)) from fault

    async def send_eof(self) -> None:
        self._check()
        try:
            self._endpoint.shutdown_write()
            await waiting.send_all(self._endpoint, b"")
        except OSError as fault:
            self._check()
            raise trio.BrokenResourceError(str(fault)) from fault

    def fileno(self) -> int:
        """What is readable when something has come, or the end."""
        self._check()
        return self._endpoint.fileno()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._endpoint.fileno())
            self._endpoint.close()
        await trio.lowlevel.checkpoint()


class EndpointDatagrams:
    """Datagrams to and from one peer of ``endpoint``, which is taken over and closed."""

    def __init__(self, endpoint: PacketEndpoint, to: Target) -> None:
        self._endpoint, self._to = endpoint, to

    async def send(self, data: bytes) -> None:
        """Send one datagram, or drop it.  Raises ``OSError`` when the way is gone."""
        await trio.lowlevel.checkpoint()
        self._endpoint.send(data, self._to)

    async def receive(self) -> bytes:
        """The next datagram.  Raises ``OSError`` when the way is gone."""
        while True:
            try:
                data, _ = self._endpoint.recv()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._endpoint.fileno())
            else:
                return data

    def close(self) -> None:
        """Give the way up."""
        self._endpoint.close()
