"""A real authority that speaks ACME (Pebble), and real DNS for it to look into: Knot, told by RFC 2136."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import dns.message
import dns.query
import dns.update
import pytest
import trio
import trustme

from cyfs_gateway.certs.upkeep import CertFault
from tests.freeport import free_port

ORIGIN = "home.test"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_KNOT = """
server:
  rundir: {folder}
  listen: 127.0.0.1@{port}
  identity: ""
database:
  storage: {folder}
log:
  - target: {folder}/log
    any: info
acl:
  - id: here
    address: 127.0.0.1
    action: update
zone:
  - domain: {origin}
    file: {folder}/zone
    zonefile-sync: -1
    journal-content: none
    acl: here
"""
_ZONE = """
@ 5 SOA ns nobody 1 3600 600 86400 5
@ 5 NS ns
ns 5 A 127.0.0.1
@ 5 A 127.0.0.1
* 5 A 127.0.0.1
"""


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


@dataclass(frozen=True)
class Dns:
    """A zone, as its publisher."""

    port: int

    async def publish(self, name: str, txt: str) -> None:
        await self._update("add", name, txt)

    async def withdraw(self, name: str, txt: str) -> None:
        await self._update("delete", name, txt)

    async def _update(self, what: str, name: str, txt: str) -> None:
        update = dns.update.UpdateMessage(ORIGIN)
        owner = f"_acme-challenge.{name}."
        if what == "add":
            update.add(owner, 1, "TXT", f'"{txt}"')
        else:
            update.delete(owner, "TXT", f'"{txt}"')
        told = await trio.to_thread.run_sync(lambda: dns.query.tcp(update, "127.0.0.1", 5, self.port))
        if told.rcode():
            raise CertFault("proof", f"the zone says {told.rcode()}")

    def texts(self, name: str) -> list[str]:
        question = dns.message.make_query(f"_acme-challenge.{name}.", "TXT")
        told = dns.query.udp(question, "127.0.0.1", 5, self.port)
        return [item.strings[0].decode() for each in told.answer for item in each]


@dataclass(frozen=True)
class Pebble:
    """The authority; ``http`` and ``tls`` are the ports it looks at for proofs."""

    directory: str
    trust: str
    http: int
    tls: int
    management: int
    log: Path

    def roots(self) -> str:
        """Who vouches for what it gives, as PEM."""
        context = ssl.create_default_context(cafile=self.trust)
        with urlopen(f"https://127.0.0.1:{self.management}/roots/0", context=context, timeout=5) as told:
            return str(told.read().decode())

    def issued(self) -> int:
        """How many certificates it has given."""
        return self.log.read_text().count("Issued certificate serial")


@contextmanager
def running(command: list[str], port: int, folder: Path, env: Mapping[str, str] | None = None) -> Iterator[None]:
    with (folder / "log").open("ab") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(env or {})}, cwd=folder)
    try:
        until = time.monotonic() + 20
        while not _listens(port):
            assert child.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.02)
        yield
    finally:
        child.terminate()
        child.wait(10)


@contextmanager
def zone(folder: Path) -> Iterator[Dns]:
    """Knot serving ``home.test``, where every name is on this machine."""
    port, config = free_port(), folder / "knot.conf"
    config.write_text(_KNOT.format(folder=folder, port=port, origin=ORIGIN))
    (folder / "zone").write_text(f"$ORIGIN {ORIGIN}.{_ZONE}")
    with running([_program("knotd"), "-c", str(config)], port, folder):
        yield Dns(port)


@contextmanager
def pebble(folder: Path, dns_port: int, *, life: int = 0, eab: Mapping[str, str] | None = None) -> Iterator[Pebble]:
    """Pebble, which as by default refuses some nonces and answers some orders by old proofs; ``life``: of what it
    gives, seconds."""
    ca = trustme.CA()
    own = ca.issue_cert("127.0.0.1", "localhost")
    own.private_key_pem.write_to_path(folder / "own.key")
    own.cert_chain_pems[0].write_to_path(folder / "own.pem")
    ca.cert_pem.write_to_path(folder / "trust.pem")
    here = Pebble(
        directory="",
        trust=str(folder / "trust.pem"),
        http=free_port(),
        tls=free_port(),
        management=free_port(),
        log=folder / "log",
    )
    port = free_port()
    settings = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{here.management}",
        "certificate": str(folder / "own.pem"),
        "privateKey": str(folder / "own.key"),
        "httpPort": here.http,
        "tlsPort": here.tls,
        "externalAccountBindingRequired": eab is not None,
        "externalAccountMACKeys": dict(eab or {}),
        **({"certificateValidityPeriod": life} if life else {}),
    }
    config = folder / "pebble.json"
    config.write_text(json.dumps({"pebble": settings}))
    command = [_program("pebble"), "-config", str(config), "-dnsserver", f"127.0.0.1:{dns_port}"]
    with running(command, port, folder, {"PEBBLE_VA_NOSLEEP": "1"}):
        yield Pebble(**{**vars(here), "directory": f"https://127.0.0.1:{port}/dir"})


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
