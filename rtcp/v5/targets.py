"""What an OPEN of streams and datagrams asks for, as the shell says it: a host and a port, or a tunnel URL (§8.1)."""

from __future__ import annotations

from cyfs_ns.errors import CyfsError, Unreachable
from cyfs_ns.names import is_ip
from rtcp.targets import check_target
from rtcp.v5.frames import Address, Code, Opening, Purpose, Route, TargetKind


class NotServed(CyfsError):
    """What is asked for is nothing we do; ``code`` says so."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.name)
        self.code = code


def write_target(purpose: Purpose, host: str | None, port: int, source: Address | None = None) -> Opening:
    """``host`` None: the peer's own machine.  It may be a tunnel URL, for the peer to open.

    ``source``: whence what is carried came, as the peer is to be told.  Raises ``Unreachable``.
    """
    route = None if source is None or not is_ip(source[0]) else Route(source, _end(host, port, source))
    if host is not None and "://" in host:
        opening = Opening(purpose, host, TargetKind.URL, route=route)
    else:
        shown = f"[{host}]" if host and ":" in host else host or ""
        opening = Opening(purpose, f"{shown}:{port}", route=route)
    check_target(opening.target)
    return opening


def _end(host: str | None, port: int, source: Address) -> Address:
    """The other end of a route, in the family of ``source``; where that is not known, the target says it."""
    is_v6 = ":" in source[0]
    if host is not None and is_ip(host) and (":" in host) == is_v6:
        return host, port
    return "::" if is_v6 else "0.0.0.0", port


def read_target(opening: Opening) -> tuple[str | None, int]:
    """Host, None for this machine, or URL; and port.  Raises ``NotServed``."""
    if opening.purpose not in (Purpose.STREAM, Purpose.DATAGRAMS) or opening.kind == TargetKind.SERVICE:
        raise NotServed(Code.UNSUPPORTED)
    try:
        check_target(opening.target)
    except Unreachable:
        raise NotServed(Code.BAD_TARGET) from None
    if opening.kind == TargetKind.URL:
        return opening.target, 0
    host, colon, port = opening.target.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise NotServed(Code.BAD_TARGET)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host or None, int(port)
