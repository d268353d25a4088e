"""Name servers asked through the real sing-box: ``server#PROXY`` over SOCKS5, UDP ASSOCIATE too, and over HTTP.

sing-box goes on from an address of its own, 127.0.0.77, so a real dnsmasq behind it says who asked.
"""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from e2e_house import dnsmasq, gateway, program, sing_box, until

from tests.freeport import free_port

USER = {"username": "alice", "password": "wonder land"}
PROXY, SELF = "127.0.0.77", "127.0.0.1"
FAR, NEAR = "192.0.2.1", "192.0.2.2"
"""What the server behind the proxy answers of every name, and what the other one does."""


@dataclass
class Names:
    """kdig, our gateway, sing-box, and two name servers."""

    root: Path
    far: int
    near: int
    ports: dict[str, int]
    numbers: Iterator[int] = field(default_factory=itertools.count)
    door: int = 0
    """The port of the house that was entered last."""

    @property
    def far_log(self) -> str:
        return (self.root / "far" / "dnsmasq.log").read_text()

    def asked_by(self, name: str) -> set[str]:
        """Who asked the server behind the proxy for a name."""
        return {line.rpartition(" from ")[2] for line in self.far_log.splitlines() if f"] {name} from " in line.lower()}

    def fresh(self, way: str) -> str:
        return f"n{next(self.numbers)}.{way}.example"

    def proxy(self) -> dict[str, Any]:
        common = {"listen": "127.0.0.1", "users": [USER]}
        return {
            "inbounds": [
                {"type": "socks", "tag": "s", "listen_port": self.ports["socks"], **common},
                {"type": "http", "tag": "h", "listen_port": self.ports["http"], **common},
            ],
            "outbounds": [{"type": "direct", "tag": "direct", "inet4_bind_address": PROXY}],
        }

    def config(self, servers: Mapping[str, Sequence[str]], **more: object) -> dict[str, Any]:
        """Names below ``WAY.example`` are asked of ``servers[WAY]``, where ``far#...`` and ``near`` stand for two."""
        ports = {"far": f"127.0.0.1:{self.far}", "near": f"127.0.0.1:{self.near}"}
        at = {"server": "127.0.0.1", **USER}
        return {
            "ipv6": False,
            "dns": {
                "enable": True,
                "listen": f"127.0.0.1:{self.door}",
                "use-system-hosts": False,
                "nameserver": ["rcode://refused"],
                "nameserver-policy": {
                    f"+.{way}.example": [re.sub("far|near", lambda found: ports[found[0]], each) for each in listed]
                    for way, listed in servers.items()
                },
                **more,
            },
            "proxies": [
                {"name": "socks", "type": "socks5", "port": self.ports["socks"], "udp": True, **at},
                {"name": "socks-tcp", "type": "socks5", "port": self.ports["socks"], **at},
                {"name": "http", "type": "http", "port": self.ports["http"], **at},
            ],
            "proxy-groups": [{"name": "group", "type": "select", "proxies": ["socks"]}],
            "rules": ["MATCH,REJECT"],
        }

    @contextmanager
    def house(self, servers: Mapping[str, Sequence[str]], **more: object) -> Iterator[None]:
        before, self.door = self.door, free_port()
        with gateway(self.root / f"home{next(self.numbers)}", self.config(servers, **more)):
            yield
        self.door = before

    def ask(self, name: str, *words: str) -> list[str]:
        """Addresses, or the return code."""
        command = [program("kdig", "knot-dnsutils"), "@127.0.0.1", "-p", str(self.door), "+timeout=15"]
        told = subprocess.run([*command, "+retry=0", name, *words], capture_output=True, text=True, check=True).stdout
        status = told.partition("status: ")[2].partition(";")[0]
        answers = [line.split()[-1] for line in told.splitlines() if line and not line.startswith(";")]
        return answers if status == "NOERROR" else [status]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Names]:
    root = tmp_path_factory.mktemp("names")
    with ExitStack() as stack:
        servers = []
        for name, address in (("far", FAR), ("near", NEAR)):
            (root / name).mkdir()
            big = [f"--host-record=big.{way}.example,198.51.100.{n}" for way in WAYS for n in range(1, 201)]
            words = ["--log-queries", f"--address=/example/{address}", *big]
            servers.append(stack.enter_context(dnsmasq(root / name, *words)))
        yield Names(root, *servers, {name: free_port() for name in ("socks", "http")})


