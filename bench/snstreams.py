"""Octets between two members of an SN over TCP, through the SN, against HAProxy in TCP mode.

HAProxy joins two connections and looks at nothing; with ``splice-auto`` the octets do not leave the kernel.  At the SN
both devices have a tunnel, and what one says on its stream goes on to the other.  What devices say on such a stream is
sealed between the two, which the SN has nothing to do with and which is left out here; so the stream gets a bare leg at
both (section 8.8 of ``docs/rtcp-v5.md``), and the SN joins these as HAProxy does, once a first MiB has shown that it is
worth it.

The contestant has one CPU.  The load has the other: one process that is both ends; the contestant's own cost stands
beside the rate.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import stage
import trio
from measures import Plan, Sample, one_round, run_load
from report import Figure
from rivals import find_system
from sncrowd import write_members
from stage import Failed
from tunnelcrowd import member

from cyfs_gateway.io.sntalk import Conversation
from cyfs_gateway.sn.talk import Connect, Connected
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.io.trusted.keystore import KeyStore
from rtcp.io.device import Device, House, open_device
from rtcp.io.fifth import Version5
from rtcp.io.pipe import Pipe, TcpPipe, carries_sealed, send_all
from rtcp.io.tunnel import StreamRequest
from rtcp.party import Found, Local
from tunnels.io.reactor import Reactor

MEASURES = ("sn-tcp-relay",)
_CHUNK = 256 << 10
_HAPROXY = """
global
  nbthread 1
defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen relay
  bind 127.0.0.1:{door}
  server other 127.0.0.1:{sink}
