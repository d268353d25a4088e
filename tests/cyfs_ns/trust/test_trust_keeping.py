"""What is kept: under damage, kills, a lock that somebody holds, and a zone that wants all the room."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, Refused, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.revision import Change, revision_of
from cyfs_ns.identity.token import Token
from cyfs_ns.io.trusted import keeping
from cyfs_ns.io.trusted.folder import Folder, Seen
from cyfs_ns.io.trusted.keeping import Keeping
from cyfs_ns.io.trusted.lock import locked
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Pin
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Found
from cyfs_ns.trust.outcome import Refused as NotBelieved
from cyfs_ns.trust.places import device_did
from cyfs_ns.trust.strongest import Accepted
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, MALLORY, NAS, NOW, PI, boot, mini, own_key
from tests.cyfs_ns.trust.test_trusted_names import OOD, House, Records

NEW, OLD = mini("ood1", PI, ALICE, iat=NOW - 100), mini("ood1", NAS, ALICE, iat=NOW - 200)
NEWER = mini("ood1", NAS, ALICE, iat=NOW - 50)


def believed(token: Token, about: Did = OOD, key: SecretKey = ALICE) -> Accepted:
    document = read_document(token.claims)
    return Accepted(about, document, token, revision_of(document, token), Trust.OWNER_SIGNED, key.public, pinned=True)


def pinned(home: Path) -> TrustStore:
    store = TrustStore(home)
    store.pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW - DAY))
    return store


def both(home: Path) -> tuple[Path, Path]:
    """The one document that is kept, and its mark."""
    (document,), (mark,) = (list((home / "names" / name).glob("*.json")) for name in ("kept", "marks"))
    return document, mark


# Damage


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(data: bytes) -> bytes:
    return b""


def zero(data: bytes) -> bytes:
    return bytes(len(data))


def flip(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


DAMAGES = [truncate, empty, zero, flip]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("which", [0, 1])
async def test_a_mark_outlives_either_of_its_files_and_that_is_mended(
    tmp_path: Path, damage: Callable[[bytes], bytes], which: int
) -> None:
    store = pinned(tmp_path)
    store.keep(believed(NEW), NOW)
    file = both(tmp_path)[which]
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    replayed = await House(tmp_path, Records([boot(ALICE, "ood1"), OLD])).ask(least=Trust.OWNER_SIGNED)
    assert not isinstance(replayed, Found)
    assert any("older than one we have believed" in fault for fault in replayed.faults)
    assert TrustStore(tmp_path).keep(believed(OLD), NOW) is Change.ROLLBACK
    heard = await House(tmp_path, Records([boot(ALICE, "ood1"), NEW])).ask(least=Trust.OWNER_SIGNED)
    assert isinstance(heard, Found) and file.read_bytes() == whole
    assert TrustStore(tmp_path).keep(believed(NEWER), NOW) is Change.NEWER


async def test_where_both_cannot_be_read_for_now_nothing_is_believed_and_nobody_told_to_remove_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = pinned(tmp_path)
    store.keep(believed(NEW), NOW)
    really, files = os.open, [str(path) for path in both(tmp_path)]

    def starved(path: str | Path, *more: int, **named: int) -> int:
        if str(path) in files:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return really(path, *more, **named)

    house = House(tmp_path, Records([boot(ALICE, "ood1"), OLD]))
    with monkeypatch.context() as short:
        short.setattr(os, "open", starved)
        outcome = await house.ask(least=Trust.OWNER_SIGNED)
        assert isinstance(outcome, NotBelieved) and "Too many open files" in outcome.why
        assert not any("remove" in fault for fault in outcome.faults)
        with pytest.raises(Unreachable, match="until that is over"):
            TrustStore(tmp_path).keep(believed(NEWER), NOW)
    house.names.flush()
    after = await house.ask(least=Trust.OWNER_SIGNED)
    assert not isinstance(after, Found) and any("older than one" in fault for fault in after.faults)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_where_both_are_damaged_nothing_is_believed(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    pinned(tmp_path).keep(believed(NEW), NOW)
    files = both(tmp_path)
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
    dns = Records([OLD])
    for token in (OLD, NEW, NEWER):
        dns.tokens = [token]
        outcome = await House(tmp_path, dns).ask()
        assert isinstance(outcome, NotBelieved), outcome
        assert all(str(file) in outcome.why for file in files) and "remove both" in outcome.why
        with pytest.raises(BadWire, match="remove both"):
            TrustStore(tmp_path).keep(believed(token), NOW)
    # Of others nothing is lost.
    dns.tokens = [boot(ALICE, "ood1")]
    assert isinstance(await House(tmp_path, dns).ask(HOME, least=Trust.OWNER_SIGNED), Found)
    for file in files:
        file.unlink()
    dns.tokens = [NEW]
    assert isinstance(await House(tmp_path, dns).ask(least=Trust.OWNER_SIGNED), Found)


@settings(max_examples=100, deadline=None)
@given(which=st.integers(0, 1), at=st.integers(0, 5000), bit=st.integers(0, 7))
def test_no_bit_that_flips_moves_a_mark(
    tmp_path_factory: pytest.TempPathFactory, which: int, at: int, bit: int
) -> None:
    home = tmp_path_factory.mktemp("flip")
    store = pinned(home)
    store.keep(believed(NEW), NOW)
    file = both(home)[which]
    data = bytearray(file.read_bytes())
    data[at % len(data)] ^= 1 << bit
    file.write_bytes(bytes(data))
    after = TrustStore(home)
    assert after.anchors().mark(OOD, "device-mini", ALICE.public) == believed(NEW).revision
    assert after.keep(believed(OLD), NOW) is Change.ROLLBACK
    assert after.keep(believed(NEWER), NOW) is Change.NEWER


async def test_a_house_of_before_there_were_marks_gets_them(tmp_path: Path) -> None:
    store = pinned(tmp_path)
    store.keep(believed(NEW), NOW)
    both(tmp_path)[1].unlink()
    assert TrustStore(tmp_path).keep(believed(OLD), NOW) is Change.ROLLBACK
    assert TrustStore(tmp_path).keep(believed(NEW), NOW) is Change.SAME
    both(tmp_path)[0].unlink()
    assert TrustStore(tmp_path).keep(believed(OLD), NOW) is Change.ROLLBACK


WRITER = """
    import sys
    from pathlib import Path
    from tests.cyfs_ns.identity.identities import ALICE, NAS, NOW, mini
    from tests.cyfs_ns.trust.test_trust_keeping import believed
    from cyfs_ns.io.trusted.store import TrustStore
    store = TrustStore(Path(sys.argv[1]))
    for iat in range(NOW - 5000, NOW):
        token = mini("ood1", NAS, ALICE, iat=iat)
        store.keep(believed(token), NOW)
        print(iat, flush=True)
