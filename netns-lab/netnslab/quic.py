"""Real QUIC (RFC 9000) on lab hosts: aioquic's machine, which does no input or output, over the hosts' sockets."""

from __future__ import annotations

import math
import ssl
import time
from collections import defaultdict

import trio
import trustme
from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, StreamDataReceived
from aioquic.quic.packet import pull_quic_header

from netnslab.lab import Host

__all__ = ["ask_quic", "quic_server"]

_ALPN = ["lab"]
_ID_BYTES = 8


async def quic_server(
    host: Host,
    ip: str,
    port: int,
    certificate: trustme.LeafCert,
    *,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answers what comes on a stream with ``SOURCE-IP|data`` and its end."""
    config = QuicConfiguration(is_client=False, alpn_protocols=_ALPN, connection_id_length=_ID_BYTES)
    with certificate.cert_chain_pems[0].tempfile() as chain, certificate.private_key_pem.tempfile() as key:
        config.load_cert_chain(chain, key)
    clients: dict[tuple[str, int], QuicConnection] = {}
    answered: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    with await host.socket(_family(ip), trio.socket.SOCK_DGRAM) as sock:
        await sock.bind((ip, port))
        task_status.started()
        while True:
            with trio.move_on_after(max(0.0, _next(*clients.values()) - time.monotonic())):
                data, source = await sock.recvfrom(65536)
                source = source[:2]
                if source not in clients:
                    first = pull_quic_header(Buffer(data=data), host_cid_length=_ID_BYTES)
                    clients[source] = QuicConnection(
                        configuration=config, original_destination_connection_id=first.destination_cid
                    )
                clients[source].receive_datagram(data, source, now=time.monotonic())
            for source, client in [*clients.items()]:
                while (event := client.next_event()) is not None:
                    if isinstance(event, StreamDataReceived):
                        who = b"" if event.stream_id in answered[source] else f"{source[0]}|".encode()
                        answered[source].add(event.stream_id)
                        client.send_stream_data(event.stream_id, who + event.data, end_stream=event.end_stream)
                    elif isinstance(event, ConnectionTerminated):
                        clients.pop(source, None)
                        answered.pop(source, None)
                await _turn(sock, client)


async def ask_quic(
    host: Host, target: tuple[str, int], name: str, data: bytes, roots: trustme.CA, *, timeout: float = 5.0
) -> bytes | None:
    """The answer on a new stream of a new connection to who proves to be ``name``; None when there is none in time."""
    config = QuicConfiguration(is_client=True, alpn_protocols=_ALPN, server_name=name, verify_mode=ssl.CERT_REQUIRED)
    config.load_verify_locations(cadata=roots.cert_pem.bytes())
    connection = QuicConnection(configuration=config)
    answer = b""
    with await host.socket(_family(target[0]), trio.socket.SOCK_DGRAM) as sock, trio.move_on_after(timeout):
        await sock.connect(target)
        connection.connect(target, now=time.monotonic())
        connection.send_stream_data(connection.get_next_available_stream_id(), data, end_stream=True)
        while True:
            await _turn(sock, connection)
            with trio.move_on_after(max(0.0, _next(connection) - time.monotonic())):
                connection.receive_datagram(await sock.recv(65536), target, now=time.monotonic())
            while (event := connection.next_event()) is not None:
                if isinstance(event, ConnectionTerminated):
                    return None
                if isinstance(event, StreamDataReceived):
                    answer += event.data
                    if event.end_stream:
                        connection.close()
                        await _turn(sock, connection)
                        return answer
    return None


async def _turn(sock: trio.socket.SocketType, connection: QuicConnection) -> None:
    """What is due by the clock, and what there is to send."""
    now = time.monotonic()
    if _next(connection) <= now:
        connection.handle_timer(now=now)
    for data, target in connection.datagrams_to_send(now=now):
        if connection.configuration.is_client:
            await sock.send(data)
        else:
            await sock.sendto(data, target)


def _next(*connections: QuicConnection) -> float:
    return min((timer for each in connections if (timer := each.get_timer()) is not None), default=math.inf)


def _family(ip: str) -> int:
    return trio.socket.AF_INET6 if ":" in ip else trio.socket.AF_INET
