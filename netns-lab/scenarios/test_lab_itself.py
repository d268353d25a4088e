"""The lab keeps its own promises: what it declares is what packets meet, and nothing of it stays."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import trio
from netnslab import (
    FULL_CONE,
    HAIRPIN,
    HOME,
    ONE_TO_ONE,
    PER_ADDRESS,
    POOL,
    PORT_RESTRICTED,
    PREDICTABLE,
    RESTRICTED,
    SYMMETRIC,
    Host,
    Lab,
    Link,
    Nat,
    Network,
    need,
)
from netnslab.lab import sweep
from netnslab.process import CommandFailed, until
from netnslab.traffic import ask_udp, measure_nat, reflector, udp_echo


def traces(pid: int) -> set[str]:
    """What the labs of one process have on this machine: namespaces, and directories of their names' beginnings."""
    return {file.name for place in ("/run/netns", tempfile.gettempdir()) for file in Path(place).glob(f"nl-{pid}-*")}


def internet(lab: Lab) -> Network:
    return lab.network("198.51.100.0/24", "2001:db8:1::/64", name="internet")


async def test_hosts_behind_two_routers_reach_the_internet_in_both_families(lab):
    net = internet(lab)
    server = lab.host(net, name="server")
    carrier = lab.network("100.64.0.0/24", "2001:db8:64::/64", uplink=net, nat=HOME, name="carrier")
    home = lab.network("192.168.1.0/24", "2001:db8:a::/64", uplink=carrier, nat=FULL_CONE, name="home")
    laptop = lab.host(home, name="laptop")
    async with lab.up(), trio.open_nursery() as nursery:
        for ip in (server.ip, server.ip6):
            await nursery.start(udp_echo, server, ip, 7)
        await nursery.start(udp_echo, laptop, laptop.ip6, 7)
        assert await ask_udp(laptop, (server.ip, 7), b"four") == carrier.router.ip.encode() + b"|four"
        assert await ask_udp(laptop, (server.ip6, 7), b"six") == laptop.ip6.encode() + b"|six"
        assert await ask_udp(server, (laptop.ip6, 7), b"in") == server.ip6.encode() + b"|in"
        with pytest.raises(OSError, match="unreachable"):
            await ask_udp(server, (laptop.ip, 7), b"private")
        nursery.cancel_scope.cancel()


async def test_a_link_delays_and_loses(lab):
    net = internet(lab)
    near = lab.host(net, name="near")
    far = lab.host(net, name="far", link=Link(delay=0.03, loss=0.2, seed=7))
    async with lab.up(), trio.open_nursery() as nursery:
        await nursery.start(udp_echo, far, far.ip, 7)
        with await near.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            began = trio.current_time()
            for n in range(100):
                await sock.sendto(bytes([n]), (far.ip, 7))
            assert await sock.recv(100)
            assert trio.current_time() - began >= 0.06
            received = 1
            with trio.move_on_after(0.5):
                while True:
                    await sock.recv(100)
                    received += 1
        nursery.cancel_scope.cancel()
    assert 0.4 * 100 < received < 0.9 * 100


NATS = (HOME, FULL_CONE, RESTRICTED, PORT_RESTRICTED, SYMMETRIC, PREDICTABLE, PER_ADDRESS, POOL, HAIRPIN, ONE_TO_ONE)


async def test_every_router_behaves_as_its_nat_says(lab):
    net = internet(lab)
    server = lab.host(net, name="server", addresses=2)
    ips, ports = [ip for ip in server.addresses if ":" not in ip], [3478, 3479]
    homes = {nat: lab.network("192.168.1.0/24", uplink=net, nat=nat, name=nat.name) for nat in NATS}
    hosts = {nat: (lab.host(home), lab.host(home)) for nat, home in homes.items()}
    measured = {}

    async def measure(nat: Nat) -> None:
        a, b = hosts[nat]
        seen = await measure_nat(a, ips, ports)
        hairpin = nat is not ONE_TO_ONE and await hairpins(a, b, (ips[0], ports[0]))
        measured[nat.name] = (seen.mapping, seen.filtering, seen.port_kept, hairpin, seen.outside[0])

    async with lab.up(), trio.open_nursery() as nursery:
        await nursery.start(reflector, server, ips, ports)
        async with trio.open_nursery() as measuring:
            for nat in NATS:
                measuring.start_soon(measure, nat)
        nursery.cancel_scope.cancel()
    assert measured == {
        nat.name: (nat.mapping, nat.filtering, nat.port_kept, nat.hairpin, homes[nat].router.ip) for nat in NATS
    }


async def hairpins(a: Host, b: Host, server: tuple[str, int]) -> bool:
    """Whether ``b`` reaches ``a`` on the address the server sees."""
    with await b.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth, trio.fail_after(60):
        while True:
            # A router with a thousand ports may mean one for two sockets, and then drops what the second says.
            with await a.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
                for _ in range(3):  # datagrams may be lost
                    await ear.sendto(b"who?", server)
                    seen = b""
                    with trio.move_on_after(0.5):
                        seen = await ear.recv(100)
                    if seen:
                        ip, port = seen.decode().split()
                        return await meets(ear, mouth, (ip, int(port)))


