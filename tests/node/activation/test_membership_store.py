"""The files of a membership: all of them or none, through kills, power cuts and pins that were there before."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from owners import BOX, HOME, MALLORY, NAS, NOW, Owner

from cyfs_ns.errors import ConfigFault, Refused
from cyfs_ns.io.trusted.keystore import KeyStore
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Pin
from tests.powercut import PowerCut
from zone.io.membership import MembershipStore

LOOP = """
import sys
from pathlib import Path
from zone.io.membership import MembershipStore
from zone.membership import read_membership
home, texts = Path(sys.argv[1]), [Path(name).read_bytes() for name in sys.argv[2:]]
store = MembershipStore(home)
while True:
    store.leave(0.0)
    print(flush=True)
    for text in texts:
        store.put(read_membership(text), 0.0)
        print(flush=True)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of a machine with the key of the box, in no zone."""
    store = KeyStore(tmp_path / "home")
    store.make_device("box")
    store.device_pem.write_bytes(BOX.pem())
    return tmp_path / "home"


def pins(home: Path) -> set[str]:
    return {str(pin.about) for pin in TrustStore(home).pins()}


def check_whole(home: Path) -> bool:
    """Whether the machine is in the zone; it is so in every file, or in none."""
    store = MembershipStore(home)
    store.mend(NOW)
    held, document = store.held(), KeyStore(home).device_document()
    assert not (store.path.parent / "leaving.json").exists()
    if held is None:
        assert (document, pins(home)) == (None, set())
        return False
    assert document is not None
    assert document[0].text == held.device_token.text
    assert pins(home) == {str(held.owner.id), str(HOME)}
    return True


def test_in_and_out(home: Path) -> None:
    owner, store = Owner(), MembershipStore(home)
    assert not check_whole(home)
    store.put(owner.enter("box", BOX), NOW)
    assert check_whole(home)
    newer = owner.enter("box", BOX)
    store.put(newer, NOW)
    assert check_whole(home)
    assert store.held() == newer
    store.leave(NOW)
    assert not check_whole(home)
    assert KeyStore(home).device().public == BOX.public
    store.leave(NOW)


def test_a_pin_that_was_there_stays_and_one_that_contradicts_is_obeyed(home: Path) -> None:
    owner, store, trust = Owner(), MembershipStore(home), TrustStore(home)
    new = owner.enter("box", BOX)
    trust.pin(Pin(about=HOME, key=MALLORY.public, source="id trust", at=NOW))
    with pytest.raises(Refused, match="untrust"):
        store.put(new, NOW)
    assert store.held() is None
    trust.pin(Pin(about=HOME, key=new.owner.key, revoked=True, source="id trust", at=NOW))
    with pytest.raises(Refused, match="revoked"):
        store.put(new, NOW)
    trust.pin(Pin(about=HOME, key=new.owner.key, least_iat=7, source="id trust", at=NOW))
    store.put(new, NOW)
    assert next(pin for pin in trust.pins() if pin.about == HOME).least_iat == 7
    store.leave(NOW)
    assert pins(home) == {str(HOME)}


def test_a_newer_document_of_the_machine_and_a_new_key_stay_what_they_are(home: Path) -> None:
    owner, store, keys = Owner(), MembershipStore(home), KeyStore(home)
    store.put(owner.enter("box", BOX), NOW)
    newer = owner.enter("box", BOX).device_token.text
    keys.accept(newer)
    store.mend(NOW)
    document = keys.device_document()
    assert document is not None
    assert document[0].text == newer
    keys.rotate_device(NOW)
    store.mend(NOW)
    assert keys.device_document() is None


def test_a_machine_without_a_key_is_in_no_zone(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="no key"):
        MembershipStore(tmp_path).put(Owner().enter("box", BOX), NOW)
    assert not (tmp_path / "identity" / "membership.json").exists()


def test_a_kill_at_any_moment_leaves_all_of_it_or_nothing(home: Path, tmp_path: Path) -> None:
    owner, dice, files = Owner(), random.Random(6), []
    for number in range(2):
        files.append(tmp_path / f"{number}.membership")
        files[-1].write_bytes(owner.sign("box", BOX))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    seen = set()
    for _ in range(12):
        command = [sys.executable, "-c", LOOP, str(home), *map(str, files)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(dice.uniform(0, 0.02))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        seen.add(check_whole(home))
    assert seen
    MembershipStore(home).put(owner.enter("box", BOX), NOW)
    assert check_whole(home)
    assert not list((home / "identity").glob(".*.tmp"))


def test_a_power_cut_comes_behind_what_was_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, new = MembershipStore(home), Owner().enter("box", BOX)
    cut = PowerCut(monkeypatch)
    store.put(new, NOW)
    assert cut.leaves(store.path) == new.text()
    assert cut.leaves(store.path.parent / "device.jwt") == new.device_token.text.encode() + b"\n"
    store.leave(NOW)
    assert cut.leaves(store.path) is None
    assert cut.leaves(store.path.parent / "leaving.json") is None


def test_a_full_disk_changes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    store, new = MembershipStore(home), Owner().enter("box", BOX)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            store.put(new, NOW)
    assert not check_whole(home)
    store.put(new, NOW)
    assert check_whole(home)


def test_the_key_that_is_here_has_to_be_the_one_that_was_signed(home: Path) -> None:
    store = MembershipStore(home)
    with pytest.raises(ConfigFault, match="node activate"):
        store.own(NOW)
    store.put(Owner().enter("box", NAS), NOW)
    with pytest.raises(ConfigFault, match="another key"):
        store.own(NOW)
    store.path.write_bytes(b"{}")
    with pytest.raises(ConfigFault, match=r"membership\.json"):
        store.held()
