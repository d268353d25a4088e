"""An upstream in a thread that does whatever it is told to, over UDP and TCP at one port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, TypeAlias

from tests.freeport import free_port


class Raw(NamedTuple):
    """Octets on a stream without a length before them."""

    octets: bytes


Act: TypeAlias = bytes | Raw | float | None
"""A message to send, seconds to wait, or None: close the connection."""
Behaviour: TypeAlias = Callable[[bytes, str], Iterable[Act]]
"""From a query and ``udp`` or ``tcp`` to what is done about it."""


@contextmanager
def bad_server(behave: Behaviour, *, port: int = 0) -> Iterator[int]:
    """The port."""
    port = port or free_port()
    over = threading.Event()
    udp = socket.socket(type=socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    udp.bind(("127.0.0.1", port))
    tcp = socket.create_server(("127.0.0.1", port), backlog=256)

    def datagrams() -> None:
        while not over.is_set():
            try:
                query, client = udp.recvfrom(4096)
            except OSError:
                return
            if query:
                threading.Thread(target=one, args=(query, client), daemon=True).start()

    def one(query: bytes, client: object) -> None:
        for act in behave(query, "udp"):
            if isinstance(act, float):
                time.sleep(act)
            elif isinstance(act, bytes):
                with suppress(OSError):
                    udp.sendto(act, client)  # type: ignore[arg-type]

    def streams() -> None:
        while not over.is_set():
            try:
                connection, _ = tcp.accept()
            except OSError:
                return
            threading.Thread(target=converse, args=(connection,), daemon=True).start()

    def converse(connection: socket.socket) -> None:
        data = b""
        with connection, suppress(OSError):
            while some := connection.recv(65536):
                data += some
                while len(data) >= 2 and len(data) >= (size := 2 + int.from_bytes(data[:2])):
                    query, data = data[2:size], data[size:]
                    for act in behave(query, "tcp"):
                        if act is None:
                            return
                        if isinstance(act, float):
                            time.sleep(act)
                        elif isinstance(act, Raw):
                            connection.sendall(act.octets)
                        else:
                            connection.sendall(len(act).to_bytes(2) + act)

    for work in (datagrams, streams):
        threading.Thread(target=work, daemon=True).start()
    try:
        yield port
    finally:
        over.set()
        # A blocked accept or recvfrom ends by being shut down.
        for sock in (udp, tcp):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
