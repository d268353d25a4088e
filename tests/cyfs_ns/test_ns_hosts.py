from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import ConfigFault
from cyfs_ns.hosts import Hosts, etc_hosts


def test_a_name_has_addresses_or_stands_for_another_name() -> None:
    hosts = Hosts(
        {
            "NAS.lan": ("192.168.1.2",),
            "*.cam.lan": ("192.168.1.3", "2001:db8::3"),
            "+.old.lan": "nas.lan",
            "out.lan": "elsewhere.example",
        }
    )
    assert hosts.lookup("nas.lan") == ("192.168.1.2",)
    assert hosts.lookup("a.cam.lan") == ("192.168.1.3", "2001:db8::3")
    assert hosts.lookup("a.b.old.lan") == ("192.168.1.2",)
    assert hosts.lookup("out.lan") == "elsewhere.example"
    assert hosts.lookup("other.lan") is None


@pytest.mark.parametrize(
    "entries", [{"a.lan": "a.lan"}, {"a.lan": "b.lan", "b.lan": "a.lan"}, {"+.lan": "x.lan"}, {"*.lan": "a.lan"}]
)
def test_aliases_that_go_round_are_refused(entries: dict[str, str]) -> None:
    with pytest.raises(ConfigFault, match="lan"):
        Hosts(entries)


def test_localhost_is_loopback_unless_written_otherwise() -> None:
    assert Hosts({}).lookup("localhost") == Hosts({}).lookup("a.localhost") == ("127.0.0.1", "::1")
    assert Hosts({"localhost": ("127.0.0.2",)}).lookup("localhost") == ("127.0.0.2",)


def test_etc_hosts_as_found_in_the_wild() -> None:
    text = (
        "127.0.0.1 localhost\n# a comment\n\n192.0.2.1\tNas nas.lan # 192.0.2.9\n2001:db8::1 nas\n"
        "fe80::1%eth0 router\nnonsense here\n192.0.2.2 bad/name good\n192.0.2.3\n"
    )
    assert etc_hosts(text) == {
        "localhost": ("127.0.0.1",),
        "nas": ("192.0.2.1", "2001:db8::1"),
        "nas.lan": ("192.0.2.1",),
        "router": ("fe80::1",),
        "good": ("192.0.2.2",),
    }


@given(st.text(st.sampled_from("ab1.:#% \t\n0"), max_size=200))
def test_any_hosts_text_gives_a_usable_table(text: str) -> None:
    Hosts(etc_hosts(text))
