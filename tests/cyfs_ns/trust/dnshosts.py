"""Real DNS servers for records of identities: Knot as the authority, Unbound as a validating resolver over TLS."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from cyfs_ns.identity.txt import character_strings
from tests.freeport import free_port

ORIGIN = "home.example"
_SBIN = "/usr/sbin:/usr/bin:/sbin:/bin"

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
policy:
  - id: fast
    algorithm: ecdsap256sha256
    single-type-signing: on
zone:
  - domain: {origin}
    file: {folder}/zone
    dnssec-signing: {signing}
    dnssec-policy: fast
    zonefile-sync: -1
    journal-content: none
"""
_UNBOUND = """
server:
  chroot: ""
  username: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  logfile: "{folder}/log"
  interface: 127.0.0.1@{port}
  tls-port: {port}
  tls-service-key: "{pem}"
  tls-service-pem: "{pem}"
  do-not-query-localhost: no
  module-config: "validator iterator"
  trust-anchor: "{anchor}"
  harden-below-nxdomain: no
  qname-minimisation: no
remote-control:
  control-enable: no
stub-zone:
  name: "{origin}"
  stub-addr: 127.0.0.1@{authority}
  stub-first: no
"""


def zone_lines(records: Sequence[str], at: str = "@") -> list[str]:
    """TXT records as lines of a zone file, long ones in several strings."""
    return [f"{at} 300 IN TXT " + " ".join(f'"{part}"' for part in character_strings(one)) for one in records]


def _program(name: str) -> str:
    found = shutil.which(name, path=_SBIN)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


@contextmanager
def knot(folder: Path, lines: Sequence[str], *, signed: bool = False) -> Iterator[tuple[int, str]]:
    """The port of an authority for ``home.example``, and the DS record of its key when it is signed."""
    program, port = _program("knotd"), free_port()
    config = folder / "knot.conf"
    signing = "on" if signed else "off"
    config.write_text(_KNOT.format(folder=folder, port=port, origin=ORIGIN, signing=signing))
    head = ["$ORIGIN home.example.", "$TTL 300", "@ SOA ns1 admin 1 7200 900 1209600 60", "@ NS ns1", "ns1 A 127.0.0.1"]
    (folder / "zone").write_text("\n".join([*head, *lines]) + "\n")
    child = subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_answer(port, child, folder)
        anchor = ""
        if signed:
            keys = subprocess.run(
                [_program("keymgr"), "-c", str(config), ORIGIN, "ds"], capture_output=True, text=True, timeout=20
            )
            anchor = next(line for line in keys.stdout.splitlines() if line.split()[4] == "2")
        yield port, anchor
    finally:
        child.terminate()
        child.wait(10)


@contextmanager
def validator(folder: Path, authority: int, anchor: str, ca: trustme.CA) -> Iterator[int]:
    """The port of a validating resolver that speaks TLS alone, as 127.0.0.1."""
    program, port, pem = _program("unbound"), free_port(), folder / "dot.pem"
    pem.write_bytes(ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes())
    config = folder / "unbound.conf"
    config.write_text(
        _UNBOUND.format(folder=folder, port=port, pem=pem, anchor=anchor, origin=ORIGIN, authority=authority)
    )
    child = subprocess.Popen([program, "-d", "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            assert child.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.02)
        yield port
    finally:
        child.terminate()
        child.wait(10)


def trust_in(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


def _wait_for_answer(port: int, child: subprocess.Popen[bytes], folder: Path) -> None:
    """Until the zone is loaded."""
    import dns.exception
    import dns.message
    import dns.query

    until = time.monotonic() + 20
    while time.monotonic() < until:
        assert child.poll() is None, (folder / "log").read_text()
        try:
            reply = dns.query.udp(dns.message.make_query(ORIGIN, "SOA"), "127.0.0.1", 0.2, port)
        except (OSError, dns.exception.DNSException):
            time.sleep(0.02)
            continue
        if reply.answer:
            return
        time.sleep(0.02)
    raise AssertionError((folder / "log").read_text())
