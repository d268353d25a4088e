"""Servers that others name: ``system`` means those of resolv.conf, ``dhcp://eth0`` those of that interface's lease.

The files are read again when they have changed, since DHCP and VPN clients rewrite them at any time; looking costs a
``stat`` or two a question.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from cyfs_ns.upstream import Upstream, lease_servers, resolv_conf

_LEASES = (
    "run/systemd/netif/leases/{index}",
    "run/NetworkManager/devices/{index}",
    "run/resolvconf/interfaces/{name}.dhclient",
    "run/resolvconf/interfaces/{name}.udhcpc",
    "run/dhcpcd/resolv.conf/{name}.dhcp",
    "run/udhcpc.{name}.resolv.conf",
    "var/lib/dhcp/dhclient.{name}.leases",
    "var/lib/dhcp/dhclient.leases",
    "var/lib/dhclient/dhclient.leases",
    "tmp/resolv.conf.auto",
)
"""Where DHCP clients leave what they were told; the first file that names servers for the interface counts."""

_STARVED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

Stamp = tuple[int, ...]


class Sources:
    """``root`` is where the leases' paths begin."""

    def __init__(self, resolv_conf_path: Path = Path("/etc/resolv.conf"), root: Path = Path("/")) -> None:
        self.resolv_conf = resolv_conf_path
        self._root = root
        self._system = _Watched(lambda: [resolv_conf_path], resolv_conf)
        self._leases: dict[str, _Watched] = {}

    def instead_of(self, upstream: Upstream) -> tuple[Upstream, ...]:
        """The servers to ask for ``upstream``: itself, or those it stands for, by the way it names."""
        if upstream.scheme == "system":
            found = self._system.servers()
        elif upstream.scheme == "dhcp":
            lease = self._leases.get(upstream.host)
            if lease is None:
                lease = self._leases[upstream.host] = self._lease(upstream.host)
            found = lease.servers()
        else:
            return (upstream,)
        return tuple(replace(server, via=upstream.via) for server in found) if upstream.via else found

    def _lease(self, interface: str) -> _Watched:
        def places() -> list[Path]:
            try:
                index = socket.if_nametoindex(interface)
            except OSError:
                index = 0
            return [self._root / place.format(index=index, name=interface) for place in _LEASES]

        return _Watched(places, lambda text: lease_servers(text, interface))


class _Watched:
    """What the first of some files that says anything says, read again when that file has changed."""

    def __init__(self, places: Callable[[], Iterable[Path]], read: Callable[[str], tuple[Upstream, ...]]) -> None:
        self._places, self._read = places, read
        self._path: Path | None = None
        self._stamp: Stamp | None = None
        self._servers: tuple[Upstream, ...] = ()

    def servers(self) -> tuple[Upstream, ...]:
        if self._path is None or _stamp(self._path) != self._stamp:
            self._path, self._servers = None, self._read("")
            for path in self._places():
                stamp = _stamp(path)
                try:
                    text = path.read_text("utf-8", "replace") if stamp else ""
                except OSError:
                    continue
                found = self._read(text) if text else ()
                if found:
                    self._path, self._stamp, self._servers = path, stamp, found
                    break
        return self._servers


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def is_local(address: str) -> bool | None:
    """Whether a canonical address is one of this machine's; ``None`` without a descriptor to ask with."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError as fault:
        return None if fault.errno in _STARVED else False
    return True
