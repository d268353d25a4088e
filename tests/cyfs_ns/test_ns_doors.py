"""Doors that are bound at the same time, for different reasons."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from cyfs_ns.config.dns import DoorsConfig
from cyfs_ns.hot import Hot, HotDoor
from cyfs_ns.io.datagrams import open_udp
from cyfs_ns.io.doors import Doors, wanted_doors
from cyfs_ns.io.streams import StreamHall
from cyfs_ns.io.udp import serve_udp
from cyfs_ns.peer import Peer
from tests.freeport import free_port


class _Nothing:
    def answer(self, client_ip: bytes, query: bytes, door: str) -> bytes | None:
        return None


async def _silence(query: bytes, peer: Peer) -> bytes | None:
    return None


async def test_nobody_is_let_in_before_every_door_is_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knocked: list[int] = []

    def knock() -> None:
        """As scripts do that wait for a server, and ask it by UDP as soon as somebody opens."""
        for port in (plain, secure):
            with socket.socket() as sock:
                knocked.append(sock.connect_ex(("127.0.0.1", port)))

    def bind(*place: Any, **options: Any) -> socket.socket:
        knock()
        return open_udp(*place, **options)

    monkeypatch.setattr("cyfs_ns.io.doors.open_udp", bind)
    plain, secure = free_port(), free_port()
    config = DoorsConfig(plain=(("127.0.0.1", plain), ("127.0.0.2", plain)), tls=(("127.0.0.1", secure),))
    hot = Hot({kind: HotDoor(lambda address: None) for kind in ("udp", "tcp", "tls", "https")})
    made = Doors(tmp_path, StreamHall(_Nothing(), _silence), hot, _silence)
    fresh = await made.stage(config)
    assert knocked == [errno.ECONNREFUSED] * 4
    knock()
    assert knocked[4:] == [0, 0], "who comes between stage and commit waits"
    made.abandon(fresh)


async def test_a_change_while_a_door_opens_again_knows_of_that_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fails, bound, gate = trio.Event(), threading.Event(), threading.Event()

    async def failing(sock: socket.socket, *arguments: Any, **options: Any) -> None:
        if not fails.is_set():
            with sock:
                await fails.wait()
            raise RuntimeError("on purpose")
        await serve_udp(sock, *arguments, **options)

    def slow(*place: Any, **options: Any) -> socket.socket:
        sock = open_udp(*place, **options)
        if fails.is_set():
            bound.set()
            gate.wait(10)
        return sock

    monkeypatch.setattr("cyfs_ns.io.doors.serve_udp", failing)
    monkeypatch.setattr("cyfs_ns.io.doors.open_udp", slow)
    port = free_port()
    narrow, wide = (DoorsConfig(plain=places) for places in ((("127.0.0.1", port),), (("", port), ("127.0.0.1", port))))
    hot = Hot({kind: HotDoor(lambda address: None) for kind in ("udp", "tcp", "tls", "https")})
    made = Doors(tmp_path, StreamHall(_Nothing(), _silence), hot, _silence)
    async with trio.open_nursery() as nursery:
        made.open_in(nursery)
        made.commit(narrow, await made.stage(narrow))
        await trio.testing.wait_all_tasks_blocked()
        fails.set()
        await trio.to_thread.run_sync(bound.wait, 10)

        async def change() -> None:
            made.commit(wide, await made.stage(wide))
            assert {*made.keys} == {*wanted_doors(wide)}
            nursery.cancel_scope.cancel()

        nursery.start_soon(change)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert "on purpose" in caplog.text


async def test_a_certificate_that_cannot_be_kept_costs_no_door(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    tls, https = free_port(), free_port()
    config = DoorsConfig(plain=(("127.0.0.1", free_port()),), tls=(("127.0.0.1", tls),), https=(("127.0.0.1", https),))
    made = _doors(tmp_path / "file" / "home")
    async with trio.open_nursery() as nursery:
        made.open_in(nursery)
        made.commit(config, await made.stage(config))
        assert {*made.keys} == {*wanted_doors(config)}
        assert await _shown(tls) == await _shown(https)
        nursery.cancel_scope.cancel()
    assert caplog.text.count("ends with this run") == 1


async def test_a_damaged_certificate_of_ours_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    config = DoorsConfig(tls=(("127.0.0.1", port),))
    (tmp_path / "doors.pem").write_text("half a certific")
    made = _doors(tmp_path)
    async with trio.open_nursery() as nursery:
        made.open_in(nursery)
        made.commit(config, await made.stage(config))
        assert await _shown(port) in (tmp_path / "doors.pem").read_text()
        nursery.cancel_scope.cancel()
    assert "doors.pem: no certificate with its key" in caplog.text


async def test_a_damaged_certificate_that_cannot_be_replaced_costs_no_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    tls, https = free_port(), free_port()
    config = DoorsConfig(tls=(("127.0.0.1", tls),), https=(("127.0.0.1", https),))
    (tmp_path / "doors.pem").write_text("half a certific")
    monkeypatch.setattr("cyfs_ns.io.selfsigned.write_atomic", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    made = _doors(tmp_path)
    async with trio.open_nursery() as nursery:
        made.open_in(nursery)
        made.commit(config, await made.stage(config))
        assert await _shown(tls) == await _shown(https)
        nursery.cancel_scope.cancel()
    assert caplog.text.count("ends with this run") == 1


def _doors(home: Path) -> Doors:
    hot = Hot({kind: HotDoor(lambda address: None) for kind in ("udp", "tcp", "tls", "https")})
    return Doors(home, StreamHall(_Nothing(), _silence), hot, _silence)


async def _shown(port: int) -> str:
    return await trio.to_thread.run_sync(ssl.get_server_certificate, ("127.0.0.1", port))
