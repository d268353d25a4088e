"""``id …`` as processes with real files: an owner, two devices, a stranger, and what each of them must not do."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from cyfs_ns.identity.did import dev_did, did_of_host
from cyfs_ns.identity.documents import OwnerDoc
from cyfs_ns.identity.keys import SecretKey, read_pem
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.token import read_token, sign_token
from cyfs_ns.identity.txt import read_published
from cyfs_ns.io.cli import id_commands, main
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.zonefile import read_zone
from tests.cyfs_ns.identity.identities import MALLORY
from tests.cyfs_ns.nsprogram import CODE


@dataclass
class Machines:
    """Homes below one directory; everything that was ever printed is kept."""

    path: Path
    printed: list[str] = field(default_factory=list)

    def run(
        self, home: str, *words: str | Path, input: str = "", umask: int = 0o22
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", CODE, "id", *map(str, words), "--home", str(self.path / home)],
            cwd=self.path,
            input=input,
            capture_output=True,
            text=True,
            timeout=60,
            umask=umask,
            check=False,
        )
        self.printed += [done.stdout, done.stderr]
        return done

    def ok(self, home: str, *words: str | Path, input: str = "") -> str:
        done = self.run(home, *words, input=input)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def no(self, home: str, *words: str | Path, input: str = "", code: int = 1) -> str:
        done = self.run(home, *words, input=input)
        assert done.returncode == code, done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr + done.stdout

    def file(self, home: str, name: str) -> Path:
        return self.path / home / "identity" / name

    def key(self, home: str, name: str = "device.pem") -> SecretKey:
        return read_pem(self.file(home, name).read_bytes())


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Machines:
    """Alice, her ood1 and ood2, and Bob, who trusts nobody yet.  Tests look, and change only copies."""
    machines = Machines(tmp_path_factory.mktemp("house"))
    machines.ok("alice", "owner", "new", "--name", "alice", "--zone", "home.example", "--words-to", "words")
    for name, more in (("ood1", ["--ip", "192.0.2.1", "--rtcp-port", "2981"]), ("ood2", [])):
        machines.ok(name, "new", "--name", name)
        machines.ok(name, "request", "--zone", "home.example", *more, "-o", f"{name}.request")
        machines.ok("alice", "sign", "device", f"{name}.request", "-o", f"{name}.jwt", input="y\n")
        machines.ok(name, "accept", f"{name}.jwt", input="y\n")
    oods = ("--ood", "ood1:192.0.2.1", "--ood", "ood2")
    for kind in ("boot", "zone"):
        machines.ok("alice", "sign", kind, "--zone", "home.example", *oods, input="y\n")
    return machines


@pytest.fixture
def copy(house: Machines, tmp_path: Path) -> Machines:
    """A house of one's own."""
    shutil.copytree(house.path, tmp_path / "copy")
    return Machines(tmp_path / "copy", house.printed)


def within(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["id", *map(str, words)], catch_exceptions=False)


# --- keys ------------------------------------------------------------------------------------------------------------


def test_openssl_reads_the_keys_and_only_we_can(house: Machines) -> None:
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    for home, name in (("ood1", "device.pem"), ("alice", "owner.pem")):
        file = house.file(home, name)
        done = subprocess.run(
            ["openssl", "pkey", "-in", file, "-pubout", "-outform", "DER"], capture_output=True, check=True
        )
        assert done.stdout[-32:] == house.key(home, name).public.raw


@pytest.mark.parametrize("umask", [0, 0o777])
def test_secrets_are_for_their_user_alone_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    machines = Machines(tmp_path)
    assert machines.run("a", "new", "--name", "a", umask=umask).returncode == 0
    assert machines.run("a", "owner", "new", "--name", "a", "--words-to", tmp_path / "w", umask=umask).returncode == 0
    assert machines.run("a", "rotate", "--yes", umask=umask).returncode == 0
    for path in (tmp_path / "a").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o644 if path.suffix == ".jwt" else 0o600), path
    assert stat.S_IMODE((tmp_path / "w").stat().st_mode) == 0o600


def test_a_key_that_others_may_read_is_refused_with_what_mends_it(copy: Machines) -> None:
    pem = copy.file("ood1", "device.pem")
    pem.chmod(0o640)
    said = copy.no("ood1", "show")
    assert f"others may read this key (mode 0640), so it is not used; if nobody did: chmod 600 {pem}" in said
    copy.file("alice", "owner.pem").chmod(0o604)
    assert "mode 0604" in copy.no("alice", "sign", "device", "ood1.request", "--yes")
    pem.chmod(0o600)
    copy.ok("ood1", "show")


