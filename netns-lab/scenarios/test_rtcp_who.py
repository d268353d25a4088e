"""Who may what through tunnels, and what those learn who may nothing: strangers, a thief of names, the relay itself.

By default nobody may anything; each kind of rule on identities lets in whom it speaks of, and nobody else.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import trio
from devices import BY_SOCKS, DOOR, MARK, PHOTOS, RELAY, ZONE, Capture, World, memory_of, needed
from netnslab import need
from netnslab.process import until
from netnslab.traffic import tcp_server

BEHIND = 9000
"""Where what peers ask for as port 8001 is, less 8001."""


@pytest.fixture
def world(lab, people):
    needed()
    need("tcpdump")
    return World(lab, people)


class Counters:
    """Servers on ``photos``, and how often each was connected to."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.met: Counter[int] = Counter()

    @contextlib.asynccontextmanager
    async def open(self, *ports: int) -> AsyncIterator[Counter[int]]:
        async with trio.open_nursery() as nursery:
            for port in ports:
                await nursery.start(self._serve, port)
            yield self.met
            nursery.cancel_scope.cancel()

    async def _serve(self, port: int, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        async def answer(stream: trio.SocketStream) -> None:
            self.met[port] += 1
            await stream.receive_some(4096)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\n%d" % port)

        await tcp_server(self._world.photos, "127.0.0.1", port, answer, task_status=task_status)


async def test_rules_on_identities(world):
    dids = world.people.dids
    allow = {
        8001: f"DID,{dids['friend']}",
        8002: f"OWNER,{dids['alice']}",
        8003: f"ZONE,{ZONE}",
        8004: "TRUST,owner-signed",
    }
    services = [
        {"name": f"s{port}", "port": port, "target": f"tcp://127.0.0.1:{port + BEHIND - 8000}", "allow": [who]}
        for port, who in allow.items()
    ]
    by_rule = f"AND,((DID-SUFFIX,{ZONE}),(DST-PORT,9005)),DIRECT"
    home = {**world.at_home(services=services), "rules": [by_rule, "MATCH,DIRECT"]}
    anybody = {"listen": DOOR, "admission": ["TRUST,key-proven,ACCEPT"]}
    passing = f"AND,((TRUST,key-proven),(DOMAIN,{PHOTOS}),(DST-PORT,{DOOR})),DIRECT"
    relay = world.at_relay(rtcp=anybody, rules=[passing, "MATCH,DIRECT"])
    wanted = (8001, 8002, 8003, 8004, 9005, 9006)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(world.at_work(relay=relay, home=home))
        met = await stack.enter_async_context(Counters(world).open(*range(9001, 9007)))
        for name in ("laptop", "friend", "stranger"):
            await stack.enter_async_context(world.gateway(name, world.outside(is_honest=True)))

        async def reached(name: str) -> set[int]:
            """The ports behind which something answered; whatever did not was refused, and not just slow."""
            got = set()
            for port in wanted:
                said = await world.page(getattr(world, name), *BY_SOCKS, url=f"http://{PHOTOS}:{port}/")
                if said.isdigit():
                    got.add(port)
                else:
                    assert "(2)" in said, "not allowed, says SOCKS"
            return got

        assert await reached("laptop") == {8002, 8003, 8004, 9005}
        assert await reached("friend") == {8001}
        assert await reached("stranger") == set(), "not even a tunnel"
        assert met == Counter({9001: 1, 9002: 1, 9003: 1, 9004: 1, 9005: 1}), "a refusal touches nothing"


async def test_whoever_may_have_a_tunnel_may_nothing_by_that(world):
    home = world.at_home(admission=["TRUST,key-proven,ACCEPT"])
    passing = f"AND,((TRUST,key-proven),(DOMAIN,{PHOTOS}),(DST-PORT,{DOOR})),DIRECT"
    anybody = {"listen": DOOR, "admission": ["TRUST,key-proven,ACCEPT"]}
    relay = world.at_relay(rtcp=anybody, rules=[passing, "MATCH,DIRECT"])
    outside = world.outside(is_honest=True)
    async with world.at_work(relay=relay, home=home) as (_, photos), world.gateway("stranger", outside):
        for port in (80, 22, 9000):
            assert "(2)" in await world.page(world.stranger, *BY_SOCKS, url=f"http://{PHOTOS}:{port}/")
        peers = {each["device"] for each in await world.tunnels(photos)}
        assert world.people.dids["stranger"] in peers
        assert not (world.www / "access.log").read_text(), "nginx has seen nobody"


@pytest.mark.parametrize("lies", ["address", "documents"])
async def test_a_stolen_name_is_worth_nothing(world, lies):
    """The thief answers where the relay should be; and what the DNS says of its key may be his word, too."""
    open_to_all = {"listen": DOOR, "admission": ["TRUST,none,ACCEPT"]}
    rules = ["TRUST,none,DIRECT", "MATCH,DIRECT"]
    async with world.lived_in():
        capture = Capture(world, world.thief)
        await capture.begin()
        await world.publish(stolen=lies)
        async with (
            world.gateway("thief", world.config(rtcp=open_to_all, rules=rules)) as thief,
            world.gateway("relay", world.at_relay()),
            world.gateway("photos", world.at_home()) as photos,
            world.gateway("laptop", world.outside()),
        ):
            await photos.process.says(f"no tunnel to did:web:{RELAY}")
            assert MARK not in await world.page(world.laptop, *BY_SOCKS)
            assert await world.tunnels(thief) == []
            await capture.end()
            asked = await capture.count(f"tcp[tcpflags] & tcp-push != 0 and dst port {DOOR}")
            assert (asked > 0) == (lies == "address"), "with documents that cannot be right nobody is even asked"

            if lies == "address":  # what documents say is believed, or not, for a while
                await world.publish()
                await world.stands(photos, RELAY, timeout=30)

                async def works() -> bool:
                    return await world.page(world.laptop, *BY_SOCKS) == MARK

                await until("requests work", works)
                assert await world.tunnels(thief) == []


async def test_a_thief_who_knocks(world):
    """He shows a document for the relay's name, of the zone, signed by another owner."""
    async with world.at_work() as (relay, photos):
        way = f"rtcp://rtcp%3A%2F%2F{RELAY}%2Frtcp%253A%252F%252F{PHOTOS}%252F%253A{DOOR}@{PHOTOS}"
        home = world.config(rtcp={"listen": DOOR, "keep-tunnel": [RELAY, way]})
        async with world.gateway("thief", home) as thief:
            await thief.process.says(f"no tunnel to did:web:{RELAY}")
            await thief.process.says(f"no tunnel to did:web:{PHOTOS}")
            for gateway in (relay, photos):
                assert world.people.dids["thief"] not in str(await world.tunnels(gateway))


async def test_the_relay_reads_nothing(world):
    """Neither on the wire nor in its memory, where a hop that is trusted has what passes."""
    rule = f"AND,((DID,did:web:laptop.{ZONE}),(DOMAIN,{PHOTOS}),(DST-PORT,80)),by-name"
    carry = f"AND,((ZONE,{ZONE}),(DOMAIN,{PHOTOS}),(DST-PORT,{DOOR})),DIRECT"
    at_relay = world.at_relay(proxies=[{"name": "by-name", "type": "rtcp"}], rules=[rule, carry, "MATCH,DIRECT"])
    hop = world.outside(proxies=[{"name": "photos", "type": "rtcp", "server": RELAY}])
    marks = {"url": f"http://{PHOTOS}/marks"}
    async with world.at_work(relay=at_relay) as (relay, photos):
        capture = Capture(world, world.relay)
        await capture.begin()
        async with world.gateway("laptop", world.outside()) as laptop:
            assert MARK in await world.page(world.laptop, *BY_SOCKS, **marks)
            assert not memory_of(relay.process, MARK.encode())
            version = await world.version(laptop, PHOTOS)
            versions = {version, await world.version(laptop, RELAY), await world.version(photos, RELAY)}
        async with world.gateway("laptop", hop):
            assert MARK in await world.page(world.laptop, *BY_SOCKS, **marks)
            assert memory_of(relay.process, MARK.encode()), "or the search above finds nothing ever"
        seen = await capture.end()
        assert MARK.encode() not in seen
        if versions == {5}:
            for name in ("laptop", "photos"):
                assert not capture.traces_of(name, seen), "who dials is hidden from whoever listens"
        else:
            assert capture.traces_of("laptop", seen), "version 4 tells everybody; or the search finds nothing ever"


@pytest.mark.parametrize("who", ["laptop", "others"])
@pytest.mark.parametrize("seconds", [45, 240, 1200])
async def test_clocks_that_differ(world, who, seconds):
    """Version 4 bears a minute, and says what is wrong beyond that.  Version 5 asks for no time at all."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(world.lived_in())
        ahead = clock(world, seconds)
        theirs, ours = (None, ahead) if who == "laptop" else (ahead, None)
        relay = await stack.enter_async_context(world.gateway("relay", world.at_relay(), env=theirs))
        photos = await stack.enter_async_context(world.gateway("photos", world.at_home(), env=theirs))
        laptop = await stack.enter_async_context(world.gateway("laptop", world.outside(), env=ours))
        await world.stands(photos, RELAY)
        wrong = (laptop if who == "laptop" else relay).process
        assert json.loads(wrong.text().splitlines()[0])["time"] > time.time() + seconds - 40, "its clock is wrong"
        works = seconds < 60 or await world.version(photos, RELAY) == 5
        page = await world.page(world.laptop, *BY_SOCKS)
        if works:
            assert page == MARK
        else:
            assert MARK not in page
            await relay.process.says("the clocks differ")
            assert not (world.www / "access.log").read_text()


def clock(world: World, seconds: int) -> dict[str, str]:
    """For a program that is told another time of day, and whose stopwatch is right."""
    place = world.lab.directory / "clock"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(
        "import time\ntell, tell_ns = time.time, time.time_ns\n"
        f"time.time = lambda: tell() + {seconds}\ntime.time_ns = lambda: tell_ns() + {seconds} * 10**9\n"
    )
    return {"PYTHONPATH": str(place)}
