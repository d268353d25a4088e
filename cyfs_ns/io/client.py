"""The control API from the other side: plain blocking HTTP over the unix socket or a URL, for the command line.

Blocking on purpose: a command asks one thing and prints it, and the standard library's client is loaded in
milliseconds.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from cyfs_ns.errors import BadWire, CyfsError, Unreachable

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 90.0


class ApiFault(CyfsError):
    """The other side said no; the text is its reason."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One server.  Every call raises ``Unreachable`` (it is not there), ``ApiFault`` (it says no) or ``BadWire``."""

    def __init__(self, place: Path | str, *, secret: str = "", whose: str = "gateway") -> None:
        """``place``: path of the unix socket, or ``http(s)://host:port`` with the ``secret``."""
        self._place, self._secret, self._whose = place, secret, whose

    def call(
        self, method: str, *segments: str, query: Mapping[str, str | int] | None = None, body: object = None
    ) -> Any:
        """The JSON of the answer, ``None`` when there is none.  ``segments`` may hold any text: it is escaped."""
        with self._answer(method, segments, query, body) as answer:
            content = answer.read()
        try:
            return json.loads(content) if content else None
        except ValueError:
            raise BadWire(f"the answer is not JSON: is this address a {self._whose}'s?") from None

    def lines(self, *segments: str, query: Mapping[str, str | int] | None = None) -> Iterator[Any]:
        """The objects of an endless answer, as they come."""
        with self._answer("GET", segments, query, None, endless=True) as answer:
            while line := answer.readline():
                yield json.loads(line)

    def _answer(
        self,
        method: str,
        segments: tuple[str, ...],
        query: Mapping[str, str | int] | None,
        body: object,
        *,
        endless: bool = False,
    ) -> http.client.HTTPResponse:
        target = "/" + "/".join(quote(segment, safe="") for segment in segments)
        if query:
            target += "?" + urlencode(query)
        headers = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        sent = None if body is None else json.dumps(body)
        connection = self._connection()
        try:
            connection.request(method, target, sent, headers)
            if connection.sock is not None:
                connection.sock.settimeout(None if endless else _ANSWER_SECONDS)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as fault:
            connection.close()
            why = fault.strerror if isinstance(fault, OSError) and fault.strerror else fault
            raise Unreachable(f"no {self._whose} answers at {self._place}: {why}", "connect_refused") from fault
        if answer.status >= 300:
            with answer:
                raise ApiFault(answer.status, _message(answer))
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        if isinstance(self._place, Path):
            return _UnixConnection(self._place)
        whole = urlsplit(self._place)
        if whole.scheme == "https":
            return http.client.HTTPSConnection(whole.netloc, timeout=_CONNECT_SECONDS)
        return http.client.HTTPConnection(whole.netloc, timeout=_CONNECT_SECONDS)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_CONNECT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _message(answer: http.client.HTTPResponse) -> str:
    try:
        said = json.loads(answer.read(65536))
        return str(said["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"the answer was {answer.status} {answer.reason}"
