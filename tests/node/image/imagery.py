"""Images made by hand: layers from entries, and the layouts that tools write around them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import zstandard

GO_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
HERE = GO_NAMES.get(platform.machine(), platform.machine())
KINDS = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "device": tarfile.CHRTYPE,
    "fifo": tarfile.FIFOTYPE,
}

Made = tuple[str, str, bytes | str, int]
"""Path, kind, contents or target, mode."""


def file(path: str, data: bytes = b"", mode: int = 0o644) -> Made:
    return (path, "file", data, mode)


def folder(path: str, mode: int = 0o755) -> Made:
    return (path, "directory", b"", mode)


def symlink(path: str, target: str) -> Made:
    return (path, "symlink", target, 0o777)


def hardlink(path: str, target: str) -> Made:
    return (path, "hardlink", target, 0o644)


def layer(*entries: Made, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of ``entries``, in their order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for path, kind, rest, mode in entries:
            info = tarfile.TarInfo(path)
            info.type, info.mode, info.mtime = KINDS[kind], mode, 1_700_000_000
            if isinstance(rest, str):
                info.linkname = rest
                archive.addfile(info)
            else:
                info.size = len(rest)
                archive.addfile(info, io.BytesIO(rest))
    return out.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config(layers: Iterable[bytes], **said: Any) -> bytes:
    document = {
        "architecture": HERE,
        "os": "linux",
        "config": said,
        "rootfs": {"type": "layers", "diff_ids": [digest(each) for each in layers]},
    }
    return json.dumps(document).encode()


def pack(data: bytes, packing: str) -> bytes:
    if packing == "gzip":
        return gzip.compress(data, 1, mtime=0)
    return zstandard.ZstdCompressor(level=1).compress(data) if packing == "zstd" else data


def layout(
    where: Path,
    layers: Sequence[bytes],
    *,
    packing: str = "gzip",
    name: str = "1",
    lies: Mapping[str, Any] = MappingProxyType({}),
    **said: Any,
) -> Path:
    """An OCI image layout; ``lies`` replace parts of its manifest."""
    blobs = where / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    base = "application/vnd.oci.image"
    suffix = f"+{packing}" if packing else ""
    manifest = {
        "schemaVersion": 2,
        "config": blob(config(layers, **said), f"{base}.config.v1+json"),
        "layers": [blob(pack(each, packing), f"{base}.layer.v1.tar{suffix}") for each in layers],
    } | dict(lies)
    entry = blob(json.dumps(manifest).encode(), f"{base}.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    (where / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (where / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return where


def saved(where: Path, layers: Sequence[bytes], *, tag: str = "test:1", **said: Any) -> Path:
    """What ``docker save`` wrote before it wrote layouts; a layer that comes twice is a link the second time."""
    made = config(layers, **said)
    entries: list[Made] = [file("c.json", made)]
    names, first = [], {}
    for number, each in enumerate(layers):
        path = f"{number}/layer.tar"
        entries += [folder(f"{number}"), symlink(path, f"../{first[each]}") if each in first else file(path, each)]
        first.setdefault(each, path)
        names.append(path)
    manifest = [{"Config": "c.json", "RepoTags": [tag], "Layers": names}]
    where.write_bytes(layer(*entries, file("manifest.json", json.dumps(manifest).encode())))
    return where


def archived(where: Path, source: Path) -> Path:
    """The folder ``source`` as one tar, as ``skopeo copy … oci-archive:`` writes it."""
    with tarfile.open(where, "w") as archive:
        archive.add(source, arcname=".")
    return where
