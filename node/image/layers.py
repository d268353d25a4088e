"""Layers laid one over the other (OCI image-spec 1.1, layer.md): each entry of a tar becomes steps on a real folder.

``Tree`` knows every file that it has laid, so it follows links by what it knows and never by what is on a disk: a step
names a path of plain directories below the root, whatever the links of a stranger's layer say.  Absolute links mean the
root of the image, and ``..`` stops there, as in a container.

Left out are device nodes and FIFOs (a container has its own ``/dev``), attributes, and the set-user-id bits, which
nothing could use: containers run without new privileges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cyfs_ns.errors import BadWire
from node.image.tar import Entry

MOST_ENTRIES: Final = 200_000
"""Of all layers together; a large distribution has half of that."""
MOST_USERS: Final = 1 << 16
"""Users that a container has; who is beyond them is nobody (65534)."""
MOST_UNPACKED: Final = 8 << 30
"""Bytes of all files of all layers."""
MOST_WALKED: Final = 10_000_000
"""Folders that all paths lead through, those of links included: some seconds for who means harm."""
_MOST_LINKS: Final = 40
"""Links followed for one path, as the kernel's ELOOP."""
_MOST_PLACE: Final = 3072
"""Bytes of a path within the image: with the folder of the image before it, Linux still takes it."""
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """``path`` is free; or a directory, which only gets its mode."""

    path: str
    mode: int
    owner: tuple[int, int] = (0, 0)
    is_new: bool = True


@dataclass(frozen=True, slots=True)
class WriteFile:
    """``path`` is free; the contents of the entry follow."""

    path: str
    mode: int
    mtime: int
    """Unix seconds."""
    owner: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class MakeSymlink:
    """``path`` is free; ``target`` may say anything."""

    path: str
    target: str
    owner: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class MakeLink:
    """``path`` is free; ``existing`` is a file or a symbolic link that was laid before."""

    path: str
    existing: str


@dataclass(frozen=True, slots=True)
class Remove:
    """``path`` with all that is below it."""

    path: str


Step = MakeDirectory | WriteFile | MakeSymlink | MakeLink | Remove


@dataclass(slots=True)
class _Node:
    layer: int
    """The newest layer that laid it or something below it."""
    below: dict[str, _Node] | None = None
    """Of a directory."""
    target: str | None = None
    """Of a symbolic link."""
    hidden: int = -1
    """The layer of which a whiteout has been through all that is below: going there once more would find nothing."""


