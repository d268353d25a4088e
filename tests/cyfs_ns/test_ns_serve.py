"""``cyfs-ns serve`` as a process, and every command that talks to it."""

from __future__ import annotations

import http.client
import json
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nsprogram
import pytest
from dnsfakes import zone
from nsprogram import CODE, Running, cyfs_ns, server, upstream

from cyfs_ns.querylog import from_line
from tests.freeport import free_port

CONFIG = """
dns:
  listen: 127.0.0.1:{port}
  nameserver: [udp://127.0.0.1:{upstream}]
  domain: lan
  records: [nas.lan A 192.168.1.2]
  block: [+.ads.example]
  clients:
    - {{name: kids, match: [192.168.1.32/27], block: [games.example]}}
  query-log: {{privacy: {privacy}}}
  use-system-hosts: false
"""
ZONE = zone("a.example. 60 IN A 192.0.2.1", "b.example. 60 IN A 192.0.2.2", "games.example. 60 IN A 192.0.2.3")


def text(port: int, behind: int, privacy: str = "full") -> str:
    return CONFIG.format(port=port, upstream=behind, privacy=privacy)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    port = free_port()
    with upstream(ZONE) as behind, server(tmp_path_factory.mktemp("ns"), text(port, behind), port) as program:
        yield program


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Running]:
    """A server of the test's own, to be ended and bent."""
    port = free_port()
    with upstream(ZONE) as behind, server(tmp_path, text(port, behind), port) as program:
        yield program


