"""The real sing-box in front of us and behind us, and real clients (curl, kdig) that know nothing of either.

In front: its inbounds lead to our SOCKS and HTTP ports.  Behind: our outbounds lead to its inbounds, which ask for a
user.  Its log says what reached it, and as whom.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from e2e_house import Gateway, Nginx, dnsmasq, gateway, program, sing_box, until

from tests.freeport import free_port

USER = {"username": "alice", "password": "wonder land"}
WAYS = ("socks", "http", "https", "chain", "wrong")
RECORDS = [f"--host-record=n{n}.test,192.0.2.{n}" for n in range(1, 41)]
RECORDS += [f"--host-record=big.test,198.51.100.{n}" for n in range(1, 201)]


@dataclass(frozen=True)
class Street:
    """curl and kdig, sing-box, our gateway, another sing-box, nginx and dnsmasq, in this order."""

    house: Gateway
    behind: Path
    """The log of the sing-box behind us."""
    by_socks: int
    by_http: int
    """Mixed ports of the sing-box before us; the one leads to our SOCKS port, the other to our HTTP port."""
    dns_direct: int
    dns_behind: int
    """Its ports that send DNS through our SOCKS port to dnsmasq, from us directly or from the sing-box behind us."""
    http_port: int


@pytest.fixture(scope="module")
def street(nginx: Nginx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    root = tmp_path_factory.mktemp("sing-box")
    (nginx.pages / "file").write_bytes(b"0123456789abcdef" * 65536)
    ca = trustme.CA()
    certificate = ca.issue_cert("behind.test")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(root / "behind.pem"))
    ca.cert_pem.write_to_path(str(root / "ca.pem"))
    ours = {name: free_port() for name in ("socks", "http")}
    front = {name: free_port() for name in ("socks", "http", "direct", "behind")}
    back = {name: free_port() for name in ("socks", "http", "https")}
    with (
        dnsmasq(root, *RECORDS) as dns,
        sing_box(root / "back", _behind_us(back, root / "behind.pem")) as behind,
        gateway(root / "home", _our_config(ours, back)) as house,
        sing_box(root / "front", _before_us(front, ours, dns)),
    ):
        yield Street(
            house, behind, front["socks"], front["http"], front["direct"], front["behind"], nginx.port
        )  # fmt: skip


def _before_us(front: dict[str, int], ours: dict[str, int], dns: int) -> dict[str, Any]:
    """Its ``direct`` inbounds answer for a DNS server; what they get goes out as SOCKS, UDP ASSOCIATE for UDP."""
    loopback = {"listen": "127.0.0.1"}
    server = {"type": "direct", "override_port": dns, **loopback}
    return {
        "inbounds": [
            {"type": "mixed", "tag": "to-socks", "listen_port": front["socks"], **loopback},
            {"type": "mixed", "tag": "to-http", "listen_port": front["http"], **loopback},
            {"tag": "d", "listen_port": front["direct"], "override_address": "direct.test", **server},
            {"tag": "b", "listen_port": front["behind"], "override_address": "127.0.0.1", **server},
        ],
        "outbounds": [
            {"type": "socks", "tag": "socks", "server": "127.0.0.1", "server_port": ours["socks"], **USER},
            {"type": "http", "tag": "http", "server": "127.0.0.1", "server_port": ours["http"], **USER},
        ],
        "route": {"rules": [{"inbound": "to-http", "outbound": "http"}], "final": "socks"},
    }


def _behind_us(back: dict[str, int], pem: Path) -> dict[str, Any]:
    tls = {"enabled": True, "certificate_path": str(pem), "key_path": str(pem)}
    common = {"listen": "127.0.0.1", "users": [USER]}
    return {
        "inbounds": [
            {"type": "socks", "tag": "s", "listen_port": back["socks"], **common},
            {"type": "http", "tag": "h", "listen_port": back["http"], **common},
            {"type": "http", "tag": "t", "listen_port": back["https"], "tls": tls, **common},
        ],
        "dns": {"servers": [{"type": "hosts", "tag": "names", "predefined": {f"{w}.test": "127.0.0.1" for w in WAYS}}]},
        "outbounds": [{"type": "direct", "tag": "direct"}],
        "route": {"default_domain_resolver": "names"},
    }


def _our_config(ours: dict[str, int], back: dict[str, int]) -> dict[str, Any]:
    at = {"server": "127.0.0.1"}
    return {
        "ipv6": False,
        "authentication": [f"{USER['username']}:{USER['password']}"],
        "socks-port": ours["socks"],
        "port": ours["http"],
        "hosts": {"direct.test": "127.0.0.1"},
        "proxies": [
            {"name": "socks", "type": "socks5", "port": back["socks"], "udp": True, **USER, **at},
            {"name": "http", "type": "http", "port": back["http"], **USER, **at},
            {"name": "https", "type": "http", "port": back["https"], "tls": True, "sni": "behind.test",
             "skip-cert-verify": True, **USER, **at},
            {"name": "chain", "type": "http", "port": back["http"], "dialer-proxy": "socks", **USER, **at},
            {"name": "wrong", "type": "socks5", "port": back["socks"], "username": "alice", "password": "x", **at},
        ],
        "rules": [
            "DOMAIN,direct.test,DIRECT",
            *[f"DOMAIN,{way}.test,{way}" for way in WAYS],
            "AND,((NETWORK,UDP),(IP-CIDR,127.0.0.1/32)),socks",
            "MATCH,REJECT",
        ],
    }  # fmt: skip


def curl(port: int, url: str, *more: str) -> subprocess.CompletedProcess[bytes]:
    """A fetch through a sing-box before us that accepts names."""
    words = [program("curl", "curl"), "-sS", "-f", "-m", "15", "--proxy", f"socks5h://127.0.0.1:{port}", *more, url]
    return subprocess.run(words, capture_output=True, check=False)


def kdig(port: int, *words: str) -> list[str]:
    """The answers to one question."""
    command = [program("kdig", "knot-dnsutils"), "@127.0.0.1", "-p", str(port), "+short", "+timeout=5", "+retry=1"]
    return subprocess.run([*command, *words], capture_output=True, text=True, check=True).stdout.split()


def hears(log: Path, words: str) -> None:
    """Wait until a log says so."""
    until(f"the log says {words}", lambda: words in log.read_text())


@pytest.mark.parametrize("way", ["direct", "socks", "http", "https", "chain"])
def test_a_file_arrives_whole_by_every_way(street: Street, nginx: Nginx, way: str) -> None:
    whole = (nginx.pages / "file").read_bytes()
    for front in (street.by_socks, street.by_http):
        done = curl(front, f"http://{way}.test:{street.http_port}/file")
        assert done.returncode == 0, done.stderr
        assert done.stdout == whole


def test_the_sing_box_behind_hears_the_name_and_the_user(street: Street) -> None:
    for way, tag in (("socks", "socks[s]"), ("http", "http[h]"), ("https", "http[t]")):
        assert curl(street.by_socks, f"http://{way}.test:{street.http_port}/file").returncode == 0
        wanted = f"inbound/{tag}: [alice] inbound connection to {way}.test:{street.http_port}"
        hears(street.behind, wanted)


def test_a_chain_goes_through_the_first_proxy_to_the_second(street: Street) -> None:
    assert curl(street.by_socks, f"http://chain.test:{street.http_port}/file").returncode == 0
    log = street.behind.read_text()
    proxies = {one["name"]: one for one in street.house.api("/proxies")["proxies"].values()}
    assert proxies["chain"]["dialer-proxy"] == "socks"
    # The leg from us asks its SOCKS port for its own HTTP port; the leg inside asks that port for the page.
    inner = log.rindex(f"inbound/http[h]: [alice] inbound connection to chain.test:{street.http_port}")
    assert "inbound/socks[s]: [alice] inbound connection to 127.0.0.1:" in log[:inner]


def test_a_wrong_password_opens_nothing(street: Street) -> None:
    done = curl(street.by_socks, f"http://wrong.test:{street.http_port}/file")
    assert done.returncode != 0
    assert done.stdout == b""
    assert "wrong.test" not in street.behind.read_text()


@pytest.mark.parametrize("kind", ["Socks5", "HTTPS"])
def test_a_download_under_way_is_listed_with_its_user_and_chain(street: Street, kind: str) -> None:
    port = street.by_socks if kind == "Socks5" else street.by_http
    url = f"http://chain.test:{street.http_port}/hold"
    words = [program("curl", "curl"), "-sS", "-N", "-m", "60", "--proxy", f"socks5h://127.0.0.1:{port}", url]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as slow:
        try:
            assert slow.stdout is not None
            assert slow.stdout.read(4) == b"slow"
            (one,) = street.house.connections("chain.test")
            assert one["metadata"]["type"] == kind
            assert one["metadata"]["inboundUser"] == "alice"
            assert one["chains"] == ["chain"]
            assert (one["rule"], one["rulePayload"]) == ("Domain", "chain.test")
            assert one["download"] > 0
        finally:
            slow.kill()
    until("the connection is gone", lambda: not street.house.connections("chain.test"))


@pytest.mark.parametrize("way", ["direct", "behind"])
def test_dns_goes_through_udp_associate(street: Street, way: str) -> None:
    port = street.dns_direct if way == "direct" else street.dns_behind
    assert kdig(port, "n7.test", "A") == ["192.0.2.7"]
    assert len(kdig(port, "big.test", "A", "+bufsize=4096", "+ignore")) == 200, "a datagram of 3 kB"
    (one,) = [c for c in street.house.connections() if c["metadata"]["network"] == "udp" and c["download"] > 3000]
    assert one["metadata"]["type"] == "Socks5"
    assert one["chains"] == ["DIRECT" if way == "direct" else "socks"]
    street.house.api(f"/connections/{one['id']}", method="DELETE")
    if way == "behind":
        hears(street.behind, "inbound/socks[s]: [alice] inbound packet connection")


def test_many_datagram_flows_at_once_each_get_their_own_answer(street: Street) -> None:
    command = [program("kdig", "knot-dnsutils"), "@127.0.0.1", "-p", str(street.dns_behind), "+short", "+timeout=10"]
    asked = {n: subprocess.Popen([*command, f"n{n}.test"], stdout=subprocess.PIPE, text=True) for n in range(1, 41)}
    assert {n: one.communicate()[0].split() for n, one in asked.items()} == {n: [f"192.0.2.{n}"] for n in asked}


def test_dns_over_tcp_goes_the_same_way(street: Street) -> None:
    assert len(kdig(street.dns_direct, "+tcp", "big.test", "A")) == 200
