"""A gateway is somebody from its first start on, stays the same, and says so."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from test_installed import Program

from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.keys import read_pem


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def identity(program: Program) -> dict[str, object]:
    told = program.tell("status", "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)["identity"]
    assert isinstance(found, dict)
    return found


def test_the_first_start_makes_a_key_that_stays(program: Program) -> None:
    pem = program.home / "identity/device.pem"
    with program.running() as running:
        first = identity(running)
        assert stat.S_IMODE(pem.stat().st_mode) == 0o600
        assert first["did"] == str(dev_did(read_pem(pem.read_bytes()).public)) and first["document"] is None
        assert str(first["did"]) in running.tell("status").stdout
    with program.running() as running:
        assert identity(running) == first
    assert read_pem(pem.read_bytes()).pem().decode().splitlines()[1] not in program.log.read_text()


def test_a_key_that_others_may_read_is_told_and_the_house_runs_on(program: Program) -> None:
    with program.running():
        pass
    (program.home / "identity/device.pem").chmod(0o644)
    with program.running() as running:
        assert "chmod 600" in str(identity(running)["fault"])
        assert "chmod 600" in running.tell("status").stdout
    assert "this machine has no identity" in program.log.read_text()
