"""One tunnel between two devices, without a gateway around them: what of a figure is rtcp's own.

    .venv/bin/python bench/tunneldevice.py          a table, with plain TCP beside it
    .venv/bin/python bench/tunneldevice.py --json   the same for bench/run.py

Two processes over loopback, each on a CPU of its own.  What is served is in the other device itself: no target is
dialled.  ``open``: streams that are asked for at a steady rate, from when each was due until it stands; plain: a
connection.  ``echo``: 1 KiB there and back on one kept stream, at a steady rate.  ``bulk``: one stream, one way.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import trio

from cyfs_ns.errors import CyfsError, Unreachable
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.keys import PublicKey, SecretKey
from rtcp.io.device import Device, House, open_device
from rtcp.io.fifth import Version5
from rtcp.io.pipe import Pipe, TcpPipe, listen
from rtcp.io.tunnel import StreamRequest
from rtcp.party import Found, Local
from tunnels.io.reactor import Reactor

ECHO, SINK = 1, 2
OPENS, ASKS, QUESTION = 1000, 500, 1024
_SECONDS = 2.0
_PATIENCE = 8.0
_CHUNK = 256 << 10


async def _dial(host: str, port: int) -> TcpPipe:
    sock = TcpPipe(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.connect_ex((host, port))
    await trio.lowlevel.wait_writable(sock)
    return sock


async def _send_all(pipe: Pipe, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest or pipe.unsent():
        try:
            if rest:
                rest = rest[pipe.send(rest) :]
            else:
                pipe.flush()
        except BlockingIOError:
            await trio.lowlevel.wait_writable(pipe.fileno())


async def _receive(pipe: Pipe, into: memoryview) -> int:
    while True:
        try:
            return pipe.recv_into(into)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(pipe.fileno())


async def _serve(pipe: Pipe, port: int) -> None:
    """Say back what comes; or count it, and say how much it was once it ends."""
    buffer, came = memoryview(bytearray(_CHUNK)), 0
    try:
        while size := await _receive(pipe, buffer):
            came += size
            if port == ECHO:
                await _send_all(pipe, bytes(buffer[:size]))
        if port == SINK:
            await _send_all(pipe, came.to_bytes(8, "big"))
        pipe.shutdown_write()
        await _send_all(pipe, b"")
    except OSError:
        pass
    finally:
        pipe.close()


async def _serve_plain(listener: trio.socket.SocketType, port: int, nursery: trio.Nursery) -> None:
    while True:
        sock, _ = await listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pipe = TcpPipe(socket.AF_INET, socket.SOCK_STREAM, 0, sock.detach())
        pipe.setblocking(False)
        nursery.start_soon(_serve, pipe, port)


@asynccontextmanager
async def _device(find: Callable[[Did, int | None], Awaitable[Found]], door: bool) -> AsyncIterator[tuple[Device, int]]:
    key = SecretKey(secrets.token_bytes(32))
    doors = listen(0, ("127.0.0.1",)) if door else []
    port = doors[0].getsockname()[1] if door else 0

    async def serve(request: StreamRequest) -> None:
        await _serve(await request.accept(), request.port)

    house = House(find=find, dial=_dial, serve=serve)
    local = Local(key=key, did=dev_did(key.public), listen_port=port)
    reactor = Reactor()
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        try:
            async with open_device(local, house, doors, version_5=Version5(reactor=reactor)) as device:
                yield device, port
        finally:
            nursery.cancel_scope.cancel()
            reactor.close()


async def _called() -> None:
    """The other process: say where and who we are, until standard input ends."""

    async def nobody(did: Did, at: int | None) -> Found:
        raise Unreachable("nobody is dialled here", "other")

    async with trio.open_nursery() as nursery, _device(nobody, door=True) as (device, port):
        plain = []
        for what in (ECHO, SINK):
            listener = trio.socket.socket()
            await listener.bind(("127.0.0.1", 0))
            listener.listen(1024)
            plain.append(listener.getsockname()[1])
            nursery.start_soon(_serve_plain, listener, what, nursery)
        told = {"port": port, "key": device.local.key.public.raw.hex(), "echo": plain[0], "sink": plain[1]}
        print(json.dumps(told), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


Open = Callable[[int], Awaitable[Pipe]]


async def _opens(connect: Open) -> dict[str, float]:
    took: list[float] = []

    async def one(due: float) -> None:
        pipe = await connect(ECHO)
        took.append(trio.current_time() - due)
        try:
            await _send_all(pipe, b"x")
            await _receive(pipe, memoryview(bytearray(1)))
        finally:
            pipe.close()

    count = int(OPENS * _SECONDS)
    with trio.move_on_after(_PATIENCE):
        async with trio.open_nursery() as nursery:
            start = trio.current_time()
            for number in range(count):
                await trio.sleep_until(start + number / OPENS)
                nursery.start_soon(one, start + number / OPENS)
    return {
        "open, p50_ms": _share(took, 0.5),
        "open, p99_ms": _share(took, 0.99),
        "open, lost_streams": count - len(took),
    }


async def _asks(connect: Open) -> dict[str, float]:
    pipe, took = await connect(ECHO), []
    question, answer = bytes(QUESTION), memoryview(bytearray(QUESTION))
    start = trio.current_time()
    for number in range(int(ASKS * _SECONDS)):
        due = start + number / ASKS
        await trio.sleep_until(due)
        begun, came = trio.current_time(), 0
        await _send_all(pipe, question)
        while came < QUESTION:
            came += await _receive(pipe, answer)
        took.append(trio.current_time() - begun)
    pipe.close()
    return {"echo, p50_ms": _share(took, 0.5), "echo, p99_ms": _share(took, 0.99)}


async def _bulk(connect: Open) -> dict[str, float]:
    pipe, chunk, sent = await connect(SINK), memoryview(bytes(_CHUNK)), 0
    spent, start = time.process_time(), trio.current_time()
    while trio.current_time() < start + _SECONDS / 4:
        await _send_all(pipe, chunk)
        sent += len(chunk)
        await trio.lowlevel.checkpoint()
    pipe.shutdown_write()
    await _send_all(pipe, b"")
    told = b""
    while len(told) < 8:
        buffer = memoryview(bytearray(8))
        size = await _receive(pipe, buffer)
        if not size:
            raise ConnectionResetError("the sink did not tell how much came")
        told += bytes(buffer[:size])
    took = trio.current_time() - start
    assert int.from_bytes(told, "big") == sent
    pipe.close()
    spent = time.process_time() - spent
    return {"bulk_gbps": sent * 8e-9 / took, "bulk, sender's cpu_spgb": spent / sent * 1e9}


def _share(values: list[float], share: float) -> float:
    """A percentile in milliseconds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] * 1e3 if values else float("nan")


