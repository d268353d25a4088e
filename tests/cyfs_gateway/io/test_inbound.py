"""A listener outlives what its connections do to it: a lack of descriptors, and faults of our own."""

from __future__ import annotations

import gc
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from inprocess import echo, exactly, living, serve, socks5, until

from cyfs_gateway.io.connection import Connection
from cyfs_gateway.io.inbound import Inbound

CONFIG = """
listeners: [{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}]
rules: ["MATCH,DIRECT"]
"""


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Every descriptor that exists goes on, and none can be made."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_without_descriptors_it_pauses_does_not_spin_and_comes_back(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]
    accept = Inbound._accept

    def counted(self: Inbound, events: int) -> None:
        calls[0] += 1
        accept(self, events)

    monkeypatch.setattr(Inbound, "_accept", counted)
    port = await serve(nursery, echo)
    async with living(tmp_path, CONFIG) as house:
        kept, _ = await socks5(house.port(), "127.0.0.1", port)
        calls[0] = 0
        clients = [socket.create_connection(("127.0.0.1", house.port())) for _ in range(5)]
        with no_more_descriptors():
            await until(lambda: calls[0])
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert calls[0] <= 2
            assert not house.engine.halves
            await kept.send_all(b"flows that live go on")
            assert await exactly(kept, 21) == b"flows that live go on"
        await until(lambda: len(house.engine.halves) == 5)
        for client in clients:
            client.close()
        await kept.aclose()


async def test_a_way_that_finds_no_descriptor_is_refused_politely(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    async with living(tmp_path, CONFIG) as house:
        client = socket.create_connection(("127.0.0.1", house.port()))
        await until(lambda: house.engine.halves)
        client.sendall(b"\x05\x01\x00\x05\x01\x00\x01\x7f\0\0\x01" + port.to_bytes(2, "big"))
        with no_more_descriptors():
            await until(lambda: not house.engine.halves)
        client.settimeout(5)
        assert client.recv(100)[:4] == b"\x05\x00\x05\x01"
        client.close()


async def test_a_fault_of_ours_costs_one_connection(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await serve(nursery, echo)
    hear, failures = Connection._hear, [2]

    def fails_at_first(self: Connection, data: bytes) -> None:
        if failures[0]:
            failures[0] -= 1
            raise RuntimeError("a bug of ours")
        hear(self, data)

    monkeypatch.setattr(Connection, "_hear", fails_at_first)
    async with living(tmp_path, CONFIG) as house:
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", house.port())) as client:
                client.sendall(b"\x05\x01\x00")
                await until(lambda: failures[0] < 2)
        await until(lambda: not failures[0])
        stream, code = await socks5(house.port(), "127.0.0.1", port)
        assert code == 0
        await stream.aclose()


async def test_connections_that_ended_are_gone_without_a_collection(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Thousands a second, each with its relay and sockets: left to the collector they cost a tenth of all work."""
    port = await serve(nursery, echo)
    async with living(tmp_path, CONFIG) as house:
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                stream, _ = await socks5(house.port(), "127.0.0.1", port)
                await stream.send_all(b"x")
                assert await exactly(stream, 1) == b"x"
                await stream.aclose()
            # The reactor's loop may still hold the handler of the very last one.
            await until(lambda: sum(isinstance(one, Connection) for one in gc.get_objects()) <= 1)
        finally:
            gc.enable()
