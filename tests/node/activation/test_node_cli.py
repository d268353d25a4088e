"""``cyfs-gateway node …`` as people use it: an owner, and machines that enter, are replaced and leave."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cyfs_gateway.io.cli import ENTRY_POINTS, cli
from cyfs_ns.identity.keys import read_pem
from node.io.cli import node

CODE = "from cyfs_gateway.io.cli import main; main()"


@dataclass
class People:
    """Homes below one directory; everything that was ever printed is kept."""

    path: Path
    printed: list[str] = field(default_factory=list)

    def run(self, home: str, *words: str) -> Result:
        done = CliRunner().invoke(cli, ["--home", str(self.path / home), *words], prog_name="cyfs-gateway")
        self.printed += [done.stdout, done.stderr]
        return done

    def ok(self, home: str, *words: str) -> str:
        done = self.run(home, *words)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    def refused(self, home: str, *words: str) -> str:
        done = self.run(home, *words)
        assert (done.exit_code, type(done.exception)) == (1, SystemExit), done.exception
        return done.stderr

    def asks(self, home: str, name: str, *words: str) -> None:
        """The machine makes ``name.request``."""
        if not (self.path / home / "identity" / "device.pem").exists():
            self.ok(home, "id", "new", "--name", name)
        self.ok(home, "id", "request", "--name", name, "--zone", "home.example", *words, "-o", f"{name}.request")

    def signs(self, name: str, *words: str) -> None:
        self.ok("alice", "node", "sign", f"{name}.request", "--yes", *words)

    def takes(self, home: str, name: str) -> str:
        return self.ok(home, "node", "activate", "--bundle", f"{name}.membership", "--yes")

    def status(self, home: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.ok(home, "node", "status", "--json"))
        return found


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> People:
    monkeypatch.chdir(tmp_path)
    people = People(tmp_path)
    people.ok("alice", "id", "owner", "new", "--name", "alice", "--out", "alice/identity", "--words-to", "words")
    return people


def test_two_machines_enter_one_is_replaced_and_one_leaves(people: People) -> None:
    people.asks("box", "box", "--ip", "192.0.2.1")
    people.signs("box")
    assert "'box' of did:web:home.example" in people.takes("box", "box")
    assert people.status("box")["role"] == "ood"
    people.asks("nas", "nas")
    people.signs("nas")
    people.takes("nas", "nas")
    assert (people.status("nas")["zone"], people.status("nas")["role"]) == ("did:web:home.example", "node")
    assert people.ok("box", "id", "show").count("did:web:home.example") == 1
    assert "home.example" in people.ok("box", "id", "trust", "--list")
    assert people.ok("alice", "id", "txt").count(" TXT ") == 4

    # Another machine in the place of one.
    people.asks("spare", "nas")
    assert "--replace" in people.refused("alice", "node", "sign", "nas.request", "--yes")
    people.signs("nas", "--replace")
    people.takes("spare", "nas")
    assert "another machine's" in people.refused("nas", "node", "activate", "--bundle", "nas.membership", "--yes")

    # What was signed before is refused by who has what was signed since.
    old = (people.path / "nas.membership").read_bytes()
    people.asks("spare", "nas")
    people.signs("nas")
    people.takes("spare", "nas")
    (people.path / "nas.membership").write_bytes(old)
    assert "older" in people.refused("spare", "node", "activate", "--bundle", "nas.membership", "--yes")

    people.ok("spare", "node", "leave", "--yes")
    assert people.status("spare")["zone"] is None
    assert people.ok("spare", "node", "status").startswith("in no zone")
    people.ok("alice", "node", "remove", "nas", "--yes")
    assert people.ok("alice", "id", "txt").count(" TXT ") == 3
    assert "alone carries" in people.refused("alice", "node", "remove", "box", "--yes")
    assert people.status("box")["fault"] == ""

    seed = read_pem((people.path / "alice/identity/owner.pem").read_bytes()).seed
    told = "".join(people.printed).encode() + b"".join(
        file.read_bytes()
        for home in ("box", "nas", "spare")
        for file in (people.path / home).rglob("*")
        if file.is_file()
    )
    assert seed not in told
    assert b"PRIVATE" not in "".join(people.printed).encode()


def test_a_machine_with_a_new_key_is_let_in_again(people: People) -> None:
    people.asks("box", "box")
    people.signs("box")
    people.takes("box", "box")
    people.ok("box", "id", "rotate", "--yes")
    assert "another key" in str(people.status("box")["fault"])
    people.asks("box", "box")
    people.signs("box", "--replace")
    people.takes("box", "box")
    assert people.status("box")["fault"] == ""


def test_what_goes_wrong_is_told_in_a_sentence(people: People) -> None:
    people.asks("box", "box")
    assert "nothing was done" in people.refused("alice", "node", "sign", "box.request")
    assert not (people.path / "box.membership").exists()
    assert people.refused("nobody", "node", "sign", "box.request", "--yes").count("\n") == 1
    assert "--gateway" in people.run("alice", "node", "sign", "box.request", "--ood", "--node").stderr
    assert "first machine" in people.refused("alice", "node", "sign", "box.request", "--node", "--yes")
    people.signs("box", "--name", "attic")
    assert "'attic'" in people.takes("box", "attic")
    assert "other.example" in people.refused("alice", "node", "sign", "box.request", "--zone", "other.example", "--yes")
    (people.path / "bad").write_bytes(b"{}")
    for words in (("sign", "bad"), ("activate", "--bundle", "bad"), ("activate", "--bundle", "missing")):
        assert people.refused("alice" if words[0] == "sign" else "box", "node", *words, "--yes").startswith("Error: ")
    assert "HOST:PORT" in people.run("box", "node", "activate", "--listen", "nowhere").stderr


def test_the_page_is_where_the_terminal_says_and_ends_with_an_interrupt(people: People) -> None:
    command = [sys.executable, "-c", CODE, "--home", str(people.path / "box"), "node", "activate", "--name", "box"]
    child = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        said = "".join(child.stdout.readline() for _ in range(4))
        assert re.search(r"page: +http://127\.0\.0\.1:\d+/\n", said)
        assert re.search(r"code: +[0-9A-Z]{5}-[0-9A-Z]{5}\n", said)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
        assert (child.returncode, errors) == (1, "nothing was changed\n")
    finally:
        child.kill()
        child.wait()


def test_the_commands_come_to_the_gateways_program_by_their_entry_point() -> None:
    installed = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["entry-points"]
    assert installed[ENTRY_POINTS]["node"] == "node.io.cli:node"
    for command in node.commands.values():
        assert "Example:" in (command.help or "")
