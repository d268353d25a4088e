"""Web gateways that a contract sends us to: a real contract, a real HTTPS server, and what an attacker would try."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from enschain import GATEWAY, said, signed
from ensworld import NFT_OWNER, OFFCHAIN, Asking, Ens

from cyfs_ns.config.identity import EnsSection, IdentityConfig
from cyfs_ns.ens import asks
from cyfs_ns.ens.abi import encode
from cyfs_ns.ens.lookup import Fetch
from cyfs_ns.errors import Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.io.dial import plain_dial
from cyfs_ns.io.trusted.build import build_trusted
from cyfs_ns.io.trusted.ccipgate import CcipGate, GateConfig
from cyfs_ns.io.trusted.ensprovider import EnsProvider
from cyfs_ns.io.trusted.records import RecordSet
from cyfs_ns.io.trusted.safefetch import is_public
from cyfs_ns.trust.outcome import Absent, Found
from cyfs_ns.trust.plan import Ask

ADDRESS = encode(("address",), (NFT_OWNER,))
WAYS = pytest.mark.parametrize("universal", [True, False], ids=["universal", "direct"])
PUBLIC = "8.8.8.8"


def gateways(ens: Ens, *urls: str, hops: int = 1, claimed: str = "0x" + "0" * 40) -> None:
    """What ``sender.eth`` does from now on."""
    sender = ens.contracts["Sender"]
    ens.node.do(sender, "set(string[],uint256,address)", urls, hops, claimed)
    ens.node.mine()
    ens.gateway.asked.clear()
    ens.gateway.bodies.clear()


async def look(ens: Ens, gate: CcipGate | None = None, *, universal: bool = False) -> Any:
    value, _ = await ens.provider(gate=gate, universal=universal).record("sender.eth", asks.coin_address())
    return value


def answering(status: int, body: bytes = b"", **headers: str) -> Any:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return lambda path, asked: (status, named, body)


def right(path: str, body: bytes) -> Any:
    return said(ADDRESS)


@WAYS
async def test_the_next_gateway_is_asked_unless_one_says_no(ens: Ens, universal: bool) -> None:
    ens.gateway.answers |= {"down": answering(500), "no": answering(404), "right": right, "odd": answering(200, b"{}")}
    urls = {path: ens.gateway.url(path + "/{sender}/{data}") for path in ("down", "no", "right", "odd")}
    gateways(ens, urls["down"], urls["odd"], urls["right"], urls["no"])
    assert await look(ens, universal=universal) == NFT_OWNER
    assert [path.split("/")[1] for path in ens.gateway.asked] == ["down", "odd", "right"]
    gateways(ens, urls["down"], urls["no"], urls["right"])
    with pytest.raises(Unreachable, match=r"gateway.example: status 500; gateway.example: status 404"):
        await look(ens, universal=universal)
    assert [path.split("/")[1] for path in ens.gateway.asked] == ["down", "no"]
    gateways(ens)
    with pytest.raises(Unreachable, match="it names none"):
        await look(ens, universal=universal)


async def test_without_data_in_the_url_it_is_posted(ens: Ens) -> None:
    ens.gateway.answers["post"] = right
    gateways(ens, ens.gateway.url("post/{sender}"))
    assert await look(ens) == NFT_OWNER
    sender = ens.contracts["Sender"].lower()
    assert ens.gateway.asked == [f"/post/{sender}"]
    body = json.loads(ens.gateway.bodies[0])
    assert body["sender"] == sender
    assert body["data"].startswith("0x")
    assert len(body["data"]) == 66


async def test_four_gateways_one_after_another_and_no_more(ens: Ens) -> None:
    ens.gateway.answers["right"] = right
    gateways(ens, ens.gateway.url("right/{data}"), hops=4)
    assert await look(ens) == NFT_OWNER
    assert len(ens.gateway.asked) == 4
    gateways(ens, ens.gateway.url("right/{data}"), hops=1000)
    with pytest.raises(Unreachable, match="more than 4 gateways"):
        await look(ens)
    assert len(ens.gateway.asked) == 4


async def test_a_contract_cannot_send_us_in_the_name_of_another(ens: Ens) -> None:
    ens.gateway.answers["right"] = right
    gateways(ens, ens.gateway.url("right/{data}"), claimed=ens.node.registry)
    with pytest.raises(Unreachable, match="in the name of another contract"):
        await look(ens)
    assert ens.gateway.asked == []


@WAYS
async def test_what_the_contract_does_not_accept_is_no_answer(ens: Ens, universal: bool) -> None:
    ens.gateway.answers["short"] = lambda path, body: said(b"\1")
    gateways(ens, ens.gateway.url("short/{data}"))
    with pytest.raises(Unreachable, match=r"does not accept what gateway\.example said"):
        await look(ens, universal=universal)


@WAYS
async def test_a_forged_signature_is_refused_by_the_published_contract(ens: Ens, universal: bool) -> None:
    true = ens.gateway.answers["signed"]
    ens.gateway.answers["signed"] = signed(lambda inner: ADDRESS, key=bytes(31) + b"\x06")
    try:
        with pytest.raises(Unreachable, match=r"does not accept what gateway\.example said"):
            await ens.provider(universal=universal).record("test.offchaindemo.eth", asks.coin_address())
    finally:
        ens.gateway.answers["signed"] = true


async def test_many_records_go_to_the_gateway_in_one_batch(ens: Ens) -> None:
    """The universal resolver sends them on together; a record that the gateway lacks is just not there."""
    config = replace(ens.config(), texts=("description", "url"))
    found = await EnsProvider(config, ens.gate()).ask(
        Ask(subject=Did("ens", "test.offchaindemo.eth"), kinds=frozenset({"text"}))
    )
    assert isinstance(found, Found)
    assert {(claim.key, claim.value) for claim in found.claims} == {
        ("a.60", OFFCHAIN),
        ("description", "asdflkjasdflkjasdf"),
    }


async def test_a_gateway_that_is_down_is_not_taken_for_absence(ens: Ens) -> None:
    true = ens.gateway.answers["signed"]
    ens.gateway.answers["signed"] = answering(503)
    try:
        for universal in (True, False):
            with pytest.raises(Unreachable, match="status 503"):
                await ens.provider(universal=universal).ask(Ask(subject=Did("ens", "test.offchaindemo.eth")))
    finally:
        ens.gateway.answers["signed"] = true
    absent = await ens.provider().ask(Ask(subject=Did("ens", "test.offchaindemo.eth"), kinds=frozenset({"content"})))
    assert isinstance(absent, Absent)


@WAYS
async def test_redirects_are_not_followed(ens: Ens, universal: bool) -> None:
    for to in ("https://127.0.0.1/", "http://169.254.169.254/latest", ens.gateway.url("right/0x")):
        ens.gateway.answers["away"] = answering(302, location=to)
        gateways(ens, ens.gateway.url("away/{data}"))
        with pytest.raises(Unreachable, match="more than 0 redirects"):
            await look(ens, universal=universal)
        assert len(ens.gateway.asked) == 1


def gate_to(ens: Ens, addresses: Sequence[Sequence[str]], dialled: list[str], **given: Any) -> CcipGate:
    """A gate whose resolver gives one of ``addresses`` after the other, and that reaches the test's server at every
    address it dials."""
    left = list(addresses)
    straight = plain_dial()

    async def resolve(host: str) -> Sequence[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    async def dial(host: str, port: int, via: str | None) -> trio.abc.Stream:
        dialled.append(host)
        return await straight("127.0.0.1", port, via)

    return CcipGate(resolve, GateConfig(**given), dial=dial, tls=ens.trust)


SPECIAL = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "100.127.255.255", "198.18.0.1", "198.19.255.255", "192.0.0.1", "192.0.2.1"),
    *("198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1", "3fff::1"),
    *("2002:7f00:1::", "2001::1", "100::1", "fec0::1", "5f00::1", "4000::1", "::7f00:1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::808:808"),
    *("", "gateway.example", "127.1", "0x7f.0.0.1", "2130706433"),
]


@pytest.mark.parametrize("address", SPECIAL)
def test_no_special_address_is_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_other_addresses_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.5", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "198.18.0.7"])
async def test_a_gateway_at_a_special_address_is_not_connected_to(ens: Ens, address: str) -> None:
    ens.gateway.answers["right"] = right
    gateways(ens, ens.gateway.url("right/{data}"))
    for addresses in ([address], [PUBLIC, address], [address, PUBLIC]):
        dialled: list[str] = []
        with pytest.raises(Unreachable, match="where no gateway of strangers is"):
            await look(ens, gate_to(ens, [addresses], dialled))
        assert dialled == []
    assert ens.gateway.asked == []


async def test_the_address_that_was_judged_is_the_one_connected_to(ens: Ens) -> None:
    """A name whose address changes between look and leap."""
    ens.gateway.answers["right"] = right
    gateways(ens, ens.gateway.url("right/{data}"))
    dialled: list[str] = []
    assert await look(ens, gate_to(ens, [[PUBLIC], ["127.0.0.1"]], dialled)) == NFT_OWNER
    assert dialled == [PUBLIC]


URLS = [
    ("http://gateway.example/{data}", "only https"),
    ("ftp://gateway.example/{data}", "only https"),
    ("file:///etc/passwd?{data}", "no URL to ask strangers for"),
    ("data:,{data}", "no URL to ask strangers for"),
    ("{data}", "no URL to ask strangers for"),
    ("https://user:pass@gateway.example/{data}", "wants a password"),
    ("https://127.0.0.1/{data}", "where no gateway of strangers is"),
    ("https://[::1]/{data}", "where no gateway of strangers is"),
    ("https://[::ffff:10.0.0.1]/{data}", "where no gateway of strangers is"),
    ("https://2130706433/{data}", "no URL to ask strangers for"),
    ("https://0x7f.1/{data}", "no URL to ask strangers for"),
    ("https://127.1/{data}", "no URL to ask strangers for"),
    ("https://localhost/{data}", "no name of the public DNS"),
    ("https://router.local/{data}", "no name of the public DNS"),
    ("https://gate.eth/{data}", "no name of the public DNS"),
    ("https://GATE.ETH./{data}", "no name of the public DNS"),
    ("https://x.dev.did/{data}", "no name of the public DNS"),
    ("https://gateway.example:99999/{data}", "no URL to ask strangers for"),
    ("https://g\u0430teway.example/{data}", "no URL to ask strangers for"),
    ("https://gateway.example/\r\nhost: x/{data}", "no URL to ask strangers for"),
]


@pytest.mark.parametrize(("url", "why"), URLS, ids=[url.replace("\r\n", " ") for url, _ in URLS])
async def test_odd_urls_are_refused_unasked(ens: Ens, url: str, why: str) -> None:
    dialled: list[str] = []
    gateways(ens, url)
    with pytest.raises(Unreachable, match=why):
        await look(ens, gate_to(ens, [[PUBLIC]], dialled))
    assert dialled == []


async def test_private_and_insecure_gateways_need_the_owners_word(ens: Ens) -> None:
    ens.gateway.answers["right"] = right
    url = ens.gateway.url("right/{data}")
    dialled: list[str] = []
    own = gate_to(ens, [["127.0.0.1"]], dialled, private=frozenset({GATEWAY}))
    assert (await own.fetch(Fetch(url.replace("{data}", "0x")))).status == 200
    plain = gate_to(ens, [["127.0.0.1"]], dialled, private=frozenset({GATEWAY}), insecure=frozenset({GATEWAY}))
    refused = await plain.fetch(Fetch("http://other.example/0x"))
    assert refused.why == "only https is asked"


async def test_what_is_private_for_the_house_is_closed_to_contracts(ens: Ens, tmp_path: Path) -> None:
    dialled: list[str] = []

    async def records(name: str, rtype: int) -> RecordSet:
        raise Unreachable("no DNS here")

    async def addresses(host: str) -> list[str]:
        return ["127.0.0.1"]

    async def dial(host: str, port: int, via: str | None) -> trio.abc.Stream:
        dialled.append(host)
        return await plain_dial()(host, port, via)

    config = IdentityConfig(private=(GATEWAY,), ens=EnsSection(rpc=(ens.node.url,), registry=ens.node.registry))
    names = build_trusted(config, tmp_path, records=records, addresses=addresses, dial=dial, tls=ens.trust)
    outcome = await names.resolve(Ask(subject=Did("ens", "test.offchaindemo.eth"), kinds=frozenset({"text"})))
    assert any("is at 127.0.0.1, where no gateway of strangers is" in fault for fault in outcome.faults)
    assert dialled == []


async def test_a_certificate_of_somebody_else_is_refused(ens: Ens) -> None:
    gateways(ens, ens.gateway.url("right/{data}", "stranger.example"))
    with pytest.raises(Unreachable, match=r"(?i)certificate"):
        await look(ens, gate_to(ens, [[PUBLIC]], []))
    assert ens.gateway.asked == []


async def test_so_many_bytes_and_no_more(ens: Ens) -> None:
    ens.gateway.answers["big"] = answering(200, b"x" * 5000)
    gateways(ens, ens.gateway.url("big/{data}"))
    with pytest.raises(Unreachable, match="a body of more than 4096 bytes"):
        await look(ens, ens.gate(most_bytes=4096))


async def test_a_gateway_that_never_answers_is_given_up(ens: Ens) -> None:
    over = threading.Event()

    def hang(path: str, body: bytes) -> Any:
        over.wait(60)
        return said(ADDRESS)

    ens.gateway.answers["hang"] = hang
    gateways(ens, ens.gateway.url("hang/{data}"))
    try:
        with pytest.raises(Unreachable, match=r"no response in 0.2 s"):
            await look(ens, ens.gate(timeout=0.2))
    finally:
        over.set()


async def test_one_host_is_asked_so_many_times_at_once(ens: Ens) -> None:
    inside = most = 0
    turn, enough = threading.Lock(), threading.Event()

    def count(path: str, body: bytes) -> Any:
        nonlocal inside, most
        with turn:
            inside += 1
            most = max(most, inside)
            if inside == 3:
                enough.set()
        enough.wait(0.05)
        with turn:
            inside -= 1
        return said(ADDRESS)

    ens.gateway.answers["count"] = count
    gate = ens.gate(at_once=2)
    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(gate.fetch, Fetch(ens.gateway.url(f"count/{number}")))
    assert most == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"7",
        b'{"data": 5}',
        b'{"data": "5"}',
        b'{"data": "0xf"}',
        b'{"data": null}',
        b"[" * 100_000,
        b"\xff",
    ],
)
async def test_what_is_no_answer_of_a_gateway_is_none(ens: Ens, body: bytes) -> None:
    ens.gateway.answers["odd"] = answering(200, body)
    gateways(ens, ens.gateway.url("odd/{data}"))
    with pytest.raises(Unreachable, match="no JSON of the form"):
        await look(ens)


async def test_without_a_gate_nobody_is_asked(ens: Ens) -> None:
    with pytest.raises(Unreachable, match="gateways are not asked here"):
        await Asking(ens.config(universal=False)).record("test.offchaindemo.eth", asks.coin_address())
