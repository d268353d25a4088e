"""A name server at work, on real sockets: what a change keeps, what it swaps, what it leaves alone when it fails."""

from __future__ import annotations

import datetime
import errno
import json
import logging
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dns.exception
import dns.message
import dns.rcode
import pytest
import trio
import trio.testing
from dnsfakes import Counted, udp_server, zone
from nameserving import query_wire, rcode, shown
from netns import namespace
from nsprogram import cyfs_ns, server

from cyfs_ns.config.dns import DnsConfig
from cyfs_ns.config.load import load_dns
from cyfs_ns.errors import ConfigFault
from cyfs_ns.hot import HotClient, HotEntry
from cyfs_ns.io import serving as serving_module
from cyfs_ns.io.doors import wanted_doors
from cyfs_ns.io.house import House
from cyfs_ns.io.selfsigned import make_certificate
from cyfs_ns.io.serving import Serving
from cyfs_ns.io.sources import is_local
from cyfs_ns.links import AddressGone
from cyfs_ns.querylog import from_line
from cyfs_ns.wire import name_wire
from tests.freeport import free_port

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: binds sockets to a device")


def config(upstream: object, port: int, **keys: Any) -> DnsConfig:
    spelt = {key.replace("_", "-"): value for key, value in keys.items()}
    usual = {
        "listen": f"127.0.0.1:{port}",
        "nameserver": [str(upstream)],
        "use-system-hosts": False,
        "strategy": "strict",
    }
    loaded = load_dns(json.dumps({"dns": {"enable": True, **usual, **spelt}}).encode())
    assert loaded.dns is not None, loaded.faults
    return loaded.dns


@asynccontextmanager
async def serving(home: Path, dns: DnsConfig) -> AsyncIterator[Serving]:
    made = Serving(home, dns)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run, {})
        yield made
        nursery.cancel_scope.cancel()


async def ask(port: int, name: str, rtype: str = "A") -> dns.message.Message:
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.connect(("127.0.0.1", port))
        await sock.send(query_wire(name, rtype))
        with trio.fail_after(60):
            return dns.message.from_wire(await sock.recv(4096))


async def ask_over(stream: trio.SocketStream, name: str) -> dns.message.Message:
    wire = query_wire(name)
    await stream.send_all(len(wire).to_bytes(2) + wire)
    data = b""
    with trio.fail_after(60):
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2]):
            data += await stream.receive_some()
    return dns.message.from_wire(data[2:])


async def eventually(true: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(60):
        while not await true():  # noqa: ASYNC110
            await trio.sleep(0.05)


WWW = zone("www.example. 300 A 198.51.100.1")


async def test_it_answers_over_datagrams_and_streams_from_one_cache(tmp_path: Path) -> None:
    upstream, port = Counted(WWW), free_port()
    async with udp_server(upstream) as server, serving(tmp_path, config(server, port)) as house:
        assert shown(await ask(port, "www.example")) == ["www.example 300 A 198.51.100.1"]
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert len(shown(await ask_over(stream, "www.example"))) == 1
        assert len([query for query in upstream.queries if b"\3www" in query.lower()]) == 1
        assert [(key.kind, key.port) for key in house.doors.keys] == [("tcp", port), ("udp", port)]


async def test_a_change_keeps_doors_connections_and_the_cache(tmp_path: Path) -> None:
    upstream, port, other = Counted(WWW), free_port(), free_port()
    async with udp_server(upstream) as server, serving(tmp_path, config(server, port)) as house:
        await ask(port, "www.example")
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert rcode(await ask_over(stream, "nas.lan")) in ("NOERROR", "NXDOMAIN")
            both = [f"127.0.0.1:{port}", f"127.0.0.1:{other}"]
            await house.change(config(server, port, listen=both, records=["nas.lan A 192.168.1.2"]), {})
            assert shown(await ask_over(stream, "nas.lan")) == ["nas.lan 60 A 192.168.1.2"]
        assert shown(await ask(other, "nas.lan")) == ["nas.lan 60 A 192.168.1.2"]
        assert len(shown(await ask(other, "www.example"))) == 1
        assert len([query for query in upstream.queries if b"\3www" in query.lower()]) == 1
        await house.change(config(server, other), {})
        assert {key.port for key in house.doors.keys} == {other}
        await eventually(lambda: is_free(port))


async def is_free(port: int) -> bool:
    await trio.lowlevel.checkpoint()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def test_a_port_that_is_taken_leaves_everything_as_it_was(tmp_path: Path) -> None:
    port, taken, free = free_port(), free_port(), free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port)) as house:
        before = house.doors.keys
        with socket.socket(type=socket.SOCK_DGRAM) as squatter:
            squatter.bind(("127.0.0.1", taken))
            listen = [f"127.0.0.1:{each}" for each in (port, free, taken)]
            with pytest.raises(ConfigFault, match=f"cannot listen at udp 127.0.0.1:{taken}"):
                await house.change(
                    config(server, port, listen=listen, block=["www.example"], enhanced_mode="fake-ip"), {}
                )
        assert house.doors.keys == before
        assert house.fake is None
        assert shown(await ask(port, "www.example")) == ["www.example 300 A 198.51.100.1"]
        assert await is_free(free)  # what was bound for it is let go


