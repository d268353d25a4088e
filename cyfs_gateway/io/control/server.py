"""The listeners of the control API: a unix socket always, TCP and TLS when asked for, which need the secret."""

from __future__ import annotations

import os
import ssl
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cyfs_gateway.io.control.routes import Api, site_of
from cyfs_ns.control.access import Door
from cyfs_ns.errors import ConfigFault, Misuse
from cyfs_ns.io.control.entrance import Entrance, close_entrances, open_tcp, open_unix, serve_entrances

if TYPE_CHECKING:
    from cyfs_gateway.config.model import ControlConfig
    from cyfs_gateway.facade import Gateway


async def serve_control(
    gateway: Gateway,
    control: ControlConfig,
    *,
    secret: str,
    task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the API until cancelled; ``started`` gets the URLs it is served on (``unix:/path``, ``http://host:port``).

    :raises ConfigFault: an address cannot be had, a certificate cannot be read, another gateway holds the socket.
    :raises Misuse: TCP without a secret.
    """
    if (control.tcp or control.tls) and not secret:
        raise Misuse("control over TCP goes nowhere without a secret")
    ui = Path(control.external_ui, control.external_ui_name) if control.external_ui else None
    api = Api(gateway, ui)
    entrances: list[Entrance] = []
    try:
        try:
            await _open(gateway, control, secret, entrances)
        except (OSError, ValueError) as fault:
            raise ConfigFault(f"control API: {fault}") from fault
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_entrances, site_of(api), entrances)
            task_status.started(tuple(entrance.url for entrance in entrances))
    finally:
        close_entrances(entrances)


async def _open(gateway: Gateway, control: ControlConfig, secret: str, entrances: list[Entrance]) -> None:
    """Bind everything into ``entrances``; when one address fails, those before it are in the list to be closed."""
    door = Door(secret=secret, origins=frozenset(control.allow_origins), private_network=control.allow_private_network)
    if control.unix:
        path = Path(control.unix)
        listener = open_unix(path)
        entrances.append(Entrance(listener=listener, door=replace(door, secret=""), url=f"unix:{path}", path=path))
    for scheme, address in (("http", control.tcp), ("https", control.tls)):
        if address is not None:
            context = _tls_context(control, gateway) if scheme == "https" else None
            entrances += await open_tcp(address, replace(door, scheme="https" if context else "http"), context)


def _tls_context(control: ControlConfig, gateway: Gateway) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    with _PemFile(control.certificate, gateway) as certificate, _PemFile(control.private_key, gateway) as key:
        context.load_cert_chain(certificate, key)
    return context


class _PemFile:
    """A path that OpenSSL can read, for PEM text or for a path at home; text never touches a disk."""

    def __init__(self, text_or_path: str, gateway: Gateway) -> None:
        self._text = text_or_path if "-----BEGIN" in text_or_path else ""
        self._path = "" if self._text else text_or_path
        if self._path and not self._path.startswith("/"):
            self._path = str(Path(gateway.config.home, self._path))
        self._fd = -1

    def __enter__(self) -> str:
        if not self._text:
            return self._path
        self._fd = os.memfd_create("pem", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(self._fd), "wb") as file:
            file.write(self._text.encode())
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
