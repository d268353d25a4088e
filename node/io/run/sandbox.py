"""What builds a container: ``python -I -S sandbox.py``, run by a keeper as root; it becomes the runtime in the end.

It reads one JSON object on descriptor 3 (``node.run.container.sandbox`` writes it), and then, in this order:

1. opens what lies anywhere on the machine: the image, mapped so that the container's users own its files (an idmapped
   mount, mount_setattr(2), so that one image serves many containers), and the volumes;
2. takes a mount namespace of its own, in which everything further happens: whoever kills us has cleaned up;
3. lays a file system in memory over the image, which takes what the container writes;
4. writes the few files that tell a container where it is, and puts the volumes where they belong, following no link:
   an image is a stranger's;
5. becomes bubblewrap, as the container's user, or the OCI runtime, which sees to that itself.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HERE = "/tmp"
_ROOT, _UPPER, _WORK, _LOWER, _BUNDLE = (f"{_HERE}/{name}" for name in ("root", "upper", "work", "lower", "bundle"))
_SPEC, _ARGUMENTS, _FILTER, _USERS = 3, 20, 21, 22
_MOST_SPEC = 8 << 20
_LIBC = ctypes.CDLL(None, use_errno=True)

_NEWNS, _NEWUSER = 0x20000, 0x10000000
_NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 0x2, 0x4, 0x20, 0x1000, 0x4000, 1 << 18
_MOUNT_SETATTR, _OPEN_TREE, _MOVE_MOUNT = 442, 428, 429
_CLONE_TREE, _CLOEXEC, _EMPTY_PATH, _FROM_EMPTY, _TO_EMPTY = 1, 0o2000000, 0x1000, 0x4, 0x40
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_IDMAP = 0x1, 0x2, 0x4, 0x100000


class _Attributes(ctypes.Structure):
    """``struct mount_attr``."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    done = _LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _checked(f"mount {kind or 'bind'} at {target}", done)


def _tree(path: str) -> int:
    """A mount of ``path`` alone, which is nowhere yet."""
    return _checked(f"open {path}", _LIBC.syscall(_OPEN_TREE, -100, os.fsencode(path), _CLONE_TREE | _CLOEXEC))


def _attributes(tree: int, attributes: int, users: int = 0) -> None:
    told = _Attributes(attributes, 0, 0, users)
    done = _LIBC.syscall(_MOUNT_SETATTR, tree, b"", _EMPTY_PATH, ctypes.byref(told), ctypes.sizeof(told))
    _checked("map the users of the image (Linux 5.19 is needed)" if users else "mount_setattr", done)


def _put(tree: int, folder: int) -> None:
    """Have ``tree`` seen at ``folder``."""
    _checked("move a mount", _LIBC.syscall(_MOVE_MOUNT, tree, b"", folder, b"", _FROM_EMPTY | _TO_EMPTY))


def _users(first: int, count: int, user: int, group: int) -> int:
    """A user namespace whose 0 is ``first``, and which belongs to ``user``: who may enter it with all rights in it."""
    ready, ready_end = os.pipe()
    done, done_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(done_end)
        _become(user, group)
        code = _LIBC.unshare(_NEWUSER)
        os.write(ready_end, b"." if code == 0 else b"!")
        os.read(done, 1)
        os._exit(0)
    os.close(done)
    os.close(ready_end)
    try:
        if os.read(ready, 1) != b".":
            raise OSError(0, "this machine allows no user namespaces")
        for name in ("uid_map", "gid_map"):
            _give(f"/proc/{pid}/{name}", f"0 {first} {count}".encode())
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(done_end)
        os.close(ready)
        os.waitpid(pid, 0)


def _become(user: int, group: int) -> None:
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def _give(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, data)
    os.close(fd)