@pytest.mark.parametrize("content", [b"", b"no key at all", b"\0" * 5000])
def test_a_key_that_is_none_is_told_and_not_shown(copy: Machines, content: bytes) -> None:
    pem = copy.file("ood1", "device.pem")
    pem.write_bytes(content)
    said = copy.no("ood1", "show")
    assert str(pem) in said and "no key at all" not in said


def test_a_pipe_in_the_place_of_a_key_holds_nobody_up(copy: Machines) -> None:
    pem = copy.file("ood1", "device.pem")
    pem.unlink()
    os.mkfifo(pem, 0o600)
    assert f"{pem}: not a file" in copy.no("ood1", "show")


def test_a_key_is_never_written_over(copy: Machines) -> None:
    before = copy.key("ood1").seed, copy.key("alice", "owner.pem").seed
    assert "has a key already" in copy.no("ood1", "new", "--name", "other")
    assert "an owner lives here already" in copy.no("alice", "owner", "new", "--name", "other")
    words = "abandon " * 23 + "art"
    assert "another owner" in copy.no("alice", "owner", "restore", "--name", "other", input=words)
    assert (copy.key("ood1").seed, copy.key("alice", "owner.pem").seed) == before


def test_every_form_of_the_name(house: Machines) -> None:
    key = house.key("ood1").public
    shown = json.loads(house.ok("ood1", "show", "--json"))
    assert shown["did"] == house.ok("ood1", "export").strip() == str(dev_did(key))
    assert did_of_host(shown["host"].upper()) == did_of_host(shown["short host"]) == dev_did(key)
    assert house.ok("ood1", "export", "--host").strip() == shown["host"]
    assert house.ok("ood1", "export", "--did-key").strip() == shown["did:key"]
    assert json.loads(house.ok("ood1", "export", "--jwk")) == {"crv": "Ed25519", "kty": "OKP", "x": key.x}
    assert (shown["name"], shown["document"]["zone"]) == ("ood1", "did:web:home.example")


def test_the_secret_is_printed_only_to_who_insists(copy: Machines) -> None:
    quiet = Machines(copy.path)
    assert "PRIVATE" not in quiet.no("ood1", "export", "--pem")
    assert "PRIVATE" not in quiet.no("ood1", "export", "--pem", input="n\n")
    assert quiet.ok("ood1", "export", "--pem", "--yes") == copy.file("ood1", "device.pem").read_text()


def test_rotating_keeps_the_old_key_and_tells_what_follows(copy: Machines) -> None:
    old, document = copy.key("ood1"), copy.file("ood1", "device.jwt").read_bytes()
    copy.no("ood1", "rotate", input="n\n")
    assert copy.key("ood1").seed == old.seed
    said = copy.ok("ood1", "rotate", input="y\n")
    assert "id sign device" in said and "id txt" in said
    assert copy.key("ood1").public != old.public
    aside = next(copy.file("ood1", "old").glob("device-*.pem"))
    assert time.strftime("%Y-", time.gmtime()) in aside.name and read_pem(aside.read_bytes()).seed == old.seed
    assert aside.with_suffix(".jwt").read_bytes() == document
    assert json.loads(copy.ok("ood1", "show", "--json"))["document"] is None
    assert "it is for the key" in copy.no("ood1", "accept", "ood1.jwt", "--yes")
    copy.ok("ood1", "request", "--zone", "home.example", "-o", "again")
    assert f"takes the place of {dev_did(old.public)}" in copy.ok(
        "alice", "sign", "device", "again", "-o", "new.jwt", "--yes"
    )
    copy.ok("ood1", "accept", "new.jwt", "--yes")


# --- words -----------------------------------------------------------------------------------------------------------


def test_the_words_bring_the_owner_back(copy: Machines) -> None:
    words = (copy.path / "words").read_text()
    seed = copy.key("alice", "owner.pem").seed
    copy.ok("later", "owner", "restore", "--name", "alice", "--zone", "home.example", input=words)
    assert copy.key("later", "owner.pem").seed == seed
    copy.ok("bob", "verify", copy.file("later", "owner.jwt"))
    for change, said in (
        (words.split()[:-1], "23 words"),
        ([*words.split()[:-1], "zzz"], "word 24 is not in the list"),
        ([*words.split()[2:], *words.split()[:2]], "checksum|changed places|zoo"),
    ):
        heard = copy.no("else", "owner", "restore", "--name", "alice", input=" ".join(change))
        assert re.search(said, heard) and "zzz" not in heard
    assert not copy.file("else", "owner.pem").exists()


