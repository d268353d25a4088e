"""A home in three network namespaces: a host, a router that runs the real miniupnpd, and the world beyond it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.cyfs_ns.netns import Namespace, namespace

HOST, ROUTER, WORLD = "192.168.77.2", "192.168.77.1", "11.0.0.2"
OUTSIDE = "11.0.0.1"
"""miniupnpd takes no address of documentation for a public one."""
HOST6, ROUTER6, WORLD6 = "2a0f:77::2", "2a0f:77::1", "2a0f:11::2"
ROUTER_LINK = "fe80::77"
"""The address by which a host knows an IPv6 router."""

RULES = """
table inet filter {
    chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept;
        iifname "lan" accept; jump miniupnpd; }
    chain miniupnpd { }
    chain prerouting { type nat hook prerouting priority -100; policy accept; jump prerouting_miniupnpd; }
    chain postrouting { type nat hook postrouting priority 100; policy accept; jump postrouting_miniupnpd;
        meta nfproto ipv4 oifname "wan" masquerade; }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}
"""
CONFIGURATION = """
ext_ifname=wan
ext_ifname6=wan
listening_ip=lan
enable_natpmp={natpmp}
enable_upnp={upnp}
force_igd_desc_v1={first}
secure_mode=yes
system_uptime={old}
min_lifetime=20
max_lifetime=86400
http_port=49152
upnp_table_name=filter
upnp_nat_table_name=filter
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
notify_interval=60
uuid=6bba40a3-60ba-4f44-8a46-4f3cc4a4a5e1
allow 1-65535 0.0.0.0/0 1-65535
"""


class Home:
    """``inside`` is where the gateway under test lives."""

    def __init__(self, inside: Namespace, router: Namespace, world: Namespace, place: Path) -> None:
        self.inside, self.router, self.world, self._place = inside, router, world, place
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self, *, natpmp: bool = True, upnp: bool = True, first: bool = False, old: bool = False) -> None:
        """The router's daemon, until :meth:`stop`.

        ``first``: it is an IGDv1.  ``old``: its clock has run since the machine started.
        """
        words = {True: "yes", False: "no"}
        configuration = self._place / "miniupnpd.conf"
        configuration.write_text(
            CONFIGURATION.format(natpmp=words[natpmp], upnp=words[upnp], first=words[first], old=words[old])
        )
        argv = ["miniupnpd", "-d", "-f", str(configuration), "-P", str(self._place / "pid")]
        with (self._place / "miniupnpd.log").open("wb") as log:
            self._daemon = daemon = self.router.call(
                lambda: subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            )
        awaited = "Listening for NAT-PMP" if natpmp else "HTTP listening"
        for _ in range(3000):
            if awaited in self.log():
                return
            time.sleep(0.02)
        raise AssertionError(f"miniupnpd ({daemon.poll()}): {self.log()}")

    def stop(self) -> None:
        """By force, as if the power went: and the rules it made go with it."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None
            for chain in ("miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"):
                self.router.run("nft", "flush", "chain", "inet", "filter", chain)

    def log(self) -> str:
        """What the daemon said since it was started."""
        return (self._place / "miniupnpd.log").read_text(errors="replace")

    def rules(self) -> str:
        """What the daemon has the kernel do."""
        return self.router.run("nft", "list", "ruleset")

    def play(self, scene: Callable[[], Awaitable[None]]) -> None:
        """A scene of a trio program that runs inside; sockets it opens belong there.  It must not use ``inside``."""

        async def bounded() -> None:
            with trio.fail_after(110):
                await scene()

        self.inside.call(trio.run, bounded)


def ip(*words: str) -> None:
    """For a scene: the thread it runs in is the one that is inside."""
    subprocess.run(["ip", *words], check=True, timeout=60)


async def udp_arrives(home: Home, place: tuple[str, int], port: int, tries: int = 100) -> bool:
    """Whether a datagram from the world to ``place`` reaches ``port`` inside; for a scene."""
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    outer = home.world.call(socket.socket, family, socket.SOCK_DGRAM)
    with outer, trio.socket.socket(family, socket.SOCK_DGRAM) as inner:
        await inner.bind(("", port))
        for _ in range(tries):
            outer.sendto(b"knock", place)
            with trio.move_on_after(0.25):
                return (await inner.recv(16)) == b"knock"
    return False


async def tcp_arrives(home: Home, place: tuple[str, int], port: int, tries: int = 30) -> bool:
    """The same for a connection."""
    with trio.socket.socket() as inner:
        inner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await inner.bind(("", port))
        inner.listen()
        for _ in range(tries):
            with home.world.call(socket.socket) as outer:
                outer.setblocking(False)
                outer.connect_ex(place)
                with trio.move_on_after(1):
                    with (await inner.accept())[0]:
                        return True
    return False


@contextmanager
def home_of(place: Path, outside: str = OUTSIDE, *, daemon: bool = True) -> Iterator[Home]:
    """Skips the test, with the reason, where it cannot run; ``daemon``: it can be started."""
    if daemon and os.geteuid() == 0 and shutil.which("miniupnpd") is None:
        pytest.skip("needs miniupnpd (Debian package miniupnpd-nftables)")
    with namespace("nft") as inside, namespace() as router, namespace() as world:
        _wire(router, "lan", inside, "eth0")
        _wire(router, "wan", world, "eth0")
        _address(inside, "eth0", HOST, HOST6)
        _address(router, "lan", ROUTER, ROUTER6)
        _address(router, "wan", outside, "2a0f:11::1")
        _address(world, "eth0", WORLD, WORLD6)
        inside.run("ip", "route", "add", "default", "via", ROUTER)
        router.run("ip", "addr", "flush", "dev", "lan", "scope", "link")
        router.run("ip", "addr", "add", f"{ROUTER_LINK}/64", "dev", "lan", "nodad")
        inside.run("ip", "-6", "route", "add", "default", "via", ROUTER_LINK, "dev", "eth0")
        world.run("ip", "-6", "route", "add", "default", "via", "2a0f:11::1")
        router.run("ip", "route", "add", "default", "dev", "wan")
        for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            router.call(Path(f"/proc/sys/net/{family}").write_text, "1")
        rules = place / "rules.nft"
        rules.write_text(RULES)
        router.run("nft", "-f", str(rules))
        home = Home(inside, router, world, place)
        try:
            yield home
        finally:
            home.stop()


def _wire(one: Namespace, here: str, other: Namespace, there: str) -> None:
    thread = other.call(threading.get_native_id)
    one.run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", str(thread))


def _address(where: Namespace, interface: str, ip: str, ip6: str) -> None:
    where.call(Path(f"/proc/sys/net/ipv6/conf/{interface}/accept_dad").write_text, "0")
    where.run("ip", "addr", "add", f"{ip}/24", "dev", interface)
    where.run("ip", "addr", "add", f"{ip6}/64", "dev", interface, "nodad")
    where.run("ip", "link", "set", interface, "up")
