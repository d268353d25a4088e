"""Clients of others: Knot's kdig over every transport, and BIND's delv, which validates what we pass on."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from fixturezones import Internet
from livehouse import LiveHouse

KDIG = {
    "udp": [],
    "udp, old": ["+noedns"],
    "tcp": ["+tcp"],
    "tcp, kept open": ["+tcp", "+keepopen"],
    "tls": ["+tls"],
    "tls, padded": ["+tls", "+padding"],
    "https, POST": ["+https=/dns-query"],
    "https, GET": ["+https-get", "+https=/dns-query"],
}
DOORS = {"tls": "tls", "https": "https"}


def kdig(house: LiveHouse, transport: str, *words: str) -> str:
    port = house.ports[DOORS.get(transport.split(",")[0], "plain")]
    return run("kdig", "@127.0.0.1", "-p", str(port), "+time=5", "+retry=0", *KDIG[transport], *words)


def run(program: str, *words: str) -> str:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=30)
    complaints = [
        line for line in (done.stdout + done.stderr).splitlines() if line.startswith((";; WARNING", ";; ERROR"))
    ]
    assert not [line for line in complaints if "truncated reply" not in line], complaints
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("transport", KDIG)
def test_kdig(house: LiveHouse, transport: str) -> None:
    answers = kdig(
        house,
        transport,
        "+short",
        "nas.lan",
        "A",
        "www.alpha.example",
        "A",
        "alpha.example",
        "MX",
        "n7.alpha.example",
        "A",
    )
    assert answers.split("\n") == [
        "192.168.1.2",
        "alpha.example.",
        "198.18.1.1",
        "10 mail.alpha.example.",
        "20 mail.beta.example.",
        "198.18.3.7",
        "",
    ]
    assert "status: NXDOMAIN" in kdig(house, transport, "nowhere.alpha.example", "A")
    assert "status: NXDOMAIN" in kdig(house, transport, "nowhere.lan", "A")


@pytest.mark.parametrize("transport", KDIG)
def test_kdig_gets_what_is_too_large_for_a_datagram(house: LiveHouse, transport: str) -> None:
    told = kdig(house, transport, "big.alpha.example", "A")
    assert told.count("198.18.2.") == 200
    assert "(UDP)" not in told


@pytest.mark.parametrize("transport", [each for each in KDIG if each != "udp, old"])
def test_kdig_sees_the_options(house: LiveHouse, transport: str) -> None:
    told = kdig(
        house, transport, "+dnssec", "+cookie=0123456789abcdef", "+ednsopt=65001:00ff", "www.signed.example", "A"
    )
    assert "Version: 0; flags: do; UDP size: 1232 B" in told
    assert "COOKIE: 0123456789ABCDEF" in told.upper()
    assert "RRSIG" in told
    assert "65001" not in told
    # Over TLS kdig pads without being told to, and who pads gets padding back.
    assert ("PADDING" in told) == transport.startswith(("tls", "https"))


def test_kdig_sees_padding_only_where_nobody_can_read_along(house: LiveHouse) -> None:
    assert "PADDING" not in kdig(house, "udp", "+padding", "nas.lan", "A")
    told = kdig(house, "tls, padded", "nas.lan", "A")
    assert "Received 468 B" in told


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize("name", ["www", "alias", "text", "nowhere"])
def test_delv_validates_what_we_pass_on(house: LiveHouse, internet: Internet, transport: str, name: str) -> None:
    kind = "TXT" if name == "text" else "A"
    told = delv(house, "-a", str(internet.anchor), "+root=signed.example", transport, f"{name}.signed.example", kind)
    if name == "nowhere":
        assert "negative response, fully validated" in told
        assert "NXDOMAIN" in told
    else:
        assert told.startswith("; fully validated")
        assert told.count("RRSIG") == (2 if name == "alias" else 1)


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_delv_without_validation(house: LiveHouse, transport: str) -> None:
    told = delv(house, "-i", transport, "out.alpha.example", "A")
    assert "198.18.4.2" in told
    assert "answer not validated" in told


def delv(house: LiveHouse, *words: str) -> str:
    return run("delv", "@127.0.0.1", "-p", str(house.ports["plain"]), *words)


def test_dig_with_a_cookie_of_ours(house: LiveHouse, tmp_path: Path) -> None:
    """dig says "good" when the cookie in the answer is the one it sent, and "+badcookie" has it come back with ours."""
    told = run("dig", "@127.0.0.1", "-p", str(house.ports["plain"]), "+cookie", "nas.lan", "A")
    line = next(line for line in told.splitlines() if "COOKIE" in line)
    assert line.endswith("(good)")
    ours = line.split()[2]
    assert len(ours) == 48
    again = run("dig", "@127.0.0.1", "-p", str(house.ports["plain"]), f"+cookie={ours}", "nas.lan", "A")
    assert f"COOKIE: {ours} (good)" in again
