"""Gateways that reach each other by name: who is let in, what is served, and what a change of configuration leaves."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import pytest
import trio
import trio.testing
from inprocess import Living, connect, echo, exactly, serve, socks5, the_rest, udp_echo, until
from names_house import Behind, question
from peering import ALICE, HOME, LAPTOP, MALLORY, NAS, NOW, PHOTOS, PI, dev, machine, published, settle

from cyfs_gateway.config.model import ListenerConfig
from cyfs_gateway.io.connection import Connection
from cyfs_gateway.io.offers import SPEEDTEST
from cyfs_gateway.io.peerflows import PeerFlow
from cyfs_gateway.io.peers import _is_a_door_closed
from cyfs_ns.errors import ConfigFault, Refused, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.io.trusted.resolver import TrustedNames
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Anchors, Pin
from cyfs_ns.trust.outcome import Outcome
from cyfs_ns.trust.plan import Ask
from rtcp.io.device import Device, open_device
from rtcp.io.mux import MuxedTunnel, NotNow
from rtcp.io.tunnel import Tunnel
from rtcp.party import Address
from tests.freeport import free_port
from tunnels.endpoint import Endpoint, Target
from tunnels.io.waiting import TcpEndpoint
from tunnels.url import parse

SOCKS = "listeners: [{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}]\n"
HASTY = (
    SOCKS
    + "proxies: [{name: peers, type: rtcp}]\nrules: ['DOMAIN-SUFFIX,home.example,peers', 'MATCH,DIRECT']\nrtcp: {}\n"
)
BY_NAME = HASTY.replace("type: rtcp", "type: rtcp, fast-open: false")
"""Most of what follows is told by codes, also while there is no tunnel."""


def door(port: int, more: str = "", rules: str = "['MATCH,DIRECT']") -> str:
    return f"rtcp:\n  listen: 127.0.0.1:{port}\n{more}\nrules: {rules}\n"


def web(port: int, allow: str = "ZONE,home.example") -> str:
    return f"  services: [{{name: web, port: 80, target: 'tcp://127.0.0.1:{port}', allow: ['{allow}']}}]"


async def test_a_name_is_dialled_and_the_service_behind_it_answers(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await serve(nursery, echo)
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        stream, code = await socks5(laptop.port(), "photos.home.example", 80)
        assert code == 0
        await stream.send_all(b"hello")
        assert await exactly(stream, 5) == b"hello"
        (there,) = photos.gateway.connections()
        identity = there.flow.identity
        assert identity is not None
        assert (there.flow.kind, there.rule, there.rule_payload, there.chains) == (
            "Rtcp",
            "Service",
            "web",
            ("DIRECT",),
        )
        assert (identity.did, identity.zone, identity.trust.label) == (str(LAPTOP), str(HOME), "owner-signed")
        assert identity.owner == str(dev(ALICE))
        await stream.aclose()
        await until(lambda: not photos.gateway.connections())
        assert photos.gateway.totals() == (5, 5)


async def test_servers_of_proxies_are_known_before_somebody_asks_for_them(tmp_path: Path) -> None:
    """By a question as everybody's: until it is answered anew, what came of it serves to call by, and no more."""
    proxies = "proxies: [{name: photos, type: rtcp, server: photos.home.example}, {name: any, type: rtcp}]\n"
    rules = "rules: ['DOMAIN,photos.home.example,photos', 'MATCH,DIRECT']\nrtcp: {}\n"
    port, nobody = free_port(), Did("web", "nas.home.example")
    async with (
        published(port) as dns,
        machine(tmp_path / "laptop", PI, SOCKS + proxies + rules, did=LAPTOP, dns=dns) as laptop,
    ):
        await laptop.gateway._peers.device()
        peers = laptop.gateway._peers._peers
        assert await peers._recall(PHOTOS, None) is None
        await peers._know_servers()
        before, now = await peers._recall(PHOTOS, None), await peers._house(Quiet()).find(PHOTOS, None)
        assert before.key == now.key == NAS.public
        assert (before.about, before.addresses) == (now.about, [])
        assert now.addresses == [("127.0.0.1", port)]
        assert await peers._recall(nobody, None) is None


async def test_servers_are_asked_about_once_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxies = "proxies: [{name: photos, type: rtcp, server: photos.home.example}]\n"
    async with machine(tmp_path, PI, SOCKS + proxies + "rtcp: {}\n") as laptop, trio.open_nursery() as nursery:
        await laptop.gateway._peers.device()
        peers, asking = laptop.gateway._peers._peers, 0

        async def ask_for_ever(name: Did) -> NoReturn:
            nonlocal asking
            asking += 1
            try:
                await trio.sleep_forever()
            finally:
                asking -= 1

        monkeypatch.setattr(peers._leads, "ask", ask_for_ever)
        for _ in range(3):
            nursery.start_soon(peers._know_servers)
            await trio.testing.wait_all_tasks_blocked()
            assert asking == 1
        nursery.cancel_scope.cancel()