def _folder(parts: list[str], owner: int) -> int:
    """The folder at ``parts`` below the root, made where there is none; no link is followed."""
    at = os.open(_ROOT, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        try:
            os.mkdir(part, 0o755, dir_fd=at)
            os.chown(part, owner, owner, dir_fd=at, follow_symlinks=False)
        except FileExistsError:
            pass
        below = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        if not stat.S_ISDIR(os.fstat(below).st_mode):
            raise OSError(0, f"in the image, /{'/'.join(parts)} goes through {part!r}, which is no folder")
        os.close(at)
        at = below
    return at


def _write_file(path: str, text: str, mode: int, owner: int) -> None:
    """In place of whatever the image has there."""
    *above, name = path.split("/")
    at = _folder(above, owner)
    try:
        os.unlink(name, dir_fd=at)
    except FileNotFoundError:
        pass
    except OSError:
        return  # a folder: the image means it otherwise
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=at)
    os.write(fd, text.encode())
    os.fchmod(fd, mode)
    os.fchown(fd, owner, owner)
    os.close(fd)
    os.close(at)


def _build(spec: dict[str, Any], users: int) -> None:
    first, owner = spec["first"], spec["first"] + spec["owner"][0]
    image = _tree(spec["rootfs"])
    _attributes(image, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV | _ATTR_IDMAP, users)
    volumes = [(_tree(source), target, 0) for source, target in spec["volumes"]]
    volumes += [(_tree(source), target, _ATTR_RDONLY) for source, target in spec["shown"]]
    _mount("tmpfs", _HERE, "tmpfs", _NOSUID | _NODEV, f"mode=755,size={spec['scratch']}")
    for path in (_ROOT, _UPPER, _WORK, _LOWER):
        os.mkdir(path, 0o755)
    os.chown(_UPPER, first, first)
    _put(image, os.open(_LOWER, os.O_PATH | os.O_CLOEXEC))
    _mount("overlay", _ROOT, "overlay", _NOSUID | _NODEV, f"lowerdir={_LOWER},upperdir={_UPPER},workdir={_WORK}")
    for path, text, mode in spec["files"]:
        _write_file(path, text, mode, first)
    for folder in ("proc", "dev"):
        os.close(_folder([folder], first))
    for tree, target, more in volumes:
        _attributes(tree, _ATTR_NOSUID | _ATTR_NODEV | more)
        at = _folder([part for part in target.split("/") if part not in ("", ".")], owner)
        _put(tree, at)
        os.close(at)


def _hold(data: bytes, at: int) -> None:
    """A file in memory with ``data``, on descriptor ``at``."""
    fd = os.memfd_create("sandbox")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, at)
    os.close(fd)


def main() -> None:
    """See the top of this file."""
    with open(_SPEC, "rb") as file:
        spec = json.loads(file.read(_MOST_SPEC))
    user, group = (spec["first"] + number for number in spec["owner"])
    users = _users(spec["first"], spec["users"], user, group)
    _checked("take a mount namespace", _LIBC.unshare(_NEWNS))
    _mount("none", "/", "", _REC | _PRIVATE)
    _build(spec, users)
    for fd in (1, 2):
        # The pipes to the keeper, which a service may want to open by name (``/dev/stdout``).
        os.fchown(fd, user, group)
    os.chdir("/")
    if "config" in spec:
        os.mkdir(_BUNDLE, 0o700)
        with open(f"{_BUNDLE}/config.json", "w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(spec["config"], file)
        # It gives its input to the container's user as well: that must not be the machine's /dev/null.
        empty, end = os.pipe()
        os.close(end)
        os.dup2(empty, 0)
        # It wants to see a machine of v2; the groups are ours to care for, and were entered before.
        _mount("cgroup2", "/sys/fs/cgroup", "cgroup2", _NOSUID | _NODEV)
    else:
        _hold("".join(f"{word}\0" for word in spec["arguments"]).encode("utf-8", "surrogateescape"), _ARGUMENTS)
        _hold(bytes.fromhex(spec["filter"]), _FILTER)
        os.dup2(users, _USERS)
        _become(user, group)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and what is ignored stays so
    os.execv(spec["argv"][0], [os.fsencode(word) for word in spec["argv"]])  # noqa: S606 -- that is the point


if __name__ == "__main__":
    try:
        main()
    except OSError as fault:
        sys.exit(f"the container cannot be built: {fault.strerror}{f': {fault.filename}' if fault.filename else ''}")
