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
        pattern = pattern.translate(_DOTS)
        bare = pattern[2:] if pattern.startswith("+.") else pattern.removeprefix(".")
        ending = pattern.startswith("*") and pattern[1:2] not in ("", ".")
        # A star is checked as if it were the letter "x"; names.name also maps Unicode patterns.
        labels = ("x" + bare[1:] if ending else bare).removesuffix(".").split(".")
        clean = names.name(".".join("x" if label == "*" else label for label in labels)).split(".")
        if ending and not labels[0].isascii():
            raise BadWire("the end of a label is written in ASCII")
        if bare == pattern and not ending and "*" not in labels:
            self._exact[".".join(clean)] = value
            return
        node = self._root
        for written, label in zip(reversed(labels[ending:]), reversed(clean[ending:]), strict=True):
            node = node.children.setdefault("*" if written == "*" else label, _Node())
        if ending:
            node.endings[clean[0][1:]] = value
            return
        if not pattern.startswith("."):
            node.value = value
        if bare != pattern:
            node.below = value


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