async def test_nobody_is_met_by_what_was_known_of_them_before(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await serve(nursery, echo)
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        assert await ask(laptop) == 0
        device, peers = await laptop.gateway._peers.device(), laptop.gateway._peers._peers
        for is_told in (True, False):
            for tunnel in await tunnels(photos):
                tunnel.close()
            await until(lambda: not device.tunnels())
            peers._leads.doubt()
            names = peers._trusted()
            names._remembered.update({key: (0.0, said) for key, (_, said) in names._remembered.items()})
            if not is_told:
                dns.heard.handler = lambda query: None
            assert await peers._recall(PHOTOS, None) is not None
            assert (await ask(laptop) == 0) is is_told
        assert not await tunnels(photos)


class Quiet:
    """Nobody is on our links."""

    gather = doubt = None

    async def look_near(self, key: PublicKey) -> list[Address]:
        return []


async def test_a_service_on_the_same_machine_is_joined_at_once(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def task(*_: object) -> None:
        raise AssertionError("there is nothing to wait for")

    monkeypatch.setattr(PeerFlow, "_serve_in_time", task)
    port, target = free_port(), await serve(nursery, echo)
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        stream, code = await socks5(laptop.port(), "photos.home.example", 80)
        assert code == 0
        await stream.send_all(b"hello")
        assert await exactly(stream, 5) == b"hello"
        await stream.aclose()
        await until(lambda: not photos.gateway.connections())
        assert photos.gateway.totals() == (5, 5)
    port, nobody = free_port(), free_port()
    async with (
        published(port) as dns,
        machine(tmp_path / "photos2", NAS, door(port, web(nobody)), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop2", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        assert await ask(laptop) == 5
        assert not photos.gateway.connections() and not photos.tracker.seen


async def test_a_stream_through_a_tunnel_that_stands_takes_no_task(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def task(*_: object) -> None:
        raise AssertionError("there is nothing to wait for")

    port, target = free_port(), await serve(nursery, echo)
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())  # and nobody else gets in
        silent = f"name: silent, port: 81, target: 'tcp://127.0.0.1:{full.getsockname()[1]}'"
        services = web(target)[:-1] + f", {{{silent}, allow: ['ZONE,home.example']}}]"
        async with (
            published(port) as dns,
            machine(tmp_path / "photos", NAS, door(port, services), did=PHOTOS, dns=dns) as photos,
            machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
        ):
            assert await ask(laptop) == 0  # the tunnel is made
            monkeypatch.setattr(Connection, "_open", task)
            stream, code = await socks5(laptop.port(), "photos.home.example", 80)
            assert code == 0
            await stream.send_all(b"hello")
            assert await exactly(stream, 5) == b"hello"
            await stream.aclose()
            assert await ask(laptop, 82) == 2, "refused"
            await until(lambda: not photos.gateway.connections() and not laptop.gateway.connections())
            stream = await connect(laptop.port())
            await stream.send_all(b"\5\1\0\5\1\0\3\x13photos.home.example\0\x51")
            await until(photos.gateway.connections)
            await stream.aclose()  # nobody waits for the answer any more
            await until(lambda: not photos.gateway.connections() and not laptop.gateway.connections())


async def ask(house: Living, port: int = 80, host: str = "photos.home.example") -> int:
    """The SOCKS code for a way to there, which is not kept."""
    stream, code = await socks5(house.port(), host, port)
    await stream.aclose()
    return code


async def greet(stream: trio.SocketStream) -> None:
    await stream.send_all(b"220 welcome\r\n")
    await stream.receive_some(100)


async def test_a_server_may_speak_first(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await serve(nursery, greet)
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns),
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        stream, _ = await socks5(laptop.port(), "photos.home.example", 80)
        assert await exactly(stream, 13) == b"220 welcome\r\n"
        await stream.send_all(b"QUIT")
        assert await the_rest(stream) == b""


async def test_a_service_that_does_not_answer_holds_nothing_for_long(tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        target = full.getsockname()[1]
        first.connect(("127.0.0.1", target))  # and nobody else gets in
        async with (
            published(port) as dns,
            machine(
                tmp_path / "photos", NAS, "timeouts: {connect: 300ms}\n" + door(port, web(target)), did=PHOTOS, dns=dns
            ) as photos,
            machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
        ):
            assert await ask(laptop) == 4
            await until(lambda: not photos.gateway.connections())


async def test_a_stranger_is_refused_and_one_who_is_named_gets_what_he_is_named_for(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    port, target = free_port(), await serve(nursery, echo)
    async with published(port) as dns:
        for allowed, code in (("ZONE,home.example", 2), (str(dev(MALLORY)), 0)):
            async with (
                machine(
                    tmp_path / f"photos{code}", NAS, door(port, web(target, allowed)), did=PHOTOS, dns=dns
                ) as photos,
                machine(tmp_path / f"mallory{code}", MALLORY, BY_NAME, dns=dns) as mallory,
            ):
                assert await ask(mallory) == code
                assert len(await tunnels(photos)) == (0 if code else 1)
                assert await ask(mallory, 22) == 2, "whoever is let in gets nothing else"
                assert photos.tracker.seen == (0 if code else 1)


@pytest.mark.parametrize(
    ("rules", "mode", "code"),
    [
        ("['MATCH,DIRECT']", "rule", 2),
        ("['MATCH,DIRECT']", "direct", 2),
        ("['MATCH,DIRECT']", "global", 2),
        ("['ZONE,home.example,DIRECT']", "rule", 0),
        ("['ZONE,home.example,DIRECT']", "direct", 0),
        ("['DST-PORT,1-65535,DIRECT', 'IN-TYPE,RTCP,DIRECT']", "rule", 0),
        ("['AND,((DST-PORT,1-65535),(DID,laptop.home.example)),DIRECT']", "rule", 0),
        ("['OR,((DST-PORT,1-65535),(DID,laptop.home.example)),DIRECT']", "rule", 2),
        ("['NOT,((DID,other.home.example)),DIRECT']", "rule", 2),
        ("['DST-PORT,1-65535,REJECT', 'ZONE,home.example,DIRECT']", "rule", 2),
        ("['OWNER,did:web:somebody.example,DIRECT']", "rule", 2),
        ("['AND,((ZONE,home.example),(TRUST,owner-signed)),DIRECT']", "rule", 0),
        ("['IN-NAME,DEFAULT-RTCP,DIRECT']", "rule", 2),
    ],
)
async def test_only_rules_that_speak_of_peers_open_anything(
    tmp_path: Path, nursery: trio.Nursery, rules: str, mode: str, code: int
) -> None:
    port, target = free_port(), await serve(nursery, echo)
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, f"\nmode: {mode}", rules), did=PHOTOS, dns=dns),
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        assert await ask(laptop, target) == code


async def test_peers_reach_no_fake_address_and_no_door_of_the_gateway_itself(tmp_path: Path) -> None:
    port = free_port()
    rules = "['ZONE,home.example,DIRECT']"
    to_peer = BY_NAME.replace("type: rtcp,", "type: rtcp, server: photos.home.example,").replace(
        "DOMAIN-SUFFIX,home.example", "IP-CIDR,0.0.0.0/0"
    )
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, SOCKS + door(port, rules=rules), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, to_peer, did=LAPTOP, dns=dns) as laptop,
    ):
        assert await ask(laptop, photos.port(), "127.0.0.1") == 2


async def test_datagrams_are_served_as_well(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await udp_echo(nursery, b"said ")
    services = (
        f"  services: [{{name: dns, port: 53, target: 'udp://127.0.0.1:{target}', allow: [laptop.home.example]}}]"
    )
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, services), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        packets = await laptop.gateway._world.find("peers").open_packets(Target("photos.home.example", 53))
        packets.send(b"hello", Target("photos.home.example", 53))
        with trio.fail_after(60):
            while True:
                await trio.lowlevel.wait_readable(packets.fileno())
                try:
                    assert packets.recv() == (b"said hello", Target("photos.home.example", 53))
                    break
                except BlockingIOError:
                    continue
        (there,) = photos.gateway.connections()
        assert (there.flow.network, there.rule_payload, there.up, there.down) == ("udp", "dns", 5, 10)
        assert photos.gateway.close_connection(there.id)
        assert not photos.gateway.connections()
        packets.close()


async def tunnels(house: Living) -> list[Tunnel]:
    return (await house.gateway._peers.device()).tunnels()


# Who is who


FILES_ONLY = "  require: trusted_snapshot\n"


async def test_what_was_kept_is_a_snapshot_and_no_less_is_required_than_written(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    port, target = free_port(), await serve(nursery, echo)
    home = tmp_path / "laptop"
    async with published(port) as dns, machine(home, PI, BY_NAME, did=LAPTOP, dns=dns) as laptop:
        assert await ask(laptop) != 0, "nobody is there, but now it is known who should be"
    hosts = "hosts: {photos.home.example: 127.0.0.1}\n"
    for require, code in (("authority_current", 2), ("trusted_snapshot", 0)):
        config = hosts + BY_NAME.replace("{}", f"{{require: {require}}}")
        async with (
            machine(tmp_path / "photos", NAS, door(port, FILES_ONLY + web(target)), did=PHOTOS) as photos,
            machine(home, PI, config, did=LAPTOP) as laptop,
        ):
            with pytest.raises(Refused) if code else nullcontext() as fault:
                await (await laptop.gateway._peers.device()).tunnel(PHOTOS)
            if code:
                assert "is known by host-snapshot only, owner-signed was asked for" in str(fault.value)
                assert "rtcp/require: authority_current" in str(fault.value)
            assert await ask(laptop) == code
            assert [one.peer.about.trust.label for one in await tunnels(photos)] == ["host-snapshot"] * (not code)


@pytest.mark.parametrize("require", ["authority_current", "trusted_snapshot"])
async def test_what_a_peer_brings_along_is_a_snapshot_at_best(
    tmp_path: Path, nursery: trio.Nursery, require: str
) -> None:
    port = free_port()
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, f"  require: {require}\n"), did=PHOTOS) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        wanted = (await laptop.gateway._peers.device()).tunnel(PHOTOS)
        if require == "trusted_snapshot":
            await wanted
            assert [one.peer.about.trust.label for one in await tunnels(photos)] == ["host-snapshot"]
        else:
            # Nobody could be asked, so nothing was judged.
            with pytest.raises(Unreachable, match="cannot be found out just now"):
                await wanted
            assert not await tunnels(photos)


async def test_another_owners_word_for_a_pinned_name_is_none(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await serve(nursery, echo)
    async with (
        published(port, owner=MALLORY) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        assert await ask(laptop) == 2
        assert not await tunnels(photos)


@pytest.mark.parametrize(("pinned", "bootstrap", "code"), [(False, False, 2), (False, True, 0), (True, True, 2)])
async def test_the_dns_alone_introduces_nobody_unless_it_may(
    tmp_path: Path, nursery: trio.Nursery, pinned: bool, bootstrap: bool, code: int
) -> None:
    port, target = free_port(), await serve(nursery, echo)
    config = BY_NAME.replace("{}", "{txt-bootstrap: true}" if bootstrap else "{}")
    everybody = web(target, "TRUST,none")
    async with (
        published(port, owner=MALLORY if pinned else ALICE) as dns,
        machine(
            tmp_path / "photos", NAS, door(port, everybody + "\n  admission: ['MATCH,ACCEPT']"), did=PHOTOS, dns=dns
        ),
        machine(tmp_path / "laptop", PI, config, dns=dns, pinned=pinned) as laptop,
    ):
        assert await ask(laptop) == code
        if not code:
            (tunnel,) = await tunnels(laptop)
            assert tunnel.peer.about.trust.label == "plain-dns"


async def test_whoever_is_known_too_weakly_meets_no_rule_on_names(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await serve(nursery, echo)
    more = web(target) + "\n  txt-bootstrap: true\n  admission: ['TRUST,plain-dns,ACCEPT']"
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, more), did=PHOTOS, dns=dns, pinned=False) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        assert await ask(laptop) == 2
        assert [one.peer.about.trust.label for one in await tunnels(photos)] == ["plain-dns"]


@pytest.mark.parametrize(
    ("admission", "let_in"),
    [
        ("['ZONE,home.example,ACCEPT']", True),
        ("['SRC-IP-CIDR,127.0.0.0/8,REJECT', 'MATCH,ACCEPT']", False),
        ("['ZONE,other.example,ACCEPT']", False),
        ("['MATCH,ACCEPT']", True),
    ],
)
async def test_rules_for_new_tunnels(tmp_path: Path, admission: str, let_in: bool) -> None:
    port = free_port()
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, f"  admission: {admission}"), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        with nullcontext() if let_in else pytest.raises(Refused, match="no tunnel for did:web:laptop"):
            await (await laptop.gateway._peers.device()).tunnel(PHOTOS)
        assert len(await tunnels(photos)) == let_in


async def test_a_stranger_cannot_make_us_ask_for_names_that_nothing_here_could_prove(tmp_path: Path) -> None:
    port = free_port()
    config = door(port, "  admission: ['MATCH,ACCEPT']")
    async with (
        published(port) as dns,
        published(port) as asked,
        machine(tmp_path / "photos", NAS, config, did=PHOTOS, dns=asked, pinned=False) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        with pytest.raises(Refused):
            await (await laptop.gateway._peers.device()).tunnel(PHOTOS)
        assert not await tunnels(photos)
        assert not asked.heard.queries


# Both ways


async def test_a_box_that_nobody_can_dial_keeps_a_tunnel_and_is_reached_through_it(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Here ``photos`` is the machine that can be dialled; ``laptop`` has the service."""
    port, target = free_port(), await serve(nursery, greet)
    kept = f"rtcp:\n  keep-tunnel: [photos.home.example]\n{web(target)}\n"
    async with (
        published(port) as dns,
        machine(
            tmp_path / "photos",
            NAS,
            BY_NAME.replace("rtcp: {}", "") + door(port).partition("rules:")[0],
            did=PHOTOS,
            dns=dns,
        ) as photos,
        machine(tmp_path / "laptop", PI, kept, did=LAPTOP, dns=dns) as laptop,
    ):
        standing = (await photos.gateway._peers.device()).tunnels
        await until(standing)
        stream, code = await socks5(photos.port(), "laptop.home.example", 80)
        assert code == 0
        assert await exactly(stream, 13) == b"220 welcome\r\n"
        await stream.aclose()
        (tunnel,) = standing()
        tunnel.lose()
        await until(lambda: standing() and standing() != [tunnel])
        device = await laptop.gateway._peers.device()
        await until(device.tunnels)  # it hears a moment later than the other end that it stands
        assert len(await tunnels(laptop)) == 1


async def test_who_only_dials_is_not_opened_by_that(tmp_path: Path) -> None:
    port = free_port()
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME.replace("rtcp: {}", ""), did=LAPTOP, dns=dns) as laptop,
    ):
        assert laptop.gateway._peers._peers is None, "made when it is needed first"
        assert await ask(laptop) == 2
        (tunnel,) = await tunnels(photos)
        with pytest.raises(Refused):
            await tunnel.open_stream(None, laptop.port())
        assert laptop.tracker.seen == 1


# Through others


def relay(port: int, rules: str) -> str:
    return "proxies: [{name: peers, type: rtcp}]\n" + door(port, rules=rules)


async def test_a_trusted_hop_leads_on_by_its_rules(tmp_path: Path, nursery: trio.Nursery) -> None:
    """``laptop`` keeps a tunnel to ``photos``, which sends those it is told to through it; so may a stranger who is
    named, by a name or by a URL."""
    port, target = free_port(), await serve(nursery, echo)
    kept = f"rtcp:\n  keep-tunnel: [photos.home.example]\n{web(target, str(PHOTOS))}\n"
    rules = f"['AND,((DID,{dev(MALLORY)}),(DOMAIN,laptop.home.example)),peers']"
    to_photos = SOCKS + "proxies: [{name: hop, type: rtcp, server: photos.home.example}]\nrules: ['MATCH,hop']\n"
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, relay(port, rules), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, kept, did=LAPTOP, dns=dns) as laptop,
        machine(tmp_path / "mallory", MALLORY, to_photos, dns=dns) as mallory,
    ):
        await until((await photos.gateway._peers.device()).tunnels)
        stream, code = await socks5(mallory.port(), "laptop.home.example", 80)
        assert code == 0
        await stream.send_all(b"hello")
        assert await exactly(stream, 5) == b"hello"
        (at_hop,), (at_home,) = photos.gateway.connections(), laptop.gateway.connections()
        assert at_hop.chains == ("peers",)
        assert at_home.flow.identity is not None and at_home.flow.identity.did == str(PHOTOS), "who asks is the hop"
        await stream.aclose()
        assert await ask(mallory, 80, "other.home.example") == 2

        for target_of_url, fault in (("laptop.home.example/:80", None), ("other.home.example/:80", Refused)):
            url = f"rtcp://photos.home.example/{quote(f'rtcp://{target_of_url}', safe='')}"
            if fault is None:
                (await mallory.gateway.tunnels.open_url(parse(url))).close()
            else:
                with pytest.raises(fault):
                    await mallory.gateway.tunnels.open_url(parse(url))
        for other in ("tcp:///127.0.0.1:22", "rtcp://socks%3A%2F%2Fhop@laptop.home.example/:80"):
            with pytest.raises(Refused):
                await mallory.gateway.tunnels.open_url(parse(f"rtcp://photos.home.example/{quote(other, safe='')}"))


async def test_a_tunnel_through_a_hop_is_end_to_end(tmp_path: Path, nursery: trio.Nursery) -> None:
    """What the hop carries is a tunnel of two others; it is the stranger whom ``laptop`` sees, and judges."""
    port, inner, target = free_port(), free_port(), await serve(nursery, echo)
    allow = str(dev(MALLORY))
    kept = f"rtcp:\n  listen: 127.0.0.1:{inner}\n  keep-tunnel: [photos.home.example]\n{web(target, allow)}\n"
    rules = f"['AND,((DID,{dev(MALLORY)}),(DOMAIN,laptop.home.example),(DST-PORT,{inner})),DIRECT']"
    there = quote(f"rtcp://laptop.home.example/:{inner}", safe="")
    way = f"rtcp://photos.home.example/{there}"
    config = (
        SOCKS
        + f"proxies: [{{name: far, type: rtcp, server: laptop.home.example, via: '{way}'}}]\nrules: ['MATCH,far']\n"
    )
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, relay(port, rules), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, kept, did=LAPTOP, dns=dns) as laptop,
        machine(tmp_path / "mallory", MALLORY, config, dns=dns) as mallory,
    ):
        await until((await photos.gateway._peers.device()).tunnels)
        stream, code = await socks5(mallory.port(), "laptop.home.example", 80)
        assert code == 0
        await stream.send_all(b"hello")
        assert await exactly(stream, 5) == b"hello"
        (served,) = laptop.gateway.connections()
        assert served.flow.identity is not None and served.flow.identity.did == str(dev(MALLORY))
        assert sorted(str(one.peer.device) for one in await tunnels(laptop)) == sorted(
            map(str, (dev(MALLORY), dev(NAS)))
        )
        await stream.aclose()


# Changes


def base_of(dns: Behind) -> str:
    return f"dns: {{enable: true, use-system-hosts: false, nameserver: ['127.0.0.1:{dns.port}']}}\n"


async def test_a_reload_moves_the_door_and_changes_who_is_served_without_a_tunnel_noticing(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    port, second, target = free_port(), free_port(), await serve(nursery, echo)
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        stream, _ = await socks5(laptop.port(), "photos.home.example", 80)
        before = await tunnels(photos)
        for where, allow, code in (
            (second, "ZONE,home.example", 0),
            (port, "did:web:other.example", 2),
            (port, f"OWNER,{dev(ALICE)}", 0),
        ):
            await photos.reload(door(where, web(target, allow)), base=base_of(dns))
            assert await ask(laptop) == code
            assert photos.port("DEFAULT-RTCP") == where
            assert await tunnels(photos) == before
            await stream.send_all(b"still")
            assert await exactly(stream, 5) == b"still"
        await stream.aclose()


async def test_when_a_door_closes_tunnels_of_version_4_come_in_by_another_and_their_streams_go_on(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Each stream of version 4 is a connection to where the tunnel was dialled: there is nobody any more."""
    port, first, target = free_port(), free_port(), await serve(nursery, echo)
    old = "rtcp: {versions: [4]}"
    both = door(port, web(target)).replace(f"127.0.0.1:{port}", f"['127.0.0.1:{first}', '127.0.0.1:{port}']", 1)
    laptops = BY_NAME.replace("type: rtcp,", f"type: rtcp, port: {first},").replace("rtcp: {}", old)
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, both, did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, laptops, did=LAPTOP, dns=dns) as laptop,
    ):
        stream, _ = await socks5(laptop.port(), "photos.home.example", 80)
        (tunnel,) = await tunnels(laptop)
        await photos.reload(door(port, web(target)), base=base_of(dns))
        with trio.fail_after(60):
            await tunnel.over.wait()
        await laptop.reload(BY_NAME.replace("rtcp: {}", old), base=f"{base_of(dns)}ipv6: true\n")
        assert await ask(laptop) == 0, "the next one is dialled where its documents say"
        await stream.send_all(b"still")
        assert await exactly(stream, 5) == b"still"
        await stream.aclose()


def test_which_doors_are_closed_by_a_change() -> None:
    def doors(*places: str) -> list[ListenerConfig]:
        return [
            ListenerConfig(name="door", kind="rtcp", listen=host, port=int(port))
            for host, _, port in (place.rpartition(":") for place in places)
        ]

    was = doors("192.0.2.1:2980", "192.0.2.2:2981")
    assert not _is_a_door_closed(was, was)
    assert not _is_a_door_closed(was, doors("0.0.0.0:2980", "192.0.2.2:2981"))
    assert not _is_a_door_closed([], was)
    assert _is_a_door_closed(was, doors("192.0.2.1:2980"))
    assert _is_a_door_closed(was, doors("192.0.2.3:2980", "192.0.2.2:2981"))
    assert not _is_a_door_closed([ListenerConfig(name="socks", kind="mixed", listen="::", port=1)], [])


# Whoever would not be let in any more


def pin(home: Path, about: Did, key: SecretKey, **more: Any) -> None:
    TrustStore(home).pin(Pin(about=about, key=key.public, source="test", at=NOW, **more))


@pytest.mark.parametrize("versions", ["[4]", "[5, 4]"])
@pytest.mark.parametrize(
    "change", ["revoked", "revoked by age", "replaced", "unpinned", "the key itself", "admission", "no section"]
)
async def test_a_peer_that_would_not_be_let_in_any_more_loses_its_tunnel_and_its_streams(
    tmp_path: Path, nursery: trio.Nursery, change: str, versions: str
) -> None:
    port, target, home = free_port(), await serve(nursery, echo), tmp_path / "photos"
    more = f"{web(target)}\n  versions: {versions}"
    async with (
        published(port) as dns,
        machine(home, NAS, door(port, more), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        stream, code = await socks5(laptop.port(), "photos.home.example", 80)
        assert code == 0
        (tunnel,) = await tunnels(photos)
        match change:
            case "revoked":
                pin(home, HOME, ALICE, revoked=True)
            case "revoked by age":
                pin(home, HOME, ALICE, least_iat=NOW - 50)
            case "replaced":
                pin(home, HOME, MALLORY)
            case "unpinned":
                TrustStore(home).unpin(HOME)
            case "the key itself":
                pin(home, dev(PI), PI, revoked=True)
            case "admission":
                await photos.reload(door(port, f"{more}\n  admission: ['MATCH,REJECT']"), base=base_of(dns))
            case "no section":
                await photos.reload(SOCKS, base=base_of(dns))
        with trio.fail_after(60):
            await tunnel.over.wait()
            await until(lambda: not photos.gateway.connections())
            with suppress(trio.BrokenResourceError):
                assert await stream.receive_some() == b""
        assert await ask(laptop) != 0
        assert not await tunnels(photos)


async def test_streams_that_have_outlived_their_tunnel_end_as_well(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target, home = free_port(), await serve(nursery, echo), tmp_path / "photos"
    async with (
        published(port) as dns,
        machine(home, NAS, door(port, f"{web(target)}\n  versions: [4]"), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        stream, _ = await socks5(laptop.port(), "photos.home.example", 80)
        await stream.send_all(b"hello")
        assert await exactly(stream, 5) == b"hello", "it stands at both ends"
        (tunnel,) = await tunnels(photos)
        tunnel.close()
        await tunnel.over.wait()
        await judge(photos)
        await stream.send_all(b"still")
        assert await exactly(stream, 5) == b"still"
        pin(home, HOME, ALICE, revoked=True)
        with trio.fail_after(60):
            await until(lambda: not photos.gateway.connections())
            with suppress(trio.BrokenResourceError):
                assert await stream.receive_some() == b""


@pytest.mark.parametrize("versions", ["[4]", "[5, 4]"])
async def test_what_we_say_to_a_peer_ends_with_its_key(tmp_path: Path, nursery: trio.Nursery, versions: str) -> None:
    """Here it is ``laptop``, who dialled, that learns of it; by the name of the zone."""
    port, target, home = free_port(), await serve(nursery, echo), tmp_path / "laptop"
    config = BY_NAME.replace("rtcp: {}", f"rtcp: {{versions: {versions}}}")
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns),
        machine(home, PI, config, did=LAPTOP, dns=dns) as laptop,
    ):
        streams = [(await socks5(laptop.port(), name, 80))[0] for name in ("photos.home.example", "home.example")]
        pin(home, dev(NAS), NAS, revoked=True)
        with trio.fail_after(60):
            for stream in streams:
                with suppress(trio.BrokenResourceError):
                    assert await stream.receive_some() == b""
            await until(lambda: not laptop.gateway.connections())


async def test_what_a_command_says_to_a_peer_ends_with_its_key_as_well(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target, home = free_port(), await serve(nursery, echo), tmp_path / "laptop"
    ours, theirs = socket.socketpair()
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns),
        machine(home, PI, "rtcp: {versions: [4]}\n", did=LAPTOP, dns=dns) as laptop,
    ):

        async def near() -> Endpoint:
            theirs.setblocking(False)
            return TcpEndpoint(theirs.family, theirs.type, 0, theirs.detach())

        with ours:
            await laptop.gateway.call_peer("photos.home.example", "", 80, near, network="tcp")
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            await stream.send_all(b"still")
            assert await exactly(stream, 5) == b"still"
            pin(home, dev(NAS), NAS, revoked=True)
            with trio.fail_after(60):
                await until(lambda: not laptop.gateway.connections())


async def test_who_waits_for_a_device_that_fails_at_first_gets_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail, tried, opened = trio.Event(), trio.Event(), open_device

    @asynccontextmanager
    async def unlucky(*args: Any, **more: Any) -> AsyncIterator[Device]:
        if not tried.is_set():
            tried.set()
            await fail.wait()
            raise RuntimeError("no luck")
        async with opened(*args, **more) as device:
            yield device

    monkeypatch.setattr("cyfs_gateway.io.peers.open_device", unlucky)
    monkeypatch.setattr("cyfs_gateway.io.peers._AGAIN", 0.01)
    async with machine(tmp_path, PI, "rtcp: {}\n", did=LAPTOP) as laptop:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(laptop.gateway._peers.device)
                await tried.wait()
                await trio.testing.wait_all_tasks_blocked()
                fail.set()
    assert "it begins again" in caplog.text


async def test_the_owner_is_kept_until_the_pins_are_others(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    anchors = TrustStore.anchors

    def counted(store: TrustStore) -> Anchors:
        nonlocal asked
        asked += 1
        return anchors(store)

    async with machine(tmp_path, PI, "rtcp: {}\n", did=LAPTOP) as laptop:
        peers = laptop.gateway._peers
        await peers.device()
        await trio.testing.wait_all_tasks_blocked()  # what it asks for as it begins
        guard, _ = laptop.engine.offers._offered[SPEEDTEST]
        monkeypatch.setattr(TrustStore, "anchors", counted)
        now = trio.current_time()
        monkeypatch.setattr(trio, "current_time", lambda: now)
        assert {await guard.owner() for _ in range(50)} == {str(dev(ALICE))}
        assert asked <= 1
        assert peers._peers is not None
        TrustStore(tmp_path).unpin(HOME)
        peers._peers._change()
        assert await guard.owner() == ""


async def test_what_is_required_now_is_required_of_those_inside(tmp_path: Path, nursery: trio.Nursery) -> None:
    """``laptop`` is known by what it brought along, which is a snapshot, and nobody can be asked."""
    port, target = free_port(), await serve(nursery, echo)
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, FILES_ONLY + web(target)), did=PHOTOS) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        stream, code = await socks5(laptop.port(), "photos.home.example", 80)
        assert code == 0
        (tunnel,) = await tunnels(photos)
        await judge(photos)
        assert not tunnel.over.is_set(), "it is as sure as it was"
        await stream.aclose()
        await photos.reload(door(port, web(target)))
        with trio.fail_after(60):
            await tunnel.over.wait()


async def test_silence_of_others_ends_no_tunnel(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await serve(nursery, echo)
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        stream, _ = await socks5(laptop.port(), "photos.home.example", 80)
        (tunnel,) = await tunnels(photos)
        nobody = "dns: {enable: true, use-system-hosts: false, nameserver: ['127.0.0.1:9']}\nipv6: true\n"
        await photos.reload(door(port, web(target)), base=nobody)
        photos.gateway.trusted.flush()
        await judge(photos)
        assert not tunnel.over.is_set() and tunnel.peer.about.trust.label == "owner-signed"
        await stream.send_all(b"still")
        assert await exactly(stream, 5) == b"still"
        await stream.aclose()


async def test_pins_that_cannot_be_read_end_no_tunnel_and_let_nobody_in(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, home = free_port(), tmp_path / "photos"
    async with (
        published(port) as dns,
        machine(home, NAS, door(port), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
        machine(tmp_path / "mallory", MALLORY, BY_NAME, dns=dns) as mallory,
    ):
        await laptop.gateway._peers.tunnel(PHOTOS)
        (tunnel,) = await tunnels(photos)
        broken = home / "names" / "pins" / "did_web_broken.example.json"
        broken.write_text("half a p")
        await judge(photos)
        assert not tunnel.over.is_set()
        with pytest.raises(Refused):
            await mallory.gateway._peers.tunnel(PHOTOS)
        broken.unlink()
        pin(home, HOME, ALICE, revoked=True)
        with trio.fail_after(60):
            await tunnel.over.wait()


async def test_pins_that_cannot_be_read_for_a_moment_refuse_nobody_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, home, anchors = free_port(), tmp_path / "photos", TrustStore.anchors
    admission = "  admission: ['MATCH,ACCEPT']"
    lacking = True

    def unlucky(store: TrustStore) -> Anchors:
        if lacking and store.path == home / "names":
            raise OSError(errno.EMFILE, "Too many open files", str(store.path))
        return anchors(store)

    async with (
        published(port) as dns,
        machine(home, NAS, door(port, admission), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
        machine(tmp_path / "mallory", MALLORY, BY_NAME, dns=dns) as mallory,
        machine(tmp_path / "other", ALICE, BY_NAME, dns=dns) as other,
    ):
        inside = await other.gateway._peers.tunnel(PHOTOS)
        monkeypatch.setattr(TrustStore, "anchors", unlucky)
        peers = photos.gateway._peers._peers
        assert peers is not None
        peers._change()  # what was read a moment ago would do
        for house in (laptop, mallory):
            with pytest.raises(Unreachable) as caught:
                await house.gateway._peers.tunnel(PHOTOS)
            assert str(home) not in str(caught.value)
            not_now = caught.value.__cause__
            assert isinstance(not_now, NotNow) and not_now.wait < 60
        await judge(photos)
        assert await photos.gateway._peers.owner() == ""
        lacking = False
        for house in (laptop, mallory):
            device = await house.gateway._peers.device()
            device._resting.clear()
            await device.tunnel(PHOTOS)
        assert not inside.over.is_set()


async def test_a_slow_answer_about_somebody_makes_no_revocation_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whom the answer is about is nobody's any more, and somebody else who comes by a key alone is neither."""
    port, home, resolve = free_port(), tmp_path / "photos", TrustedNames.resolve
    is_slow, asked = False, trio.Event()

    async def slow(names: TrustedNames, ask: Ask) -> Outcome:
        if is_slow:
            asked.set()
            await trio.sleep_forever()
        return await resolve(names, ask)

    monkeypatch.setattr(TrustedNames, "resolve", slow)
    async with (
        published(port) as dns,
        machine(home, NAS, door(port, "  admission: ['MATCH,ACCEPT']"), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
        machine(tmp_path / "mallory", MALLORY, BY_NAME, dns=dns) as mallory,
    ):
        by_name = await laptop.gateway._peers.tunnel(PHOTOS)
        by_key = await mallory.gateway._peers.tunnel(PHOTOS)
        is_slow = True
        assert photos.gateway._peers._peers is not None
        photos.gateway._peers._peers._change()
        with trio.fail_after(60):
            await asked.wait()
            for tunnel, key in ((by_key, MALLORY), (by_name, PI)):
                pin(home, dev(key), key, revoked=True)
                await tunnel.over.wait()


async def test_whoever_was_put_out_stays_away_for_a_minute(tmp_path: Path) -> None:
    port, home = free_port(), tmp_path / "photos"
    async with (
        published(port) as dns,
        machine(home, NAS, door(port), did=PHOTOS, dns=dns),
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        tunnel = await laptop.gateway._peers.tunnel(PHOTOS)
        pin(home, dev(PI), PI, revoked=True)
        with trio.fail_after(60):
            await tunnel.over.wait()
        assert isinstance(tunnel, MuxedTunnel) and tunnel.stay_away == 60


async def test_the_next_gateway_of_a_zone_is_dialled_when_the_first_is_away(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """``laptop`` is a gateway, too, on paper; nobody answers there."""
    port, target = free_port(), await serve(nursery, echo)
    async with (
        published(port, ALICE, "laptop@wan", "photos") as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target, str(dev(MALLORY)))), did=PHOTOS, dns=dns),
        machine(tmp_path / "mallory", MALLORY, BY_NAME, dns=dns) as mallory,
    ):
        assert await ask(mallory, host="home.example") == 0
        assert [one.peer.did for one in await tunnels(mallory)] == [PHOTOS]


async def test_whom_we_dialled_is_judged_as_well(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, home = free_port(), tmp_path / "laptop"
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port), did=PHOTOS, dns=dns),
        machine(home, PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        tunnel = await laptop.gateway._peers.tunnel(PHOTOS)
        pin(home, HOME, MALLORY)
        with trio.fail_after(60):
            await tunnel.over.wait()
        with pytest.raises(Refused):
            await laptop.gateway._peers.tunnel(PHOTOS)


async def judge(house: Living) -> None:
    peers = house.gateway._peers._peers
    assert peers is not None
    for each in await peers._gatekeeper.sweep():
        await peers._gatekeeper.judge(each)


# A zone by its own name


async def test_the_name_of_a_zone_leads_to_its_gateway(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await serve(nursery, echo)
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        stream, code = await socks5(laptop.port(), "home.example", 80)
        assert code == 0
        await stream.send_all(b"hello")
        assert await exactly(stream, 5) == b"hello"
        await stream.aclose()
        way = await laptop.gateway.tunnels.open_url(parse("rtcp://home.example/:80"))
        way.close()
        (tunnel,) = await tunnels(laptop)
        assert tunnel.peer.did == PHOTOS, "a zone is no device: it is the machine that has to prove itself"
        (view,) = laptop.gateway.peers()
        assert (view.peer, view.zone, view.owner, view.trust) == (
            str(PHOTOS),
            str(HOME),
            str(dev(ALICE)),
            "owner-signed",
        )
        assert (await laptop.gateway.ping("home.example")).peer == str(PHOTOS)
        assert len(await tunnels(photos)) == 1


@pytest.mark.parametrize("how", ["another owner", "no gateway", "nobody knows"])
async def test_a_zone_that_does_not_say_who_its_gateway_is_leads_nowhere(
    tmp_path: Path, nursery: trio.Nursery, how: str
) -> None:
    port = free_port()
    signer = MALLORY if how == "another owner" else ALICE
    async with (
        published(port, signer, "$photos" if how == "no gateway" else "photos") as dns,
        machine(tmp_path / "photos", NAS, door(port), did=PHOTOS, dns=dns),
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=None if how == "nobody knows" else dns) as laptop,
    ):
        with pytest.raises((Refused, Unreachable)):
            await laptop.gateway._peers.tunnel(HOME)
        assert not await tunnels(laptop)


async def test_a_tunnel_to_a_zone_is_kept_with_its_gateway(tmp_path: Path) -> None:
    port = free_port()
    kept = "rtcp: {keep-tunnel: [home.example]}\n"
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, kept, did=LAPTOP, dns=dns) as laptop,
    ):
        with trio.fail_after(60):
            await until(lambda: photos.gateway.peers() and laptop.gateway.peers())
        assert [one.peer for one in laptop.gateway.peers()] == [str(PHOTOS)]


# What strangers, and those we know, can make us do


async def test_one_peer_does_not_have_all_streams_there_are(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyfs_gateway.io.peerservices._MOST_FLOWS", 2)
    port, target = free_port(), await serve(nursery, echo)
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        kept = [await socks5(laptop.port(), "photos.home.example", 80) for _ in range(3)]
        assert [code for _, code in kept] == [0, 0, 2]
        for stream, _ in kept:
            await stream.aclose()
        await until(lambda: not photos.gateway.connections())
        assert await ask(laptop) == 0
        assert await ask(laptop, 81) == 2
        assert await ask(laptop) == 0, "what was refused does not count"


async def test_the_last_descriptors_are_not_for_peers(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await serve(nursery, echo)
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        assert await ask(laptop) == 0
        most, photos.gateway._engine._descriptors_most = photos.gateway._engine._descriptors_most, 0
        assert await ask(laptop) != 0
        photos.gateway._engine._descriptors_most = most
        assert await ask(laptop) == 0


@pytest.mark.parametrize("pinned", [True, False])
async def test_whoever_is_refused_is_not_told_what_stands_in_our_files(tmp_path: Path, pinned: bool) -> None:
    port, home = free_port(), tmp_path / "photos"
    async with (
        published(port) as dns,
        machine(home, NAS, door(port, "  admission: ['SRC-IP-CIDR,192.0.2.0/24,ACCEPT']"), did=PHOTOS) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns, pinned=True) as laptop,
        machine(tmp_path / "mallory", MALLORY, BY_NAME, dns=dns) as mallory,
    ):
        if not pinned:
            (home / "names" / "pins" / "did_web_broken.example.json").write_text("half a p")
        for house, fault in ((laptop, Unreachable if pinned else Refused), (mallory, Refused)):
            with pytest.raises(fault) as caught:
                await house.gateway._peers.tunnel(PHOTOS)
            said = str(caught.value)
            assert not any(word in said for word in (str(tmp_path), "192.0.2", "pin", "require", "rule")), said
        assert not await tunnels(photos)


async def test_names_that_strangers_make_up_are_not_remembered(tmp_path: Path) -> None:
    port = free_port()
    config = door(port, "  admission: ['MATCH,ACCEPT']")
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, config, did=PHOTOS, pinned=False) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        photos.gateway.trusted.flush()
        with pytest.raises(Refused):
            await laptop.gateway._peers.tunnel(PHOTOS)
        assert photos.gateway.trusted.flush() == 0


async def test_a_flood_of_strangers_fills_no_log(
    tmp_path: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """Those who are refused at the door, those who babble, and those whose key was proven and who are not wanted."""
    port = free_port()
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "mallory", MALLORY, BY_NAME, dns=dns) as mallory,
    ):
        device = await mallory.gateway._peers.device()
        with pytest.raises(Refused):
            await device.tunnel(PHOTOS)
        caplog.clear()
        with caplog.at_level("INFO"):
            for _ in range(10):
                device._resting.clear()
                with pytest.raises((Refused, Unreachable)):
                    await device.tunnel(PHOTOS)
                stream = await connect(port)
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(bytes(7) * 40)
                    await stream.receive_some()
                await stream.aclose()
        said = [one for one in caplog.records if one.levelname != "DEBUG" and "DEFAULT" not in one.getMessage()]
        assert [one.getMessage() for one in said if one.name.startswith(("cyfs.rtcp", "cyfs.peers"))] == []
        assert not await tunnels(photos)


async def test_a_peer_that_comes_and_goes_all_the_time_fills_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port), did=PHOTOS, dns=dns),
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        device = await laptop.gateway._peers.device()
        caplog.clear()
        with caplog.at_level("INFO"):
            for _ in range(20):
                tunnel = await device.tunnel(PHOTOS)
                tunnel.close()
                await tunnel.over.wait()
        said = [one.getMessage() for one in caplog.records if one.levelname != "DEBUG"]
        assert 0 < sum("laptop" in one for one in said if "the tunnel to" in one) <= 6, said
        assert 0 < sum("photos" in one for one in said if "the tunnel to" in one) <= 6, said


async def test_another_key_is_another_device(tmp_path: Path) -> None:
    port = free_port()
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, BY_NAME, did=LAPTOP, dns=dns) as laptop,
    ):
        tunnel = await (await laptop.gateway._peers.device()).tunnel(PHOTOS)
        base = f"dns: {{enable: true, use-system-hosts: false, nameserver: ['127.0.0.1:{dns.port}']}}\n"
        settle(tmp_path / "photos", MALLORY)
        await photos.reload(door(port), base=base)
        with trio.fail_after(60):
            await tunnel.over.wait()
        assert (await photos.gateway._peers.device()).local.canonical == dev(MALLORY)
        (tmp_path / "photos/identity/device.pem").chmod(0o644)
        with pytest.raises(ConfigFault, match="others may read this key"):
            await photos.reload(door(port), base=base)
        assert (await photos.gateway._peers.device()).local.canonical == dev(MALLORY)


