"""Many devices that dial one: honest ones that stay, and floods.

    tunnelcrowd.py hold ADDRESS PORT KEY COUNT names|keys     dial COUNT tunnels, tell, keep them until
                                                               standard input ends
    tunnelcrowd.py flood ADDRESS PORT KEY KIND RATE SECONDS

Devices with *names* bring a document of their owner along, others are a key and nothing else.
KEY is the public key of the gateway, in hex.  Each device has an address of its own below 10.64.0.0/16.  The machines
are rtcp's own, the shell around them is this file: one epoll, and no more than it takes.  Keys, Hellos and first
messages are made before the clock starts, so that the dialling side, which has half of the work, does not hold up the
gateway.  Whether version 5 is spoken the gateway is asked first, with a message 1.  One line of
JSON tells the result; a flood has one more before, when it begins.

Kinds: ``silence`` connects and says nothing, ``garbage`` says anything, ``replay`` says what somebody said before,
``unfinished`` begins as an honest device does and never proves itself.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import random
import secrets
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cyfs_ns.identity.did import Did, dev_did, parse_did
from cyfs_ns.identity.documents import DeviceDoc
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.identity.token import sign_token
from rtcp.handshake import ENTROPY_SIZE
from rtcp.link import Link
from rtcp.party import Local, Remote
from rtcp.v5.calling import NATIVE_ENTROPY, Call, ResponderProven
from rtcp.v5.keys import device_key
from rtcp.v5.payloads import Introduction, Parameters
from rtcp.v5.tunnel import Tunnel

ZONE = parse_did("did:web:crowd.example")
OWNER = SecretKey(b"the owner of the whole crowd 123")
_UNDER_WAY = 24
_PATIENCE = 20.0
_ROUND_TRIP = 0.001
_MOST_OPEN = 400
"""Connections of a flood that are kept open."""


class Four:
    """A dialled tunnel of version 4."""

    def __init__(self, peer: PublicKey, name: str) -> None:
        key = SecretKey(secrets.token_bytes(32))
        did = named(name) if name else dev_did(key.public)
        local = Local(key=key, did=did, device_doc_jwt=document(name, key) or None, listen_port=0)
        self._link = Link.dial(
            local,
            Remote(dev_did(peer), peer),
            entropy=secrets.token_bytes(ENTROPY_SIZE),
            now=time.monotonic(),
            wall=time.time(),
        )
        self.first = self._link.data_to_send()

    def receive(self, data: bytes, now: float) -> bytes:
        self._link.receive_data(data, now)
        while self._link.next_event() is not None:
            pass
        return self._link.data_to_send()

    @property
    def is_open(self) -> bool:
        return self._link.is_open

    @property
    def is_over(self) -> bool:
        return self._link.is_closed

    def tick(self, now: float) -> bytes:
        self._link.handle_timeout(now)
        return self._link.data_to_send()

    def due(self) -> float | None:
        return self._link.next_deadline()


class Five:
    """A dialled tunnel of version 5."""

    def __init__(self, peer: PublicKey, name: str) -> None:
        key = SecretKey(secrets.token_bytes(32))
        self._key, self._name, self._document = device_key(key), str(named(name)) if name else "", document(name, key)
        entropy = secrets.token_bytes(NATIVE_ENTROPY)
        self._call: Call | None = Call.native(self._key, peer, entropy=entropy, now=time.monotonic())
        self._tunnel: Tunnel | None = None
        self.first = self._call.data_to_send()

    def receive(self, data: bytes, now: float) -> bytes:
        if self._call is None:
            return self._said(data, now)
        self._call.receive_data(data, now)
        event = self._call.next_event()
        if not isinstance(event, ResponderProven):
            if event is not None:
                self.is_over = True
            return b""
        says = Introduction(
            key=self._key.public,
            parameters=Parameters(),
            boot=secrets.token_bytes(8),
            sender=self._name,
            document=self._document,
        )
        established = self._call.go_on(says)
        assert established is not None
        third = self._call.data_to_send()
        self._carrier = established.carrier
        self._tunnel = Tunnel.call(
            established.carrier,
            established.tunnel,
            says.parameters,
            established.parameters,
            round_trip=_ROUND_TRIP,
            die=secrets.token_bytes(8),
            now=now,
        )
        self._call = None
        return third

    def _said(self, data: bytes, now: float) -> bytes:
        assert self._tunnel is not None
        self._tunnel.receive(self._carrier, data, now)
        return self._answer(now)

    def _answer(self, now: float) -> bytes:
        assert self._tunnel is not None
        while self._tunnel.next_event() is not None:
            pass
        return b"".join(self._tunnel.data_to_send(self._carrier, now))

    is_over = False

    @property
    def is_open(self) -> bool:
        return self._tunnel is not None and self._tunnel.is_up

    def tick(self, now: float) -> bytes:
        if self._tunnel is None:
            return b""
        self._tunnel.handle_timeout(now)
        return self._answer(now)

    def due(self) -> float | None:
        return self._tunnel.next_deadline() if self._tunnel is not None else None


def named(name: str) -> Did:
    return parse_did(f"did:web:{name}.{ZONE.id}")


def document(name: str, key: SecretKey) -> str:
    """What the owner of all these devices says of one; empty for one without a name."""
    if not name:
        return ""
    now = int(time.time())
    said = DeviceDoc(
        id=named(name),
        key=key.public,
        name=name,
        owner=dev_did(OWNER.public),
        zone=ZONE,
        iat=now - 600,
        exp=now + 86_400,
    )
    return sign_token(said.claims(), OWNER)


def sources() -> Iterator[str]:
    """An address for each device."""
    start = random.randrange(1 << 16)
    while True:
        start = (start + 1) & 0xFFFF
        yield f"10.64.{start >> 8}.{start & 0xFF}"


def connect(source: str, to: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind((source, 0))
    sock.connect_ex(to)
    return sock


def speaks_five(peer: PublicKey, to: tuple[str, int]) -> bool:
    """Whether the device answers message 1."""
    sock = connect(next(sources()), to)
    with sock:
        sock.settimeout(5)
        time.sleep(0.1)
        try:
            sock.sendall(Five(peer, "").first)
            return bool(sock.recv(4))
        except OSError:
            return False


def hold(peer: PublicKey, to: tuple[str, int], count: int, *, have_names: bool) -> None:
    """Dial ``count`` devices, ``_UNDER_WAY`` at a time; then be there for them."""
    five = speaks_five(peer, to)
    waiting = deque((Five if five else Four)(peer, f"d{number}" if have_names else "") for number in range(count))
    epoll, addresses = select.epoll(), sources()
    socks: dict[int, socket.socket] = {}
    devices: dict[int, Four | Five] = {}
    begun: dict[int, float] = {}
    alarms: list[tuple[float, int]] = []
    standing = lost = 0
    reasons = ""

    def end(fd: int, why: str) -> None:
        nonlocal lost, reasons
        lost, reasons = lost + 1, why
        begun.pop(fd, None)
        del devices[fd]
        epoll.unregister(fd)
        socks.pop(fd).close()

    def turn(wait: float) -> None:
        nonlocal standing
        for fd, events in epoll.poll(wait):
            if fd not in devices:
                continue
            device, now = devices[fd], time.monotonic()
            try:
                if events & select.EPOLLOUT:
                    epoll.modify(fd, select.EPOLLIN)
                    socks[fd].send(device.first)
                    continue
                data = socks[fd].recv(16384)
                if not data:
                    end(fd, "it was closed")
                    continue
                was_open = device.is_open
                if answer := device.receive(data, now):
                    socks[fd].send(answer)
            except OSError as fault:
                end(fd, str(fault))
                continue
            if device.is_over:
                end(fd, "it failed")
            elif device.is_open and not was_open:
                standing += 1
                del begun[fd]
                heapq.heappush(alarms, (device.due() or now + 30, fd))

    def beat(now: float) -> None:
        while alarms and alarms[0][0] <= now:
            _, fd = heapq.heappop(alarms)
            if fd in devices:
                with contextlib.suppress(OSError):
                    if words := devices[fd].tick(now):
                        socks[fd].send(words)
                heapq.heappush(alarms, (max(devices[fd].due() or now + 30, now + 0.5), fd))

    started = time.monotonic()
    while waiting or begun:
        while waiting and len(begun) < _UNDER_WAY:
            sock = connect(next(addresses), to)
            fd = sock.fileno()
            socks[fd], devices[fd], begun[fd] = sock, waiting.popleft(), time.monotonic()
            epoll.register(fd, select.EPOLLOUT)
        turn(1)
        now = time.monotonic()
        for fd in [fd for fd, since in begun.items() if now - since > _PATIENCE]:
            end(fd, "it took too long")
        beat(now)
    took = time.monotonic() - started
    said = {"version": 5 if five else 4, "count": standing, "errors": lost, "last_error": reasons, "seconds": took}
    print(json.dumps(said), flush=True)
    epoll.register(0, select.EPOLLIN)
    while not select.select([0], [], [], 0)[0]:
        turn(0.5)
        beat(time.monotonic())
    print(json.dumps({"alive": len(devices)}), flush=True)


def flood(peer: PublicKey, to: tuple[str, int], kind: str, rate: float, seconds: float) -> None:
    """``rate`` connections a second, whatever becomes of them."""
    make = Five if speaks_five(peer, to) else Four
    recorded = make(peer, "").first
    more = int(rate * seconds) if kind == "unfinished" else 0
    fresh = deque(make(peer, "").first for _ in range(more))
    words: dict[str, Callable[[], bytes]] = {
        "silence": lambda: b"",
        "garbage": lambda: random.randbytes(random.randrange(4, 600)),
        "replay": lambda: recorded,
        "unfinished": lambda: fresh.popleft(),
    }
    addresses, kept, epoll = sources(), deque[socket.socket](), select.epoll()
    connecting: dict[int, socket.socket] = {}
    print(json.dumps({"begins": True}), flush=True)
    started, made, turned_away = time.monotonic(), 0, 0
    while (now := time.monotonic() - started) < seconds:
        while made < now * rate and made < int(rate * seconds):
            made += 1
            try:
                sock = connect(next(addresses), to)
            except OSError:
                turned_away += 1
                continue
            connecting[sock.fileno()] = sock
            epoll.register(sock.fileno(), select.EPOLLOUT)
        for fd, _ in epoll.poll(0.001):
            sock = connecting.pop(fd)
            epoll.unregister(fd)
            try:
                sock.send(words[kind]())
            except OSError:
                turned_away += 1
            kept.append(sock)
        while len(kept) > _MOST_OPEN:
            kept.popleft().close()
    print(json.dumps({"count": made, "seconds": time.monotonic() - started, "turned_away": turned_away}), flush=True)


def main() -> None:
    task, host, port, key, *more = sys.argv[1:]
    peer, to = PublicKey(bytes.fromhex(key)), (host, int(port))
    if task == "hold":
        hold(peer, to, int(more[0]), have_names=more[1] == "names")
    else:
        flood(peer, to, more[0], float(more[1]), float(more[2]))


if __name__ == "__main__":
    main()
