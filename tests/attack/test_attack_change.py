"""Changes that fail late, changes in the middle of the end, and crowds: the house stands and answers its owner."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from cyfs_gateway.io import gateway as gateway_io
from cyfs_ns.errors import ConfigFault, Misuse
from tests.cyfs_gateway.io.inprocess import Living, connect, dead_port, exactly, living, serve, socks5, until

LISTENER = "listeners: [{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}]\n"


async def status_of(port: int, secret: str) -> int:
    """What the control API on TCP says to ``GET /version``."""
    stream = await connect(port)
    async with stream:
        await stream.send_all(
            b"GET /version HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\n\r\n" % (port, secret.encode())
        )
        return int((await exactly(stream, 12)).split()[1])


async def test_control_survives_a_change_that_fails_after_it_was_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = dead_port()
    control = f"external-controller: 127.0.0.1:{port}\nsecret: "
    async with living(tmp_path, LISTENER + control + "old\n") as house:

        async def fail(_wanted: object) -> None:
            raise ConfigFault("the kernel says no")

        monkeypatch.setattr(house.gateway, "_intercept", fail)
        with pytest.raises(ConfigFault, match="kernel"):
            await house.reload(LISTENER + control + "new\n")
        assert await status_of(port, "old") == 200
        assert await status_of(port, "new") == 401


async def test_a_new_secret_does_not_cut_the_unix_socket(tmp_path: Path) -> None:
    port = dead_port()
    control = f"external-controller: 127.0.0.1:{port}\nsecret: "
    async with living(tmp_path, LISTENER + control + "old\n") as house:
        stream = await trio.open_unix_socket(tmp_path / "cyfs-gateway.sock")
        async with stream:
            await house.reload(LISTENER + control + "new\n")
            await stream.send_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await exactly(stream, 12)).endswith(b"200")
        assert await status_of(port, "new") == 200


async def test_a_change_that_fails_in_a_way_nobody_foresaw_ends_nothing(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug of ours")

    async with living(tmp_path, LISTENER) as house:
        with monkeypatch.context() as patched:
            patched.setattr(gateway_io, "build_world", broken)
            with pytest.raises(Misuse, match="a bug of ours"):  # not the file's, as ConfigFault is
                await house.reload(LISTENER + "rules: ['MATCH,DIRECT']\n")
        assert house.gateway.status()["mode"] == "rule"
        await house.reload(LISTENER + "mode: direct\n")
        assert house.gateway.status()["mode"] == "direct"


async def test_no_change_begins_once_the_end_has(tmp_path: Path) -> None:
    async with living(tmp_path, LISTENER) as house:
        await house.gateway.end()
        with pytest.raises(ConfigFault, match="stopping"):
            await house.reload(LISTENER + "rules: ['MATCH,DIRECT']\n")
        assert house.gateway._listeners.view() == []


async def test_the_end_waits_for_the_change_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached, go_on = trio.Event(), trio.Event()

    async with living(tmp_path, LISTENER) as house, trio.open_nursery() as nursery:

        async def slow(_wanted: object) -> None:
            reached.set()
            await go_on.wait()

        monkeypatch.setattr(house.gateway, "_intercept", slow)
        nursery.start_soon(house.reload, LISTENER + "rules: ['MATCH,REJECT']\n")
        await reached.wait()
        nursery.start_soon(house.gateway.end)
        await trio.testing.wait_all_tasks_blocked()
        assert house.gateway._listeners.view()
        go_on.set()
        await until(lambda: not house.gateway._listeners.view())


async def test_flows_leave_the_last_descriptors_to_control(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with living(tmp_path, LISTENER) as house:
        highest = house.engine._descriptors_most
        with socket.socket() as probe:
            house.engine._descriptors_most = probe.fileno()
        crowd = [await connect(house.port()) for _ in range(3)]
        for stream in crowd:
            with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
                # The first is turned away, the others wait in the queue and are turned away after the pauses.
                await stream.send_all(b"\x05\x01\x00")
                raise trio.BrokenResourceError if not await stream.receive_some(1) else AssertionError
        control = await trio.open_unix_socket(tmp_path / "cyfs-gateway.sock")
        async with control:
            await control.send_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await exactly(control, 12)).endswith(b"200")
        house.engine._descriptors_most = highest

        async def hold(stream: trio.SocketStream) -> None:
            await stream.receive_some(1)

        stream, code = await socks5(house.port(), "127.0.0.1", await serve(nursery, hold))
        assert code == 0
        await stream.aclose()
        for stream in crowd:
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def flood_names(house: Living, port: int, count: int) -> None:
    """Datagrams to ``count`` different names through one SOCKS client."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        for number in range(count):
            name = b"flood%d.test" % number
            sock.sendto(b"\0\0\0\x03%c%s\0\x35x" % (len(name), name), ("127.0.0.1", port))
            if number % 50 == 49:
                await trio.lowlevel.checkpoint()


async def test_destinations_forgotten_while_undecided_leave_nothing(tmp_path: Path, nursery: trio.Nursery) -> None:
    rules = "rules: ['IP-CIDR,203.0.113.0/24,REJECT', 'MATCH,DIRECT']\n"
    async with living(tmp_path, LISTENER + rules) as house:
        stream = await connect(house.port())
        await stream.send_all(b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0")
        port = int.from_bytes((await exactly(stream, 12))[-2:], "big")
        await flood_names(house, port, 1200)
        await stream.aclose()
        await until(lambda: not house.engine.associations)
        await until(lambda: not len(house.tracker))