async def meets(ear: trio.socket.SocketType, mouth: trio.socket.SocketType, address: tuple[str, int]) -> bool:
    for _ in range(3):
        await mouth.sendto(b"neighbour", address)
        with trio.move_on_after(0.2):
            while await ear.recv(100) != b"neighbour":
                pass  # the server's answer to a question that was repeated
            return True
    return False


async def test_nothing_is_left_after_a_test_that_fails_and_its_story_is_kept(lab, tmp_path):
    before = traces(os.getpid())
    doomed = Lab("doomed", failures=tmp_path)
    host = doomed.host(internet(doomed), name="host")
    with pytest.raises(ZeroDivisionError):
        async with doomed.up():
            process = host.start("sh", "-c", "echo hello; sleep 60", name="talker")
            await process.says("hello")
            await ask_udp(host, ("198.51.100.99", 7), b"anybody?", timeout=0.2)
            raise ZeroDivisionError
    assert traces(os.getpid()) == before
    assert process.code is not None
    kept = {file.name for file in (tmp_path / "doomed").iterdir()}
    assert "host.state.txt" in kept
    assert any(name.startswith("host.talker") for name in kept)
    if "internet.pcap" in kept:
        assert (tmp_path / "doomed" / "internet.pcap").stat().st_size > 24


async def test_a_test_that_hangs_fails_and_is_kept_too(lab, tmp_path):
    stuck = Lab("stuck", failures=tmp_path)
    stuck.host(internet(stuck), name="host")
    with pytest.raises(trio.TooSlowError):
        async with stuck.up(timeout=1):
            await trio.sleep_forever()
    assert (tmp_path / "stuck" / "host.state.txt").exists()


async def test_leftovers_of_a_killed_run_are_swept_and_those_of_the_living_are_not(lab):
    script = textwrap.dedent("""
        import os, signal, trio
        from netnslab import Lab
        async def main():
            lab = Lab("victim")
            host = lab.host(lab.network("198.51.100.0/24"), name="victim")
            async with lab.up():
                host.start("sleep", "60")
                (lab.directory / "place").mkdir()
                await lab.give_disk(lab.directory / "place", 1 << 20)
                print(host.namespace, flush=True)
                await trio.sleep_forever()
        trio.run(main)
    """)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    victim = await trio.to_thread.run_sync(
        lambda: subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=env)
    )
    with victim:
        name = (await trio.to_thread.run_sync(victim.stdout.readline)).strip()
        await trio.to_thread.run_sync(sweep)
        assert name in traces(victim.pid)
        victim.kill()
    await trio.to_thread.run_sync(sweep)
    assert not traces(victim.pid)


async def test_a_command_that_hangs_is_cut_off(lab):
    host = lab.host(internet(lab))
    async with lab.up():
        with pytest.raises(CommandFailed, match="not done in"):
            await host.run("sleep", "60", timeout=0.1)


async def test_sockets_made_for_a_host_live_there(lab):
    net = internet(lab)
    a, b = lab.host(net), lab.host(net)
    async with lab.up():
        with (
            await a.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear,
            await b.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth,
        ):
            await ear.bind((a.ip, 5000))
            await mouth.sendto(b"hello", (a.ip, 5000))
            with trio.fail_after(60):
                data, source = await ear.recvfrom(100)
    assert (data, source[0]) == (b"hello", b.ip)


async def test_a_machine_has_its_own_processes_and_loses_them_all_with_its_power(lab):
    need("unshare", "nsenter", "pgrep")
    net = internet(lab)
    a, b = lab.host(net), lab.host(net)
    async with lab.up():
        for host in (a, b):
            await host.switch_on()
        # What has left its parent and its session is on the machine still.
        await a.run("sh", "-c", "(setsid sleep 61 & setsid sleep 62 &) >/dev/null 2>&1")
        await until("both sleep", lambda: sleep(a, 2))
        assert await sleep(b, 0)
        polite = a.start("sh", "-c", "trap 'exit 7' TERM; echo here; while :; do sleep 0.05; done")
        await polite.says("here")
        assert await polite.stop() == 7
        await a.run("pkill", "-f", "sleep 62")
        await until("the dead are buried", lambda: sleep(a, 1))
        await a.cut_power()
        await a.switch_on()
        assert await sleep(a, 0)


async def test_a_disk_of_its_own_is_full_for_the_machine_alone(lab):
    host = lab.host(internet(lab), name="host")
    async with lab.up():
        place = lab.directory / "place"
        place.mkdir()
        (place / "before").write_text("there")
        await lab.give_disk(place, 1 << 20)
        await host.switch_on()
        assert (await host.run("cat", str(place / "before"))).out == "there"
        full = await host.run("dd", "if=/dev/zero", f"of={place}/zeros", "bs=64k", check=False)
        assert "No space left" in full.err
        (lab.directory / "beside").write_bytes(bytes(1 << 21))


async def sleep(host, count):
    """Whether so many programs of that name are there; zombies are."""
    return len((await host.run("pgrep", "-x", "sleep", check=False)).out.split()) == count
