"""What a machine shows to the visitors of its SNs: by which hosts, to whom, and what it believes of where they are."""

from __future__ import annotations

import pytest

from cyfs_gateway.config.load import load
from cyfs_gateway.config.model import KeptTunnel, MemberConfig, RtcpConfig
from cyfs_gateway.flow import PEER, Flow, Identity
from cyfs_gateway.peers import PeerRules
from cyfs_gateway.told import believed
from cyfs_ns.errors import Refused
from cyfs_ns.identity.did import Did
from cyfs_ns.trust.level import Trust

SN, FRIEND = Did("web", "sn.example"), Did("web", "friend.example")

EXPOSED = """
rtcp:
  sn: [sn.example]
  services:
    - name: photos
      port: 443
      target: tcp://:8443
      hosts: [Photos.alice.sn.example.]
      public: true
      proxy-protocol: true
    - {name: rest, port: 443, target: 'tcp://:8444', hosts: ['*.alice.sn.example', +.alice.example], public: true}
    - {name: inside, port: 443, target: 'tcp://:8445', allow: [friend.example]}
    - {name: private, port: 443, target: 'tcp://:8446', hosts: [safe.alice.sn.example], allow: [friend.example]}
    - {name: ssh, port: 2222, target: 'tcp://:22', public: true}
"""


def read(text: str) -> RtcpConfig:
    loaded = load(text.encode(), home="/home/x")
    assert loaded.config is not None, loaded.faults
    assert loaded.config.rtcp is not None
    return loaded.config.rtcp


def found(who: Did, name: str, port: int = 443, network: str = "tcp") -> str:
    identity = Identity(did=str(who), host=who.id, trust=Trust.OWNER_SIGNED)
    flow = Flow(network, PEER, "", 0, "", "", port, identity=identity)
    service = PeerRules(read(EXPOSED), [], None).service(flow, name)  # type: ignore[arg-type]
    return service[0].name if service is not None else ""


@pytest.mark.parametrize(
    ("name", "port", "service"),
    [
        ("photos.alice.sn.example", 443, "photos"),
        ("wiki.alice.sn.example", 443, "rest"),
        ("alice.example", 443, "rest"),
        ("a.b.alice.example", 443, "rest"),
        ("alice.sn.example", 443, ""),
        ("photos.alice.sn.example", 80, ""),
        ("photos.bob.sn.example", 443, ""),
        ("photos", 9, "photos"),
        ("ssh", 30000, "ssh"),
        ("tcp-2222", 2222, "ssh"),
        ("udp-2222", 2222, ""),
        ("", 2222, "ssh"),
    ],
)
def test_a_service_is_found_by_its_hosts(name: str, port: int, service: str) -> None:
    assert found(SN, name, port) == service


def test_visitors_of_an_sn_see_what_is_public_and_nothing_else() -> None:
    for name, port in (("inside", 443), ("", 443), ("safe.alice.sn.example", 443), ("private", 1)):
        with pytest.raises(Refused, match="is not for"):
            found(SN, name, port)
        assert found(FRIEND, name, port)
    with pytest.raises(Refused, match="is not for"):
        found(FRIEND, "photos.alice.sn.example")


def test_what_is_written_is_what_is_meant() -> None:
    photos, rest, inside, *_ = read(EXPOSED).services
    assert (photos.hosts, photos.public, photos.proxy_protocol) == (("photos.alice.sn.example",), True, True)
    assert rest.hosts == ("*.alice.sn.example", "+.alice.example")
    assert (inside.hosts, inside.public, inside.proxy_protocol) == ((), False, False)


@pytest.mark.parametrize(
    ("service", "said"),
    [
        ("target: 'tcp://:1', hosts: ['a..b'], public: true", "/rtcp/services/0/hosts/0: a..b: not a host name"),
        ("target: 'tcp://:1'", "'allow' is missing"),
        ("target: 'udp://:1', public: true, proxy-protocol: true", "only streams have a PROXY header"),
        ("target: 'tcp://:1', hosts: [a.example, A.example], public: true", "asked for by a.example at tcp port 1"),
    ],
)
def test_what_cannot_be(service: str, said: str) -> None:
    loaded = load(f"rtcp: {{services: [{{name: a, {service}}}]}}".encode(), home="/home/x")
    assert loaded.config is None
    assert any(said in str(fault) for fault in loaded.faults), loaded.faults


CONFIG = RtcpConfig(
    sns=(MemberConfig(sn=KeptTunnel(peer=SN)),),
    proxy_from=frozenset({FRIEND}),
    services=(),
)


@pytest.mark.parametrize(
    ("who", "told", "is_believed"),
    [
        (SN, "198.51.100.7", True),
        (SN, "::ffff:198.51.100.7", True),
        (SN, "2001:db8::1", True),
        *((SN, inside, False) for inside in ("127.0.0.1", "::1", "192.168.1.9", "10.0.0.1", "::ffff:10.0.0.1")),
        *((SN, inside, False) for inside in ("fd00::1", "fe80::1", "0.0.0.0", "::", "172.31.255.255", "169.254.0.1")),
        (FRIEND, "192.168.1.9", True),
        (FRIEND, "198.51.100.7", True),
        (Did("web", "other.example"), "198.51.100.7", False),
    ],
)
def test_where_somebody_comes_from_is_believed_as_far_as_it_can_hurt_nobody(
    who: Did, told: str, is_believed: bool
) -> None:
    expected = (told.removeprefix("::ffff:"), 1234) if is_believed else None
    assert believed(CONFIG, {who}, (told, 1234)) == expected
    assert believed(CONFIG, {who}, None) is None