async def test_what_is_staged_can_be_abandoned(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port)) as house:
        staged = await house.stage(config(server, other), {}, house.around)
        assert not await is_free(other)
        house.abandon(staged)
        await eventually(lambda: is_free(other))
        assert rcode(await ask(port, "www.example")) == "NOERROR"


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        ({"zones": {"z.example": {"file": "/nowhere/at.all"}}}, "/nowhere/at.all"),
        ({"nameserver-policy": {"geosite:cn": "192.0.2.1"}}, "geosite:cn"),
        ({"fake-ip-filter": ["geosite:cn"], "enhanced-mode": "fake-ip"}, "geosite:cn"),
        ({"records": ["a.lan CNAME b.lan.", "a.lan A 192.0.2.1"]}, "stands alone"),
    ],
)
async def test_what_cannot_be_built_changes_nothing(tmp_path: Path, keys: dict[str, Any], wrong: str) -> None:
    port = free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port)) as house:
        with pytest.raises(ConfigFault, match=wrong):
            await house.change(config(server, port, **keys), {})
        assert shown(await ask(port, "www.example")) == ["www.example 300 A 198.51.100.1"]


async def test_a_certificate_that_is_none_is_told_by_its_file(tmp_path: Path) -> None:
    port, wrong, good = free_port(), tmp_path / "wrong.pem", tmp_path / "good.pem"
    wrong.write_text("<html>\n")
    good.write_bytes(make_certificate(["ns.example"], datetime.datetime.now(datetime.UTC)))
    other = tmp_path / "other.pem"
    other.write_bytes(make_certificate(["ns.example"], datetime.datetime.now(datetime.UTC)))
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port)) as house:
        for certificate, key, told in (
            (wrong, wrong, f"{wrong}: no certificate with its key"),
            (good, other, f"{good} and {other}: no certificate with its key"),
            (tmp_path / "gone.pem", good, f"{tmp_path}/gone.pem: No such file"),
        ):
            keys = {"listen_tls": f"127.0.0.1:{free_port()}", "tls_cert": str(certificate), "tls_key": str(key)}
            with pytest.raises(ConfigFault, match=f"cannot listen at tls .*: {told}"):
                await house.change(config(server, port, **keys), {})


async def test_without_descriptors_nothing_changes_and_nothing_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port, hosts = free_port(), tmp_path / "hosts"
    hosts.write_text("192.0.2.1 nas.lan\n")

    def starved(*args: object, **more: object) -> House:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with udp_server(WWW) as server, serving(tmp_path, config(server, port, hosts_files=[str(hosts)])) as house:
        with monkeypatch.context() as patched:
            patched.setattr(serving_module, "build_house", starved)
            with pytest.raises(ConfigFault, match="Too many open files"):
                await house.change(config(server, port), {})
            await house.reread()
            assert "Too many open files; what was there stays" in caplog.text
            assert shown(await ask(port, "nas.lan")) == ["nas.lan 60 A 192.0.2.1"]
        await house.change(config(server, port), {})
        assert shown(await ask(port, "nas.lan")) == []


