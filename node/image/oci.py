"""The documents of an image: which layers it has, in which order, and what its maker says about running it.

Read are OCI image layouts (image-spec 1.1, image-layout.md, manifest.md, config.md), as ``skopeo copy … oci:…`` and
``docker save`` write them, and the older ``manifest.json`` of ``docker save``.  Every document but the first is found
by its digest; the first is what the owner gave us.  Of an index only what this machine can run is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import Json, read_json, read_object
from zone.scheduler.service import Pairs

Packing = Literal["", "gzip", "zstd"]

MOST_DOCUMENT: Final = 4 << 20
"""Bytes of one document, as registries bound them."""
MOST_LAYERS: Final = 128
_MOST_CHOICES: Final = 256
_MOST_WORDS: Final = 1024
_MOST_WORD: Final = 32 * 1024
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = "org.opencontainers.image.ref.name"
_LAYERS: Final[dict[str, Packing]] = {
    "application/vnd.oci.image.layer.v1.tar": "",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that are known by what they are."""

    digest: str
    """``sha256:`` and 64 hexadecimal digits."""
    size: int
    kind: str = ""
    """The media type."""

    @property
    def path(self) -> str:
        """Where it is in a layout."""
        return f"blobs/sha256/{self.digest.removeprefix('sha256:')}"

    @property
    def is_index(self) -> bool:
        """Whether it is a list of further manifests."""
        return self.kind in _INDEXES


