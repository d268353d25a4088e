"""Content hashes, coins and addresses: the published examples, both ways, and what is none."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.ens.coins import (
    DEFAULT_EVM,
    ETH,
    address_text,
    is_evm,
    read_reverse_host,
    reverse_host,
)
from cyfs_ns.ens.contenthash import read_content, read_contenthash, write_contenthash
from cyfs_ns.errors import BadWire

# Of ENSIP-7 and its implementations' own tests; bytes and the URL that they mean.
KNOWN = [
    (
        "e3010170122029f2d17be6139079dc48696d1f582a8530eb9805b561eda517e22a892c7e3f1f",
        "ipfs://bafybeibj6lixxzqtsb45ysdjnupvqkufgdvzqbnvmhw2kf7cfkesy7r7d4",
    ),
    (
        "e5010172002408011220aa4396c7ef5ddc8ea1f8e54f9cd6ea0d8cd9cbbc9a4c9f9f5f5b0c2b9ae8c1de",
        None,
    ),
    ("e5010170000f6170702e756e69737761702e6f7267", "ipns://app.uniswap.org"),
    (
        "e40101fa011b20d1de9994b4d039f6548d191eb26786769f580809256b4685ef316805265ea162",
        "bzz://d1de9994b4d039f6548d191eb26786769f580809256b4685ef316805265ea162",
    ),
    ("bc037a716b746c7769347a65636c72636f77", None),
    ("90b2ca05" + "00" * 32, "ar://" + "A" * 43),
    (
        "90b2c60508004007fd43b74149b31aacbbf2784e874d09b086fed15fd54cacff7120cce95372",
        "sia://CABAB_1Dt0FJsxqsu_J4TodNCbCG_tFf1Uys_3EgzOlTcg",
    ),
    ("bc03" + b"zqktlwi4fecvo6ri".hex(), "onion://zqktlwi4fecvo6ri"),
    (
        "bd03" + b"p53lf57qovyuvwsc6xnrppyply3vtqm7l6pcobkmyqsiofyeznfu5uqd".hex(),
        "onion3://p53lf57qovyuvwsc6xnrppyply3vtqm7l6pcobkmyqsiofyeznfu5uqd",
    ),
]


@pytest.mark.parametrize(("raw", "url"), [pair for pair in KNOWN if pair[1]], ids=[str(u)[:12] for _, u in KNOWN if u])
def test_published_examples_both_ways(raw: str, url: str) -> None:
    assert str(read_contenthash(bytes.fromhex(raw))) == url
    assert write_contenthash(url).hex() == raw
    assert str(read_content(url)) == url


def test_other_spellings_of_one_cid_are_brought_together() -> None:
    version1 = "ipfs://bafybeibj6lixxzqtsb45ysdjnupvqkufgdvzqbnvmhw2kf7cfkesy7r7d4"
    assert str(read_content("ipfs://QmRAQB6YaCyidP37UdDnjFY5vQuiBrcqdyoW1CuDgwxkD4")) == version1
    bare = bytes.fromhex("e301122029f2d17be6139079dc48696d1f582a8530eb9805b561eda517e22a892c7e3f1f")
    assert str(read_contenthash(bare)) == version1


def test_dnslink_is_for_the_networks_that_have_it() -> None:
    assert read_content("ipns://app.uniswap.org").dnslink == "dnslink=/ipns/app.uniswap.org"
    assert read_content("ar://" + "A" * 43).dnslink is None


@pytest.mark.parametrize(
    "raw",
    [
        *("", "e3", "e301", "e30101", "e3010170", "e301017012", "e3010170122000", "e3010270122029", "ff01"),
        *("e301ffffffffffffffffffff01", "e30101800012200000", "e5010170000161", "e501017000036120 62"),
        *("e40101fa011b2000", "e4010170122029f2d17be6139079dc48696d1f582a8530eb9805b561eda517e22a892c7e3f1f"),
        *("90b2ca0500", "90b2c60500", "bc0361", "bd0361", "bc03" + "41" * 16, "e301" + "00" * 2000),
    ],
)
def test_what_is_no_content_hash_is_refused(raw: str) -> None:
    with pytest.raises(BadWire):
        read_contenthash(bytes.fromhex(raw))


@pytest.mark.parametrize(
    "url",
    [
        *("", "ipfs", "ipfs://", "ipfs://Qm", "ipfs://b!", "http://x", "ar://A", "sia://", "bzz://zz", "bzz://00"),
        *("onion://UPPER", "onion3://x", "ipns://k_", "ipns://", "ipns://kkk", "ipfs://b" + "a" * 5000),
    ],
)
def test_what_is_no_content_url_is_refused(url: str) -> None:
    with pytest.raises(BadWire):
        write_contenthash(url)


@given(
    st.one_of(
        st.binary(max_size=60),
        st.tuples(
            st.sampled_from([b"\xe3\x01", b"\xe4\x01", b"\xe5\x01", b"\xbc\x03", b"\x90\xb2\xca\x05"]),
            st.binary(max_size=60),
        ).map(b"".join),
    )
)
@settings(max_examples=200)
def test_any_bytes_are_content_or_the_one_error(untrusted: bytes) -> None:
    try:
        found = read_contenthash(untrusted)
    except BadWire:
        return
    assert read_contenthash(write_contenthash(str(found))) == found


@given(st.text(max_size=60), st.sampled_from(["ipfs", "ipns", "bzz", "ar", "sia", "onion", "onion3"]))
@settings(max_examples=200)
def test_any_url_is_content_or_the_one_error(name: str, scheme: str) -> None:
    with suppress(BadWire):
        write_contenthash(f"{scheme}://{name}")


# ERC-55's own examples.
CHECKSUMMED = [
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0xde709f2102306220921060314715629080e2fb77",
]


@pytest.mark.parametrize("text", CHECKSUMMED)
def test_addresses_have_their_checksum(text: str) -> None:
    raw = bytes.fromhex(text[2:])
    assert address_text(ETH, raw) == text


def test_coins_of_chains() -> None:
    assert is_evm(60) and is_evm(DEFAULT_EVM) and not is_evm(0) and not is_evm(0x1_0000_0000)
    assert address_text(0, b"\x76\xa9") == "0x76a9"
    with pytest.raises(BadWire, match="19 octets"):
        address_text(60, bytes(19))


@pytest.mark.parametrize(
    ("coin", "space"), [(60, "addr"), (DEFAULT_EVM, "default"), (0x80002105, "80002105"), (0, "0")]
)
def test_reverse_names_go_both_ways(coin: int, space: str) -> None:
    raw = bytes(range(20))
    name = reverse_host(coin, raw)
    assert name == f"{raw.hex()}.{space}.reverse"
    assert read_reverse_host(name) == (coin, raw)


@pytest.mark.parametrize(
    "name",
    ["reverse", "addr.reverse", "zz.addr.reverse", "AA.addr.reverse", "aa.060.reverse", "aa.3c.reverse", "a.eth"],
)
def test_other_names_are_no_reverse_names(name: str) -> None:
    assert read_reverse_host(name) is None
