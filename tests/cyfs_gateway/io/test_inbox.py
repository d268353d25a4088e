"""Where files arrive: what is whole has its name, what is partial is kept, and what is in the way is left alone."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from cyfs_gateway.filenames import part_name
from cyfs_gateway.io.command.inbox import Inbox, NotTaken
from cyfs_gateway.transfer import Code, Offer

DATA = os.urandom(5000)
HASH = hashlib.sha256(DATA).hexdigest()
OFFER = Offer("film.bin", len(DATA), 1_600_000_000_000_000)
PART = part_name(OFFER.name, "alice", OFFER.size, OFFER.mtime)


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    inbox = Inbox(tmp_path)
    yield inbox
    inbox.close()


def take(inbox: Inbox, data: bytes = DATA, sha256: str = HASH, sender: str = "alice") -> None:
    part = inbox.part(OFFER, sender)
    try:
        part.append(data[part.held :])
        part.finish(sha256)
    finally:
        part.close()


def code_of(inbox: Inbox, data: bytes = DATA, sha256: str = HASH, sender: str = "alice") -> Code:
    with pytest.raises(NotTaken) as no:
        take(inbox, data, sha256, sender)
    return no.value.code


def test_a_file_has_its_name_when_it_is_whole(inbox: Inbox) -> None:
    part = inbox.part(OFFER, "alice")
    part.append(DATA[:3000])
    assert os.listdir(inbox.directory) == [PART]
    part.close()
    again = inbox.part(OFFER, "alice")
    assert (again.held, again.sha256) == (3000, hashlib.sha256(DATA[:3000]).hexdigest())
    again.append(DATA[3000:])
    again.finish(HASH)
    again.close()
    assert os.listdir(inbox.directory) == ["film.bin"]
    about = (inbox.directory / "film.bin").stat()
    assert (about.st_mtime, about.st_mode & 0o777, about.st_nlink) == (1_600_000_000, 0o666 & ~_umask(), 1)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_is_not_what_was_sent_is_thrown_away(inbox: Inbox) -> None:
    assert code_of(inbox, DATA[::-1]) is Code.HASH
    assert os.listdir(inbox.directory) == []


def test_one_writes_at_a_time(inbox: Inbox) -> None:
    part = inbox.part(OFFER, "alice")
    assert code_of(inbox) is Code.BUSY
    part.close()
    take(inbox)


def test_a_part_that_is_longer_than_the_file_is_cut(inbox: Inbox) -> None:
    (inbox.directory / PART).write_bytes(DATA + b"more")
    take(inbox)
    assert (inbox.directory / "film.bin").read_bytes() == DATA


def test_a_part_can_begin_anew(inbox: Inbox) -> None:
    (inbox.directory / PART).write_bytes(b"other")
    part = inbox.part(OFFER, "alice")
    part.restart()
    part.append(DATA)
    part.finish(HASH)
    part.close()
    assert (inbox.directory / "film.bin").read_bytes() == DATA


def test_a_newer_file_of_the_same_sender_replaces_the_part_of_the_old_and_nobody_elses(inbox: Inbox) -> None:
    old, other = part_name("film.bin", "alice", 1, 1), part_name("film.bin", "bob", 1, 1)
    for name in (old, other, ".film.bin.part", "film.bin.txt"):
        (inbox.directory / name).touch()
    take(inbox)
    assert sorted(os.listdir(inbox.directory)) == sorted([other, ".film.bin.part", "film.bin", "film.bin.txt"])


def test_links_and_other_things_in_the_way_are_neither_followed_nor_filled(inbox: Inbox, tmp_path: Path) -> None:
    victim = tmp_path.parent / f"{tmp_path.name}-victim"
    victim.write_text("precious")
    (inbox.directory / PART).symlink_to(victim)
    assert code_of(inbox) is Code.FAILED
    (inbox.directory / PART).unlink()
    os.mkfifo(inbox.directory / PART)
    assert code_of(inbox) is Code.FAILED
    (inbox.directory / PART).unlink()
    (inbox.directory / "film.bin").symlink_to(victim)
    with pytest.raises(NotTaken):
        inbox.has(OFFER)
    assert code_of(inbox) is Code.EXISTS
    assert victim.read_text() == "precious"


def test_what_is_there_is_proved_or_in_the_way(inbox: Inbox) -> None:
    assert not inbox.has(OFFER)
    take(inbox)
    assert inbox.has(OFFER)
    assert inbox.proves(OFFER, HASH, "alice")
    with pytest.raises(NotTaken):
        inbox.proves(OFFER, "0" * 64, "alice")
    with pytest.raises(NotTaken):
        inbox.has(Offer("film.bin", 1, 1))
    assert code_of(inbox, sender="bob") is Code.EXISTS, "it came meanwhile"


def test_what_is_there_may_be_replaced_if_we_are_told(tmp_path: Path) -> None:
    (tmp_path / "film.bin").write_bytes(b"x" * len(DATA))
    inbox = Inbox(tmp_path, overwrite=True)
    try:
        assert inbox.has(OFFER)
        assert not inbox.proves(OFFER, HASH, "alice")
        assert not inbox.has(Offer("film.bin", 1, 1))
        take(inbox)
        assert (tmp_path / "film.bin").read_bytes() == DATA
        (tmp_path / "film.bin").unlink()
        (tmp_path / "film.bin").mkdir()
        with pytest.raises(NotTaken):
            inbox.has(OFFER)
    finally:
        inbox.close()


def test_what_no_disk_can_hold_is_refused_and_leaves_nothing(inbox: Inbox) -> None:
    with pytest.raises(NotTaken) as no:
        inbox.part(Offer("huge", 1 << 52, 1), "alice")
    assert no.value.code is Code.FULL
    assert os.listdir(inbox.directory) == []


def test_times_that_no_file_can_have_are_no_fault(inbox: Inbox) -> None:
    for number, mtime in enumerate((1 << 53, -(1 << 53), 0)):
        offer = Offer(f"f{number}", 0, mtime)
        part = inbox.part(offer, "alice")
        part.finish(hashlib.sha256().hexdigest())
        part.close()
        assert (inbox.directory / offer.name).exists()


@pytest.mark.parametrize("what", ["stat", "pread", "ftruncate", "fstatvfs"])
def test_a_disk_that_fails_is_told_to_the_one_who_gives(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    (inbox.directory / "film.bin").write_bytes(DATA)
    part = inbox.part(OFFER, "alice")

    def broken(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    ask: dict[str, Callable[[], object]] = {
        "stat": lambda: inbox.has(OFFER),
        "pread": lambda: inbox.proves(OFFER, HASH, "alice"),
        "ftruncate": part.restart,
        "fstatvfs": part.restart,
    }
    with monkeypatch.context() as patched, pytest.raises(NotTaken) as no:
        patched.setattr(os, what, broken)
        ask[what]()
    assert no.value.code is Code.FAILED
    close = os.close

    def closed_badly(fd: int) -> None:
        close(fd)
        broken()

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", closed_badly)
        part.close()
        part.close()
