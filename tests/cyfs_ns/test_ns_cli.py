"""``cyfs-ns resolve`` beside kdig, both asking the same dnsmasq, and ``bench``."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rdataclass
import dns.rdatatype
import pytest
from nsprogram import CODE, cyfs_ns, upstream


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
    ours = cyfs_ns("resolve", name, rtype, f"@{server}", "--timeout", "10")
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
    done = cyfs_ns("resolve", "only4.test", f"@127.0.0.1:{dnsmasq}", "--json")
    shape = json.loads(done.stdout)
    assert shape["Question"] == [{"Name": "only4.test.", "Qtype": 1, "Qclass": 1}]
    assert shape["Answer"] == [{"name": "only4.test.", "type": 1, "TTL": 60, "data": "192.0.2.4"}]
    assert shape["Server"] == f"udp://127.0.0.1:{dnsmasq}" and shape["Milliseconds"] > 0


def test_an_address_asks_for_its_name_and_tcp_is_tcp(dnsmasq: int) -> None:
    done = cyfs_ns("resolve", "192.0.2.1", f"@127.0.0.1:{dnsmasq}", "--tcp")
    assert done.returncode == 0
    assert "1.2.0.192.in-addr.arpa.\t60\tIN\tPTR\tdual.test." in done.stdout
    last = done.stdout.splitlines()[-1]
    assert f"tcp://127.0.0.1:{dnsmasq}" in last and "of set-up" in last


def test_short_is_the_data_alone(dnsmasq: int) -> None:
    done = cyfs_ns("resolve", "-x", "192.0.2.1", "--short", f"@127.0.0.1:{dnsmasq}")
    assert (done.returncode, done.stdout) == (0, "dual.test.\n")


def test_what_is_cut_over_udp_is_asked_again_over_tcp(dnsmasq: int) -> None:
    shape = json.loads(cyfs_ns("resolve", "big.test", f"@127.0.0.1:{dnsmasq}", "--json").stdout)
    assert len(shape["Answer"]) == 200 and not shape["TC"]
    assert (shape["Server"], shape["Transport"]) == (f"udp://127.0.0.1:{dnsmasq}", "tcp")


def test_the_first_good_answer_counts(dnsmasq: int) -> None:
    done = cyfs_ns("resolve", "only4.test", "@tcp://127.0.0.1:1", f"@127.0.0.1:{dnsmasq}", "--short")
    assert (done.returncode, done.stdout) == (0, "192.0.2.4\n")


def test_what_is_wished_for_is_in_the_question() -> None:
    seen: list[dns.message.Message] = []

    def note(query: bytes) -> bytes:
        asked = dns.message.from_wire(query)
        seen.append(asked)
        return dns.message.make_response(asked).to_wire()

    wishes = ("--dnssec", "--cd", "--no-recurse", "--client-subnet", "198.51.100.9/24")
    with upstream(note) as port:
        assert cyfs_ns("resolve", "A.Example", "TXT", "CH", *wishes, f"@127.0.0.1:{port}").returncode == 0
    (asked,) = seen
    assert asked.ednsflags & dns.flags.DO and asked.flags & dns.flags.CD and not asked.flags & dns.flags.RD
    assert (asked.question[0].rdtype, asked.question[0].rdclass) == (dns.rdatatype.TXT, dns.rdataclass.CH)
    subnet = next(option for option in asked.options if option.otype == dns.edns.ECS)
    assert subnet.to_text().endswith("198.51.100.0/24 scope/0")


def test_rubbish_is_no_answer() -> None:
    with upstream(lambda query: query[:2] + b"\x80\0\0\1\0\1\0\0\0\0" + query[12:30]) as port:
        done = cyfs_ns("resolve", "a.example", f"@127.0.0.1:{port}", "--timeout", "1")
    assert done.returncode == 9 and "Traceback" not in done.stderr


def test_starting_is_quick_because_little_is_imported() -> None:
    """No clock: what must not be loaded to ask one question is not."""

    def loaded(code: str) -> set[str]:
        code = f"import sys; {code}; print(*sys.modules)"
        return set(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        )

    heavy = {"rich", "dnslib", "h2", "h11", "yaml", "cryptography", "marisa_trie", "cyfs_ns.io.serving"}
    assert heavy & loaded("from cyfs_ns.io.cli import asking; from cyfs_ns.io import measure") == set()
    assert "trio" not in loaded("import cyfs_ns.io.cli")


def test_bench_measures_and_counts_losses(dnsmasq: int, tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("# some\nonly4.test\nDual.Test\n")
    servers = (f"127.0.0.1:{dnsmasq}", f"tcp://127.0.0.1:{dnsmasq}", "tcp://127.0.0.1:1")
    done = cyfs_ns("bench", *servers, "--names", names, "--count", "6", "--rate", "200", "--json")
    assert done.returncode == 0, done.stderr
    shape = json.loads(done.stdout)
    udp, tcp, dead = shape["servers"]
    for one in (udp, tcp):
        for kind in ("cached", "uncached"):
            assert (one[kind]["answers"], one[kind]["lost"]) == (6, 0)
            times = one[kind]["milliseconds"]
            assert 0 < times["min"] <= times["median"] <= times["p90"] <= times["p99"]
    assert udp["set-up"]["answers"] == 0 and tcp["set-up"]["answers"] >= 5
    assert dead["cached"]["lost"] == 6 and dead["cached"]["milliseconds"]["median"] is None and dead["fault"]


def test_bench_shows_a_table_and_a_picture(dnsmasq: int) -> None:
    done = cyfs_ns("bench", f"127.0.0.1:{dnsmasq}", "--count", "4", "--rate", "500")
    assert done.returncode == 0
    assert done.stdout.startswith("SERVER") and "MEDIAN" in done.stdout
    assert "uncached, milliseconds" in done.stdout and "█" in done.stdout


def test_bench_of_nobody_is_exit_9() -> None:
    assert cyfs_ns("bench", "tcp://127.0.0.1:1", "--count", "1", "--rate", "500").returncode == 9
    assert cyfs_ns("bench", "ftp://x").returncode == 2
    assert cyfs_ns("bench", "1.1.1.1", "--names", "/no/such/file").returncode == 2


def test_no_server_is_exit_9_and_says_who_was_asked() -> None:
    done = cyfs_ns("resolve", "x.test", "@quic://127.0.0.1", "@tcp://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (9, "")
    assert "quic://127.0.0.1:853: " in done.stderr and "tcp://127.0.0.1:1: " in done.stderr


@pytest.mark.parametrize(
    "words", [("a b",), ("x.test", "NOPE"), ("x.test", "@ftp://x"), ("x", "A", "B"), ("@1.1.1.1",), ()]
)
def test_nonsense_is_exit_2(words: tuple[str, ...]) -> None:
    done = cyfs_ns("resolve", *words)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_help_has_examples_and_version_a_number() -> None:
    assert "Examples:" in cyfs_ns("resolve", "--help").stdout
    assert "resolve" in cyfs_ns("-h").stdout
    assert cyfs_ns("version").stdout.startswith("cyfs-ns ")


@pytest.mark.parametrize("words", [("bench", "--count", "100000"), ("resolve", "a.example", "--timeout", "60")])
def test_an_interrupt_ends_quietly(words: tuple[str, ...]) -> None:
    asked = threading.Event()

    def silent(query: bytes) -> None:
        asked.set()

    with upstream(silent) as port:
        server = f"127.0.0.1:{port}" if words[0] == "bench" else f"@127.0.0.1:{port}"
        command = [sys.executable, "-c", CODE, *words, server]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert asked.wait(30)
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=30)
    assert child.returncode == 1 and errors.strip() == "Aborted!"
