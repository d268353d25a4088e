"""Sets and flows of a real kernel in a namespace; ``nft``, ``ipset`` and ``conntrack`` say what is there."""

from __future__ import annotations

import json
import logging
import socket

import pytest
import trio
from netns import namespace

from cyfs_ns.io import netlink
from cyfs_ns.io.netlink import ConntrackMarks, SetFeeder
from cyfs_ns.routersets import Addition, ipset_target, nft_target

TABLE = """
table inet t {
  set plain { type ipv4_addr; }
  set timed { type ipv4_addr; flags timeout; }
  set timed6 { type ipv6_addr; flags timeout; }
  set ranges { type ipv4_addr; flags interval; }
  set timedranges { type ipv4_addr; flags interval,timeout; }
  set ranges6 { type ipv6_addr; flags interval; }
  set small { type ipv4_addr; size 1; }
  set ports { type inet_service; }
  set pairs { type ipv4_addr . inet_service; }
  map verdicts { type ipv4_addr : verdict; }
}
table ip old { set plain { type ipv4_addr; }; }
table ip6 old { set plain { type ipv6_addr; }; }
"""


@pytest.fixture
def ns(tmp_path):
    with namespace("nft", "ipset", "conntrack") as made:
        file = tmp_path / "table.nft"
        file.write_text(TABLE)
        made.run("nft", "-f", str(file))
        made.file = str(file)
        yield made


@pytest.fixture(params=[None, False], ids=["as this kernel does", "without updates"])
async def feeder(ns, request):
    feeder = ns.call(lambda: SetFeeder(deadline=10, updates=request.param))
    yield feeder
    await feeder.aclose()


def packed(ip):
    return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)


def to(target, *ips, timeout=600, needed=300):
    target = nft_target(target, f"/a.example/{target}") if "#" in target else ipset_target(target)
    return [Addition(target, packed(ip), timeout, needed) for ip in ips]


def elements(ns, family, table, name):
    """Address -> timeout in seconds (0: none)."""
    listed = json.loads(ns.run("nft", "-j", "list", "set", family, table, name))["nftables"]
    (found,) = [item["set"] for item in listed if "set" in item]
    held = {}
    for element in found.get("elem", []):
        address, timeout = element, 0
        if isinstance(element, dict) and "elem" in element:
            address, timeout = element["elem"]["val"], element["elem"].get("timeout", 0)
        if isinstance(address, dict):
            address = f"{address['prefix']['addr']}/{address['prefix']['len']}"
        held[address] = timeout
    return held


def held(ns, name="timed"):
    return elements(ns, "inet", "t", name)


