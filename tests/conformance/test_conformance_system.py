"""The server as a house lives with it: upstreams that vanish, a power cut, files that change under it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import dns.message
import dns.rcode
import pytest
from asking import many_over_udp
from badserver import Act, bad_server
from fixturezones import Internet
from livehouse import LiveHouse, eventually, live_house

from tests.freeport import free_port

ANSWER = "198.18.1.3"  # of everything below wild.alpha.example


def query(name: str, rtype: str = "A") -> bytes:
    return bytes(dns.message.make_query(name, rtype).to_wire())


def answers(wire: bytes | None) -> list[str]:
    """Record data as text; ``!`` and the return code for a failure, of which silence is one."""
    if wire is None:
        return ["!silence"]
    told = dns.message.from_wire(wire)
    if told.rcode():
        return [f"!{dns.rcode.to_text(told.rcode())}"]
    return [data.to_text() for rrset in told.answer for data in rrset]


# One of three upstreams is a black hole


def honest(asked: bytes, way: str) -> Iterable[Act]:
    end = asked.index(b"\0", 12) + 5
    return [asked[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + asked[12:end] + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc6\x12\1\3"]


@pytest.mark.parametrize(
    ("strategy", "count"),
    [("staggered", 2000), ("parallel", 300), ("fastest", 300), ("weighted", 300), ("strict", 300)],
)
@pytest.mark.parametrize("hole", [0, 2])
def test_a_black_hole_costs_no_client_a_failure(
    internet: Internet, tmp_path: Path, strategy: str, count: int, hole: int
) -> None:
    """It swallows questions from the first on, or begins to when a third of them are answered."""
    swallowing = threading.Event()
    if not hole:
        swallowing.set()

    def behave(asked: bytes, way: str) -> Iterable[Act]:
        return [] if swallowing.is_set() else honest(asked, way)

    with ExitStack() as stack:
        ports = [stack.enter_context(bad_server(each)) for each in (honest, behave)]
        servers = [f"udp://127.0.0.1:{port}" for port in (internet.port, *ports)]
        servers.insert(hole, servers.pop())
        house = stack.enter_context(live_house(tmp_path, {"nameserver": servers, "strategy": strategy}))
        queries = [query(f"{strategy}{number}.wild.alpha.example") for number in range(count)]
        third = count // 3
        replies = many_over_udp(house.ports["plain"], queries[:third], at_once=40, tries=1)
        swallowing.set()
        replies += many_over_udp(house.ports["plain"], queries[third:], at_once=40, tries=1)
        house.assert_well()
    failures = [(asked, told) for asked, told in zip(queries, map(answers, replies), strict=True) if told != [ANSWER]]
    assert not failures, f"{len(failures)} failed: {failures[:3]}"


# A power cut


KEPT = [f"kept{number}.example" for number in range(500)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """Where a house was killed that had saved ``KEPT``, and its settings."""
    place, port = tmp_path_factory.mktemp("killed"), free_port()
    settings: dict[str, object] = {"nameserver": [f"udp://127.0.0.1:{port}"], "cache": {"save-interval": 1}}
    with bad_server(honest, port=port), live_house(place, settings) as house:
        first = many_over_udp(house.ports["plain"], [query(name) for name in KEPT])
        assert [answers(reply) for reply in first] == [[ANSWER]] * len(KEPT)
        saved = house.home / "cache"
        eventually(lambda: saved.exists() and all(name.split(".")[0].encode() in saved.read_bytes() for name in KEPT))
        house.kill()
    return place, settings


@pytest.mark.parametrize("harm", ["none", "torn", "zeros", "noise"])
def test_the_cache_comes_back_after_a_kill(killed: tuple[Path, dict[str, object]], tmp_path: Path, harm: str) -> None:
    (place, settings), names = killed, KEPT
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    spoil(tmp_path / "home" / "cache", harm)
    with live_house(tmp_path, settings) as house:  # and nobody to ask
        again = [answers(reply) for reply in many_over_udp(house.ports["plain"], [query(name) for name in names])]
        house.assert_well()
        came_back = again.count([ANSWER])
        assert came_back == len(names) if harm in ("none", "zeros", "noise") else 450 < came_back < len(names)
        ttls = [dns.message.from_wire(house.ask(query(name)) or b"").answer[0].ttl for name in names[:5]]
        assert all(0 < ttl <= 60 for ttl in ttls)


def spoil(saved: Path, harm: str) -> None:
    content = saved.read_bytes()
    match harm:
        case "torn":
            saved.write_bytes(content[: len(content) - 2000])
        case "zeros":
            saved.write_bytes(content + bytes(4096))
        case "noise":
            saved.write_bytes(content + os.urandom(4096))


# Files


def test_hosts_and_leases_are_picked_up(internet: Internet, tmp_path: Path) -> None:
    hosts, leases = tmp_path / "hosts", tmp_path / "leases"
    hosts.write_text("192.168.7.1 printer.lan printer\n")
    settings = {
        "nameserver": [f"udp://127.0.0.1:{internet.port}"],
        "domain": "lan",
        "hosts-files": [str(hosts)],
        "lease-files": [str(leases)],
    }
    with live_house(tmp_path / "house", settings) as house:

        def told(name: str, rtype: str = "A") -> list[str]:
            return answers(house.ask(query(name, rtype)))

        assert told("printer.lan") == ["192.168.7.1"]
        assert told("1.7.168.192.in-addr.arpa", "PTR") == ["printer.lan."]
        hosts.write_text("192.168.7.2 printer.lan\n")
        eventually(lambda: told("printer.lan") == ["192.168.7.2"])
        assert told("1.7.168.192.in-addr.arpa", "PTR") == ["!NXDOMAIN"]
        replaced(hosts, "192.168.7.3 printer.lan\n::bad garbage \x00\n")
        eventually(lambda: told("printer.lan") == ["192.168.7.3"])
        hosts.unlink()
        eventually(lambda: told("printer.lan") == ["!NXDOMAIN"])
        hosts.write_text("192.168.7.4 printer.lan\n")
        eventually(lambda: told("printer.lan") == ["192.168.7.4"])

        assert told("laptop.lan") == ["!NXDOMAIN"]
        leases.write_text("4000000000 02:00:00:00:00:01 192.168.7.50 laptop *\n")
        eventually(lambda: told("laptop.lan") == ["192.168.7.50"])
        eventually(lambda: told("laptop") == ["192.168.7.50"])
        assert told("50.7.168.192.in-addr.arpa", "PTR") == ["laptop.lan."]
        replaced(leases, "4000000000 02:00:00:00:00:01 192.168.7.51 laptop *\nhalf a li")
        eventually(lambda: told("laptop.lan") == ["192.168.7.51"])
        leases.write_text("")
        eventually(lambda: told("laptop.lan") == ["!NXDOMAIN"])
        assert told("www.alpha.example") == ["alpha.example.", "198.18.1.1"]
        house.assert_well()


def replaced(path: Path, text: str) -> None:
    """Written beside and renamed over, as careful programs do."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def test_a_loop_is_seen_and_broken(tmp_path: Path) -> None:
    """The upstream forwards to ourselves: no storm, SERVFAIL, and the other server serves."""
    port: dict[str, int] = {}

    def behave(asked: bytes, way: str) -> Iterable[Act]:
        reply = LiveHouse.ask(house, asked)
        return [] if reply is None else [reply]

    with ExitStack() as stack:
        looping = stack.enter_context(bad_server(lambda asked, way: behave(asked, way) if port else []))
        good = stack.enter_context(bad_server(honest))
        servers = [f"udp://127.0.0.1:{looping}", f"udp://127.0.0.1:{good}"]
        house = stack.enter_context(live_house(tmp_path, {"nameserver": servers}))
        port.update(house.ports)
        replies = many_over_udp(house.ports["plain"], [query(f"loop{number}.example") for number in range(50)])
        assert [answers(reply) for reply in replies] == [[ANSWER]] * 50
        house.assert_well()
