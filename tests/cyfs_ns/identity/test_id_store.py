"""The files of an identity when things go wrong: killed in mid-write, several at once, a full disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cyfs_ns.identity.keys import read_pem
from cyfs_ns.io.trusted.keystore import KeyStore
from tests.cyfs_ns.nsprogram import CODE

ROTATE = """
import sys, time
from pathlib import Path
from cyfs_ns.io.trusted.keystore import KeyStore
store = KeyStore(Path(sys.argv[1]))
while True:
    key, made = store.ensure_device("box")
    print(key.public.x, flush=True)
    store.rotate_device(time.time())
"""


def keys_of(store: KeyStore) -> set[str]:
    """Every key that is there, each in a file that is whole and its user's alone."""
    files = [store.device_pem, *(store.path / "old").glob("device-*.pem")]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    return {read_pem(file.read_bytes()).public.x for file in files}


def test_a_kill_at_any_moment_loses_no_key(tmp_path: Path) -> None:
    dice, store, said = random.Random(4), KeyStore(tmp_path), set[str]()
    for _ in range(12):
        child = subprocess.Popen([sys.executable, "-c", ROTATE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        said.add(child.stdout.readline().strip())
        time.sleep(dice.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        said |= set(child.stdout.read().split("\n")[:-1])
        child.wait()
        child.stdout.close()
        assert said <= keys_of(store)
        assert store.device_name() == "box"
    store.rotate_device(time.time())
    assert not list(store.path.glob(".*.tmp"))


def test_two_who_make_one_at_once_agree(tmp_path: Path) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", ROTATE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said: set[str] = set()
    try:
        for child in children:
            assert child.stdout is not None
            said |= {child.stdout.readline().strip() for _ in range(10)}
    finally:
        for child in children:
            child.kill()
            said |= set(child.communicate()[0].split("\n")[:-1])
    assert said <= keys_of(KeyStore(tmp_path))


FULL = """
set -e
mount -t tmpfs -o size=64k,mode=700 none {home}
{id} new --name a --home {home}
{id} show --home {home} > {out}/before
dd if=/dev/zero of={home}/ballast bs=4k 2>{out}/dd || true
! {id} rotate --yes --home {home} > {out}/rotate 2>&1
! {id} owner new --name a --home {home} --words-to {out}/words > {out}/owner 2>&1
{id} show --home {home} > {out}/after
rm {home}/ballast
{id} rotate --yes --home {home}
find {home} -name '*.tmp' > {out}/drafts
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small file system")
def test_a_full_disk_leaves_the_key_that_was_there(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("needs mount namespaces, which this machine does not allow")
    home = tmp_path / "home"
    home.mkdir()
    program = tmp_path / "id"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{CODE}" id "$@"\n')
    program.chmod(0o755)
    script = FULL.format(home=home, out=tmp_path, id=program)
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for said in ("rotate", "owner"):
        assert "No space left on device" in (tmp_path / said).read_text()
        assert "Traceback" not in (tmp_path / said).read_text()
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()
    assert (tmp_path / "drafts").read_text() == ""
