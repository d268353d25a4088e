"""Reading files that others write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cyfs_ns.dnsmasq import read_dnsmasq
from cyfs_ns.io import texts as module
from cyfs_ns.io.texts import Disk, lease_paths, lease_text, read_text, texts
from cyfs_ns.leases import read_leases


def test_a_file_or_the_files_of_a_directory(tmp_path: Path) -> None:
    for name, text in {"b": "two", "a": "one", ".hidden": "x", "old~": "x", "#save#": "x"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "below").mkdir()
    assert texts(tmp_path) == [(str(tmp_path / "a"), "one"), (str(tmp_path / "b"), "two")]
    assert texts(tmp_path / ".hidden") == [(str(tmp_path / ".hidden"), "x")]
    assert texts(tmp_path / "gone") == []


def test_what_is_no_text_is_replaced_and_what_is_no_file_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd").write_bytes(b"a\xffb")
    assert read_text(tmp_path / "odd") == "a\ufffdb"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        read_text(tmp_path / "pipe")
    monkeypatch.setattr(module, "MAX_BYTES", 2)
    with pytest.raises(OSError, match="longer than"):
        read_text(tmp_path / "odd")


def test_leases_that_kea_has_put_aside_still_count(tmp_path: Path) -> None:
    head = "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context\n"
    path = tmp_path / "leases.csv"

    def row(last: int, name: str) -> str:
        return f"10.0.0.{last},02:00:5e:00:53:0{last},,3600,1800000000,1,0,0,{name},0,\n"

    def found() -> dict[str, str]:
        return {lease.ip: lease.name for lease in read_leases(lease_text(str(path)))}

    assert found() == {}
    path.write_text(head + row(3, "now"))
    (tmp_path / "leases.csv.2").write_text(head + row(1, "older") + row(2, "older") + row(3, "older"))
    (tmp_path / "leases.csv.1").write_text(head + row(2, "old"))
    assert found() == {"10.0.0.1": "older", "10.0.0.2": "old", "10.0.0.3": "now"}
    (tmp_path / "leases.csv.completed").write_text(head + row(4, "clean"))
    assert found() == {"10.0.0.4": "clean", "10.0.0.3": "now"}
    assert {Path(name).name for name in lease_paths(str(path))} == {file.name for file in tmp_path.iterdir()}


def test_other_files_beside_leases_are_not_theirs(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("0 02:00:5e:00:53:01 10.0.0.1 now *\n")
    (tmp_path / "leases.1").write_text("0 02:00:5e:00:53:02 10.0.0.2 old *\n")
    assert [lease.name for lease in read_leases(lease_text(str(tmp_path / "leases")))] == ["now"]
    (tmp_path / "leases").unlink()
    assert lease_text(str(tmp_path / "leases")) == ""


def test_a_configuration_with_what_it_includes(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "lan").write_text("domain=lan\n")
    (tmp_path / "main").write_text(f"conf-dir={tmp_path}/conf.d\nconf-file={tmp_path}/gone\n")
    outcome = read_dnsmasq(str(tmp_path / "main"), Disk())
    assert outcome.settings["dns"]["domain"] == "lan"  # type: ignore[index]
    assert [str(note).partition(": ")[0] for note in outcome.notes] == [f"{tmp_path}/main:2"]
    assert Disk().listing(str(tmp_path / "gone")) is None