def test_whose_an_address_is_can_be_asked_without_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_local("127.0.0.1") and not is_local("192.0.2.1")
    monkeypatch.setattr(socket, "socket", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
    assert is_local("127.0.0.1") is None and is_local("192.0.2.1") is None


async def test_without_descriptors_no_address_is_said_to_have_come_or_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port)) as house:
        caplog.clear()
        with monkeypatch.context() as starved:
            starved.setattr(socket, "socket", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
            house.doors.heed([AddressGone("lo", "192.0.2.9")])
        house.doors.heed([AddressGone("lo", "192.0.2.9")])
        assert caplog.text == ""


async def test_files_that_change_are_read_again(tmp_path: Path) -> None:
    hosts, leases, zones = tmp_path / "hosts", tmp_path / "leases", tmp_path / "zone"
    hosts.write_text("192.168.1.2 nas.lan\n")
    leases.write_text("")
    zones.write_text("www A 192.0.2.1\n")
    port = free_port()
    keys = {
        "hosts-files": [str(hosts)],
        "lease-files": [str(leases)],
        "zones": {"z.example": {"file": str(zones)}},
        "domain": "lan",
    }

    async def says(name: str, data: str) -> None:
        async def told() -> bool:
            return [line.split()[-1] for line in shown(await ask(port, name))] == [data]

        await eventually(told)

    async with udp_server(WWW) as server, serving(tmp_path / "home", config(server, port, **keys)):
        await says("nas.lan", "192.168.1.2")
        await says("www.z.example", "192.0.2.1")
        hosts.write_text("192.168.1.3 nas.lan\n")
        await says("nas.lan", "192.168.1.3")
        leases.write_text("4102444800 02:00:00:00:00:01 192.168.1.50 laptop 01:02\n")
        await says("laptop.lan", "192.168.1.50")
        zones.write_text("www A 192.0.2.2\n")
        await says("www.z.example", "192.0.2.2")
        zones.write_text("www A nothing\n")
        hosts.write_text("192.168.1.4 nas.lan\n")  # a fault elsewhere: what was there stays
        await trio.sleep(0.5)
        await says("nas.lan", "192.168.1.3")
        zones.write_text("www A 192.0.2.3\n")
        await says("www.z.example", "192.0.2.3")
        await says("nas.lan", "192.168.1.4")


async def test_files_that_change_while_a_house_is_built_are_read_again(tmp_path: Path) -> None:
    hosts, leases = tmp_path / "hosts", tmp_path / "leases"
    hosts.write_text("192.168.1.2 nas.lan\n")
    leases.write_text("")
    port = free_port()
    keys = {"hosts-files": [str(hosts)], "lease-files": [str(leases)], "domain": "lan"}
    async with udp_server(WWW) as server, serving(tmp_path / "home", config(server, port, **keys)) as house:
        staged = await house.stage(config(server, port, **keys), {}, house.around)
        hosts.write_text("192.168.1.33 nas.lan\n")
        leases.write_text("4102444800 02:00:00:00:00:01 192.168.1.50 laptop 01:02\n")
        house.commit(staged)
        for name, data in (("nas.lan", "192.168.1.33"), ("laptop.lan", "192.168.1.50")):

            async def told(name: str = name, data: str = data) -> bool:
                return [line.split()[-1] for line in shown(await ask(port, name))] == [data]

            await eventually(told)


async def test_hits_are_logged_a_few_at_a_time(tmp_path: Path) -> None:
    port = free_port()
    many = config("192.0.2.1", port, query_log={"privacy": "full"})
    async with serving(tmp_path, many) as house:
        ring, door = house.ring, house.server.hot.doors["udp"]
        assert ring is not None and door.journal is not None
        client = HotClient(bytes((127, 0, 0, 1)), "", door.table(""), limited=False)
        for number in range(300):
            entry = HotEntry(bytes(10) + name_wire(f"{number}.example") + b"\0\1\0\1", (), 0, 9, "hot")
            door.journal += [(client, entry)] * 2
        begun = house.server._note_hits()
        lines, most = 0, 0
        for _ in range(100):
            next(begun)
            now = sum(1 for _ in ring.lines())
            lines, most = now, max(most, now - lines)
        assert 0 < lines < 300
        assert most <= 4
        house.gather_log()
        told = [from_line(line) for line in ring.lines()]
        assert {each.name for each in told} == {f"{number}.example" for number in range(300)}
        assert {each.times for each in told} == {2}


async def test_a_fault_of_ours_in_reading_files_again_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port, hosts = free_port(), tmp_path / "hosts"
    hosts.write_text("192.0.2.1 nas.lan\n")
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port, hosts_files=[str(hosts)])) as house:
        with monkeypatch.context() as patched:
            patched.setattr(serving_module, "build_house", Mock(side_effect=IndexError("a fault of ours")))
            await house.reread()
        assert "IndexError: a fault of ours" in caplog.text and "what was there stays" in caplog.text
        assert shown(await ask(port, "nas.lan")) == ["nas.lan 60 A 192.0.2.1"]
        hosts.write_text("192.0.2.2 nas.lan\n")
        await house.reread()
        assert shown(await ask(port, "nas.lan")) == ["nas.lan 60 A 192.0.2.2"]


