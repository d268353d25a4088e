"""DNS over HTTPS (RFC 8484) from the client's side: many queries on one connection of HTTP/2, or one after the other
on one of HTTP/1.1.

A server may send whatever it likes and gets no further than a message's 65,535 bytes for each query.  A response that
is no DNS message is that query's failure; only what breaks HTTP itself ends the connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import h11

from cyfs_ns.asking import MAX_MESSAGE, Replied
from cyfs_ns.errors import BadWire, CyfsError, Unreachable

DNS_MESSAGE = "application/dns-message"

_MOST_AT_ONCE = 100
_WINDOW = 1 << 20
_MAX_RESETS = 100


@dataclass(slots=True)
class _Response:
    status: int = 0
    kind: str = ""
    body: bytearray = field(default_factory=bytearray)
    fault: CyfsError | None = None

    def begin(self, status: int, kind: str) -> None:
        self.status, self.kind = status, kind.partition(";")[0].strip().lower()

    def feed(self, data: bytes) -> bool:
        """False when it is too much."""
        self.body += data
        if len(self.body) > MAX_MESSAGE:
            self.fault = BadWire(f"an HTTP body of more than {MAX_MESSAGE} bytes")
        return self.fault is None

    def end(self) -> bytes | CyfsError:
        if self.fault is not None:
            return self.fault
        if self.status != 200:
            return Unreachable(f"HTTP status {self.status}")
        if self.kind != DNS_MESSAGE:
            return BadWire(f"HTTP body of type {self.kind[:80]!r}")
        return bytes(self.body)


class Http2Asking:
    """Queries as POST requests, each a stream of its own."""

    def __init__(self, authority: str, path: str, scheme: str = "https") -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 17,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 1 << 14,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_WINDOW)
        self._head = [
            (":method", "POST"),
            (":scheme", scheme),
            (":authority", authority),
            (":path", path),
            ("accept", DNS_MESSAGE),
            ("content-type", DNS_MESSAGE),
        ]
        self._responses: dict[int, _Response] = {}
        self._resets = 0
        self.over = False

    @property
    def room(self) -> int:
        if self.over:
            return 0
        return min(_MOST_AT_ONCE, self._h2.remote_settings.max_concurrent_streams) - self._h2.open_outbound_streams

    def ask(self, query: bytes) -> int:
        try:
            ticket = self._h2.get_next_available_stream_id()
            self._h2.send_headers(ticket, [*self._head, ("content-length", str(len(query)))])
            self._h2.send_data(ticket, query, end_stream=True)
        except h2.exceptions.ProtocolError as fault:  # such as a server that lets us send nothing
            self.over = True
            raise BadWire(f"HTTP/2: {fault}") from fault
        self._responses[ticket] = _Response()
        self.over = self.over or ticket > 1 << 30
        return ticket

    def forget(self, ticket: int) -> None:
        if self._responses.pop(ticket, None) is not None:
            self._reset(ticket)

    def receive(self, untrusted: bytes) -> list[Replied]:
        try:
            events = self._h2.receive_data(untrusted)
            return [replied for event in events for replied in self._happened(event)]
        # The library lets some faults of its header codec through as they are.
        except (h2.exceptions.ProtocolError, ValueError, LookupError) as fault:
            self.over = True
            raise BadWire(f"HTTP/2: {fault}") from fault

    def data_to_send(self) -> bytes:
        return self._h2.data_to_send()

    def _happened(self, event: h2.events.Event) -> Iterable[Replied]:
        if isinstance(event, h2.events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            response = self._responses.get(event.stream_id)
            if response is not None and not response.feed(event.data):
                self.forget(event.stream_id)
                yield Replied(event.stream_id, response.end())
        elif isinstance(event, h2.events.ResponseReceived):
            response = self._responses.get(event.stream_id)
            if response is not None:
                headers = {str(key): str(value) for key, value in event.headers}
                status = headers.get(":status", "")
                response.begin(
                    int(status) if status.isascii() and status.isdigit() else 0, headers.get("content-type", "")
                )
        elif isinstance(event, h2.events.StreamEnded):
            if (response := self._responses.pop(event.stream_id, None)) is not None:
                yield Replied(event.stream_id, response.end())
        elif isinstance(event, h2.events.StreamReset):
            self._resets += 1
            if self._resets > _MAX_RESETS:
                self.over = True
            if self._responses.pop(event.stream_id, None) is not None:
                yield Replied(event.stream_id, Unreachable("the server reset the HTTP/2 stream"))
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.over = True
            last = event.last_stream_id or 0
            for ticket in [ticket for ticket in self._responses if ticket > last]:
                del self._responses[ticket]
                yield Replied(ticket, Unreachable("the server is going away"))

    def _reset(self, ticket: int) -> None:
        try:
            self._h2.reset_stream(ticket, h2.errors.ErrorCodes.CANCEL)
        except h2.exceptions.ProtocolError:
            return  # it ended meanwhile


class Http1Asking:
    """Queries as POST requests over HTTP/1.1, one at a time."""

    def __init__(self, authority: str, path: str) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._authority, self._path = authority, path
        self._ticket = 0
        self._response: _Response | None = None
        self._out: list[bytes] = []
        self.over = False

    @property
    def room(self) -> int:
        return 0 if self.over or self._response is not None else 1

    def ask(self, query: bytes) -> int:
        head = [
            ("host", self._authority),
            ("accept", DNS_MESSAGE),
            ("content-type", DNS_MESSAGE),
            ("content-length", str(len(query))),
        ]
        for event in (
            h11.Request(method="POST", target=self._path, headers=head),
            h11.Data(data=query),
            h11.EndOfMessage(),
        ):
            self._out.append(self._http.send(event) or b"")
        self._response = _Response()
        self._ticket += 1
        return self._ticket

    def forget(self, ticket: int) -> None:
        """The response must come all the same before the next request can go."""

    def receive(self, untrusted: bytes) -> list[Replied]:
        if self._response is None:  # bytes nobody asked for
            self.over = True
            return []
        try:
            self._http.receive_data(untrusted)
            return self._events()
        except h11.RemoteProtocolError as fault:
            self.over = True
            raise BadWire(f"HTTP/1.1: {fault}") from fault

    def data_to_send(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out

    def _events(self) -> list[Replied]:
        response = self._response
        assert response is not None
        while not isinstance(event := self._http.next_event(), type):
            if isinstance(event, h11.Response):
                headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in event.headers}
                response.begin(event.status_code, headers.get("content-type", ""))
            elif isinstance(event, h11.Data) and not response.feed(bytes(event.data)):
                self.over = True
                raise BadWire(str(response.fault))
            elif isinstance(event, h11.EndOfMessage):
                self._response = None
                ends = self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE
                self.over = ends or bool(self._http.trailing_data[0])
                if not self.over:
                    self._http.start_next_cycle()
                return [Replied(self._ticket, response.end())]
        return []
