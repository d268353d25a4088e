"""The command line against a served gateway: what it prints, what it exits with, what it does not import."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import trio
from click.testing import CliRunner, Result
from control_house import SECRET, House

from cyfs_gateway import __version__
from cyfs_gateway.io.cli import cli, default_home
from cyfs_ns.io.tables import bytes_text, seconds_text

DOCS = Path(__file__).parents[3] / "docs"
CONTEXT = click.Context(cli)
COMMANDS = sorted(cli.list_commands(CONTEXT))


class Owner:
    """Somebody at the command line of a house."""

    def __init__(self, house: House) -> None:
        self.house = house
        (house.home / "cyfs-gateway.sock").symlink_to(house.socket)

    async def __call__(self, *words: str) -> Result:
        options = ["--home", str(self.house.home)]
        return await trio.to_thread.run_sync(
            lambda: CliRunner().invoke(cli, [*options, *words], prog_name="cyfs-gateway")
        )

    async def json(self, *words: str) -> Any:
        result = await self(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture
async def owner(house: House) -> Owner:
    return Owner(house)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("status", r"connections: +2"),
        ("status", r"  name=DEFAULT-MIXED kind=mixed address=127.0.0.1:7890"),
        (
            "connections",
            r"192.0.2.7:50001 +www.example.com:443 +tcp +DomainSuffix,example.com +auto > a +100 B +2.0 KiB",
        ),
        ("proxies", r"pick +Selector +yes +a"),
        ("proxies", r"a +Socks5 +yes +12 ms"),
        ("rules", r"0 +DomainSuffix +example.com +auto +3"),
        ("providers", r"ads +rules +HTTP +3 +x"),
        ("delay a", r"a +42 ms"),
        ("delay auto", r"b/ü 🚀 +20 ms"),
        ("dns www.example.com", r"www.example.com. +60 +192.0.2.1"),
        ("explain https://www.example.com/path", r"verdict: +auto > a"),
        ("explain [2001:db8::1]:53 --udp --from 192.0.2.9 --process dig", r"way: +socks5 proxy 10.0.0.1:1080"),
        ("tunnels", r"socks://\*\*\*@p.example/t:1 +reachable +fresh_probe +1.5 ms"),
        ("tunnels", r"did:web:photos.home.example +owner-signed +did:dev:y +5 +from 192.0.2.7 +1.5 s"),
        ("tunnels forget did:web:a.example", r"1 tunnel closed"),
        ("ping did:web:a.example", r"did:web:a.example: 2.5 ms, owner-signed, from 192.0.2.7"),
        ("ping did:web:a.example --explain", r"No other way is looked for\."),
        ("ping far.example", r"far.example: 2.5 ms, owner-signed, by SN sn.example"),
        ("ping far.example --explain", r"relayed because the far NAT is random-symmetric"),
        ("ping far.example --explain", r"SN sn.example +relay +in use +21.5 ms +0% +0.5 s"),
        ("ping far.example --explain", r"udp 192.0.2.7:4 +host +never answered +10% *"),
        ("version", rf"cyfs-gateway {re.escape(__version__)}"),
    ],
)
async def test_tables_for_people(owner: Owner, words: str, line: str) -> None:
    result = await owner(*words.split())
    assert result.exit_code == 0, result.output
    assert any(re.fullmatch(line, printed) for printed in result.stdout.splitlines()), result.stdout


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("status", "uptime"),
        ("connections", "connections"),
        ("proxies", "proxies"),
        ("rules", "rules"),
        ("providers", "rules"),
        ("delay auto", "a"),
        ("dns www.example.com AAAA", "Answer"),
        ("explain 192.0.2.1", "chain"),
        ("tunnels socks://p.example/t:1", "state"),
        ("tunnels", "peers"),
        ("ping did:web:a.example", "rtt"),
        ("version", "version"),
    ],
)
async def test_json_for_programs(owner: Owner, words: str, key: str) -> None:
    assert key in await owner.json(*words.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("select pick DIRECT", [("select", "pick", "DIRECT")]),
        ("flush", ["flush dns", "flush fake-ip"]),
        ("reload", [("reload", "", "")]),
    ],
)
async def test_acts_are_carried_out(owner: Owner, words: str, told: list[object]) -> None:
    result = await owner(*words.split())
    assert (result.exit_code, owner.house.gateway.told) == (0, told), result.output


async def test_reload_sends_a_path_at_home_and_the_content_of_any_other(owner: Owner, tmp_path: Path) -> None:
    inside, outside = owner.house.home / "in.yaml", tmp_path / "out.yaml"
    inside.write_text("mode: direct")
    outside.write_text("mode: global")
    assert "/colour: unknown key" in (await owner("reload", "-c", str(inside))).stderr
    await owner("reload", "-c", str(outside))
    assert owner.house.gateway.told == [("reload", str(inside), ""), ("reload", "", "mode: global")]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("select pick ghost", 1, "pick has no member ghost; there is "),
        ("select ghost a", 1, "there is no outbound or group ghost"),
        ("select a b", 1, "a is no group"),
        ("select auto a", 1, "Must be a Selector"),
        ("delay ghost", 1, "there is no outbound or group ghost"),
        ("delay a --url https://slow.example", 1, "Timeout"),
        ("dns a.example nonsense", 1, "unknown type"),
        ("explain http://[x]/", 2, "not an authority"),
        ("explain http://a.example:99999", 2, "port"),
        ("explain a.example --from nobody", 2, "nobody"),
        ("certs list", 1, "no section certificates"),
        ("share revoke 5f1d0c3b9a7e2468", 1, "no section share"),
        ("sn suspend mallory --why abuse", 1, "no section sn"),
        ("sn usage --month 2026", 2, "--month"),
        ("select pick", 2, "NAME"),
        ("dance", 2, "dance"),
        ("check", 2, "which file"),
        ("--controller ftp://x status", 2, "http"),
        ("--controller http://127.0.0.1:1 status", 3, "cyfs-gateway run"),
    ],
)
async def test_exit_codes(owner: Owner, words: str, code: int, said: str) -> None:
    result = await owner(*words.split())
    assert result.exit_code == code
    assert said in result.stderr


@pytest.mark.parametrize(
    ("report", "said"),
    [({"running": True}, "no account here has that name"), ({"running": False, "fault": "disk full"}, "disk full")],
)
async def test_what_a_module_does_not_know_is_told_from_one_that_is_off(
    owner: Owner, monkeypatch: pytest.MonkeyPatch, report: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(owner.house.gateway, "status", lambda: {"listeners": [], "modules": {"sn": report}})
    result = await owner("sn", "users", "nobody")
    assert (result.exit_code, said in result.stderr) == (1, True), result.stderr


def test_no_gateway_is_exit_code_3_and_says_how_to_start_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["status", "--home", str(tmp_path)])
    assert result.exit_code == 3
    assert f"cyfs-gateway run --home {tmp_path}" in result.stderr


async def test_the_controller_is_reached_with_its_secret(owner: Owner, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    url = f"http://127.0.0.1:{owner.house.port}"
    assert (await owner("--controller", url, "--secret-file", str(tmp_path / "secret"), "rules")).exit_code == 0
    refused = await owner("--controller", url, "rules")
    assert (refused.exit_code, "secret-file" in refused.stderr) == (1, True)


async def test_names_of_strangers_do_not_drive_the_terminal(owner: Owner) -> None:
    owner.house.gateway.live[0].flow.host = "\x1b]0;owned\x07\r\nDIRECT"
    printed = (await owner("connections")).stdout
    assert not {"\x1b", "\x07", "\r"} & set(printed)
    assert len(printed.splitlines()) == 3


@pytest.mark.parametrize(
    "words",
    [
        ("send", "\x1b[31m\nforged: line", "photos.home.example"),
        ("receive", "--dir", "/nowhere/\x1b[31m\n"),
        ("check", "-c", "\x1b[31m\n.yaml"),
        ("reload", "-c", "\x1b[31m\n.yaml"),
        ("nc", "\x1b[31m\n"),
        ("forward", "\x1b[31m\n", "a:1"),
        ("explain", "\x1b[31m\n"),
        ("--controller", "http://127.0.0.1:1", "--secret-file", "\x1b[31m\n", "status"),
    ],
)
async def test_names_of_files_do_not_drive_the_terminal(owner: Owner, words: tuple[str, ...]) -> None:
    said = await owner(*words)
    shown = said.output.replace("\n\n", "\n")
    assert said.exit_code in (1, 2)
    assert "\x1b" not in shown
    assert not any(line.startswith("forged") for line in shown.splitlines()), shown
    assert all(line.startswith(("Error: ", "Usage: ", "Try ", "\\x1b[31m")) for line in shown.splitlines()), shown


@pytest.mark.parametrize("words", ["delay \udcff", "select \udcff a", "dns \udcff", "tunnels forget \udcff"])
async def test_what_is_no_text_is_said_so(owner: Owner, words: str) -> None:
    said = await owner(*words.split())
    assert (said.exit_code, said.stderr) == (1, "Error: '\\udcff' is no text\n")


async def test_logs_are_followed_until_interrupted(owner: Owner) -> None:
    program = [sys.executable, "-c", "from cyfs_gateway.io.cli import main; main()", "--home", str(owner.house.home)]
    process = await trio.lowlevel.open_process([*program, "logs", "-f", "--level", "debug"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    heard = b""
    while b"\n" not in heard:
        heard += await process.stdout.receive_some()
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0
    assert heard == b"22:13:20 warn    one\\r\\ntwo \\x1b[31m host=h\n"


def test_check_prints_every_fault_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("mode: sideways\nmixed-port: 99999999\ncolour: red\n")
    result = CliRunner().invoke(cli, ["--home", str(tmp_path), "check", "-c", str(file)])
    assert result.exit_code == 1
    assert re.search(rf"^{re.escape(str(file))}:1:\d+: error: /mode: ", result.stdout, re.M)
    assert re.search(rf"^{re.escape(str(file))}:2:\d+: error: /mixed-port: ", result.stdout, re.M)
    assert re.search(rf"^{re.escape(str(file))}:3:\d+: warning: /colour: ", result.stdout, re.M)
    listed = json.loads(CliRunner().invoke(cli, ["check", "--json", "-c", str(file)]).stdout)
    assert (listed["errors"], len(listed["faults"])) == (2, 3)


def test_check_is_content_with_a_good_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("mixed-port: 7890\nrules: ['MATCH,DIRECT']\n")
    result = CliRunner().invoke(cli, ["--home", str(tmp_path), "check", "-c", str(file)])
    assert (result.exit_code, result.stdout) == (0, f"{file}: good\n")


def test_explain_works_by_a_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("mode: rule\nrules: ['DOMAIN-SUFFIX,example.com,REJECT', 'MATCH,DIRECT']\n")
    words = ["--home", str(tmp_path), "explain", "www.example.com", "-c", str(file)]
    result = CliRunner().invoke(cli, words)
    assert "REJECT" in result.stdout, result.output
    assert json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)["chain"][-1] == "REJECT"


def test_explain_tells_an_address_that_needs_no_question(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("hosts: {web.home: 192.0.2.1}\nrules: ['MATCH,DIRECT']\n")
    result = CliRunner().invoke(cli, ["--home", str(tmp_path), "explain", "http://web.home/", "-c", str(file)])
    assert "resolution:  web.home is 192.0.2.1, which is known already\n" in result.stdout, result.output


def test_explain_of_a_broken_file_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("rules: ['NONSENSE']\n")
    result = CliRunner().invoke(cli, ["--home", str(tmp_path), "explain", "www.example.com", "-c", str(file)])
    assert (result.exit_code, "rules" in result.stderr) == (1, True), result.exception


def below(group: click.Group, *words: str) -> Iterator[tuple[str, ...]]:
    """The words of every command, groups among them."""
    for name in group.list_commands(CONTEXT):
        command = group.get_command(CONTEXT, name)
        yield (*words, name)
        if isinstance(command, click.Group):
            yield from below(command, *words, name)


@pytest.mark.parametrize("words", list(below(cli)), ids=" ".join)
def test_every_command_explains_itself_with_an_example(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*words, "--help"], prog_name="cyfs-gateway", terminal_width=80)
    assert result.exit_code == 0
    said = " ".join(words).replace("share link", "share")
    assert re.search(rf"Example:\n.*cyfs-gateway {said}\b", result.stdout)
    listed = result.stdout.partition("\nCommands:\n")[2]
    assert "..." not in listed, "what a command is for has room in a line"


def test_the_manual_names_every_command_and_no_other() -> None:
    manual = (DOCS / "cli.md").read_text()
    assert sorted(set(re.findall(r"^### `cyfs-gateway (\w+)", manual, re.M))) == COMMANDS
    for command, options in re.findall(r"^### `cyfs-gateway (\w+)(.*)`$", manual, re.M):
        found = cli.get_command(CONTEXT, command)
        assert found is not None
        known = {name for option in found.params for name in option.opts}
        assert set(re.findall(r"(?<!\w)--?[a-z-]+", options)) <= known, command


def test_the_api_manual_names_every_route_and_no_other() -> None:
    from cyfs_gateway.io.control.routes import make_router
    from cyfs_ns.io.control.nameserver import routes

    manual = (DOCS / "api.md").read_text()
    written = set(re.findall(r"^\| ((?:GET|PUT|PATCH|POST|DELETE) /\S*) \|", manual, re.M))
    own = {f"{route.method} {route.pattern}" for route, _ in make_router()._routes}
    rest = {f"{method} /dns/{{path...}}" for method in ("GET", "POST", "DELETE")}
    assert rest < own
    assert written == own - rest | {f"{route.method} {route.pattern}" for route in routes(lambda _: None, "/dns")}


@pytest.mark.parametrize(
    ("environment", "uid", "home"),
    [
        ({"CYFS_HOME": "/x"}, 0, "/x"),
        ({}, 0, "/var/lib/cyfs"),
        ({"XDG_STATE_HOME": "/s"}, 1000, "/s/cyfs-gateway"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/home/u"}, 1000, "/home/u/.local/state/cyfs-gateway"),
    ],
)
def test_the_default_home(environment: dict[str, str], uid: int, home: str) -> None:
    assert default_home(environment, uid) == Path(home)


def test_numbers_for_people() -> None:
    assert [bytes_text(n) for n in (0, 1023, 1536, 5 << 30, 1 << 60)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
        "1048576.0 TiB",
    ]
    assert [seconds_text(s) for s in (0.4, 59, 60, 93784)] == ["0s", "59s", "1m", "1d 2h 3m"]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("cyfs_gateway.io.cli", "rich trio structlog http.client yaml re2 cyfs_gateway.facade"),
        ("cyfs_gateway.io.gateway", "rich structlog asyncio http.client click"),
    ],
)
def test_starting_does_not_pay_for_what_it_does_not_use(module: str, absent: str) -> None:
    code = f"import sys, {module}; print(*(set({absent.split()!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.split() == []


def test_the_version_is_the_packages() -> None:
    project = (DOCS.parent / "pyproject.toml").read_text()
    assert f'\nversion = "{__version__}"\n' in project
