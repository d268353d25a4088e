"""The section ``identity``: what it means, and faults at their places."""

from __future__ import annotations

import pytest

from cyfs_gateway.config.load import load
from cyfs_ns.config.identity import IdentityConfig, load_identity
from cyfs_ns.config.load import load_dns

WHOLE = b"""
identity:
  bridges: {bns: Web3.Example.}
  validators: [tls://9.9.9.9, 'https://dns.example/dns-query']
  resolvers: ['https://resolver.example/1.0/identifiers', 'http://127.0.0.1:8080/1.0/identifiers/']
  private: [home.example]
  serve: open
  ens:
    rpc: ['https://a.example/key', 'https://b.example', 'http://127.0.0.1:8545']
    quorum: 2
    registry: '0x00000000000C2E074eC69A0dFb2997BA6C7d2e1e'
"""


def read(text: bytes) -> tuple[IdentityConfig, list[str]]:
    config, faults = load_identity(text)
    return config, [f"{fault.path} {fault.line} {fault.severity}: {fault.message}" for fault in faults]


def test_the_whole_section() -> None:
    config, faults = read(WHOLE)
    assert faults == []
    assert dict(config.bridges) == {"bns": "web3.example"}
    assert config.validators == {"tls://9.9.9.9:853", "https://dns.example:443/dns-query"}
    assert config.resolvers == ("https://resolver.example/1.0/identifiers/", "http://127.0.0.1:8080/1.0/identifiers/")
    assert config.serve == "open"
    assert config.ens is not None
    assert config.ens.quorum == 2
    assert config.ens.registry == "0x00000000000c2e074ec69a0dfb2997ba6c7d2e1e"
    assert "a.example" not in repr(config)
    assert config.may_be_private("nas.home.example")
    assert config.may_be_private("home.example")
    assert not config.may_be_private("otherhome.example")


def test_without_it_nothing_is_needed() -> None:
    assert read(b"dns: {enable: true}") == (IdentityConfig(), [])
    assert read(b"") == (IdentityConfig(), [])


def test_both_programs_read_it() -> None:
    alone = load_dns(b"dns: {listen: ':53'}\n" + WHOLE)
    assert alone.identity == read(WHOLE)[0]
    gateway = load(WHOLE, home="/nonexistent")
    assert gateway.config is not None
    assert gateway.config.identity == read(WHOLE)[0]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("bridges: {web: x.example}", "/identity/bridges/web 2 error: 'web' is no method of DIDs that has a bridge"),
        ("bridges: {bns: 'a b'}", "/identity/bridges/bns 2 error"),
        (
            "bridges: {bns: web3.example, sns: web3.example}",
            "/identity/bridges/sns 2 error: web3.example and web3.exam",
        ),
        ("bridges: {bns: a.web3.example, sns: web3.example}", "/identity/bridges/sns 2 error: web3.example and a.web3"),
        ("bridges: {bns: web3.example, sns: a.web3.example}", "/identity/bridges/sns 2 error: a.web3.example and web3"),
        ("bridges: {bns: bns.did}", "/identity/bridges/bns 2 error: bns.did: there is no such name in the DNS"),
        ("validators: [9.9.9.9]", "/identity/validators/0 2 error: the word of a validator counts over a checked line"),
        ("validators: ['tls://9.9.9.9#skip-cert-verify=true']", "/identity/validators/0 2 error: the word of"),
        ("resolvers: ['http://resolver.example/']", "/identity/resolvers/0 2 error: a resolver is asked by https"),
        ("resolvers: ['https://r.example/?x=']", "/identity/resolvers/0 2 error: the DID is put behind this URL"),
        ("resolvers: ['https://u:p@r.example/']", "/identity/resolvers/0 2 error: the DID is put behind this URL"),
        ("resolvers: [resolver.example]", "/identity/resolvers/0 2 error"),
        ("private: ['a..b']", "/identity/private/0 2 error"),
        ("serve: everybody", "/identity/serve 2 error: expected one of own, open, off"),
        ("ens: {quorum: 1}", "/identity/ens 2 error: which Ethereum nodes? 'rpc' is missing"),
        ("ens: {rpc: [ws://a.example]}", "/identity/ens/rpc/0 2 error: expected the https URL of an Ethereum node"),
        ("ens: {rpc: ['https://a.example', 'https://b.example'], quorum: 3}", "/identity/ens/quorum 2 error: 3 of 2"),
        ("ens: {rpc: ['https://a.example/1', 'https://A.example/2']}", "/identity/ens/rpc 2 error: two nodes on one"),
        (
            "ens: {rpc: ['https://a.example:1', 'https://k@a.example:2/x']}",
            "/identity/ens/rpc 2 error: two nodes on one",
        ),
        ("ens: {rpc: ['http://localhost:1', 'http://[::1]:2']}", "/identity/ens/rpc 2 error: two nodes on one"),
        ("ens: {rpc: ['https://a.example'], registry: '0x12'}", "/identity/ens/registry 2 error: expected the address"),
        ("ens: {rpc: ['https://a.example']}", "/identity/ens/rpc 2 warning: a single node can lie unnoticed"),
        ("validator: [tls://9.9.9.9]", "/identity/validator 2 warning: unknown key 'validator', ignored; did you mean"),
    ],
)
def test_faults_have_their_place(line: str, fault: str) -> None:
    _, faults = read(f"identity:\n  {line}\n".encode())
    assert any(told.startswith(fault) for told in faults), faults