"""


def test_a_kill_at_any_moment_leaves_the_last_mark_or_the_next(tmp_path: Path) -> None:
    for rounds in range(5):
        home = tmp_path / str(rounds)
        pinned(home)
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(home)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(rounds * 7 + 1):
                writer.stdout.readline()
            writer.kill()
            told = [int(line) for line in writer.stdout.read().splitlines() if line]
        last = max(told, default=NOW - 5000 + rounds * 7)
        store = TrustStore(home)
        mark = store.anchors().mark(OOD, "device-mini", ALICE.public)
        assert mark is not None and last <= mark.iat <= last + 1
        assert (
            not store.faults() and store.keep(believed(mini("ood1", NAS, ALICE, iat=last - 1)), NOW) is Change.ROLLBACK
        )


# A lock that is held

HOLDER = """
    import fcntl, os, sys
    lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[int]:
    """A process that is stopped while it holds the lock; its number."""
    pinned(tmp_path)
    lock = str(tmp_path / "names" / "lock")
    words = [sys.executable, "-c", textwrap.dedent(HOLDER), lock]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            process.send_signal(signal.SIGSTOP)
            yield process.pid
        finally:
            process.kill()


async def test_a_stopped_process_with_the_lock_holds_up_nobody_and_no_mark_is_lost(
    tmp_path: Path, holder: int, caplog: pytest.LogCaptureFixture
) -> None:
    dns = Records([boot(ALICE, "ood1"), NEW])
    house = House(tmp_path, dns)
    lock = tmp_path / "names" / "lock"
    with trio.fail_after(60):
        found = await house.ask(least=Trust.OWNER_SIGNED)
    assert isinstance(found, Found) and own_key(found) == PI.public
    assert f"{lock}: held for 2 s by process {holder}; end it" in caplog.text
    assert not (tmp_path / "names" / "kept").exists()
    with pytest.raises(Unreachable, match=f"by process {holder}"):
        house.store.pin(Pin(about=OOD, key=NAS.public, source="test", at=NOW))
    # An older one is refused by the mark in memory.
    dns.tokens = [boot(ALICE, "ood1"), OLD]
    house.names.flush()
    older = await house.ask(least=Trust.OWNER_SIGNED)
    assert isinstance(older, NotBelieved) and "older than one we have believed" in older.why