async def test_version_4_ends_when_it_may_not_be_spoken_any_more(tmp_path: Path) -> None:
    port = free_port()
    old = BY_NAME.replace("rtcp: {}", "rtcp: {versions: [4]}")
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, old, did=LAPTOP, dns=dns) as laptop,
    ):
        tunnel = await laptop.gateway._peers.tunnel(PHOTOS)
        assert tunnel.version == 4
        await photos.reload(door(port, "  versions: [5]"), base=base_of(dns))
        with trio.fail_after(60):
            await tunnel.over.wait()
        with pytest.raises(Unreachable):
            await laptop.gateway._peers.tunnel(PHOTOS)
        assert not await tunnels(photos)
        await laptop.reload(BY_NAME, base=f"{base_of(dns)}ipv6: true\n")
        assert (await laptop.gateway._peers.tunnel(PHOTOS)).version == 5


async def test_tunnels_of_version_5_stay_while_it_is_spoken(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await serve(nursery, echo)
    old = BY_NAME.replace("rtcp: {}", "rtcp: {versions: [4]}")

    def speaking(versions: str) -> str:
        return door(port, f"{web(target, str(dev(MALLORY)))}\n  versions: {versions}")

    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, speaking("[5, 4]"), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, old, did=LAPTOP, dns=dns) as laptop,
        machine(tmp_path / "mallory", MALLORY, BY_NAME, dns=dns) as mallory,
    ):
        stream, code = await socks5(mallory.port(), "photos.home.example", 80)
        assert code == 0
        by_4 = await laptop.gateway._peers.tunnel(PHOTOS)
        (by_5,) = await tunnels(mallory)
        assert (by_4.version, by_5.version) == (4, 5)
        await photos.reload(speaking("[5]"), base=base_of(dns))
        with trio.fail_after(60):
            await by_4.over.wait()
        with pytest.raises(Unreachable):
            await laptop.gateway._peers.tunnel(PHOTOS)
        await photos.reload(speaking("[5, 4]"), base=base_of(dns))
        (await laptop.gateway._peers.device())._resting.clear()
        assert (await laptop.gateway._peers.tunnel(PHOTOS)).version == 4
        await stream.send_all(b"still")
        assert await exactly(stream, 5) == b"still"
        assert not by_5.over.is_set()
        await stream.aclose()


