"""Groups as outbounds, and health checks against real HTTP servers."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from cyfs_ns.errors import ConfigFault, Refused, Unreachable
from tests.tunnels import peers
from tests.tunnels.exam import check_endpoint, closed_port
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.group import Delay, Health, StatusRanges
from tunnels.io.direct import Sockets
from tunnels.io.groups import Group, leaf_of
from tunnels.io.health import Checker
from tunnels.io.leaf import Direct, Leaf
from tunnels.io.proxies import Http, Socks5
from tunnels.io.tls import TlsClient
from tunnels.outbound import FlowHint, Outbound
from tunnels.spec import (
    DialOptions,
    DirectSpec,
    GroupSpec,
    HttpSpec,
    RejectSpec,
    Socks5Spec,
    TlsOptions,
)

HINT = FlowHint(host="a.example")


async def no_names(host: str) -> Sequence[str]:
    return ["127.0.0.1"] if host == "localhost" else ()


def sockets() -> Sockets:
    return Sockets(DialOptions(connect_timeout=0.5), no_names)


def way(name: str) -> Direct:
    return Direct(DirectSpec(name=name), sockets())


class Broken(Leaf):
    """Leads nowhere."""

    def __init__(self, name: str) -> None:
        super().__init__(DirectSpec(name=name))

    async def open_stream(self, target: Target) -> Endpoint:
        raise Unreachable("broken", "connect_refused")

    async def open_packets(self, target: Target) -> PacketEndpoint:
        raise Unreachable("broken", "connect_refused")


COMPATIBLE = way("COMPATIBLE")


def group(kind: Any, *members: Outbound, health: Health | None = None, **options: Any) -> Group:
    made = Group(GroupSpec(name="g", kind=kind, **options), health or Health(), COMPATIBLE)
    made.set_members(members)
    return made


@asynccontextmanager
async def http_server(
    answer: Callable[[bytes], Awaitable[bytes]], context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    async def serve(stream: Any) -> None:
        if context is not None:
            stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        buffer = b""
        with trio.move_on_after(10):
            async for chunk in stream:
                buffer += chunk
                while b"\r\n\r\n" in buffer:
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    await stream.send_all(await answer(head))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def no_content(head: bytes) -> bytes:
    return b"HTTP/1.1 204 No Content\r\n\r\n"


def test_choosing_by_hand() -> None:
    made = group("select", way("a"), way("b"))
    assert (made.kind, made.now, made.all, made.fixed) == ("Selector", "a", ["a", "b"], "")
    made.select("b")
    assert made.now == "b" and made.snapshot() == "b"
    for wrong in ("c", ""):
        with pytest.raises(Refused):
            made.select(wrong)
    made.set_members([way("a")])
    assert made.now == "a"
    made.set_members([way("a"), way("b")])
    assert made.now == "b", "a provider that comes back must not lose the choice"
    again = group("select", way("a"), way("b"))
    again.restore(made.snapshot())
    assert again.now == "b"


def test_groups_that_choose_can_be_fixed_and_freed() -> None:
    for kind in ("url-test", "fallback"):
        made = group(kind, way("a"), way("b"))
        made.select("b")
        assert (made.now, made.fixed) == ("b", "b")
        made.select("")
        assert (made.now, made.fixed) == ("a", "")
    for kind in ("load-balance", "relay"):
        made = group(kind, way("a"), way("b"))
        assert made.now == ""
        with pytest.raises(Refused):
            made.select("a")


def test_a_group_without_members_is_compatible() -> None:
    made = group("url-test")
    assert made.all == ["COMPATIBLE"]
    assert made.pick(HINT) is COMPATIBLE
    made.set_members([way("a")])
    assert made.pick(HINT).name == "a"


@pytest.mark.parametrize("kind", ["url-test", "fallback", "load-balance"])
def test_who_can_never_be_opened_is_not_chosen_while_another_can(kind: str) -> None:
    lost, found = way("lost"), way("found")
    made = group(kind)
    made.set_members([lost, found], {"lost"})
    assert made.all == ["lost", "found"]
    assert {made.pick(FlowHint(host=f"{number}.example")) for number in range(16)} == {found}
    made.set_members([lost], {"lost"})
    assert made.pick(HINT) is lost


def test_a_selection_never_falls_to_another_member_by_itself() -> None:
    """The next one may be DIRECT."""
    made = group("select")
    made.set_members([way("lost"), way("found")], {"lost"})
    assert made.now == "lost"


def test_walking_down_to_the_leaf() -> None:
    leaf = way("leaf")
    outer = group("select", group("fallback", leaf))
    assert leaf_of(outer, HINT) is leaf
    assert leaf_of(leaf, HINT) is leaf


def test_udp_is_what_the_member_in_use_can() -> None:
    http = Http(HttpSpec(name="h", server="x", port=1), way("d"))
    made = group("select", way("a"), http)
    assert made.udp
    made.select("h")
    assert not made.udp
    assert not group("select", way("a"), disable_udp=True).udp
    assert group("load-balance", http, way("a")).udp
    assert not group("relay", way("a"), http).udp


def test_too_many_failures_call_for_a_check() -> None:
    made = group("fallback", Broken("a"), max_failed_times=3, timeout=60)
    for _ in range(2):
        made.dial_failed()
    assert not made.wants_check.is_set()
    made.dial_failed()
    assert made.wants_check.is_set()
    hasty = group("fallback", Broken("a"), max_failed_times=2, timeout=-1)
    for _ in range(5):
        hasty.dial_failed()
    assert not hasty.wants_check.is_set(), "failures far apart are everyday life"


async def test_opening_through_a_group_counts_failures() -> None:
    made = group("fallback", Broken("a"), max_failed_times=2)
    for verb in (made.open_stream, made.open_packets):
        with pytest.raises(Unreachable):
            await verb(Target("a.example", 1))
    assert made.wants_check.is_set()
    with pytest.raises(Unreachable, match="switched off"):
        await group("select", way("a"), disable_udp=True).open_packets(Target("127.0.0.1", 1))


async def test_a_relay_group_is_a_chain() -> None:
    with peers.microsocks("a", "b") as one, peers.microsocks("c", "d") as two:
        first = Socks5(Socks5Spec(name="1", server="127.0.0.1", port=one, username="a", password="b"), way("d"))
        second = Socks5(Socks5Spec(name="2", server="127.0.0.1", port=two, username="c", password="d"), Broken("no"))
        made = group("relay", first, group("select", second), way("direct"))
        assert made.pick(HINT) is made

        async def make_pair() -> tuple[Endpoint, trio.SocketStream]:
            sock = trio.socket.socket()
            await sock.bind(("127.0.0.1", 0))
            sock.listen(1)
            async with trio.SocketListener(sock) as listener:
                return await made.open_stream(Target(*sock.getsockname())), await listener.accept()

        await check_endpoint(make_pair, half_close=False)
    with pytest.raises(Unreachable):
        await group("relay", way("a"), group("relay", way("b"))).open_stream(Target("127.0.0.1", 1))


@pytest.mark.parametrize("unified", [False, True])
async def test_a_check_measures_and_records(unified: bool) -> None:
    asked: list[bytes] = []

    async def answer(head: bytes) -> bytes:
        asked.append(head)
        return b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"

    checker = Checker(Health(), unified_delay=unified)
    async with http_server(answer) as port:
        url = f"http://127.0.0.1:{port}/generate_204?x=1"
        delay = await checker.check(way("a"), url, timeout=5)
    assert delay >= 1 and [check.ms for check in checker.health.history("a", url)] == [delay]
    assert len(asked) == 1 + unified
    assert asked[0].startswith(b"HEAD /generate_204?x=1 HTTP/1.1\r\nHost: 127.0.0.1:")


async def test_a_check_in_tls_through_a_proxy(tmp_path: Path) -> None:
    ca = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(server)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    trusting = TlsClient(TlsOptions(certificate=str(tmp_path / "ca.pem")))
    with peers.microsocks("a", "b") as port:
        proxy = Socks5(Socks5Spec(name="s", server="127.0.0.1", port=port, username="a", password="b"), way("d"))
        async with http_server(no_content, server) as goal:
            url = f"https://localhost:{goal}"
            assert await Checker(Health(), tls=trusting).check(proxy, url, timeout=5) >= 1
            with pytest.raises(Unreachable) as fault:
                await Checker(Health()).check(proxy, url, timeout=5)
            assert fault.value.reason == "tls_handshake"


async def test_failed_checks_are_recorded_as_such() -> None:
    async def mute(head: bytes) -> bytes:
        await trio.sleep_forever()
        return b""

    async def babble(head: bytes) -> bytes:
        return b"nothing like HTTP\r\n\r\n"

    checker = Checker(Health())
    only_204 = StatusRanges("204")

    async def fails(outbound: Outbound, port: int, timeout: float = 5.0) -> None:
        url = f"http://127.0.0.1:{port}/"
        with pytest.raises(Unreachable):
            await checker.check(outbound, url, timeout=timeout, expected=only_204)
        assert [check.ms for check in checker.health.history(outbound.name, url)] == [0]
        assert not checker.health.alive(outbound.name, url)

    async with http_server(mute) as port:
        await fails(way("mute"), port, 0.1)
    async with http_server(babble) as port:
        await fails(way("babble"), port)
    async with http_server(partial(_say, b"HTTP/1.1 200 OK\r\n\r\n")) as port:
        await fails(way("status"), port)
    await fails(way("closed"), closed_port())
    await fails(Leaf(RejectSpec(name="REJECT")), 1)
    for url in ("ftp://a.example/", "http://", "http://a b/", "nonsense"):
        with pytest.raises(ConfigFault):
            await checker.check(way("a"), url, timeout=1)


async def _say(words: bytes, head: bytes) -> bytes:
    return words


async def test_the_same_check_is_made_once_for_all_who_ask() -> None:
    asked = 0
    arrived, go = trio.Event(), trio.Event()

    async def slow(head: bytes) -> bytes:
        nonlocal asked
        asked += 1
        arrived.set()
        await go.wait()
        return b"HTTP/1.1 204 No Content\r\n\r\n"

    checker = Checker(Health())
    delays: list[int] = []
    async with http_server(slow) as port, trio.open_nursery() as nursery:
        url = f"http://127.0.0.1:{port}/"

        async def ask() -> None:
            delays.append(await checker.check(way("a"), url, timeout=5))

        for _ in range(4):
            nursery.start_soon(ask)
        await arrived.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        go.set()
    assert asked == 1 and len(delays) == 4 and len(set(delays)) == 1
    assert len(checker.health.history("a", url)) == 1


async def test_a_round_checks_all_and_a_cancelled_check_records_nothing() -> None:
    checker = Checker(Health())
    async with http_server(no_content) as port:
        url = f"http://127.0.0.1:{port}/"
        members = [way(f"m{i}") for i in range(25)]
        alive = await checker.check_all([*members, Broken("b")], url, timeout=10)
        assert set(alive) == {member.name for member in members}
        assert not checker.health.alive("b", url)
        with trio.move_on_after(0):
            await checker.check(way("new"), url, timeout=5)
    assert checker.health.history("new", url) == []


class Counted(Leaf):
    """Counts how often it is opened, and fails."""

    def __init__(self, name: str) -> None:
        super().__init__(DirectSpec(name=name))
        self.opened = 0

    async def open_stream(self, target: Target) -> Endpoint:
        self.opened += 1
        raise Unreachable("counted")


@pytest.mark.parametrize("lazy", [True, False])
async def test_rounds_are_lazy_when_wanted(lazy: bool, autojump_clock: trio.testing.MockClock) -> None:
    leaf = Counted("a")
    made = group("url-test", leaf, interval=300.0, lazy=lazy, url="http://a.example/", max_failed_times=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Checker(Health()).keep_checking, made, 2.0)
        await trio.sleep(10)
        assert leaf.opened == 1
        await trio.sleep(400)
        assert leaf.opened == (1 if lazy else 2)
        before = leaf.opened
        made.pick(HINT)
        await trio.sleep(310)
        assert leaf.opened == before + 1
        before = leaf.opened
        made.dial_failed()
        await trio.sleep(10)
        assert leaf.opened == before + 1
        nursery.cancel_scope.cancel()


def test_delays_steer_a_group() -> None:
    health = Health()
    made = group("url-test", way("a"), way("b"), health=health, url="http://t.example/")
    health.record("b", "http://t.example/", Delay(0.0, 5))
    assert made.now == "b"
    assert made.pick(HINT).name == "b"
