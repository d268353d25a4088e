"""The activation page in a real Chromium: an owner is looked at, and accepted."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from e2e_browser import browser

CODE = "from cyfs_gateway.io.cli import main; main()"


def gateway(folder: Path, home: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE, "--home", str(folder / home), *words],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_person_activates_a_machine_on_its_page(tmp_path: Path) -> None:
    gateway(tmp_path, "own", "id", "owner", "new", "--name", "alice", "--out", "own/identity", "--words-to", "words")
    command = [sys.executable, "-c", CODE, "--home", str(tmp_path / "box"), "node", "activate", "--name", "box"]
    machine = subprocess.Popen(
        [*command, "--zone", "home.example", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert machine.stdout is not None
        said = "".join(machine.stdout.readline() for _ in range(5))
        url, code = (re.search(rf"{what}: +(\S+)", said) for what in ("page", "code"))
        assert url is not None
        assert code is not None
        with browser(tmp_path / "profile") as page:
            assert page.open(url[1]) == ""
            page.shows("box", "did:dev:")
            page.becomes("document.querySelector('img').naturalWidth > 0", True)
            (tmp_path / "request").write_text(page.run("document.getElementById('request').value"))
            gateway(tmp_path, "own", "node", "sign", "request", "--yes", "-o", "signed")
            signed = json.dumps((tmp_path / "signed").read_text())
            page.run(f"document.getElementById('membership').value = {signed}")
            page.run("document.getElementById('code').value = 'AAAAA-AAAAA'")
            page.click("Look whose it is")
            page.shows("this is not the code")
            page.run(f"document.getElementById('code').value = {json.dumps(code[1].lower())}")
            page.click("Look whose it is")
            page.shows("alice", "did:web:home.example", "That is my owner")
            page.click("That is my owner: accept")
            page.shows("This machine belongs to did:web:home.example now.")
        assert "'box' of did:web:home.example" in machine.stdout.read()
        assert machine.wait(30) == 0
    finally:
        machine.kill()
        machine.wait()
        machine.stdout.close() if machine.stdout is not None else None
    assert json.loads(gateway(tmp_path, "box", "node", "status", "--json"))["name"] == "box"
