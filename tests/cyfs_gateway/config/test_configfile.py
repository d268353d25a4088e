"""The file on disk: read when it is a plain file, and a fault when it is anything else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cyfs_gateway.io import configfile
from cyfs_gateway.io.configfile import read_config
from cyfs_ns.io import configfile as low


def test_a_file_is_read_with_its_environment_and_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "7777")
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    secret.chmod(0o600)
    file = tmp_path / "config.yaml"
    file.write_text("mixed-port: !env GATEWAY_PORT\nsecret: !file secret\nhealth: {a: 1}\n")
    loaded = read_config(file, tmp_path / "home", ("health",))
    assert loaded.faults == ()
    assert loaded.config is not None
    assert loaded.config.listeners[0].port == 7777
    assert loaded.config.control.secret == "hush"
    assert loaded.config.home == str(tmp_path / "home")
    secret.chmod(0o644)
    assert [fault.path for fault in read_config(file, tmp_path).faults if "0600" in fault.message] == ["/secret"]


def test_no_file_is_the_defaults(tmp_path: Path) -> None:
    config = read_config(None, tmp_path).config
    assert config is not None and config.listeners[0].port == 7890


def test_what_is_no_plain_file_is_a_fault(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, says in (
        (tmp_path / "absent", "cannot be read"),
        (tmp_path, "cannot be read"),
        (fifo, "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
    ):
        loaded = read_config(path, tmp_path)
        assert loaded.config is None
        assert says in loaded.faults[0].message


def test_an_empty_file_is_no_configuration(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for nothing in ("", "\n \n"):
        file.write_text(nothing)
        loaded = read_config(file, tmp_path)
        assert loaded.config is None and "config.yaml is empty" in loaded.faults[0].message
    file.write_text("# the defaults\n")
    assert read_config(file, tmp_path).config is not None


def test_a_big_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low, "MAX_SECRET", 10)
    (tmp_path / "secret").write_text("x" * 11)
    file = tmp_path / "config.yaml"
    file.write_text("secret: !file secret")
    assert "more than 10 bytes" in read_config(file, tmp_path).faults[0].message
    monkeypatch.setattr(configfile, "MAX_BYTES", 5)
    assert "more than 5 bytes" in read_config(file, tmp_path).faults[0].message