@dataclass(slots=True)
class Tree:
    """What has been laid."""

    _root: _Node = field(default_factory=lambda: _Node(0, {}), repr=False)
    _layer: int = 0
    _entries: int = 0
    _bytes: int = 0
    _walked: int = 0

    def next_layer(self) -> None:
        """What comes now lies over what came before."""
        self._layer += 1

    def steps(self, untrusted: Entry) -> list[Step]:
        """What to do for an entry, in order.  Raises ``BadWire``, after which the image is of no use."""
        self._count()
        self._bytes += untrusted.size
        if self._bytes > MOST_UNPACKED:
            raise BadWire(f"more than {MOST_UNPACKED >> 30} GiB of files")
        parts = _parts(untrusted.path)
        if not parts:
            return []  # the root itself
        *above, name = parts
        if name.startswith(_WHITEOUT):
            return list(self._whiteout(above, name))
        if untrusted.kind in ("device", "fifo"):
            return []
        steps: list[Step] = []
        parent, path = self._descend(above, steps)
        assert parent.below is not None
        place = f"{path}{name}"
        old = parent.below.get(name)
        mode = untrusted.mode & 0o1777
        owner = (_known(untrusted.owner[0]), _known(untrusted.owner[1]))
        if untrusted.kind == "directory":
            # To be entered by its owner, whatever the image says: so is all that is below it unpacked and removed.
            if old is not None and old.below is not None:
                old.layer = self._layer
                return [*steps, MakeDirectory(place, mode | 0o700, owner, False)]
            steps += self._cleared(parent, place, name)
            parent.below[name] = _Node(self._layer, {})
            return [*steps, MakeDirectory(place, mode | 0o700, owner)]
        if untrusted.kind == "hardlink":
            existing, found = self._find(_parts(untrusted.target), untrusted.target)
            if found is old and existing == place:
                return steps  # to itself
            if found.below is not None:
                raise BadWire(f"{place[:80]!r} is a hard link to a directory")
            made, step = _Node(self._layer, None, found.target), MakeLink(place, existing)
            if existing.startswith(f"{place}/"):
                raise BadWire(f"{place[:80]!r} is a hard link to what it replaces")
            steps += self._cleared(parent, place, name)
            parent.below[name] = made
            return [*steps, step]
        steps += self._cleared(parent, place, name)
        if untrusted.kind == "symlink":
            if not untrusted.target or "\0" in untrusted.target:
                raise BadWire(f"{place[:80]!r} links to nothing")
            parent.below[name] = _Node(self._layer, None, untrusted.target)
            return [*steps, MakeSymlink(place, untrusted.target, owner)]
        parent.below[name] = _Node(self._layer)
        return [*steps, WriteFile(place, mode | 0o400, untrusted.mtime, owner)]

    def _count(self) -> None:
        """One more entry, or directory that no entry names."""
        self._entries += 1
        if self._entries > MOST_ENTRIES:
            raise BadWire(f"more than {MOST_ENTRIES} entries")

    def _cleared(self, parent: _Node, place: str, name: str) -> list[Step]:
        assert parent.below is not None
        return [] if parent.below.pop(name, None) is None else [Remove(place)]

    def _whiteout(self, above: list[str], name: str) -> Iterator[Step]:
        """Hide what the layers below have; what this one has laid stays, in whatever order it comes."""
        if name != _OPAQUE and (name.startswith(".wh..wh.") or name[len(_WHITEOUT) :] in ("", ".", "..")):
            return  # the notes of a file system of old to itself
        try:
            path, parent = self._find(above, "/".join(above))
        except BadWire:
            return  # nothing there to hide
        if parent.below is None or parent.hidden == self._layer:
            return
        if name == _OPAQUE:
            parent.hidden = self._layer
        prefix = f"{path}/" if path else ""
        hidden = list(parent.below) if name == _OPAQUE else [name[len(_WHITEOUT) :]]
        for child in hidden:
            if child in parent.below:
                yield from self._hide(parent.below, child, prefix)

    def _hide(self, below: dict[str, _Node], name: str, prefix: str) -> Iterator[Step]:
        pending = [(below, name, prefix)]
        while pending:
            within, child, path = pending.pop()
            node = within[child]
            if node.layer < self._layer:
                del within[child]
                yield Remove(f"{path}{child}")
            elif node.below is not None and node.hidden != self._layer:
                node.hidden = self._layer
                pending += [(node.below, each, f"{path}{child}/") for each in node.below]

    def _descend(self, parts: list[str], steps: list[Step]) -> tuple[_Node, str]:
        """The directory at ``parts``, and its path with a slash after it; made where there is none."""
        trail = self._follow(parts, "/".join(parts), steps)
        for _, node in trail:
            node.layer = self._layer
        return trail[-1][1], "".join(f"{name}/" for name, _ in trail[1:])

    def _find(self, parts: list[str], shown: str) -> tuple[str, _Node]:
        """What is at ``parts``, and its path; only links on the way are followed, not the last."""
        trail = self._follow(parts, shown, None)
        return "/".join(name for name, _ in trail[1:]), trail[-1][1]

    def _follow(self, parts: list[str], shown: str, steps: list[Step] | None) -> list[tuple[str, _Node]]:
        """The way to ``parts`` from the root, by names and through links.

        With ``steps``, all of it becomes directories; without, it has to be there, and the last may be a link.
        """
        trail: list[tuple[str, _Node]] = [("", self._root)]
        pending = parts[::-1]
        links = 0
        while pending:
            self._walked += 1
            if self._walked > MOST_WALKED:
                raise BadWire(f"{shown[:80]!r}: the paths of the image lead through too many folders")
            part = pending.pop()
            if part == "..":
                if len(trail) > 1:
                    trail.pop()
                continue
            below = trail[-1][1].below
            child = below.get(part) if below is not None else None
            if child is not None and child.target is not None and (pending or steps is not None):
                links += 1
                if links > _MOST_LINKS:
                    raise BadWire(f"{shown[:80]!r}: links in a circle")
                if child.target.startswith("/"):
                    del trail[1:]
                pending += _steps_of(child.target)[::-1]
                continue
            if steps is not None and (child is None or child.below is None):
                child = self._made(trail, part, steps)
            elif child is None:
                raise BadWire(f"a link to {shown[:80]!r}, which is not there")
            trail.append((part, child))
        return trail

    def _made(self, trail: list[tuple[str, _Node]], name: str, steps: list[Step]) -> _Node:
        """A directory at the end of ``trail``, in place of what is no directory."""
        parent = trail[-1][1]
        assert parent.below is not None
        place = "/".join([*(each for each, _ in trail[1:]), name])
        if len(place.encode("utf-8", "surrogateescape")) > _MOST_PLACE or len(trail) > 256:
            raise BadWire("a path that is too deep")
        self._count()
        steps += self._cleared(parent, place, name)
        made = parent.below[name] = _Node(self._layer, {})
        steps.append(MakeDirectory(place, 0o755))
        return made


def _known(user: int) -> int:
    return user if user < MOST_USERS else 65534


def _parts(path: str) -> list[str]:
    """The names on the way to ``path`` from the root of the image.  Raises ``BadWire`` for a way out of it."""
    parts = _steps_of(path)
    if ".." in parts or "\0" in path:
        raise BadWire(f"{path[:80]!r} leads out of the image")
    return parts


def _steps_of(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in parts):
        raise BadWire(f"{path[:80]!r} has a name of more than 255 bytes")
    return parts
