"""How a device is found: the keys of ``rtcp`` that say so, what they mean when absent, and what is wrong with them."""

from __future__ import annotations

import pytest

from cyfs_gateway.config.load import load
from cyfs_gateway.config.model import RtcpConfig


def read(text: str) -> RtcpConfig:
    loaded = load(f"rtcp:\n  {text}\n".encode(), home="/home/x")
    assert not loaded.faults
    assert loaded.config is not None and loaded.config.rtcp is not None
    return loaded.config.rtcp


def test_who_does_not_listen_asks_nobody_around() -> None:
    quiet = read("require: authority_current")
    assert (quiet.udp, quiet.port_mapping, quiet.lan, quiet.stun) == (True, False, False, ())
    assert quiet.private_addresses is None
    open_ = read("listen: 2980")
    assert (open_.udp, open_.port_mapping, open_.lan) == (True, True, True)


def test_what_is_written_counts() -> None:
    told = read(
        "listen: 2980\n  udp: false\n  port-mapping: no\n  lan: off\n"
        "  stun: [stun.example, '192.0.2.1:3479', '[2001:db8::1]:3478', '2001:db8::2']\n"
        "  private-addresses: [did:web:laptop.home.example, 'ZONE,home.example']"
    )
    assert (told.udp, told.port_mapping, told.lan) == (False, False, False)
    servers = ("stun.example", 3478), ("192.0.2.1", 3479), ("2001:db8::1", 3478), ("2001:db8::2", 3478)
    assert told.stun == servers
    assert told.private_addresses is not None
    assert [str(rule) for rule in told.private_addresses] == [
        "DID,did:web:laptop.home.example",
        "ZONE,did:web:home.example",
    ]
    asked = read("port-mapping: true\n  lan: true\n  private-addresses: []")
    assert (asked.port_mapping, asked.lan, asked.private_addresses) == (True, True, ())


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("udp: maybe", "2 error /rtcp/udp: expected true or false, found 'maybe'"),
        ("lan: [1]", "2 error /rtcp/lan: expected true or false"),
        ("stun: ['x y']", "2 error /rtcp/stun/0: expected host or host:port of a STUN server, found 'x y'"),
        ("stun: ['a.example:0']", "2 error /rtcp/stun/0: expected host or host:port"),
        ("stun: [a, b, c, d, e, f, g, h, i]", "2 error /rtcp/stun: more than 8"),
        ("private-addresses: ['DID,no one']", "2 error /rtcp/private-addresses/0: DID takes a DID"),
        ("private-addresses: {}", "2 error /rtcp/private-addresses: expected a list"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(written: str, told: str) -> None:
    loaded = load(f"rtcp:\n  {written}\n".encode(), home="/home/x")
    said = [f"{fault.line} {fault.severity} {fault.path}: {fault.message}" for fault in loaded.faults]
    assert any(one.startswith(told) for one in said), said
