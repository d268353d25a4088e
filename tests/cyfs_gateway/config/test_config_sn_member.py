"""``rtcp/sn``: the SNs that this machine belongs to."""

from __future__ import annotations

import pytest

from cyfs_gateway.config.load import load
from cyfs_gateway.config.model import KeptTunnel, MemberConfig
from cyfs_ns.identity.did import Did, parse_did

KEY = "did:dev:QwRr_kCSs-lJlOraFdzCDYqqB7ZY_TlU644O-4vcpd4"
GOOD = f"""
rtcp:
  sn:
    - sn.example
    - peer: {KEY}
      at: "203.0.113.5"
      name: Alice
      addresses: visitors
      expose: [photos, "@", www.Home.example, "tcp:2222", "udp:0005/dns"]
    - {{peer: "rtcp://socks%3A%2F%2Fhop%3A1080@sn2.example:2981", at: "[2001:db8::5]:2990"}}
"""


def members(text: str) -> tuple[MemberConfig, ...]:
    loaded = load(text.encode(), home="/home/x")
    assert loaded.config is not None and not loaded.faults, loaded.faults
    assert loaded.config.rtcp is not None
    return loaded.config.rtcp.sns


def test_what_is_written_is_what_is_meant() -> None:
    first, second, third = members(GOOD)
    assert first == MemberConfig(sn=KeptTunnel(peer=Did("web", "sn.example")))
    assert (second.sn.peer, second.at, second.name) == (parse_did(KEY), ("203.0.113.5", 2980), "alice")
    assert (second.addresses, second.expose) == (
        "visitors",
        ("photos", "@", "www.home.example", "tcp:2222", "udp:5/dns"),
    )
    assert (third.sn.port, third.at) == (2981, ("2001:db8::5", 2990))


def test_one_may_stand_alone_and_none_is_none() -> None:
    assert members("rtcp: {sn: sn.example}") == members("rtcp: {sn: [sn.example]}")
    assert members(f"rtcp: {{sn: {{peer: '{KEY}'}}}}")[0].sn.peer == parse_did(KEY)
    assert members("rtcp: {}") == members("rtcp: {sn: }") == members("rtcp: {sn: []}") == ()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("sn: ['not a name']", "2 error /rtcp/sn/0: "),
        ("sn: [sn.example, sn.example]", "2 error /rtcp/sn/1: did:web:sn.example stands here already"),
        ("sn: [[sn.example]]", "2 error /rtcp/sn/0: expected text"),
        ("sn: [{name: alice}]", "2 error /rtcp/sn/0: 'peer' is missing"),
        ("sn: [{peer: sn.example, name: a.b}]", "2 error /rtcp/sn/0/name: 'a.b' is no name"),
        ("sn: [{peer: sn.example, at: 'x:y'}]", "2 error /rtcp/sn/0/at: expected an address or host name"),
        ("sn: [{peer: sn.example, addresses: all}]", "2 error /rtcp/sn/0/addresses: expected one of none, own"),
        ("sn: [{peer: sn.example, expose: ['tcp:0']}]", "2 error /rtcp/sn/0/expose/0: expected a host name"),
        ("sn: [{peer: sn.example, expose: ['192.0.2.1']}]", "2 error /rtcp/sn/0/expose/0: expected a host name"),
        ("sn: [{peer: 'rtcp://sn.example/:80'}]", "/rtcp/sn/0/peer: expected a DID, a host name, or rtcp"),
        ("sn: [{peer: sn.example, nmae: alice}]", "2 warning /rtcp/sn/0/nmae: unknown key 'nmae'"),
        (f"sn: [{', '.join(f'sn{n}.example' for n in range(9))}]", "2 error /rtcp/sn: more than 8"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(written: str, told: str) -> None:
    loaded = load(f"rtcp:\n  {written}\n".encode(), home="/home/x")
    said = [f"{fault.line} {fault.severity} {fault.path}: {fault.message}" for fault in loaded.faults]
    assert any(told in line for line in said), said
