"""One value per domain pattern, with Clash's wildcards and Clash's order between them.

``a.example`` is that name; ``*.example`` has exactly one label where the star stands (any label may be a star);
``.example`` is everything below; ``+.example`` is the name and everything below; ``*corp.example`` is every name that
ends so, within a label too (dnsmasq's, which Clash has not).  Where several match, the labels are compared from the
right and at each step a literal label beats an ending of one, the longest first, which beats a star, which beats
"everything below".

This is for hand-written tables of thousands (``hosts``, ``nameserver-policy``), not for rule sets of a million.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from cyfs_ns import names
from cyfs_ns.errors import BadWire, ConfigFault

T = TypeVar("T")

_DOTS: Final = str.maketrans("\u3002\uff0e\uff61", "...")
"""What divides labels in other scripts (RFC 3490, section 3.1)."""


class DomainMap(Generic[T]):
    """Immutable after construction.  Values are never ``None``.

    Raises ``ConfigFault`` naming every pattern that is none.
    """

    __slots__ = ("_exact", "_root")

    def __init__(self, entries: Mapping[str, T]) -> None:
        self._exact: dict[str, T] = {}
        self._root: _Node[T] = _Node()
        faults = []
        for pattern, value in entries.items():
            try:
                self._insert(pattern, value)
            except BadWire as fault:
                faults.append(f"{pattern}: {fault}")
        if faults:
            raise ConfigFault("; ".join(faults))

    def get(self, name: str) -> T | None:
        """The value for a canonical name (:func:`cyfs_ns.names.name`), or ``None``."""
        found = self._exact.get(name)
        if found is None and (self._root.children or self._root.endings):
            labels = name.split(".")
            return self._root.find(labels, len(labels) - 1)
        return found

    def _insert(self, pattern: str, value: T) -> None:
        pattern = canonical(pattern)
        bare = bare_of(pattern)
        labels = bare.split(".")
        if bare == pattern and "*" not in bare:
            self._exact[bare] = value
            return
        ending = labels.pop(0)[1:] if _is_ending(pattern) else ""
        node = self._root
        for label in reversed(labels):
            node = node.children.setdefault(label, _Node())
        if ending:
            node.endings[ending] = value
            return
        if not pattern.startswith("."):
            node.value = value
        if bare != pattern:
            node.below = value


def canonical(pattern: str) -> str:
    """``pattern`` as names are compared with it: letters small, Unicode mapped, no last dot.  Raises ``BadWire``."""
    pattern = pattern.translate(_DOTS).removesuffix(".")
    bare = bare_of(pattern)
    labels = bare.split(".")
    if (ending := _is_ending(pattern)) and not labels[0].isascii():
        raise BadWire("the end of a label is written in ASCII")
    # A star is checked as if it were the letter "x", for names.name also maps Unicode.
    stars = [label == "*" or (ending and not at) for at, label in enumerate(labels)]
    checked = ["x" + label[1:] if star else label for star, label in zip(stars, labels, strict=True)]
    clean = names.name(".".join(checked)).split(".")
    if len(clean) != len(labels):
        raise BadWire(f"not a host name: {bare[:80]!r}: a label of it is empty")
    mapped = ["*" + label[1:] if star else label for star, label in zip(stars, clean, strict=True)]
    return pattern.removesuffix(bare) + ".".join(mapped)


def bare_of(pattern: str) -> str:
    """``pattern`` without what says that names below it are meant."""
    return pattern[2:] if pattern.startswith("+.") else pattern.removeprefix(".")


def _is_ending(pattern: str) -> bool:
    return pattern.startswith("*") and pattern[1:2] not in ("", ".")


class _Node(Generic[T]):
    __slots__ = ("below", "children", "endings", "value")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.endings: dict[str, T] = {}
        self.value: T | None = None
        self.below: T | None = None

    def find(self, labels: list[str], at: int) -> T | None:
        if at < 0:
            return self.value
        label = labels[at]
        child = self.children.get(label)
        if child is not None and (found := child.find(labels, at - 1)) is not None:
            return found
        if self.endings and (fitting := [ending for ending in self.endings if label.endswith(ending)]):
            return self.endings[max(fitting, key=len)]
        star = self.children.get("*")
        if star is not None and (found := star.find(labels, at - 1)) is not None:
            return found
        return self.below