# Programs that know nothing of it


@pytest.mark.parametrize("mode", ["fake-ip", "redir-host"])
async def test_a_name_is_dialled_through_its_tunnel_by_whoever_asks_the_dns(
    tmp_path: Path, nursery: trio.Nursery, mode: str
) -> None:
    """``laptop`` has no address at all, and ``photos`` one that is not where it is served."""
    port, target, asked = free_port(), await serve(nursery, echo), free_port()
    service = web(target, str(dev(MALLORY)))
    to_peer = BY_NAME.replace("rtcp: {}", "")
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, service), did=PHOTOS, dns=dns),
        machine(tmp_path / "mallory", MALLORY, to_peer, dns=dns) as mallory,
    ):
        lines = f"{{enable: true, use-system-hosts: false, listen: '127.0.0.1:{asked}', enhanced-mode: {mode}"
        await mallory.reload(to_peer, base=f"dns: {lines}, nameserver: ['127.0.0.1:{dns.port}']}}\n")
        (record,) = (await question(asked, "photos.home.example")).rr
        stream, code = await socks5_to_address(mallory.port(), str(record.rdata), 80)
        assert code == 0, (mode, str(record.rdata))
        await stream.send_all(b"hello")
        assert await exactly(stream, 5) == b"hello"
        (flow,) = mallory.gateway.connections()
        assert (flow.flow.host, flow.chains) == ("photos.home.example", ("peers",))
        await stream.aclose()
        if mode == "fake-ip":
            (fake,) = (await question(asked, "laptop.home.example")).rr
            assert str(fake.rdata).startswith("198.18."), "whoever has no address gets one"


