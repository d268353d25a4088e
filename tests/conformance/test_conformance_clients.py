"""Clients of others: Knot's kdig over every transport, BIND's delv, which validates what we pass on, and dnsperf."""

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


def kdig(house: LiveHouse, transport: str, *words: str, host: str = "127.0.0.1") -> str:
    port = house.ports[DOORS.get(transport.split(",")[0], "plain")]
    return run("kdig", f"@{host}", "-p", str(port), "+time=5", "+retry=0", *KDIG[transport], *words)


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


@pytest.mark.parametrize("transport", KDIG)
def test_kdig_over_ipv6(house: LiveHouse, transport: str) -> None:
    told = kdig(house, transport, "nas.lan", "A", "www.alpha.example", "A", host="::1")
    assert told.count("status: NOERROR") == 2
    assert "192.168.1.2" in told
    assert "198.18.1.1" in told
    assert told.count("From ::1@") == 2
    assert kdig(house, transport, "big.alpha.example", "A", host="::1").count("198.18.2.") == 200


EDNS = [each for each in KDIG if each != "udp, old"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("transport", EDNS)
def test_kdig_with_every_option(house: LiveHouse, transport: str, host: str) -> None:
    """A name of the house and one of others; the answer has the options we know, and none of those we do not."""
    for name in ("nas.lan", "n9.alpha.example"):
        told = kdig(
            house, transport, "+edns", "+nsid", "+padding", "+subnet=203.0.113.0/24", "+cookie", name, "A", host=host
        )
        assert "status: NOERROR" in told
        assert "ANSWER: 1;" in told
        assert "NSID" not in told
        line = next(line for line in told.splitlines() if "COOKIE" in line)
        assert len(line.split()[-1]) == 48, "kdig's eight octets and sixteen of ours"
        assert ("PADDING" in told) == transport.startswith(("tls", "https"))
        # Told back with the scope of an answer that is the same for everybody.
        assert "203.0.113.0/24/0" in told or "CLIENT-SUBNET" not in told


@pytest.mark.parametrize("transport", EDNS)
def test_kdig_with_a_version_of_edns_that_is_not(house: LiveHouse, transport: str) -> None:
    told = kdig(house, transport, "+edns=1", "nas.lan", "A")
    assert "BADVERS" in told
    assert "Version: 0;" in told
    assert "ANSWER: 0;" in told


def test_kdig_sends_a_subnet_that_is_not_one(house: LiveHouse) -> None:
    told = kdig(house, "udp", "+ednsopt=8:0001ff00cb007100", "nas.lan", "A")
    assert "status: FORMERR" in told
    assert "Version: 0;" in told


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("name", ["www", "alias", "text", "nowhere"])
def test_delv_validates_what_we_pass_on(
    house: LiveHouse, internet: Internet, transport: str, name: str, host: str
) -> None:
    kind = "TXT" if name == "text" else "A"
    told = delv(
        house, host, "-a", str(internet.anchor), "+root=signed.example", transport, f"{name}.signed.example", kind
    )
    if name == "nowhere":
        assert "negative response, fully validated" in told
        assert "NXDOMAIN" in told
    else:
        assert told.startswith("; fully validated")
        assert told.count("RRSIG") == (2 if name == "alias" else 1)


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_delv_without_validation(house: LiveHouse, transport: str) -> None:
    told = delv(house, "127.0.0.1", "-i", transport, "out.alpha.example", "A")
    assert "198.18.4.2" in told
    assert "answer not validated" in told


def delv(house: LiveHouse, host: str, *words: str) -> str:
    return run("delv", f"@{host}", "-p", str(house.ports["plain"]), *words)


def test_dig_with_a_cookie_of_ours(house: LiveHouse, tmp_path: Path) -> None:
    """dig says "good" when the cookie in the answer is the one it sent, and "+badcookie" has it come back with ours."""
    told = run("dig", "@127.0.0.1", "-p", str(house.ports["plain"]), "+cookie", "nas.lan", "A")
    line = next(line for line in told.splitlines() if "COOKIE" in line)
    assert line.endswith("(good)")
    ours = line.split()[2]
    assert len(ours) == 48
    again = run("dig", "@127.0.0.1", "-p", str(house.ports["plain"]), f"+cookie={ours}", "nas.lan", "A")
    assert f"COOKIE: {ours} (good)" in again


PERF = {
    "udp": ["-m", "udp"],
    "udp, EDNS": ["-m", "udp", "-e", "-D"],
    "tcp": ["-m", "tcp", "-O", "num-queries-per-conn=100"],
    "tls": ["-m", "dot", "-O", "num-queries-per-conn=100"],
    "https, GET": ["-m", "doh", "-O", "doh-method=GET"],
    "https, POST": ["-m", "doh", "-O", "doh-method=POST"],
}
KINDS = {"nas.lan": "A", "nowhere.lan": "A", "www.alpha.example": "AAAA", "big.lan": "TXT", "x.ads.example": "A"}
ASKED = 3000


@pytest.mark.parametrize("transport", PERF)
@pytest.mark.parametrize(("kind", "host"), [("house", "127.0.0.1"), ("house", "::1"), ("crew", "127.0.0.1")])
def test_dnsperf_loses_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, transport: str, kind: str, host: str
) -> None:
    """Known names and new ones from four clients; counted are questions and answers, and not the time they took."""
    house: LiveHouse = request.getfixturevalue(kind)
    names = [f"{name} {rtype}" for name, rtype in KINDS.items()]
    fresh = [f"n{number}.{transport[:3]}{len(host)}{kind}.wild.alpha.example A" for number in range(ASKED // 6)]
    asked = [line for at in range(ASKED) for line in ([fresh[at // 6]] if at % 6 == 0 else [names[at % 5]])]
    questions = tmp_path / "questions"
    questions.write_text("".join(f"{line}\n" for line in asked))
    door = DOORS.get(transport.split(",")[0], "plain")
    words = ["-s", host, "-p", str(house.ports[door]), "-d", str(questions)]
    words += ["-n", "1", "-c", "4", "-q", "40", "-t", "20"]
    if door == "https":
        words += ["-O", f"doh-uri=https://localhost:{house.ports[door]}/dns-query"]
    told = run("dnsperf", *words, *PERF[transport])
    counted = {key.strip(): value.split() for key, _, value in (line.partition(":") for line in told.splitlines())}
    assert counted["Queries sent"] == [str(ASKED)]
    assert counted["Queries completed"][0] == str(ASKED), told
    assert counted["Queries lost"][0] == "0"
    assert "SERVFAIL" not in told
    assert "NXDOMAIN" in told
    house.assert_well()