def test_words_are_shown_once_and_when_asked_for(tmp_path: Path) -> None:
    quiet = Machines(tmp_path)
    made = quiet.ok("a", "owner", "new", "--name", "a", "--out", tmp_path / "stick")
    assert not (tmp_path / "a").exists()
    again = quiet.ok("a", "owner", "words", "--owner", tmp_path / "stick/owner.pem", "--yes")
    assert re.findall(r"\d+ [a-z]+", made) == re.findall(r"\d+ [a-z]+", again)
    assert len(re.findall(r"\d+ [a-z]+", again)) == 24
    quiet.no("a", "owner", "words", "--owner", tmp_path / "stick/owner.pem", input="n\n")


def test_words_that_nobody_can_read_make_no_owner(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", CODE, "id", "owner", "new", "--name", "a", "--home", tmp_path / "a"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "Error: standard output: No space left on device\n")
    assert not list(tmp_path.iterdir())


def test_an_owner_whose_making_was_cut_short_is_finished(tmp_path: Path) -> None:
    machines = Machines(tmp_path)
    machines.ok("a", "owner", "new", "--name", "a", "--words-to", tmp_path / "w")
    key = machines.key("a", "owner.pem").seed
    machines.file("a", "owner.jwt").unlink()
    machines.ok("a", "owner", "new", "--name", "a", "--words-to", tmp_path / "w2")
    assert machines.key("a", "owner.pem").seed == key
    assert (tmp_path / "w").read_text() == (tmp_path / "w2").read_text()
    assert "not written over" in machines.no("b", "owner", "new", "--name", "b", "--words-to", tmp_path / "w")
    assert not machines.file("b", "owner.pem").exists()


# --- signing and accepting -------------------------------------------------------------------------------------------


def test_nothing_is_signed_without_a_yes(copy: Machines) -> None:
    path = copy.file("alice", "devices/ood1.jwt")
    before = path.read_bytes()
    for answer in ("n\n", "", "\n"):
        said = copy.no("alice", "sign", "device", "ood1.request", input=answer)
        assert str(dev_did(copy.key("ood1").public)) in said
    copy.no("alice", "sign", "boot", "--zone", "home.example", "--ood", "ood9", input="n\n")
    assert path.read_bytes() == before


def test_two_signatures_in_one_second_are_still_two_revisions(copy: Machines) -> None:
    for name in ("one", "two"):
        copy.ok("alice", "sign", "device", "ood1.request", "-o", name, "--yes")
    first, second = (read_token((copy.path / name).read_text().strip()) for name in ("one", "two"))
    assert read_document(first.claims).iat < read_document(second.claims).iat
    copy.ok("ood1", "accept", "two", "--yes")
    copy.ok("ood1", "accept", "two", "--yes")
    assert "older than one we have believed" in copy.no("ood1", "accept", "one", "--yes")
    assert copy.file("ood1", "device.jwt").read_text().strip() == second.text


def test_a_device_takes_only_its_own_document_from_its_owner(copy: Machines) -> None:
    assert "it is for the key" in copy.no("ood2", "accept", "ood1.jwt", "--yes")
    assert "of kind 'owner'" in copy.no("ood2", "accept", copy.file("alice", "owner.jwt"), "--yes")
    copy.ok("mallory", "owner", "new", "--name", "mallory", "--words-to", "theirs")
    copy.ok("mallory", "sign", "device", "ood1.request", "-o", "stolen", "--yes")
    said = copy.no("ood1", "accept", "stolen", "--yes")
    assert "to change hands, remove" in said
    shutil.copytree(copy.path / "ood1", copy.path / "fresh")
    copy.file("fresh", "device.jwt").unlink()
    copy.ok("fresh", "trust", "home.example", "--key", copy.key("alice", "owner.pem").public.x, "--yes")
    assert "which is pinned for did:web:home.example" in copy.no("fresh", "accept", "stolen", "--yes")
    token = read_token((copy.path / "ood1.jwt").read_text().strip())
    (copy.path / "forged").write_text(sign_token({**token.claims, "iat": token.claims["iat"] + 1}, MALLORY))
    assert "not signed by" in copy.no("ood1", "accept", "forged", "--yes")


def test_the_zone_is_the_one_that_was_asked_for(copy: Machines) -> None:
    said = copy.no("alice", "sign", "device", "ood1.request", "--zone", "other.example", "--yes")
    assert "asks for did:web:home.example" in said
    assert "its own --owner" in copy.no("alice", "sign", "boot", "--zone", "b.example", "--ood", "x", "--yes")
    assert "named twice" in copy.no(
        "alice", "sign", "boot", "--zone", "home.example", "--ood", "x", "--ood", "x", "--yes"
    )
    assert "is not [#|$]name" in copy.no("alice", "sign", "boot", "--zone", "home.example", "--ood", "x y", "--yes")


def test_the_owner_may_live_on_a_stick(copy: Machines) -> None:
    stick = copy.path / "stick"
    copy.ok("nowhere", "owner", "new", "--name", "carol", "--zone", "c.example", "--out", stick, "--words-to", "theirs")
    copy.ok("ood1", "request", "--zone", "c.example", "-o", "c.request")
    copy.ok("nowhere", "sign", "device", "c.request", "--owner", stick / "owner.pem", "--yes")
    copy.ok("nowhere", "sign", "boot", "--zone", "c.example", "--ood", "ood1", "--owner", stick / "owner.pem", "--yes")
    copy.ok("nowhere", "verify", stick / "devices/ood1.jwt", "--owner", stick / "owner.jwt")
    assert "c.example" in copy.ok("nowhere", "txt", "--owner", stick / "owner.pem")
    assert not (copy.path / "nowhere").exists()


def owner_of(file: Path) -> OwnerDoc:
    document = read_document(read_token(file.read_text().strip()).claims)
    assert isinstance(document, OwnerDoc)
    return document


def test_an_owner_signs_their_own_document_anew_and_what_is_not_said_stays(copy: Machines) -> None:
    before = owner_of(copy.file("alice", "owner.jwt"))
    assert "nothing was done" in copy.no("alice", "sign", "owner", "--name", "al", input="n\n")
    assert owner_of(copy.file("alice", "owner.jwt")) == before
    said = copy.ok("alice", "sign", "owner", "--full-name", "Alice A.", "-o", "new.jwt", input="y\n")
    assert re.search(r"full name: +Alice A\.  \(was: none\)", said) and re.search(r"name: +alice\n", said)
    new = owner_of(copy.path / "new.jwt")
    assert (new.name, new.full_name, new.default_zone, new.key) == (
        "alice",
        "Alice A.",
        before.default_zone,
        before.key,
    )
    assert new.iat > before.iat and owner_of(copy.file("alice", "owner.jwt")) == new
    assert "It holds." in copy.ok("bob", "verify", "new.jwt")
    copy.ok("alice", "sign", "owner", "--zone", "b.example", "--days", "1", "--yes")
    last = owner_of(copy.file("alice", "owner.jwt"))
    assert (str(last.default_zone), last.full_name, last.exp - last.iat) == ("did:web:b.example", "Alice A.", 86_400)


def test_what_a_later_version_says_of_an_owner_stays_in_the_next_document(copy: Machines) -> None:
    file, key = copy.file("alice", "owner.jwt"), copy.key("alice", "owner.pem")
    file.write_text(sign_token({**read_token(file.read_text().strip()).claims, "meta": {"a": 1}}, key))
    copy.ok("alice", "sign", "owner", "--name", "al", "--yes")
    assert owner_of(file).extra["meta"] == {"a": 1}


def test_a_machine_asks_an_owner_whose_key_is_elsewhere(copy: Machines) -> None:
    stick = copy.path / "stick"
    copy.ok("away", "owner", "new", "--name", "carol", "--zone", "c.example", "--out", stick, "--words-to", "theirs")
    copy.ok("ood1", "owner", "request", "--zone", "d.example", "--did", "did:bns:carol", "-o", "c.request")
    assert "PRIVATE" not in (copy.path / "c.request").read_text()
    assert "owner-request, made by the machine" in copy.ok("bob", "verify", "c.request")
    said = copy.ok("away", "sign", "owner", "c.request", "--owner", stick / "owner.pem", "-o", "carol.jwt", input="y\n")
    assert f"asked for by {dev_did(copy.key('ood1').public)}" in said and "sign devices, boot and zone again" in said
    assert re.search(r"zone: +did:web:d\.example  \(was: did:web:c\.example\)", said)
    document = owner_of(copy.path / "carol.jwt")
    assert (str(document.id), document.name, str(document.default_zone)) == (
        "did:bns:carol",
        "carol",
        "did:web:d.example",
    )
    copy.ok("ood1", "trust", "carol.jwt", "--yes")
    assert not copy.file("ood1", "owner.pem").exists() and not (copy.path / "away").exists()


def test_an_owners_document_is_not_signed_for_somebody_else(copy: Machines) -> None:
    before = copy.file("alice", "owner.jwt").read_bytes()
    copy.ok("ood1", "owner", "request", "--name", "al", "-o", "o.request")
    for words, said in (
        (("--did", f"did:dev:{MALLORY.public.x}"), "is a key, and"),
        (("ood1.request",), "device-request, and not owner-request; say: id sign device"),
        (("ood1.jwt",), "ood1.jwt: request"),
    ):
        assert said in copy.no("alice", "sign", "owner", *words, "--yes")
    assert "say: id sign owner" in copy.no("alice", "sign", "device", "o.request", "--yes")
    assert "either REQUEST says" in copy.no("alice", "sign", "owner", "o.request", "--name", "x", "--yes", code=2)
    copy.ok("mallory", "owner", "new", "--name", "mallory", "--words-to", "w")
    shutil.copy(copy.file("mallory", "owner.pem"), copy.file("alice", "owner.pem"))
    assert "is another owner's" in copy.no("alice", "sign", "owner", "o.request", "--yes")
    assert copy.file("alice", "owner.jwt").read_bytes() == before
    copy.file("alice", "owner.jwt").unlink()
    assert "say what the owner is called" in copy.no("alice", "sign", "owner", "--zone", "x.example", "--yes")
    copy.ok("alice", "sign", "owner", "o.request", "--yes")
    assert owner_of(copy.file("alice", "owner.jwt")).name == "al"


# --- verifying -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["owner.jwt", "boot.jwt", "zone.jwt", "devices/ood1.jwt", "devices/ood2.jwt"])
def test_what_the_owner_signed_holds_by_the_owners_key(house: Machines, name: str) -> None:
    owner, file = house.file("alice", "owner.jwt"), house.file("alice", name)
    assert "It holds." in house.ok("bob", "verify", file, "--owner", owner)
    key = house.key("alice", "owner.pem").public
    seen = json.loads(house.ok("bob", "verify", file, "--key", key.x, "--json"))
    assert (seen["holds"], seen["signer"], seen["trust"], seen["faults"]) == (True, key.x, "owner-signed", [])
    other = json.loads(house.no("bob", "verify", file, "--key", MALLORY.public.x, "--json"))
    assert not other["holds"] and "not signed by" in other["faults"][0]


def test_a_zone_that_anybody_may_have_signed_does_not_hold(house: Machines) -> None:
    said = house.no("bob", "verify", house.file("alice", "zone.jwt"))
    assert "may speak for did:web:home.example: pin it" in said
    said = house.no("bob", "verify", "ood1.jwt")
    assert f"may speak for {dev_did(house.key('ood1').public)}: pin it" in said


def test_a_byte_that_changed_is_seen_wherever_it_is(house: Machines, tmp_path: Path) -> None:
    owner = house.file("alice", "owner.jwt")
    whole = (house.path / "ood1.jwt").read_bytes().strip()
    file = tmp_path / "changed.jwt"
    for at in range(0, len(whole), 7):
        byte = b"A" if whole[at : at + 1] != b"A" else b"B"
        file.write_bytes(whole[:at] + byte + whole[at + 1 :])
        done = within("verify", file, "--owner", owner, "--home", tmp_path)
        assert done.exit_code == 1, at
        assert "get it again from whoever issued it" in done.output.lower() and "document" in done.output


def test_what_stands_inside_is_verified_too(house: Machines, tmp_path: Path) -> None:
    alice = house.key("alice", "owner.pem")
    claims = read_token((house.path / "ood1.jwt").read_text().strip()).claims
    theirs = read_token((house.path / "ood2.jwt").read_text().strip()).claims["device_mini_config_jwt"]
    forged = sign_token({"n": "ood1", "x": claims["verificationMethod"][0]["publicKeyJwk"]["x"], "exp": 9e9}, MALLORY)
    file = tmp_path / "inside.jwt"
    for inside, said in ((theirs, "names another machine or key"), (forged, "not signed by"), ("x", "three parts")):
        file.write_text(sign_token({**claims, "device_mini_config_jwt": inside}, alice))
        done = within("verify", file, "--key", alice.public.x, "--home", tmp_path)
        assert done.exit_code == 1 and said in done.output


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"{}", b"[1]", b"a.b.c", b"A" * 70_000, b"-----BEGIN PRIVATE KEY-----"]
)
def test_what_is_no_document_is_told_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(content)
    done = within("verify", tmp_path / "f", "--home", tmp_path)
    assert done.exit_code == 1 and str(tmp_path / "f") in done.output
    seen = json.loads(within("verify", tmp_path / "f", "--home", tmp_path, "--json").output)
    assert not seen["holds"] and len(seen["faults"]) == 1


