"""What the documents tell people to do can be done: commands, options, make targets, links and configurations exist.

The README's quick start is also run: its own ``curl`` lines, against a real nginx, in a network namespace.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cyfs_gateway.config.load import load
from cyfs_gateway.io.cli import cli

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "netns-lab/README.md"]
LATER = {ROOT / "docs/benchmarks.md"}
"""Written by ``make bench``; the link may stand before the first race."""
README = (ROOT / "README.md").read_text()


def code(page: str) -> Iterator[tuple[str, str]]:
    """Blocks of code as (language, text); indented ones have no language."""
    for found in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", page, re.M | re.S):
        yield found[2], re.sub(rf"^{found[1]}", "", found[3], flags=re.M)
    for found in re.finditer(r"(?:^ {4}\S.*\n)+", re.sub(r"^( *)```.*?^\1```$", "", page, flags=re.M | re.S), re.M):
        yield "", found[0]


def commands(page: str) -> Iterator[list[str]]:
    """Every shell command of a page as words, pipes and lists taken apart; inline code counts when it is ours."""
    lines = [line for language, text in code(page) if language in ("", "sh") for line in text.splitlines()]
    lines += [one for one in re.findall(r"`([^`\n]+)`", page) if re.match(r"(cyfs-gateway|make) ", one)]
    for line in lines:
        if "..." in line:  # a synopsis
            continue
        try:
            words = shlex.split(re.split(r"(?<=\S) {3,}", line)[0], comments=True)
        except ValueError:  # prose
            continue
        while words:
            end = next((at for at, word in enumerate(words) if word in ("&&", "|")), len(words))
            if part := words[:end]:
                yield part
            words = words[end + 1 :]


def ours() -> list[tuple[str, list[str]]]:
    found = [(page.name, words) for page in PAGES for words in commands(page.read_text())]
    return [(name, words[1:]) for name, words in found if Path(words[0]).name == "cyfs-gateway"]


def options(command: click.Command) -> dict[str, click.Option]:
    return {name: one for one in command.params if isinstance(one, click.Option) for name in (*one.opts, "--help")}


def take_options(command: click.Command, words: list[str]) -> list[str]:
    """Take known options with their values off ``words``; what stays are arguments.  Fails for an unknown one."""
    known, rest = options(command), list[str]()
    words = [word.strip("[]") for word in words]
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            rest.append(word)
        else:
            assert word in known, f"{command.name} has no {word}"
            if word != "--help" and not known[word].is_flag:
                assert words, f"{word} needs a value"
                words.pop(0)
    return rest


@pytest.mark.parametrize(
    ("page", "words"), ours(), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_commands_in_documents_exist(page, words):
    command: click.Command = cli
    while isinstance(command, click.Group) and (words or command is cli):
        known = command.list_commands(context := click.Context(command))
        before = next((at for at, word in enumerate(words) if word in known), None)
        assert before is not None, f"{page}: no such command"
        assert take_options(command, words[:before]) in ([], ["DIR"]), page
        command, words = command.get_command(context, words[before]), words[before + 1 :]
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    given = take_options(command, words)
    assert len(given) <= len(arguments) or any(one.nargs < 0 for one in arguments)


def test_make_targets_in_documents_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    wanted = {
        (page.name, words[1])
        for page in PAGES
        for words in commands(page.read_text())
        if words[0] == "make" and len(words) > 1
    }
    assert {name for _, name in wanted} >= {"run", "test", "lab", "bench", "lint"}
    assert [pair for pair in wanted if pair[1] not in targets] == []


def test_links_lead_somewhere():
    broken = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            target = page.parent / link
            if "://" not in link and not target.exists() and target not in LATER:
                broken.append(f"{page.name}: {link}")
    assert broken == []


def configurations() -> Iterator[tuple[str, str]]:
    for page in (ROOT / "README.md", ROOT / "docs/getting-started.md"):
        for place, (language, text) in enumerate(code(page.read_text())):
            if language == "yaml":
                yield f"{page.name}-{place}", text
    for file in sorted((ROOT / "contrib").glob("*.yaml")):
        yield file.name, file.read_text()


@pytest.mark.parametrize(("name", "text"), list(configurations()), ids=lambda value: value if "\n" not in value else "")
def test_configurations_in_documents_are_good(name, text, tmp_path):
    loaded = load(text.encode(), home=str(tmp_path))
    assert [str(fault) for fault in loaded.faults] == [], name


def test_the_readme_shows_the_example_that_is_there():
    shown = next(text for language, text in code(README) if language == "yaml")
    assert shown in (ROOT / "contrib/example.yaml").read_text()


@pytest.mark.parametrize("name", ["cyfs-gateway", "cyfs-zone"])
def test_the_unit_starts_what_there_is(name):
    unit = (ROOT / f"contrib/{name}.service").read_text()
    words = shlex.split(re.search(r"^ExecStart=(.+)$", unit, re.M)[1])  # type: ignore[index]
    assert words[1] == "run"
    assert take_options(cli.commands["run"], words[2:]) == []


NGINX = """\
daemon off; master_process off; pid {here}/pid; error_log stderr; lock_file {here}/lock;
events {{}}
http {{
    access_log off;
    client_body_temp_path {here}; proxy_temp_path {here}; fastcgi_temp_path {here}; uwsgi_temp_path {here};
    scgi_temp_path {here};
    server {{ listen 80; location / {{ return 200 "<h1>Welcome to nginx!</h1>\\n"; }} }}
}}
"""
TOUR = """\
set -e
ip link set lo up
nginx -c {here}/nginx.conf & nginx=$!
{gateway} run {file} --home {here}/home 2>{here}/log & gateway=$!
trap 'kill $nginx $gateway; wait' EXIT
until curl -s -o {here}/out http://localhost/ && curl -s -o {here}/out --unix-socket {here}/home/cyfs-gateway.sock http://localhost/
do kill -0 $nginx; kill -0 $gateway; sleep 0.1; done
{curl}
"""


def quick_start() -> Iterator[tuple[str, str]]:
    """(``-c FILE`` or nothing, curl line) for each curl line of the README, by the ``make run`` before it."""
    file = ""
    for words in commands(README):
        if words[:2] == ["make", "run"]:
            file = words[2].removeprefix("ARGS=") if len(words) > 2 else ""
        elif words[0] == "curl":
            yield file, shlex.join(words)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes a network namespace")
@pytest.mark.parametrize(("file", "curl"), list(quick_start()), ids=lambda value: value.rpartition(" ")[2])
def test_the_quick_start_works_as_written(file, curl, tmp_path):
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    for program, package in (("nginx", "nginx-light"), ("curl", "curl"), ("ip", "iproute2"), ("unshare", "util-linux")):
        if shutil.which(program, path=path) is None:
            pytest.skip(f"needs the real {program} (Debian package {package})")
    if subprocess.run(["unshare", "--net", "true"], check=False).returncode:
        pytest.skip("needs network namespaces, which this machine does not allow")
    (tmp_path / "nginx.conf").write_text(NGINX.format(here=tmp_path))
    gateway = shlex.quote(str(Path(sys.prefix) / "bin/cyfs-gateway"))
    script = TOUR.format(here=shlex.quote(str(tmp_path)), gateway=gateway, file=file, curl=curl)
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "ads.example" in curl:
        assert "REJECT" in done.stdout, done.stderr
    else:
        assert "Welcome to nginx" in done.stdout, done.stderr


def tour_of_identities() -> list[str]:
    """The commands of "Who is who", one a line."""
    section = README.partition("## Who is who")[2].partition("\n## ")[0]
    return [line for language, text in code(section) if language == "sh" for line in text.splitlines()]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes a network namespace")
def test_the_tour_of_identities_works_as_written(tmp_path):
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--net", "true"], check=False).returncode:
        pytest.skip("needs network namespaces, which this machine does not allow")
    here, programs = shlex.quote(str(tmp_path)), shlex.quote(str(Path(sys.prefix) / "bin"))
    script = "ip link set lo up; server=; trap 'kill $server; wait' EXIT\n"
    for number, line in enumerate(tour_of_identities()):
        command = line.replace("/tmp/who", here).replace(".venv/bin", programs)
        if " serve " in command:
            script += f"{command} 2>{here}/log & server=$!\n"
            script += f"until test -S {here}/ns/control.sock; do kill -0 $server || exit 1; sleep 0.1; done\n"
        else:
            script += f"yes | {{ {command}; }} >{here}/{number}.out 2>&1; echo $? >{here}/{number}.code\n"
    subprocess.run(
        ["unshare", "--net", "sh", "-c", script],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        timeout=100,
        check=False,
    )
    *before, last = [
        (line, (tmp_path / f"{number}.code").read_text().strip(), (tmp_path / f"{number}.out").read_text())
        for number, line in enumerate(tour_of_identities())
        if " serve " not in line
    ]
    for line, status, said in before:
        assert status == "0", f"{line}: {said}"
        if " resolve " in line:
            assert "is known: owner-signed" in said
    assert sum(" resolve " in line for line, _, _ in before) == 2
    assert last[1] == "1" and "device-mini document: not signed by" in last[2], last[2]


def test_the_quick_start_is_covered():
    lines = [curl for _, curl in quick_start()]
    assert any("--socks5-hostname" in line for line in lines)
    assert any("--proxy" in line for line in lines)
    assert {file for file, _ in quick_start()} == {"", "-c contrib/example.yaml"}