async def _measure(there: dict[str, object]) -> dict[str, dict[str, float]]:
    peer = PublicKey(bytes.fromhex(str(there["key"])))
    who = dev_did(peer)

    async def find(did: Did, at: int | None) -> Found:
        return Found(peer, [("127.0.0.1", int(str(there["port"])))])

    async def plain(port: int) -> Pipe:
        return await _dial("127.0.0.1", int(str(there["echo" if port == ECHO else "sink"])))

    found: dict[str, dict[str, float]] = {"tunnel": {}, "plain": {}}
    async with _device(find, door=False) as (device, _):

        async def tunnel(port: int) -> Pipe:
            return await device.open_stream(who, None, port)

        await tunnel(ECHO)
        for name, connect in (("tunnel", tunnel), ("plain", plain)):
            for measure in (_asks, _bulk, _opens):
                try:
                    found[name] |= await measure(connect)
                except (OSError, CyfsError) as fault:
                    print(f"{name}: {fault}", file=sys.stderr)
    return found


def main() -> None:
    """Tell what was measured."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    cpus = sorted(os.sched_getaffinity(0))
    if sys.argv[1:] == ["called"]:
        trio.run(_called)
        return
    command = ["taskset", "-c", str(cpus[-1]), sys.executable, __file__, "called"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        os.sched_setaffinity(0, {cpus[0]})
        found = trio.run(_measure, json.loads(other.stdout.readline()))
    if sys.argv[1:] == ["--json"]:
        print(json.dumps(found))
        return
    for subject, values in found.items():
        for key, value in values.items():
            name, _, unit = key.rpartition("_")
            print(f"{subject:8} {name:20} {value:8.3f} {unit}")


if __name__ == "__main__":
    main()
