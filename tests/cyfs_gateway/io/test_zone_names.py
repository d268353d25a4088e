"""Names below a zone that are no machine's: they lead to the machines that its documents name as its gateways."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio
from inprocess import Living, echo, exactly, serve, socks5
from names_house import behind, question
from peering import ALICE, HOME, LAPTOP, MALLORY, NAS, NOW, PHOTOS, PI, machine, records
from test_peers import BY_NAME, door, socks5_to_address, web

from cyfs_gateway.io.acquaintance import Acquaintance
from cyfs_gateway.io.leads import Leads
from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import Did, parse_did
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Pin
from rtcp.io.pipe import Pipe
from rtcp.io.roll import AnyTunnel
from tests.cyfs_ns.dnsfakes import zone
from tests.freeport import free_port
from tunnels.url import parse

WWW = parse_did("did:web:www.home.example")


def leads(house: Living) -> Leads:
    peers = house.gateway._peers._peers
    assert peers is not None
    return peers._leads


async def speaks(stream: trio.SocketStream) -> bool:
    await stream.send_all(b"hello")
    said = await exactly(stream, 5)
    await stream.aclose()
    return said == b"hello"


async def devices(house: Living) -> list[str]:
    return [str(one.peer.did) for one in (await house.gateway._peers.device()).tunnels()]


@pytest.mark.parametrize("address", ["", "127.0.0.1"])
async def test_a_name_that_is_no_machines_leads_to_the_gateway_of_its_zone(
    tmp_path: Path, nursery: trio.Nursery, address: str
) -> None:
    """Whether the DNS has no such name, or has it at some address where no web host answers."""
    port, target = free_port(), await serve(nursery, echo)
    more = [f"www.home.example. 60 A {address}"] if address else []
    async with (
        behind(*records(port), *more) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        for host in ("www.home.example", "cam.garden.home.example"):
            stream, code = await socks5(laptop.port(), host, 80)
            assert code == 0, host
            (there,) = photos.gateway.connections()
            assert there.rule_payload == "web", "it is the gateway itself that is asked, as by the zone's own name"
            assert await speaks(stream)
        way: Pipe = await laptop.gateway.tunnels.open_url(parse("rtcp://www.home.example/:80"))
        way.close()
        assert await devices(laptop) == [str(PHOTOS)], "who proves himself is the machine"
        assert (await laptop.gateway.ping("www.home.example")).peer == str(PHOTOS)


async def test_whoever_asks_the_dns_gets_there_as_well(tmp_path: Path, nursery: trio.Nursery) -> None:
    """The way of fake-ip: the name has no address anywhere."""
    port, target, asked = free_port(), await serve(nursery, echo), free_port()
    async with (
        behind(*records(port)) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns),
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        lines = f"{{enable: true, use-system-hosts: false, listen: '127.0.0.1:{asked}', enhanced-mode: fake-ip"
        await laptop.reload(BY_NAME, base=f"dns: {lines}, nameserver: ['127.0.0.1:{dns.port}']}}\n")
        (fake,) = (await question(asked, "www.home.example")).rr
        stream, code = await socks5_to_address(laptop.port(), str(fake.rdata), 80)
        assert code == 0
        (flow,) = laptop.gateway.connections()
        assert flow.flow.host == "www.home.example"
        assert await speaks(stream)


async def test_commands_go_there_by_the_way_that_is_written_for_the_gateway(tmp_path: Path) -> None:
    config = "proxies: [{name: far, type: rtcp, server: photos.home.example, via: 'socks://127.0.0.1:9', port: 2981}]\n"
    async with (
        behind(*records(free_port())) as dns,
        machine(tmp_path / "laptop", PI, config, did=LAPTOP, dns=dns) as laptop,
    ):
        for name in (PHOTOS, HOME, WWW):
            way = await laptop.gateway._peers.way_to(name)
            assert way["at"] == 2981 and way["via"] is not None, name
        way = await laptop.gateway._peers.way_to(LAPTOP)
        assert way["via"] is None


async def refusing(house: Living, text: str) -> None:
    with pytest.raises((Refused, Unreachable)):
        await house.gateway._peers.tunnel(parse_did(text))
    assert await devices(house) == []


@pytest.mark.parametrize("how", ["another owner", "no gateway", "nobody knows"])
async def test_where_the_zone_leads_nowhere_its_names_do_not_either(tmp_path: Path, how: str) -> None:
    port = free_port()
    signer = MALLORY if how == "another owner" else ALICE
    async with (
        behind(*records(port, signer, "$photos" if how == "no gateway" else "photos")) as dns,
        machine(tmp_path / "photos", NAS, door(port), did=PHOTOS, dns=dns),
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=None if how == "nobody knows" else dns) as laptop,
    ):
        await refusing(laptop, "did:web:www.home.example")


async def test_a_name_of_which_something_is_known_leads_nowhere_else(tmp_path: Path) -> None:
    """The zone has a second machine that it does not introduce, one that was ended here, and one known from before."""
    port, home = free_port(), tmp_path / "laptop"
    async with (
        behind(*records(port, ALICE, "photos", "$disk")) as dns,
        machine(tmp_path / "photos", NAS, door(port), did=PHOTOS, dns=dns),
        machine(home, PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        await refusing(laptop, "did:web:disk.home.example")
        ended = parse_did("did:web:ended.home.example")
        TrustStore(home).pin(Pin(about=ended, key=MALLORY.public, revoked=True, source="test", at=NOW))
        await refusing(laptop, str(ended))
        # A name below a machine is not its zone's.
        await refusing(laptop, "did:web:cam.laptop.home.example")
        # Nor is somebody else's name.
        await refusing(laptop, "did:web:www.other.example")


async def test_a_machine_that_is_no_longer_published_is_no_name_of_the_gateway(tmp_path: Path) -> None:
    """What was kept of it is too weak to dial it, and enough to know that the name is its own."""
    home, published = tmp_path / "laptop", records(free_port(), ALICE, "laptop")
    for lines in (published, [line for line in published if "DEV=" not in line]):
        async with behind(*lines) as dns, machine(home, PI, BY_NAME, did=LAPTOP, dns=dns) as laptop:
            with pytest.raises((Refused, Unreachable)):  # nobody listens there; but it is heard of
                await laptop.gateway._peers.tunnel(PHOTOS)
            assert await leads(laptop).ask(PHOTOS) == (PHOTOS,)
            assert await leads(laptop).ask(WWW) == (LAPTOP,)


async def test_names_that_lead_nowhere_are_asked_for_again(tmp_path: Path) -> None:
    """The zone may have published its gateway meanwhile."""
    lines: list[str] = []
    async with (
        behind(handler=lambda query: zone(*lines)(query)) as dns,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        await laptop.gateway._peers.device()
        assert await leads(laptop).ask(WWW) == (WWW,)
        lines += records(free_port())
        laptop.gateway.trusted.flush()
        assert await leads(laptop).ask(WWW) == (PHOTOS,)


async def test_what_was_heard_before_a_doubt_is_asked_for_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pin may be replaced while its zone is being asked."""
    async with (
        behind(*records(free_port())) as dns,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        await laptop.gateway._peers.device()
        found = leads(laptop)
        look, looked = found._look, 0

        async def doubted(did: Did) -> tuple[Did, ...]:
            nonlocal looked
            looked += 1
            devices = await look(did)
            found.doubt()
            return devices

        monkeypatch.setattr(found, "_look", doubted)
        for times in (1, 2):
            assert await found.ask(WWW) == (PHOTOS,)
            assert looked == times


async def test_names_that_nobody_asks_for_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the others led is remembered: who is put out loses the streams that go there."""
    monkeypatch.setattr("cyfs_gateway.io.leads._MOST_NAMES", 2)
    one, two, three = (parse_did(f"did:web:{name}.example") for name in ("one", "two", "three"))
    tunnels = [SimpleNamespace(peer=SimpleNamespace(did=did)) for did in (one, two, three)]
    found = Leads(cast("Acquaintance", None), lambda: cast("list[AnyTunnel]", tunnels))
    for did in (one, two, one, three):
        assert await found.ask(did) == (did,)
    assert [found.led_to(did) for did in (one, two, three)] == [(one,), (), (three,)]