async def test_addresses_are_in_every_kind_of_set_when_add_returns(ns, feeder):
    v4, v6 = ("192.0.2.1", "192.0.2.2", "255.255.255.255"), ("2001:db8::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
    sets = ["plain", "timed", "timed6", "ranges", "timedranges", "ranges6"]
    specs = [*(f"inet#t#{name}" for name in sets), "old#plain", "ip6#old#plain"]
    await feeder.add([addition for spec in specs for addition in to(spec, *v4, *v6)])
    for name in sets:
        timeout = 600 if "timed" in name else 0
        assert held(ns, name) == dict.fromkeys(v6 if "6" in name else v4, timeout), name
    assert elements(ns, "ip", "old", "plain") == dict.fromkeys(v4, 0)
    assert elements(ns, "ip6", "old", "plain") == dict.fromkeys(v6, 0)


async def test_again_is_fine_and_gives_a_new_timeout(ns, feeder):
    for name in ("plain", "timed", "ranges", "timedranges"):
        await feeder.add(to(f"inet#t#{name}", "192.0.2.1"))
        await feeder.add(to(f"inet#t#{name}", "192.0.2.1", timeout=900, needed=800))
        assert held(ns, name) == {"192.0.2.1": 900 if "timed" in name else 0}


async def test_what_an_earlier_run_left_gets_a_new_timeout(ns, feeder):
    for name in ("timed", "timedranges"):
        ns.run("nft", "add", "element", "inet", "t", name, "{ 192.0.2.1 timeout 50s }")
        await feeder.add(to(f"inet#t#{name}", "192.0.2.1"))
        assert held(ns, name) == {"192.0.2.1": 600}


async def test_what_the_owner_wrote_for_ever_stays_for_ever(ns, feeder):
    ns.run("nft", "add", "element", "inet", "t", "timed", "{ 192.0.2.1 }")
    ns.run("nft", "add", "element", "inet", "t", "timedranges", "{ 192.0.2.0/24 }")
    await feeder.add([*to("inet#t#timed", "192.0.2.1", "192.0.2.2"), *to("inet#t#timedranges", "192.0.2.7")])
    assert held(ns) == {"192.0.2.1": 0, "192.0.2.2": 600}
    assert held(ns, "timedranges") == {"192.0.2.0/24": 0}


async def test_an_address_within_an_interval_is_there_already(ns, feeder, caplog):
    ns.run("nft", "add", "element", "inet", "t", "ranges", "{ 192.0.2.0/24 }")
    ns.run("nft", "add", "element", "inet", "t", "timedranges", "{ 192.0.2.0/24 timeout 1h }")
    for name in ("ranges", "timedranges"):
        await feeder.add(to(f"inet#t#{name}", "192.0.2.0", "192.0.2.7", "192.0.2.255", "198.51.100.1"))
        assert set(held(ns, name)) == {"192.0.2.0/24", "198.51.100.1"}
    assert caplog.messages == []


async def test_a_repeated_answer_costs_no_call_while_its_entry_lives_long_enough(ns, feeder, monkeypatch):
    asked = []
    ask = netlink.NetlinkSocket.ask

    def counting(self, wire, *last):
        asked.append(wire)
        return ask(self, wire, *last)

    monkeypatch.setattr(netlink.NetlinkSocket, "ask", counting)
    additions = [*to("inet#t#timed", "192.0.2.1", "2001:db8::1"), *to("inet#t#plain", "192.0.2.1")]
    await feeder.add(additions)
    first = len(asked)
    await feeder.add(additions)
    assert len(asked) == first
    await feeder.add(to("inet#t#timed", "192.0.2.1", timeout=700, needed=601))
    assert len(asked) > first
    assert held(ns) == {"192.0.2.1": 700}


async def test_a_missing_set_is_told_once_with_its_rule_and_spoils_nothing(ns, feeder, caplog):
    caplog.set_level(logging.INFO, "cyfs.ns.sets")
    for _ in range(2):
        await feeder.add(
            [*to("inet#t#nope", "192.0.2.1"), *to("inet#none#x", "192.0.2.1"), *to("inet#t#timed", "192.0.2.1")]
        )
    await feeder.add(to("nowhere", "192.0.2.1"))
    assert held(ns) == {"192.0.2.1": 600}
    nft, table, ipset = caplog.messages
    assert nft.startswith("nftset /a.example/inet#t#nope: cannot add addresses: there is no set 'nope'")
    assert "nft add set inet t nope" in nft
    assert table.startswith("nftset /a.example/inet#none#x")
    assert "ipset create nowhere" in ipset
    ns.run("ipset", "create", "nowhere", "hash:ip")
    await feeder.add(to("nowhere", "192.0.2.1"))
    assert caplog.messages[3:] == ["ipset nowhere: works again"]


@pytest.mark.parametrize("name", ["ports", "pairs", "verdicts"])
async def test_a_set_of_other_things_is_told(ns, feeder, caplog, name):
    await feeder.add(to(f"inet#t#{name}", "192.0.2.1"))
    assert "not a plain address" in caplog.text


async def test_a_full_set_takes_what_fits_and_the_rest_is_told(ns, feeder, caplog):
    await feeder.add([*to("inet#t#small", "192.0.2.1", "192.0.2.2", "192.0.2.3"), *to("inet#t#plain", "192.0.2.9")])
    assert len(held(ns, "small")) == 1
    assert held(ns, "plain") == {"192.0.2.9": 0}
    assert [message for message in caplog.messages if "full" in message] == caplog.messages != []


async def test_a_thousand_addresses_in_one_go(ns, feeder):
    ips = [f"198.51.{high}.{low}" for high in range(4) for low in range(250)]
    await feeder.add(to("inet#t#timed", *ips))
    await feeder.add(to("many", *ips))
    assert held(ns) == dict.fromkeys(ips, 600)


async def test_ipsets_take_addresses_of_their_family_and_new_timeouts(ns, feeder):
    ns.run("ipset", "create", "timed", "hash:ip", "timeout", "0")
    ns.run("ipset", "create", "plain", "hash:net", "family", "inet")
    ns.run("ipset", "create", "six", "hash:ip", "family", "inet6", "timeout", "60")
    for timeout in (600, 900):
        await feeder.add(
            [
                addition
                for name in ("timed", "plain", "six")
                for addition in to(name, "192.0.2.1", "2001:db8::1", timeout=timeout, needed=timeout)
            ]
        )

    def members(name):
        return ns.run("ipset", "list", name).split("Members:\n")[1].split("\n")[0]

    assert members("plain") == "192.0.2.1"
    for name, ip in (("timed", "192.0.2.1"), ("six", "2001:db8::1")):
        address, _, left = members(name).split()
        assert address == ip
        assert 890 < int(left) <= 900


async def test_many_answers_at_once_are_all_there(ns, feeder):
    ips = [f"198.51.100.{last}" for last in range(100)]
    async with trio.open_nursery() as nursery:
        for ip in ips:
            nursery.start_soon(feeder.add, to("inet#t#timed", ip))
    assert held(ns) == dict.fromkeys(ips, 600)


async def until(condition):
    """The kernel tells of a change in its own time, and nobody of having heard it."""
    with trio.fail_after(60):
        while not await condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def test_a_set_made_anew_is_filled_again(ns, feeder, nursery):
    nursery.start_soon(feeder.watch)
    await feeder.add(to("inet#t#timed", "192.0.2.1"))
    await feeder.add(to("inet#t#plain", "192.0.2.2"))
    ns.run("nft", "flush", "ruleset")
    ns.run("nft", "-f", ns.file)

    async def filled():
        return held(ns, "plain") == {"192.0.2.2": 0} and list(held(ns)) == ["192.0.2.1"]

    await until(filled)
    assert 500 < held(ns)["192.0.2.1"] <= 600


async def test_what_is_known_before_the_set_is_there_fills_it_when_it_is_made(ns, feeder, nursery):
    nursery.start_soon(feeder.watch)
    await feeder.add(to("inet#late#x", "192.0.2.1"))
    ns.run("nft", "add", "table", "inet", "late")
    ns.run("nft", "add", "set", "inet", "late", "x", "{ type ipv4_addr; }")

    async def filled():
        return elements(ns, "inet", "late", "x") == {"192.0.2.1": 0}

    await until(filled)


async def test_what_others_remove_is_added_by_the_next_answer(ns, feeder, nursery):
    nursery.start_soon(feeder.watch)
    await feeder.add(to("inet#t#timed", "192.0.2.1"))
    ns.run("nft", "flush", "set", "inet", "t", "timed")
    assert held(ns) == {}

    async def asked_again():
        await feeder.add(to("inet#t#timed", "192.0.2.1"))
        return held(ns) == {"192.0.2.1": 600}

    await until(asked_again)


async def test_when_notices_got_lost_everything_is_written_again(ns, feeder, nursery, monkeypatch):
    await feeder.add([*to("inet#t#timed", "192.0.2.1"), *to("inet#t#plain", "192.0.2.2")])
    ns.run("nft", "flush", "set", "inet", "t", "timed")
    ns.run("nft", "flush", "set", "inet", "t", "plain")
    heard = netlink.notices
    monkeypatch.setattr(netlink, "notices", lambda sock: heard(sock) and None)
    nursery.start_soon(feeder.watch)

    async def filled():
        return list(held(ns)) == ["192.0.2.1"] and list(held(ns, "plain")) == ["192.0.2.2"]

    await until(filled)


async def test_our_own_changes_do_not_wake_the_watch(ns, feeder):
    await feeder.add(to("inet#t#timed", "192.0.2.1"))
    assert netlink.notices(feeder._watched) == []
    ns.run("nft", "delete", "element", "inet", "t", "timed", "{ 192.0.2.1 }")
    assert netlink.notices(feeder._watched)


async def test_no_answer_waits_for_a_kernel_that_is_busy(ns, caplog, monkeypatch):
    feeder = ns.call(lambda: SetFeeder(deadline=0.05))
    free = trio.Event()
    ask = netlink.NetlinkSocket.ask

    def busy(self, wire, *last):
        trio.from_thread.run(free.wait)
        return ask(self, wire, *last)

    monkeypatch.setattr(netlink.NetlinkSocket, "ask", busy)
    await feeder.add(to("inet#t#timed", "192.0.2.1"))
    await feeder.add(to("inet#t#timed", "192.0.2.2"))
    assert held(ns) == {}
    free.set()

    async def filled():
        return set(held(ns)) == {"192.0.2.1", "192.0.2.2"}

    await until(filled)
    assert len(caplog.messages) == 1
    await feeder.aclose()


@pytest.fixture
def flow(ns):
    """A UDP flow to port 53, redirected to us, that the firewall marked 0x42; and one it did not."""
    ns.run(
        "nft",
        "table ip nat { chain o { type nat hook output priority -100; udp dport 53 redirect to :5353; }; "
        "chain m { type filter hook output priority 0; "
        "meta l4proto udp ct original proto-dst 53 ct mark set 0x42; }; }",
    )
    ours = ns.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    ours.bind(("127.0.0.1", 5353))
    clients = []
    for port in (53, 5353):
        client = ns.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        client.bind(("127.0.0.1", 0))
        client.sendto(b"?", ("127.0.0.1", port))
        clients.append(client)
    yield [client.getsockname() for client in clients]
    for sock in (ours, *clients):
        sock.close()


def test_the_mark_of_a_flow_is_read_though_it_was_redirected(ns, flow):
    marked, plain = flow
    assert "mark=66" in ns.run("conntrack", "-L", "-p", "udp")
    marks = ns.call(ConntrackMarks)
    ours = ("127.0.0.1", 5353)
    assert marks.mark(socket.IPPROTO_UDP, marked, ours) == 0x42
    assert marks.mark(socket.IPPROTO_UDP, plain, ours) == 0
    assert marks.mark(socket.IPPROTO_TCP, marked, ours) == 0
    assert marks.mark(socket.IPPROTO_UDP, ("::1", 9), ("::1", 53)) == 0
    assert marks.mark(socket.IPPROTO_UDP, ("nonsense", 9), ("::1", 53)) == 0
    marks.close()
