"""Several Ethereum nodes, some of which lie, lag, hang, are down or on another chain: real ones behind a proxy."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from enschain import GATEWAY, Anvil, Mend, proxied, selector
from ensworld import DEVREL, PKX, Asking, Ens, Recorder

from cyfs_ns.ens import asks
from cyfs_ns.ens.abi import Array, encode
from cyfs_ns.ens.lookup import Reverted
from cyfs_ns.errors import BadWire, ConfigFault, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.io.trusted.ccipgate import GateConfig
from cyfs_ns.io.trusted.chain import Chain, ChainConfig, _reverted
from cyfs_ns.trust.evidence import Kind
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Found
from cyfs_ns.trust.plan import Ask

NAME, RECORD = "devrel.enslabs.eth", asks.coin_address()


def honest(method: str, params: list[Any], reply: Any) -> Any:
    return reply


def lying(data: bytes) -> Mend:
    """Says ``data`` to every question for an address or a record."""

    def mend(method: str, params: list[Any], reply: Any) -> Any:
        return {"jsonrpc": "2.0", "id": reply["id"], "result": "0x" + data.hex()} if method == "eth_call" else reply

    return mend


def saying(method: str, said: Any) -> Mend:
    def mend(asked: str, params: list[Any], reply: Any) -> Any:
        if asked != method:
            return reply
        return said if isinstance(said, bytes | list) else {"jsonrpc": "2.0", "id": reply["id"]} | said

    return mend


@pytest.fixture
def proxies(ens: Ens) -> Iterator[Any]:
    """Makes URLs of nodes, each on a host of its own, that are the real one as ``mend`` changes it."""
    hosts = (f"127.0.0.{number}" for number in count(2))
    with ExitStack() as stack:
        yield lambda *mends: [stack.enter_context(proxied(ens.node.port, mend, host=next(hosts))) for mend in mends]


def name_of(url: str) -> str:
    return url.removeprefix("http://")


FALSE = encode(("bytes", "address"), (encode(("address",), ("0x" + "66" * 20,)), "0x" + "77" * 20))


async def test_three_that_agree_are_a_quorum(ens: Ens, proxies: Any) -> None:
    value, evidence = await ens.provider(ens.node.url, *proxies(honest, honest)).record(NAME, RECORD)
    assert (value, evidence.trust) == (DEVREL, Trust.QUORUM)
    assert any(fact.what.startswith("3 of 3 Ethereum nodes agree") for fact in evidence.because)


async def test_a_lone_liar_is_outvoted_and_named(ens: Ens, proxies: Any) -> None:
    true, liar = proxies(honest, lying(FALSE))
    provider = ens.provider(ens.node.url, true, liar)
    value, evidence = await provider.record(NAME, RECORD)
    assert (value, evidence.trust) == (DEVREL, Trust.QUORUM)
    told = {fact.source: fact.what for fact in evidence.because}
    assert told[name_of(liar)] == "says otherwise, and is outvoted"
    found = await provider.ask(Ask(subject=Did("ens", NAME)))
    assert isinstance(found, Found)
    assert f"Ethereum node {name_of(liar)}: says otherwise, and is outvoted" in found.faults


async def test_a_liar_cannot_send_us_to_a_gateway(ens: Ens, proxies: Any) -> None:
    """On the direct way, where a revert is only data: what one node says alone is never acted upon."""

    def mend(method: str, params: list[Any], reply: Any) -> Any:
        if method == "eth_call" and params[0]["data"].startswith("0x3b3b57de"):
            to = params[0]["to"]
            fields = (to, (ens.gateway.url("stolen/{data}"),), b"", b"back", b"")
            error = selector("OffchainLookup(address,string[],bytes,bytes4,bytes)") + encode(
                ("address", Array("string"), "bytes", "bytes4", "bytes"), fields
            )
            failure = {"code": 3, "message": "execution reverted", "data": "0x" + error.hex()}
            return {"jsonrpc": "2.0", "id": reply["id"], "error": failure}
        return reply

    async def resolve(host: str) -> list[str]:
        return ["127.0.0.1"]

    gate = Recorder(resolve, GateConfig(private=frozenset({GATEWAY})), tls=ens.trust)
    true, liar = proxies(honest, mend)
    value, evidence = await ens.provider(ens.node.url, true, liar, gate=gate, universal=False).record(NAME, RECORD)
    assert (value, evidence.trust) == (DEVREL, Trust.QUORUM)
    assert gate.fetched == []


async def test_two_of_two_that_contradict_each_other_are_no_answer(ens: Ens, proxies: Any) -> None:
    (liar,) = proxies(lying(FALSE))
    with pytest.raises(Unreachable, match=f"contradict each other: .*{name_of(liar)}"):
        await ens.provider(ens.node.url, liar).record(NAME, RECORD)


async def test_three_opinions_are_no_answer(ens: Ens, proxies: Any) -> None:
    one, two = proxies(lying(FALSE), lying(FALSE + bytes(32)))
    with pytest.raises(Unreachable, match=r"contradict each other: .* against .* against "):
        await ens.provider(ens.node.url, one, two).record(NAME, RECORD)


async def test_one_that_is_down_is_named_and_two_are_enough(ens: Ens, proxies: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.99", 0))
        down = f"http://127.0.0.99:{closed.getsockname()[1]}"
        (true,) = proxies(honest)
        value, evidence = await ens.provider(ens.node.url, true, down).record(NAME, RECORD)
        assert (value, evidence.trust) == (DEVREL, Trust.QUORUM)
        assert {fact.source: fact.what for fact in evidence.because}[name_of(down)] == "no connection"
        with pytest.raises(Unreachable, match=r"fewer than 1 Ethereum nodes answer: .*no connection"):
            await ens.provider(down).record(NAME, RECORD)


async def test_one_that_hangs_is_left_behind(ens: Ens, proxies: Any) -> None:
    over = threading.Event()

    def hang(method: str, params: list[Any], reply: Any) -> Any:
        if method == "eth_call":
            over.wait(60)
        return reply

    true, slow = proxies(honest, hang)
    try:
        provider = ens.provider(ens.node.url, true, slow, nodes={"grace": 0.05, "timeout": 2.0})
        value, evidence = await provider.record(NAME, RECORD)
        assert (value, evidence.trust) == (DEVREL, Trust.QUORUM)
        assert {fact.source: fact.what for fact in evidence.because}[name_of(slow)] == "is slower than the others"
        alone = ens.provider(slow, nodes={"timeout": 0.2})
        with pytest.raises(Unreachable, match=r"no answer"):
            await alone.record(NAME, RECORD)
    finally:
        over.set()


async def test_another_fork_another_chain_and_the_past_have_no_voice(ens: Ens, proxies: Any) -> None:
    height = int(ens.node.rpc("eth_blockNumber"), 16)
    fork, other = Anvil(host="127.0.0.50"), Anvil(chain=5, host="127.0.0.51")
    try:
        (true,) = proxies(honest)
        for mined, why in ((0, f"is at block {height - 60}, far behind the others"), (60, "another fork")):
            fork.mine(mined or height - 60)
            provider = ens.provider(ens.node.url, true, fork.url)
            value, evidence = await provider.record(NAME, RECORD)
            assert (value, evidence.trust) == (DEVREL, Trust.QUORUM)
            assert why in {fact.source: fact.what for fact in evidence.because}[name_of(fork.url)]
        value, evidence = await ens.provider(ens.node.url, true, other.url).record(NAME, RECORD)
        assert value == DEVREL
        assert {f.source: f.what for f in evidence.because}[name_of(other.url)] == "is of chain 5, not 1"
        with pytest.raises(Unreachable, match="is of chain 5, not 1"):
            await ens.provider(other.url).record(NAME, RECORD)
    finally:
        fork.close()
        other.close()


async def test_a_false_head_moves_nobody(ens: Ens, proxies: Any) -> None:
    height = int(ens.node.rpc("eth_blockNumber"), 16)
    for said in ("0x1", hex(1 << 40)):
        true, liar = proxies(honest, saying("eth_blockNumber", {"result": said}))
        chain = Chain(ens.config(ens.node.url, true, liar).nodes)
        view = await chain.view()
        assert view.block == height - 2
        assert view.trust is Trust.QUORUM


async def test_a_chain_that_stands_still_is_no_source(ens: Ens) -> None:
    provider = ens.provider()
    provider_later = type(provider)(ens.config(), ens.gate(), wall=lambda: time.time() + 7200)
    with pytest.raises(Unreachable, match="have stopped following the chain"):
        await provider_later.record(NAME, RECORD)


ODD = [
    (b"<html>", "not a reply of an Ethereum node"),
    (b"", "not a reply of an Ethereum node"),
    (b"[" * 60_000, "not a reply of an Ethereum node"),
    (b'"' + b"x" * (1 << 20) + b'"', "a reply of more than 65536 bytes"),
    ([], "not a reply of an Ethereum node"),
    ({}, "a reply without a result"),
    ({"result": None}, "no hexadecimal"),
    ({"result": 5}, "no hexadecimal"),
    ({"result": "0xzz"}, "no hexadecimal"),
    ({"result": {"a": "0x"}}, "no hexadecimal"),
    ({"error": "no"}, "it says 'no'"),
    ({"error": {"code": -32000, "message": "header not found"}}, "it says 'header not found'"),
]


@pytest.mark.parametrize(("said", "why"), ODD, ids=[why for _, why in ODD])
async def test_odd_replies_are_faults_with_a_name(ens: Ens, proxies: Any, said: Any, why: str) -> None:
    (odd,) = proxies(saying("eth_call", said))
    with pytest.raises(Unreachable, match=rf"{name_of(odd)}: .*{why}"):
        await ens.provider(odd, nodes={"most_bytes": 65536}).record(NAME, RECORD)


@pytest.mark.parametrize("method", ["eth_chainId", "eth_blockNumber", "eth_getBlockByNumber"])
@pytest.mark.parametrize(
    "said", [None, "0x", "", 7, [], {}, "0x" + "f" * 40, {"hash": 1}, {"hash": "0x1", "timestamp": 1}]
)
async def test_odd_heads_are_faults(ens: Ens, proxies: Any, method: str, said: Any) -> None:
    (odd,) = proxies(saying(method, {"result": said}))
    with pytest.raises(Unreachable, match=name_of(odd)):
        await ens.provider(odd).record(NAME, RECORD)


async def test_a_node_over_tls_is_believed_by_its_certificate(ens: Ens, tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    with proxied(ens.node.port, honest, serving) as url:
        value, evidence = await ens.provider(url, nodes={"tls_ca": str(tmp_path / "ca.pem")}).record(NAME, RECORD)
        assert (value, evidence.trust) == (DEVREL, Trust.AUTH_CHANNEL)
        for other in (str(tmp_path / "stranger.pem"), ""):
            with pytest.raises(Unreachable, match="its certificate is not accepted"):
                await ens.provider(url, nodes={"tls_ca": other}).record(NAME, RECORD)


async def test_a_node_does_not_send_us_elsewhere(ens: Ens) -> None:
    with (
        proxied(ens.node.port, honest) as honest_url,
        proxied(ens.node.port, honest, location=honest_url) as away,
        pytest.raises(Unreachable, match="it redirects elsewhere"),
    ):
        await ens.provider(away).record(NAME, RECORD)


REVERTS = [
    ({"code": 3, "message": "execution reverted", "data": "0x0102"}, b"\1\2"),
    ({"code": 3, "message": "execution reverted: why", "data": "0x"}, b""),
    ({"code": 3, "message": "execution reverted"}, b""),
    ({"code": -32000, "message": "execution reverted", "data": "0x01"}, b"\1"),
    ({"code": -32015, "message": "VM execution error.", "data": "Reverted 0x01"}, b"\1"),
    ({"code": -32015, "message": "VM execution error.", "data": "revert"}, b""),
    ({"code": -32000, "message": "invalid opcode: INVALID"}, b""),
    ({"code": -32000, "message": "out of gas"}, b""),
    ({"code": -32603, "message": "EVM error InvalidJump"}, b""),
    ({"code": -32000, "message": "VM Exception: revert", "data": {"0x12": {"return": "0x"}}}, b""),
]


@pytest.mark.parametrize(("error", "data"), REVERTS)
def test_a_revert_is_read_from_every_kind_of_node(error: dict[str, Any], data: bytes) -> None:
    assert _reverted(error) == Reverted(data)


@pytest.mark.parametrize(
    "error",
    [
        None,
        7,
        "x",
        {},
        {"code": -32603, "message": "internal", "data": "0x"},
        {"code": 3, "data": "0xzz"},
        {"code": []},
    ],
)
def test_other_errors_are_the_nodes_own(error: Any) -> None:
    with pytest.raises(Unreachable):
        _reverted(error)


@pytest.mark.parametrize("universal", [True, False])
async def test_a_resolver_that_breaks_down_has_no_records(ens: Ens, universal: bool) -> None:
    value, _ = await ens.provider(universal=universal).record("broken.eth", RECORD)
    assert value is None


async def test_everybody_is_asked_as_little_as_possible(ens: Ens, proxies: Any) -> None:
    asked: list[str] = []

    def noting(method: str, params: list[Any], reply: Any) -> Any:
        asked.append(method)
        return reply

    async def methods(provider: Asking, *names: str) -> list[str]:
        asked.clear()
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(provider.record, name, RECORD)
        return sorted(asked)

    (url,) = proxies(noting)
    pin = ["eth_blockNumber", "eth_getBlockByNumber"]
    for universal, calls in ((True, 1), (False, 5)):
        provider = ens.provider(url, universal=universal, nodes={"keep": 60.0})
        assert await methods(provider, NAME) == ["eth_blockNumber", *["eth_call"] * calls, "eth_chainId", pin[1]]
        assert await methods(provider, NAME) == ["eth_call"] * calls
    provider = ens.provider(url, nodes={"keep": 60.0})
    assert await methods(provider, *[NAME] * 5) == ["eth_blockNumber", *["eth_call"] * 5, "eth_chainId", pin[1]]
    fresh = ens.provider(url)
    await methods(fresh, NAME)
    assert await methods(fresh, NAME) == [pin[0], "eth_call", pin[1]]


async def test_where_there_is_no_ens_the_error_says_so(ens: Ens) -> None:
    bare = Anvil()
    try:
        bare.mine(10)
        with pytest.raises(BadWire, match="there is no registry of ENS at"):
            await ens.provider(bare.url, universal=False).record(NAME, RECORD)
    finally:
        bare.close()


@pytest.mark.parametrize("universal", [True, False])
async def test_what_is_not_there_is_absent_and_that_is_an_answer(ens: Ens, universal: bool) -> None:
    provider = ens.provider(universal=universal)
    for name, why in [
        ("nobody.eth", "nobody.eth is not in ENS"),
        ("below.devrel.enslabs.eth", "below.devrel.enslabs.eth is not in ENS"),
        ("empty.eth", "empty.eth is in ENS, but has nothing of what was asked for"),
    ]:
        outcome = await provider.ask(Ask(subject=Did("ens", name)))
        assert isinstance(outcome, Absent)
        assert outcome.why.startswith(why)
        assert outcome.evidence.trust is Trust.AUTH_CHANNEL
        assert outcome.until is not None


@pytest.mark.parametrize("universal", [True, False])
async def test_all_records_of_a_name_become_claims(ens: Ens, universal: bool) -> None:
    kinds = frozenset({"address", "text", "did", "content", "record"})
    found = await ens.provider(universal=universal).ask(Ask(subject=Did("ens", "house.eth"), kinds=kinds))
    assert isinstance(found, Found)
    said = {(claim.kind, claim.key, claim.value) for claim in found.claims if claim.kind != "record"}
    assert said == {
        ("address", "", "192.0.2.7"),
        ("address", "", "2001:db8::7"),
        ("did", "", "did:web:house.example"),
        ("text", "url", "https://house.example/"),
        ("text", "a.60", DEVREL),
        ("text", "pubkey", "01" * 32 + "02" * 32),
    }
    assert {claim.key for claim in found.claims if claim.kind == "record"} == {"TXT"}
    blobs = await ens.provider(universal=universal).ask(Ask(subject=Did("ens", "blobs.eth"), kinds=kinds))
    assert isinstance(blobs, Found)
    assert [(claim.kind, claim.value) for claim in blobs.claims] == [("address", "192.0.2.11")]


@pytest.mark.parametrize("universal", [True, False])
async def test_dns_records_speak_for_a_name_and_for_those_below_it(ens: Ens, universal: bool) -> None:
    provider = ens.provider(universal=universal)

    async def said(name: str, *kinds: Kind) -> Any:
        outcome = await provider.ask(Ask(subject=Did("ens", name), kinds=frozenset(kinds)))
        if isinstance(outcome, Absent):
            return outcome.why
        assert isinstance(outcome, Found)
        return [(claim.kind, claim.key, claim.value) for claim in outcome.claims]

    assert await said("zone.eth", "address") == [("address", "", "192.0.2.9"), ("address", "", "2001:db8::9")]
    assert await said("www.house.eth", "address") == [("address", "", "192.0.2.10")]
    assert await said("a.b.house.eth", "address") == [("address", "", "192.0.2.11")]
    assert (await said("any.house.eth", "record"))[0][:2] == ("record", "A")
    assert await said("www.house.eth", "key") == "www.house.eth is in ENS, but has nothing of what was asked for"
    assert (await said("www.zone.eth", "address")).startswith("www.zone.eth is not in ENS")
    ((kind, key, value),) = await said("house.eth", "key", "document")
    assert (kind, key, value.x) == ("key", "owner", PKX)


async def test_a_name_of_an_address_is_believed_only_both_ways(ens: Ens) -> None:
    def reverse(digits: str) -> Ask:
        return Ask(subject=Did("ens", f"{digits * 20}.addr.reverse"), kinds=frozenset({"name"}))

    stolen = await ens.provider().ask(reverse("11"))
    assert isinstance(stolen, Absent)
    assert stolen.why.endswith("calls itself devrel.enslabs.eth, which has another address")
    with pytest.raises(BadWire, match="is not spelt as names are"):
        await ens.provider().ask(reverse("22"))
    assert isinstance(await ens.provider().ask(reverse("33")), Absent)


async def test_names_that_cannot_be_are_refused_before_anybody_is_asked(ens: Ens) -> None:
    provider = ens.provider("http://127.0.0.1:1")
    for name in ("xn--vitalik-.eth", "xn--a-8bb.eth", "a--b.eth".replace("a--", "ab--")):
        with pytest.raises(BadWire):
            await provider.ask(Ask(subject=Did("ens", name)))


def test_what_a_node_is_worth_depends_on_the_way_to_it() -> None:
    def level_of(*urls: str) -> list[bool]:
        return [end.authentic for end in Chain(ChainConfig(endpoints=urls))._nodes]

    assert level_of("https://rpc.example/key", "http://127.0.0.1:8545", "http://127.0.0.2:1", "http://[::2]:1") == [
        True
    ] * 3 + [False]
    assert level_of("http://[::1]:1") == level_of("http://localhost") == [True]
    assert level_of("http://192.168.1.2:8545", "http://rpc.example") == [False] * 2


@pytest.mark.parametrize(
    ("urls", "quorum", "why"),
    [
        ((), 0, "nodes are needed"),
        (("https://a.example/one", "https://a.example/two"), 0, "a.example and a.example are one host"),
        (("https://a.example", "https://a.example:443"), 0, "no quorum"),
        (("https://a.example:1", "https://b.example", "https://a.example:2"), 0, "a.example:1 and a.example:2 are one"),
        (("https://a.example", "http://a.example."), 0, "no quorum"),
        (("https://one@a.example", "https://two@A.example:8545"), 0, "no quorum"),
        (("http://127.0.0.1:1", "http://localhost:2"), 0, "no quorum"),
        (("http://[::1]:1", "http://127.0.0.1:2"), 0, "no quorum"),
        (("http://[::ffff:127.0.0.1]:1", "http://node.localhost:2"), 0, "no quorum"),
        (("http://0.0.0.0:1", "http://[::]:2"), 0, "no quorum"),
        (("https://a.example",), 2, "can never agree"),
        (("ftp://a.example",), 0, "begins with https"),
        (("https://",), 0, "not the URL"),
        (("https://a.example:x",), 0, "not the URL"),
    ],
)
def test_nodes_that_make_no_sense_are_the_owners_to_mend(urls: tuple[str, ...], quorum: int, why: str) -> None:
    with pytest.raises(ConfigFault, match=why):
        Chain(ChainConfig(endpoints=urls, quorum=quorum))


async def test_a_name_that_leads_to_this_machine_is_no_second_voice(
    ens: Ens, proxies: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = socket.getaddrinfo

    def found(host: Any, *more: Any, **given: Any) -> Any:
        return find("127.0.0.1" if host == "node.example" else host, *more, **given)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    itself = ens.node.url.replace("127.0.0.1", "node.example")
    with pytest.raises(Unreachable, match=r"fewer than 2 .*is this machine, as .* is"):
        await ens.provider(ens.node.url, itself).record(NAME, RECORD)
    (other,) = proxies(honest)
    value, evidence = await ens.provider(ens.node.url, itself, other).record(NAME, RECORD)
    assert (value, evidence.trust) == (DEVREL, Trust.QUORUM)
    assert any(fact.what.startswith("2 of 3 Ethereum nodes agree") for fact in evidence.because)


def test_a_nodes_secret_path_is_not_shown() -> None:
    chain = Chain(ChainConfig(endpoints=("https://rpc.example/v3/s3cret",)))
    assert "s3cret" not in "".join(end.name for end in chain._nodes)
