"""What is published on the node: the eleven published resolution cases, and a few names more."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

from enschain import GATEWAY, SIGNER, Anvil, Gateway, artifact, call_data, compiled, selector, signed

from cyfs_ns.ens.abi import Array, encode
from cyfs_ns.ens.asks import RecordAsk, coin_address, text
from cyfs_ns.ens.claims import called
from cyfs_ns.ens.contenthash import write_contenthash
from cyfs_ns.ens.lookup import Fetch, Fetched
from cyfs_ns.ens.namehash import namehash
from cyfs_ns.ens.normalise import normalise
from cyfs_ns.errors import Unreachable
from cyfs_ns.io.trusted.ccipgate import CcipGate, GateConfig
from cyfs_ns.io.trusted.chain import ChainConfig
from cyfs_ns.io.trusted.enslookups import EnsConfig
from cyfs_ns.io.trusted.ensprovider import EnsProvider
from cyfs_ns.message import AAAA, TXT, A
from cyfs_ns.records import data_wire
from cyfs_ns.trust.evidence import Evidence
from cyfs_ns.wire import name_wire

BASE = 0x8000_2105
"""The coin of the Base chain."""

AVATAR = "https://raw.githubusercontent.com/ensdomains/resolution-tests/refs/heads/main/assets/avatar.svg"
SITE = "ipfs://bafybeifx7yeb55armcsxwwitkymga5xf53dxiarykms3ygqic223w5sk3m"
ON_BASE = "0xa66E90D515F576f49Af2dF40952476D56F72A420"
NFT_OWNER = "0x51050ec063d393217B436747617aD1C2285Aeeee"
OFFCHAIN = "0x779981590E7Ccc0CFAe8040Ce7151324747cDb97"
POKER = "0x534631Bcf33BDb069fB20A93d2fdb9e4D4dD42CF"
PKX = "O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik"
UR_REVERSE = "0x3AF5CFc7C7f29Da9d7758339b8eaB6a78550Cbed"
DEVREL = "0xeE9eeaAB0Bb7D9B969D701f6f8212609EDeA252E"


@dataclass
class Ens:
    """The node, where ENS is on it, and the gateway its names refer to."""

    node: Anvil
    universal: str
    contracts: dict[str, str]
    gateway: Gateway
    trust: ssl.SSLContext

    def gate(self, *, private: frozenset[str] = frozenset({GATEWAY}), **given: Any) -> CcipGate:
        async def resolve(host: str) -> list[str]:
            return ["127.0.0.1"]

        return CcipGate(resolve, GateConfig(private=private, **given), tls=self.trust)

    def config(
        self, *urls: str, universal: bool = True, nodes: dict[str, Any] | None = None, **given: Any
    ) -> EnsConfig:
        return EnsConfig(
            nodes=ChainConfig(endpoints=urls or (self.node.url,), **({"keep": 0} | (nodes or {}))),
            registry=self.node.registry,
            universal=self.universal if universal else "",
            **given,
        )

    def provider(self, *urls: str, gate: CcipGate | None = None, **given: Any) -> Asking:
        return Asking(self.config(*urls, **given), gate or self.gate())


class Asking(EnsProvider):
    """One that also tells a single record, however it is asked for."""

    async def record(self, name: str, wanted: RecordAsk) -> tuple[str | bytes | None, Evidence]:
        """The record of a name in any spelling, and the evidence.  Raises as ``ask`` does, and ``NoResolver``."""
        normal, view = normalise(name), await self._lookups.view()
        learnt = await self._lookups.learn(normal, [wanted], view)
        if learnt.faults:
            raise Unreachable(learnt.faults[0])
        value, answer = learnt.values.get(wanted, (None, None))
        return value, self._evidence(called(wanted), normal, view, answer)


class Recorder(CcipGate):
    """A gate that counts."""

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self.fetched: list[str] = []

    async def fetch(self, wanted: Fetch) -> Fetched:
        self.fetched.append(wanted.url)
        return await super().fetch(wanted)


def stored(owner: str, rtype: int, text: str) -> bytes:
    """A DNS record as it travels."""
    data = data_wire(rtype, text)
    return name_wire(owner) + rtype.to_bytes(2, "big") + b"\0\1\0\0\0\x0a" + len(data).to_bytes(2, "big") + data


def published(node: Anvil, gate: Gateway, trusting: ssl.SSLContext) -> Ens:
    """Deploys everything and writes the records."""
    from eth_keys.datatypes import PrivateKey

    own = compiled()
    node.registry = node.deploy(artifact("ens/build/contracts/ENSRegistry.json"))
    at_node = encode(("address",), (node.registry,))
    public = node.resolver = node.deploy(artifact("resolver/build/contracts/PublicResolver.json"), at_node)
    universal = node.deploy(own["Universal"], at_node)
    contracts = {name: node.deploy(own[name]) for name in ("Wildcard", "ReverseNames", "Blobs", "Sender")}
    contracts["TwoFaced"] = node.deploy(own["TwoFaced"], encode(("address",), (universal,)))
    signer = PrivateKey(SIGNER).public_key.to_address()
    offchain = artifact("offchain-resolver-contracts/artifacts/contracts/OffchainResolver.sol/OffchainResolver.json")
    for name, path in (("Offchain", "signed"), ("DnsOffchain", "poker")):
        url = gate.url(path + "/{sender}/{data}.json")
        contracts[name] = node.deploy(offchain, encode(("string", Array("address")), (url, (signer,))))

    def put(name: str, signature: str, *values: Any) -> None:
        node.do(public, signature, namehash(name), *values)

    node.own("integration-tests.eth", public)
    put("integration-tests.eth", "setText(bytes32,string,string)", "avatar", AVATAR)
    put("integration-tests.eth", "setContenthash(bytes32,bytes)", write_contenthash(SITE))
    node.own("ur.integration-tests.eth", contracts["TwoFaced"])
    node.own("coins.integration-tests.eth", public)
    put("coins.integration-tests.eth", "setAddr(bytes32,uint256,bytes)", BASE, bytes.fromhex(ON_BASE[2:]))
    node.own("nft-owner.eth", contracts["Wildcard"])
    node.do(contracts["Wildcard"], "set(bytes32,address)", namehash("moo331.nft-owner.eth"), NFT_OWNER)
    node.own("offchaindemo.eth", contracts["Offchain"])
    node.own("com", contracts["DnsOffchain"])

    def offline(inner: bytes) -> bytes:
        node_of = namehash("test.offchaindemo.eth")
        if inner == coin_address().data(node_of):
            return encode(("address",), (OFFCHAIN,))
        if inner == text("description").data(node_of):
            return encode(("string",), ("asdflkjasdflkjasdf",))
        return b""

    gate.answers["signed"] = signed(offline)
    gate.answers["poker"] = signed(lambda inner: encode(("address",), (POKER,)))

    # Names of addresses.
    twofaced_reverse = f"{UR_REVERSE[2:].lower()}.addr.reverse"
    node.own(twofaced_reverse, contracts["TwoFaced"])
    node.own("ur-reverse.integration-tests.eth", public)
    put("ur-reverse.integration-tests.eth", "setAddr(bytes32,address)", UR_REVERSE)
    node.own("v1-reverse.integration-tests.eth", public)
    put("v1-reverse.integration-tests.eth", "setAddr(bytes32,address)", UR_REVERSE)
    node.own(f"{DEVREL[2:].lower()}.addr.reverse", public)
    put(f"{DEVREL[2:].lower()}.addr.reverse", "setName(bytes32,string)", "devrel.enslabs.eth")
    node.own("devrel.enslabs.eth", public)
    put("devrel.enslabs.eth", "setAddr(bytes32,address)", DEVREL)
    node.own(f"{BASE:x}.reverse", contracts["ReverseNames"])
    reverse = namehash(f"{ON_BASE[2:].lower()}.{BASE:x}.reverse")
    node.do(contracts["ReverseNames"], "set(bytes32,string)", reverse, "coins.integration-tests.eth")
    # Calls itself what it is not; and what is no spelling of a name.
    for address, name in (("11" * 20, "devrel.enslabs.eth"), ("22" * 20, "Devrel.enslabs.eth")):
        node.own(f"{address}.addr.reverse", public)
        put(f"{address}.addr.reverse", "setName(bytes32,string)", name)

    # A name with everything that DNS can say.
    node.own("house.eth", public)
    put("house.eth", "setText(bytes32,string,string)", "ip", "192.0.2.7, /ip6/2001:db8::7/tcp/443")
    put("house.eth", "setText(bytes32,string,string)", "did", "did:web:house.example")
    put("house.eth", "setText(bytes32,string,string)", "url", "https://house.example/")
    put("house.eth", "setAddr(bytes32,address)", DEVREL)
    put("house.eth", "setPubkey(bytes32,bytes32,bytes32)", b"\x01" * 32, b"\x02" * 32)
    zone = (
        ("www.house.eth", A, "192.0.2.10"),
        ("*.house.eth", A, "192.0.2.11"),
        ("house.eth", TXT, '"v=spf1 -all"'),
        ("house.eth", TXT, f'"PKX={PKX};"'),
    )
    put("house.eth", "setDNSRecords(bytes32,bytes)", b"".join(stored(*each) for each in zone))
    node.own("zone.eth", public)
    zone = (("zone.eth", A, "192.0.2.9"), ("zone.eth", AAAA, "2001:db8::9"))
    put("zone.eth", "setDNSRecords(bytes32,bytes)", b"".join(stored(*each) for each in zone))
    put("zone.eth", "setText(bytes32,string,string)", "ip", "192.0.2.66")
    node.own("blobs.eth", contracts["Blobs"])
    node.do(contracts["Blobs"], "set(bytes32,string,bytes)", namehash("blobs.eth"), "ip", b"\xc0\0\2\x0b")
    node.own("empty.eth", public)
    node.own("sender.eth", contracts["Sender"])
    node.own("broken.eth", node.deploy("6001600c60003960016000f3fe"))  # the one instruction that is none
    node.mine()
    assert selector("resolve(bytes,bytes)").hex() == "9061b923"
    assert call_data("addr(bytes32)", bytes(32))[:4].hex() == "3b3b57de"
    return Ens(node, universal, contracts, gate, trusting)
