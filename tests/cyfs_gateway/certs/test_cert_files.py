"""Certificates of others' making: read from their files, and read again when they change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio
import trustme
from certmaking import parts

from cyfs_gateway.certs.wanted import read_settings
from cyfs_gateway.io.certs.answers import Answers
from cyfs_gateway.io.certs.contexts import key_pem, new_key
from cyfs_gateway.io.certs.keeper import Certificates
from cyfs_gateway.io.certs.store import CertStore
from tests.cyfs_gateway.certs.keeping import until


def _keeper(home: Path, *files: object) -> Certificates:
    return Certificates(read_settings({"files": list(files)}), CertStore(home / "c"), None, Answers(lambda name: None))


def _serial(certificates: Certificates) -> object:
    return certificates.status()["certificates"][0].get("serial")


@pytest.mark.parametrize("together", [True, False])
async def test_a_renewed_file_is_used_and_a_half_renewed_one_is_not(
    tmp_path: Path, nursery: trio.Nursery, together: bool
) -> None:
    ca = trustme.CA()
    certificate, key = parts("nas.example", ca=ca)
    (tmp_path / "c.pem").write_bytes(certificate + (key if together else b""))
    (tmp_path / "k.pem").write_bytes(key)
    where = "c.pem" if together else {"certificate": str(tmp_path / "c.pem"), "key": "k.pem"}
    certificates = _keeper(tmp_path, where)
    await nursery.start(certificates.run)
    before = certificates.certificate_for("nas.example")
    first = _serial(certificates)
    assert before is not None and first
    certificate, key = parts("nas.example", ca=ca)
    if not together:
        (tmp_path / "c.pem").write_bytes(certificate)
        await until(lambda: "fault" in certificates.status()["certificates"][0])
        assert certificates.certificate_for("nas.example") is before
        (tmp_path / "k.pem").write_bytes(key)
    else:
        (tmp_path / "new").write_bytes(certificate + key)
        (tmp_path / "new").rename(tmp_path / "c.pem")
    await until(lambda: certificates.certificate_for("nas.example") is not before)
    assert _serial(certificates) != first
    assert "fault" not in certificates.status()["certificates"][0]


async def test_a_file_that_is_not_there_yet_is_told_and_waited_for(tmp_path: Path, nursery: trio.Nursery) -> None:
    certificates = _keeper(tmp_path, "later.pem")
    await nursery.start(certificates.run)
    (told,) = certificates.status()["certificates"]
    assert told["state"] == "missing" and "No such file" in told["fault"]
    (tmp_path / "later.pem").write_bytes(b"".join(parts("later.example")))
    await until(lambda: certificates.certificate_for("later.example") is not None)


async def test_the_longest_good_one_serves_and_an_expired_one_only_if_there_is_no_other(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    ca = trustme.CA()
    for name, names in (("wild", ["*.me.example"]), ("one", ["a.me.example"])):
        (tmp_path / f"{name}.pem").write_bytes(b"".join(parts(*names, ca=ca)))
    (tmp_path / "old.pem").write_bytes(b"".join(parts("a.me.example", ca=ca, until=1.7e9)))
    (tmp_path / "gone.pem").write_bytes(b"".join(parts("gone.example", ca=ca, until=1.7e9)))
    certificates = _keeper(tmp_path, "old.pem", "wild.pem", "one.pem", "gone.pem")
    await nursery.start(certificates.run)
    one, wild = certificates.certificate_for("a.me.example"), certificates.certificate_for("b.me.example")
    assert one is not None and wild is not None and one is not wild
    assert certificates.certificate_for("gone.example") is not None
    assert certificates.certificate_for("me.example") is None
    states = {each["label"]: each["state"] for each in certificates.status()["certificates"]}
    assert states == {"old.pem": "expired", "wild.pem": "good", "one.pem": "good", "gone.pem": "expired"}


def test_the_account_key_is_made_once_and_its_loss_is_not_papered_over(tmp_path: Path) -> None:
    store = CertStore(tmp_path / "c")
    key = store.account_key("https://ca.example/dir")
    assert store.account_key("https://ca.example/dir") == key != store.account_key("https://other.example/dir")
    shutil.rmtree(tmp_path / "c")
    assert store.account_key("https://ca.example/dir") != key


def test_what_a_crash_left_behind_is_passed_over(tmp_path: Path) -> None:
    store = CertStore(tmp_path / "c")
    assert store.labels() == [] and store.troubles() == {} and store.bundle("a.example") is None
    store.path.mkdir()
    key = key_pem(new_key())
    for name, content in {
        "a.example.pem": key[:100],
        ".a.example.pem.x.tmp": key,
        "a.example.order": b'{"names": 7}',
        "b.example.order": b"[",
        "c.example.order": b'{"names": [], "more": 1}',
        "trouble.json": b'{"a.example": {"failures": "many"}}',
    }.items():
        (store.path / name).write_bytes(content)
    assert store.labels() == ["a.example"] and store.bundle("a.example") is None
    assert [store.order(f"{each}.example") for each in "abc"] == [None] * 3
    assert store.troubles() == {}
