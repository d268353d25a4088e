"""The client's half of HTTP CONNECT: asks a proxy for a byte stream to a target (RFC 9110 section 9.3.6).

Shaped like ``SocksClient``.  Only the head of the answer is HTTP; after a 2xx every byte is the target's, whatever
Content-Length or Transfer-Encoding may claim.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping

from cyfs_ns.errors import BadWire, Misuse, Unreachable
from tunnels.endpoint import Target
from tunnels.http1 import cut_head, parse_fields, parse_response

_MAX_INTERIM = 8
_PREFIX = b"HTTP/1."


class ConnectClient:
    """Send ``start()``, then feed what comes until ``done``.

    ``headers`` are sent along as they are; ``user`` and ``password`` become Basic credentials (RFC 7617).
    """

    __slots__ = ("_buffer", "_interim", "_request", "_target", "done", "leftover")

    def __init__(
        self, target: Target, user: str = "", password: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if user or password:
            lines.append("Proxy-Authorization: Basic " + b64encode(f"{user}:{password}".encode()).decode())
        lines += [f"{name}: {value}" for name, value in (headers or {}).items() if name.lower() != "host"]
        encoded = [line.encode() for line in lines]
        try:
            parse_fields(encoded[1:])
        except BadWire as fault:
            raise Misuse(f"a header to send is malformed: {fault}") from None
        self._request = b"\r\n".join(encoded) + b"\r\n\r\n"
        self._target = target
        self._buffer = b""
        self._interim = 0
        self.done = False
        self.leftover = b""

    def start(self) -> bytes:
        """The request to send first."""
        return self._request

    def feed(self, untrusted: bytes) -> bytes:
        """Take what the proxy sent; there is never anything to send back, so the answer is empty.

        Raises ``BadWire`` on what is not HTTP and ``Unreachable`` when the proxy says no.
        """
        if self.done:
            raise Misuse("the CONNECT handshake is over: later bytes belong to the target")
        self._buffer += untrusted
        while not self.done:
            if self._buffer[: len(_PREFIX)] != _PREFIX[: len(self._buffer)]:
                raise BadWire(f"the proxy does not answer in HTTP/1: {self._buffer[:40]!r}")
            found = cut_head(self._buffer)
            if found is None:
                break
            head = parse_response(found[0])
            self._buffer = self._buffer[found[1] :]
            if head.status < 200:
                self._interim += 1
                if self._interim > _MAX_INTERIM or head.status == 101:
                    raise BadWire(f"the proxy answers CONNECT with {head.status}")
            elif head.status < 300:
                self.leftover, self._buffer = self._buffer, b""
                self.done = True
            else:
                raise self._refusal(head.status, head.phrase)
        return b""

    def _refusal(self, status: int, phrase: bytes) -> Unreachable:
        if status == 407:
            return Unreachable("the HTTP proxy refused our user or password", "tunnel_open")
        said = phrase.decode("latin-1")[:80]
        reason = "connect_timeout" if status == 504 else "tunnel_open"
        return Unreachable(f"the HTTP proxy cannot reach {self._target}: {status} {said}", reason)