def said(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def control(program: Running, method: str, target: str, **headers: str) -> tuple[int, str]:
    connection = _UnixConnection(program.home / "control.sock")
    connection.request(method, target, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def test_it_answers_and_says_what_it_does(running: Running) -> None:
    assert running.resolve("a.example", "--short").stdout == "192.0.2.1\n"
    assert running.resolve("nas.lan", "--tcp", "--short").stdout == "192.168.1.2\n"
    status = said(running.run("status", "--json"))
    assert set(status["doors"]) == {f"udp://127.0.0.1:{running.port}", f"tcp://127.0.0.1:{running.port}"}
    assert status["answers"] >= 2 and status["cache"]["entries"] >= 1 and status["memory"] > 1 << 20
    shown = running.run("status").stdout
    assert f"udp://127.0.0.1:{running.port}" in shown and re.search(r"^query log: +full$", shown, re.M)


def test_home_and_socket_are_the_owners_alone(running: Running) -> None:
    assert running.home.stat().st_mode & 0o777 == 0o700
    assert (running.home / "control.sock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("words", "stops", "source"),
    [
        (("nas.lan",), ["client", "names of the house"], "local"),
        (("x.ads.example",), ["client", "policy"], "blocked"),
        (("b.example", "MX"), ["client", "policy", "upstreams", "upstreams"], "upstream"),
        (("games.example", "--client", "192.168.1.40"), ["client", "policy"], "blocked"),
    ],
)
def test_explain_tells_every_stop(running: Running, words: tuple[str, ...], stops: list[str], source: str) -> None:
    way = said(running.run("explain", *words, "--json"))
    assert [step["stop"] for step in way["steps"]] == stops
    assert way["source"] == source
    times = [step["milliseconds"] for step in way["steps"]]
    assert times == sorted(times) and times[-1] <= way["milliseconds"]


def test_explain_names_view_rule_and_error_in_words(running: Running) -> None:
    way = said(running.run("explain", "games.example", "--client", "192.168.1.40", "--json"))
    assert (way["view"], way["client"]) == ("kids", "192.168.1.40")
    assert "games.example" in way["why"]
    shown = running.run("explain", "x.ads.example").stdout
    assert "STOP" in shown and "NOERROR from blocked" in shown and "EDE 15 (blocked)" in shown
    assert "x.ads.example.\t60\tIN\tA\t0.0.0.0" in shown


def test_explaining_is_neither_counted_nor_logged(running: Running) -> None:
    before = said(running.run("stats", "--json"))["total"]
    said(running.run("explain", "never-asked.example", "--json"))
    assert said(running.run("stats", "--json"))["total"] == before
    assert running.run("log", "--name", "never-asked.example").stdout == ""


@pytest.mark.parametrize(
    "words", [("explain", "a..b"), ("explain", "a.example", "NOPE"), ("explain", "a", "--client", "x")]
)
def test_nonsense_is_an_error_with_a_reason(running: Running, words: tuple[str, ...]) -> None:
    done = running.run(*words)
    assert done.returncode == 1 and done.stderr.startswith("Error: ") and "Traceback" not in done.stderr


def test_stats_count_what_was_asked_hits_from_memory_too(own: Running) -> None:
    for _ in range(3):
        assert own.resolve("a.example").returncode == 0
    own.resolve("x.ads.example")
    own.resolve("a.example", "--tcp")
    found = said(own.run("stats", "--json", "--top", "5"))
    assert found["names"][0] == {"name": "a.example", "count": 4}
    assert found["blocked"] == [{"name": "x.ads.example", "count": 1}]
    assert found["clients"] == [{"name": "127.0.0.1", "count": 5}]
    assert sum(found["total"].values()) == 5 and found["total"]["upstream"] == 1
    assert sum(sum(hour["answers"].values()) for hour in found["hours"]) == 5
    assert found["upstreams"][0]["answers"] == 1
    shown = own.run("stats").stdout
    assert "BLOCKED NAME" in shown and "█" in shown
    assert own.run("stats", "--forget").returncode == 0
    assert sum(said(own.run("stats", "--json"))["total"].values()) == 0


def test_the_log_tells_and_chooses(own: Running) -> None:
    own.resolve("a.example")
    own.resolve("x.ads.example")
    lines = own.run("log").stdout.splitlines()
    assert len(lines) == 2
    assert " 127.0.0.1 a.example A upstream (udp://127.0.0.1:" in lines[0] and " NOERROR 192.0.2.1 " in lines[0]
    assert " x.ads.example A blocked (" in lines[1]
    assert len(own.run("log", "-n", "1").stdout.splitlines()) == 1
    assert [json.loads(line)["name"] for line in own.run("log", "--blocked", "--json").stdout.splitlines()] == [
        "x.ads.example"
    ]
    assert own.run("log", "--client", "10.0.0.1").stdout == ""
    assert own.run("log", "--client", "nobody").returncode == 1
    assert own.run("log", "--forget").returncode == 0
    assert own.run("log").stdout == ""


def test_the_log_is_followed_as_it_grows(running: Running) -> None:
    words = [sys.executable, "-c", CODE, "log", "-f", "--json", "--name", "b.example", "--home", str(running.home)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        try:
            # It is not told when it has begun: ask until it hears.
            while True:
                running.resolve("b.example")
                if select.select([follower.stdout], [], [], 0.2)[0]:
                    break
            assert json.loads(follower.stdout.readline())["name"] == "b.example"
        finally:
            follower.kill()


def test_what_is_logged_reaches_the_disk_at_the_end(own: Running) -> None:
    own.resolve("a.example")
    assert own.stop() == 0
    lines = (own.home / "queries.log").read_bytes().splitlines()
    assert [from_line(line).name for line in lines] == ["a.example"]


def test_anonymous_means_that_no_client_is_told_anywhere(tmp_path: Path) -> None:
    port = free_port()
    with upstream(ZONE) as behind, server(tmp_path, text(port, behind, "anonymous"), port) as program:
        program.resolve("a.example")
        assert "127.0.0.0/24" in program.run("log").stdout
        assert said(program.run("stats", "--json"))["clients"] == [{"name": "127.0.0.0/24", "count": 1}]
        assert program.stop() == 0
        kept = [file.read_bytes() for file in (program.home / "queries.log", program.home / "statistics")]
        assert all(
            b"127.0.0.0/24" in each and b"127.0.0.1" not in each.replace(b"udp://127.0.0.1", b"") for each in kept
        )


def test_without_a_log_there_is_none_and_it_is_said(tmp_path: Path) -> None:
    port = free_port()
    with upstream(ZONE) as behind, server(tmp_path, text(port, behind, "none"), port) as program:
        program.resolve("a.example")
        done = program.run("log")
        assert done.returncode == 1 and "query-log" in done.stderr
        assert said(program.run("stats", "--json"))["names"] == []
        program.stop()
        assert not (program.home / "queries.log").exists()


def test_counts_outlive_the_server_but_not_more_privacy(tmp_path: Path) -> None:
    port = free_port()
    with upstream(ZONE) as behind:
        with server(tmp_path, text(port, behind), port) as program:
            program.resolve("a.example")
            assert program.stop() == 0
        with server(tmp_path, text(port, behind), port) as program:
            program.resolve("b.example")
            assert {each["name"] for each in said(program.run("stats", "--json"))["names"]} == {
                "a.example",
                "b.example",
            }
            program.stop()
        with server(tmp_path, text(port, behind, "names"), port) as program:
            found = said(program.run("stats", "--json"))
            assert found["clients"] == [] and len(found["names"]) == 2


def test_upstreams_and_lists_are_shown(running: Running) -> None:
    running.resolve("a.example")
    (one,) = said(running.run("upstreams", "--json"))["upstreams"]
    assert (one["state"], one["groups"], one["failures"]) == ("well", ["standard"], 0) and one["answers"] > 0
    assert "well" in running.run("upstreams").stdout
    assert said(running.run("lists", "--json")) == {"lists": []}
    assert running.run("lists", "--refresh").returncode == 0


def test_flushing_by_name_by_suffix_and_all(own: Running) -> None:
    own.resolve("a.example")
    own.resolve("b.example")
    assert said(own.run("flush", "A.Example", "--json")) == {"flushed": 1}
    assert said(own.run("flush", "a.example", "--json")) == {"flushed": 0}
    own.resolve("a.example")
    assert said(own.run("flush", "example", "--below", "--json")) == {"flushed": 2}
    own.resolve("a.example")
    assert own.run("flush").stdout == "1 answers forgotten\n"
    assert own.run("flush", "--below").returncode == 2


@pytest.mark.parametrize("by", ["signal", "command"])
def test_a_reload_changes_all_or_nothing(own: Running, by: str) -> None:
    def outcomes() -> int:
        return len(re.findall(r"reloaded|what was there stays", own.log.read_text()))

    def reload() -> None:
        if by == "command":
            own.run("reload")
            return
        before = outcomes()
        own.child.send_signal(signal.SIGHUP)
        while outcomes() == before:
            assert own.child.poll() is None

    good = own.config.read_text()
    own.config.write_text(good.replace("192.168.1.2", "192.168.1.3"))
    reload()
    assert own.resolve("nas.lan", "--short").stdout == "192.168.1.3\n"
    own.config.write_text(good.replace("nas.lan A 192.168.1.2", "nas.lan A nonsense"))
    reload()
    assert own.resolve("nas.lan", "--short").stdout == "192.168.1.3\n"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        own.config.write_text(good.replace(f"127.0.0.1:{own.port}", f"127.0.0.1:{port}"))
        reload()
    assert own.resolve("nas.lan", "--short").stdout == "192.168.1.3\n"
    assert own.child.poll() is None


def test_a_reload_that_fails_says_why(own: Running) -> None:
    own.config.write_text("dns: {listen: nowhere}")
    done = own.run("reload")
    assert done.returncode == 1 and "1:15" in done.stderr and "Traceback" not in own.log.read_text()


PLANTED = """
import cyfs_ns.io.run as run

read = run.read_dns_file

def read_dns_file(path):
    if "planted" in path.read_text():
        raise IndexError("a fault of ours")
    return read(path)

run.read_dns_file = read_dns_file
"""


def test_a_fault_of_ours_in_a_reload_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsprogram, "CODE", PLANTED + CODE)
    port = free_port()
    with upstream(ZONE) as behind, server(tmp_path, text(port, behind), port) as own:
        own.config.write_text("# planted")
        done = own.run("reload")
        assert done.returncode == 1 and "a fault of ours; what was there stays" in done.stderr
        assert control(own, "POST", "/reload")[0] == 500
        own.child.send_signal(signal.SIGHUP)
        while own.log.read_text().count("IndexError: a fault of ours") < 3:
            assert own.child.poll() is None
        assert own.resolve("nas.lan", "--short").stdout == "192.168.1.2\n"
        own.config.write_text(text(port, behind).replace("192.168.1.2", "192.168.1.3"))
        assert own.run("reload").returncode == 0
        assert own.resolve("nas.lan", "--short").stdout == "192.168.1.3\n"


def test_metrics_are_prometheus_text(running: Running) -> None:
    running.resolve("a.example")
    status, body = control(running, "GET", "/metrics")
    assert status == 200
    samples = {}
    for line in body.splitlines():
        if not line.startswith("#"):
            found = re.fullmatch(r'([a-z_]+)(\{(?:[a-z]+="(?:[^"\\]|\\.)*",?)+\})? (-?[0-9.e+]+)', line)
            assert found, line
            samples[found[1] + (found[2] or "")] = float(found[3])
    assert samples['cyfs_dns_answers_total{source="upstream"}'] >= 1
    assert samples[next(key for key in samples if key.startswith("cyfs_dns_upstream_up"))] == 1
    assert samples["cyfs_dns_cache_bytes"] > 0


def test_prometheus_may_look_where_it_is_allowed_to_and_sees_counts_alone(tmp_path: Path) -> None:
    port, watched = free_port(), free_port()
    with upstream(ZONE) as behind:
        config = text(port, behind) + f"  metrics-listen: 127.0.0.1:{watched}\n"
        with server(tmp_path, config, port) as program:
            program.resolve("a.example")
            found = {}
            for path, host in (("/metrics", ""), ("/status", ""), ("/metrics", "evil.example")):
                connection = http.client.HTTPConnection("127.0.0.1", watched)
                connection.request("GET", path, headers={"Host": host} if host else {})
                answer = connection.getresponse()
                found[path, host] = answer.status, answer.read().decode()
                connection.close()
            assert found["/metrics", ""][0] == 200 and "a.example" not in found["/metrics", ""][1]
            assert found["/status", ""][0] == 404
            assert found["/metrics", "evil.example"][0] == 403


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/nothing", 404),
        ("PUT", "/status", 405),
        ("GET", "/stats?top=0", 400),
        ("GET", "/stats?top=x", 400),
        ("GET", "/log?limit=99999999999", 400),
        ("GET", "/explain?name=a..b", 400),
        ("POST", "/flush?below=1", 400),
    ],
)
def test_bad_requests_are_told_what_is_wrong(running: Running, method: str, target: str, status: int) -> None:
    found, body = control(running, method, target)
    assert found == status and json.loads(body)["message"]


