"""The first boot of a router without a battery: it is 1970, all name servers are asked over TLS, and the time is known
to a server that has a name."""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.edns
import dns.message
import dns.query
import dns.rcode
import pytest
import trustme

from cyfs_ns.clock import NOT_SET
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Pin
from tests.attack.test_attack_clock import WallClock, clock, shim  # noqa: F401
from tests.cyfs_ns.dnsfakes import Handler, zone
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, NAS, boot, mini
from tests.cyfs_ns.nsprogram import server
from tests.cyfs_ns.trust.dnshosts import zone_lines
from tests.e2e.e2e_house import until
from tests.freeport import free_port

NOW = int(time.time())
TIMES: dict[str, Any] = {"iat": NOW - 100, "exp": NOW + DAY}
PUBLISHED = [
    f"PKX={ALICE.public.x};",
    f"BOOT={boot(ALICE, 'ood1:192.0.2.1@wan', **TIMES).text};",
    f"DEV={mini('ood1', NAS, ALICE, **TIMES).text};",
]
RECORDS = zone(
    "pool.ntp.example. 60 IN A 192.0.2.123",
    "ood1.home.example. 60 IN A 203.0.113.9",
    *zone_lines(PUBLISHED, "home.example."),
)
PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@contextlib.contextmanager
def name_server_over_tls(certificate: trustme.LeafCert, answer: Handler) -> Iterator[int]:
    """Its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)

    def serve(plain: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as sock:
            reader = sock.makefile("rb")
            while size := reader.read(2):
                reply = answer(reader.read(int.from_bytes(size)))
                assert reply is not None
                sock.sendall(len(reply).to_bytes(2) + reply)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def house(clock: WallClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[WallClock, trustme.CA, Path]:  # noqa: F811
    """It is 1970; HOME is pinned, and a certificate authority is known."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    TrustStore(tmp_path / "home").pin(Pin(about=HOME, key=ALICE.public, source="test", at=0))
    clock.to_1970()
    return clock, ca, tmp_path


def ask(port: int, name: str) -> tuple[str, list[str], list[str]]:
    """Code, addresses, and what the server said to it."""
    reply = dns.query.udp(dns.message.make_query(name, "A", use_edns=True), "127.0.0.1", 8, port)
    told = [option.text or "" for option in reply.options if isinstance(option, dns.edns.EDEOption)]
    return dns.rcode.to_text(reply.rcode()), [str(data) for rrset in reply.answer for data in rrset], told


def config(port: int, behind: int) -> str:
    return f"""
dns:
  listen: 127.0.0.1:{port}
  nameserver: ['tls://127.0.0.1:{behind}']
  use-system-hosts: false
"""


def test_the_time_is_found_by_name_and_then_everything_is_judged(house: tuple[WallClock, trustme.CA, Path]) -> None:
    clock, ca, folder = house  # noqa: F811
    port = free_port()
    with (
        name_server_over_tls(ca.issue_cert("127.0.0.1"), RECORDS) as behind,
        server(folder, config(port, behind), port) as running,
    ):
        code, found, told = ask(port, "pool.ntp.example")
        assert (code, found) == ("NOERROR", ["192.0.2.123"])
        assert told[0].startswith(NOT_SET)
        code, found, told = ask(port, "ood1.home.example")
        assert (code, found) == ("NOERROR", ["203.0.113.9"])
        assert told[0].startswith(f"trust=plain-dns: {NOT_SET}")
        done = running.run(
            "resolve", "ood1.home.example", "--trust", "--json", "--min", "key-proven", f"@127.0.0.1:{port}"
        )
        assert done.returncode, done.stdout
        assert NOT_SET in json.dumps(json.loads(done.stdout))

        clock.jump(0)
        until("the owner's word counts", lambda: ask(port, "ood1.home.example")[1] == ["192.0.2.1"])
        assert ask(port, "ood1.home.example")[2][0].startswith("trust=owner-signed")
        code, found, told = ask(port, "pool.ntp.example")
        assert (code, found, told) == ("NOERROR", ["192.0.2.123"], [])


def test_a_certificate_that_is_over_serves_until_the_clock_is_set_and_no_longer(
    house: tuple[WallClock, trustme.CA, Path],
) -> None:
    clock, ca, folder = house  # noqa: F811
    port = free_port()
    with (
        name_server_over_tls(ca.issue_cert("127.0.0.1", not_after=PAST), RECORDS) as behind,
        server(folder, config(port, behind), port),
    ):
        assert ask(port, "pool.ntp.example")[:2] == ("NOERROR", ["192.0.2.123"])
        clock.jump(0)
        until("it is refused", lambda: ask(port, "pool.ntp.example")[0] == "SERVFAIL")
        assert "CERTIFICATE_VERIFY_FAILED" in " ".join(ask(port, "pool.ntp.example")[2])


def test_somebody_elses_certificate_is_refused_in_1970_too(house: tuple[WallClock, trustme.CA, Path]) -> None:
    _, ca, folder = house
    for certificate in (ca.issue_cert("192.0.2.53"), trustme.CA().issue_cert("127.0.0.1")):
        port = free_port()
        with (
            name_server_over_tls(certificate, RECORDS) as behind,
            server(folder, config(port, behind), port),
        ):
            assert ask(port, "pool.ntp.example")[:2] == ("SERVFAIL", [])
