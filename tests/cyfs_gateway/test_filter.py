"""Who may use a listener, decided by address alone."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_gateway import filter as filter_module
from cyfs_gateway.config.model import ListenerConfig
from cyfs_gateway.filter import AddressFilter
from cyfs_ns.config.written import Network


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def listener(**prefixes: tuple[Network, ...]) -> ListenerConfig:
    return ListenerConfig(name="x", kind="mixed", listen="0.0.0.0", port=1, **prefixes)  # type: ignore[arg-type]


LAN = listener(
    allowed=networks("192.168.0.0/16", "fd00::/8"),
    disallowed=networks("192.168.7.0/24"),
    skip_auth_prefixes=networks("192.168.1.0/24", "fd00:1::/32"),
    proxy_protocol_from=networks("192.168.2.1/32"),
)


@pytest.mark.parametrize(
    ("host", "judged"),
    [
        ("192.168.0.9", (True, False, False)),
        ("192.168.1.9", (True, True, False)),
        ("192.168.2.1", (True, False, True)),
        ("192.168.7.9", (False, False, False)),
        ("10.0.0.1", (False, False, False)),
        ("127.0.0.1", (False, False, False)),
        ("fd00:1::9", (True, True, False)),
        ("fd00:2::9", (True, False, False)),
        ("2001:db8::1", (False, False, False)),
    ],
)
def test_a_lan(host: str, judged: tuple[bool, bool, bool]) -> None:
    judge = AddressFilter(LAN).judge
    assert judge(host) == judged
    assert judge(host) == judged


def test_no_prefixes_serve_everybody_and_excuse_nobody() -> None:
    assert AddressFilter(listener()).judge("203.0.113.1") == (True, False, False)
    assert AddressFilter(listener(disallowed=networks("203.0.113.0/24"))).judge("203.0.113.1")[0] is False
    assert AddressFilter(listener(disallowed=networks("203.0.113.0/24"))).judge("203.0.114.1")[0] is True


@given(st.ip_addresses())
def test_a_network_of_the_other_family_holds_nobody(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    everybody = networks("0.0.0.0/0" if address.version == 6 else "::/0")
    judged = AddressFilter(listener(allowed=everybody, skip_auth_prefixes=everybody)).judge(str(address))
    assert judged == (False, False, False)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_module, "_VERDICTS_KEPT", 10)
    one = AddressFilter(LAN)
    for last in range(100):
        assert one.judge(f"192.168.0.{last}")[0]
        assert not one.judge(f"192.168.7.{last}")[0]
    assert len(one._known) <= 10