def test_a_document_is_not_blamed_for_another_fault(house: Machines, tmp_path: Path) -> None:
    file = house.file("alice", "owner.jwt")
    for words, said in (
        ((tmp_path / "none.jwt",), "No such file"),
        ((file, "--key", "abc"), "is neither a key"),
        ((house.file("alice", "owner.pem"),), "a secret key"),
    ):
        done = within("verify", *words, "--home", tmp_path)
        assert done.exit_code == 1 and said in done.output and "Get it again" not in done.output


def test_a_request_is_verified_as_what_it_is(house: Machines) -> None:
    assert "not signed by any owner yet" in house.ok("bob", "verify", "ood1.request")
    assert json.loads(house.ok("bob", "verify", "ood1.request", "--json"))["claims"]["name"] == "ood1"


# --- pins ------------------------------------------------------------------------------------------------------------


def test_pins_say_what_they_mean_and_are_taken_away(copy: Machines) -> None:
    owner = copy.file("alice", "owner.jwt")
    key = copy.key("alice", "owner.pem").public
    said = copy.no("bob", "trust", owner, input="n\n")
    assert f"did:web:home.example\n  signs with {key.x}" in said and "owner-signed" in said
    assert json.loads(copy.ok("bob", "trust", "--list", "--json")) == []
    copy.ok("bob", "trust", owner, input="y\n")
    pins = json.loads(copy.ok("bob", "trust", "--list", "--json"))
    assert {pin["about"]: pin["key"] for pin in pins} == {str(dev_did(key)): key.x, "did:web:home.example": key.x}
    assert "owner-signed" in copy.ok("bob", "verify", copy.file("alice", "zone.jwt"))
    copy.ok("bob", "untrust", "home.example")
    assert "is not pinned here" in copy.no("bob", "untrust", "home.example")
    copy.no("bob", "verify", copy.file("alice", "zone.jwt"))


