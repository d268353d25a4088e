from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import ConfigFault
from cyfs_ns.hosts import Hosts, clash_hosts, etc_hosts


def test_clash_hosts_are_addresses_lists_and_aliases() -> None:
    faults: list[str] = []
    entries = clash_hosts(
        {
            "NAS.lan": "192.168.1.2",
            "*.cam.lan": ["192.168.1.3", "::FFFF:192.168.1.3", "2001:DB8::3"],
            "+.old.lan": "nas.lan",
            "out.lan": "Bücher.example",
            "one.lan": ["elsewhere.example"],
        },
        faults,
    )
    hosts = Hosts(entries)
    assert faults == []
    assert hosts.lookup("nas.lan") == ("192.168.1.2",)
    assert hosts.lookup("a.cam.lan") == ("192.168.1.3", "2001:db8::3")
    assert hosts.lookup("a.b.old.lan") == ("192.168.1.2",)
    assert hosts.lookup("out.lan") == "xn--bcher-kva.example"
    assert hosts.lookup("one.lan") == "elsewhere.example"
    assert hosts.lookup("other.lan") is None


def test_all_faults_are_told_and_the_rest_is_kept() -> None:
    faults: list[str] = []
    entries = clash_hosts(
        {"a b": "1.1.1.1", "x.lan": 5, "y.lan": [], "z.lan": ["1.1.1.1", "name.lan"], "ok.lan": "1.1.1.1"}, faults
    )
    assert [fault.partition(":")[0] for fault in faults] == ["a b", "x.lan", "y.lan", "z.lan"]
    assert entries == {"ok.lan": ("1.1.1.1",)}


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
