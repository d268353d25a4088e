"""Real DNS servers around the zone of an SN: Knot with the same zone file, Unbound as the resolver of a visitor."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import pytest

from tests.cyfs_gateway.sn.zonefakes import ORIGIN
from tests.freeport import free_port

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
zone:
  - domain: {origin}
    file: {folder}/zone
    zonefile-sync: -1
    journal-content: none
    semantic-checks: on
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
  do-not-query-localhost: no
  module-config: "iterator"
  use-caps-for-id: yes
  qname-minimisation: yes
  qname-minimisation-strict: yes
  harden-below-nxdomain: yes
  cache-max-ttl: 0
  cache-max-negative-ttl: 0
remote-control:
  control-enable: no
stub-zone:
  name: "{origin}"
  stub-addr: 127.0.0.1@{authority}
  stub-first: no
"""


def program(name: str) -> str:
    found = shutil.which(name, path=_SBIN)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


@contextmanager
def knot(folder: Path, lines: Iterable[str]) -> Iterator[int]:
    """The port of Knot serving these lines of a zone file, which it has checked."""
    port, config = free_port(), folder / "knot.conf"
    config.write_text(_KNOT.format(folder=folder, port=port, origin=ORIGIN))
    (folder / "zone").write_text("\n".join(lines) + "\n")
    with _running([program("knotd"), "-c", str(config)], port, folder):
        yield port


@contextmanager
def unbound(folder: Path, authority: int) -> Iterator[int]:
    """The port of a resolver that trusts nobody's case, asks label by label, and remembers nothing."""
    port, config = free_port(), folder / "unbound.conf"
    config.write_text(_UNBOUND.format(folder=folder, port=port, origin=ORIGIN, authority=authority))
    with _running([program("unbound"), "-d", "-c", str(config)], port, folder, wait=False):
        yield port


@contextmanager
def _running(command: list[str], port: int, folder: Path, *, wait: bool = True) -> Iterator[None]:
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while not (_answers(port) if wait else _listens(port)):
            assert child.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.02)
        yield
    finally:
        child.terminate()
        child.wait(10)


def _answers(port: int) -> bool:
    try:
        return bool(dns.query.udp(dns.message.make_query(ORIGIN, "SOA"), "127.0.0.1", 0.2, port).answer)
    except (OSError, dns.exception.DNSException):
        return False


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