async def socks5_to_address(port: int, address: str, to: int) -> tuple[trio.SocketStream, int]:
    """As ``socks5``, for a client that has resolved the name itself."""
    stream = await connect(port)
    await stream.send_all(b"\x05\x01\x00\x05\x01\x00\x01" + socket.inet_aton(address) + to.to_bytes(2, "big"))
    assert await exactly(stream, 2) == b"\x05\x00"
    return stream, (await exactly(stream, 10))[1]


async def test_a_local_port_leads_through_a_tunnel(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await serve(nursery, greet)
    forward = """
proxies: [{name: peers, type: rtcp}]
listeners:
  - {name: there, type: tunnel, listen: 127.0.0.1, port: 0, target: "photos.home.example:80", proxy: peers}
"""
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(target)), did=PHOTOS, dns=dns),
        machine(tmp_path / "laptop", PI, forward, did=LAPTOP, dns=dns) as laptop,
    ):
        stream = await connect(laptop.port("there"))
        assert await exactly(stream, 13) == b"220 welcome\r\n"
        await stream.aclose()
        seen = await laptop.gateway.ping("photos.home.example")
        assert (seen.peer, seen.owner, seen.trust, seen.dialled) == (str(PHOTOS), str(dev(ALICE)), "owner-signed", True)
        assert seen.rtt is not None and [one.peer for one in laptop.gateway.peers()] == [str(PHOTOS)]
