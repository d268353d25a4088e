"""Our client against servers of others: unbound (UDP, TCP, DoT) and dnsdist (DoT, DoH) before it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trustme

from cyfs_ns.edns import Ecs
from cyfs_ns.errors import Unreachable
from cyfs_ns.io.dial import plain_dial
from cyfs_ns.io.exchange import Server, Wanted, Ways
from cyfs_ns.io.upstreams import Forwarder, Told
from cyfs_ns.reply import records
from cyfs_ns.upstream import Group, Upstream
from cyfs_ns.wire import name_wire
from tests.freeport import free_port

BIG = "\n".join(f'  local-data: "big.test. 300 IN A 10.1.{last // 256}.{last % 256}"' for last in range(300))


@dataclass(frozen=True)
class Peers:
    plain: int
    dot: int
    dist_dot: int
    doh: int
    trusting: ssl.SSLContext

    def server(self, scheme: str, host: str = "127.0.0.1", *, dist: bool = False) -> Upstream:
        port = {"udp": self.plain, "tcp": self.plain, "tls": self.dist_dot if dist else self.dot, "https": self.doh}
        path = "/dns-query" if scheme == "https" else ""
        return Upstream(scheme=scheme, host=host, port=port[scheme], path=path)


@contextmanager
def running(command: list[str], log: Path, ports: list[int]) -> Iterator[None]:
    with log.open("w") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        for port in ports:
            while child.poll() is None:
                with socket.socket() as sock:
                    if sock.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.02)
        assert child.poll() is None, log.read_text()
        yield
    finally:
        child.kill()
        child.wait()


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    unbound, dnsdist = (shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") for name in ("unbound", "dnsdist"))
    if unbound is None or dnsdist is None:
        pytest.skip("needs unbound and dnsdist")
    home = tmp_path_factory.mktemp("peers")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "dns.example")
    issued.private_key_pem.write_to_path(str(home / "key.pem"))
    for at, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(str(home / "cert.pem"), append=at > 0)
    plain, dot, dist_dot, doh, dist_plain = (free_port() for _ in range(5))
    (home / "unbound.conf").write_text(f"""\
server:
  interface: 127.0.0.1@{plain}
  interface: 127.0.0.1@{dot}
  tls-port: {dot}
  tls-service-key: "{home}/key.pem"
  tls-service-pem: "{home}/cert.pem"
  access-control: 127.0.0.0/8 allow
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{home}"
  pidfile: ""
  use-syslog: no
  num-threads: 1
  module-config: "iterator"
  local-zone: "test." static
  local-data: "test. 60 IN SOA a.test. b.test. 1 2 3 4 60"
  local-data: "www.test. 300 IN A 192.0.2.1"
  local-data: "alias.test. 300 IN CNAME www.test."
{BIG}
remote-control:
  control-enable: no
""")
    (home / "dnsdist.conf").write_text(f"""\
setLocal("127.0.0.1:{dist_plain}")
addTLSLocal("127.0.0.1:{dist_dot}", "{home}/cert.pem", "{home}/key.pem")
addDOHLocal("127.0.0.1:{doh}", "{home}/cert.pem", "{home}/key.pem", "/dns-query", {{reusePort=false}})
newServer({{address="127.0.0.1:{plain}"}}):setUp()
setACL({{"127.0.0.0/8"}})
setSecurityPollSuffix("")
""")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with (
        running([unbound, "-d", "-c", str(home / "unbound.conf")], home / "unbound.log", [plain, dot]),
        running(
            [dnsdist, "--supervised", "--disable-syslog", "-C", str(home / "dnsdist.conf")],
            home / "dnsdist.log",
            [dist_dot, doh],
        ),
    ):
        yield Peers(plain, dot, dist_dot, doh, trusting)


WAYS = pytest.mark.parametrize(
    ("scheme", "dist"), [("udp", False), ("tcp", False), ("tls", False), ("tls", True), ("https", True)]
)


async def find(host: str, *, fresh: bool) -> tuple[str, ...]:
    return ("127.0.0.1",)


def forwarder(peers: Peers) -> Forwarder:
    return Forwarder(Ways(dial=plain_dial(), find=find, tls=peers.trusting))


@WAYS
async def test_answers_over_every_transport(peers: Peers, scheme: str, dist: bool) -> None:
    house, group = forwarder(peers), Group("peer", (peers.server(scheme, dist=dist),))
    told = await house.ask(name_wire("www.test"), 1, group=group)
    assert list(records(told.reply, 0)) == [(name_wire("www.test"), 1, 300, b"\xc0\0\2\1")]
    assert told.server == str(group.servers[0])
    told = await house.ask(name_wire("nope.test"), 1, group=group)
    assert (told.reply.rcode, told.reply.counts[:2]) == (3, (0, 1))
    told = await house.ask(name_wire("big.test"), 1, group=group)
    assert told.reply.counts[0] == 300


@WAYS
async def test_many_questions_share_one_connection(peers: Peers, scheme: str, dist: bool) -> None:
    house, group = forwarder(peers), Group("peer", (peers.server(scheme, dist=dist),))
    answers: list[Told] = []

    async def ask(number: int) -> None:
        answers.append(await house.ask(name_wire(f"n{number}.test"), 1, group=group))

    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(ask, number)
    assert len(answers) == 60
    assert {told.reply.rcode for told in answers} == {3}
    assert house.servers()[0].connections == (0 if scheme == "udp" else 1)
    assert house.servers()[0].strays == 0


@WAYS
async def test_flags_and_options_are_understood(peers: Peers, scheme: str, dist: bool) -> None:
    house, group = forwarder(peers), Group("peer", (peers.server(scheme, dist=dist),))
    told = await house.ask(
        name_wire("www.test"), 1, group=group, do=True, cd=True, client_subnet=Ecs(1, 24, 0, b"\x08\x08\x08")
    )
    assert told.reply.rcode == 0 and told.reply.counts[0] == 1


@pytest.mark.parametrize(("scheme", "dist"), [("tls", False), ("tls", True), ("https", True)])
async def test_the_certificate_must_be_for_the_servers_name(peers: Peers, scheme: str, dist: bool) -> None:
    house = forwarder(peers)
    good = Group("good", (peers.server(scheme, "dns.example", dist=dist),))
    assert (await house.ask(name_wire("www.test"), 1, group=good)).reply.rcode == 0
    bad = Group("bad", (peers.server(scheme, "other.example", dist=dist),))
    with pytest.raises(Unreachable, match=r"(?i)certificate|hostname"):
        await house.ask(name_wire("www.test"), 1, group=bad)


@pytest.mark.parametrize(("scheme", "dist"), [("tls", True), ("https", True)])
async def test_a_new_connection_resumes_the_tls_session(peers: Peers, scheme: str, dist: bool) -> None:
    server = Server(peers.server(scheme, dist=dist), Ways(dial=plain_dial(), tls=peers.trusting))
    resumed = []
    for _ in range(2):
        await server.ask(Wanted(name_wire("www.test"), 1))
        resumed.append(server.resumed)
        server.close()
    assert resumed == [False, True]
