"""What a home directory keeps, and what it survives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cyfs_gateway.io.state import Home
from cyfs_ns.errors import ConfigFault


def test_one_gateway_a_home(tmp_path: Path) -> None:
    first = Home(tmp_path / "home")
    with pytest.raises(ConfigFault, match="another gateway"):
        Home(tmp_path / "home")
    first.close()
    Home(tmp_path / "home").close()
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


def test_a_home_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(ConfigFault, match=f"--home {path}: no directory; give a directory that can be written to"):
            Home(path)


def test_the_secret_is_made_once_and_shown_to_nobody(tmp_path: Path) -> None:
    home = Home(tmp_path)
    made = home.secret()
    assert len(made) >= 32
    assert home.secret() == made
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    (tmp_path / "secret").write_text("")
    assert home.secret() not in ("", made)
    (tmp_path / "secret").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigFault, match="secret"):
        home.secret()
    home.close()


@pytest.mark.parametrize("spoilt", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b'{"a": "b"' + b" " * (1 << 20)])
def test_spoilt_choices_are_forgotten(tmp_path: Path, spoilt: bytes) -> None:
    home = Home(tmp_path)
    assert home.choices() == {}
    home.save_choices({"group": "member", "Größe": "😀"})
    assert home.choices() == {"group": "member", "Größe": "😀"}
    (tmp_path / "selected.json").write_bytes(spoilt)
    assert home.choices() == {}
    home.close()


def test_choices_that_cannot_be_saved_cost_nothing_else(tmp_path: Path) -> None:
    home = Home(tmp_path)
    (tmp_path / "selected.json").mkdir()
    home.save_choices({"a": "b"})
    assert home.choices() == {}
    assert sorted(os.listdir(tmp_path)) == ["lock", "selected.json"]
    home.close()
