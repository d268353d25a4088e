"""Many devices that dial one: honest ones that stay, and floods.

    tunnelcrowd.py hold ADDRESS PORT KEY COUNT names|keys     dial COUNT tunnels, tell, keep them until
                                                               standard input ends
    tunnelcrowd.py back ADDRESS PORT KEY COUNT          dial COUNT known tunnels at the same moment, and whatever
                                                        fails again and again; tell, and keep them as ``hold``
    tunnelcrowd.py flood ADDRESS PORT KEY KIND RATE SECONDS

Devices with *names* bring a document of their owner along, others are a key and nothing else.
KEY is the public key of the gateway, in hex.  Each device has an address of its own below 10.64.0.0/16.  The machines
are rtcp's own, the shell around them is this file: one epoll, and no more than it takes.  Keys, Hellos and first
messages are made before the clock starts, so that the dialling side, which has half of the work, does not hold up the
gateway.  Those of ``back`` are members of an SN, with the keys of :func:`member`; each is as patient as a real device,
and waits between two attempts as long as one does (``rtcp.io.device``).  Whether version 5 is spoken the gateway is
asked first, with a message 1.  One line of JSON tells the result; a flood has one more before, when it begins.

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
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cyfs_ns.identity.did import Did, dev_did, parse_did
from cyfs_ns.identity.documents import DeviceDoc
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.identity.token import sign_token
from rtcp.backoff import Backoff
from rtcp.handshake import ENTROPY_SIZE
from rtcp.link import Link
from rtcp.party import Local, Remote
from rtcp.v5.calling import ANSWER_WAIT, NATIVE_ENTROPY, VERDICT_WAIT, Call, ResponderProven
from rtcp.v5.events import Ended
from rtcp.v5.keys import DeviceKey, device_key
from rtcp.v5.payloads import Introduction, Parameters
from rtcp.v5.tunnel import Tunnel

ZONE = parse_did("did:web:crowd.example")
OWNER = SecretKey(b"the owner of the whole crowd 123")
_UNDER_WAY = 24
_PATIENCE = 20.0
_ROUND_TRIP = 0.001
_CONNECT_WAIT = 10.0
_LONGEST = 30.0
_GIVE_UP = 90.0
_BEGUN_AT_ONCE = 32
"""Attempts of ``back`` that are begun between two looks at those that are under way."""
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

    def __init__(self, peer: PublicKey, name: str, own: DeviceKey | None = None) -> None:
        key = SecretKey(secrets.token_bytes(32))
        self._key = own or device_key(key)
        self._name, self._document = str(named(name)) if name else "", document(name, key)
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
        while (event := self._tunnel.next_event()) is not None:
            if isinstance(event, Ended):
                self.is_over, self.why, self.wait = True, event.why, event.wait
        return b"".join(self._tunnel.data_to_send(self._carrier, now))

    is_over = False
    why = "it failed"
    wait = 0.0
    """Seconds for which it is to stay away, now that it is over."""

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


def member(number: int) -> SecretKey:
    """The key of one of those who come ``back``; numbers begin with 1."""
    return SecretKey(number.to_bytes(32))


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


class _Return:
    """One member of those who come back, from its first attempt until it stands."""

    def __init__(self, number: int, source: str) -> None:
        self.key, self.source = device_key(member(number)), source
        self.patience = Backoff(longest=_LONGEST)
        self.device: Five | None = None
        self.sock: socket.socket | None = None
        self.until = 0.0

    def prepare(self, peer: PublicKey) -> None:
        self.device = Five(peer, "", self.key)

    def begin(self, peer: PublicKey, to: tuple[str, int], now: float) -> int:
        """Dial; gives the descriptor."""
        if self.device is None:
            self.prepare(peer)
        self.sock, self.until = connect(self.source, to), now + _CONNECT_WAIT
        return self.sock.fileno()

    def fail(self) -> float:
        """Seconds until the next attempt."""
        assert self.sock is not None and self.device is not None
        self.sock.close()
        wait, self.sock, self.device = self.device.wait, None, None
        return wait + self.patience.failed(random.random())


def come_back(peer: PublicKey, to: tuple[str, int], count: int) -> None:
    """All members dial at once, and again until each stands; then be there for them."""
    addresses, epoll = sources(), select.epoll()
    everybody = [_Return(number + 1, next(addresses)) for number in range(count)]
    for one in everybody:
        one.prepare(peer)
    there: dict[int, _Return] = {}
    ticking: list[tuple[float, int, int]] = []
    """When who is to be looked at: an attempt to begin, to be given up, or a tunnel's deadline; by number."""
    started, worked = time.monotonic(), time.process_time()
    waiting = [(started, number) for number in range(count)]
    numbers = {id(one): number for number, one in enumerate(everybody)}
    standing, attempts, reasons = 0, 0, Counter[str]()

    def fail(fd: int, why: str) -> None:
        one = there.pop(fd)
        epoll.unregister(fd)
        reasons[why] += 1
        heapq.heappush(waiting, (time.monotonic() + one.fail(), numbers[id(one)]))

    def hear(fd: int, events: int) -> None:
        nonlocal standing
        one, now = there[fd], time.monotonic()
        sock, device = one.sock, one.device
        assert sock is not None and device is not None
        if events & select.EPOLLOUT:
            epoll.modify(fd, select.EPOLLIN)
            sock.send(device.first)
            one.until = now + ANSWER_WAIT
            return
        was_open = device.is_open
        data = sock.recv(16384)
        if not data:
            raise ConnectionError("it was closed")
        if answer := device.receive(data, now):
            one.until = now + VERDICT_WAIT
            sock.send(answer)
        if device.is_over:
            raise ConnectionError(device.why)
        if device.is_open and not was_open:
            standing += 1
            one.until = device.due() or now + 30

    def turn(wait: float) -> None:
        nonlocal standing
        for fd, events in epoll.poll(wait):
            try:
                hear(fd, events)
            except OSError as fault:
                standing -= there[fd].device.is_open  # type: ignore[union-attr]
                fail(fd, fault.strerror or str(fault))
        now = time.monotonic()
        while ticking and ticking[0][0] <= now:
            _, fd, number = heapq.heappop(ticking)
            one = everybody[number]
            if there.get(fd) is not one:
                continue
            assert one.device is not None and one.sock is not None
            if one.device.is_open:
                with contextlib.suppress(OSError):
                    if words := one.device.tick(now):
                        one.sock.send(words)
                one.until = max(one.device.due() or now + 30, now + 0.5)
            elif one.until <= now:
                fail(fd, "it did not answer in time")
                continue
            heapq.heappush(ticking, (one.until, fd, number))

    while standing < count and time.monotonic() - started < _GIVE_UP:
        now = time.monotonic()
        for _ in range(_BEGUN_AT_ONCE):
            if not waiting or waiting[0][0] > now:
                break
            one = everybody[number := heapq.heappop(waiting)[1]]
            fd = one.begin(peer, to, now)
            attempts += 1
            there[fd] = one
            epoll.register(fd, select.EPOLLOUT)
            heapq.heappush(ticking, (one.until, fd, number))
        turn(0 if waiting and waiting[0][0] <= now else 0.05)
    took = time.monotonic() - started
    worked = (time.process_time() - worked) / took
    usual = "; ".join(f"{why} {times} times" for why, times in reasons.most_common(3))
    said = {"version": 5, "count": standing, "errors": attempts - count, "last_error": usual, "seconds": took}
    said["cpu"] = worked
    print(json.dumps(said), flush=True)
    while not select.select([0], [], [], 0)[0]:
        turn(0.5)
    print(json.dumps({"alive": standing}), flush=True)


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
    elif task == "back":
        come_back(peer, to, int(more[0]))
    else:
        flood(peer, to, more[0], float(more[1]), float(more[2]))


if __name__ == "__main__":
    main()
