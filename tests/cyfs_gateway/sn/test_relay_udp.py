"""The relay on real sockets: single datagrams, bursts, both families, what is not the relay's, and a full socket."""

from __future__ import annotations

import errno
import itertools
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.io.sn import relaybursts
from cyfs_gateway.io.sn.relaybatch import SLOTS, Group
from cyfs_gateway.io.sn.udprelay import Origin, UdpRelay
from cyfs_gateway.sn.relay import Ended, RelayBounds
from cyfs_ns.errors import Misuse, Refused
from rtcp.nat.relayend import RelayEnd, RelayState

UDP_SEGMENT, UDP_GRO = 103, 104
BOTH = (("127.0.0.1", 0), ("::1", 0))


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not holds():  # noqa: ASYNC110 - counters tell nobody
            await trio.sleep(0.001)


@asynccontextmanager
async def running(
    places=BOTH, *, take=lambda _session, _octets: True, ended=lambda _ended: None, clock=time.monotonic, **bounds
):
    relay = UdpRelay(places, RelayBounds(**bounds), take, ended, clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.run)
        yield relay
        nursery.cancel_scope.cancel()


class Device:
    """One side on a socket of its own."""

    def __init__(self, end: RelayEnd, relay: UdpRelay, host: str, opened: ExitStack) -> None:
        self.end, self._opened = end, opened
        self._to = next(each for each in relay.addresses if (":" in each[0]) == (":" in host))
        self._host = host
        self.move()

    def move(self) -> None:
        """To another address."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self.sock = self._opened.enter_context(socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        self.sock.connect((self._host, self._to[1]))

    async def bind(self) -> None:
        self.end.bind(trio.current_time())
        await self.settle()

    async def settle(self) -> None:
        """Speak with the relay until it forwards to us."""
        while True:
            while (said := self.end.data_to_send()) is not None:
                self.sock.send(said)
            if self.end.state is RelayState.BOUND:
                return
            self.end.receive((await self.datagrams(1))[0], trio.current_time())

    def say(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.sock.send(self.end.wrap(payload, trio.current_time()))

    def say_as_one(self, size: int, *datagrams: bytes) -> None:
        """Whole datagrams of ``size``, the last perhaps shorter, handed to the kernel as a burst."""
        control = [(socket.IPPROTO_UDP, UDP_SEGMENT, size.to_bytes(2, "little"))]
        assert self.sock.sendmsg([b"".join(datagrams)], control) == sum(map(len, datagrams))

    async def datagrams(self, count: int) -> list[bytes]:
        found = []
        with trio.fail_after(60):
            while len(found) < count:
                await trio.lowlevel.wait_readable(self.sock)
                found.append(self.sock.recv(65536))
        return found

    async def hear(self, count: int) -> list[bytes]:
        """The payloads of what comes next."""
        return [self.end.receive(each, trio.current_time()) for each in await self.datagrams(count)]

    def nothing_came(self) -> bool:
        try:
            return not self.sock.recv(65536)
        except BlockingIOError:
            return True


@contextmanager
def devices(relay: UdpRelay, *hosts: str, account: str = "anna") -> Iterator[tuple[Device, Device]]:
    allocation = relay.allocate(account)
    with ExitStack() as opened:
        ends = [RelayEnd(allocation.relay_id, side, key) for side, key in enumerate(allocation.keys)]
        near, far = (Device(end, relay, host, opened) for end, host in zip(ends, hosts, strict=True))
        yield near, far


V4, V6 = "127.0.0.1", "::1"


@pytest.mark.parametrize("hosts", [(V4, V4), (V6, V6), (V4, V6), (V6, V4)])
async def test_two_devices_speak_whatever_family_they_have(hosts):
    async with running() as relay:
        with devices(relay, *hosts) as (near, far):
            await near.bind()
            await far.bind()
            said = [random.randbytes(random.randrange(1400)) for _ in range(60)]
            near.say(*said)
            assert await far.hear(60) == said
            far.say(*reversed(said))
            assert await near.hear(60) == said[::-1]
            assert relay.counters.forwarded == 120


@pytest.mark.parametrize("hosts", [(V4, V4), (V6, V6), (V4, V6), (V6, V4)])
async def test_a_burst_stays_one_all_the_way(hosts):
    async with running() as relay:
        with devices(relay, *hosts) as (near, far):
            await near.bind()
            await far.bind()
            far.sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
            parts = [near.end.header + bytes((number,)) * 1192 for number in range(40)] + [near.end.header + b"short"]
            near.say_as_one(1200, *parts)
            with trio.fail_after(60):
                await trio.lowlevel.wait_readable(far.sock)
            came, ancillary, _, _ = far.sock.recvmsg(65536, 64)
            assert came == b"".join(parts)
            assert [(kind, int.from_bytes(data, "little")) for _, kind, data in ancillary] == [(UDP_GRO, 1200)]
            assert relay.counters.forwarded == 41


async def test_datagrams_keep_their_order_through_bursts_of_all_sizes():
    async with running() as relay:
        with devices(relay, V4, V4) as (near, far), devices(relay, V6, V4) as (other, far_other):
            for device in (near, far, other, far_other):
                await device.bind()
            die = random.Random(3)
            for _ in range(30):
                said: dict[Device, list[bytes]] = {near: [], other: []}
                for _ in range(4):
                    device, size = die.choice((near, other)), die.choice((9, 100, 1200))
                    parts = [die.randbytes(size - 8) for _ in range(die.randrange(1, 15))]
                    if die.random() < 0.5:
                        parts.append(die.randbytes(die.randrange(size - 8)))
                    said[device] += parts
                    if len(parts) > 1 and die.random() < 0.5:
                        device.say_as_one(size, *(device.end.header + part for part in parts))
                    else:
                        device.say(*parts)
                assert await far.hear(len(said[near])) == said[near]
                assert await far_other.hear(len(said[other])) == said[other]


async def test_a_burst_that_mixes_sessions_is_taken_apart():
    """The kernel joins what comes from one address and has one size, whatever it is."""
    async with running() as relay:
        with devices(relay, V4, V4) as (near, far), devices(relay, V4, V4) as (also, third):
            also.sock = near.sock
            for device in (near, far, also, third):
                await device.bind()
            unknown = b"\x08" + os.urandom(7)
            headers = [near.end.header, also.end.header, unknown, near.end.header, b"\x01" * 8, also.end.header]
            near.say_as_one(
                100, *(header + bytes((at,)) * 92 for at, header in enumerate(headers)), near.end.header[:4]
            )
            assert await far.hear(2) == [b"\0" * 92, b"\3" * 92]
            assert await third.hear(2) == [b"\1" * 92, b"\5" * 92]
            near.say(b"last")
            assert await far.hear(1) == [b"last"]
            assert far.nothing_came()
            assert third.nothing_came()
            assert relay.counters.unknown == 2 + 1


@given(seed=st.integers(0, 1 << 32), rounds=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_whatever_comes_to_the_door_two_devices_hear_each_other_and_nothing_else(seed, rounds):
    # What is drawn depends on ids that the relay drew, which differ from run to run.
    trio.run(_a_crowd_at_the_door, random.Random(seed), rounds)


async def _a_crowd_at_the_door(die: random.Random, rounds: int) -> None:
    async with running() as relay:
        with devices(relay, V4, V6) as (near, far), devices(relay, V4, V6) as (stranger, also):
            await near.bind()
            await far.bind()
            heard = [near.end.header, far.end.header[:-1], b"\x09" + near.end.header[1:] + b"\1\0", stranger.end.header]
            for _ in range(rounds):
                for device in die.choices((stranger, also, near), k=die.randrange(4)):
                    size = die.randrange(1, 80)
                    junk = [(die.choice(heard) + die.randbytes(80))[:size] for _ in range(die.randrange(1, 8))]
                    if device is near:  # it may say what it likes, but not in its peer's name
                        junk = [b"\x08" + each[1:] for each in junk if not each.startswith(near.end.header)]
                        junk = [each for each in junk if not each.startswith(near.end.header)]
                    if len(junk) > 1 and die.random() < 0.5 and len({*map(len, junk)}) == 1:
                        device.say_as_one(len(junk[0]), *junk)
                    else:
                        for each in junk:
                            device.sock.send(each)
                payload = die.randbytes(die.randrange(100))
                near.say(payload)
                assert await far.hear(1) == [payload]
                far.say(payload)
                while (came := (await near.datagrams(1))[0]) != far.end.header + payload:
                    assert came[0] == 9, "only the relay answers, for itself"
            assert far.nothing_came()
            assert relay.counters.bound == 2


@pytest.mark.parametrize("size", [1, 3, 4, 7])
async def test_a_burst_of_less_than_headers_goes_nowhere(size):
    async with running() as relay:
        with devices(relay, V4, V4) as (near, far):
            await near.bind()
            await far.bind()
            near.say_as_one(size, near.end.header)
            near.sock.send(near.end.header[:size])  # behind it in the slot may still lie what came before
            near.say(b"last")
            assert await far.hear(1) == [b"last"]
            assert far.nothing_came()


async def test_who_moves_is_found_again():
    async with running() as relay:
        with devices(relay, V4, V4) as (near, far):
            await near.bind()
            await far.bind()
            near.move()
            near.say(b"from an address nobody proved")
            near.end.receive((await near.datagrams(1))[0], trio.current_time())  # the hint
            assert near.end.state is RelayState.ASKING
            await near.settle()
            near.say(b"here")
            assert await far.hear(1) == [b"here"]
            far.say(b"there")
            assert await near.hear(1) == [b"there"]


async def test_on_a_wildcard_the_address_that_was_asked_is_the_one_that_answers():
    async with running((("0.0.0.0", 0), ("::", 0))) as relay:
        with devices(relay, "127.0.0.7", V6) as (near, far):
            await near.bind()  # the socket is connected: anything from another address is not heard
            await far.bind()
            far.say(b"hello")
            assert await near.hear(1) == [b"hello"]
            near.say_as_one(16, *(near.end.header + bytes(8) for _ in range(5)))
            assert await far.hear(5) == [bytes(8)] * 5


async def test_what_the_kernel_does_not_take_as_one_goes_one_by_one(monkeypatch):
    async with running() as relay:
        with devices(relay, V4, V4) as (near, far):
            await near.bind()
            await far.bind()
            # More than the kernel takes as one datagram: refused, as by a device that is too narrow.
            monkeypatch.setattr(relaybursts, "MOST_JOINED", 10_000)
            monkeypatch.setattr(relaybursts, "MOST_OCTETS", 1 << 20)
            tried: list[int] = []
            send = relay._outbox.send
            monkeypatch.setattr(relay._outbox, "send", lambda groups: (tried.append(len(groups)), send(groups))[1])
            parts = [near.end.header + bytes((number,)) * 1192 for number in range(30)]
            for turn in range(2):
                for _ in range(2):
                    near.say_as_one(1200, *parts)
                assert await far.hear(60) == [part[8:] for part in parts] * 2
                assert tried == ([1, 60] if turn == 0 else [1, 60, 60]), "it is not tried again"
            assert relay.counters.unsent == 0
            assert relay.counters.forwarded == 120


async def test_datagrams_too_large_for_the_way_out_do_not_end_bursts(monkeypatch):
    async with running() as relay:
        with devices(relay, V4, V4) as (near, far):
            await near.bind()
            await far.bind()
            send = relay._outbox.send

            def narrow(groups: list[Group]) -> list[tuple[int, int]]:
                """Nothing larger than 1,000 octets gets out."""
                large = [(at, errno.EMSGSIZE) for at, group in enumerate(groups) if (group[3] or group[4][1]) > 1000]
                send([group for at, group in enumerate(groups) if (at, errno.EMSGSIZE) not in large])
                return large

            monkeypatch.setattr(relay._outbox, "send", narrow)
            near.say_as_one(1200, *[near.end.header + bytes(1192)] * 3)
            near.say_as_one(800, *[near.end.header + bytes(792)] * 3)
            assert await far.hear(3) == [bytes(792)] * 3
            far.sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
            near.say_as_one(800, *[near.end.header + bytes(792)] * 3)
            assert [len(each) for each in await far.datagrams(1)] == [2400]
            assert (relay.counters.forwarded, relay.counters.unsent) == (6, 3)


async def test_what_is_not_the_relays_goes_to_whoever_took_it_over():
    heard = []

    def stun(datagram: bytes, origin: Origin) -> bytes | None:
        heard.append((datagram, origin.address))
        return datagram[1:]

    async with running() as relay:
        relay.take_over(range(4), stun)
        relay.take_over((4,), lambda datagram, _origin: bytes(datagram[0] // 0))
        relay.take_over((0xE1,), lambda datagram, _origin: datagram + b"more than came")
        with pytest.raises(Misuse):
            relay.take_over((3,), stun)
        with pytest.raises(Misuse):
            relay.take_over((8,), stun)
        with devices(relay, V4, V6) as (near, far):
            for device in (near, far):
                device.sock.send(b"\xe1an answer to this would be larger")
                device.sock.send(b"\xffnobody's")
                device.sock.send(b"\x04breaks its handler")
                device.sock.send(b"")
                device.say_as_one(8, *(b"\1" + bytes((at,)) * 7 for at in range(3)))
                assert await device.datagrams(3) == [bytes((at,)) * 7 for at in range(3)]
                assert heard[-1] == (b"\1" + b"\2" * 7, device.sock.getsockname()[:2])
                assert device.nothing_came()


async def test_sessions_end_in_their_time():
    over: list[Ended] = []
    event = trio.Event()

    def ended(what: Ended) -> None:
        over.append(what)
        event.set()

    async with running(bind=0.05, ended=ended) as relay:
        with devices(relay, V4, V4) as (near, far):
            await near.bind()
            with trio.fail_after(60):
                await event.wait()
            assert [(each.account, each.why) for each in over] == [("anna", "never bound")]
            assert len(relay) == 0
            near.say(b"to nobody")
            await until(lambda: relay.counters.unknown == 1)
            assert far.nothing_came()


async def test_an_account_without_grants_is_refused_and_what_it_used_is_told():
    grants = [True, False]
    over: list[Ended] = []
    async with running(take=lambda _session, _octets: bool(grants and grants.pop(0)), ended=over.append) as relay:
        with devices(relay, V4, V4) as (near, far):
            await near.bind()
            await far.bind()
            parts = [near.end.header + bytes(1192)] * 50
            sent = 0
            while not relay.counters.refused:
                near.say_as_one(1200, *parts)
                sent += 50
                await until(lambda sent=sent: relay.counters.forwarded + relay.counters.refused == sent)
            relay.end_account("anna", "revoked")
            assert over[0].octets + over[0].unused == 1 << 20
            assert over[0].octets == relay.counters.octets == over[0].datagrams * 1200
            with pytest.raises(Refused):
                for _ in range(300):
                    relay.allocate("anna")


async def test_a_flood_leaves_turns_for_the_rest_of_the_house():
    slow = itertools.count(0.0, 0.01)  # each look at the clock is later than a turn is long
    async with running(clock=lambda: next(slow)) as relay:
        with devices(relay, V4, V4) as (near, far):
            await near.bind()
            await far.bind()
            near.say(*[b"flood"] * 300)
            seen = [0]
            with trio.fail_after(60):
                while seen[-1] < 300:
                    await trio.lowlevel.checkpoint()
                    seen.append(relay.counters.forwarded)
            # Between two turns of ours there may be two of the relay's, each of one batch.
            assert max(after - before for before, after in itertools.pairwise(seen)) <= 2 * SLOTS