"""

# ---- the load: both ends in one process, which tells how much arrived ----


class _Sink:
    """Throws away what comes, and counts it."""

    def __init__(self) -> None:
        self.came = 0

    async def take(self, pipe: Pipe) -> None:
        buffer = memoryview(bytearray(_CHUNK))
        while True:
            try:
                size = pipe.recv_into(buffer)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(pipe.fileno())
                continue
            if not size:
                return
            self.came += size
            await trio.lowlevel.checkpoint()


async def _dial(host: str, port: int) -> TcpPipe:
    sock = TcpPipe(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.connect_ex((host, port))
    await trio.lowlevel.wait_writable(sock)
    return sock


async def _flow(pipe: Pipe, sink: _Sink, seconds: float) -> dict[str, float]:
    chunk, began = bytes(_CHUNK), trio.current_time()
    with trio.move_on_after(seconds):
        while True:
            await send_all(pipe, chunk)
    return {"count": sink.came, "seconds": trio.current_time() - began}


@asynccontextmanager
async def _device(
    key: SecretKey, reactor: Reactor, sn: Found, serve: Callable[[StreamRequest], Awaitable[None]]
) -> AsyncIterator[Device]:
    async def find(did: Did, at: int | None) -> Found:
        return sn

    local = Local(key=key, did=dev_did(key.public), listen_port=0)
    version = Version5(reactor=reactor, versions=frozenset({5}))
    async with open_device(local, House(find=find, dial=_dial, serve=serve), version_5=version) as device:
        yield device


async def _members(port: int, key: str, seconds: float) -> dict[str, float]:
    """From one member of the SN at ``port`` to another."""
    sn_key, reactor, sink = PublicKey(bytes.fromhex(key)), Reactor(), _Sink()
    found, sn = Found(sn_key, [("127.0.0.1", port)]), dev_did(sn_key)

    async def serve(request: StreamRequest) -> None:
        pipe = await request.accept()
        carries_sealed(pipe)
        await sink.take(pipe)

    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        async with (
            _device(member(1), reactor, found, serve) as asker,
            _device(member(2), reactor, found, serve) as asked,
        ):
            await asked.tunnel(sn)
            pipe = await asker.open_stream(sn, "sn.invalid", 1)
            reply = await Conversation(pipe).ask(Connect(dev_did(member(2).public)))
            if not isinstance(reply, Connected):
                raise SystemExit(f"the SN says {reply}")
            carries_sealed(pipe)
            told = await _flow(pipe, sink, seconds)
            nursery.cancel_scope.cancel()
    return told


async def _plain(door: int, sink_port: int, seconds: float) -> dict[str, float]:
    """To the port ``door``, which leads to ``sink_port``."""
    sink = _Sink()

    async def serve(listener: trio.socket.SocketType) -> None:
        sock, _ = await listener.accept()
        pipe = TcpPipe(socket.AF_INET, socket.SOCK_STREAM, 0, sock.detach())
        pipe.setblocking(False)
        await sink.take(pipe)

    listener = trio.socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await listener.bind(("127.0.0.1", sink_port))
    listener.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, listener)
        told = await _flow(await _dial("127.0.0.1", door), sink, seconds)
        nursery.cancel_scope.cancel()
    return told


# ---- the race ----


@contextmanager
def _sn(home: Path, program: str) -> Iterator[tuple[int, list[str]]]:
    key = KeyStore(home / "sn").make_device("sn").public
    write_members(home / "sn", 2)
    port, sink = stage.free_port(), stage.free_port()
    config = {
        "log-level": "error",
        "dns": {"enable": True, "listen": f"127.0.0.1:{stage.free_port()}", "nameserver": ["rcode://refused"]},
        "rtcp": {"listen": f"127.0.0.1:{port}", "versions": [5], "udp": False},
        "sn": {"domain": "sn.example", "addresses": ["198.51.100.1"], "listen": f"127.0.0.1:{sink}"},
    }
    file, log = home / "sn.yaml", home / "sn.log"
    file.write_text(json.dumps(config, indent=1))
    file.chmod(0o600)
    with stage.process([program, "run", "-c", str(file), "--home", str(home / "sn")], stage.PROXY_CPU, log) as child:
        stage.wait_for_port(port, child, log)
        yield child.pid, ["members", str(port), key.raw.hex()]


@contextmanager
def _haproxy(home: Path) -> Iterator[tuple[int, list[str]]]:
    program = find_system("haproxy")
    if program is None:
        raise Failed("is absent; to have it: apt install haproxy")
    door, sink = stage.free_port(), stage.free_port()
    file, log = home / "haproxy.cfg", home / "haproxy.log"
    file.write_text(_HAPROXY.format(door=door, sink=sink))
    with stage.process([program, "-f", str(file)], stage.PROXY_CPU, log) as child:
        stage.wait_for_port(door, child, log)
        yield child.pid, ["plain", str(door), str(sink)]


@contextmanager
def _direct(_home: Path) -> Iterator[tuple[int, list[str]]]:
    port = str(stage.free_port())
    yield 0, ["plain", port, port]


def _sample(words: list[str], seconds: float) -> Sample:
    told = json.loads(run_load([sys.executable, __file__, *words, str(seconds)], seconds + 10))
    return Sample(told["count"], told["seconds"])


def race(name: str, plan: Plan) -> list[Figure]:
    """One race; a contestant that fails keeps its reason instead of a figure."""
    program = next((program for rival, program in plan.contestants if rival.name == "ours"), None)
    if program is None:
        raise Failed("ours is absent")
    everybody = {"ours": partial(_sn, program=program), "haproxy": _haproxy, "direct": _direct}
    who = [each for each in everybody if (plan.direct if each == "direct" else not plan.who or each in plan.who)]
    figures = {each: Figure(name, each, "Gb/s", cost_unit="s/GB", planned=plan.rounds) for each in who}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, ExitStack() as running:
        started: dict[str, tuple[int, list[str]]] = {}
        for each, figure in figures.items():
            try:
                started[each] = running.enter_context(everybody[each](Path(directory)))
            except (Failed, OSError) as failure:
                figure.failed = str(failure)
        for turn in plan.allowance.turns(plan.rounds, lambda: [*figures.values()]):
            for each, (pid, words) in started.items():
                if figures[each].failed:
                    continue
                take = partial(_sample, words, plan.seconds if turn else 1)
                try:
                    if not turn:
                        take()
                        continue
                    one_round(figures[each], take, (pid,) if pid else (), (), 8e-9, 1e9)
                except (Failed, OSError) as failure:
                    figures[each].failed = str(failure)
    return list(figures.values())


if __name__ == "__main__":
    task, *given, length = sys.argv[1:]
    if task == "members":
        print(json.dumps(trio.run(_members, int(given[0]), given[1], float(length))))
    else:
        print(json.dumps(trio.run(_plain, int(given[0]), int(given[1]), float(length))))
