"""A box at home that nobody can dial is reached by its name, with ordinary programs and with ours.

``laptop`` dials ``photos`` end to end through ``relay``; both are judged by their own identities (``devices.py``).
"""

from __future__ import annotations

import signal

import pytest
from devices import BY_SOCKS, LOCAL, MARK, PHOTOS, PROGRAM, RELAY, SOCKS, ZONE, World, needed
from netnslab.process import until

SSH_BY_SOCKS = f"socat - SOCKS4A:127.0.0.1:%h:%p,socksport={SOCKS}"


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def world(request, lab, people):
    needed()
    return World(lab, people, family=request.param)


async def test_by_socks(world):
    async with world.at_work(), world.gateway("laptop", world.outside()):
        laptop = world.laptop
        assert await world.page(laptop, *BY_SOCKS) == MARK
        assert await world.page(laptop, url=f"http://127.0.0.1:{LOCAL}/") == MARK, "a port that leads there"
        assert await world.watch(laptop, *BY_SOCKS) == world.film
        assert (await world.ssh(laptop, SSH_BY_SOCKS, "cat", str(world.www / "index.html"))).out == MARK
        assert "(2)" in await world.page(laptop, *BY_SOCKS, url=f"http://{PHOTOS}:25/"), (
            "no service: not allowed, says SOCKS"
        )


async def test_by_names_and_addresses_alone(world):
    """The programs have no setting: their names and their packets go by the router before them."""
    async with world.at_work(), world.gateway("box", world.at_box()):
        laptop = world.laptop
        laptop.resolve_with("192.168.7.1", "2001:db8:b::1")
        for family in ("-4", "-6"):
            assert await world.page(laptop, family) == MARK
            assert await world.watch(laptop, family) == world.film
        assert (await world.ssh(laptop, "", "cat", str(world.www / "index.html"))).out == MARK


@pytest.mark.parametrize("at", ["relay", "laptop"])
async def test_by_our_own_commands(world, at):
    """``forward`` gives a port of this machine, ``nc`` a pipe; the way is the one that the gateway there knows."""
    async with world.at_work(), world.gateway("laptop", world.outside()):
        host, home = getattr(world, at), str(world.home(at))
        forward = host.start(PROGRAM, "forward", "127.0.0.1:8080", f"{PHOTOS}:80", "--home", home, name="forward")
        await host.wait_for_port(8080)
        assert await world.page(host, url="http://127.0.0.1:8080/") == MARK
        assert await world.watch(host, url="http://127.0.0.1:8080/film") == world.film
        by_nc = f"{PROGRAM} nc %h:%p --home {home}"
        assert (await world.ssh(host, by_nc, "cat", str(world.www / "index.html"))).out == MARK
        assert (await host.run(PROGRAM, "nc", f"{PHOTOS}:25", "--home", home, check=False)).code == 1
        forward.send(signal.SIGINT)
        await until("it ends when interrupted", lambda: forward.code is not None)


async def test_through_a_hop_that_is_trusted(world):
    """The relay passes it on by its own rules, and ``photos`` never hears who wanted it."""
    rule = f"AND,((DID,did:web:laptop.{ZONE}),(DOMAIN,{PHOTOS}),(DST-PORT,80)),by-name"
    relay = world.at_relay(proxies=[{"name": "by-name", "type": "rtcp"}], rules=[rule, "MATCH,DIRECT"])
    allow = {"name": "web", "target": "tcp://127.0.0.1:80", "allow": [f"did:web:{RELAY}"]}
    home = world.at_home(services=[allow])
    hop = world.outside(proxies=[{"name": "photos", "type": "rtcp", "server": RELAY}])
    async with world.at_work(relay=relay, home=home), world.gateway("laptop", hop):
        assert await world.page(world.laptop, *BY_SOCKS) == MARK
        assert await world.watch(world.laptop, *BY_SOCKS) == world.film
        refused = await world.ssh(world.laptop, SSH_BY_SOCKS, "true", check=False)
        assert refused.code == 255, "the relay is asked for more than its rules say"