def test_when_the_lock_is_free_again_what_was_remembered_is_written(tmp_path: Path, holder: int) -> None:
    now = 100.0
    house = Keeping(tmp_path / "names", lambda: now)
    for _ in range(2):
        with pytest.raises(Unreachable):
            house.keep(believed(NEW), NOW, set)
    os.kill(holder, signal.SIGKILL)
    with pytest.raises(Unreachable, match="a moment ago"):
        house.keep(believed(NEW), NOW, set)
    assert house.keep(believed(OLD), NOW, set) is Change.ROLLBACK
    now += 30
    assert house.keep(believed(NEW), NOW, set).acceptable
    assert TrustStore(tmp_path).keep(believed(OLD), NOW) is Change.ROLLBACK


def test_what_cannot_be_written_is_a_mark_in_memory_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = pinned(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(keeping, "write_atomic", full)
        with pytest.raises(OSError, match="No space"):
            store.keep(believed(NEW), NOW)
        assert store.keep(believed(OLD), NOW) is Change.ROLLBACK
        assert store.anchors().mark(OOD, "device-mini", ALICE.public) == believed(NEW).revision
    assert store.keep(believed(OLD), NOW) is Change.ROLLBACK
    # A change of the configuration brings another store, of this same process.
    store = TrustStore(tmp_path)
    assert store.anchors().mark(OOD, "device-mini", ALICE.public) == believed(NEW).revision
    assert store.keep(believed(OLD), NOW) is Change.ROLLBACK
    assert store.keep(believed(NEW), NOW).acceptable
    assert TrustStore(tmp_path).keep(believed(OLD), NOW) is Change.ROLLBACK


def test_a_lock_that_is_given_back_in_time_is_waited_for(tmp_path: Path) -> None:
    store = pinned(tmp_path)
    lock = os.open(tmp_path / "names" / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    letting_go = keeping.threading.Timer(0.2, os.close, (lock,))
    letting_go.start()
    assert store.keep(believed(NEW), NOW) is Change.FIRST
    letting_go.join()


# Room


def machine(number: int, owner: SecretKey, zone: Did, iat: int = NOW - 100) -> Accepted:
    token = mini(f"n{number}", NAS, owner, zone, iat=iat)
    return believed(token, device_did(f"n{number}", zone), owner)


NOISY = Did("web", "noisy.example")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MOST_OF_ONE", 8), ("MOST_DOCUMENTS", 10), ("MOST_MARKS", 24)):
        monkeypatch.setattr(keeping, name, value)


@pytest.mark.usefixtures("small")
def test_a_noisy_zone_takes_room_from_itself_alone(tmp_path: Path) -> None:
    keys = {ALICE.public, MALLORY.public}
    house = Keeping(tmp_path / "names")
    for number in range(3):
        assert house.keep(machine(number, ALICE, HOME), NOW + number, lambda: keys) is Change.FIRST
    full = 0
    for number in range(30):
        try:
            house.keep(machine(number, MALLORY, NOISY), NOW + 10 + number, lambda: keys)
        except Refused as fault:
            assert "8 documents of one key" in str(fault)
            full += 1
    assert full == 22
    documents, (marks, lost) = house.documents(), house.marks()
    assert sum(one.key == ALICE.public for one in documents) == 3 and len(documents) == 10 and not lost
    # Where there is no room any more it is the one with most who gives, and only documents.
    for number in range(3, 8):
        assert house.keep(machine(number, ALICE, HOME), NOW + 50, lambda: keys) is Change.FIRST
    counts = [sum(one.key == key for one in house.documents()) for key in (ALICE.public, MALLORY.public)]
    assert sum(counts) == 10 and min(counts) >= 5
    assert len(marks) == 11 and len(house.marks()[0]) == 16
    for number in range(8):
        for owner, zone in ((ALICE, HOME), (MALLORY, NOISY)):
            assert house.keep(machine(number, owner, zone, NOW - 200), NOW, lambda: keys) is Change.ROLLBACK


@pytest.mark.usefixtures("small")
def test_marks_of_keys_that_are_pinned_no_more_make_room_and_no_others(tmp_path: Path) -> None:
    owners = [SecretKey(bytes([number]) * 32) for number in range(40, 43)]
    keys = {owner.public for owner in owners}
    house = Keeping(tmp_path / "names")
    for owner in owners:
        for number in range(8):
            house.keep(machine(number, owner, NOISY), NOW, lambda: keys)
    with pytest.raises(Refused, match="24 documents are kept already"):
        house.keep(machine(0, ALICE, HOME), NOW, lambda: {*keys, ALICE.public})
    left = {owners[0].public, ALICE.public}
    assert house.keep(machine(0, ALICE, HOME), NOW, lambda: left) is Change.FIRST
    assert {mark.key for mark in house.marks()[0]} == left


def test_a_new_document_is_kept_without_a_look_at_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a thousand that are new would take a million looks."""
    monkeypatch.setattr(keeping, "MOST_OF_ONE", 8)
    house, looked = Keeping(tmp_path / "names"), 0
    look = Folder.look

    def counted(folder: Folder[object]) -> Seen[object]:
        nonlocal looked
        looked += 1
        return look(folder)

    owners = [SecretKey(bytes([number]) * 32) for number in range(60, 90)]
    for owner in owners[:10]:
        house.keep(machine(0, owner, NOISY), NOW, set)
    house.marks()
    monkeypatch.setattr(Folder, "look", counted)
    for owner in owners[10:17]:
        house.keep(machine(0, owner, NOISY), NOW, set)
    assert looked == 0
    for owner in owners[17:]:
        house.keep(machine(0, owner, NOISY), NOW, set)
    assert 0 < looked < 6


def test_marks_are_told_anew_when_anything_has_changed_and_only_then(tmp_path: Path) -> None:
    store, other = pinned(tmp_path), TrustStore(tmp_path)
    before = store.anchors()
    assert store.anchors() is before
    other.keep(believed(NEW), NOW)
    after = store.anchors()
    assert after.mark(OOD, "device-mini", ALICE.public) == believed(NEW).revision and store.anchors() is after
    other.pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW, revoked=True))
    pin = store.anchors().pin(HOME)
    assert pin is not None and pin.revoked
    for file in both(tmp_path):
        file.write_bytes(b"")
    assert store.anchors().lost(OOD, "device-mini", ALICE.public)


def test_whom_the_lock_waits_for_is_told_and_never_that_one_is_to_end_oneself(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(Unreachable, match="by this process: is the disk slow"), locked(tmp_path, 0.0):
        raise AssertionError


async def test_a_pin_that_only_this_machine_could_not_read_is_no_broken_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TrustStore(tmp_path)
    path = store.pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW - DAY))

    def none_left(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as starved:
        starved.setattr(os, "open", none_left)
        with pytest.raises(OSError, match="Too many open files"):
            store.pins()
    assert len(store.pins()) == 1
    path.write_text("{")
    with pytest.raises(BadWire, match="mend or remove it"):
        store.pins()