async def test_reading_files_again_never_brings_an_old_configuration_back(tmp_path: Path) -> None:
    port = free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port)) as house:
        for last in range(3):
            newer = config(server, port, records=[f"nas.lan A 192.168.1.{last}"])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(house.reread)
                nursery.start_soon(house.change, newer, {})
                nursery.start_soon(house.reread)
            assert house.config == newer
            assert shown(await ask(port, "nas.lan")) == [f"nas.lan 60 A 192.168.1.{last}"]


async def test_files_read_again_beside_a_staged_change_wait_for_it(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port)) as house:
        staged = await house.stage(config(server, other), {}, house.around)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.reread)
            await trio.testing.wait_all_tasks_blocked(0.05)
            house.commit(staged)
        assert rcode(await ask(other, "www.example")) == "NOERROR"
        assert house.config == staged.house.config


async def test_lists_are_swapped_while_it_serves(tmp_path: Path) -> None:
    listed = tmp_path / "list"
    listed.write_text("||ads.example^\n")
    port = free_port()
    dns = config("rcode://success", port, lists={"ads": {"path": str(listed)}}, nameserver=["rcode://name_error"])
    async with serving(tmp_path / "home", dns) as house:
        await house.refresh_lists()
        assert shown(await ask(port, "ads.example")) == ["ads.example 60 A 0.0.0.0"]
        listed.write_text("||other.example^\n")
        assert await house.refresh_lists()
        assert rcode(await ask(port, "ads.example")) == "NXDOMAIN"
        assert shown(await ask(port, "other.example")) == ["other.example 60 A 0.0.0.0"]


async def test_what_was_known_comes_back_after_a_restart(tmp_path: Path) -> None:
    upstream, port = Counted(WWW), free_port()
    async with udp_server(upstream) as server:
        for _ in range(2):
            async with serving(tmp_path, config(server, port)):
                assert len(shown(await ask(port, "www.example"))) == 1
    assert len([query for query in upstream.queries if b"\3www" in query.lower()]) == 1


async def test_fake_addresses_come_back_after_a_restart_and_change_with_their_range(tmp_path: Path) -> None:
    port = free_port()
    fake = config("rcode://success", port, enhanced_mode="fake-ip", fake_ip_range="198.18.0.0/24")
    other = config("rcode://success", port, enhanced_mode="fake-ip", fake_ip_range="10.9.0.0/24")
    async with serving(tmp_path, fake) as house:
        assert shown(await ask(port, "www.example")) == ["www.example 1 A 198.18.0.4"]
        await house.change(other, {})
        assert shown(await ask(port, "www.example")) == ["www.example 1 A 10.9.0.4"]
        await house.change(fake, {})
        assert shown(await ask(port, "mail.example")) == ["mail.example 1 A 198.18.0.5"]
    async with serving(tmp_path, fake):
        assert shown(await ask(port, "mail.example")) == ["mail.example 1 A 198.18.0.5"]
        assert shown(await ask(port, "www.example")) == ["www.example 1 A 198.18.0.4"]


async def test_a_worker_answers_too_and_hears_of_changes(tmp_path: Path) -> None:
    port = free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port, workers=1)) as house:
        for _ in range(3):
            assert shown(await ask(port, "www.example")) == ["www.example 300 A 198.51.100.1"]
        await house.change(config(server, port, workers=1, block=["www.example"]), {})

        async def is_blocked() -> bool:
            return shown(await ask(port, "www.example")) == ["www.example 60 A 0.0.0.0"]

        await eventually(is_blocked)
        assert [key.kind for key in house.doors.keys] == ["tcp", "crew"]


class Asking:
    """Clients that ask one after the other, without a pause, while something is done to the doors."""

    def __init__(self, host: str, port: int, ask: Callable[[str, int], Awaitable[str]]) -> None:
        self.host, self.port, self.ask = host, port, ask
        self.told: list[str] = []

        self._told = trio.Condition()

    async def run(self) -> None:
        while True:
            self.told.append(await self.ask(self.host, self.port))
            async with self._told:
                self._told.notify_all()

    async def have_asked(self, more: int) -> None:
        """Until so many more were told."""
        enough = len(self.told) + more
        async with self._told:
            while len(self.told) < enough:
                await self._told.wait()