def test_a_web_page_is_refused_even_through_the_socket(running: Running) -> None:
    assert control(running, "GET", "/status", Origin="http://evil.example")[0] == 403


def test_one_home_has_one_server(running: Running, tmp_path: Path) -> None:
    done = cyfs_ns("serve", "-c", running.config, "--home", running.home)
    assert done.returncode == 1 and "another name server runs in" in done.stderr
    assert running.resolve("nas.lan").returncode == 0


def test_a_killed_server_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    port = free_port()
    with upstream(ZONE) as behind:
        with server(tmp_path, text(port, behind), port) as program:
            program.stop(signal.SIGKILL)
        with server(tmp_path, text(port, behind), port) as program:
            assert program.resolve("nas.lan").returncode == 0
            assert program.stop(signal.SIGINT) == 0
        assert not (tmp_path / "home" / "control.sock").exists()


def test_without_a_server_the_exit_code_is_3(tmp_path: Path) -> None:
    for words in (
        ("status",),
        ("explain", "a"),
        ("log", "-f"),
        ("stats",),
        ("flush",),
        ("reload",),
        ("upstreams",),
        ("lists",),
    ):
        done = cyfs_ns(*words, "--home", tmp_path)
        assert done.returncode == 3 and "no name server answers" in done.stderr, words