def test_a_revoked_owner_and_a_least_iat(copy: Machines) -> None:
    key = copy.key("alice", "owner.pem").public
    zone = copy.file("alice", "zone.jwt")
    copy.ok("bob", "trust", "home.example", "--key", key.x, "--yes")
    copy.ok("bob", "verify", zone)
    copy.ok("bob", "trust", "home.example", "--least-iat", str(int(time.time()) + 1000), "--yes")
    assert "revoked by its owner" in copy.no("bob", "verify", zone)
    copy.ok("bob", "trust", "home.example", "--least-iat", "2001-01-01", "--yes")
    copy.ok("bob", "verify", zone)
    assert "is refused on this machine" in copy.ok("bob", "trust", "home.example", "--revoke", "--yes")
    assert "is revoked on this machine" in copy.no("bob", "verify", zone)


def test_to_trust_once_more_takes_nothing_back(house: Machines, tmp_path: Path) -> None:
    owner, key = house.file("alice", "owner.jwt"), house.key("alice", "owner.pem").public

    def trust(*words: str | Path) -> Result:
        return within("trust", *words, "--yes", "--home", tmp_path)

    for again in ((owner,), ("home.example", "--key", key.x)):
        trust(owner)
        trust("home.example", "--least-iat", "2001-01-01")
        assert trust(*again).exit_code == 0
        pins = {str(pin.about): pin for pin in TrustStore(tmp_path).pins()}
        assert pins["did:web:home.example"].least_iat == 978_307_200
        trust("home.example", "--revoke")
        assert "is revoked on this machine" in trust(*again).output
        assert next(pin for pin in TrustStore(tmp_path).pins() if str(pin.about) == "did:web:home.example").revoked
        assert trust("home.example", "--key", MALLORY.public.x).exit_code == 0
        within("untrust", "home.example", "--home", tmp_path)


