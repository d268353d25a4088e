"""A real dnsmasq, and servers that misbehave on purpose."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyfs_ns import message
from cyfs_ns.errors import BadWire
from cyfs_ns.io import light
from cyfs_ns.message import Question
from tests.freeport import free_port

light.checked = True

RECORDS = [
    "--host-record=dual.test,192.0.2.1,2001:db8::1,300",
    "--host-record=only4.test,192.0.2.4,60",
    "--host-record=only6.test,2001:db8::6,60",
    "--cname=alias.test,dual.test,30",
    "--txt-record=text.test,hello world,semi;colon",
    "--mx-host=text.test,mail.test,10",
    "--srv-host=_sip._tcp.test,sip.test,5060,1,2",
    "--caa-record=text.test,0,issue,ca.example",
    "--ptr-record=1.2.0.192.in-addr.arpa,dual.test",
    *[f"--host-record=big.test,198.51.100.{last}" for last in range(1, 201)],
]


@pytest.fixture(scope="session")
def dnsmasq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a dnsmasq on 127.0.0.1 that owns the domain ``test``."""
    program = shutil.which("dnsmasq") or "/usr/sbin/dnsmasq"
    if not Path(program).exists():
        pytest.skip("needs dnsmasq")
    port = free_port()
    log = tmp_path_factory.mktemp("dnsmasq") / "log"
    fixed = [
        "--keep-in-foreground",
        "--log-facility=-",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--pid-file=",
    ]
    place = [f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--local=/test/", "--local-ttl=60"]
    with log.open("w") as output:
        child = subprocess.Popen([program, *fixed, *place, *RECORDS], stderr=output, stdout=output)
    try:
        _wait_for(port, child, log)
        yield port
    finally:
        child.kill()
        child.wait()


def _wait_for(port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    question = Question("only4.test", message.A)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.settimeout(0.1)
        while child.poll() is None:
            try:
                sock.send(message.build_query(question, 1))
                message.read_reply(sock.recv(4096), question, 1)
            except (OSError, BadWire):
                time.sleep(0.02)
            else:
                return
    raise AssertionError(f"dnsmasq ended: {log.read_text()}")
