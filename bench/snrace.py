"""The relay of an SN against coturn: datagrams between pairs of devices, both ways at once, over loopback.

Each pair is two sockets of the load.  For ours they are bound as devices bind them, and both put the header before what
they send.  For coturn one of them is a TURN client with a channel to the other, which is an ordinary peer: what it says
carries a channel's header one way and nothing the other way, which is what coturn's own load test does.  The load is
``relayload.c``, the same for both: it keeps no more than a window of datagrams under way, so that the rate is what the
relay forwards and not what it drops.

The load's datagrams are handed to the kernel one by one (*sn-packets*, *sn-bulk*), and once more in bursts
(*sn-bulk-bursts*), as devices with UDP_SEGMENT send them; coturn takes both apart the same way.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import stage
from measures import Plan, Sample, one_round
from report import Figure
from rivals import find_system, first
from stage import Failed

PAIRS = 4
_ROOM = 4 << 20
_SO_RCVBUFFORCE = 33
_HERE = Path(__file__)


@dataclass(frozen=True, slots=True)
class _Load:
    size: int
    """Octets of each datagram, without the header of the relay."""
    burst: int
    joined: bool
    window: int
    """Datagrams of each flow under way."""
    is_bulk: bool


MEASURES = {
    "sn-packets": _Load(100, 8, False, 24, False),
    "sn-bulk": _Load(1200, 8, False, 24, True),
    "sn-bulk-bursts": _Load(1200, 40, True, 120, True),
}


@dataclass(frozen=True, slots=True)
class _Flow:
    sender: socket.socket
    receiver: socket.socket
    header: bytes


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.suppress(PermissionError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(1)
    return sock


# ---- contestants: each is started and gives its process and its flows, by the size of datagrams ----


@contextlib.contextmanager
def _ours(home: Path, _size: int) -> Iterator[tuple[int, list[_Flow]]]:
    from rtcp.nat.relayend import RelayEnd, RelayState

    command = [sys.executable, str(_HERE), str(PAIRS)]
    with stage.process(command, stage.PROXY_CPU, home / "ours.log", stdout=subprocess.PIPE) as child:
        told = child.stdout.readline()  # type: ignore[union-attr]
        if not told:
            raise Failed(stage.last_words(home / "ours.log"))
        port, sessions = json.loads(told)
        flows = []
        with contextlib.ExitStack() as opened:
            for relay_id, *keys in sessions:
                ends = []
                for side, key in enumerate(keys):
                    sock = opened.enter_context(_socket())
                    sock.connect(("127.0.0.1", port))
                    end = RelayEnd(bytes.fromhex(relay_id), side, bytes.fromhex(key))
                    end.bind(time.monotonic())
                    while end.state is not RelayState.BOUND:
                        while (said := end.data_to_send()) is not None:
                            sock.send(said)
                        end.receive(sock.recv(2048), time.monotonic())
                    ends.append((sock, end.header))
                (near, header), (far, _) = ends
                flows += [_Flow(near, far, header), _Flow(far, near, header)]
            yield child.pid, flows


@contextlib.contextmanager
def _coturn(home: Path, size: int) -> Iterator[tuple[int, list[_Flow]]]:
    program = find_system("turnserver")
    if program is None:
        raise Failed("coturn is absent: apt install coturn")
    port = stage.free_port()
    command = [program, "-n", "--no-auth", "--no-tls", "--no-dtls", "--no-cli", "--no-tcp", "--allow-loopback-peers"]
    command += ["--listening-ip=127.0.0.1", f"--listening-port={port}", "--relay-ip=127.0.0.1", "--relay-threads=1"]
    command += ["--log-file=stdout", f"--pidfile={home}/coturn.pid", f"--userdb={home}/coturn.db"]
    with stage.process(command, stage.PROXY_CPU, home / "coturn.log") as child, contextlib.ExitStack() as opened:
        flows = []
        for _ in range(PAIRS):
            near, far = (opened.enter_context(_socket()) for _ in range(2))
            near.connect(("127.0.0.1", port))
            told = _ask(near, child, home / "coturn.log", 0x0003, _attribute(0x0019, b"\x11\0\0\0"))  # Allocate for UDP
            far.connect(("127.0.0.1", _relayed_port(told)))
            peer = int.from_bytes(socket.inet_aton("127.0.0.1")) ^ _COOKIE
            where = b"\0\1" + (far.getsockname()[1] ^ _COOKIE >> 16).to_bytes(2) + peer.to_bytes(4)
            channel = _attribute(0x000C, b"\x40\0\0\0") + _attribute(0x0012, where)
            _ask(near, child, home / "coturn.log", 0x0009, channel)  # ChannelBind
            flows += [_Flow(near, far, b"\x40\0" + size.to_bytes(2)), _Flow(far, near, b"")]
        yield child.pid, flows


@contextlib.contextmanager
def _direct(_home: Path, _size: int) -> Iterator[tuple[int, list[_Flow]]]:
    with contextlib.ExitStack() as opened:
        flows = []
        for _ in range(PAIRS):
            near, far = (opened.enter_context(_socket()) for _ in range(2))
            near.connect(far.getsockname())
            far.connect(near.getsockname())
            flows += [_Flow(near, far, b""), _Flow(far, near, b"")]
        yield 0, flows


_CONTESTANTS = {"ours": _ours, "coturn": _coturn, "direct": _direct}

# ---- as much of TURN (RFC 8656) as a client without credentials needs ----

_COOKIE = 0x2112A442


def _attribute(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2) + len(value).to_bytes(2) + value + bytes(-len(value) % 4)


def _ask(sock: socket.socket, server: subprocess.Popen[str], log: Path, method: int, attributes: bytes) -> bytes:
    question = method.to_bytes(2) + len(attributes).to_bytes(2) + _COOKIE.to_bytes(4) + os.urandom(12) + attributes
    for _ in range(100):
        try:
            sock.send(question)
            answer = sock.recv(2048)
        except OSError:  # it does not listen yet
            time.sleep(0.05)
            if server.poll() is not None:
                break
            continue
        if answer[:2] != (method | 0x0100).to_bytes(2):
            raise Failed(f"coturn refused: {answer.hex()}")
        return answer
    raise Failed(stage.last_words(log))


def _relayed_port(answer: bytes) -> int:
    at = 20
    while at < len(answer):
        kind, size = int.from_bytes(answer[at : at + 2]), int.from_bytes(answer[at + 2 : at + 4])
        if kind == 0x0016:
            return int.from_bytes(answer[at + 6 : at + 8]) ^ _COOKIE >> 16
        at += 4 + size + -size % 4
    raise Failed("coturn gave no address")


# ---- the race ----


def versions() -> dict[str, str]:
    """Of the rival, if it is there."""
    program = find_system("turnserver")
    return {"coturn": first(r"(\d+\.\d+\.\d+)", program, "--version")} if program else {}


def _sample(home: Path, flows: list[_Flow], load: _Load, seconds: float) -> Sample:
    given: list[float | str] = [seconds, load.size, load.window, load.burst, int(load.joined)]
    for flow in flows:
        given += [flow.sender.fileno(), flow.receiver.fileno(), flow.header.hex() or "-"]
    command = [stage.load_tool("relayload"), *map(str, given)]
    handed = {flow.sender.fileno() for flow in flows}
    with stage.process(command, stage.LOAD_CPU, home / "load.log", stdout=subprocess.PIPE, pass_fds=handed) as child:
        told, _ = child.communicate(timeout=seconds + 30)
        if child.returncode:
            raise Failed(stage.last_words(home / "load.log"))
    result = json.loads(told)
    return Sample(result["got"], result["seconds"], result["lost"])


def race(name: str, plan: Plan) -> list[Figure]:
    """One race; a contestant that fails keeps its reason instead of a figure.  Errors are datagrams lost."""
    load = MEASURES[name]
    who = [each for each in _CONTESTANTS if (plan.direct if each == "direct" else not plan.who or each in plan.who)]
    unit, cost = ("Gb/s", "s/GB") if load.is_bulk else ("/s", "µs each")
    scale, cost_scale = (load.size * 8e-9, 1e9 / load.size) if load.is_bulk else (1, 1e6)
    figures = {each: Figure(name, each, unit, cost_unit=cost, planned=plan.rounds) for each in who}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, contextlib.ExitStack() as running:
        home = Path(directory)
        entries: dict[str, tuple[int, list[_Flow]]] = {}
        for each in who:
            try:
                entries[each] = running.enter_context(_CONTESTANTS[each](home, load.size))
            except (Failed, OSError) as failure:
                figures[each].failed = str(failure)
        for turn in plan.allowance.turns(plan.rounds, lambda: [*figures.values()]):
            for each, (pid, flows) in entries.items():
                if figures[each].failed:
                    continue
                try:
                    if turn == 0:
                        _sample(home, flows, load, 0.5)
                        continue
                    take = partial(_sample, home, flows, load, plan.seconds)
                    one_round(figures[each], take, (pid,) if pid else (), (), scale, cost_scale)
                except (Failed, OSError) as failure:
                    figures[each].failed = str(failure)
    return list(figures.values())


def _serve(pairs: int) -> None:
    """The relay alone, with sessions for all pairs; says where it is and what they are."""
    import trio

    from cyfs_gateway.io.sn.udprelay import UdpRelay
    from cyfs_gateway.sn.relay import RelayBounds

    relay = UdpRelay([("127.0.0.1", 0)], RelayBounds(rate=1 << 40), lambda _session, _octets: True, lambda _ended: None)
    sessions = [relay.allocate("bench") for _ in range(pairs)]
    told = [[each.relay_id.hex(), *(key.hex() for key in each.keys)] for each in sessions]
    print(json.dumps([relay.addresses[0][1], told]), flush=True)
    trio.run(relay.run)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