def test_a_key_that_was_revoked_here_signs_nothing_for_who_names_it(copy: Machines) -> None:
    key, file = copy.key("alice", "owner.pem").public.x, copy.path / "ood1.jwt"
    home = ("--home", copy.path / "ood1")
    (copy.file("ood1", "device.jwt")).unlink()
    for about in ("home.example", "elsewhere.example"):
        within("trust", about, "--key", key, "--yes", *home)
        assert within("verify", file, "--key", key, *home).exit_code == 0
        within("trust", about, "--revoke", "--yes", *home)
        for words in (("verify", file, "--key", key), ("accept", file, "--yes")):
            done = within(*words, *home)
            assert done.exit_code == 1 and "revoked on this machine" in done.output, words
        within("untrust", about, *home)
    assert within("accept", file, "--yes", *home).exit_code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a home of somebody else")
def test_root_looks_at_the_home_of_a_service_and_leaves_nothing_it_cannot_read(tmp_path: Path) -> None:
    home = tmp_path / "service"
    assert within("new", "--home", home).exit_code == 0
    for path in (home, *home.rglob("*")):
        os.chown(path, 65534, 65534)
    before = sorted(home.rglob("*"))
    assert within("show", "--home", home).exit_code == 0
    pin = ("did:dev:" + MALLORY.public.x, "--yes")
    for words in (("trust", *pin), ("untrust", pin[0]), ("rotate", "--yes"), ("new",), ("accept", home, "--yes")):
        done = within(*words, "--home", home)
        assert done.exit_code == 1 and "say the same as nobody: runuser -u nobody" in done.output, words
    resolve = ["resolve", pin[0], "--trust", "--home", str(home)]
    assert "say the same as nobody" in CliRunner().invoke(main, resolve).output
    assert CliRunner().invoke(main, [*resolve, "--plan"]).exit_code == 0
    assert sorted(home.rglob("*")) == before


