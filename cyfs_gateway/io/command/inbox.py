"""Where files from other devices arrive: a directory, and one partial file for each that is under way.

A file is written beside its place, under a name that begins with a dot and says whose it is (``filenames.part_name``).
Only what is whole, and has the hash that its giver said, gets its name: in one step, after it has reached the disk.  So
whatever is killed in between, what lies under a name is whole, and what is partial can be gone on with: its content
proves itself, by hash, to the giver, who alone knows what it should be.

Everything here blocks on the disk.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from cyfs_gateway.filenames import part_name, part_prefix
from cyfs_gateway.transfer import Code, Offer
from cyfs_ns.errors import CyfsError

_BLOCK: Final = 1 << 20
_SPARED: Final = 16 << 20
"""Bytes of a disk that are left to others."""
_NOT_FOLLOWED: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class NotTaken(CyfsError):
    """A file cannot be taken; the giver is told the ``code`` and the text."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class Inbox:
    """One directory.  ``overwrite``: files that are there may be replaced.  Raises ``OSError``."""

    def __init__(self, directory: Path, *, overwrite: bool = False) -> None:
        self.directory, self.overwrite = directory, overwrite
        self._mode = 0o666 & ~_umask()
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._fd)

    def has(self, offer: Offer) -> bool:
        """Whether it may be here already, under its name.  Raises ``NotTaken`` if something else is, in its way."""
        try:
            found = os.stat(offer.name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as fault:
            raise _told(fault) from fault
        if stat.S_ISREG(found.st_mode) and found.st_size == offer.size:
            return True
        if self.overwrite and not stat.S_ISDIR(found.st_mode):
            return False
        raise NotTaken(Code.EXISTS, "something else of that name is there")

    def proves(self, offer: Offer, sha256: str, sender: str) -> bool:
        """Whether the file of that name has this hash.  Raises ``NotTaken`` if it has not, and may not be replaced."""
        try:
            fd = os.open(offer.name, os.O_RDONLY | _NOT_FOLLOWED, dir_fd=self._fd)
        except OSError as fault:
            raise _told(fault) from fault
        try:
            same = _hash_of(fd, offer.size)[1].hexdigest() == sha256
        except OSError as fault:
            raise _told(fault) from fault
        finally:
            os.close(fd)
        if not same and not self.overwrite:
            raise NotTaken(Code.EXISTS, "another file of that name is there")
        if same:
            # It got its name, and we were killed before the other one was gone.
            with suppress(OSError):
                os.unlink(part_name(offer.name, sender, offer.size, offer.mtime), dir_fd=self._fd)
        return same

    def part(self, offer: Offer, sender: str) -> Part:
        """What is here of it, perhaps nothing.  Raises ``NotTaken``."""
        self._forget_others(offer, sender)
        try:
            name = part_name(offer.name, sender, offer.size, offer.mtime)
            return Part(self._fd, offer, name, self._mode, overwrite=self.overwrite)
        except OSError as fault:
            raise _told(fault) from fault

    def _forget_others(self, offer: Offer, sender: str) -> None:
        """Parts of what the same sender called so before it changed."""
        prefix = part_prefix(offer.name, sender)
        kept = part_name(offer.name, sender, offer.size, offer.mtime)
        with suppress(OSError), os.scandir(self._fd) as entries:
            for name in [entry.name for entry in entries if entry.name.startswith(prefix)]:
                if name != kept and name.endswith(".part"):
                    os.unlink(name, dir_fd=self._fd)


class Part:
    """The beginning of a file.  Raises ``NotTaken``, for a full disk and a part that somebody else is writing."""

    def __init__(self, directory: int, offer: Offer, name: str, mode: int, *, overwrite: bool) -> None:
        self._directory, self._offer, self._name = directory, offer, name
        self._mode, self._overwrite = mode, overwrite
        self._fd = os.open(name, os.O_RDWR | os.O_CREAT | _NOT_FOLLOWED, 0o600, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise NotTaken(Code.FAILED, "something is in the way of the partial file")
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise NotTaken(Code.BUSY, "it is being received already") from None
            self.held, self._hash = _hash_of(self._fd, offer.size)
            os.ftruncate(self._fd, self.held)
            os.lseek(self._fd, self.held, os.SEEK_SET)
            self._check_room()
        except BaseException:
            self.close()
            raise

    @property
    def sha256(self) -> str:
        """Of what is held."""
        return self._hash.hexdigest()

    def restart(self) -> None:
        """It was another file's beginning."""
        try:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            self.held, self._hash = 0, hashlib.sha256()
            self._check_room()
        except OSError as fault:
            raise _told(fault) from fault

    def append(self, data: bytes) -> None:
        """The next bytes."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as fault:
            raise _told(fault) from fault
        self._hash.update(data)
        self.held += len(data)

    def finish(self, sha256: str) -> None:
        """All is there: check it, and give it its name."""
        if self.sha256 != sha256:
            self._discard()
            raise NotTaken(Code.HASH, "what arrived is not what was sent; send it again")
        name, mtime = self._offer.name, self._offer.mtime * 1000
        try:
            os.fchmod(self._fd, self._mode)
            with suppress(OSError, OverflowError):  # a time that the file system cannot hold
                os.utime(self._fd, ns=(mtime, mtime))
            os.fsync(self._fd)
            if self._overwrite:
                os.rename(self._name, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            else:
                self._link(name)
            os.fsync(self._directory)
        except FileExistsError:
            raise NotTaken(Code.EXISTS, "a file of that name has come meanwhile") from None
        except OSError as fault:
            raise _told(fault) from fault

    def _link(self, name: str) -> None:
        """Give it a name that is free, in one step; where there are no links, in two."""
        try:
            os.link(self._name, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError as fault:
            if fault.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            with suppress(FileNotFoundError):
                os.stat(name, dir_fd=self._directory, follow_symlinks=False)
                raise FileExistsError from None
            os.rename(self._name, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        else:
            os.unlink(self._name, dir_fd=self._directory)

    def _check_room(self) -> None:
        disk = os.fstatvfs(self._fd)
        if self._offer.size - self.held > disk.f_bavail * disk.f_frsize - _SPARED:
            if not self.held:
                self._discard()
            raise NotTaken(Code.FULL, "there is no room for it on the disk")

    def _discard(self) -> None:
        with suppress(OSError):
            os.unlink(self._name, dir_fd=self._directory)

    def close(self) -> None:
        """Leave it as it is.  May be called twice."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):  # what has to be on the disk was written there before
                os.close(fd)


def _hash_of(fd: int, most: int) -> tuple[int, hashlib._Hash]:
    """How many of the first ``most`` bytes are there, and their hash."""
    digest, held = hashlib.sha256(), 0
    while held < most and (data := os.pread(fd, min(_BLOCK, most - held), held)):
        digest.update(data)
        held += len(data)
    return held, digest


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _told(fault: OSError) -> NotTaken:
    if fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NotTaken(Code.FULL, "the disk is full")
    return NotTaken(Code.FAILED, fault.strerror or "it cannot be written")
