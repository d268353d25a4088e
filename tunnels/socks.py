"""SOCKS 4, 4a and 5 as bytes in and bytes out: RFC 1928, RFC 1929 and the two SOCKS4 memos by Ying-Da Lee.

``SocksServer`` is made for every accepted connection and usually sees two chunks: the greeting, then the request.  Both
are read in place; a buffer exists only while a message is incomplete.  A client that cannot be served raises
``SocksFault``, whose ``reply`` goes out before the connection is closed.

BIND is refused: it would open a port to strangers.  GSSAPI is absent, and so are UDP fragments (a relay
may drop them, RFC 1928 section 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from socket import AF_INET, inet_ntop

from cyfs_ns.errors import BadWire, Misuse, Unreachable
from tunnels.authority import host_of_packed, packed_of_host, parse_host
from tunnels.endpoint import Target

SUCCEEDED = 0
FAILED = 1
NOT_ALLOWED = 2
NOT_SUPPORTED = 7
"""The REP codes callers need by name (RFC 1928 section 6); others come from :func:`rep_for`."""

_ADDRESS_NOT_SUPPORTED = 8
_MAX_SOCKS4_TEXT = 255

_REP_OF_REASON = {
    "pre_connect_dns": 4,
    "pre_connect_route": 3,
    "connect_refused": 5,
    "connect_timeout": 4,
    "unsupported_scheme": NOT_SUPPORTED,
}
_MEANING_OF_REP = {
    1: ("general failure", "tunnel_open"),
    2: ("not allowed by its rules", "tunnel_open"),
    3: ("network unreachable", "pre_connect_route"),
    4: ("host unreachable", "pre_connect_route"),
    5: ("connection refused", "connect_refused"),
    6: ("time to live expired", "connect_timeout"),
    7: ("command not supported", "unsupported_scheme"),
    8: ("address type not supported", "unsupported_scheme"),
}
_NOWHERE = b"\x01\0\0\0\0\0\0"
_BARE_REPLIES = tuple(bytes((5, code, 0)) + _NOWHERE for code in range(256))
_GRANTED_4 = b"\0\x5a\0\0\0\0\0\0"
_REJECTED_4 = b"\0\x5b\0\0\0\0\0\0"
_WRONG_USER_4 = b"\0\x5d\0\0\0\0\0\0"


class SocksFault(BadWire):
    """The client cannot be served; send ``reply`` (perhaps empty), then close."""

    def __init__(self, message: str, reply: bytes = b"") -> None:
        super().__init__(message)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class SocksRequest:
    """What the client asked for."""

    version: int
    """4 or 5."""
    command: str
    """``connect`` or ``udp``."""
    target: Target
    """Where to; for ``udp`` the address the client says it will send from, often all zeros."""
    user: str
    """The authenticated user; empty when nothing was proven."""


class SocksServer:
    """The server's half of one handshake.

    ``users`` maps names to passwords.  With ``auth_required`` only those pass; without it anybody does, and a user who
    still proves a password is named in the request.  Feed until ``request`` is set; what the client sent after it is in
    ``leftover`` and belongs to the target.
    """

    __slots__ = ("_auth_required", "_buffer", "_fault", "_step", "_user", "_users", "leftover", "request")

    def __init__(self, users: Mapping[str, str] | None, auth_required: bool) -> None:
        self._users = users
        self._auth_required = auth_required
        self._buffer = b""
        self._step = _GREETING
        self._user = ""
        self._fault: SocksFault | None = None
        self.request: SocksRequest | None = None
        self.leftover = b""

    def feed(self, untrusted: bytes) -> bytes:
        """Take what the client sent; returns what to send back now.

        Raises ``SocksFault`` on anything that is not a handshake we serve, and again on every later call.
        """
        if self._fault is not None:
            raise self._fault
        if self._step == _DONE:
            raise Misuse("the SOCKS request is complete: later bytes belong to the target")
        data = self._buffer + untrusted if self._buffer else untrusted
        answer = b""
        at = 0
        try:
            while True:
                step = self._step
                if step == _REQUEST:
                    used, said = self._read_request(data, at), b""
                elif step == _GREETING:
                    used, said = self._read_greeting(data)
                else:
                    used, said = self._read_password(data, at)
                if not used:
                    self._buffer = data[at:]
                    return answer
                at += used
                if said:
                    answer += said
                if self._step == _DONE:
                    self._buffer = b""
                    self.leftover = data[at:]
                    return answer
                if at == len(data):
                    self._buffer = b""
                    return answer
        except SocksFault as fault:
            fault.reply = answer + fault.reply
            self._fault = fault
            raise
        except BadWire as fault:
            refusal = _REJECTED_4 if data[:1] == b"\x04" and step == _GREETING else _BARE_REPLIES[FAILED]
            self._fault = SocksFault(str(fault), answer + refusal)
            raise self._fault from fault

    def _read_greeting(self, data: bytes) -> tuple[int, bytes]:
        if not data:
            return 0, b""
        if data[0] != 5:
            if data[0] == 4:
                return self._read_socks4(data), b""
            raise SocksFault(f"version {data[0]} is not SOCKS")
        if len(data) < 2 or len(data) < 2 + data[1]:
            return 0, b""
        end = 2 + data[1]
        methods = data[2:end]
        if not self._auth_required and 0 in methods:
            self._step = _REQUEST
            return end, b"\x05\0"
        if 2 in methods:
            self._step = _PASSWORD
            return end, b"\x05\x02"
        raise SocksFault("no authentication method in common", b"\x05\xff")

    def _read_password(self, data: bytes, at: int) -> tuple[int, bytes]:
        have = len(data) - at
        if have and data[at] != 1:
            raise SocksFault(f"password negotiation version {data[at]}", b"\x01\x01")
        if have < 2 or have < 3 + data[at + 1]:
            return 0, b""
        name_end = at + 2 + data[at + 1]
        end = name_end + 1 + data[name_end]
        if len(data) < end:
            return 0, b""
        user = data[at + 2 : name_end]
        if self._proves(user, data[name_end + 1 : end]):
            self._user = user.decode()
        elif self._auth_required:
            raise SocksFault("wrong user or password", b"\x01\x01")
        self._step = _REQUEST
        return end - at, b"\x01\0"

    def _read_request(self, data: bytes, at: int) -> int:
        have = len(data) - at
        if have and data[at] != 5:
            raise SocksFault(f"request of version {data[at]} after a version 5 greeting", _BARE_REPLIES[FAILED])
        if have < 5:
            return 0
        command = data[at + 1]
        if command != 1 and command != 3:
            raise SocksFault(f"command {command} is not served", _BARE_REPLIES[NOT_SUPPORTED])
        kind = data[at + 3]
        if kind == 1:
            end = at + 10
            if len(data) < end:
                return 0
            host = inet_ntop(AF_INET, data[at + 4 : at + 8])
        elif kind == 3:
            end = at + 7 + data[at + 4]
            if len(data) < end:
                return 0
            host = parse_host(data[at + 5 : end - 2])
        elif kind == 4:
            end = at + 22
            if len(data) < end:
                return 0
            host = host_of_packed(data[at + 4 : at + 20])
        else:
            raise SocksFault(f"address type {kind}", _BARE_REPLIES[_ADDRESS_NOT_SUPPORTED])
        target = Target(host, data[end - 2] << 8 | data[end - 1])
        self._step = _DONE
        self.request = SocksRequest(5, "connect" if command == 1 else "udp", target, self._user)
        return end - at

    def _read_socks4(self, data: bytes) -> int:
        if len(data) > 1 and data[1] != 1:
            raise SocksFault(f"SOCKS4 command {data[1]} is not served", _REJECTED_4)
        user_end = _find_zero(data, 8)
        if user_end < 0:
            return 0
        end = user_end + 1
        packed = data[4:8]
        host = ""
        if packed[:3] == b"\0\0\0" and packed[3]:
            end = _find_zero(data, end) + 1
            if not end:
                return 0
            host = parse_host(data[user_end + 1 : end - 1])
        user = data[8:user_end]
        name = ""
        if self._proves(user, b""):
            name = user.decode()
        elif self._auth_required:
            raise SocksFault("SOCKS4 user is not known", _WRONG_USER_4)
        self._step = _DONE
        self.request = SocksRequest(
            4, "connect", Target(host or inet_ntop(AF_INET, packed), data[2] << 8 | data[3]), name
        )
        return end

    def _proves(self, user: bytes, password: bytes) -> bool:
        return self._users is not None and proves(self._users, user, password)


_GREETING, _PASSWORD, _REQUEST, _DONE = range(4)


def proves(users: Mapping[str, str], user: bytes, password: bytes) -> bool:
    """Whether ``password`` is that of ``user``; takes as long for an unknown user as for a wrong password."""
    try:
        known = users.get(user.decode())
    except UnicodeDecodeError:
        known = None
    expected = password + b"\0" if known is None else known.encode()
    return compare_digest(expected, password)


def _find_zero(data: bytes, start: int) -> int:
    end = data.find(0, start, start + _MAX_SOCKS4_TEXT + 1)
    if end < 0 and len(data) > start + _MAX_SOCKS4_TEXT:
        raise SocksFault("SOCKS4 text is too long", _REJECTED_4)
    return end


def rep_for(reason: str) -> int:
    """The REP code for an ``Unreachable.reason``; FAILED for those SOCKS has no word for."""
    return _REP_OF_REASON.get(reason, FAILED)


def reply(request: SocksRequest, code: int, bound: Target | None = None) -> bytes:
    """The answer to a request: ``code`` as in RFC 1928 section 6, and the address we opened, where it matters."""
    if request.version == 4:
        return _GRANTED_4 if code == SUCCEEDED else _REJECTED_4
    if bound is None:
        return _BARE_REPLIES[code]
    return bytes((5, code, 0)) + pack_address(bound)


def pack_address(target: Target) -> bytes:
    """ATYP, address and port (RFC 1928 section 5)."""
    port = target.port.to_bytes(2, "big")
    packed = packed_of_host(target.host)
    if packed is not None:
        return (b"\x01" if len(packed) == 4 else b"\x04") + packed + port
    try:
        name = target.host.encode("ascii")
    except UnicodeEncodeError:
        raise Misuse(f"{target.host!r} is not in A-label form") from None
    if not 0 < len(name) < 256:
        raise Misuse(f"a name of {len(name)} bytes does not fit SOCKS")
    return bytes((3, len(name))) + name + port


def _read_address(data: bytes | memoryview, at: int) -> tuple[Target, int] | None:
    if len(data) < at + 2:
        return None
    kind = data[at]
    start = at + 1
    if kind == 1:
        end = start + 4
    elif kind == 4:
        end = start + 16
    elif kind == 3:
        start += 1
        end = start + data[at + 1]
    else:
        raise BadWire(f"SOCKS address type {kind}")
    if len(data) < end + 2:
        return None
    raw = bytes(data[start:end])
    host = parse_host(raw) if kind == 3 else host_of_packed(raw)
    return Target(host, data[end] << 8 | data[end + 1]), end + 2


def pack_udp(target: Target, payload: bytes | memoryview) -> bytes:
    """A datagram with the UDP request header in front (RFC 1928 section 7)."""
    return b"".join((b"\0\0\0", pack_address(target), payload))


def unpack_udp(untrusted: bytes | memoryview) -> tuple[Target, memoryview]:
    """Target and payload of a relayed datagram.  Raises ``BadWire``, also on fragments, which we do not join."""
    if len(untrusted) < 4 or untrusted[0] or untrusted[1]:
        raise BadWire("not a SOCKS datagram")
    if untrusted[2]:
        raise BadWire("fragmented SOCKS datagram")
    found = _read_address(untrusted, 3)
    if found is None:
        raise BadWire("SOCKS datagram ends inside its address")
    return found[0], memoryview(untrusted)[found[1] :]


class SocksClient:
    """The client's half: asks a SOCKS5 proxy to reach ``target``.

    Send ``start()``, then feed what comes and send what ``feed`` returns, until ``done``.  ``bound`` is the address in
    the proxy's answer: for ``udp`` the relay to send datagrams to.
    """

    __slots__ = ("_buffer", "_command", "_credentials", "_step", "_target", "bound", "done", "leftover")

    def __init__(self, target: Target, user: str = "", password: str = "", command: str = "connect") -> None:
        name, secret = user.encode(), password.encode()
        if len(name) > 255 or len(secret) > 255:
            raise Misuse("SOCKS5 user and password take at most 255 bytes each")
        self._credentials = bytes((1, len(name))) + name + bytes((len(secret),)) + secret if name or secret else b""
        self._target = target
        self._command = {"connect": 1, "udp": 3}[command]
        self._buffer = b""
        self._step = _GREETING
        self.done = False
        self.bound: Target | None = None
        self.leftover = b""

    def start(self) -> bytes:
        """The greeting to send first."""
        return b"\x05\x02\0\x02" if self._credentials else b"\x05\x01\0"

    def feed(self, untrusted: bytes) -> bytes:
        """Take what the proxy sent; returns what to send back now.

        Raises ``BadWire`` on nonsense and ``Unreachable`` when the proxy says no.
        """
        if self.done:
            raise Misuse("the SOCKS handshake is over: later bytes belong to the target")
        self._buffer += untrusted
        out = b""
        while self._step != _REQUEST and len(self._buffer) >= 2:
            version, answer = self._buffer[:2]
            self._buffer = self._buffer[2:]
            out += self._take_method(version, answer) if self._step == _GREETING else self._take_status(version, answer)
        if self._step == _REQUEST:
            self._read_reply()
        return out

    def _take_method(self, version: int, method: int) -> bytes:
        if version != 5:
            raise BadWire(f"the proxy answers with version {version}, not SOCKS5")
        if method == 0xFF or (method == 2 and not self._credentials):
            raise Unreachable("the SOCKS proxy wants another authentication", "tunnel_open")
        if method == 2:
            self._step = _PASSWORD
            return self._credentials
        if method:
            raise BadWire(f"the proxy chose method {method}, which we did not offer")
        return self._ask()

    def _take_status(self, version: int, status: int) -> bytes:
        if version != 1 or status:
            raise Unreachable("the SOCKS proxy refused our user or password", "tunnel_open")
        return self._ask()

    def _ask(self) -> bytes:
        self._step = _REQUEST
        return bytes((5, self._command, 0)) + pack_address(self._target)

    def _read_reply(self) -> None:
        data = self._buffer
        if data and data[0] != 5:
            raise BadWire(f"SOCKS reply of version {data[0]}")
        if len(data) < 2:
            return
        if data[1]:
            meaning, reason = _MEANING_OF_REP.get(data[1], (f"code {data[1]}", "tunnel_open"))
            raise Unreachable(f"the SOCKS proxy cannot reach {self._target}: {meaning}", reason)
        found = _read_bound(data)
        if found is not None:
            self.bound, end = found
            self.leftover = data[end:]
            self._buffer = b""
            self.done = True


def _read_bound(data: bytes) -> tuple[Target | None, int] | None:
    # Some proxies answer with an empty name, which means no more than all zeros does.
    if data[3:5] == b"\x03\0":
        return (None, 7) if len(data) >= 7 else None
    return _read_address(data, 3)