async def once_by_udp(host: str, port: int) -> str:
    """One datagram, not repeated: lost is lost."""
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.connect((host, port))
        await sock.send(query_wire("www.example"))
        with trio.move_on_after(3):
            return rcode(dns.message.from_wire(await sock.recv(4096)))
    return "lost"


async def once_by_tcp(host: str, port: int) -> str:
    try:
        async with await trio.open_tcp_stream(host, port) as stream:
            return rcode(await ask_over(stream, "www.example"))
    except (OSError, trio.BrokenResourceError, dns.exception.DNSException) as fault:
        return repr(fault)


PLACES = [
    ({"listen": "127.0.0.1"}, {"listen": "0.0.0.0"}),
    ({"listen": "127.0.0.1"}, {"listen": ""}),
    ({"listen": "127.0.0.1", "workers": 2}, {"listen": "127.0.0.1"}),
    ({"listen": "127.0.0.1", "workers": 2}, {"listen": ""}),
    ({"listen": "127.0.0.1", "workers": 2}, {"listen": "127.0.0.1", "workers": 1}),
]


@pytest.mark.parametrize(("one", "other"), PLACES)
async def test_doors_move_at_the_same_port_and_no_question_is_lost(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:
    port = free_port()
    async with udp_server(WWW) as server:
        there, back = (config(server, port, **{**keys, "listen": f"{keys['listen']}:{port}"}) for keys in (one, other))
        async with serving(tmp_path, there) as house, trio.open_nursery() as nursery:
            askers = [Asking("127.0.0.1", port, ask) for ask in (once_by_udp, once_by_udp, once_by_tcp)]
            for asker in askers:
                nursery.start_soon(asker.run)
            for wanted in (back, there, back, there):
                await house.change(wanted, {})
                assert house.doors.keys == wanted_doors(wanted.doors)
                for asker in askers:
                    await asker.have_asked(20)
            nursery.cancel_scope.cancel()
        for asker in askers:
            assert set(asker.told) == {"NOERROR"}


async def test_a_question_on_its_way_is_answered_though_its_door_closes(tmp_path: Path) -> None:
    port, other, gate = free_port(), free_port(), trio.Event()

    async def answer_late(sock: trio.socket.SocketType) -> None:
        asked = [await sock.recvfrom(4096)]
        await gate.wait()
        while True:
            await sock.sendto(WWW(asked[-1][0]) or b"", asked[-1][1])
            asked.append(await sock.recvfrom(4096))

    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{sock.getsockname()[1]}"
        async with serving(tmp_path, config(server, port)) as house, trio.open_nursery() as late:
            late.start_soon(answer_late, sock)
            await _asked_over_closed_doors(house, config(server, other), port, gate)
            late.cancel_scope.cancel()


async def _asked_over_closed_doors(house: Serving, then: DnsConfig, port: int, gate: trio.Event) -> None:
    told: list[str] = []

    async def wait_for(asked: Callable[[str, int], Awaitable[str]]) -> None:
        told.append(await asked("127.0.0.1", port))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for, once_by_udp)
        nursery.start_soon(wait_for, once_by_tcp)
        await trio.testing.wait_all_tasks_blocked(0.2)
        await house.change(then, {})
        gate.set()
    assert told == ["NOERROR", "NOERROR"]


async def test_what_came_in_by_doors_that_were_given_up_again_is_answered(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port)) as house:
        staged = await house.stage(config(server, other), {}, house.around)
        with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
            await sock.connect(("127.0.0.1", other))
            await sock.send(query_wire("www.example"))
            house.abandon(staged)
            with trio.fail_after(60):
                assert rcode(dns.message.from_wire(await sock.recv(4096))) == "NOERROR"
        await eventually(lambda: is_free(other))


@pytest.mark.parametrize("keys", [{}, {"workers": 1}])
async def test_a_second_server_at_the_same_port_is_refused(tmp_path: Path, keys: dict[str, Any]) -> None:
    port = free_port()
    async with udp_server(WWW) as server, serving(tmp_path / "one", config(server, port, **keys)) as house:
        await house.change(config(server, port, listen=f":{port}", **keys), {})
        await house.change(config(server, port, **keys), {})
        with pytest.raises(ConfigFault, match="listen"):
            await Serving(tmp_path / "other", config(server, port)).stage(config(server, port), {}, house.around)
        if not keys:
            # Nor does anybody join who shares ports with whoever lets him.
            with socket.socket(type=socket.SOCK_DGRAM) as greedy:
                greedy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                with pytest.raises(OSError, match="in use"):
                    greedy.bind(("127.0.0.1", port))