def test_a_pin_that_makes_no_sense_is_refused(copy: Machines) -> None:
    x = MALLORY.public.x
    assert "which key does it have" in copy.no("bob", "trust", "home.example", "--yes")
    assert "can have no other" in copy.no("bob", "trust", f"did:dev:{copy.key('ood1').public.x}", "--key", x, "--yes")
    assert "not an owner's document" in copy.no("bob", "trust", "ood1.jwt", "--yes")
    claims = read_token(copy.file("alice", "owner.jwt").read_text().strip()).claims
    claims["verificationMethod"][0]["publicKeyJwk"]["x"] = x
    (copy.path / "theirs.jwt").write_text(sign_token(claims, MALLORY))
    assert f"but the key in it is {x}" in copy.no("bob", "trust", "theirs.jwt", "--yes")
    assert "43 characters" in copy.no("bob", "trust", "home.example", "--key", "did:dev:x", "--yes")
    for least in ("soon", "1960-01-01", "9" * 20, "9" * 5000):
        done = within("trust", "home.example", "--key", x, "--least-iat", least, "--yes", "--home", copy.path / "bob")
        assert done.exit_code == 2 and "is no time" in done.output
    done = within("trust", "home.example", "--key", x[1:], "--yes", "--home", copy.path / "bob")
    assert done.exit_code == 1 and "is neither a key (43 characters, did:dev:" in done.output
    assert "whom?" in copy.no("bob", "trust", code=2)
    assert json.loads(copy.ok("bob", "trust", "--list", "--json")) == []


# --- publishing ------------------------------------------------------------------------------------------------------


def test_the_records_of_every_form_are_the_same(house: Machines) -> None:
    records = [line.split("\t")[2] for line in house.ok("alice", "txt", "--format", "records").splitlines()]
    back = read_published(record.encode() for record in records)
    assert back.key == house.key("alice", "owner.pem").public and back.faults == () and len(back.devices) == 2
    zone = read_zone(house.ok("alice", "txt", "--format", "zone"), "elsewhere.example")
    assert [_joined(one.data) for one in zone] == records
    assert {one.owner for one in zone} == {b"\x04home\x07example\x00"}
    written = yaml.safe_load(house.ok("alice", "txt", "--format", "cyfs-ns"))["dns"]["records"]
    assert [
        _joined(one.data)
        for line in written
        for one in read_zone(line.replace("home.example ", "home.example. ", 1), "")
    ] == records


def _joined(data: bytes) -> str:
    text = b""
    while data:
        text, data = text + data[1 : 1 + data[0]], data[1 + data[0] :]
    return text.decode()


def test_files_may_be_named_and_have_to_fit(house: Machines) -> None:
    named = house.ok("bob", "txt", "ood1.jwt", house.file("alice", "boot.jwt"), "--format", "records")
    assert len(named.splitlines()) == 3
    assert "not signed by" in house.no("bob", "txt", "ood1.jwt", "--key", MALLORY.public.x)
    assert "nothing is signed here" in house.no("bob", "txt")
    assert "publish each zone by itself" in house.no("bob", "txt", "ood1.jwt", "--zone", "x.example")


