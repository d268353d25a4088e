"""The section ``share:``: which services at home are open to browsers, on which host, and for whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from cyfs_gateway.share.passes import SERVICE
from cyfs_ns import names
from cyfs_ns.errors import BadWire, ConfigFault
from tunnels import url as urls

COMMANDS: Final = frozenset({"list", "revoke", "link", "open"})
"""What ``cyfs-gateway share`` understands otherwise."""

_KEYS = frozenset({"listen", "proxy-protocol", "services"})
_SERVICE_KEYS = frozenset({"host", "to", "auth"})
_MOST = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service of plain HTTP behind a host of its own."""

    name: str
    host: str
    to: str
    """Tunnel URL."""
    auth: Literal["link", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareSettings:
    """The section as it is meant.  ``listen``: doors of our own, beside what comes through the gateway."""

    services: tuple[Service, ...] = ()
    listen: tuple[tuple[str, int], ...] = ()
    proxy_protocol: bool = False
    """Whether each connection to these begins by saying who the visitor is, as one that an SN leads here does."""


def read_section(section: Any) -> ShareSettings:
    """What a section means.  Raises ``ConfigFault`` with everything that is wrong, each with its place."""
    faults: list[str] = []
    if not isinstance(section, Mapping):
        raise ConfigFault("share: expected a mapping")
    faults += [f"share/{key}: is not known" for key in section.keys() - _KEYS]
    given = section.get("services", {})
    if not isinstance(given, Mapping) or len(given) > _MOST:
        raise ConfigFault(f"share/services: expected a mapping of at most {_MOST} services")
    services = [found for name, each in given.items() if (found := _service(name, each, faults)) is not None]
    hosts = [service.host for service in services]
    faults += [f"share/services: {host} is there twice" for host in sorted({h for h in hosts if hosts.count(h) > 1})]
    listen = section.get("listen", [])
    doors = [_door(each, faults) for each in (listen if isinstance(listen, list) else [listen])]
    told = section.get("proxy-protocol", False)
    if not isinstance(told, bool):
        faults.append("share/proxy-protocol: is true or false")
    if faults:
        raise ConfigFault("\n".join(faults))
    return ShareSettings(services=tuple(services), listen=tuple(doors), proxy_protocol=told)


def _service(name: Any, given: Any, faults: list[str]) -> Service | None:
    at = f"share/services/{str(name)[:40]}"
    if not isinstance(name, str) or SERVICE(name) is None or name in COMMANDS:
        faults.append(f"{at}: a service is called by lower-case letters, digits and hyphens, and not by a command")
        return None
    if not isinstance(given, Mapping) or not {"host", "to"} <= given.keys() <= _SERVICE_KEYS:
        faults.append(f"{at}: expected host, to, and perhaps auth")
        return None
    auth = given.get("auth", "link")
    if auth not in ("link", "open"):
        faults.append(f"{at}/auth: is link or open")
        return None
    try:
        to = str(given["to"])
        urls.parse(to)
        host = names.name(str(given["host"]))
    except (BadWire, ConfigFault) as fault:
        faults.append(f"{at}: {fault}")
        return None
    return Service(name=name, host=host, to=to, auth="open" if auth == "open" else "link")


def _door(value: Any, faults: list[str]) -> tuple[str, int]:
    host, colon, port = str(value).rpartition(":")
    try:
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise BadWire("no port")
        return (names.ip(host.strip("[]")) if host else "::"), int(port)
    except BadWire:
        faults.append(f"share/listen: {str(value)[:40]!r} is no address and port, such as [::]:443")
        return "", 0
