"""Clients of every transport, of few lines and without opinions: octets out, octets in."""

from __future__ import annotations

import base64
import http.client
import select
import socket
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events

TRANSPORTS = ("udp", "tcp", "tls", "https-post", "https-get", "http2-post", "http2-get")
LOOPBACK = "127.0.0.1"
PATIENCE = 5.0
DNS_MESSAGE = "application/dns-message"


def unchecked_tls(*alpn: str) -> ssl.SSLContext:
    """The certificate is self-made; what is proven here is what comes over it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class Asker:
    """One client over one connection."""

    def __init__(self, port: int, patience: float = PATIENCE, host: str = LOOPBACK) -> None:
        self.port, self.patience, self.host = port, patience, host

    def ask(self, query: bytes) -> bytes | None:
        """The reply, or None: nothing came in time, the connection was closed, or HTTP brought an error."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class UdpAsker(Asker):
    def __init__(self, port: int, patience: float = PATIENCE, host: str = LOOPBACK) -> None:
        super().__init__(port, patience, host)
        self.sock = datagrams_to(host, port)
        self.sock.settimeout(patience)

    def ask(self, query: bytes) -> bytes | None:
        self.sock.send(query)
        try:
            return self.sock.recv(65535)
        except TimeoutError:
            return None

    def close(self) -> None:
        self.sock.close()


class StreamAsker(Asker):
    """TCP, or TLS with ``tls``; connects anew after a close."""

    def __init__(
        self, port: int, patience: float = PATIENCE, host: str = LOOPBACK, *, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(port, patience, host)
        self._tls = tls
        self._sock: socket.socket | None = None

    @property
    def sock(self) -> socket.socket:
        if self._sock is None:
            plain = socket.create_connection((self.host, self.port), self.patience)
            self._sock = self._tls.wrap_socket(plain) if self._tls is not None else plain
        return self._sock

    def ask(self, query: bytes) -> bytes | None:
        try:
            self.send(len(query).to_bytes(2) + query)
            return self.receive()
        except (TimeoutError, OSError):
            self.close()
            return None

    def send(self, octets: bytes) -> None:
        self.sock.sendall(octets)

    def receive(self) -> bytes | None:
        """The next message, or None when the connection is over."""
        head = self._exactly(2)
        body = self._exactly(int.from_bytes(head)) if head is not None else None
        if body is None:
            self.close()
        return body

    def _exactly(self, count: int) -> bytes | None:
        got = b""
        while len(got) < count:
            some = self.sock.recv(count - len(got))
            if not some:
                return None
            got += some
        return got

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class HttpAsker(Asker):
    """HTTP/1.1."""

    def __init__(self, port: int, method: str, host: str = LOOPBACK) -> None:
        super().__init__(port, host=host)
        self._method = method
        self._connection = http.client.HTTPSConnection(
            host, port, timeout=self.patience, context=unchecked_tls("http/1.1")
        )

    def ask(self, query: bytes) -> bytes | None:
        try:
            if self._method == "POST":
                self._connection.request("POST", "/dns-query", query, {"content-type": DNS_MESSAGE})
            else:
                self._connection.request("GET", path_of(query), headers={"accept": DNS_MESSAGE})
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return None
        if response.status != 200:
            return None
        assert response.getheader("content-type") == DNS_MESSAGE
        return body

    def close(self) -> None:
        self._connection.close()


class Http2Asker(Asker):
    def __init__(self, port: int, method: str, host: str = LOOPBACK) -> None:
        super().__init__(port, host=host)
        self._method = method
        self._connect()

    def _connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.patience)
        self.sock = unchecked_tls("h2").wrap_socket(plain)
        assert self.sock.selected_alpn_protocol() == "h2"
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._http.initiate_connection()

    def ask(self, query: bytes) -> bytes | None:
        http = self._http
        stream = http.get_next_available_stream_id()
        head = [
            (":method", self._method),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", "/dns-query" if self._method == "POST" else path_of(query)),
        ]
        if self._method == "POST":
            http.send_headers(stream, [*head, ("content-type", DNS_MESSAGE)])
            for at in range(0, len(query), 16384):
                http.send_data(stream, query[at : at + 16384])
            http.end_stream(stream)
        else:
            http.send_headers(stream, head, end_stream=True)
        status, body = "", b""
        while True:
            self.sock.sendall(http.data_to_send())
            data = self.sock.recv(65536)
            if not data:
                self.close()
                self._connect()
                return None
            for event in http.receive_data(data):
                if getattr(event, "stream_id", None) not in (None, 0, stream):
                    continue
                if isinstance(event, h2.events.ResponseReceived):
                    status = next(text(value) for name, value in event.headers if text(name) == ":status")
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                    http.acknowledge_received_data(event.flow_controlled_length, stream)
                elif isinstance(event, h2.events.StreamEnded):
                    return body if status == "200" else None
                elif isinstance(event, h2.events.StreamReset):
                    return None

    def close(self) -> None:
        self.sock.close()


def text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def path_of(query: bytes) -> str:
    return "/dns-query?dns=" + base64.urlsafe_b64encode(query).decode().rstrip("=")


def asker(transport: str, ports: Mapping[str, int], host: str = LOOPBACK) -> Asker:
    kind, _, method = transport.partition("-")
    match kind:
        case "udp":
            return UdpAsker(ports["plain"], host=host)
        case "tcp":
            return StreamAsker(ports["plain"], host=host)
        case "tls":
            return StreamAsker(ports["tls"], host=host, tls=unchecked_tls("dot"))
        case "https":
            return HttpAsker(ports["https"], method.upper(), host)
        case _:
            return Http2Asker(ports["https"], method.upper(), host)


def datagrams_to(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((host, port))
    return sock


def many_over_udp(
    port: int,
    queries: list[bytes],
    *,
    at_once: int = 100,
    patience: float = 5.0,
    tries: int = 2,
    host: str = LOOPBACK,
) -> list[bytes | None]:
    """The reply to each of many queries, ids given by place; what is lost is sent ``tries`` times in all."""
    replies: list[bytes | None] = [None] * len(queries)
    with datagrams_to(host, port) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        waiting = list(range(len(queries)))
        for _ in range(tries):
            todo, out = waiting[::-1], set[int]()
            while todo or out:
                while todo and len(out) < at_once:
                    at = todo.pop()
                    out.add(at)
                    sock.send((at & 0xFFFF).to_bytes(2) + queries[at][2:])
                if not select.select([sock], [], [], patience)[0]:
                    out.clear()
                    continue
                data = sock.recv(65535)
                base = int.from_bytes(data[:2])
                for at in [each for each in out if each & 0xFFFF == base]:
                    replies[at] = data
                    out.discard(at)
            waiting = [at for at in waiting if replies[at] is None]
            if not waiting:
                break
    return replies