def test_dnsmasq_serves_what_is_printed_for_it(house: Machines, tmp_path: Path) -> None:
    dnsmasq = shutil.which("dnsmasq", path=f"{os.environ['PATH']}:/usr/sbin")
    if dnsmasq is None:
        pytest.skip("needs dnsmasq")
    (tmp_path / "conf").write_text(house.ok("alice", "txt", "--format", "dnsmasq"))
    done = subprocess.run([dnsmasq, "--test", "-C", tmp_path / "conf"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_no_command_printed_a_secret(house: Machines) -> None:
    everything = "\n".join(house.printed)
    assert "did:dev:" in everything
    words = (house.path / "words").read_text().split()[1::2]
    assert " ".join(words) not in everything and "PRIVATE" not in everything
    for home, name in (("alice", "owner.pem"), ("ood1", "device.pem"), ("ood2", "device.pem")):
        seed = house.key(home, name).seed
        for form in (seed.hex(), base64.b64encode(seed).decode(), base64.urlsafe_b64encode(seed).decode().rstrip("=")):
            assert form not in everything


# --- names of other methods ------------------------------------------------------------------------------------------


def test_a_host_below_a_bridge_is_pinned_signed_and_published_as_a_name_of_its_method(
    house: Machines, tmp_path: Path
) -> None:
    machines = Machines(tmp_path, house.printed)
    there = ("-c", "gateway.yaml")
    (tmp_path / "gateway.yaml").write_text("mixed-port: 7890\nidentity: {bridges: {bns: web3.example}}\n")
    zone = ("--zone", "alice.web3.example", *there)
    machines.ok("alice", "owner", "new", "--name", "alice", *zone, "--words-to", "words")
    machines.ok("ood1", "new", "--name", "ood1")
    machines.ok("ood1", "request", *zone, "-o", "ood1.request")
    machines.ok("alice", "sign", "device", "ood1.request", "-o", "ood1.jwt", "--yes")
    for kind, written in (("boot", zone), ("zone", ("--zone", "did:bns:alice"))):
        machines.ok("alice", "sign", kind, *written, "--ood", "ood1:192.0.2.1", "--yes")
    records = machines.ok("alice", "txt", "--format", "records", *there)
    assert [line.partition("\t")[0] for line in records.splitlines()] == ["alice.web3.example"] * 3
    assert "nothing says where in the DNS" in machines.no("alice", "txt")

    key = machines.key("alice", "owner.pem").public.x
    machines.ok("bob", "trust", "alice.web3.example", "--key", key, *there, "--yes")
    assert [pin["about"] for pin in json.loads(machines.ok("bob", "trust", "--list", "--json"))] == ["did:bns:alice"]
    mini = read_token((tmp_path / "ood1.jwt").read_text().strip(), "device document").claims["device_mini_config_jwt"]
    (tmp_path / "mini.jwt").write_text(str(mini))
    for name in ("ood1.jwt", "mini.jwt"):
        held = json.loads(machines.ok("bob", "verify", name, "--json", *there))
        assert (held["holds"], held["trust"]) == (True, "owner-signed")
    machines.no("bob", "untrust", "alice.web3.example")  # that is did:web's without the file
    machines.ok("bob", "untrust", "alice.web3.example", *there)
    assert json.loads(machines.ok("bob", "trust", "--list", "--json")) == []


def test_a_configuration_that_is_broken_pins_nobody(house: Machines, tmp_path: Path) -> None:
    machines = Machines(tmp_path, house.printed)
    (tmp_path / "gateway.yaml").write_text("identity: {bridges: {bns: 'a b'}}\n")
    for file in ("gateway.yaml", "none.yaml"):
        said = machines.no("bob", "trust", "a.example", "--key", "A" * 43, "-c", file, "--yes", code=2)
        assert file in said
    assert not (tmp_path / "bob").exists()


# --- the manual ------------------------------------------------------------------------------------------------------


def commands(group: click.Group, *above: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)
        else:
            yield " ".join((*above, name)), command


COMMANDS = dict(commands(id_commands))


def test_the_manual_names_every_command_and_its_options() -> None:
    manual = (Path(__file__).parents[3] / "docs/identity.md").read_text()
    told: dict[str, set[str]] = {}
    for heading in re.findall(r"^### (.*)$", manual, re.M):
        for line in re.findall(r"`cyfs-gateway id ([^`]*)`", heading):
            name = next(name for name in sorted(COMMANDS, key=len, reverse=True) if line.startswith(name))
            told.setdefault(name, set()).update(re.findall(r"(?<!\w)--?[a-z-]+", line))
    assert set(told) == set(COMMANDS)
    everywhere = {"--home", "--yes", "--config"}
    for name, command in COMMANDS.items():
        known = {option for one in command.params if isinstance(one, click.Option) for option in one.opts}
        body = manual.partition(f"`cyfs-gateway id {name}")[2].partition("\n### ")[0]
        assert told[name] <= known, name
        assert {max(one.opts, key=len) for one in command.params if isinstance(one, click.Option)} <= (
            everywhere | told[name] | {"--out"} | set(re.findall(r"--[a-z-]+", body))
        ), name


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    done = within(*name.split(), "--help")
    assert done.exit_code == 0
    assert re.search(rf"Example:\n +cyfs-gateway id {name}\b", done.output)
