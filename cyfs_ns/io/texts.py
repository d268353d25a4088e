"""Text files that belong to this machine: hosts files, leases, a configuration of dnsmasq.

Whatever such a file holds, it is read whole, up to a bound, and octets that are no UTF-8 are replaced.  These calls
block on the disk.
"""

from __future__ import annotations

from pathlib import Path

from cyfs_ns.leases import KEA_HEAD, kea_files

MAX_BYTES = 256 * 1024 * 1024


def read_text(path: str | Path) -> str:
    """The text of a file.  Raises ``OSError``, also where it is no regular file or too long."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no regular file")
    with path.open("rb") as file:
        octets = file.read(MAX_BYTES + 1)
    if len(octets) > MAX_BYTES:
        raise OSError(f"{path} is longer than {MAX_BYTES} bytes")
    return octets.decode("utf-8", "replace")


def texts(path: str | Path) -> list[tuple[str, str]]:
    """Path and text of a file, or of the files in a directory by name; those editors leave behind are passed over.

    What cannot be read is not there.
    """
    path = Path(path)
    try:
        files = [path / name for name in listing(path)] if path.is_dir() else [path]
    except OSError:
        return []
    found = []
    for file in files:
        name = file.name
        if file == path or not (name.startswith(".") or name.endswith("~") or name[0] == name[-1] == "#"):
            try:
                found.append((str(file), read_text(file)))
            except OSError:
                continue
    return found


def listing(path: str | Path) -> list[str]:
    """The names in a directory, sorted.  Raises ``OSError``."""
    return sorted(entry.name for entry in Path(path).iterdir())


def lease_text(path: str) -> str:
    """The leases kept in ``path``, with what Kea has put aside of them; empty where there is nothing.

    Watch :func:`lease_paths` to hear of changes.
    """
    done, cleaning = kea_files(path)
    files = done if Path(done[0]).is_file() else cleaning
    own = "".join(text for _, text in texts(path))
    if own and not own.startswith(KEA_HEAD):
        return own
    return "\n".join(text for file in files for _, text in texts(file) if text.startswith(KEA_HEAD))


def lease_paths(path: str) -> tuple[str, ...]:
    """The files whose changes may change the leases in ``path``."""
    done, cleaning = kea_files(path)
    return tuple(dict.fromkeys((*done, *cleaning)))


class Disk:
    """The files of this machine for :func:`cyfs_ns.dnsmasq.read_dnsmasq`."""

    def read(self, path: str) -> str | None:
        try:
            return read_text(path)
        except OSError:
            return None

    def listing(self, path: str) -> list[str] | None:
        try:
            return listing(path)
        except OSError:
            return None