@dataclass(frozen=True, slots=True)
class Layer:
    """Where a layer is, and how it is packed."""

    path: str
    packing: Packing
    digest: str = ""
    """Of its bytes as they are there; empty: only what is unpacked has one (``ImageConfig.layers``)."""
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image whose configuration is at ``config``."""

    config: Layer
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What the maker of an image says about running it."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: Pairs = field(default=(), repr=False)
    folder: str = "/"
    user: str = ""
    """A name or number, perhaps ``:`` and a group; empty: root."""
    exposed: tuple[int, ...] = ()
    """TCP ports."""
    volumes: tuple[str, ...] = ()
    """Paths that want to be kept beside the image."""
    layers: tuple[str, ...] = ()
    """The digest of each layer as it is unpacked, lowest first."""
    architecture: str = ""


def read_layout(untrusted: bytes) -> None:
    """``oci-layout``: raises ``BadWire`` unless it is of the one version there is."""
    if read_object(untrusted, "oci-layout").get("imageLayoutVersion") != "1.0.0":
        raise BadWire("oci-layout: only version 1.0.0 is read")


def read_index(untrusted: bytes, name: str, architecture: str) -> Blob:
    """The manifest (or a further index) of the image ``name``, for ``architecture`` as Go names it.

    ``name`` empty: the one there is.  Raises ``BadWire``.
    """
    entries = _list(read_object(untrusted, "index").get("manifests"), "index: manifests", _MOST_CHOICES)
    found = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise BadWire("index: a manifest is no object")
        blob = _blob(entry, "index")
        notes, platform = entry.get("annotations"), entry.get("platform")
        called = notes.get(_NAME) if isinstance(notes, dict) else None
        if blob.kind not in _INDEXES + _MANIFESTS or (name and called != name):
            continue
        if isinstance(platform, dict) and (platform.get("os"), platform.get("architecture")) != ("linux", architecture):
            continue
        found.append((called, blob))
    if not found:
        raise BadWire(
            f"index: no image {name!r} for linux/{architecture}" if name else f"index: no image for {architecture}"
        )
    if len({blob.digest for _, blob in found}) > 1:
        names = ", ".join(sorted(str(called)[:64] for called, _ in found[:8]))
        raise BadWire(f"index: more than one image; say which: {names}")
    return found[0][1]


def read_manifest(untrusted: bytes) -> Manifest:
    """Raises ``BadWire``."""
    document = read_object(untrusted, "manifest")
    config = document.get("config")
    if document.get("schemaVersion") != 2 or not isinstance(config, dict):
        raise BadWire("manifest: only schema 2 with a config is read")
    layers = []
    for entry in _list(document.get("layers"), "manifest: layers", MOST_LAYERS):
        if not isinstance(entry, dict):
            raise BadWire("manifest: a layer is no object")
        blob = _blob(entry, "manifest")
        if blob.kind not in _LAYERS:
            raise BadWire(f"manifest: a layer of type {blob.kind[:80]!r}, which is no part of a file system")
        layers.append(Layer(blob.path, _LAYERS[blob.kind], blob.digest, blob.size))
    found = _blob(config, "manifest: config")
    return Manifest(Layer(found.path, "", found.digest, found.size), tuple(layers))


def read_saved(untrusted: bytes, name: str) -> Manifest:
    """``manifest.json`` of ``docker save``, which has digests of nothing: the configuration names what is unpacked.

    ``name`` empty: the one there is.  Raises ``BadWire``.
    """
    found = []
    for entry in _list(read_json(untrusted, "manifest.json"), "manifest.json", _MOST_CHOICES):
        if not isinstance(entry, dict):
            raise BadWire("manifest.json: an image is no object")
        tags = _words(entry.get("RepoTags"), "manifest.json: RepoTags")
        if not name or name in tags or any(tag.partition(":")[2] == name for tag in tags):
            found.append(entry)
    if len(found) != 1:
        raise BadWire(
            f"manifest.json: {len(found)} images are called {name!r}" if name else "manifest.json: say which image"
        )
    config = found[0].get("Config")
    if not isinstance(config, str):
        raise BadWire("manifest.json: an image without Config")
    layers = _words(found[0].get("Layers"), "manifest.json: Layers")
    if len(layers) > MOST_LAYERS:
        raise BadWire(f"manifest.json: {len(layers)} layers; at most {MOST_LAYERS}")
    return Manifest(Layer(config, ""), tuple(Layer(path, "") for path in layers))


def read_config(untrusted: bytes) -> ImageConfig:
    """Raises ``BadWire``."""
    document = read_object(untrusted, "image configuration")
    system, roots, said = document.get("os", "linux"), document.get("rootfs"), document.get("config") or {}
    if system != "linux":
        raise BadWire(f"the image is for {str(system)[:40]!r}, not for linux")
    if not isinstance(roots, dict) or not isinstance(said, dict):
        raise BadWire("image configuration: rootfs and config must be objects")
    layers = _words(roots.get("diff_ids"), "image configuration: diff_ids")
    if len(layers) > MOST_LAYERS or not all(_DIGEST.fullmatch(each) for each in layers):
        raise BadWire("image configuration: diff_ids are not digests by SHA-256, or too many")
    env = {}
    for text in _words(said.get("Env"), "image configuration: Env"):
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise BadWire(f"image configuration: Env: {text[:40]!r} is no NAME=VALUE")
        env[key] = value
    return ImageConfig(
        entrypoint=_words(said.get("Entrypoint"), "image configuration: Entrypoint"),
        command=_words(said.get("Cmd"), "image configuration: Cmd"),
        env=tuple(sorted(env.items())),
        folder=_path(said.get("WorkingDir") or "/", "WorkingDir"),
        user=_word(said.get("User") or "", "image configuration: User"),
        exposed=tuple(sorted(set(_exposed(said.get("ExposedPorts"))))),
        volumes=tuple(sorted(_path(path, "Volumes") for path in _names(said.get("Volumes"), "Volumes"))),
        layers=layers,
        architecture=_word(document.get("architecture") or "", "image configuration: architecture"),
    )


def _blob(entry: dict[str, Json], where: str) -> Blob:
    digest, size, kind = entry.get("digest"), entry.get("size"), entry.get("mediaType")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise BadWire(f"{where}: a digest that is none by SHA-256")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise BadWire(f"{where}: a size that is no number")
    return Blob(digest, size, kind if isinstance(kind, str) else "")


def _exposed(untrusted: Json) -> Iterator[int]:
    for text in _names(untrusted, "ExposedPorts"):
        digits, _, protocol = text.partition("/")
        if protocol in ("", "tcp"):
            if not re.fullmatch(r"[1-9][0-9]{0,4}", digits) or int(digits) > 65535:
                raise BadWire(f"image configuration: ExposedPorts: {text[:40]!r} is no port")
            yield int(digits)


def _path(untrusted: Json, what: str) -> str:
    path = _word(untrusted, f"image configuration: {what}")
    if not path.startswith("/") or ".." in path.split("/") or len(path) > 4000:
        raise BadWire(f"image configuration: {what}: {path[:80]!r} is no absolute path")
    return path


def _names(untrusted: Json, what: str) -> list[str]:
    """The keys of an object that stands for a set."""
    if untrusted is None:
        return []
    if not isinstance(untrusted, dict) or len(untrusted) > _MOST_WORDS:
        raise BadWire(f"image configuration: {what}: expected an object of at most {_MOST_WORDS} names")
    return list(untrusted)


def _words(untrusted: Json, what: str) -> tuple[str, ...]:
    if untrusted is None:
        return ()
    return tuple(_word(each, what) for each in _list(untrusted, what, _MOST_WORDS))


def _word(untrusted: Json, what: str) -> str:
    if not isinstance(untrusted, str) or "\0" in untrusted or len(untrusted) > _MOST_WORD:
        raise BadWire(f"{what}: expected a text of at most {_MOST_WORD} characters")
    return untrusted


def _list(untrusted: Json, what: str, most: int) -> list[Json]:
    if not isinstance(untrusted, list) or len(untrusted) > most:
        raise BadWire(f"{what}: expected a list of at most {most}")
    return untrusted
