"""The eleven cases that the makers of ENS publish for clients (resolution-tests, test-cases.json), on a real node with
the real registry and resolvers: each right, by each of the ways that can answer it, and with its level.

The first and the eighth case are made to be wrong for whoever does not ask the universal resolver.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from enschain import proxied
from ensworld import (
    AVATAR,
    BASE,
    DEVREL,
    NFT_OWNER,
    OFFCHAIN,
    ON_BASE,
    POKER,
    SITE,
    UR_REVERSE,
    Ens,
)

from cyfs_ns.ens import asks
from cyfs_ns.ens.asks import RecordAsk
from cyfs_ns.ens.coins import ETH, reverse_host
from cyfs_ns.ens.contenthash import read_contenthash
from cyfs_ns.identity.did import Did
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Found
from cyfs_ns.trust.plan import Ask


@dataclass(frozen=True)
class Forward:
    case: str
    name: str
    record: RecordAsk
    expected: str


FORWARD = [
    Forward("universal-resolver", "ur.integration-tests.eth", asks.coin_address(), "0x" + "2" * 40),
    Forward("forward-base-onchain", "coins.integration-tests.eth", asks.coin_address(BASE), ON_BASE),
    Forward("forward-wildcard", "moo331.nft-owner.eth", asks.coin_address(), NFT_OWNER),
    Forward("forward-eth-offchain", "test.offchaindemo.eth", asks.coin_address(), OFFCHAIN),
    Forward("forward-text-onchain", "integration-tests.eth", asks.text("avatar"), AVATAR),
    Forward("forward-text-offchain", "test.offchaindemo.eth", asks.text("description"), "asdflkjasdflkjasdf"),
    Forward("forward-contenthash", "integration-tests.eth", asks.contenthash(), SITE),
    Forward("forward-dns-offchain", "pokersback.com", asks.coin_address(), POKER),
]
REVERSE = [
    ("reverse-universal-resolver", ETH, UR_REVERSE, "ur-reverse.integration-tests.eth"),
    ("reverse-eth", ETH, DEVREL, "devrel.enslabs.eth"),
    ("reverse-l2", BASE, ON_BASE, "coins.integration-tests.eth"),
]
DIRECT_IS_OTHERWISE = {
    "universal-resolver": "0x" + "1" * 40,
    "reverse-universal-resolver": "v1-reverse.integration-tests.eth",
}


@pytest.mark.parametrize("universal", [True, False], ids=["universal", "direct"])
@pytest.mark.parametrize("case", FORWARD, ids=lambda case: case.case)
async def test_a_forward_case_is_right_and_says_its_level(ens: Ens, case: Forward, universal: bool) -> None:
    provider = ens.provider(universal=universal)
    value, evidence = await provider.record(case.name, case.record)
    if isinstance(value, bytes):
        value = str(read_contenthash(value))
    expected = case.expected if universal else DIRECT_IS_OTHERWISE.get(case.case, case.expected)
    assert value == expected
    assert evidence.trust is Trust.AUTH_CHANNEL
    told = " / ".join(fact.what for fact in evidence.walk())
    assert "1 of 1 Ethereum nodes agree, at block" in told
    assert ("gateway gateway.example supplied it" in told) == ("offchain" in case.case)
    assert "ENSIP-15 of 2025-09-14, Unicode 17" in told


async def test_with_three_nodes_all_eleven_are_a_quorums_and_a_gateway_is_asked_once(ens: Ens) -> None:
    with (
        proxied(ens.node.port, lambda *asked: asked[2], host="127.0.0.2") as two,
        proxied(ens.node.port, lambda *asked: asked[2], host="127.0.0.3") as three,
    ):
        provider = ens.provider(ens.node.url, two, three)
        for case in FORWARD:
            ens.gateway.asked.clear()
            value, evidence = await provider.record(case.name, case.record)
            assert (str(read_contenthash(value)) if isinstance(value, bytes) else value) == case.expected
            assert evidence.trust is Trust.QUORUM
            assert len(ens.gateway.asked) == ("offchain" in case.case)
        for _, coin, address, name in REVERSE:
            subject = Did("ens", reverse_host(coin, bytes.fromhex(address[2:])))
            found = await provider.ask(Ask(subject=subject, kinds=frozenset({"name"})))
            assert isinstance(found, Found)
            assert [(claim.value, claim.trust) for claim in found.claims] == [(name, Trust.QUORUM)]


@pytest.mark.parametrize("universal", [True, False], ids=["universal", "direct"])
@pytest.mark.parametrize(("case", "coin", "address", "name"), REVERSE, ids=[case[0] for case in REVERSE])
async def test_a_reverse_case_is_right_and_says_its_level(
    ens: Ens, case: str, coin: int, address: str, name: str, universal: bool
) -> None:
    provider = ens.provider(universal=universal)
    subject = Did("ens", reverse_host(coin, bytes.fromhex(address[2:])))
    found = await provider.ask(Ask(subject=subject, kinds=frozenset({"name"})))
    assert isinstance(found, Found), found
    (claim,) = found.claims
    assert claim.value == (name if universal else DIRECT_IS_OTHERWISE.get(case, name))
    assert claim.trust is Trust.AUTH_CHANNEL
    assert any(f"{claim.value} has the address {address}" == fact.what for fact in claim.evidence.walk())
