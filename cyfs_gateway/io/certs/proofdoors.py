"""The two ports an authority looks at, for a machine on which nobody else has them.

They show proofs and nothing else.  Where a web server or the gateway itself ends TLS, these are not needed: whoever is
at the ports asks the same :class:`~cyfs_gateway.certs.source.CertificateSource`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import h11
import trio

from cyfs_gateway.certs.source import CertificateSource
from cyfs_gateway.io.certs.endtls import end_tls
from cyfs_ns import names
from cyfs_ns.errors import BadWire, CyfsError

_CLIENTS_MOST: Final = 64
_SECONDS: Final = 10.0
_MOST_HEAD: Final = 8192
_TRY_AGAIN: Final = 30.0
_GONE: Final = (CyfsError, h11.ProtocolError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)

_log = logging.getLogger("cyfs.certs")


class ProofDoors:
    """``faults`` says which port could not be had, by its name in the settings."""

    def __init__(self, source: CertificateSource) -> None:
        self._source = source
        self._clients = 0
        self.faults: dict[str, str] = {}

    async def serve_http(
        self, address: tuple[str, int], *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer HTTP-01, until cancelled; ready with the port."""
        await self._serve("http", address, self._over_http, task_status)

    async def serve_tls(
        self, address: tuple[str, int], *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer TLS-ALPN-01, until cancelled; ready with the port."""
        await self._serve("tls", address, self._over_tls, task_status)

    async def _serve(
        self,
        name: str,
        address: tuple[str, int],
        visit: Callable[[trio.SocketStream], Awaitable[None]],
        task_status: trio.TaskStatus[int],
    ) -> None:
        async def guarded(stream: trio.SocketStream) -> None:
            if self._clients >= _CLIENTS_MOST:
                await trio.aclose_forcefully(stream)
                return
            self._clients += 1
            try:
                async with stream:
                    with trio.move_on_after(_SECONDS):
                        await visit(stream)
            except (
                CyfsError,
                h11.ProtocolError,
                trio.BrokenResourceError,
                trio.ClosedResourceError,
                trio.TooSlowError,
            ):
                return  # strangers come and go
            finally:
                self._clients -= 1

        host, port = address
        while True:
            try:
                listeners = await trio.open_tcp_listeners(port, host=host)
            except OSError as fault:
                # Another program may let go of it; until then the certificates there are stay in use.
                self.faults[name] = f"[{host}]:{port}: {fault.strerror or fault}"
                _log.error("proofs cannot be shown at %s", self.faults[name])
                task_status.started(0)
                task_status = trio.TASK_STATUS_IGNORED
                await trio.sleep(_TRY_AGAIN)
                continue
            self.faults.pop(name, None)
            task_status.started(listeners[0].socket.getsockname()[1])
            await trio.serve_listeners(guarded, listeners)

    async def _over_http(self, stream: trio.SocketStream) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEAD)
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(await stream.receive_some(_MOST_HEAD))
        if not isinstance(event, h11.Request):
            return
        body = self._proof(event)
        status = 404 if body is None else 200
        body = b"nothing is here\n" if body is None else body
        headers = [
            ("content-type", "text/plain"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        out = http.send(h11.Response(status_code=status, headers=headers)) or b""
        if event.method != b"HEAD":
            out += http.send(h11.Data(data=body)) or b""
        await stream.send_all(out)
        await stream.send_eof()

    def _proof(self, request: h11.Request) -> bytes | None:
        host = next((value for name, value in request.headers if name == b"host"), b"").decode("latin-1")
        if request.method not in (b"GET", b"HEAD"):
            return None
        try:
            named = names.host(host.rpartition(":")[0] if host[-1:].isdigit() and ":" in host else host)
        except BadWire:
            return None
        return self._source.proof_for(named, request.target.decode("latin-1"))

    async def _over_tls(self, stream: trio.SocketStream) -> None:
        found = await end_tls(stream, self._source)
        if found is not None:
            await found[0].aclose()