WAYS = {
    "udp": ("far#socks", "socks[s]: [alice] inbound packet connection"),
    "group": ("far#group", "socks[s]: [alice] inbound packet connection"),
    "no-udp": ("far#socks-tcp", "socks[s]: [alice] inbound connection"),
    "tcp": ("tcp://far#socks", "socks[s]: [alice] inbound connection"),
    "http": ("far#http", "http[h]: [alice] inbound connection"),
    "tcp-http": ("tcp://far#http", "http[h]: [alice] inbound connection"),
}
"""Servers, and what the proxy must say when they are asked."""


@pytest.fixture(scope="class")
def proxy(names: Names) -> Iterator[Path]:
    """A house asks by every way; the log of the proxy."""
    servers = {way: [server] for way, (server, _) in WAYS.items()}
    with (
        sing_box(names.root / "proxy", names.proxy()) as log,
        names.house({**servers, "open": ["far"]}),
    ):
        yield log


class TestWithAProxy:
    @pytest.mark.parametrize("way", WAYS)
    def test_the_server_sees_the_proxy(self, names: Names, proxy: Path, way: str) -> None:
        def news() -> str:
            return proxy.read_text()[before:]

        before = len(proxy.read_text())
        for _ in range(3):
            name = names.fresh(way)
            assert names.ask(name) == [FAR]
            assert names.asked_by(name) == {PROXY}
        wanted = f"inbound/{WAYS[way][1]} to 127.0.0.1:{names.far}"
        # A connection may have been open since the start.
        until(f"the proxy says {wanted}", lambda: wanted in proxy.read_text(), proxy.read_text)
        assert ("packet" in news()) is ("packet" in wanted)
        assert len(names.ask(f"big.{way}.example", "+tcp")) == 200, "too large for a datagram"
        assert names.asked_by(f"big.{way}.example") == {PROXY}

    def test_a_server_without_a_proxy_is_asked_openly(self, names: Names, proxy: Path) -> None:
        name = names.fresh("open")
        assert names.ask(name) == [FAR]
        assert names.asked_by(name) == {SELF}


@pytest.mark.parametrize("strategy", ["staggered", "strict"])
def test_a_proxy_dies_and_comes_back(names: Names, strategy: str) -> None:
    """The next server takes over at once, nobody goes past the dead proxy, and the first one serves again later."""
    place = names.root / f"proxy {strategy}"
    ways = ("udp", "tcp", "http")
    with ExitStack() as alive, names.house({way: [WAYS[way][0], "near"] for way in ways}, strategy=strategy):
        alive.enter_context(sing_box(place, names.proxy()))
        for way in ways:
            assert names.ask(names.fresh(way)) == [FAR]
        alive.close()
        lost = [names.fresh(way) for way in ways for _ in range(5)]
        assert [names.ask(name) for name in lost] == [[NEAR]] * len(lost)
        assert not any(map(names.asked_by, lost)), "openly, past the proxy"
        with sing_box(place / "again", names.proxy()):
            for way in ways:
                until(f"{way} serves again", lambda way=way: names.ask(names.fresh(way)) == [FAR])


def test_without_its_proxy_a_server_is_not_asked(names: Names) -> None:
    with names.house({way: [server] for way, (server, _) in WAYS.items()}):
        asked = [names.fresh(way) for way in WAYS]
        with ThreadPoolExecutor() as crowd:  # they wait at the same time
            assert list(crowd.map(names.ask, asked)) == [["SERVFAIL"]] * len(asked)
        assert not any(map(names.asked_by, asked))
