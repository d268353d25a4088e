"""``cyfs-ns query`` beside kdig, both asking the same dnsmasq."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

CODE = "from cyfs_ns.io.cli import main; main(prog_name='cyfs-ns')"


def cyfs_ns(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("name", "rtype"),
    [
        ("dual.test", "A"),
        ("dual.test", "AAAA"),
        ("alias.test", "A"),
        ("text.test", "TXT"),
        ("text.test", "MX"),
        ("text.test", "CAA"),
        ("_sip._tcp.test", "SRV"),
        ("1.2.0.192.in-addr.arpa", "PTR"),
        ("big.test", "A"),
        ("nope.test", "A"),
    ],
)
def test_the_records_are_those_of_kdig(dnsmasq: int, name: str, rtype: str) -> None:
    if not shutil.which("kdig"):
        pytest.skip("needs kdig")
    server = f"127.0.0.1:{dnsmasq}"
    ours = cyfs_ns("query", name, rtype, f"@{server}", "--timeout", "10")
    theirs = subprocess.run(
        ["kdig", "@127.0.0.1", "-p", str(dnsmasq), name, rtype], capture_output=True, text=True, check=True
    )
    assert _records(ours.stdout) == _records(theirs.stdout)
    status = next(line for line in theirs.stdout.splitlines() if "status:" in line).split("status: ")[1].split(";")[0]
    assert ours.stdout.startswith(f";; {status};"), ours.stderr
    assert ours.returncode == (0 if status == "NOERROR" else 1)


def _records(text: str) -> list[list[str]]:
    return sorted(line.split() for line in text.splitlines() if line and not line.startswith(";"))


def test_json_is_the_shape_of_clash(dnsmasq: int) -> None:
    done = cyfs_ns("query", "only4.test", f"@127.0.0.1:{dnsmasq}", "--json", "--time")
    shape = json.loads(done.stdout)
    assert shape["Question"] == [{"Name": "only4.test.", "Qtype": 1, "Qclass": 1}]
    assert shape["Answer"] == [{"name": "only4.test.", "type": 1, "TTL": 60, "data": "192.0.2.4"}]
    assert shape["Server"] == f"udp://127.0.0.1:{dnsmasq}" and shape["Milliseconds"] > 0


def test_an_address_asks_for_its_name_and_tcp_is_tcp(dnsmasq: int) -> None:
    done = cyfs_ns("query", "192.0.2.1", f"@127.0.0.1:{dnsmasq}", "--tcp", "--time")
    assert done.returncode == 0
    assert "1.2.0.192.in-addr.arpa.\t60\tIN\tPTR\tdual.test." in done.stdout
    assert f"tcp://127.0.0.1:{dnsmasq}" in done.stdout.splitlines()[-1]


def test_no_server_is_exit_9_and_says_who_was_asked() -> None:
    done = cyfs_ns("query", "x.test", "@quic://127.0.0.1", "@tcp://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (9, "")
    assert "quic://127.0.0.1:853: " in done.stderr and "tcp://127.0.0.1:1: " in done.stderr


@pytest.mark.parametrize(
    "words", [("a b",), ("x.test", "NOPE"), ("x.test", "@ftp://x"), ("x", "A", "B"), ("@1.1.1.1",), ()]
)
def test_nonsense_is_exit_2(words: tuple[str, ...]) -> None:
    done = cyfs_ns("query", *words)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_help_has_examples_and_version_a_number() -> None:
    assert "Examples:" in cyfs_ns("query", "--help").stdout
    assert "query" in cyfs_ns("-h").stdout
    assert cyfs_ns("version").stdout.startswith("cyfs-ns ")