class Marks:
    """Stands for the kernel's connections."""

    def __init__(self) -> None:
        self.looked_for: list[tuple[int, tuple[str, int], tuple[str, int]]] = []

    def mark(self, protocol: int, client: tuple[str, int], local: tuple[str, int]) -> int:
        self.looked_for.append((protocol, client, local))
        return 0


@pytest.mark.parametrize("workers", [0, 1])
async def test_the_mark_is_that_of_the_very_connection(tmp_path: Path, workers: int) -> None:
    """With several doors of a kind each client's question belongs to the port it was sent to."""
    ports, secure = [free_port(), free_port()], [free_port(), free_port()]
    listen = {
        "listen": [f"127.0.0.1:{port}" for port in ports],
        "listen-tls": [f"127.0.0.1:{port}" for port in secure],
    }
    marks = Marks()
    async with (
        udp_server(zone()) as upstream,
        serving(tmp_path, config(upstream, 0, connmark=True, workers=workers, **listen)) as house,
    ):
        house.server._marks = marks  # type: ignore[assignment]
        told = []
        for at, port in enumerate(ports * 2):
            with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
                await sock.connect(("127.0.0.1", port))
                told.append((17, sock.getsockname(), ("127.0.0.1", port)))
                await sock.send(query_wire(f"n{at}.example"))
                with trio.fail_after(60):
                    await sock.recv(4096)
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                told.append((6, stream.socket.getsockname(), ("127.0.0.1", port)))
                await ask_over(stream, f"t{at}.example")
        for port in secure:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                told.append((6, stream.socket.getsockname(), ("127.0.0.1", port)))
                await ask_over(trio.SSLStream(stream, _careless()), f"s{port}.example")  # type: ignore[arg-type]
        assert marks.looked_for == told


def _careless() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.mark.parametrize("workers", [0, 1])
def test_an_address_that_comes_later(tmp_path: Path, workers: int) -> None:
    text = f"""
dns:
  listen: [127.0.0.1:5300, 192.0.2.7:5300]
  workers: {workers}
  records: [www.example A 198.51.100.1]
"""
    by = " by 1 workers" if workers else ""
    places = ["tcp://127.0.0.1:5300", "tcp://192.0.2.7:5300", f"udp://127.0.0.1:5300{by}", f"udp://192.0.2.7:5300{by}"]
    late = " (waits for the address 192.0.2.7)"
    with namespace() as here, ExitStack() as stack:
        running = here.call(stack.enter_context, server(tmp_path, text, 5300))

        def answers(address: str, *how: str) -> list[str]:
            done = here.call(lambda: cyfs_ns("resolve", "www.example", f"@{address}:5300", "--short", *how))
            return done.stdout.split()

        def doors() -> list[str]:
            return sorted(json.loads(running.run("status", "--json").stdout)["doors"])

        assert doors() == [places[0], places[1] + late, places[2], places[3] + late]
        assert "no address 192.0.2.7; is it right?" in running.log.read_text()
        assert answers("127.0.0.1") == ["198.51.100.1"]
        here.run("ip", "address", "add", "192.0.2.7/24", "dev", "lo")
        # Who is on our links, and so may ask, is known by then, too.
        while "the address 192.0.2.7 has come" not in running.log.read_text():
            time.sleep(0.05)
        assert answers("192.0.2.7") == answers("192.0.2.7", "--tcp") == ["198.51.100.1"]
        assert doors() == places


@ROOT
async def test_doors_of_an_interface(tmp_path: Path) -> None:
    port = free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port, interfaces=["lo"])) as house:
        assert {key.interface for key in house.doors.keys} == {"lo"}
        assert rcode(await ask(port, "www.example")) == "NOERROR"
        # One that is not there yet disturbs nobody.
        await house.change(config(server, port, interfaces=["lo", "nosuch0"]), {})
        assert {key.interface for key in house.doors.keys} == {"lo"}
        assert rcode(await ask(port, "www.example")) == "NOERROR"


def test_the_doors_of_a_configuration() -> None:
    dns = config("1.1.1.1", 53, listen=":53", listen_tls="0.0.0.0:853", listen_http="127.0.0.1:80", workers=0)
    assert [(key.kind, key.host, key.port) for key in wanted_doors(dns.doors)] == [
        ("tcp", "::", 53), ("tls", "0.0.0.0", 853), ("http", "127.0.0.1", 80), ("udp", "0.0.0.0", 53),
        ("udp", "::", 53),
    ]  # fmt: skip
