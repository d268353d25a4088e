"""The directory of a member: its mark, its data, and data from a snapshot (by Debian's ``etcdctl``).

What is put away stays beside the data until the next is put away, for people; nothing else reads it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import trio

from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.io.atomic import write_atomic
from zone.etcd.seats import Seat
from zone.etcd.start import Mark, Stage, read_mark
from zone.io.etcd.admin import check_snapshot

DATA: Final = "data"
MARK: Final = "member.json"
_OLD: Final = "data.old"
_RESTORED: Final = "data.restored"
_CTL: Final = "etcdctl"
_PATIENCE: Final = 600.0


def load_mark(folder: Path) -> Mark | None:
    """The mark there; None: there is none.  Raises ``ConfigFault``, ``OSError``."""
    path = folder / MARK
    try:
        return read_mark(path.read_bytes())
    except FileNotFoundError:
        return None
    except BadWire as fault:
        raise ConfigFault(f"{path}: {fault}; without it nobody can tell whose the data are: remove both") from fault


def save_mark(folder: Path, mark: Mark) -> None:
    """Have it be on disk.  Raises ``OSError``."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(folder / MARK, mark.text())


def has_data(folder: Path) -> bool:
    """Whether etcd would go on from what is there."""
    wal = folder / DATA / "member" / "wal"
    return wal.is_dir() and any(wal.glob("*.wal"))


def begin_life(folder: Path, stage: Stage) -> Mark:
    """A new life without data.  Raises ``OSError``."""
    mark = Mark(os.urandom(4).hex(), stage)
    put_away(folder)
    save_mark(folder, mark)
    return mark


def put_away(folder: Path) -> None:
    """Have no data there.  Raises ``OSError``."""
    if (folder / DATA).exists():
        shutil.rmtree(folder / _OLD, ignore_errors=True)
        (folder / DATA).rename(folder / _OLD)


async def restore(snapshot: Path, folder: Path, own: Seat) -> Mark:
    """Have the member of ``own`` be the first of a new cluster that knows what the snapshot does.  Nobody runs there.

    A crash leaves what was, or a machine that asks to join.  Raises ``BadWire`` for a snapshot that is not whole,
    ``ConfigFault`` if it cannot be done, ``OSError``.
    """
    await check_snapshot(snapshot)
    life = os.urandom(4).hex()
    url = own.url(life)
    await trio.Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    await trio.to_thread.run_sync(lambda: shutil.rmtree(folder / _RESTORED, ignore_errors=True))
    source = await trio.Path(snapshot).absolute()
    told = {
        "name": life,
        "initial-cluster": f"{life}={url}",
        "initial-advertise-peer-urls": url,
        "initial-cluster-token": url,
        "data-dir": _RESTORED,
    }
    arguments = [_CTL, "snapshot", "restore", str(source), *(f"--{key}={told[key]}" for key in told)]
    try:
        with trio.fail_after(_PATIENCE):
            done = await trio.run_process(
                arguments,
                cwd=folder,
                env={"PATH": os.environ.get("PATH", os.defpath), "ETCDCTL_API": "3"},
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
            )
    except OSError as fault:
        raise ConfigFault(f"{_CTL} cannot be started (Debian: etcd-client): {fault}") from fault
    except trio.TooSlowError:
        raise ConfigFault(f"{_CTL}: {snapshot} was not restored in {_PATIENCE:g} s") from None
    if done.returncode:
        raise ConfigFault(f"{_CTL}: {done.stdout.decode(errors='replace').strip()[-300:]}")
    # Without data it would be a machine that asks to join, never one that founds.
    save_mark(folder, Mark(life, Stage.JOINING))
    put_away(folder)
    (folder / _RESTORED).rename(folder / DATA)
    mark = Mark(life, Stage.MEMBER)
    save_mark(folder, mark)
    return mark
