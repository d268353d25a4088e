"""Two gateways on one link find each other by nothing but a key; the UDP port follows the configuration."""

from __future__ import annotations

import json
import shutil

import pytest
from devices import PROGRAM, needed
from netnslab import HOME
from netnslab.process import until

WEB = 8088


@pytest.fixture
def homes(lab, people):
    """Homes of two keys without a name, ``friend`` and ``stranger``."""
    needed()

    def made(name: str):
        home = lab.directory / f"{name}.home"
        shutil.copytree(people.directory / name, home)
        return home

    return made


def listening(friend: str, **more):
    service = {"name": "web", "target": f"tcp://127.0.0.1:{WEB}", "allow": [friend]}
    return {"log-level": "debug", "dns": {"enable": False}, "rtcp": {"listen": 2980, "services": [service], **more}}


async def udp_ports(host) -> set[str]:
    return {line.split()[3] for line in (await host.run("ss", "-Hlun")).out.splitlines()}


async def test_a_key_is_enough_on_one_link(lab, people, homes):
    internet = lab.network("198.51.100.0/24", name="internet")
    home = lab.network("192.168.1.0/24", "fd00:1::/64", uplink=internet, nat=HOME, name="home")
    box, laptop = lab.host(home, name="box"), lab.host(home, name="laptop")
    away = lab.host(internet, name="away")
    at_box, guest = people.dids["friend"], people.dids["stranger"]
    seeking = {"log-level": "debug", "dns": {"enable": False}, "rtcp": {"lan": True}}
    async with (
        lab.up(),
        box.gateway(listening(guest), home=homes("friend")),
        laptop.gateway(seeking, home=homes("stranger")) as there,
    ):
        home_of = ("--home", str(lab.directory / "stranger.home"))

        async def answers() -> bool:
            return (await laptop.run(PROGRAM, "ping", at_box, *home_of, check=False)).code == 0

        await until("the box is found", answers, timeout=60)
        said = json.loads((await laptop.run(PROGRAM, "ping", at_box, "--explain", "--json", *home_of)).out)
        assert said["way"] in {f"{kind} {ip}:2980" for kind in ("tcp", "udp") for ip in _shown(box.addresses)}
        assert said["rtt"] is not None
        assert said["why"]
        shown = (await laptop.run(PROGRAM, "ping", at_box, "--explain", *home_of)).out
        assert said["why"] in shown
        (tunnel,) = (await there.api("/cyfs/peers"))["peers"]
        assert (tunnel["device"], tunnel["way"]) == (at_box, said["way"])
        await there.stop()
        async with away.gateway(seeking, home=homes("thief")):
            done = await away.run(
                PROGRAM, "ping", at_box, "--home", str(lab.directory / "thief.home"), check=False, timeout=30
            )
            assert done.code != 0, "the link is the limit"


async def test_the_udp_port_is_that_of_the_door_and_moves_with_it(lab, people, homes):
    internet = lab.network("198.51.100.0/24", "2001:db8:1::/64", name="internet")
    box = lab.host(internet, name="box")
    config = listening(people.dids["stranger"], **{"port-mapping": False})
    async with lab.up(), box.gateway(config, home=homes("friend")) as gateway:

        async def at(*places: str) -> None:
            async def there() -> bool:
                return set(places) <= await udp_ports(box)

            await until(f"UDP at {places}", there, timeout=60)

        await at("0.0.0.0:2980", "[::]:2980")
        config["rtcp"]["listen"] = [f"{box.ip}:2990"]
        gateway.reload(config)
        await at(f"{box.ip}:2990")
        assert not {one for one in await udp_ports(box) if one.endswith(":2980")}
        taken = box.start("socat", "-u", "UDP4-RECV:2991", "STDOUT", name="taken")
        await at("0.0.0.0:2991")
        config["rtcp"]["listen"] = 2991
        gateway.reload(config)
        await gateway.process.says("UDP port 2991 of 0.0.0.0 is taken")
        await at("[::]:2991")
        await taken.stop()
        config["rtcp"]["udp"] = False
        gateway.reload(config)

        async def gone() -> bool:
            return not {one for one in await udp_ports(box) if "2991" in one}

        await until("no UDP port is left", gone, timeout=60)


def _shown(addresses) -> list[str]:
    return [f"[{ip}]" if ":" in ip else ip for ip in addresses]
