"""Where the control API listens and whom it believes: never the network without a secret, never a web page unasked."""

from __future__ import annotations

import re

from cyfs_gateway.config.listeners import Placed, bind_addresses, is_loopback
from cyfs_gateway.config.model import ControlConfig
from cyfs_gateway.config.providers import home_path
from cyfs_ns.config.written import Section, shown, split_host_port

CONTROL_SOCKET = "cyfs-gateway.sock"
_MAX_UNIX_PATH = 107
"""Bytes that fit into ``sockaddr_un`` with the closing NUL."""


def read_control(top: Section, home: str, placed: list[Placed]) -> ControlConfig:
    """``external-*``, ``secret`` and ``tls``; ``placed`` are the listeners whose ports are taken already."""
    unix = top.text("external-controller-unix") or CONTROL_SOCKET
    unix = unix if unix.startswith("/") else f"{home.rstrip('/')}/{unix}"
    if len(unix.encode()) > _MAX_UNIX_PATH or "\0" in unix:
        message = f"the path of a unix socket has at most {_MAX_UNIX_PATH} bytes: {unix[:160]!r}"
        top.error("external-controller-unix", message)
    if top.text("external-controller-pipe"):
        top.warn("external-controller-pipe", "there are no named pipes on this system, ignored")
    origins, private_network = _cors(top)
    tls = top.table("tls")
    certificate = private_key = ""
    if tls is not None:
        certificate, private_key = tls.text("certificate"), tls.text("private-key")
        for key in ("client-auth-type", "client-auth-cert", "ech-key"):
            if tls.text(key):
                tls.warn(key, "this build does not act on it")
        tls.finish(("custom-certifactes", "custom-certificates"))
    control = ControlConfig(
        unix=unix,
        tcp=_control_address(top, "external-controller", placed),
        tls=_control_address(top, "external-controller-tls", placed),
        certificate=certificate,
        private_key=private_key,
        secret=top.text("secret"),
        allow_origins=origins,
        allow_private_network=private_network,
        external_ui=home_path(top, "external-ui", home),
        external_ui_name=_plain_name(top, "external-ui-name"),
    )
    if top.url("external-ui-url"):
        top.warn("external-ui-url", "this build downloads no dashboard; put its files into 'external-ui'")
    if top.text("external-doh-server"):
        top.warn("external-doh-server", "this build carries no DNS server yet")
    if control.tls is not None and not (certificate and private_key):
        top.error("external-controller-tls", "it needs 'tls' with 'certificate' and 'private-key'")
    return control


def _control_address(top: Section, key: str, placed: list[Placed]) -> tuple[str, int] | None:
    written = top.text(key).strip()
    if not written:
        return None
    where = split_host_port(written)
    addresses = bind_addresses(where[0], False) if where else None
    if where is None or addresses is None:
        top.error(key, f"expected an address and a port, found {written[:60]!r}")
        return None
    address, port = addresses[0], where[1]
    for other in placed:
        mine = other.listener
        if port and mine.port == port and mine.listen == address:
            top.error(key, f"tcp port {port} on {address} is already taken by {mine.name}")
            break
    if not is_loopback(address) and not top.text("secret"):
        top.warn(key, "other machines can reach the control API here; without 'secret' one is made on first start")
    return address, port


def _cors(top: Section) -> tuple[tuple[str, ...], bool]:
    section = top.table("external-controller-cors")
    if section is None:
        return (), False
    origins = []
    for at, node, text in section.items("allow-origins"):
        if text.strip() == "*":
            top.reader.warn(at, node, "'*' would let every web page in; name the origins, as https://panel.example")
        elif not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s*,]+", text.strip().lower()):
            top.reader.error(at, node, f"expected an origin such as https://panel.example, found {shown(node)}")
        else:
            origins.append(text.strip().lower())
    private_network = section.flag("allow-private-network")
    section.finish()
    return tuple(origins), private_network


def _plain_name(top: Section, key: str) -> str:
    text = top.text(key)
    if text and (not re.fullmatch(r"[\w.@+ -]{1,100}", text) or text in (".", "..")):
        top.error(key, f"expected the name of a directory, found {text[:60]!r}")
        return ""
    return text
