"""The installed program on a lab host, and its control socket."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
import yaml

from netnslab.process import CommandFailed, Process, until

if TYPE_CHECKING:
    from netnslab.lab import Host

__all__ = ["Gateway", "GatewayFault", "open_gateway"]

_PROGRAM = Path(sys.prefix) / "bin" / "cyfs-gateway"
_SOCKET = "cyfs-gateway.sock"


class GatewayFault(Exception):
    """The gateway did not start, or its control answered with an error."""


class Gateway:
    """A running gateway.  ``stop`` and ``kill`` may be called in the block; its end then does nothing more."""

    def __init__(self, host: Host, home: Path, process: Process) -> None:
        self.host, self.home, self.process = host, home, process
        self.socket = home / _SOCKET

    async def api(self, path: str, *, method: str = "GET", body: Any = None) -> Any:
        """One call of the external-controller API over the unix socket; JSON in, JSON out (None for 204)."""
        words = ["curl", "-sS", "--max-time", "10", "--unix-socket", str(self.socket), "-X", method]
        words += ["-w", "\n%{http_code}", f"http://localhost{path}"]
        if body is not None:
            words += ["-H", "content-type: application/json", "-d", json.dumps(body)]
        text, _, code = (await self.host.run(*words)).out.rpartition("\n")
        if not code.startswith("2"):
            raise GatewayFault(f"{method} {path}: {code} {text}")
        return json.loads(text) if text.strip() else None

    async def connections(self) -> list[dict[str, Any]]:
        """The live connections as the API lists them."""
        return (await self.api("/connections"))["connections"] or []

    def reload(self, config: Mapping[str, Any]) -> None:
        """Write another configuration and send SIGHUP."""
        _write(config, self.home)
        self.process.send(signal.SIGHUP)

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        return await self.process.stop()

    async def kill(self) -> None:
        """SIGKILL: it gets no chance to tidy up."""
        await self.process.kill()


def _write(config: Mapping[str, Any] | str, home: Path) -> Path:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = home.with_suffix(".yaml")
    file.write_text(config if isinstance(config, str) else yaml.safe_dump(dict(config), sort_keys=False))
    return file


@contextlib.asynccontextmanager
async def open_gateway(
    host: Host, config: Mapping[str, Any] | str, home: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[Gateway]:
    """Start it on ``host`` and wait until the control socket answers; ``GatewayFault`` with its log otherwise."""
    if not _PROGRAM.exists():
        raise GatewayFault(f"{_PROGRAM} is missing: install the project into this environment")
    file = _write(config, home)
    process = host.start(str(_PROGRAM), "run", "-c", str(file), "--home", str(home), name="cyfs-gateway", env=env)
    gateway = Gateway(host, home, process)
    try:
        await until("the control socket answers", lambda: _answers(gateway))
    except CommandFailed as fault:
        raise GatewayFault(f"{fault}\n{process.text()[-4000:]}") from fault
    try:
        yield gateway
    finally:
        with trio.CancelScope(shield=True):
            if process.code is None:
                await process.stop()


async def _answers(gateway: Gateway) -> bool:
    if gateway.process.code is not None:
        raise GatewayFault(f"the gateway ended with {gateway.process.code}:\n{gateway.process.text()[-4000:]}")
    try:
        stream = await trio.open_unix_socket(str(gateway.socket))
    except (OSError, trio.BrokenResourceError):
        return False
    await stream.aclose()
    return True