def test_a_bad_start_is_exit_1_and_says_where(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("dns:\n  listen: nowhere\n")
    done = cyfs_ns("serve", "-c", config, "--home", tmp_path / "home")
    assert done.returncode == 1 and "2:11" in done.stderr and "Traceback" not in done.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config.write_text(f"dns: {{listen: '127.0.0.1:{taken.getsockname()[1]}'}}")
        done = cyfs_ns("serve", "-c", config, "--home", tmp_path / "home")
    assert done.returncode == 1 and "cannot listen at tcp" in done.stderr and "Traceback" not in done.stderr


# Without a server


def test_check_tells_every_fault_with_its_place(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("dns:\n  listen: nowhere\n  strategy: wild\n  listn: x\n")
    done = cyfs_ns("check", "-c", config)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split(" ")[0] for line in lines] == [f"{config}:2:11:", f"{config}:3:13:", f"{config}:4:3:"]
    assert "did you mean 'listen'" in lines[2]
    assert json.loads(cyfs_ns("check", "-c", config, "--json").stdout)["errors"] == 2
    config.write_text("dns: {listen: '127.0.0.1:53', zones: {a.example: {file: /no/such/zone}}}")
    done = cyfs_ns("check", "-c", config)
    assert done.returncode == 1 and "/no/such/zone" in done.stdout
    config.write_text("dns: {listen: '127.0.0.1:53'}")
    done = cyfs_ns("check", "-c", config)
    assert (done.returncode, done.stdout) == (0, f"{config}: good\n")
    assert cyfs_ns("check", "-c", tmp_path / "none").returncode == 1
    assert cyfs_ns("check").returncode == 2


def test_a_file_explains_itself_without_a_server(tmp_path: Path) -> None:
    config, listed = tmp_path / "config.yaml", tmp_path / "ads.txt"
    listed.write_text("||tracker.example^\n")
    with upstream(ZONE) as behind:
        base = text(53, behind).replace("  use-system", f"  lists: {{mine: {{path: {listed}}}}}\n  use-system")
        config.write_text(base)
        way = json.loads(cyfs_ns("explain", "www.tracker.example", "-c", config, "--json").stdout)
        assert way["source"] == "blocked" and way["why"] == "mine: ||tracker.example^"
        way = json.loads(cyfs_ns("explain", "a.example", "-c", config, "--json").stdout)
        assert [record["data"] for record in way["answer"]] == ["192.0.2.1"]
    config.write_text("dns: {listen: nowhere}")
    done = cyfs_ns("explain", "a.example", "-c", config)
    assert done.returncode == 1 and f"{config}:1:15: " in done.stderr


def test_dnsmasq_is_imported_and_what_comes_out_is_good(tmp_path: Path) -> None:
    old, new = tmp_path / "dnsmasq.conf", tmp_path / "new.yaml"
    old.write_text("domain=lan\naddress=/ads.example/0.0.0.0\nserver=/corp/10.0.0.1\ndhcp-range=10.0.0.2,10.0.0.9\n")
    done = cyfs_ns("import", old)
    assert done.returncode == 0
    new.write_text(done.stdout)
    assert cyfs_ns("check", "-c", new).returncode == 0
    assert cyfs_ns("import", tmp_path / "none").returncode == 1


@pytest.mark.parametrize(
    ("environment", "home"),
    [
        ({"CYFS_NS_HOME": "/x/y"}, "/x/y"),
        ({"CYFS_NS_HOME": ""}, "/var/lib/cyfs-ns"),
    ],
)
def test_where_the_server_lives_when_nothing_is_said(environment: dict[str, str], home: str) -> None:
    from cyfs_ns.io.cli.common import _default_home

    assert str(_default_home(environment, 0)) == home


def test_where_the_server_of_a_user_lives() -> None:
    from cyfs_ns.io.cli.common import _default_home

    assert str(_default_home({"XDG_STATE_HOME": "/s"}, 1000)) == "/s/cyfs-ns"
    assert str(_default_home({"XDG_STATE_HOME": "relative", "HOME": "/h"}, 1000)) == "/h/.local/state/cyfs-ns"
